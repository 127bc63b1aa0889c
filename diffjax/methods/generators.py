"""Two players that are plain networks: a critic learns the log density ratio, a generator climbs an increasing h of it.

MonoFlow (Yi, Zhu & Liu 2023, "MonoFlow: rethinking divergence GANs via the perspective of Wasserstein gradient flows";
kexue 9662). With p the data's law, q that of x = G(z) and d = log p/q, points that move by dx/dtau = grad h(d(x)) carry
q to p for every increasing h:

    dKL(q || p)/dtau = -E_q[h'(d) |grad d|^2]        (h(d) = d: kexue 9662 (2)).

A step along it is a gradient step of G on -E_z h(d(G(z))), d held fixed: the usual GAN (kexue 9662 (12)). The table of
h, the divergence that each descends and the critic's loss are `losses.matching`'s; the turns are `methods.matching`'s,
whose generators are denoisers at one time. Here the generator is any network of noise.

The penalty on |grad d(x)|^2 at data (R1, Mescheder et al. 2018) keeps d finite where the two laws do not overlap, and
flattens it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.losses.matching import H as H
from diffjax.method import Example, Method
from diffjax.methods import codelength
from diffjax.methods.estimates import Critic
from diffjax.methods.examples import check_real
from diffjax.methods.matching import Matching
from diffjax.types import Array, Key, PyTree

__all__ = ["monoflow"]  # what a config may name


class Plain(NamedTuple):
    """A generator that is a network of noise and of nothing else but what is given.

    Attributes:
        network: from noise to an example.
        latent: entries of the noise vector; None: noise of x's shape.
    """

    network: Any
    latent: int | None = None

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws the generator's input for examples of this shape: N(0, I)."""
        return jax.random.normal(key, shape if self.latent is None else (self.latent,))

    def make(self, params: PyTree, z: Array, given: dict, **options: Any) -> Array:
        """Makes an example G(z) of noise z; `params` are the network's own."""
        return self.network.apply(params, z, jnp.zeros(()), given, **options)

    def init(self, key: Key, example: Example) -> PyTree:
        """Makes the network's first parameters."""
        return self.network.init(key, self.noise(key, example.x.shape), jnp.zeros(()), example.given)

    def check(self) -> None:
        """Raises a ValueError for a latent that is no number of entries."""
        if self.latent is not None:
            host.check_int("latent", self.latent, most=2**24)


class MonoFlow(NamedTuple):
    """The two players, as functions of their parameters {"generator", "critic"}.

    Attributes:
        generator: network from noise to an example.
        critic: network whose outputs add up to d; any network of examples can be one.
        latent: entries of the noise vector; None: noise of x's shape.
    """

    generator: Any
    critic: Any
    latent: int | None = None

    likelihood, check_examples = codelength.refuse, check_real

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws the generator's input for examples of this shape: N(0, I)."""
        return Plain(self.generator, self.latent).noise(key, shape)

    def make(self, params: PyTree, z: Array, given: dict, **options: Any) -> Array:
        """Makes an example G(z) of noise z."""
        return Plain(self.generator, self.latent).make(params["generator"], z, given, **options)

    def logit(self, params: PyTree, x: Array, given: dict, **options: Any) -> Array:
        """Computes d(x), an estimate of log p(x)/q(x)."""
        return Critic(self.critic).logit(params["critic"], given, **options)(x, 0.0)


def monoflow(
    generator: Any,
    critic: Any,
    h: str | Callable = "gan",
    critics: int = 3,
    penalty: float = 0.0,
    latent: int | None = None,
    pairs: bool = False,
    r2: float = 0.0,
) -> Method:
    """Makes the method of `critics` turns of the critic and one of the generator; only the generator is served.

    Args:
        generator: network from noise, and what is given, to an example.
        critic: network of an example, and what is given, whose outputs add up to the log density ratio.
        h: a name of `H`, or an increasing function of the logit.
        critics: turns of the critic in each step.
        penalty: weight of |grad d(x)|^2 / 2 at data (R1).
        latent: entries of the noise vector; None: noise of x's shape.
        pairs: data and samples told apart in pairs (relativistic).
        r2: weight of |grad d(x)|^2 / 2 at samples (R2).

    Raises:
        ValueError: for an h that is unknown or does not increase, or another number out of its range.
    """
    if not 0 <= penalty < np.inf:
        raise ValueError(f"Got penalty = {penalty!r}, expected a weight, 0 or more.")
    players = Matching(Plain(generator, latent), Critic(critic, h, pairs, penalty, r2), critics)
    return players.method()._replace(parts=MonoFlow(generator, critic, latent))
