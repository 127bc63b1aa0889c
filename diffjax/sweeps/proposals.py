"""A search: Optuna proposes points, each a training and its evaluation in a sweep's folder.

The database remembers trials. Several processes may share it, on one machine SQLite's file.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffjax import disk, runs
from diffjax.config import ConfigError
from diffjax.sweeps import claims, columns, grid, plan, work, workers
from diffjax.sweeps import sweep as sweeps

Space = Mapping[str, Any]
RANGE = "(low, high), (low, high, 'log'), or a list of values"


def search(
    config: str,
    space: Space,
    metric: str,
    trials: int,
    *,
    root: str | Path,
    storage: str | None = None,
    direction: str = "minimize",
    fixed: Mapping[str, Any] | None = None,
    evaluate: Mapping[str, Any] | None = None,
    measure: Any = None,
    seed: int = 0,
    say: Callable[[str], Any] | None = None,
) -> Any:
    """Trains what Optuna proposes until the study has so many trials that have ended; gives the optuna.Study.

    A trial whose training diverges or fails is told as failed. One that was stopped is proposed again by the next
    start, and goes on. A point that the folder has already is not run again.

    Args:
        space: key -> (low, high), of integers or numbers, (low, high, "log"), or a list of values.
        metric: a column of the table, such as "frechet". Its name is checked before the first trial, as far as it can
            be known (`columns.check`), or else when that has ended.
        trials: of all processes and starts together.
        storage: URL of a database; default sqlite:///ROOT/search.db.
        direction: "minimize" or "maximize".
        fixed, evaluate: fields that all trainings, and all evaluations, have.
        seed: of the proposals.

    Raises:
        ConfigError: for a space or a config that is wrong, before the first trial; where Optuna is not installed.
        runs.Stopped, KeyboardInterrupt: when asked to stop.
    """
    optuna = _optuna()
    if direction not in ("minimize", "maximize") or trials < 1 or not space:
        raise ConfigError(
            f"Got {trials} trials to {direction} over {dict(space)}, expected 1 or more, to minimize or maximize."
        )
    root, say = Path(root), say or sweeps.printer()
    made = lambda point: sweeps.Sweep(
        config, [{**(fixed or {}), **point}], evaluate=[dict(evaluate or {})], root=root, measure=measure
    )
    for place in (0, 1):  # a wrong key or value fails here
        first = made({key: _distribution(optuna, key, values)[place] for key, values in space.items()})
        plan.check(first.plan)
    certain = columns.check(first.plan, metric, measure, say)
    plan.write_header(root, first.plan)
    study = _study(optuna, storage or f"sqlite:///{root.absolute() / 'search.db'}", direction, seed)
    _revive(optuna, study, root)
    space = {key: _distribution(optuna, key, values)[2] for key, values in space.items()}
    with workers.watched(root, say):
        while _left(study, trials):
            trial = study.ask(space)
            one = made(trial.params)
            trial.set_user_attr("training", one.plan.nodes[0].key)
            try:
                value = _value(one, metric, say)
            except (runs.Stopped, KeyboardInterrupt):
                _again(optuna, study, trial)
                raise
            except ConfigError:  # there is no such number: in no trial, or where another had it, in this one
                if not certain:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                    raise
                value = None
            certain = certain or value is not None
            study.tell(trial, value, state=optuna.trial.TrialState.FAIL if value is None else None)
            told = "it failed" if value is None else f"{metric} {value:.4g}"
            say(f"trial {trial.number + 1}, {grid.said(one.plan.nodes[0].point)}: {told}; {_left(study, trials)} left")
    return study


def _value(one: sweeps.Sweep, metric: str, say: Callable[[str], Any]) -> float | None:
    """Runs a trial, or waits for who does; None where it failed."""
    evaluation = one.plan.nodes[-1]
    while True:
        work.work(one.plan, one.root, say, measure=work.measured(one.measure))
        status, _ = work.outcome(evaluation, one.plan)
        if status == "done":
            return columns.number(one.table([metric]).rows[0][metric], metric)
        if status in work.BAD:
            return None
        time.sleep(1.0)  # another process has it


def _left(study: Any, trials: int) -> int:
    """How many trials are left; one that was stopped and proposed again counts once."""
    known = study.get_trials(deepcopy=False)
    return max(trials - sum(t.state.is_finished() for t in known) + sum("again" in t.user_attrs for t in known), 0)


def _study(optuna: Any, storage: str, direction: str, seed: int) -> Any:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    words = {"storage": storage, "study_name": "search", "load_if_exists": True, "direction": direction}
    study = optuna.create_study(**words)
    # Of another start other proposals: several processes would make the first ones twice.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials(deepcopy=False)))
    return study


def _again(optuna: Any, study: Any, trial: Any) -> None:
    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    study.enqueue_trial(trial.params, user_attrs={"again": True})


def _revive(optuna: Any, study: Any, root: Path) -> None:
    """Proposes again what a killed process was at: a trial that runs, whose training nobody has claimed."""
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        key = str(trial.user_attrs.get("training", f"trial-{trial.number}"))
        with claims.claim(root / "claims" / disk.file_name(key), Path(), lambda line: None) as free:
            if free:
                _again(optuna, study, trial)


def _distribution(optuna: Any, key: str, values: Any) -> tuple[Any, Any, Any]:
    """Makes of one entry of a space its first and its last value, and Optuna's distribution."""
    kinds = optuna.distributions
    if isinstance(values, list) and values:
        return values[0], values[-1], kinds.CategoricalDistribution([_plain(value) for value in values])
    number = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(values, tuple) and len(values) in (2, 3) and all(map(number, values[:2])):
        low, high, *log = values
        if low < high and log in ([], ["log"]) and not (log and low <= 0):
            kind = kinds.IntDistribution if isinstance(low, int) and isinstance(high, int) else kinds.FloatDistribution
            return low, high, kind(low, high, log=bool(log))
    raise ConfigError(f"The space of {key} is {values!r}, expected {RANGE}.")


def _plain(value: Any) -> Any:
    """What a database keeps of a choice."""
    return value if isinstance(value, str | int | float | None) else grid.typed("a choice", value)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("A search needs optuna: pip install 'diffjax[search]'.") from error
    return optuna
