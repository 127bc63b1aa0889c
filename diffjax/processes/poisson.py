"""Poisson flows: data as charges in D extra dimensions (Xu et al. 2022, PFGM; 2023, PFGM++; kexue 9305, 9370).

At distance r in the extra dimensions the field of a charge at x_0, N entries, meets the kernel

    p_r(x | x_0) ~ (r^2 + |x - x_0|^2)^(-(N + D) / 2),    dx/dr = E[(x - x_0) / r | x]    (D = 1: kexue 9370 (15)).

With r = sigma sqrt(D) this is x_t = x_0 + sigma z for a multivariate Student-t z of D degrees of freedom,

    z = sqrt(D) e_N / |e_D|,    |z|^2 / (|z|^2 + D) ~ Beta(N / 2, D / 2)    (D = 1: kexue 9370 (19)),

and the flow is EDM's: the loss, targets, grids and deterministic samplers are the same, with any alpha. D = 1 is PFGM
in the coordinate r = sigma; D -> infinity is the Gaussian. For finite D (alpha E[x_0 | x] - x) / sigma^2 is no score:
the schedule is `calculus.FlowOnly`, and what adds noise or uses Tweedie's formula refuses.

The ratio is drawn from a normal and a gamma variate. The published code draws the Beta, clipped to [1e-3, 1 - 1e-3],
which at D = 1 and N = 3072 moves 92 % of the draws.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.calculus import FlowOnly
from diffjax.processes.gaussian import Additive, Gaussian
from diffjax.types import Array, Key, Schedule, pytree, static

PUBLISHED_CLIP = (1.0, 3000.0)  # what PFGM's code confines the prior's radius to


def poisson(schedule: Schedule, D: Any, clip: tuple[float, float] | None = None) -> "Poisson | Gaussian":
    """Makes PFGM++'s process in a schedule's coordinates; D = inf is the Gaussian process on the schedule as it is.

    Args:
        schedule: t -> (alpha, sigma); the published one is `schedules.EDM`.
        D: extra dimensions, any positive number; 1 is PFGM. Few for robustness, many for an easier fit; near N is good.
        clip: confines |x_T| of the prior to this interval; `PUBLISHED_CLIP` does as PFGM's code, which moves 54 % of
            the draws at N = 3072, sigma_T = 40. There is no prior density then.

    Raises:
        ValueError: unless D is a positive number, and clip None or 0 <= low < high.
    """
    if isinstance(D, bool) or not isinstance(D, int | float | np.number) or not D > 0:
        raise ValueError(f"D is {D!r}, expected a positive number of extra dimensions: 1 for PFGM, inf for EDM.")
    if clip is not None and not (len(clip) == 2 and 0 <= clip[0] < clip[1]):
        raise ValueError(f"The prior's radius is clipped to {clip}, expected None or (low, high), 0 <= low < high.")
    if np.isinf(D):
        if clip is not None:
            raise ValueError("D is inf, the Gaussian process, whose prior has no clip; give a finite D.")
        return Gaussian(schedule)
    flow = schedule if isinstance(schedule, FlowOnly) else FlowOnly(schedule)
    return Poisson(flow, float(D), None if clip is None else (float(clip[0]), float(clip[1])))


@pytree
class Poisson(Additive):
    """The process of a schedule whose noise is a multivariate Student-t; `poisson` makes one.

    Attributes:
        schedule: t -> (alpha, sigma), of which only the flow is right.
        D: degrees of freedom; a leaf, so that another value does not retrace.
        clip: of the prior's radius.
    """

    schedule: FlowOnly
    D: Any
    clip: tuple[float, float] | None = static(default=None)

    def law(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws z, Student-t: sqrt(D) times a normal vector over the norm of D normal numbers."""
        key_normal, key_norm = jax.random.split(key)
        half = jnp.asarray(self.D, float) / 2
        half_square = jax.random.loggamma(key_norm, half)  # log |e_D|^2 / 2: for small D the number itself underflows
        return jax.random.normal(key_normal, shape) * jnp.exp(0.5 * (jnp.log(half) - half_square))  # (pfgmpp.1)

    def renew(self, key: Key, z: Array, share: Any) -> Array:
        """Renews a share of z, of `law`: an amplitude of its normal part, share^2 of the D dimensions of its norm.

        A sum of two draws is no Student-t. Therefore v = |e_D|^2 / 2, of law Gamma(D / 2), is drawn given z, Gamma((D +
        N) / 2) / (1 + |z|^2 / D). With e_N = sqrt(2 v / D) z both are renewed: v'' = b v + w, b ~ Beta(rho D / 2, (1 -
        rho) D / 2), w ~ Gamma((1 - rho) D / 2), is of the law Gamma(D / 2) again, rho = 1 - share^2.
        """
        key_old, key_kept, key_lost, key_new, key_normal = jax.random.split(key, 5)
        share, half = jnp.asarray(share, z.dtype), jnp.asarray(self.D, z.dtype) / 2
        kept = 1 - share**2
        log_gamma = lambda key, a: jnp.where(a > 0, jax.random.loggamma(key, jnp.where(a > 0, a, 1.0)), -jnp.inf)
        log_v = log_gamma(key_old, half + z.size / 2) - jnp.log1p(jnp.sum(z**2) / (2 * half))
        part, rest = log_gamma(key_kept, kept * half), log_gamma(key_lost, share**2 * half)
        log_b = part - jnp.logaddexp(part, rest)
        log_new = jnp.logaddexp(log_b + log_v, log_gamma(key_new, share**2 * half))  # (unified.6)
        e = jax.random.normal(key_normal, z.shape, z.dtype)
        old, new = jnp.exp(0.5 * (log_v - log_new)), jnp.exp(0.5 * (jnp.log(half) - log_new))
        return jnp.sqrt(kept) * old * z + share * new * e

    def log_density(self, z: Array) -> Array:
        """Computes the log density of `law` in nats, a scalar."""
        n, D = z.size, jnp.asarray(self.D, z.dtype)
        half = jnp.asarray(n / 2, z.dtype)
        gammas = jax.scipy.special.gammaln(half) - jax.scipy.special.betaln(half, D / 2)  # no difference of large ones
        return gammas - half * jnp.log(np.pi * D) - (half + D / 2) * jnp.log1p(jnp.sum(z**2) / D)  # (pfgmpp.2)

    def prior(self, key: Key, shape: tuple[int, ...], t: Any = None) -> Array:
        """Draws x_T = sigma_T z at the schedule's end, or at the time t where the grid starts."""
        x = self._sigma(t) * self.law(key, shape)
        if self.clip is None:
            return x
        radius = jnp.sqrt(jnp.sum(x**2))
        return x * (jnp.clip(radius, *self.clip) / radius)

    def prior_log_density(self, x: Array, t: Any = None) -> Array:
        """Computes log p(x_T) in nats, a scalar, of what `prior` draws.

        Raises:
            ValueError: for a clipped prior, part of which lies on two spheres.
        """
        if self.clip is not None:
            raise ValueError(f"A prior whose radius is clipped to {self.clip} has no density; take clip=None.")
        sigma = self._sigma(t)
        return self.log_density(x / sigma) - x.size * jnp.log(sigma)

    def _sigma(self, t: Any) -> Array:
        return self.schedule(self.schedule.t_max if t is None else t)[1]
