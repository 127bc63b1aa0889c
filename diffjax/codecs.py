"""A codec: what data is written as, and read back from, so that a model of codes is a model of data.

    code = encode(x),        x ~ decode(code),        each for one example

Nothing is trained here. The functions carry their own numbers (`jax.tree_util.Partial`), so that a codec is a pytree:
an argument of `jit`, whose leaves may be anybody's parameters. What trains one hands it out by `of(run)`: the
autoencoder's is its two means, that of `methods.encoded` a vector for each token. A process in the space of a codec is
`processes.Encoded`; a second model is trained on `encode(x)` as data, and its samples are decoded (`data.latents`).

    codecs.principal(x, 16)                    the first 16 principal axes: the best linear codec of its size
    codecs.probabilistic(x, 16)                the codec of probabilistic PCA (Tipping & Bishop 1999), and its s^2
    codecs.standardised(codec, x)              codes of mean 0 and variance 1 (Rombach et al. 2022, appendix G)
    codecs.of(run)                             that of a run that trained one, such as an autoencoder's
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffjax import host
from diffjax.types import Array, as_pytree, pytree, static


@pytree
class Codec:
    """Two functions of one example; what is no pytree, such as a plain function, becomes a constant of `jit`.

    Attributes:
        encode: x -> code, real or whole numbers.
        decode: code -> x.
        std: x -> the standard deviation of a code that is drawn around encode(x), of its shape; None: there is none.
        codes: how many whole codes there are, 0 .. codes - 1; None: codes are real, or nobody says.
    """

    encode: Callable[[Any], Array]
    decode: Callable[[Array], Any]
    std: Callable[[Any], Array] | None = None
    codes: int | None = static(default=None)

    def __post_init__(self) -> None:
        for name in ("encode", "decode", "std"):
            if callable(function := getattr(self, name)):  # else a placeholder of a tree in the making
                object.__setattr__(self, name, as_pytree(function))

    def shape(self, x: Any) -> tuple[int, ...]:
        """Tells the shape of the code of an example like x, arrays or shapes of them.

        Raises:
            ValueError: if what is decoded has another shape than x.
        """
        code = jax.eval_shape(self.encode, x)
        back = jax.eval_shape(self.decode, code)
        if back.shape != x.shape:
            raise ValueError(
                f"The codec writes examples of shape {tuple(x.shape)} as codes of {tuple(code.shape)}, but reads them "
                f"back as {tuple(back.shape)}: encode and decode do not belong together, or to this data."
            )
        return tuple(code.shape)


def identity() -> Codec:
    """Makes the codec whose codes are the examples."""
    return Codec(_same, _same)


def scaled(codec: Codec, shift: Any, scale: Any) -> Codec:
    """Makes the codec of the codes (code - shift) / scale; both of a code's rank, or numbers.

    Raises:
        ValueError: for a scale that is not positive everywhere.
    """
    if host.concrete(scale) and not np.all((np.asarray(scale) > 0) & np.isfinite(scale)):
        raise ValueError(f"The scale of the codes is {np.asarray(scale).min()} somewhere, expected positive numbers.")
    std = None if codec.std is None else Partial(_shrunk, codec.std, 0.0, scale)
    return Codec(Partial(_shrunk, codec.encode, shift, scale), Partial(_grown, codec.decode, shift, scale), std)


def standardised(codec: Codec, x: Any) -> Codec:
    """Makes the codec whose codes of x (n, ...) have mean 0 and variance 1 in each entry of their last axis.

    Raises:
        ValueError: for an entry in which all codes are alike.
    """
    codes = np.asarray(jax.jit(jax.vmap(codec.encode))(x), np.float64)
    mean, std = (moment(tuple(range(codes.ndim - 1)), keepdims=True)[0] for moment in (codes.mean, codes.std))
    if not np.all(std > 0):
        at = int(np.argmin(std))
        raise ValueError(
            f"Entry {at} of the codes is {mean.ravel()[at]:g} for all {len(codes)} examples: it has no scale; leave it "
            "out of the code."
        )
    return scaled(codec, np.float32(mean), np.float32(std))


def linear(axes: Any, mean: Any, shape: tuple[int, ...]) -> Codec:
    """Makes the codec code = axes' (x - mean), x ~ mean + axes code.

    Args:
        axes: (d, k), orthonormal columns.
        mean: (d,).
        shape: of x, of d entries.
    """
    axes, mean = np.asarray(axes), np.asarray(mean)
    d = int(np.prod(shape))
    if axes.ndim != 2 or mean.shape != (d,) or axes.shape[0] != d or axes.shape[1] > d:
        got = f"axes {axes.shape} and mean {mean.shape} for examples of shape {tuple(shape)}"
        raise ValueError(f"Got {got}, expected ({d}, k) with k <= {d}, and ({d},).")
    if (worst := np.abs(axes.T @ axes - np.eye(axes.shape[1])).max()) > 1e-4:
        raise ValueError(f"The axes are no orthonormal columns, by {worst:.2g}: decode would not undo encode.")
    return Codec(Partial(_projected, axes, mean), Partial(_Spanned(tuple(shape)), axes, mean))


def principal(x: Any, size: int) -> Codec:
    """Makes the linear codec of the first principal axes of examples x (n, ...): of its size the least squared error.

    Raises:
        ValueError: for a size outside 1 .. d, or of more axes than the examples have.
    """
    x = np.asarray(x)
    host.check_int("The size of a code", size, 1, most=int(np.prod(x.shape[1:])))
    mean, axes = principal_axes(x, size)
    if axes.shape[1] < size:
        raise ValueError(f"{len(x)} examples have {axes.shape[1]} principal axes, expected at least {size}: take more.")
    return linear(axes.astype(np.float32), mean.astype(np.float32), x.shape[1:])


def probabilistic(x: Any, size: int) -> tuple[Codec, float]:
    """Makes the codec of probabilistic PCA of examples x (n, ...), and its s^2, the variance of what is left out.

    With the eigenvalues l_1 >= ... >= l_d of their covariance: s^2 = the mean of those left out, W = U (l - s^2)^(1/2),
    code = (l)^-1 W' (x - mean), whose draws have the variances s^2 / l, x ~ mean + W code (Tipping & Bishop 1999).

    Raises:
        ValueError: for a size outside 1 .. d - 1, no more examples than entries, or nothing beside the first axes.
    """
    x = np.asarray(x, np.float64)
    d = int(np.prod(x.shape[1:]))
    host.check_int("The size of a code", size, 1, most=d - 1)
    if len(x) <= d:
        raise ValueError(f"{len(x)} examples of {d} entries have no covariance of full rank: take more than {d}.")
    mean, axes = principal_axes(x, d)
    spread = (((x.reshape(len(x), d) - mean) @ axes) ** 2).sum(0) / (len(x) - 1)
    kept, s2 = spread[:size], float(spread[size:].mean())  # (latents.8)
    if not s2 > 1e-12 * kept[0]:
        raise ValueError(
            f"The examples have no variance beside their first {size} axes: take fewer, or codecs.principal."
        )
    W = (axes[:, :size] * np.sqrt(kept - s2)).astype(np.float32)
    back, mean, std = (a.astype(np.float32) for a in (W / kept, mean, np.sqrt(s2 / kept)))
    decode = Partial(_Spanned(tuple(x.shape[1:])), W, mean)
    return Codec(Partial(_projected, back, mean), decode, Partial(_constant, std)), s2


def checksum(codec: Codec) -> str:
    """Computes 16 hexadecimal digits of a SHA-256 over the numbers of a codec: its leaves, in order."""
    digest = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(codec)):
        digest.update(f"{leaf.dtype.str}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:16]


def principal_axes(x: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes the mean (d,) and the first `size` principal axes (d, size) of examples (n, ...); at most n - 1."""
    d = int(np.prod(x.shape[1:]))
    if d > len(x):  # never a (d, d) matrix
        mean, _, axes = host.thin_axes(x)
    else:
        rows = x.reshape(len(x), d).astype(np.float64)
        mean, axes = rows.mean(0), np.linalg.eigh(np.cov(rows.T).reshape(d, d))[1]
    return mean, axes[:, ::-1][:, :size]


def of(run: Any) -> Codec:
    """Gives the codec that a run has trained.

    Raises:
        ValueError: for a run of a method that trains none.
    """
    make = getattr(run.method.parts, "codec", None)
    if make is None:
        name = type(run.method.parts).__name__
        raise ValueError(
            f"This run's method ({name}) trains no codec; methods.compression, autoencoder and encoded do."
        )
    return make(run.params)


def _same(x: Any) -> Any:
    return x


def _shrunk(encode: Callable, shift: Any, scale: Any, x: Any) -> Array:
    return (encode(x) - shift) / scale  # (latents.9)


def _grown(decode: Callable, shift: Any, scale: Any, code: Array) -> Any:
    return decode(code * scale + shift)


def _constant(value: Any, x: Any) -> Array:
    return jnp.asarray(value)


def _projected(axes: Any, mean: Any, x: Array) -> Array:
    return jnp.einsum("d,dk->k", x.reshape(-1) - mean, axes, precision="highest")


class _Spanned(NamedTuple):
    """The function (axes, mean, code) -> x of a shape; compares equal where shapes are."""

    shape: tuple[int, ...]

    def __call__(self, axes: Any, mean: Any, code: Array) -> Array:
        return (mean + jnp.einsum("dk,k->d", axes, code, precision="highest")).reshape(self.shape)
