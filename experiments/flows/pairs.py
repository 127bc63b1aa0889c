"""Pairs (z, flow of z) of a trained run: what reflow and distillation are trained on (Liu et al. 2022).

    python experiments/flows/pairs.py --workdir=runs/rectified-... --out=pairs.npz --n=10000 --nfe=40

The flow is walked by the run's own sampler, or by --sampler; it must be deterministic. Seed i gives pair i.
"""

import argparse

import jax
import numpy as np

from diffjax import ending, runs, samplers
from diffjax.calculus import FlowOnly


def main() -> None:
    """Writes x (n, ...) and z (n, ...) to an npz file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--sampler")
    parser.add_argument("--nfe", type=int)
    args = parser.parse_args()
    overrides = [] if args.sampler is None else [f"sampler.name={args.sampler}"]
    overrides += [] if args.nfe is None else [f"grid.n={args.nfe}"]
    run = runs.open(args.workdir, overrides=overrides)
    run.parts("schedule", "This study")
    of, shape = run.method.parts, run.data.shape
    flow = of.schedule if isinstance(of.schedule, FlowOnly) else FlowOnly(of.schedule)
    samplers.walking_fn(of.sampler(flow), of.grid(flow))  # refuses noise
    start = run.method.plan(shape).start

    def noise(seed):
        return of.process.prior(jax.random.split(jax.random.key(seed))[0], shape, start)  # as the method's `draw`

    x = run.draw(args.n)
    z = np.asarray(jax.jit(jax.vmap(noise))(np.arange(args.n, dtype=np.uint32)))
    np.savez(args.out, x=x, z=z)
    print(f"{args.n} pairs in {args.out}, mean square distance {np.mean((x - z) ** 2):.4f} per entry")


if __name__ == "__main__":
    ending.script(main)
