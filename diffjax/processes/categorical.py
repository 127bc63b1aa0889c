"""Tokens that are replaced: x_t,i = x_0,i, or with probability 1 - alpha_t a draw of pi, on its own at each place.

    q(x_t | x_0) = alpha_t e_{x_0} + (1 - alpha_t) pi        (Austin et al. 2021, appendix A.2: no K x K table)

pi is all on "hidden" (Austin et al. 2021, absorbing state; Sahoo et al. 2024), uniform over the tokens (Hoogeboom et
al. 2021), or a mixture. x_t is a function of x_0 and the noise z = (u, w) with u_i uniform on [0, 1) and w_i ~ pi,

    x_t,i = w_i where u_i < 1 - alpha_t, else x_0,i,

so that what is replaced at t is replaced, by the same token, at every later time (kexue 9271; 9262 (1) is x_t =
F_t(x_0, z)). 1 - alpha is compared, not alpha: near alpha = 1 that one is rounded.

Seen as a Markov chain the place jumps into y at the rate kappa(y) = (-alpha' / alpha) pi(y), whatever it holds, and
q(x_t | x_s) = r e_{x_s} + (1 - r) pi with r = alpha_t / alpha_s.

Other processes of tokens: `processes.moving` (pi that moves with t), `processes.levels` (tokens in an order).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.processes.levels import gaussian, levels
from diffjax.processes.moving import gidd
from diffjax.processes.tokens import (
    TokenProcess,
    check_all_lost,
    check_schedule,
    check_vocabulary,
    everywhere,
    slope,
    uniform_where,
)
from diffjax.types import Array, Key, Schedule, pytree, static

__all__ = ["gaussian", "gidd", "levels", "masked", "mixed", "uniform"]  # what a config may name


class Replaced(NamedTuple):
    """The noise of a sequence: u uniform on [0, 1), and the token w that takes x_0's place where u < 1 - alpha_t."""

    u: Array
    w: Array


@pytree
class Replacement(TokenProcess):
    """The process of a law pi; `masked`, `uniform` and `mixed` make one.

    Attributes:
        schedule: t -> (alpha, 1 - alpha), probabilities: `schedules.Rectified()`.
        law: pi, (K,) probabilities over the states.
        vocabulary: V, the number of tokens; K is V, or V + 1 with "hidden".
        timeless: whether the network is told no time, as it needs none where pi is all on "hidden": x_t shows it.
    """

    schedule: Schedule
    law: Any
    vocabulary: int = static()
    timeless: bool = static(default=False)

    @property
    def states(self) -> int:
        """K, the number of states that a place may be in."""
        return self.law.shape[-1]

    @property
    def pi(self) -> Array:
        """The law pi of the tokens that replace others: probabilities of the K states, a JAX array (K,)."""
        return jnp.asarray(self.law, float)

    @property
    def limit(self) -> Array:
        """The law (K,) of what a place holds where nothing of x_0 is left: pi."""
        return self.pi

    def noise(self, key: Key, x0: Array) -> Replaced:
        """Draws z = (u, w), each of x_0's shape."""
        key_u, key_w = jax.random.split(key)
        return Replaced(jax.random.uniform(key_u, x0.shape), self.prior(key_w, x0.shape))

    def corrupt(self, x0: Array, z: Replaced, t: Any) -> Array:
        """Computes x_t: w where u < 1 - alpha_t, else x_0."""
        return jnp.where(z.u < self.kept(t)[1], z.w.astype(x0.dtype), x0)  # (categorical.1)

    def invert(self, key: Key, x0: Array, x: Array, t: Any) -> Replaced:
        """Draws z of p(z | x_0, x_t = x): a place that holds x_0 was kept, or replaced by what it held."""
        alpha, lost = self.kept(t)
        key_lost, key_u, key_w = jax.random.split(key, 3)
        by_chance = lost * self.pi[x]
        kept = jnp.where(x == x0, alpha / (alpha + by_chance), 0.0)  # (categorical.2)
        replaced = jax.random.uniform(key_lost, x0.shape) >= kept
        w = jnp.where(replaced, x, self.prior(key_w, x0.shape).astype(x.dtype))
        return Replaced(uniform_where(key_u, replaced, lost), w)

    def renew(self, key: Key, z: Replaced, share: Any) -> Replaced:
        """Draws u and w anew at each place with probability `share`."""
        key_new, key_place = jax.random.split(key)
        new, anew = self.noise(key_new, z.u), jax.random.uniform(key_place, z.u.shape) < share
        return Replaced(jnp.where(anew, new.u, z.u), jnp.where(anew, new.w.astype(z.w.dtype), z.w))

    def told(self, t: Any) -> Array:
        """Computes what the network is told of t: log(alpha / (1 - alpha)); 0 of pure masks, which show it."""
        return jnp.zeros(()) if self.timeless else super().told(t)

    def likelihood(self, x: Array, t: Any, s: Any = 0.0) -> Array:
        """Computes q(x_t = x | x_s = k) for every state k, (*shape of x, K)."""
        (alpha_t, lost_t), (alpha_s, lost_s) = self.kept(t), self.kept(s)
        by_chance = (lost_t - lost_s) / alpha_s * self.pi[x]
        return alpha_t / alpha_s * self.one_hot(x, by_chance.dtype) + by_chance[..., None]  # (categorical.3)

    def spread(self, probs: Array, t: Any) -> Array:
        """Computes the law (*shape, K) of x_t,i of a place whose x_0,i has the law `probs` (*shape, V or K)."""
        alpha, lost = self.kept(t)
        return alpha * self.widened(probs) + lost * everywhere(self.pi, probs)  # (categorical.4)

    def gathered(self, law: Array, t: Any) -> Array:
        """Computes the law of x_0,i (*shape, V) whose `spread` is `law`, (*shape, K); it may be negative."""
        alpha, lost = self.kept(t)
        return ((law - lost * everywhere(self.pi, law)) / alpha)[..., : self.vocabulary]

    def rates(self, x: Array, t: Any) -> Array:
        """Computes the rates per time at which a place in state k jumps to x, (*shape of x, K); 0 for k = x."""
        alpha, _ = self.kept(t)
        kappa = -slope(self.schedule, t) / alpha * self.pi[x]
        return jnp.where(self.one_hot(x, bool), 0.0, kappa[..., None])


def masked(schedule: Schedule, vocabulary: int) -> Replacement:
    """Makes the process that hides tokens: pi is all on the state V (Austin et al. 2021; Sahoo et al. 2024).

    Raises:
        ValueError: for a vocabulary under 2; a schedule that is none of probabilities, or leaves some token seen.
    """
    check_vocabulary(vocabulary)
    check_all_lost(check_schedule(schedule))
    return Replacement(schedule, _law(vocabulary, 1.0), vocabulary, timeless=True)


def uniform(schedule: Schedule, vocabulary: int) -> Replacement:
    """Makes the process that replaces tokens by any of the V (Hoogeboom et al. 2021; Austin et al. 2021, A.2.1).

    Raises:
        ValueError: for a vocabulary under 2, or a schedule that is none of probabilities.
    """
    check_vocabulary(vocabulary)
    return Replacement(check_schedule(schedule), np.full(vocabulary, 1 / vocabulary), vocabulary)


def mixed(schedule: Schedule, vocabulary: int, hidden: float = 0.5) -> Replacement:
    """Makes the process that hides a share of what it replaces, and puts any of the V tokens in the place of the rest.

    Raises:
        ValueError: for a vocabulary under 2, a schedule that is none of probabilities, or a share outside (0, 1).
    """
    check_vocabulary(vocabulary)
    if not 0 < hidden < 1:
        raise ValueError(
            f"hidden is {hidden!r}, expected a share inside (0, 1); at 1 that is categorical.masked, at 0 uniform."
        )
    return Replacement(check_schedule(schedule), _law(vocabulary, hidden), vocabulary)


def _law(vocabulary: int, hidden: float) -> Any:
    return np.append(np.full(vocabulary, (1 - hidden) / vocabulary), hidden)
