"""python -m diffjax.main --config=configs/vpsde.py [--config.a.b=value ...] [--mode=train] [--workdir=DIR]

A thin shell: flags -> config -> `commands.<mode>.run`. Every mistake in what the user wrote is one line on stderr and
exit status 2; a run that fails in its own right (a loss that is not finite, say) exits with status 1; one that was
asked to stop, and has saved, with 128 + the signal's number: 130 after Ctrl-C, 143 after SIGTERM. What the machine
refuses (a full disk, a folder that may not be written, memory) is one line as well, and status 1. A screen that goes
away mutes what is said and nothing else.
"""

import argparse
import contextlib
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from diffjax import ending, screen, signals  # light: Ctrl-C while the rest is imported is one line, too

MODES = {
    "train": "train",
    "sample": "sample",
    "edit": "edit",
    "restore": "restore",
    "eval": "evaluate",
    "likelihood": "likelihood",
    "moments": "moments",
    "export": "export",
    "replay": "replay",
    "show": "show",
}

OWN = {  # flags of some modes alone
    "strength": ("edit",),
    "input": ("edit", "restore"),
    "operator": ("restore",),
    "noise": ("restore",),
    "by": ("restore",),
    "features": ("eval",),
    "reference": ("eval",),
    "topology": ("show",),
}
ALONE = ("show", "replay")  # modes of one process
OPTIONS = ("--operator.", "--by.", "--features.")  # of what these flags name


class _Parser(argparse.ArgumentParser):
    """Mistakes in one line, without the usage; --help has that."""

    def error(self, message: str) -> NoReturn:
        """Prints one line on stderr and exits with status 2."""
        from diffjax.host import one_line

        self.exit(2, f"error: {one_line(message)}\n")


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command's own flags."""
    parser = _Parser(
        prog="python -m diffjax.main",
        allow_abbrev=False,
        description="Train, sample, edit, restore, evaluate, measure, export, replay or show an experiment.",
        epilog="--config.a.b=value overrides a field of the config; a mistyped field is refused and the nearest named.",
    )
    parser.add_argument(
        "--config", metavar="FILE[:VARIANT]", help="the recipe, such as configs/vpsde.py or configs/vpsde.py:tiny"
    )
    parser.add_argument("--mode", default="train", choices=MODES)
    parser.add_argument(
        "--workdir",
        help="default runs/<config>-<time>; the same one again resumes; all modes but train and show need only it; for "
        "sample and export it may be a weights file",
    )
    parser.add_argument(
        "--seeds",
        help="sample, edit, restore: an image per seed, such as 0-63 (the default; of one --input 0-7) or 1,5",
    )
    parser.add_argument("--nfe", type=int, help="sample, eval, likelihood: steps of the grid, in place of the config's")
    parser.add_argument(
        "--sampler", help="sample, eval, likelihood: such as ancestral.ddim, multistep.dpmpp_2m, heun.edm"
    )
    parser.add_argument(
        "--step", type=int, help="all modes but train and show: the checkpoint; the newest. replay: the training step"
    )
    parser.add_argument(
        "--out",
        help="sample, edit, restore: the folder for images, in WORKDIR/samples; others but train: for their files",
    )
    parser.add_argument(
        "--compiled", action="store_true", help="export: the sampler, too, for a machine that has jax and not diffjax"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="write a trace that a browser opens, WORKDIR/profile/MODE.json.gz: train: of ten steps; else of all of it",
    )
    parser.add_argument(
        "--trust",
        default="",
        metavar="MODULE[,MODULE]",
        help="code of yours, such as mypkg.nets, that the config of a workdir may name (model.name=mypkg.nets:Mine)",
    )
    parser.add_argument("--strength", type=float, help="edit: from 0, the input itself, to 1, a sample")
    parser.add_argument("--input", help="edit, restore: images or .npy, a file or a folder; default held-out examples")
    parser.add_argument("--operator", help="restore: such as inpaint, with options --operator.box=2,6,2,6")
    parser.add_argument("--noise", type=float, help="restore: standard deviation of the noise of what is seen; 0")
    parser.add_argument("--by", help="restore: the method, such as pigdm, with options --by.w=1")
    parser.add_argument(
        "--features",
        help="eval: a space to judge samples in, such as efficientnet_lite0, with options --features.size=96, or "
        "your own package.module:function of images (n, H, W, C) in [-1, 1]",
    )
    parser.add_argument("--reference", help="eval: statistics of that space, mu and sigma in an .npz, to judge beside")
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="several processes: where process 0 listens; not on pods, under srun"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="how many there are, each started with this command")
    parser.add_argument("--process", type=int, metavar="I", help="which of them this one is, 0 to N - 1")
    parser.add_argument("--topology", metavar="NAME", help="show: the step on a slice of TPUs, such as v5e:4x4")
    return parser


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the flags, and the overrides "a.b=value" among them."""
    flags = parser()
    known, rest = flags.parse_known_args(_join(argv))
    if known.seeds is None and known.mode not in OWN["input"]:  # those choose by what they are given
        known.seeds = "0-63"
    overrides = [arg.removeprefix("--config.") for arg in rest if arg.startswith("--config.")]
    known.options = [arg.removeprefix("--") for arg in rest if arg.startswith(OPTIONS)]
    unknown = [arg for arg in rest if not arg.startswith(("--config.", *OPTIONS))]
    if unknown:
        flags.error(f"unknown argument {unknown[0]!r}{_meant(flags, unknown[0])}")
    return known, overrides


def _meant(flags: argparse.ArgumentParser, argument: str) -> str:
    """Says which flag, setting or group of the config an unknown argument is most like."""
    from diffjax.host import closest
    from diffjax.runs import settings

    own = {text.lstrip("-"): text for action in flags._actions for text in action.option_strings}
    groups = {name: f"--config.{name}.name" for name, group in settings.GROUPS.items() if "name" in group}
    fields = {field: f"--config.{settings.home(field)}" for field in settings.Settings._fields}
    near = closest(argument.lstrip("-").partition("=")[0], ways := {**groups, **fields, **own})
    written = "config fields are written --config.field=value"
    return f"; {written}" if near is None else f": nearest is {ways[near]}; {written}"


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


def main(argv: Sequence[str] | None = None, process: bool = False) -> int:
    """Runs one command; the exit status.

    Args:
        process: whether this process is for the command alone, which a second stop signal then ends whatever hangs.
    """
    with screen.guard():
        began = time.monotonic()
        flags, overrides = parse(sys.argv[1:] if argv is None else argv)
        flags.began = began
        run = lambda: flags.workdir if flags.mode == "train" else None  # of which something may be kept
        last_words = lambda number: ending.stopped_by(number, run())
        try:
            with signals.insistence(last_words) if process else contextlib.nullcontext():
                return _run(flags, overrides)
        except (Exception, KeyboardInterrupt) as error:
            cluster = sys.modules.get("diffjax.cluster")  # not where it was too early for several processes
            error = error if cluster is None else cluster.echo(error)
            explained = _explain(error, run())
            if cluster is not None and cluster.several():
                cluster.end(*explained or cluster.traced(error))
            if explained is None:
                raise
            print(explained[0], file=sys.stderr)
            return explained[1]


def _explain(error: BaseException, workdir: str | None) -> tuple[str, int] | None:
    """Gives the line and the exit status of an error that is none of the program's own; None for all others."""
    if isinstance(error, ValueError | ArithmeticError):  # of others this is not imported, nor may it be yet
        from diffjax.config import ConfigError
        from diffjax.training import NonFiniteError

        if isinstance(error, ConfigError | NonFiniteError):
            return f"error: {error}", 2 if isinstance(error, ConfigError) else 1
    return ending.explain(error, workdir)


def _run(flags: argparse.Namespace, overrides: list[str]) -> int:
    """Runs the command in this process, and in step with it in all others of the run, where there are some."""
    from diffjax import cluster
    from diffjax.config import ConfigError, one_line

    with one_line():
        place = flags.coordinator, flags.processes, flags.process
        if flags.mode not in ALONE:
            cluster.join(*place)
        elif place != (None,) * 3 and cluster.place(*place) is not None:
            raise ConfigError(f"--mode={flags.mode} is for one process: leave --coordinator and what goes with it out.")
        told = {name: value for name, value in vars(flags).items() if name not in ("process", "began")}
        cluster.same("arguments", {**told, "config overrides": overrides}, ConfigError)
    with cluster.quiet(), cluster.desk(flags.out or "") as desk:
        if not cluster.first():
            flags.out, flags.profile = str(desk), False
        status = _command(flags, overrides)
    cluster.part()
    return status


def _command(flags: argparse.Namespace, overrides: list[str]) -> int:
    from diffjax import diagnosis, profiling, programs, topology
    from diffjax.config import ConfigError, dropped, trust
    from diffjax.runs import load

    made = flags.mode in ("train", "show")  # from a config; the others look at what was made
    if not flags.config and (overrides or made) and not flags.workdir:
        raise ConfigError(f"--mode={flags.mode} needs --config, such as --config=configs/vpsde.py.")
    source = flags.config or (f"{flags.workdir}/config.json" if made else None)
    trust(name for name in flags.trust.split(",") if name)
    config, flags.dropped = load(source, overrides) if source else None, []
    if source and config is not None and any(".name=" in text for text in overrides):
        flags.dropped = dropped(load(source), config)
    if made and (flags.sampler or flags.nfe is not None or flags.step is not None):
        raise ConfigError(
            f"--sampler, --nfe and --step are for sample, eval and likelihood; --mode={flags.mode} takes "
            "--config.sampler.name=... and --config.grid.n=..."
        )
    for name, modes in OWN.items():
        asked = getattr(flags, name) is not None or any(text.startswith(f"{name}.") for text in flags.options)
        if asked and flags.mode not in modes:
            raise ConfigError(f"--{name} is for --mode={' and --mode='.join(modes)}, not for --mode={flags.mode}.")
    if flags.config and flags.workdir and not made:
        raise ConfigError(f"--mode={flags.mode} reads the config of --workdir: leave --config={flags.config} out.")
    if flags.topology is not None:
        topology.check(flags.topology, ConfigError)  # before anything touches a device
    command = importlib.import_module(f"diffjax.commands.{MODES[flags.mode]}")
    _check_folders(flags)
    for line in programs.keep():
        print(line, file=sys.stderr)
    diagnosis.doctor()
    if flags.profile and flags.mode == "show":
        raise ConfigError("--mode=show runs nothing that --profile could trace: leave it out.")
    whole = flags.profile and flags.mode != "train"  # whose steps the command itself traces
    traced = profiling.traced(profiling.place(flags.workdir or "", flags.mode)) if whole else contextlib.nullcontext()
    with traced:
        status = command.main(config, overrides, flags) or 0
    if flags.mode == "show":
        print("".join(f"{line}\n" for line in flags.dropped), end="", file=sys.stderr)
    if flags.mode == "show" and (lost := screen.lost()):  # whose text is all that it makes
        print(f"error: stdout cannot be written: {lost}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    screen.occupy()
    sys.exit(signals.undisturbed(main))
