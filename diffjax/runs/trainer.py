"""Training: the state of a run, and its walk from one boundary (log, sample, checkpoint) to the next."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffjax import data, ema, parallel, training
from diffjax.checkpoint import Checkpoints
from diffjax.config import Config, ConfigError
from diffjax.method import Method
from diffjax.runs import checks, snapshots
from diffjax.runs import run as runs
from diffjax.runs import workdir as files
from diffjax.runs.build import Built
from diffjax.runs.logs import CompileClock, Log
from diffjax.runs.settings import Settings
from diffjax.signals import Stop, install_stop_handler
from diffjax.types import PyTree

SAMPLES_SHOWN = 64


class Trainer:
    """Trains a method in a workdir, and goes on there when it is made again.

        run = Trainer(methods.denoising(models.of(net), process, target), data.arrays(x, label=y),
                      optimizer=optax.adam(1e-3), workdir="runs/mine").train(2000)
        run.draw(16, sampler=samplers.multistep.dpmpp_2m)

    Args:
        optimizer: optax's, or one for each name that the method's turns move.
        ema: default `ema.warm_up` with the decay that `settings.ema` names.
        workdir: None: nothing is kept.
        learning_rate: schedule, for the log alone.
        config: what the run is known by; default a fingerprint of the objects, so that others are refused there.
        start: its own first parameters -> those to begin with, where there is no checkpoint.
        options: fields of `Settings`, in place of those.
    """

    def __init__(
        self,
        method: Method,
        data: data.Dataset,
        *,
        optimizer: Any,
        ema: ema.Ema | None = None,
        workdir: str | Path | None = None,
        learning_rate: Callable | None = None,
        settings: Settings | None = None,
        config: Config | None = None,
        start: Callable[[PyTree], PyTree] | None = None,
        clock: CompileClock | None = None,
        **options: Any,
    ):
        settings = (settings or Settings())._replace(**options)
        checks.check_settings(settings)
        emas = ema or _average(settings)
        checks.check_ema(settings, emas)
        self.built = Built(method, data, optimizer, emas, learning_rate, settings, config)  # pyright: ignore
        self.settings, self.method, self.data = settings, method, data
        self.mesh, self.clock = parallel.mesh(_devices(settings)), clock or CompileClock()
        self.workdir = None if workdir is None else Path(workdir)
        axis = parallel.AXIS if settings.backend == "pmap" else None
        options = {"learning_rate": learning_rate, "time_bins": settings.time_bins, "axis_name": axis}
        step = training.make_steps(training.make_step(method, optimizer, emas, **options))
        self.steps = parallel.compile_step(step, settings.backend, self.mesh, leading=1)
        self.step, self.window, self.loss, self.checkpoints = 0, [], None, None
        if self.workdir is not None:
            if config is None:
                checks.check_calls(method, data)
                self.built = self.built._replace(config=_fingerprint(self.built))
            files.prepare(self.workdir, self.built.config)
            self.checkpoints = open_checkpoints(self.workdir, settings)
        self.state = parallel.replicate(self.mesh, runs.init_state(self.built))
        if not self._restore() and start is not None:
            self.state = parallel.replicate(self.mesh, runs.init_state(self.built, start))
        self.draw = self.run().drawer()

    def train(self, steps: int | None = None) -> "runs.Run":
        """Trains up to this step, and gives the run; of a stop by a signal `stopped` says which.

        Args:
            steps: default the settings'.
        """
        last, self.stopped = self.settings.steps if steps is None else steps, None
        words = self.built.config.to_dict() if self.built.config is not None else {}
        with install_stop_handler() as stop, Log(self.workdir, last, self.step, self.settings.loggers, words) as log:
            log.say(f"{self.workdir or 'nowhere kept'}: {self.opening(last)}")
            if not self._train(log, stop, last):
                self.stopped = stop.received
                log.say(f"stopped at step {self.step}, saved; --workdir={self.workdir} resumes")
        if self.checkpoints is not None:
            self.checkpoints.wait()
        return self.run()

    def run(self) -> "runs.Run":
        """What there is so far, to draw from."""
        return runs.of(self.built, self.state, self.workdir)

    def sample(self, seeds: Any, given: dict | None = None, **parts: Any) -> np.ndarray:
        """`Run.draw`."""
        return self.run().draw(seeds, given, **parts)

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.checkpoints is not None:
            self.checkpoints.close()

    def _restore(self) -> bool:
        """Whether there was a checkpoint to go on from."""
        if self.checkpoints is None or self.workdir is None:
            return False
        try:
            found = self.checkpoints.restore(self.state)
        except ValueError as error:
            raise ConfigError(f"cannot resume in {self.workdir}: {error}") from error
        if found is not None:
            self.step, self.state = found.step, found.state
            is_list = lambda node: isinstance(node, list)
            saved = found.info.config["window"]
            self.window = [jax.tree.map(np.asarray, metrics, is_leaf=is_list) for metrics in saved]
        files.cut_metrics(self.workdir, self.step)
        return found is not None

    def opening(self, steps: int) -> str:
        """Where it stands."""
        parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        known = {0: f"training {steps} steps", steps: f"all {steps} steps are trained, evaluating again"}
        where = known.get(self.step, f"resuming at step {self.step} of {steps}")
        devices = f"{self.mesh.size} x {self.mesh.devices.flat[0].device_kind} ({self.settings.backend})"
        return f"{where}, {parameters:,} parameters, {devices}"

    def _train(self, log: Log, stop: Stop, last: int) -> bool:
        """True at the last step, False if asked to stop."""
        settings = self.settings
        put = lambda batch: parallel.shard_batch(self.mesh, data.example(batch), leading=1)
        batches = data.Batches(
            self.data.train,
            settings.batch_size * len(self.method.turns),
            settings.seed,
            self.step,
            steps_per_dispatch=settings.steps_per_dispatch,
            flip=self.data.flip,
            put=put,
        )
        due = lambda every: self.step % every == 0 or self.step == last
        began, compiled = time.monotonic(), self.clock.seconds
        with batches:
            for batch in batches:
                if self.step >= last:
                    break
                self.state, metrics = self.steps(self.state, batch)
                self.step += settings.steps_per_dispatch
                self.window.append(metrics)
                if due(settings.log_every):
                    self._log(log, time.monotonic() - began, self.clock.seconds - compiled)
                    began, compiled = time.monotonic(), self.clock.seconds
                paused = time.monotonic(), self.clock.seconds
                stopping = bool(stop)  # read once: a signal may come between two looks
                if self.workdir is not None:
                    self._keep(due, stopping)
                began += time.monotonic() - paused[0]  # step/s and compile_s are of training alone
                compiled += self.clock.seconds - paused[1]
                if stopping:
                    return False
        return True

    def _keep(self, due: Callable[[int], bool], stopping: bool) -> None:
        settings, workdir = self.settings, self.workdir
        assert workdir is not None
        if settings.snapshot_every and due(settings.snapshot_every):
            snapshots.write(workdir, self.step, parallel.replicate(self.mesh, self.state.ema))
        if due(settings.sample_every):
            self._show(workdir)
        if due(settings.checkpoint_every) or stopping:
            self._save()

    def _fetch(self) -> list[training.Metrics]:
        """The window on the host; raises if anything in it is not finite and the policy is to stop."""
        self.window = jax.device_get(self.window)
        if self.window:
            first = self.step - sum(len(metrics["finite"]) for metrics in self.window)
            training.check_finite(self.window, first, self.settings.nonfinite)
        return self.window

    def _log(self, log: Log, elapsed: float, compile_s: float) -> None:
        summary = training.summarize(self._fetch())
        steps = sum(len(metrics["finite"]) for metrics in self.window)
        rate = steps / max(elapsed - compile_s, 1e-9)
        timing = {"steps_per_s": rate, "images_per_s": rate * self.settings.batch_size, "compile_s": compile_s}
        log.write(self.step, {**summary, "timing": {k: round(v, 3) for k, v in timing.items()}})
        log.progress(self.step, self.settings.batch_size, summary["loss"], rate)
        self.window, self.loss = [], summary["loss"]

    def _save(self) -> None:
        assert self.checkpoints is not None
        window = jax.tree.map(lambda values: values.tolist(), self._fetch())
        metrics = {} if self.loss is None else {"loss": self.loss}
        record = {"config": self.built.config.to_dict(), "window": window}
        state = parallel.replicate(self.mesh, self.state)  # pmap's own sharding is not for files
        self.checkpoints.save(self.step, state, metrics=metrics, config=record)

    def _show(self, workdir: Path) -> None:
        """samples/step_*.png: the same seeds from the raw parameters and from the EMA, side by side."""
        from diffjax import plots

        run, seeds = self.run(), range(SAMPLES_SHOWN)
        pairs = {"raw": self.state.params, f"EMA {self.settings.ema}": run.params}
        groups = {title: self.draw(params, seeds, run.given(seeds)) for title, params in pairs.items()}
        plots.samples(workdir / "samples" / f"step_{self.step:07d}.png", groups)


def open_checkpoints(workdir: Path, settings: Settings, **options: Any) -> Checkpoints:
    """The checkpoints of a run, kept as its settings say."""
    report = lambda line: print(line, flush=True)
    return Checkpoints(workdir / "checkpoints", keep=settings.keep, best=settings.best, report=report, **options)


def _average(settings: Settings) -> ema.Ema:
    return ema.warm_up((float(settings.ema),))


def _devices(settings: Settings) -> Any:
    count = settings.devices
    if count is not None and not 1 <= count <= jax.device_count():
        raise ConfigError(f"train.devices is {count}, expected 1 to {jax.device_count()}, the devices that are here.")
    devices = jax.devices()[:count]
    if settings.batch_size % len(devices):
        raise ConfigError(
            f"train.batch_size is {settings.batch_size}, expected a multiple of {len(devices)}, the devices."
        )
    return devices


def _fingerprint(built: Built) -> ConfigDict:
    """What a run of objects is known by: the settings, the data, and the program of one step."""
    state = runs.abstract_state(built)
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((len(built.method.turns), *a.shape), a.dtype), data.blank(built.data)
    )
    step = training.make_step(built.method, built.optimizer, built.ema)
    program = hashlib.sha256(jax.jit(step).lower(state, batch).as_text().encode()).hexdigest()[:16]
    free = ("steps", "log_every", "sample_every", "checkpoint_every", "keep", "best", "loggers", "devices", "chunk")
    settings = {name: value for name, value in built.settings._asdict().items() if name not in free}
    return ConfigDict(dict(name="objects", settings=settings, data=built.data.fingerprint, program=program)).lock()
