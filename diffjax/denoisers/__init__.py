"""What is known of p(x_0 | x_t): networks, and functions of denoisers."""

from diffjax.denoisers import guidance, inverse, moments, optimal, similarity, variance
from diffjax.denoisers.bridge import DDBM
from diffjax.denoisers.classifier import Classifier as Classifier
from diffjax.denoisers.classifier import cross_entropy as cross_entropy
from diffjax.denoisers.clipping import clipped
from diffjax.denoisers.coordinates import run_on as run_on
from diffjax.denoisers.flow import flow as flow
from diffjax.denoisers.targets import EDM, X0, Eps, Score, V, Velocity, denoiser

__all__ = [
    "DDBM",
    "EDM",
    "X0",
    "Eps",
    "Score",
    "V",
    "Velocity",
    "clipped",
    "denoiser",
    "guidance",
    "inverse",
    "moments",
    "optimal",
    "similarity",
    "variance",
]
