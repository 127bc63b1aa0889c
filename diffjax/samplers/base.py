"""A sampler is four pure functions and a schedule; `sampling_fn` scans them along a time grid.

Coefficients are computed once, on the host, in float64 (`plan`). A step sees numbers, not schedules: all it needs
stands in its row, so it is branch-free, and one compile serves every grid and strength of one length, and every
schedule of one class (the model carries it).
Where a method is a walk of single evaluations (all but the adaptive ODE), a row is ONE call
of the model: the number of rows is the NFE.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffjax import calculus, grids, host
from diffjax.samplers import precision
from diffjax.types import Array, Denoiser, Key, PyTree, Schedule


def _start(x: Array) -> Array:
    return x


def _finish(model: Any, state: Array) -> Array:
    return state


class Sampler(NamedTuple):
    """An algorithm. `step`, `init` and `final` are module-level functions (or hashable values), so that two samplers
    of one kind share one compile; what differs between them stands in the rows.

    Attributes:
        step: (model, key, state, row) -> state, for one example.
        plan: host grid (N + 1,) float64 -> rows: a named tuple of NumPy arrays with one leading axis. Fields whose
            names begin with "noise" say how much noise is added.
        init: x_T -> state. The arguments of a `jax.tree_util.Partial` are leaves as rows are: what the whole walk needs
            beside its rows (a matrix, say) goes from there into the state.
        final: (model, state) -> x_0.
        schedule: what the rows are planned for; a model made for another one is refused. None: no check.
        order: of the formula inside a walk, with an exact history (a walk may be of a lower one by its start or its
            end); for a random sampler the weak order, that of means and variances. None: it has none.
        tokens: whether x is of tokens, int32 in the walk, and the model says a law over them.
        fitted_to: the `calibrated.Fingerprint` of the one model that its rows are fitted to; None: they serve any.
    """

    step: Callable[..., PyTree]
    plan: Callable[[np.ndarray], PyTree]
    init: Callable[[Array], PyTree] = _start
    final: Callable[[Any, PyTree], Array] = _finish
    schedule: Schedule | None = None
    order: int | None = None
    tokens: bool = False
    fitted_to: Any = None


class _Scan(NamedTuple):
    """The static part of a sampling function: compares equal for every schedule, grid and strength."""

    step: Callable
    init: Callable | None  # None: it has leaves, and is an argument
    final: Callable
    trace: Callable | None
    tokens: bool

    def __call__(self, rows: PyTree, schedule: Schedule | None, *args: Any) -> Any:
        *init, model, key, given = args if self.init is None else (self.init, *args)
        x, rows, *init, model = _in_one_precision(self.tokens, schedule, model, given, rows, *init)

        def body(state: PyTree, indexed_row: Any) -> Any:
            index, row = indexed_row
            state = self.step(model, jax.random.fold_in(key, index), state, row)
            return state, (self.trace(state) if self.trace else None)

        count = jax.tree.leaves(rows)[0].shape[0]
        state, trajectory = jax.lax.scan(body, init[0](x), (jnp.arange(count), rows))
        x = _as_given(self.tokens, schedule, model, self.final(model, state), given)
        return (x, trajectory) if self.trace else x


class _PaddedScan(NamedTuple):
    """The static part of a sampling function along the first `count` rows, a number known only at run time."""

    step: Callable
    init: Callable | None
    final: Callable
    tokens: bool

    def __call__(self, rows: PyTree, schedule: Schedule | None, count: Array, *args: Any) -> Any:
        *init, model, key, given = args if self.init is None else (self.init, *args)
        x, rows, *init, model = _in_one_precision(self.tokens, schedule, model, given, rows, *init)

        def body(index: Array, state: PyTree) -> PyTree:
            row = jax.tree.map(lambda column: column[index], rows)
            return self.step(model, jax.random.fold_in(key, index), state, row)

        x = self.final(model, jax.lax.fori_loop(0, count, body, init[0](x)))
        return _as_given(self.tokens, schedule, model, x, given)


def _in_one_precision(tokens: bool, schedule: Schedule | None, model: Any, x: Any, *planned: PyTree) -> tuple[Any, ...]:
    """Makes (x, *planned, model) of the precision of the state: what a walk starts with."""
    x = precision.whole(x) if tokens else precision.widened(x)
    x = refuse_other_schedules(schedule, model, x)
    return x, *precision.like(planned, x), precision.Steady(model)


def _as_given(tokens: bool, schedule: Schedule | None, model: Any, found: Array, x: Any) -> Array:
    """Makes x_0 of the type of x_T: what a walk ends with; tokens, which carry no NaN along, are marked here."""
    found = refuse_other_schedules(schedule, model, found) if tokens else found
    return precision.narrowed(found, x)


def sampling_fn(sampler: Sampler, ts: Any, trace: Callable | None = None, max_rows: int | None = None) -> Partial:
    """Makes `sample(model, key, x_T) -> x_0`, the walk along a grid, for one example; `vmap` it over (key, x_T).

    The result is a `jax.tree_util.Partial` whose leaves are the rows: pass it to a jitted function as an argument, and
    another grid, another strength or other numbers in the schedule run without a new compile, if the walk is as long.
    Another class of schedule is another program (the model carries it), as are another step and another order.

    x_T is of any floating-point type, and so is x_0, of the same; the state between, which `trace` sees and the model
    is shown, is float32, or float64 where x_T is (`precision`). The model may answer in any precision. Of a sampler of
    tokens x_T is of any integer type, and the state int32.

    Args:
        sampler: an algorithm, with its schedule.
        ts: decreasing times (N + 1,), from a function in `grids`.
        trace: state -> anything; then `sample` returns (x_0, trajectory), stacked over the rows.
        max_rows: pads the rows to this number, so that one compile serves every length up to it. Only the true rows
            are run (by a loop of variable length, which has no reverse-mode gradient and no trajectory).

    Raises:
        ValueError: as `rows_of`; if there are more rows than max_rows, or both trace and max_rows.
    """
    planned = rows_of(sampler, ts)
    init, *leaves = (None, sampler.init) if isinstance(sampler.init, Partial) else (sampler.init,)
    put = jax.device_put  # jnp.asarray would compile a program for every new shape
    if max_rows is None:
        scan = _Scan(sampler.step, init, sampler.final, trace, sampler.tokens)
        return Partial(scan, put(planned), sampler.schedule, *put(leaves))
    count = jax.tree.leaves(planned)[0].shape[0]
    if trace is not None:
        raise ValueError("A walk padded to max_rows keeps no trajectory: give trace or max_rows, not both.")
    if count > max_rows:
        raise ValueError(f"The walk has {count} rows, expected at most max_rows = {max_rows}.")
    fill = lambda a: np.concatenate([a, np.repeat(a[-1:], max_rows - count, 0)])
    scan = _PaddedScan(sampler.step, init, sampler.final, sampler.tokens)
    return Partial(scan, put(jax.tree.map(fill, planned)), sampler.schedule, put(np.int32(count)), *put(leaves))


def rows_of(sampler: Sampler, ts: Any) -> PyTree:
    """Plans the rows of a walk along a grid, and looks at them.

    Raises:
        ValueError: if the grid is not finite, decreasing, inside the schedule's domain, or does not suit the sampler;
            if the sampler adds noise where only the flow is right (`calculus.FlowOnly`), or other noise than the
            reverse SDE's where only that is (`calculus.SDEOnly`); if a row is not finite, as where a method steps in
            what is infinite at an end of the grid.
    """
    if not isinstance(sampler, Sampler) or isinstance(sampler.schedule, type):
        got = "of a class" if isinstance(sampler, Sampler) else getattr(sampler, "__name__", type(sampler).__name__)
        raise ValueError(f"Got a sampler {got}, expected one of a schedule, such as samplers.ancestral.ddim(VP()).")
    end = None if sampler.schedule is None else float(sampler.schedule.t_max)
    ts = grids.check(ts, end)
    with np.errstate(all="ignore"):  # what comes of it is looked at
        planned = sampler.plan(ts)
    _refuse_clock(sampler.schedule, planned)
    _refuse_noise(sampler.schedule, planned)
    _refuse_other_sde(sampler.schedule, ts, planned)
    for path, column in jax.tree_util.tree_leaves_with_path(planned):
        column = np.asarray(column)
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            i = np.argwhere(~np.isfinite(column))[0]
            raise ValueError(
                f"Row {i[0]} of {len(column)} has {jax.tree_util.keystr(path)} = {column[tuple(i)]} on the grid from "
                f"t = {ts[0]:g} to {ts[-1]:g}: the sampler is not finite there; move that end inwards."
            )
    return planned


def starts_too_early(why: str, instead: str | None = None) -> ValueError:
    """Makes the error of a grid whose first time a method cannot start from, which is infinite there.

    Args:
        why: the method cannot, as the beginning of a sentence with the time in it.
        instead: what else there is to do, as the end of that sentence.
    """
    return ValueError(f"{why}; start the grid below it (t_max)" + (f", or {instead}." if instead else "."))


def _refuse_clock(schedule: Schedule | None, rows: Any) -> None:
    """Refuses a `calculus.Clock`, which has no x_t = alpha x_0 + sigma z to step by, unless rows are times alone."""
    if calculus.clock_only(schedule) and "share" not in rows._fields:
        raise ValueError(
            "This sampler steps by alpha and sigma of a schedule, but a degradation has a clock alone; take one of the "
            "process: samplers.unified(process, estimate='mean'), share 0 (improved) or 1 (naive)."
        )


def _refuse_noise(schedule: Schedule | None, rows: Any) -> None:
    if not calculus.flow_only(schedule):
        return
    if any(name.startswith("noise") and np.any(np.asarray(getattr(rows, name)) != 0) for name in rows._fields):
        calculus.need_gaussian(
            schedule,
            "This sampler adds Gaussian noise",
            "take a deterministic one: eta = 0, no churn, ode.probability_flow, heun.edm, any of multistep",
        )


def _refuse_other_sde(schedule: Schedule | None, ts: np.ndarray, rows: Any) -> None:
    """Refuses noise other than the reverse SDE has, exact or of an Euler step, on a schedule that allows no other."""
    if schedule is None or not calculus.sde_only(schedule):
        return
    (alpha_t, alpha_s), (sigma_t, sigma_s) = ((a[:-1], a[1:]) for a in calculus.amplitudes(schedule, ts))
    kept = np.where(sigma_t > 0, (alpha_t * sigma_s / (alpha_s * np.where(sigma_t > 0, sigma_t, 1.0))) ** 2, 0.0)
    exact, n = sigma_s**2 * (1 - kept), len(ts) - 1
    found = rows.noise_var if hasattr(rows, "noise_var") else np.square(getattr(rows, "noise", np.zeros(n)))
    right = len(found) >= n and not np.any(found[n:])
    if right and not np.allclose(found[:n], exact, rtol=1e-6, atol=0):
        right = np.allclose(
            found[:n], -np.diff(ts) * host.along(calculus.rates, schedule, ts[:-1])[1], rtol=1e-6, atol=0
        )
    if not right:
        raise ValueError(
            "This sampler does not add the noise of the reverse SDE, which alone is right where a Markov process was "
            "fitted to pairs: take sampler.name=ancestral.ddpm (DDIM with eta = 1), sde.euler_maruyama with churn = 1 "
            "below t_max, or multistep.adams with tau = 1."
        )


def in_turn(first: Partial, then: Partial) -> Partial:
    """Joins two sampling functions: `then` starts where `first` arrives. The trajectory is that of `then`."""
    return Partial(_in_turn, first, then)


def _in_turn(first: Callable, then: Callable, model: Any, key: Key, x: Array) -> Any:
    key_first, key_then = jax.random.split(key)
    found = then(model, key_then, first(model, key_first, precision.widened(x)))
    return precision.narrowed(found, x)


def nfe(sample: Partial) -> int:
    """Counts the rows of a sampling function: its model evaluations, for single-evaluation samplers."""
    if sample.func is _in_turn:
        return sum(map(nfe, sample.args))
    return int(sample.args[2]) if isinstance(sample.func, _PaddedScan) else jax.tree.leaves(sample.args[0])[0].shape[0]


def check_schedule(sampler_schedule: Schedule | None, model: Any) -> None:
    """Refuses a model made for another schedule than the sampler was planned for.

    Raises:
        ValueError: if the model carries none, or another one (its class or its numbers differ).
    """
    if sampler_schedule is None:
        return
    carried = getattr(model, "schedule", None)
    if carried is None:
        raise ValueError(
            f"The sampler is planned for {type(sampler_schedule).__name__}, but the model carries no schedule; "
            "give a denoiser with a `schedule` attribute (denoisers.denoiser, analytic targets' `.denoiser(schedule)`)."
        )
    agreed = calculus.same(sampler_schedule, carried)
    if not isinstance(agreed, jax.core.Tracer) and not agreed:
        raise ValueError(f"The sampler is planned for {sampler_schedule}, but the denoiser was made for {carried}.")


def refuse_other_schedules(schedule: Schedule | None, model: Any, x: Array) -> Array:
    """Raises on the host; inside `jit`, which sees no values, a mismatch turns samples into NaN, or tokens into -1."""
    check_schedule(schedule, model)
    if schedule is None or host.concrete(schedule, model.schedule):
        return x
    nothing = jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else -1
    return jnp.where(calculus.same(schedule, model.schedule), x, nothing)


class Linear(NamedTuple):
    """The coefficients of one evaluation and a memoryless update, x_s = x x_t + mean E[x_0 | x_t] + noise.

    The noise has variance noise_var + spread^2 Var[x_0 | x_t], with the variance that the denoiser gives; under
    `calculus.FlowOnly`, where only the flow is right, without that second term.
    """

    t: Any  # where the model is evaluated
    x: Any
    mean: Any
    noise_var: Any
    spread: Any  # standard deviations of x_0 given x_t that are added as noise


def linear_step(model: Denoiser, key: Key, x: Array, row: Linear) -> Array:
    """Walks along one row of `Linear`."""
    mean, var = model(x, row.t)
    var = 0.0 if calculus.flow_only(getattr(model, "schedule", None)) else var
    return (
        row.x * x
        + row.mean * mean
        # (analytic.1)
        + std(row.noise_var + row.spread**2 * var) * jax.random.normal(key, x.shape, x.dtype)  # (ancestral.4)
    )


def std(variance: Any) -> Array:
    """Takes the square root of a variance, with a gradient of 0 in place of infinity at 0."""
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)


def then_mean(rows: Linear, t: float, sigma: Any) -> Linear:
    """Appends to rows that end where sigma > 0 one more: x_0 = E[x_0 | x_t], Tweedie's formula."""
    if not np.all(sigma > 0):
        return rows
    last = (t, 0.0, 1.0, 0.0, 0.0)
    return Linear(*(np.concatenate([a, np.full((1, *a.shape[1:]), b)]) for a, b in zip(rows, last)))
