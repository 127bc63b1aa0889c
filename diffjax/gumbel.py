"""Gumbel noise: tokens by the largest perturbed logit, and what passes a gradient through the choice (kexue 6705).

With g = -log(-log u), u ~ U(0, 1), for each of the logits o (Gumbel 1954; Maddison et al. 2014)

    argmax_i (o_i + g_i) ~ softmax(o),        the k largest: k draws without replacement (Vieira 2014).

All of it is read off one array, the perturbed logits o + g, which `perturbed` draws. A token is learned through

    softmax((o + g) / tau)                    Jang et al. 2017, eq. 2; Maddison et al. 2017: no sample of softmax(o)
                                              at tau > 0; its gradient is biased, the bias is not monotone in tau, and
                                              its variance grows as tau falls
    one-hot(argmax), backwards the softmax    straight-through (Jang et al. 2017, section 2.2)
    E[f] + (f - b) grad log p                 the score function's estimator: unbiased, b lowers its variance

The noise is of full precision: float32's default takes u = k 2^-23, so that g never exceeds 23 log 2 = 15.94, and a
token of probability p wins with probability `low_bits`(p), half of p at p = 1e-7.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.types import Array, Categorical, Key


def perturbed(key: Key, logits: Array) -> Array:
    """Draws o + g, of the logits' shape: one Gumbel variable for each; their argmax is a draw of softmax(o).

    Args:
        logits: (..., V), float32 or float64; -inf where a token cannot be, and so is o + g there.

    Raises:
        ValueError: for logits that are no real numbers of at least 32 bits; where they can be looked at, for a row
            that is all -inf.
    """
    logits = _check(logits)
    return logits + jax.random.gumbel(key, logits.shape, logits.dtype, mode="high")  # (gumbel.1)


def given_winner(key: Key, logits: Array, winner: Array) -> Array:
    """Draws o + g given its argmax: what control variates compare a draw with (Tucker et al. 2017, appendix B).

    The largest has the law log sum exp(o) + g whoever it is; the others are Gumbel variables cut off above it.

    Args:
        logits: (..., V), as `perturbed` takes them.
        winner: (...) integers, the argmax.
    """
    logits = _check(logits)
    own = jax.random.gumbel(key, logits.shape, logits.dtype, mode="high")
    at = jnp.asarray(winner)[..., None]
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    top = total + jnp.take_along_axis(own, at, -1)
    below = -jnp.logaddexp(-(logits + own), -top)  # (gumbel.4)
    return jnp.where(jnp.arange(logits.shape[-1]) == at, top, below)


def softmax(perturbed: Array, tau: Any) -> Array:
    """Relaxes a choice: softmax((o + g) / tau), (..., V), nearly one-hot where tau is small.

    Raises:
        ValueError: for a temperature tau that is not positive.
    """
    host.check_positive("tau", tau, "; 0 is the argmax, which has no gradient: take gumbel.straight_through")
    return jax.nn.softmax(_check(perturbed) / tau, axis=-1)  # (gumbel.2)


def straight_through(perturbed: Array, tau: Any = 1.0) -> Array:
    """Chooses, one-hot (..., V) to the last bit; backwards it is `softmax` at the temperature tau.

    Raises:
        ValueError: as `softmax`.
    """
    soft = softmax(perturbed, tau)
    hard = jax.nn.one_hot(jnp.argmax(perturbed, -1), perturbed.shape[-1], dtype=soft.dtype)
    return hard + (soft - jax.lax.stop_gradient(soft))  # (gumbel.3)


def largest(perturbed: Array, k: int) -> Array:
    """Chooses k tokens without replacement, (..., k) int32, in the order in which they would be drawn one by one.

    Raises:
        ValueError: unless k is an integer from 1 to V; where it can be looked at, for a row with fewer tokens that
            can be.
    """
    perturbed = _check(perturbed)
    host.check_int("k", k, 1, most=perturbed.shape[-1])
    if host.concrete(perturbed) and (few := np.min(np.sum(np.asarray(perturbed) > -np.inf, -1), initial=k)) < k:
        raise ValueError(f"A row has {few} tokens that can be, the others are -inf; expected at least k = {k}.")
    return jax.lax.top_k(perturbed, k)[1].astype(jnp.int32)


def score_function(law: Categorical, x: Array, value: Array, baseline: Any = 0.0) -> Array:
    """Gives `value`, with the gradient (value - baseline) grad log p(x) beside its own: for x drawn of p, unbiased.

    Args:
        law: p, whose logits the gradient goes to.
        x: tokens drawn of it, of its shape.
        value: what x is worth, a scalar.
        baseline: anything that does not depend on x.
    """
    log = law.log_prob(x).sum()
    return value + jax.lax.stop_gradient(value - baseline) * (log - jax.lax.stop_gradient(log))  # (gumbel.5)


def low_bits(p: Any) -> np.ndarray:
    """Computes how often a token of probability p wins where u = k 2^-23, float32's default: 2^-23 / (e^(2^-23/p) - 1).

    It is E[u^((1 - p) / p)], the chance that the others' largest is below, over those u.
    """
    step = 2.0**-23
    return step / np.expm1(step / np.asarray(p, np.float64))  # (gumbel.6)


def _check(logits: Array) -> Array:
    logits = jnp.asarray(logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating) or jnp.finfo(logits.dtype).bits < 32:
        raise ValueError(
            f"Got logits of {logits.dtype}, expected float32 or float64: integers are no logarithms, and coarser "
            "numbers tie the largest; take logits.astype(jnp.float32)."
        )
    if host.concrete(logits) and logits.ndim:
        empty = np.all(np.asarray(logits) == -np.inf, -1)
        if np.any(empty):
            row = tuple(int(i) for i in np.argwhere(empty)[0]) if empty.ndim else ()
            where = f"row {', '.join(map(str, row))}" if row else "the row"
            raise ValueError(f"Got logits of shape {logits.shape} where {where} is all -inf: no token can be drawn.")
    return logits
