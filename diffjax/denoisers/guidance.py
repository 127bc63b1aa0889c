"""Guidance: denoisers made of other denoisers, which any sampler walks with (kexue 9257).

Without a classifier (Ho & Salimans 2022), from what a model says with and without the condition, or a better and a
weaker model say (autoguidance, Karras et al. 2024):

    mean = cond + (w - 1) (cond - uncond)        (kexue 9257 (24))

and of tokens the same of logits, renormalised at each place: p_cond^w p_uncond^(1 - w) (Schiff et al. 2024, UDLM), or
of the rates at which a place becomes each token, which are not (Nisonoff et al. 2024): R_cond^w R_uncond^(1 - w). A
place that opens shows a token of one law by both; by rates it opens sooner, or later, as their sum is above 1 or below.
w = 1 is off; the paper's own w, and that of the series, is this one minus 1; GLIDE's s is this w. The same combination
of eps, v or scores is this one, for each is affine in the mean at a given x_t.

With a potential, log p(y | x_t) of a classifier (Dhariwal & Nichol 2021, algorithm 2) or a similarity (Liu et al.
2021):

    score + w grad potential(x_t, t), that is, mean + w sigma^2 / alpha grad potential        (kexue 9257 (18, 19)).

Guidances add: a guided denoiser can be guided again.

None of them samples p(x) p(y | x)^w: the guided field at x_t is not that of any noised target unless w = 1. For data
N(0, 1), y = x + N(0, 1/2), y = 1.5 and w = 3 the flow from sigma = 80 ends in N(1.659, 0.1925^2); the tempered target
is N(1.286, 0.378^2) (tests/test_guidance.py).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from diffjax import calculus, grids, host
from diffjax.calculus import amplitudes
from diffjax.chains import look_up
from diffjax.denoisers.composition import all_of as all_of
from diffjax.denoisers.scales import NEVER as NEVER
from diffjax.denoisers.scales import Branches, Unhidden, beyond, check_scale, checked, strength
from diffjax.denoisers.scales import combine as combine
from diffjax.denoisers.scales import two_scales as two_scales
from diffjax.denoisers.wrapper import Wrapper
from diffjax.types import Array, Categorical, Denoiser, Posterior, as_pytree, pytree

__all__ = [
    "all_of",
    "classifier_free",
    "none",
    "rates",
    "two_scales",
]  # what a config may name; the others need more than a label

Potential = Callable[[Array, Any], Array]  # (x, t) -> scalar, of one example


def extrapolated(
    denoise: Denoiser, other: Denoiser, w: Any, low: Any = 0.0, high: Any = np.inf, rescale: Any = 0.0
) -> "Extrapolated":
    """Extrapolates from `other` through `denoise`: cond + (w - 1) (cond - uncond), by an evaluation of each.

    Args:
        denoise: the conditional model, or the better one (autoguidance).
        other: the unconditional model, or a weaker one.
        w: 1 is off.
        low, high: it acts where low <= sigma / alpha <= high (Kynkaanniemi et al. 2024); outside w counts as 1.
        rescale: how far the mean's standard deviation over its entries is brought back to that of `denoise`'s, in
            [0, 1] (Lin et al. 2024, section 3.4, there for v).

    Raises:
        ValueError: for denoisers of two schedules, a scale that is not finite, an empty interval, a rescale outside.
    """
    _check_same(denoise, other)
    return Extrapolated(denoise, other, *checked(w, low, high, rescale))


def none(branch: Callable[[dict], Denoiser], given: dict, hidden: Mapping[str, Any]) -> Denoiser:
    """Guides by nothing: returns the denoiser of what is given, as it is."""
    return branch(given)


def classifier_free(
    branch: Callable[[dict], Denoiser],
    given: dict,
    hidden: Any,
    w: Any,
    low: Any = 0.0,
    high: Any = np.inf,
    rescale: Any = 0.0,
) -> Denoiser:
    """Extrapolates from the unconditional through the conditional mean of one network, by one evaluation of two.

    Args:
        branch: given -> denoiser.
        given, hidden: with the conditions, and with that of "none" in their place, which `conditions.drop` has trained.
        w, low, high, rescale: as in `extrapolated`. A w that is the number 1 gives the conditional denoiser itself.

    Raises:
        ValueError: as for `extrapolated`, and for a network whose conditions were never hidden.
    """
    return _of_two(ClassifierFree, branch, given, hidden, w, low, high, rescale)


def rates(
    branch: Callable[[dict], Denoiser], given: dict, hidden: Any, w: Any, low: Any = 0.0, high: Any = np.inf
) -> Denoiser:
    """Extrapolates rates of tokens, which `samplers.categorical.jumps` walks by, from one evaluation of two.

    Args:
        branch, given, hidden, w, low, high: as in `classifier_free`.

    Raises:
        ValueError: as for `classifier_free`; and where the denoiser is asked for a law, as by any other sampler.
    """
    return _of_two(ByRates, branch, given, hidden, w, low, high, 0.0)


def _of_two(
    kind: type, branch: Callable[[dict], Denoiser], given: dict, hidden: Any, w: Any, low: Any, high: Any, rescale: Any
) -> Denoiser:
    w, low, high, rescale = checked(w, low, high, rescale)
    if host.concrete(w) and w == 1:
        return branch(given)
    if isinstance(hidden, Unhidden):
        hidden.refuse()
    whole = dict(hidden) if isinstance(hidden, dict) else hidden  # of the structure of `given`
    return kind(jax.tree_util.Partial(branch), (given, whole), w, low, high, rescale)


@pytree
class Extrapolated(Wrapper):
    """A denoiser whose mean lies beyond that of `denoise`, seen from that of `other`; `extrapolated` makes one.

    Attributes:
        denoise, other, w, low, high, rescale: as in `extrapolated`.
    """

    denoise: Denoiser
    other: Denoiser
    w: Any
    low: Any
    high: Any
    rescale: Any

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the guided mean, or logits; the variance is that of `denoise`."""
        w = strength(self.schedule, t, self.w, self.low, self.high)
        return beyond(self.denoise(x, t), self.other(x, t), w, self.rescale)  # (autoguidance.1)

    def without(self, x: Array, t: Any) -> Any:
        """Computes the guided law of each token given the other places: conversion commutes with extrapolation."""
        law, other = (of.without(x, t) for of in (self.denoise, self.other))  # pyright: ignore[reportAttributeAccessIssue]
        return beyond(law, other, strength(self.schedule, t, self.w, self.low, self.high), self.rescale)


@pytree
class ClassifierFree(Branches):
    """A denoiser extrapolated from one network's unconditional branch; `classifier_free` makes one.

    Attributes:
        branch: given -> denoiser.
        labels: the pair (given, hidden).
        w, low, high, rescale: as in `extrapolated`.
    """

    branch: Callable[[Any], Denoiser]
    labels: Any
    w: Any
    low: Any
    high: Any
    rescale: Any

    def guided(self, x: Array, t: Any, ask: Callable[..., Any]) -> Any:
        """Computes the law extrapolated from the second branch through the first."""
        known, unseen = self.laws(x, t, ask)
        return beyond(known, unseen, strength(self.schedule, t, self.w, self.low, self.high), self.rescale)


@pytree
class ByRates(ClassifierFree):
    """Rates extrapolated from one network's unconditional branch; `rates` makes one. It knows no law of x_0."""

    def log_rates(self, x: Array, t: Any) -> Array:
        """Computes the log rates (*shape of x, V) of becoming each token, in units of -alpha' / (1 - alpha)."""
        laws = self.laws(x, t, lambda of, x, t: of(x, t))
        cond, uncond = (Categorical(jax.nn.log_softmax(law.logits, axis=-1)) for law in laws)
        w = strength(self.schedule, t, self.w, self.low, self.high)
        return cond.combined(uncond, lambda cond, uncond: combine(cond, uncond, w)).logits  # (classifier-free.4)

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Raises the ValueError that says which sampler walks by rates."""
        raise ValueError(
            "Guidance by rates says how fast tokens change, which samplers.categorical.jumps alone walks by "
            "(sampler.name=categorical.jumps); for any other sampler take guidance.classifier_free."
        )

    without = __call__


def tilted(denoise: Denoiser, potential: Potential, w: Any = 1.0) -> "Tilted":
    """Guides by the gradient of a classifier's or a similarity's potential at x_t, with any sampler.

    Args:
        potential: (x_t, t) -> scalar; a classifier's must know the noise. If it has a `schedule`, that must be the
            denoiser's.

    Raises:
        ValueError: for a potential made for another schedule, a scale that is not finite, alpha = 0 at the start, or a
            process that is not Gaussian.
    """
    _check_potential(denoise, potential, w)
    return Tilted(denoise, as_pytree(potential), w)


@pytree
class Tilted(Wrapper):
    """A denoiser whose mean moves along the gradient of a potential at x_t.

    Attributes:
        denoise: the one that is guided.
        potential: (x, t) -> scalar.
        w: scale of the gradient.
    """

    denoise: Denoiser
    potential: Potential
    w: Any

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the shifted mean; the variance stays that of `denoise`."""
        alpha, sigma = self.schedule(t)
        gradient, (mean, var) = self._pull(x, t)
        return Posterior(mean + self.w * (sigma**2 / alpha) * gradient, var)  # (classifier-guidance.1)

    def _pull(self, x: Array, t: Any) -> tuple[Array, Posterior]:
        """Computes the potential's gradient, of x's shape, and the unguided posterior."""
        posterior = self.denoise(x, t)
        return jax.grad(self.potential)(x, t), posterior


def tilted_by_prediction(denoise: Denoiser, potential: Potential, w: Any = 1.0) -> "TiltedByPrediction":
    """Guides by the gradient of a potential of clean data, taken at the predicted mean, through the denoiser.

    Costs a backward pass of the denoiser. Of log p(y | x_0) it is the approximation of Chung et al. 2023 (DPS).

    Raises:
        ValueError: as for `tilted`.
    """
    _check_potential(denoise, potential, w)
    return TiltedByPrediction(denoise, as_pytree(potential), w)


@pytree
class TiltedByPrediction(Tilted):
    """A denoiser whose mean moves along the gradient of a potential at that mean, taken through the denoiser."""

    def _pull(self, x: Array, t: Any) -> tuple[Array, Posterior]:
        def at_mean(x: Array) -> tuple[Array, Posterior]:
            posterior = self.denoise(x, t)
            return self.potential(posterior.mean, t), posterior

        return jax.grad(at_mean, has_aux=True)(x)  # (dps.2)


def mean_shift(denoise: Denoiser, potential: Potential, ts: Any, w: Any = 1.0) -> "MeanShift":
    """Guides by a classifier as first published, for `ancestral.ddpm` along `ts` (Dhariwal & Nichol 2021, algorithm 1).

    The mean of each step moves by w Var grad potential(x_t, t), Var being the step's variance (kexue 9257 (8)). In
    terms of x_0 that is a shift by w (sigma_s^2 / alpha_s + gamma var) grad potential, gamma being the weight of the
    mean in the step: on a fine grid, `tilted`; on a step to data without variance, nothing.

    Raises:
        ValueError: as for `tilted`, and for a grid that is not decreasing.
    """
    _check_potential(denoise, potential, w)
    schedule = denoise.schedule
    ts = grids.check(ts, float(schedule.t_max))
    alpha, sigma = amplitudes(schedule, ts)
    gamma = alpha[1:] * (1 - (alpha[:-1] / sigma[:-1] * sigma[1:] / alpha[1:]) ** 2)  # (classifier-guidance.3)
    return MeanShift(denoise, as_pytree(potential), w, ts[:-1], sigma[1:] ** 2 / alpha[1:], gamma)


@pytree
class MeanShift(Wrapper):
    """A denoiser whose mean moves as the published step's mean does; `mean_shift` makes one.

    Attributes:
        denoise, potential, w: as in `tilted`.
        ts: (N,), where the grid's steps start.
        least: (N,), sigma_s^2 / alpha_s: what moves a mean that has no variance.
        gamma: (N,), the weight of the mean in each step.
    """

    denoise: Denoiser
    potential: Potential
    w: Any
    ts: Any
    least: Any
    gamma: Any

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the shifted mean, NaN at a time outside the grid; the variance stays that of `denoise`."""
        mean, var = self.denoise(x, t)
        scale = look_up(self.ts, self.least, t) + look_up(self.ts, self.gamma, t) * var  # (classifier-guidance.2)
        return Posterior(mean + self.w * scale * jax.grad(self.potential)(x, t), var)


def _check_same(denoise: Denoiser, other: Any) -> None:
    same = calculus.same(denoise.schedule, other.schedule)
    if host.concrete(same) and not same:
        raise ValueError(
            f"{type(other).__name__} was made for {other.schedule}, but the denoiser for {denoise.schedule}: "
            "the two must agree on what x_t is."
        )


def _check_potential(denoise: Denoiser, potential: Any, w: Any) -> None:
    check_scale(w)
    if hasattr(potential, "schedule"):
        _check_same(denoise, potential)
    schedule = denoise.schedule
    calculus.need_gaussian(
        schedule, "A gradient moves the mean by sigma^2 / alpha under Gaussian noise", "guide by `extrapolated`"
    )
    if host.concrete(schedule) and amplitudes(schedule, [float(schedule.t_max)])[0][0] <= 0:
        raise ValueError(
            f"alpha is 0 at the end of {type(schedule).__name__}, t = {float(schedule.t_max):g}, where no gradient "
            "moves x_0 by a finite amount; end the schedule earlier (t_max)."
        )
