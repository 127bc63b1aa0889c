"""A small fixed classifier of images: its hidden layer has the features of a Frechet distance, its head the classes.

Convolutions with a stride each - dense, the features - head; ReLU between. A plain classifier learns to ignore noise,
and a Frechet distance over its features then does too (8 x 8 digits with noise 0.2 score 1.2 x the floor). So the head
also says how much noise, blur and fading its training images were given: three numbers, trained for the sake of the
features alone. `experiments/digits_classifier` trains those that are shipped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

DEFECTS = ("noise", "blur", "fade")


class Reading(NamedTuple):
    """What a classifier reads from images, each with the images' leading axes.

    Attributes:
        features: (..., d), before their ReLU.
        logits: (..., C), of the classes.
        defects: (..., 3): noise, blur and fading.
    """

    features: Any
    logits: Any
    defects: Any


@dataclass(frozen=True)
class Classifier:
    """A network of one shape of images, and the file that holds its weights.

    Attributes:
        shape: of an image, (H, W, channels).
        classes: their number C.
        convolutions: of each its side, its number of outputs and its stride.
        width: d, the number of features.
        file: with the shipped weights.
    """

    shape: tuple[int, int, int]
    classes: int
    convolutions: tuple[tuple[int, int, int], ...]
    width: int
    file: Path

    @property
    def kernels(self) -> dict[str, tuple[int, ...]]:
        """Lists the shape of each layer's kernel, from the image to the head."""
        height, width, channels = self.shape
        found: dict[str, tuple[int, ...]] = {}
        for index, (side, outputs, stride) in enumerate(self.convolutions, 1):
            found[f"conv{index}"] = (side, side, channels, outputs)
            height, width, channels = -(-height // stride), -(-width // stride), outputs
        head = (self.width, self.classes + len(DEFECTS))
        return {**found, "dense": (height * width * channels, self.width), "head": head}

    def init(self, key: jax.Array) -> dict[str, jax.Array]:
        """Draws He-normal kernels, with zero biases, float32: `{layer: kernel, layer_bias: bias}`."""
        weights = {}
        for index, (name, shape) in enumerate(self.kernels.items()):
            normal = jax.random.normal(jax.random.fold_in(key, index), shape)
            weights[name] = normal * float(np.sqrt(2 / np.prod(shape[:-1])))
            weights[f"{name}_bias"] = jnp.zeros((1,) * (len(shape) - 2) + shape[-1:])
        return weights

    def apply(self, weights: Mapping[str, jax.Array], x: jax.Array) -> Reading:
        """Runs the network on one image in [-1, 1]; full float32 products, so that all devices read it alike."""
        for index, (_, _, stride) in enumerate(self.convolutions, 1):
            x = jax.nn.relu(_conv(x, weights[f"conv{index}"], stride) + weights[f"conv{index}_bias"])
        features = jnp.dot(x.reshape(-1), weights["dense"], precision="highest") + weights["dense_bias"]
        out = jnp.dot(jax.nn.relu(features), weights["head"], precision="highest") + weights["head_bias"]
        return Reading(features, out[: self.classes], out[self.classes :])

    def save(self, weights: Mapping[str, jax.Array], file: Path | None = None) -> None:
        """Writes the weights as float16, two bytes each, to a file, by default the shipped one."""
        arrays: dict[str, Any] = {name: np.asarray(leaf, np.float16) for name, leaf in weights.items()}
        np.savez_compressed(self.file if file is None else file, **arrays)

    def load(self, file: Path | None = None) -> dict[str, np.ndarray]:
        """Reads weights, float32, by default the shipped ones.

        Raises:
            ValueError: unless the file holds exactly this network's arrays.
        """
        return _load(self, self.file if file is None else file)

    def read(self, images: np.ndarray) -> Reading:
        """Runs the shipped network on images (n, H, W, channels) in [-1, 1]: NumPy arrays in float64.

        Raises:
            ValueError: for another shape or a non-finite pixel.
        """
        if np.shape(images)[1:] != self.shape:
            raise ValueError(f"images have shape {np.shape(images)}; expected (n, {', '.join(map(str, self.shape))})")
        if not np.isfinite(images).all():
            raise ValueError(f"{np.sum(~np.isfinite(images))} of {np.size(images)} pixels are not finite")
        return Reading(*(np.asarray(a, np.float64) for a in _read(self, self.load(), jnp.asarray(images, jnp.float32))))


def _conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest"}
    return jax.lax.conv_general_dilated(x[None], kernel, (stride, stride), "SAME", **how)[0]


@cache
def _load(network: Classifier, file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        weights = {name: arrays[name].astype(np.float32) for name in arrays.files}
    expected = {name: leaf.shape for name, leaf in jax.eval_shape(network.init, jax.random.key(0)).items()}
    found = {name: leaf.shape for name, leaf in weights.items()}
    if found != expected:
        raise ValueError(f"{file} holds {found}; expected {expected}")
    return weights


@partial(jax.jit, static_argnums=0)
def _read(network: Classifier, weights: Mapping[str, jax.Array], images: jax.Array) -> Reading:
    return jax.vmap(network.apply, in_axes=(None, 0))(weights, images)
