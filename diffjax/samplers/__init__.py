"""How to walk from noise to data: one file per family; `sampling_fn` runs any of them along a grid."""

from diffjax.samplers import ancestral, heun, multistep, ode, sde
from diffjax.samplers.base import Sampler, nfe, sampling_fn

__all__ = ["Sampler", "ancestral", "heun", "multistep", "nfe", "ode", "sampling_fn", "sde"]
