"""The bound on -log p(x_0) of tokens, in nats, for one example: an estimate of one evaluation, or a chain's whole sum.

The integral over t of `losses.categorical.score_entropy`, and the prior's term KL(q(x_T | x_0) || p(x_T)) beside it,
which is 0 where alpha_T is. With u uniform on [0, 1) and t = u^2 t_max the mean of 2 u t_max times the integrand is the
integral: near data a place is replaced with a probability like t, and then costs like 1 / t, so that with an even t the
variance would be infinite. Spread u evenly over the draws that are averaged. Of masks

    integral of E[sum over hidden i of -log p_i] / m over the share m that is hidden
        = mean over k uniform on 1 .. L, and over sets of k places, of  L / k sum over the set of -log p_i,

since the integral of m^(k - 1) (1 - m)^(L - k) times the number of such sets is 1 / k (any-order autoregression:
Hoogeboom et al. 2022): a weight that is bounded, and a range that is not cut.

A walk in N steps has a bound of its own law p_N, which is less sharp than that of p (and may lie below -log p(x_0) at
one x_0): the sum over steps t -> s of E KL(q(x_s | x_t, x_0) || p(x_s | x_t)), for `samplers.categorical.markov`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.denoisers.categorical import Known
from diffjax.losses.categorical import d3pm, divergence, score_entropy
from diffjax.types import Array, Key


def bound(known: Known, key: Key, x0: Array, u: Any) -> Array:
    """Estimates the bound on -log p(x_0) in nats by one evaluation, unbiased for u uniform on [0, 1).

    Args:
        known: the denoiser.
        x0: tokens of one example, of any shape.
        u: scalar; spread evenly over the estimates that are averaged.
    """
    process = known.process
    if hasattr(process, "bound"):  # of a chain whose places are not destroyed on their own
        return process.bound(known, key, x0, u)
    if getattr(process, "timeless", False):
        count = 1 + jnp.floor(jnp.asarray(u) * x0.size).astype(jnp.int32)
        return by_count(known, key, x0, jnp.minimum(count, x0.size))
    t_max, chain = process.schedule.t_max, getattr(process, "steps", None)
    if chain is not None:
        t = (1 + jnp.minimum(jnp.floor(jnp.asarray(u, float) * chain), chain - 1)) / chain * t_max
        z = process.noise(key, x0)
        return d3pm(known.net, process, known.target, x0, z, t, steps=chain, auxiliary=0.0) + prior(process, x0)
    # At t = 0 itself, a rounding's chance, the integrand is 0 times infinity.
    u = jnp.maximum(jnp.asarray(u, float), 1e-4)
    z, t = process.noise(key, x0), u**2 * t_max
    return 2 * u * t_max * score_entropy(known.net, process, known.target, x0, z, t) + prior(process, x0)


def by_count(known: Known, key: Key, x0: Array, count: Any) -> Array:
    """Estimates the bound of masks in nats, unbiased for `count` uniform on 1 .. L: so many tokens are hidden."""
    process = known.process
    ranks = jax.random.permutation(key, jnp.arange(x0.size, dtype=jnp.int32)).reshape(x0.shape)
    hidden, count = ranks < jnp.asarray(count, jnp.int32), jnp.asarray(count, float)
    x = jnp.where(hidden, process.vocabulary, x0)
    nats = -known(x, count / x0.size * process.schedule.t_max).log_prob(x0)
    nats = jnp.where((x0 >= 0) & (x0 < process.vocabulary), nats, jnp.nan)
    return jnp.where(hidden, nats, 0.0).sum() * x0.size / count  # (masked.2)


def prior(process: Any, x0: Array) -> Array:
    """Computes KL(q(x_T | x_0) || what samples start from) in nats."""
    law = process.spread(process.one_hot(x0), process.schedule.t_max)
    law = jnp.where(law > 1e-12, law, 0.0)  # `kept` is never 0, nor what follows from it (its square root in GIDD)
    return divergence(law, jnp.broadcast_to(process.limit, law.shape)).sum()


def steps(known: Known, key: Key, x0: Array, ts: np.ndarray) -> Array:
    """Estimates the bound of Markov's walk along a grid in nats, N evaluations: -log p_N(x_0) is at most its mean.

    Args:
        known: the denoiser.
        x0: tokens of one example.
        ts: decreasing times (N + 1,), from t_max to 0.

    Raises:
        ValueError: for a grid that does not suit the process, or does not end at 0.
    """
    process = known.process
    process.check_steps(ts)
    if ts[-1] != 0 or ts[0] != float(process.schedule.t_max):
        raise ValueError(f"The grid runs from t = {ts[0]:g} to {ts[-1]:g}, expected from t_max to 0.")

    def term(total: Array, row: Any) -> tuple[Array, None]:
        key, t, s = row
        x = process.corrupt(x0, process.noise(key, x0), t)
        own = process.back(x, process.one_hot(x0), t, s)
        return total + divergence(own, process.back(x, known.without(x, t).probs, t, s)).sum(), None

    rows = (jax.random.split(key, len(ts) - 1), jnp.asarray(ts[:-1], float), jnp.asarray(ts[1:], float))
    return jax.lax.scan(term, prior(process, x0), rows)[0]


def marginals_nats(train: np.ndarray, held_out: np.ndarray, vocabulary: int) -> float:
    """Measures held-out tokens (m, *shape) under the frequencies of `train` at their place: nats per token.

    Each of the V tokens is counted once more than it occurs. Only counts of tokens that occur are kept, whatever V.
    """
    place = np.arange(train[0].size, dtype=np.int64) * vocabulary
    codes, counts = np.unique(train.reshape(len(train), -1) + place, return_counts=True)
    asked = held_out.reshape(len(held_out), -1) + place
    at = np.minimum(np.searchsorted(codes, asked), len(codes) - 1)
    seen = np.where(codes[at] == asked, counts[at], 0)
    return float(np.log(len(train) + vocabulary) - np.log(seen + 1.0).mean())


def check_tokens(x: np.ndarray, vocabulary: int, name: str) -> None:
    """Raises a ValueError for tokens outside 0 .. vocabulary - 1, with the range that was got."""
    low, high = (int(x.min()), int(x.max())) if x.size else (0, 0)
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"{name} has tokens from {low} to {high}, expected 0 to {vocabulary - 1}: the vocabulary is {vocabulary}."
        )
