"""How data is destroyed: one file per family."""

from diffjax.processes import path
from diffjax.processes.gaussian import Gaussian
from diffjax.processes.path import Path as Path

__all__ = ["Gaussian", "path"]  # what a config may name
