"""What every process of tokens has: V tokens of data, K states that a place may be in, and probabilities between them.

Each place is destroyed on its own, so that one row of a place says all. States 0 .. V - 1 are the tokens; where K is
V + 1 the state V stands for "hidden". For tokens a schedule's alpha is a probability, that a place still holds its own
token, and its sigma is 1 - alpha: no squares. Bounds and laws of samples depend on the alphas that are visited alone,
never on the clock; so `schedules.Rectified` is the schedule of tokens, and another choice of times is a grid.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import amplitudes
from diffjax.processes.gaussian import Unconditional
from diffjax.types import Array, Categorical, Key, Schedule, real

TINY = 1e-30  # the least probability that a token is kept with, in place of 0: what is divided by it stays finite
MOST = 2**24  # tokens


class Placewise(Unconditional):
    """Mixin of a process of tokens that destroys each place on its own.

    It has fields or properties `schedule`, `vocabulary`, `states` and `limit`, and verbs `likelihood` and `spread`.
    """

    schedule: Any
    vocabulary: Any
    states: Any
    limit: Any  # (K,), what a place holds where nothing of x_0 is left
    likelihood: Any
    spread: Any

    def kept(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, 1 - alpha_t), of the schedule."""
        alpha, lost = self.schedule(t)
        return jnp.maximum(alpha, TINY), lost

    def told(self, t: Any) -> Array:
        """Computes what the network is told of t: log(alpha / (1 - alpha)), infinite at t = 0."""
        alpha, lost = self.kept(t)
        return jnp.log(alpha) - jnp.log(lost)

    def prior(self, key: Key, shape: tuple[int, ...], t: Any = None) -> Array:
        """Draws x_t where nothing of x_0 is left: `limit` at each place, int32."""
        return Categorical(jnp.log(self.limit)).sample(key, shape)

    def prior_log_density(self, x: Array, t: Any = None) -> Array:
        """Computes the log probability in nats of what `prior` draws, a scalar."""
        return jnp.log(self.limit)[x].sum()

    def back(self, x: Array, probs: Array, t: Any, s: Any) -> Array:
        """Computes the law (*shape, K) of x_s,i given x_t = x, by Bayes' rule along the Markov chain.

        Args:
            probs: the law (*shape, V or K) of x_0,i given all other places of x_t; certain of x_0, this is
                q(x_s | x_t, x_0).
            t, s: now and next, s < t.
        """
        law = self.likelihood(x, t, s) * self.spread(probs, s)  # (categorical.12)
        return law / law.sum(-1, keepdims=True)

    def widened(self, probs: Array) -> Array:
        """Gives a law over the V tokens (*shape, V) the state "hidden" where there is one, of probability 0."""
        missing = self.states - probs.shape[-1]
        return probs if missing == 0 else jnp.pad(probs, [(0, 0)] * (probs.ndim - 1) + [(0, missing)])

    def one_hot(self, x: Array, dtype: Any = float) -> Array:
        """Makes the laws (*shape, K) that are certain of the states x; of a state out of range they are 0."""
        return jax.nn.one_hot(x, self.states, dtype=dtype)

    def check(self, target: Any) -> None:
        """Raises a ValueError for a target that is none of tokens, or from which no law of x_0 follows here."""
        if not hasattr(target, "without"):
            raise ValueError(
                f"The process is one of tokens, but the target is {type(target).__name__}, expected categorical.Whole, "
                "LeaveOneOut or ConcreteScore (--config.target.name=categorical.Whole)."
            )
        if target.scores and not hasattr(self, "gathered"):
            raise ValueError(
                f"Of {type(self).__name__} no law of x_0 follows from a concrete score; give the target "
                "categorical.LeaveOneOut."
            )

    def check_steps(self, ts: np.ndarray) -> None:
        """Raises a ValueError for a grid with a step t -> s of which q(x_t | x_s) is not known; default: never."""

    def check_density(self) -> None:
        """Raises a ValueError: tokens have no density, and no flow to integrate."""
        raise ValueError("The process is one of tokens, which have no density; likelihood.tokens.bound bounds log p.")


def check_schedule(schedule: Schedule) -> Schedule:
    """Gives the schedule of a process of tokens.

    Raises:
        ValueError: unless alpha and sigma are probabilities, alpha + sigma = 1.
    """
    host.need_object(schedule)
    alpha, lost = amplitudes(schedule, np.linspace(0, float(schedule.t_max), 17))
    if not np.allclose(alpha + lost, 1, atol=1e-6):
        i = int(np.argmax(np.abs(alpha + lost - 1)))
        raise ValueError(
            f"{type(schedule).__name__} has alpha = {alpha[i]:.4g} and sigma = {lost[i]:.4g}, but for tokens they are "
            "probabilities, alpha + sigma = 1: give schedules.Rectified() (--config.schedule.name=Rectified), and "
            "other times by the grid."
        )
    return schedule


def check_vocabulary(vocabulary: Any, least: int = 2) -> int:
    """Gives the number of tokens as an int; raises a ValueError for one under `least`."""
    return host.check_int("vocabulary", vocabulary, least, most=MOST)


def everywhere(law: Array, like: Array) -> Array:
    """Gives an array (K,) the axes of length 1 that put it at each place of `like`, (*shape, K)."""
    return jnp.expand_dims(law, tuple(range(like.ndim - 1)))


def slope(schedule: Schedule, t: Any) -> Array:
    """Computes d alpha / dt, a probability per time."""
    t = real(t)
    return jax.jvp(lambda t: schedule(t)[0], (t,), (jnp.ones_like(t),))[1]


def uniform_where(key: Key, below: Array, edge: Array) -> Array:
    """Draws u uniform on [0, edge) where `below`, else on [edge, 1)."""
    u = jax.random.uniform(key, below.shape)
    return jnp.where(below, edge * u, edge + (1 - edge) * u)


def check_all_lost(schedule: Schedule) -> None:
    """Raises a ValueError for a schedule that leaves tokens at t_max, where samples start with all hidden."""
    end = float(schedule.t_max)
    if (alpha := float(amplitudes(schedule, np.asarray([end]))[0][0])) > 0:
        raise ValueError(
            f"At t_max = {end:g} a token is still seen with probability alpha = {alpha:.4g}, but samples start with "
            "all hidden: give a schedule that ends at alpha = 0, such as Rectified() (t_max = 1)."
        )
