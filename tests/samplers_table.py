"""Every sampler and every schedule under test, one row each: what the sampler tests are parametrised by."""

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, NamedTuple

import closed_forms as forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import amplitudes as amplitudes
from oracles import paths, steps, walks

from diffjax import calculus, grids, processes, samplers
from diffjax.samplers import (
    Sampler,
    ancestral,
    deis,
    heun,
    multistep,
    pndm,
    predictor,
    principal,
    restart,
    sampling_fn,
    sde,
    singlestep,
    unipc,
)
from diffjax.schedules import EDM, VE, VP, Cosine, Rectified, SubVP, Tabulated
from diffjax.types import Schedule, pytree


class Setting(NamedTuple):
    """A schedule under test.

    Attributes:
        form: its closed form.
        from_pure_noise: whether alpha is 0 where sampling starts.
        knots: the number of steps of a chain, between which its rates jump; 0: it is smooth.
        ends_in_noise: whether sigma is above 0 at t = 0.
    """

    schedule: Schedule
    form: forms.Form
    from_pure_noise: bool = False
    knots: int = 0
    ends_in_noise: bool = False


class Row(NamedTuple):
    """A sampler under test.

    Attributes:
        make: schedule -> sampler.
        oracle: its published path, from `oracles.paths`.
        order: of convergence on smooth grids that end at a fixed sigma > 0, as the theory has it: the smallest of the
            method's, its start's and its end's. For a random sampler, the weak order: that of mean and variance. None:
            it does not converge to the flow.
        settings: names of the schedules on which it is defined.
        deterministic: whether it ignores its key.
        clock: what it steps in: "level", so that x / alpha depends on the grid's sigma / alpha alone; "time", where it
            sees how the schedule runs in t; or "chain", the forward chain between two times, in x itself.
        evaluations: (steps of the grid, whether it ends at sigma = 0) -> the sampler's evaluations.
        rows_per_step: how many rows make a step of the oracle: after the last of them x is complete.
        exact_on_point: whether data at one point is sampled exactly by any number of steps.
        least_steps: of a grid that has room for it.
        rounding: the power of 1 / alpha, at the start, by which its rounding errors may grow: 1 where x / alpha is
            stepped, 2 where what was found from it is extrapolated, or integrated up to sigma / alpha.
        equal_steps: whether it is given equal steps in t: where they are tiny, high powers of t cancel.
        primed: the method's own order, which a multistep sampler shows once its history is exact.
        first: sigma / alpha where the walks start of which `order` is measured.
        steps: of those walks: the fewest of 40, 80, ... whose order is within 0.09 of the limit.
        kinked: the most that `order` can be where rates jump, as on a chain; 0: nothing is promised; None: no matter.
        order_on_gaussian: whether Gaussian data shows the order: a leading error may vanish there.
        measured: schedule -> the sampler whose order is measured, if that is not `make`: parameters in units of noise
            that cut the walk would show.
    """

    make: Callable[[Schedule], Sampler]
    oracle: paths.Path
    order: int | None
    settings: tuple[str, ...]
    deterministic: bool = True
    clock: str = "level"
    evaluations: Callable[[int, bool], int] = lambda n, zero: n
    rows_per_step: int = 1
    exact_on_point: bool = True
    least_steps: int = 1
    rounding: int = 1
    equal_steps: bool = False
    primed: int | None = None
    first: float = 2.0
    steps: tuple[int, int] = (40, 80)
    kinked: int | None = None
    order_on_gaussian: bool = True
    measured: Callable[[Schedule], Sampler] | None = None


def _linear_betas(steps=1000):
    return np.linspace(forms.wide("1e-4"), forms.wide("0.02"), steps) * 1000 / steps


def _cosine_betas(steps=1000):
    bar = np.cos((np.arange(steps + 1) / forms.wide(steps) + forms.wide("0.008")) / forms.wide("1.008") * forms.PI / 2)
    return np.minimum(1 - (bar[1:] / bar[:-1]) ** 2, forms.wide("0.999"))


SETTINGS = {
    "vp": Setting(VP(), forms.VP),
    "sub_vp": Setting(SubVP(), forms.SUB_VP),
    "ve": Setting(VE(), forms.VE, ends_in_noise=True),
    "edm": Setting(EDM(), forms.EDM),
    "cosine": Setting(Cosine(t_max=0.999), forms.COSINE),
    "cosine_1": Setting(Cosine(), forms.COSINE, from_pure_noise=True),
    "rectified": Setting(Rectified(t_max=0.999), forms.RECTIFIED),
    "rectified_1": Setting(Rectified(), forms.RECTIFIED, from_pure_noise=True),
    "table_linear": Setting(Tabulated.linear(), forms.chain(_linear_betas()), knots=1000),
    "table_cosine": Setting(Tabulated.cosine(), forms.chain(_cosine_betas()), knots=1000),
}
ALL = tuple(SETTINGS)
FINITE = tuple(name for name, setting in SETTINGS.items() if not setting.from_pure_noise)  # those of finite SNR

RANDOM = dict(deterministic=False)
IN_TIME = dict(clock="time", exact_on_point=False, kinked=0)
CHAIN = dict(clock="chain", exact_on_point=False, **RANDOM)
EDM_CHURN = dict(churn=4.0, s_min=0.05, s_max=20.0)
TWICE = dict(evaluations=lambda n, zero: 2 * n - zero)  # two a step, but one for the step to sigma = 0
MORE, MANY, MOST = ({"steps": (n, 2 * n)} for n in (80, 160, 320))


def ddim(eta, **options):
    """Makes the row of DDIM at this strength."""
    return Row(lambda s: ancestral.ddim(s, eta), paths.of_levels(steps.ddim_step, eta=eta), 1, ALL, **options)


def euler_maruyama(churn, **options):
    """Makes the row of Euler-Maruyama with noise of `churn` g."""
    return Row(lambda s: sde.euler_maruyama(s, churn), paths.of_sde(churn), 1, FINITE, **IN_TIME, **options)


def adams(order, measured, tau=0.0, lower_final=False, **options):
    """Makes the row of exponential Adams, whose walks show the order `measured`."""
    make = lambda s: multistep.adams(s, order, tau, lower_final)
    path = paths.of_multistep(partial(steps.adams, tau2=tau**2), order, tau**2, lower_final)
    return Row(make, path, measured, ALL, deterministic=tau == 0, **options)


def dpmpp(order, lower_final, **options):
    """Makes the row of DPM-Solver++(2M) or (3M)."""
    make = {2: multistep.dpmpp_2m, 3: multistep.dpmpp_3m}[order]
    path = paths.of_multistep({2: steps.dpmpp_2m, 3: steps.dpmpp_3m}[order], order, 0.0, lower_final)
    return Row(lambda s: make(s, lower_final), path, 2, ALL, **options)


def dpmpp_2m_sde(eta, kind):
    """Makes the row of SDE-DPM-Solver++(2M)."""
    path = paths.of_multistep(partial(steps.dpmpp_2m_sde, eta=eta, kind=kind), 2, eta)
    return Row(lambda s: multistep.dpmpp_2m_sde(s, eta, kind), path, 2, ALL, **RANDOM)


def dpmpp_3m_sde(eta, **options):
    """Makes the row of DPM-Solver++(3M) SDE."""
    path = paths.of_multistep(partial(steps.dpmpp_3m_sde, eta=eta), 3, eta)
    return Row(lambda s: multistep.dpmpp_3m_sde(s, eta), path, 2, ALL, **RANDOM, **options)


# Adams(3) starts with one step of order 1 and one of order 2: local errors h^2 and h^3, so that the whole is of order
# 2. The published 3M takes half the weight of the second difference: order 2 even with an exact history.
SAMPLERS = {
    "ddim": ddim(0.0),
    "ddim_third": ddim(0.3, **RANDOM),
    "ddim_half": ddim(0.5, **RANDOM),
    "ddpm": ddim(1.0, **RANDOM)._replace(make=ancestral.ddpm),
    "resampled": Row(ancestral.resampled, paths.of_levels(steps.resampled_step), None, ALL, **RANDOM),
    "pf_euler": euler_maruyama(0.0),
    "em_half": euler_maruyama(0.5, **RANDOM, **MOST),
    "em": euler_maruyama(1.0, **RANDOM, **MANY),
    "em_strong": euler_maruyama(1.4, **RANDOM),
    "reverse_diffusion": Row(
        predictor.reverse_diffusion, paths.of_levels(steps.reverse_diffusion_step), 1, FINITE, **CHAIN
    ),
    "large_variance": Row(predictor.ancestral, paths.of_levels(steps.large_variance_step), 1, FINITE, **CHAIN),
    "heun": Row(heun.edm, paths.of_edm(), 2, FINITE, rows_per_step=2, **TWICE),
    "heun_churn": Row(
        lambda s: heun.edm(s, **EDM_CHURN),
        paths.of_edm(**EDM_CHURN),
        2,
        FINITE,
        rows_per_step=2,
        measured=lambda s: heun.edm(s, churn=4.0),
        **RANDOM,
        **TWICE,
    ),
    "adams_1": adams(1, 1),
    "adams_2": adams(2, 2, primed=2),
    "adams_2_lower": adams(2, 2, lower_final=True),
    "adams_3": adams(3, 2, primed=3, **MOST),
    "adams_3_lower": adams(3, 2, lower_final=True, **MOST),
    "dpmpp_2m": dpmpp(2, False, primed=2),
    "dpmpp_2m_lower": dpmpp(2, True),
    "dpmpp_3m": dpmpp(3, False, primed=2, **MOST),
    "dpmpp_3m_lower": dpmpp(3, True, **MOST),
}

RESTARTS = ((3, 2, 0.06, 0.3), (2, 1, 0.6, 1.5))
AXES = principal.Axes(0.0, 0.3)  # what the data of these tests is taken for, wrongly


def noises(make, order, measured, oracle=None, **options):
    """Makes the row of a multistep method on the noise prediction."""
    path = paths.of_walk(oracle or getattr(walks, make.__name__), order=order)
    return Row(lambda s: make(s, order), path, measured, FINITE, **options)


def tab(order, measured, **options):
    """Makes the row of tAB-DEIS. A polynomial in the time of a chain sees its kinks: an order of 2 at most, if any."""
    path = paths.of_walk(walks.tab_deis, knotted=True, order=order)
    options = dict(clock="time", equal_steps=True, kinked=2, rounding=2) | options
    return Row(lambda s: deis.tab(s, order), path, measured, FINITE, **options)


def unified(order, measured, variant="bh2", lower_final=True, **options):
    """Makes the row of UniPC."""
    path = paths.of_walk(walks.unipc, order=order, variant=variant, lower_final=lower_final)
    return Row(lambda s: unipc.unipc(s, order, variant, lower_final), path, measured, ALL, **options)


def beyond(order, measured, **options):
    """Makes the row of Adams beyond a Gaussian fit, from any level."""
    path = paths.of_walk(walks.principal, order=order, c=AXES.variances)
    make = lambda s: principal.adams(s, AXES, order, free_start=False)
    return Row(make, path, measured, ALL, exact_on_point=False, **options)  # it is exact on its Gaussian instead


# One step of order k in a walk of order p > k costs an error h^(k+1), once.
# - Noise: the covariance of x_t and x_s has a kink at t = s, so that no multistep rule is of weak order above 2.
# - Adams-Bashforth on the noise (tab, lms): 2 by the first step, of order 1. From sigma = 70 alpha, where the noise is
#   known, that step costs nothing, and their own order p shows. PNDM and iPNDM take the weights of equal steps: 2.
# - UniPC-p: p + 1 by its corrector; 3 by the first step, corrected to order 2, which is free from sigma = 70 alpha too.
# - Beyond a Gaussian fit: as UniPC, in an angle.
#   lower_final ends with a step of order 1, whose error has the small factor (sigma / alpha)^2.
SAMPLERS |= {
    "adams_2_tau": adams(2, 2, tau=0.7),
    "adams_3_tau_third": adams(3, 2, tau=0.3, **MOST),
    "adams_3_tau": adams(3, 2, tau=1.0, **MOST),
    "dpmpp_2m_sde": dpmpp_2m_sde(1.0, "midpoint"),
    "dpmpp_2m_sde_half": dpmpp_2m_sde(0.5, "midpoint"),
    "dpmpp_2m_sde_heun": dpmpp_2m_sde(0.6, "heun"),
    "dpmpp_3m_sde": dpmpp_3m_sde(1.0, **MORE),
    "dpmpp_3m_sde_half": dpmpp_3m_sde(0.4, **MANY),
    "dpm_solver_2": Row(singlestep.dpm_solver, paths.of_walk(walks.dpm_solver_2), 2, FINITE, rounding=2, **TWICE),
    "dpm_solver_3": Row(  # its leading error passes through 0 on a Gaussian
        lambda s: singlestep.dpm_solver(s, 3),
        paths.of_walk(walks.dpm_solver_3),
        3,
        FINITE,
        evaluations=lambda n, zero: 3 * n - 2 * zero,
        order_on_gaussian=False,
        rounding=2,
    ),
    "dpmpp_2s": Row(singlestep.dpmpp_2s, paths.of_walk(walks.dpmpp_2s), 2, ALL, **TWICE),
    "tab_2": tab(2, 2, primed=2),
    "tab_3": tab(3, 3, primed=3, first=70.0, kinked=0, **MANY),
    "tab_4": tab(4, 2, primed=4, **MOST),
    "lms_2": noises(deis.lms, 2, 2, primed=2),
    "lms_3": noises(deis.lms, 3, 3, primed=3, first=70.0, **MANY),
    "lms_4": noises(deis.lms, 4, 4, primed=4, first=70.0, **MOST),
    "ipndm_2": noises(pndm.ipndm, 2, 2, primed=2),
    "ipndm_3": noises(pndm.ipndm, 3, 2, primed=2, **MORE),
    "ipndm_4": noises(pndm.ipndm, 4, 2, primed=2, **MANY),
    "pndm": Row(
        pndm.pndm,
        paths.of_walk(walks.pndm),
        2,
        FINITE,
        clock="time",
        evaluations=walks.pndm_cost,
        rounding=2,
        **MORE,
    ),
    "unipc_1": unified(1, 2),
    "unipc_2": unified(2, 3),
    "unipc_2_bh1": unified(2, 3, "bh1"),
    "unipc_2_full": unified(2, 3, lower_final=False, primed=3),
    "unipc_3": unified(3, 4, first=70.0, **MORE),
    "unipc_3_exact": unified(3, 4, "exact", first=70.0, **MORE),
    "unipc_3_full": unified(3, 4, "bh1", lower_final=False, primed=4, first=70.0, **MANY),
    "principal_1": beyond(1, 2),
    "principal_2": beyond(2, 3, primed=3, **MANY),
    "principal_3": beyond(3, 4, first=70.0, **MANY),
    "restart": Row(
        lambda s: restart.restart(s, RESTARTS),
        paths.of_intervals(walks.restart, intervals=RESTARTS),
        2,
        FINITE,
        rows_per_step=2,
        evaluations=lambda n, zero: 2 * n - zero + 8 + 2,
        least_steps=12,
        **RANDOM,
    ),
}


# Estimate and correct is DDIM's family with the mean, whatever the way there. Its other strengths: test_unified.py.
SAMPLERS["unified_half"] = ddim(0.5, **RANDOM)._replace(
    make=lambda s: samplers.unified(processes.Gaussian(s), estimate="mean", eta=0.5)
)


def kind(row: Row) -> tuple:
    """Says what is compiled: the step, the init without what a Partial binds, and whether noise is drawn."""
    sampler = row.make(VP())
    return sampler.step, getattr(sampler.init, "func", sampler.init), row.deterministic


# One of each program, with noise and without: those of one kind differ by numbers alone.
KINDS = list({kind(row): name for name, row in SAMPLERS.items()}.values())


def one_of_a_step(names: Iterable[str]) -> list:
    """The names, of which those are slow whose program differs by the length of its history from another one's."""
    longest = {(kind(SAMPLERS[name])[0], SAMPLERS[name].deterministic): kind(SAMPLERS[name]) for name in KINDS}
    slow = lambda name: kind(SAMPLERS[name]) not in longest.values()
    return [pytest.param(name, marks=pytest.mark.slow if slow(name) else ()) for name in names]


EVERY_PAIR = [(sampler, setting) for sampler, row in SAMPLERS.items() for setting in row.settings]


def in_turn(pairs: list[tuple[str, str]], *choices: tuple) -> list:
    """Every pair with one of the choices by default, and with the others in `-m slow`.

    They take turns along the samplers and along the settings, so that each sampler and each setting meets all of them.
    """
    samplers, settings = list(SAMPLERS), list(SETTINGS)
    turn = lambda name, setting: (samplers.index(name) + settings.index(setting)) % len(choices)
    return [
        pytest.param(*pair, *choice, marks=() if i == turn(*pair) else pytest.mark.slow)
        for i, choice in enumerate(choices)
        for pair in pairs
    ]


@cache  # every sampler walks the same ones
def grid(setting: str, n: int, t_min: float = 2.3e-3, zero: bool = True) -> np.ndarray:
    """A sensible grid of n steps: Karras et al.'s, or equal steps in t where sampling starts at alpha = 0.

    t_min is none of a chain's knots: its rates jump there.
    """
    schedule = SETTINGS[setting].schedule
    make = grids.uniform if SETTINGS[setting].from_pure_noise else grids.karras
    return read_only(make(schedule, n, t_min=t_min, zero=zero))


def read_only(ts: np.ndarray) -> np.ndarray:
    """Locks an array that several tests are given."""
    ts.setflags(write=False)
    return ts


def grid_for(name: str, setting: str, n: int, zero: bool = True) -> np.ndarray:
    """`grid`, but equal steps in t for a sampler that is to have them."""
    if SAMPLERS[name].equal_steps:
        return grids.uniform(SETTINGS[setting].schedule, n, t_min=2.3e-3, zero=zero)
    return grid(setting, n, zero=zero)


@pytree
class Knots:
    """A schedule known at some times only: with it as the name tag, all schedules share one compile.

    Attributes:
        ts: (N,), rising, with repetitions if need be.
    """

    ts: Any
    alphas: Any
    sigmas: Any
    t_max: Any

    def __call__(self, t):
        """The entries at the time t, which is one of ts."""
        i = jnp.searchsorted(self.ts, t)
        return self.alphas[i], self.sigmas[i]


def known_at_knots(sampler: Sampler, ts, trace=None) -> tuple[jax.tree_util.Partial, Knots]:
    """The sampling function, and its schedule at the times of its rows, under the name of `Knots`."""
    times = jnp.sort(jnp.asarray(sampler.plan(ts).t))
    alpha, sigma = (jnp.asarray(a) for a in calculus.amplitudes(sampler.schedule, np.asarray(times)))
    knots = Knots(times, alpha, sigma, jnp.asarray(ts[0], times.dtype))
    return sampling_fn(sampler._replace(schedule=knots), ts, trace), knots


def state_x(state: Any) -> Any:
    """x of any sampler's state."""
    return getattr(state, "x", state)
