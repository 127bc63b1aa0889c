"""Estimate and correct (kexue 9262 (3), 9271 (2)): one sampler over any process that says how it destroys data.

A process is x_t = F_t(x_0, z) with a noise law q(z), whatever x is. One step from t to s is

    x_0 ~ p(x_0 | x_t)             the estimate, a draw of what the denoiser says (kexue 9271 (11)); by name, its mean
    z   ~ p(z | x_0, x_t)          `invert`: where F_t is one-to-one in z, its inverse
    z   <- renew(z, share)         a share of z becomes new noise, the law q stays
    x_s = F_s(x_0, z)              the correction.

The three corrections of kexue 9262 are one number, the share of new noise. At 1 all is new, and no `invert` is needed
(kexue 9262 (8), 9271 (3)). At 0 it is that of x_t, found again. Between them part of it is new (kexue 9262 (13)). For
noise of its own at each place the share is the probability that a place gets another one; for Gaussian noise it is an
amplitude, so that with the mean 0 is DDIM, share_t = eta sqrt(1 - (alpha_t sigma_s / (alpha_s sigma_t))^2) is DDIM at
eta, DDPM at eta = 1, and a draw of N(mean, var) adds (alpha_s - k alpha_t)^2 var, as Analytic-DPM does. `ancestral` is
the better choice there: its coefficients are planned in float64.

If x_0 is drawn from the joint law p(x_0 | x_t), then (x_0, z) has the law of data and noise, and x_s its marginal
exactly: for every process, every share and every number of steps, one included. More steps are worth having where the
estimate is no such draw: a mean, or a law that is independent from place to place. With the mean and a constant share
above 0 the spread of samples does not come back with more steps; with share = 0, or eta, it does.
"""

from enum import Enum
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from diffjax import calculus, host
from diffjax.calculus import amplitudes
from diffjax.processes.gaussian import Additive
from diffjax.samplers.ancestral import log_snr_change
from diffjax.samplers.base import Sampler
from diffjax.types import Array, Key, Posterior, Process, pytree, static
from diffjax.verbs import Counting, Recoverable, Renewable, Tokens

ESTIMATES = ("sample", "mean")


class Row(NamedTuple):
    """The times of one step, and the share of the noise that it renews."""

    t: Any
    s: Any
    share: Any


class Correction(Enum):
    """Where the noise of x_s comes from: which verbs of the process a step calls."""

    INVERTED = "invert"
    FRESH = "noise"
    RENEWED = "invert, renew"


@pytree
class Held:
    """A process that is no pytree, as a constant of the walk."""

    process: Any = static()


class State(NamedTuple):
    """x_t, and the process, which the whole walk needs beside its rows."""

    x: Array
    process: Any


class Step(NamedTuple):
    """The function (model, key, state, row) -> state; one compile for all processes of one class and all shares."""

    estimate: str
    correction: Correction

    def __call__(self, model: Any, key: Key, state: State, row: Row) -> State:
        process = state.process.process if isinstance(state.process, Held) else state.process
        key_estimate, key_invert, key_noise = jax.random.split(key, 3)
        x0 = self._estimate(process, model(state.x, row.t), key_estimate)
        if self.correction is Correction.FRESH:
            z = process.noise(key_noise, x0)
        else:
            z = process.invert(key_invert, x0, state.x, row.t)  # (unified.2)
        if self.correction is Correction.RENEWED:
            z = process.renew(key_noise, z, row.share)
        x = process.corrupt(x0, z, row.s)  # (unified.4)
        return state._replace(x=_like(state.x, x, process))

    def _estimate(self, process: Any, known: Any, key: Key) -> Array:
        known = known if hasattr(known, "sample") else Posterior(*known)
        if self.estimate == "sample":
            if isinstance(known, Posterior):
                what = "The denoiser's posterior is drawn from as a normal law"
                way = "" if calculus.clock_only(process.schedule) else " and share=0, which is DDIM"
                calculus.need_gaussian(process.schedule, what, f"take estimate='mean'{way}")
            return known.sample(key)  # (unified.1)
        if not hasattr(known, "mean"):
            raise ValueError(f"The denoiser gives {type(known).__name__}, which has no mean; take estimate='sample'.")
        return known.mean


def unified(process: Process, share: float = 0.0, estimate: str = "sample", eta: float | None = None) -> Sampler:
    """Makes the sampler that estimates x_0 and corrects x_t to x_s: one evaluation a step, on any process.

    Args:
        process: how data is destroyed; of `invert` and `renew` it needs what the share asks for. Where it has a
            `vocabulary` x is of tokens; where it has `counts`, times are whole numbers (`grids.counts`).
        share: of the noise, renewed at every step, in [0, 1]. 0: all is kept, `invert` alone; 1: all is new, neither.
        estimate: "sample", a draw of the denoiser's posterior, as wide as the variance that the denoiser knows; or
            "mean", its mean.
        eta: DDIM's strength in [0, 1], in place of share, for processes alpha x_0 + sigma z.

    Raises:
        ValueError: for what is no process; an unknown estimate, or the mean of a law over tokens; share or eta outside
            [0, 1], or both; a share that needs a verb the process lacks; eta where noise has no one amplitude; a mean
            with new noise where only the flow is right (`calculus.FlowOnly`); (at planning) a grid of other times than
            the process has, one with a step from t = 0, where there is no noise to find again, or an encoder's with new
            noise; (where it runs) a draw of `types.Posterior`, a normal law, where only the flow is right.
    """
    host.need_object(process)
    name = type(process).__name__
    if not all(hasattr(process, verb) for verb in ("schedule", "noise", "corrupt")):
        raise ValueError(f"Got {name} as the process, without noise or corrupt; such as processes.Gaussian(VP()).")
    if estimate not in ESTIMATES:
        raise ValueError(f"The estimate is {estimate!r}, expected 'sample' or 'mean'.")
    if estimate == "mean" and isinstance(process, Tokens):
        raise ValueError(f"The tokens of {name} have no mean; take estimate='sample'.")
    strength = _checked(name, process, share, eta)
    if strength and estimate == "mean" and not calculus.clock_only(process.schedule):  # by name: cold and naive
        what = f"unified adds new noise (share or eta = {strength:g}) to a mean"
        calculus.need_gaussian(process.schedule, what, "take share=0, which is DDIM on that flow")
    correction = {0.0: Correction.INVERTED, 1.0: Correction.FRESH}.get(strength, Correction.RENEWED)
    if eta:
        correction = Correction.RENEWED
    _check_verbs(name, process, correction)

    def plan(ts: np.ndarray) -> Row:
        _check_counts(name, process, ts)
        t, s = ts[:-1], ts[1:]
        if correction is not Correction.FRESH and np.any(t == 0):
            raise ValueError(f"A step starts at t = 0, where {name} has no noise to find again; start it above 0.")
        if strength and np.any(s > t):
            raise ValueError(f"From data to noise leads the flow alone, but share or eta is {strength:g}; set it to 0.")
        shares = np.full(len(t), strength)
        if eta:
            shares *= np.sqrt(-np.expm1(log_snr_change(*amplitudes(process.schedule, ts))))  # (unified.5)
        return Row(t, s, shares)

    held = Held(process) if jax.tree_util.all_leaves([process]) else process
    order = 1 if isinstance(process, Additive) and (eta is not None or share == 0) else None
    tokens = isinstance(process, Tokens)
    return Sampler(Step(estimate, correction), plan, Partial(_init, held), _final, process.schedule, order, tokens)


def _init(process: Any, x: Array) -> State:
    return State(x, process)


def _final(model: Any, state: State) -> Array:
    return state.x


def _checked(name: str, process: Any, share: Any, eta: Any) -> float:
    """The one of share and eta that was given, as a float."""
    if eta is not None and share:
        raise ValueError(f"Got share = {share} and eta = {eta}, expected one of them: eta says the share of each step.")
    given, value = ("share", share) if eta is None else ("eta", eta)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise ValueError(f"{given} is {value!r}, expected a number in [0, 1] (0: no noise is new).")
    scalar = isinstance(process, Additive) and np.ndim(amplitudes(process.schedule, [0.0])[1]) == 1
    if eta is not None and not scalar:
        raise ValueError(
            f"eta = {eta} is DDIM's, of x_t = alpha x_0 + sigma z with two numbers alpha and sigma, which {name} has "
            "not; give a share in its place."
        )
    return float(value)


def _check_verbs(name: str, process: Any, correction: Correction) -> None:
    if correction is Correction.FRESH:
        return
    if not isinstance(process, Recoverable):
        raise ValueError(
            f"{name} has no `invert`, so that noise once put in is not known again; share = 1 remains, or give it "
            "invert(key, x0, x, t) -> z."
        )
    if correction is Correction.RENEWED and not isinstance(process, Renewable):
        raise ValueError(
            f"{name} has no `renew`, so that its noise is kept whole (share = 0) or replaced whole (share = 1); take "
            "one of these, or give it renew(key, z, share) -> z."
        )


def _check_counts(name: str, process: Any, ts: np.ndarray) -> None:
    if isinstance(process, Counting) and np.any(part := ts != np.round(ts)):
        raise ValueError(
            f"{name} counts from {process.counts} down to 0, but the grid has t = {ts[part][0]:g}; take "
            "grids.counts(schedule, n), whose times are whole."
        )


def _like(x: Array, found: Array, process: Any) -> Array:
    """x_s in the dtype of x_t."""
    if found.shape != x.shape or (found.dtype.kind in "iu") != (x.dtype.kind in "iu"):
        raise ValueError(
            f"{type(process).__name__} makes x_s of {found.dtype} {found.shape} from x_t of {x.dtype} {x.shape}, "
            "expected its kind and shape."
        )
    return found.astype(x.dtype)
