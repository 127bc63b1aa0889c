"""Trains, resumes, samples as it goes, and ends with an evaluation and a report."""

import json
import signal
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import data, finetune, parallel, training
from diffjax.checkpoint import Checkpoints
from diffjax.commands import evaluate, snapshots
from diffjax.commands import workdir as files
from diffjax.commands.experiment import Experiment, abstract_state, build_experiment, init_state, loss_fn
from diffjax.commands.logs import CompileClock, Log
from diffjax.commands.sample import drawer, restore, served
from diffjax.config import Config, ConfigError
from diffjax.signals import Stop, install_stop_handler

SAMPLES_SHOWN = 64


def main(config: Config | None, overrides: list[str], flags: Namespace) -> int:
    """The command line's entry: --workdir alone resumes the run in it. Exit status 128 + signal if asked to stop."""
    if config is None:
        config = files.read_config(Path(flags.workdir))
    results = run(config, flags.workdir)
    return 128 + signal.Signals[results["signal"]] if results["status"] == "interrupted" else 0


def run(config: Config, workdir: str | Path | None = None) -> dict[str, Any]:
    """Trains to the end, from scratch or from the newest good checkpoint in `workdir`.

    Args:
        config: a resolved config.
        workdir: default runs/<config>-<time>; the workdir of this same config resumes.

    Returns:
        What results.json holds: status "done", or "interrupted" after SIGTERM or Ctrl-C, and the metrics.

    Raises:
        ConfigError: for anything in the config or the workdir that cannot be used.
        training.NonFiniteError: a loss or gradient is not finite and the policy is "stop".
    """
    began, clock = time.monotonic(), CompileClock()
    experiment = build_experiment(config)
    if config.train.only is not None and config.train.start is None:
        raise ConfigError(
            f"train.only is {config.train.only!r}, which keeps all other parameters as they begin; set train.start to "
            "the workdir of the run that they are from."
        )
    if config.train.start is not None:
        files.read_config(Path(config.train.start))  # refused before there is a workdir
    mesh = parallel.mesh(_devices(config))
    workdir = Path(workdir) if workdir else files.default_name(config)
    files.prepare(workdir, config)
    with install_stop_handler() as stop, open_checkpoints(workdir, config) as checkpoints:
        loop = _Loop(experiment, workdir, mesh, checkpoints, clock)
        with Log(workdir, config.train.steps, loop.step, config.train.loggers, config.to_dict()) as log:
            log.say(f"{workdir}: {loop.opening()}")
            try:
                finished = loop.run(log, stop)
            except training.NonFiniteError as error:
                _write_results(workdir, {"status": "nonfinite", "error": str(error)})
                raise
        if not finished:
            log.say(f"stopped at step {loop.step}, saved; --workdir={workdir} resumes")
            asked = {"status": "interrupted", "signal": stop.received and stop.received.name, "step": loop.step}
            return _write_results(workdir, asked)
        checkpoints.wait()
    results = evaluate.run(workdir, experiment=experiment, state=loop.state)
    minutes = (time.monotonic() - began) / 60
    return _write_results(workdir, {"status": "done", "minutes": round(minutes, 2), **results})


def open_checkpoints(workdir: Path, config: Config, **options: Any) -> Checkpoints:
    """The checkpoints of a run, kept as its config says."""
    report = lambda line: print(line, flush=True)
    return Checkpoints(
        workdir / "checkpoints", keep=config.checkpoint.keep, best=config.checkpoint.best, report=report, **options
    )


def _write_results(workdir: Path, results: dict[str, Any]) -> dict[str, Any]:
    files.write_atomically(workdir / "results.json", json.dumps(results, indent=2))
    return results


def _parameters_of(experiment: Experiment) -> Any:
    """What the run at train.start samples with: where this one begins."""
    start, config = experiment.config.train.start, experiment.config
    other, state, step = restore(start)
    for group in ("process", "schedule", "target"):
        if config.train.only is not None and other.config[group] != config[group]:
            raise ConfigError(
                f"train.only keeps parts of {start} as they are, whose {group} is {dict(other.config[group])}; "
                f"this one's is {dict(config[group])}."
            )
    params = served(other, state, start)
    try:
        jax.eval_shape(finetune.take_over, abstract_state(experiment).params, params)
    except ValueError as error:
        raise ConfigError(f"cannot start from {start}: {error}") from error
    print(f"starting from {start}, step {step}", flush=True)
    return params


def _devices(config: Config) -> Any:
    count = config.train.devices
    if count is not None and not 1 <= count <= jax.device_count():
        raise ConfigError(f"train.devices is {count}, expected 1 to {jax.device_count()}, the devices that are here.")
    devices = jax.devices()[:count]
    if config.train.batch_size % len(devices):
        raise ConfigError(
            f"train.batch_size is {config.train.batch_size}, expected a multiple of {len(devices)}, the devices."
        )
    return devices


class _Loop:
    """The state of a run, and its walk from one boundary (log, sample, checkpoint) to the next."""

    def __init__(self, experiment: Experiment, workdir: Path, mesh: Any, checkpoints: Checkpoints, clock: CompileClock):
        self.experiment, self.workdir, self.mesh = experiment, workdir, mesh
        self.checkpoints, self.clock, self.train = checkpoints, clock, experiment.config.train
        self.draw = drawer(experiment, mesh)
        step = training.make_step(
            loss_fn(experiment),
            experiment.optimizer,
            experiment.emas,
            learning_rate=experiment.learning_rate,
            prepare=experiment.prepare,
            time_bins=experiment.config.eval.time_bins,
            axis_name=parallel.AXIS if self.train.backend == "pmap" else None,
        )
        self.steps = parallel.compile_step(training.make_steps(step), self.train.backend, mesh, leading=1)
        self.state = parallel.replicate(mesh, init_state(experiment))
        self.step, self.window, self.loss = 0, [], None
        self._restore()

    def _restore(self) -> None:
        try:
            found = self.checkpoints.restore(self.state)
        except ValueError as error:
            raise ConfigError(f"cannot resume in {self.workdir}: {error}") from error
        if found is None and self.train.start is not None:
            self.state = parallel.replicate(self.mesh, init_state(self.experiment, _parameters_of(self.experiment)))
        if found is not None:
            self.step, self.state = found.step, found.state
            is_list = lambda node: isinstance(node, list)
            saved = found.info.config["window"]
            self.window = [jax.tree.map(np.asarray, metrics, is_leaf=is_list) for metrics in saved]
        files.cut_metrics(self.workdir, self.step)

    def opening(self) -> str:
        parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        steps = self.train.steps
        known = {0: f"training {steps} steps", steps: f"all {steps} steps are trained, evaluating again"}
        where = known.get(self.step, f"resuming at step {self.step} of {steps}")
        devices = f"{self.mesh.size} x {self.mesh.devices.flat[0].device_kind} ({self.train.backend})"
        return f"{where}, {parameters:,} parameters, {devices}"

    def run(self, log: Log, stop: Stop) -> bool:
        """True at the last step, False if asked to stop."""
        per_dispatch, config = self.train.steps_per_dispatch, self.experiment.config
        put = lambda batch: parallel.shard_batch(self.mesh, batch, leading=1)
        batches = data.Batches(
            self.experiment.dataset.train,
            self.train.batch_size,
            config.seed,
            self.step,
            steps_per_dispatch=per_dispatch,
            flip=self.experiment.dataset.flip,
            put=put,
        )
        due = lambda every: self.step % every == 0 or self.step == self.train.steps
        began, compiled = time.monotonic(), self.clock.seconds
        with batches:
            for batch in batches:
                if self.step >= self.train.steps:
                    break
                self.state, metrics = self.steps(self.state, batch)
                self.step += per_dispatch
                self.window.append(metrics)
                if due(self.train.log_every):
                    elapsed, compile_s = time.monotonic() - began, self.clock.seconds - compiled
                    self._log(log, elapsed, compile_s)
                    began, compiled = time.monotonic(), self.clock.seconds
                paused = time.monotonic(), self.clock.seconds
                if config.checkpoint.get("snapshot_every") and due(config.checkpoint.snapshot_every):
                    snapshots.write(self.workdir, self.step, parallel.replicate(self.mesh, self.state.ema))
                if due(self.train.sample_every):
                    self._draw()
                stopping = bool(stop)  # read once: a signal may come between two looks
                if due(config.checkpoint.every) or stopping:
                    self._save()
                began += time.monotonic() - paused[0]  # step/s and compile_s are of training alone
                compiled += self.clock.seconds - paused[1]
                if stopping:
                    return False
        return True

    def _fetch(self) -> list[training.Metrics]:
        """The window on the host; raises if anything in it is not finite and the policy is to stop."""
        self.window = jax.device_get(self.window)
        if self.window:
            first = self.step - sum(len(metrics["finite"]) for metrics in self.window)
            training.check_finite(self.window, first, self.train.nonfinite)
        return self.window

    def _log(self, log: Log, elapsed: float, compile_s: float) -> None:
        summary = training.summarize(self._fetch())
        steps = sum(len(metrics["finite"]) for metrics in self.window)
        rate = steps / max(elapsed - compile_s, 1e-9)
        timing = {"steps_per_s": rate, "images_per_s": rate * self.train.batch_size, "compile_s": compile_s}
        log.write(self.step, {**summary, "timing": {k: round(v, 3) for k, v in timing.items()}})
        log.progress(self.step, self.train.batch_size, summary["loss"], rate)
        self.window, self.loss = [], summary["loss"]

    def _save(self) -> None:
        window = jax.tree.map(lambda values: values.tolist(), self._fetch())
        metrics = {} if self.loss is None else {"loss": self.loss}
        record = {"config": self.experiment.config.to_dict(), "window": window}
        state = parallel.replicate(self.mesh, self.state)  # pmap's own sharding is not for files
        self.checkpoints.save(self.step, state, metrics=metrics, config=record)

    def _draw(self) -> None:
        """samples/step_*.png: the same seeds from the raw parameters and from the EMA, side by side."""
        from diffjax import plots

        seeds, name = range(SAMPLES_SHOWN), self.experiment.config.sample.ema
        pairs = {"raw": self.state.params, f"EMA {name}": served(self.experiment, self.state, self.workdir)}
        groups = {title: self.draw(params, seeds) for title, params in pairs.items()}
        plots.samples(self.workdir / "samples" / f"step_{self.step:07d}.png", groups)
