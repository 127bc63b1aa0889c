"""Objectives for one example, their weights, and the law of the training times.

A config names objectives by function, so `losses.variational` is the loss of that name, which hides its module: what
else stands in `losses/variational.py` is imported by `from diffjax.losses.variational import kl`. `importance`,
`learned`, `score_matching` and `transport` are modules. Losses of flow maps are named in `rules`.
"""

from diffjax.losses import autoencode as autoencode
from diffjax.losses import categorical as categorical
from diffjax.losses import eulerian as eulerian
from diffjax.losses import fields as fields
from diffjax.losses import flow_map as flow_map
from diffjax.losses import information as information
from diffjax.losses import lagrangian as lagrangian
from diffjax.losses import matching as matching
from diffjax.losses import pairs as pairs
from diffjax.losses import poisson as poisson
from diffjax.losses import prepare as prepare
from diffjax.losses import progressive as progressive
from diffjax.losses import rules as rules
from diffjax.losses import times as times
from diffjax.losses import weights as weights
from diffjax.losses.energy import energy
from diffjax.losses.heads import npr, sn
from diffjax.losses.regression import regression
from diffjax.losses.restoration import restoration
from diffjax.losses.variational import hybrid, variational

__all__ = [  # what a config may name
    "categorical",
    "energy",
    "hybrid",
    "npr",
    "regression",
    "restoration",
    "sn",
    "variational",
]
