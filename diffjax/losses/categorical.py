"""Objectives of tokens, for one example: one bound for every process, and what is trained in its place.

Let q be a process of tokens, R_t(v -> y) its rate of jumps, loo the law p(x_0,i | x_t without i), and
score(v) = m(v) / m(x_t,i), m = sum over u of loo(u) q(. | u), r(v) = q(v | x_0,i) / q(x_t,i | x_0,i). Then

    -log p(x_0) <= integral over t of E sum over i and v of R_t(v -> x_t,i) [score - r log score + r (log r - 1)] dt

(score entropy: Lou et al. 2023, eq. 7 and theorem 3.6), with equality at every x_0 where loo is exact, alpha_0 = 1 and
alpha_T = 0. Of masks, where R = -alpha' / alpha into "hidden", it is

    -alpha' / (1 - alpha) sum over hidden i of -log p(x_0,i | x_t)

(Sahoo et al. 2024, eq. 10; Shi et al. 2024, eq. 4), of uniform pi the bound of Schiff et al. (2024), of a pi that moves
that of von Rutte et al. (2025). Losses are sums over the places, in nats.
"""

from typing import Any

import jax.numpy as jnp

from diffjax.denoisers.categorical import Known
from diffjax.losses.weights import Weight, unit
from diffjax.types import Array, Network

__all__ = ["cross_entropy", "score_entropy"]  # what a config may name

_UNIT = unit()


def cross_entropy(net: Network, process: Any, target: Any, x0: Array, z: Any, t: Any, weight: Weight = _UNIT) -> Array:
    """Computes -log p(x_0,i | x_t) summed over all places i, in nats: what trains the whole posterior (D3PM's eq. 5).

    Args:
        net: (x, c) -> logits (*shape of x0, target's width).
        x0, z: tokens, and the process's noise for them.
        t: scalar time.
        weight: (schedule, target, t) -> scalar.
    """
    known = Known(net, process, target)(process.corrupt(x0, z, t), t)
    return weight(process.schedule, target, t) * -_tokens(process, x0, known.log_prob(x0)).sum()  # (categorical.9)


def score_entropy(net: Network, process: Any, target: Any, x0: Array, z: Any, t: Any, weight: Weight = _UNIT) -> Array:
    """Computes the integrand of the bound at t, nats per time: its integral over t bounds -log p(x_0) in the mean.

    Args:
        net: (x, c) -> logits (*shape of x0, target's width).
        x0, z: tokens, and the process's noise for them.
        t: scalar time.
        weight: (schedule, target, t) -> scalar, 1 for the bound.

    Raises:
        ValueError: for a process that jumps at no rate, being a chain of whole steps.
    """
    x = process.corrupt(x0, z, t)
    rates, own = process.rates(x, t), process.spread(process.one_hot(x0), t)
    jumps = rates > 0
    log_score = jnp.where(jumps, Known(net, process, target).log_score(x, t), 0.0)
    r = own / jnp.take_along_axis(own, x[..., None], axis=-1)
    there = jumps & (r > 0)
    off = jnp.where(there, log_score - jnp.log(jnp.where(there, r, 1.0)), 0.0)
    # r (e^off - 1 - off) is the bracket where r > 0: no term is negative, and none cancels another.
    bracket = jnp.where(there, r * (jnp.expm1(off) - off), jnp.exp(log_score))
    terms = jnp.where(jumps, rates * bracket, 0.0).sum(-1)  # (categorical.10)
    return weight(process.schedule, target, t) * _tokens(process, x0, terms).sum()


def _tokens(process: Any, x0: Array, value: Array) -> Array:
    """Keeps the values of places whose x_0 is a token; nan for any other number, which a read would clamp."""
    return jnp.where((x0 >= 0) & (x0 < process.vocabulary), value, jnp.nan)
