"""What is known of tokens: the law of each x_0,i given x_t, and the three objects that a network may state it by.

For the place i let q(x_t,i | v) be the probability of what it holds if x_0,i = v, and m(v) = sum over u of
loo(u) q(v | u). Then

    whole(v)  = p(x_0,i = v | x_t)             = loo(v) q(x_t,i | v) / m(x_t,i)
    loo(v)    = p(x_0,i = v | x_t without i)   = whole(v) / q(x_t,i | v), normalised
    score(v)  = p_t(x_t with i -> v) / p_t(x_t) = m(v) / m(x_t,i),

the posterior, its leave-one-out law, and the concrete score of Lou et al. (2023). They are to tokens what the pairs
(a, b) of `denoisers.targets` are to real numbers: a network states one, and `Known` converts. Losses and samplers ask
for the one that they need. The bound and Markov's posterior need loo; cross-entropy at all places and the mixtures of
`samplers.categorical` need the whole. The one in the place of the other is a different law, and a wrong one.

The rules of masked diffusion (SUBS: Sahoo et al. 2024, section 3.2.3) are the first line: q("hidden" | v) is the same
for all v, so the two laws are one where a token is hidden; a token that is seen can only be itself.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from diffjax.types import Array, Categorical, Network, Schedule, pytree

__all__ = ["ConcreteScore", "LeaveOneOut", "Whole"]  # what a config may name


class Target(Protocol):
    """Which object a network's logits state; `process` is one of tokens, x = x_t."""

    scores: bool  # whether logits are of the states, not of the tokens

    def width(self, process: Any) -> int:
        """Tells how many logits the network gives for each place."""
        ...

    def whole(self, process: Any, x: Array, logits: Array, t: Any) -> Array:
        """Computes log p(x_0,i = v | x_t) up to a constant, (*shape, V)."""
        ...

    def without(self, process: Any, x: Array, logits: Array, t: Any) -> Array:
        """Computes log p(x_0,i = v | x_t without i) up to a constant, (*shape, V)."""
        ...

    def log_score(self, process: Any, x: Array, logits: Array, t: Any) -> Array:
        """Computes log p_t(x with i -> v) / p_t(x), (*shape, K)."""
        ...

    def given(self, given: dict) -> "Target":
        """Makes the target of one example, which may depend on what is given of it."""
        ...


class _OfTokens:
    """Mixin of the targets whose logits are V for each place."""

    scores = False

    def width(self, process: Any) -> int:
        """Tells how many logits the network gives for each place: V, none for "hidden"."""
        return process.vocabulary

    def given(self, given: dict) -> Any:
        """Makes the target of one example: the target itself."""
        return self

    def log_score(self, process: Any, x: Array, logits: Array, t: Any) -> Array:
        """Computes log m(v) - log m(x_t,i), (*shape, K): never an exponential of a logit alone, which overflows."""
        without = self.without(process, x, logits, t)  # pyright: ignore[reportAttributeAccessIssue]
        m = process.spread(jax.nn.softmax(without, axis=-1), t)
        log = _log(m)  # (categorical.5)
        return log - jnp.take_along_axis(log, x[..., None], axis=-1)


@pytree
class LeaveOneOut(_OfTokens):
    """The target of a network whose logits state p(x_0,i | x_t without i), of V tokens."""

    def without(self, process: Any, x: Array, logits: Array, t: Any) -> Array:
        """Gives the logits as they are."""
        return logits

    def whole(self, process: Any, x: Array, logits: Array, t: Any) -> Array:
        """Adds log q(x_t,i | v) to the logits."""
        return logits + _log(process.likelihood(x, t)[..., : process.vocabulary])  # (categorical.6)


@pytree
class Whole(_OfTokens):
    """The target of a network whose logits state p(x_0,i | x_t), of V tokens.

    What is impossible given x_t,i alone gets no mass: a token that is seen stays as it is.
    """

    def whole(self, process: Any, x: Array, logits: Array, t: Any) -> Array:
        """Gives the logits, -inf where q(x_t,i | v) = 0."""
        return jnp.where(process.likelihood(x, t)[..., : process.vocabulary] > 0, logits, -jnp.inf)

    def without(self, process: Any, x: Array, logits: Array, t: Any) -> Array:
        """Takes log q(x_t,i | v) from the logits.

        Where x_t,i can only be itself, as a token that is seen beside masks, no leave-one-out law follows, and this one
        is certain of x_t,i. Nothing jumps to such a state, and a walk leaves it as it is: no loss or sampler reads it.
        """
        chance = process.likelihood(x, t)[..., : process.vocabulary]
        possible = chance > 0
        return jnp.where(possible, logits - jnp.log(jnp.where(possible, chance, 1.0)), -jnp.inf)  # (categorical.7)


@pytree
class ConcreteScore:
    """The target of a network whose logits state log m(v) up to a constant, of all K states; score = m(v) / m(x_t,i).

    Of a score that no law of x_0 has, loo keeps the positive part, as far as there is one.
    """

    scores = True

    def width(self, process: Any) -> int:
        """Tells how many logits the network gives for each place: K, "hidden" included."""
        return process.states

    def given(self, given: dict) -> Any:
        """Makes the target of one example: the target itself."""
        return self

    def log_score(self, process: Any, x: Array, logits: Array, t: Any) -> Array:
        """Subtracts the logit of x_t,i from all logits of place i, (*shape, K)."""
        return logits - jnp.take_along_axis(logits, x[..., None], axis=-1)

    def without(self, process: Any, x: Array, logits: Array, t: Any) -> Array:
        """Computes the logarithm of the leave-one-out law, (m - (1 - alpha) pi) / alpha, (*shape, V)."""
        law = process.gathered(jax.nn.softmax(logits, axis=-1), t)  # (categorical.8)
        return _log(jnp.maximum(law, 0.0))

    def whole(self, process: Any, x: Array, logits: Array, t: Any) -> Array:
        """Adds log q(x_t,i | v) to the logits of the leave-one-out law, (*shape, V)."""
        chance = process.likelihood(x, t)[..., : process.vocabulary]
        return self.without(process, x, logits, t) + _log(chance)


@pytree
class Known:
    """The denoiser of a network: what it knows of tokens, whichever target it states; `jit` takes it as an argument.

    Attributes:
        net: (x, c) -> logits (*shape of x, `target.width`).
        process: of tokens, which x_t and t refer to.
        target: what the logits state.
    """

    net: Network
    process: Any
    target: Any

    @property
    def schedule(self) -> Schedule:
        """The schedule that x_t and t refer to."""
        return self.process.schedule

    def logits(self, x: Array, t: Any) -> Array:
        """Evaluates the network: what it states at (x, t)."""
        return self.net(x, self.process.told(t))

    def __call__(self, x: Array, t: Any) -> Categorical:
        """Computes the law of each x_0,i given all of x_t = x, logits (*shape, V)."""
        return Categorical(self.target.whole(self.process, x, self.logits(x, t), t))

    def without(self, x: Array, t: Any) -> Categorical:
        """Computes the law of each x_0,i given x_t = x at all other places, logits (*shape, V)."""
        return Categorical(self.target.without(self.process, x, self.logits(x, t), t))

    def log_score(self, x: Array, t: Any) -> Array:
        """Computes log p_t(x with i -> v) / p_t(x) for each place i and state v, (*shape, K)."""
        return self.target.log_score(self.process, x, self.logits(x, t), t)


def _log(probs: Array) -> Array:
    """Takes a logarithm, -inf at 0, whose gradient is 0 there."""
    positive = probs > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, probs, 1.0)), -jnp.inf)
