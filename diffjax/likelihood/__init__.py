"""What a model says of the probability of data."""

from diffjax.likelihood import dequantise
from diffjax.likelihood.elbo import Bound, elbo
from diffjax.likelihood.ode import Density, ode

__all__ = ["Bound", "Density", "dequantise", "elbo", "ode"]
