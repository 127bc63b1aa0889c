"""Score matching and its computable forms, for one example (Vincent 2011; kexue 9509). Halves are the papers'.

    explicit      |s(x) - grad log p(x)|^2 / 2: what is meant, where the score of the data is known (kexue 9509 (1))
    implicit      tr(ds/dx) + |s|^2 / 2 (Hyvarinen 2005): the same in mean, but for the constant E |grad log p|^2 / 2
    sliced        v' (ds/dx) v + (v' s)^2 / 2 along random v (Song et al. 2019); reduced = True: + |s|^2 / 2, of smaller
                  variance, which is `implicit` by random directions
    conditional   |s(x_t) - grad log p(x_t | x_0)|^2 / 2: any kernel that has a density (kexue 9509 (4), 9209 (15))
    denoising     the same for x_t = alpha x_0 + sigma z, whose conditional score is -z / sigma (Vincent 2011)

Conditional and explicit differ by what no score changes, `gap`; in mean (kexue 9509 (9))

    conditional - explicit = (E |grad log p(x_t | x_0)|^2 - E |grad log p_t|^2) / 2
                           = alpha^2 / sigma^4 E tr Cov[x_0 | x_t] / 2 for denoising,

the least value of the loss, so that losses of two schedules cannot be compared. It is `regression` in other words:
denoising = d / 2 times the mean square of the Score target, and weighted by g^2 (`weights.likelihood`) and integrated
over time it bounds the divergence of the data from the samples of the reverse SDE (Song et al. 2021b, theorem 1),

    KL(p_0 || model) <= integral of g^2 explicit(t) dt + KL(p_T || prior).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax import divergence, host
from diffjax.calculus import need_gaussian, need_scalar
from diffjax.processes.gaussian import Gaussian
from diffjax.types import Array, Posterior, Schedule

ScoreFn = Callable[[Array], Array]  # x -> s(x), of x's shape: the time, parameters and label closed over


def explicit(score: ScoreFn, true_score: ScoreFn, x: Array) -> Array:
    """Computes |s(x) - true_score(x)|^2 / 2, a scalar: a sum over entries, as everything here."""
    return 0.5 * jnp.sum((score(x) - true_score(x)) ** 2)  # (scorematching.1)


def implicit(score: ScoreFn, x: Array) -> Array:
    """Computes tr(ds/dx) + |s|^2 / 2 with the exact trace, at d products with the Jacobian for d entries."""
    return sliced(score, x, divergence.exact(None, x), reduced=True)  # (scorematching.2)


def sliced(score: ScoreFn, x: Array, directions: Array, reduced: bool = False) -> Array:
    """Computes the mean over directions of v' (ds/dx) v + (v' s)^2 / 2, or of its first term + |s|^2 / 2.

    Args:
        directions: (K, *shape) of mean outer product I, drawn anew for each example (`divergence.hutchinson`, ...).
        reduced: take |s|^2, the mean of (v' s)^2, which does not depend on v.

    Raises:
        ValueError: for directions of another shape.
    """
    s, products = divergence.products_along(score, x, directions)
    along = jax.vmap(lambda v: jnp.vdot(v, s, precision="highest"))(directions)
    return jnp.mean(products) + 0.5 * (jnp.sum(s**2) if reduced else jnp.mean(along**2))  # (scorematching.3)


def conditional(score: ScoreFn, log_kernel: Callable[[Array, Array], Array], x0: Array, x: Array) -> Array:
    """Computes |s(x) - grad log p(x | x_0)|^2 / 2 by differentiation of the kernel.

    Args:
        log_kernel: (x, x_0) -> log p(x | x_0), a scalar, up to what does not depend on x.
        x: drawn from p(. | x_0).
    """
    return 0.5 * jnp.sum((score(x) - jax.grad(log_kernel)(x, x0)) ** 2)  # (scorematching.4)


def denoising(score: ScoreFn, process: Gaussian, x0: Array, z: Array, t: Any) -> Array:
    """Computes |s(x_t) + z / sigma|^2 / 2 at x_t = alpha x_0 + sigma z, z standard normal, sigma_t > 0.

    Its variance grows as 1 / sigma^2: at small noise weight it by sigma^2, or predict the noise.

    Raises:
        ValueError: for a process of another noise law, whose conditional score is not -z / sigma.
    """
    if process.law is not jax.random.normal:
        name = getattr(process.law, "__name__", repr(process.law))
        raise ValueError(
            f"Denoising score matching has the score -z / sigma of Gaussian noise, but the process draws {name}; use "
            "score_matching.conditional with the log density of its kernel."
        )
    sigma = process.schedule(t)[1]
    return 0.5 * jnp.sum((score(process.corrupt(x0, z, t)) + z / sigma) ** 2)  # (scorematching.5)


def annealed(
    energy: Callable[[Array], Array], process: Gaussian, x0: Array, z: Array, t: Any, sigma_0: float | None = None
) -> Array:
    """Computes |grad E(x_t) - sigma z / sigma_0^2|^2 / sigma^2, a scalar: an energy at random levels (Li et al. 2019).

    As published, with one sigma_0 for all levels and an energy that is not told the level, no energy is its optimum:
    with P = sum of p_sigma and Q = sum of p_sigma / sigma^2 over the levels the field -grad P / (sigma_0^2 Q) minimises
    it, which is no gradient above one dimension. Its exp(-E) is not a density to report. With sigma for sigma_0 the
    optimum is E = -log Q + C, the data under a random level; and -log p_sigma + C(sigma) for an energy that is told the
    level, as `losses.energy` trains.

    Args:
        energy: x -> E(x), a scalar.
        sigma_0: the constant of the published form, in units of x; None: sigma of each level, the repair.

    Raises:
        ValueError: for a sigma_0, or a sigma_t, that is not positive, or an energy that is not one number.
    """
    if sigma_0 is not None:
        host.check_positive("sigma_0", sigma_0, "; None puts the sigma of each level in its place")
    sigma = process.schedule(t)[1]
    host.check_positive("sigma_t", sigma, ", which the loss divides by: take a later t")
    x = process.corrupt(x0, z, t)
    if (made := jax.eval_shape(energy, x).shape) != ():
        raise ValueError(f"An energy is one number for an example, but got shape {made} for x of shape {x.shape}.")
    slope = jax.grad(energy)(x)
    told = sigma if sigma_0 is None else sigma_0
    return jnp.sum((slope - sigma * z / told**2) ** 2) / sigma**2  # (scorematching.7)


def gap(posterior: Posterior, schedule: Schedule, t: Any) -> Array:
    """Computes alpha^2 / sigma^4 tr Cov[x_0 | x_t] / 2: the mean of denoising - explicit given x_t, for any score.

    Args:
        posterior: of x_0 given x_t, its variance of x_t's shape (`analytic`'s denoisers with_var=True).

    Raises:
        ValueError: for a posterior that does not know its variance entry by entry, or a process that is not Gaussian.
    """
    need_scalar(schedule, "The gap between two losses")
    need_gaussian(schedule, "The gap is that of denoising score matching", "use score_matching.conditional")
    mean, var = posterior
    if jnp.shape(var) != jnp.shape(mean):
        raise ValueError(
            f"The posterior's variance has shape {jnp.shape(var)}, expected that of its mean, {jnp.shape(mean)}: the "
            "gap is made of Var[x_0 | x_t] (with_var=True for an exact denoiser)."
        )
    alpha, sigma = schedule(t)
    return 0.5 * alpha**2 / sigma**4 * jnp.sum(var)  # (scorematching.6)
