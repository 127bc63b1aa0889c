"""What a run says of the probability of its data, as its method states it: a flow's density, a variational bound."""

import json
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffjax import disk, runs
from diffjax.commands.sample import changes_of
from diffjax.config import Config, one_line
from diffjax.methods import bound


def main(config: Config | None, overrides: list[str], flags: Namespace) -> None:
    """Measures the likelihood of the run of --workdir."""
    changes = changes_of(flags, overrides)
    run(flags.workdir, step=flags.step, overrides=changes, out=flags.out)


def run(
    workdir: str | Path,
    *,
    step: int | None = None,
    overrides: Iterable[str] = (),
    out: str | Path | None = None,
    most: int = bound.MOST,
) -> dict[str, Any]:
    """Measures the likelihood of a run's held-out data, and of as much training data, its floor.

    What it measures is the method's own (`parts.likelihood`). Writes likelihood.json, likelihood.md and figures/.

    Args:
        workdir: of a training run.
        step, overrides: as of `runs.open`.
        out: the folder for these; default the workdir.
        most: examples of each part at most.

    Returns:
        What likelihood.json holds.

    Raises:
        ConfigError: for a folder that holds no run, options that do not exist, a method or process without density, or
            a flow's where diffrax is not installed.
    """
    from diffjax import plots

    out = Path(out or workdir)
    run = runs.open(workdir, step=step, overrides=overrides)
    of = run.parts("likelihood", "A likelihood")
    with one_line():
        results, text, figures, _ = of.likelihood(run, most)
    out.mkdir(parents=True, exist_ok=True)
    for name, kind, args in figures:
        getattr(plots, kind)(out / "figures" / f"{name}.png", *args)
    disk.write(out / "likelihood.json", json.dumps(results, indent=2))
    disk.write(out / "likelihood.md", text)
    print(f"{text}\n{out / 'likelihood.md'}", flush=True)
    return results
