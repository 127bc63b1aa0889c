"""Losses that flow maps are learned by, one of three identities each, by family and name: `eulerian.improved`."""

from diffjax.losses import eulerian as eulerian
from diffjax.losses import lagrangian as lagrangian
from diffjax.losses import progressive as progressive

__all__ = ["eulerian", "lagrangian", "progressive"]  # what a config may name
