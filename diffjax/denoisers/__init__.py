"""What is known of p(x_0 | x_t): networks, and functions of denoisers."""

from diffjax.denoisers import categorical as categorical
from diffjax.denoisers import composition as composition
from diffjax.denoisers import flow_map as flow_map
from diffjax.denoisers import guidance as guidance
from diffjax.denoisers import inverse as inverse
from diffjax.denoisers import joint as joint
from diffjax.denoisers import moments as moments
from diffjax.denoisers import optimal as optimal
from diffjax.denoisers import similarity as similarity
from diffjax.denoisers import variance as variance
from diffjax.denoisers.bridge import DDBM
from diffjax.denoisers.classifier import Classifier as Classifier
from diffjax.denoisers.classifier import cross_entropy as cross_entropy
from diffjax.denoisers.clipping import clipped as clipped
from diffjax.denoisers.consistency import Consistency
from diffjax.denoisers.coordinates import run_on as run_on
from diffjax.denoisers.deblurring import Deblur
from diffjax.denoisers.energy import EnergyDenoiser as EnergyDenoiser
from diffjax.denoisers.flow import flow as flow
from diffjax.denoisers.targets import EDM, X0, Eps, Score, V, Velocity
from diffjax.denoisers.targets import denoiser as denoiser

__all__ = [
    "DDBM",
    "EDM",
    "X0",
    "Consistency",
    "Deblur",
    "Eps",
    "Score",
    "V",
    "Velocity",
    "categorical",
]  # what a config may name
