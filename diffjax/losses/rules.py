"""What a flow map is learned by: the losses of its three identities, by family and name, such as `eulerian.improved`."""

from diffjax.losses import eulerian as eulerian
from diffjax.losses import lagrangian as lagrangian
from diffjax.losses import progressive as progressive

__all__ = ["eulerian", "lagrangian", "progressive"]  # what a config may name
