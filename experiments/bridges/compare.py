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
from diffjax.commands.experiment import Experiment, held_out_pairs, mean_denoiser

from diffjax import grids, plots, samplers
from diffjax.commands.sample import restore, served
from diffjax.metrics import digits, frechet, wasserstein
from diffjax.samplers import ancestral, hybrid, multistep

CHUNK, MOST, SHOWN = 99, 594, 12
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
    experiment, state, step = restore(args.workdir)
    params, schedule = served(experiment, state, args.workdir), experiment.schedule
    end, few = float(schedule.t_max), slice(2 if args.smoke else None)
    walks = {}
    for n in STEPS["DDBM hybrid"][few]:
        ts = grids.karras(schedule, n, t_max=end * (1 - 1e-4), t_min=end * 1e-4)
        walks["DDBM hybrid", 3 * n - 1] = samplers.sampling_fn(hybrid.ddbm(schedule), ts)
    for name, make in FAMILIES.items():
        for n in STEPS["DBIM"][few]:
            ts = grids.pinned(schedule, n, gap=end * 1e-3, t_min=end * 1e-3)
            walks[name, n] = samplers.bridging_fn(make(schedule), ts)
    draw, metric = drawer(experiment, params), "Frechet" if experiment.dataset.name == "digits" else "sliced W2"
    count = min(len(experiment.dataset.held_out), 297 if args.smoke else args.most)
    pairs = held_out_pairs(experiment, np.arange(count))
    rows = {name: judge(experiment, x, pairs, None) for name, x in baselines(experiment, params, pairs).items()}
    for (name, nfe), walk in walks.items():
        x, other = (draw(walk, pairs["y"], seed) for seed in (0, 1))
        rows[f"{name}, {nfe}"] = row = judge(experiment, x, pairs, other)
        print(name, nfe, row, flush=True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps({"step": step, "examples": count, "rows": rows}, indent=1))
    head = [f"| sampler, evaluations | squared error | spread | {metric} |", "|---|---|---|---|"]
    if pairs["x"].ndim == 4:
        ts = grids.pinned(schedule, 20, gap=end * 1e-3, t_min=end * 1e-3)
        walk = samplers.bridging_fn(ancestral.ddim(schedule, 1.0), ts)
        draws = [draw(walk, pairs["y"][:CHUNK], seed)[:SHOWN] for seed in (0, 1)]
        board = np.stack([pairs["y"][:SHOWN], *draws, pairs["x"][:SHOWN]])
        plots.save_image(out / "pairs.png", plots.tile(board.reshape(-1, *board.shape[2:]), SHOWN))
    shown = lambda v: "" if v is None else f"{v:.4f}"
    lines = [f"| {name} | {' | '.join(map(shown, row.values()))} |" for name, row in rows.items()]
    (out / "table.md").write_text("\n".join([*head, *lines, ""]))
    print("\n".join([*head, *lines]))


def drawer(experiment: Experiment, params: Any) -> Any:
    """(walk, endpoints (n, ...), seed) -> samples, one compile for each kind and length of walk."""

    @jax.jit
    def chunk(walk: Any, ys: Any, keys: Any) -> Any:
        def one(y: Any, key: Any) -> Any:
            key_prior, key_walk = jax.random.split(key)
            u = experiment.process.prior(key_prior, y.shape, walk_start(walk))
            return walk(mean_denoiser(experiment)(params, jnp.int32(0), y), key_walk, u)

        return jax.vmap(one)(ys, keys)

    def draw(walk: Any, ys: np.ndarray, seed: int) -> np.ndarray:
        keys = jax.random.split(jax.random.key(seed), len(ys))
        parts = [chunk(walk, ys[i : i + CHUNK], keys[i : i + CHUNK]) for i in range(0, len(ys), CHUNK)]
        return np.concatenate([np.asarray(part) for part in parts])

    return draw


def walk_start(walk: Any) -> Any:
    """The time of a walk's first row."""
    while isinstance(walk.args[0], jax.tree_util.Partial):
        walk = walk.args[0]
    return walk.args[0].t[0]


def baselines(experiment: Experiment, params: Any, pairs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The endpoints, E[x_0 | y], and training examples."""
    end = experiment.schedule.t_max
    mean = jax.jit(jax.vmap(lambda y: mean_denoiser(experiment)(params, jnp.int32(0), y)(jnp.zeros_like(y), end).mean))(
        pairs["y"]
    )
    train = experiment.dataset.train.gather(np.arange(len(pairs["x"])))["x"]
    return {"endpoint": pairs["y"], "E[x_0 given y], 1": np.asarray(mean), "training examples (floor)": train}


def judge(experiment: Experiment, x: np.ndarray, pairs: dict[str, np.ndarray], other: Any) -> dict[str, Any]:
    """The three numbers of one set of samples; `other` are further draws for the same endpoints."""
    if experiment.dataset.name == "digits":
        distance = frechet.frechet(digits.read(x).features, digits.read(pairs["x"]).features)
    else:
        distance = wasserstein.sliced(x.reshape(len(x), -1), pairs["x"].reshape(len(x), -1))
    spread = None if other is None else float(np.sqrt(np.mean((x - other) ** 2) / 2))
    return {"squared error": float(np.mean((x - pairs["x"]) ** 2)), "spread": spread, "distance": float(distance)}


if __name__ == "__main__":
    main()
