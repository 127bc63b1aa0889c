"""python -m diffjax.pretrained NAME FILE --out=FOLDER [--seeds=0-15] [--config.a.b=value ...]

Writes the folder of a run with published weights, and draws from it where seeds are asked for. Without a name the
families are listed. What is wrong with a file, an option or a folder is one line on stderr and exit status 2.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        from diffjax.host import one_line

        self.exit(2, f"error: {one_line(message)}\n")


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command's own flags."""
    made = _Parser(
        prog="python -m diffjax.pretrained",
        allow_abbrev=False,
        description="Make a run of published weights. Nothing is downloaded, and nothing of the file is executed.",
        epilog="--config.a.b=value overrides a field of the family's recipe, such as --config.data.name=folder.",
    )
    made.add_argument("name", nargs="?", help="of the family; none: list them")
    made.add_argument("file", nargs="?", help="the weights: .safetensors, or Flax's msgpack")
    made.add_argument("--out", metavar="FOLDER", help="the folder of the run, new or empty")
    made.add_argument("--seeds", help="draw an image per seed, such as 0-15, into FOLDER/samples")
    return made


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the flags, and the overrides "a.b=value" among them."""
    made = parser()
    flags, rest = made.parse_known_args(argv)
    if unknown := [arg for arg in rest if not arg.startswith("--config.")]:
        made.error(f"unknown argument {unknown[0]!r}; fields are written --config.field=value.")
    return flags, [arg.removeprefix("--config.") for arg in rest]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status."""
    flags, overrides = parse(sys.argv[1:] if argv is None else argv)
    from diffjax import pretrained
    from diffjax.commands import sample
    from diffjax.config import ConfigError
    from diffjax.pretrained import folder

    if flags.name is None:
        width = max(map(len, pretrained.FAMILIES))
        for name, found in pretrained.FAMILIES.items():
            print(f"{name:<{width}}  {found.title}; {' or '.join(found.maps)}")
        return 0
    try:
        family = folder.family(flags.name)
        if flags.file is None or flags.out is None:
            missing = "a FILE, the weights" if flags.file is None else "--out=FOLDER, for the run"
            raise ConfigError(f"{flags.name} needs {missing}: {family.title}.")
        seeds = sample.parse_seeds(flags.seeds) if flags.seeds else []
        folder.check_free(flags.out)
        run = pretrained.opened(flags.name, flags.file, flags.out, overrides)
        print(f"{flags.out}: {family.title}, {folder.parameters(run):,} parameters")
        if family.remark:
            print(f"{flags.name} {family.remark}")
        if seeds:
            sample.run(flags.out, seeds)
            print(f"{len(seeds)} samples in {flags.out}/samples/seeds")
        else:
            print(f"draw: python -m diffjax.main --mode=sample --workdir={flags.out}")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
