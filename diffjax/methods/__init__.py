"""What a run trains and how it draws: one file per family, each a function from parts to a `Method`."""

from diffjax.method import Example as Example
from diffjax.method import Method as Method
from diffjax.method import Turn as Turn
from diffjax.method import per_example as per_example
from diffjax.methods.conditions import Condition as Condition
from diffjax.methods.denoising import Denoising as Denoising
from diffjax.methods.denoising import denoising as denoising
from diffjax.methods.freezing import freezing as freezing

__all__ = ["denoising"]  # what config.method may name
