"""What every sampler promises besides its law: one compile, independence of the batch, gradients, readable errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers_table import KINDS, SAMPLERS, one_of_a_step

from diffjax import analytic, grids
from diffjax.samplers import (
    ancestral,
    deis,
    heun,
    multistep,
    nfe,
    ode,
    pndm,
    restart,
    sampling_fn,
    sde,
    singlestep,
    unipc,
)
from diffjax.schedules import EDM, VE, VP, Tabulated
from diffjax.types import Posterior, pytree, static

TARGET = analytic.gaussian_mixture([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.4]], [0.04, 0.02])
FLOW = "flow"  # beside the samplers of the table: the adaptive ODE
MAKERS = {name: row.make for name, row in SAMPLERS.items()}
MAKERS[FLOW] = lambda s: ode.probability_flow(s, "Tsit5", rtol=1e-4, atol=1e-4)


def grid(n, schedule, zero=True):
    return grids.karras(schedule, n, t_min=3e-3, zero=zero)


def sampler_and_grid(name, schedule, n=10):
    """The flow ends above 0 and takes one interval."""
    ts = grid(n, schedule)
    return MAKERS[name](schedule), ts[[0, -2]] if name not in SAMPLERS else ts


def sample_batch(sample, model, keys, x):
    return jax.vmap(sample, in_axes=(None, 0, 0))(model, keys, x)


batched = jax.jit(sample_batch)


@jax.jit
def first_64():
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(7), i))(np.arange(64))
    return keys, jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)


def examples(n):
    """Keys and x_T; example i is the same in every batch."""
    keys, x = first_64()
    return (keys if n == 64 else keys[:n]), np.asarray(x)[:n]


def x_T(dtype=np.float32):
    return np.asarray([0.3, -1.0], dtype)


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
        out = run(sampling_fn(sampler, ts), Counting(sampler.schedule, np.float32(0.1 * i), calls), keys, x)
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


def test_noise_multistep_samplers_of_one_order_share_one_compile():
    a, b = VP(), VP(beta_max=15.0)
    runs = [
        (deis.tab(a, 3), grid(10, a)),
        (deis.lms(b, 3), grids.uniform(b, 10)),
        (pndm.ipndm(a, 3), grids.log_snr(a, 10)),
    ]
    assert traces(*runs) == 1


def test_all_noise_levels_variants_and_intervals_share_one_compile():
    """Of a history and a number of rows: tau > 0, eta > 0 and kinds; UniPC's variants; restarts of other intervals."""
    a, b = VP(), VP(beta_max=15.0)
    runs = [
        (multistep.adams(a, 2, tau=0.3), grid(10, a)),
        (multistep.adams(b, 2, tau=1.0, lower_final=True), grid(10, b)),
        (multistep.dpmpp_2m_sde(a, 0.5), grids.uniform(a, 10)),
        (multistep.dpmpp_2m_sde(a, 1.0, "heun"), grid(10, a)),
    ]
    assert traces(*runs) == 1
    assert traces(*((unipc.unipc(a, 2, v, lower), grid(10, a)) for v in unipc.VARIANTS for lower in (True, False))) == 1
    assert traces(*((restart.restart(s, ((3, 2, low, 2.0),)), grid(10, s)) for s in (a, b) for low in (0.1, 0.6))) == 1
    assert traces((singlestep.dpmpp_2s(a), grid(10, a)), (singlestep.dpmpp_2s(b), grids.uniform(b, 10))) == 1
    assert traces((singlestep.dpm_solver(a), grid(10, a)), (singlestep.dpm_solver(b), grids.uniform(b, 10))) == 1


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


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("name", SAMPLERS)
def test_evaluations_of_every_sampler_are_as_published(name, zero):
    """N steps: one each for multistep samplers, a corrector included; the step to sigma = 0 is a single one."""
    schedule, n, row = EDM(), 18, SAMPLERS[name]
    assert nfe(sampling_fn(row.make(schedule), grid(n, schedule, zero))) == row.evaluations(n, zero)


def test_pndm_on_short_grids():
    """Its first three steps are Runge-Kutta's, but for one that arrives at sigma = 0."""
    schedule = EDM()
    counts = [nfe(sampling_fn(pndm.pndm(schedule), grid(n, schedule))) for n in (1, 2, 3, 4)]
    assert counts == [1, 5, 9, 13]


# The batch.


@pytest.mark.parametrize(
    "name", ["ddim_half", "em", "heun_churn", "adams_3", "dpmpp_3m_sde", "unipc_3", "restart", "flow"]
)
def test_an_example_does_not_depend_on_the_batch(name):
    """Alone and in batches of 7 and 64; to the bit where only the neighbours change."""
    schedule = VP()
    sample = sampling_fn(*sampler_and_grid(name, schedule))
    model = TARGET.denoiser(schedule)
    keys, x = examples(64)
    whole = np.asarray(batched(sample, model, keys, x))
    assert np.all(np.isfinite(whole))
    np.testing.assert_allclose(batched(sample, model, *examples(7)), whole[:7], atol=2e-5)
    others = np.concatenate([x[:7], 30 * x[7:]])  # far away: an adaptive solver needs other steps there
    np.testing.assert_array_equal(np.asarray(batched(sample, model, keys, others))[:7], whole[:7])
    np.testing.assert_allclose(jax.jit(sample)(model, keys[3], x[3]), whole[3], atol=2e-5)


def test_images_are_examples_too():
    schedule = EDM()
    target = analytic.gaussian_mixture([0.5, 0.5], np.stack([np.full((4, 4, 1), m) for m in (-0.5, 0.5)]), [0.01, 0.01])
    keys = jax.random.split(jax.random.key(0), 3)
    x = 80 * np.random.default_rng(1).standard_normal((3, 4, 4, 1), np.float32)
    for name in ("ddpm", "heun", "adams_3", "lms_4", "unipc_3", "dpmpp_2m_sde", "flow"):
        sampler, ts = sampler_and_grid(name, schedule, 20)
        out = np.asarray(batched(sampling_fn(sampler, ts), target.denoiser(schedule), keys, x))
        assert out.shape == (3, 4, 4, 1)
        assert out.dtype == np.float32
        mode = np.sign(out.mean((1, 2, 3)))[:, None, None, None]
        assert np.abs(out - 0.5 * mode).max() < 0.5


# Trajectories.


@pytest.mark.parametrize("name", ["ddim", "em", "heun", "adams_3"])
@pytest.mark.parametrize("n", [1, 2, 10])
def test_the_trajectory_has_a_state_per_row_and_ends_at_the_result(name, n):
    schedule = VP()
    sampler, ts = sampler_and_grid(name, schedule, n)
    sample = sampling_fn(sampler, ts, trace=lambda state: getattr(state, "x", state))
    model, key, x = TARGET.denoiser(schedule), jax.random.key(0), x_T()
    result, path = map(np.asarray, jax.jit(sample)(model, key, x))
    assert path.shape == (nfe(sample), 2)
    assert nfe(sample) == SAMPLERS[name].evaluations(n, True)
    np.testing.assert_array_equal(path[-1], result)
    assert np.all(np.isfinite(path))
    if n == 2:
        np.testing.assert_array_equal(jax.jit(sampling_fn(sampler, ts))(model, key, x), result)


def test_the_flow_may_end_with_the_mean():
    schedule, x = VP(), x_T()
    model, ts = TARGET.denoiser(schedule), np.array([1.0, 0.5, 0.2])
    plain, denoised = (
        np.asarray(jax.jit(sampling_fn(ode.probability_flow(schedule, denoise=d), ts))(model, jax.random.key(0), x))
        for d in (False, True)
    )
    np.testing.assert_allclose(denoised, jax.jit(lambda x: model(x, 0.2).mean)(plain), rtol=1e-5)
    assert np.abs(denoised - plain).max() > 1e-3


# Gradients.


@jax.jit
def gradients(sample, model, x):
    """Of |x_0|^2, with respect to the target inside the denoiser and to x_T."""

    def loss(target, x):
        denoise = target.denoiser(model.schedule, model.with_var)
        return jnp.sum(sample(denoise, jax.random.key(0), x) ** 2)

    return jax.grad(loss, argnums=(0, 1))(model.target, x)


@pytest.mark.parametrize("name", [*one_of_a_step(KINDS), FLOW, "ddpm with a variance"])
def test_gradients_are_finite(name):
    """With and without a posterior variance; the last step ends at sigma = 0."""
    schedule = VP()
    name, with_var, _ = name.partition(" with a variance")
    sample = sampling_fn(*sampler_and_grid(name, schedule))
    model = TARGET.denoiser(schedule, bool(with_var))
    by_target, by_x = gradients(sample, model, x_T())
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((by_target, by_x)))
    assert np.abs(np.asarray(by_target.means)).max() > 1e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["ddim_half", "heun_churn", "adams_3", "dpm_solver_3", "tab_3", "unipc_3", "restart"])
def test_gradients_are_finite_differences(name):
    schedule = VP()
    sample = sampling_fn(*sampler_and_grid(name, schedule))
    target = analytic.gaussian_mixture([0.3, 0.7], [-0.6, 0.5], [0.04, 0.02])
    both = jax.jit(jax.value_and_grad(lambda x: sample(target.denoiser(schedule), jax.random.key(0), x)))
    high, low = (float(both(x)[0]) for x in (0.3 + 1e-5, 0.3 - 1e-5))
    assert float(both(0.3)[1]) == pytest.approx((high - low) / 2e-5, rel=1e-6)


# Models of other schedules.


@pytest.mark.parametrize("name", ["ddim", "heun", "adams_3", "flow"])
def test_a_denoiser_of_another_schedule_is_refused(name):
    sampler, ts = sampler_and_grid(name, VP())
    sample, key, x = sampling_fn(sampler, ts), jax.random.key(0), np.ones(2, np.float32)
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


@pytest.mark.parametrize("name", one_of_a_step(KINDS))
def test_padded_rows_change_nothing(name):
    schedule = VP()
    sampler, ts = sampler_and_grid(name, schedule)
    keys, x = examples(7)
    model = TARGET.denoiser(schedule)
    plain, padded = sampling_fn(sampler, ts), sampling_fn(sampler, ts, max_rows=43)
    assert nfe(plain) == nfe(padded) < 43
    np.testing.assert_allclose(batched(padded, model, keys, x), batched(plain, model, keys, x), rtol=1e-5, atol=1e-6)


def test_one_compile_serves_every_length_up_to_a_maximum():
    calls, run, schedule = Calls(), jax.jit(sample_batch), VP()
    keys, x = examples(3)
    model, traced = Counting(schedule, np.float32(0.1), calls), []
    for n in (1, 4, 9, 20):
        run(sampling_fn(multistep.adams(schedule), grid(n, schedule), max_rows=20), model, keys, x)
        traced.append(len(calls))
    assert set(traced) == {traced[0]} != {0}


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
    sample(model, jax.random.key(0), np.zeros(2, np.float32))
    jax.effects_barrier()
    np.testing.assert_allclose(seen, grid(4, schedule)[:-1], rtol=1e-6)


def test_bad_padding_is_refused():
    sampler, ts = multistep.adams(VP()), grid(10, VP())
    with pytest.raises(ValueError, match="10 rows, expected at most max_rows = 9"):
        sampling_fn(sampler, ts, max_rows=9)
    with pytest.raises(ValueError, match="trace or max_rows"):
        sampling_fn(sampler, ts, trace=lambda s: s, max_rows=20)
