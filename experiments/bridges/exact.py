"""DDBM's sampler against DBIM's where E[x_0 | x_t, y] is known: digits as a Gaussian mixture, y their 4 x 4 means.

    python experiments/bridges/exact.py --out=runs/bridges-exact [--smoke]

A mixture is fitted to the 1500 training digits. Given y, a linear map of x_0, it stays one: the denoiser is exact,
and so are draws of x_0 given y, which every sampler is held against, for the endpoints of held-out digits. Two sets of
exact draws are the floor. Writes results.json and table.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from compare import CHUNK, HYBRID, STEPS

from diffjax import data, grids, processes, samplers, schedules
from diffjax.analytic import GaussianMixture
from diffjax.metrics import digits, frechet
from diffjax.samplers import ancestral, hybrid, multistep

COMPONENTS = 20
REPEATS = 2  # draws for each endpoint

FAMILIES = {
    "DBIM, eta = 0": lambda s: ancestral.ddim(s, 0.0),
    "DBIM, eta = 0.3": lambda s: ancestral.ddim(s, 0.3),
    "DBIM, eta = 1": lambda s: ancestral.ddim(s, 1.0),
    "DBIM, order 2": lambda s: multistep.adams(s, 2),
    "DBIM, order 3": lambda s: multistep.adams(s, 3),
}


class Conditional(NamedTuple):
    """p(x_0 | y) of a mixture for many y: weights and means depend on y, covariances do not."""

    log_weights: Any  # (n, K)
    means: Any  # (n, K, 64)
    variances: Any  # (K, 64)
    bases: Any  # (K, 64, 64)

    def of(self, log_weights: Any, means: Any) -> GaussianMixture:
        """The mixture of one endpoint."""
        return GaussianMixture(log_weights, means, jnp.asarray(self.variances), jnp.asarray(self.bases), (8, 8, 1))


def main() -> None:
    """Fits, samples with every walk, judges, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="two walks of each kind")
    args = parser.parse_args()
    pairs = data.pairs("digits", "average", factor=2)
    train, held_out = (part.gather(np.arange(len(part))) for part in (pairs.train, pairs.held_out))
    y = np.repeat(held_out.given["y"], REPEATS, 0)
    law, few = conditional(train.x, y), slice(2 if args.smoke else None)
    process = processes.bridge(schedules.VP(0.1, 2.1))
    schedule = process.schedule
    walks = {}
    for n in HYBRID[few]:
        ts = grids.karras(schedule, n, t_max=1 - 1e-4, t_min=1e-4)
        walks["DDBM hybrid", 3 * n - 1] = samplers.sampling_fn(hybrid.ddbm(schedule), ts)
    for name, make in FAMILIES.items():
        for n in STEPS[few]:
            walks[name, n] = samplers.bridging_fn(make(schedule), grids.pinned(schedule, n, t_min=1e-3))

    @jax.jit
    def chunk(walk: Any, log_weights: Any, means: Any, keys: Any) -> Any:
        def one(log_weights: Any, means: Any, key: Any) -> Any:
            key_prior, key_walk = jax.random.split(key)
            u = process.prior(key_prior, (8, 8, 1), walk_start(walk))
            return walk(law.of(log_weights, means).denoiser(schedule), key_walk, u)

        return jax.vmap(one)(log_weights, means, keys)

    def draw(walk: Any) -> np.ndarray:
        keys = jax.random.split(jax.random.key(0), len(y))
        at = [slice(i, i + CHUNK) for i in range(0, len(y), CHUNK)]
        return np.concatenate([np.asarray(chunk(walk, law.log_weights[i], law.means[i], keys[i])) for i in at])

    exact = jax.jit(
        jax.vmap(lambda log_weights, means, key: law.of(log_weights, means).sample(key, 1)[0], in_axes=(0, 0, 0))
    )
    truths = [
        np.asarray(exact(law.log_weights, law.means, jax.random.split(jax.random.key(seed), len(y)))) for seed in (1, 2)
    ]
    clean = np.repeat(held_out.x, REPEATS, 0)
    mean = np.einsum("nk,nkd->nd", np.exp(law.log_weights), law.means).reshape(y.shape)
    sets = {"exact draws (floor)": truths[1], "endpoint": y, "E[x_0 given y], 1": mean}
    rows = {name: judge(x, truths[0], clean) for name, x in sets.items()}
    for (name, nfe), walk in walks.items():
        rows[f"{name}, {nfe}"] = row = judge(draw(walk), truths[0], clean)
        print(name, nfe, row, flush=True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(rows, indent=1))
    head = [
        "| sampler, evaluations | squared error | to exact draws, pixels | the same, features |",
        "|---|---|---|---|",
    ]
    lines = [f"| {name} | {' | '.join(f'{v:.4f}' for v in row.values())} |" for name, row in rows.items()]
    (out / "table.md").write_text("\n".join([*head, *lines, ""]))
    print("\n".join([*head, *lines]))


def conditional(x: np.ndarray, y: np.ndarray) -> Conditional:
    """The mixture fitted to x (N, 8, 8, 1), given that the 2 x 2 block means of x_0 are those of y (n, 8, 8, 1)."""
    from sklearn.mixture import GaussianMixture as Fit

    fit = Fit(COMPONENTS, reg_covar=3e-3, random_state=0).fit(x.reshape(len(x), -1).astype(np.float64))
    average = np.zeros((16, 64))
    for i in range(8):
        for j in range(8):
            average[4 * (i // 2) + j // 2, 8 * i + j] = 0.25
    seen = y[:, ::2, ::2, 0].reshape(len(y), 16).astype(np.float64)
    log_weights, means, variances, bases = [], [], [], []
    for weight, m, C in zip(fit.weights_, fit.means_, fit.covariances_):
        cov = average @ C @ average.T
        gain = np.linalg.solve(cov, average @ C).T
        miss = seen - average @ m
        log_density = -0.5 * (np.sum(miss * np.linalg.solve(cov, miss.T).T, 1) + np.linalg.slogdet(cov)[1])
        log_weights.append(np.log(weight) + log_density)
        means.append(m + miss @ gain.T)
        values, vectors = np.linalg.eigh(C - gain @ average @ C)
        variances.append(np.maximum(values, 0))
        bases.append(vectors)
    logits = np.stack(log_weights, 1)
    logits -= np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) + logits.max(1, keepdims=True)
    return Conditional(*(np.asarray(a, np.float32) for a in (logits, np.stack(means, 1), variances, bases)))


def judge(x: np.ndarray, exact: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """Squared error to the digits themselves; Frechet distances to exact draws for the same endpoints."""
    flat = lambda a: a.reshape(len(a), -1)
    return {
        "squared error": float(np.mean((x - clean) ** 2)),
        "pixels": frechet.frechet(flat(x), flat(exact)),
        "features": frechet.frechet(digits.read(x).features, digits.read(exact).features),
    }


def walk_start(walk: Any) -> Any:
    """The time of a walk's first row."""
    while isinstance(walk.args[0], jax.tree_util.Partial):
        walk = walk.args[0]
    return walk.args[0].t[0]


if __name__ == "__main__":
    main()
