"""Training: the state of a run, and its walk from one boundary (log, sample, checkpoint) to the next."""

import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import (
    activity,
    cluster,
    ending,
    parallel,
    previews,
    programs,
    replay,
    resume,
    screen,
    snapshots,
    summary,
    training,
)
from diffjax import data as sources
from diffjax import ema as averages
from diffjax import ledger as ledgers
from diffjax.checkpoint import Restored
from diffjax.config import Config, ConfigError, build, is_spec
from diffjax.ledger import Account, Ledger
from diffjax.lock import HeldError
from diffjax.logs import Log
from diffjax.moving import from_first, local
from diffjax.optimizers import build_optimizer
from diffjax.runs import checks, report
from diffjax.runs import run as runs
from diffjax.runs import settings as table
from diffjax.runs import workdir as files
from diffjax.runs.build import Built, assemble, complete
from diffjax.runs.settings import Settings
from diffjax.sharding import gathering, of_state
from diffjax.signals import Stop, Stopped, install_stop_handler
from diffjax.strict import of_settings as across_of

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
        cluster.same("data and devices", {"split": data.fingerprint, "devices": jax.local_device_count()}, ConfigError)
        self.mesh, self.ledger = parallel.mesh_of(settings, ConfigError), ledger or Ledger()
        self.shardings = of_state(partial(runs.abstract_state, built), self.mesh, method, ConfigError)
        self.workdir, self.mine = None if workdir is None else Path(workdir), cluster.first()
        axis = parallel.AXIS if settings.backend == "pmap" else None
        log = {"learning_rate": learning_rate, "time_bins": settings.time_bins, "accumulate": settings.accumulate}
        shared = {"gather": gathering(self.shardings), "across": across_of(self.mesh, settings, ConfigError)}
        self.plain = training.make_steps(training.make_step(method, optimizer, emas, axis_name=axis, **log, **shared))
        self.steps = parallel.compile_step(self.plain, settings.backend, self.mesh, leading=1, shardings=self.shardings)
        self.step, self.window, self.loss, self.checkpoints, self.lock = 0, [], None, None, None
        if self.workdir is not None and self.mine:
            if config is None:
                self.built = built = built._replace(config=runs.fingerprint(built, name))
            self.lock, said = files.prepare(self.workdir, built.config, complete)
            for line in said:
                print(line, flush=True)
            if changed := sources.keep(data, self.workdir):
                raise ConfigError(changed)
            self.checkpoints = runs.open_checkpoints(self.workdir, settings)
        self.account = Account(self.workdir if self.mine else None, self.ledger)
        self._start = () if start is None else (start,)
        self.state = parallel.make(self.mesh, partial(runs.init_state, built), self.shardings)
        self.step, window, origin = cluster.told(lambda: self._begin(start, carry))
        if origin:
            self.state = parallel.place(self.mesh, from_first(self.state), self.shardings)
        self.window = list(map(training.reread, window))
        if origin == "carried" and self.workdir is not None:
            self._save()
            if self.mine:
                resume.record(self.workdir, [resume.Change("train.start", None, str(carry))], self.step, "carried")
        self.account.skipped = int(self.state.skipped)
        if self.step % settings.steps_per_dispatch:
            k, at = settings.steps_per_dispatch, f"{self.workdir} is at step {self.step}"
            raise ConfigError(f"{at}, no multiple of train.steps_per_dispatch, {k}: give one that divides it.")
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
        words = {} if self.built.config is None else self.built.config.to_dict()
        place = (self.workdir if self.mine else None), last, self.step, self.settings.loggers if self.mine else ()
        log = Log(*place, words, bar=self.mine, at=lambda: self.step)
        doing = activity.doing(lambda: f"training, step {self.step} of {last}")
        with self.ledger.of("rest"), install_stop_handler() as stop, log, doing, cluster.last_words(self._last_words):
            idle = resume.remarks(self.built.learning_rate, self.step - self.account.skipped, last - self.step)
            for line in [*checks.remarks(self.method, self.data), *idle]:
                log.say(line)
            log.say(f"{self.workdir or 'no workdir'}: {summary.start(self, last)}")
            with self.account.watching(lambda: self.step, {training.NonFiniteError: "nonfinite", HeldError: None}):
                finished = self._train(log, stop, last)
                self.account.skipped = int(self.state.skipped)
                with self.ledger.of("save stall"):
                    if self.checkpoints is not None:
                        self.checkpoints.wait()  # a signal that comes now is served, and what is said to be saved is
            stopped, number = None, cluster.settle(stop.received)
            if number or not finished:
                stopped = Stopped(signal.Signals(number or signal.SIGTERM), self.step, self.workdir)
                self.account.write("interrupted", self.step, signal=stopped.signal.name)
                log.say(str(stopped))
        if stopped is not None:
            raise stopped
        self.account.write("trained", self.step)
        return self.run()

    def run(self) -> "runs.Run":
        """Gives what there is so far as a run, to draw from."""
        return runs.of(self.built, local(self.state), self.workdir)

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
        with self.ledger.of("evaluation"), cluster.desk(out or self.workdir or "") as desk:
            results = report.evaluate(self.run(), desk, times)
        if out is None:
            self.account.write("done", **{"step": self.step, **results})
        return results

    @activity.doing("making the step again")
    def replay(self, step: int) -> list[str]:
        """Says, a line each, what is the first value of a training step that is not finite (`diffjax.replay`).

        Its state is made again, from the newest checkpoint at or below it or else the first state, in one process; this
        Trainer stays where it is. ConfigError for a step that is none of its run's.
        """
        begin = lambda: parallel.place(self.mesh, runs.init_state(self.built, *self._start), self.shardings)
        return replay.again(self, step, begin)

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

    def _begin(self, start: Callable | None, carry: Any) -> tuple[int, list, str]:
        """Puts the state to begin with in the first one's place; gives its step, its window, and whence it came."""
        found = self._restored()
        if found is not None:
            self.step, self.state = found.step, found.state
            return found.step, found.info.config["window"], "restored"
        if start is not None:
            self.state = runs.init_state(self.built, start)
            return 0, [], "started"
        return (self._carried(carry), [], "carried") if carry is not None else (0, [], "")

    def _restored(self) -> Restored | None:
        """Finds the checkpoint to go on from, and drops what was logged after it."""
        if self.checkpoints is None or self.workdir is None:
            return None
        try:
            found = self.checkpoints.restore(runs.abstract_state(self.built) if cluster.several() else self.state)
            sources.keep_names(self.workdir, self.data, found is not None)
        except ValueError as error:
            raise ConfigError(f"cannot resume in {self.workdir}: {error}") from error
        if found is not None:
            if (seen := found.info.config.get("data", self.data.fingerprint)) != self.data.fingerprint:
                raise ConfigError(
                    f"cannot resume in {self.workdir}: it was trained on other data (split {seen}, now "
                    f"{self.data.fingerprint}); bring that back, or give another --workdir."
                )
            self.ledger.enter("restart", renamed=True)
        if found is None and files.read_metrics(self.workdir):
            print("no checkpoint is left: it begins again at step 0, and what was logged is dropped", flush=True)
        sources.keep_card(self.workdir, self.data)
        step = 0 if found is None else found.step
        for line in files.cut_metrics(self.workdir, step, self.settings.log_every):
            print(line, flush=True)
        return found

    def _carried(self, workdir: str | Path) -> int:
        """Begins with the state of another run, which is saved here at once: that one may go on meanwhile."""
        found, config = runs.saved_state(self.built, workdir), self.built.config
        if config is not None and "train" in config and config.train.steps <= found.step:
            raise ConfigError(
                f"train.steps is {config.train.steps}, but the state of {workdir} has {found.step}: give more."
            )
        self.state = found.state
        print(f"begins with the state of {workdir}, step {found.step}", flush=True)
        return found.step

    def batches(self) -> sources.Batches:
        """Opens the batches of the steps to come, put on the devices, whose time is counted from here on."""
        self._pace = time.monotonic(), self.ledger.clock.seconds
        settings, put = self.settings, partial(parallel.shard_batch, self.mesh, leading=1)
        start = self.data.train, settings.batch_size * len(self.method.turns), settings.seed, self.step
        return sources.Batches(*start, steps_per_dispatch=settings.steps_per_dispatch, flip=self.data.flip, put=put)

    @cluster.naming()
    def _train(self, log: Log, stop: Stop, last: int) -> bool:
        """True at the last step, False if asked to stop."""
        with self.batches() as source:
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
        number = stop.received if isinstance(stop, Stop) else stop or None  # read once: a signal may come between
        stopping = bool(cluster.agreed(number, self.step, self.settings.steps_per_dispatch))
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
                snapshots.write(workdir, self.step, parallel.to_host(self.state.ema))
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
        window = jax.tree.map(lambda values: values.tolist(), self._fetch())
        metrics = training.ranked(self.loss, self.settings.best_by, self.run())
        state = parallel.kept(self.mesh, self.state, self.shardings)
        if self.checkpoints is not None:
            record = {"config": self.built.config.to_dict(), "window": window, "data": self.data.fingerprint}
            record["updates"] = self.step - int(state.skipped)
            self.checkpoints.save(self.step, state, metrics=metrics, config=record)

    def _last_words(self, line: str) -> str:
        """Writes how the run has ended where another process is lost and this one hangs; says what is saved."""
        self.account.write("failed", self.step, error=line)
        if self.checkpoints is not None:
            self.checkpoints.wait()
        return ending.kept(self.workdir)

    def _show(self, workdir: Path) -> None:
        """samples/step_*.png: of some seeds, from the raw parameters and from the EMA, side by side."""
        run, seeds = self.run(), range(SAMPLES_SHOWN)
        pairs = {"raw": run.state.params, f"EMA {self.settings.ema}": run.params}
        drawn = {t: self.data.to_data(self._drawn(params, seeds, run.given(seeds))) for t, params in pairs.items()}
        if self.mine:
            previews.write(workdir / "samples" / f"step_{self.step:07d}.png", self.step, drawn, self.data)
