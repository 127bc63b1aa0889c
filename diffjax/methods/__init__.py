"""What a run trains and how it draws: one file per family, each a function from parts to a `Method`."""

from diffjax.method import Example as Example
from diffjax.method import Method as Method
from diffjax.method import Turn as Turn
from diffjax.method import per_example as per_example
from diffjax.methods import compression as compression
from diffjax.methods import generators as generators
from diffjax.methods import matching as matching
from diffjax.methods.autoencoder import Autoencoder as Autoencoder
from diffjax.methods.autoencoder import autoencoder as autoencoder
from diffjax.methods.conditions import Condition as Condition
from diffjax.methods.coupling_flow import CouplingFlow as CouplingFlow
from diffjax.methods.coupling_flow import coupling_flow as coupling_flow
from diffjax.methods.denoising import Denoising as Denoising
from diffjax.methods.denoising import denoising as denoising
from diffjax.methods.discrete import Discrete as Discrete
from diffjax.methods.discrete import discrete as discrete
from diffjax.methods.encoded import Encoding as Encoding
from diffjax.methods.encoded import encoded as encoded
from diffjax.methods.flow_map import FlowMap as FlowMap
from diffjax.methods.flow_map import flow_map as flow_map
from diffjax.methods.freezing import freezing as freezing
from diffjax.methods.generators import MonoFlow as MonoFlow
from diffjax.methods.generators import monoflow as monoflow
from diffjax.methods.infomax import InfoMax as InfoMax
from diffjax.methods.infomax import infomax as infomax
from diffjax.methods.masked import Masked as Masked
from diffjax.methods.masked import masked as masked
from diffjax.methods.matching import Matching as Matching

__all__ = [  # what config.method may name
    "autoencoder",
    "compression",
    "coupling_flow",
    "denoising",
    "discrete",
    "encoded",
    "flow_map",
    "generators",
    "infomax",
    "masked",
    "matching",
]
