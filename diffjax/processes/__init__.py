"""How data is destroyed: one file per family."""

from diffjax.processes import categorical, cold, heat, path
from diffjax.processes.bridge import Bridge as Bridge
from diffjax.processes.bridge import BridgeSchedule as BridgeSchedule
from diffjax.processes.bridge import bridge
from diffjax.processes.cold import Cold as Cold
from diffjax.processes.editing import Editing as Editing
from diffjax.processes.editing import editing
from diffjax.processes.encoded import Encoded as Encoded
from diffjax.processes.gaussian import Gaussian
from diffjax.processes.gaussian import Unconditional as Unconditional
from diffjax.processes.path import Path as Path
from diffjax.processes.poisson import Poisson as Poisson
from diffjax.processes.poisson import poisson
from diffjax.processes.schroedinger import Schroedinger as Schroedinger
from diffjax.processes.schroedinger import schroedinger

__all__ = [  # what a config may name
    "Gaussian",
    "bridge",
    "categorical",
    "cold",
    "editing",
    "heat",
    "path",
    "poisson",
    "schroedinger",
]
