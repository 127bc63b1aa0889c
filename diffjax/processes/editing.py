"""Editing: t places of a sequence are replaced by other tokens, exactly t of them (kexue 9271, its editing example).

Time is a count. With z = (u, d) at each place, u uniform on [0, 1) and d uniform on 1 .. V - 1,

    x_t,i = (x_0,i + d_i) mod V   where u_i is among the t smallest,   x_0,i elsewhere:

exactly t of the L places differ, and what is wrong at t is wrong at every later count. x_t is one-to-one in d at the
wrong places, so that both ends give the noise again: d = (x_t - x_0) mod V, and the order of u begins with them.

At t = L every place is wrong. Sampling starts from uniform tokens instead, which is an approximation: the reverse law
at t = L is asked of sequences that it never produced (total variation at the end of a walk with exact marginals .003349
on W(3, 3; 1, 0, 7), tests/test_edits.py). With V = 2 there is no noise at all, and the start is data's complement.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.processes.tokens import TokenProcess, check_vocabulary
from diffjax.schedules import Counted, count
from diffjax.types import Array, Key, Schedule, pytree, real, static


class Edits(NamedTuple):
    """The noise of editing at each place, of x's shape.

    Attributes:
        u: uniform on [0, 1): the places become wrong in the order of u.
        d: int32 in 1 .. V - 1: what is added to the token where it is wrong.
    """

    u: Array
    d: Array


def editing(schedule: Schedule, vocabulary: int) -> "Editing":
    """Makes the process that replaces exactly t tokens by others.

    Args:
        schedule: `schedules.Counted(L)`, of the number of places.
        vocabulary: V, the number of tokens, at least 2.

    Raises:
        ValueError: for another schedule, or a vocabulary under 2.
    """
    if not isinstance(schedule, Counted):
        raise ValueError(
            f"Editing counts its wrong places, got the schedule {schedule}, expected schedules.Counted(length)."
        )
    return Editing(schedule, check_vocabulary(vocabulary))


@pytree
class Editing(TokenProcess):
    """The process that replaces exactly t of L tokens by others; `editing` makes one.

    Attributes:
        schedule: `schedules.Counted(L)`: alpha = 1 - t / L is the probability that a place is kept.
        vocabulary: V.
    """

    schedule: Counted
    vocabulary: int = static()

    @property
    def counts(self) -> int:
        """L, the last time: times count wrong places."""
        return self.schedule.length

    @property
    def limit(self) -> Array:
        """The law (V,) of each place that `prior` draws: uniform."""
        return jnp.full(self.vocabulary, 1 / self.vocabulary)

    @property
    def states(self) -> int:
        """V: no token stands for a hidden one."""
        return self.vocabulary

    def noise(self, key: Key, x0: Array) -> Edits:
        """Draws z = (u, d), of x_0's shape each.

        Raises:
            ValueError: for an x_0 that is not of integers, or not of L places; for tokens outside 0 .. V - 1.
        """
        self._check_tokens(x0, "x_0")
        key_u, key_d = jax.random.split(key)
        return Edits(jax.random.uniform(key_u, jnp.shape(x0)), self._other(key_d, jnp.shape(x0)))

    def corrupt(self, x0: Array, z: Edits, t: Any) -> Array:
        """Computes x_t, which differs from x_0 at exactly t places.

        Raises:
            ValueError: for a t that is not a whole number from 0 to L.
        """
        self._check_count(t)
        edited = (jnp.asarray(x0, jnp.int32) + z.d) % self.vocabulary
        return jnp.where(ranks(z.u) < count(t), edited, x0).astype(jnp.asarray(x0).dtype)  # (editing.2)

    def prior(self, key: Key, shape: tuple[int, ...], t: Any = None) -> Array:
        """Draws uniform tokens, int32 of this shape: an approximation of x_L, all of whose places are wrong.

        Raises:
            ValueError: for another number of places than L, or a start below t = L.
        """
        self._check_size(shape, "The start")
        if t is not None and host.concrete(t) and float(t) != self.schedule.t_max:
            raise ValueError(
                f"Sampling starts at t = {float(t):g}, expected t = {self.schedule.length}, where every place is wrong."
            )
        return jax.random.randint(key, shape, 0, self.vocabulary, jnp.int32)

    def prior_log_density(self, x: Array, t: Any = None) -> Array:
        """Computes the log probability in nats of what `prior` draws, -L log V: a scalar."""
        return jnp.asarray(-jnp.size(x) * math.log(self.vocabulary))

    def invert(self, key: Key, x0: Array, x: Array, t: Any) -> Edits:
        """Draws z of p(z | x_0, x_t = x): the places that differ come first in the order of u, by their d.

        An x_0 that differs from x at another number of places than t, as an estimate may, gives the order all the same:
        `corrupt` then returns x if t is read as that number.
        """
        key_order, key_u, key_d = jax.random.split(key, 3)
        d, shape = (jnp.asarray(x, jnp.int32) - jnp.asarray(x0, jnp.int32)) % self.vocabulary, jnp.shape(x)
        order = ranks(jax.random.uniform(key_order, shape) + jnp.where(d == 0, 1.0, 0.0))
        u = jnp.sort(jax.random.uniform(key_u, (math.prod(shape),)))[order]
        return Edits(u, jnp.where(d == 0, self._other(key_d, shape), d))  # (editing.3)

    def renew(self, key: Key, z: Edits, share: Any) -> Edits:
        """Replaces (u, d) by new ones at each place with probability `share`: the law of z is kept."""
        key_place, key_u, key_d = jax.random.split(key, 3)
        anew, shape = jax.random.uniform(key_place, z.u.shape) < share, z.u.shape
        fresh = Edits(jax.random.uniform(key_u, shape), self._other(key_d, shape))
        return jax.tree.map(lambda new, old: jnp.where(anew, new, old), fresh, z)

    def likelihood(self, x: Array, t: Any, s: Any = 0.0) -> Array:
        """Computes q(x_t = x | x_0 = v) of each place alone, for every v: (*shape, V).

        The places are not independent given x_0, for their number of wrong ones is known: this is the law of each.

        Raises:
            ValueError: for s > 0: whether a place is still wrong depends on x_0, not on x_s alone.
        """
        if not host.concrete(s) or float(s) != 0:
            raise ValueError(f"Editing has a law of x_t given x_0 alone, got s = {s}, expected s = 0.")
        return self.spread(jax.nn.one_hot(x, self.vocabulary), t)  # the law is symmetric in its two tokens

    def spread(self, probs: Array, t: Any) -> Array:
        """Computes the law at t of a place whose x_0 has the law `probs`, (*shape, V) each."""
        alpha, wrong = self.schedule(count(t))
        return alpha * probs + wrong * (1 - probs) / (self.vocabulary - 1)

    def told(self, t: Any) -> Array:
        """Computes what the network is told of t, log((L - t + 1/2) / (t + 1/2)): finite at both ends."""
        wrong = real(count(t))
        return jnp.log((self.schedule.length - wrong + 0.5) / (wrong + 0.5))

    def bound(self, known: Any, key: Key, x0: Array, u: Any) -> Array:
        """Estimates a bound on -log p(x_0) in nats by one evaluation, p the law of walks of single places.

        The sum over t of E KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), whose first law sets one of t wrong places
        right, evenly, and KL(q(x_L | x_0) || prior) = L log(V / (V - 1)). It is far from sharp, for the order in which
        places are set right counts as if it were said: 1.49 nats above the entropy of W(3, 3; 1, 0, 7), 3.18.

        Args:
            known: the denoiser, (x, t) -> Categorical.
            u: scalar, uniform on [0, 1): says which t; spread it evenly over the estimates that are averaged.
        """
        length = self.schedule.length
        t = 1 + jnp.minimum(jnp.floor(jnp.asarray(u, float) * length), length - 1)
        x = self.corrupt(x0, self.noise(key, x0), t)
        logs = jax.nn.log_softmax(known(x, t).logits, axis=-1)
        others = jnp.where(self.one_hot(x, bool), -jnp.inf, logs)
        right = jnp.take_along_axis(others, x0[..., None], axis=-1)[..., 0] - jax.nn.logsumexp(others)
        nats = jnp.where(x != x0, -jnp.log(t) - right, 0.0).sum() / t  # (editing.7)
        return length * (nats + math.log(self.vocabulary / (self.vocabulary - 1)))

    def rates(self, x: Array, t: Any) -> Array:
        """Raises a ValueError: editing is a chain of whole steps, without rates or a bound made of them."""
        raise ValueError(
            "Editing is a chain of whole steps, which has no rates of jumps: take losses.categorical.cross_entropy."
        )

    def check(self, target: Any) -> None:
        """Raises a ValueError for a target that is not the whole law p(x_0,i | x_t), all that editing can use.

        Its places are not independent given x_0, so that no law without a place follows from the whole one.
        """
        super().check(target)
        x, logits = jnp.zeros(1, jnp.int32), jnp.zeros((1, self.vocabulary))
        if not np.array_equal(target.whole(self, x, logits, 1), logits):
            raise ValueError(
                f"Editing needs a network that states the law of x_0 given all of x_t, got {type(target).__name__}, "
                "expected categorical.Whole (--config.target.name=categorical.Whole)."
            )

    def on(self, schedule: Any) -> "Editing":
        """Refuses another clock, unless it counts as many places.

        Raises:
            ValueError: for another schedule.
        """
        if schedule != self.schedule:
            raise ValueError(f"Editing counts its wrong places: it has no other clock than {self.schedule}.")
        return self

    def _other(self, key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.randint(key, shape, 1, self.vocabulary, jnp.int32)

    def _check_size(self, shape: tuple[int, ...], what: str) -> None:
        if math.prod(shape) != self.schedule.length:
            raise ValueError(
                f"{what} has {math.prod(shape)} places, of shape {tuple(shape)}, expected {self.schedule.length}, as "
                f"{self.schedule} has."
            )

    def _check_tokens(self, x: Any, what: str) -> None:
        dtype, last = jnp.asarray(x).dtype, self.vocabulary - 1
        if not jnp.issubdtype(dtype, jnp.integer):
            raise ValueError(f"{what} is of {dtype}, expected integers: tokens from 0 to {last}.")
        self._check_size(jnp.shape(x), what)
        if host.concrete(x) and np.size(x):
            least, most = np.asarray(x).min(), np.asarray(x).max()
            if not 0 <= least <= most <= last:
                raise ValueError(f"{what} has tokens from {least} to {most}, expected them from 0 to {last}.")

    def _check_count(self, t: Any) -> None:
        if host.concrete(t) and not (float(t) == round(float(t)) and 0 <= float(t) <= self.schedule.length):
            raise ValueError(
                f"t = {float(t):g} of editing counts wrong places, expected a whole number from 0 to "
                f"{self.schedule.length}: take grids.counts, and losses.times.chain for training."
            )


def ranks(score: Array) -> Array:
    """Ranks the entries of an array: the place of each, from 0, in rising order of all; of x's shape, int32."""
    order = jnp.argsort(score.ravel())
    places = jnp.arange(score.size, dtype=jnp.int32)
    return jnp.zeros(score.size, jnp.int32).at[order].set(places).reshape(score.shape)
