"""Six parameterisations, seven schedules: (a, b) and (c_skip, c_out) belong together; a perfect F gives x_0 back."""

import closed_forms as forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import wide

from diffjax import denoisers
from diffjax.denoisers.targets import EDM, X0, Eps, NetworkDenoiser, Score, V, Velocity, check_target, inputs
from diffjax.schedules import EDM as EDMSchedule
from diffjax.schedules import VE, VP, Cosine, Rectified, SubVP, Tabulated

BETAS = np.linspace(0.01, 0.4, 20)
SCHEDULES = {
    "vp": (VP(), forms.VP),
    "sub_vp": (SubVP(), forms.SUB_VP),
    "ve": (VE(), forms.VE),
    "edm": (EDMSchedule(), forms.EDM),
    "cosine": (Cosine(), forms.COSINE),
    "rectified": (Rectified(), forms.RECTIFIED),
    "table": (Tabulated.from_betas(BETAS), forms.chain(BETAS)),
}


def edm_pair(form, t):
    sd, (alpha, sigma) = wide("0.5"), form.amplitudes(t)
    total = sd * np.sqrt(sigma**2 + alpha**2 * sd**2)
    return sigma / total, -alpha * sd**2 / total


PAIRS = {  # target -> (a, b) in closed form
    X0(): lambda form, t: (wide(1), wide(0)),
    Eps(): lambda form, t: (wide(0), wide(1)),
    V(): lambda form, t: (-form.amplitudes(t)[1], form.amplitudes(t)[0]),
    Velocity(): forms.slopes,
    Score(): lambda form, t: (wide(0), -1 / form.amplitudes(t)[1]),
    EDM(): edm_pair,
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_target = pytest.mark.parametrize("target", PAIRS, ids=lambda target: type(target).__name__)
TIMES = np.random.default_rng(0).uniform(0.001, 0.999, 12)


@every_schedule
@every_target
def test_pair_and_solution_belong_together(name, target, x64):
    """(a, b) is the closed form; c_skip and c_out solve [alpha sigma; a b] (x_0, z) = (x_t, F)."""
    schedule, form = SCHEDULES[name]
    for t in TIMES * schedule.t_max:
        a, b = PAIRS[target](form, wide(t))
        np.testing.assert_allclose(np.stack(target(schedule, t)), [float(a), float(b)], rtol=1e-9)
        alpha, sigma = form.amplitudes(wide(t))
        inverse = np.linalg.inv(np.asarray([[alpha, sigma], [a, b]], float))
        np.testing.assert_allclose(np.stack(target.skip_out(schedule, t)), inverse[0], rtol=1e-8, atol=1e-12)


def perfect(schedule, form, target, x0, z, t):
    """x_t, and the denoiser whose network answers F = a x_0 + b z, whatever it sees."""
    alpha, sigma = form.amplitudes(wide(t))
    a, b = PAIRS[target](form, wide(t))
    x, answer = (jnp.asarray(np.asarray(p * x0 + q * z, float), float) for p, q in ((alpha, sigma), (a, b)))
    return x, denoisers.denoiser(lambda x_in, c: answer, schedule, target)


REFUSED = [(name, target) for name in ("cosine", "rectified") for target in PAIRS if type(target) in (Eps, Score)]
ALLOWED = [(name, target) for name in SCHEDULES for target in PAIRS if (name, target) not in REFUSED]


@pytest.mark.parametrize(("name", "target"), ALLOWED, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_a_perfect_network_gives_x0_back(name, target, x64):
    schedule, form = SCHEDULES[name]
    x0, z = np.random.default_rng(1).normal(size=(2, 3, 2))
    for t in (1e-5, *TIMES[:3], 0.9999):
        x, denoise = perfect(schedule, form, target, x0, z, t * schedule.t_max)
        posterior = denoise(x, t * schedule.t_max)
        np.testing.assert_allclose(posterior.mean, x0, rtol=0, atol=1e-9)
        assert posterior.var == 0.0


@pytest.mark.parametrize(("name", "target"), ALLOWED, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_in_float32_the_error_is_that_of_the_parameterisation(name, target):
    """x_0 = c_skip x + c_out F: rounding of both terms, no more; at small t that is float32's own 1e-6."""
    schedule, form = SCHEDULES[name]
    x0, z = np.random.default_rng(1).normal(size=(2, 3))
    for t in (1e-5, 1.3e-3, 0.3003, 0.8003):  # between the knots of a table, where slopes jump
        t = np.float32(t * schedule.t_max)
        x, denoise = perfect(schedule, form, target, x0, z, t)
        alpha, sigma = form.amplitudes(wide(t))
        np.testing.assert_allclose(denoise(x, t).mean, x0, rtol=0, atol=3e-6 * float(1 + sigma / alpha))


# The ends. F is what the target says it is there; where F is infinite (score at sigma = 0) any finite F must do.
NOISELESS = [name for name in SCHEDULES if name != "ve"]
STEEP = ("vp", "cosine", "table")  # sigma' is infinite at t = 0: no velocity there
AT_0 = [(n, t) for n, t in ALLOWED if n in NOISELESS and not (n in STEEP and isinstance(t, Velocity))]


@pytest.mark.parametrize(("name", "target"), AT_0, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_at_no_noise_x0_is_x(name, target):
    schedule, _ = SCHEDULES[name]
    x0 = jnp.asarray([0.7, -1.3])
    answer = x0 if isinstance(target, X0) else jnp.asarray([2.0, -3.0])
    for evaluate in (lambda d: d(x0, 0.0), jax.jit(lambda d: d(x0, 0.0))):
        got = evaluate(denoisers.denoiser(jax.tree_util.Partial(lambda f, x, c: f, answer), schedule, target))
        np.testing.assert_allclose(got.mean, x0, rtol=1e-6)


@pytest.mark.parametrize(("name", "target"), ALLOWED, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_the_noisy_end(name, target, x64):
    """At t_max, alpha = 0 on cosine and rectified: there x_t = z, and F alone must tell x_0."""
    schedule, _ = SCHEDULES[name]
    x0, z = np.random.default_rng(2).normal(size=(2, 4))
    slope = -np.pi / 2 / 1.008 / np.cos(0.008 / 1.008 * np.pi / 2)
    if name in ("cosine", "rectified"):
        x = z
        answer = {
            "X0": x0,
            "V": -x0,
            "EDM": x0 / 0.5,
            "Velocity": slope * x0 if name == "cosine" else z - x0,
        }[type(target).__name__]
    else:
        t = wide(schedule.t_max)
        alpha, sigma = SCHEDULES[name][1].amplitudes(t)
        form = SCHEDULES[name][1] if name != "table" else forms.Form(SCHEDULES[name][1].amplitudes, last_rates)
        a, b = PAIRS[target](form, t)
        x, answer = (np.asarray(p * x0 + q * z, float) for p, q in ((alpha, sigma), (a, b)))
    denoise = denoisers.denoiser(lambda x_in, c: jnp.asarray(answer), schedule, target)
    np.testing.assert_allclose(denoise(jnp.asarray(x), schedule.t_max).mean, x0, rtol=0, atol=1e-8)


def last_rates(t):
    f = len(BETAS) * np.log1p(-wide(BETAS[-1])) / 2
    return f, -2 * f


@pytest.mark.parametrize(("name", "target"), REFUSED, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_predictions_that_lose_x0_are_refused(name, target):
    schedule, _ = SCHEDULES[name]
    with pytest.raises(ValueError, match=rf"{type(target).__name__}-prediction .* {type(schedule).__name__} at t = 1 "):
        denoisers.denoiser(lambda x, c: x, schedule, target)
    with pytest.raises(ValueError, match="predict V, X0 or EDM"):
        check_target(target, schedule, 0.5, 1.0)
    check_target(target, schedule, 0.5, 0.999)
    denoisers.denoiser(lambda x, c: x, type(schedule)(t_max=0.999), target)


@every_target
def test_the_published_cosine_table_takes_every_target(target):
    """Its clipped betas keep alpha_T = 4.93e-5 away from 0."""
    denoisers.denoiser(lambda x, c: x, Tabulated.cosine(), target)


def test_velocity_where_it_is_infinite_is_refused():
    with pytest.raises(ValueError, match="Velocity-prediction does not determine x_0 under VP at t = 0"):
        check_target(Velocity(), VP(), 0.0)


def test_velocity_is_noise_minus_data_on_straight_lines():
    for t in (0.0, 0.3, 1.0):
        np.testing.assert_array_equal(np.stack(Velocity()(Rectified(), t)), [-1.0, 1.0])
        np.testing.assert_allclose(np.stack(Velocity().skip_out(Rectified(), t)), [1.0, -t], atol=1e-7)


def test_velocity_on_vp_is_the_probability_flow(x64):
    """dx/dt = f x - g^2 score / 2 of one pair: -beta/2 (alpha x_0 + sigma z) + beta/2 z / sigma."""
    for t in (0.01, 0.4, 0.95):
        beta = 0.1 + 19.9 * t
        kept = np.exp(-(0.1 * t + 9.95 * t**2))
        alpha, sigma = np.sqrt(kept), np.sqrt(1 - kept)
        expected = [-beta / 2 * alpha, -beta / 2 * sigma + beta / 2 / sigma]
        np.testing.assert_allclose(np.stack(Velocity()(VP(), t)), expected, rtol=1e-9)


@pytest.mark.parametrize("sd", [0.5, 1.0, 2.3])
@pytest.mark.parametrize("sigma", [0.002, 0.1, 0.5, 1.7, 80.0])
def test_edm_numbers(sd, sigma, x64):
    """Karras et al., table 1, and what it is for: F of unit variance, uncorrelated with the input."""
    target, schedule = EDM(sd), EDMSchedule()
    c_skip, c_out = target.skip_out(schedule, sigma)
    np.testing.assert_allclose(c_skip, sd**2 / (sigma**2 + sd**2), rtol=1e-12)
    np.testing.assert_allclose(c_out, sigma * sd / np.sqrt(sigma**2 + sd**2), rtol=1e-12)
    x_in, c = inputs(schedule, target, jnp.ones(2), sigma)
    np.testing.assert_allclose(x_in, 1 / np.sqrt(sigma**2 + sd**2), rtol=1e-12)
    np.testing.assert_allclose(-c / 8, np.log(sigma) / 4, rtol=1e-12)  # c_noise = ln(sigma) / 4
    a, b = target(schedule, sigma)
    np.testing.assert_allclose(a**2 * sd**2 + b**2, 1, rtol=1e-12)
    np.testing.assert_allclose(a * sd**2 + b * sigma, 0, atol=1e-12)


@every_schedule
@pytest.mark.parametrize("sd", [0.5, 1.3])
def test_edm_target_is_white_under_every_schedule(name, sd, x64):
    schedule, form = SCHEDULES[name]
    for t in (1e-5, 0.3, 0.9):
        a, b = EDM(sd)(schedule, t * schedule.t_max)
        alpha, sigma = (float(p) for p in form.amplitudes(wide(t * schedule.t_max)))
        np.testing.assert_allclose(a**2 * sd**2 + b**2, 1, rtol=1e-9)
        np.testing.assert_allclose(alpha * sd**2 * a + sigma * b, 0, atol=1e-9)


def test_edm_with_unit_data_is_minus_v_on_vp(x64):
    for t in (0.0, 1e-5, 0.4, 1.0):
        np.testing.assert_allclose(np.stack(EDM(1.0)(VP(), t)), -np.stack(V()(VP(), t)), atol=1e-12)
        np.testing.assert_allclose(
            np.stack(EDM(1.0).skip_out(VP(), t)), np.stack(V().skip_out(VP(), t)) * np.array([1, -1]), atol=1e-12
        )


@every_schedule
@every_target
def test_network_inputs_have_unit_variance(name, target, x64):
    schedule, form = SCHEDULES[name]
    for t in (1e-5, 0.4, 0.99):
        alpha, sigma = form.amplitudes(wide(t * schedule.t_max))
        var = float(alpha) ** 2 * target.sigma_data**2 + float(sigma) ** 2
        x_in, c = inputs(schedule, target, jnp.asarray([np.sqrt(var), -np.sqrt(var)]), t * schedule.t_max)
        np.testing.assert_allclose(x_in, [1, -1], rtol=1e-9)
        assert c.shape == ()
    assert inputs(Rectified(), target, jnp.ones(2), 0.0)[1] == np.inf
    assert inputs(Rectified(), target, jnp.ones(2), 1.0)[1] == -np.inf


def test_the_network_sees_the_log_snr():
    seen = []
    denoisers.denoiser(lambda x, c: seen.append((x, c)) or x, VP(), V())(jnp.ones(3), 0.25)
    (x_in, c), *_ = seen
    kept = np.exp(-(0.1 * 0.25 + 9.95 * 0.25**2))
    np.testing.assert_allclose(c, np.log(kept / (1 - kept)), rtol=1e-5)
    assert c.dtype == x_in.dtype == jnp.float32
    np.testing.assert_allclose(x_in, 1, rtol=1e-6)


def linear(weight, x, c):
    return weight * x + 0 * c


def test_new_values_do_not_retrace():
    traces = []

    @jax.jit
    def evaluate(denoise, x, t):
        traces.append(None)
        return denoise(x, t).mean

    make = lambda weight, **hyper: denoisers.denoiser(jax.tree_util.Partial(linear, weight), VP(**hyper), EDM(0.5))
    x = jnp.asarray([1.0, 2.0])
    first = evaluate(make(jnp.float32(0.3)), x, 0.5)
    second = evaluate(make(jnp.float32(0.7)), x, 0.5)
    third = evaluate(make(jnp.float32(0.7), beta_max=10.0), x, 0.4)
    assert len(traces) == 1
    assert isinstance(make(jnp.float32(0.3)), NetworkDenoiser)
    np.testing.assert_allclose(first, make(jnp.float32(0.3))(x, 0.5).mean, rtol=1e-6)
    assert not np.allclose(first, second)
    assert not np.allclose(second, third)


def test_any_function_is_a_network():
    closed = denoisers.denoiser(lambda x, c: 2 * x, EDMSchedule(), X0())
    x = jnp.asarray([[3.0, -4.0], [0.5, 0.0]])
    expected = 2 * x / np.sqrt(1 + 4.0)
    np.testing.assert_allclose(jax.jit(lambda d, x: d(x, 2.0).mean)(closed, x), expected, rtol=1e-6)
    batch = jax.vmap(closed)(x, jnp.asarray([2.0, 2.0])).mean
    np.testing.assert_allclose(batch, expected, rtol=1e-6)


def test_one_number_is_an_example_and_one_map_is_not_two():
    split_maps = denoisers.targets.split_maps
    np.testing.assert_array_equal(split_maps(np.ones(()), np.zeros(())), [np.ones(())])
    two = split_maps(np.asarray([3.0, 4.0]), np.zeros(()), 2)
    assert [(m.shape, float(m)) for m in two] == [((), 3.0), ((), 4.0)]
    with pytest.raises(ValueError, match=r"gives shape \(2,\) for x of shape \(2,\), expected \(4,\): 2 map"):
        split_maps(np.ones(2), np.zeros(2), 2)


def test_a_denoiser_can_be_made_under_jit():
    """Nothing can be checked there: the schedule's values are not known."""
    x = jnp.ones(2)
    got = jax.jit(lambda beta: denoisers.denoiser(lambda x, c: x, VP(beta_max=beta), Eps())(x, 0.5).mean)(20.0)
    kept = np.exp(-(0.05 + 9.95 / 4))
    np.testing.assert_allclose(got, (1 - np.sqrt(1 - kept)) / np.sqrt(kept), rtol=1e-5)


def test_gradients_reach_the_hyper_parameters_of_a_target():
    """d/d sd of c_skip = sd^2 / (sigma^2 + sd^2) is 2 sd sigma^2 / (sigma^2 + sd^2)^2."""
    slope = jax.grad(lambda sd: EDM(sd).skip_out(EDMSchedule(), 1.5)[0])(0.7)
    np.testing.assert_allclose(slope, 2 * 0.7 * 1.5**2 / (1.5**2 + 0.7**2) ** 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("target", "excess"),
    [(X0(), (1.559402, 0.140578, 0.0)), (Eps(), (26.253846, 22.698290, 19.142735))],  # of rank 0, 2, 4 (Eckart-Young)
)
def test_a_bottleneck_lets_x_0_of_low_rank_pass_and_no_noise(x64, target, excess):
    """The error of x_0 that a linear network of rank r adds to the best one, for N(0, diag(2, 1, .5, .25, 0, ..))."""
    schedule, t = VP(0.0, 20.0), np.sqrt(-np.log(0.6) / 5)  # alpha = 0.6, sigma = 0.8
    covariance = np.diag([2, 1, 0.5, 0.25, *[0.0] * 12])
    a, b, alpha, sigma, c_out = map(float, (*target(schedule, t), *schedule(t), target.skip_out(schedule, t)[1]))
    root = np.sqrt(alpha**2 * np.diag(covariance) + sigma**2)
    best = (a * alpha * covariance + b * sigma * np.eye(16)) / root  # E[F x_t'] S^-1/2, S the covariance of x_t
    missed = np.cumsum(np.linalg.svd(best, compute_uv=False)[::-1] ** 2)[::-1]
    np.testing.assert_allclose([c_out**2 * [*missed, 0][r] for r in (0, 2, 4)], excess, atol=1e-6)
