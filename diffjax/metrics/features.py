"""Feature spaces: what images are turned into before a distance between two sets of them is taken.

A space says what it is: its name, a fingerprint of what computes it, and what is done to images before that. Features
of one fingerprint and one preprocessing may be compared, no others: a distance in one space says nothing of another.

    pixels               the entries themselves
    digits, mnist        48, of the classifier of the shipped digits, or of MNIST's (`metrics.digits`)
    efficientnet_lite0   1,280, of a classifier of ImageNet (`metrics.efficientnet`; extra `features`)
    package.module:f     your own function of images (n, *shape) in [-1, 1], giving (n, d); or a space: `learned(run)`
"""

import hashlib
import inspect
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffjax
from diffjax import host, specs
from diffjax.metrics import digits as classifier
from diffjax.metrics import efficientnet
from diffjax.metrics.classifier import Classifier

__all__ = ["digits", "efficientnet_lite0", "mnist", "pixels"]

TOGETHER = 64  # images whose features are computed at a time


class Features(NamedTuple):
    """A space in which images are compared: a function of images, and what tells it from any other.

    Attributes:
        name: of the space.
        shape: of one image that it takes, None for an axis of any length; None: any shape.
        apply: images (n, *shape) float32 in [-1, 1] -> (n, d).
        fingerprint: 16 hexadecimal digits; equal where what computes the features is.
        preprocessing: what `apply` does to images before the network sees them.
    """

    name: str
    shape: tuple[int | None, ...] | None
    apply: Callable[[np.ndarray], Any]
    fingerprint: str
    preprocessing: str = "none"

    @property
    def said(self) -> str:
        """The space in words."""
        return f"{self.name} ({self.fingerprint}; preprocessing: {self.preprocessing})"

    def of(self, images: Any) -> np.ndarray:
        """Computes the features (n, d), float64, of images (n, *shape) in [-1, 1].

        Raises:
            ValueError: for images of another shape, or one that is not finite, or whose features are not: it is named.
        """
        self.check(np.shape(images))
        _finite("Image", images)
        parts = [images[start : start + TOGETHER] for start in range(0, len(images), TOGETHER)]
        found = np.concatenate([np.asarray(self._part(part), np.float64) for part in parts])
        if found.ndim != 2 or len(found) != len(images) or not found.size:
            raise ValueError(f"{self.name} makes {found.shape} of {len(images)} images, expected ({len(images)}, d).")
        _finite(f"In {self.name} the feature of image", found)
        return found

    def __call__(self, images: Any) -> np.ndarray:
        """Computes the features, `of(images)`."""
        return self.of(images)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises a ValueError unless images of this shape (n, ...) are those of the space."""
        own = self.shape
        if len(shape) >= 2 and shape[0] >= 1 and (own is None or _fits(shape[1:], own)):
            return
        grey = own is not None and len(shape) == 4 and shape[-1] == 1 and _fits((*shape[1:3], 3), own)
        way = ": repeat the channel, np.repeat(images, 3, -1); efficientnet_lite0 does with grey=True" if grey else ""
        wanted = "(n, ...)" if own is None else f"(n, {', '.join('any' if n is None else str(n) for n in own)})"
        raise ValueError(f"{self.name} takes images {wanted}, n >= 1, got {shape}{way}.")

    def _part(self, images: Any) -> Any:
        """Computes the features of a few images; fewer than TOGETHER are filled up, so that one compile serves all."""
        images = np.asarray(images, np.float32)
        n = len(images)
        if n < TOGETHER:
            images = np.concatenate([images, np.repeat(images[-1:], TOGETHER - n, axis=0)])
        found = np.asarray(self.apply(images))
        if not found.ndim:  # one number for all, which no image can be found in
            raise ValueError(f"{self.name} makes {found.shape} of {len(images)} images, expected ({len(images)}, d).")
        return found[:n] if len(found) == TOGETHER else found


def of(name: str, **options: Any) -> Features:
    """Makes the feature space of a name, or of your own function, "package.module:function".

    Args:
        options: of a space that is here, such as size=96 for efficientnet_lite0.

    Raises:
        ValueError: for a name or an option that there is not; the nearest is named.
    """
    if not specs.is_own(name):
        return specs.build(sys.modules[__name__], {"name": name, **options})
    if options:
        raise ValueError(f"{name} is a function of images and has no option {next(iter(options))!r}: leave it out.")
    return own(name)


def pixels() -> Features:
    """Makes the space of the entries themselves, flattened."""
    return Features("pixels", None, lambda images: images.reshape(len(images), -1), _digest("pixels"))


def digits() -> Features:
    """Makes the space of the hidden layer of the digits' classifier, 48 features of images (8, 8, 1)."""
    return _hidden("digits", classifier.NETWORK)


def mnist() -> Features:
    """Makes the space of the hidden layer of MNIST's classifier, 48 features of images (28, 28, 1)."""
    return _hidden("mnist", classifier.MNIST)


def efficientnet_lite0(size: int = 224, grey: bool = False) -> Features:
    """Makes the space of EfficientNet-Lite0's 1,280 pooled features of colour images (H, W, 3).

    Args:
        size: side that images are brought to, a multiple of 32: 224 as it was trained; 96 is six times as fast.
        grey: take images (H, W, 1), whose channel stands for all three.

    Raises:
        ValueError: for another size, or where the weights are not installed.
    """
    if host.check_int("size", size, efficientnet.STRIDES) % efficientnet.STRIDES:
        raise ValueError(f"size is {size}, expected a multiple of {efficientnet.STRIDES}, such as 96 or 224.")
    efficientnet.load()  # which says what is missing
    told = f"{'one channel repeated, ' if grey else ''}[-1, 1] to [0, 1], cubic with antialias to {size} x {size}, "
    return Features(
        "efficientnet_lite0",
        (None, None, 1 if grey else 3),
        partial(_pooled, size=size),
        _digest("efficientnet_lite0", efficientnet.SHA256),
        f"{told}less {efficientnet.MEAN}, by {efficientnet.STD}",
    )


def own(name: str) -> Features:
    """Makes the space of somebody's own function, "package.module:function": images (n, *shape) -> (n, d).

    A module may as well hold a `Features`, such as that of a run (`learned`). A function's fingerprint is that of the
    module's source and the name; one whose numbers come from elsewhere, such as a file of weights, says its own as the
    attribute `fingerprint`. Its attribute `shape` is that of one image it takes.

    Raises:
        ValueError: for what cannot be imported, or has neither source nor fingerprint.
    """
    _, function, path = host.imported(name)
    if isinstance(function, Features):
        return function._replace(name=name)
    told = getattr(function, "fingerprint", None)
    if told is None:
        try:
            file = inspect.getsourcefile(inspect.unwrap(function))
            told = _digest(Path(str(file)).read_bytes(), path)
        except (TypeError, OSError) as error:
            raise ValueError(
                f"{name} has no source to know it by: give it an attribute fingerprint, a text."
            ) from error
    return Features(name, getattr(function, "shape", None), function, str(told), "its own")


def learned(run: Any) -> Features:
    """Makes the space of features that a run has trained, `run.method.parts.features`: Deep InfoMax's, say.

    Its fingerprint is that of the parameters: another step of training is another space.

    Args:
        run: or its workdir or weights file, which `diffjax.open`, the library's public face, opens.

    Raises:
        ValueError: for a path without a run, or a run of a method that trains none.
    """
    run = diffjax.open(run) if isinstance(run, str | Path) else run
    make = getattr(run.method.parts, "features", None)
    if make is None:
        name = type(run.method.parts).__name__
        raise ValueError(f"This run's method ({name}) trains no features of examples; methods.infomax does.")
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(run.params))
    told = [part for path, leaf in leaves for part in (jax.tree_util.keystr(path), np.asarray(leaf))]
    shared, shape = jax.jit(jax.vmap(_call, (None, 0))), tuple(run.data.shape)
    return Features(run.name, shape, partial(shared, make(run.params)), _digest(*told))


def _call(function: Callable, image: jax.Array) -> jax.Array:
    return function(image)


def _hidden(name: str, network: Classifier) -> Features:
    weights = network.load()
    apply = lambda images: network.read(images).features
    return Features(name, network.shape, apply, _digest(*(weights[key] for key in sorted(weights))))


@partial(jax.jit, static_argnames="size")
def _run(weights: Any, images: jax.Array, size: int) -> jax.Array:
    def one(image: jax.Array) -> jax.Array:
        colours = jnp.broadcast_to((image + 1) / 2, (*image.shape[:2], 3))
        resized = jax.image.resize(colours, (size, size, 3), "cubic", antialias=True)
        mean, std = (jnp.asarray(a, image.dtype).reshape(1, 1, 3) for a in (efficientnet.MEAN, efficientnet.STD))
        return efficientnet.apply(weights, (resized - mean) / std)

    return jax.vmap(one)(images)


@cache
def _single() -> Any:
    return jax.tree.map(lambda a: np.asarray(a, np.float32), efficientnet.load())


def _pooled(images: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(_run(_single(), jnp.asarray(images), size))


def _fits(shape: tuple[int, ...], own: tuple[int | None, ...]) -> bool:
    return len(shape) == len(own) and all(m is None or n == m for n, m in zip(shape, own))


def _finite(what: str, values: Any) -> None:
    good = np.isfinite(values).reshape(len(values), -1).all(1)
    if not good.all():
        bad = np.flatnonzero(~good)
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(f"{what} {bad[0]} of {len(good)} is not finite{more}.")


def _digest(*parts: Any) -> str:
    """Computes 16 hexadecimal digits of a SHA-256 over arrays (dtype, shape, bytes), bytes and texts."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:16]
