"""How to walk from noise to data: one file per family; `sampling_fn` runs any of them along a grid."""

from diffjax.samplers import (
    ancestral,
    categorical,
    decoding,
    deis,
    edits,
    fitted,
    heat,
    heun,
    hybrid,
    langevin,
    metropolis,
    multistep,
    ode,
    pndm,
    predictor,
    principal,
    restart,
    sde,
    singlestep,
    trigflow,
    unipc,
)
from diffjax.samplers import flow_map as flow_map
from diffjax.samplers.base import Sampler as Sampler
from diffjax.samplers.base import nfe as nfe
from diffjax.samplers.base import sampling_fn as sampling_fn
from diffjax.samplers.bridging import bridging_fn as bridging_fn
from diffjax.samplers.bridging import pinned as pinned
from diffjax.samplers.bridging import walking_fn as walking_fn
from diffjax.samplers.encoding import encoding_fn as encoding_fn
from diffjax.samplers.table import AmplifyingPlan as AmplifyingPlan
from diffjax.samplers.unified import unified as unified

__all__ = [  # what a config may name
    "ancestral",
    "categorical",
    "decoding",
    "deis",
    "edits",
    "fitted",
    "heat",
    "heun",
    "hybrid",
    "langevin",
    "metropolis",
    "multistep",
    "ode",
    "pndm",
    "predictor",
    "principal",
    "restart",
    "sde",
    "singlestep",
    "trigflow",
    "unified",
    "unipc",
]
