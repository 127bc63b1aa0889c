"""Two players: a critic learns the log density ratio of data and samples, a generator climbs an increasing h of it.

MonoFlow (Yi, Zhu & Liu 2023, "MonoFlow: rethinking divergence GANs via the perspective of Wasserstein gradient flows";
kexue 9662). With p the data's law, q that of x = G(z) and d = log p/q, points that move by dx/dtau = grad h(d(x)) carry
q to p for every increasing h:

    dKL(q || p)/dtau = -E_q[h'(d) |grad d|^2]        (h(d) = d: kexue 9662 (2)).

A step along it is a gradient step of G on -E_z h(d(G(z))), d held fixed: the usual GAN (kexue 9662 (12)). It
descends the divergence

    D_f(q) = E_q f(r),    r = p/q = e^d,    where r^2 f''(r) = h'(log r),    m = (p + q)/2,

    name           h(d)             f(r)                                     D_f
    kl             d                -log r                                   KL(q || p)
    forward_kl     e^d              r log r                                  KL(p || q)
    saturating     log(1 + e^d)     r log r - (1 + r) log((1 + r)/2)         KL(p || m) + KL(q || m)
    gan            log sigmoid(d)   (1 + r) log((1 + r)/(2 r))               2 KL(m || p)

(Goodfellow et al. 2014: `saturating` is their min-max game, `gan` what they train instead.) The two last add up to the
first. Far from the data, d -> -inf, the h' of `forward_kl` and of `saturating` vanish, and with them the gradient.

The critic learns d by logistic regression, softplus(-d(x)) + softplus(d(G(z))), whose minimum is log p/q
(kexue 9662 (3, 4)). The penalty on |grad d(x)|^2 at data (R1, Mescheder et al. 2018) keeps d finite where the two laws
do not overlap, and flattens it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.method import Example, Keys, Method, Turn, per_example
from diffjax.methods import shapes
from diffjax.types import Array, Key, PyTree

__all__ = ["monoflow"]  # what a config may name

H: dict[str, Callable] = {
    "forward_kl": jnp.exp,
    "gan": jax.nn.log_sigmoid,
    "kl": lambda d: d,
    "saturating": jax.nn.softplus,
}
PROBED = np.linspace(-20.0, 20.0, 81)  # logits at which h has to increase


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

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws the generator's input for examples of this shape: N(0, I)."""
        return jax.random.normal(key, shape if self.latent is None else (self.latent,))

    def make(self, params: PyTree, z: Array, given: dict, **options: Any) -> Array:
        """Makes an example G(z) of noise z."""
        return self.generator.apply(params["generator"], z, jnp.zeros(()), given, **options)

    def logit(self, params: PyTree, x: Array, given: dict, **options: Any) -> Array:
        """Computes d(x), an estimate of log p(x)/q(x)."""
        return jnp.sum(self.critic.apply(params["critic"], x, jnp.zeros(()), given, **options))


def monoflow(
    generator: Any,
    critic: Any,
    h: str | Callable = "gan",
    critics: int = 3,
    penalty: float = 0.0,
    latent: int | None = None,
) -> Method:
    """Makes the method of `critics` turns of the critic and one of the generator; only the generator is served.

    Args:
        generator: network from noise, and what is given, to an example.
        critic: network of an example, and what is given, whose outputs add up to the log density ratio.
        h: a name of `H`, or an increasing function of the logit.
        critics: turns of the critic in each step.
        penalty: weight of |grad d(x)|^2 / 2 at data.
        latent: entries of the noise vector; None: noise of x's shape.

    Raises:
        ValueError: for an h that is unknown or does not increase, or another number out of its range.
    """
    climb, of = _increasing(h), MonoFlow(generator, critic, latent)
    host.check_int("critics", critics, most=1024)
    if latent is not None:
        host.check_int("latent", latent, most=2**24)
    if not 0 <= penalty < np.inf:
        raise ValueError(f"Got penalty = {penalty!r}, expected a weight, 0 or more.")

    def init(key: Key, example: Example) -> PyTree:
        zero, z = jnp.zeros(()), of.noise(key, example.x.shape)
        own = generator.init(jax.random.fold_in(key, 0), z, zero, example.given)
        made = jax.eval_shape(of.make, {"generator": own}, z, example.given).shape
        if made != example.x.shape:
            raise ValueError(f"The generator makes examples of shape {made}, expected {example.x.shape}, the data's.")
        return {"generator": own, "critic": critic.init(jax.random.fold_in(key, 1), example.x, zero, example.given)}

    def made(params: PyTree, keys: Keys, example: Example) -> tuple[Array, dict[str, Any]]:
        key_noise, key_dropout = jax.random.split(keys.example)
        z = example.chosen["z"] if "z" in example.chosen else of.noise(key_noise, example.x.shape)
        options = {"train": True, "key": key_dropout}
        return of.make(params, z, example.given, **options), options

    def judge(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        fake, options = made(params, keys, example)
        logit = lambda x: of.logit(params, x, example.given, **options)
        at_data, at_fake = logit(example.x), logit(fake)
        loss = jax.nn.softplus(-at_data) + jax.nn.softplus(at_fake)  # (monoflow.1)
        if penalty:
            loss += penalty / 2 * jnp.sum(jax.grad(logit)(example.x) ** 2)  # (monoflow.2)
        return loss, {"gap": at_data - at_fake}

    def forge(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        fake, options = made(params, keys, example)
        return -climb(of.logit(params, fake, example.given, **options)), {}  # (monoflow.3)

    def draw(params: PyTree, request: shapes.Shape, key: Key, given: dict) -> Array:
        return of.make(params, of.noise(key, request.shape), given)

    turns = (Turn(per_example(judge), "critic"),) * critics + (Turn(per_example(forge), "generator"),)
    return Method(init, turns, draw, shapes.plan, served=("generator",), asks=generator.reads, parts=of)


def _increasing(h: str | Callable) -> Callable:
    """h as a function of the logit, looked at on a grid of logits."""
    if isinstance(h, str) and h not in H:
        raise ValueError(f"Got h = {h!r}, expected one of {', '.join(H)}, or an increasing function of the logit.")
    climb = H[h] if isinstance(h, str) else h
    slopes = host.float64(jax.vmap(jax.grad(climb)), PROBED)
    if (bad := np.flatnonzero(~(slopes > 0))).size:
        at, slope = PROBED[bad[0]], slopes[bad[0]]
        raise ValueError(f"Got an h with h'({at:g}) = {slope:g}, expected one that increases on logits of -20 to 20.")
    return climb
