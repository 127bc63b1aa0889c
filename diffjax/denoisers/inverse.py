"""Linear inverse problems: the denoiser of p(x_0 | y), y = A x_0 + r n, made of the denoiser of p(x_0).

If p(x_0 | x_t) were N(mean, K), conditioning on y too would move the mean to

    mean + K A^T (r^2 + A K A^T)^-1 (y - A mean).                                                          (1)

The methods of the field are this with different K:

    replacement   K = 1, r = 0: what y determines is taken from y (Song et al. 2021, appendix I.2; Wang et al. 2023).
                  A walk of it is biased, since the rest is not told of y in time. RePaint (Lugmayr et al. 2022)
                  therefore resamples the rest at each level; so does `langevin.predictor_corrector`, by Langevin
                  steps, which with enough of them ends in p(x_0 | y). A few restarts (`samplers.restart`) do not
    diffpir       K = sigma^2 / alpha^2 / strength: a proximal step (Zhu et al. 2023, eq. 13)
    diagonal      K = the denoiser's own variance, per entry: `optimal.jacobian`, `optimal.tabulated`, exact posteriors
    tmpd          K = sigma^2 / alpha d mean / d x_t, the whole covariance by Tweedie's formula (Boys et al. 2023)

or are guidance by log p(y | x_t), whose gradient passes through the denoiser: by Tweedie's formula that puts the whole
covariance sigma^2 / alpha d mean / d x_t in front, and a guess in the brackets:

    dps           nothing but r^2 (Chung et al. 2023, eq. 16)
    pigdm         r^2 + v_t A A^T, v_t the posterior's variance of N(0, v) data (Song et al. 2023, eq. 8)

Any sampler walks with any of them. With K = 0 nothing moves; (1) is exact if the data are Gaussian and K is right.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import need_gaussian, unit_variance
from diffjax.denoisers.guidance import TiltedByPrediction, tilted_by_prediction
from diffjax.denoisers.wrapper import Wrapper
from diffjax.types import Array, Denoiser, Posterior, Schedule, as_pytree, pytree, static

__all__ = ["diagonal", "diffpir", "dps", "pigdm", "replacement", "tmpd"]  # what a command may name

_INSTEAD = "take replacement, diffpir or diagonal"


@pytree
class Observation:
    """An observation of x_0, y = A x_0 + noise n; make it with `observe`.

    Attributes:
        operator: x -> A x, linear, for one example.
        y: A x_0 and noise, of the shape that the operator gives.
        noise: r, the standard deviation of the noise, in units of y.
    """

    operator: Callable[[Array], Array]
    y: Array
    noise: Any

    def residual(self, x0: Array) -> Array:
        """Computes y - A x_0, of y's shape."""
        seen = self.operator(x0)
        return self.y.astype(seen.dtype) - seen

    def transpose(self, residual: Array, like: Array) -> Array:
        """Computes A^T residual, of the shape of `like`."""
        return jax.linear_transpose(self.operator, like)(residual)[0]


def observe(operator: Callable[[Array], Array], y: Any, shape: tuple[int, ...], noise: Any = 0.0) -> Observation:
    """Makes the observation y of an example of that shape.

    Raises:
        ValueError: if the operator gives another shape than y's, is not linear, or the noise is negative.
    """
    y = jnp.asarray(y)
    example = jax.ShapeDtypeStruct(shape, y.dtype)
    apply = as_pytree(operator)
    given = jax.eval_shape(apply, example)
    if given.shape != y.shape:
        raise ValueError(f"The operator makes {given.shape} of an example {shape}, but y has shape {y.shape}.")
    if host.concrete(noise) and not np.all(np.asarray(noise) >= 0):
        raise ValueError(f"The noise of the observation is {noise}, expected a standard deviation >= 0.")
    if host.concrete(y, apply):
        zero = np.abs(np.asarray(apply(jnp.zeros(shape, y.dtype)))).max(initial=0.0)
        if zero > 0:
            raise ValueError(f"The operator is not linear: of zero it makes up to {zero:g}; subtract that from y.")
    return Observation(apply, y, noise)


def replacement(denoise: Denoiser, observation: Observation) -> "Conditioned":
    """Replaces what y determines of the mean; for observations whose noise does not matter."""
    # (replacement.2)
    return Conditioned(denoise, Observation(observation.operator, observation.y, 0.0), _Constant(1.0))


def diffpir(denoise: Denoiser, observation: Observation, strength: Any = 1.0) -> "Conditioned":
    """Takes DiffPIR's proximal step at each level; a larger strength (the paper's lambda) trusts the denoiser more.

    Raises:
        ValueError: unless strength is positive.
    """
    if host.concrete(strength) and not strength > 0:
        raise ValueError(f"strength is {strength}, expected a positive number.")
    return Conditioned(denoise, observation, _Flat(strength))


def diagonal(denoise: Denoiser, observation: Observation) -> "Conditioned":
    """Conditions N(mean, var) on y, var per entry; a denoiser whose variance is 0 is left as it was."""
    return Conditioned(denoise, observation, _Own())


def tmpd(denoise: Denoiser, observation: Observation, iterations: int = 20) -> "Projected":
    """Conditions N(mean, whole covariance) on y, by conjugate gradients on the denoiser's derivative.

    They need a covariance: symmetric and positive. The derivative of an exact denoiser is one; that of a network is not
    quite, and where the noise of the observation is small the walk may diverge. Stopped after two iterations it does
    not (experiments/inverse); nor do `pigdm` and `diffpir`.

    Args:
        iterations: at most so many, each a derivative of the denoiser: as many as y has entries solve exactly.

    Raises:
        ValueError: unless iterations is an integer >= 1 and the process Gaussian.
    """
    need_gaussian(denoise.schedule, "TMPD takes the posterior's covariance from Tweedie's formula", _INSTEAD)
    host.check_int("iterations", iterations)
    return Projected(denoise, observation, iterations)


@pytree
class Projected(Wrapper):
    """A denoiser conditioned on an observation by its whole covariance; `tmpd` makes one.

    Attributes:
        denoise: the one that is conditioned.
        observation: what was seen.
        iterations: of the conjugate gradients, at most.
    """

    denoise: Denoiser
    observation: Observation
    iterations: int = static()

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the conditional mean; the variance stays that of `denoise`."""
        alpha, sigma = self.schedule(t)
        observation = self.observation

        mean, push, posterior = jax.linearize(_mean_of(self.denoise, t), x, has_aux=True)
        # (tmpd.1)
        spread = lambda u: (sigma**2 / alpha) * push(observation.transpose(u, mean))  # K A^T u
        matrix = lambda u: observation.noise**2 * u + observation.operator(spread(u))
        # (tmpd.2)
        return Posterior(mean + spread(_conjugate(matrix, observation.residual(mean), self.iterations)), posterior.var)


@pytree
class Conditioned(Wrapper):
    """A denoiser conditioned on an observation by equation (1), with a covariance K that is diagonal.

    Attributes:
        denoise: the one that is conditioned.
        observation: what was seen.
        spread: (schedule, t, posterior) -> K, a scalar or of x's shape.
    """

    denoise: Denoiser
    observation: Observation
    spread: Any

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the conditional mean; the variance stays that of `denoise`."""
        (mean, var), observation = self.denoise(x, t), self.observation
        k = self.spread(self.schedule, t, Posterior(mean, var))
        solved = _solve(observation, k, observation.residual(mean), mean)
        return Posterior(mean + k * observation.transpose(solved, mean), var)  # (replacement.1)


def dps(denoise: Denoiser, observation: Observation, w: Any = 1.0) -> TiltedByPrediction:
    """Guides by the gradient of log p(y | mean), the equation of diffusion posterior sampling.

    The paper's normalised step size belongs to its own sampler and is not there.
    Steps are stiff by the ratio of the posterior's variance to that of the observation's noise: w is to make up for it.

    Raises:
        ValueError: for an observation without noise.
    """
    if host.concrete(observation.noise) and not np.all(np.asarray(observation.noise) > 0):
        raise ValueError("DPS divides by the noise of the observation, which is 0: use pigdm, tmpd or replacement.")
    return tilted_by_prediction(denoise, jax.tree_util.Partial(_log_likelihood, observation), w)


def _log_likelihood(observation: Observation, x0: Array, t: Any) -> Array:
    return -0.5 * jnp.sum(observation.residual(x0) ** 2) / observation.noise**2  # (dps.1)


def pigdm(denoise: Denoiser, observation: Observation, w: Any = 1.0, v: Any = 1.0) -> "PseudoInverse":
    """Guides by the pseudo-inverse of A; v is the variance of the data that the guess is for.

    Raises:
        ValueError: unless v is positive and the process Gaussian.
    """
    need_gaussian(denoise.schedule, "PiGDM moves the mean by Tweedie's formula", _INSTEAD)
    if host.concrete(v) and not v > 0:
        raise ValueError(f"The variance of the data v is {v}, expected a positive number.")
    return PseudoInverse(denoise, observation, w, v)


@pytree
class PseudoInverse(Wrapper):
    """A denoiser guided by the pseudo-inverse of an observation's operator; `pigdm` makes one.

    Attributes:
        denoise: the one that is guided.
        observation: what was seen.
        w: scale of the gradient.
        v: variance of the data, in squared units of x_0.
    """

    denoise: Denoiser
    observation: Observation
    w: Any
    v: Any

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the guided mean; the variance stays that of `denoise`."""
        alpha, sigma = self.schedule(t)
        observation = self.observation

        mean, pull, posterior = jax.vjp(_mean_of(self.denoise, t), x, has_aux=True)
        k = unit_variance(self.schedule, t, self.v)  # (pigdm.1)
        (gradient,) = pull(observation.transpose(_solve(observation, k, observation.residual(mean), mean), mean))
        return Posterior(mean + self.w * (sigma**2 / alpha) * gradient, posterior.var)  # (pigdm.2)


def _mean_of(denoise: Denoiser, t: Any) -> Callable[[Array], tuple[Array, Posterior]]:
    """Makes x -> (mean, posterior): the mean to differentiate, and the whole posterior beside it."""

    def mean_of(x: Array) -> tuple[Array, Posterior]:
        posterior = denoise(x, t)
        return posterior.mean, posterior

    return mean_of


def _solve(observation: Observation, k: Any, residual: Array, like: Array) -> Array:
    """Computes (r^2 + A K A^T)^-1 residual by conjugate gradients; where that is singular, the smallest solution."""
    matrix = lambda u: observation.noise**2 * u + observation.operator(k * observation.transpose(u, like))
    return _conjugate(matrix, residual, 2 * residual.size)


def _conjugate(matrix: Callable[[Array], Array], residual: Array, iterations: int) -> Array:
    tolerance = 10 * float(jnp.finfo(residual.dtype).eps)
    return jax.scipy.sparse.linalg.cg(matrix, residual, tol=tolerance, maxiter=iterations)[0]


@pytree
class _Constant:
    value: Any

    def __call__(self, schedule: Schedule, t: Any, posterior: Posterior) -> Any:
        return self.value


@pytree
class _Flat:
    strength: Any

    def __call__(self, schedule: Schedule, t: Any, posterior: Posterior) -> Any:
        alpha, sigma = schedule(t)
        return (sigma / alpha) ** 2 / self.strength  # (diffpir.1)


@pytree
class _Own:
    def __call__(self, schedule: Schedule, t: Any, posterior: Posterior) -> Any:
        return posterior.var  # (tmpd.3)
