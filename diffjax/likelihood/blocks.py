"""The bound on -log p(x_0) of blocks of tokens: autoregression over blocks, masked diffusion within one.

Arriola et al. 2025 (BD3-LM, eq. 5 and 6): with x^b the b-th block and x^{<b} its clean past,

    -log p(x) <= sum over b of  E_k E_S  L_b / k  sum over i in S of  -log p_i(x_i | x^{<b}, x^b without S),

k uniform on 1 .. L_b, S a set of k of the L_b places of the block, evenly: the masked bound (`likelihood.tokens`) in
each block, of a model that sees what comes after it as hidden. With exact conditionals it is -log p(x) at every x, for
every size of the blocks: 1 is autoregression, L masked diffusion. A network of masks of a whole sequence is asked here
of sets of hidden places that it saw rarely in training, those that end in a long row of hidden ones.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffjax import host
from diffjax.types import Array, Key


def bound(known: Any, key: Key, x0: Array, size: int) -> Array:
    """Estimates the bound of blocks on -log p(x_0) in nats, by one evaluation for each block, unbiased.

    Args:
        known: the denoiser of a masked process, (x, t) -> Categorical, with `process`.
        x0: tokens of one example, of any shape; blocks follow each other in the order of its entries.
        size: of a block, an integer from 1 to L; the last one may be shorter.

    Raises:
        ValueError: for another size, or a process that does not hide tokens.
    """
    if not getattr(known.process, "timeless", False):
        raise ValueError(
            f"The bound of blocks is of hidden tokens (categorical.masked), but the process is "
            f"{type(known.process).__name__}; likelihood.tokens.bound serves every process of tokens."
        )
    host.check_int("size", size, most=x0.size)

    def block(total: Array, start: Array) -> tuple[Array, None]:
        key_count, key_set = jax.random.split(jax.random.fold_in(key, start))
        inside = _size(x0, start, size)
        count = 1 + jnp.floor(jax.random.uniform(key_count) * inside).astype(jnp.int32)
        order = jnp.argsort(jnp.argsort(jax.random.uniform(key_set, (x0.size,)) + _outside(x0, start, size)))
        return total + nats(known, x0, start, size, (order < count).reshape(x0.shape)), None

    return jax.lax.scan(block, jnp.zeros(()), jnp.arange(0, x0.size, size, dtype=jnp.int32))[0]


def nats(known: Any, x0: Array, start: Any, size: int, chosen: Array) -> Array:
    """Computes one block's term of the bound, L_b / k sum over S of -log p_i, by one evaluation.

    Args:
        known, x0, size: as in `bound`.
        start: the first place of the block.
        chosen: S, a bool for each place, of x0's shape; none outside the block.

    Returns:
        A scalar; nan where a chosen token is out of the vocabulary.
    """
    process = known.process
    place = jnp.arange(x0.size, dtype=jnp.int32).reshape(x0.shape)
    x = jnp.where(chosen | (place >= jnp.asarray(start, jnp.int32) + size), process.vocabulary, x0)
    share = jnp.mean((x == process.vocabulary).astype(float))
    found = -known(x, share * process.schedule.t_max).log_prob(x0)
    found = jnp.where((x0 >= 0) & (x0 < process.vocabulary), found, jnp.nan)
    return jnp.where(chosen, found, 0.0).sum() * _size(x0, start, size) / chosen.sum().astype(float)  # (decoding.5)


def _size(x0: Array, start: Any, size: int) -> Array:
    """L_b, as a real number: the last block may be shorter."""
    return jnp.minimum(size, x0.size - jnp.asarray(start)).astype(float)


def _outside(x0: Array, start: Array, size: int) -> Array:
    """Two at the places outside a block, 0 inside: what ranks them behind, (L,)."""
    place = jnp.arange(x0.size, dtype=jnp.int32)
    return jnp.where((place >= start) & (place < start + size), 0.0, 2.0)
