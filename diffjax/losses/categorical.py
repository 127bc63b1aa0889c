"""Objectives of tokens, for one example: one bound for every process, and what is trained in its place.

Let q be a process of tokens, R_t(v -> y) its rate of jumps, loo the law p(x_0,i | x_t without i), and
score(v) = m(v) / m(x_t,i), m = sum over u of loo(u) q(. | u), r(v) = q(v | x_0,i) / q(x_t,i | x_0,i). Then

    -log p(x_0) <= integral over t of E sum over i and v of R_t(v -> x_t,i) [score - r log score + r (log r - 1)] dt

(score entropy: Lou et al. 2023, eq. 7 and theorem 3.6), with equality at every x_0 where loo is exact, alpha_0 = 1 and
alpha_T = 0. Of masks, where R = -alpha' / alpha into "hidden", it is

    -alpha' / (1 - alpha) sum over hidden i of -log p(x_0,i | x_t)

(Sahoo et al. 2024, eq. 10; Shi et al. 2024, eq. 4), of uniform pi the bound of Schiff et al. (2024), of a pi that moves
that of von Rutte et al. (2025). In T steps it is the sum over steps t -> s of

    KL(q(x_s | x_t, x_0) || p(x_s | x_t)),    p(x_s | x_t) ~ q(x_t | x_s) m_s(x_s)

(D3PM: Austin et al. 2021, eq. 1 and 4). The flow of Gat et al. (2024) has another bound, with the whole posterior:

    -alpha' / (1 - alpha) sum over i of (-log whole(x_0,i) where x_t,i is not x_0,i, else 1) - whole(x_t,i),

whole = p(x_0,i | x_t): the divergence of its jumps given x_0 from its jumps. That is masks' bound again, but
of a uniform pi one of another law of paths, and looser. Losses are sums over the places, in nats.
"""

from typing import Any

import jax.numpy as jnp

from diffjax import host
from diffjax.denoisers.categorical import Known
from diffjax.losses.weights import Weight, unit
from diffjax.processes.tokens import slope
from diffjax.types import Array, Categorical, Network

__all__ = ["cross_entropy", "d3pm", "flow_matching", "score_entropy"]  # what a config may name

ESTIMATES = ("leave_one_out", "posterior")
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
    return weight(process.schedule, target, t) * -_tokens(process, x0, known.log_prob(x0)).sum()


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
    terms = jnp.where(jumps, rates * bracket, 0.0).sum(-1)  # (categorical.9)
    return weight(process.schedule, target, t) * _tokens(process, x0, terms).sum()


def d3pm(
    net: Network,
    process: Any,
    target: Any,
    x0: Array,
    z: Any,
    t: Any,
    weight: Weight = _UNIT,
    steps: int = 1000,
    auxiliary: float = 0.001,
    estimate: str = "leave_one_out",
) -> Array:
    """Computes L_vb + auxiliary times the cross-entropy (Austin et al. 2021, eq. 5), L_vb as T times one step's term.

    The mean over the steps t = t_max k / T, k = 1 .. T, is the bound: train with the times `chain` of as many steps.

    Args:
        net: (x, c) -> logits (*shape of x0, target's width).
        x0, z: tokens, and the process's noise for them.
        t: scalar time, of a step's end.
        weight: (schedule, target, t) -> scalar.
        steps: T.
        auxiliary: lambda.
        estimate: what stands for p(x_0,i) in p(x_s | x_t): "leave_one_out", which an exact model has; "posterior", the
            network's law of x_0 given all of x_t, as published.

    Raises:
        ValueError: for another estimate, or a time that ends no step; where times are traced, the loss is nan there.
    """
    if estimate not in ESTIMATES:
        raise ValueError(f"estimate is {estimate!r}, expected {' or '.join(map(repr, ESTIMATES))}.")
    if getattr(process, "steps", steps) != steps:
        raise ValueError(f"The loss has {steps} steps, but the process {process.steps}: loss.steps={process.steps}.")
    k = jnp.asarray(t) * host.check_int("steps", steps) / process.schedule.t_max
    ends = (abs(k - jnp.round(k)) <= 1e-3 + 1e-6 * steps) & (jnp.round(k) >= 1)  # k is rounded in proportion to T
    if host.concrete(ends) and not ends:
        raise ValueError(
            f"t = {float(t):.6g} ends none of {steps} steps: draw times by losses.times.chain with steps={steps} "
            f"(--config.times.name=chain --config.times.steps={steps})."
        )
    t, s = (jnp.maximum(jnp.round(k) - back, 0) / steps * process.schedule.t_max for back in (0, 1))
    x, known = process.corrupt(x0, z, t), Known(net, process, target)
    logits = known.logits(x, t)
    whole = Categorical(target.whole(process, x, logits, t))
    plug = whole if estimate == "posterior" else Categorical(target.without(process, x, logits, t))
    terms = divergence(process.back(x, process.one_hot(x0), t, s), process.back(x, plug.probs, t, s))
    value = steps * terms - auxiliary * whole.log_prob(x0)  # (categorical.17)
    value = jnp.where(ends, value, jnp.nan)
    return weight(process.schedule, target, t) * _tokens(process, x0, value).sum()


def flow_matching(net: Network, process: Any, target: Any, x0: Array, z: Any, t: Any, weight: Weight = _UNIT) -> Array:
    """Computes the integrand of the bound of discrete flow matching at t, nats per time (Gat et al. 2024).

    Args:
        net: (x, c) -> logits (*shape of x0, target's width).
        x0, z: tokens, and the process's noise for them.
        t: scalar time.
        weight: (schedule, target, t) -> scalar, 1 for the bound.

    Raises:
        ValueError: for a process whose pi moves, or that has none: its flow has other velocities.
    """
    if not hasattr(process, "pi"):
        raise ValueError(
            f"Flow matching needs a pi that does not move, but {type(process).__name__} has none; take "
            "losses.categorical.score_entropy."
        )
    x, (_, lost) = process.corrupt(x0, z, t), process.kept(t)
    known = Known(net, process, target)(x, t)
    stays = jnp.take_along_axis(process.widened(known.probs), x[..., None], axis=-1)[..., 0]
    moved = x != x0
    jumps = jnp.where(moved, -known.log_prob(x0), 1.0) - stays
    value = -slope(process.schedule, t) / lost * _tokens(process, x0, jumps).sum()  # (categorical.18)
    return weight(process.schedule, target, t) * value


def divergence(p: Array, q: Array) -> Array:
    """Computes KL(p | q) in nats of laws (*shape, K), of the shape without the last axis; 0 log 0 is 0."""
    there = p > 0
    ratio = jnp.where(there, p, 1.0) / jnp.where(there, q, 1.0)
    return jnp.where(there, p * jnp.log(ratio), 0.0).sum(-1)


def _tokens(process: Any, x0: Array, value: Array) -> Array:
    """Keeps the values of places whose x_0 is a token; nan for any other number, which a read would clamp."""
    return jnp.where((x0 >= 0) & (x0 < process.vocabulary), value, jnp.nan)
