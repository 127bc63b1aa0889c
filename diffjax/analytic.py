"""Targets that are solved exactly: posterior mean and covariance, score, density and samples under any (alpha, sigma).

A Gaussian mixture sum_k w_k N(m_k, C_k) stays one: with V_k = alpha^2 C_k + sigma^2 I and responsibilities
r_k(x) ~ w_k N(x; alpha m_k, V_k),

    p(x_0 | x_t = x) = sum_k r_k N(m_k + alpha C_k V_k^-1 (x - alpha m_k), sigma^2 C_k V_k^-1).

`Empirical` is the mixture of points: the ideal denoiser of a data set, which memorises it (kexue 9164 (15); Karras et
al. 2022, appendix B.3). Every sampler, loss and likelihood of the library is tested against these.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import need_scalar
from diffjax.types import Array, Categorical, Key, Posterior, Schedule, pytree, static

# Exact whatever the default precision of products, which on a TPU is bfloat16.
_einsum, _matmul, _tensordot = (partial(f, precision="highest") for f in (jnp.einsum, jnp.matmul, jnp.tensordot))


@pytree
class ExactDenoiser:
    """The denoiser of a solved target under a schedule: its posterior is exact.

    Attributes:
        target: `GaussianMixture` or `Empirical`.
        schedule: what x_t and t refer to.
        with_var: report Var[x_0 | x_t] too; ancestral samplers then add it, as for every denoiser that knows it.
    """

    target: Any
    schedule: Schedule
    with_var: bool = static(default=False)

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes p(x_0 | x_t = x): exact mean, and diagonal variance if asked for, both of x's shape."""
        alpha, sigma = self.schedule(t)
        nothing = (alpha == 0) & (sigma == 0)  # where a bridge starts: x_t = 0 tells as much as noise does
        posterior = self.target.posterior(x, alpha, jnp.where(nothing, 1.0, sigma))
        return posterior if self.with_var else Posterior(posterior.mean)

    def energy(self, x: Array, t: Any) -> Array:
        """Computes E(x, t) = -log p(x_t = x) in nats, a scalar."""
        return -self.target.log_prob(x, *self.schedule(t))

    def energy_gradient(self, x: Array, t: Any) -> tuple[Array, Array]:
        """Computes (E, grad E) at (x, t): a scalar in nats, and x's shape."""
        return self.energy(x, t), -self.target.score(x, *self.schedule(t))


@pytree
class GaussianMixture:
    """The mixture sum_k w_k N(m_k, C_k) over examples of one shape; make one with `gaussian_mixture`.

    Attributes:
        log_weights: (K,).
        means: (K, d).
        variances: (K, r), the eigenvalues of C_k, r = d; or the r < d that are not 0.
        bases: (K, d, r), the eigenvectors of C_k as columns, or None if every C_k is a multiple of the identity.
        shape: of one example, d entries in all.
    """

    log_weights: Array
    means: Array
    variances: Array
    bases: Array | None
    shape: tuple[int, ...] = static()

    @property
    def thin(self) -> bool:
        """Tells whether covariances have fewer axes than x has entries: along the others there is noise alone."""
        return self.variances.shape[1] < self.means.shape[1]

    @property
    def _one_thin(self) -> bool:
        """Tells whether the mixture is one thin Gaussian: its products are then of matrices, not batched."""
        return self.thin and len(self.log_weights) == 1

    def denoiser(self, schedule: Schedule, with_var: bool = False) -> ExactDenoiser:
        """Makes the exact denoiser of the mixture under a schedule; ValueError for one per frequency."""
        need_scalar(schedule, "The exact denoiser of a mixture")
        return ExactDenoiser(self, schedule, with_var)

    def log_prob(self, x: Array, alpha: Any = 1.0, sigma: Any = 0.0) -> Array:
        """Computes log p(x_t = x) in nats, a scalar, of x_t = alpha x_0 + sigma z."""
        return jax.nn.logsumexp(self._condition(x, alpha, sigma).log_joint)

    def score(self, x: Array, alpha: Any = 1.0, sigma: Any = 0.0) -> Array:
        """Computes grad log p(x_t = x), of x's shape."""
        components = self._condition(x, alpha, sigma)
        pull = self._to_data(-components.offset / components.total)  # (mixtures.4)
        if self.thin:
            x, alpha, sigma = _promoted(self.means, x, alpha, sigma)
            pull = pull - (x.reshape(1, -1) - alpha * self.means - self._to_data(components.offset)) / sigma**2
        return _matmul(jax.nn.softmax(components.log_joint), pull).reshape(self.shape)

    def posterior(self, x: Array, alpha: Any, sigma: Any) -> Posterior:
        """Computes mean and diagonal variance of p(x_0 | x_t = x), of x's shape."""
        weights, means, spreads = self._posterior_components(x, alpha, sigma)
        mean = _matmul(weights, means)
        within = spreads if self.bases is None else _einsum("kij,kj->ki", self.bases**2, spreads)
        var = _matmul(weights, within + (means - mean[None]) ** 2)
        return Posterior(mean.reshape(self.shape), var.reshape(self.shape))

    def covariance(self, x: Array, alpha: Any, sigma: Any) -> Array:
        """Computes Cov[x_0 | x_t = x], (d, d)."""
        weights, means, spreads = self._posterior_components(x, alpha, sigma)
        centred = means - _matmul(weights, means)[None]
        bases = jnp.broadcast_to(jnp.eye(means.shape[1]), (means.shape[0], *(means.shape[1],) * 2))
        bases = bases if self.bases is None else self.bases
        within = _einsum("k,kij,kj,klj->il", weights, bases, spreads, bases)
        return within + _einsum("k,ki,kj->ij", weights, centred, centred)

    def sample(self, key: Key, n: int) -> Array:
        """Draws n examples, (n, *shape)."""
        key_k, key_z = jax.random.split(key)
        k = Categorical(self.log_weights).sample(key_k, (n,))
        z = jnp.sqrt(self.variances[k]) * jax.random.normal(key_z, (n, self.variances.shape[1]), self.means.dtype)
        z = z if self.bases is None else _einsum("nij,nj->ni", self.bases[k], z)
        return (self.means[k] + z).reshape(n, *self.shape)

    def _condition(self, x: Array, alpha: Any, sigma: Any) -> "_Components":
        x, alpha, sigma = _promoted(self.means, x, alpha, sigma)
        centred = x.reshape(1, -1) - alpha * self.means
        offset, total = self._to_basis(centred), alpha**2 * self.variances + sigma**2  # (mixtures.1)
        log_normal = -0.5 * jnp.sum(offset**2 / total + jnp.log(2 * np.pi * total), axis=1)
        if self.thin:
            count, noise = centred.shape[1] - offset.shape[1], jnp.asarray(sigma**2, centred.dtype)
            beside = jnp.maximum(jnp.sum(centred**2, axis=1) - jnp.sum(offset**2, axis=1), 0)
            log_normal = log_normal - 0.5 * (beside / noise + count * jnp.log(2 * np.pi * noise))
        return _Components(self.log_weights + log_normal, offset, total)

    def _posterior_components(self, x: Array, alpha: Any, sigma: Any) -> tuple[Array, Array, Array]:
        """Computes responsibilities (K,), component means (K, d), component variances in their bases (K, d)."""
        x, alpha, sigma = _promoted(self.means, x, alpha, sigma)
        components = self._condition(x, alpha, sigma)
        # (mixtures.2)
        means = self.means + self._to_data(alpha * self.variances / components.total * components.offset)
        # One thin component has no density where sigma is 0, but all of the weight.
        weights = jnp.ones(1, means.dtype) if self._one_thin else jax.nn.softmax(components.log_joint)
        return weights, means, sigma**2 * self.variances / components.total  # (mixtures.3)

    def _to_basis(self, rows: Array) -> Array:
        if self.bases is None:
            return rows
        if self._one_thin:
            return _matmul(rows, self.bases[0])
        return _einsum("kij,ki->kj", self.bases, rows)

    def _to_data(self, rows: Array) -> Array:
        if self.bases is None:
            return rows
        if self._one_thin:
            return _matmul(rows, self.bases[0].T)
        return _einsum("kij,kj->ki", self.bases, rows)


def _promoted(data: Array, x: Any, *level: Any) -> tuple[Any, ...]:
    """Converts x, and the arrays among alpha and sigma, to the precision of x or of the data, whichever is finer."""
    dtype = max(data.dtype, jnp.result_type(x), key=lambda dtype: jnp.finfo(dtype).bits)
    return tuple(a.astype(dtype) if isinstance(a, jax.Array) and a.dtype != dtype else a for a in (x, *level))


class _Components(NamedTuple):
    log_joint: Array  # (K,) log w_k N(x; alpha m_k, V_k)
    offset: Array  # (K, d) x - alpha m_k, in the eigenbasis of C_k
    total: Array  # (K, d) eigenvalues of V_k


def gaussian_mixture(weights: Any, means: Any, covariances: Any) -> GaussianMixture:
    """Makes a mixture of K Gaussians.

    Args:
        weights: (K,), non-negative; normalised here.
        means: (K, *shape).
        covariances: (K,) isotropic variances, or (K, d, d) matrices, d the number of entries of `shape`.

    Raises:
        ValueError: on shapes that do not fit, negative weights, or a covariance that is not symmetric and semidefinite.
    """
    dtype = jnp.zeros(()).dtype
    weights, means, covariances = (np.asarray(a, np.float64) for a in (weights, means, covariances))
    if means.ndim < 1 or not (np.all(np.isfinite(means)) and np.all(np.isfinite(covariances))):
        raise ValueError(f"Got means of shape {means.shape}, expected finite means (K, *shape) and finite covariances.")
    count, shape = len(means), means.shape[1:]
    d = int(np.prod(shape))
    if weights.shape != (count,) or not np.all(weights >= 0) or not 0 < weights.sum() < np.inf:
        raise ValueError(f"weights have shape {weights.shape}, expected ({count},) non-negative numbers, not all 0.")
    if covariances.shape == (count,):
        variances, bases = np.repeat(covariances[:, None], d, 1), None
    elif covariances.shape == (count, d, d):
        if not np.allclose(covariances, covariances.transpose(0, 2, 1)):
            raise ValueError("covariances are not symmetric.")
        variances, bases = np.linalg.eigh(covariances)
    else:
        raise ValueError(f"covariances have shape {covariances.shape}, expected ({count},) or ({count}, {d}, {d}).")
    if np.any(variances < -1e-10 * np.abs(variances).max()):
        raise ValueError(f"A covariance has the negative eigenvalue {variances.min():.3g}, expected none.")
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights / weights.sum())
    to_array = lambda a: jnp.asarray(a, dtype)
    return GaussianMixture(
        to_array(log_weights),
        to_array(means.reshape(count, d)),
        to_array(np.maximum(variances, 0)),
        None if bases is None else to_array(bases),
        shape,
    )


def fitted_gaussian(x: Any) -> GaussianMixture:
    """Fits one Gaussian, with the mean and the unbiased covariance of examples (n, *shape).

    The covariance of fewer examples than entries has no full rank and is kept as its axes (`host.thin_axes`): cost and
    memory are linear in the number of entries. ValueError unless n >= 2.
    """
    x = np.asarray(x)
    n, shape, d = len(x), x.shape[1:], int(np.prod(x.shape[1:]))
    if n < 2 or d > n:
        mean, variances, axes = host.thin_axes(x)
        to_array = lambda a: jnp.asarray(a, jnp.zeros(()).dtype)[None]
        return GaussianMixture(jnp.zeros(1), to_array(mean), to_array(variances), to_array(axes), shape)
    flat = x.reshape(n, d).astype(np.float64)
    return gaussian_mixture([1.0], flat.mean(0).reshape(1, *shape), np.cov(flat.T).reshape(1, d, d))


@pytree
class Empirical:
    """The mixture of a data set's points, visited in blocks so that memory stays bounded; make one with `empirical`.

    Attributes:
        data: (blocks, block, d), padded.
        log_weights: (blocks, block), -inf on the padding.
        shape: of one example.
    """

    data: Array
    log_weights: Array
    shape: tuple[int, ...] = static()

    def denoiser(self, schedule: Schedule, with_var: bool = False) -> ExactDenoiser:
        """Makes the ideal denoiser of the data set under a schedule: exact, and it memorises."""
        return ExactDenoiser(self, schedule, with_var)

    def log_prob(self, x: Array, alpha: Any = 1.0, sigma: Any = 0.0) -> Array:
        """Computes log p(x_t = x) in nats, a scalar; sigma > 0."""
        x, alpha, sigma = _promoted(self.data, x, alpha, sigma)
        d = self.data.shape[-1]
        sums = self._moments(x, alpha, sigma, lambda block: ())
        return sums.peak + jnp.log(sums.mass) - 0.5 * d * jnp.log(2 * np.pi * jnp.square(jnp.asarray(sigma)))

    def score(self, x: Array, alpha: Any = 1.0, sigma: Any = 0.0) -> Array:
        """Computes grad log p(x_t = x), of x's shape; sigma > 0."""
        x, alpha, sigma = _promoted(self.data, x, alpha, sigma)
        return (alpha * self.posterior(x, alpha, sigma).mean - x) / sigma**2  # (empirical.2)

    def posterior(self, x: Array, alpha: Any, sigma: Any) -> Posterior:
        """Computes mean and diagonal variance of p(x_0 | x_t = x), of x's shape; sigma > 0."""
        centre = self._mean(x, alpha, sigma)
        sums = self._moments(x, alpha, sigma, lambda block: ((block - centre[None]) ** 2,))
        var = sums.totals[0] / sums.mass
        return Posterior(centre.reshape(self.shape), var.reshape(self.shape))

    def covariance(self, x: Array, alpha: Any, sigma: Any) -> Array:
        """Computes Cov[x_0 | x_t = x], (d, d); sigma > 0."""
        centre = self._mean(x, alpha, sigma)
        outer = lambda block: (_einsum("ni,nj->nij", block - centre[None], block - centre[None]),)
        sums = self._moments(x, alpha, sigma, outer)
        return sums.totals[0] / sums.mass

    def sample(self, key: Key, n: int) -> Array:
        """Draws n of the points with replacement, (n, *shape)."""
        flat = self.data.reshape(-1, self.data.shape[-1])
        index = Categorical(self.log_weights.reshape(-1)).sample(key, (n,))
        return flat[index].reshape(n, *self.shape)

    def _mean(self, x: Array, alpha: Any, sigma: Any) -> Array:
        sums = self._moments(x, alpha, sigma, lambda block: (block,))
        return sums.totals[0] / sums.mass

    def _moments(self, x: Array, alpha: Any, sigma: Any, features: Any) -> "_Sums":
        """Sums w_i features(x_i) over all points, w_i ~ exp(-|x - alpha x_i|^2 / 2 sigma^2), scaled by the largest."""
        x, alpha, sigma = _promoted(self.data, x, alpha, sigma)
        flat = x.reshape(-1)

        def add(sums: _Sums, block: Any) -> tuple[_Sums, None]:
            points, log_weights = block
            logits = log_weights - 0.5 * jnp.sum(((flat[None] - alpha * points) / sigma) ** 2, axis=1)  # (empirical.1)
            peak = jnp.maximum(sums.peak, logits.max())
            old, new = jnp.exp(sums.peak - peak), jnp.exp(logits - peak)
            totals = tuple(old * s + _tensordot(new, f, 1) for s, f in zip(sums.totals, features(points)))
            return _Sums(peak, old * sums.mass + new.sum(), totals), None

        like = jax.eval_shape(features, jax.ShapeDtypeStruct(self.data.shape[1:], flat.dtype))
        zeros = tuple(jnp.zeros(f.shape[1:], flat.dtype) for f in like)
        start = _Sums(jnp.full((), -jnp.finfo(flat.dtype).max), jnp.zeros((), flat.dtype), zeros)
        return jax.lax.scan(add, start, (self.data, self.log_weights))[0]


class _Sums(NamedTuple):
    peak: Array
    mass: Array
    totals: tuple[Array, ...]


def empirical(data: Any, block: int = 256) -> Empirical:
    """Makes the empirical distribution of a data set.

    Args:
        data: (N, *shape).
        block: points visited at a time; one evaluation works in block x d numbers (x d^2 for covariances).

    Raises:
        ValueError: if there is no data, or block < 1.
    """
    data = np.asarray(data)
    if data.ndim < 2 or len(data) == 0 or block < 1:
        raise ValueError(
            f"Got data of shape {data.shape} and block = {block}, expected (N, *shape) with N >= 1, block >= 1."
        )
    dtype = jnp.zeros(()).dtype
    flat = data.reshape(len(data), -1)
    blocks = -(-len(flat) // block)
    padding = blocks * block - len(flat)
    points = np.concatenate([flat, np.repeat(flat[:1], padding, 0)]).reshape(blocks, block, -1)
    log_weights = np.where(np.arange(blocks * block) < len(flat), -np.log(len(flat)), -np.inf).reshape(blocks, block)
    return Empirical(jnp.asarray(points, dtype), jnp.asarray(log_weights, dtype), data.shape[1:])
