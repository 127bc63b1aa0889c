"""Walks of tokens: each place draws x_s of a law that one evaluation of the network gives, on its own.

A mixture (Song, Meng, Ermon 2020, appendix A; kexue 9262): of the posterior q = p(x_0,i | x_t) at each place

    x_s,i ~ k e_{x_t,i} + (alpha_s - k alpha_t) q + (1 - alpha_s - k (1 - alpha_t)) pi,
    k = (1 - share) (1 - alpha_s) / (1 - alpha_t),

DDIM's formula with probabilities in the place of amplitudes; `share` is that of the noise (u_i, w_i) that is renewed.
For masks share = 0 is the ancestral step of Sahoo et al. (2024), and share the probability with which ReMDM (Wang et
al. 2025) hides again, by 1 - alpha_s: share (1 - alpha_s). For every pi share = 0 is the flow alpha' / (1 - alpha)
(q - e_x) of Gat et al. (2024), integrated exactly over the step: it never leaves the simplex, as Euler's step does.

Markov's posterior (Austin et al. 2021, eq. 3 and 4; Lou et al. 2023, theorem 4.2) by the leave-one-out law instead:

    x_s,i ~ q(x_t,i | x_s) m_s(x_s),    m_s = alpha_s loo + (1 - alpha_s) pi.

Jumps: the flow's rates R(v) = q(v), in units of -alpha' / (1 - alpha), kept over the step, in which a place becomes v
at the rate R(v) whatever it holds. With Z = sum of R(v) the law there is an exponential in closed form,

    x_s,i ~ k^Z e_{x_t,i} + (1 - k^Z) R / Z,    k = (1 - alpha_s) / (1 - alpha_t).

Z = 1 is the mixture of share 0; guidance by rates (`denoisers.guidance.rates`; Nisonoff et al. 2024) has another Z at
each place, so that some open sooner. Of masks these are the rates of the reversed Markov chain too.

Places are drawn independently, so that laws of samples approach that of the data as steps grow.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.calculus import amplitudes
from diffjax.processes.tokens import everywhere
from diffjax.samplers.base import Sampler
from diffjax.types import Array, Categorical, Key

__all__ = ["jumps", "markov", "mixture"]  # what a config may name


class Mixture(NamedTuple):
    """The probabilities of one row: of what is there, of a draw of x_0, of a draw of pi; they sum to 1."""

    t: Any  # where the model is evaluated
    keep: Any
    x0: Any
    noise: Any


def mixture(process: Any, share: float = 0.0) -> Sampler:
    """Samples tokens by mixtures, from all replaced to data: one evaluation a step, order 1.

    Args:
        process: `processes.categorical.masked`, `uniform` or `mixed`; the model carries it too.
        share: of the noise that a step renews: 0 renews none, 1 all of it. Above 1, for masks alone, tokens are hidden
            again more often than at 1 - alpha_s, as far as there is a probability for it (k < 0: Wang et al. 2025,
            where share (1 - alpha_s) is at most min(1, (1 - alpha_s) / alpha_t)).

    Raises:
        ValueError: for a process whose pi is not one law; a share below 0, or above 1 but for masks; from `plan`,
            where a probability is negative.
    """
    _check_pi("The mixture needs", process)
    masks = getattr(process, "timeless", False)
    if not 0 <= share <= (np.finfo(float).max if masks else 1):
        raise ValueError(
            f"share is {share!r}, expected a number in [0, 1], the part of the noise that a step renews"
            + ("; above 1 masks hide more often." if masks else ": only masks may hide more often than that.")
        )

    def plan(ts: np.ndarray) -> Mixture:
        alpha, lost = amplitudes(process.schedule, ts)
        (alpha_t, alpha_s), (lost_t, lost_s) = (alpha[:-1], alpha[1:]), (lost[:-1], lost[1:])
        keep = (1 - share) * lost_s / lost_t  # (categorical.10)
        rows = Mixture(ts[:-1], keep, alpha_s - keep * alpha_t, lost_s - keep * lost_t)
        stays = {"a hidden token stays hidden": rows.keep + rows.noise, "a seen one stays seen": rows.keep + rows.x0}
        for what, value in stays.items():  # above a share of 1 alone these may be negative
            if np.any(value < -1e-12):
                i = int(np.argmin(value))
                raise ValueError(
                    f"At share = {share:g} the step from t = {ts[i]:g} to {ts[i + 1]:g} has a probability of "
                    f"{value[i]:.4g} that {what}; expected a share nearer to 1, or smaller steps."
                )
        return rows

    return Sampler(_mixture_step, plan, schedule=process.schedule, order=1, tokens=True)


def _mixture_step(model: Any, key: Key, x: Array, row: Mixture) -> Array:
    return Categorical(jnp.log(mixture_law(model.process, x, model(x, row.t).probs, row))).sample(key)


def mixture_law(process: Any, x: Array, probs: Array, row: Mixture) -> Array:
    """Computes the law (*shape, K) of x_s,i given x_t = x, where x_0,i has the law `probs` (*shape, V) given x."""
    law = row.keep * process.one_hot(x) + row.x0 * process.widened(probs) + row.noise * everywhere(process.pi, probs)
    return jnp.maximum(law, 0.0)  # (categorical.11)


class Markov(NamedTuple):
    """Where the model is evaluated, and where the step arrives."""

    t: Any
    s: Any


def markov(process: Any, estimate: str = "leave_one_out") -> Sampler:
    """Samples tokens by the posterior of the Markov chain, from all replaced to data: one evaluation a step, order 1.

    Args:
        process: of tokens; the model carries it too.
        estimate: what stands for p(x_0,i): "leave_one_out", which is exact for an exact model as steps grow; or
            "posterior", p(x_0,i | x_t) as D3PM's code has it, which tends to another law (kept for comparison).

    Raises:
        ValueError: for another estimate.
    """
    steps = {"leave_one_out": _markov_step, "posterior": _plugged_in_step}
    if estimate not in steps:
        raise ValueError(f"estimate is {estimate!r}, expected {' or '.join(map(repr, steps))}.")

    def plan(ts: np.ndarray) -> Markov:
        process.check_steps(ts)
        return Markov(ts[:-1], ts[1:])

    return Sampler(steps[estimate], plan, schedule=process.schedule, order=1, tokens=True)


def _markov_step(model: Any, key: Key, x: Array, row: Markov) -> Array:
    law = model.process.back(x, model.without(x, row.t).probs, row.t, row.s)
    return Categorical(jnp.log(law)).sample(key)


def _plugged_in_step(model: Any, key: Key, x: Array, row: Markov) -> Array:
    law = model.process.back(x, model(x, row.t).probs, row.t, row.s)
    return Categorical(jnp.log(law)).sample(key)


class Jumps(NamedTuple):
    """Where the model is evaluated, and how probably a place of total rate 1 has not jumped where the step arrives."""

    t: Any
    keep: Any


def jumps(process: Any) -> Sampler:
    """Samples tokens by jumps at rates kept over a step, from all replaced to data: one evaluation a step, order 1.

    A model with a verb `log_rates` is walked by it (`guidance.rates`), any other by its posterior, whose total rate is
    1: that is `mixture` with share 0, in law. The last step, to data, has all places jump.

    Args:
        process: `processes.categorical.masked`, `uniform` or `mixed`; the model carries it too.

    Raises:
        ValueError: for a process whose pi is not one law.
    """
    _check_pi("The flow of jumps needs", process)

    def plan(ts: np.ndarray) -> Jumps:
        _, lost = amplitudes(process.schedule, ts)
        return Jumps(ts[:-1], lost[1:] / lost[:-1])

    return Sampler(_jumps_step, plan, schedule=process.schedule, order=1, tokens=True)


def _jumps_step(model: Any, key: Key, x: Array, row: Jumps) -> Array:
    guided = hasattr(model, "log_rates")
    log_rates = model.log_rates(x, row.t) if guided else jax.nn.log_softmax(model(x, row.t).logits, axis=-1)
    return Categorical(jnp.log(jumps_law(model.process, x, log_rates, row.keep))).sample(key)


def jumps_law(process: Any, x: Array, log_rates: Array, keep: Any) -> Array:
    """Computes the law (*shape, K) of x_s,i given x_t = x, of log rates (*shape, V) kept over the step."""
    total = jnp.exp(jax.nn.logsumexp(log_rates, axis=-1, keepdims=True))
    stays = jnp.where(keep > 0, keep**total, 0.0)  # to data the rates are without bound: nothing stays, whatever Z
    shown = process.widened(jax.nn.softmax(log_rates, axis=-1))
    return stays * process.one_hot(x) + (1 - stays) * shown  # (categorical.19)


def _check_pi(who: str, process: Any) -> None:
    if not hasattr(process, "pi"):
        raise ValueError(
            f"{who} a pi that does not move, but {type(process).__name__} has none; "
            "take samplers.categorical.markov, or samplers.unified."
        )
