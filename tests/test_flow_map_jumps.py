"""The sampler of flow maps: laws at the end read from planned rows, and what it is for a denoiser of one time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import flow_maps as oracle

from diffjax import processes, samplers, schedules
from diffjax.denoisers import Velocity
from diffjax.denoisers.flow_map import flow_map
from diffjax.samplers import ancestral
from diffjax.samplers.flow_map import jumps

STD = 0.5
RECTIFIED = schedules.Rectified()


def spread(t):
    return np.hypot((1 - t) * STD, t)


def end_of(gamma, n, exact):
    """Standard deviation at the end, for N(0, 0.25), by the rows alone: m = slope x with the exact map, or with D."""
    rows = jumps(RECTIFIED, gamma).plan(np.linspace(1, 0, n + 1))
    variance = 1.0
    for t, x, mean, noise, _, to in zip(*rows):
        landed = (spread(to) - to / t * spread(t)) / (spread(t) * ((1 - to) - to / t * (1 - t)))  # X = k x + (..) m
        slope = landed if exact else (1 - t) * STD**2 / spread(t) ** 2
        variance = (x + mean * slope) ** 2 * variance + noise
    return np.sqrt(variance)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_exact_map_keeps_the_law_whatever_the_noise_and_the_steps(gamma, n):
    np.testing.assert_allclose(end_of(gamma, n, True), STD, atol=1e-12)


def test_the_mean_in_the_place_of_the_map_loses_spread():
    """An untrained warm start, as computed elsewhere: DDIM at gamma = 0, resampled at 1."""
    for gamma, expected in ((0.0, (0, 0.2, 0.340541)), (0.5, (0, 0.2, 0.333931)), (1.0, (0, 0.2, 0.269355))):
        np.testing.assert_allclose([end_of(gamma, n, False) for n in (1, 2, 4)], expected, atol=5e-7)


TS = np.linspace(1, 0, 5)


def test_rows_are_those_of_ddim_and_of_resampled():
    ddim, alike = ancestral.ddim(RECTIFIED).plan(TS), jumps(RECTIFIED).plan(TS)
    for name in ("t", "x", "mean", "noise_var"):
        np.testing.assert_array_equal(getattr(alike, name), getattr(ddim, name))
    np.testing.assert_array_equal(alike.to, TS[1:])
    resampled, alike = ancestral.resampled(RECTIFIED).plan(TS), jumps(RECTIFIED, 1.0).plan(TS)
    for name in ("t", "x", "mean", "noise_var"):
        np.testing.assert_allclose(getattr(alike, name), getattr(resampled, name), atol=1e-15)
    np.testing.assert_array_equal(alike.to, 0)


def test_walks_are_those_of_ddim_and_of_resampled():
    """Of a denoiser of one time to the bit; of a map's way to 0 to rounding; of the map itself where the flow is."""
    law = oracle.gaussian(np.array([0.4, -0.2]), np.array([[0.5, 0.1], [0.0, 0.3]]))
    flow = flow_map(oracle.network(law, RECTIFIED, Velocity()), RECTIFIED, Velocity())
    x, key = np.float32([1.2, -0.4]), jax.random.key(2)
    one = lambda x, t: flow(x, t)
    denoise = Plain(RECTIFIED, one)
    walk = lambda sampler, model: np.asarray(jax.jit(samplers.sampling_fn(sampler, TS))(model, key, x))
    np.testing.assert_array_equal(walk(jumps(RECTIFIED), denoise), walk(ancestral.ddim(RECTIFIED), denoise))
    np.testing.assert_allclose(
        walk(jumps(RECTIFIED, 1.0), flow), walk(ancestral.resampled(RECTIFIED), flow.at(0.0)), atol=1e-6
    )
    landed = law.land(jnp.asarray(x), jnp.pi / 2, 0.0)
    np.testing.assert_allclose(walk(jumps(RECTIFIED), flow), landed, atol=3e-3)  # at t = 1 it is told 1 - 5e-5


@pytest.mark.parametrize("schedule", [schedules.VE(), schedules.VDM(), schedules.VP()])
@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_noise_brings_back_what_the_map_went_below(schedule, gamma):
    """Each row ends with sigma_s^2 beside the data's variance; the last one where sigma_0 > 0, too."""
    ts = np.linspace(float(schedule.t_max), 0, 5)
    rows = jumps(schedule, gamma).plan(ts)
    (alpha_s, sigma_s), (alpha_q, sigma_q) = (
        np.stack([schedule(t) for t in at]).astype(float).T for at in (ts[1:], rows.to)
    )
    np.testing.assert_allclose((alpha_s / alpha_q * sigma_q) ** 2 + rows.noise_var, sigma_s**2, rtol=1e-4, atol=1e-9)
    assert rows.noise_var[-1] == 0


class Plain:
    """A denoiser of one time."""

    def __init__(self, schedule, denoise):
        self.schedule, self.denoise = schedule, denoise

    def __call__(self, x, t):
        return self.denoise(x, t)


jax.tree_util.register_pytree_node(Plain, lambda d: ((), (d.schedule, d.denoise)), lambda aux, _: Plain(*aux))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: jumps(RECTIFIED, 1.5), r"gamma is 1.5, expected a number in \[0, 1\]"),
        (lambda: jumps(schedules.VE(), 1.0), "gamma is 1, .* VE has sigma = 0.01 at t = 0"),
        (
            lambda: samplers.sampling_fn(jumps(processes.path.rectified().schedule, 0.5), TS),
            "adds Gaussian noise, but the process is not Gaussian",
        ),
        (lambda: samplers.sampling_fn(jumps(RECTIFIED), [0.2, 0.8]), "decreas"),
    ],
)
def test_bad_input(make, match):
    with pytest.raises(ValueError, match=match):
        make()
