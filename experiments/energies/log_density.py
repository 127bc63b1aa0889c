"""How far a learned energy of eight Gaussians is from the log density that is known, level by level.

    python -m diffjax.main --config=configs/energy.py:points --workdir=runs/points
    python experiments/energies/log_density.py --workdir=runs/points

E(x, t) + log p_t(x) is a constant of t where the energy is exact. Prints its standard deviation over held-out data,
noised to t, in nats, beside that of one Gaussian of the data's variance, and the deviation of log p_t itself.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import analytic, ending, runs

STD, RADIUS = 0.1, np.sqrt(2)
ANGLES = 2 * np.pi * np.arange(8) / 8
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    args = parser.parse_args()
    run = runs.open(args.workdir)
    run.parts("plain_denoiser", "This study")
    x0 = np.asarray(run.data.held_out.gather(np.arange(len(run.data.held_out))).x)
    centres = RADIUS * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
    denoise = run.method.parts.plain_denoiser(run.params, {})
    law = analytic.gaussian_mixture([1 / 8] * 8, centres, [STD**2] * 8)
    known = analytic.ExactDenoiser(law, denoise.schedule)
    energy, exact = (jax.jit(jax.vmap(of.energy, (0, None))) for of in (denoise, known))
    rng = np.random.default_rng(0)
    print("| t | sigma | learned | one Gaussian | log density itself |\n|---|---|---|---|---|")
    for t in LEVELS:
        alpha, sigma = (float(a) for a in denoise.schedule(jnp.float32(t)))
        x = alpha * x0 + sigma * rng.standard_normal(x0.shape, np.float32)
        E, true = (np.asarray(of(x, jnp.float32(t)), np.float64) for of in (energy, exact))
        fit = np.sum(x**2, 1) / 2 / (alpha**2 + sigma**2)  # the data's variance is 1 on each axis
        print(f"| {t} | {sigma:.3f} | {np.std(E - true):.3f} | {np.std(fit - true):.3f} | {np.std(true):.3f} |")


if __name__ == "__main__":
    ending.script(main)
