"""How to walk from noise to data: one file per family; `sampling_fn` runs any of them along a grid."""

from diffjax.samplers import ancestral, heun, langevin, multistep, ode, predictor, sde
from diffjax.samplers.base import Sampler, nfe, sampling_fn

__all__ = ["Sampler", "ancestral", "heun", "langevin", "multistep", "nfe", "ode", "predictor", "sampling_fn", "sde"]
