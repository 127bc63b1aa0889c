"""Real examples, noised to a share of the way and walked back by a run's sampler: SDEdit."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from diffjax import comparison, data, disk, editing, runs
from diffjax.commands.sample import changes_of, parse_seeds
from diffjax.config import Config, ConfigError, one_line
from diffjax.metrics import judges
from diffjax.runs import workdir as files


def main(config: Config | None, overrides: list[str], flags: Namespace) -> int:
    """Edits examples by the run of --workdir; 1 if some results are not finite."""
    overrides = changes_of(flags, overrides)
    if flags.strength is None:
        raise ConfigError("--mode=edit needs --strength, from 0 (the input itself) to 1 (a sample), such as 0.5.")
    options = {"source": flags.input, "out": flags.out, "step": flags.step, "overrides": overrides}
    return int(judges.broken(run(flags.workdir, flags.strength, flags.seeds, **options).x).any())


def run(workdir: str | Path, strength: float, seeds: Any = None, **options: Any) -> editing.Edited:
    """Edits held-out examples, or those of a file or folder, and writes samples.npz and grid.png.

    Args:
        strength: share of the grid's time that inputs are noised to.
        seeds: of the noise, "0-63" or integers; without a source they pick the held-out examples too. None: 64 of them,
            of one input 8 (`data.shown_to`).
        options: as of `begun`; results go to WORKDIR/samples/edit,... unless out= says where.

    Raises:
        ConfigError: for a strength outside [0, 1], and as `begun`.
    """
    run, x, numbers, given, folder = begun(workdir, seeds, ["edit", f"strength={strength}"], **options)
    edited = run.edit(x, strength, numbers, given)
    comparison.write(folder, run.data, numbers, {"input": x, "noised": edited.noised, "result": edited.x})
    print(f"{edited.said(x, run.data)}; in {folder}")
    return edited


def begun(
    workdir: str | Path, seeds: Any, asked: list[str], source: Any = None, out: Any = None, **options: Any
) -> tuple[runs.Run, Any, list[int], dict[str, Any], Path]:
    """Opens a run and finds its inputs (n, *shape), the seed of each, what is known of them, and a folder for results.

    Args:
        asked: names the folder, beside the overrides.
        source: images or .npy arrays (`data.inputs`), one for each seed or one for all; None: held-out examples.
        options: step, overrides, as of `runs.open`.

    Raises:
        ConfigError: for a folder that holds no run, and inputs that cannot be read.
    """
    run = runs.open(workdir, **options)
    numbers = parse_seeds(seeds) if isinstance(seeds, str) else seeds and [int(seed) for seed in seeds]
    asked = [*asked, *([] if source is None else [f"input={Path(source).name}"]), *options.get("overrides", ())]
    folder = Path(out or Path(workdir, "samples", files.named(asked)))
    disk.check_folder("--out", folder, error=ConfigError)
    with one_line():
        return run, *data.shown_to(run.method, run.data, numbers, source, run.settings.label, run.settings.text), folder
