"""One training step as a pure function `(state, batch) -> (state, metrics)`; everything is a function of the step.

The keys of step k are made from (state.key, k), and those of an example from its place in the GLOBAL batch: neither the
number of devices nor the backend changes the noise that an example sees. Losses are written for one example; `vmap`
adds the batch here, and only here.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffjax import constants, host, players
from diffjax.across import WHOLE, Across
from diffjax.ema import Ema
from diffjax.ema import State as EmaState
from diffjax.method import Example, Method, Turn, per_example, served, size_of, turn_batch
from diffjax.method import Keys as Keys
from diffjax.players import Optimizers as Optimizers
from diffjax.strict import Shards
from diffjax.types import Array, Key, Prepare, PyTree

Metrics = dict[str, Any]
POLICIES = ("stop", "skip")
GUARDED = ("loss", "grad_norm", "update_norm", "param_norm")  # in causal order: the first bad one is the culprit


class TrainState(NamedTuple):
    """All that a run is: what is saved, restored, and donated to the next step. Counters are int32 scalars."""

    step: Array  # steps made, skipped ones included: the data position and the source of the keys
    params: PyTree
    ema: EmaState
    opt_state: PyTree
    key: Key  # never advanced: step k folds k into it
    skipped: Array  # steps whose update was not applied because something was not finite
    memory: PyTree = ()  # what `Prepare` remembers


Step = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]


def init_state(params: PyTree, optimizer: Optimizers, emas: Ema, key: Key, method: Method | None = None) -> TrainState:
    """Makes the state before the first step, in buffers of its own: donating it takes nothing from the caller.

    Raises:
        ValueError: unless `key` is a typed key.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(f"Got a key of dtype {key.dtype}, expected a typed key: jax.random.key(seed).")
    params, key = jax.tree.map(lambda p: jnp.array(p, jnp.result_type(p)), params), jnp.copy(key)  # no weak types
    zero = lambda: jnp.zeros((), jnp.int32)  # one buffer each: a buffer that stands twice cannot be donated
    memory = method.prepare.init() if method and method.prepare else ()
    movers = (method and players.names(method)) or None
    every = optimizer if method is None else players.with_own(method, optimizer)
    opt_state = players.optimizer_of(every, movers).init(players.part(params, movers))
    return TrainState(zero(), params, emas.init(served(method, params)), opt_state, key, zero(), memory)


def ranked(loss: float | None, by: str, run: Any) -> dict[str, float]:
    """Gives what the states of a run are ranked by: the loss of training, and what its method's parts measure."""
    known = {} if loss is None else {"loss": loss}
    return known if by == "loss" else {**known, by: getattr(run.method.parts, by)(run)}


def check_parts(method: Method, accumulate: int, batch_size: int | None = None, best_by: str = "loss") -> None:
    """Holds a method against the number of parts that a batch is worked through in, its size, and what ranks states.

    Raises:
        ValueError: for a number that is no integer >= 1, or, above 1, for losses that `per_example` has not made; for a
            batch of one example where a turn compares examples; for a `best_by` that the method does not measure.
    """
    host.check_int("accumulate", accumulate)
    if best_by != "loss" and not hasattr(method.parts, best_by):
        raise ValueError(f"checkpoint.best_by is {best_by!r}, which this method does not measure: set it to loss.")
    for i, turn in enumerate(method.turns):
        if turn.coupled and batch_size == 1:
            raise ValueError("Got train.batch_size = 1, expected 2 or more: the method's losses compare examples.")
        if accumulate > 1 and not getattr(turn.losses, "apart", False):
            who = f"turn {i}" if turn.moves is None else f"turn {i} (of {players.called(turn.moves)})"
            raise ValueError(
                f"Got accumulate = {accumulate}, but the losses of {who} may couple the examples of a batch, which "
                "then has no parts: make them with method.per_example, of one example's loss, or leave accumulate at 1."
            )


def check_losses(losses: Any, aux: Any) -> None:
    """Holds the losses of a batch of one example, or their shapes, against what a step takes.

    Raises:
        ValueError: unless they are one number, and so is each of what is logged beside them.
    """
    for name, value in {"The loss": losses, **{f"aux[{name!r}]": value for name, value in aux.items()}}.items():
        if jnp.shape(value) != (1,):
            shape = f"shape {jnp.shape(value)}, expected (1,): a number for each example"
            raise ValueError(f"{name} of a batch of one example has {shape}; method.per_example makes such of one's.")


def check_drawn(found: Any, shape: tuple[int, ...]) -> None:
    """Holds what a method draws for one example, x or (x, trajectory), against the shape of its data.

    Raises:
        ValueError: for an x of another shape.
    """
    x = found[0] if isinstance(found, tuple) else found
    if x.shape != shape:
        raise ValueError(f"The method draws samples of shape {x.shape}, expected {shape}, that of its data.")


def first_params(init: Callable[..., PyTree], *args: Any) -> PyTree:
    """Calls `init(*args)` in one compiled call."""
    return host.run_once(init, *args)


def loss_method(loss: Callable, prepare: Prepare | None = None) -> Method:
    """Makes the method of a per-example loss alone, which draws nothing."""
    return Method(_nothing, (Turn(per_example(loss)),), _nothing, prepare=prepare)


def _nothing(*args: Any) -> Any:
    raise NotImplementedError("This method has a loss and nothing else.")


def make_step(
    method: Method,
    optimizer: Optimizers,
    emas: Ema,
    *,
    learning_rate: Callable[[Array], Any] | None = None,
    time_bins: int = 10,
    axis_name: str | None = None,
    accumulate: int = 1,
    gather: Callable[[PyTree], PyTree] | None = None,
    across: Across | Shards | None = None,
) -> Step:
    """Makes the pure step; batches are trees whose leaves all have the (local) batch as leading axis.

    The turns of the method follow each other: each sees the parameters that the one before has left, and examples of
    its own. Metrics, all of them on the device: `loss` (mean over the global batch, of the last turn), `grad_norm`
    (before any clipping), `update_norm` and `param_norm` (of the proposed update, L2), over all turns; `finite`,
    `skipped` (so far), `ema_decay` by name, `learning_rate` if its schedule is given, `aux` (means of what the losses
    log; of a turn that moves a part also its "loss/<part>") and, where "t01" is logged, `time_loss` and `time_count`
    (time_bins,): sums over equal bins of [0, 1], so that a host can average over windows.

    A step of which a loss, gradient, update or new parameters are not finite changes nothing but `step` and `skipped`;
    `check_finite` then stops the run or counts, as the policy says.

    Args:
        optimizer: one for all, or one for each name that turns move by none of their own (`players`).
        learning_rate: schedule of applied updates, for the metric alone; the optimizer has its own.
        axis_name: the mapped axis of `jax.pmap`, over which gradients and metrics are averaged; None under `jit`.
        accumulate: parts that a turn's batch is worked through in, one after the other, for one update (`_in_parts`).
        gather: puts parameters together for the losses, where devices share them (`sharding.gathered`); None: whole.
        across: by what a step under `jit` takes from all devices, if not as XLA sees fit (`strict.of_settings`).

    Raises:
        ValueError: for fewer than 1 of either, or losses that have no parts (`check_parts`); for shards with
            either; of a step, for a batch that is no multiple of `accumulate`.
    """
    if time_bins < 1:
        raise ValueError(f"Got time_bins = {time_bins}, expected at least 1.")
    check_parts(method, accumulate)
    if across and (axis_name or gather or (accumulate > 1 and isinstance(across, Shards))):
        raise ValueError(
            f"Got {across} with axis_name = {axis_name!r}, accumulate = {accumulate}; expected None and 1."
        )
    own = Across(axis_name) if gather is None else Across(axis_name, gather)
    across, prepare = across or own, method.prepare

    def play(turn: Turn, params: PyTree, opt_state: PyTree, key: Key, batch: PyTree) -> tuple[PyTree, ...]:
        """Makes one update: (params, opt_state, norms, losses (B,), aux)."""
        (loss, (losses, aux)), grads = slope(turn, params, key, batch, accumulate, across)
        updates, params, opt_state = update(turn, optimizer, params, opt_state, grads)
        norms = (loss, *map(optax.tree.norm, (grads, updates, players.part(params, turn.moves))))
        return params, opt_state, norms, losses, aux

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        key, batch = begin(method, state, batch, across)
        params, opt_state, played, logged = state.params, state.opt_state, [], {}
        for turn, own, part in each_turn(method, key, batch):
            params, opt_state, norms, losses, aux = play(turn, params, opt_state, own, part)
            played.append(norms)
            logged |= aux if turn.moves is None else {**aux, f"loss/{players.called(turn.moves)}": losses}
        logged |= batch.chosen.get("logged", {}) if isinstance(batch, Example) else {}
        losses_of, *norms = zip(*played, strict=True)
        whole = lambda values: values[0] if len(values) == 1 else jnp.sqrt(sum(v**2 for v in values))
        guarded = dict(zip(GUARDED, (losses_of[-1], *map(whole, norms)), strict=True))
        finite = jnp.isfinite(jnp.stack([*guarded.values(), *losses_of[:-1]])).all()

        plain = logged.pop("unweighted", losses)
        (plain, logged), among = across.gathered((plain, logged))
        memory = prepare.update(state.memory, *among.whole((plain, logged))) if prepare else state.memory
        proposed = (params, emas.update(state.ema, served(method, params)), opt_state, memory)
        current = (state.params, state.ema, state.opt_state, state.memory)
        # (accumulate.2)
        params, ema, opt_state, memory = jax.tree.map(lambda new, old: jnp.where(finite, new, old), proposed, current)
        skipped = state.skipped + (~finite).astype(jnp.int32)
        metrics = {**guarded, "finite": finite, "skipped": skipped, "ema_decay": emas.decays(state.ema)}
        if learning_rate is not None:  # the optimizer's own count stands still while updates are skipped
            metrics["learning_rate"] = jnp.asarray(learning_rate(state.step - state.skipped))
        if "t01" in logged:
            metrics |= among.total(_by_time(plain, logged["t01"], time_bins, finite))
        metrics["aux"] = among.mean({name: values.mean() for name, values in logged.items() if name != "t01"})
        return TrainState(state.step + 1, params, ema, opt_state, state.key, skipped, memory), metrics

    return across.mapped(step)


def begin(method: Method, state: TrainState, batch: PyTree, across: Across | Shards = WHOLE) -> tuple[Key, PyTree]:
    """Gives the key of the state's step, and its batch as `Prepare` leaves it."""
    key, prepare = jax.random.fold_in(state.key, state.step), method.prepare
    if prepare is None:
        return key, batch
    size = size_of(batch)
    batch = prepare.apply(state.memory, jax.random.fold_in(key, 2), across.whole(batch))  # 0 and 1 are those of `split`
    return key, across.own(batch, size)


def each_turn(method: Method, key: Key, batch: PyTree) -> Iterator[tuple[Turn, Key, PyTree]]:
    """Walks over the turns of a step, each with its key and its examples."""
    turns = method.turns
    for i, turn in enumerate(turns):
        own = key if len(turns) == 1 else jax.random.fold_in(key, 3 + i)
        yield turn, own, turn_batch(batch, i, len(turns))


def slope(
    turn: Turn, params: PyTree, key: Key, batch: PyTree, accumulate: int = 1, across: Across | Shards = WHOLE
) -> tuple[tuple[Array, tuple[Array, dict[str, Array]]], PyTree]:
    """Computes ((mean loss, (losses (B,), what they log)), gradients of what the turn moves).


    The mean and the gradients are those of the global batch, the losses those of the device's examples.
    """
    who, total = turn.moves, across.devices() * size_of(batch)

    def compute(gather: Callable, params: PyTree, key: Key, batch: PyTree, index: Array) -> PyTree:
        def mean_loss(own: PyTree, batch: PyTree, index: Array) -> tuple[Array, tuple[Array, dict[str, Array]]]:
            shown, whole = {"gather": gather} if turn.coupled else {}, across.together(players.put(params, who, own))
            losses, aux = turn.losses(whole, key, batch, index, total, **shown)
            return losses.mean(), (losses, aux)

        slope = partial(jax.value_and_grad(mean_loss, has_aux=True), players.part(params, who))
        return _in_parts(slope, accumulate, batch, index)

    return across.slope(compute, params, key, batch, getattr(turn.losses, "apart", False))


def update(
    turn: Turn, optimizer: Optimizers, params: PyTree, opt_state: PyTree, grads: PyTree
) -> tuple[PyTree, PyTree, PyTree]:
    """Makes a turn's update of its gradients: (updates, new params, new opt_state)."""
    who, own = turn.moves, players.part(params, turn.moves)
    every: Any = optimizer if turn.by is None else dict.fromkeys(players.movers(who), turn.by)
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies integer counts by floats
        updates, moved = players.optimizer_of(every, who).update(grads, players.part(opt_state, who), own)
    return updates, players.put(params, who, optax.apply_updates(own, updates)), players.put(opt_state, who, moved)


def _in_parts(slope: Callable, parts: int, batch: PyTree, index: Array) -> tuple[tuple[Array, Any], PyTree]:
    """Calls `slope(batch, index) -> ((loss, logged), grads)` on parts of a batch, and averages loss and grads.

    Part i of k holds the examples i, i + k, ..., so that each device keeps what it has; `logged`, (B,) each, is put
    back in the batch's order. An example keeps its place in the global batch, and so its noise. Sums are of float32 at
    least.

    The loop has the memory of one part. On CPUs, where XLA slows convolutions down inside loops, it is unrolled: as
    fast as the whole batch, but k times longer to compile, and of the same memory, since XLA there keeps the parts side
    by side (a U-Net of two levels, 256 digits, 1, 2 and 4 parts: 46, 45, 45 MiB of temporaries; as a loop 46, 22 and
    11 MiB, in five times the time).
    """
    if parts == 1:
        return slope(batch, index)
    if size_of(batch) % parts:
        raise ValueError(f"Got {size_of(batch)} examples on a device, expected a multiple of accumulate = {parts}.")
    split = lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1)
    rows = jax.tree.map(split, (batch, index))
    (loss, _), grads = jax.eval_shape(slope, *jax.tree.map(lambda a: a[0], rows))
    wide = lambda a: jnp.zeros(a.shape, a.dtype if jnp.finfo(a.dtype).bits >= 32 else jnp.float32)

    def add(total: PyTree, part: PyTree) -> tuple[PyTree, PyTree]:
        (loss, logged), grads = slope(*part)
        # (accumulate.1)
        return jax.tree.map(lambda sum, a: sum + a.astype(sum.dtype) / parts, total, (loss, grads)), logged

    unroll = parts if host.platform() == "cpu" else 1  # inside a loop, XLA's CPU convolutions are slow
    total, logged = jax.lax.scan(add, jax.tree.map(wide, (loss, grads)), rows, unroll=unroll)
    loss, grads = jax.tree.map(lambda sum, a: sum.astype(a.dtype), total, (loss, grads))
    return (loss, jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:]), logged)), grads


def make_steps(step: Step, unroll: int = 1) -> Step:
    """Makes k steps of one dispatch, by `lax.scan`: batches (k, batch, ...) -> metrics (k, ...), k being the batches'.

    Loops pay on accelerators. On CPUs XLA runs a convolution's weight gradient some 200 times slower inside a loop than
    outside: give convolutional networks k = 1 there, which makes no loop, or unroll = k, which compiles k copies.

    Its attribute `lift` makes, of a state and batches, `(numbers, state, batches) -> ...`, and the step's numbers
    (`constants.lift`): steps that differ in these alone are one program.
    """

    def steps(state: TrainState, batches: PyTree) -> tuple[TrainState, Metrics]:
        k = jax.tree.leaves(batches)[0].shape[0]
        return jax.lax.scan(step, state, batches, unroll=unroll if k > 1 else 2)  # a scan of 1 by 1 is still a loop

    def lift(state: TrainState, batches: PyTree) -> tuple[Callable, list[Array]]:
        first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), batches)
        lifted, numbers = getattr(step, "lift", partial(constants.lift, step))(state, first)
        return lambda numbers, *args: make_steps(partial(lifted, numbers), unroll)(*args), numbers

    steps.lift, steps.options = lift, getattr(step, "options", None)  # pyright: ignore[reportFunctionMemberAccess]
    return steps


def _by_time(losses: Array, t01: Array, bins: int, finite: Array) -> Metrics:
    """Sum and count by time bin, none of a skipped step; a masked sum, since scatters vary from run to run on GPUs."""
    at = jnp.clip((t01 * bins).astype(jnp.int32), 0, bins - 1)
    mask = (at[:, None] == jnp.arange(bins, dtype=jnp.int32)[None, :]) & finite
    return {"time_loss": jnp.where(mask, losses[:, None], 0).sum(0), "time_count": mask.sum(0, dtype=jnp.int32)}


class NonFiniteError(ArithmeticError):
    """Training met a loss or a norm that is not finite; `metric` and `step` say which and where.

    `throughout`: so is every other step of the window, which no policy goes on from.
    """

    def __init__(self, metric: str, step: int, window: range, value: float, throughout: bool = False):
        self.metric, self.step = metric, step
        what = f"{metric} is {value} at step {step}"
        super().__init__(
            f"{what}, and no step from {window[0]} to {window[-1]} was finite: no update was applied. Lower the "
            "learning rate, clip the gradients, or look at the data."
            if throughout
            else f"{what} (in steps {window[0]} to {window[-1]}); its update was not applied. "
            "Lower the learning rate, clip the gradients, or set the policy (train.nonfinite) to 'skip', to count such "
            "steps and go on."
        )


def check_finite(window: Sequence[Metrics], first_step: int, policy: str = "stop", complete: bool = False) -> int:
    """Counts the steps of the window that were skipped; on the host, at the log interval.

    Args:
        window: metrics of consecutive steps or dispatches, fetched.
        first_step: `state.step` before the first of them.
        policy: "stop" or "skip".
        complete: whether this is a whole log window: under "skip" one without a finite step is the end too.

    Raises:
        NonFiniteError: naming the first metric and step that went wrong.
        ValueError: for another policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"Got policy {policy!r} for non-finite steps, expected one of {', '.join(POLICIES)}.")
    metrics = stack(window)
    bad = np.flatnonzero(~metrics["finite"])
    throughout = policy == "skip" and complete and bad.size == len(metrics["finite"])
    if bad.size and (policy == "stop" or throughout):
        first, steps = int(bad[0]), range(first_step, first_step + len(metrics["finite"]))
        culprit = next(name for name in GUARDED if not np.isfinite(metrics[name][first]))
        raise NonFiniteError(culprit, steps[first], steps, float(metrics[culprit][first]), throughout)
    return bad.size


def summarize(window: Sequence[Metrics]) -> Metrics:
    """Makes a JSON-able record of a window: means over its finite steps, last values of counters and schedules.

    `loss_by_time` is a list over bins, None where no example fell; means are None where no step was finite.
    """
    metrics = stack(window)
    finite = metrics["finite"]
    mean = lambda values: float(values[finite].mean(dtype=np.float64)) if finite.any() else None
    last = lambda values: values[-1].item()
    record: Metrics = {name: mean(metrics[name]) for name in GUARDED}
    record |= {name: last(metrics[name]) for name in ("learning_rate", "skipped") if name in metrics}
    record |= {"ema_decay": jax.tree.map(last, metrics["ema_decay"]), "aux": jax.tree.map(mean, metrics["aux"])}
    if "time_loss" in metrics:
        totals = zip(metrics["time_loss"].sum(0, dtype=np.float64), metrics["time_count"].sum(0), strict=True)
        record["loss_by_time"] = [float(loss / count) if count else None for loss, count in totals]
    return record


def reread(metrics: Any) -> Metrics:
    """Makes of the metrics of a dispatch, as JSON has them, those that a window holds."""
    return jax.tree.map(np.asarray, metrics, is_leaf=lambda node: isinstance(node, list))


def stack(window: Sequence[Metrics]) -> Metrics:
    """Metrics of single steps and of k-step dispatches, in order, as NumPy arrays with the step as leading axis."""
    rows = [jax.tree.map(np.asarray if np.ndim(m["finite"]) else lambda x: np.asarray(x)[None], m) for m in window]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
