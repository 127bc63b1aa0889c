"""Estimate and correct: processes of one's own, and what is refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimate_correct import KEY, gaussian, mixture, of_mean, tokens

from diffjax import calculus, grids, processes
from diffjax.samplers import ancestral, encoding_fn, sampling_fn, unified
from diffjax.schedules import EDM, VP
from diffjax.types import Categorical, Posterior, pytree, static


class Blurred(processes.Unconditional):
    """No pytree, neither `invert` nor `renew`; noise that is put on an average."""

    schedule = VP()

    def noise(self, key, x0):
        """Normal numbers."""
        return jax.random.normal(key, x0.shape)

    def corrupt(self, x0, z, t):
        """Data, averaged, and noise."""
        alpha, sigma = self.schedule(t)
        return alpha * ((1 - t) * x0 + t * x0.mean()) + sigma * z


class Found(Blurred):
    """Its noise can be found again."""

    def invert(self, key, x0, x, t):
        """The noise in x."""
        return (x - self.corrupt(x0, 0.0, t)) / self.schedule(t)[1]


@pytree
class Quarters:
    """Four steps, each of which puts in as much noise."""

    t_max: float = 4.0
    steps: int = static(default=4)

    def __call__(self, t):
        """(alpha, sigma)."""
        return 1 - t / 4, t / 4


class Counted(Found):
    """Its times are counts."""

    counts, schedule = 4, Quarters()


def test_a_process_of_ones_own_needs_no_pytree():
    """The average first, then the noise: one step with the mean lands on it exactly."""
    model = lambda x, t: Posterior(jnp.array([0.2, 0.4]))
    model.schedule = Blurred.schedule
    for process, share in ((Blurred(), 1.0), (Found(), 0.0)):
        sample = sampling_fn(unified(process, share), [1.0, 0.0])
        np.testing.assert_allclose(jax.jit(lambda s: s(model, KEY, jnp.ones(2)))(sample), [0.2, 0.4], rtol=1e-6)


def test_counts_are_whole_all_the_way():
    """Evenly so, on fewer steps than counts too."""
    ts = grids.counts(Counted.schedule)
    np.testing.assert_array_equal(ts, [4, 3, 2, 1, 0])
    np.testing.assert_array_equal(grids.counts(Counted.schedule, 3), [4, 3, 1, 0])
    found = unified(Counted()).plan(ts)
    np.testing.assert_array_equal(found.t, ts[:-1])
    np.testing.assert_array_equal(found.s, ts[1:])


PROCESS = gaussian(VP())
FLOW = processes.poisson(EDM(), 3)
REFUSED = [
    (lambda: unified(PROCESS, 1.5), r"share is 1\.5, expected a number in \[0, 1\]"),
    (lambda: unified(PROCESS, -0.1), r"share is -0\.1"),
    (lambda: unified(PROCESS, np.nan), "share is nan"),
    (lambda: unified(PROCESS, True), "share is True"),
    (lambda: unified(PROCESS, "0.5"), "share is '0.5'"),
    (lambda: unified(PROCESS, eta=2.0), r"eta is 2\.0, expected a number in \[0, 1\]"),
    (lambda: unified(PROCESS, 0.5, eta=0.5), r"Got share = 0\.5 and eta = 0\.5, expected one of them"),
    (lambda: unified(PROCESS, estimate="mode"), "estimate is 'mode', expected 'sample' or 'mean'"),
    (lambda: unified(VP()), r"Got VP as the process.* such as processes\.Gaussian\(VP\(\)\)"),
    (lambda: unified(Blurred), r"Got the class Blurred, expected an object of it: Blurred\(\)"),
    (lambda: unified(Blurred()), "Blurred has no `invert`.* share = 1 remains"),
    (lambda: unified(Blurred(), 0.5), "Blurred has no `invert`.* share = 1 remains"),
    (lambda: unified(Found(), 0.5), r"Found has no `renew`.*\(share = 0\).*\(share = 1\)"),
    (lambda: unified(Found(), eta=0.5), r"eta = 0\.5 is DDIM's.*which Found has not; give a share"),
    (lambda: unified(tokens()[1], estimate="mean"), "tokens of Replacing have no mean; take estimate='sample'"),
    (lambda: unified(tokens()[1], eta=0.5), "which Replacing has not; give a share"),
    (lambda: unified(FLOW, 0.5, "mean"), r"adds new noise \(share or eta = 0\.5\) to a mean.*not Gaussian.*share=0"),
    (lambda: unified(FLOW, eta=1.0, estimate="mean"), r"share or eta = 1\) to a mean.*not Gaussian"),
    (lambda: sampling_fn(unified(PROCESS), [1.0, 2.0, 0.0]), "must decrease strictly"),
    (
        lambda: sampling_fn(unified(Counted()), [4.0, 2.5, 0.0]),
        r"Counted counts from 4 .* t = 2\.5; take grids\.counts",
    ),
    (lambda: grids.counts(VP()), "VP runs from 0 to t_max = 1, times that count nothing"),
    (lambda: grids.counts(EDM()), "EDM runs from 0 to t_max = 80, times that count nothing"),
    (lambda: grids.counts(Counted.schedule, 5), "number of steps is 5, expected at most 4"),
    (lambda: unified(PROCESS).plan(np.array([0.0, 0.5])), "starts at t = 0, where Gaussian has no noise to find again"),
    (lambda: encoding_fn(unified(PROCESS, 0.5), [1.0, 0.5, 0.1]), r"the flow alone, but share or eta is 0\.5; set it"),
    (lambda: encoding_fn(unified(PROCESS, 1.0), [1.0, 0.5, 0.1]), "the flow alone, but share or eta is 1; set it"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_bad_parameters_and_grids_are_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytree
class Lost(processes.Gaussian):
    """A process whose corrupt makes another shape, or another kind, of data."""

    kind: str = static(default="shape")

    def corrupt(self, x0, z, t):
        """Wrong."""
        return z[:1] if self.kind == "shape" else z.astype(jnp.int32)


def unnamed(x, t):
    """A model of no schedule."""
    return Categorical(jnp.zeros((2, 3)))


RUN = [
    (unified(PROCESS)._replace(schedule=None), unnamed, np.array([1, 2]), "x_T is of int32, expected real numbers"),
    (ancestral.ddim(VP()), mixture(VP()), np.array([1, 2]), "x_T is of int32, expected real numbers"),
    (unified(tokens()[1]), tokens()[2], np.zeros(2, np.float32), "x_T is of float32, expected integers"),
    (of_mean(PROCESS)._replace(schedule=None), unnamed, np.zeros(2, np.float32), "Categorical, which has no mean"),
    (unified(FLOW), mixture(FLOW.schedule), np.zeros(2, np.float32), "normal law, but the process is not Ga"),
    (unified(Lost(VP())), mixture(VP()), np.zeros(2, np.float32), r"x_s of float32 \(1,\) from .* \(2,\)"),
    (unified(Lost(VP(), kind="i")), mixture(VP()), np.zeros(2, np.float32), "makes x_s of int32"),
    (
        unified(processes.Gaussian(VP(), jax.random.laplace), 0.5),
        mixture(VP()),
        np.zeros(2, np.float32),
        "noise law laplace is not kept by a sum of two draws",
    ),
]


@pytest.mark.parametrize(("sampler", "model", "x", "message"), RUN)
def test_what_is_known_only_where_it_runs_is_refused_in_one_line(sampler, model, x, message):
    with pytest.raises(ValueError, match=message) as error:
        sampling_fn(sampler, [1.0, 0.5, 0.0])(model, KEY, x)
    assert "\n" not in str(error.value)


def test_flows_of_other_noise_are_walked_with_the_mean():
    """Poisson's, at share 0: as DDIM walks it."""
    ts, model, x = grids.karras(EDM(), 5), mixture(FLOW.schedule), jnp.array([3.0, -2.0])
    assert calculus.flow_only(FLOW.schedule)
    walk = jax.jit(lambda sample: sample(model, KEY, x))
    found, expected = (walk(sampling_fn(s, ts)) for s in (of_mean(FLOW), ancestral.ddim(FLOW.schedule)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
