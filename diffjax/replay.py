"""A step of a run made again: its first value that is not finite, by name, from the batch to the new parameters.

Batch and keys are functions of (seed, step), so that a checkpoint and the steps after it, made as training makes them,
are the state of any step; to the bit on the machine, devices and versions of the run, elsewhere to rounding.
"""

import sys
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import Literal

from diffjax import host, parallel, players, training
from diffjax.config import ConfigError
from diffjax.data.batches import order_at, stack_at
from diffjax.method import Method, Turn
from diffjax.types import PyTree


def again(trainer: Any, step: int, begin: Callable[[], training.TrainState]) -> list[str]:
    """Makes a training step of a run again, and says what is its first value that is not finite (`show`).

    Args:
        trainer: of the run (`runs.Trainer`), which stays where it is.
        begin: makes the state before the first step, where the step takes it.

    Raises:
        ConfigError: for a step that is none of the run's.
    """
    settings, last, state = trainer.settings, max(trainer.settings.steps, trainer.step) - 1, None
    if not host.is_int(step, 0) or step > last:
        raise ConfigError(f"step is {step!r}, expected one of this run's training steps, 0 to {last}.")
    if trainer.checkpoints is not None:
        state = nearest(trainer.checkpoints, trainer.state, step)
    if state is None:
        state = begin()
    size, train = settings.batch_size * len(trainer.method.turns), trainer.data.train
    stack = partial(stack_at, train, size, settings.seed, flip=trainer.data.flip)
    put = partial(parallel.shard_batch, trainer.mesh, leading=1)
    before, batch, metrics = reach(trainer.steps, stack, put, state, step, settings.steps_per_dispatch)
    rows = order_at(len(train), settings.seed, np.arange(step * size, (step + 1) * size))
    if 0 < trainer.step < step:
        print(f"the run is at step {trainer.step}: those after it are made for this alone", flush=True)
    return show(trainer.method, trainer.built.optimizer, before, batch, metrics, rows, settings.accumulate)


def nearest(checkpoints: Any, target: PyTree, step: int, report: Callable[[str], Any] = print) -> PyTree | None:
    """Restores the newest sound checkpoint at or below a step; None where there is none. Damaged ones are said."""
    for at in sorted((at for at in checkpoints.steps() if at <= step), reverse=True):
        try:
            return checkpoints.restore(target, step=at).state
        except ValueError as error:
            report(f"skipped a checkpoint: {error}")
    return None


def reach(
    steps: training.Step, stack: Callable[[int, int], PyTree], put: Callable, state: Any, step: int, dispatch: int = 1
) -> tuple[training.TrainState, PyTree, training.Metrics]:
    """Makes the steps up to this one, and this one: the state before it, on one device, its batch, its metrics.

    Args:
        steps: compiled, of stacks of batches (`training.make_steps`).
        stack: (step, n) -> the batches of n steps from this one on.
        put: puts them where `steps` takes them.
        state: at or before `step`; donated where `steps` donates it.
        dispatch: steps made at a time, while they all lie before `step`.
    """
    at = int(state.step)
    while at < step:
        n = dispatch if at + dispatch <= step else 1
        state, _ = steps(state, put(stack(at, n)))
        at += n
    before = jax.device_put(jax.tree.map(jnp.copy, state), jax.devices()[0])
    last = stack(step, 1)
    metrics = jax.device_get(steps(state, put(last))[1])
    return before, jax.tree.map(lambda a: a[0], last), metrics


def show(
    method: Method,
    optimizer: training.Optimizers,
    state: training.TrainState,
    batch: PyTree,
    metrics: training.Metrics,
    rows: Any,
    accumulate: int = 1,
) -> list[str]:
    """Says what is the first value of a step that is not finite, a line each for it and for where it comes from.

    Args:
        state: before the step, on one device.
        batch: of the step, of all its turns.
        metrics: of the step, as it was made.
        rows: of the batch's examples in the training data.
    """
    step = int(state.step)
    if np.all(metrics["finite"]):
        return [f"step {step} is finite: nothing to show (loss {float(np.squeeze(metrics['loss'])):.6g})"]
    bad = [name for name in training.GUARDED if not np.isfinite(metrics[name]).all()]
    met = ", ".join(f"{name} is {float(np.squeeze(metrics[name]))}" for name in bad) or "the loss of an earlier turn"
    found = _examine(method, optimizer, state, batch, rows, accumulate)
    none = "  none of its values is, when they are computed one after the other: it is of their order or rounding"
    return [f"step {step} is not finite ({met}); the first such value:", *(f"  {line}" for line in found)] + (
        [] if found else [none]
    )


def _examine(
    method: Method, optimizer: training.Optimizers, state: Any, batch: PyTree, rows: Any, accumulate: int
) -> list[str]:
    place = lambda i: f"example {i} of the batch (row {rows[i]} of the training data)"
    if found := _first(batch):
        return [f"batch{found.name}, {place(found.index[0])}, is {found.value} at {list(found.index[1:])}"]
    for part in ("params", "opt_state", "ema", "memory"):
        if found := _first(getattr(state, part)):
            return [f"state.{part}{found}, before the step"]
    key, batch = training.begin(method, state, batch)
    if found := _first(batch):
        return [f"batch{found.name} as `Prepare` leaves it, {place(found.index[0])}, is {found.value}"]
    params, opt_state, turns = state.params, state.opt_state, len(method.turns)
    for n, (turn, own, part) in enumerate(training.each_turn(method, key, batch)):
        where = lambda i, n=n: place(i * turns + n)
        title = "" if turns == 1 else f"turn {n}{f' (of {players.called(turn.moves)})' if turn.moves else ''}: "
        slope = jax.jit(partial(training.slope, turn, accumulate=accumulate))
        (loss, (losses, logged)), grads = slope(params, own, part)
        if lines := _of_examples(turn, params, own, part, losses, logged, grads, where):
            return [title + lines[0], *lines[1:]]
        updates, params, opt_state = jax.jit(partial(training.update, turn, optimizer))(params, opt_state, grads)
        moved = players.part(params, turn.moves)
        for name, tree in (("gradient", grads), ("update", updates), ("new parameters", moved)):
            if found := _first(tree):
                return [f"{title}{name} {found}"]
            if not np.isfinite(optax.tree.norm(tree)):
                return [f"{title}the norm of {name}: its square overflows; the largest is {_largest(tree)}"]
        if not np.isfinite(loss):
            return [f"{title}the mean of the losses: each is finite, up to {np.max(losses):g}"]
    return []


def _of_examples(
    turn: Turn, params: PyTree, key: Any, batch: PyTree, losses: Any, logged: dict, grads: PyTree, where: Callable
) -> list[str]:
    """What is not finite in the losses, or the gradients, of examples each on their own."""
    size = len(losses)

    def loss(own: PyTree, i: Any) -> Any:
        one = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, i, 1), batch)
        whole = players.put(params, turn.moves, own)
        return turn.losses(whole, key, one, i[None], size)[0][0]

    own, at = players.part(params, turn.moves), np.arange(size, dtype=np.int32)
    if found := _first(losses):
        i = found.index[0]
        said = {name: np.asarray(value[i]).item() for name, value in logged.items()}
        words = ", ".join(f"{name} = {value:.6g}" for name, value in said.items())
        first = f"the loss of {where(i)} is {found.value}{f', where {words}' if words else ''}"
        return [first, *_cause(loss, own, at[i])]
    if found := _first(grads):
        slope = jax.jit(jax.grad(loss))
        i = next((i for i in at if _first(slope(own, i))), None)
        if i is None:
            return [f"gradient {found}: that of no example alone, but their mean"]
        return [f"gradient {found}, by {where(i)}", *_cause(jax.grad(loss), own, i)]
    return []


class _Found(NamedTuple):
    """A leaf that is not finite: its path, and the first such entry."""

    name: str
    value: float
    index: tuple[int, ...]
    count: int
    size: int

    def __str__(self) -> str:
        return f"{self.name} is {self.value} at {list(self.index)} ({self.count} of {self.size} entries)"


def _wrong(value: Any) -> np.ndarray | None:
    """Marks the entries that are not finite; None where all are, or where it holds no such numbers."""
    if not jnp.issubdtype(jnp.result_type(value), np.inexact):
        return None
    marks = ~np.isfinite(np.asarray(value))
    return marks if marks.any() else None


def _first(tree: PyTree) -> _Found | None:
    """Finds the first leaf of a tree that is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if (marks := _wrong(leaf)) is not None:
            index = tuple(int(i) for i in np.argwhere(marks)[0])
            value = np.asarray(leaf)[index].item()
            return _Found(jax.tree_util.keystr(path), value, index, int(marks.sum()), marks.size)
    return None


def _largest(tree: PyTree) -> str:
    """Names the entry of largest magnitude."""
    found = {jax.tree_util.keystr(p): np.abs(np.asarray(a)).max() for p, a in jax.tree_util.tree_leaves_with_path(tree)}
    name = max(found, key=lambda name: found[name])
    return f"{found[name]:.6g}, in {name}"


# The operation, inside a program, from which what is not finite comes.

CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "checkpoint",
    "remat",
    "remat2",
)


class _Value(NamedTuple):
    """A value of a program that was evaluated equation by equation.

    Attributes:
        value: what it is.
        variable: whether it depends on the program's arguments; constants, such as the -inf of a mask, do not.
        inputs: of which values it was made.
        made: by which equation, the last one, inside the calls before it; (): it was put in.
    """

    value: Any
    variable: bool
    inputs: tuple["_Value", ...] = ()
    made: tuple = ()

    def wrong(self) -> bool:
        """Whether it is not finite."""
        return _wrong(self.value) is not None

    def nan(self) -> bool:
        """Whether it holds NaN, which says more than an infinity."""
        return bool(np.isnan(np.asarray(self.value)).any())


def _cause(function: Callable, *args: Any) -> list[str]:
    """Says which operation of `function(*args)` makes the first value that is not finite of finite ones.

    From the result back: to the input that is not finite, until all of an operation's are. A loop or a branch is one
    operation.
    """
    closed = jax.make_jaxpr(function)(*args)

    def walk(leaves: list, make: Callable) -> list[_Value]:
        constants = [_Value(value, False) for value in closed.consts]
        return _evaluate(closed.jaxpr, constants, [_Value(value, True) for value in leaves], make)

    def all_values(leaves: list) -> list:
        made = []
        walk(leaves, lambda equation, values: made.append(_bind(equation, values)) or made[-1])
        return made

    # One program that gives every value: each operation compiled for itself would take minutes.
    known = iter(jax.device_get(jax.jit(all_values)(jax.tree.leaves(args))))
    results = walk(jax.tree.leaves(args), lambda equation, values: next(known))
    found = next((one for one in results if one.wrong()), None)
    if found is None:
        return ["computed alone, operation by operation, it is finite: it is of rounding"]
    while worse := [one for one in found.inputs if one.variable and one.wrong()]:
        found = next((one for one in worse if one.nan() == found.nan()), worse[0])
    return [_describe(found)] if found.made else []


def _bind(equation: Any, values: list) -> list:
    """Makes what an equation makes of these values."""
    made = equation.primitive.bind(*values, **equation.params)
    return list(made) if equation.primitive.multiple_results else [made]


def _evaluate(
    program: Any, constants: list[_Value], put_in: list[_Value], make: Callable, calls: tuple = ()
) -> list[_Value]:
    """Evaluates a program of jax, one equation after the other, those of the functions that it calls among them.

    Args:
        make: (equation, values) -> the values that it makes.
    """
    known = dict(zip((*program.constvars, *program.invars), (*constants, *put_in), strict=True))
    read = lambda var: _Value(var.val, False) if isinstance(var, Literal) else known[var]
    for equation in program.eqns:
        inputs, params = tuple(map(read, equation.invars)), equation.params
        called = params.get("jaxpr", params.get("call_jaxpr")) if equation.primitive.name in CALLS else None
        if called is not None:
            consts = [_Value(value, False) for value in getattr(called, "consts", None) or ()]
            made = _evaluate(getattr(called, "jaxpr", called), consts, list(inputs), make, (*calls, equation))
        else:
            values, variable = make(equation, [one.value for one in inputs]), any(one.variable for one in inputs)
            made = [_Value(value, variable, inputs, (*calls, equation)) for value in values]
        known.update(zip(equation.outvars, made, strict=True))
    return list(map(read, program.outvars))


def _describe(found: _Value) -> str:
    """An operation in words: its name, what it makes of what, and where it stands."""
    spot = _first(found.value)
    assert spot is not None
    equation, alike = found.made[-1], ((), np.shape(found.value))
    there = [np.asarray(one.value) for one in found.inputs if np.shape(one.value) in alike]
    of = ", ".join(f"{value[spot.index if value.ndim else ()].item():.6g}" for value in there)
    shapes = ", ".join(f"{np.asarray(one.value).dtype}{list(np.shape(one.value))}" for one in found.inputs)
    scope = "/".join(name for name in (str(call.source_info.name_stack) for call in found.made) if name)
    line = next(filter(None, map(_line, reversed(found.made))), "")
    told = (f"of {of}" if of else "", f"in {scope}" if scope else "", line)
    first = f"it comes from {equation.primitive.name} of {shapes}: {spot.value} at {list(spot.index)}"
    return ", ".join([first, *filter(None, told)])


def _line(equation: Any) -> str:
    """The innermost line, outside Python and the libraries, that an operation stands in; '' where none is known."""
    libraries = [*{sysconfig.get_paths()[kind] for kind in ("stdlib", "purelib", "platlib")}]
    own = str(Path(__file__).parent)
    for frame in getattr(getattr(equation.source_info, "traceback", None), "frames", None) or ():
        name = frame.file_name
        outside = not name.startswith((*libraries, "<")) and not name.startswith(sys.base_prefix)
        if (outside or name.startswith(own)) and name != __file__:
            return f"{Path(name).name}:{frame.line_num} ({frame.function_name})"
    return ""
