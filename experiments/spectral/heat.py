"""The noise of heat dissipation's sampler, and where it starts, on one trained run of digits.

    python -m diffjax.main --config=configs/heat.py --workdir=runs/heat
    python experiments/spectral/heat.py --workdir=runs/heat --out=runs/heat/noises [--smoke]

All walks are of the run's own network and grid. Rows: delta = sigma, 1.25 sigma (published), sqrt 2 sigma, and delta =
sigma with the variance E[Var[u_0 | u_t]] added per frequency and step, measured on training data (analytic). Controls:
a draw of the prior through the last estimate alone; the published prior, blurred training images without noise; the
gate's own floor and Gaussian fit. Writes results.json and table.md.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import denoisers, ending, runs, samplers
from diffjax.metrics import gate

COUNT = 297
SHOWN = ("Frechet distance", "1-NN accuracy, fake", "coverage, k = 5", "train-neighbour ratio", "copied share")


def main() -> None:
    """Draws, judges, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="one walk alone")
    args = parser.parse_args()
    run, out = runs.open(args.workdir), Path(args.out)
    run.parts("schedule", "This study")
    train, held_out = (part.gather(np.arange(len(part))).x for part in (run.data.train, run.data.held_out))
    rows: dict[str, Any] = {"delta = sigma": lambda: walked(run, 1.0)}
    if not args.smoke:
        rows |= {
            "delta = 1.25 sigma (published)": lambda: walked(run, "published"),
            "delta = sqrt 2 sigma": lambda: walked(run, "fixed_point"),
            "delta = sigma, analytic variance": lambda: walked(run, 1.0, denoiser=measured(run)),
            "prior and the last estimate alone": lambda: once(run),
            "published, from blurred training images": lambda: from_images(run, train[:COUNT]),
        }
    table = {}
    for name, make in rows.items():
        report = gate.evaluate_digits(np.asarray(make()), train, held_out)
        table["training digits (floor)"] = {metric.name: metric.floor for metric in report.metrics}
        table["Gaussian fit"] = {metric.name: metric.gaussian for metric in report.metrics}
        table[name] = {metric.name: metric.value for metric in report.metrics}
        print(name, {key: round(table[name][key], 3) for key in SHOWN}, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps({"step": run.step, "samples": COUNT, "rows": table}, indent=1))
    lines = ["| walk | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{row[key]:.3f}" for key in SHOWN) + " |" for name, row in table.items()]
    (out / "table.md").write_text("\n".join([*lines, ""]))


def walked(run: runs.Run, delta: float | str, **words: Any) -> np.ndarray:
    """Samples by the run's network with this noise."""
    return run.draw(COUNT, sampler=partial(samplers.heat.dissipation, delta=delta), **words)


def measured(run: runs.Run) -> Any:
    """Makes the rule of a denoiser with the variances that the run's network has on training data."""
    of, params = run.method.parts, run.params
    ts = of.grid(of.schedule)[:-1]
    seen = run.data.train.gather(np.arange(min(len(run.data.train), 512)))
    denoise = lambda example: of.mean_denoiser(params, example["given"])
    key = jax.random.key(1)
    found = denoisers.moments.measure(denoise, of.process, key, {"x": seen.x, "given": seen.given}, ts)
    # A frequency varies by no more than its own variance; where the next level has lost one, x_0 is not looked at.
    own = np.asarray(jax.vmap(of.process.enter)(jnp.asarray(seen.x))).var(0)
    var = np.minimum(np.nan_to_num(found.entries, nan=np.inf), own)

    def rule(net: Any, schedule: Any, target: Any, chain: Any) -> Any:
        return denoisers.optimal.tabulated(denoisers.denoiser(net, schedule, target), ts, var, most=4.0)

    return rule


def once(run: runs.Run) -> np.ndarray:
    """Draws the prior and takes the estimate of the last level for a sample."""
    of, params = run.method.parts, run.params
    last = jnp.float32(of.grid(of.schedule)[-2])

    @jax.jit
    def one(params: Any, keys: Any) -> Any:
        denoise = of.mean_denoiser(params, {})
        return jax.vmap(lambda key: of.process.leave(denoise(of.process.prior(key, run.data.shape), last).mean))(keys)

    return np.asarray(one(params, jax.random.split(jax.random.key(2), COUNT)))


def from_images(run: runs.Run, x: np.ndarray) -> np.ndarray:
    """Walks by the published noise from blurred training images, without noise."""
    of = run.method.parts
    request = of._replace(sampler=samplers.heat.dissipation).method().plan(run.data.shape)
    alpha, _ = of.schedule(request.start)

    @jax.jit
    def walk(params: Any, keys: Any, x: Any) -> Any:
        denoise = of.mean_denoiser(params, {})
        one = lambda key, x: of.process.leave(request.walk(denoise, key, alpha * of.process.enter(x)))
        return jax.vmap(one)(keys, x)

    return np.asarray(walk(run.params, jax.random.split(jax.random.key(3), len(x)), jnp.asarray(x)))


if __name__ == "__main__":
    ending.script(main)
