"""Judges a run on held-out data, each number beside its floor and a Gaussian-fit baseline, and writes the report."""

from argparse import Namespace
from pathlib import Path

from diffjax import runs
from diffjax.commands.sample import as_overrides, require_workdir
from diffjax.config import Config
from diffjax.metrics import judges
from diffjax.runs import report
from diffjax.runs import workdir as files


def main(config: Config | None, overrides: list[str], flags: Namespace) -> int:
    """Evaluates the run of --workdir; with other options the report has a folder of its own in there.

    Exit status 1 where samples are not finite.
    """
    require_workdir(flags)
    changes = as_overrides(flags.sampler, flags.nfe, overrides)
    run = runs.open(flags.workdir, step=flags.step, overrides=changes)
    asked = changes if flags.step is None else [f"step={flags.step}", *changes]
    own = Path(flags.workdir, "eval", files.named(asked)) if asked else flags.workdir
    return judges.status(report.evaluate(run, flags.out or own))
