"""Exact flows of constructed ODEs from their priors to three points in the plane, and the example of kexue 9379.

    python experiments/constructions/draw.py --out=docs/constructions.png

No network: the velocity of finite data is known (`theory.constructions`), and the library's samplers walk it as any
denoiser. It prints one JSON line: the share of draws from the prior that ends at each point, beside its weight.
"""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from diffjax import grids, samplers
from diffjax.schedules import EDM
from diffjax.theory import characteristics, constructions, green

POINTS, WEIGHTS = np.array([[1.2, -0.6], [-1.2, -0.6], [0.0, 1.3]]), np.array([0.5, 0.3, 0.2])
COLOURS = np.array(["tab:blue", "tab:orange", "tab:green"])
T, DRAWN, COUNTED, STEPS = 3.0, 60, 4000, 160
MADE = {
    "Green, space-time isotropic (PFGM)": green.SpaceTimeIsotropic(),
    "Green, Gaussian": green.SpaceIsotropic(lambda t: t),
    "Green, radial tanh(r / t)": green.tanh(),
    "Green, radial 1 - exp(-r / t)": green.exponential(),
    "characteristics, uniform prior": characteristics.uniform(-2.5, 2.5),
}


def main() -> None:
    """The figure and the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    figure, shares = Figure(figsize=(9.6, 6.6), layout="tight", dpi=80), {}
    for i, (name, construction) in enumerate(MADE.items()):
        end = 1.0 if isinstance(construction, characteristics.Affine) else T
        paths = walk(constructions.marginal(construction, POINTS, WEIGHTS), end)
        place = nearest(paths[:, -1], POINTS)
        shares[name] = [round(share, 4) for share in np.bincount(place) / COUNTED]
        axes = figure.add_subplot(2, 3, i + 1, title=name, aspect="equal", xlim=(-3, 3), ylim=(-3, 3))
        axes.title.set_fontsize(9)
        for path, colour in zip(paths[:DRAWN], COLOURS[place]):
            axes.plot(*path.T, color=colour, linewidth=0.5)
        axes.scatter(*POINTS.T, s=25, c="black", zorder=3)
    shares["weights"] = WEIGHTS.tolist()
    shares["9379"] = post(figure.add_subplot(2, 3, 6))
    figure.savefig(args.out)
    with Image.open(args.out) as picture:
        small = picture.convert("RGB").quantize(32)  # lines in three colours need no more
    small.save(args.out, optimize=True)
    print(json.dumps({"experiment": "constructions", "draws": COUNTED, "shares": shares}))


def walk(marginal: constructions.Marginal, end: float) -> np.ndarray:
    """(COUNTED, STEPS + 1, 2): draws of the law at the end, walked to data."""
    denoise, ts = marginal.denoiser(EDM(end)), grids.karras(EDM(end), STEPS)
    sample = samplers.sampling_fn(samplers.ancestral.ddim(denoise.schedule), ts, trace=lambda x: x)

    @jax.jit
    @jax.vmap
    def run(key: jax.Array) -> jax.Array:
        x = marginal.sample(key, end)
        return jnp.concatenate([x[None], sample(denoise, key, x)[1]])

    return np.asarray(run(jax.random.split(jax.random.key(0), COUNTED)))


def post(axes) -> list[float]:
    """0.5 twice, 1.2 and 1.7, from a uniform prior on [0, 2]: trajectories from an even grid, and where they end."""
    points, places = [[0.5], [0.5], [1.2], [1.7]], np.array([[0.5], [1.2], [1.7]])
    denoise = constructions.marginal(characteristics.uniform(0.0, 2.0), points).denoiser(EDM(1.0))
    ts = np.linspace(1, 1e-3, 101)
    flow = samplers.ode.probability_flow(denoise.schedule, rtol=1e-6, atol=1e-8)
    sample = samplers.sampling_fn(flow, ts, trace=lambda state: state.x)
    x = jnp.asarray((np.arange(COUNTED // 2) + 0.5) / (COUNTED // 2) * 2)[:, None]
    end, paths = jax.jit(jax.vmap(lambda x: sample(denoise, jax.random.key(0), x)))(x)
    place = nearest(np.asarray(end), places)
    for start, path, colour in list(zip(np.asarray(x), np.asarray(paths), COLOURS[place]))[::50]:
        axes.plot(ts, np.concatenate([start[None], path])[:, 0], color=colour, linewidth=0.5)
    axes.set(title="the example of kexue 9379", xlabel="t", xlim=(1, 0), ylim=(0, 2))
    axes.title.set_fontsize(9)
    return [round(float(share), 5) for share in np.bincount(place) / len(place)]


def nearest(x: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The index of the nearest point."""
    return np.linalg.norm(x[:, None] - points[None], axis=2).argmin(1)


if __name__ == "__main__":
    main()
