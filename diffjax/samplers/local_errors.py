"""Local errors of a sampler's steps, measured on a model: what a grid is chosen by (`calibrated.shortest`).

A fine walk along candidate times gives states x_j of the model's own flow, and means E[x_0 | x_j]. A sampler planned on
two candidates, or on three, goes from the first of them to the last with the means known there, without asking the
model; the distance e from the flow's state is the local error of that step, with the step before it for its history.
What it does to the end is J_j e, J_j the flow's derivative from there. With random signs u for each walk, one gradient
of u . x_0 gives all u^T J_j, and

    c(i, j)^2 = mean over walks of (u^T J_j e_ij)^2 = mean |J_j e_ij|^2                             (calibrated.2)

without a (d, d) matrix. Without history the sum of the c bounds the root mean square error at the end to first
order (triangle); with history it stands for it: a cost is of two steps, the first of which has no past.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffjax import activity, calibrated, grids, host
from diffjax.samplers import multistep, precision
from diffjax.samplers.base import Sampler, rows_of
from diffjax.types import Array, Denoiser, Schedule


class Flow(NamedTuple):
    """Walks along the probability flow of a model, seen at candidate times.

    Attributes:
        ts: candidates, (M + 1,), from noise to data.
        x: states, (M + 1, n, *shape).
        means: E[x_0 | x], (M, n, *shape), at all but the last.
        pulls: u^T dx_0 / dx, (M + 1, n, *shape), u of random signs for each walk.
    """

    ts: np.ndarray
    x: np.ndarray
    means: np.ndarray
    pulls: np.ndarray


@activity.doing("measuring the flow")
def flow(model: Denoiser, schedule: Schedule, x: Array, ts: Any, fine: int = 4, seed: int = 0, batch: int = 32) -> Flow:
    """Walks along the flow by exponential Adams of order 3, begun anew at each candidate, and back for derivatives.

    Args:
        model: a pytree.
        x: starts, (n, *shape).
        ts: candidates, (M + 1,), decreasing.
        fine: steps between two candidates: M fine evaluations a walk, and as many gradients.
        seed: of u.
        batch: walks at a time.

    Raises:
        ValueError: as `sampling_fn`, for starts of no walks, or fine < 1.
    """
    x, ts, fine = precision.widened(x), grids.check(ts, float(schedule.t_max)), host.check_int("fine", fine)
    host.check_int("batch", batch)
    if x.ndim < 1 or not len(x):
        raise ValueError(f"Got starts of shape {x.shape}, expected (n, *shape), n >= 1.")
    # Even in t^(1/4): the last of the steps to t = 0, which is of order one, is a short one.
    inner = [np.linspace(a**0.25, b**0.25, fine + 1)[1:-1] ** 4 for a, b in pairwise(ts)]
    sampler = multistep.adams(schedule, 3)
    planned = [rows_of(sampler, np.r_[a, some, b]) for (a, b), some in zip(pairwise(ts), inner)]
    rows = precision.like(jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts)), *planned), x)
    signs = np.sign(np.random.default_rng(seed).standard_normal(x.shape))

    def one(model: Denoiser, x: Array, part: Any) -> Array:
        """Walks to the next candidate time, in unrolled steps."""  # convolutions are slow in a loop on a CPU
        step = lambda state, row: (sampler.step(model, jax.random.key(0), state, row), None)
        return jax.lax.scan(step, sampler.init(x), part, unroll=fine <= 8)[0].x

    ahead = jax.vmap(one, in_axes=(None, 0, None))
    on = jax.jit(ahead)
    back = jax.jit(lambda model, x, part, pull: jax.vjp(lambda x: ahead(model, x, part), x)[1](pull)[0])
    ask = jax.jit(lambda model, x, t: jax.vmap(lambda x: model(x, t).mean)(x))
    parts, found = [jax.tree.map(lambda a, k=k: a[k], rows) for k in range(len(ts) - 1)], []
    for i in range(0, len(x), batch):
        states, pulls = [x[i : i + batch]], [jnp.asarray(signs[i : i + batch], x.dtype)]
        for part in parts:
            states.append(on(model, states[-1], part))
        for state, part in zip(states[-2::-1], parts[::-1]):
            pulls.append(back(model, state, part, pulls[-1]))
        means = [ask(model, state, jnp.asarray(t, x.dtype)) for state, t in zip(states[:-1], ts)]
        found.append([np.stack([np.asarray(a, np.float64) for a in each]) for each in (states, means, pulls[::-1])])
    return Flow(ts, *(np.concatenate(each, 1) for each in zip(*found)))


@activity.doing("measuring local errors")
def costs(flow: Flow, begins: Sampler, goes_on: Sampler | None = None, least: float = 0.0) -> tuple[Any, Any]:
    """Measures the local errors of all steps between candidates, for `calibrated.shortest`.

    With history a cost is that of two steps, of which the first one begins in the flow's own state: what the first step
    of a walk does wrong stands in the cost of its second one.

    Args:
        begins: takes the steps from the first candidate, and all steps if nothing else does.
        goes_on: takes a step with the step before it as history; None: `begins` takes all, without history.
        least: added to each cost; what rounding leaves of a step that is exact.

    Returns:
        ((M + 1, M + 1), (M + 1, M + 1, M + 1) or None), root mean squares in the units of x_0, infinite where there is
        no step.
    """
    count = len(flow.ts)
    first = np.where(np.arange(count)[:, None] < np.arange(count), least, np.inf)
    if goes_on is None:
        for i in range(count - 1):
            for j in range(i + 1, count):
                first[i, j] += _error(flow, begins, (i, j))
        return first, None
    after = np.full((count,) * 3, np.inf)
    for h in range(count - 2):
        for i in range(h + 1, count - 1):
            for j in range(i + 1, count):
                after[h, i, j] = least + _error(flow, goes_on if h else begins, (h, i, j))
    return first, after


def cheapest(found: tuple[Any, Any], n: int) -> np.ndarray:
    """Finds the candidates, (n + 1,) indices, of the grid of n steps whose `costs` are least in sum."""
    return calibrated.shortest(found[0], n, found[1])


def _error(flow: Flow, sampler: Sampler, at: tuple[int, ...]) -> float:
    """Measures |J e| at the last candidate of `at`, of a walk from the first of them with the means known there."""
    rows = sampler.plan(flow.ts[list(at)])
    turn = basis_of(sampler)
    x, ys = turn(flow.x[at[0]]), []
    for k in range(len(rows.t)):
        row = type(rows)(*(part[k] for part in rows))
        if hasattr(row, "lead_x"):
            x = row.lead_x * x + row.lead_shift
        mean = turn(flow.means[at[k + len(at) - 1 - len(rows.t)]])
        ys = [row.y_x * x + row.y_mean * mean + getattr(row, "y_shift", 0.0), *ys]
        x = row.x * x + getattr(row, "shift", 0.0) + sum(c * y for c, y in zip(row.ys, ys))
    pushed = turn(flow.pulls[at[-1]]) * (x - turn(flow.x[at[-1]]))
    return float(np.sqrt(np.mean(pushed.reshape(len(pushed), -1).sum(1) ** 2)))  # (calibrated.2)


def basis_of(sampler: Sampler) -> Callable[[np.ndarray], np.ndarray]:
    """Makes the function that turns examples (n, *shape) into the entries that a sampler's rows act on."""
    basis = sampler.init.args[0] if isinstance(sampler.init, Partial) and sampler.init.args else None
    if basis is None:
        return lambda x: x
    return lambda x: x.reshape(len(x), -1) @ np.asarray(basis)
