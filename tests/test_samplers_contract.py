"""What every sampler promises besides its law: one compile, independence of the batch, gradients, readable errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers_table import SAMPLERS

from diffjax import analytic, grids
from diffjax.samplers import ancestral, heun, multistep, nfe, ode, sampling_fn, sde
from diffjax.schedules import EDM, VE, VP, Cosine, Rectified, Tabulated
from diffjax.types import Posterior, pytree, static

TARGET = analytic.gaussian_mixture([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.4]], [0.04, 0.02])
FLOW = {"flow": lambda s: ode.probability_flow(s, "Tsit5", rtol=1e-4, atol=1e-4)}
MAKERS = {name: row.make for name, row in SAMPLERS.items()} | FLOW


def grid(n, schedule, zero=True):
    return grids.karras(schedule, n, t_min=3e-3, zero=zero)


def sampler_and_grid(name, schedule, n=10):
    """The flow ends above 0 and takes one interval."""
    ts = grid(n, schedule)
    return MAKERS[name](schedule), ts[[0, -2]] if name == "flow" else ts


def sample_batch(sample, model, keys, x):
    return jax.vmap(sample, in_axes=(None, 0, 0))(model, keys, x)


batched = jax.jit(sample_batch)


def examples(n, scale=1.0):
    """Keys and x_T; example i is the same in every batch."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(7), i))(jnp.arange(n))
    return keys, scale * jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)


# One compile.


@pytree
class Counting:
    """A denoiser that counts how often Python runs it: once or more per trace, never at run time."""

    schedule: object
    shift: object
    calls: list = static()

    def __call__(self, x, t):
        """A smooth function of x and t."""
        self.calls.append(1)
        return Posterior(jnp.tanh(x + self.shift))


class Calls(list):
    """A list that is part of a pytree's structure."""

    def __hash__(self):
        return id(self)

    def __eq__(self, other):
        return self is other


def traces(*runs):
    """How many of the (sampler, grid) pairs were traced anew by one jitted function."""
    calls, run, found = Calls(), jax.jit(sample_batch), 0
    keys, x = examples(3)
    for i, (sampler, ts) in enumerate(runs):
        before = len(calls)
        out = run(sampling_fn(sampler, ts), Counting(sampler.schedule, jnp.float32(0.1 * i), calls), keys, x)
        assert np.all(np.isfinite(out))
        found += len(calls) > before
    return found


def test_linear_samplers_of_all_strengths_schedules_and_grids_share_one_compile():
    a, b = VP(), VP(beta_min=0.2, beta_max=15.0)
    early = grids.uniform(a, 10, t_max=0.9)
    runs = [
        (ancestral.ddim(a), grid(10, a)),
        (ancestral.ddim(a, eta=0.5), grid(10, a)),
        (ancestral.ddpm(b), grid(10, b)),
        (sde.euler_maruyama(b), early),
        (sde.euler_maruyama(a, churn=0.3), early),
    ]
    assert traces(*runs) == 1


def test_heun_of_all_churns_shares_one_compile():
    a, b = EDM(), EDM(t_max=40.0)
    runs = [
        (heun.edm(a), grid(10, a)),
        (heun.edm(a, churn=4.0, s_min=0.05, s_max=50.0, s_noise=1.003), grid(10, a)),
        (heun.edm(b, churn=1.0), grids.uniform(b, 10)),
    ]
    assert traces(*runs) == 1


def test_multistep_samplers_of_one_order_share_one_compile():
    a, b = Tabulated.linear(), Tabulated.cosine()
    runs = [
        (multistep.adams(a, 3), grid(10, a)),
        (multistep.adams(a, 3, lower_final=True), grid(10, a)),
        (multistep.dpmpp_3m(b), grids.trailing(b, 10)),
    ]
    assert traces(*runs) == 1
    assert traces((multistep.adams(a, 2), grid(10, a)), (multistep.dpmpp_2m(b), grids.linspace(b, 10))) == 1


def test_tolerances_of_the_flow_share_one_compile():
    a, b = VP(), VP(beta_max=10.0)
    loose, tight = (ode.probability_flow(s, rtol=tol, atol=tol) for s, tol in ((a, 1e-2), (b, 1e-4)))
    assert traces((loose, np.array([1.0, 0.1])), (tight, np.array([0.8, 0.2]))) == 1


def test_another_length_or_class_is_another_compile():
    """The counter can count."""
    a, b = VP(), VE()
    assert traces((ancestral.ddim(a), grid(10, a)), (ancestral.ddim(a), grid(11, a))) == 2
    assert traces((ancestral.ddim(a), grid(10, a)), (ancestral.ddim(b), grid(10, b))) == 2


def test_evaluations_are_rows():
    schedule = EDM()
    assert nfe(sampling_fn(heun.edm(schedule), grid(18, schedule))) == 35
    assert nfe(sampling_fn(heun.edm(schedule), grid(18, schedule, zero=False))) == 36
    assert nfe(sampling_fn(multistep.adams(schedule), grid(18, schedule))) == 18


# The batch.


@pytest.mark.parametrize("name", ["ddim_half", "em", "heun_churn", "adams_3", "flow"])
def test_an_example_does_not_depend_on_the_batch(name):
    """In batches of 1, 7 and 64; to the bit where only the neighbours change."""
    schedule = VP()
    sample = sampling_fn(*sampler_and_grid(name, schedule))
    model = TARGET.denoiser(schedule)
    keys, x = examples(64)
    whole = np.asarray(batched(sample, model, keys, x))
    assert np.all(np.isfinite(whole))
    for n in (1, 7):
        np.testing.assert_allclose(batched(sample, model, keys[:n], x[:n]), whole[:n], atol=2e-5)
    others = jnp.concatenate([x[:7], 30 * x[7:]])  # far away: an adaptive solver needs other steps there
    np.testing.assert_array_equal(np.asarray(batched(sample, model, keys, others))[:7], whole[:7])
    np.testing.assert_allclose(jax.jit(sample)(model, keys[3], x[3]), whole[3], atol=2e-5)


def test_images_are_examples_too():
    schedule = EDM()
    target = analytic.gaussian_mixture([0.5, 0.5], np.stack([np.full((4, 4, 1), m) for m in (-0.5, 0.5)]), [0.01, 0.01])
    keys = jax.random.split(jax.random.key(0), 3)
    x = 80 * jax.random.normal(jax.random.key(1), (3, 4, 4, 1))
    for name in ("ddpm", "heun", "adams_3", "flow"):
        sampler, ts = sampler_and_grid(name, schedule, 20)
        out = np.asarray(batched(sampling_fn(sampler, ts), target.denoiser(schedule), keys, x))
        assert out.shape == (3, 4, 4, 1)
        assert out.dtype == np.float32
        mode = np.sign(out.mean((1, 2, 3)))[:, None, None, None]
        assert np.abs(out - 0.5 * mode).max() < 0.5


# Trajectories.


@pytest.mark.parametrize("name", ["ddim", "em", "heun", "adams_3"])
@pytest.mark.parametrize("n", [1, 2, 10, 100])
def test_the_trajectory_has_a_state_per_row_and_ends_at_the_result(name, n):
    schedule = VP()
    sampler, ts = sampler_and_grid(name, schedule, n)
    sample = sampling_fn(sampler, ts, trace=lambda state: getattr(state, "x", state))
    model, key, x = TARGET.denoiser(schedule), jax.random.key(0), jnp.array([0.3, -1.0])
    result, path = jax.jit(sample)(model, key, x)
    assert path.shape == (nfe(sample), 2)
    assert nfe(sample) == (2 * n - 1 if name == "heun" else n)
    np.testing.assert_array_equal(path[-1], result)
    assert np.all(np.isfinite(path))
    if n == 2:
        np.testing.assert_array_equal(jax.jit(sampling_fn(sampler, ts))(model, key, x), result)


def test_the_flow_may_end_with_the_mean():
    schedule, x = VP(), jnp.array([0.3, -1.0])
    model, ts = TARGET.denoiser(schedule), np.array([1.0, 0.5, 0.2])
    plain, denoised = (
        jax.jit(sampling_fn(ode.probability_flow(schedule, denoise=d), ts))(model, jax.random.key(0), x)
        for d in (False, True)
    )
    np.testing.assert_allclose(denoised, model(plain, 0.2).mean, rtol=1e-5)
    assert np.abs(denoised - plain).max() > 1e-3


# Gradients.


@jax.jit
def gradients(sample, model, x):
    """Of |x_0|^2, with respect to the target inside the denoiser and to x_T."""

    def loss(target, x):
        denoise = target.denoiser(model.schedule, model.with_var)
        return jnp.sum(sample(denoise, jax.random.key(0), x) ** 2)

    return jax.grad(loss, argnums=(0, 1))(model.target, x)


@pytest.mark.parametrize("name", [*SAMPLERS, "flow"])
def test_gradients_are_finite(name):
    """With and without a posterior variance; the last step ends at sigma = 0."""
    schedule = VP()
    sample = sampling_fn(*sampler_and_grid(name, schedule))
    model = TARGET.denoiser(schedule, with_var=name == "ddpm")
    by_target, by_x = gradients(sample, model, jnp.array([0.3, -1.0]))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((by_target, by_x)))
    assert np.abs(by_target.means).max() > 1e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["ddim_half", "heun_churn", "adams_3"])
def test_gradients_are_finite_differences(name):
    schedule = VP()
    sample = jax.jit(sampling_fn(*sampler_and_grid(name, schedule)))
    target = analytic.gaussian_mixture([0.3, 0.7], [-0.6, 0.5], [0.04, 0.02])
    value = lambda x: sample(target.denoiser(schedule), jax.random.key(0), x)
    x = jnp.asarray(0.3)
    numeric = (value(x + 1e-5) - value(x - 1e-5)) / 2e-5
    assert float(jax.grad(value)(x)) == pytest.approx(float(numeric), rel=1e-6)


# Bad input.

UNIT = np.linspace(1.0, 0.0, 5)
BAD_PARAMETERS = [
    (lambda: ancestral.ddim(VP(), eta=1.5), r"eta is 1\.5, expected a number in \[0, 1\]"),
    (lambda: ancestral.ddim(VP(), eta=-0.1), r"eta is -0\.1"),
    (lambda: ancestral.ddim(VP(), eta=np.nan), "eta is nan"),
    (lambda: sde.euler_maruyama(VP(), churn=-1.0), r"churn is -1\.0, expected a finite number"),
    (lambda: sde.euler_maruyama(VP(), churn=np.inf), "churn is inf"),
    (lambda: heun.edm(VP(), churn=-1.0), r"churn = -1\.0.*expected all >= 0"),
    (lambda: heun.edm(VP(), s_noise=-1.0), r"s_noise = -1\.0"),
    (lambda: heun.edm(VP(), s_min=2.0, s_max=1.0), r"s_min = 2\.0, s_max = 1\.0"),
    (lambda: multistep.adams(VP(), 4), "order is 4, expected 1, 2 or 3"),
    (lambda: multistep.adams(VP(), 0), "order is 0"),
    (lambda: ode.probability_flow(VP(), "Tsit6"), "no adaptive ODE solver 'Tsit6'; there is .*Tsit5"),
    (lambda: ode.probability_flow(VP(), "Euler"), "no adaptive ODE solver 'Euler'"),
    (lambda: ode.probability_flow(VP(), "ItoMilstein"), "no adaptive ODE solver"),
    (lambda: ode.probability_flow(VP(), "AbstractERK"), "no adaptive ODE solver"),
    (lambda: ode.probability_flow(VP(), "Kvaerno5", adaptive=False), "no fixed-step ODE solver 'Kvaerno5'"),
    (lambda: ode.probability_flow(VP(), rtol=0.0), r"rtol = 0\.0.*expected all positive"),
    (lambda: ode.probability_flow(VP(), max_steps=0), "max_steps = 0"),
]


@pytest.mark.parametrize(("make", "message"), BAD_PARAMETERS)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


BAD_GRIDS = [
    (ancestral.ddim(VP()), [0.0, 0.5, 1.0], r"must decrease strictly; ts\[0\] = 0, ts\[1\] = 0\.5"),
    (ancestral.ddim(VP()), [1.0, 0.5, 0.5, 0.0], r"must decrease strictly; ts\[1\] = 0\.5"),
    (ancestral.ddim(VP()), [1.0, np.nan, 0.0], "holds nan at index 1"),
    (ancestral.ddim(VP()), [1.0], r"shape \(1,\), expected \(N \+ 1,\)"),
    (ancestral.ddim(VP()), [[1.0, 0.0]], r"shape \(1, 2\)"),
    (ancestral.ddim(VP()), [1.5, 0.5, 0.0], r"runs from 1\.5 to 0, expected it inside \[0, 1\.0\]"),
    (ancestral.ddim(VP()), [1.0, 0.5, -0.1], r"to -0\.1, expected it inside"),
    (ode.probability_flow(VP()), UNIT, "singular at t = 0; end the grid above it"),
    (sde.euler_maruyama(Rectified()), UNIT, "SDE of Rectified is singular at t = 1; start the grid below it"),
    (sde.euler_maruyama(Cosine()), UNIT, "SDE of Cosine is singular at t = 1"),
    (heun.edm(Rectified()), UNIT, "infinite at t = 1; start the grid below it"),
    (heun.edm(Cosine()), UNIT, "infinite at t = 1"),
    (heun.edm(Tabulated.linear(), churn=4.0), UNIT, "at t = 1, which Tabulated does not reach; set s_max below"),
]


@pytest.mark.parametrize(("sampler", "ts", "message"), BAD_GRIDS)
def test_bad_grids_are_refused(sampler, ts, message):
    with pytest.raises(ValueError, match=message):
        sampling_fn(sampler, ts)


def test_plans_are_made_outside_jit():
    def traced(beta_max):
        return sampling_fn(ancestral.ddim(VP(beta_max=beta_max, t_max=1.0)), UNIT)(None, None, jnp.ones(2))

    with pytest.raises(ValueError, match="build samplers and grids outside jit"):
        jax.jit(traced)(jnp.float32(10.0))


@pytest.mark.parametrize("name", ["ddim", "heun", "adams_3", "flow"])
def test_a_denoiser_of_another_schedule_is_refused(name):
    sampler, ts = sampler_and_grid(name, VP())
    sample, key, x = sampling_fn(sampler, ts), jax.random.key(0), jnp.ones(2)
    for other in (VP(beta_max=10.0), VE(), Tabulated.linear()):
        with pytest.raises(
            ValueError, match=r"planned for VP\(.*but the denoiser was made for " + type(other).__name__
        ):
            sample(TARGET.denoiser(other), key, x)
    with pytest.raises(ValueError, match="planned for VP, but the model carries no schedule"):
        sample(lambda x, t: Posterior(x), key, x)


def test_inside_jit_other_numbers_give_nan_and_other_classes_raise():
    """Values cannot be looked at there: the samples say it."""
    sample = sampling_fn(ancestral.ddim(VP()), grid(10, VP()))
    keys, x = examples(3)
    assert np.all(np.isnan(batched(sample, TARGET.denoiser(VP(beta_max=10.0)), keys, x)))
    assert np.all(np.isfinite(batched(sample, TARGET.denoiser(VP()), keys, x)))
    with pytest.raises(ValueError, match="the denoiser was made for VE"):
        batched(sample, TARGET.denoiser(VE()), keys, x)
    table = Tabulated.linear()
    sample = sampling_fn(ancestral.ddim(table), grid(10, table))
    assert np.all(np.isfinite(batched(sample, TARGET.denoiser(Tabulated.linear()), keys, x)))
    assert np.all(np.isnan(batched(sample, TARGET.denoiser(Tabulated.kexue()), keys, x)))


# One compile for every length.


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "flow"])
def test_padded_rows_change_nothing(name):
    schedule = VP()
    sampler, ts = sampler_and_grid(name, schedule, 5)
    keys, x = examples(3)
    model = TARGET.denoiser(schedule)
    plain, padded = sampling_fn(sampler, ts), sampling_fn(sampler, ts, max_rows=13)
    assert nfe(plain) == nfe(padded)
    np.testing.assert_allclose(batched(padded, model, keys, x), batched(plain, model, keys, x), rtol=1e-5, atol=1e-6)


def test_one_compile_serves_every_length_up_to_a_maximum():
    calls, run, schedule = Calls(), jax.jit(sample_batch), VP()
    keys, x = examples(3)
    model = Counting(schedule, jnp.float32(0.1), calls)
    for n in (1, 4, 9, 20):
        run(sampling_fn(multistep.adams(schedule), grid(n, schedule), max_rows=20), model, keys, x)
        after = len(calls) if n == 1 else after
    assert len(calls) == after


def test_padded_rows_are_not_run():
    """A model that counts at run time."""
    schedule, seen = VP(), []

    class Model:
        def __call__(self, x, t):
            jax.debug.callback(lambda t: seen.append(float(t)), t)
            return Posterior(x)

    model = Model()
    model.schedule = schedule
    sample = sampling_fn(multistep.adams(schedule), grid(4, schedule), max_rows=50)
    sample(model, jax.random.key(0), jnp.zeros(2))
    jax.effects_barrier()
    np.testing.assert_allclose(seen, grid(4, schedule)[:-1], rtol=1e-6)


def test_bad_padding_is_refused():
    sampler, ts = multistep.adams(VP()), grid(10, VP())
    with pytest.raises(ValueError, match="10 rows, expected at most max_rows = 9"):
        sampling_fn(sampler, ts, max_rows=9)
    with pytest.raises(ValueError, match="trace or max_rows"):
        sampling_fn(sampler, ts, trace=lambda s: s, max_rows=20)
