"""How to walk from noise to data: one file per family; `sampling_fn` runs any of them along a grid."""

from diffjax.samplers import (
    ancestral,
    deis,
    heun,
    langevin,
    multistep,
    ode,
    pndm,
    predictor,
    restart,
    sde,
    singlestep,
    trigflow,
    unipc,
)
from diffjax.samplers.base import Sampler, nfe, sampling_fn
from diffjax.samplers.encoding import encoding_fn

__all__ = [
    "Sampler",
    "ancestral",
    "deis",
    "encoding_fn",
    "heun",
    "langevin",
    "multistep",
    "nfe",
    "ode",
    "pndm",
    "predictor",
    "restart",
    "sampling_fn",
    "sde",
    "singlestep",
    "trigflow",
    "unipc",
]
