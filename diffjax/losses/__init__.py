"""Objectives for one example, their weights, and the law of the training times."""

from diffjax.losses import poisson, prepare, times, weights
from diffjax.losses.heads import npr, sn
from diffjax.losses.regression import regression
from diffjax.losses.variational import hybrid, variational

__all__ = ["hybrid", "npr", "poisson", "prepare", "regression", "sn", "times", "variational", "weights"]
