"""What a run says of the probability of its data: the flow's density and the variational bound, side by side."""

import json
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffjax import disk, runs, samplers
from diffjax.commands.sample import as_overrides, require_workdir
from diffjax.config import Config, one_line
from diffjax.methods import bound, density


def main(config: Config | None, overrides: list[str], flags: Namespace) -> None:
    """Measures the likelihood of the run of --workdir."""
    require_workdir(flags)
    changes = as_overrides(flags.sampler, flags.nfe, overrides)
    run(flags.workdir, step=flags.step, overrides=changes, out=flags.out)


def run(
    workdir: str | Path,
    *,
    step: int | None = None,
    overrides: Iterable[str] = (),
    out: str | Path | None = None,
    most: int = bound.MOST,
) -> dict[str, Any]:
    """Measures the likelihood of a run's held-out data, and of as much training data, its floor (`methods.density`).

    Writes likelihood.json, likelihood.md and figures/latents.png.

    Args:
        workdir: of a training run.
        step, overrides: as of `runs.open`.
        out: the folder for these; default the workdir.
        most: examples of each part at most.

    Returns:
        What likelihood.json holds.

    Raises:
        ConfigError: where diffrax is not installed, for a folder that holds no run, options that do not exist,
            or a method or process without density.
    """
    from diffjax import plots

    with one_line():
        samplers.ode.check_diffrax()
    out = Path(out or workdir)
    run = runs.open(workdir, step=step, overrides=overrides)
    of = run.parts("mean_denoiser", "A likelihood")
    with one_line():
        results, latents = density.measure(run, of, most)
    out.mkdir(parents=True, exist_ok=True)
    plots.normality(out / "figures" / "latents.png", latents)
    text = density.report(run, results)
    disk.write(out / "likelihood.json", json.dumps(results, indent=2))
    disk.write(out / "likelihood.md", text)
    print(f"{text}\n{out / 'likelihood.md'}", flush=True)
    return results
