"""A run in files that need neither the run nor its data: its weights, and on request its sampler, compiled."""

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from diffjax import disk, runs, standalone
from diffjax.commands.sample import changes_of
from diffjax.config import Config, ConfigError
from diffjax.runs import workdir as files

WEIGHTS = "model.safetensors"


def main(config: Config | None, overrides: list[str], flags: Namespace) -> int:
    """Writes the files of the run of --workdir into its folder `export`, or --out."""
    changes = changes_of(flags, overrides)
    out = flags.out or files.folder(flags.workdir) / "export"
    for line in run(flags.workdir, out, step=flags.step, overrides=changes, compiled=flags.compiled):
        print(line)
    return 0


def run(
    workdir: str | Path,
    out: str | Path,
    *,
    step: int | None = None,
    overrides: Iterable[str] = (),
    compiled: bool = False,
) -> list[str]:
    """Writes model.safetensors, which `diffjax.open` takes; says what is where.

    Args:
        workdir, step, overrides: as of `runs.open`; what is changed is so in the file's config.
        out: the folder.
        compiled: write sampler.jaxexport, too, of sample.chunk samples a call, and how it is called in sampler.md.

    Raises:
        ConfigError: for a folder that holds no run of a config, or a sampler that `jax.export` does not take.
    """
    out, found = Path(out), runs.open(workdir, step=step, overrides=overrides)
    if compiled:
        standalone.check(found.data)
    disk.check_folder("--out", out, error=ConfigError)
    out.mkdir(parents=True, exist_ok=True)
    size, ema = found.export(out / WEIGHTS), found.settings.ema
    said = [f"step {found.step}, EMA {ema}: {size:,} bytes in {out / WEIGHTS}; diffjax.open, train.start take it"]
    if compiled:
        said.append(standalone.write(out, found.method, found.params, found.data, found.settings.chunk))
    return said
