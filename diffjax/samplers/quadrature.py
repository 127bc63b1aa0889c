"""Nodes and weights of (0, 1) for the integrals over a step of a grid."""

import numpy as np

_GRADED = np.arange(-128, 129) / 32

# Tanh-sinh (Takahasi & Mori 1974): nodes crowd at both ends, where an integrand may be singular or have no derivative.
# SHARE runs from 0 to 1; REST is 1 - SHARE without its rounding.
SHARE, REST = (1 / (1 + np.exp(sign * np.pi * np.sinh(_GRADED))) for sign in (-1, 1))
WEIGHTS = np.pi / 32 * np.cosh(_GRADED) * SHARE * REST
