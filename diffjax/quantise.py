"""Quantised codes: the nearest vector of a table (VQ), and a rounded number for each channel (FSQ).

VQ (van den Oord et al. 2017). k(z) = argmin_k |z - e_k|^2; the decoder sees e_k, and the gradient that reaches z is the
one at e_k (straight through):

    z_q = z + sg(e_k - z),        codebook |sg(z) - e_k|^2,        commitment |z - sg(e_k)|^2.

The table may follow running means in the place of the codebook's loss (their appendix A.1), here as shares of a batch:

    N_k <- g N_k + (1 - g) n_k / n,      m_k <- g m_k + (1 - g) sum_{k(z) = k} z / n,      e_k = m_k / N_k,

at g = 0 Lloyd's step of k-means. A code of small N_k is dead, and is put on a vector of the batch (Razavi et al. 2019
and others).

FSQ (Mentzer et al. 2023). With L levels in a channel, H = (L - 1)(1 - 1e-3) / 2 and o = 1/2 for even L, else 0,

    code = round(H tanh(h + s) - o),        value = code / floor(L / 2),
    index = sum_i (code_i + floor(L_i / 2)) prod_{j < i} L_j.

Deviation: s = atanh(o / H), so that h = 0 has the code 0 exactly; published is tan(o / H), which is no inverse of tanh
and differs by 4e-6 at L = 8, 3e-4 at L = 4. At L = 2 neither is of use (o > H): a binary channel is the sign of h, of
values -1 and 1 (Yu et al. 2024).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.types import Array, Key

MARGIN = 1e-3  # of the range that tanh is kept from
MOST = 2**24  # codes in all
UNUSED = 1e-9  # of a share: running means of a code that nobody uses would end at 0 / 0


def nearest(z: Array, table: Array) -> Array:
    """Finds the index of the nearest vector, int32 (...), of z (..., d) in a table (K, d); the first of equal ones.

    It is -1 where z is not finite, which stands for no code.

    By differences: |z|^2 - 2 z e + |e|^2 would cancel where vectors are long and close.
    """
    square = jnp.sum((z[..., None, :] - jnp.expand_dims(table, range(z.ndim - 1))) ** 2, -1)
    return known(jnp.argmin(square, -1), z)  # (latents.1)


def known(code: Array, h: Array) -> Array:
    """Gives whole codes (...), int32, and -1 where the numbers h (..., d) that they were made of are not finite."""
    return jnp.where(jnp.isfinite(h).all(-1), code, -1).astype(jnp.int32)


def straight_through(z: Array, value: Array) -> Array:
    """Gives `value` forwards; backwards the gradient reaches z as if it were z."""
    return z + jax.lax.stop_gradient(value - z)  # (latents.2)


def codebook(z: Array, e: Array) -> Array:
    """Computes |sg(z) - e|^2, the mean over entries: the loss that moves the table to the encoder's vectors."""
    return jnp.mean((jax.lax.stop_gradient(z) - e) ** 2)


def commitment(z: Array, e: Array) -> Array:
    """Computes |z - sg(e)|^2, the mean over entries: what keeps the encoder near the table's vectors."""
    return jnp.mean((z - jax.lax.stop_gradient(e)) ** 2)


class Running(NamedTuple):
    """The running means that a table is made of.

    Attributes:
        share: N (K,), the share of vectors that each code has had.
        total: m (K, d), their sum over the number of all.
    """

    share: Array
    total: Array

    @property
    def table(self) -> Array:
        """The vectors e = m / N, (K, d)."""
        return self.total / jnp.maximum(self.share, 1e-12)[:, None]


def counted(z: Array, k: Array, codes: int) -> Running:
    """Counts vectors z (n, d) of the codes k (n,): shares n_k / n, and sums over n."""
    one = jax.nn.one_hot(k, codes, dtype=z.dtype)
    return Running(one.mean(0), jnp.einsum("nk,nd->kd", one, z, precision="highest") / len(z))


def moved(running: Running, found: Running, decay: float) -> Running:
    """Moves running means to those of a batch, of which a share 1 - decay is new; decay = 0: Lloyd's step.

    A code that no vector had keeps its share once that would fall under `UNUSED`, and with it its vector.
    """
    stays = (found.share == 0) & (decay * running.share < UNUSED)

    def one(old: Array, new: Array) -> Array:
        still = jnp.expand_dims(stays, range(1, old.ndim))
        return jnp.where(still, old, decay * old + (1 - decay) * new)  # (latents.3)

    return jax.tree.map(one, running, found)


def restarted(key: Key, running: Running, z: Array, dead: float) -> Running:
    """Puts codes whose share is below `dead` / K on vectors of a batch z (n, d), with the share 1 / K each.

    The vectors are drawn without replacement where there are enough of them.
    """
    codes = len(running.share)
    drawn = jax.random.permutation(key, z)[jnp.arange(codes) % len(z)]
    fresh = running.share < dead / codes
    share = jnp.where(fresh, 1 / codes, running.share)
    return Running(share, jnp.where(fresh[:, None], drawn / codes, running.total))


def entropy(share: np.ndarray) -> float:
    """Computes the entropy in bits of shares (K,) that sum to 1, on the host."""
    share = np.asarray(share, np.float64)
    return float(-np.sum(share * np.log2(np.where(share > 0, share, 1.0))))


def check_levels(levels: tuple[int, ...]) -> tuple[int, ...]:
    """Gives the levels of all channels back, as a tuple.

    Raises:
        ValueError: for no channel, a channel of fewer than 2 levels, or more than 2^24 codes in all.
    """
    levels = tuple(levels)
    if not levels:
        raise ValueError("levels = (): expected the number of levels of each channel, such as (8, 6, 5).")
    for i, number in enumerate(levels):
        host.check_int(f"levels[{i}]", number, 2)
    if math.prod(levels) > MOST:
        raise ValueError(f"levels = {levels} make {math.prod(levels):,} codes, expected at most {MOST:,}.")
    return levels


class Constants(NamedTuple):
    """The constants of FSQ for each channel: half-range H, offset o, shift s, floor(L / 2), weight of the index."""

    half: np.ndarray
    offset: np.ndarray
    shift: np.ndarray
    middle: np.ndarray
    weight: np.ndarray
    levels: np.ndarray


def constants(levels: tuple[int, ...]) -> Constants:
    """Computes the constants of FSQ, each (d,), on the host."""
    L = np.asarray(levels)
    half, offset = (L - 1) * (1 - MARGIN) / 2, np.where(L % 2, 0.0, 0.5)
    shift = np.arctanh(np.where(L > 2, offset / half, 0.0))
    return Constants(half, offset, shift, L // 2, np.concatenate([[1], np.cumprod(L[:-1])]), L)


def rounded(h: Array, levels: tuple[int, ...]) -> Array:
    """Rounds channels h (..., d) to their values in [-1, 1], straight through the rounding.

    Backwards it is that of the smooth part, H tanh(h + s) / floor(L / 2), of a binary channel tanh(h).
    """
    of = _beside(h, levels)
    wave = jnp.tanh(h + of.shift)
    inner = of.half * wave - of.offset
    smooth = jnp.where(of.levels == 2, wave, inner / of.middle)
    sign = jnp.where(h > 0, jnp.ones_like(h), -jnp.ones_like(h))
    return straight_through(smooth, jnp.where(of.levels == 2, sign, jnp.round(inner) / of.middle))  # (latents.4)


def index(values: Array, levels: tuple[int, ...]) -> Array:
    """Numbers the values (..., d) of all channels together: int32 (...), 0 .. prod L - 1."""
    of = _beside(values, levels)
    digit = jnp.where(of.levels == 2, (values + 1) / 2, (values + 1) * of.middle)
    weight = jnp.expand_dims(jnp.asarray(constants(levels).weight, jnp.int32), range(values.ndim - 1))
    return known(jnp.sum(jnp.round(digit).astype(jnp.int32) * weight, -1), values)  # (latents.5)


def values(number: Array, levels: tuple[int, ...]) -> Array:
    """Gives the values (..., d), float32, that an index (...) stands for: the inverse of `index`."""
    of = constants(levels)
    whole = lambda a: jnp.expand_dims(jnp.asarray(a, jnp.int32), range(number.ndim))
    digit = (number[..., None].astype(jnp.int32) // whole(of.weight) % whole(of.levels)).astype(jnp.float32)
    of = _beside(digit, levels)
    return jnp.where(of.levels == 2, 2 * digit - 1, (digit - of.middle) / of.middle)


def _beside(h: Array, levels: tuple[int, ...]) -> Constants:
    """The constants with the places of h (..., d) as axes of length 1, of the dtype of h."""
    return jax.tree.map(lambda a: jnp.expand_dims(jnp.asarray(a, h.dtype), range(h.ndim - 1)), constants(levels))
