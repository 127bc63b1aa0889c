"""Linear inverse problems on real examples: what is hidden, averaged, blurred or grey is drawn again by a run."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from diffjax import comparison, editing, operators
from diffjax.commands.edit import begun
from diffjax.commands.sample import changes_of
from diffjax.config import Config, ConfigError, named, nearest, one_line, options, spec
from diffjax.metrics import judges


def main(config: Config | None, overrides: list[str], flags: Namespace) -> int:
    """Restores examples by the run of --workdir; 1 if some results are not finite."""
    changes = changes_of(flags, overrides)
    if flags.operator is None:
        raise ConfigError(f"--mode=restore needs --operator: {nearest('', operators.__all__)}.")
    own = lambda group: options(text.removeprefix(f"{group}.") for text in flags.options if text.startswith(group))
    operator, by = spec(flags.operator, **own("operator")), spec(flags.by or "pigdm", **own("by"))
    told = {"source": flags.input, "out": flags.out, "step": flags.step, "overrides": changes}
    return int(judges.broken(run(flags.workdir, operator, flags.seeds, flags.noise or 0.0, by, **told).x).any())


def run(
    workdir: str | Path, operator: Any, seeds: Any = None, noise: float = 0.0, by: Any = "pigdm", **options: Any
) -> editing.Restored:
    """Degrades held-out examples, or those of a file or folder, restores them, and writes samples.npz and grid.png.

    Args:
        operator, by: a name in `operators` and one in `denoisers.inverse`, or their specs.
        seeds: of the noise and the walks; without a source they pick the held-out examples too. None: as of `edit`.
        noise: standard deviation of the noise that is added to A x.
        options: as of `edit.begun`; results go to WORKDIR/samples/restore,... unless out= says where.

    Raises:
        ConfigError: for an operator that there is not, or that does not suit the data, and as `edit.begun`.
    """
    words = [named(operator)["name"], *(f"{k}={v}" for k, v in named(operator).items() if k != "name")]
    run, x, numbers, given, folder = begun(
        workdir, seeds, ["restore", *words, f"by={named(by)['name']}", f"noise={noise}"], **options
    )
    linear = run.operator(operator)
    with one_line():
        y = editing.observed(linear, x, noise, numbers)
    found = run.restore(y, linear, numbers, given, noise=noise, by=by)
    degraded = operators.shown(linear, y, x.shape[1:])
    columns = {"input": x, "degraded": degraded, "result": found.x}
    comparison.write(folder, run.data, numbers, columns, y=y, operator=" ".join(words))
    print(f"{', '.join(words)} by {named(by)['name']}: {found.said(x, y, linear, degraded, run.data)}; in {folder}")
    return found
