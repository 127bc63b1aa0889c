"""Schedules against textbook formulas in extended precision, down to t = 1e-5 in float32, and as values of JAX."""

import closed_forms as forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import wide

from diffjax import calculus, host
from diffjax.schedules import EDM, VDM, VE, VP, Cosine, Rectified, SubVP, Tabulated


def ddpm_betas(steps=1000):
    return np.linspace(wide("1e-4"), wide("0.02"), steps) * 1000 / steps


def cosine_betas(steps=1000):
    bar = np.cos((np.arange(steps + 1, dtype=wide) / steps + wide("0.008")) / wide("1.008") * forms.PI / 2) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], wide("0.999"))


def kexue_betas(steps=1000):
    return wide("0.02") * np.arange(1, steps + 1) / steps


SCHEDULES = {  # name: (schedule, closed form)
    "vp": (VP(), forms.VP),
    "sub_vp": (SubVP(), forms.SUB_VP),
    "ve": (VE(), forms.VE),
    "edm": (EDM(), forms.EDM),
    "vdm": (VDM(), forms.VDM),
    "cosine": (Cosine(), forms.COSINE),
    "rectified": (Rectified(), forms.RECTIFIED),
    "table_linear": (Tabulated.linear(), forms.chain(ddpm_betas())),
    "table_cosine": (Tabulated.cosine(), forms.chain(cosine_betas())),
    "table_kexue": (Tabulated.kexue(), forms.chain(kexue_betas())),
}
every = pytest.mark.parametrize("name", SCHEDULES)
UNIT_TIMES = np.concatenate([np.geomspace(1e-5, 1, 300), 1 - np.geomspace(1e-4, 0.5, 100)])


def along(function):
    """Compiles a function of a schedule and a time for many times: one program for a class of schedules."""
    return jax.jit(jax.vmap(function, in_axes=(None, 0)))


amplitudes, derivatives = along(lambda schedule, t: schedule(t)), along(calculus.derivatives)
rates, log_snr, time_of = along(calculus.rates), along(calculus.log_snr), along(calculus.time_of)


def relative(got, expected):
    return np.max(np.abs(np.asarray(got, wide) - expected) / np.abs(expected))


@every
def test_float64_amplitudes_are_the_textbook_ones(name):
    schedule, form = SCHEDULES[name]
    ts = UNIT_TIMES * schedule.t_max
    ts = ts[ts < schedule.t_max] if name in ("cosine", "rectified") else ts
    (alpha, sigma), (alpha_, sigma_) = calculus.amplitudes(schedule, ts), form.amplitudes(ts.astype(wide))
    assert relative(alpha, alpha_) < 1e-11
    assert relative(sigma, sigma_) < 1e-11


@every
def test_float32_keeps_six_digits_of_both_amplitudes_down_to_1e_5(name):
    schedule, form = SCHEDULES[name]
    ts = (UNIT_TIMES * schedule.t_max).astype(np.float32)
    # The last steps of the cosine table are so steep (log alpha falls by 3.5 in the last) that a float32 t is coarse.
    ts = ts[ts < (0.9 if name == "table_cosine" else 1)] if "cosine" in name or name == "rectified" else ts
    alpha, sigma = amplitudes(schedule, ts)
    alpha_, sigma_ = form.amplitudes(ts.astype(wide))
    assert alpha.dtype == sigma.dtype == jnp.float32
    assert relative(alpha, alpha_) < 1e-6
    assert relative(sigma, sigma_) < 1e-6


@pytest.mark.parametrize(
    ("schedule", "start", "end"),
    [
        (VP(), (1, 0), (np.exp(-5.025), np.sqrt(1 - np.exp(-10.05)))),
        (SubVP(), (1, 0), (np.exp(-5.025), 1 - np.exp(-10.05))),
        (VE(), (1, 0.01), (1, 50)),
        (EDM(), (1, 0), (1, 80)),
        (VDM(-2 * np.log(3), 0.0), (np.sqrt(0.9), np.sqrt(0.1)), (np.sqrt(0.5), np.sqrt(0.5))),
        (Cosine(), (1, 0), (0, 1)),
        (Rectified(), (1, 0), (0, 1)),
        (Tabulated.from_betas([0.19, 0.36]), (1, 0), (0.72, np.sqrt(1 - 0.72**2))),
    ],
)
def test_ends(schedule, start, end):
    for t, expected in ((0.0, start), (schedule.t_max, end)):
        for evaluate in (schedule, jax.jit(lambda t, s=schedule: s(t))):
            np.testing.assert_allclose(np.stack(evaluate(t)), expected, rtol=1e-6, atol=0)
    assert not np.signbit(schedule(0.0)[1])  # 1 / sigma at t = 0 is +inf, not -inf
    assert not np.signbit(jax.jit(lambda s: s(0.0))(schedule)[1])


@every
def test_rates_are_those_of_the_sde(name, x64):
    schedule, form = SCHEDULES[name]
    ts = np.asarray([1e-5, 0.01234, 0.2505, 0.5678, 0.9003, 0.9908]) * schedule.t_max
    f, g2 = rates(schedule, ts)
    f_, g2_ = form.rates(ts.astype(wide))
    np.testing.assert_allclose(f, f_.astype(float), rtol=1e-9)
    np.testing.assert_allclose(g2, g2_.astype(float), rtol=1e-9)


@every
def test_float32_rates_are_finite_and_right_at_small_times(name):
    schedule, form = SCHEDULES[name]
    ts = np.float32([1e-5 * schedule.t_max])
    for found, expected in zip(rates(schedule, ts), form.rates(ts.astype(wide))):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected.astype(float), rtol=1e-5)


@every
def test_derivatives_are_the_slopes(name, x64):
    schedule, form = SCHEDULES[name]
    ts = np.asarray([1e-4, 0.01234, 0.3706, 0.9502]) * schedule.t_max
    values, slopes = derivatives(schedule, ts)
    np.testing.assert_allclose(np.stack(values), np.stack(form.amplitudes(ts.astype(wide))).astype(float), rtol=1e-11)
    np.testing.assert_allclose(np.stack(slopes), np.stack(forms.slopes(form, ts.astype(wide))).astype(float), rtol=1e-9)


@every
def test_log_snr_is_of_squares(name, x64):
    schedule, form = SCHEDULES[name]
    ts = np.asarray([0.3 * schedule.t_max])
    alpha, sigma = form.amplitudes(ts.astype(wide))
    np.testing.assert_allclose(log_snr(schedule, ts), np.log(alpha**2 / sigma**2).astype(float), rtol=1e-11)


def test_log_snr_is_infinite_at_the_ends():
    assert calculus.log_snr(Rectified(), 0.0) == np.inf
    assert calculus.log_snr(Rectified(), 1.0) == -np.inf
    assert calculus.log_snr(Cosine(), 1.0) == -np.inf


@every
def test_inverse_round_trip_in_float64(name, x64):
    schedule, form = SCHEDULES[name]
    ts = UNIT_TIMES[UNIT_TIMES < 0.999999] * schedule.t_max
    alpha, sigma = form.amplitudes(ts.astype(wide))
    levels = (2 * np.log(alpha / sigma)).astype(float)
    back = time_of(schedule, levels)
    np.testing.assert_allclose(back, ts, rtol=1e-9, atol=1e-12 if name == "ve" else 0)
    np.testing.assert_allclose(log_snr(schedule, back), levels, rtol=0, atol=1e-9)


@every
def test_inverse_in_float32_finds_the_noise_level(name):
    schedule, form = SCHEDULES[name]
    ts = UNIT_TIMES[UNIT_TIMES < 0.9999] * schedule.t_max
    alpha, sigma = form.amplitudes(ts.astype(wide))
    levels = (2 * np.log(alpha / sigma)).astype(np.float32)
    back = time_of(schedule, levels)
    alpha, sigma = form.amplitudes(np.clip(np.asarray(back, wide), 0, schedule.t_max))
    slope = np.nan_to_num((form.rates(ts.astype(wide))[1] / sigma**2).astype(float))  # -d log SNR / dt
    error = np.abs((2 * np.log(alpha / sigma)).astype(float) - levels)
    assert np.all(error < 3e-5 + 2e-7 * ts * slope)  # what float32 times can express


@every
def test_inverse_beyond_the_schedule_is_finite(name):
    schedule = SCHEDULES[name][0]
    assert np.isfinite(time_of(schedule, np.float32([-30.0, 30.0]))).all()


def test_time_of_wants_an_inverse():
    with pytest.raises(ValueError, match="function has no inverse"):
        calculus.time_of(lambda t: (1 - t, t), 0.0)


HYPER = [  # schedule class, field, value, closed form
    (VP, "beta_min", 0.3, forms.VP),
    (VP, "beta_max", 11.0, forms.VP),
    (SubVP, "beta_min", 0.3, forms.SUB_VP),
    (SubVP, "beta_max", 11.0, forms.SUB_VP),
    (VE, "sigma_min", 0.07, forms.VE),
    (VE, "sigma_max", 20.0, forms.VE),
    (Cosine, "s", 0.02, forms.COSINE),
]


@pytest.mark.parametrize(("cls", "field", "value", "form"), HYPER, ids=lambda v: getattr(v, "__name__", str(v)[:12]))
def test_gradient_with_respect_to_hyper_parameters(cls, field, value, form, x64):
    gradient = jax.jit(jax.grad(lambda v, t: calculus.log_snr(cls(**{field: v}), t)))

    def by_hand(v, t):
        alpha, sigma = form.amplitudes(wide(t), **{field: v})
        return 2 * np.log(alpha / sigma)

    h = wide(value) * wide("1e-5")
    for t in (1e-5, 0.3, 0.95):
        expected = (by_hand(wide(value) + h, t) - by_hand(wide(value) - h, t)) / (2 * h)
        np.testing.assert_allclose(gradient(value, t), float(expected), rtol=1e-6)


def test_gradient_with_respect_to_a_table(x64):
    """log SNR = 2 l - log(1 - e^{2 l}) at a knot: slope 2 / sigma^2 for that entry, 0 for the others."""
    schedule = Tabulated.linear(10, beta_T=0.005)
    slope = jax.jit(jax.grad(lambda table: calculus.log_snr(Tabulated(table), 0.4)))(schedule.log_alpha)
    bar = np.cumprod(1 - np.linspace(1e-4, 0.005, 10) * 100)
    np.testing.assert_allclose(slope, np.eye(11)[4] * 2 / (1 - bar[3]), rtol=1e-9, atol=1e-9)


CHANGED = [
    (VP(), VP(beta_min=0.2, beta_max=10.0, t_max=0.9)),
    (SubVP(), SubVP(beta_max=3.0)),
    (VE(), VE(0.02, 348.0)),
    (EDM(), EDM(t_max=10.0)),
    (Cosine(), Cosine(s=0.02)),
    (Rectified(), Rectified(t_max=0.99)),
    (Tabulated.linear(), Tabulated.cosine()),
]


@pytest.mark.parametrize(("one", "other"), CHANGED, ids=lambda s: type(s).__name__)
def test_changing_a_hyper_parameter_does_not_retrace(one, other):
    traces = []

    @jax.jit
    def evaluate(schedule, t):
        traces.append(None)
        return schedule(t), calculus.rates(schedule, t)

    first, second = evaluate(one, 0.3), evaluate(other, 0.7)
    assert len(traces) == 1
    for schedule, t, got in ((one, 0.3, first), (other, 0.7, second)):
        np.testing.assert_allclose(np.stack(got[0]), np.stack(schedule(t)), rtol=1e-6)


def test_a_sweep_of_schedules_is_a_vmap():
    betas = np.float32([5.0, 10.0, 20.0])
    alpha, _ = jax.jit(jax.vmap(lambda beta_max: VP(beta_max=beta_max)(0.5)))(betas)
    np.testing.assert_allclose(alpha, np.exp(-0.5 * (0.05 + (betas - 0.1) / 8)), rtol=1e-6)


@every
def test_times_of_any_type_give_float32(name):
    """bfloat16 would round alpha to 1 for the first ten steps of DDPM, and it spreads silently through products."""
    schedule, form = SCHEDULES[name]
    for t in (0, 0.25, np.float32(0.25), np.float64(0.25), np.array(0.25), jnp.bfloat16(0.25), jnp.float16(0.25)):
        for amplitude, expected in zip(schedule(t), form.amplitudes(wide(t))):
            assert amplitude.dtype == jnp.float32
            np.testing.assert_allclose(amplitude, float(expected), rtol=1e-6)
    for amplitude in jax.jit(lambda t: schedule(t))(jnp.bfloat16(0.25)):
        assert amplitude.dtype == jnp.float32


@pytest.mark.parametrize("betas", [ddpm_betas(), cosine_betas(), kexue_betas(), ddpm_betas(4000), [0.3]])
def test_a_table_is_the_cumulative_product(betas, x64):
    steps = len(betas)
    bar = np.cumprod(1 - np.asarray(betas, wide))
    found = amplitudes(Tabulated.from_betas(betas), np.arange(1, steps + 1) / steps)
    alpha, sigma = (np.asarray(a) for a in found)
    assert relative(alpha**2, bar) < 1e-10
    assert relative(sigma**2, 1 - bar) < 1e-10


def test_tables_are_the_published_ones():
    """METHODS: alpha_T of the two chains, and exactly one clipped beta; betas are recovered from the tables."""
    for schedule, betas in ((Tabulated.linear(), ddpm_betas()), (Tabulated.kexue(), kexue_betas())):
        np.testing.assert_allclose(-np.expm1(2 * np.diff(schedule.log_alpha)), betas.astype(float), rtol=1e-10)
    assert f"{calculus.amplitudes(Tabulated.kexue(), [1.0])[0][0]:.2e}" == "6.48e-03"
    assert f"{calculus.amplitudes(Tabulated.linear(), [1.0])[0][0]:.2e}" == "6.35e-03"
    for steps in (1000, 4000):
        betas = -np.expm1(2 * np.diff(Tabulated.cosine(steps).log_alpha))
        np.testing.assert_allclose(betas, cosine_betas(steps).astype(float), rtol=1e-9)
        assert np.sum(betas > 0.999 - 1e-9) == 1
        assert betas.argmax() == steps - 1
    assert Tabulated.cosine(100).steps == 100


def test_float32_first_steps_of_ddpm_keep_their_noise():
    """1 - alphas_cumprod in float32 is off by 1.7e-4 at the first step; sigma from log alpha is not."""
    betas = ddpm_betas()
    steps = np.arange(1, 11)
    sigma = amplitudes(Tabulated.linear(), np.float32(steps / 1000))[1]
    assert relative(sigma, np.sqrt(1 - np.cumprod(1 - betas))[:10]) < 5e-7
    naive = 1 - np.cumprod(1 - betas.astype(np.float32), dtype=np.float32)
    assert abs(naive[0] / 1e-4 - 1) > 1e-4


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([0.1, np.nan], r"betas\[1\] is nan"),
        ([0.0, 0.1], r"betas\[0\] is 0"),
        ([0.1, 1.0], r"betas\[1\] is 1"),
        ([0.1, 0.2, -0.1], r"betas\[2\] is -0.1"),
        ([0.1, np.inf], r"betas\[1\] is inf"),
        ([[0.1, 0.2]], r"shape \(1, 2\)"),
        (0.1, r"shape \(\)"),
        ([], r"shape \(0,\)"),
    ],
)
def test_bad_betas_are_refused(betas, message):
    with pytest.raises(ValueError, match=message):
        Tabulated.from_betas(betas)


@pytest.mark.parametrize("make", [Tabulated.linear, Tabulated.cosine, Tabulated.kexue])
@pytest.mark.parametrize("steps", [0, -3, 2.5, True])
def test_bad_chain_lengths_are_refused(make, steps):
    with pytest.raises(ValueError, match="expected an integer >= 1"):
        make(steps)


def test_short_linear_chains_are_refused_where_the_rule_breaks():
    with pytest.raises(ValueError, match=r"10 steps has betas up to 0\.02 times 1000 / 10 = 2"):
        Tabulated.linear(10)  # 1000 / 10 * 0.02 = 2


def test_the_class_is_part_of_the_structure():
    """`jit` looks programs up by structure: two classes with the same fields must never share one."""
    assert jax.tree.structure(VP()) != jax.tree.structure(SubVP())
    assert jax.tree.structure(EDM()) != jax.tree.structure(Rectified())


def test_same_compares_class_and_float32_numbers():
    same = calculus.same
    assert same(VP(), VP())
    assert same(VP(), VP(beta_min=jnp.float32(0.1), beta_max=np.float64(20)))
    assert same(Tabulated.linear(), Tabulated(jnp.asarray(Tabulated.linear().log_alpha, jnp.float32)))
    for a, b in (
        (VP(), SubVP()),
        (VP(), VP(beta_max=19.9)),
        (VP(), VP(t_max=0.99)),
        (EDM(), Rectified()),
        (Tabulated.linear(), Tabulated.cosine()),
        (Tabulated.linear(1000), Tabulated.linear(999)),
        (VP(beta_min=np.nan), VP(beta_min=np.nan)),
    ):
        assert not same(a, b)
    traced = jax.jit(lambda a, b: calculus.same(a, b))
    assert traced(VP(), VP())
    assert not traced(VP(), VP(beta_max=19.9))


def test_float64_helper_is_float64_and_refuses_tracers():
    assert host.float64(lambda t: t * 1.0, np.float32(0.1)).dtype == np.float64
    assert calculus.amplitudes(VP(), [0.1, 0.2])[1].dtype == np.float64
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda t: calculus.amplitudes(VP(beta_max=t), [0.5])[0])(3.0)


@pytest.mark.parametrize("steps", [7, 100, 1000])
def test_rates_at_a_knot_are_those_of_the_step_that_ends_there(steps, x64):
    """beta(k / T) = -T log(1 - beta_k): what Euler-Maruyama from x_k to x_{k-1} needs."""
    schedule, betas = Tabulated.cosine(steps), cosine_betas(steps).astype(float)
    f, _ = rates(schedule, np.arange(1, steps + 1) / steps)
    np.testing.assert_allclose(f, 0.5 * steps * np.log1p(-betas), rtol=1e-9)


@pytest.mark.parametrize(
    "schedule", [*(s for s, _ in SCHEDULES.values()), Tabulated.cosine(7), Tabulated.from_betas([0.3])]
)
def test_check_passes_every_schedule(schedule):
    calculus.check(schedule)


@pytest.mark.parametrize(
    ("schedule", "what"),
    [
        (VE(sigma_min=0.0), "VE has"),
        (VE(sigma_min=2.0, sigma_max=1.0), "log-SNR must fall"),
        (VP(beta_min=-1.0), "VP has"),
        (VP(beta_min=0.0, beta_max=0.0), "log-SNR must fall"),
        (VP(beta_min=2.0, beta_max=-1.0), "log-SNR must fall"),  # and rises again, far from both ends
        (VP(t_max=0.0), "t_max = 0.0"),
        (Cosine(t_max=1.1), "Cosine has"),
        (Rectified(t_max=2.0), "Rectified has"),
        (Tabulated(np.asarray([0.0, -0.1, np.nan])), "Tabulated has alpha = nan"),
    ],
)
def test_check_names_what_is_wrong(schedule, what):
    with pytest.raises(ValueError, match=what):
        calculus.check(schedule)
