"""Fine-tuning to a reward: losses weighted by exp(r(x_0) / beta) (Peters & Schaal 2007; Lee et al. 2023).

    L = E_p[exp(r(x_0) / beta) |D(x_t, t) - x_0|^2],     least for D(x_t, t) = E_p*[x_0 | x_t],
    p*(x) = p(x) exp(r(x) / beta) / Z,

since the weight depends on x_0 alone: it turns p(x_0 | x_t) into p*(x_0 | x_t). p* maximises E[r] - beta KL(p* || p),
the objective of fine-tuning by reinforcement. p is the law of the data: for a model's own law, train on samples of that
model. Of preferences, r is the score whose differences are log-odds, beta 1 (Bradley & Terry 1952).

Weights are those of a batch, n w_i / sum_j w_j, so that the step's size does not depend on r's zero: each is at most n,
and the law that is reached is p* up to a bias of order 1 / n. For a Gaussian mixture and a linear or quadratic reward
p* is a mixture too (`theory.tilting`), which the tests hold this against.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax import host
from diffjax.types import Array, Key, Prepare, PyTree, Schedule

REWARDS: dict[str, Callable[[Array], Array]] = {
    "mean": jnp.mean,  # how light an image is
    "dark": lambda x: -jnp.mean(x),
    "small": lambda x: -jnp.mean(jnp.square(x)) / 2,
}


def reward(schedule: Schedule, of: Any = "mean", beta: float = 1.0) -> Prepare:
    """Gives each example the "weight" exp(r(x) / beta), relative to the mean of its batch.

    Args:
        of: r, of one example, a function x -> scalar; or a name of `REWARDS`: mean, dark, small.
        beta: the temperature, in units of r: p* is nearer to p the larger it is.

    Raises:
        ValueError: for another name, or a beta that is no positive number; from `apply`, for a reward that is not a
            scalar of one example.
    """
    host.check_positive("beta", beta, ": the temperature of exp(r / beta)")
    if not callable(of) and of not in REWARDS:
        raise ValueError(f"There is no reward {of!r}: {host.nearest(str(of), REWARDS)}, or give a function of x.")
    r: Any = of if callable(of) else REWARDS[of]

    def apply(memory: PyTree, key: Key, batch: PyTree) -> PyTree:
        rewards = jax.vmap(r)(batch.x)
        if not hasattr(rewards, "ndim") or rewards.ndim != 1:
            got = f"of shape {rewards.shape[1:]}" if hasattr(rewards, "ndim") else f"a {type(rewards).__name__}"
            raise ValueError(f"The reward of one example is {got}, expected a scalar: r(x), such as jnp.mean(x).")
        return batch.choose(weight=weights(rewards, beta))

    return Prepare(lambda: (), apply, lambda memory, losses, logged: memory)


def weights(rewards: Array, beta: Any) -> Array:
    """Computes n exp(r_i / beta) / sum_j exp(r_j / beta) of rewards (n,): their mean is 1."""
    return rewards.shape[0] * jax.nn.softmax(rewards / beta)  # (reward.1)


def effective(rewards: Array, beta: Any) -> Array:
    """Computes (sum_i w_i)^2 / sum_i w_i^2: how many examples of equal weight a batch is worth."""
    w = jax.nn.softmax(rewards / beta)
    return 1 / jnp.sum(w**2)  # (reward.2)
