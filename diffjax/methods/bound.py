"""The variational bound of a run's data in bits per dimension, for its report: `likelihood.elbo` along its own grid."""

from typing import Any

import jax
import numpy as np

from diffjax import chains, likelihood
from diffjax.calculus import flow_only
from diffjax.method import Example, Section
from diffjax.types import PyTree

MOST, FITTED = 512, 10_000  # examples that are bounded, and that the histograms are made of
PARTS = ("prior", "diffusion", "reconstruction", "total")


def section(run: Any) -> Section:
    """Makes the bound's section of a report: a table, or nothing where there is no bound (`measure`)."""
    found = measure(run, run.method.parts, run.params)
    return Section({"bits_per_dimension": found}, table(found))


def measure(run: Any, of: Any, params: PyTree) -> dict[str, Any] | None:
    """Bounds held-out data, and as much training data, by parts; beside them the code of `histograms`.

    Along the grid that samples are made on, with one draw of the noise for each example. None where the data has no
    levels, or the denoiser no variance (`denoisers.variance.mean`), so that there is no finite bound; where the process
    is not Gaussian, so that there is no chain; and of a bridge.

    Args:
        run: its data.
        of: parts of a denoising method, its own or others.
    """
    dataset, schedule = run.data, of.schedule
    no_chain = of.process.conditions or flow_only(schedule)
    first = jax.tree.map(lambda a: a[0], dataset.train.gather(np.zeros(1, int)))
    if dataset.levels is None or no_chain or not has_variance(of, params, first):
        return None
    ts = of.grid(schedule)
    bound, chain = likelihood.elbo(ts, schedule, levels=dataset.levels), chains.chain(schedule, ts)
    dimensions = int(np.prod(dataset.shape))

    @jax.jit
    def bounds(params: PyTree, examples: Example, seeds: Any) -> likelihood.Bound:
        def one(seed: Any, example: Example) -> likelihood.Bound:
            return bound(of.plain_denoiser(params, example.given, chain), jax.random.key(seed), example.x)

        return jax.vmap(one)(seeds, examples).bits(dimensions)

    def mean(source: Any) -> dict[str, float]:
        n = min(len(dataset.held_out), len(source), MOST)
        parts = bounds(params, source.gather(np.arange(n)), np.arange(n, dtype=np.uint32))
        return {part: float(np.mean(np.asarray(getattr(parts, part), np.float64))) for part in PARTS}

    some = lambda source, most: source.gather(np.arange(min(len(source), most))).x
    baseline = histograms(some(dataset.train, FITTED), some(dataset.held_out, MOST), dataset.levels)
    return {"held out": mean(dataset.held_out), "train": mean(dataset.train), "histograms": baseline}


def has_variance(of: Any, params: PyTree, example: Example) -> bool:
    """Looks whether the denoiser says anything of x_0's spread."""
    ts, said = of.grid(of.schedule), []
    denoise = lambda params: of.plain_denoiser(params, example.given, chains.chain(of.schedule, ts))
    jax.eval_shape(lambda params: said.append(denoise(params)(example.x, float(ts[0])).var), params)
    return not isinstance(said[0], float)  # the number 0: nothing is known


def histograms(train: np.ndarray, held_out: np.ndarray, levels: int) -> float:
    """Codes each pixel by its own histogram in the training data, every count one higher; bits per dimension."""
    index = lambda x: np.round((x.reshape(len(x), -1) + 1) * (levels - 1) / 2).astype(int)
    pixels = np.arange(index(train[:1]).shape[1])
    counts = np.ones((len(pixels), levels))
    np.add.at(counts, (pixels[None], index(train)), 1)
    return float(-np.log2(counts[pixels[None], index(held_out)] / counts[0].sum()).mean())


def table(measured: dict[str, Any] | None) -> str:
    """Writes what `measure` found as a section of Markdown; nothing for None."""
    if measured is None:
        return ""
    rows = [f"| {part} | {measured['held out'][part]:.3f} | {measured['train'][part]:.3f} | |" for part in PARTS[:-1]]
    totals = (measured["held out"]["total"], measured["train"]["total"], measured["histograms"])
    return "\n".join(
        [
            "## Variational bound, bits per dimension",
            "",
            "| part | held out | train (floor) | pixel histograms |",
            "|---|---|---|---|",
            *rows,
            "| total | " + " | ".join(f"{total:.3f}" for total in totals) + " |",
            "",
        ]
    )
