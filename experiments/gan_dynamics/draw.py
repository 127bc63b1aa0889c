"""Dirac-GAN in pictures: what the game does, and what only its integrator does (theory.gan_dynamics).

    python experiments/gan_dynamics/draw.py --out=docs/gan_dynamics.png [--smoke]

Lines called "flow" are solved by diffrax at 1e-12. Points called "make_step" are the library's own GAN
(methods.matching with a generator of one number), 500 rounds of `training.make_step` on data at 0. It prints one JSON
line: radii, eigenvalues, largest steps, averages, the landscape, and how far make_step is from the plain recursion.
"""

import argparse
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from PIL import Image

from diffjax import ema, host, models, training
from diffjax.method import Example
from diffjax.methods.estimates import Critic
from diffjax.methods.generators import Plain
from diffjax.methods.matching import Matching
from diffjax.theory import gan_dynamics as gan
from diffjax.theory import gan_landscape
from diffjax.theory.gan_dynamics import Point

ONE, PLANE = Point(1.0, 1.0), Point([1.0, 0.3], [0.2, -0.7])
H, END = 0.5, 200
GAMMAS = (0.0, 0.1, 0.5, 1.0, 2.0)
STATES = {"nothing hit": "cd", "both on a": "aa", "one leaves": "ad", "both modes": "ab"}
LINES = {"flow": "k-", "simultaneous": "C3-", "alternating": "C0-", "rk4": "C2-"}


def main() -> None:
    """Draws the figure and prints the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="a tenth of the time")
    args = parser.parse_args()
    end = END // 10 if args.smoke else END
    figure = Figure(figsize=(13.2, 6.4), layout="tight", dpi=75)
    parts = (zero_sum, kept, non_saturating, penalties, spectrum, plane, averages, landscape)
    found = {part.__name__: part(figure.add_subplot(2, 4, i + 1), end) for i, part in enumerate(parts)}
    for axes in figure.axes:
        axes.title.set_fontsize(9)
        axes.legend(fontsize=6, loc="best")
    figure.savefig(args.out)
    with Image.open(args.out) as picture:
        small = picture.convert("RGB").quantize(32)
    small.save(args.out, optimize=True)
    print(json.dumps({"experiment": "gan_dynamics", **found}))


def radius(orbit: Point) -> np.ndarray:
    """sqrt(theta^2 + phi^2) of each point."""
    return np.sqrt(gan.square(orbit))


def solved(play: gan.Game, end: float) -> dict[str, tuple[np.ndarray, Point]]:
    """Times and points from (1, 1): the flow, and each integrator with steps of H."""
    ts = np.linspace(0, end, 2001)
    found = {"flow": (ts, gan.flow(play, ONE, ts))}
    for name in gan.INTEGRATORS:
        found[name] = H * np.arange(int(end / H) + 1), gan.orbit(play, ONE, H, int(end / H), name)
    return found


def zero_sum(axes: Any, end: float) -> dict[str, float]:
    """The saturating game on the plane of its two numbers."""
    found = solved(gan.game("saturating"), min(end, 60))
    for name in ("simultaneous", "alternating", "flow"):
        axes.plot(found[name][1].theta, found[name][1].phi, LINES[name], linewidth=0.6, label=name)
    axes.set(title=f"saturating, h = {H}", xlabel="theta", ylabel="phi", aspect="equal")
    return {name: round(float(radius(orbit)[-1]), 6) for name, (_, orbit) in found.items()}


def kept(axes: Any, end: float) -> dict[str, float]:
    """How far the conserved radius is from its start, by integrator."""
    most = {}
    for name, (ts, orbit) in solved(gan.game("saturating"), end).items():
        off = np.abs(radius(orbit) / radius(orbit)[0] - 1)
        most[name] = float(f"{off.max():.3g}")
        axes.semilogy(ts[1:], np.maximum(off[1:], 1e-16), LINES[name], linewidth=0.6, label=name)
    axes.set(title="saturating: drift of the radius", xlabel="tau")
    return most


def non_saturating(axes: Any, end: float) -> dict[str, Any]:
    """Slow convergence, a cycle that only the step makes, and the game as it is trained."""
    play = gan.game("non_saturating")
    for name, (ts, orbit) in (found := solved(play, end)).items():
        if name != "rk4":
            axes.loglog(ts[1:], radius(orbit)[1:], LINES[name], linewidth=0.7, label=name)
    late = np.asarray([end / 10, end])
    axes.loglog(late, np.sqrt(8 / late), "k:", label="sqrt(8 / tau)")
    start, h, rounds = Point(1.0, 0.5), 0.1, 500
    apart = {}
    for at_once, name in ((True, "simultaneous"), (False, "alternating")):
        trained, plain = played("gan", at_once, start, h, rounds), gan.orbit(play, start, h, rounds, name)
        apart[name] = float(max(np.abs(x - y).max() for x, y in zip(trained, plain)))
        places = np.unique(np.geomspace(1, rounds, 20).astype(int))
        axes.loglog(
            h * places, radius(trained)[places], LINES[name][:2] + ".", ms=4, label=f"make_step, {name}, h = {h}"
        )
    axes.set(title=f"non-saturating: radius, h = {H}", xlabel="tau")
    ends = {name: round(float(radius(orbit)[-1]), 6) for name, (_, orbit) in found.items()}
    return {**ends, "make_step_from_recursion": apart}


def penalties(axes: Any, end: float) -> dict[str, float]:
    """The non-saturating flow under R1."""
    ts, found = np.linspace(0, 20, 401), {}
    for gamma in GAMMAS:
        found[str(gamma)] = radius(gan.flow(gan.game("non_saturating", r1=gamma), ONE, ts))
        axes.semilogy(ts, found[str(gamma)], linewidth=0.8, label=f"gamma = {gamma:g}")
    axes.set(title="non-saturating flow with R1: radius", xlabel="tau")
    return {gamma: float(f"{radii[-1]:.6g}") for gamma, radii in found.items()}


def spectrum(axes: Any, end: float) -> dict[str, Any]:
    """Eigenvalues by gamma, and the step at which simultaneous descent stops to contract."""
    gammas = np.linspace(0, 2, 81)
    s = np.stack([gan.eigenvalues(gan.game("saturating", r1=gamma)) for gamma in gammas])
    for i, name in enumerate(("Re s", "")):
        axes.plot(gammas, s[:, i].real, "C0-", label=name or None)
        axes.plot(gammas, s[:, i].imag, "C1:", label=name and "Im s")
    axes.plot(gammas, [gan.largest_step(each) for each in s], "C3-", label="largest step")
    axes.set(title="eigenvalues at rest, and the largest step", xlabel="gamma of R1")
    at = {str(gamma): gan.eigenvalues(gan.game("saturating", r1=gamma)) for gamma in GAMMAS}
    text = {gamma: [f"{x.real:.4f}{x.imag:+.4f}i" for x in s + 0.0] for gamma, s in at.items()}
    return {"s": text, "largest_step": {gamma: round(gan.largest_step(s), 6) for gamma, s in at.items()}}


def plane(axes: Any, end: float) -> dict[str, float]:
    """The critic of a Wasserstein game in the plane, by the centre of its penalty."""
    ts, found = np.linspace(0, 40, 2001), {}
    for name, options in {
        "none": {},
        "gp 1, centre 0": {"gp": 1.0},
        "gp 1, centre 1": {"gp": 1.0, "centre": 1.0},
    }.items():
        orbit = gan.flow(gan.game("wgan", **options), PLANE, ts)
        axes.plot(*orbit.phi.T, linewidth=0.8, label=f"penalty: {name}")
        found[name] = float(f"{np.linalg.norm(orbit.phi[-1]):.6g}")
    axes.set(title="Wasserstein in the plane: phi of the flow", aspect="equal")
    return found


def averages(axes: Any, end: float) -> dict[str, float]:
    """How far the generator's average is out on an orbit of radius 1: formula, and averages of circles."""
    omegas, found = np.geomspace(1e-4, 1, 100), {}
    for i, beta in enumerate((0.9, 0.99, 0.999)):
        axes.loglog(omegas, [gan.ema_radius(beta, omega) for omega in omegas], f"C{i}-", label=f"beta = {beta}")
        for omega in (0.001, 0.05, 0.5):
            m = 0.0
            for k in range(30_000):
                m = beta * m + (1 - beta) * np.exp(1j * omega * k)
            axes.loglog([omega], [abs(m)], f"C{i}.")
            found[f"{beta}, {omega}"] = float(f"{abs(m):.6g}")
    axes.set(title="radius of the EMA of a circle", xlabel="omega: radians a step")
    return found


def landscape(axes: Any, end: float) -> dict[str, dict[str, float]]:
    """What two fakes descend against the best critic, on the way from a collapse to both modes."""
    found = {}
    for name in gan_landscape.PAIRINGS:
        found[name] = {state: round(gan_landscape.value("ab", fakes, name), 6) for state, fakes in STATES.items()}
        way = np.asarray([found[name][state] for state in list(STATES)[1:]])
        axes.plot(range(3), way / -way[-1], "o-", ms=3, label=f"pairs: {name}")
    axes.set(title="landscape, over its depth", xticks=range(3), xticklabels=list(STATES)[1:])
    return found


def played(h: str, at_once: bool, start: Point, rate: float, rounds: int) -> Point:
    """The players at each round of `training.make_step` on data that is 0, in float64."""
    generator = models.from_function(lambda theta, z, c, given: theta + 0 * z, np.ones(1))
    critic = models.from_function(lambda phi, x, c, given: phi * x, np.ones(1))
    method = Matching(Plain(generator), Critic(critic, h), simultaneous=at_once).method()
    optimizer, emas = dict.fromkeys(("generator", "critic"), optax.sgd(rate)), ema.warm_up([0.9])
    step = training.make_step(method, optimizer, emas)
    with host.enable_x64(True):
        params = {"generator": jnp.asarray([start.theta]), "critic": jnp.asarray([start.phi])}
        state = training.init_state(params, optimizer, emas, jax.random.key(0), method)
        batches = Example(np.zeros((rounds, len(method.turns), 1)))
        last, seen = jax.jit(lambda *args: jax.lax.scan(lambda s, b: (step(s, b)[0], s.params), *args))(state, batches)
    every = jax.tree.map(lambda xs, x: np.concatenate([xs, x[None]])[:, 0], seen, last.params)
    return Point(every["generator"], every["critic"])


if __name__ == "__main__":
    main()
