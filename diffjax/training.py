"""One training step as a pure function `(state, batch) -> (state, metrics)`; everything is a function of the step.

The keys of step k are made from (state.key, k), and those of an example from its place in the GLOBAL batch: neither the
number of devices nor the backend changes the noise that an example sees. Losses are written for one example; `vmap`
adds the batch here, and only here.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffjax.ema import Ema
from diffjax.ema import State as EmaState
from diffjax.types import Array, Key, Prepare, PyTree

Metrics = dict[str, Any]
POLICIES = ("stop", "skip")
GUARDED = ("loss", "grad_norm", "update_norm", "param_norm")  # in causal order: the first bad one is the culprit


class Keys(NamedTuple):
    """Randomness of one example: `step` is shared by the whole batch, `example` is its own; the two are independent."""

    step: Key
    example: Key


class TrainState(NamedTuple):
    """All that a run is: what is saved, restored, and donated to the next step. Counters are int32 scalars."""

    step: Array  # steps made, skipped ones included: the data position and the source of the keys
    params: PyTree
    ema: EmaState
    opt_state: PyTree
    key: Key  # never advanced: step k folds k into it
    skipped: Array  # steps whose update was not applied because something was not finite
    memory: PyTree = ()  # what `Prepare` remembers


# (params, keys, example, index in the global batch, global batch size) -> (scalar loss, scalars to log). The scalar
# "t01" among these, in [0, 1], says at which time the loss was taken and feeds the loss by time bin. "unweighted", if
# it is there, is the loss before the weight of importance sampling: it is what those bins, and `Prepare`, are told.
LossFn = Callable[[PyTree, Keys, PyTree, Array, int], tuple[Array, dict[str, Array]]]
Step = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]


def init_state(
    params: PyTree, optimizer: optax.GradientTransformation, emas: Ema, key: Key, prepare: Prepare | None = None
) -> TrainState:
    """The state before the first step, in buffers of its own: donating it takes nothing from the caller.

    Raises:
        ValueError: unless `key` is a typed key.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(f"Got a key of dtype {key.dtype}, expected a typed key: jax.random.key(seed).")
    params, key = jax.tree.map(lambda p: jnp.array(p, jnp.result_type(p)), params), jnp.copy(key)  # no weak types
    zero = lambda: jnp.zeros((), jnp.int32)  # one buffer each: a buffer that stands twice cannot be donated
    memory = prepare.init() if prepare else ()
    return TrainState(zero(), params, emas.init(params), optimizer.init(params), key, zero(), memory)


class _Across(NamedTuple):
    """The devices of a mapped axis (`jax.pmap`), or, under `jit`, where arrays are whole already, nothing to do."""

    axis: str | None

    def mean(self, tree: PyTree) -> PyTree:
        return jax.lax.pmean(tree, self.axis) if self.axis else tree

    def total(self, tree: PyTree) -> PyTree:
        return jax.lax.psum(tree, self.axis) if self.axis else tree

    def whole(self, tree: PyTree) -> PyTree:
        return jax.lax.all_gather(tree, self.axis, tiled=True) if self.axis else tree

    def devices(self) -> Any:
        return jax.lax.axis_size(self.axis) if self.axis else 1

    def place(self) -> Any:
        return jax.lax.axis_index(self.axis) if self.axis else 0


def make_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    emas: Ema,
    *,
    learning_rate: Callable[[Array], Any] | None = None,
    prepare: Prepare | None = None,
    time_bins: int = 10,
    axis_name: str | None = None,
) -> Step:
    """The pure step; batches are trees whose leaves all have the (local) batch as leading axis.

    Metrics, all of them on the device: `loss` (mean over the global batch), `grad_norm` (before any clipping),
    `update_norm` and `param_norm` (of the proposed update, L2), `finite`, `skipped` (so far), `ema_decay` by name,
    `learning_rate` if its schedule is given, `aux` (means of what loss_fn returns) and, where that has "t01",
    `time_loss` and `time_count` (time_bins,): sums over equal bins of [0, 1], so that a host can average over windows.

    A step whose loss, gradient, update or new parameters are not finite changes nothing but `step` and `skipped`;
    `check_finite` then stops the run or counts, as the policy says.

    Args:
        learning_rate: schedule of applied updates, for the metric alone; the optimizer has its own.
        prepare: what happens to the whole batch before the losses; None: nothing.
        axis_name: the mapped axis of `jax.pmap`, over which gradients and metrics are averaged; None under `jit`.
    """
    if time_bins < 1:
        raise ValueError(f"Got time_bins = {time_bins}, expected at least 1.")
    across = _Across(axis_name)

    def prepared(memory: PyTree, key: Key, batch: PyTree) -> PyTree:
        if prepare is None:
            return batch
        size = jax.tree.leaves(batch)[0].shape[0]
        batch = prepare.apply(memory, jax.random.fold_in(key, 2), across.whole(batch))  # 0 and 1 are those of `split`
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, across.place() * size, size), batch)

    def mean_loss(params: PyTree, key: Key, batch: PyTree) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        size = jax.tree.leaves(batch)[0].shape[0]
        index = across.place() * size + jnp.arange(size, dtype=jnp.int32)
        losses, aux = batch_losses(loss_fn, params, key, batch, index, across.devices() * size)
        return losses.mean(), (losses, aux)

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        batch = prepared(state.memory, key, batch)
        (loss, (losses, aux)), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params, key, batch)
        loss, grads = across.mean((loss, grads))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        guarded = dict(zip(GUARDED, (loss, *map(optax.tree.norm, (grads, updates, params))), strict=True))
        finite = jnp.isfinite(jnp.stack(list(guarded.values()))).all()

        plain = aux.pop("unweighted", losses)
        memory = prepare.update(state.memory, *across.whole((plain, aux))) if prepare else state.memory
        proposed = (params, emas.update(state.ema, params), opt_state, memory)
        current = (state.params, state.ema, state.opt_state, state.memory)
        params, ema, opt_state, memory = jax.tree.map(lambda new, old: jnp.where(finite, new, old), proposed, current)
        skipped = state.skipped + (~finite).astype(jnp.int32)
        metrics = {**guarded, "finite": finite, "skipped": skipped, "ema_decay": emas.decays(state.ema)}
        if learning_rate is not None:  # the optimizer's own count stands still while updates are skipped
            metrics["learning_rate"] = jnp.asarray(learning_rate(state.step - state.skipped))
        if "t01" in aux:
            metrics |= across.total(_by_time(plain, aux["t01"], time_bins, finite))
        metrics["aux"] = across.mean({name: values.mean() for name, values in aux.items() if name != "t01"})
        return TrainState(state.step + 1, params, ema, opt_state, state.key, skipped, memory), metrics

    return step


def make_steps(step: Step, unroll: int = 1) -> Step:
    """k steps in one dispatch, by `lax.scan`: batches (k, batch, ...) -> metrics (k, ...), k being the batches' own.

    Loops pay on accelerators. On CPUs XLA runs a convolution's weight gradient some 200 times slower inside a loop than
    outside: give convolutional networks k = 1 there, which makes no loop, or unroll = k, which compiles k copies.
    """

    def steps(state: TrainState, batches: PyTree) -> tuple[TrainState, Metrics]:
        k = jax.tree.leaves(batches)[0].shape[0]
        return jax.lax.scan(step, state, batches, unroll=unroll if k > 1 else 2)  # a scan of 1 by 1 is still a loop

    return steps


def batch_losses(
    loss_fn: LossFn, params: PyTree, key: Key, batch: PyTree, index: Array, global_size: int
) -> tuple[Array, dict[str, Array]]:
    """Losses (batch,) and logged scalars (batch,) of examples standing at `index` (batch,) in the global batch.

    `key` is the step's: `split(key)` gives the shared `keys.step` and the key that an example's index is folded into.
    """
    shared, base = jax.random.split(key)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(base, index)
    one = lambda own, example, i: loss_fn(params, Keys(shared, own), example, i, global_size)
    return jax.vmap(one)(keys, batch, index)


def _by_time(losses: Array, t01: Array, bins: int, finite: Array) -> Metrics:
    """Sum and count by time bin, none of a skipped step; a masked sum, since scatters vary from run to run on GPUs."""
    at = jnp.clip((t01 * bins).astype(jnp.int32), 0, bins - 1)
    mask = (at[:, None] == jnp.arange(bins, dtype=jnp.int32)[None, :]) & finite
    return {"time_loss": jnp.where(mask, losses[:, None], 0).sum(0), "time_count": mask.sum(0, dtype=jnp.int32)}


class NonFiniteError(ArithmeticError):
    """Training met a loss or a norm that is not finite; `metric` and `step` say which and where."""

    def __init__(self, metric: str, step: int, window: range, value: float):
        self.metric, self.step = metric, step
        super().__init__(
            f"{metric} is {value} at step {step} (in steps {window[0]} to {window[-1]}); its update was not applied. "
            "Lower the learning rate, clip the gradients, or set the policy to 'skip' to count such steps and go on."
        )


def check_finite(window: Sequence[Metrics], first_step: int, policy: str = "stop") -> int:
    """How many steps of the window were skipped; on the host, at the log interval.

    Args:
        window: metrics of consecutive steps or dispatches, fetched.
        first_step: `state.step` before the first of them.
        policy: "stop" or "skip".

    Raises:
        NonFiniteError: under "stop", naming the first metric and step that went wrong.
        ValueError: for another policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"Got policy {policy!r} for non-finite steps, expected one of {', '.join(POLICIES)}.")
    metrics = stack(window)
    bad = np.flatnonzero(~metrics["finite"])
    if policy == "stop" and bad.size:
        first, steps = int(bad[0]), range(first_step, first_step + len(metrics["finite"]))
        culprit = next(name for name in GUARDED if not np.isfinite(metrics[name][first]))
        raise NonFiniteError(culprit, steps[first], steps, float(metrics[culprit][first]))
    return bad.size


def summarize(window: Sequence[Metrics]) -> Metrics:
    """One JSON-able record of a window: means over its finite steps, last values of counters and schedules.

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


def stack(window: Sequence[Metrics]) -> Metrics:
    """Metrics of single steps and of k-step dispatches, in order, as NumPy arrays with the step as leading axis."""
    rows = [jax.tree.map(np.asarray if np.ndim(m["finite"]) else lambda x: np.asarray(x)[None], m) for m in window]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
