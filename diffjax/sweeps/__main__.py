"""python -m diffjax.sweeps --config=FILE[:VARIANT] --sweep=GRID.py [--root=DIR] [--workers=2] [--shard=0/4]

The sweep file has the grids (`sweeps.grid.read`). Mistakes in what the user wrote are one line on stderr and exit
status 2; a sweep of which something failed ends with status 1, one that was asked to stop with 128 + its signal.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from diffjax import ending, screen, signals  # light: Ctrl-C while the rest is imported is one line, too

CLUSTER = "--cluster."
NAMED = 6  # rows that the last line names


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Prints one line on stderr and exits with status 2."""
        from diffjax.host import one_line

        self.exit(2, f"error: {one_line(message)}\n")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Reads the flags, and the options --cluster.name=value among them."""
    parser = _Parser(
        prog="python -m diffjax.sweeps",
        allow_abbrev=False,
        description="Train a config over a grid, evaluate each training over another, and make the table of it all.",
        epilog=f"{CLUSTER}name=value is an option of the cluster: shards, partition, timeout_min, mem_gb, ... "
        "Exit status: 0 all has a result; 1 some rows have none, be it that a training was meant to diverge (the last "
        "line names them); 2 a mistake in what was written; 130 or 143 after Ctrl-C or SIGTERM: the same command goes "
        "on.",
    )
    parser.add_argument("--config", required=True, help="the recipe, such as configs/vpsde.py:tiny, or a run's workdir")
    parser.add_argument("--sweep", required=True, metavar="FILE.py", help="grids: TRAIN and EVALUATE")
    parser.add_argument("--root", help="the folder for all runs; default runs/<name of the sweep file>")
    parser.add_argument(
        "--table",
        metavar="COLUMNS",
        help="columns of the table beside the keys, such as frechet,minutes; default: the distance that reports say",
    )
    parser.add_argument(
        "--together",
        type=int,
        default=1,
        help="trainings side by side in one program, where they differ in numbers alone",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th training, from the i-th on")
    parser.add_argument("--search", action="store_true", help="Optuna proposes: SPACE, METRIC and TRIALS of the file")
    parser.add_argument("--cluster", choices=("slurm", "local"), help="submit the sweep in place of running it here")
    known, rest = parser.parse_known_args(argv)
    options: dict[str, Any] = {}
    for arg in rest:
        name, equals, value = arg.removeprefix(CLUSTER).partition("=")
        if not arg.startswith(CLUSTER) or not equals or not known.cluster:
            parser.error(f"unknown argument {arg!r}; fields of the config belong into the grids of {known.sweep}")
        options[name] = int(value) if value.isdecimal() else value
    return known, options


def main(argv: Sequence[str] | None = None, process: bool = False) -> int:
    """Runs the command; gives the exit status.

    Args:
        process: whether this process is for the command alone, which a second stop signal then ends whatever hangs.
    """
    with screen.guard():
        flags, options = parse(sys.argv[1:] if argv is None else argv)
        if flags.workers > 1:  # who share an accelerator: this process checks the configs, and needs little of it
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        try:
            with (
                signals.insistence(lambda number: f"stopped by {number.name}") if process else contextlib.nullcontext()
            ):
                return _run(flags, options)
        except (Exception, KeyboardInterrupt) as error:
            if (explained := ending.explain(error)) is None:
                raise
            line, status = explained
            print(line, file=sys.stderr)
            return status


def _run(flags: argparse.Namespace, options: dict[str, Any]) -> int:
    from diffjax import diagnosis, programs, runs, sweeps
    from diffjax.config import ConfigError
    from diffjax.sweeps import grid, plan, tables

    try:
        columns = _columns(flags)
        found = grid.read(flags.sweep)
        root = flags.root or str(Path(diagnosis.RUNS) / Path(flags.sweep).stem)
        for line in programs.keep():
            print(line, file=sys.stderr)
        diagnosis.doctor()
        if flags.search:
            return _search(flags, found, root, columns)
        if "train" not in found:
            raise ConfigError(f"{flags.sweep} has no grid: expected a table TRAIN or a function train().")
        words = {name: found[name] for name in ("evaluate", "measure") if name in found}
        sweep = sweeps.Sweep(flags.config, found["train"], root=root, **words)
        if flags.cluster:
            jobs = sweep.submit(cluster=flags.cluster, processes=flags.workers, **options)
            print(f"submitted {', '.join(str(job.job_id) for job in jobs)}; their logs are in {root}/cluster")
            return 0
        tables.check(sweep.plan, columns)
        sweep.run(flags.workers, flags.shard, together=flags.together)
        over = [key for key in ("seed",) if key in sweep.plan.keys]
        lost = _lost(sweep.plan.shard(*plan.read_shard(flags.shard)), sweep.root)
        return _shown(lambda names: sweep.table(names, over), columns, root, lost)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (runs.Stopped, KeyboardInterrupt) as stopped:
        number = getattr(stopped, "signal", signal.SIGINT)
        print(f"stopped by {number.name}; the same command goes on", file=sys.stderr)
        return 128 + number


def _columns(flags: argparse.Namespace) -> list[str] | None:
    """Reads the columns of --table; None: the default."""
    from diffjax.config import ConfigError

    if flags.table is None:
        return None
    columns = list(dict.fromkeys(name.strip() for name in flags.table.split(",")))
    if not all(columns):
        raise ConfigError(f"--table is {flags.table!r}, expected columns with commas between them: frechet,minutes.")
    if flags.cluster:
        raise ConfigError("--table has no use with --cluster, which prints no table: leave it out.")
    return columns


def _lost(plan: Any, root: Path) -> str:
    """Says how many rows of a plan have no result, and which; "" where all have one."""
    from diffjax.sweeps import work

    lost = work.missing(plan, root)
    rows = [node for node in lost if node.evaluates] or lost
    all_rows = [node for node in plan.nodes if node.evaluates] or plan.nodes
    named = "; ".join(f"{plan.said(node) or node.key} ({work.outcome(node, plan)[0]})" for node in rows[:NAMED])
    more = f"; and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"{len(rows)} of {len(all_rows)} rows have no result: {named}{more}" if rows else ""


def _shown(make: Callable[[Any], Any], columns: list[str] | None, root: str, lost: str) -> int:
    """Prints a table and writes table.md and table.csv; says last why the exit status is not 0.

    Args:
        make: columns -> table; of ones that it does not have the default's is shown, and the mistake said.
        lost: which rows have no result, in words.
    """
    from diffjax.config import ConfigError

    mistake = ""
    try:
        table = make(columns)
    except ConfigError as error:
        table, mistake = make(None), str(error)
    print(f"\n{table}", flush=True)
    Path(root, "table.md").write_text(str(table))
    table.csv(Path(root, "table.csv"))
    for line in [f"exit status 1: {lost}"] * bool(lost) + [f"error: {mistake}"] * bool(mistake):
        print(line, file=sys.stderr)
    return 2 if mistake else int(bool(lost))


def _search(flags: argparse.Namespace, found: dict[str, Any], root: str, columns: list[str] | None) -> int:
    from diffjax import sweeps
    from diffjax.config import ConfigError

    if missing := [name for name in ("space", "metric", "trials") if name not in found]:
        raise ConfigError(f"{flags.sweep} has no {missing[0].upper()}, which a search needs.")
    words = {name: found[name] for name in ("direction", "measure") if name in found}
    study = sweeps.search(flags.config, found["space"], found["metric"], found["trials"], root=root, **words)
    lost = "" if any(trial.value is not None for trial in study.trials) else "no trial has a result"
    return _shown(lambda names: sweeps.table(root, names), columns or [found["metric"]], root, lost)


if __name__ == "__main__":
    screen.occupy()
    sys.exit(signals.undisturbed(main))
