"""A sweep: trainings of one config over a grid, and evaluations of each over another, in one folder."""

import contextlib
import inspect
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from diffjax import activity, disk, host, runs, screen
from diffjax.config import ConfigError
from diffjax.sweeps import grid, plan, tables, work, workers
from diffjax.sweeps.grid import Grid
from diffjax.sweeps.plan import Plan
from diffjax.sweeps.tables import Table


class Sweep:
    """Trains a config at every point of a grid, and evaluates each training at every point of another.

        sweep = Sweep("configs/vpsde.py:tiny", {"learning_rate.peak": [3e-4, 1e-3], "seed": range(10)},
                      evaluate={"sampler.name": ["ddim", "heun"], "grid.n": [5, 10]}, root="runs/rates")
        sweep.run(workers=2)
        sweep.table(["frechet", "minutes"], over="seed")

        def error(sampler, n): ...  # gives {"error": ...}; needs no run
        Sweep(error, {"sampler": ["ddim", "heun"], "n": [5, 10]}, root="runs/errors").run()

    Args:
        config: a config file, or the workdir of a trained run, which is evaluated only (`train` is {} then), or a
            function, arguments -> what eval.json is to hold, which is called at each point of `train`.
        train: the grid of trainings (`sweeps.grid`), or of the function's arguments.
        evaluate: the grid of evaluations; default one evaluation, as the config says.
        root: the folder for all of it; a sweep that is there goes on, and may have grown.
        measure: what an evaluation is, run -> entries of eval.json, in the place of its report: a function, or
            "module:function", "file.py:function". Keys measure.NAME of `evaluate` are further arguments of it.

    Raises:
        ConfigError: in one line, for what the grids or the root have wrong (`plan.make`, `plan.open_root`).
    """

    def __init__(
        self,
        config: str | Path | Callable[..., dict[str, Any]],
        train: Grid,
        *,
        evaluate: Grid = None,
        root: str | Path,
        measure: work.Measure | str | None = None,
    ):
        self.root, self.measure = Path(root), measure
        disk.check_folder("root", self.root, error=ConfigError)
        self._config = None if callable(config) else str(config)
        if callable(config):
            if evaluate is not None or measure is not None:
                raise ConfigError("A sweep over a function has one grid: leave evaluate and measure out.")
            self.measure, self._grids = config, ([], grid.points(train))
            self.plan: Plan = plan.of_calls(getattr(config, "__qualname__", "?"), self._grids[1], self.root)
        else:
            self._grids = grid.points(train), [{}] if evaluate is None else grid.points(evaluate)
            self.plan = plan.make(str(config), *self._grids, self.root)
        self._said = plan.open_root(self.root, self.plan)

    @screen.guard()
    @activity.doing("working through the sweep")
    def run(
        self, workers: int = 1, shard: str = "0/1", say: Callable[[str], Any] | None = None, together: int = 1
    ) -> "Sweep":
        """Checks every config, then runs what is not done; gives the sweep.

        A run that diverges or fails is a row of the table, and the others go on. What another process over the root
        has is left to it.

        Args:
            workers: processes on this machine; 1: this one.
            shard: "i/n": every n-th training from the i-th on, with its evaluations.
            say: told what the screen is told; default print.
            together: trainings of each process that are side by side in one program, where they differ in rates, seeds
                and other numbers alone (`sweeps.together`): for small networks.

        Raises:
            ConfigError: naming the point, for a config that cannot run, or arguments that `measure` does not take;
                nothing is written then.
            KeyboardInterrupt: when asked to stop, by Ctrl-C or a signal, and all is saved; the next start goes on.
        """
        say = say or printer()
        mine = self.plan.shard(*plan.read_shard(shard))
        for name, count in (("workers", workers), ("together", together)):
            host.check_int(name, count, 1, ConfigError)
        measured = work.measured(self.measure)
        work.check_arguments(mine, measured)
        order = self.order(shard) if workers > 1 else {}
        self.prepare(say)
        say(work.summary(mine, self.root))
        with _interrupted(), _workers.watched(self.root, say):
            if workers == 1:
                work.work(mine, self.root, say, measure=measured, beside=together)
            else:
                _workers.run(order | {"together": together}, workers, mine, self.root, say)
        say(work.summary(mine, self.root))
        return self

    def prepare(self, say: Callable[[str], Any] = print) -> None:
        """Checks every config, then makes the root; ConfigError as `plan.check`."""
        for line in self._said:
            say(line)
        if self._config is not None:
            built = plan.check(self.plan)
            say(f"{built} of {len(self.plan.nodes)} configs are built and traced, the others are like them")
        plan.write_header(self.root, self.plan)

    def table(self, columns: Iterable[str] | None = None, over: str | Iterable[str] = ()) -> Table:
        """Makes the table of all evaluations from what is in their folders (`tables.make`)."""
        return tables.make(self.plan, columns, over)

    def plot(self, x: str, by: str | Iterable[str] = (), y: str | None = None, over: str | Iterable[str] = ()) -> Path:
        """Draws a column against a key into ROOT/figures, a line for each value of `by` (`plot.draw`)."""
        from diffjax.sweeps import plot

        return plot.draw(self.plan, self.root, x, by, y, over)

    def submit(self, **options: Any) -> list[Any]:
        """Has a cluster run the sweep in shards that requeue themselves (`cluster.submit`); gives the jobs."""
        from diffjax.sweeps import cluster

        return cluster.submit(self, **options)

    def order(self, shard: str = "0/1") -> dict[str, Any]:
        """Writes a shard of the sweep as JSON has it, for another process (`plan.remade`).

        Raises:
            ConfigError: for a measure that no other process finds by its name.
        """
        train, evaluate = self._grids
        words = {"config": self._config, "train": train, "evaluate": evaluate, "root": str(self.root.absolute())}
        return {**words, "measure": self.measure and _name_of(self.measure), "shard": shard, "argv": sys.argv}


@contextlib.contextmanager
def _interrupted() -> Iterator[None]:
    """Makes one KeyboardInterrupt of what a stop signal ends in a `with` block, without a trace of where that was."""
    try:
        yield
    except (runs.Stopped, KeyboardInterrupt) as error:
        number = signal.Signals(getattr(error, "signal", signal.SIGINT))
        stopped = KeyboardInterrupt(f"stopped by {number.name}; the same sweep goes on where it was")
        vars(stopped)["signal"] = number
        raise stopped from None  # no subclass: of this class alone Python makes the exit status 130


_workers = workers  # `run` has an argument of that name


def printer() -> Callable[[str], Any]:
    """Prints to the screen as it is now: a run's own output goes to its log meanwhile."""
    out = sys.stdout
    return lambda text: print(text, file=out, flush=True)


def _name_of(measure: Any) -> str:
    if isinstance(measure, str):
        return measure
    name, home = getattr(measure, "__qualname__", "?"), getattr(measure, "__module__", "")
    if not name.isidentifier():
        raise ConfigError(f"measure is {name}, which other processes do not find: give a function of a module's own.")
    return f"{inspect.getsourcefile(measure) if home == '__main__' else home}:{name}"
