"""Networks F(x, c, given): linen modules for one example, and what turns anything into a pure (init, apply) pair."""

from diffjax.models.adapters import from_function, from_nnx, from_pytree
from diffjax.models.adapters import of as of
from diffjax.models.classifier import Classifier as Classifier
from diffjax.models.mlp import MLP
from diffjax.models.network import Network, format_table, init, network, parameter_table
from diffjax.models.perceptron import Perceptron
from diffjax.models.tokens import TokenMLP
from diffjax.models.unet import UNet

__all__ = [
    "MLP",
    "Network",
    "Perceptron",
    "TokenMLP",
    "UNet",
    "format_table",
    "from_function",
    "from_nnx",
    "from_pytree",
    "init",
    "network",
    "parameter_table",
]
