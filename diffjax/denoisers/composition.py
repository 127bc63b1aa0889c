"""Products, powers, negations and mixtures of denoisers that know an energy, at one noise level (Du et al. 2023).

    product     E = E_1 + E_2 + ...                   power       E = w E_1
    negation    E = E_1 - gamma E_2                   mixture     E = -log sum of w_i exp(-E_i)
    guided      E = E_u + w (E_c - E_u)               all of      E = E_u + w sum of (E_l - E_u)    (kexue 9257)

What comes out is a denoiser with that energy: alpha mean = x - sigma^2 grad E. **Mixtures alone commute with noising.**
The product of two noised laws is not their product noised, so that a sampler that walks a flow or an SDE with this
denoiser ends in another law, at any number of steps: of N(0, 1) twice, whose product has variance 1/2, from sigma = 5
the flow ends with variance 0.037 and the SDE with 0.333. What is right is a sequence of laws exp(-E(., t)) of which
the last alone matters, each kept invariant by Metropolis steps: `samplers.metropolis`.

The w_i of a mixture count relative to the constants of the energies, which nobody knows if they were learned.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import calculus, host
from diffjax.denoisers.energy import need
from diffjax.types import Array, Denoiser, Posterior, Schedule, pytree


class Composition:
    """A mixin of `pytree` classes: a denoiser by its energy alone.

    Attributes:
        parts: denoisers with energies, of one schedule.
    """

    parts: tuple[Any, ...]

    @property
    def schedule(self) -> Schedule:
        """The schedule that all parts were made for."""
        return self.parts[0].schedule

    def energy_gradient(self, x: Array, t: Any) -> tuple[Array, Array]:
        """Computes (E, grad E) at (x, t), by an evaluation of each part."""
        raise NotImplementedError

    def energy(self, x: Array, t: Any) -> Array:
        """Computes E(x, t), a scalar in nats."""
        return self.energy_gradient(x, t)[0]

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes (x - sigma^2 grad E) / alpha: what E[x_0 | x_t] would be if exp(-E) were noised data's law."""
        alpha, sigma = self.schedule(t)
        return Posterior((x - sigma**2 * self.energy_gradient(x, t)[1]) / alpha)  # (energy.3)


@pytree
class Weighted(Composition):
    """The denoiser of a weighted sum of energies.

    Attributes:
        parts: as of `Composition`.
        weights: one number for each.
    """

    parts: tuple[Any, ...]
    weights: tuple[Any, ...]

    def energy_gradient(self, x: Array, t: Any) -> tuple[Array, Array]:
        """Computes the sums of w E and of w grad E."""
        pairs = [part.energy_gradient(x, t) for part in self.parts]
        energies, gradients = ([w * pair[i] for w, pair in zip(self.weights, pairs)] for i in (0, 1))
        add = lambda terms: functools.reduce(jnp.add, terms)
        return add(energies), add(gradients)  # (energy.4)


@pytree
class Mixture(Composition):
    """The denoiser of a mixture of laws exp(-E_i).

    Attributes:
        parts: as of `Composition`.
        log_weights: (n,).
    """

    parts: tuple[Any, ...]
    log_weights: Any

    def energy_gradient(self, x: Array, t: Any) -> tuple[Array, Array]:
        """Computes -log sum of w exp(-E), and the gradients weighted by their shares in that sum."""
        pairs = [part.energy_gradient(x, t) for part in self.parts]
        logits = jnp.stack([log_w - E for log_w, (E, _) in zip(self.log_weights, pairs)])
        shares = jax.nn.softmax(logits)
        return -jax.nn.logsumexp(logits), jnp.tensordot(shares, jnp.stack([g for _, g in pairs]), axes=1)  # (energy.5)


def product(*parts: Denoiser) -> Weighted:
    """Makes the denoiser of the product of laws.

    Raises:
        ValueError: for no part at all, a part without an energy, or parts of different schedules.
    """
    if len(parts) == 1 and isinstance(parts[0], Sequence):
        raise ValueError("Got a list, expected denoisers one after the other: product(first, second).")
    return Weighted(_checked("A product", parts), (1.0,) * len(parts))


def power(part: Denoiser, w: Any) -> Weighted:
    """Makes the denoiser of a law to the power w, the temperature 1 / w.

    Raises:
        ValueError: for a w that is not positive, or a part without an energy.
    """
    host.check_positive("The power w", w)
    return Weighted(_checked("A power", (part,)), (w,))


def negation(
    first: Denoiser, second: Denoiser, gamma: float, variances: tuple[float, float], ts: Any = None
) -> Weighted:
    """Makes the denoiser of exp(-E_1 + gamma E_2): what the first law has and the second has not.

    It can be integrated where 1 / V_1 > gamma / V_2 with V_i = alpha^2 v_i + sigma^2, as far as tails are Gaussian.

    Args:
        variances: (v_1, v_2) of the data of both, in units of x_0 squared: of their widest parts.
        ts: times at which it is asked; None: a grid of the whole schedule.

    Raises:
        ValueError: for a time where it cannot be integrated, with the largest gamma that can; for a gamma or variances
            that are not positive; and as `product`.
    """
    parts = _checked("A negation", (first, second))
    if np.shape(variances) != (2,):
        raise ValueError(f"Got variances = {variances}, expected two numbers, of the data of the first and the second.")
    for name, value in (("gamma", gamma), ("variances[0]", variances[0]), ("variances[1]", variances[1])):
        host.check_positive(name, value)
    ts = np.linspace(0, float(first.schedule.t_max), 129) if ts is None else np.asarray(ts, np.float64)
    alpha, sigma = calculus.amplitudes(first.schedule, ts)
    mine, others = (alpha**2 * v + sigma**2 for v in variances)
    bad = ~(others > gamma * mine)  # (energy.6)
    if np.any(bad):
        i = int(np.argmax(gamma * mine / others))
        raise ValueError(
            f"exp(-E_1 + {gamma:g} E_2) has no integral at t = {ts[i]:g}, where the variances are {mine[i]:.4g} and "
            f"{others[i]:.4g}; take gamma < {np.min(others / mine):.4g}, or other times (ts)."
        )
    return Weighted(parts, (1.0, -gamma))


def mixture(parts: Sequence[Denoiser], weights: Any) -> Mixture:
    """Makes the denoiser of a mixture of laws.

    Args:
        weights: (n,), not negative; relative to the constants of the energies.

    Raises:
        ValueError: for weights of another number, negative ones, or none above 0; and as `product`.
    """
    if not isinstance(parts, Sequence):
        raise ValueError(f"Got {type(parts).__name__}, expected a list of denoisers, and a weight for each.")
    parts, weights = _checked("A mixture", tuple(parts)), np.asarray(weights, np.float64)
    if weights.shape != (len(parts),) or not np.all(weights >= 0) or not 0 < weights.sum() < np.inf:
        raise ValueError(f"The weights are {weights.tolist()}, expected {len(parts)} numbers >= 0, not all 0.")
    with np.errstate(divide="ignore"):
        return Mixture(parts, tuple(float(w) for w in np.log(weights / weights.sum())))


def guided(cond: Denoiser, uncond: Denoiser, w: Any) -> Weighted:
    """Makes the denoiser of p_uncond (p_cond / p_uncond)^w, whose mean is that of guidance at every (x, t).

    Raises:
        ValueError: as `product`.
    """
    return Weighted(_checked("Guidance by energies", (uncond, cond)), (1 - w, w))


def all_of(
    branch: Callable[[dict], Denoiser], given: dict, hidden: Any, labels: tuple[int, ...] = (), w: float = 1.0
) -> Weighted:
    """Makes the denoiser of p(x) prod over labels of (p(x | label) / p(x))^w, of one network (Liu et al. 2022).

    As guidance, which configs name: the label that a sample is given is passed over.

    Args:
        branch: given -> denoiser with an energy.
        given, hidden: as of `guidance.classifier_free`.
        labels: which.
        w: the power.

    Raises:
        ValueError: without labels, for one that is none, and as `product`.
    """
    if not labels or not all(host.is_int(label, 0) for label in labels):
        raise ValueError(f"Got labels = {labels!r}, expected one or more of the data's, such as guidance.labels=(3,8).")
    parts = [branch({**given, "label": jnp.int32(label)}) for label in labels]
    without = branch({**given, **hidden})
    return Weighted(_checked("A product of labels", (without, *parts)), (1 - w * len(parts), *(w,) * len(parts)))


def _checked(what: str, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    if not parts:
        raise ValueError(f"{what} has no parts, expected denoisers with energies.")
    for part in parts:
        need(part, f"{what} is made of denoisers with")
        same = calculus.same(parts[0].schedule, part.schedule)
        if host.concrete(same) and not same:
            raise ValueError(
                f"{what} is of one schedule, but its parts were made for {parts[0].schedule} and {part.schedule}: "
                "exp(-E) of two noise levels are laws of different x_t."
            )
    return parts
