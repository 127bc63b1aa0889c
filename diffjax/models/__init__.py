"""Networks F(x, c, given): linen modules for one example, and what turns anything into a pure (init, apply) pair."""

from diffjax.models import scalar as scalar
from diffjax.models import side as side
from diffjax.models.adapters import from_function as from_function
from diffjax.models.adapters import from_nnx as from_nnx
from diffjax.models.adapters import from_pytree as from_pytree
from diffjax.models.adapters import of as of
from diffjax.models.attending import attention_rows as attention_rows
from diffjax.models.classifier import Classifier as Classifier
from diffjax.models.convolutional import Decoder, Encoder, GridDecoder, GridEncoder
from diffjax.models.counting import flops as flops
from diffjax.models.counting import residual_bytes as residual_bytes
from diffjax.models.dit import DiT, JiT
from diffjax.models.maps import Maps
from diffjax.models.mlp import MLP
from diffjax.models.network import Network as Network
from diffjax.models.network import format_table as format_table
from diffjax.models.network import init as init
from diffjax.models.network import network as network
from diffjax.models.network import parameter_table as parameter_table
from diffjax.models.perceptron import Perceptron
from diffjax.models.published_unet import PublishedUNet
from diffjax.models.tokens import TokenMLP, TokenUNet
from diffjax.models.transformer import Transformer
from diffjax.models.unet import UNet

__all__ = [  # what a config may name
    "MLP",
    "Decoder",
    "DiT",
    "Encoder",
    "GridDecoder",
    "GridEncoder",
    "JiT",
    "Maps",
    "Perceptron",
    "PublishedUNet",
    "TokenMLP",
    "TokenUNet",
    "Transformer",
    "UNet",
    "scalar",
    "side",
]
