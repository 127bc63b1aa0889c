"""The second moments of a trained network, and of its data, measured once and kept beside its checkpoints.

    python -m diffjax.main --mode=moments --workdir=RUN
    python -m diffjax.main --mode=eval --workdir=RUN --config.denoiser.name=analytic \\
        --config.denoiser.moments=RUN/moments.npz
    python -m diffjax.main --mode=eval --workdir=RUN --sampler=principal.adams --config.sampler.axes=RUN/axes.npz \\
        --config.grid.name=angle --config.grid.sigma_data=0.7 --nfe=10

The network's, for Analytic-DPM: one pass over the training data for each of 100 noise levels, evenly in log-SNR over
the config's grid; any grid's times are read off them (`denoisers.optimal.analytic`). The data's: mean and principal
axes of the training examples (`samplers.principal`), or the variances of their entries where these are many, or
examples few.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import grids, runs
from diffjax.calculus import amplitudes
from diffjax.commands.sample import changes_of
from diffjax.config import Config, ConfigError
from diffjax.denoisers import moments as measured
from diffjax.methods import Denoising
from diffjax.samplers import principal

MOST = 50_000  # examples: as many as the published estimates took
MOST_ENTRIES = 4096  # of an example whose (d, d) axes are kept
FEWEST = 3  # examples for each entry: with fewer, directions look narrower than they are
LEVELS = 100


def main(config: Config | None, overrides: list[str], flags: Namespace) -> None:
    """Measures the moments of the run of --workdir, and says how to use them."""
    changes = changes_of(flags, overrides)
    path = Path(flags.out or flags.workdir) / "moments.npz"
    moments = run(flags.workdir, path, step=flags.step, overrides=changes)
    print(f"{len(moments.ts)} levels in {path}; sample or eval with:")
    print(f"--config.denoiser.name=analytic --config.denoiser.moments={path}")
    axes = path.with_name("axes.npz")
    print(f"The data's principal axes in {axes}; sample or eval with:")
    size = 1.3 * float(np.sqrt(np.mean(principal.Axes.load(axes).variances)))
    print(f"--sampler=principal.adams --config.sampler.axes={axes} --nfe=10")
    print(f"--config.grid.name=angle --config.grid.sigma_data={size:.2g}")


def run(workdir: str | Path, path: str | Path, most: int = MOST, **options: Any) -> measured.SecondMoments:
    """Measures the moments of what a run is served with, and writes them; `axes.npz` beside them.

    Args:
        workdir: of a training run.
        path: the file, .npz.
        most: training examples that are looked at, the first ones.
        options: step, overrides (`runs.open`).

    Raises:
        ConfigError: for a folder that holds no run, or the run of a bridge, whose mean depends on an endpoint.
    """
    run = runs.open(workdir, **options)
    of, params, train = run.parts("mean_denoiser", "moments"), run.params, run.data.train
    if of.process.conditions:
        raise ConfigError(f"Moments are of processes without an endpoint; this one's is {of.process.conditions}.")
    ts = _levels(of)
    examples = train.gather(np.arange(min(len(train), most)))
    denoise = lambda example: of.mean_denoiser(params, example["given"])
    seen = {"x": examples.x, "given": examples.given}
    moments = measured.measure(denoise, of.process, jax.random.key(run.settings.seed), seen, ts)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    measured.save(path, moments)
    d = int(np.prod(run.data.shape))
    diagonal = d > MOST_ENTRIES or len(examples.x) < FEWEST * d
    principal.Axes.of(examples.x, diagonal).save(Path(path).with_name("axes.npz"))
    return moments


def _levels(of: Denoising) -> np.ndarray:
    """Times, evenly in log-SNR, from the first of the grid with signal to the last with noise."""
    schedule = of.schedule
    ts = of.grid(schedule)
    alpha, sigma = amplitudes(schedule, ts)
    usable = ts[np.all(alpha * sigma > 0, axis=tuple(range(1, alpha.ndim)))]
    return grids.log_snr(schedule, LEVELS - 1, t_max=usable[0], t_min=usable[-1], zero=False)
