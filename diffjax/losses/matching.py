"""One loss of every generator that follows a field, and what a critic of two laws learns.

With p the data's law, q that of x = G(z) and V a field that is zero where q = p,

    L(theta) = 1/2 |G - sg(G + eps V(G))|^2,        dL/dtheta = -eps J^T V,

sg being the stop of a gradient: the step that moves samples along V (Deng et al. 2026, arXiv 2602.04770; of a
critic's field kexue 9662 (12)). `losses.fields` has four estimates of V. For V = grad h(d), d = log p/q, it is eps
times the gradient of -h(d(G)), d held fixed: the generator's step of a GAN (Yi, Zhu & Liu 2023, MonoFlow).

Points that move along grad h(d) carry q to p for every increasing h, dKL(q || p)/dtau = -E_q[h'(d) |grad d|^2], and
descend D_f(q) = E_q f(p/q) with r^2 f''(r) = h'(log r):

    name           h(d)             f(r)                                     D_f                       m = (p + q)/2
    kl             d                -log r                                   KL(q || p)
    forward_kl     e^d              r log r                                  KL(p || q)
    saturating     log(1 + e^d)     r log r - (1 + r) log((1 + r)/2)         KL(p || m) + KL(q || m)
    gan            log sigmoid(d)   (1 + r) log((1 + r)/(2 r))               2 KL(m || p)
    arcsinh        arcsinh(d)       no closed form

A critic that tells data from samples by logistic regression, `apart`, learns d. In pairs of one datum and one sample,
`paired` (Jolicoeur-Martineau 2018), it learns d and a constant, and the generator's h(d - d(x)) of a datum x is, in its
mean over data, one increasing function of d more. Hinge and Wasserstein critics know no ratio: no h makes them one.
"""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.types import Array

H: dict[str, Callable] = {
    "arcsinh": jnp.arcsinh,
    "forward_kl": jnp.exp,
    "gan": jax.nn.log_sigmoid,
    "kl": lambda d: d,
    "saturating": jax.nn.softplus,
}
NO_RATIO = ("hinge", "wgan")
PROBED = np.linspace(-20.0, 20.0, 81)  # logits at which h has to increase


def toward(x: Array, V: Array, eps: float = 1.0) -> Array:
    """Computes 1/2 |x - sg(x + eps V)|^2, a scalar: its gradient moves x along V.

    Args:
        x: a sample, with the gradient of what made it.
        V: the field at x, of x's shape; no gradient flows through it.
        eps: length of the step; Adam does not see it, a clipped gradient does.

    Raises:
        ValueError: for a field of another shape, which would be spread over x.
    """
    if jnp.shape(V) != jnp.shape(x):
        raise ValueError(f"The field of a sample has shape {jnp.shape(V)}, expected {jnp.shape(x)}, the sample's.")
    return 0.5 * jnp.sum((x - jax.lax.stop_gradient(x + eps * V)) ** 2)  # (matching.1), (monoflow.3)


def apart(at_data: Array, at_sample: Array) -> Array:
    """Computes a critic's logistic loss of a datum and a sample, each by itself: least where d = log p/q.

    kexue 9662 (3, 4).
    """
    return jax.nn.softplus(-at_data) + jax.nn.softplus(at_sample)  # (monoflow.1)


def paired(at_data: Array, at_sample: Array) -> Array:
    """Computes a critic's logistic loss of a datum beside a sample: least where d = log p/q + any constant."""
    return jax.nn.softplus(at_sample - at_data)  # (matching.2)


def steepness(critic: Callable[[Array], Array], x: Array) -> Array:
    """Computes |grad d(x)|^2 / 2 of a critic d: at data R1, at samples R2 (Mescheder et al. 2018), centred on zero."""
    return 0.5 * jnp.sum(jax.grad(critic)(x) ** 2)  # (monoflow.2)


@lru_cache(64)
def increasing(h: str | Callable) -> Callable:
    """Finds h as a function of the logit, and looks at its slope on logits of -20 to 20.

    Raises:
        ValueError: for a name that is not in `H`, or a function that is not one number of a logit or does not increase.
    """
    if h not in H if isinstance(h, str) else not callable(h):
        why = " (a hinge or Wasserstein critic knows no density ratio, so that it has no h)" if h in NO_RATIO else ""
        raise ValueError(
            f"Got h = {h!r}{why}, expected one of {', '.join(H)}, or, in Python, an increasing function of d."
        )
    climb = H[h] if isinstance(h, str) else h
    if (made := jax.eval_shape(climb, jax.ShapeDtypeStruct((), jnp.float32)).shape) != ():
        raise ValueError(f"Got an h that makes shape {made} of a logit, expected one number.")
    slopes = host.float64(jax.vmap(jax.grad(climb)), PROBED)
    if (bad := np.flatnonzero(~(slopes > 0))).size:
        at, slope = PROBED[bad[0]], slopes[bad[0]]
        raise ValueError(f"Got an h with h'({at:g}) = {slope:g}, expected one that increases on logits of -20 to 20.")
    return climb
