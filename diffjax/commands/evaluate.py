"""Judges a run on held-out data, each number beside its floor and a Gaussian-fit baseline, and writes the report."""

from argparse import Namespace
from pathlib import Path

from diffjax import runs
from diffjax.commands.sample import changes_of
from diffjax.config import Config, one_line, options
from diffjax.metrics import judges, spaces
from diffjax.runs import report
from diffjax.runs import workdir as files


def main(config: Config | None, overrides: list[str], flags: Namespace) -> int:
    """Evaluates the run of --workdir; with other options the report has a folder of its own in there.

    Exit status 1 where samples are not finite.
    """
    changes, told = changes_of(flags, overrides), options(text.removeprefix("features.") for text in flags.options)
    run = runs.open(flags.workdir, step=flags.step, overrides=changes)
    with one_line():
        also, words = spaces.asked(flags.features, told, flags.reference, run.data.seen_shape)
    asked = [*words, *([] if flags.step is None else [f"step={flags.step}"]), *changes]
    own = Path(flags.workdir, "eval", files.named(asked)) if asked else flags.workdir
    return judges.status(report.evaluate(run, flags.out or own, also=also))
