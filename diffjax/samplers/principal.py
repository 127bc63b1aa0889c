"""Adams along the data's principal axes: the flow of the data's Gaussian fit is exact, what is beyond it is stepped.

With u = x / alpha and n = sigma / alpha, let data have mean m and variances c_i along orthonormal axes, of mean s^2.
The Gaussian of these moments has E[x_0 | x]_i = m_i + c_i (u_i - m_i) / (n^2 + c_i); let R be what the model says
beyond that. In the angle phi = arctan(n / s) and r_i = (u_i - m_i) / sqrt(n^2 + c_i), the probability flow is

    dr_i / dphi = -y_i / sqrt(s^2 sin^2 phi + c_i cos^2 phi),    y = R sqrt(n^2 + s^2) / n.

On Gaussian data y = 0, and every step is exact; near pure noise all data looks Gaussian, so that y is known to be 0
where a walk starts, without asking the model. One variance for all axes makes this `trigflow`. y is a polynomial in phi
through its last p values (Adams-Bashforth), and the value that is found where this leads corrects the step before
serving the next one (Adams-Moulton, of order p + 1): as in UniPC, one evaluation a step.

That Gaussians explain the noisy half of sampling is Wang & Vastola's observation (2024), who start below it.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host, members
from diffjax.calculus import amplitudes, need_scalar
from diffjax.samplers import quadrature, table
from diffjax.samplers.base import Sampler, rows_of
from diffjax.types import Array, Denoiser, Key, Schedule

__all__ = ["adams"]  # what a config may name

FLOOR = 1e-6  # of a variance, in units of the mean one: entries that never vary are no axis of width 0
NEARLY_NOISE = 10.0  # n / s from which a walk may start without asking the model


class Axes(NamedTuple):
    """The mean and the covariance of data, by principal axes; `Axes.of(examples)` measures them.

    Attributes:
        mean: (d,), along the axes; of x's shape (or a scalar) without a basis.
        variances: of the same shape.
        basis: (d, d), the axes as columns; None: they are x's own entries.
    """

    mean: Any
    variances: Any
    basis: Any = None

    @classmethod
    def of(cls, examples: Any, diagonal: bool = False) -> "Axes":
        """Measures the moments of examples (n, *shape).

        Args:
            diagonal: a variance per entry and no basis: for examples too large for a (d, d) matrix, or too few for one.

        Raises:
            ValueError: for fewer than two examples, or entries that are not finite; without `diagonal`, for no more
                examples than entries, which leave axes along which nothing was seen to vary.
        """
        examples = np.asarray(examples, np.float64)
        if examples.ndim < 1 or len(examples) < 2 or not np.isfinite(examples).all():
            raise ValueError(f"Got examples of shape {examples.shape}, expected (n, *shape), n >= 2, all finite.")
        if not diagonal and len(examples) <= examples[0].size:
            raise ValueError(
                f"Got {len(examples)} examples of {examples[0].size} entries: too few for their principal axes; give "
                "more (three times as many, say), or diagonal=True."
            )
        if diagonal:
            return cls(examples.mean(0), examples.var(0))
        flat = examples.reshape(len(examples), -1)
        variances, basis = np.linalg.eigh(np.cov(flat.T, bias=True).reshape(flat.shape[1], -1))
        return cls(flat.mean(0) @ basis, np.maximum(variances, 0.0), basis)

    def save(self, path: str | Path) -> None:
        """Writes the axes to a file, .npz."""
        np.savez(path, **{name: value for name, value in self._asdict().items() if value is not None})

    @classmethod
    def load(cls, path: str | Path) -> "Axes":
        """Reads the axes that `save` wrote.

        Raises:
            ValueError: for a file that is not there, or holds something else.
        """
        written = "--mode=moments --workdir=RUN writes RUN/axes.npz"
        return cls(**members.tables(path, ("mean", "variances"), "axes", written, optional=["basis"]))


class AxisRow(NamedTuple):
    """The coefficients, per axis, of one evaluation, of the free first step before it if this row begins the walk, and
    of the update that follows. All but the time act on x along the axes.
    """

    t: Any
    lead_x: Any  # x <- lead_x x + lead_shift
    lead_shift: Any
    y_x: Any  # y = y_x x + y_mean E[x_0 | x] + y_shift
    y_mean: Any
    y_shift: Any
    x: Any  # x <- x x + shift + sum_k ys_k y_k
    shift: Any
    ys: Any  # (history, ...), newest first


def adams(
    schedule: Schedule, axes: Axes | str | Path | None = None, order: int = 2, free_start: bool = True
) -> Sampler:
    """Steps by Adams-Bashforth-Moulton what is beyond the data's Gaussian fit: for walks of few evaluations.

    A grid that suits it is `grids.angle(schedule, n, sigma_data=1.3 s, power=1.25)`: 0.7 for digits in [-1, 1]. An
    entry that never varies ends within 1e-3 s of its value. A walk that ends at sigma > 0 ends in x_t. In float32 order
    3 is 8.6e-4 off float64 after 1000 steps of log_snr(VP), for its last step extrapolates over many spacings.

    Args:
        axes: moments of the data, or the file that holds them.
        order: p of the predictor, 1 to 3; the corrector has order p + 1. The last step has none.
        free_start: y = 0 at the start, in place of an evaluation: N steps take N - 1 (one step takes one). Not for
            encoding, which starts at the data.

    Raises:
        ValueError: for another order, or a free_start that is not True or False; for moments that are missing, not
            finite, negative or not of one shape, or axes that are not orthonormal; (at planning) with free_start, if
            the walk starts at sigma < 10 alpha s; (where it runs) for examples of another shape than the moments.
    """
    order = host.check_order(order, (1, 2, 3))
    if not isinstance(free_start, bool):
        raise ValueError(f"free_start is {free_start!r}, expected True or False.")
    if not isinstance(axes, Axes | str | Path):
        raise ValueError(
            f"The axes are of type {type(axes).__name__}, expected `Axes.of(examples)`, or (sampler.axes) the file "
            "that --mode=moments --workdir=RUN writes, RUN/axes.npz."
        )
    axes = axes if isinstance(axes, Axes) else Axes.load(axes)
    mean, c, s = _checked(axes)

    def plan(ts: np.ndarray) -> AxisRow:
        alpha, sigma = amplitudes(schedule, ts)
        if alpha.ndim > 1:
            need_scalar(schedule, "A walk along principal axes")
        first = 1 if free_start and len(ts) > 2 else 0
        if first and sigma[0] < NEARLY_NOISE * alpha[0] * s:
            raise ValueError(
                f"The walk starts at sigma / alpha = {sigma[0] / alpha[0]:.4g}, but only from {NEARLY_NOISE * s:.4g} "
                "on is data of this size nearly noise: start there, or set free_start=False."
            )
        phi = np.arctan2(sigma, alpha * s)
        radius = [np.sqrt(b**2 + a**2 * c) for a, b in zip(alpha, sigma)]  # x / r
        stretch = [then / now for now, then in pairwise(radius)]  # of x - alpha m, by the Gaussian's flow
        moved = [(a, (alpha[i + 1] - a * alpha[i]) * mean) for i, a in enumerate(stretch)]
        lead = moved[0] if first else (np.ones_like(c), np.zeros_like(mean))
        add = lambda step, newest, p: _weights(phi, step, newest, p, c, s)
        rows = []
        for i in range(first, len(stretch)):
            ys = np.zeros((order + 1, *c.shape))
            ys[:-1] += add(i, i, order)
            if i:  # what led here is replaced by what the evaluation here says of it
                ys += add(i - 1, i, order + 1)
                ys[1:] -= add(i - 1, i - 1, order)
            own, size = alpha[i] / radius[i] ** 2, np.hypot(sigma[i], alpha[i] * s) / sigma[i]
            y = (-size * c * own, size, -size * (sigma[i] / radius[i]) ** 2 * mean)  # (principal.2)
            rows.append(AxisRow(ts[i], *lead, *y, *moved[i], radius[i + 1] * ys))
            lead = (np.ones_like(c), np.zeros_like(mean))
        return AxisRow(*map(np.stack, zip(*rows)))

    basis = None if axes.basis is None else np.asarray(axes.basis, np.float64)
    return Sampler(step, plan, jax.tree_util.Partial(Init(order + 1), basis), final, schedule, order + 1)


def lifted(sampler: Sampler, axes: Axes, history: int | None = None) -> Sampler:
    """Gives each axis its own numbers in the rows of a sampler of `table`: its walk as it was, until they are fitted.

    What a fit may then change from axis to axis are numbers of any linear sampler; `samplers.fitted` does it.

    Args:
        sampler: deterministic, with rows of `table`.
        axes: of the data.
        history: evaluations that a row may use, the newest included, at weight 0 beyond those of the sampler; None:
            as many as there.

    Raises:
        ValueError: for moments as in `adams`, a history shorter than the sampler's, or a sampler of another kind; (at
            planning) for rows that add noise.
    """
    _, c, _ = _checked(axes)
    if not isinstance(sampler.init, table.Init):
        raise ValueError("Only a sampler whose rows are those of `samplers.table` has numbers for axes to share.")
    own = sampler.init.history
    kept = own if history is None else host.check_int("history", history, own)

    def plan(ts: np.ndarray) -> AxisRow:
        rows = rows_of(sampler, ts)
        if np.any(rows.noise):
            raise ValueError("The sampler adds noise: along axes only a deterministic walk is planned.")
        each = lambda numbers: np.multiply.outer(numbers, np.ones_like(c))
        none = np.zeros((len(rows.t), *c.shape))
        ys = np.pad(rows.ys, ((0, 0), (0, kept - own)))
        return AxisRow(rows.t, none + 1, none, each(rows.y_x), each(rows.y_mean), none, each(rows.x), none, each(ys))

    basis = None if axes.basis is None else np.asarray(axes.basis, np.float64)
    begin = jax.tree_util.Partial(Init(kept), basis)
    return Sampler(step, plan, begin, final, sampler.schedule, sampler.order)


class State(NamedTuple):
    """What the walk remembers: x along the axes, what was beyond the Gaussian fit lately, newest first, and the axes.

    Attributes:
        along: (d,); of x's shape without a basis.
        ys: (history, *along.shape).
        basis: (*shape, d), the axes as examples of this shape; None: they are x's own entries.
    """

    along: Array
    ys: Array
    basis: Array | None

    @property
    def x(self) -> Array:
        """x itself, of the shape of an example."""
        return across(self.basis, self.along)


class Init(NamedTuple):
    """The function (basis, x_T) -> state, with room for `history` evaluations."""

    history: int

    def __call__(self, basis: Array | None, x: Array) -> State:
        if basis is not None:
            if len(basis) != x.size:
                raise ValueError(f"The sampler walks along {len(basis)} axes, but an example has shape {x.shape}.")
            basis = basis.astype(x.dtype).reshape(*x.shape, -1)
        turned = along(basis, x)
        return State(turned, jnp.zeros((self.history, *turned.shape), x.dtype), basis)


def step(model: Denoiser, key: Key, state: State, row: AxisRow) -> State:
    """Walks along one row: the model sees x itself, the row acts along the axes."""
    x, _, basis = state
    if np.shape(row.x) not in ((), x.shape):
        raise ValueError(f"The data's moments have shape {np.shape(row.x)}, but an example has shape {x.shape}.")
    x = row.lead_x * x + row.lead_shift
    y = row.y_x * x + row.y_mean * along(basis, model(across(basis, x), row.t).mean) + row.y_shift
    ys = jnp.concatenate([y[None], state.ys[:-1]])
    return State(row.x * x + row.shift + sum(weight * y for weight, y in zip(row.ys, ys)), ys, basis)


def final(model: Denoiser, state: State) -> Array:
    """Reads x_0 off the last state: it is x."""
    return state.x


def along(basis: Array | None, x: Array) -> Array:
    """Turns x into its entries along the axes, B^T x."""
    if basis is None:
        return x
    return jnp.matmul(basis.reshape(x.size, -1).T, x.ravel(), precision=jax.lax.Precision.HIGHEST)


def across(basis: Array | None, x: Array) -> Array:
    """Turns entries along the axes back into x, B x."""
    if basis is None:
        return x
    flat = basis.reshape(-1, basis.shape[-1])
    return jnp.matmul(flat, x, precision=jax.lax.Precision.HIGHEST).reshape(basis.shape[:-1])


def _weights(phi: np.ndarray, i: int, newest: int, order: int, c: np.ndarray, s: float) -> np.ndarray:
    """Integrates what y at levels newest, newest - 1, ... adds to r over the step from level i.

    Returns: (order, *c.shape); 0 for levels before the first.
    """
    levels = np.arange(newest, max(newest - order, -1), -1)
    width = phi[i + 1] - phi[i]
    at = phi[i + 1] - width * quadrature.SHARE  # from the end, where nodes crowd, without rounding
    # (principal.1)
    speed = np.sqrt(s**2 * np.multiply.outer(np.sin(at) ** 2, np.ones_like(c)) + np.multiply.outer(np.cos(at) ** 2, c))
    shares = quadrature.lagrange(phi[levels], at)
    out = np.zeros((order, *c.shape))
    out[: len(levels)] = np.tensordot(shares * (-width * quadrature.WEIGHTS), 1 / speed, 1)  # (principal.3)
    return out


def _checked(axes: Axes) -> tuple[np.ndarray, np.ndarray, float]:
    """Checks the axes; returns their mean, floored variances and s, in float64."""
    mean, variances = (np.asarray(a, np.float64) for a in axes[:2])
    s2 = variances.mean() if variances.size else 0.0
    if mean.shape != variances.shape or not (np.isfinite(mean).all() and np.all(variances >= 0) and 0 < s2 < np.inf):
        raise ValueError(
            f"Got a mean of shape {mean.shape} and variances of shape {variances.shape}, expected finite numbers of "
            "one shape, the variances not negative and not all 0; `Axes.of(examples)` measures them."
        )
    if axes.basis is not None:
        d, basis = variances.size, np.asarray(axes.basis, np.float64)
        if variances.ndim != 1 or basis.shape != (d, d) or not np.allclose(basis.T @ basis, np.eye(d), atol=1e-5):
            raise ValueError(
                f"Got a basis of shape {basis.shape} for variances of shape {variances.shape}, expected orthonormal "
                "columns (d, d) for (d,)."
            )
    return mean, np.maximum(variances, FLOOR * s2), float(np.sqrt(s2))
