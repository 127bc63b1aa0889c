"""DiT (Peebles & Xie 2023) and SiT (Ma et al. 2024): XL/2 on latents of ImageNet, PyTorch tensors as .safetensors.

The networks are the `DiT` of this library, told the index of a step of the linear chain (DiT), or the share of signal
1 - t (SiT, whose time runs from noise to data: its velocity is ours with the other sign). They draw latents (32, 32, 4)
in units of 1 / 0.18215, which the autoencoder of Stable Diffusion, not a part of this library, turns into 256 x 256
pixels. DiT gives eps and, in a second map, where the reverse variance lies between its bounds (`learned_range`). SiT's
files hold a second map that was never used: it is left out. Published pictures are guided in three of the four channels
alone; here guidance acts on all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffjax import weights
from diffjax.config import spec
from diffjax.models.positions import sincos
from diffjax.pretrained import maps
from diffjax.pretrained.family import Family, started
from diffjax.types import PyTree

LAYERS = {  # of ours -> theirs; inside a block, and outside
    "modulation": "adaLN_modulation.1",
    "qkv": "attn.qkv",
    "out": "attn.proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
WHOLE = {
    "embedding/noise_0": "t_embedder.mlp.0",
    "embedding/noise_1": "t_embedder.mlp.2",
    "modulation": "final_layer.adaLN_modulation.1",
}


def leaves(net: Any, params: PyTree, maps_there: int = 2, sign: int = 1) -> dict[str, maps.Leaf]:
    """Makes the leaves of a `models.DiT` under the names of DiT and SiT.

    Args:
        maps_there: outputs of the published network; those that ours has not are left out.
        sign: of the prediction, as ours against theirs.
    """
    made, patch = {}, net.patch
    for ours, param in weights.named(params).items():
        at, _, name = ours.rpartition("/")
        block, _, layer = at.partition("/")
        shape = tuple(param.shape)
        if block.startswith("block_"):
            into = f"blocks.{block.removeprefix('block_')}.{LAYERS[layer]}"
            made[ours] = maps.of_torch("dense", name, shape, (into,))
        elif block.startswith("blocks_"):  # stacked, of a network with scan=True
            first = int(block.removeprefix("blocks_"))
            names = [f"blocks.{first + i}.{LAYERS[layer]}" for i in range(shape[0])]
            made[ours] = stacked([maps.of_torch("dense", name, shape[1:], (into,)) for into in names])
        elif at == "embedding/label":
            made[ours] = maps.leaf(("y_embedder.embedding_table.weight",), shape)
        elif at == "patch":
            made[ours] = _patch(name, shape, patch)
        elif at == "out":
            made[ours] = _out(name, shape, patch, net.outputs, maps_there, sign)
        else:
            made[ours] = maps.of_torch("dense", name, shape, (WHOLE[at],))
    return made


def stacked(parts: list[maps.Leaf]) -> maps.Leaf:
    """Makes the leaf of several that stand one behind the other along a new first axis."""
    sources, shapes = (sum((tuple(getattr(part, name)) for part in parts), ()) for name in ("sources", "shapes"))
    return maps.Leaf(sources, shapes, lambda *arrays: np.stack([part.make(a) for part, a in zip(parts, arrays)]))


def _patch(name: str, shape: tuple[int, ...], patch: int) -> maps.Leaf:
    """The convolution of patches (out, in, p, p), an affine map of (row, column, channel) here."""
    if name == "bias":
        return maps.leaf(("x_embedder.proj.bias",), shape)
    channels = shape[0] // patch**2
    make: Callable = lambda array: np.transpose(array, (2, 3, 1, 0)).reshape(shape)
    return maps.Leaf((("x_embedder.proj.weight",),), ((shape[1], channels, patch, patch),), make)


def _out(name: str, shape: tuple[int, ...], patch: int, outputs: int, there: int, sign: int) -> maps.Leaf:
    """The last map, whose entries are (row, column, map, channel) there and (map, row, column, channel) here."""
    channels = shape[-1] // patch**2 // outputs
    width = shape[0] if name == "kernel" else 1

    def make(array: np.ndarray) -> np.ndarray:
        parts = array.reshape(patch, patch, there, channels, width)[:, :, :outputs]
        return sign * np.transpose(parts, (4, 2, 0, 1, 3)).reshape(shape)

    size = patch**2 * there * channels
    into = "final_layer.linear." + ("weight" if name == "kernel" else "bias")
    return maps.Leaf(((into,),), ((size, width) if name == "kernel" else (size,),), make)


def _config(network: ConfigDict, schedule: ConfigDict, target: ConfigDict) -> ConfigDict:
    config: Any = started(network, schedule, target)
    config.data = spec("npz", path="data/latents.npz")
    config.train.label_dropout = 0.1  # as published: what guidance without a classifier needs
    config.guidance = spec("classifier_free", w=4.0)
    return config


def dit() -> ConfigDict:
    """The recipe of DiT-XL/2: 250 steps of the chain, guidance 4."""
    network = spec("DiT", preset="XL", patch=2, classes=1000, outputs=2, embedding="chain")
    config = _config(network, spec("Tabulated.linear", steps=1000), spec("Eps"))
    config.loss = spec("hybrid", vlb_weight=0.001, levels=None)  # what has trained the second map
    config.times = spec("chain", evenly=True)
    config.denoiser = spec("learned_range")
    config.sampler = spec("ancestral.ddpm")
    config.grid = spec("linspace", n=250, steps=1000)
    return config


def sit() -> ConfigDict:
    """The recipe of SiT-XL/2, linear path and velocity: 50 steps of Euler, guidance 4."""
    network = spec("DiT", preset="XL", patch=2, classes=1000, embedding="signal")
    config = _config(network, spec("Rectified"), spec("Velocity"))
    config.sampler = spec("ancestral.ddim")
    config.grid = spec("uniform", n=50, t_min=0.02)
    return config


REMARK = (
    "draws latents, which the autoencoder of Stable Diffusion turns into pixels (divide them by 0.18215); files of DiT "
    "and SiT have the same names and shapes: that this one is of {} is taken from you"
)


def positions(net: Any, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Computes the table of positions that files of DiT and SiT hold beside what was learned."""
    return {"pos_embed": sincos(tuple(n // net.patch for n in shape[:-1]), net.sizes.width)}


_latents: dict[str, Any] = dict(
    marks=r"blocks[.]\d+[.](attn|mlp|adaLN)",
    data="latents",
    classes=1000,
    levels=None,
    ignored="pos_embed",
    computed=positions,
)
_dit, _sit = ({**_latents, "remark": REMARK.format(name)} for name in ("DiT", "SiT"))
FAMILIES = {
    "dit-xl-2": Family("DiT-XL/2 at 256 x 256", dit, {"safetensors": leaves}, (32, 32, 4), **_dit),
    "dit-xl-2-512": Family("DiT-XL/2 at 512 x 512", dit, {"safetensors": leaves}, (64, 64, 4), **_dit),
    "sit-xl-2": Family("SiT-XL/2 at 256 x 256", sit, {"safetensors": partial(leaves, sign=-1)}, (32, 32, 4), **_sit),
}
