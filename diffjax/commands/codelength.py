"""The variational bound of a run's data in bits per dimension, for the report: `likelihood.elbo` with its sampler."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffjax import analytic, chains, grids, likelihood
from diffjax.commands.experiment import Experiment, denoiser_of
from diffjax.config import build
from diffjax.types import PyTree

MOST = 512  # examples of each kind
PARTS = ("prior", "diffusion", "reconstruction", "total")
COLUMNS = ("held out", "train", "Gaussian fit")


def measure(
    experiment: Experiment, params: PyTree, fit: Callable[[float], analytic.GaussianMixture]
) -> dict[str, Any] | None:
    """The parts of the bound of held-out data; of as much training data, its floor; and by a Gaussian fit.

    Along the grid that samples are made on, with one draw of the noise for each example. None where the data has no
    levels, or the denoiser no variance (`config.denoiser.name` = "mean"), so that there is no finite bound. `fit` makes
    the Gaussian, of data spread evenly over their bins: some pixels never change.
    """
    dataset, schedule = experiment.dataset, experiment.schedule
    if dataset.levels is None or experiment.config.denoiser.name == "mean":
        return None
    ts = build(grids, experiment.config.grid, schedule)
    bound, chain = likelihood.elbo(ts, schedule, levels=dataset.levels), chains.chain(schedule, ts)
    n = min(len(dataset.held_out), MOST)
    gaussian = fit(1 / (dataset.levels - 1) ** 2 / 3).denoiser(schedule, with_var=True)

    def batched(denoise: Callable) -> Callable:
        one = lambda params, key, example: bound(denoise(params, example.get("label")), key, example["x"])
        return jax.jit(jax.vmap(one, (None, 0, 0)))

    def mean(bounds: Callable, source: Any) -> dict[str, float]:
        keys = jax.vmap(jax.random.key)(np.arange(n, dtype=np.uint32))
        parts = bounds(params, keys, source.gather(np.arange(n))).bits(int(np.prod(dataset.shape)))
        return {part: float(np.mean(np.asarray(getattr(parts, part), np.float64))) for part in PARTS}

    network = batched(lambda params, label: denoiser_of(experiment, params, label, chain))
    sides = ((network, dataset.held_out), (network, dataset.train), (batched(lambda *_: gaussian), dataset.held_out))
    return dict(zip(COLUMNS, (mean(*side) for side in sides), strict=True))


def table(measured: dict[str, Any] | None) -> str:
    """The same as a section of Markdown; nothing for None."""
    if measured is None:
        return ""
    rows = [f"| {part} | " + " | ".join(f"{measured[c][part]:.3f}" for c in COLUMNS) + " |" for part in PARTS]
    head = [
        "## Variational bound, bits per dimension",
        "",
        "| part | held out | train (floor) | Gaussian fit |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows, ""])
