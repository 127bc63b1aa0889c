"""Works through a plan: whatever is not done and nobody else has is claimed, run, and logged in its own folder.

A training ends with its last step ("trained"), an evaluation with its eval.json. A training that is not finite has
ended, too. Any other error is written to failed.json; a node that has one is tried again by the next start, and one
whose worker died by a signal only once.
"""

import contextlib
import importlib
import inspect
import json
import runpy
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diffjax import data, disk, runs, screen, signals
from diffjax.config import ConfigError, to_json
from diffjax.runs import report
from diffjax.runs import run as opened
from diffjax.runs import workdir as files
from diffjax.runs.build import complete
from diffjax.sweeps import claims, together
from diffjax.sweeps.plan import Node, Plan, parted, programs_of
from diffjax.training import NonFiniteError

FAILED = "failed.json"
LOG = "log.txt"
BAD = ("nonfinite", "failed", "died")
RESERVED = ("minutes", "status", "error")  # columns of every table
TRIES = 2  # of a node whose worker died
Measure = Callable[..., dict[str, Any]]  # of a trained run and a point's arguments, what eval.json is to hold


def status(node: Node) -> tuple[str, str]:
    """Reads from a node's folder how far it is, and the error that it ended with.

    "done", "trained" of a training, "nonfinite", "failed", "died" (its worker, by a signal), "interrupted", "running"
    (or killed), "not begun".
    """
    failed = found(node.folder / FAILED)
    if node.evaluates and (node.folder / "eval.json").is_file():
        return "done", ""
    if node.given:
        return "trained", ""
    results = {} if node.evaluates else found(node.folder / "results.json")
    if results.get("status") in ("trained", "done") and results.get("step") == node.config.train.steps:
        return "trained", ""
    if results.get("status") == "nonfinite":
        return "nonfinite", str(results.get("error", ""))
    if failed:
        return str(failed.get("status", "failed")), str(failed.get("error", ""))
    known = results.get("status")
    return ("not begun" if known is None else "interrupted" if known == "trained" else str(known)), ""


def outcome(node: Node, plan: Plan) -> tuple[str, str]:
    """Reads how far a node is (`status`); an evaluation whose training ended badly has its status and error."""
    state, error = status(node)
    if node.trained and state == "not begun":
        trained, why = status(training_of(node, plan))
        return (trained, f"its training: {why}") if trained in BAD else (state, error)
    return state, error


def training_of(node: Node, plan: Plan) -> Node:
    """Finds the training that an evaluation is of."""
    return next(other for other in plan.nodes if other.key == node.trained)


def is_due(node: Node, plan: Plan, since: float) -> bool:
    """Tells whether a node can be run, and has not ended badly since the start `since`, in seconds of the epoch."""
    state, _ = status(node)
    if state in ("trained", "done", "nonfinite"):
        return False
    failed = found(node.folder / FAILED)
    if failed and (_number(failed.get("time")) >= since or (state == "died" and _number(failed.get("tries")) >= TRIES)):
        return False
    return not node.trained or status(training_of(node, plan))[0] == "trained"


def work(
    plan: Plan,
    root: Path,
    say: Callable[[str], Any] = print,
    since: float | None = None,
    measure: Measure | None = None,
    share: int = 1,
    beside: int = 1,
) -> None:
    """Runs what is due, in order, until nothing is left that this process can do.

    Args:
        say: told a line for each node.
        since: when this start of the sweep began; default now.
        measure: in the place of the report that an evaluation makes.
        share: processes that share the plan, for the time that is left.
        beside: trainings that differ in numbers alone, at most so many side by side (`together`).

    Raises:
        runs.Stopped, KeyboardInterrupt: when asked to stop; a training has saved its state.
    """
    since, spent = since or time.time(), []
    with _stopping():
        more = True
        while more:
            more = False
            for node in plan.nodes:
                _check_stop()
                if not is_due(node, plan, since):
                    continue
                with contextlib.ExitStack() as claimed:
                    claim = lambda one: claims.claim(root / "claims" / one.key, one.folder / LOG, say)
                    mates = [one for one in _mates(node, plan, beside) if is_due(one, plan, since)]
                    taken = [one for one in mates if claimed.enter_context(claim(one))]
                    held = [one for one in taken if is_due(one, plan, since)]  # nobody has ended it meanwhile
                    began = time.monotonic()
                    told = side_by_side(held) if len(held) > 1 else [perform(one, measure) for one in held]
                    for one, text in zip(held, told):
                        more, _ = True, spent.append((time.monotonic() - began) / len(held))
                        say(f"{_place(one, plan)}: {text}; {_left(plan, spent, share)}")


def _mates(node: Node, plan: Plan, beside: int) -> list[Node]:
    """Lists a node, and trainings after it that differ from it in numbers alone, `beside` of them at most."""
    if node.evaluates or beside == 1:
        return [node]
    alike = [one for one in plan.nodes if not one.evaluates and programs_of(one.config) == programs_of(node.config)]
    return alike[alike.index(node) :][:beside]


def perform(node: Node, measure: Measure | None = None) -> str:
    """Runs a node, whose output goes to its log.txt; gives a phrase on how it ended.

    Raises:
        runs.Stopped, KeyboardInterrupt: when asked to stop.
        OSError: where its folder cannot be written.
    """
    began, ended = time.monotonic(), {}
    with _ending(node, ended):
        if node.trained == "":
            _call(node, measure)
        elif node.trained:
            _evaluate(node, measure)
        else:
            with _trainer(node) as trainer:
                trainer.train()
    return _told(node, ended, began)


def side_by_side(nodes: list[Node]) -> list[str]:
    """Trains nodes side by side (`together`), with what is said of each in its log.txt; gives a phrase for each.

    One that was begun and is at another step than the first goes on by itself afterwards.

    Raises: as `perform`.
    """
    began, ended, trainers = time.monotonic(), {}, {}
    with contextlib.ExitStack() as closing:
        for node in nodes:
            with _ending(node, ended):
                trainers[node.key] = closing.enter_context(_trainer(node))
        left = [node for node in nodes if node.key in trainers]
        level = [node for node in left if trainers[node.key].step == trainers[left[0].key].step]
        errors: list[Any] = []
        if len(level) > 1:
            logs = [closing.enter_context((node.folder / LOG).open("a", buffering=1)) for node in level]
            errors = together.train([trainers[node.key] for node in level], lambda i: _printed_to(logs[i]))
        for node in left:
            error = errors[level.index(node)] if errors and node in level else None
            with _ending(node, ended):
                if error is not None:
                    raise error
                trainers[node.key].train()  # what is left of it: its end
    return [_told(node, ended, began, len(level)) for node in nodes]


@contextlib.contextmanager
def _ending(node: Node, ended: dict[str, str]) -> Iterator[None]:
    """Has what a node does in a `with` block logged in its folder, and notes by its key how it failed."""
    node.folder.mkdir(parents=True, exist_ok=True)
    if not (node.folder / "config.json").exists() or node.evaluates:  # a workdir that is not empty has one
        words = {"format": files.FORMAT, **json.loads(to_json(node.config))}
        disk.write(node.folder / "config.json", json.dumps(words, indent=2))
    with _logged(node.folder / LOG) as log:
        try:
            yield
        except runs.Stopped:
            raise
        except NonFiniteError as error:
            ended[node.key] = f"diverged: {short(_line(error))}"
        except Exception as error:
            traceback.print_exc(file=log)
            text = _line(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {_line(error)}"
            record(node, "failed", text)
            ended[node.key] = f"failed: {text}"


def _told(node: Node, ended: dict[str, str], began: float, beside: int = 1) -> str:
    """Says how a node has ended; of a good end, what an earlier start said of a bad one is taken back."""
    if node.key in ended:
        return ended[node.key]
    (node.folder / FAILED).unlink(missing_ok=True)
    many = f", {beside} side by side" if beside > 1 else ""
    return f"{'evaluated' if node.evaluates else 'trained'} in {written(time.monotonic() - began)}{many}"


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[Any]:
    """Has all that is printed in a `with` block written to a file."""
    with path.open("a", buffering=1) as log, _printed_to(log):
        yield log


@contextlib.contextmanager
def _printed_to(log: Any) -> Iterator[None]:
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def record(node: Node, state: str, error: str, tries: int = 1) -> None:
    """Writes failed.json: how a node ended, and how many times by now."""
    before = found(node.folder / FAILED)
    tries += int(_number(before.get("tries"))) if before.get("status") == state else 0
    node.folder.mkdir(parents=True, exist_ok=True)
    content = {"status": state, "error": error, "tries": tries, "time": time.time()}
    disk.write(node.folder / FAILED, json.dumps(content, indent=2))


def measured(measure: Measure | str | None) -> Measure | None:
    """Finds the function that "module:function" or "file.py:function" names; a function is given as it is.

    Raises:
        ConfigError: where there is none.
    """
    if not isinstance(measure, str):
        return measure
    home, _, name = measure.rpartition(":")
    try:
        if home.endswith(".py"):
            return runpy.run_path(home, run_name="measured")[name]
        return getattr(importlib.import_module(home), name)
    except (ImportError, KeyError, AttributeError, OSError, ValueError) as error:
        raise ConfigError(
            f"measure is {measure!r}, expected 'module:function' or 'file.py:function': {error}."
        ) from error


def check_arguments(plan: Plan, measure: Measure | None) -> None:
    """Checks that `measure` takes the arguments that the points of evaluations give it (`plan.ARGUMENTS`).

    Raises:
        ConfigError: naming the first point whose arguments it does not take, or where there is no such function.
    """
    for node in plan.nodes:
        own = node.arguments
        if own and measure is None:
            raise ConfigError(f"The key 'measure.{next(iter(own))}' is an argument of measure, which this sweep lacks.")
        try:
            if node.evaluates and measure is not None:
                inspect.signature(measure).bind(*([None] if node.trained else []), **own)
        except TypeError as error:
            raise ConfigError(f"{plan.said(node)}: measure takes other arguments, {error}.") from error


def summary(plan: Plan, root: Path) -> str:
    """Says how many trainings and evaluations there are, and how far they are."""
    counts = []
    for kind in ("training", "evaluation") if any(not node.evaluates for node in plan.nodes) else ("evaluation",):
        states = [outcome(node, plan)[0] for node in plan.nodes if node.evaluates == (kind == "evaluation")]
        ended = sum(state in ("trained", "done") for state in states)
        lost = "".join(f", {states.count(state)} {state}" for state in BAD if state in states)
        counts.append(f"{len(states)} {kind}{'s' * (len(states) != 1)} ({ended} done{lost})")
    return f"{root}: {', '.join(counts)}"


def missing(plan: Plan, root: Path) -> list[Node]:
    """Lists what has no result, and is not in the hands of another process either."""
    taken = {folder.name for folder in (root / "claims").glob("*") if claims.alive(folder)}
    free = [node for node in plan.nodes if not taken & {node.key, node.trained}]
    return [node for node in free if outcome(node, plan)[0] not in ("trained", "done")]


def found(path: Path) -> dict[str, Any]:
    """Reads a JSON object; {} where there is none, or it is damaged."""
    try:
        return disk.read_json(path)
    except (FileNotFoundError, disk.DamagedFileError):
        return {}


def short(error: str) -> str:
    """Writes the first sentence of an error."""
    return error.partition(". ")[0][:300]


def written(seconds: float) -> str:
    """Writes a time: "40 s", "3 min", "2.5 h"."""
    if seconds < 99:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def _trainer(node: Node) -> Iterator[runs.Trainer]:
    config = files.going_on(node.folder, node.config, complete)
    built = runs.build_run(config)
    with runs.Trainer(**built._asdict(), workdir=node.folder) as trainer:
        _check_stop()
        yield trainer


def _call(node: Node, measure: Measure | None) -> None:
    assert measure is not None
    began = time.monotonic()
    result = _checked(measure(**node.arguments))
    disk.write(node.folder / "eval.json", json.dumps({**result, "minutes": (time.monotonic() - began) / 60}, indent=2))


def _checked(result: Any) -> dict[str, Any]:
    """Gives what was measured, if it can be written beside what a table has of its own."""
    if not isinstance(result, dict):
        raise ConfigError(f"What was measured is {type(result).__name__}, expected {{name: value}}.")
    if own := [name for name in RESERVED if name in result]:
        raise ConfigError(f"What was measured has the name {own[0]!r}, which a table has for itself: give another one.")
    return result


def _evaluate(node: Node, measure: Measure | None) -> None:
    config, own = parted(node.config)
    built = runs.build_run(config)
    data.keep_names(node.workdir, built.data)
    run = opened.of(built, opened.saved_state(built, node.workdir).state, node.workdir)
    _check_stop()  # a stop while a checkpoint is read looks like damage to what reads it
    ended = found(node.workdir / "results.json").get("step", run.step)
    if run.step != ended:
        raise ConfigError(f"{node.workdir} has trained to step {ended}, but its newest sound checkpoint is {run.step}.")
    if measure is None:
        report.evaluate(run, node.folder)
    else:
        disk.write(node.folder / "eval.json", json.dumps({"step": run.step, **_checked(measure(run, **own))}, indent=2))


_received: list[signal.Signals] = []  # an error that is raised in a callback (the collector's) is lost


def _check_stop() -> None:
    if _received:
        raise signals.Insisted(_received[0])


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Outside of the steps of a training, which saves first, a stop signal ends what runs at once: it is begun anew."""
    _received.clear()

    def end(number: int, frame: Any) -> None:
        del frame
        _received.append(signal.Signals(number))
        raise signals.Insisted(_received[0])

    main = threading.current_thread() is threading.main_thread()
    heard = [n for n in signals.STOPPING if main and signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heard}
    try:
        with screen.guard(), signals.untraced():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _place(node: Node, plan: Plan) -> str:
    """Names a node, after how many of all have ended by now, well or badly."""
    ended = len(plan.nodes) - _open(plan)
    return f"[{ended}/{len(plan.nodes)} ended] {node.key} {plan.said(node)}".rstrip()


def _open(plan: Plan) -> int:
    return sum(outcome(node, plan)[0] not in ("trained", "done", *BAD) for node in plan.nodes)


def _left(plan: Plan, spent: list[float], share: int) -> str:
    left = _open(plan)
    return f"about {written(left * sum(spent) / len(spent) / share)} left" if left else "none left"


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0.0
