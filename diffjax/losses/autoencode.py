"""How far a decoded example is from its own, and what an adversary weighs beside that.

    L1, L2      the mean over entries of |x - y|, of (x - y)^2
    adversary   w = |grad_last L_rec| / (|grad_last L_gan| + 1e-4), in [0, 1e4], a constant   (Esser et al. 2021, eq. 7)

grad_last is the gradient by the decoder's last layer: there both losses pull equally hard.
"""

import jax
import jax.numpy as jnp
import optax

from diffjax.types import Array, PyTree

__all__ = ["adversarial_weight", "l1", "l2"]
EPS, MOST = 1e-4, 1e4


def l1(x: Array, y: Array) -> Array:
    """Computes the mean of |x - y| over entries."""
    return jnp.mean(jnp.abs(x - y))


def l2(x: Array, y: Array) -> Array:
    """Computes the mean of (x - y)^2 over entries."""
    return jnp.mean((x - y) ** 2)


def adversarial_weight(reconstruction: PyTree, adversary: PyTree) -> Array:
    """Computes the weight of an adversary's loss from both gradients by the last layer; no gradient flows through it.

    Args:
        reconstruction, adversary: gradients of the two losses, trees of one structure.
    """
    weight = optax.tree.norm(reconstruction) / (optax.tree.norm(adversary) + EPS)
    return jax.lax.stop_gradient(jnp.clip(weight, 0.0, MOST))  # (latents.6)
