"""Samples whose noise was chosen: hubs of a pool of x_T beside the temperature they are, and what they cost.

    python -m diffjax.main --config=configs/vpsde.py --workdir=runs/vpsde
    python experiments/hubness/starts.py --workdir=runs/vpsde --out=runs/vpsde/hubness [--etas=0,0.5,1] [--smoke]

Of 3,000 draws of x_T the 891 that are among the 10 nearest of most others (Liang et al. 2022), beside as many at
random, the 891 of smallest norm, and the random ones scaled to the hubs' variance (`metrics.hubness`). Each is walked
by DDIM at every eta, or, with --etas= (none), by the run's own sampler: a distilled flow in its one step, say.
Judged in the classifier's features beside the held-out digits: Frechet distance, precision, recall, density,
coverage; the variance of samples over that of the random ones; the total variation of the classes' shares. A row of
training digits is the floor. Writes results.json and table.md. No row but the random one is a sample of the model's
law.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import ending, runs
from diffjax.metrics import digits, features, frechet, hubness, manifold

POOL, KEPT, NEAREST = 3000, 891, 10


def main() -> None:
    """Chooses starts, walks from them, and writes what judges found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--etas", default="0,0.5,1", help="of DDIM; none: the run's own sampler")
    parser.add_argument("--smoke", action="store_true", help="a small pool, one eta")
    args = parser.parse_args()
    size, most = (150, 60) if args.smoke else (POOL, KEPT)
    etas = [float(eta) for eta in args.etas.split(",") if eta][: 1 if args.smoke else None] or [None]
    results: dict[str, Any] = {}
    kind = type((own := runs.open(args.workdir)).method.parts)
    if not hasattr(kind, "completed"):
        raise SystemExit(
            f"error: {args.workdir} is a run of {kind.__name__}: this chooses x_T of a sampler's walk, which a "
            "denoising run has; a flow map jumps, by noise of its own, and a codec decodes."
        )
    features.digits().check((most, *own.data.shape))  # before anything is walked
    for eta in etas:
        changes = [] if eta is None else ["sampler.name=ancestral.ddim", f"sampler.eta={eta}"]
        run = runs.open(args.workdir, overrides=changes)
        pool = starts(run, size)
        chosen, temperature = choices(pool, most)
        made = {name: walked(run, seeds, x) for name, (seeds, x) in chosen.items()}
        made["training digits"] = run.data.some("train", most).x
        results["own sampler" if eta is None else f"eta = {eta:g}"] = judged(run, made)
        results["pool"] = {"temperature": temperature, "skewness": hubness.skewness(hubness.counts(pool, NEAREST))}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(table(results))
    print(table(results))


def starts(run: runs.Run, size: int) -> np.ndarray:
    """Computes the x_T of seeds 0, 1, ..., those that `run.draw` begins with."""
    of, shape = run.method.parts, run.data.shape
    start = run.method.plan(shape).start
    noise = lambda seed: of.process.prior(jax.random.split(jax.random.key(seed))[0], shape, start)
    return np.asarray(jax.jit(jax.vmap(noise))(np.arange(size, dtype=np.uint32)))


def choices(pool: np.ndarray, most: int) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, float]]:
    """Chooses starts by each rule: name -> (seeds, x_T); name -> the variance of what was chosen over the pool's."""
    places = {
        "random": np.sort(np.random.default_rng(0).choice(len(pool), most, replace=False)),
        "hubs": hubness.hubs(pool, NEAREST, most=most),
        "smallest norm": hubness.shortest(pool, most),
    }
    chosen = {name: (at, pool[at]) for name, at in places.items()}
    temperature = {name: hubness.shrunk(x, pool) for name, (_, x) in chosen.items()}
    at, x = chosen["random"]
    scale = np.sqrt(temperature["hubs"] / temperature["random"])
    chosen["random, scaled to the hubs' variance"] = at, np.float32(scale) * x
    return chosen, temperature


def walked(run: runs.Run, seeds: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Draws the samples that the run's sampler makes of these x_T; of a seed's own x_T it is the seed's sample."""
    of, request = run.method.parts, run.method.plan(run.data.shape)

    def one(shared: Any, own: Any) -> Any:
        (params, request), (seed, x, given) = shared, own
        key = jax.random.key(seed)
        told = of.completed(key, given, request.shape)
        denoise = of.guided_denoiser(params, told, request.chain)
        return of.process.leave(request.walk(denoise, jax.random.split(key)[1], x))

    given = run.given(seeds.tolist())
    return np.asarray(run.mapped(one)((run.params, request), (seeds.astype(np.uint32), x, given)))


def judged(run: runs.Run, made: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Computes the measures of each cloud of samples beside all held-out digits."""
    space, real = features.digits(), run.data.some("held_out", 2000)
    truth, read = space.of(real.x), lambda x: digits.read(np.asarray(x)).logits.argmax(-1)
    share = lambda labels: np.bincount(labels, minlength=10) / len(labels)
    found = {}
    for name, x in made.items():
        cloud = space.of(x)
        found[name] = {
            "Frechet distance": frechet.frechet(cloud, truth),
            **manifold.manifold(truth, cloud)._asdict(),
            "variance": hubness.shrunk(x, made["random"]),
            "classes": float(np.abs(share(read(x)) - share(read(real.x))).sum() / 2),
        }
    return found


def table(results: dict[str, Any]) -> str:
    """Formats the measures as Markdown."""
    told = results["pool"]
    lines = [f"Skewness {told['skewness']:.3f}; variance over the pool's: "]
    lines[0] += ", ".join(f"{name} {value:.4f}" for name, value in told["temperature"].items())
    for title, rows in results.items():
        if title != "pool":
            names = list(next(iter(rows.values())))
            lines += ["", f"| {title} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
            lines += [f"| {name} | {' | '.join(f'{v:.4g}' for v in row.values())} |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    ending.script(main)
