"""Straight lines, three couplings: independent pairs, optimal transport in the batch, reflow of the first.

    python experiments/flows/trajectories.py --out=docs/flows.png

On two-dimensional points, one small MLP each (seconds to minutes on a CPU). It prints one JSON line per coupling:
straightness and transport cost of its training pairs, and the exact W2 of samples after one and after 100 steps of
Euler's method, beside its floor between two samples of the data; and draws where 100 steps go from noise.
"""

import argparse
import json
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from diffjax import couplings, data, denoisers, ema, losses, models, samplers, training
from diffjax.calculus import FlowOnly
from diffjax.denoisers import Velocity
from diffjax.method import Example
from diffjax.metrics import wasserstein
from diffjax.processes import path
from diffjax.samplers import ancestral, ode
from diffjax.schedules import Rectified
from diffjax.theory.straightness import straightness

PROCESS, SCHEDULE, TARGET = path.rectified(), FlowOnly(Rectified()), Velocity()
NETWORK = models.network(models.MLP(width=96, depth=3))


def train(pairs, steps):
    """The denoiser of a velocity network, from `pairs(key) -> (x_0, z)`, both (B, 2)."""

    def loss(params, keys, example, index, size):
        t = (index + jax.random.uniform(keys.step)) / size
        net = lambda x, c: NETWORK.apply(params, x, c)
        return losses.regression(net, PROCESS, TARGET, example.x, example.chosen["z"], t), {}

    rate = optax.cosine_decay_schedule(2e-3, steps)
    optimizer, averages = optax.adam(rate), ema.warm_up([0.995])
    state = training.init_state(models.init(NETWORK, jax.random.key(0), (2,)), optimizer, averages, jax.random.key(1))
    step = training.make_step(training.loss_method(loss), optimizer, averages)

    def next_batch(state):
        x, z = pairs(jax.random.fold_in(jax.random.key(2), state.step))
        return step(state, Example(x, chosen={"z": z}))[0]

    run = jax.jit(lambda state: jax.lax.fori_loop(0, 100, lambda i, state: next_batch(state), state))
    for i in count(0, 100):
        if i >= steps:
            break
        state = run(state)
    net = jax.tree_util.Partial(NETWORK.apply, state.ema.averages["0.995"])
    return denoisers.denoiser(net, SCHEDULE, TARGET)


def kept(x, z, size):
    """Batches of the given pairs."""

    def pairs(key):
        i = jax.random.randint(key, (size,), 0, len(x))
        return jnp.asarray(x)[i], z[i]

    return pairs


def walk(denoise, z, n):
    """x after every of n steps of Euler's method, (n, N, 2)."""
    sample = samplers.sampling_fn(ancestral.ddim(SCHEDULE), np.linspace(1, 0, n + 1), trace=lambda x: x)
    over = jax.jit(jax.vmap(lambda z: sample(denoise, jax.random.key(0), z)[1]))
    return np.asarray(over(z)).swapaxes(0, 1)


def main() -> None:
    """The lines and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    dataset = data.eight_gaussians()
    everything, held_out = jnp.asarray(dataset.train.x), np.asarray(dataset.held_out.x)

    def drawn(couple):
        def pairs(key):
            key_x, key_z = jax.random.split(key)
            x = everything[jax.random.randint(key_x, (args.batch,), 0, len(everything))]
            return couple(jax.random.split(key_z, args.batch), x)

        return pairs

    sources = {
        "independent": drawn(couplings.independent(PROCESS)),
        "optimal transport": drawn(couplings.exact(PROCESS)),
    }
    fixed_z = jax.random.normal(jax.random.key(7), (20_000, 2))
    z, found = jax.random.normal(jax.random.key(5), (2000, 2)), {}
    for name in (*sources, "reflow"):
        if name == "reflow":
            sources[name] = kept(walk(found["independent"], fixed_z, 100)[-1], fixed_z, args.batch)
        denoise = found[name] = train(sources[name], args.steps)
        x0, paired = map(jnp.concatenate, zip(*(sources[name](jax.random.key(100 + i)) for i in range(16))))
        field = jax.jit(lambda x, t, denoise=denoise: ode.velocity(denoise, x, t))
        ends = {n: wasserstein.exact(walk(denoise, z, n)[-1], held_out[:2000]) for n in (1, 100)}
        line = {
            "coupling": name,
            "straightness": float(straightness(field, x0, paired)),
            "transport_cost": float(couplings.transport_cost(x0, paired)),
            "w2_1_step": ends[1],
            "w2_100_steps": ends[100],
            "w2_floor": wasserstein.exact(np.asarray(everything[:2000]), held_out[:2000]),
        }
        print(json.dumps({k: v if isinstance(v, str) else round(v, 4) for k, v in line.items()}), flush=True)
    draw(args.out, found, np.asarray(z))


def draw(out, found, z) -> None:
    """One panel per coupling: the ways of 100 points, the ends of 2000 after 100 steps, and after one."""
    figure = Figure(figsize=(3 * len(found), 3.2), layout="tight", dpi=80)
    for i, (name, denoise) in enumerate(found.items()):
        axes = figure.add_subplot(1, len(found), i + 1, title=name, xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
        ways = np.concatenate([z[None, :100], walk(denoise, z[:100], 100)])
        axes.plot(ways[..., 0], ways[..., 1], color="0.7", linewidth=0.5)
        for n, colour in ((100, "tab:blue"), (1, "tab:red")):
            x, y = walk(denoise, z, n)[-1][:600].T
            axes.scatter(x, y, s=2, linewidths=0, color=colour, label=f"{n} step" + "s" * (n > 1))
        axes.set_xticks([])
        axes.set_yticks([])
    figure.axes[0].legend(markerscale=4, loc="upper right", fontsize=7)
    figure.savefig(out)


if __name__ == "__main__":
    main()
