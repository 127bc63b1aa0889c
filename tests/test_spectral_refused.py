"""What a schedule per DCT frequency is refused by, and what it refuses: samplers, grids, bad input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_spectral import BLURRED, HEAT, TS, VP

from diffjax import calculus, chains, denoisers, grids, losses, samplers, schedules
from diffjax.losses import learned as clock
from diffjax.method import Keys
from diffjax.processes import heat
from diffjax.samplers import base
from diffjax.spectral import Spectral
from diffjax.types import pytree

REFUSED = {
    "multistep": samplers.multistep.dpmpp_2m,
    "deis": samplers.deis.tab,
    "unipc": samplers.unipc.unipc,
    "pndm": samplers.pndm.ipndm,
    "singlestep": samplers.singlestep.dpmpp_2s,
    "trigflow": samplers.trigflow.adams,
    "restart": samplers.restart.restart,
    "hybrid": samplers.hybrid.ddbm,
    "langevin": samplers.langevin.annealed,
    "churn": partial(samplers.heun.edm, churn=5.0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_sampler_that_needs_one_log_snr_names_those_that_serve(name):
    with pytest.raises(ValueError, match=r"one log-SNR at a time.*shape \(8, 8, 1\).*ancestral.ddim.*of_base"):
        base.rows_of(REFUSED[name](BLURRED), TS)


@pytest.mark.parametrize("grid", ["log_snr", "karras", "angle", "ve", "vp", "iddpm", "rounded"])
def test_a_grid_that_needs_one_log_snr_names_those_that_serve(grid):
    with pytest.raises(ValueError, match=r"one log-SNR at a time.*uniform"):
        getattr(grids, grid)(BLURRED, 5)


def identity(x, c):
    return x


OTHERS = {
    "log-normal times": lambda: losses.times.log_normal(BLURRED)(Keys(jax.random.key(0), jax.random.key(1)), 0, 1),
    "a learned clock": lambda: clock.learned(BLURRED),
    "clipping": lambda: denoisers.variance.mean(identity, BLURRED, denoisers.X0(), clip=(-1.0, 1.0)),
    "a Gaussian's denoiser": lambda: analytic_denoiser(),
    "the tightest grid": lambda: chains.tightest(BLURRED, TS, np.ones(3), 2),
    "elbo": lambda: __import__("diffjax.likelihood", fromlist=["elbo"]).elbo(TS, BLURRED),
    "ode": lambda: __import__("diffjax.likelihood", fromlist=["ode"]).ode(TS[:-1], heat.blurring(VP, (8, 8))),
    "another schedule's denoiser": lambda: denoisers.run_on(denoisers.denoiser(identity, BLURRED, denoisers.X0()), VP),
}


def analytic_denoiser():
    from diffjax import analytic

    return analytic.gaussian_mixture([1.0], np.zeros((1, 4)), np.ones(1)).denoiser(BLURRED)


@pytest.mark.parametrize("name", OTHERS)
def test_what_needs_one_log_snr_refuses_in_one_line(name):
    with pytest.raises(ValueError, match="one log-SNR at a time") as error:
        OTHERS[name]()
    assert "\n" not in str(error.value)


@pytree
class Unblurs:
    """A blur that narrows with time at first, so that SNR rises at every frequency but the lowest."""

    d_min: float = 0.0

    def width(self, t):
        return 3.0 * (1 - t)


COLOURED = heat.dissipation(schedules.Still(), (4, 4), mean=(((1.0, 2.0, 3.0),),))
BAD = {
    "no d_min under eps": (
        lambda: heat.blurring(VP, (8, 8), w_max=20.0, d_min=0.0).check(denoisers.Eps()),
        "divides by alpha.*d_min = 0.*X0",
    ),
    "another shape": (lambda: heat.blurring(VP, (8, 8)).enter(jnp.zeros((4, 4, 1))), r"\(4, 4, 1\).*sides = \(8, 8\)"),
    "an image without channels": (lambda: heat.blurring(VP, (4, 4)).enter(jnp.zeros((4, 4))), r"\(4, 4\).*channels"),
    "a vector with channels": (lambda: heat.blurring(VP, 4).enter(jnp.zeros((4, 4))), r"\(4, 4\), expected \(4,\)"),
    "statistics of other channels": (lambda: COLOURED.enter(jnp.zeros((4, 4, 1))), r"of 3 channels.*\(4, 4, 1\)"),
    "a prior of other channels": (
        lambda: COLOURED.prior(jax.random.key(0), (4, 4, 1)),
        r"of 3 channels.*\(4, 4, 1\).*measured",
    ),
    "a schedule beyond the blur": (
        lambda: heat.soft(schedules.EDM(), (8, 8)),
        "EDM goes on to t_max = 80: give it",
    ),
    "tokens": (lambda: heat.blurring(VP, (8, 8)).enter(jnp.zeros((8, 8, 1), jnp.int32)), "int32.*tokens"),
    "SNR that rises": (
        lambda: calculus.check(Spectral(schedules.EDM(1.0), Unblurs(), (4,))),
        r"between t = 0.* at the frequency \(\d,\).*fall",
    ),
    "a negative blur": (lambda: heat.blurring(VP, (8, 8), w_max=-1.0), "w_max.*-1.*>= 0"),
    "an upside-down blur": (lambda: heat.dissipation(schedules.Still(), (8, 8), 4.0, 0.5), "w_min < w_max"),
    "d_min above 1": (lambda: heat.blurring(VP, (8, 8), d_min=2.0), r"d_min is 2.0.*\[0, 1\]"),
    "no sides": (lambda: heat.blurring(VP), r"sides is \(\).*\(8, 8\)"),
    "sides that are no integers": (lambda: heat.blurring(VP, (8, 2.5)), "sides is"),
    "statistics of another shape": (
        lambda: heat.dissipation(schedules.Still(), (8, 8), mean=(1.0, 2.0)),
        r"mean has shape \(2,\).*measured",
    ),
    "ragged statistics": (
        lambda: heat.dissipation(schedules.Still(), (8, 8), mean=((1.0, 2.0), (3.0,))),
        r"mean is \(\(1.0, 2.0\), \(3.0,\)\), expected a number, or rows",
    ),
    "a negative variance": (lambda: heat.dissipation(schedules.Still(), (8, 8), variance=-1.0), "variance.*>= 0"),
    "soft under VP": (lambda: heat.soft(VP, (8, 8)), "alpha = 1.*VP.*heat.blurring"),
    "an unknown delta": (lambda: samplers.heat.dissipation(HEAT, "publised"), "publised.*published"),
    "a negative delta": (lambda: samplers.heat.dissipation(HEAT, -1.0), "delta is -1"),
    "momentum of a sigma that falls": (
        lambda: base.rows_of(samplers.heat.momentum(Rising()), [1.0, 0.5]),
        "sigma that rises",
    ),
    "the grid of no base": (lambda: grids.of_base(VP, 5), "VP is made of no other"),
    "an unknown base grid": (lambda: grids.of_base(BLURRED, 5, base="karas"), "no grid 'karas'"),
    "Deblur of no steps": (lambda: denoisers.Deblur(n=0).check(HEAT), "n is 0.*>= 1"),
    "Deblur's t_min": (lambda: denoisers.Deblur(t_min=0.0).check(HEAT), "t_min is 0"),
    "a density": (lambda: heat.blurring(VP, (8, 8)).check_density(), "one log-SNR at a time.*step_bounds"),
    "a bound without data": (
        lambda: samplers.heat.step_bounds(identity, HEAT, jax.random.key(0), jnp.zeros(8), [1.0, 0.5]),
        "ends at t = 0.5 with noise",
    ),
    "no scalar told": (lambda: calculus.told(Mute(), 0.5), r"Mute.*told\(t\)"),
}


@pytree
class Rising:
    """A schedule whose sigma falls with time."""

    t_max: float = 1.0

    def __call__(self, t):
        return jnp.ones_like(t), 2.0 - t


@pytree
class Mute:
    """A schedule of three frequencies that tells a network nothing."""

    t_max: float = 1.0

    def __call__(self, t):
        return jnp.ones(3), jnp.ones(3)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_in_one_line(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
