"""Scales of guidance: how far a mean is extrapolated from what is known with less, and two scales for two conditions.

    one     m + (w - 1) (m - m_0),     m of the model that knows all, m_0 of what guidance extrapolates from
    two     m + (w - 1) (m - m_1) + (w_1 - 1) (m_1 - m_0)        (Brooks et al. 2023, equation 3)

with m_1 of the model that knows the first condition alone, such as an image, while the text is hidden. In the paper's
form it is m_0 + w_1 (m_1 - m_0) + w (m - m_1); here scales of 1 are off, to the bit. Of one scale twice, w = w_1, the
model by the first condition drops out, and what is left is guidance of both by w. Two scales need a network that has
seen each of the three: `methods.Condition(none, share, apart)` hides all, and each alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.types import Array, Denoiser, Posterior, Schedule, pytree

NEVER = "needs a network that was trained without its condition too: train.label_dropout, or Condition(none, 0.1)."


class Unhidden(Mapping):
    """Stands for `hidden` where a network always saw its conditions: whoever looks at it is refused, in one line."""

    def refuse(self, *_: Any) -> Any:
        """Raises the ValueError that says what guidance by it needs."""
        raise ValueError(f"This guidance {NEVER}")

    def __getitem__(self, name: str) -> Any:
        return self.refuse()

    def __iter__(self) -> Iterator[str]:
        return self.refuse()

    def __len__(self) -> int:
        return self.refuse()

    __or__ = __ror__ = keeping = refuse


class Hidden(dict):
    """What guidance extrapolates from: given, with what stands for none in the place of what may be hidden.

    Args:
        given: what is known.
        none: name -> the value that stands for none, of the given value's shape.
        apart: whether training has hidden each alone.
    """

    def __init__(self, given: Mapping[str, Any], none: Mapping[str, Any], apart: bool):
        super().__init__({**given, **none})
        self.given, self.none, self.apart = given, none, apart

    def keeping(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Gives these conditions as they are known, and hides the others.

        Raises:
            ValueError: for names that are none, or all, of what may be hidden, or a training that hid nothing alone.
        """
        if not names or not set(names) < set(self.none):
            raise ValueError(
                f"first is {', '.join(names) or 'nothing'}, expected some of what may be hidden but not all: "
                f"{', '.join(self.none)}."
            )
        if not self.apart:
            raise ValueError(
                "Two scales need a network that was trained with each condition hidden alone: train.apart_dropout, or "
                "Condition(none, 0.05, apart=0.05)."
            )
        return {**self, **{name: self.given[name] for name in names}}


class Branches:
    """A mixin of `pytree` classes: denoisers of one network that is told more or less, in one evaluation.

    Attributes:
        branch: given -> denoiser.
        labels: what each is given, of one structure.
    """

    branch: Callable[[Any], Denoiser]
    labels: tuple[Any, ...]

    @property
    def schedule(self) -> Schedule:
        """The schedule that all branches were made for."""
        return self.branch(self.labels[0]).schedule

    @property
    def process(self) -> Any:
        """The process that all branches were made for, where they say one: that of tokens."""
        return self.branch(self.labels[0]).process  # pyright: ignore[reportAttributeAccessIssue]

    def laws(self, x: Array, t: Any, ask: Callable[..., Any]) -> list[Any]:
        """Evaluates all branches at (x, t): what `ask(denoiser, x, t)` says of each."""
        labels = jax.tree.map(lambda *each: jnp.stack([jnp.asarray(one) for one in each]), *self.labels)
        found = jax.vmap(lambda label: ask(self.branch(label), x, t))(labels)
        found = found if hasattr(found, "combined") else Posterior(*found)
        return [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(self.labels))]

    def without(self, x: Array, t: Any) -> Any:
        """Computes the guided law of each token given the other places: conversion commutes with extrapolation."""
        return self.guided(x, t, lambda of, x, t: of.without(x, t))

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the guided mean, or logits; the variance is that of the first branch."""
        return self.guided(x, t, lambda of, x, t: of(x, t))

    def guided(self, x: Array, t: Any, ask: Callable[..., Any]) -> Any:
        """Computes the guided law of what `ask` says of each branch."""
        raise NotImplementedError


def two_scales(
    branch: Callable[[dict], Denoiser],
    given: dict,
    hidden: Any,
    w: Any,
    w_first: Any,
    first: str | tuple[str, ...],
    low: Any = 0.0,
    high: Any = np.inf,
) -> Denoiser:
    """Extrapolates by two scales, of the first condition and of the others beside it, in one evaluation of three.

    Args:
        branch, given, hidden, low, high: as in `guidance.classifier_free`; hidden says what is hidden apart.
        w: of all other conditions beside the first; 1 is off.
        w_first: of the first one; 1 is off.
        first: its name in `given`, or several: "image" of an image and a text.

    Raises:
        ValueError: for a scale that is not finite, an empty interval, a `first` that is nothing, or all, of what may be
            hidden, or a network whose conditions were never hidden, together and each alone.
    """
    (w, low, high, _), (w_first, *_) = checked(w, low, high, 0.0), checked(w_first, low, high, 0.0)
    if host.concrete(w, w_first) and w == w_first == 1:
        return branch(given)
    middle = hidden.keeping((first,) if isinstance(first, str) else tuple(first))
    return TwoScales(jax.tree_util.Partial(branch), (given, middle, dict(hidden)), w, w_first, low, high)


@pytree
class TwoScales(Branches):
    """A denoiser extrapolated by two scales; `two_scales` makes one.

    Attributes:
        branch: given -> denoiser.
        labels: given; that with the first condition alone; that with none.
        w, w_first, low, high: as in `two_scales`.
    """

    branch: Callable[[Any], Denoiser]
    labels: Any
    w: Any
    w_first: Any
    low: Any
    high: Any

    def guided(self, x: Array, t: Any, ask: Callable[..., Any]) -> Any:
        """Computes the law extrapolated from the second through the first, and from the third through the second."""
        law, middle, none = self.laws(x, t, ask)
        w, w_first = (strength(self.schedule, t, scale, self.low, self.high) for scale in (self.w, self.w_first))
        there = middle.combined(none, lambda known, nothing: combine(known, nothing, w_first))
        gap = jnp.where(jnp.isfinite(middle[0]), there[0] - middle[0], 0.0)  # (w_1 - 1) (m_1 - m_0), of mean or logits
        return law.combined(middle, lambda known, less: combine(known, less, w) + gap)  # (text.5)


def beyond(law: Any, other: Any, w: Any, rescale: Any) -> Any:
    """Extrapolates from a law through another, by the verb `combined` of both."""
    if not hasattr(law, "mean") and host.concrete(rescale) and rescale > 0:
        raise ValueError(
            f"rescale is {rescale}, but logits of {type(law).__name__} have no scale to bring back; expected 0."
        )
    return law.combined(other, lambda cond, uncond: combine(cond, uncond, w, rescale))


def combine(cond: Array, uncond: Array, w: Any, rescale: Any = 0.0) -> Array:
    """Computes cond + (w - 1) (cond - uncond), its standard deviation brought back by `rescale`; w = 1 gives cond."""
    guided = cond + (w - 1) * (cond - uncond)  # (classifier-free.1)
    spread = jnp.std(guided)
    ratio = jnp.where(spread > 0, jnp.std(cond) / jnp.where(spread > 0, spread, 1.0), 1.0)
    return guided * jnp.where(rescale > 0, 1 + rescale * (ratio - 1), 1.0)  # (classifier-free.2)


def strength(schedule: Schedule, t: Any, w: Any, low: Any, high: Any) -> Array:
    """Takes w inside the interval of levels, 1 outside: a scalar."""
    alpha, sigma = schedule(t)
    inside = (sigma >= low * alpha) & ((sigma <= high * alpha) | jnp.isinf(high))
    return jnp.where(inside, w, 1.0)  # (classifier-free.3)


def checked(w: Any, low: Any, high: Any, rescale: Any) -> tuple[Any, Any, Any, Any]:
    """Gives scale, interval and rescale; raises a ValueError for one out of its range."""
    check_scale(w)
    if host.concrete(low, high) and not 0 <= low < high:
        raise ValueError(f"Guidance acts for sigma / alpha from {low} to {high}, expected 0 <= low < high.")
    if host.concrete(rescale) and not 0 <= rescale <= 1:
        raise ValueError(f"rescale is {rescale}, expected a number in [0, 1]; 0 is off.")
    return w, low, high, rescale


def check_scale(w: Any) -> None:
    """Raises a ValueError for a scale that is not finite."""
    if host.concrete(w) and not np.all(np.isfinite(w)):
        raise ValueError(f"The guidance scale w is {w}, expected a finite number; 1 is the conditional model.")
