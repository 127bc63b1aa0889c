"""Training: the state of a run, and its walk from one boundary (log, sample, checkpoint) to the next."""

import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import activity, host, notebook, parallel, programs, replay, resume, screen, snapshots, summary, training
from diffjax import data as sources
from diffjax import ema as averages
from diffjax import ledger as ledgers
from diffjax.config import Config, ConfigError, build, is_spec
from diffjax.data.batches import order_at, stack_at
from diffjax.ledger import Account, Ledger
from diffjax.lock import HeldError
from diffjax.logs import Log
from diffjax.method import attempt
from diffjax.metrics import judges
from diffjax.optimizers import build_optimizer
from diffjax.runs import checks, report
from diffjax.runs import run as runs
from diffjax.runs import settings as table
from diffjax.runs import workdir as files
from diffjax.runs.build import Built, assemble, complete
from diffjax.runs.settings import Settings
from diffjax.signals import Stop, Stopped, install_stop_handler
from diffjax.strict import virtual

SAMPLES_SHOWN = 64


class Trainer:
    """Trains a method in a workdir, and goes on there when it is made again.

        run = Trainer(methods.denoising(models.of(net), process, target), data.arrays(x, label=y),
                      optimizer=optax.adam(1e-3), workdir="runs/mine").train(2000)
        run.draw(16, sampler=samplers.multistep.dpmpp_2m)

    Each of the first four may be a spec, {"name": ..., options}, in the place of an object.

    Args:
        method: what is trained and how it draws; a spec is what `runs.assemble` takes.
        data: `data.digits()`, `data.arrays(x)`, ...
        optimizer: optax's, or one for each name that the method's turns move; a spec also says the learning_rate.
        ema: an average; or a decay such as "0.99", of `ema.warm_up`; default the one that `settings.ema` names.
        workdir: None: nothing is kept.
        learning_rate: schedule, for the log alone.
        config: what the run is known by; default a fingerprint of the objects, so that others are refused there.
        start: what to begin with, where there is no checkpoint: a run, or its workdir or weights file, whose parameters
            are taken over (`finetune.take_over`), or a function of the first parameters; default the config's.
        carry: the workdir of another run, whose whole state (parameters, optimizer, averages, step) is what this one
            begins with, where there is no checkpoint.
        name: of the run in its fingerprint and its report, where there is no config.
        options: fields of `Settings`, in place of those.

    Raises:
        ConfigError: in one line before anything is compiled, for objects that are of the wrong kind or do not go
            together, and for a workdir of other ones.
    """

    @screen.guard()
    def __init__(
        self,
        method: Any,
        data: Any,
        *,
        optimizer: Any,
        ema: Any = None,
        workdir: str | Path | None = None,
        learning_rate: Callable | None = None,
        settings: Settings | None = None,
        config: Config | None = None,
        start: Any = None,
        carry: str | Path | None = None,
        ledger: Ledger | None = None,
        name: str = "run",
        **options: Any,
    ):
        for line in programs.keep():
            print(line, flush=True)
        if isinstance(ema, str | float):
            ema, options = None, {**options, "ema": str(ema)}
        method = assemble(**method) if is_spec(method) else method
        data, ema = (build(space, v) if is_spec(v) else v for space, v in ((sources, data), (averages, ema)))
        settings = table.merged(settings or Settings(), data, options)
        if is_spec(optimizer):
            optimizer, learning_rate = build_optimizer(dict(optimizer), settings.steps)
        elif isinstance(optimizer, dict):
            made = lambda one: build_optimizer(dict(one), settings.steps)[0] if is_spec(one) else one
            optimizer = {player: made(one) for player, one in optimizer.items()}
        checks.check_settings(settings)
        emas = ema or table.average(settings)
        checks.check_ema(settings, emas)
        if config is None:
            checks.check_objects(method, data, optimizer, settings, emas)
        built = Built(method, data, optimizer, emas, learning_rate, settings, config)
        self.built, self.settings, self.method, self.data = built, settings, method, data
        start, carry = map(runs.starting(built, start, carry, workdir).get, ("start", "carry"))
        devices = parallel.chosen(settings.devices, settings.batch_size, settings.accumulate, ConfigError)
        self.mesh, self.ledger = parallel.mesh(devices), ledger or Ledger()
        self.workdir = None if workdir is None else Path(workdir)
        axis = parallel.AXIS if settings.backend == "pmap" else None
        log = {"learning_rate": learning_rate, "time_bins": settings.time_bins}
        shards = virtual(
            self.mesh, settings.shards, settings.batch_size, settings.accumulate, settings.backend, ConfigError
        )
        options = {**log, "axis_name": axis, "accumulate": settings.accumulate, "shards": shards}
        self.plain = training.make_steps(training.make_step(method, optimizer, emas, **options))
        self.steps = parallel.compile_step(self.plain, settings.backend, self.mesh, leading=1)
        self.step, self.window, self.loss, self.checkpoints, self.lock = 0, [], None, None, None
        if self.workdir is not None:
            if config is None:
                self.built = built = built._replace(config=runs.fingerprint(built, name))
            self.lock, said = files.prepare(self.workdir, built.config, complete)
            for line in said:
                print(line, flush=True)
            if changed := sources.keep(data, self.workdir):
                raise ConfigError(changed)
            self.checkpoints = runs.open_checkpoints(self.workdir, settings)
        self.account = Account(self.workdir, self.ledger)
        self._start = () if start is None else (start,)
        self.state = parallel.replicate(self.mesh, runs.init_state(built))
        if not self._restore() and start is not None:
            self.state = parallel.replicate(self.mesh, runs.init_state(built, start))
        elif self.step == 0 and carry is not None:
            self._carry(carry)
        self.account.skipped = int(self.state.skipped)
        if self.step % settings.steps_per_dispatch:
            raise ConfigError(
                f"{self.workdir} is at step {self.step}, no multiple of train.steps_per_dispatch, "
                f"{settings.steps_per_dispatch}: give one that divides it."
            )
        self._drawn = self.run().drawer()
        self.ledger.enter(None)

    @screen.guard()
    def train(self, steps: int | None = None) -> "runs.Run":
        """Trains up to this step, and gives the run.

        Args:
            steps: in all, those of earlier starts included; default the settings'.

        Raises:
            Stopped: after SIGTERM, Ctrl-C or SIGHUP, when the state is saved.
            training.NonFiniteError: a loss or gradient is not finite and the policy is "stop", or, under "skip", none
                of a log window is.
            lock.HeldError: another Trainer of this process has taken the workdir since.
        """
        last = self.settings.steps if steps is None else steps
        if not isinstance(last, int) or last < max(self.step, 1) or last % self.settings.steps_per_dispatch:
            raise ConfigError(
                f"Got {last!r} steps, expected an integer >= {max(self.step, 1)}, the steps in all, and a multiple of "
                f"{self.settings.steps_per_dispatch}, those of a dispatch."
            )
        words = self.built.config.to_dict() if self.built.config is not None else {}
        log = Log(self.workdir, last, self.step, self.settings.loggers, words, at=lambda: self.step)
        doing = activity.doing(lambda: f"training, step {self.step} of {last}")
        with self.ledger.of("rest"), install_stop_handler() as stop, log, doing:
            idle = resume.remarks(self.built.learning_rate, self.step - self.account.skipped, last - self.step)
            for line in [*checks.remarks(self.method, self.data), *idle]:
                log.say(line)
            log.say(f"{self.workdir or 'no workdir'}: {self.opening(last)}")
            with self.account.watching(lambda: self.step, {training.NonFiniteError: "nonfinite", HeldError: None}):
                finished = self._train(log, stop, last)
                self.account.skipped = int(self.state.skipped)
                with self.ledger.of("save stall"):
                    if self.checkpoints is not None:
                        self.checkpoints.wait()  # a signal that comes now is served, and what is said to be saved is
            stopped = None
            if stop or not finished:
                stopped = Stopped(stop.received or signal.SIGTERM, self.step, self.workdir)
                self.account.write("interrupted", self.step, signal=stopped.signal.name)
                log.say(str(stopped))
        if stopped is not None:
            raise stopped
        self.account.write("trained", self.step)
        return self.run()

    def run(self) -> "runs.Run":
        """Gives what there is so far as a run, to draw from."""
        return runs.of(self.built, self.state, self.workdir)

    def sample(self, seeds: Any, given: dict | None = None, **words: Any) -> np.ndarray:
        """Draws samples of what there is so far (`Run.draw`)."""
        return self.run().draw(seeds, given, **words)

    @screen.guard()
    def report(self, out: str | Path | None = None) -> dict[str, Any]:
        """Evaluates what there is so far (`runs.report`); the folder is the workdir, whose run is done then, or `out`.

        Raises:
            ConfigError: where there is neither.
        """
        if out is None and self.workdir is None:
            raise ConfigError("This run has no workdir to write its report into; give report(out=FOLDER).")
        times = lambda: ledgers.table(self.account.seconds, self.account.starts)
        with self.ledger.of("evaluation"):
            results = report.evaluate(self.run(), out or self.workdir or "", times)
        if out is None:
            self.account.write("done", **{"step": self.step, **results})
        return results

    @activity.doing("making the step again")
    def replay(self, step: int) -> list[str]:
        """Says, a line each, what is the first value of a training step that is not finite (`diffjax.replay`).

        Its state is made again, from the newest checkpoint at or below it or else the first state, in one process; this
        Trainer stays where it is. ConfigError for a step that is none of its run's.
        """
        settings, last, state = self.settings, max(self.settings.steps, self.step) - 1, None
        if not host.is_int(step, 0) or step > last:
            raise ConfigError(f"step is {step!r}, expected one of this run's training steps, 0 to {last}.")
        if self.checkpoints is not None:
            state = replay.nearest(self.checkpoints, self.state, step)
        if state is None:
            state = parallel.replicate(self.mesh, runs.init_state(self.built, *self._start))
        size, train = settings.batch_size * len(self.method.turns), self.data.train
        stack = partial(stack_at, train, size, settings.seed, flip=self.data.flip)
        put = partial(parallel.shard_batch, self.mesh, leading=1)
        before, batch, metrics = replay.reach(self.steps, stack, put, state, step, settings.steps_per_dispatch)
        rows = order_at(len(train), settings.seed, np.arange(step * size, (step + 1) * size))
        if 0 < self.step < step:
            print(f"the run is at step {self.step}: those after it are made for this alone", flush=True)
        return replay.show(self.method, self.built.optimizer, before, batch, metrics, rows, settings.accumulate)

    def __repr__(self) -> str:
        return summary.line("Trainer", self, self.built.config, self.settings.steps)

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the last save, and lets go of the workdir; idempotent."""
        try:
            if self.checkpoints is not None:
                self.checkpoints.close()
        finally:
            if self.lock is not None:
                self.lock.release()

    def _restore(self) -> bool:
        """Whether there was a checkpoint to go on from."""
        if self.checkpoints is None or self.workdir is None:
            return False
        try:
            found = self.checkpoints.restore(self.state)
            sources.keep_names(self.workdir, self.data, found is not None)
        except ValueError as error:
            raise ConfigError(f"cannot resume in {self.workdir}: {error}") from error
        if found is not None:
            if (seen := found.info.config.get("data", self.data.fingerprint)) != self.data.fingerprint:
                raise ConfigError(
                    f"cannot resume in {self.workdir}: it was trained on other data (split {seen}, now "
                    f"{self.data.fingerprint}); bring that back, or give another --workdir."
                )
            self.step, self.state = found.step, found.state
            self.ledger.enter("restart", renamed=True)
            is_list = lambda node: isinstance(node, list)
            saved = found.info.config["window"]
            self.window = [jax.tree.map(np.asarray, metrics, is_leaf=is_list) for metrics in saved]
        if found is None and files.read_metrics(self.workdir):
            print("no checkpoint is left: it begins again at step 0, and what was logged is dropped", flush=True)
        sources.keep_card(self.workdir, self.data)
        for line in files.cut_metrics(self.workdir, self.step, self.settings.log_every):
            print(line, flush=True)
        return found is not None

    def _carry(self, workdir: str | Path) -> None:
        """Begins with the state of another run, saved here at once: the other one may go on meanwhile."""
        found, config = runs.saved_state(self.built, workdir), self.built.config
        if config is not None and "train" in config and config.train.steps <= found.step:
            raise ConfigError(
                f"train.steps is {config.train.steps}, but the state of {workdir} has {found.step}: give more."
            )
        self.step, self.state = found.step, parallel.replicate(self.mesh, found.state)
        print(f"begins with the state of {workdir}, step {self.step}", flush=True)
        if self.checkpoints is not None and self.workdir is not None:
            self._save()
            resume.record(self.workdir, [resume.Change("train.start", None, str(workdir))], self.step, "carried")

    def opening(self, steps: int) -> str:
        """Says where training begins or goes on."""
        parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        known = {0: f"training {steps} steps", steps: f"all {steps} steps are trained"}
        where = known.get(self.step, f"resuming at step {self.step} of {steps}")
        devices = f"{self.mesh.size} x {self.mesh.devices.flat[0].device_kind} ({self.settings.backend})"
        return f"{where}, {parameters:,} parameters, {devices}"

    def batches(self) -> sources.Batches:
        """Opens the batches of the steps to come, put on the devices, whose time is counted from here on."""
        self._pace = time.monotonic(), self.ledger.clock.seconds
        settings, put = self.settings, partial(parallel.shard_batch, self.mesh, leading=1)
        start = self.data.train, settings.batch_size * len(self.method.turns), settings.seed, self.step
        return sources.Batches(*start, steps_per_dispatch=settings.steps_per_dispatch, flip=self.data.flip, put=put)

    def _train(self, log: Log, stop: Stop, last: int) -> bool:
        """True at the last step, False if asked to stop."""
        with self.batches() as batches:
            source = iter(batches)
            while self.step < last:
                if self.lock is not None:
                    self.lock.check()
                with self.ledger.of("input wait"):
                    batch = next(source)
                with self.ledger.of("step"):
                    self.state, metrics = self.steps(self.state, batch)
                if self.arrive(metrics, log, last, stop):
                    return False
        return True

    def arrive(self, metrics: training.Metrics, log: Log, last: int, stop: Stop | bool) -> bool:
        """Counts a dispatch of these metrics; logs, samples, saves what is due; tells whether training is to stop."""
        clock, (began, compiled) = self.ledger.clock, self._pace
        due = lambda every: self.step % every == 0 or self.step == last
        with self.ledger.of("step"):
            self.step += self.settings.steps_per_dispatch
            self.window.append(metrics)
            if due(self.settings.log_every):
                self._log(log, began, clock.seconds - compiled)
                began, compiled = time.monotonic(), clock.seconds
        paused = time.monotonic(), clock.seconds
        stopping = bool(stop)  # read once: a signal may come between two looks
        if self.workdir is not None:
            self._keep(due, stopping)
        self._pace = began + time.monotonic() - paused[0], compiled + clock.seconds - paused[1]  # of training alone
        self.account.running(self.step)
        return stopping

    def _keep(self, due: Callable[[int], bool], stopping: bool) -> None:
        settings, workdir = self.settings, self.workdir
        assert workdir is not None
        stored, saved = bool(settings.snapshot_every and due(settings.snapshot_every)), due(settings.checkpoint_every)
        if not (stored or saved or stopping or due(settings.sample_every)):
            return
        with self.ledger.of("step"):  # what is still being computed is no part of the rest
            jax.block_until_ready(self.state)
        if stored:
            with self.ledger.of("save stall"):
                snapshots.write(workdir, self.step, parallel.replicate(self.mesh, self.state.ema))
        if due(settings.sample_every):
            with self.ledger.of("sampling"):
                self._show(workdir)
        if saved or stopping:
            with self.ledger.of("save stall"):
                self._save()

    def _fetch(self, complete: bool = False) -> list[training.Metrics]:
        """The window on the host; raises for what is not finite in it, as the policy says (`training.check_finite`)."""
        self.window = jax.device_get(self.window)
        if self.window:
            first = self.step - sum(len(metrics["finite"]) for metrics in self.window)
            try:
                training.check_finite(self.window, first, self.settings.nonfinite, complete)
            except training.NonFiniteError as error:
                command = f"--mode=replay --workdir={self.workdir} --step={error.step}"
                mine = self.workdir is None or "objects" in (self.built.config or ())
                error.args = (f"{error} Look at it: {f'Trainer.replay({error.step})' if mine else command}",)
                raise
        return self.window

    def _log(self, log: Log, began: float, compile_s: float) -> None:
        summary = training.summarize(self._fetch(complete=True))  # waits for steps that were only dispatched
        steps = sum(len(metrics["finite"]) for metrics in self.window)
        rate = steps / max(time.monotonic() - began - compile_s, 1e-9)
        timing = {"steps_per_s": rate, "images_per_s": rate * self.settings.batch_size, "compile_s": compile_s}
        log.write(self.step, {**summary, "timing": {k: round(v, 3) for k, v in timing.items()}})
        log.progress(self.step, self.settings.batch_size, summary["loss"], rate, summary["skipped"])
        self.window, self.loss, self.account.skipped = [], summary["loss"], summary["skipped"]

    def _save(self) -> None:
        assert self.checkpoints is not None
        window = jax.tree.map(lambda values: values.tolist(), self._fetch())
        metrics = training.ranked(self.loss, self.settings.best_by, self.run())
        record = {"config": self.built.config.to_dict(), "window": window, "data": self.data.fingerprint}
        record["updates"] = self.step - int(self.state.skipped)
        state = parallel.replicate(self.mesh, self.state)  # pmap's own sharding is not for files
        self.checkpoints.save(self.step, state, metrics=metrics, config=record)

    def _show(self, workdir: Path) -> None:
        """samples/step_*.png: the same seeds from the raw parameters and from the EMA, side by side."""
        from diffjax import plots

        run, seeds = self.run(), range(SAMPLES_SHOWN)
        pairs = {"raw": self.state.params, f"EMA {self.settings.ema}": run.params}
        drawn = {t: self.data.to_data(self._drawn(params, seeds, run.given(seeds))) for t, params in pairs.items()}
        for title, x in drawn.items():
            if text := judges.said(x):
                print(f"step {self.step}, {title}: {text}", flush=True)
        path, groups = workdir / "samples" / f"step_{self.step:07d}.png", jax.tree.map(self.data.shown, drawn)
        for failed in attempt(path.name, lambda: plots.samples(path, groups) or notebook.shown(path)):
            print(failed.text.strip(), flush=True)
