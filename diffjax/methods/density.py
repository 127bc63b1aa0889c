"""The density of a run's data, and what stands beside it: the flow walked up, the bound, a baseline, and back again.

The flow is walked up from the last time of the run's grid that carries noise, with the options of its sampler if that
is `ode.probability_flow` (solver, rtol, atol, adaptive, max_steps; else to 1e-5). Data on a lattice of levels is a
codelength in bits per dimension, under both ways of `likelihood.dequantise`; data without levels a density in that
unit. Beside them stand the bound of `methods.bound` and a baseline: each pixel's own histogram, or one Gaussian.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import activity, denoisers, likelihood, samplers
from diffjax.calculus import amplitudes
from diffjax.likelihood import dequantise
from diffjax.method import Example, Figure, Section
from diffjax.methods import bound
from diffjax.methods.evaluation import gaussian_fit
from diffjax.types import PyTree

TOLERANCE = 1e-5  # relative and absolute, as Song et al. 2021: on digits 2e-4 bits per dimension from a tenth of it
OPTIONS = ("solver", "rtol", "atol", "adaptive", "max_steps")  # of the sampler's, that the likelihood takes


class Flow(NamedTuple):
    """How the flow is walked: upwards for the density, and down again."""

    ts: np.ndarray
    density: jax.tree_util.Partial
    decode: jax.tree_util.Partial


def section(run: Any, of: Any, most: int = bound.MOST) -> Section:
    """Makes the section of --mode=likelihood of a denoising run: `measure`, as numbers, text and a figure.

    Raises:
        ValueError: without diffrax, or for a process whose flow has no density.
    """
    samplers.ode.check_diffrax()
    results, latents = measure(run, of, most)
    return Section(results, report(run, results), (Figure("latents", "normality", (latents,)),))


@activity.doing("measuring the likelihood")
def measure(run: Any, of: Any, most: int = bound.MOST) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures held-out data, and as much training data, its floor: (numbers, latents x_T / sigma_T by part).

    Args:
        run: its data, parameters and `mapped`.
        of: the parts of its method.
        most: examples of each part at most.

    Raises:
        ValueError: for a process whose flow has no density.
    """
    params, dataset, flow = run.params, run.data, plan(of)
    measured_by = measurer(run, of, flow)
    examples = {name: dataset.some(part, most) for name, part in (("held out", "held_out"), ("train", "train"))}
    n = min(len(found.x) for found in examples.values())
    examples = {name: jax.tree.map(lambda a: a[:n], found) for name, found in examples.items()}
    measured = {name: measured_by(params, of) for name, of in examples.items()}
    results = {
        "step": run.step,
        "examples": n,
        "levels": dataset.levels,
        "t_min": float(flow.ts[-1]),
        "ode": {name: found["ode"] for name, found in measured.items()},
        "bounds": bounds(run, of, params),
        "baseline": baseline(run, n),
        "latents": {name: normality(found["latents"]) for name, found in measured.items()},
        "round_trip": round_trip(run, of, flow, params, examples["held out"], measured["held out"]),
    }
    return results, {name: found["latents"] for name, found in measured.items()}


def plan(of: Any) -> Flow:
    """Plans the flow between the ends of the run's grid; with fixed steps, along it. ValueError: it has no density."""
    schedule, named = of.schedule, of.specs()["sampler"]
    of.process.check_density()
    ts = of.grid(schedule)
    ts = ts[amplitudes(schedule, ts)[1] > 0]
    own = named if named["name"] == "ode.probability_flow" else {}
    options: dict[str, Any] = {"rtol": TOLERANCE, "atol": TOLERANCE} | {key: own[key] for key in OPTIONS if key in own}
    path = ts if options.get("adaptive") is False else ts[[0, -1]]
    density = likelihood.ode(path, of.process, **options)
    downwards = samplers.ode.probability_flow(schedule, **options)
    return Flow(path, density, samplers.sampling_fn(downwards, path))


def measurer(run: Any, of: Any, flow: Flow) -> Callable[[PyTree, PyTree], dict[str, Any]]:
    """Makes `measure(params, examples)`: bits per dimension by each dequantisation; of the first, x and the latents.

    Compiled once for each way.
    """
    ways = {name: run.mapped(_one(run, of, way)) for name, way in _ways(run, of, flow).items()}
    sigma = float(amplitudes(of.schedule, flow.ts[:1])[1][0])

    def measure(params: PyTree, examples: Example) -> dict[str, Any]:
        n, results = len(examples.x), {"ode": {}}
        for name, walk in ways.items():
            rows = (np.arange(n, dtype=np.uint32), examples)
            bits, x, latents, nfe = walk((params, flow.density), rows)
            bits = np.asarray(bits, np.float64)
            results["ode"][name] = {
                "bits": float(bits.mean()),
                "standard_error": float(bits.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
                "nfe": float(nfe.mean()),
            }
            if "latents" not in results:
                results |= {"x": x, "latents": latents / sigma}
        return results

    return measure


def _one(run: Any, of: Any, way: Callable) -> Callable:
    """((params, the walk up), (seed, example)) -> (bits, dequantised x, its latent, nfe)."""
    dimensions = int(np.prod(run.data.shape))

    def one(shared: Any, row: Any) -> Any:
        (params, density), (seed, example) = shared, row
        model = of.mean_denoiser(params, example.given)
        key_noise, key_probe = jax.random.split(jax.random.key(seed))
        x, cost = way(key_noise, example.x)
        found = density(model, key_probe, x)
        return dequantise.bits(found.log_p, cost, dimensions), x, found.latent, found.nfe

    return one


def round_trip(
    run: Any, of: Any, flow: Flow, params: PyTree, examples: PyTree, measured: dict[str, Any]
) -> dict[str, Any]:
    """Measures the largest error of an entry after encoding and decoding, in one chunk of what was measured."""
    sigma = jnp.float32(amplitudes(of.schedule, flow.ts[:1])[1][0])

    def one(shared: Any, row: Any) -> Any:
        (params, decode), (example, x, latent) = shared, row
        back = decode(of.mean_denoiser(params, example.given), jax.random.key(0), sigma * latent)
        return jnp.abs(back - x).max()

    size = run.settings.chunk * jax.device_count()
    first = jax.tree.map(lambda a: a[:size], (examples, measured["x"], measured["latents"]))
    error = run.mapped(one)((params, flow.decode), first)
    return {"examples": len(error), "mean": float(error.mean()), "worst": float(error.max())}


def _ways(run: Any, of: Any, flow: Flow) -> dict[str, Callable]:
    """name -> (key, x_0) -> (x, cost)."""
    levels, schedule, t_min = run.data.levels, of.schedule, float(flow.ts[-1])
    if levels is None:
        return {"none": lambda key, x0: (x0, run.data.log_scale)}
    return {
        "gaussian": lambda key, x0: dequantise.gaussian(key, x0, levels, schedule, t_min),
        "uniform": lambda key, x0: dequantise.uniform(key, x0, levels),
    }


def bounds(run: Any, of: Any, params: PyTree) -> dict[str, Any]:
    """Bounds by denoiser: the run's own if it has a variance, else by the two that need no training."""
    own = {of.specs()["denoiser"]["name"]: of.denoiser}
    rules = {name: getattr(denoisers.variance, name) for name in ("small", "large")} if "mean" in own else own
    found = {name: bound.measure(run, of._replace(denoiser=rule), params) for name, rule in rules.items()}
    parts = ("held out", "train")
    return {name: {part: parts_of[part]["total"] for part in parts} for name, parts_of in found.items() if parts_of}


def baseline(run: Any, n: int) -> dict[str, float]:
    """Codes held-out data by what needs no network, in bits per dimension: pixel histograms, or a Gaussian fit."""
    dataset = run.data
    held_out = dataset.some("held_out", n).x
    if dataset.levels is not None:
        train = dataset.some("train", bound.FITTED).x
        return {"pixel histograms": bound.histograms(train, held_out, dataset.levels)}
    log_p = jax.vmap(gaussian_fit(run.data).log_prob)(jnp.asarray(held_out))
    bits = dequantise.bits(jnp.mean(log_p), run.data.log_scale, int(np.prod(dataset.shape)))
    return {"Gaussian fit": float(bits)} if np.isfinite(bits) else {}  # fitted to few examples it has no density


def normality(latents: np.ndarray) -> dict[str, float]:
    """Measures latents, all entries together: mean, std, and Kolmogorov's distance from the standard normal."""
    from scipy import stats

    flat = np.asarray(latents, np.float64).ravel()
    distance = stats.kstest(flat, "norm").statistic
    return {"mean": float(flat.mean()), "std": float(flat.std()), "kolmogorov": float(distance)}


HOW = {
    "none": "density",
    "gaussian": "Gaussian dequantisation (the model's noise at t_min)",
    "uniform": "uniform dequantisation",
}


def report(run: Any, results: dict[str, Any]) -> str:
    """Writes the numbers of `measure` as Markdown."""
    rows = []
    for way in results["ode"]["held out"]:
        found = [results["ode"][part][way] for part in ("held out", "train")]
        cells = " | ".join(f"{f['bits']:.3f}" + with_error(f["standard_error"]) for f in found)
        rows.append(f"| ODE, {HOW[way]}, {found[0]['nfe']:.0f} evaluations | {cells} |")
    steps = len(run.method.parts.grid(run.method.parts.schedule)) - 1
    for name, found in results["bounds"].items():
        rows.append(
            f"| variational bound, variance `{name}`, n = {steps} | {found['held out']:.3f} | {found['train']:.3f} |"
        )
    rows += [f"| {name} (baseline) | {value:.3f} | |" for name, value in results["baseline"].items()]
    dataset, levels = run.data, results["levels"]
    stated = "Data without levels: differential entropies, no dequantisation, no bound on a codelength."
    if levels is not None:
        stated = (
            f"{levels} levels in [-1, 1], spacing 2/{levels - 1}: uniform noise adds log2({levels - 1}/2) = "
            f"{np.log2((levels - 1) / 2):.4f} bits per dimension to -log2 p / d; the Gaussian noise is that of t_min, "
            "less what its decoder gives back. A model trained on the levels alone has no density between them."
        )
    latents = "\n".join(
        f"| {name} | {of['mean']:.4f} | {of['std']:.4f} | {of['kolmogorov']:.4f} |"
        for name, of in results["latents"].items()
    )
    table = "\n".join(rows)
    trip = results["round_trip"]
    return f"""# Likelihood of {run.name} at step {results["step"]}: bits per dimension

{results["examples"]} examples of {dataset.name} each; the flow from t = {results["t_min"]:g}, one probe for each.
{stated}

| | held out | train (floor) |
|---|---|---|
{table}

Encoded and decoded again, the largest error of an entry is {trip["mean"]:.2e} on average, {trip["worst"]:.2e} at worst
({trip["examples"]} held-out examples).

## Latents x_T / sigma_T

| | mean | std | Kolmogorov distance from N(0, 1) |
|---|---|---|---|
{latents}

![latents](figures/latents.png)
"""


def with_error(standard_error: float | None) -> str:
    """Writes a standard error behind a number; nothing for None."""
    return "" if standard_error is None else f" ± {standard_error:.3f}"
