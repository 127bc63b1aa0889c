"""Trains, resumes, samples as it goes, and ends with an evaluation and a report."""

import contextlib
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffjax import cluster, profiling, runs
from diffjax.config import Config, ConfigError, flat
from diffjax.ledger import Ledger
from diffjax.metrics import judges
from diffjax.resume import FixedError
from diffjax.runs import workdir as files
from diffjax.runs.build import build_run, complete
from diffjax.runs.run import starting


def main(config: Config | None, overrides: list[str], flags: Namespace) -> int:
    """Trains a run, or goes on with the one in --workdir, whose own config is taken where no --config is.

    Exit status 128 + signal if asked to stop, 1 if samples of the trained run are not finite.
    """
    assert config is not None
    said = "".join(f"{line}\n" for line in flags.dropped)
    named = lambda folder: (setattr(flags, "workdir", folder), print(said, end="", flush=True))
    try:
        return judges.status(run(config, flags.workdir, flags.began, named, flags.profile))
    except runs.Stopped as stopped:
        return 128 + stopped.signal
    except FixedError as error:
        raise error.typed(flags.config or f"{flags.workdir}/config.json", overrides) from error


def run(
    config: Config,
    workdir: str | Path | None = None,
    began: float | None = None,
    named: Callable[[Path], Any] = lambda workdir: None,
    profile: bool = False,
) -> dict[str, Any]:
    """Trains to the end, from scratch or from the newest good checkpoint in `workdir`.

    Args:
        config: a config; groups that it lacks have their defaults.
        workdir: default a new one, runs/<config>-<time>; that of a run goes on with it, with what may change
            (`resume`) as this config says.
        began: `time.monotonic()` when the process did, for results.json; default now.
        named: called with the workdir before training.
        profile: whether some steps are traced into profile/train.json.gz (`profiling`).

    Returns:
        What results.json holds: status "done", skipped steps, time, command, commit, device, and the metrics.

    Raises:
        ConfigError: for anything in the config or the workdir that cannot be used.
        runs.Stopped: after SIGTERM or Ctrl-C; results.json then says "interrupted".
        training.NonFiniteError: a loss or gradient is not finite and the policy is "stop", or none is in a window.
    """
    clock = Ledger(began=began)
    cluster.same("the config", flat(config), ConfigError)
    going_on = lambda: files.going_on(Path(workdir or ""), complete(config), complete, new=workdir is None)
    built = build_run(files.told(going_on))
    first, place = starting(built), contextlib.nullcontext(Path(workdir)) if workdir else files.fresh(built.config)
    with place as folder, runs.Trainer(**built._asdict(), **first, workdir=folder, ledger=clock) as trainer:
        named(folder)
        with profiling.steps(trainer, profiling.place(folder, "train")) if profile else contextlib.nullcontext():
            trainer.train()
        trainer.report()
        return trainer.account.found
