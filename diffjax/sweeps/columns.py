"""What columns a sweep's table will have, as far as it can be known before the first run."""

from collections.abc import Callable
from typing import Any

from diffjax import data, runs
from diffjax.config import ConfigError, nearest
from diffjax.metrics import judges
from diffjax.sweeps import tables
from diffjax.sweeps.plan import Plan, parted

TRAINING = ("step", "skipped", "minutes", "starts")  # numbers that every training has


def check(plan: Plan, metric: str, measure: Any, say: Callable[[str], Any]) -> bool:
    """Checks that a sweep's table will have a metric; gives whether it is certain.

    Where it is not (a `measure` of one's own, or a method whose report has numbers of its own) a line says so.

    Raises:
        ConfigError: for one that it will not have; the nearest is named.
    """
    paths, whole = ([], False) if measure is not None else known(plan)
    try:
        tables.home_of(metric, paths)
        if paths:
            return True
    except ConfigError:
        if whole and "." not in metric:  # with a dot it is a path in eval.json, which has more than metrics
            raise
    told = "measure is a function of its own" if measure is not None else f"known are {nearest('', paths)}"
    say(f"whether there is a metric {metric!r} is seen when the first trial has ended: {told}")
    return False


def known(plan: Plan) -> tuple[list[str], bool]:
    """Lists the paths of numbers that an evaluation of a plan will have, and tells whether those are all with a name.

    They are the metrics of the data set's judge, by a trial, those of the method's own report, and of the training.
    """
    config, _ = parted(plan.nodes[-1].config)
    built = runs.build_run(config)
    asked = data.asked(built.method, built.data)
    metrics = judges.names(data.undone(built.data), asked)
    values = [f"metrics.{name}.{column}" for name in metrics for column in ("value", "floor", "gaussian")]
    own = getattr(built.method.parts, "numbers", None)
    return [*values, *(own or ()), *TRAINING], built.method.report is None or own is not None


def number(value: Any, metric: str) -> float | None:
    """Gives the value of a trial, or None where it has none.

    Raises:
        ConfigError: for what is no number, so that no trial has a value.
    """
    if value is not None and not isinstance(value, int | float):
        raise ConfigError(f"The metric {metric!r} is {value!r} of the first trial, expected a number.")
    return value if value is not None and tables.is_number(value) else None
