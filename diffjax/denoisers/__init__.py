"""What is known of p(x_0 | x_t): networks, and functions of denoisers."""

from diffjax.denoisers import variance
from diffjax.denoisers.clipping import clipped
from diffjax.denoisers.targets import EDM, X0, Eps, Score, V, Velocity, denoiser

__all__ = ["EDM", "X0", "Eps", "Score", "V", "Velocity", "clipped", "denoiser", "variance"]
