"""Trainings that differ in numbers and seeds alone, side by side in one program: `jax.vmap` over the runs.

A small network leaves most of a device idle, and a dispatch costs as much as its arithmetic; k runs in one program
share both. Each keeps its own batches, log, checkpoints and workdir, and is what it would be alone, to rounding: a
product of k matrices is compiled otherwise than one. Convolutions with a kernel for each run are slow on CPUs: this is
for MLPs there, and for all that is small on accelerators. The minutes of a run are those of all that run beside it.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffjax import activity, parallel, runs, screen, signals
from diffjax.config import ConfigError, flat
from diffjax.logs import Log
from diffjax.training import NonFiniteError
from diffjax.types import PyTree

Within = Callable[[int], contextlib.AbstractContextManager]  # of run i: where its output goes


@screen.guard()
def train(
    trainers: Sequence[runs.Trainer], within: Within = lambda i: contextlib.nullcontext()
) -> list[NonFiniteError | None]:
    """Trains runs side by side, from where they all are to their last step.

    Args:
        trainers: of as many steps, on one device each.
        within: gives the context for what is said of a run.

    Returns:
        For each run the error that it ended with, or None.

    Raises:
        ConfigError: for runs at other steps, or whose steps are not one program.
        runs.Stopped: after a stop signal, when all are saved.
    """
    last = trainers[0].settings.steps
    places = {(one.step, one.settings.steps, one.settings.steps_per_dispatch, one.mesh.size) for one in trainers}
    if len(places) != 1 or trainers[0].mesh.size != 1:
        raise ConfigError(
            "Runs side by side are at one step, of as many steps and a dispatch alike, on one device; got "
            f"(step, steps, steps of a dispatch, devices) {', '.join(map(str, sorted(places)))}."
        )
    errors: list[NonFiniteError | None] = [None] * len(trainers)
    with contextlib.ExitStack() as ends, signals.install_stop_handler() as stop:
        logs = [ends.enter_context(_log(one, last)) for one in trainers]
        sources = [iter(ends.enter_context(one.batches())) for one in trainers]
        states, step = [one.state for one in trainers], trainers[0].step
        ends.enter_context(activity.doing(lambda: f"training {len(trainers)} runs, step {step} of {last}"))
        made, stopping = None, False
        while step < last and not stopping and not all(errors):
            batches = [next(source) for source in sources]
            if made is None:
                made = _program(trainers, batches)
            states, metrics = made(states, batches)
            step, stopping = step + trainers[0].settings.steps_per_dispatch, bool(stop)
            for i, one in enumerate(trainers):
                if errors[i] is None:
                    one.state = states[i]
                    errors[i] = _arrived(one, metrics[i], logs[i], last, stopping, within(i))
        if stopping and stop.received is not None:
            for one in [one for one, error in zip(trainers, errors) if error is None]:
                one.account.write("interrupted", one.step, signal=stop.received.name)
            raise runs.Stopped(stop.received, step, trainers[0].workdir)
    return errors


@contextlib.contextmanager
def _log(one: runs.Trainer, last: int) -> Iterator[Log]:
    """Opens the log of a run whose time is that of a step from here on."""
    words = one.built.config.to_dict() if one.built.config is not None else {}
    one.ledger.enter("step")
    try:
        with Log(one.workdir, last, one.step, one.settings.loggers, words, bar=False) as log:
            yield log
    finally:
        one.ledger.enter(None)


def _arrived(one: Any, metrics: Any, log: Log, last: int, stopping: bool, within: Any) -> NonFiniteError | None:
    """Counts a run's dispatch; gives the error of one that is not finite, which ends it and no other."""
    with within:
        try:
            one.arrive(metrics, log, last, stopping)
        except NonFiniteError as error:
            one.account.write("nonfinite", error.step, error=str(error).partition("\n")[0])
            return error
    return None


def _program(trainers: Sequence[Any], batches: list[PyTree]) -> Callable[[list, list], tuple[list, list]]:
    """Compiles the step of all runs, (states, batches) -> (states, metrics), a list entry for each.

    Raises:
        ConfigError: for runs whose steps differ in more than numbers.
    """
    with activity.doing(f"compiling the training step of {len(trainers)} runs"):
        found: dict[Any, tuple[Callable, PyTree, str]] = {}  # of those that differ in their seed alone, once
        for i, (one, batch) in enumerate(zip(trainers, batches)):
            if _known_by(one, i) not in found:
                step, numbers = one.plain.lift(one.state, batch)
                text = jax.jit(step).lower(numbers, one.state, batch).as_text()
                found[_known_by(one, i)] = step, numbers, text
        step, _, text = next(iter(found.values()))
        if odd := [name for name, (_, _, other) in found.items() if other != text]:
            i = next(i for i, one in enumerate(trainers) if _known_by(one, i) == odd[0])
            raise ConfigError(
                f"Runs side by side differ in numbers and seeds alone, but run {i} is another program than run 0."
            )
        count, numbers = len(trainers), _stacked([found[_known_by(one, i)][1] for i, one in enumerate(trainers)])

        def together(numbers: PyTree, states: list[PyTree], batches: list[PyTree]) -> tuple[list, list]:
            made = jax.vmap(step)(numbers, _stacked(states), _stacked(batches))
            one = lambda i: jax.tree.map(lambda a: a[i], made)
            each = [one(i) for i in range(count)]
            return [state for state, _ in each], [metrics for _, metrics in each]

        compiled = jax.jit(together, donate_argnums=parallel.donating(1))
        return lambda states, batches: compiled(numbers, states, batches)


def _known_by(one: Any, place: int) -> Any:
    """Gives what the numbers of a run's step are known by: its config but for the seed, or else its place."""
    config = one.built.config
    return place if config is None else json.dumps({**flat(config), "seed": 0, "name": ""}, sort_keys=True)


def _stacked(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
