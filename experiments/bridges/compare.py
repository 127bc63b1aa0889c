"""DDBM's sampler against DBIM's on one trained bridge, at equal numbers of evaluations.

    python -m diffjax.main --config=configs/bridge.py --workdir=runs/bridge
    python experiments/bridges/compare.py --workdir=runs/bridge --out=runs/bridge/compare [--smoke]

Endpoints are those of the held-out examples. Per sampler: the mean squared error to the example that the endpoint was
made of, the spread between two draws for one endpoint, and a distance between all samples and all held-out examples
(digits: Frechet distance of the evaluation's features; else sliced W2). Beside them the endpoints themselves, the
network's E[x_0 | y] in one evaluation, and the same number of training examples. Writes results.json, table.md and,
of images, pairs.png: endpoint, two draws of DBIM (eta = 1), the example itself. OUT is a sweep's folder: what is there
is not drawn again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import ending, plots, runs, sweeps
from diffjax.method import Example
from diffjax.metrics import digits, frechet, wasserstein

CHUNK, MOST, SHOWN = 99, 594, 12
PAIRS, ROWS = "endpoints, and what bridges make of them", ("endpoint", "one draw", "another draw", "the example")
HYBRID, STEPS = (2, 4, 7, 14, 34, 40), (2, 5, 10, 20, 40, 119)  # 3 N - 1 evaluations, and N
FAMILIES = {
    "DBIM, eta = 0": {"sampler.name": "ancestral.ddim", "sampler.eta": 0.0},
    "DBIM, eta = 0.3": {"sampler.name": "ancestral.ddim", "sampler.eta": 0.3},
    "DBIM, eta = 1": {"sampler.name": "ancestral.ddim", "sampler.eta": 1.0},
    "DBIM, order 2": {"sampler.name": "multistep.adams", "sampler.order": 2},
    "DBIM, order 3": {"sampler.name": "multistep.adams", "sampler.order": 3},
}
COLUMNS = ("squared error", "spread", "distance")


def main() -> None:
    """Samples with every walk, judges, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--most", type=int, default=MOST, help="held-out examples, the first ones")
    parser.add_argument("--smoke", action="store_true", help="two walks of each kind")
    args = parser.parse_args()
    run, out, few = runs.open(args.workdir), Path(args.out), slice(2 if args.smoke else None)
    run.parts("schedule", "This study")
    count = min(len(run.data.held_out), 297 if args.smoke else args.most)
    pairs, end = run.data.held_out.gather(np.arange(count)), float(run.method.parts.schedule.t_max)
    below = {"sampler.name": "hybrid.ddbm", "grid.name": "karras", "grid.t_max": end * (1 - 1e-4)}
    walks = {f"DDBM hybrid, {3 * n - 1}": {**below, "grid.t_min": end * 1e-4, "grid.n": n} for n in HYBRID[few]}
    pinned = {"grid.name": "pinned", "grid.gap": end * 1e-3, "grid.t_min": end * 1e-3}
    for name, family in FAMILIES.items():
        walks |= {f"{name}, {n}": {**family, **pinned, "grid.n": n} for n in STEPS[few]}
    points = sweeps.product(walks.values(), {"measure.count": count, "sample.chunk": CHUNK})
    sweep = sweeps.Sweep(args.workdir, {}, evaluate=points, root=out, measure=judged).run()
    rows = {name: judge(run, x, pairs, None) for name, x in baselines(run, pairs).items()}
    rows |= {name: {part: row[part] for part in COLUMNS} for name, row in zip(walks, sweep.table(COLUMNS))}
    (out / "results.json").write_text(json.dumps({"step": run.step, "examples": count, "rows": rows}, indent=1))
    if pairs.x.ndim == 4:
        walk = {**FAMILIES["DBIM, eta = 1"], **pinned, "grid.n": 20, "sample.chunk": CHUNK}
        drawn = runs.open(args.workdir, overrides=[f"{key}={value}" for key, value in walk.items()])
        first = {name: part[:CHUNK] for name, part in pairs.given.items()}
        board = np.stack([first["y"][:SHOWN], *(draw(drawn, first, seed)[:SHOWN] for seed in (0, 1)), pairs.x[:SHOWN]])
        row = {PAIRS: np.repeat(np.arange(len(board)), SHOWN)}
        plots.samples(out / "pairs.png", {PAIRS: board.reshape(-1, *board.shape[2:])}, SHOWN, labels=row, names=ROWS)
    metric = "Frechet" if run.data.name == "digits" else "sliced W2"
    lines = [f"| sampler, evaluations | squared error | spread | {metric} |", "|---|---|---|---|"]
    cell = lambda v: "" if v is None else f"{v:.4f}"
    lines += [f"| {name} | {' | '.join(map(cell, row.values()))} |" for name, row in rows.items()]
    (out / "table.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


def judged(run: runs.Run, count: int) -> dict[str, Any]:
    """The three numbers of the run's walk, for the first held-out endpoints."""
    pairs = run.data.held_out.gather(np.arange(count))
    x, other = (draw(run, pairs.given, seed) for seed in (0, 1))
    return judge(run, x, pairs, other)


def draw(run: runs.Run, given: dict[str, np.ndarray], seed: int) -> np.ndarray:
    """Samples by the run's walk for what is given of n examples."""
    rows = jax.random.split(jax.random.key(seed), len(given["y"])), given
    one = lambda shared, own: run.method.draw(*shared, *own)
    return run.mapped(one)((run.params, run.method.plan(run.data.shape)), rows)


def baselines(run: runs.Run, pairs: Example) -> dict[str, np.ndarray]:
    """The endpoints, E[x_0 | y], and training examples."""
    of, params, x = run.method.parts, run.params, jnp.zeros(run.data.shape)
    mean = jax.jit(jax.vmap(lambda given: of.mean_denoiser(params, given)(x, of.schedule.t_max).mean))(pairs.given)
    train = run.data.train.gather(np.arange(len(pairs.x))).x
    return {"endpoint": pairs.given["y"], "E[x_0 given y], 1": np.asarray(mean), "training examples (floor)": train}


def judge(run: runs.Run, x: np.ndarray, pairs: Example, other: Any) -> dict[str, Any]:
    """The three numbers of one set of samples; `other` are further draws for the same endpoints."""
    if run.data.name == "digits":
        distance = frechet.frechet(digits.read(x).features, digits.read(pairs.x).features)
    else:
        distance = wasserstein.sliced(x.reshape(len(x), -1), pairs.x.reshape(len(x), -1))
    spread = None if other is None else float(np.sqrt(np.mean((x - other) ** 2) / 2))
    return {"squared error": float(np.mean((x - pairs.x) ** 2)), "spread": spread, "distance": float(distance)}


if __name__ == "__main__":
    ending.script(main)
