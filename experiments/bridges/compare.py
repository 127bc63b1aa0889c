"""DDBM's sampler against DBIM's on one trained bridge, at equal numbers of evaluations.

    python -m diffjax.main --config=configs/bridge.py --workdir=runs/bridge
    python experiments/bridges/compare.py --workdir=runs/bridge --out=runs/bridge/compare [--smoke]

Endpoints are those of the held-out examples. Per sampler: the mean squared error to the example that the endpoint was
made of, the spread between two draws for one endpoint, and a distance between all samples and all held-out examples
(digits: Frechet distance of the evaluation's features; else sliced W2). Beside them the endpoints themselves, the
network's E[x_0 | y] in one evaluation, and the same number of training examples. Writes results.json, table.md and,
of images, pairs.png: endpoint, two draws of DBIM (eta = 1), the example itself.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import grids, plots, runs, samplers
from diffjax.method import Example
from diffjax.metrics import digits, frechet, wasserstein
from diffjax.samplers import ancestral, hybrid, multistep

CHUNK, MOST, SHOWN = 99, 594, 12
PAIRS, ROWS = "endpoints, and what bridges make of them", ("endpoint", "one draw", "another draw", "the example")
STEPS = {"DDBM hybrid": (2, 4, 7, 14, 34, 40), "DBIM": (2, 5, 10, 20, 40, 119)}  # 3 N - 1 evaluations, and N
FAMILIES = {
    "DBIM, eta = 0": lambda s: ancestral.ddim(s, 0.0),
    "DBIM, eta = 0.3": lambda s: ancestral.ddim(s, 0.3),
    "DBIM, eta = 1": lambda s: ancestral.ddim(s, 1.0),
    "DBIM, order 2": lambda s: multistep.adams(s, 2),
    "DBIM, order 3": lambda s: multistep.adams(s, 3),
}


def main() -> None:
    """Samples with every walk, judges, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--most", type=int, default=MOST, help="held-out examples, the first ones")
    parser.add_argument("--smoke", action="store_true", help="two walks of each kind")
    args = parser.parse_args()
    run = runs.open(args.workdir)
    schedule, few = run.method.parts.schedule, slice(2 if args.smoke else None)
    end = float(schedule.t_max)
    walks = {}
    for n in STEPS["DDBM hybrid"][few]:
        ts = grids.karras(schedule, n, t_max=end * (1 - 1e-4), t_min=end * 1e-4)
        walks["DDBM hybrid", 3 * n - 1] = samplers.sampling_fn(hybrid.ddbm(schedule), ts)
    for name, make in FAMILIES.items():
        for n in STEPS["DBIM"][few]:
            ts = grids.pinned(schedule, n, gap=end * 1e-3, t_min=end * 1e-3)
            walks[name, n] = samplers.bridging_fn(make(schedule), ts)
    draw, metric = drawer(run), "Frechet" if run.data.name == "digits" else "sliced W2"
    count = min(len(run.data.held_out), 297 if args.smoke else args.most)
    pairs = run.data.held_out.gather(np.arange(count))
    rows = {name: judge(run, x, pairs, None) for name, x in baselines(run, pairs).items()}
    for (name, nfe), walk in walks.items():
        x, other = (draw(walk, pairs.given, seed) for seed in (0, 1))
        rows[f"{name}, {nfe}"] = row = judge(run, x, pairs, other)
        print(name, nfe, row, flush=True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps({"step": run.step, "examples": count, "rows": rows}, indent=1))
    head = [f"| sampler, evaluations | squared error | spread | {metric} |", "|---|---|---|---|"]
    if pairs.x.ndim == 4:
        ts = grids.pinned(schedule, 20, gap=end * 1e-3, t_min=end * 1e-3)
        walk = samplers.bridging_fn(ancestral.ddim(schedule, 1.0), ts)
        first = {name: part[:CHUNK] for name, part in pairs.given.items()}
        draws = [draw(walk, first, seed)[:SHOWN] for seed in (0, 1)]
        board = np.stack([pairs.given["y"][:SHOWN], *draws, pairs.x[:SHOWN]])
        row = {PAIRS: np.repeat(np.arange(len(board)), SHOWN)}
        plots.samples(out / "pairs.png", {PAIRS: board.reshape(-1, *board.shape[2:])}, SHOWN, labels=row, names=ROWS)
    shown = lambda v: "" if v is None else f"{v:.4f}"
    lines = [f"| {name} | {' | '.join(map(shown, row.values()))} |" for name, row in rows.items()]
    (out / "table.md").write_text("\n".join([*head, *lines, ""]))
    print("\n".join([*head, *lines]))


def drawer(run: runs.Run) -> Any:
    """(walk, what is given of n examples, seed) -> samples, one compile for each kind and length of walk."""
    of, params = run.method.parts, run.params

    @jax.jit
    def chunk(walk: Any, given: Any, keys: Any) -> Any:
        def one(given: Any, key: Any) -> Any:
            key_prior, key_walk = jax.random.split(key)
            u = of.process.prior(key_prior, run.data.shape, walk_start(walk))
            return walk(of.mean_denoiser(params, given), key_walk, u)

        return jax.vmap(one)(given, keys)

    def draw(walk: Any, given: dict[str, np.ndarray], seed: int) -> np.ndarray:
        count = len(given["y"])
        rows = given, jax.random.split(jax.random.key(seed), count)
        at = lambda i: jax.tree.map(lambda part: part[i : i + CHUNK], rows)
        return np.concatenate([np.asarray(chunk(walk, *at(i))) for i in range(0, count, CHUNK)])

    return draw


def walk_start(walk: Any) -> Any:
    """The time of a walk's first row."""
    while isinstance(walk.args[0], jax.tree_util.Partial):
        walk = walk.args[0]
    return walk.args[0].t[0]


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
    main()
