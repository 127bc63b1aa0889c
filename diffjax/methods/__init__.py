"""What a run trains and how it draws: one file per family, each a function from parts to a `Method`."""

from diffjax.method import Example as Example
from diffjax.method import Method as Method
from diffjax.method import Turn as Turn
from diffjax.method import per_example as per_example
from diffjax.methods.conditions import Condition as Condition
from diffjax.methods.denoising import Denoising as Denoising
from diffjax.methods.denoising import denoising as denoising
from diffjax.methods.flow_map import FlowMap as FlowMap
from diffjax.methods.flow_map import flow_map as flow_map
from diffjax.methods.freezing import freezing as freezing
from diffjax.methods.masked import Masked as Masked
from diffjax.methods.masked import masked as masked

__all__ = ["denoising", "flow_map", "masked"]  # what config.method may name
