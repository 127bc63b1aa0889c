"""DDPM++ under the VP-SDE and NCSN++ under the VE-SDE, on CIFAR-10 (Song et al. 2021, the "continuous" models).

Published as PyTorch's .pth, whose tensors the user writes as .safetensors (names all_modules.0.weight, ...), and as
Flax's msgpack (ResnetBlockBigGANpp_0/Conv_0/kernel, ...). What is drawn with is the average, which PyTorch's file keeps
as a list without names: docs/pretrained.md shows the lines that name it.

VP: the network gives eps, told 999 t. VE: trained on data in [0, 1] with sigma from 0.01 to 50; in [-1, 1], where this
library has images, sigma is twice that. The network shifts x to 2 x - 1, so that its input is our x_t, unscaled; it
gives sigma times the score, which is -eps: the last convolution is taken with the other sign.
"""

from collections import Counter
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from diffjax.config import spec
from diffjax.pretrained import maps
from diffjax.pretrained.family import Family, started, unet_leaves
from diffjax.types import PyTree

SUBS = {
    "norm_0": ("norm", ("GroupNorm_0",)),
    "conv_0": ("convolution", ("Conv_0",)),
    "time": ("dense", ("Dense_0",)),
    "norm_1": ("norm", ("GroupNorm_1",)),
    "conv_1": ("convolution", ("Conv_1",)),
    "skip": ("pointwise", ("Conv_2",)),
    "norm": ("norm", ("GroupNorm_0",)),
    **{name: ("nin", (f"NIN_{i}",)) for i, name in enumerate(("query", "key", "value", "out"))},
}
MARKS = r"(module[.])?all_modules[.]|ResnetBlockBigGANpp_"
CLASSES = {  # of Flax, by the kinds of our parts
    "fourier": "GaussianFourierProjection",
    "dense": "Dense",
    "convolution": "Conv",
    "block": "ResnetBlockBigGANpp",
    "attention": "AttnBlockpp",
    "pyramid": "Downsample",
    "norm": "GroupNorm",
}


def torch_leaves(net: Any, params: PyTree, negative: bool = False) -> dict[str, maps.Leaf]:
    """Makes the leaves of DDPM++ and NCSN++ in PyTorch: the parts of the network are numbered as they are called."""
    places = {}
    for number, (kind, name) in enumerate(net.parts()):
        ends = {"fourier": ".W", "pyramid": ".Conv2d_0"}.get(kind, "")
        places[name] = tuple(f"{before}all_modules.{number}{ends}" for before in ("", "module."))
    return unet_leaves(params, _kinds(net), places, SUBS, maps.of_torch, ".", negative)


def flax_leaves(net: Any, params: PyTree, negative: bool = False) -> dict[str, maps.Leaf]:
    """Makes the leaves of DDPM++ and NCSN++ in Flax: parts are numbered within their class as they are called."""
    places, count = {}, Counter()
    for kind, name in net.parts():
        ends = {"fourier": "/W", "pyramid": "/Conv2d_0"}.get(kind, "")
        places[name] = (f"{CLASSES[kind]}_{count[kind]}{ends}",)
        count[kind] += 1
    return unet_leaves(params, _kinds(net), places, SUBS, _flax_layer, "/", negative)


def _kinds(net: Any) -> dict[str, str]:
    return {name: "resampling" if kind == "pyramid" else kind for kind, name in net.parts()}


def _flax_layer(kind: str, name: str, shape: tuple[int, ...], into: tuple[str, ...], sign: int = 1) -> maps.Leaf:
    """As `maps.of_flax`; the convolution of a pyramid calls its kernel weight."""
    if kind == "resampling" and name == "kernel":
        return maps.leaf(tuple(f"{at}/weight" for at in into), shape, None, sign)
    return maps.of_flax(kind, name, shape, into, sign)


def _config(network: ConfigDict, schedule: ConfigDict) -> ConfigDict:
    config = started(network, schedule, spec("Eps"))
    config.data = spec("tfds", dataset="cifar10")
    config.sampler = spec("ancestral.ddim")
    config.grid = spec("log_snr", n=50, t_min=1e-3)
    return config


def vp() -> ConfigDict:
    """The recipe of cifar10_ddpmpp_continuous: beta from 0.1 to 20."""
    return _config(spec("PublishedUNet.preset", preset="ddpmpp"), spec("VP", beta_min=0.1, beta_max=20.0))


def ve() -> ConfigDict:
    """The recipe of cifar10_ncsnpp_continuous: sigma from 0.02 to 100 for data in [-1, 1]."""
    network = spec("PublishedUNet.preset", preset="ncsnpp", raw=True)
    return _config(network, spec("VE", sigma_min=0.02, sigma_max=100.0))


def _maps(negative: bool) -> dict[str, Any]:
    return {
        "safetensors": partial(torch_leaves, negative=negative),
        "msgpack": partial(flax_leaves, negative=negative),
    }


FAMILIES = {
    "score-sde-vp": Family(
        "DDPM++ under the VP-SDE on CIFAR-10 (score_sde, cifar10_ddpmpp_continuous)",
        vp,
        _maps(False),
        (32, 32, 3),
        MARKS,
        "cifar10",
        ignored="(module[.])?sigmas",
    ),
    "score-sde-ve": Family(
        "NCSN++ under the VE-SDE on CIFAR-10 (score_sde, cifar10_ncsnpp_continuous)",
        ve,
        _maps(True),
        (32, 32, 3),
        MARKS,
        "cifar10",
        ignored="(module[.])?sigmas",
    ),
}
