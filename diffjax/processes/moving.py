"""Tokens that are replaced by a law that moves with time: GIDD (von Rutte et al. 2025, eq. 9 to 13).

    q(x_t | x_0) = alpha_t e_{x_0} + C_t,    C_t = (1 - alpha_t) pi_t

With a and b the schedule's probabilities, a + b = 1, and c = B sqrt(a b), bounded noise in the middle of time,

    q(x_t | x_0) = (a e_{x_0} + b "hidden" + c / V each token) / (1 + c):

masks, and while tokens are there some of them are wrong, which is what a network that corrects its own samples has to
learn. B = 0 would be masks alone. Transitions are r e_{x_s} + C_t - r C_s with r = alpha_t / alpha_s, and the rate of
jumps into y is kappa(y) = C_t'(y) - (alpha' / alpha) C_t(y), in closed form

    kappa(hidden) = b' / (a (1 + c)),    kappa(token) = c b' / (2 V a b (1 + c)).

x_t is a function of x_0 and z = (u, v, w): w_i where u_i < 1 - alpha_t and v_i is above the share h_t = b / (b + c) of
"hidden" in pi_t, "hidden" where it is below, and else x_0,i. What is hidden at t thus is hidden at every later time.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax import host
from diffjax.processes.tokens import (
    TINY,
    TokenProcess,
    check_all_lost,
    check_schedule,
    check_vocabulary,
    everywhere,
    slope,
    uniform_where,
)
from diffjax.types import Array, Key, Schedule, pytree, static


class Moved(NamedTuple):
    """The noise of a sequence: u says whether a place is replaced, v whether it is hidden, w is a token of any kind."""

    u: Array
    v: Array
    w: Array


@pytree
class Moving(TokenProcess):
    """The process of GIDD; `gidd` makes one.

    Attributes:
        schedule: t -> (a, b), probabilities: `schedules.Rectified()`.
        vocabulary: V, the number of tokens; the state V is "hidden".
        strength: B, how much uniform noise there is in the middle.
    """

    schedule: Schedule
    strength: Any
    vocabulary: int = static()

    @property
    def states(self) -> int:
        """K = V + 1, the number of states that a place may be in."""
        return self.vocabulary + 1

    @property
    def limit(self) -> Array:
        """The law (K,) of what a place holds where nothing of x_0 is left: hidden."""
        return self.one_hot(jnp.asarray(self.vocabulary))

    def kept(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, 1 - alpha_t), alpha = a / (1 + c)."""
        a, b, c = self._parts(t)
        return a / (1 + c), (b + c) / (1 + c)

    def noise(self, key: Key, x0: Array) -> Moved:
        """Draws z = (u, v, w), each of x_0's shape."""
        key_u, key_v, key_w = jax.random.split(key, 3)
        w = jax.random.randint(key_w, x0.shape, 0, self.vocabulary, jnp.int32)
        return Moved(jax.random.uniform(key_u, x0.shape), jax.random.uniform(key_v, x0.shape), w)

    def corrupt(self, x0: Array, z: Moved, t: Any) -> Array:
        """Computes x_t: x_0, or where u < 1 - alpha_t "hidden" (v < h_t) or w."""
        drawn = jnp.where(z.v < self._hidden(t), self.vocabulary, z.w)
        return jnp.where(z.u < self.kept(t)[1], drawn.astype(x0.dtype), x0)  # (categorical.13)

    def invert(self, key: Key, x0: Array, x: Array, t: Any) -> Moved:
        """Draws z of p(z | x_0, x_t = x): a place that holds x_0 was kept, or replaced by what it held."""
        (alpha, lost), hidden, new = self.kept(t), self._hidden(t), self.noise(key, x0)
        key_lost, key_u, key_v = jax.random.split(jax.random.fold_in(key, 1), 3)
        kept = jnp.where(x == x0, alpha / (alpha + self._by_chance(x, t)), 0.0)
        replaced, masked = jax.random.uniform(key_lost, x0.shape) >= kept, x == self.vocabulary
        v = jnp.where(replaced, uniform_where(key_v, masked, hidden), new.v)
        w = jnp.where(replaced & ~masked, x.astype(new.w.dtype), new.w)
        return Moved(uniform_where(key_u, replaced, lost), v, w)

    def renew(self, key: Key, z: Moved, share: Any) -> Moved:
        """Draws u, v and w anew at each place with probability `share`."""
        key_new, key_place = jax.random.split(key)
        anew = jax.random.uniform(key_place, z.u.shape) < share
        return Moved(*(jnp.where(anew, new, old) for new, old in zip(self.noise(key_new, z.w), z)))

    def likelihood(self, x: Array, t: Any, s: Any = 0.0) -> Array:
        """Computes q(x_t = x | x_s = k) for every state k, (*shape of x, K)."""
        (a, b, c), (a_s, b_s, c_s) = self._parts(t), self._parts(s)
        ratio = a / a_s
        hidden, token = (b - ratio * b_s) / (1 + c), (c - ratio * c_s) / (1 + c) / self.vocabulary
        by_chance = jnp.where(x == self.vocabulary, hidden, token)
        return ratio * (1 + c_s) / (1 + c) * self.one_hot(x) + by_chance[..., None]

    def spread(self, probs: Array, t: Any) -> Array:
        """Computes the law (*shape, K) of x_t,i of a place whose x_0,i has the law `probs` (*shape, V or K)."""
        return self.kept(t)[0] * self.widened(probs) + self._by_chance(everywhere(jnp.arange(self.states), probs), t)

    def gathered(self, law: Array, t: Any) -> Array:
        """Computes the law of x_0,i (*shape, V) whose `spread` is `law`, (*shape, K); it may be negative."""
        by_chance = self._by_chance(everywhere(jnp.arange(self.states), law), t)
        return ((law - by_chance) / self.kept(t)[0])[..., : self.vocabulary]

    def rates(self, x: Array, t: Any) -> Array:
        """Computes the rates per time at which a place in state k jumps to x, (*shape of x, K); 0 for k = x."""
        (a, b, c), fall = self._parts(t), -slope(self.schedule, t)
        c_over_b = self.strength * jnp.sqrt(a / jnp.maximum(b, TINY))
        token = c_over_b * fall / (2 * self.vocabulary * a * (1 + c))
        kappa = jnp.where(x == self.vocabulary, fall / (a * (1 + c)), token)  # (categorical.14)
        return jnp.where(self.one_hot(x, bool), 0.0, kappa[..., None])

    def _parts(self, t: Any) -> tuple[Array, Array, Array]:
        a, b = self.schedule(t)
        a = jnp.maximum(a, TINY)
        return a, b, self.strength * jnp.sqrt(a * b)

    def _hidden(self, t: Any) -> Array:
        a, b, _ = self._parts(t)
        return jnp.sqrt(b) / (jnp.sqrt(b) + self.strength * jnp.sqrt(a))

    def _by_chance(self, x: Array, t: Any) -> Array:
        """Computes C_t(x) = (1 - alpha_t) pi_t(x), the probability that a place is replaced, by x."""
        _, b, c = self._parts(t)
        return jnp.where(x == self.vocabulary, b, c / self.vocabulary) / (1 + c)


def gidd(schedule: Schedule, vocabulary: int, B: float = 1.0) -> Moving:
    """Makes the process that hides tokens, and in the middle of time puts wrong ones beside them.

    Args:
        B: how many: at t = 1/2 a share B / (2 + B) of all places.

    Raises:
        ValueError: for a vocabulary under 2; a schedule that is none of probabilities, or leaves some token; a B that
            is not positive.
    """
    check_vocabulary(vocabulary)
    check_all_lost(check_schedule(schedule))
    host.check_positive("B", B, "; without uniform noise take categorical.masked")
    return Moving(schedule, float(B), vocabulary)
