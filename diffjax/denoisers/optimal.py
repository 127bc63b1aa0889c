"""The optimal reverse variance without training (Bao et al. 2022, Analytic-DPM; kexue 9245, 9246).

For a model N(mean(x_t), v I) of p(x_0 | x_t) the best v is what the mean misses, E|x_0 - mean|^2 / d at x_t's time.
Estimates from one pass over data, `measure`:

    error   E|x_0 - mean|^2 / d                              the loss itself: right for any mean, on data not trained on
    entries the same entry by entry, not averaged            for data whose entries differ, such as images with a border
    noise   sigma^2 / alpha^2 (1 - E|eps_hat|^2 / d)         Bao et al., theorem 1: right for the exact mean alone
    spread  Var[x_0] - E|mean - E x_0|^2 / d                 the same by the law of total variance (kexue 9245)

The posterior's variance is all that a method has to say here: samplers make beta_tilde + gamma^2 v of it, also on
chains with few steps, where it matters. `jacobian` finds it per entry, for each x_t, in the denoiser's own derivative:

    Cov[x_0 | x_t] = sigma^2 / alpha d mean / d x_t          (Efron 2011, second-order Tweedie)
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import grids
from diffjax.calculus import amplitudes, flow_only, log_snr, need_gaussian, unit_variance
from diffjax.chains import look_up
from diffjax.denoisers.clipping import clipped
from diffjax.denoisers.targets import Target, denoiser
from diffjax.denoisers.wrapper import Wrapper
from diffjax.types import Array, Denoiser, Key, Network, Posterior, Process, Schedule, pytree


class Moments(NamedTuple):
    """Estimates of E[Var[x_0 | x_t]] at each of `ts` (N,), averaged over entries but for `entries`; not clipped.

    `noise` takes the mean of |z|^2 / d for 1: it is NaN where the process is not Gaussian (`calculus.FlowOnly`).
    """

    ts: np.ndarray
    entries: np.ndarray  # (N, *shape)
    error: np.ndarray
    noise: np.ndarray
    spread: np.ndarray


def measure(
    denoise: Callable[[Any], Denoiser], process: Process, key: Key, examples: Any, ts: Any, batch: int = 256
) -> Moments:
    """One noise for each example and time, batches added in float64 on the host.

    Args:
        denoise: example -> denoiser: of its label, if the model has labels.
        examples: a tree of arrays (n, ...) with the data in "x".
        ts: times (N,) with noise, as those that the steps of a grid start from.
        batch: examples in one compiled call.

    Raises:
        ValueError: without examples, or for a time without noise or without signal.
    """
    n = len(examples["x"])
    if n == 0:
        raise ValueError("The second moments need examples; got none.")
    ts = np.asarray(ts, np.float64)
    schedule = denoise(jax.tree.map(lambda leaf: leaf[0], examples)).schedule
    alpha, sigma = amplitudes(schedule, ts)
    if not np.all((alpha > 0) & (sigma > 0)):
        bad = ts[~((alpha > 0) & (sigma > 0))][0]
        raise ValueError(f"At t = {bad:g} there is no signal or no noise to measure with; leave that time out.")

    @jax.jit
    def sums(examples: Any, keys: Any, t: Any) -> tuple[Array, Array, Array]:
        def one(example: Any, key: Any) -> tuple[Array, Array, Array]:
            x0, (a, s) = example["x"], schedule(t)
            x = process.corrupt(x0, process.noise(key, x0), t)
            mean = denoise(example)(x, t).mean
            return (x0 - mean) ** 2, jnp.mean(((x - a * mean) / s) ** 2), jnp.mean((mean - centre) ** 2)

        return jax.tree.map(lambda of_each: of_each.sum(0), jax.vmap(one)(examples, keys))

    centre = jnp.asarray(np.mean(examples["x"], 0))
    variance = np.mean((np.asarray(examples["x"], np.float64) - np.mean(examples["x"], 0, dtype=np.float64)) ** 2)
    entries, noise, spread = np.zeros((len(ts), *examples["x"].shape[1:])), np.zeros(len(ts)), np.zeros(len(ts))
    for j, t in enumerate(ts):
        for i in range(0, n, batch):
            part = jax.tree.map(lambda leaf: leaf[i : i + batch], examples)  # noqa: B023
            places = np.arange(i, min(i + batch, n)) + j * n
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, places)
            for total, values in zip((entries, noise, spread), sums(part, keys, jnp.asarray(t, float))):
                total[j] += np.asarray(values, np.float64) / n
    error = entries.reshape(len(ts), -1).mean(1)
    noise = np.nan if flow_only(schedule) else noise
    return Moments(ts, entries, error, (sigma / alpha) ** 2 * (1 - noise), variance - spread)


def tabulated(denoise: Denoiser, ts: Any, var: Any, most: Any = 1.0) -> "Tabulated":
    """The denoiser with a variance known at the times ts, clipped to [0, most] (data in [-1, 1]: most = 1).

    Args:
        ts: (N,).
        var: (N,), or (N, *shape) for a variance per entry.

    Raises:
        ValueError: for lengths that differ, or entries that are not finite.
    """
    ts, var = np.asarray(ts, np.float64), np.asarray(var, np.float64)
    if var.shape[:1] != ts.shape or not (np.isfinite(var).all() and np.isfinite(ts).all()):
        raise ValueError(f"Got {var.shape} variances for {ts.shape} times, expected as many finite numbers of each.")
    return Tabulated(denoise, ts, np.clip(var, 0.0, most))


def save(path: str | Path, moments: Moments) -> None:
    """Keeps what `measure` found, as .npz."""
    named: dict[str, Any] = moments._asdict()
    np.savez(path, **named)


def load(path: str | Path) -> Moments:
    """What `save` kept.

    Raises:
        ValueError: for a file that is not there, or holds something else.
    """
    try:
        with np.load(path) as file:
            return Moments(**{name: file[name] for name in Moments._fields})
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} holds no second moments ({error}); --mode=moments --workdir=RUN writes RUN/moments.npz."
        ) from error


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
    """Analytic-DPM on any grid, as a config names it: the variance at t is read off a file.

    What is read, evenly between log-SNRs, is its ratio to the posterior variance of N(0, 1) data, which is smooth.

    Args:
        moments: what `save` wrote.
        estimate: error, entries, noise or spread.
        most: what the variance is clipped to.
        clip: of the mean.

    Raises:
        ValueError: for a file that cannot be used, or another estimate.
    """
    if estimate not in (known := Moments._fields[1:]):
        raise ValueError(f"There is no estimate {estimate!r}; there is {', '.join(known)}.")
    found = load(moments)
    alpha, sigma = amplitudes(schedule, found.ts)
    order = np.argsort(level := 2 * (np.log(alpha) - np.log(sigma)))
    table = np.asarray(getattr(found, estimate), np.float64)
    unit = (sigma**2 / (alpha**2 + sigma**2)).reshape(-1, *(1,) * (table.ndim - 1))
    ratio = (table / unit)[order]
    return clipped(Interpolated(denoiser(net, schedule, target), level[order], ratio, most), clip)


@pytree
class Interpolated(Wrapper):
    """`analytic`: a variance whose ratio is known at some log-SNRs (N,), rising; the ends hold beyond them."""

    denoise: Denoiser
    level: Any
    ratio: Any
    most: Any

    def __call__(self, x: Array, t: Any) -> Posterior:
        """The mean as it was, and the variance between its neighbours in the table."""
        level, ratio = jnp.asarray(self.level, float), jnp.asarray(self.ratio, float)
        here = jnp.clip(log_snr(self.schedule, t), level[0], level[-1])
        i = jnp.clip(jnp.searchsorted(level, here) - 1, 0, len(level) - 2)
        share = (here - level[i]) / (level[i + 1] - level[i])
        var = unit_variance(self.schedule, t) * ((1 - share) * ratio[i] + share * ratio[i + 1])
        return Posterior(self.denoise(x, t).mean, jnp.clip(var, 0.0, self.most))


@pytree
class Tabulated(Wrapper):
    """`tabulated`."""

    denoise: Denoiser
    ts: Any
    var: Any

    def __call__(self, x: Array, t: Any) -> Posterior:
        """The mean as it was; NaN variance at a time that was not measured."""
        return Posterior(self.denoise(x, t).mean, look_up(self.ts, self.var, t))


def jacobian(denoise: Denoiser, key: Key | None = None, probes: int = 1, rank: int = 0) -> "Jacobian":
    """The denoiser with the diagonal of sigma^2 / alpha d mean / d x_t as its variance, not below 0.

    Args:
        key: of the probes v = +-1 of Hutchinson's estimate E[v (J v)], the same ones at every call: each costs one
            derivative beside the evaluation. None: exactly, by as many derivatives as x has entries. Where the rows of
            the derivative are long a few probes say little, and the bound at 0 then adds a bias upwards.
        probes: how many.
        rank: of the part of J that is known exactly: it is projected on J's image of as many random directions, and
            only the rest is left to the probes (Hutch++, Meyer et al. 2021, for the diagonal; exact for a covariance of
            that rank). Each costs two derivatives, one of them backwards.

    Raises:
        ValueError: unless probes is an integer >= 1, rank one >= 0, which is 0 without a key, and the process Gaussian.
    """
    need_gaussian(
        getattr(denoise, "schedule", None), "Var[x_0 | x_t] by Tweedie's formula is asked for", "measure it (`error`)"
    )
    for name, value, least in (("probes", probes, 1), ("rank", rank, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} is {value!r}, expected an integer >= {least}.")
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
    """`jacobian`."""

    denoise: Denoiser
    probes: Any  # keys
    sketch: Any  # keys

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Mean and per-entry variance at x."""
        alpha, sigma = self.schedule(t)
        mean, push = jax.linearize(lambda x: self.denoise(x, t).mean, x)
        diagonal = self._exact(push, x) if self.probes is None else self._estimate(push, x)
        return Posterior(mean, jnp.maximum(sigma**2 / alpha * diagonal, 0.0))

    def _exact(self, push: Callable[[Array], Array], x: Array) -> Array:
        basis = jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
        return jax.vmap(lambda v: jnp.vdot(v, push(v)))(basis).reshape(x.shape)

    def _estimate(self, push: Callable[[Array], Array], x: Array) -> Array:
        """diag(J) = diag(Q Q^T J) + diag((1 - Q Q^T) J), the columns of Q spanning J's image of the sketch."""
        draw = jax.vmap(lambda key: jax.random.rademacher(key, x.shape, x.dtype))
        signs, known = draw(self.probes), jnp.zeros_like(x)
        rest = jax.vmap(push)(signs)
        if len(self.sketch):
            image = jax.vmap(push)(draw(self.sketch)).reshape(len(self.sketch), -1)
            Q = jnp.linalg.qr(image.T)[0].T.reshape(-1, *x.shape)
            pull = jax.linear_transpose(push, x)
            rows = jax.vmap(lambda q: pull(q)[0])(Q)  # Q^T J
            known = jnp.sum(Q * rows, 0)
            inner = jax.vmap(lambda v: jax.vmap(lambda row: jnp.vdot(row, v))(rows))(signs)  # Q^T J v
            rest = rest - jnp.tensordot(inner, Q, 1)
        return known + jnp.mean(signs * rest, 0)


def trajectory(schedule: Any, ts: Any, var: Any, steps: int) -> np.ndarray:
    """The steps on times of ts along which the bound is tightest (Bao et al. 2022, section 4; Watson et al. 2021).

    With the optimal variances a bound is the sum over its steps t -> s of log(1 + gain var) / 2 (`chains`): dynamic
    programming finds the least in O(steps N^2). The last step, from ts[N - 1] to data, is in all of them.

    Args:
        ts: decreasing times (N + 1,), the last one without noise.
        var: (N,), the posterior's variance at each but the last.
        steps: 2 .. N.

    Returns:
        (steps + 1,) of the times, both ends among them.

    Raises:
        ValueError: for lengths that do not fit, or a last time with noise.
    """
    ts, var = grids.check(ts, float(schedule.t_max)), np.asarray(var, np.float64)
    n = len(ts) - 1
    alpha, sigma = amplitudes(schedule, ts)
    if var.shape != (n,) or not np.all(var >= 0) or sigma[-1] > 0:
        raise ValueError(
            f"Got {len(ts)} times and variances of shape {var.shape}, expected times that end in data and {n} >= 0."
        )
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or not 2 <= steps <= n:
        raise ValueError(f"steps is {steps!r}, expected an integer from 2 to {n}, those of the grid.")
    snr = (alpha[:-1] / sigma[:-1]) ** 2
    gain = snr[None, :] - snr[:, None]  # of the step from row to column
    cost = np.where(gain > 0, 0.5 * np.log1p(np.maximum(gain, 0) * var[:, None]), np.inf)
    best, came = np.full(n, np.inf), []
    best[0] = 0.0
    for _ in range(steps - 1):
        through = best[:, None] + cost
        came.append(np.argmin(through, 0))
        best = np.min(through, 0)
    path = [n - 1]
    for back in reversed(came):
        path.append(back[path[-1]])
    return ts[[*reversed(path), n]]
