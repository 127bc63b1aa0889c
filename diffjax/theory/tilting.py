"""A Gaussian mixture under a reward that is a polynomial of degree two: a mixture again, in closed form.

    p*(x) = p(x) exp(r(x) / beta) / Z,     r(x) / beta = g^T x - x^T H x / 2,

turns each component w N(m, C) into w' N(m', C'),

    C' = (I + C H)^-1 C,     m' = (I + C H)^-1 (m + C g),
    log w' = log w + g^T m - m^T H m / 2 + (g - H m)^T C' (g - H m) / 2 - log det(I + C H) / 2 - log Z:

what fine-tuning to that reward reaches (`losses.reward`), and the target of the h-transform with h(x_t) = E[exp(r(x_0)
/ beta) | x_t], whose guidance is mean + sigma^2 / alpha grad log h (`denoisers.guidance`).
"""

from typing import Any

import numpy as np

from diffjax.analytic import GaussianMixture, gaussian_mixture


def tilted(mixture: GaussianMixture, g: Any, H: Any = None) -> tuple[GaussianMixture, float]:
    """Tilts a mixture by exp(g^T x - x^T H x / 2).

    Args:
        g: (d,), or of one example's shape.
        H: (d, d), symmetric; None: zeros.

    Returns:
        The mixture p*, and log Z in nats.

    Raises:
        ValueError: for shapes that do not fit, numbers that are not finite, or a tilt that grows at least as fast as a
            component falls.
    """
    means, d = np.asarray(mixture.means, np.float64), mixture.means.shape[1]
    g = np.asarray(g, np.float64).reshape(-1)
    H = np.zeros((d, d)) if H is None else np.asarray(H, np.float64)
    if not (np.isfinite(g).all() and np.isfinite(H).all()):
        raise ValueError("g or H holds numbers that are not finite: there is no such tilt.")
    if g.shape != (d,) or H.shape != (d, d) or not np.allclose(H, H.T):
        raise ValueError(f"g has shape {g.shape} and H {H.shape}, expected ({d},) and a symmetric ({d}, {d}).")
    if mixture.thin:
        raise ValueError("The mixture has components of fewer axes than entries: no density to tilt; give them some.")
    variances = np.asarray(mixture.variances, np.float64)
    bases = np.broadcast_to(np.eye(d), (len(means), d, d)) if mixture.bases is None else np.asarray(mixture.bases)
    covariances = np.einsum("kij,kj,klj->kil", bases, variances, bases)
    eye = np.eye(d)
    grows = "exp(-x^T H x / 2) grows faster than a component of the mixture falls, or as fast: p* has no finite mass."
    signs, logs = np.linalg.slogdet(eye + covariances @ H)
    if np.any(signs <= 0):  # 0: it grows as fast as a component falls, and there is no inverse
        raise ValueError(grows)
    # C' = (I + C H)^-1 C needs no inverse of C: points stay points.
    gains = np.linalg.solve(eye + covariances @ H, np.broadcast_to(eye, covariances.shape))
    tilted_covariances = gains @ covariances
    moved = np.einsum("kij,kj->ki", gains, means + covariances @ g)  # (reward.3)
    tilted_covariances = (tilted_covariances + tilted_covariances.transpose(0, 2, 1)) / 2
    if np.any(np.linalg.eigvalsh(tilted_covariances) < -1e-12):
        raise ValueError(grows)
    at = lambda x: x @ g - np.einsum("ki,ij,kj->k", x, H, x) / 2
    pull = g - means @ H  # the slope of the exponent at each mean
    gain = at(means) + np.einsum("ki,kij,kj->k", pull, tilted_covariances, pull) / 2 - logs / 2  # (reward.4)
    log_weights = np.asarray(mixture.log_weights, np.float64) + gain
    log_z = np.logaddexp.reduce(log_weights)
    made = gaussian_mixture(np.exp(log_weights - log_z), moved.reshape(-1, *mixture.shape), tilted_covariances)
    return made, float(log_z)
