"""Tables of coefficients fitted to one model, by gradients through the walk: a short walk that knows its flow.

A row of `table` or `principal` is a time at which the model is asked and a linear update; all of its numbers are
differentiable. From the rows theta of a known sampler on a grid, with X the end of the model's own probability flow,

    minimise log mean_x |walk_theta(x) - X(x)|^2                                                         (calibrated.3)

over starts x whose seeds no test sees: a solver with coefficients of its own at each step, as bespoke solvers are
(Shaul et al. 2023, 2024), on top of rows that are exact on the data's Gaussian fit. The last row is then refitted by
least squares, for which it is linear: one row on Gaussian data of one scale is exact. A part of the walks is held out
of the descent and chooses the step of it that is kept, which may be the first: then nothing was gained, and it is said.

Where a flow ends in a few points the slope of an end says nothing, and rows are fitted to its states (`fit_by_states`).

A fitted table serves its model alone; `Sampler.fitted_to` is that model's fingerprint, and another one is refused.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from diffjax import activity, calibrated, host
from diffjax.samplers import precision, principal, walks
from diffjax.samplers import table as linear
from diffjax.samplers.base import Sampler, rows_of
from diffjax.types import Array, Denoiser, PyTree, Schedule

__all__ = ["table"]  # what a config may name

FIELDS = tuple(dict.fromkeys([*linear.Row._fields, *principal.AxisRow._fields]))
HELD_OUT = 4  # every so many walks one is held out
KINDS: tuple[Any, ...] = (linear.Row, principal.AxisRow)  # rows that can be fitted
RIDGE = 1e-8  # of the last row's least squares, in units of the features' power


class Fit(NamedTuple):
    """Fitted rows, and what they make of walks that were held out of the descent.

    Attributes:
        rows: of the sampler's own kind, float64 on the host.
        before: the error of the sampler's own rows: root mean square distance from the ends, in units of the standard
            deviation of the ends.
        after: of the fitted rows; <= before.
    """

    rows: PyTree
    before: float
    after: float


def table(schedule: Schedule, file: str | Path | None = None, model: Denoiser | None = None) -> Sampler:
    """Makes the sampler of the tables in a file; the grid is `grids.calibrated` with that file.

    Args:
        file: that `save` has written.
        model: the model of the walks to come, compared at once; a run compares its own before each draw.

    Raises:
        ValueError: for no file, one of another schedule or model, or rows of no kind of sampler; (at planning) for
            another grid, or a number of steps that was not calibrated.
    """
    if file is None:
        raise ValueError(f"A fitted table needs the file that holds it, sampler.file; {calibrated.MADE}.")
    kept = calibrated.read(file, schedule, FIELDS)
    kinds = {_names(kind): kind for kind in KINDS}
    of = {kinds.get(frozenset(found.rows)) for found in kept.tables.values()}
    if len(of) != 1 or None in of:
        raise ValueError(f"{str(file)!r} holds rows of no sampler that can be fitted; {calibrated.MADE}.")
    if model is not None:
        kept.model.check(model)
    kind: Any = of.pop()

    def plan(ts: np.ndarray) -> PyTree:
        alike = [n for n, (own, _) in kept.tables.items() if len(own) == len(ts) and np.allclose(own, ts, atol=1e-9)]
        if not alike:
            there = ", ".join(map(str, kept.tables))
            raise ValueError(
                f"The grid of {len(ts) - 1} steps is none that {str(file)!r} was calibrated on: take grids.calibrated "
                f"(grid.name=calibrated, grid.file) with that file, and {there} as grid.n (--nfe)."
            )
        return kind(**kept.tables[alike[0]].rows)

    history = {len(found.rows["ys"][0]) for found in kept.tables.values()}
    if len(history) != 1:
        raise ValueError(f"The tables in {str(file)!r} look back over {history} evaluations, expected one number.")
    first: Any = linear.Init(history.pop())
    if kind is principal.AxisRow:
        first = Partial(principal.Init(first.history), kept.basis)
    step = principal.step if kind is principal.AxisRow else linear.step
    return Sampler(
        step, plan, first, linear.final if kind is linear.Row else principal.final, schedule, 1, False, kept.model
    )


def save(path: str | Path, schedule: Schedule, model: Denoiser, shape: tuple[int, ...], fits: dict[int, Any]) -> None:
    """Writes tables for one model to a file, .npz.

    Args:
        shape: of an example.
        fits: evaluations -> (grid, sampler that was fitted, its fitted rows).

    Raises:
        ValueError: for rows of no kind that can be fitted, or tables of unlike samplers.
    """
    tables, bases = {}, []
    for n, (ts, sampler, rows) in fits.items():
        if _names(type(rows)) not in map(_names, KINDS):
            raise ValueError(f"Got rows of {type(rows).__name__}, expected those of a linear multistep sampler.")
        bases.append(sampler.init.args[0] if isinstance(sampler.init, Partial) else None)
        tables[n] = calibrated.Table(np.asarray(ts, np.float64), rows._asdict())
    if any((basis is None) != (bases[0] is None) for basis in bases):
        raise ValueError("Got tables with axes and without, expected those of one sampler.")
    calibrated.write(path, calibrated.Kept(tables, calibrated.Fingerprint.of(model, shape), bases[0]), schedule)


@activity.doing("fitting a table")
def fit(
    sampler: Sampler,
    ts: Any,
    model: Denoiser,
    x: Array,
    ends: Array,
    steps: int = 300,
    batch: int = 64,
    rate: float = 3e-3,
    seed: int = 0,
    axes: bool | int = True,
    variances: Any = None,
) -> Fit:
    """Fits the rows of a sampler on a grid so that its walks end where the flow does.

    Args:
        sampler: deterministic, with rows of `table` or `principal`.
        model: the denoiser whose flow it is, a pytree.
        x: starts, (n, *shape), n >= 8.
        ends: of the flow from there, (n, *shape).
        steps: of the descent; 0: the last row alone is refitted.
        batch: walks a step.
        rate: of Adam at first, in units of each number's own size; it falls to 0 as a cosine. Slopes are cut to a norm
            of 1: a few walks may end far away.
        seed: of the batches.
        axes: in what a number changes from axis to axis, where rows have axes. True: each has its own change: most to
            gain, and to learn by heart from few walks. k: a polynomial of degree k - 1 in the logarithm of the axis's
            variance. False: one change for all. The last row is refitted for True alone.
        variances: of the data along the axes, of the shape of an axis's numbers; where axes is more than 1.

    Raises:
        ValueError: for a sampler whose rows are of another kind or add noise; starts and ends of unlike shapes, too
            few, or not finite; polynomials without the variances they are of.
    """
    first, x, ends = rows_of(sampler, ts), precision.widened(x), precision.widened(ends, "The ends")
    _need_walks(first, x, ends)
    steps, batch = host.check_int("steps", steps, 0), host.check_int("batch", batch, 1)
    smooth = jnp.asarray(_polynomials(first, axes, variances), x.dtype)
    held = np.arange(len(x)) % HELD_OUT == 0
    seen = np.flatnonzero(~held)
    t_max = np.inf if sampler.schedule is None else float(sampler.schedule.t_max)
    base = precision.like(jax.tree.map(jnp.asarray, first), x)
    units, scale = _units(sampler, base, model, x[held]), jnp.sqrt(jnp.mean(jnp.var(ends, axis=0)))

    def spread(own: Array | None, shared: Array) -> Array:
        if own is not None and own.shape == shared.shape:
            return own + shared
        return jnp.tensordot(shared, smooth, 1) + (0.0 if own is None else own)

    def rows(change: PyTree) -> PyTree:
        moved = {name: getattr(base, name) + units[name] * spread(*parts) for name, parts in change.items()}
        moved["t"] = jnp.minimum(base.t * jnp.exp(change["t"][0]), t_max)
        return base._replace(**moved)

    planned = jax.jit(rows)
    undo = jax.jit(lambda change, pull: jax.vjp(rows, change)[1](pull)[0])

    @jax.jit
    def loss(x: Array, ends: Array) -> Array:
        return 0.5 * jnp.log(jnp.mean(((x - ends) / scale) ** 2) + jnp.finfo(x.dtype).eps ** 2)  # (calibrated.3)

    def slope(change: PyTree, x: Array, ends: Array) -> PyTree:
        _, pull = walks.pulled(sampler, planned(change), model, x, lambda x: loss(x, ends))
        return undo(change, pull)

    error = lambda change: float(jnp.exp(loss(walks.walked(sampler, planned(change), model, x[held]), ends[held])))
    change: PyTree = {name: _unchanged(name, getattr(base, name), axes) for name in units}
    before, rng = error(change), np.random.default_rng(seed)
    some = lambda: rng.choice(seen, min(batch, len(seen)), replace=False)
    step = lambda change: slope(change, x[at := some()], ends[at])
    best, kept = _descended(step, error, change, before, steps, rate)
    found = jax.tree.map(lambda a: np.asarray(a, np.float64), rows(kept))
    if axes is not True and found.x.ndim > 1:
        return Fit(found, before, best)
    last = _refitted(sampler, precision.like(jax.tree.map(jnp.asarray, found), x), model, x[seen], ends[seen])
    end = walks.walked(sampler, precision.like(jax.tree.map(jnp.asarray, last), x), model, x[held])
    again = float(jnp.sqrt(jnp.mean((end - ends[held]) ** 2)) / scale)
    return Fit(last, before, again) if again < best else Fit(found, before, best)


def _descended(slope: Any, error: Any, change: PyTree, before: float, steps: int, rate: float) -> tuple[float, PyTree]:
    """Descends by Adam along slopes of batches; gives the least error that was seen, and the change that had it.

    Args:
        slope: change -> its slope on a batch.
        error: change -> its error on what is held out, looked at ten times.
        before: the error of the change as it is.
    """
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, max(steps, 1))))

    @jax.jit
    def descend(change: PyTree, slope: PyTree, state: Any) -> tuple[PyTree, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies integer counts by floats
            updates, state = adam.update(jax.tree.map(jnp.nan_to_num, slope), state)
        return optax.apply_updates(change, updates), state

    state, best, kept = adam.init(change), before, change
    for i in range(steps):
        change, state = descend(change, slope(change), state)
        if (i + 1) % max(steps // 10, 1) == 0 and (found := error(change)) < best:
            best, kept = found, change
    return best, kept


def fit_by_states(
    sampler: Sampler, ts: Any, model: Denoiser, x: Array, ends: Array, states: Array, **effort: Any
) -> Fit:
    """Fits the rows before the last one to states of the flow, then the last row to the ends, by least squares.

    For flows that end in a few points (data's own examples, under their exact denoiser): the slope of an end by a row
    is 0, or huge where the walk nearly ends in another point, and a descent on ends learns nothing. A state where the
    last evaluation is made still moves smoothly with the rows. The last row has its own numbers for each axis.

    Args:
        ends: of the flow from the starts x, (n, *shape).
        states: of the flow at ts[-2], (n, *shape).
        effort: `steps`, `batch`, `rate`, `seed`, `axes` and `variances` of `fit`, for the rows before the last.

    Raises:
        ValueError: as `fit`; for a walk of one evaluation, or one whose last evaluation is not at ts[-2].
    """
    ts, first = np.asarray(ts, np.float64), rows_of(sampler, ts)
    _need_walks(first, precision.widened(x), precision.widened(ends, "The ends"))
    if len(first.t) < 2 or not np.isclose(first.t[-1], ts[-2]):
        raise ValueError(
            f"Got a walk of {len(first.t)} evaluations, the last at t = {first.t[-1]:.6g}: expected 2 or more, the "
            f"last at ts[-2] = {ts[-2]:.6g}, where the states are."
        )
    before = sampler._replace(plan=lambda ts: jax.tree.map(lambda a: np.asarray(a)[:-1], first))
    led = fit(before, ts[:-1], model, x, states, **effort).rows
    rows = jax.tree.map(lambda led, own: np.concatenate([led, np.asarray(own)[-1:]]), led, first)
    begun = fit(sampler, ts, model, x, ends, steps=0)
    found = fit(sampler._replace(plan=lambda ts: rows), ts, model, x, ends, steps=0)
    return Fit(found.rows, begun.before, found.after) if found.after < begun.after else begun


def _need_walks(rows: PyTree, x: Array, ends: Array) -> None:
    """Checks that rows can be fitted to walks from x to the ends.

    Raises:
        ValueError: as `fit`.
    """
    if _names(type(rows)) not in map(_names, KINDS):
        raise ValueError(f"Got rows of {type(rows).__name__}, expected those of a linear multistep sampler.")
    if np.any(getattr(rows, "noise", 0.0)):
        raise ValueError("The sampler adds noise: only a deterministic walk can end where the flow does.")
    if x.shape != ends.shape or len(x) < 8 or not bool(jnp.isfinite(ends).all()):
        raise ValueError(f"Got starts {x.shape} and ends {ends.shape}, expected at least 8 of one shape, all finite.")


def _names(kind: Any) -> frozenset[str]:
    return frozenset(getattr(kind, "_fields", ()))


def _unchanged(name: str, part: Array, axes: bool | int) -> tuple[Array | None, Array]:
    """Makes the zeros of both changes of a number: each entry's own, None if there is none, and what entries share."""
    lead = part.shape[: 2 if name == "ys" else 1]
    if len(lead) == part.ndim:
        return jnp.zeros_like(part), jnp.zeros_like(part)
    shared = jnp.zeros((*lead, 1 if isinstance(axes, bool) else axes), part.dtype)
    return jnp.zeros_like(part) if axes is True else None, shared


def _polynomials(rows: PyTree, axes: bool | int, variances: Any) -> np.ndarray:
    """Computes Legendre's polynomials of degree < k, (k, *entries), in the logarithm of each axis's variance.

    The logarithm is laid on [-1, 1]; entries that never vary have the least variance that `principal` takes.

    Raises:
        ValueError: as `fit`.
    """
    k, entries = (1 if isinstance(axes, bool) else host.check_int("axes", axes)), np.shape(rows.x)[1:]
    if k == 1 or not entries:
        return np.ones((k, *entries))
    if variances is None or np.shape(variances) != entries or not np.all(np.asarray(variances) >= 0):
        raise ValueError(
            f"Polynomials of degree {k - 1} need the variances that they are of: got "
            f"{'none' if variances is None else f'an array of shape {np.shape(variances)}'}, expected {entries}, none "
            "of them negative; the `Axes` of the sampler have them."
        )
    logs = np.log(np.maximum(variances, principal.FLOOR * np.mean(variances)))
    place = 2 * (logs - logs.min()) / max(np.ptp(logs), 1e-12) - 1
    return np.moveaxis(np.polynomial.legendre.legvander(place, k - 1), -1, 0)


def _units(sampler: Sampler, rows: PyTree, model: Denoiser, x: Array) -> dict[str, Array]:
    """Finds in which units each number of the rows is changed: its own size, or the size of x that it adds to."""
    _, *states = walks.states(sampler, rows, model, x)
    seen = [x, *(jax.vmap(lambda state: state.x, (walks.axis_of(state),))(state) for state in states)]
    size = jnp.sqrt(jnp.stack([jnp.mean(x**2) for x in seen]))
    after = lambda part: size[1:].reshape(-1, *(1,) * (part.ndim - 1))
    own = {name: jnp.abs(getattr(rows, name)) for name in rows._fields if name not in ("noise", "y_shift", "ys", "x")}
    own["ys"] = jnp.broadcast_to(jnp.abs(rows.ys).max(1, keepdims=True), rows.ys.shape)
    ratio = size[1:] / size[:-1]
    own["x"] = jnp.ones_like(rows.x) * ratio.reshape(-1, *(1,) * (rows.x.ndim - 1))
    for name in ("shift", "lead_shift"):
        if name in own:
            own[name] = jnp.ones_like(own[name]) * (after(own[name]) if name == "shift" else size[0])
    if "lead_x" in own:  # of the first row alone: the others have no step before them
        for name in ("lead_x", "lead_shift"):
            own[name] = own[name].at[1:].set(0.0)
    return own


def _refitted(sampler: Sampler, rows: PyTree, model: Denoiser, x: Array, ends: Array) -> PyTree:
    """Refits the last row's update by least squares: for each axis where rows have axes, else for all entries."""
    last = jax.tree.map(lambda a: a[-1], rows)
    shifts, each = hasattr(last, "shift"), np.ndim(last.x) > 0

    def one(state: PyTree, ys: Array, end: Array) -> tuple[Array, Array]:
        if not shifts:
            return jnp.stack([state.x, *ys]), end
        before = last.lead_x * state.along + last.lead_shift
        return jnp.stack([before, *ys, jnp.ones_like(before)]), principal.along(state.basis, end)

    *_, before, after = walks.states(sampler, rows, model, x)
    seen, goal = (
        np.asarray(a, np.float64) for a in jax.jit(jax.vmap(one, (walks.axis_of(before), 0, 0)))(before, after.ys, ends)
    )
    entries, k = goal[0].shape if each else (), seen.shape[1]
    columns = int(np.prod(entries))
    pieces = np.moveaxis(seen, 1, 0).reshape(k, -1, columns)
    gram = np.einsum("kne,lne->ekl", pieces, pieces)
    right = np.einsum("kne,ne->ek", pieces, goal.reshape(-1, columns))
    power = np.einsum("ekk->ek", gram)
    diagonal = RIDGE * power + (power == 0)  # a history that the walk does not have stays at weight 0
    weights = np.linalg.solve(gram + diagonal[:, :, None] * np.eye(k), right[..., None])[..., 0].T.reshape(k, *entries)
    changed = {"x": weights[0], "ys": weights[1:-1] if shifts else weights[1:]}
    if shifts:
        changed["shift"] = weights[-1]
    whole = jax.tree.map(lambda a: np.array(a, np.float64), rows)
    for name, value in changed.items():
        getattr(whole, name)[-1] = value
    return whole
