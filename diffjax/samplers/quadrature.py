"""Nodes and weights of (0, 1) for the integrals over a step of a grid; polynomials through nodes."""

from collections.abc import Sequence

import numpy as np

_GRADED = np.arange(-128, 129) / 32

# Tanh-sinh (Takahasi & Mori 1974): nodes crowd at both ends, where an integrand may be singular or have no derivative.
# SHARE runs from 0 to 1; REST is 1 - SHARE without its rounding.
SHARE, REST = (1 / (1 + np.exp(sign * np.pi * np.sinh(_GRADED))) for sign in (-1, 1))
WEIGHTS = np.pi / 32 * np.cosh(_GRADED) * SHARE * REST


def lagrange(nodes: Sequence[float] | np.ndarray, at: np.ndarray) -> np.ndarray:
    """Evaluates Lagrange's basis on p nodes at `at` (m,): polynomials that are 1 on their own node, 0 on the others.

    Returns:
        (p, m), one row for each polynomial.
    """
    others = [[other for i, other in enumerate(nodes) if i != j] for j in range(len(nodes))]
    shares = [[(at - o) / (node - o) for o in away] for node, away in zip(nodes, others)]  # (deis.3)
    return np.stack([np.prod(factors, axis=0) * np.ones_like(at) for factors in shares])
