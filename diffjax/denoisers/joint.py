"""Joint estimates of tokens: x_0 drawn whole, its places not independent given x_t (kexue 9271, its two forms of q).

A `types.Categorical` draws each place alone. With an estimate of the joint posterior any number of steps is exact
(kexue 9262), so that what a factorised one loses is the price of its factorisation alone. Two ways out of it:

    autoregressive    q(x_0 | x_t) = prod over i of q(x_0,i | x_0,1 .. x_0,i-1, x_t): L evaluations for one estimate
    differing         under a product of places, x_0 given that it differs from x_t at exactly t places, which editing
                      (`processes.editing`) knows: one evaluation, and a table of counts

The second is a draw of the Poisson-binomial law given its sum. With q_i the probability that place i differs, and
R_i(k) that k places from i on do,

    R_i(k) = (1 - q_i) R_{i+1}(k) + q_i R_{i+1}(k - 1),    P(i differs | r left) = q_i R_{i+1}(r - 1) / R_i(r),

place by place, and then a token other than x_t,i from p(x_0,i | x_t) at those that differ. A common factor on all odds
q / (1 - q) changes nothing: a network's own mean number of wrong places need not be t.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax.denoisers.wrapper import Wrapper
from diffjax.schedules import count
from diffjax.types import Array, Categorical, Denoiser, Key, as_pytree, pytree


def autoregressive(denoise: Denoiser, conditional: Callable | None = None) -> "Autoregressive":
    """Makes the denoiser whose estimate is drawn place by place, by an evaluation each.

    Args:
        denoise: of a masked process: it sees a place that is drawn already as one that was never hidden.
        conditional: for any other process: (x_t, t, known) -> Categorical of x_0 given x_t and the places of x_0 that
            `known` holds, V at the others. Then `denoise` gives its schedule and its marginals alone.
    """
    return Autoregressive(denoise, None if conditional is None else as_pytree(conditional))


@pytree
class Autoregressive(Wrapper):
    """A denoiser whose posterior is a `Joint`; `autoregressive` makes one.

    Attributes:
        denoise, conditional: as in `autoregressive`.
    """

    denoise: Any
    conditional: Any

    def __call__(self, x: Array, t: Any) -> "Joint":
        """Gives what draws x_0 given x_t; the network is not evaluated before a draw."""
        return Joint(self._given if self.conditional is None else self.conditional, x, t)

    def _given(self, x: Array, t: Any, known: Array) -> Categorical:
        seen = known < self.denoise.process.vocabulary
        return self.denoise(jnp.where(seen, known, x), t)


class Joint(NamedTuple):
    """What is known of x_0 given x_t, as conditionals place by place.

    Attributes:
        conditional: (x_t, t, known) -> Categorical, `known` being x_0 with V where it is not drawn yet.
        x, t: of x_t.
    """

    conditional: Callable
    x: Array
    t: Any

    def sample(self, key: Key) -> Array:
        """Draws x_0, int32 of x's shape, from its first place to its last: L evaluations."""
        size = self.x.size
        vocabulary = jax.eval_shape(self.conditional, self.x, self.t, self.x).logits.shape[-1]

        def draw(place: Array, known: Array) -> Array:
            law = self.conditional(self.x, self.t, known.reshape(self.x.shape))
            logits = law.logits.reshape(size, vocabulary)[place]
            return known.at[place].set(Categorical(logits).sample(jax.random.fold_in(key, place)))  # (editing.6)

        return jax.lax.fori_loop(0, size, draw, jnp.full(size, vocabulary, jnp.int32)).reshape(self.x.shape)


def differing(denoise: Denoiser) -> "Differing":
    """Makes the denoiser of editing whose estimate differs from x_t at exactly t places."""
    return Differing(denoise)


@pytree
class Differing(Wrapper):
    """A denoiser whose posterior is a `Counted`; `differing` makes one.

    Attributes:
        denoise: (x, t) -> Categorical, t a count of wrong places.
    """

    denoise: Any

    def __call__(self, x: Array, t: Any) -> "Counted":
        """Computes the law of x_0 given x_t and that t places differ."""
        return Counted(self.denoise(x, t).logits, x, count(t))


class Counted(NamedTuple):
    """A product of laws of the places, given that x_0 differs from x at exactly `count` of them.

    Attributes:
        logits: (*shape of x, V), of the product.
        x: the tokens that x_0 differs from, integers.
        count: of places, an int32 scalar. Where zeros of the product leave no x_0 with this count, a draw differs at
            fewer places.
    """

    logits: Array
    x: Array
    count: Array

    def odds(self) -> tuple[Array, Array]:
        """Computes the log probabilities that each place is kept, and that it differs; (L,) each."""
        logs = jax.nn.log_softmax(self.logits, axis=-1)
        same = jax.nn.one_hot(self.x, logs.shape[-1], dtype=bool)
        part = lambda inside: jax.nn.logsumexp(jnp.where(inside, logs, -jnp.inf), axis=-1).ravel()
        return part(same), part(~same)

    def table(self) -> Array:
        """Computes log R_i(k), (L + 1, L + 1): that k of the places from i on differ."""
        keep, differ = self.odds()
        none = jnp.where(jnp.arange(keep.size + 1) == 0, 0.0, -jnp.inf)

        def before(after: Array, odds: tuple[Array, Array]) -> tuple[Array, Array]:
            fewer = jnp.concatenate([jnp.full(1, -jnp.inf), after[:-1]])
            found = jnp.logaddexp(odds[0] + after, odds[1] + fewer)  # (editing.4)
            return found, found

        _, rest = jax.lax.scan(before, none, (keep, differ), reverse=True)
        return jnp.concatenate([rest, none[None]])

    def places(self, key: Key) -> Array:
        """Draws which places differ, a bool for each, of x's shape."""
        table, (_, differ) = self.table(), self.odds()

        def draw(left: Array, row: Any) -> tuple[Array, Array]:
            log_q, here, after, u = row
            chance = jnp.exp(log_q + after[left - 1] - here[left])
            differs = (left > 0) & (u < chance)
            return left - differs.astype(jnp.int32), differs

        rows = differ, table[:-1], table[1:], jax.random.uniform(key, (self.x.size,))
        return jax.lax.scan(draw, self.count, rows)[1].reshape(self.x.shape)

    def sample(self, key: Key) -> Array:
        """Draws x_0, int32 of the shape of x, which differs from x at exactly `count` places."""
        key_places, key_tokens = jax.random.split(key)
        return jnp.where(self.places(key_places), other_tokens(self.logits, self.x).sample(key_tokens), self.x)


def other_tokens(logits: Array, x: Array) -> Categorical:
    """Makes the law of each place given that its token is not that of x; logits of (*shape of x, V)."""
    return Categorical(jnp.where(jax.nn.one_hot(x, logits.shape[-1], dtype=bool), -jnp.inf, logits))
