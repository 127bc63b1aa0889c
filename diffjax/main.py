"""python -m diffjax.main --config=configs/vpsde.py [--config.a.b=value ...] [--mode=train] [--workdir=DIR]

A thin shell: flags -> config -> `commands.<mode>.run`. Every mistake in what the user wrote is one line on stderr and
exit status 2; a run that fails in its own right (a loss that is not finite, say) exits with status 1; one that was
asked to stop, and has saved, with 128 + the signal's number: 130 after Ctrl-C, 143 after SIGTERM.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

MODES = {
    "train": "train",
    "sample": "sample",
    "eval": "evaluate",
    "likelihood": "likelihood",
    "moments": "moments",
    "show": "show",
}


class _Parser(argparse.ArgumentParser):
    """Mistakes in one line, without the usage; --help has that."""

    def error(self, message: str) -> NoReturn:
        """Prints one line on stderr and exits with status 2."""
        from diffjax.host import one_line

        self.exit(2, f"error: {one_line(message)}\n")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the flags, and the overrides "a.b=value" among them."""
    parser = _Parser(
        prog="python -m diffjax.main",
        allow_abbrev=False,
        description="Train, sample, evaluate, measure the likelihood of, or show one experiment.",
        epilog="--config.a.b=value overrides a field of the config; a mistyped field is refused and the nearest named.",
    )
    parser.add_argument(
        "--config", metavar="FILE[:VARIANT]", help="the recipe, such as configs/vpsde.py or configs/vpsde.py:tiny"
    )
    parser.add_argument("--mode", default="train", choices=MODES)
    parser.add_argument(
        "--workdir",
        help="default runs/<config>-<time>; the same one again resumes; all modes but train and show need only it",
    )
    parser.add_argument("--seeds", default="0-63", help="sample: one image per seed, such as 0-63 or 1,5,10-12")
    parser.add_argument("--nfe", type=int, help="sample, eval, likelihood: steps of the grid, in place of the config's")
    parser.add_argument(
        "--sampler", help="sample, eval, likelihood: such as ancestral.ddim, multistep.dpmpp_2m, heun.edm"
    )
    parser.add_argument("--step", type=int, help="all modes but train and show: the checkpoint; the newest")
    parser.add_argument(
        "--out",
        help="sample: the folder for images, default in WORKDIR/samples; eval, likelihood, moments: for results",
    )
    known, rest = parser.parse_known_args(_join(argv))
    overrides = [arg.removeprefix("--config.") for arg in rest if arg.startswith("--config.")]
    unknown = [arg for arg in rest if not arg.startswith("--config.")]
    if unknown:
        parser.error(f"unknown argument {unknown[0]!r}; config fields are written --config.field=value")
    return known, overrides


def _join(argv: Sequence[str]) -> list[str]:
    """'--config.a.b value' as '--config.a.b=value'."""
    joined: list[str] = []
    for arg in argv:
        if joined and joined[-1].startswith("--config.") and "=" not in joined[-1] and not arg.startswith("--"):
            joined[-1] += f"={arg}"
        else:
            joined.append(arg)
    return joined


def _check_folders(flags: argparse.Namespace) -> None:
    """Refuses folders that cannot be made, before anything is computed for them."""
    from diffjax import disk
    from diffjax.config import ConfigError

    if flags.workdir and flags.mode == "train":
        disk.check_folder("--workdir", flags.workdir, error=ConfigError)
    if flags.out:
        kept = tuple(Path(flags.workdir, name) for name in ("checkpoints", "ema") if flags.workdir)
        disk.check_folder("--out", flags.out, kept, ConfigError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status."""
    flags, overrides = parse(sys.argv[1:] if argv is None else argv)
    from diffjax.config import ConfigError
    from diffjax.runs import load
    from diffjax.training import NonFiniteError

    try:
        config = load(flags.config, overrides) if flags.config else None
        if config is None and (overrides or flags.mode in ("train", "show")) and not flags.workdir:
            raise ConfigError(f"--mode={flags.mode} needs --config, such as --config=configs/vpsde.py.")
        if flags.mode in ("train", "show") and (flags.sampler or flags.nfe is not None or flags.step is not None):
            raise ConfigError(
                f"--sampler, --nfe and --step are for sample, eval and likelihood; --mode={flags.mode} takes "
                "--config.sampler.name=... and --config.grid.n=..."
            )
        if config is None and overrides and flags.mode in ("train", "show"):
            raise ConfigError(
                f"--config.{overrides[0]} would change the run of {flags.workdir}; --workdir alone goes on as it was: "
                "give the --config and another --workdir, or leave it out."
            )
        if config is not None and flags.workdir and flags.mode not in ("train", "show"):
            raise ConfigError(f"--mode={flags.mode} reads the config of --workdir: leave --config={flags.config} out.")
        command = importlib.import_module(f"diffjax.commands.{MODES[flags.mode]}")
        _check_folders(flags)
        return command.main(config, overrides, flags) or 0
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
