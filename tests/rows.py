"""Walks along planned rows in float64 NumPy: what a sampler does is read from its rows, without a compile.

One reader per kind of row; `test_rows.py` holds the library's own steps to them, under `jit`. A reader takes the rows,
a model (x, t) -> (E[x_0 | x], Var[x_0 | x]), x and the noise that each row draws, and gives x after every row. The
names of the rows' fields stand here and nowhere else in the tests.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from closed_forms import Form, amplitudes

from diffjax import calculus
from diffjax.samplers import Sampler, base, heun, langevin, principal, table
from diffjax.samplers.unified import Row as Corrected
from diffjax.samplers.unified import Step
from diffjax.types import Posterior

Model = Callable[[np.ndarray, float], tuple[Any, Any]]


def linear(rows: Any, model: Model, x: np.ndarray, noise: Iterable) -> Iterator[np.ndarray]:
    """x <- x x + mean E[x_0 | x] + noise of variance noise_var + spread^2 Var[x_0 | x]."""
    for row, z in zip(each(rows), noise):
        mean, var = model(x, row.t)
        x = row.x * x + row.mean * mean + np.sqrt(row.noise_var + row.spread**2 * var) * z
        yield x


def multistep(rows: Any, model: Model, x: np.ndarray, noise: Iterable, ys: Any = None) -> Iterator[np.ndarray]:
    """x <- x x + sum_k ys_k y_k + noise z, over the last y = y_x x + y_mean E[x_0 | x], newest first."""
    ys = np.zeros((rows.ys.shape[1], *x.shape)) if ys is None else ys
    for row, z in zip(each(rows), noise):
        y = row.y_x * x + row.y_mean * model(x, row.t)[0]
        ys = np.concatenate([y[None], ys[:-1]])
        x = row.x * x + (row.ys @ ys.reshape(len(ys), -1)).reshape(x.shape) + row.noise * z
        yield x


def beyond_a_fit(rows: Any, model: Model, x: np.ndarray, noise: Iterable, ys: Any = None) -> Iterator[np.ndarray]:
    """As `multistep`, with numbers per entry, shifts, and a lead before the evaluation."""
    ys = np.zeros((rows.ys.shape[1], *x.shape)) if ys is None else ys
    for row, _ in zip(each(rows), noise):
        x = row.lead_x * x + row.lead_shift
        y = row.y_x * x + row.y_mean * model(x, row.t)[0] + row.y_shift
        ys = np.concatenate([y[None], ys[:-1]])
        x = row.x * x + row.shift + sum(c * y for c, y in zip(row.ys, ys))
        yield x


def heuns(rows: Any, model: Model, x: np.ndarray, noise: Iterable) -> Iterator[np.ndarray]:
    """A predictor keeps where it began and its slope; a corrector averages the slopes and goes from there again."""
    begun, slope = x, 0.0
    for row, z in zip(each(rows), noise):
        x = row.scale * x + row.noise * z
        d = (x - row.alpha * model(x, row.t)[0]) / row.sigma
        begun, slope = (begun, (slope + d) / 2) if row.corrector else (x, d)
        x = row.base * begun + row.slope * slope
        yield x


def with_langevin(rows: Any, model: Model, x: np.ndarray, noise: Iterable) -> Iterator[np.ndarray]:
    """As `linear`, with a Langevin step of h = 2 (noise_ratio |z| / |score|)^2, the norms over the whole x."""
    for row, z in zip(each(rows), noise):
        mean, var = model(x, row.t)
        score = (row.alpha * mean - x) / row.sigma**2
        h = 2 * row.noise_ratio**2 * np.sum(z**2) / np.sum(score**2)
        std = np.sqrt(row.noise_var + row.spread**2 * var + 2 * h)
        x = row.x * x + row.mean * mean + h * score + std * z
        yield x


READERS: dict[type, Callable[..., Iterator[np.ndarray]]] = {
    base.Linear: linear,
    table.Row: multistep,
    principal.AxisRow: beyond_a_fit,
    heun.Half: heuns,
    langevin.KernelRow: with_langevin,
}


def remembered(along: Callable[..., Any]) -> Callable[..., Any]:
    """Gives `host.along` a memory: samplers by the dozen look up the same levels of the same schedule on the same grid.

    Of functions alone that close over nothing and have no defaults; what is given out twice cannot be written to.
    """
    found: dict[tuple, tuple[Any, Any]] = {}

    def once(function: Any, first: Any, ts: Any, *least: int) -> Any:
        if getattr(function, "__code__", None) is None or function.__closure__ or function.__defaults__:
            return along(function, first, ts, *least)
        ts = np.asarray(ts, np.float64)
        key = function.__code__, id(first), ts.tobytes(), ts.shape, least
        if key not in found:
            values = along(function, first, ts, *least)
            for leaf in jax.tree.leaves(values):
                leaf.setflags(write=False)
            found[key] = first, values  # `first` is kept, so that its id stays its own
        return found[key][1]

    return once


def planned(sampler: Sampler, ts: Any) -> Any:
    """The rows along a grid, as a reader knows them."""
    return legible(sampler, sampler.plan(np.asarray(ts)))


def legible(sampler: Sampler, rows: Any) -> Any:
    """Rows as a reader knows them: of estimate and correct on alpha x_0 + sigma z, what its definition comes to.

    z = (x - alpha_t x_0) / sigma_t, of which sqrt(1 - share^2) is kept, in alpha_s x_0 + sigma_s z; x_0 may be drawn.
    """
    if not isinstance(rows, Corrected):
        return rows
    process = sampler.init.args[0]  # pyright: ignore[reportFunctionMemberAccess]
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (calculus.amplitudes(process.schedule, ts) for ts in (rows.t, rows.s))
    k = np.sqrt(1 - rows.share**2) * sigma_s / sigma_t
    spread = alpha_s - k * alpha_t if sampler.step.estimate == "sample" else np.zeros_like(k)
    return base.Linear(rows.t, k, alpha_s - k * alpha_t, (rows.share * sigma_s) ** 2, spread)


def key_of_noise(sampler: Sampler, key: Any) -> Any:
    """The key that a row's normal numbers are drawn with, of the row's own."""
    return jax.random.split(key, 3)[2] if isinstance(sampler.step, Step) else key


def each(rows: Any) -> Iterator[Any]:
    """The rows one by one."""
    return map(type(rows)._make, zip(*rows))


def read(rows: Any, model: Model, x: Any, noise: Iterable, **start: Any) -> Iterator[np.ndarray]:
    """x after every row; `start`: the evaluations `ys` before the first one, for a walk that goes on."""
    return READERS[type(rows)](rows, model, np.asarray(x, np.float64), noise, **start)


def walk(sampler: Sampler, ts: Any, model: Model, x: Any, noise: Iterable) -> tuple[np.ndarray, np.ndarray]:
    """The sampler along its grid, where row i draws noise[i]: x_0, and x after every row."""
    path = np.stack(list(read(planned(sampler, ts), model, x, noise)))
    return path[-1], path


def times(sampler: Sampler, ts: Any) -> np.ndarray:
    """The times of x after the rows: where the next evaluations are made, and the end."""
    return np.append(np.asarray(sampler.plan(ts).t)[1:], ts[-1])


def reached(sampler: Sampler, ts: Any) -> np.ndarray:
    """The times of x after the rows of Heun's halves: a predictor and its corrector both end where the latter looks."""
    rows = sampler.plan(np.asarray(ts))
    ends = np.append(np.asarray(rows.t)[np.asarray(rows.corrector)], ts[-1])  # the last step may have no corrector
    return ends[np.arange(len(rows.t)) // 2]


class HostModel:
    """A NumPy denoiser as a model; its amplitudes come from the closed form, not from the library's schedule.

    Attributes:
        denoise: (x, alpha, sigma) -> E[x_0 | x].
        var: (alpha, sigma) -> Var[x_0 | x]; None: not known.
    """

    def __init__(self, denoise: Callable[..., Any], form: Form, var: Any = None):
        self.denoise, self.form, self.var = denoise, form, var

    def __call__(self, x, t) -> Posterior:
        level = amplitudes(self.form, float(t))
        mean = self.denoise(x, *level)
        return Posterior(mean) if self.var is None else Posterior(mean, self.var(*level))


def laws(sampler: Sampler, ts, m, v, mean=None, var=None, with_var=False) -> tuple[np.ndarray, np.ndarray]:
    """(mean, variance) of x after every row, for data N(m, v) and a Gaussian x_T (default: the true marginal), exactly.

    The sampler is linear in x, E[x_0 | x] and its noise, and E[x_0 | x] in x: it is read on vectors of coefficients on
    (1, the normal of x_T, noise of row 0, noise of row 1, ...).
    """
    rows = planned(sampler, ts)
    if not isinstance(rows, base.Linear | table.Row | heun.Half):
        raise TypeError(f"Got rows of {type(rows)}, which are not linear in x, expected another sampler.")
    alpha, sigma = calculus.amplitudes(sampler.schedule, np.append(rows.t, ts[0]))
    levels = dict(zip(rows.t, zip(alpha, sigma)))
    x = np.zeros(2 + len(rows.t))
    x[0] = alpha[-1] * m if mean is None else mean
    x[1] = np.sqrt(alpha[-1] ** 2 * v + sigma[-1] ** 2 if var is None else var)

    def posterior(x, t):
        alpha, sigma = levels[t]
        gain = alpha * v / (alpha**2 * v + sigma**2)
        found = gain * x
        found[0] += m - gain * alpha * m
        return found, sigma**2 * v / (alpha**2 * v + sigma**2) if with_var else 0.0

    units = (unit(2 + i, len(x)) for i in range(len(rows.t)))
    return np.transpose([(x[0], x[1:] @ x[1:]) for x in read(rows, posterior, x, units)])


def unit(i: int, size: int) -> np.ndarray:
    """The i-th unit vector."""
    found = np.zeros(size)
    found[i] = 1.0
    return found
