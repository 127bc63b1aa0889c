"""How many bits data takes under a method that states log p(x) of an example at once: exactly, or a bound from below.

What `--mode=likelihood` says of a coupling flow, whose density is exact, and of an autoencoder, which bounds it. Data
on a lattice of levels is measured under uniform noise over its bins (`likelihood.dequantise`), so that both are bounds
of one and the same codelength, and stand on the scale of the flows and bounds of `methods.density`:

    -log2 P(x_0) / d <= E[cost - log p(x_0 + u)] / (d log 2)

Whether a model was trained under that noise is the option `levels` of its method: the same function draws it there. A
model that has seen the lattice alone has a density without a maximum, and nothing to say of what lies between levels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from diffjax import activity, host
from diffjax.likelihood import dequantise
from diffjax.losses.variational import check_levels
from diffjax.method import Example, Figure, Section
from diffjax.methods import bound, density
from diffjax.types import Array, Key, PyTree


class Stated(NamedTuple):
    """What a method says of one example.

    Attributes:
        log_p: log p(x), or a bound of it from below, in nats.
        latent: what of x the model takes for a draw of N(0, I), of any shape.
        parts: scalars in nats by name that -log_p is the sum of; {} of a density that has none.
    """

    log_p: Array
    latent: Array
    parts: dict[str, Array]


def noised(key: Key, x: Array, levels: int | None) -> Array:
    """Spreads x over its bins for a loss: uniform noise within half a spacing; None: x as it is."""
    return x if levels is None else dequantise.uniform(key, x, levels).x


def spread(x: np.ndarray, seed: int, levels: int | None) -> np.ndarray:
    """Spreads examples (n, ...) over their bins for a report, each by a key of its own; None: as they are."""
    if levels is None:
        return x
    keys = jax.random.split(jax.random.key(seed), len(x))
    return np.asarray(jax.jit(jax.vmap(lambda key, x: noised(key, x, levels)))(keys, x))


def check_option(levels: Any) -> int | None:
    """Gives the option `levels` of a method back; ValueError unless it is None or an integer of 2 or more."""
    if levels is not None:
        check_levels(host.check_int("levels", levels, 2, most=2**16))
    return levels


def remarks(levels: int | None, dataset: Any) -> list[str]:
    """Says, in a line, where a method's `levels` are not those of its data."""
    if levels == dataset.levels:
        return []
    has = "no levels" if dataset.levels is None else f"{dataset.levels} levels"
    why = "a density at points of a lattice has no maximum, and its bits say nothing of data in between"
    if dataset.levels is None or levels is not None:
        why = "the noise that training adds is not that of the data's bins"
    return [f"{dataset.name} has {has}, method.levels is {levels}: {why}; set method.levels={dataset.levels}"]


@activity.doing("measuring the likelihood")
def section(run: Any, state: Callable, exact: bool, levels: int | None, most: int = bound.MOST) -> Section:
    """Measures held-out data, and as much training data, its floor.

    Args:
        run: its data, parameters and `mapped`.
        state: (params, key, x, given) -> Stated, of one example.
        exact: whether log_p is the density, and no bound of it.
        levels: the method's own.
        most: examples of each part at most.
    """
    measured = {name: _measured(run, state, part, most) for name, part in PARTS.items()}
    n = len(measured["held out"].bits)
    results = {
        "step": run.step,
        "examples": n,
        "levels": run.data.levels,
        "exact": exact,
        "bits": {name: _numbers(found.bits) for name, found in measured.items()},
        "parts": {name: {k: float(v.mean()) for k, v in found.parts.items()} for name, found in measured.items()},
        "baseline": density.baseline(run, n),
        "latents": {name: density.normality(found.latent) for name, found in measured.items()},
    }
    latents = {name: found.latent for name, found in measured.items()}
    text = report(run, results, remarks(levels, run.data))
    return Section(results, text, (Figure("latents", "normality", (latents,)),))


def refuse(of: Any, run: Any, most: int = bound.MOST) -> Section:
    """Raises the ValueError that says why a generator of samples has no likelihood; `of` are its parts."""
    raise ValueError(
        "This run has no likelihood: its generator maps noise to samples, whose law nobody can look an example up in "
        "(a critic knows a ratio, and only where data and samples still differ); judge the samples, by --mode=eval."
    )


PARTS = {"held out": "held_out", "train": "train"}


def held_out(run: Any, state: Callable, levels: int | None, most: int = bound.MOST) -> float:
    """Measures -log p of held-out data, or its bound, in nats per dimension, and says it in a line.

    One draw of noise for each example, alike at every step, so that states of a run are compared on equal terms; data
    is spread over its bins as in training.
    """
    examples = read(run, "held_out", min(most, len(run.data.held_out)))
    examples = examples._replace(x=spread(examples.x, 0, levels))
    keys = jax.random.split(jax.random.key(1), len(examples.x))
    found = float(np.mean(np.asarray(_nats(state, run.params, keys, examples), np.float64)))
    print(f"step {run.step}: {found:.4f} nats per dimension of held-out data", flush=True)
    return found


@partial(jax.jit, static_argnums=0)
def _nats(state: Callable, params: PyTree, keys: Key, examples: Example) -> Array:
    one = lambda key, example: -state(params, key, example.x, example.given).log_p / example.x.size
    return jax.vmap(one)(keys, examples)


def read(run: Any, part: str, n: int) -> Example:
    """Gathers n examples of a part, with what of `given` the method reads."""
    examples, asks = run.data.some(part, n), run.method.asks
    return examples._replace(given={k: v for k, v in examples.given.items() if asks is None or k in asks})


class _Measured(NamedTuple):
    bits: np.ndarray
    latent: np.ndarray
    parts: dict[str, np.ndarray]


def _measured(run: Any, state: Callable, part: str, most: int) -> _Measured:
    """Bits per dimension of each example of a part, of no more than the smaller part has."""
    levels, size = run.data.levels, int(np.prod(run.data.shape))
    examples = read(run, part, min(most, len(run.data.held_out), len(run.data.train)))

    def one(params: PyTree, row: tuple[Array, Example]) -> tuple[Array, Array, dict[str, Array]]:
        seed, example = row
        key_noise, key_own = jax.random.split(jax.random.key(seed))
        x, cost = (
            (example.x, run.data.log_scale) if levels is None else dequantise.uniform(key_noise, example.x, levels)
        )
        said = state(params, key_own, x, example.given)
        bits = lambda nats, cost=0.0: dequantise.bits(-nats, cost, size)
        return dequantise.bits(said.log_p, cost, size), said.latent, jax.tree.map(bits, said.parts)

    rows = (np.arange(len(examples.x), dtype=np.uint32), examples)
    found = run.mapped(one)(run.params, rows)
    return _Measured(*jax.tree.map(lambda a: np.asarray(a, np.float64), found))


def _numbers(bits: np.ndarray) -> dict[str, float | None]:
    error = float(bits.std(ddof=1) / np.sqrt(len(bits))) if len(bits) > 1 else None
    return {"bits": float(bits.mean()), "standard_error": error}


def report(run: Any, results: dict[str, Any], remarks: list[str]) -> str:
    """Writes the numbers of `section` as Markdown."""
    how = "exact density" if results["exact"] else "variational bound, one draw"
    way = density.HOW["none" if results["levels"] is None else "uniform"]
    cells = (f"{of['bits']:.3f}" + density.with_error(of["standard_error"]) for of in results["bits"].values())
    rows = [f"| {how}, {way} | {' | '.join(cells)} |"]
    rows += [
        f"| of it {name} | {' | '.join(f'{parts[name]:.3f}' for parts in results['parts'].values())} |"
        for name in results["parts"]["held out"]
    ]
    rows += [f"| {name} (baseline) | {value:.3f} | |" for name, value in results["baseline"].items()]
    latents = "\n".join(
        f"| {name} | {of['mean']:.4f} | {of['std']:.4f} | {of['kolmogorov']:.4f} |"
        for name, of in results["latents"].items()
    )
    table, said = "\n".join(rows), "".join(f"\n{line}.\n" for line in remarks)
    return f"""# Likelihood of {run.name} at step {results["step"]}: bits per dimension

{results["examples"]} examples of {run.data.name} each, in one evaluation.
{said}
| | held out | train (floor) |
|---|---|---|
{table}

## Latents

| | mean | std | Kolmogorov distance from N(0, 1) |
|---|---|---|---|
{latents}

![latents](figures/latents.png)
"""
