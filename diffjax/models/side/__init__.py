"""Side networks of a frozen base, each a function from a network's module to a network: what a config may name."""

from diffjax.models.side.base import merged as merged
from diffjax.models.side.bottleneck import adapter
from diffjax.models.side.copied import control
from diffjax.models.side.low_rank import lora
from diffjax.models.side.prefixed import prefix
from diffjax.models.side.rungs import ladder

__all__ = ["adapter", "control", "ladder", "lora", "prefix"]
