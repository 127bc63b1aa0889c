"""Fits the coefficients of short walks on synthetic mixtures, by gradient descent through the sampler.

A row of `samplers.table` has a time, a combination of x and E[x_0 | x] that is kept, and the weights of x and of the
last four of these: all of them leaves, all differentiable. The error against the exact flow, averaged in logarithm over
the mixtures, is minimised from the best grid of a few known samplers; the result that is best on a mixture held out is
kept. No network is evaluated: the mixtures are fitted to training data (`common.surrogate`), so that what is fitted can
be tried on models that it has not seen.

    python experiments/nfe/fit.py --out=/tmp/fitted.npz [--nfe=5,6,8,10] [--smoke]
"""

import argparse
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffjax import data, ending
from diffjax.samplers import pndm, table, trigflow

HISTORY, STARTS = 4, 48
INITIAL = {
    "trigflow": (lambda s: trigflow.adams(s, 2, 0.7), ("angle 0.7 1.0", "angle 0.7 1.5")),
    "ipndm": (lambda s: pndm.ipndm(s, 3), ("angle 0.7 1.0", "log-SNR 0.005", "log-SNR 0.001")),
}


def main() -> None:
    """Fits, reports train and held-out errors, saves the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--nfe", default="5,6,8,10")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    train = training_digits()
    sizes, steps = ((10, 12), 20) if args.smoke else ((6, 10, 14, 18, 24, 30), 1200)
    family = problems([common.surrogate(train, k, seed) for seed, k in enumerate(sizes)], 0)
    held_out = problems([common.surrogate(train, 12, 100)], 1)
    saved = dict(np.load(args.out)) if Path(args.out).exists() else {}  # other numbers of evaluations, fitted before
    for nfe in map(int, args.nfe.split(",")):
        best = None
        for name, (make, names) in INITIAL.items():
            plans = [padded(make(common.SCHEDULE).plan(common.GRIDS[g](common.SCHEDULE, nfe))) for g in names]
            first = min(plans, key=lambda rows: float(mean_log_error(rows, family)))
            fitted = descend(first, family, steps)
            figures = [float(jnp.exp(mean_log_error(rows, which))) for rows in (first, fitted)
                       for which in (family, held_out)]  # fmt: skip
            print(f"NFE {nfe} from {name}: train {figures[0]:.4f} -> {figures[2]:.4f}, "
                  f"held out {figures[1]:.4f} -> {figures[3]:.4f}", flush=True)  # fmt: skip
            if best is None or figures[3] < best[0]:
                best = (figures[3], fitted)
        assert best is not None
        saved |= {f"{nfe}/{field}": np.asarray(value) for field, value in best[1]._asdict().items()}
        np.savez(args.out, **saved)


def training_digits() -> np.ndarray:
    """The training half of the digits, (n, 64) in [-1, 1]."""
    source = data.digits().train
    return source.gather(np.arange(len(source))).x.reshape(len(source), -1).astype(np.float64)


def problems(mixtures: list, seed: int) -> list[tuple[Any, Any, Any]]:
    """(model, x_T, exact end) for each mixture."""
    found = []
    for i, mixture in enumerate(mixtures):
        target = common.Target("", mixture.denoiser(common.SCHEDULE), (64,), common.axes_of(mixture), 400)
        x = common.starts(1000 * seed + i, STARTS, (64,))
        found.append((target.model, x, common.reference(target, x)))
    return found


def padded(rows: table.Row) -> table.Row:
    """With HISTORY weights, as JAX arrays."""
    ys = np.zeros((len(rows.t), HISTORY))
    ys[:, : rows.ys.shape[1]] = rows.ys
    return jax.tree.map(jnp.asarray, rows._replace(ys=ys))


def mean_log_error(rows: table.Row, problems: list) -> Any:
    """log of the relative error, averaged over the problems."""

    def end(model, x):
        return jax.lax.scan(
            lambda s, row: (table.step(model, jax.random.key(0), s, row), None), table.Init(HISTORY)(x), rows
        )[0].x

    logs = []
    for model, x, exact in problems:
        misses = jnp.mean((jax.vmap(lambda x, model=model: end(model, x))(x) - exact) ** 2)
        logs.append(0.5 * jnp.log(misses / jnp.mean(jnp.var(exact, axis=0))))
    return jnp.mean(jnp.stack(logs))


def descend(start: table.Row, problems: list, steps: int) -> table.Row:
    """Adam on relative changes of every entry; the first time and the noise stay."""
    scale = jnp.abs(start.ys).max(1, keepdims=True)

    def rows(change: dict) -> table.Row:
        t = jnp.concatenate([start.t[:1], start.t[1:] * jnp.exp(change["t"])])
        scaled = {field: getattr(start, field) * jnp.exp(change[field]) for field in ("y_x", "y_mean", "x")}
        return start._replace(t=t, ys=start.ys + scale * change["ys"], **scaled)

    zeros = {"t": jnp.zeros_like(start.t[1:])} | {
        f: jnp.zeros_like(getattr(start, f)) for f in ("y_x", "y_mean", "x", "ys")
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(3e-3, steps)))

    @jax.jit
    def run(change):
        def body(carry, _):
            change, state = carry
            grads = jax.grad(lambda c: mean_log_error(rows(c), problems))(change)
            updates, state = optimizer.update(grads, state, change)
            return (optax.apply_updates(change, updates), state), None

        return jax.lax.scan(body, (change, optimizer.init(change)), None, length=steps)[0][0]

    return rows(run(zeros))


if __name__ == "__main__":
    ending.script(main)
