"""How data is destroyed: one file per family."""

from diffjax.processes.bridge import Bridge as Bridge
from diffjax.processes.bridge import BridgeSchedule as BridgeSchedule
from diffjax.processes.bridge import bridge
from diffjax.processes.gaussian import Gaussian

__all__ = ["Gaussian", "bridge"]  # what a config may name
