"""The variational bound of a run's data in bits per dimension, for its report: `likelihood.elbo` along its own grid."""

from typing import Any

import jax
import numpy as np

from diffjax import chains, likelihood
from diffjax.calculus import flow_only
from diffjax.method import Example, Section
from diffjax.types import PyTree

MOST, FITTED = 512, 10_000  # examples that are bounded, and that the histograms are made of
TOGETHER = 2**23  # numbers of examples that are bounded together; of larger ones as many as are drawn (sample.chunk)
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

    def one(params: PyTree, row: tuple[Any, Example]) -> likelihood.Bound:
        seed, example = row
        return bound(of.plain_denoiser(params, example.given, chain), jax.random.key(seed), example.x)

    @jax.jit
    def together(params: PyTree, examples: Example, seeds: Any) -> likelihood.Bound:
        return jax.vmap(lambda *row: one(params, row))(seeds, examples).bits(dimensions)

    def bounds(params: PyTree, examples: Example, seeds: Any) -> likelihood.Bound:
        if len(seeds) * dimensions <= TOGETHER:
            return together(params, examples, seeds)
        return run.mapped(lambda params, row: one(params, row).bits(dimensions))(params, (seeds, examples))

    def mean(part: str) -> dict[str, float]:
        examples = dataset.some(part, min(len(dataset.held_out), MOST))
        parts = bounds(params, examples, np.arange(len(examples.x), dtype=np.uint32))
        return {part: float(np.mean(np.asarray(getattr(parts, part), np.float64))) for part in PARTS}

    some = lambda part, most: dataset.some(part, most).x
    baseline = histograms(some("train", FITTED), some("held_out", MOST), dataset.levels)
    return {"held out": mean("held_out"), "train": mean("train"), "histograms": baseline}


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
