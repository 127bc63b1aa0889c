"""DDPM (Ho et al. 2020) as diffusers publishes it: google/ddpm-cifar10-32, -church-256, -bedroom-256, -celebahq-256.

The file is `diffusion_pytorch_model.safetensors` of a repository; google/ddpm-ema-* are of the same networks. The
network predicts eps at the index 0 to 999 of a step of the linear chain: x_{k+1} is what index k belongs to. Its
attention is called by two generations of names, query and to_q.
"""

from typing import Any

from ml_collections import ConfigDict

from diffjax.config import spec
from diffjax.pretrained import maps
from diffjax.pretrained.family import Family, started, unet_leaves
from diffjax.types import PyTree

SUBS = {
    "norm_0": ("norm", ("norm1",)),
    "conv_0": ("convolution", ("conv1",)),
    "time": ("dense", ("time_emb_proj",)),
    "norm_1": ("norm", ("norm2",)),
    "conv_1": ("convolution", ("conv2",)),
    "skip": ("pointwise", ("conv_shortcut",)),
    "norm": ("norm", ("group_norm",)),
    "query": ("dense", ("query", "to_q")),
    "key": ("dense", ("key", "to_k")),
    "value": ("dense", ("value", "to_v")),
    "out": ("dense", ("proj_attn", "to_out.0")),
}
MARKS = r"(down|up)_blocks[.]"
WHOLE = {"time_0": "time_embedding.linear_1", "time_1": "time_embedding.linear_2", "norm_out": "conv_norm_out"}
MIDDLE = {"middle_0": "resnets.0", "middle_1": "resnets.1", "middle_attention": "attentions.0"}


def place(part: str, levels: int) -> str:
    """Writes the published name of a part: encode_1_0_attention is down_blocks.1.attentions.0."""
    if part in MIDDLE:
        return f"mid_block.{MIDDLE[part]}"
    way, *numbers = part.removesuffix("_attention").split("_")
    if way not in ("encode", "decode", "down", "up"):
        return WHOLE.get(part, part)  # conv_in and conv_out are called so
    level = int(numbers[0])
    side = f"down_blocks.{level}" if way in ("down", "encode") else f"up_blocks.{levels - 1 - level}"
    if way in ("down", "up"):
        return f"{side}.{way}samplers.0.conv"
    return f"{side}.{'attentions' if part.endswith('_attention') else 'resnets'}.{numbers[1]}"


def leaves(net: Any, params: PyTree) -> dict[str, maps.Leaf]:
    """Makes the leaves of a `models.PublishedUNet` of DDPM's kind under diffusers' names."""
    kinds = {name: kind for kind, name in net.parts()}
    places = {name: (place(name, len(net.multipliers)),) for name in kinds}
    return unet_leaves(params, kinds, places, SUBS, maps.of_torch, ".")


def _config(preset: str) -> ConfigDict:
    config = started(spec("PublishedUNet.preset", preset=preset), spec("Tabulated.linear", steps=1000), spec("Eps"))
    config.denoiser = spec("mean", clip=(-1.0, 1.0))  # as published
    config.sampler = spec("ancestral.ddim")
    config.grid = spec("trailing", n=50, steps=1000)
    return config


def cifar10() -> ConfigDict:
    """The recipe of google/ddpm-cifar10-32: DDIM in 50 of the 1000 steps."""
    config = _config("ddpm")
    config.data = spec("tfds", dataset="cifar10")
    return config


def church() -> ConfigDict:
    """The recipe of the networks of 256 x 256: church, bedroom, celebahq."""
    config = _config("ddpm_256")
    config.data = spec("folder", path="data/church", size=256)
    return config


FAMILIES = {
    "ddpm-cifar10": Family(
        "DDPM on CIFAR-10 (google/ddpm-cifar10-32)", cifar10, {"safetensors": leaves}, (32, 32, 3), MARKS, "cifar10"
    ),
    "ddpm-256": Family(
        "DDPM at 256 x 256 (google/ddpm-church-256, -bedroom-256, -celebahq-256)",
        church,
        {"safetensors": leaves},
        (256, 256, 3),
        MARKS,
        "church",
    ),
}
