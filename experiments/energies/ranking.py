"""Which of two is likelier: held-out digits ranked against samples of a Gaussian fit by a learned energy.

    python -m diffjax.main --config=configs/energy.py --workdir=runs/energy
    python experiments/energies/ranking.py --workdir=runs/energy

-E(x_t, t) is log p_t(x_t) up to a constant of t, so that a ranking at one level needs no constant. Prints, for each
sigma of the level, the probability that a digit ranks above a sample of the fit (the area under the curve; 1/2 is
chance), by the energy and by the fit's own log density, which no digit satisfies better than its samples.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from diffjax import calculus, ending, runs

LEVELS = (0.05, 0.1, 0.2, 0.5)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    args = parser.parse_args()
    run = runs.open(args.workdir)
    run.parts("plain_denoiser", "This study")
    train, held_out = (np.asarray(part.gather(np.arange(len(part))).x) for part in (run.data.train, run.data.held_out))
    fit = stats.multivariate_normal(*moments(train), allow_singular=True)
    rng = np.random.default_rng(0)
    drawn = fit.rvs(len(held_out), random_state=rng).reshape(held_out.shape).astype(np.float32)
    denoise = run.method.parts.plain_denoiser(run.params, {})
    energy = jax.jit(jax.vmap(denoise.energy, (0, None)))
    print("| sigma | by the energy | by the Gaussian's log density |\n|---|---|---|")
    for level in LEVELS:  # of a schedule with alpha^2 + sigma^2 = 1
        t = jnp.float32(calculus.time_of(denoise.schedule, np.log(1 / level**2 - 1)))
        alpha, sigma = denoise.schedule(t)
        x = [alpha * a + sigma * rng.standard_normal(a.shape, np.float32) for a in (held_out, drawn)]
        mean, covariance = moments(train)
        noised = stats.multivariate_normal(alpha * mean, alpha**2 * covariance + sigma**2 * np.eye(len(mean)))
        scores = [-np.asarray(energy(a, t)) for a in x], [noised.logpdf(a.reshape(len(a), -1)) for a in x]
        print(f"| {level} | {' | '.join(f'{above(*of):.3f}' for of in scores)} |")


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean (d,) and covariance (d, d) of images (n, ...)."""
    flat = x.reshape(len(x), -1).astype(np.float64)
    return flat.mean(0), np.cov(flat.T)


def above(one: np.ndarray, other: np.ndarray) -> float:
    """Computes the share of pairs in which a member of the first ranks above one of the other."""
    return float(stats.mannwhitneyu(one, other).statistic / len(one) / len(other))


if __name__ == "__main__":
    ending.script(main)
