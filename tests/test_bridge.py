"""Bridges: the kernel, DDBM's preconditioning and loss, networks that see an endpoint, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bridge_table import BASES, DDBM_VP, NET, kernels
from closed_forms import wide
from oracles.bridges import kernel
from scipy import stats

from diffjax import calculus, denoisers, grids, losses, models, processes, schedules
from diffjax.denoisers import DDBM, EDM
from diffjax.processes import BridgeSchedule, bridge
from diffjax.samplers import ancestral, bridging_fn, hybrid
from diffjax.schedules import VP, Cosine, Rectified

# One program each for all times of a schedule.
bridge_at = jax.jit(lambda schedule, t: (schedule.endpoint_weight(t), *schedule(t)))
amplitudes = jax.jit(lambda schedule, t: schedule(t))
mean_of = jax.jit(lambda denoise, x, t: denoise(x, t).mean)


def coefficients(schedule, t):
    """(A, B, C) of a bridge, by NumPy."""
    return tuple(map(np.asarray, bridge_at(schedule, t)))


@jax.jit
def parts(target, schedule, x, t):
    """(a, b) and the offset of a prediction, and the network's input where u = x."""
    return target(schedule, t), target.offset(schedule, t), target.inputs(schedule, x, t)[0]


# The process.


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("fraction", [1e-5, 1e-3, 0.3, 0.9, 1 - 1e-3, 1 - 1e-4, 1 - 1e-6])
def test_the_kernel_in_float32(name, fraction):
    """To 1e-6 at both ends: nothing cancels. Of the float32 number that t is."""
    schedule, form = BASES[name]
    t = np.float32(fraction * schedule.t_max)
    got = coefficients(BridgeSchedule(schedule), t)
    assert got[1].dtype == np.float32
    np.testing.assert_allclose(np.asarray(got), np.asarray(kernel(form, t, schedule.t_max), float), rtol=1.2e-6)


def test_schedules_without_a_form_of_their_own_are_right_in_float64(x64):
    for schedule in (Cosine(t_max=0.99), schedules.SubVP(), Rectified(t_max=0.9)):
        for t in (1e-3, 0.4, 0.85):
            (alpha, sigma), (alpha_T, sigma_T) = (map(float, amplitudes(schedule, s)) for s in (t, schedule.t_max))
            r = (alpha_T * sigma / (sigma_T * alpha)) ** 2
            expected = r * alpha / alpha_T, alpha * (1 - r), sigma * np.sqrt(1 - r)
            np.testing.assert_allclose(coefficients(BridgeSchedule(schedule), t), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["vp", "edm"])
def test_the_ends_are_exact(name):
    schedule = BridgeSchedule(BASES[name][0])
    assert [float(c) for c in coefficients(schedule, schedule.t_max)] == [1, 0, 0]
    assert [float(c) for c in coefficients(schedule, 0.0)] == [0, 1, 0]
    process, y = bridge(BASES[name][0]), np.asarray([0.3, -2.0], np.float32)

    @jax.jit
    def there_and_back(process, y, t, t_max):
        u, start = process.corrupt(y + 1, y, t), process.prior(jax.random.key(0), (2,))
        return u, process.u_of(process.x_of(u, y, t), y, t), start, process.x_of(start, y, t_max)

    u, again, start, end = there_and_back(process, y, np.float32(0.4), np.float32(schedule.t_max))
    assert np.all(np.asarray(start) == 0)
    np.testing.assert_allclose(again, u, atol=1e-6)
    np.testing.assert_array_equal(end, y)
    calculus.check(schedule)


@pytest.mark.parametrize("name", BASES)
def test_the_kernel_is_the_conditional_law(name, x64):
    """x_t given x_0 and x_T, by conditioning the jointly Gaussian (x_t, x_T); 1e-14."""
    schedule, form = BASES[name]
    for t in np.array([0.2, 0.5, 0.8]) * schedule.t_max:
        (alpha, sigma), (alpha_T, sigma_T) = form.amplitudes(wide(t)), form.amplitudes(wide(schedule.t_max))
        cross = alpha_T / alpha * sigma**2  # x_T = (alpha_T / alpha) x_t + fresh noise
        gain = cross / sigma_T**2
        expected = gain, alpha - gain * alpha_T, np.sqrt(sigma**2 - gain * cross)
        np.testing.assert_allclose(
            coefficients(BridgeSchedule(schedule), t), np.asarray(expected, float), rtol=1e-13, atol=1e-15
        )


def test_the_bridge_of_ddbm_in_numbers(x64):
    """x_0 = 0.3, y = -1.2: mean and standard deviation at t = 0.3 and 0.7."""
    schedule = BridgeSchedule(DDBM_VP)
    for t, mean, std in ((0.3, 0.1399, 0.3254), (0.7, -0.4470, 0.5179)):
        A, B, C = coefficients(schedule, t)
        assert (pytest.approx(mean, abs=6e-5), pytest.approx(std, abs=6e-5)) == (A * -1.2 + B * 0.3, C)


@pytest.mark.parametrize("name", BASES)
def test_snr_is_the_difference_of_snrs_and_the_noise_the_base_s(name, x64):
    """lambda = log(SNR_t - SNR_T) / 2, its inverse, and g^2: a drift towards y changes no diffusion."""
    base, form = BASES[name]
    schedule = BridgeSchedule(base)
    of = jax.jit(lambda s, t, lam: (calculus.log_snr(s, t), calculus.time_of(s, lam), calculus.rates(s, t)[1]))
    for t in np.array([0.05, 0.4, 0.97]) * base.t_max:
        snr = lambda t: np.square(np.divide(*form.amplitudes(wide(t))))
        lam = float(np.log(snr(t) - snr(base.t_max)))
        found, time, noise = of(schedule, t, lam)
        assert found == pytest.approx(lam, abs=1e-10)
        assert time == pytest.approx(t, rel=1e-9)
        assert noise == pytest.approx(float(form.rates(wide(t))[1]), rel=1e-9)


def test_far_from_its_end_a_bridge_is_its_base(x64):
    """SNR_T / SNR_t -> 0: DBIM's rows become DDIM's."""
    base = VP(0.1, 80.0)  # SNR_T = 4e-18
    ts = np.array([0.6, 0.4, 0.2, 0.1, 0.0])
    for eta in (0.0, 0.3, 1.0):
        rows = [ancestral.ddim(schedule, eta).plan(ts) for schedule in (BridgeSchedule(base), base)]
        np.testing.assert_allclose(*(np.asarray(r) for r in rows), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", BASES)
def test_endpoints_made_of_noise_give_back_the_base(name, x64):
    """y = alpha_T x_0 + sigma_T z: x_t has the marginals of the base process, in mean and variance given x_0."""
    base = BASES[name][0]
    process = bridge(base)
    alpha_T, sigma_T = map(float, amplitudes(base, base.t_max))
    for t in np.array([0.1, 0.6, 1.0]) * base.t_max:
        A, B, C = coefficients(process.schedule, t)
        np.testing.assert_allclose((A * alpha_T + B, np.hypot(A * sigma_T, C)), amplitudes(base, t), rtol=1e-12)
    draw = lambda key, x: (process.endpoint(key, x), process.endpoint_prior(key, (40_000,)))
    y, prior = map(np.asarray, jax.jit(draw)(jax.random.key(0), np.full(40_000, 0.5)))
    assert stats.kstest((y - alpha_T * 0.5) / sigma_T, "norm").pvalue > 1e-3
    assert prior.std() == pytest.approx(sigma_T, rel=0.02)


# DDBM's preconditioning and loss.

STATISTICS = DDBM(0.6, 0.9, 0.35)


def published_scalings(A, B, C, sigma_0, sigma_T, sigma_0T):
    """c_skip, c_out, c_in of Zhou et al. 2023, appendix A.4."""
    total = A**2 * sigma_T**2 + B**2 * sigma_0**2 + 2 * A * B * sigma_0T + C**2
    c_in = total**-0.5
    out = np.sqrt(A**2 * (sigma_T**2 * sigma_0**2 - sigma_0T**2) + sigma_0**2 * C**2) * c_in
    return (B * sigma_0**2 + A * sigma_0T) / total, out, c_in


@pytest.mark.parametrize("name", BASES)
def test_the_network_s_input_and_target_have_unit_variance(name, x64):
    """By the covariance of (x_0, y, z) with the matched statistics: 1 to 1e-12, and F as little as a linear map can."""
    schedule = BridgeSchedule(BASES[name][0])
    cov = np.diag([0.6**2, 0.9**2, 1.0])
    cov[0, 1] = cov[1, 0] = 0.35
    for t in np.array([0.01, 0.3, 0.8, 0.999]) * schedule.t_max:
        A, B, C = kernels(name, [t])[:, 0]
        x_t = np.array([B, A, C])
        (a, b), offset, x_in = jax.tree.map(np.asarray, parts(STATISTICS.given(np.ones(1)), schedule, np.zeros(1), t))
        F = np.array([a, offset[0], b])
        scale = x_in[0] / A
        np.testing.assert_allclose((scale**2 * x_t @ cov @ x_t, F @ cov @ F), 1.0, rtol=1e-10)
        assert abs(x_t @ cov @ F) < 1e-10  # what x_t says linearly is in c_skip


def says(answer, x, c):
    """The network that knows the answer."""
    return answer


@pytest.mark.parametrize("name", BASES)
def test_the_denoiser_is_the_published_one(name, x64):
    """c_skip x_t + c_out F(c_in x_t); the pair (a, b, e) belongs to it; at both ends too."""
    schedule = BridgeSchedule(BASES[name][0])
    y, x0, z = np.random.default_rng(0).normal(size=(3, 4))
    net = lambda x, c: jnp.tanh(1.3 * x) + 0.1
    target = STATISTICS.given(y)
    denoise = denoisers.denoiser(net, schedule, target)
    for t in np.array([1e-4, 0.3, 0.8, 1.0]) * schedule.t_max:
        A, B, C = kernels(name, [t])[:, 0] if t < schedule.t_max else (1.0, 0.0, 0.0)
        c_skip, c_out, c_in = published_scalings(A, B, C, 0.6, 0.9, 0.35)
        x = A * y + B * x0 + C * z
        expected = c_skip * x + c_out * (np.tanh(1.3 * c_in * x) + 0.1)
        np.testing.assert_allclose(mean_of(denoise, B * x0 + C * z, t), expected, rtol=1e-11, atol=1e-12)
        (a, b), offset, _ = jax.tree.map(np.asarray, parts(target, schedule, x0, t))
        F = (x0 - c_skip * x) / c_out
        np.testing.assert_allclose(a * x0 + b * z + offset, F, rtol=1e-9, atol=1e-12)
        perfect = denoisers.denoiser(jax.tree_util.Partial(says, F), schedule, target)
        np.testing.assert_allclose(mean_of(perfect, B * x0 + C * z, t), x0, atol=1e-10)
    assert np.isfinite(mean_of(denoise, x0, 0.0)).all()


def test_the_loss_is_ddbm_s(x64):
    """w |D - x_0|^2 with w = 1 / c_out^2, the plain regression of the library in network space."""
    y, x0, z = np.random.default_rng(1).normal(size=(3, 4))
    loss = jax.jit(lambda *args: losses.regression(lambda x, c: jnp.sin(x), bridge(DDBM_VP), *args))
    for t in (0.01, 0.5, 0.99):
        A, B, C = kernels("vp", [t])[:, 0]
        c_skip, c_out, c_in = published_scalings(A, B, C, 0.6, 0.9, 0.35)
        x = A * y + B * x0 + C * z
        expected = np.mean((c_skip * x + c_out * np.sin(c_in * x) - x0) ** 2) / c_out**2
        assert loss(STATISTICS.given(y), x0, z, t) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", BASES)
def test_from_noise_the_preconditioning_is_edm_s(name, x64):
    """With the statistics of y = alpha_T x_0 + sigma_T z the denoiser is EDM's on the base schedule."""
    base = BASES[name][0]
    alpha_T, sigma_T = map(float, amplitudes(base, base.t_max))
    sd, (y, u) = 0.5, np.random.default_rng(2).normal(size=(2, 3))
    target = DDBM(sd, np.hypot(alpha_T * sd, sigma_T), alpha_T * sd**2).given(y)
    net = lambda x, c: jnp.tanh(x) + 0.01 * c
    ours_of, edm_of = denoisers.denoiser(net, BridgeSchedule(base), target), denoisers.denoiser(net, base, EDM(sd))
    both = jax.jit(lambda u, t: (ours_of(u, t).mean, edm_of(bridge(base).x_of(u, y, t), t).mean))
    for t in np.array([0.1, 0.5, 0.9]) * base.t_max:
        ours, edm = both(u, t)
        np.testing.assert_allclose(ours, edm, rtol=1e-9)


def test_measured_statistics():
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3))
    target = DDBM.measured(x, y)
    expected = np.sqrt((x**2).mean()), np.sqrt((y**2).mean()), (x * y).mean()
    np.testing.assert_allclose((target.sigma_0, target.sigma_T, target.sigma_0T), expected)


# Networks.


@pytest.mark.parametrize(
    ("module", "shape", "beside"),
    [
        (models.UNet(channels=4, multipliers=(1,), attention=(), condition=2), (8, 8, 1), (8, 8, 2)),
        (models.MLP(width=8, condition=3), (4,), (3,)),
    ],
    ids=["unet", "mlp"],
)
def test_a_network_sees_its_condition_beside_x(module, shape, beside):
    net = models.network(module)
    params = models.init(net, jax.random.key(0), shape)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape).astype("f4"), params)
    x, c = np.ones(shape, np.float32), np.float32(0.3)
    told = jax.jit(lambda y: net.apply(params, x, c, {"y": y}))
    without = np.asarray(jax.jit(net.apply)(params, x, c))
    assert without.shape == shape
    np.testing.assert_allclose(without, told(np.zeros(beside, np.float32)), atol=1e-6)
    assert np.abs(without - told(np.ones(beside, np.float32))).max() > 1e-3
    with pytest.raises(ValueError, match=r"The condition has shape .*, expected .*: the model's `condition`"):
        net.apply(params, x, c, {"y": np.ones((*shape[:-1], 7), np.float32)})


# Bad input: one line, before anything is traced.


U = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: denoisers.denoiser(NET, BridgeSchedule(VP()), DDBM()),
            r"no endpoint: got y = None, expected an array",
        ),
        (lambda: DDBM().given(None), "no endpoint"),
        (
            lambda: denoisers.denoiser(NET, BridgeSchedule(VP()), DDBM().given(np.zeros(2, np.float32)))(U, 0.5),
            r"endpoint y has shape \(2,\), expected that of x, \(3,\)",
        ),
        (
            lambda: losses.regression(NET, bridge(VP()), DDBM().given(np.zeros((3, 1), np.float32)), U, U, 0.5),
            r"endpoint y has shape \(3, 1\), expected that of x, \(3,\)",
        ),
        (lambda: bridge(VP()).x_of(U, np.zeros(2, np.float32), 0.5), r"shape \(2,\), expected that of x, \(3,\)"),
        (lambda: DDBM.measured(np.zeros((2, 3)), np.zeros((2, 4))), r"shape \(2, 3\), their endpoints \(2, 4\)"),
        (lambda: denoisers.denoiser(NET, VP(), DDBM().given(U)), "DDBM-prediction is for bridges, got VP"),
        (
            lambda: denoisers.denoiser(NET, BridgeSchedule(VP()), DDBM(0.5, 0.5, 0.25).given(U)),
            r"expected positive numbers and \|sigma_0T\| < sigma_0 sigma_T",
        ),
        (lambda: bridge(Rectified()), "Rectified ends at alpha = 0, sigma = 1; a bridge needs both above 0"),
        (
            lambda: denoisers.denoiser(NET, BridgeSchedule(VP()), denoisers.Eps()),
            "does not determine x_0.*; predict DDBM",
        ),
        (lambda: bridging_fn(ancestral.ddim(VP()), [1.0, 0.5, 0.0]), "where both are 0"),
        (lambda: bridging_fn(ancestral.ddim(BridgeSchedule(VP())), [0.9, 0.5, 0.0]), "use sampling_fn"),
        (lambda: bridging_fn(ancestral.ddim(BridgeSchedule(VP())), [1.0, 0.0]), r"Got 1 step\(s\).*two steps or more"),
        (lambda: hybrid.ddbm(VP(), ratio=1.0), r"ratio is 1.0, expected a number in \[0, 1\)"),
        (lambda: hybrid.ddbm(BridgeSchedule(VP())).plan(np.array([1.0, 0.5])), "singular at t = 1; start"),
        (lambda: grids.pinned(BridgeSchedule(VP()), 5, gap=1.0), "gap is 1.0"),
        (lambda: grids.pinned(BridgeSchedule(VP()), 5, base="ladder"), "'ladder'; there are uniform, karras"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_processes_are_the_config_s(x64):
    assert isinstance(processes.bridge(VP()).schedule, BridgeSchedule)
