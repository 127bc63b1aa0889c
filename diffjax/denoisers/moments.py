"""Second moments of a model's denoiser, measured on examples at the times of a grid, and kept in a file.

They estimate E[Var[x_0 | x_t]] in the ways that `denoisers.optimal` states, in one pass over the data.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import activity, members
from diffjax.calculus import amplitudes, flow_only, sde_only
from diffjax.types import Array, Denoiser, Key, Process


class SecondMoments(NamedTuple):
    """The estimates of E[Var[x_0 | x_t]] at given times, in squared units of x_0, not clipped.

    `noise` takes the mean of |z|^2 / d for 1: it is NaN where the process is not Gaussian (`calculus.FlowOnly`).

    Attributes:
        ts: (N,), the times.
        entries: (N, *shape), the mean square of x_0 - mean, entry by entry.
        error: (N,), the mean of `entries` over the entries of x_0.
        noise: (N,), by the norm of the predicted noise.
        spread: (N,), by the spread of the means.
    """

    ts: np.ndarray
    entries: np.ndarray  # (N, *shape)
    error: np.ndarray
    noise: np.ndarray
    spread: np.ndarray


@activity.doing("measuring moments")
def measure(
    denoise: Callable[[Any], Denoiser], process: Process, key: Key, examples: Any, ts: Any, batch: int = 256
) -> SecondMoments:
    """Measures the second moments with one noise for each example and time; batches are added in float64 on the host.

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
        bad = ts[np.argwhere(~((alpha > 0) & (sigma > 0)))[0][0]]
        raise ValueError(f"At t = {bad:g} there is no signal or no noise to measure with; leave that time out.")

    @jax.jit
    def sums(examples: Any, places: Any, t: Any) -> tuple[Array, Array, Array]:
        def one(example: Any, place: Any) -> tuple[Array, Array, Array]:
            x0, (a, s) = process.enter(example["x"]), schedule(t)
            x = process.corrupt(x0, process.noise(jax.random.fold_in(key, place), x0), t)
            mean = denoise(example)(x, t).mean
            return (x0 - mean) ** 2, jnp.mean(((x - a * mean) / s) ** 2), jnp.mean((mean - process.enter(centre)) ** 2)

        return jax.tree.map(lambda of_each: of_each.sum(0), jax.vmap(one)(examples, places))

    centre = jnp.asarray(np.mean(examples["x"], 0))
    variance = np.mean((np.asarray(examples["x"], np.float64) - np.mean(examples["x"], 0, dtype=np.float64)) ** 2)
    entries, noise, spread = np.zeros((len(ts), *examples["x"].shape[1:])), np.zeros(len(ts)), np.zeros(len(ts))
    for j, t in enumerate(ts):
        for i in range(0, n, batch):
            part = jax.tree.map(lambda leaf: leaf[i : i + batch], examples)  # noqa: B023
            places = np.arange(i, min(i + batch, n)) + j * n
            for total, values in zip((entries, noise, spread), sums(part, places, jnp.asarray(t, float))):
                total[j] += np.asarray(values, np.float64) / n
    error = entries.reshape(len(ts), -1).mean(1)  # (analytic.2)
    noise = np.nan if flow_only(schedule) or sde_only(schedule) or alpha.ndim > 1 else noise
    # (analytic.4)
    level = np.full(len(ts), np.nan) if alpha.ndim > 1 else sigma / alpha
    return SecondMoments(ts, entries, error, level**2 * (1 - noise), variance - spread)  # (analytic.3)


def save(path: str | Path, moments: SecondMoments) -> None:
    """Writes what `measure` found to an .npz file."""
    named: dict[str, Any] = moments._asdict()
    np.savez(path, **named)


def load(path: str | Path) -> SecondMoments:
    """Reads the moments that `save` wrote.

    Raises:
        ValueError: for a file that is not there, or holds something else.
    """
    written = "--mode=moments --workdir=RUN writes RUN/moments.npz"
    # noise is NaN where the process is not Gaussian
    found = SecondMoments(**members.tables(path, SecondMoments._fields, "second moments", written, nan=["noise"]))
    shapes = {name: part.shape for name, part in found._asdict().items()}
    alike = found.ts.ndim == 1 and len(found.ts) > 1 and all(s[:1] == found.ts.shape for s in shapes.values())
    if not alike:
        raise ValueError(f"{str(path)!r} holds no second moments (got {shapes}, expected N >= 2 of each); {written}.")
    return found
