"""Trains, resumes, samples as it goes, and ends with an evaluation and a report."""

import json
import signal
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import jax

from diffjax import finetune, runs, training
from diffjax.commands import evaluate
from diffjax.config import Config, ConfigError
from diffjax.runs import workdir as files
from diffjax.runs.build import Built, build_run
from diffjax.runs.logs import CompileClock
from diffjax.runs.run import abstract_state


def main(config: Config | None, overrides: list[str], flags: Namespace) -> int:
    """The command line's entry: --workdir alone resumes the run in it. Exit status 128 + signal if asked to stop."""
    if config is None:
        config = files.read_config(Path(flags.workdir))
    results = run(config, flags.workdir)
    return 128 + signal.Signals[results["signal"]] if results["status"] == "interrupted" else 0


def run(config: Config, workdir: str | Path | None = None) -> dict[str, Any]:
    """Trains to the end, from scratch or from the newest good checkpoint in `workdir`.

    Args:
        config: a config; groups that it lacks have their defaults.
        workdir: default runs/<config>-<time>; the workdir of this same config resumes.

    Returns:
        What results.json holds: status "done", or "interrupted" after SIGTERM or Ctrl-C, and the metrics.

    Raises:
        ConfigError: for anything in the config or the workdir that cannot be used.
        training.NonFiniteError: a loss or gradient is not finite and the policy is "stop".
    """
    began, clock, built = time.monotonic(), CompileClock(), build_run(config)
    config = built.config
    if config.train.only is not None and config.train.start is None:
        raise ConfigError(
            f"train.only is {config.train.only!r}, which keeps all other parameters as they begin; set train.start to "
            "the workdir of the run that they are from."
        )
    if config.train.start is not None:
        files.read_config(Path(config.train.start))  # refused before there is a workdir
    workdir = Path(workdir) if workdir else files.default_name(config)
    start = None if config.train.start is None else lambda params: finetune.take_over(params, _start(built))
    with runs.Trainer(**built._asdict(), workdir=workdir, clock=clock, start=start) as trainer:
        try:
            trained = trainer.train()
        except training.NonFiniteError as error:
            _write_results(workdir, {"status": "nonfinite", "error": str(error)})
            raise
    if trainer.step < trainer.settings.steps:
        asked = {"status": "interrupted", "signal": trainer.stopped and trainer.stopped.name, "step": trainer.step}
        return _write_results(workdir, asked)
    results = evaluate.run(workdir, run=trained)
    minutes = (time.monotonic() - began) / 60
    return _write_results(workdir, {"status": "done", "minutes": round(minutes, 2), **results})


def _write_results(workdir: Path, results: dict[str, Any]) -> dict[str, Any]:
    files.write_atomically(workdir / "results.json", json.dumps(results, indent=2))
    return results


def _start(built: Built) -> Any:
    """What the run at train.start samples with: where this one begins."""
    start, config = built.config.train.start, built.config
    other = runs.open(start)
    for group in ("process", "schedule", "target"):
        if config.train.only is not None and other.config[group] != config[group]:
            raise ConfigError(
                f"train.only keeps parts of {start} as they are, whose {group} is {dict(other.config[group])}; "
                f"this one's is {dict(config[group])}."
            )
    params = other.params
    try:
        jax.eval_shape(finetune.take_over, abstract_state(built).params, params)
    except ValueError as error:
        raise ConfigError(f"cannot start from {start}: {error}") from error
    print(f"starting from {start}, step {other.step}", flush=True)
    return params
