"""A checksum of an array that does not depend on how the array is sharded.

It is the sum over the elements, modulo 2^32, of a hash of bits and position. The hash (MurmurHash3's 32-bit finaliser,
Appleby 2011) is a bijection of the bits for each position, so that any single changed element changes the sum; other
damage passes with probability 2^-32. A plain weighted sum would not do: two flipped signs cancel, whatever the weights.

It is computed on the host: a save moves the array there anyway, and a compiled version needs seconds of compilation
for a network of a hundred shapes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.types import PyTree


def checksums(tree: PyTree) -> list[tuple[int, int]]:
    """Computes (checksum, number of non-finite values) of each leaf, both in [0, 2^32), in `jax.tree.leaves`' order.

    Leaves are arrays of any dtype, typed keys included.
    """
    table = np.array([_local(leaf) for leaf in jax.tree.leaves(tree)], np.uint32).reshape(-1, 2)
    return [(total, bad) for total, bad in table.tolist()]


def _local(x: jax.Array | np.ndarray) -> tuple[int, int]:
    """Sums up a leaf: each element once, however it is sharded and replicated."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if isinstance(x, np.ndarray):
        pieces = [((slice(None),) * x.ndim, x)]
    else:
        pieces = [(s.index, np.asarray(s.data)) for s in x.addressable_shards if s.replica_id == 0]
    total = sum(int(_hashes(piece, _positions(index, x.shape)).sum(dtype=np.uint32)) for index, piece in pieces)
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    bad = sum(piece.size - int(np.isfinite(piece).sum()) for _, piece in pieces) if inexact else 0
    return total % 2**32, bad


def _positions(index: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Numbers the elements of the piece `index` of an array of `shape`, row by row in the whole array, modulo 2^32."""
    number = np.zeros(1, np.uint32)
    for part, n in zip(index, shape):
        number = (number * np.uint32(n))[..., None] + np.arange(*part.indices(n), dtype=np.uint32)
    return number.reshape(-1)


def _hashes(x: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Hashes each element to a uint32; elements wider than 32 bits are folded in word by word."""
    word = {1: np.uint8, 2: np.uint16}.get(x.dtype.itemsize, np.uint32)
    words = np.ascontiguousarray(x).reshape(-1).view(word).reshape(x.size, max(1, x.dtype.itemsize // 4))
    h = position * np.uint32(0x9E3779B1)
    for w in words.T:
        h = h ^ w
        h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        h = h ^ (h >> np.uint32(16))
    return h
