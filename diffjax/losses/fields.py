"""Four estimates of one field, V(x_t, t): the way that a sample x, seen as x_t = alpha x + sigma z, has to move.

With s = grad log p_t of data and of samples (p and q, noised), and w > 0,

    V = w alpha (s_p - s_q)(x_t) = w alpha^2 (mu_p - mu_q)(x_t) / sigma^2,        mu = E[x_0 | x_t],

for w = 1 descends KL(q_t || p_t): dKL/dtheta = -E[J^T V], J = dG/dtheta. V = 0 wherever p_t = q_t. What is learned:

    classifier    a critic d = log p_t/q_t, afresh as q moves: alpha grad h(d), w = h'(d)           (GAN, MonoFlow)
    energies      E_p, E_q with p_t ~ exp(-E_p): grad E_q - grad E_p                                (kexue 7038)
    scores        two denoisers (Diff-Instruct, Luo et al. 2023; DMD, Yin et al. 2024, arXiv 2311.18828)
    kernel        nothing: y-means under k(x, y) of a batch of data and of samples (drifting, Deng et al. 2026,
                  arXiv 2602.04770): for k = exp(-|x - y|^2 / 2 h^2) it is h^2 (s_p - s_q) at alpha = 1, sigma = h

The weight w of scores and energies is a name of `SCALES`. A weight that depends on x_t, as `published`, is harmless for
points, and moves the best generator of a class that cannot reach p.

A kernel's field is of a batch: it is biased at a finite one, and at q = p its mean is zero only for an x in neither
set and as many data as samples. `rms`, the published normalisation, divides each width's drift by its root mean square
over the batch and the entries of x: the step then does not shrink where q = p, and q keeps a spread of the step's size.
The published one also puts distances in units of their mean, takes them between features of a pretrained network, and
averages the softmax over data with one over samples: none of which is here.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.losses.matching import increasing
from diffjax.types import Array, Denoiser, Schedule, pytree, static

Field = Callable[[Array, Any], Array]  # (x_t, t) -> V, of x's shape


class Scale(NamedTuple):
    """What a difference is multiplied by to be V, as functions of (alpha, sigma).

    Attributes:
        of_means: of mu_p - mu_q; None: it also depends on x_t.
        of_scores: of s_p - s_q; None likewise.
    """

    of_means: Callable | None
    of_scores: Callable | None


SCALES = {
    "kl": Scale(lambda alpha, sigma: (alpha / sigma) ** 2, lambda alpha, sigma: alpha),  # w = 1
    "noise": Scale(lambda alpha, sigma: alpha / sigma, lambda alpha, sigma: sigma),  # w = sigma / alpha
    "mean": Scale(lambda alpha, sigma: 1.0, lambda alpha, sigma: sigma**2 / alpha),  # w = sigma^2 / alpha^2
    "published": Scale(None, None),  # that of `mean` over the mean of |x - mu_p| (DMD's equation 8)
}


def classifier(
    critic: Callable[[Array, Any], Array],
    h: str | Callable = "gan",
    schedule: Schedule | None = None,
    against: Any = 0.0,
) -> Field:
    """Makes the field alpha grad h(d(x_t, t) - against) of a critic.

    Args:
        critic: (x_t, t) -> d, the log density ratio of data and samples at that noise, a scalar.
        h: a name of `matching.H`, or an increasing function.
        schedule: of x_t; None: alpha = 1.
        against: subtracted from the logit; in pairs d of the datum.

    Raises:
        ValueError: for an h that is unknown or does not increase.
    """
    climb = increasing(h)

    def field(x: Array, t: Any) -> Array:
        slope = jax.grad(lambda x: climb(critic(x, t) - against))(x)  # (matching.3)
        return slope if schedule is None else schedule(t)[0] * slope

    return field


def energies(
    energy_p: Any,
    energy_q: Any,
    schedule: Schedule | None = None,
    scale: str = "kl",
) -> Field:
    """Makes the field w alpha (grad E_q - grad E_p) of two energies.

    Args:
        energy_p, energy_q: (x_t, t) -> E of data and of samples, scalars, densities being proportional to exp(-E); or
            denoisers that know theirs, whose `energy_gradient` saves a derivative.
        schedule: of x_t; None: the difference of gradients alone.
        scale: a name of `SCALES`.

    Raises:
        ValueError: for another scale, or the published one, which is of denoisers; for two schedules, of denoisers that
            know theirs or of x_t.
    """
    factor = _scale(scale).of_scores
    if factor is None:
        raise ValueError(f"Got scale = {scale!r} for two energies, which know no mean; expected kl, noise or mean.")
    told = {"energy of data": energy_p, "energy of samples": energy_q}
    known = {who: of.schedule for who, of in told.items() if hasattr(of, "schedule")}
    known |= {} if schedule is None else {"x_t": schedule}
    if any(not _alike(one, other) for one, other in pairwise(known.values())):
        said = ", ".join(f"{who} {of}" for who, of in known.items())
        raise ValueError(f"Got schedules of {said}; a difference of energies wants one schedule.")

    slope_p, slope_q = (_slope_of(energy) for energy in (energy_p, energy_q))

    def field(x: Array, t: Any) -> Array:
        slope = slope_q(x, t) - slope_p(x, t)  # (matching.4)
        return slope if schedule is None else factor(*schedule(t)) * slope

    return field


def scores(denoise_p: Denoiser, denoise_q: Denoiser, scale: str = "kl") -> Field:
    """Makes the field w alpha (s_p - s_q) of two denoisers, for sigma_t > 0.

    Args:
        denoise_p, denoise_q: (x_t, t) -> Posterior of data and of samples, for one schedule.
        scale: a name of `SCALES`.

    Raises:
        ValueError: for another scale, or two schedules.
    """
    factor, schedule = _scale(scale).of_means, denoise_p.schedule
    if not _alike(schedule, denoise_q.schedule):
        raise ValueError(
            f"The denoiser of data is for {schedule}, that of samples for {denoise_q.schedule}; a difference of scores "
            "wants one schedule."
        )

    def field(x: Array, t: Any) -> Array:
        p, q = denoise_p(x, t).mean, denoise_q(x, t).mean
        if factor is None:
            return (p - q) / jnp.mean(jnp.abs(x - p))  # (matching.6)
        return factor(*schedule(t)) * (p - q)  # (matching.5)

    return field


KINDS = {  # of squared distances in units of the width
    "gaussian": lambda square: -0.5 * square,
    "laplace": lambda square: -jnp.sqrt(square),  # the published kernel
}
NORMALISED = ("shift", "score", "rms")


@pytree
class Kernel:
    """The drift of a sample among a batch of data and of samples; make one with `kernel`.

    Attributes:
        widths: of the kernel, in units of x; their drifts are added.
        kind: a name of `KINDS`.
        scale: a name of `NORMALISED`.
    """

    widths: tuple[float, ...] = static()
    kind: str = static()
    scale: str = static()

    def drifts(self, x: Array, data: Array, samples: Array, own: Any = None) -> Array:
        """Computes (W, *shape): the mean of data under k(x, y) less that of samples, one for each width.

        Args:
            x: a sample.
            data: (n, *shape).
            samples: (m, *shape).
            own: place of x among the samples, which it is not compared with; None: x is none of them.
        """
        pulls = self._means(x, data, None), self._means(x, samples, own)
        return pulls[0] - pulls[1]  # (matching.7)

    def total(self, drifts: Array, squares: Array) -> Array:
        """Adds up the drifts (W, *shape) of a sample, normalised.

        Args:
            squares: (W,), the mean of the squares of drifts over the batch and the entries of x.
        """
        widths = jnp.asarray(self.widths, drifts.dtype)
        floor = jnp.finfo(drifts.dtype).tiny  # two equal batches have no drift to divide
        rms = jnp.sqrt(jnp.maximum(squares, floor))
        factors = {"shift": jnp.ones_like(widths), "score": widths**-2, "rms": 1 / rms}  # (matching.8)
        return jnp.tensordot(factors[self.scale], drifts, axes=1)

    def _means(self, x: Array, y: Array, own: Any) -> Array:
        square = jnp.sum((y - x[None]) ** 2, axis=tuple(range(1, y.ndim)))
        widths = jnp.asarray(self.widths, square.dtype)
        logits = KINDS[self.kind](square[None] / widths[:, None] ** 2)
        if own is not None and len(y) > 1:
            logits = jnp.where(jnp.arange(len(y))[None] == own, -jnp.inf, logits)
        return jnp.tensordot(jax.nn.softmax(logits, axis=-1), y, axes=1)


def kernel(widths: Any, kind: str = "gaussian", scale: str = "score") -> Kernel:
    """Makes the field of a kernel over the batch.

    Args:
        widths: of the kernel, positive, in units of x: a number or several.
        kind: gaussian or laplace.
        scale: shift, the difference of means itself; score, over the width's square: for gaussian s_p - s_q of the
            laws smoothed by the width; rms, over the root mean square of a batch.

    Raises:
        ValueError: for another kind or scale, or a width that is not positive.
    """
    widths = tuple(float(width) for width in np.atleast_1d(widths))
    for width in widths:
        host.check_positive("A kernel's width", width)
    if not widths:
        raise ValueError("Got no width of a kernel, expected one or several, in units of x.")
    for name, got, known in (("kernel", kind, KINDS), ("scale of a kernel", scale, NORMALISED)):
        if got not in known:
            raise ValueError(f"There is no {name} {got!r}; {host.nearest(got, known)}.")
    return Kernel(widths, kind, scale)


def _slope_of(energy: Any) -> Callable[[Array, Any], Array]:
    return (lambda x, t: energy.energy_gradient(x, t)[1]) if hasattr(energy, "energy_gradient") else jax.grad(energy)


def _scale(name: str) -> Scale:
    if name not in SCALES:
        raise ValueError(f"There is no scale {name!r} of a field; {host.nearest(name, SCALES)}.")
    return SCALES[name]


def _alike(one: Any, other: Any) -> bool:
    """Tells whether two schedules are of one class, and of the same numbers as far as they can be looked at."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(not host.concrete(a, b) or np.array_equal(a, b) for a, b in pairs)
