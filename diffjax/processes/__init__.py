"""How data is destroyed: one file per family."""

from diffjax.processes.gaussian import Gaussian

__all__ = ["Gaussian"]
