"""Objectives for one example, their weights, and the law of the training times."""

from diffjax.losses import times, weights
from diffjax.losses.regression import regression

__all__ = ["regression", "times", "weights"]
