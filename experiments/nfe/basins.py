"""How an error grows along the ideal denoiser's flow: what bounds every few-step solver there.

The flow of data that is 600 points ends in one of them, and an error on the way is forgotten, or ends in another point.
A state is pushed by delta in a random direction, in units of its own standard deviation, at several noise levels; the
exact flow goes on from there. If p of the walks end elsewhere, the root mean square error at the end is as sqrt(p), at
most about sqrt(2 p) standard deviations of the data: points of neighbouring basins are nearer than any two.

Which walks do solvers lose? The flow stretches a small push at the start by a factor that differs from walk to walk; it
is measured where sigma = alpha / 2, from where on nearly nothing is lost. Of each solver's lost walks the table says
how many belong to the tenth of walks that the flow stretches most, where a tenth would by chance.

    python experiments/nfe/basins.py --out=OUT [--smoke]

Writes OUT/table.md.
"""

import argparse
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from fit import training_digits

from diffjax import calculus, ending, grids, samplers
from diffjax.samplers import multistep

NOISE = (10.0, 3.0, 1.0, 0.5, 0.3)  # sigma / alpha at the push; data has 0.5 to 0.6
PUSHES = (0.1, 0.03, 0.01, 0.003, 0.001)
SEED, STEPS = 2011, 100
GRIDS, OURS = ("uniform", "angle 0.7 1.0", "angle 1.0 1.0", "angle 1.0 1.25"), "principal Adams 2"
APART = 0.1  # in standard deviations of the data, root mean square over entries: two of the points are further apart


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = measured(*((64, 60) if args.smoke else (1024, STEPS)))
    Path(args.out).mkdir(parents=True, exist_ok=True)
    text = table(rows) + "\n" + lost_table(lost(64 if args.smoke else 1024, (5,) if args.smoke else (5, 8)))
    (Path(args.out) / "table.md").write_text(text)
    print(text, end="")


def measured(n: int, steps: int) -> dict[float, list[tuple[float, float]]]:
    """By noise level: for each push the share of n walks that end elsewhere, and the error at the end."""
    of = common.target(common.IDEAL, training_digits())
    x = common.starts(SEED, n, of.shape)
    end = jax.jit(lambda x, ts: jax.vmap(lambda x: walk_along(ts)(of.model, jax.random.key(0), x))(x), static_argnums=1)
    ends = end(x, whole := tuple(grids.karras(common.SCHEDULE, 2 * steps, t_min=1e-5)))
    scale = jnp.sqrt(jnp.mean(jnp.var(ends, axis=0)))
    u = jax.random.normal(jax.random.key(SEED), x.shape)
    u *= np.sqrt(x[0].size) / jnp.linalg.norm(u, axis=1, keepdims=True)
    found: dict[float, list[tuple[float, float]]] = {}
    for noise in NOISE:
        cut = int(np.searchsorted(-np.asarray(whole), -float(calculus.time_of(common.SCHEDULE, -2 * np.log(noise)))))
        state, rest = end(x, whole[: cut + 1]), whole[cut:]
        size = jnp.sqrt(jnp.mean(jnp.var(state, axis=0)))
        found[noise] = []
        for push in PUSHES:
            apart = (end(state + push * size * u, rest) - end(state, rest)) / scale
            elsewhere = jnp.sqrt(jnp.mean(apart**2, axis=1)) > APART
            found[noise].append((float(jnp.mean(elsewhere)), float(jnp.sqrt(jnp.mean(apart**2)))))
    return found


def lost(n: int, nfes: tuple[int, ...]) -> dict[tuple[int, str], tuple[float, float, float]]:
    """By number of evaluations and solver, of n walks: the share that end in another point, the share of these among
    the tenth that the flow stretches most, and the share that all solvers lose."""
    of = common.target(common.IDEAL, training_digits())
    x = common.starts(SEED, n, of.shape)
    ends, half = common.reference(of, x, 2 * STEPS), float(calculus.time_of(common.SCHEDULE, 2 * np.log(2.0)))
    u = 1e-4 * jax.random.normal(jax.random.key(SEED + 1), x.shape)
    apart = common.reference(of, x + u, 2 * STEPS, half) - common.reference(of, x, 2 * STEPS, half)
    stretch = np.asarray(jnp.linalg.norm(apart, axis=1) / jnp.linalg.norm(u, axis=1))
    most, scale = stretch >= np.quantile(stretch, 0.9), float(jnp.sqrt(jnp.mean(jnp.var(ends, axis=0))))
    methods = {name: method for name, method in common.methods(of.axes).items() if method.baseline or name == OURS}
    found = {}
    for nfe in nfes:
        missed = {name: _missed(of, method, nfe, x, ends) / scale > APART for name, method in methods.items()}
        every = np.all(list(missed.values()), axis=0)
        for name, gone in missed.items():
            found[nfe, name] = (float(gone.mean()), float(most[gone].mean()), float(every.mean()))
    return found


def _missed(of: common.Target, method: common.Method, nfe: int, x: jax.Array, ends: jax.Array) -> np.ndarray:
    """The distances of ends from the flow's (n,), root mean square over entries, on the best of some grids."""
    found = []
    for name in GRIDS:
        if (walk := common.walk(method, common.GRIDS[name], nfe)) is not None:
            found.append(np.asarray(jnp.sqrt(jnp.mean((common.run(walk, of.model, x) - ends) ** 2, axis=1))))
    return min(found, key=lambda apart: float(np.mean(apart**2)))


def lost_table(found: dict[tuple[int, str], tuple[float, float, float]]) -> str:
    """A row for each number of evaluations and solver."""
    lines = [
        "| NFE | solver | walks lost | of these in the tenth most stretched | lost by all solvers |",
        "|---" * 5 + "|",
    ]
    lines += [f"| {n} | {name} | {p:.3f} | {q:.2f} | {every:.3f} |" for (n, name), (p, q, every) in found.items()]
    return "\n".join(lines) + "\n"


def walk_along(ts: tuple[float, ...]) -> Any:
    """The walk of the exact flow along fine times."""
    return samplers.sampling_fn(multistep.adams(common.SCHEDULE, 3), np.asarray(ts))


def table(found: dict[float, list[tuple[float, float]]]) -> str:
    """A row for each noise level: p and the error for each push, and the slope of log p over log delta."""
    head = ["sigma / alpha", *(f"delta = {push:g}: p, error" for push in PUSHES), "d log p / d log delta"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for noise, row in found.items():
        seen = [(np.log(push), np.log(p)) for push, (p, _) in zip(PUSHES, row) if p > 0]
        slope = f"{np.polyfit(*zip(*seen), 1)[0]:.2f}" if len(seen) > 1 else ""
        lines.append(f"| {' | '.join([f'{noise:g}', *(f'{p:.4f}, {e:.3f}' for p, e in row), slope])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    ending.script(main)
