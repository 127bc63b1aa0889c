"""The bound W2 <= score matching along a training run: what is bounded, and by how much.

    python experiments/wasserstein_bound/training.py --out=OUT [--smoke]

A network learns the score of a mixture in the plane whose own score is known. Every so often: the Wasserstein distance
of its samples from true ones by optimal assignment, with its floor, of true ones from true ones; and the bound of
`theory.wasserstein_bound`. Distances are at t = 1e-2, below which a mixture's own field is steep. The Lipschitz
constant is a maximum over samples, an estimate from below. Writes results.json and figure.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from diffjax import analytic, denoisers, ema, losses, models, processes, samplers, schedules, training
from diffjax.method import Example
from diffjax.metrics import wasserstein
from diffjax.samplers.ode import velocity
from diffjax.theory import wasserstein_bound

T_MIN, BATCH = 1e-2, 256
LOOKS = (0, 25, 50, 100, 200, 400, 800, 1600, 3200)
SCHEDULE, TARGET = schedules.VP(), denoisers.V()
PROCESS = processes.Gaussian(SCHEDULE)
MIXTURE = analytic.gaussian_mixture([0.4, 0.6], [[-0.7, 0.0], [0.6, 0.3]], [0.25, 0.16])
SAMPLER = samplers.ode.probability_flow(SCHEDULE, rtol=1e-4, atol=1e-4)
WALK = samplers.sampling_fn(SAMPLER, np.asarray([1.0, T_MIN]))


def main() -> None:
    """Trains, looks, draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="two looks, few samples")
    args = parser.parse_args()
    looks, count, points = (LOOKS[:2], 100, 8) if args.smoke else (LOOKS, 2000, 32)
    network = models.network(models.MLP(width=64, depth=2))
    params = models.init(network, jax.random.key(0), (2,))
    net = lambda params: Partial(lambda params, x, c: network.apply(params, x, c), params)

    def loss(params: Any, keys: Any, example: Any, index: Any, size: int) -> Any:
        t = losses.times.stratified(SCHEDULE, t_min=1e-3)(keys, index, size)
        z = jax.random.normal(keys.example, (2,))
        return losses.regression(net(params), PROCESS, TARGET, example.x, z, t), {}

    optimizer, emas = optax.adam(2e-3), ema.warm_up([0.99])
    step = jax.jit(training.make_step(training.loss_method(loss), optimizer, emas), donate_argnums=0)
    state, rows = training.init_state(params, optimizer, emas, jax.random.key(1)), []
    for i in range(looks[-1] + 1):
        if i in looks:
            rows.append({"step": i, **look(net(state.ema.averages["0.99"]), count, points)})
            print(rows[-1], flush=True)
        x = MIXTURE.sample(jax.random.fold_in(jax.random.key(2), i), BATCH)
        state, _ = step(state, Example(x))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(rows, indent=1))
    figure(rows, out / "figure.png")


def look(net: Any, count: int, points: int) -> dict[str, float]:
    """W2 of count samples at T_MIN, its floor, and the bound."""
    model, exact = denoisers.denoiser(net, SCHEDULE, TARGET), MIXTURE.denoiser(SCHEDULE)
    rule = wasserstein_bound.gauss_legendre(1.0, points, T_MIN)
    key = jax.random.split(jax.random.key(3), 5)
    x0 = MIXTURE.sample(key[0], count)
    z = jax.random.normal(key[1], x0.shape)
    xs = jax.vmap(lambda t: jax.vmap(lambda x0, z: PROCESS.corrupt(x0, z, t))(x0, z))(jnp.asarray(rule.ts, x0.dtype))
    alpha, sigma = SCHEDULE(1.0)
    ends = float(alpha * jnp.sqrt(jnp.mean(jnp.sum(x0**2, -1))))  # of x_T from sigma_T z, by the coupling of equal z
    truth = lambda x, t: velocity(exact, x, t)
    ours = lambda x, t: velocity(model, x, t)
    found = jax.jit(lambda xs: wasserstein_bound.bound(truth, ours, xs, rule, ends))(xs)
    start = sigma * jax.random.normal(key[2], x0.shape)
    samples = jax.jit(jax.vmap(lambda x: WALK(model, key[2], x)))(start)
    corrupt = jax.vmap(lambda x0, z: PROCESS.corrupt(x0, z, T_MIN))

    def fresh(key: Any) -> np.ndarray:
        key_data, key_noise = jax.random.split(key)
        return np.asarray(corrupt(MIXTURE.sample(key_data, count), jax.random.normal(key_noise, x0.shape)))

    true = fresh(key[3])
    return {
        "w2": float(wasserstein.exact(np.asarray(samples), true)),
        "floor": float(wasserstein.exact(fresh(key[4]), true)),
        "bound": float(found.total),
        "fields": float(found.fields),
        "prior": float(found.prior),
        "growth": float(jnp.exp(jnp.asarray(rule.weights, xs.dtype) @ found.lipschitz)),
    }


def figure(rows: list[dict[str, float]], path: Path) -> None:
    """All over the steps of training."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(5.5, 3.6), layout="constrained")
    ax, steps = drawing.subplots(), [row["step"] for row in rows]
    styles = {"bound": "o-", "w2": "o-", "floor": "--"}
    names = {"w2": "W2 of samples", "floor": "W2 of true samples"}
    for name, style in styles.items():
        ax.plot(steps, [row[name] for row in rows], style, ms=4, label=names.get(name, name))
    ax.set(xlabel="training steps", ylabel="distance", yscale="log")
    ax.set_xscale("symlog", linthresh=25)
    ax.legend(fontsize=8)
    drawing.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
