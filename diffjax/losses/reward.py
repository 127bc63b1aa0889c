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

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
        of: r, as of `function`.
        beta: the temperature, in units of r: p* is nearer to p the larger it is.

    Raises:
        ValueError: for another name, or a beta that is no positive number; from `apply`, for a reward that is not a
            scalar of one example; from `check`, for one that is not finite.
    """
    host.check_positive("beta", beta, ": the temperature of exp(r / beta)")
    r = function(of)

    def rewards(x: Array) -> Array:
        found: Any = jax.vmap(r)(x)
        if not hasattr(found, "ndim") or found.ndim != 1:
            got = f"of shape {found.shape[1:]}" if hasattr(found, "ndim") else f"a {type(found).__name__}"
            raise ValueError(f"The reward of one example is {got}, expected a scalar: r(x), such as jnp.mean(x).")
        return found

    def apply(memory: PyTree, key: Key, batch: PyTree) -> PyTree:
        return batch.choose(weight=weights(rewards(batch.x), beta))

    def check(batch: PyTree) -> None:
        # Of a function that fails otherwise a traced step says how.
        with contextlib.suppress(TypeError, AttributeError, IndexError, OverflowError):
            found = np.asarray(jax.jit(rewards)(batch.x), np.float64)
            if (bad := ~np.isfinite(found)).any():
                raise ValueError(
                    f"The reward is {found[bad][0]} for {bad.sum()} of the {len(bad)} training examples that were "
                    "looked at, expected a finite number: mend r(x), such as jnp.log(jnp.maximum(x, 1e-6)) for a log."
                )

    return Prepare(lambda: (), apply, lambda memory, losses, logged: memory, check=check)


def function(of: Any) -> Callable[[Array], Array]:
    """Finds the reward r of one example, x -> scalar.

    Args:
        of: the function itself; a name of `REWARDS`: mean, dark, small; or the path of a function of one's own, as
            configs have it, "package.module:function".

    Raises:
        ValueError: for another name, or a path where no function is.
    """
    r: Any = of
    if callable(of):
        return r
    if isinstance(of, str) and ":" in of:
        return host.imported(of)[1]
    if of not in REWARDS:
        more = "or a function of x; in a config its path, package.module:function"
        raise ValueError(f"There is no reward {of!r}: {host.nearest(str(of), REWARDS)}, {more}.")
    return REWARDS[of]


def weights(rewards: Array, beta: Any) -> Array:
    """Computes n exp(r_i / beta) / sum_j exp(r_j / beta) of rewards (n,): their mean is 1."""
    return rewards.shape[0] * jax.nn.softmax(rewards / beta)  # (reward.1)


def effective(rewards: Array, beta: Any) -> Array:
    """Computes (sum_i w_i)^2 / sum_i w_i^2: how many examples of equal weight a batch is worth."""
    w = jax.nn.softmax(rewards / beta)
    return 1 / jnp.sum(w**2)  # (reward.2)
