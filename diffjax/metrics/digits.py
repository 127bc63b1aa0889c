"""A small fixed digit classifier: its hidden layer holds the features of the Frechet distance, its head counts classes.

3x3 convolution, 16 channels - 3x3 convolution, 32 channels, stride 2 - dense, 48 features - head; ReLU between.
A plain classifier learns to ignore noise, and a Frechet distance over its features then does too (digits with noise 0.2
score 1.2 x the floor). So the head also says how much noise, blur and fading its training images were given: three
numbers, trained for the sake of the features alone. `experiments/digits_classifier` trains it.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SHAPE = (8, 8, 1)
CLASSES = 10
DEFECTS = ("noise", "blur", "fade")
KERNELS = {
    "conv1": (3, 3, 1, 16),
    "conv2": (3, 3, 16, 32),
    "dense": (4 * 4 * 32, 48),
    "head": (48, CLASSES + len(DEFECTS)),
}
FILE = Path(__file__).with_name("digits_classifier.npz")


class Reading(NamedTuple):
    """What the network reads from images, each with the images' leading axes.

    Attributes:
        features: (..., 48), before their ReLU.
        logits: (..., 10), of the classes.
        defects: (..., 3): noise, blur and fading.
    """

    features: Any
    logits: Any
    defects: Any


def init(key: jax.Array) -> dict[str, jax.Array]:
    """Draws He-normal kernels, with zero biases, float32: `{layer: kernel, layer_bias: bias}`."""
    weights = {}
    for index, (name, shape) in enumerate(KERNELS.items()):
        normal = jax.random.normal(jax.random.fold_in(key, index), shape)
        weights[name] = normal * float(np.sqrt(2 / np.prod(shape[:-1])))
        weights[f"{name}_bias"] = jnp.zeros((1,) * (len(shape) - 2) + shape[-1:])
    return weights


def _conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest"}
    return jax.lax.conv_general_dilated(x[None], kernel, (stride, stride), "SAME", **how)[0]


def apply(weights: Mapping[str, jax.Array], x: jax.Array) -> Reading:
    """Runs the network on one image (8, 8, 1) in [-1, 1]; full float32 products, so that all devices read it alike."""
    h = jax.nn.relu(_conv(x, weights["conv1"], 1) + weights["conv1_bias"])
    h = jax.nn.relu(_conv(h, weights["conv2"], 2) + weights["conv2_bias"])
    features = jnp.dot(h.reshape(-1), weights["dense"], precision="highest") + weights["dense_bias"]
    out = jnp.dot(jax.nn.relu(features), weights["head"], precision="highest") + weights["head_bias"]
    return Reading(features, out[:CLASSES], out[CLASSES:])


def save(weights: Mapping[str, jax.Array], file: Path = FILE) -> None:
    """Writes the weights as float16 (about 60 kB)."""
    arrays: dict[str, Any] = {name: np.asarray(leaf, np.float16) for name, leaf in weights.items()}
    np.savez_compressed(file, **arrays)


@cache
def load(file: Path = FILE) -> dict[str, np.ndarray]:
    """Reads the shipped weights, float32. ValueError unless the file holds exactly this network's arrays."""
    with np.load(file, allow_pickle=False) as arrays:
        weights = {name: arrays[name].astype(np.float32) for name in arrays.files}
    expected = {name: leaf.shape for name, leaf in jax.eval_shape(init, jax.random.key(0)).items()}
    found = {name: leaf.shape for name, leaf in weights.items()}
    if found != expected:
        raise ValueError(f"{file} holds {found}; expected {expected}")
    return weights


@jax.jit
def _read(weights: Mapping[str, jax.Array], images: jax.Array) -> Reading:
    return jax.vmap(apply, in_axes=(None, 0))(weights, images)


def read(images: np.ndarray) -> Reading:
    """Runs the shipped network on images (n, 8, 8, 1) in [-1, 1]: NumPy arrays, features and logits in float64.

    ValueError for another shape or a non-finite pixel.
    """
    if np.shape(images)[1:] != SHAPE:
        raise ValueError(f"images have shape {np.shape(images)}; expected (n, {', '.join(map(str, SHAPE))})")
    if not np.isfinite(images).all():
        raise ValueError(f"{np.sum(~np.isfinite(images))} of {np.size(images)} pixels are not finite")
    return Reading(*(np.asarray(a, np.float64) for a in _read(load(), jnp.asarray(images, jnp.float32))))
