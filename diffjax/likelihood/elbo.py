"""The variational bound on -log p(x_0), and its three parts (Ho et al. 2020, eq. 5; Kingma et al. 2021, eq. 11).

    prior           KL(q(x_T | x_0) || p(x_T)): what the noisiest state still tells of x_0
    diffusion       the sum of the steps' divergences (`losses.variational.kl`), each at one draw of x_t
    reconstruction  -log p(x_0 | x_t) at the last time of the grid that still has noise, one draw too

It is a bound for the sampler `ancestral.ddpm` along the same grid, followed by the decoder; the fewer the steps, the
looser. With x_0 on a lattice of levels it bounds the codelength of the data as stored, no dequantisation needed.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import chains, grids
from diffjax.calculus import amplitudes, need_gaussian, need_scalar
from diffjax.losses.variational import check_levels, kl, log_likelihood
from diffjax.samplers import precision
from diffjax.types import Array, Denoiser, Key


class Bound(NamedTuple):
    """The three parts of the variational bound, in nats: scalars, sums over the entries of x_0.

    Attributes:
        prior: what the noisiest state still tells of x_0.
        diffusion: the sum over the steps' divergences.
        reconstruction: -log p(x_0 | x_t) at the last time with noise.
    """

    prior: Array
    diffusion: Array
    reconstruction: Array

    @property
    def total(self) -> Array:
        """The sum of the parts: an unbiased estimate of a bound on -log p(x_0)."""
        return self.prior + self.diffusion + self.reconstruction

    def bits(self, dimensions: int) -> "Bound":
        """Converts the parts to bits per dimension."""
        return Bound(*(part / (dimensions * math.log(2)) for part in self))


def elbo(ts: Any, schedule: Any, levels: int | None = None, prior_var: float | None = None) -> jax.tree_util.Partial:
    """Makes `bound(denoise, key, x_0) -> Bound` along a grid, for one example; average it over keys and examples.

    A `jax.tree_util.Partial`: another grid of the same length, or other numbers in the schedule, run without a new
    compile. N evaluations.
    x_0 is of any floating-point type; the bound is of x_0's own from float32 on, of float32 for bfloat16 and float16.

    Args:
        ts: decreasing times (N + 1,); a last time without noise (sigma = 0) is where x_0 itself stands.
        schedule: of the denoiser, whose posterior variance must not be 0 at the last time with noise
            (`denoisers.variance.small`, `large`, `learned_range`, an exact posterior).
        levels: of x_0 (`losses.variational.log_likelihood`); None: x_0 is continuous.
        prior_var: of p(x_T) = N(0, prior_var); default sigma_T^2, with which `Gaussian.prior` starts the samplers.

    Raises:
        ValueError: for a bad grid, levels < 2, a prior_var that is not positive, or a process that is not Gaussian.
    """
    need_gaussian(schedule, "The bound is that of a chain with Gaussian steps", "use likelihood.ode")
    need_scalar(schedule, "The bound of a chain from noise")
    if levels is not None:
        check_levels(levels)
    ts = grids.check(ts, float(schedule.t_max))
    alpha, sigma = amplitudes(schedule, ts)
    steps = chains.chain(schedule, ts)
    times, gains = np.asarray(steps.t), np.asarray(steps.gain)[:-1]
    if prior_var is not None and not 0 < prior_var < np.inf:
        raise ValueError(f"prior_var is {prior_var}, expected a positive number.")
    ratio = 1.0 if prior_var is None else sigma[0] ** 2 / prior_var
    top = (alpha[0] / sigma[0] * np.sqrt(ratio), 0.5 * (ratio - 1 - np.log(ratio)))
    alpha, sigma = alpha[: len(times)], sigma[: len(times)]
    rows = (jnp.asarray(times), jnp.asarray(alpha), jnp.asarray(sigma), jnp.asarray(np.append(gains, np.inf)))
    return jax.tree_util.Partial(_Bounding(levels), tuple(map(jnp.asarray, top)), rows)


class _Bounding(NamedTuple):
    """The static part of a bound function: compares equal for every schedule and grid of one length."""

    levels: int | None

    def __call__(self, top: Any, rows: Any, denoise: Denoiser, key: Key, x0: Array) -> Bound:
        x0 = precision.widened(x0, "x_0")
        (top, rows), denoise = precision.like((top, rows), x0), precision.Steady(denoise)

        def posterior(i: Any, row: Any) -> Any:
            t, alpha, sigma, _ = row
            z = jax.random.normal(jax.random.fold_in(key, i), x0.shape, x0.dtype)
            return denoise(alpha * x0 + sigma * z, t)

        def add(total: Array, indexed_row: Any) -> tuple[Array, None]:
            i, row = indexed_row
            return total + kl(posterior(i, row), row[3], x0).sum(), None

        count = len(rows[0])
        body = jax.tree.map(lambda column: column[:-1], rows)
        diffusion, _ = jax.lax.scan(add, jnp.zeros((), x0.dtype), (jnp.arange(count - 1), body))
        said = posterior(count - 1, jax.tree.map(lambda column: column[-1], rows))
        pull, spread = top
        prior = (0.5 * (pull * x0) ** 2 + spread).sum()  # (elbo.3)
        return Bound(prior, diffusion, -log_likelihood(said, x0, self.levels).sum())  # (elbo.1)
