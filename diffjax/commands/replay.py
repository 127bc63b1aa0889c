"""A training step that met what is not finite, made again: which value it was, of which example, at which operation."""

import contextlib
from argparse import Namespace
from pathlib import Path

from diffjax import disk, runs
from diffjax.commands.sample import changes_of
from diffjax.config import Config, ConfigError
from diffjax.runs import workdir as files
from diffjax.runs.build import build_run
from diffjax.runs.run import open_checkpoints


def main(config: Config | None, overrides: list[str], flags: Namespace) -> None:
    """Prints what is the first value that is not finite in step --step of the run of --workdir; writes nothing.

    Without --step it is the one at which the run ended, as results.json says.
    """
    if changes_of(flags, overrides):
        raise ConfigError("--mode=replay makes a step as it was made: leave --config..., --sampler and --nfe out.")
    folder, step = Path(flags.workdir), flags.step
    built = build_run(files.read_config(folder))
    with contextlib.suppress(FileNotFoundError, disk.DamagedFileError):
        results = disk.read_json(folder / "results.json")
        step = results.get("step") if step is None and results.get("status") == "nonfinite" else step
    if step is None:
        raise ConfigError(f"{folder} did not end at a step that is not finite: give the --step to look at.")
    with runs.Trainer(**built._asdict()) as trainer:
        if (folder / "checkpoints").is_dir():
            trainer.checkpoints = open_checkpoints(folder, built.settings, create=False)
        print("\n".join(trainer.replay(step)), flush=True)
