"""The optimal reverse variance without training (Bao et al. 2022, Analytic-DPM; kexue 9245, 9246).

For a model N(mean(x_t), v I) of p(x_0 | x_t) the best v is what the mean misses, E|x_0 - mean|^2 / d at x_t's time
(kexue 9246 (7)).
Estimates from one pass over data, `moments.measure`:

    error   E|x_0 - mean|^2 / d                              the loss itself: right for any mean, on data not trained on
                                                             (kexue 9246 (8))
    entries the same entry by entry, not averaged            for data whose entries differ, such as images with a border
                                                             (kexue 9246 (10))
    noise   sigma^2 / alpha^2 (1 - E|eps_hat|^2 / d)         Bao et al., theorem 1: right for the exact mean alone
                                                             (kexue 9245 (16))
    spread  Var[x_0] - E|mean - E x_0|^2 / d                 the same by the law of total variance (kexue 9245 (10))

The posterior's variance is all that a method has to say here: samplers make beta_tilde + gamma^2 v of it, also on
chains with few steps, where it matters. `jacobian` finds it per entry, for each x_t, in the denoiser's own derivative:

    Cov[x_0 | x_t] = sigma^2 / alpha d mean / d x_t          (Efron 2011, second-order Tweedie)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import amplitudes, log_snr, need_gaussian, need_scalar, unit_variance
from diffjax.chains import look_up
from diffjax.denoisers.clipping import clipped
from diffjax.denoisers.moments import SecondMoments, load
from diffjax.denoisers.targets import Target, denoiser
from diffjax.denoisers.wrapper import Wrapper
from diffjax.types import Array, Denoiser, Key, Network, Posterior, Schedule, pytree


def tabulated(denoise: Denoiser, ts: Any, var: Any, most: Any = 1.0) -> "Measured":
    """Gives a denoiser a variance known at the times ts, clipped to [0, most].

    The variance of data in [a, b] is at most ((b - a) / 2)^2 (kexue 9245 (11)): most = 1 for data in [-1, 1].

    Args:
        ts: (N,).
        var: (N,), or (N, *shape) for a variance per entry.

    Raises:
        ValueError: for lengths that differ, or entries that are not finite.
    """
    ts, var = np.asarray(ts, np.float64), np.asarray(var, np.float64)
    if var.shape[:1] != ts.shape or not (np.isfinite(var).all() and np.isfinite(ts).all()):
        raise ValueError(f"Got {var.shape} variances for {ts.shape} times, expected as many finite numbers of each.")
    return Measured(denoise, ts, np.clip(var, 0.0, most))


def analytic(
    net: Network,
    schedule: Schedule,
    target: Target,
    chain: Any = None,
    *,
    moments: str | Path,
    estimate: str = "error",
    most: float = 1.0,
    clip: tuple[float, float] | None = None,
) -> Denoiser:
    """Makes the denoiser of Analytic-DPM on any grid: the variance at t is read off a file.

    What is read, evenly between log-SNRs, is its ratio to the posterior variance of N(0, 1) data, which is smooth.

    Args:
        moments: what `moments.save` wrote.
        estimate: error, entries, noise or spread.
        most: what the variance is clipped to.
        clip: of the mean.

    Raises:
        ValueError: for a file that cannot be used, or another estimate.
    """
    if estimate not in (known := SecondMoments._fields[1:]):
        raise ValueError(f"There is no estimate {estimate!r}; there is {', '.join(known)}.")
    need_scalar(schedule, "A variance between measured log-SNRs")
    found = load(moments)
    alpha, sigma = amplitudes(schedule, found.ts)
    order = np.argsort(lam := 2 * (np.log(alpha) - np.log(sigma)))
    table = np.asarray(getattr(found, estimate), np.float64)
    unit = (sigma**2 / (alpha**2 + sigma**2)).reshape(-1, *(1,) * (table.ndim - 1))
    ratio = (table / unit)[order]
    return clipped(Interpolated(denoiser(net, schedule, target), lam[order], ratio, most), clip)


@pytree
class Interpolated(Wrapper):
    """A denoiser with a variance between measured ones; `analytic` makes one.

    Attributes:
        denoise: whose mean is kept.
        log_snr: (N,), rising, where the variance was measured; its end values hold beyond its ends.
        ratio: (N,) or (N, *shape), the variance there over that of N(0, 1) data.
        most: what the variance is clipped to.
    """

    denoise: Denoiser
    log_snr: Any
    ratio: Any
    most: Any

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the mean of `denoise`, and the variance between its neighbours in the table."""
        here = log_snr(self.schedule, t)
        lam, ratio = (jnp.asarray(table, here.dtype) for table in (self.log_snr, self.ratio))
        here = jnp.clip(here, lam[0], lam[-1])
        i = jnp.clip(jnp.searchsorted(lam, here) - 1, 0, len(lam) - 2)
        fraction = (here - lam[i]) / (lam[i + 1] - lam[i])
        var = unit_variance(self.schedule, t) * ((1 - fraction) * ratio[i] + fraction * ratio[i + 1])
        return Posterior(self.denoise(x, t).mean, jnp.clip(var, 0.0, self.most))


@pytree
class Measured(Wrapper):
    """A denoiser with a variance known at the times ts alone; `tabulated` makes one.

    Attributes:
        denoise: whose mean is kept.
        ts: (N,), the times.
        var: (N,) or (N, *shape), in squared units of x_0.
    """

    denoise: Denoiser
    ts: Any
    var: Any

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the mean of `denoise`, and the measured variance: NaN at a time that was not measured."""
        return Posterior(self.denoise(x, t).mean, look_up(self.ts, self.var, t))


def jacobian(denoise: Denoiser, key: Key | None = None, probes: int = 1, rank: int = 0) -> "Jacobian":
    """Gives a denoiser the diagonal of J = sigma^2 / alpha d mean / d x_t as its variance, not below 0.

    Args:
        key: of the probes v = +-1 of Hutchinson's estimate E[v (J v)], the same ones at every call: each costs one
            derivative beside the evaluation. None: exactly, by as many derivatives as x has entries. Where the rows of
            the derivative are long a few probes say little, and the bound at 0 then adds a bias upwards.
        probes: how many.
        rank: number of random directions whose image under J spans a subspace: the diagonal of J's projection on it is
            computed exactly, and the probes estimate the rest (Hutch++, Meyer et al. 2021, for the diagonal; exact for
            a covariance of that rank). Each direction costs two derivatives, one of them backwards.

    Raises:
        ValueError: unless probes is an integer >= 1, rank one >= 0, which is 0 without a key, and the process Gaussian.
    """
    need_gaussian(
        getattr(denoise, "schedule", None), "Var[x_0 | x_t] by Tweedie's formula is asked for", "measure it (`error`)"
    )
    for name, value, least in (("probes", probes, 1), ("rank", rank, 0)):
        host.check_int(name, value, least)
    if rank and key is None:
        raise ValueError(
            f"rank is {rank}, but without a key all of the derivative is computed: give a key, or rank = 0."
        )
    if key is None:
        return Jacobian(denoise, None, None)
    key_probes, key_sketch = jax.random.split(key)
    return Jacobian(denoise, jax.random.split(key_probes, probes), jax.random.split(key_sketch, rank))


@pytree
class Jacobian(Wrapper):
    """A denoiser with the variance of its own derivative; `jacobian` makes one.

    Attributes:
        denoise: whose mean is differentiated.
        probes: keys of the probes, or None: the diagonal is computed whole.
        sketch: keys of the directions of the exact part.
    """

    denoise: Denoiser
    probes: Any  # keys
    sketch: Any  # keys

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes mean and per-entry variance at x, both of x's shape."""
        alpha, sigma = self.schedule(t)
        mean, push = jax.linearize(lambda x: self.denoise(x, t).mean, x)
        diagonal = self._exact(push, x) if self.probes is None else self._estimate(push, x)
        return Posterior(mean, jnp.maximum(sigma**2 / alpha * diagonal, 0.0))  # (jacobian.1)

    def _exact(self, push: Callable[[Array], Array], x: Array) -> Array:
        basis = jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
        return jax.vmap(lambda v: jnp.vdot(v, push(v), precision="highest"))(basis).reshape(x.shape)

    def _estimate(self, push: Callable[[Array], Array], x: Array) -> Array:
        """Computes diag(J) = diag(Q Q^T J) + diag((1 - Q Q^T) J), Q's columns spanning J's image of the sketch."""
        draw = jax.vmap(lambda key: jax.random.rademacher(key, x.shape, x.dtype))
        signs, known = draw(self.probes), jnp.zeros_like(x)
        rest = jax.vmap(push)(signs)
        if len(self.sketch):
            image = jax.vmap(push)(draw(self.sketch)).reshape(len(self.sketch), -1)
            Q = jnp.linalg.qr(image.T)[0].T.reshape(-1, *x.shape)
            pull = jax.linear_transpose(push, x)
            rows = jax.vmap(lambda q: pull(q)[0])(Q)  # Q^T J
            known = jnp.sum(Q * rows, 0)
            inner = jax.vmap(lambda v: jax.vmap(lambda row: jnp.vdot(row, v, precision="highest"))(rows))(
                signs
            )  # Q^T J v
            rest = rest - jnp.tensordot(inner, Q, 1, precision="highest")
        return known + jnp.mean(signs * rest, 0)  # (jacobian.2)
