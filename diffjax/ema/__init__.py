"""Averages of the parameters along a run: one file for each rule."""

from diffjax.ema.base import Ema as Ema
from diffjax.ema.base import State as State
from diffjax.ema.exponential import half_life, warm_up
from diffjax.ema.power_function import power

__all__ = ["half_life", "power", "warm_up"]  # what a config may name
