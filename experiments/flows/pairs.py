"""Pairs (z, flow of z) of a trained run: what reflow and distillation are trained on (Liu et al. 2022).

    python experiments/flows/pairs.py --workdir=runs/rectified-... --out=pairs.npz --n=10000 --nfe=40

The flow is walked by the run's own sampler, or by --sampler; it must be deterministic. Seed i gives pair i.
"""

import argparse

import jax
import numpy as np
from diffjax.commands.experiment import plan

from diffjax import parallel
from diffjax.calculus import FlowOnly
from diffjax.commands.sample import drawer, restore, served


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
    experiment, state, _ = restore(args.workdir, nfe=args.nfe, overrides=overrides)
    schedule = experiment.schedule
    plan(experiment.config, schedule if isinstance(schedule, FlowOnly) else FlowOnly(schedule))  # refuses noise
    start, shape = plan(experiment.config, schedule).start, experiment.dataset.shape

    def noise(seed):
        return experiment.process.prior(jax.random.split(jax.random.key(seed))[0], shape, start)  # as `sample_one`

    x = drawer(experiment, parallel.mesh())(served(experiment, state, args.workdir), range(args.n))
    z = np.asarray(jax.jit(jax.vmap(noise))(np.arange(args.n, dtype=np.uint32)))
    np.savez(args.out, x=x, z=z)
    print(f"{args.n} pairs in {args.out}, mean square distance {np.mean((x - z) ** 2):.4f} per entry")


if __name__ == "__main__":
    main()
