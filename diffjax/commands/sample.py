"""One image per seed: the same image whatever the number of seeds, of devices, or the order they are asked in."""

import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from diffjax import disk, runs
from diffjax.config import Config, ConfigError
from diffjax.config import parse_seeds as parse_seeds
from diffjax.metrics import judges
from diffjax.runs import workdir as files
from diffjax.runs.run import read_config


def main(config: Config | None, overrides: list[str], flags: Namespace) -> int:
    """Draws samples of the run of --workdir into a folder named after what was asked; 1 if some are not finite."""
    changes = changes_of(flags, overrides)
    asked = changes if flags.step is None else [f"step={flags.step}", *changes]
    out = Path(flags.out or Path(files.folder(flags.workdir), "samples", files.named(asked) or "seeds"))
    images = run(flags.workdir, flags.seeds, out=out, step=flags.step, overrides=changes)
    used = read_config(flags.workdir, changes)
    named = [used[group] for group in ("sampler", "grid") if group in used]
    by = [f"by {group.name}" for group in named[:1] if group.name]
    options = [f"{k} = {v}" for group in named for k, v in group.items() if k != "name" and v is not None]
    print(f"{len(images)} samples of EMA {' '.join([used.sample.ema, *by])}, {', '.join([*options, f'in {out}'])}")
    return int(judges.broken(images).any())


def as_overrides(sampler: str | None, nfe: int | None, overrides: Iterable[str] = ()) -> list[str]:
    """Writes the flags --sampler and --nfe in the words of --config, and the others as they are.

    A new name drops the old one's options: the sampler comes before its own, the grid's n after its name.

    Raises:
        ConfigError: for a flag and a --config of the same.
    """
    overrides = list(overrides)
    for flag, given, field in (("--sampler", sampler, "sampler.name"), ("--nfe", nfe, "grid.n")):
        if given is not None and any(text.partition("=")[0] == field for text in overrides):
            raise ConfigError(f"{flag} and --config.{field} are two names of one thing: give one of them.")
    first = [] if sampler is None else [f"sampler.name={sampler}"]
    return [*first, *overrides, *([] if nfe is None else [f"grid.n={nfe}"])]


def changes_of(flags: Namespace, overrides: Iterable[str]) -> list[str]:
    """Gives what a mode changes in the run of --workdir, in the words of --config; refuses one without a run."""
    if not flags.workdir:
        raise ConfigError(f"--mode={flags.mode} needs --workdir, the folder of a training run.")
    return as_overrides(flags.sampler, flags.nfe, overrides)


def run(
    workdir: str | Path,
    seeds: str | Iterable[int] = "0-63",
    *,
    out: str | Path | None = None,
    sampler: str | None = None,
    nfe: int | None = None,
    step: int | None = None,
    overrides: Iterable[str] = (),
) -> np.ndarray:
    """Samples the EMA of a run, one example per seed, and writes one file each and a grid.

    Samples that are not finite are named on stderr; they are in samples.npz, and in no picture.

    Args:
        workdir: of a training run, or a weights file.
        seeds: "0-63", "1,5,10-12", or integers.
        out: folder for the files, default WORKDIR/samples/seeds: seed_<n>.png for images, samples.npz always. From the
            command line, WORKDIR/samples/<what was changed>.
        sampler, nfe: in place of the config's sampler name and grid length.
        step, overrides: as of `runs.open`.

    Returns:
        (n, *shape) float32, in the data's units: [-1, 1] for images that were not standardised.

    Raises:
        ConfigError: for malformed seeds, an unknown sampler, or a folder that holds no run.
    """
    from diffjax import plots

    numbers = parse_seeds(seeds) if isinstance(seeds, str) else [int(s) for s in seeds]
    run = runs.open(workdir, step=step, overrides=as_overrides(sampler, nfe, overrides))
    out = Path(out) if out else files.folder(workdir) / "samples" / "seeds"
    disk.check_folder("--out", out, error=ConfigError)
    examples = run.draw(numbers)
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "samples.npz", seeds=np.asarray(numbers), x=examples)
    good, images = ~judges.broken(examples), run.data.shown(examples)
    if examples.ndim == 4:
        for at in np.flatnonzero(good):
            board = plots.to_pixels(plots.pictures(images[at]))
            plots.save_image(out / f"seed_{numbers[at]}.png", board, min_width=1)
    if not good.all():
        print(f"error: {judges.said(examples, numbers)}", file=sys.stderr)
    else:
        plots.samples(out / "grid.png", {f"{len(numbers)} samples": images[:256]})
    return examples
