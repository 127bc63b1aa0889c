"""Every floating-point type of x, with and without `jax_enable_x64`, and models that answer in another one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rows
from families import FAMILIES
from samplers_table import state_x

from diffjax import analytic, grids, host, likelihood, processes, samplers
from diffjax.denoisers import variance
from diffjax.schedules import EDM, VE, VP, Cosine, Rectified, Rounded, SubVP, Tabulated
from diffjax.types import Posterior

KEY, SHAPE = jax.random.key(0), (3,)
TYPES = [("bfloat16", False), ("float16", True), ("float32", True), ("float64", True)]  # (of x, x64)
FEW = TYPES[1:3]  # for walks that are slow to trace
FAMILY = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


class Own:
    """A model of one's own, which gives half of x, in one type whatever x is of."""

    def __init__(self, schedule, dtype):
        self.schedule, self.dtype = schedule, dtype

    def __call__(self, x, t):
        return Posterior((0.5 * x).astype(self.dtype), jnp.full(x.shape, 0.1, self.dtype))


def mixture(schedule):
    """An exact denoiser with its variance: of the default type."""
    return analytic.gaussian_mixture([0.4, 0.6], [[-1.0, 0, 1], [1.0, 0.5, 0]], [0.1, 0.2]).denoiser(schedule, True)


def state_of(dtype):
    return jnp.dtype("float64" if dtype == "float64" else "float32")


@FAMILY
def test_samples_are_of_the_type_of_x(family):
    """Traced alone, under strict promotion: with a denoiser of the library, and with a model of another type."""
    for dtype, wide in FEW if family.slow else TYPES:
        with host.enable_x64(wide):
            sample, x = family.sample(), jax.ShapeDtypeStruct(SHAPE, dtype)
            for model in (mixture(family.schedule), Own(family.schedule, "bfloat16")):
                found = jax.eval_shape(lambda x: sample(model, KEY, x), x)  # noqa: B023
                assert (found.shape, found.dtype) == (SHAPE, jnp.dtype(dtype)), (dtype, wide)


@FAMILY
def test_the_state_is_float32_at_least(family):
    """Seen by the trace, and by the model: x and its time."""
    seen = set()

    class Watching(Own):
        def __call__(self, x, t):
            seen.update((str(x.dtype), str(t.dtype)))
            return super().__call__(x, t)

    sample, model = family.sample(trace=state_x), Watching(family.schedule, "float16")
    end, path = jax.eval_shape(lambda x: sample(model, KEY, x), jax.ShapeDtypeStruct(SHAPE, "bfloat16"))
    assert (end.dtype, path.dtype, seen) == (jnp.bfloat16, jnp.float32, {"float32"})


@pytest.mark.parametrize("wide", [False, True])
def test_a_padded_walk(wide):
    with host.enable_x64(wide):
        ts = grids.log_snr(VP(), 5)
        sample = samplers.sampling_fn(samplers.ancestral.ddpm(VP()), ts, max_rows=9)
        for dtype in ("bfloat16", "float32"):
            found = jax.eval_shape(lambda x: sample(mixture(VP()), KEY, x), jax.ShapeDtypeStruct(SHAPE, dtype))
            assert found.dtype == dtype


@pytest.mark.parametrize("name", ["ddpm", "adams"])
def test_values(name):
    """float32: the same bits whatever the default. bfloat16: those of float32, rounded once at the end."""
    family, x, found = FAMILIES[name], jnp.asarray([0.7, -1.2, 0.4], "bfloat16"), {}
    for dtype, wide in (("float32", False), ("float32", True), ("bfloat16", True)):
        with host.enable_x64(wide):
            sample, model = family.sample(), Own(family.schedule, dtype="float32")
            found[dtype, wide] = jax.jit(lambda x: sample(model, KEY, x))(x.astype(dtype))  # noqa: B023
    single = found["float32", False]
    np.testing.assert_array_equal(single, found["float32", True])
    np.testing.assert_array_equal(single.astype("bfloat16").view("uint16"), found["bfloat16", True].view("uint16"))
    sampler = family.make(family.schedule)
    draws = [jax.random.normal(jax.random.fold_in(KEY, i), SHAPE) for i in range(5)]
    expected = rows.walk(sampler, family.grid(), lambda x, t: (0.5 * x, 0.1), x.astype("float32"), draws)[0]
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_what_is_no_real_number_is_refused(dtype):
    sample = FAMILIES["adams"].sample()
    with pytest.raises(ValueError, match=f"x_T is of {dtype}, expected real numbers: float32, bfloat16"):
        sample(mixture(VP()), KEY, jnp.ones(SHAPE, dtype))
    with pytest.raises(ValueError, match=rf"gives E\[x_0 \| x_t\] in {dtype} for x_t in float32, expected real"):
        sample(Own(VP(), dtype), KEY, jnp.ones(SHAPE))


# Likelihoods.

PROCESS = processes.Gaussian(VP())


@pytest.mark.parametrize(("dtype", "wide"), FEW)
@pytest.mark.parametrize("trace", ["hutchinson", "exact"])
def test_the_density_of_a_flow(dtype, wide, trace):
    with host.enable_x64(wide):
        density = likelihood.ode(grids.log_snr(VP(), 4, zero=False), PROCESS, "Heun", adaptive=False, trace=trace)
        model = mixture(VP()) if trace == "exact" else Own(VP(), "bfloat16")
        found = jax.eval_shape(lambda x: density(model, KEY, x), jax.ShapeDtypeStruct(SHAPE, dtype))
        assert {found.log_p.dtype, found.latent.dtype} == {state_of(dtype)}


@pytest.mark.parametrize(("dtype", "wide"), TYPES)
@pytest.mark.parametrize("levels", [None, 17])
def test_the_variational_bound(dtype, wide, levels):
    with host.enable_x64(wide):
        bound = likelihood.elbo(grids.log_snr(VP(), 4), VP(), levels)
        for model in (mixture(VP()), Own(VP(), "bfloat16")):
            found = jax.eval_shape(lambda x: bound(model, KEY, x), jax.ShapeDtypeStruct(SHAPE, dtype))  # noqa: B023
            assert {part.dtype for part in found} == {state_of(dtype)}
    with pytest.raises(ValueError, match="x_0 is of int32"):
        bound(mixture(VP()), KEY, jnp.ones(SHAPE, "int32"))


@pytest.mark.parametrize(("dtype", "wide"), TYPES)
def test_dequantised_examples(dtype, wide):
    """Costs of thousands of nats are no sums in bfloat16."""
    with host.enable_x64(wide):
        x = jax.ShapeDtypeStruct(SHAPE, dtype)
        t = jnp.asarray(0.1, state_of(dtype))
        for make in (
            lambda x: likelihood.dequantise.uniform(KEY, x, 17),
            lambda x: likelihood.dequantise.gaussian(KEY, x, 17, VP(), t),
        ):
            assert {part.dtype for part in jax.eval_shape(make, x)} == {state_of(dtype)}


# Parts of a walk.

SCHEDULES = [VP(), SubVP(), VE(), EDM(), Cosine(), Rectified(), Tabulated.linear(20, 5e-4, 1e-2), Rounded.chain()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_a_schedule_keeps_the_type_of_its_time(schedule):
    """float32 stays float32 where the default is float64; bfloat16, which knows 1 % of a time, does not stay."""
    with host.enable_x64(True):
        for dtype, kept in (("float32", "float32"), ("float64", "float64"), ("bfloat16", "float64")):
            found = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), dtype))
            assert {a.dtype for a in found} == {jnp.dtype(kept)}
            if hasattr(schedule, "inverse") and dtype != "bfloat16":
                assert jax.eval_shape(schedule.inverse, jax.ShapeDtypeStruct((), dtype)).dtype == dtype


@pytest.mark.parametrize("make", [variance.small, variance.large])
def test_network_denoisers(make):
    """float32 parameters under x64, with what a chain of float64 says of the variance."""
    with host.enable_x64(True):
        from diffjax import chains, denoisers

        ts = grids.log_snr(VP(), 5)
        net = jax.tree_util.Partial(lambda w, x, c: w * x + 0 * c, jnp.float32(0.3))
        denoise = make(net, VP(), denoisers.V(), chains.chain(VP(), ts))
        sample = samplers.sampling_fn(samplers.ancestral.ddpm(VP()), ts)
        for dtype in ("bfloat16", "float32"):
            found = jax.eval_shape(lambda x: sample(denoise, KEY, x), jax.ShapeDtypeStruct(SHAPE, dtype))
            assert found.dtype == dtype


def test_a_data_set_of_another_type():
    """`Empirical` sums in blocks, in the finer type of data and x."""
    with host.enable_x64(True):
        target, x = analytic.empirical(np.eye(3)), jnp.ones(3, "float32")
        posterior = target.posterior(x, 0.8, 0.5)
        assert posterior.mean.dtype == posterior.var.dtype == jnp.float64
        weights = np.exp(-np.sum((1 - 0.8 * np.eye(3)) ** 2, 1) / 2 / 0.25)
        np.testing.assert_allclose(posterior.mean, weights / weights.sum(), rtol=1e-12)
