"""The variational bound of a chain, term by term (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021; kexue 9152 (5)).

    -log p(x_0) <= KL(q(x_T | x_0) || p(x_T)) + sum over steps t -> s of KL(q(x_s | x_t, x_0) || p(x_s | x_t))
                   - log p(x_0 | x_t of the last step)

One equation, three derivations:

    demolish and rebuild  learn to undo x_s -> x_t, average out the noise that does not matter (kexue 9119 (13))
    hierarchical VAE      the joint KL over the whole chain, which is this bound (kexue 9152 (4))
    Bayes and denoise     q(x_s | x_t, x_0) by Bayes' rule, x_0 replaced by what is known of it (kexue 9164 (10))

Each ends with the step

    p(x_s | x_t)      = N(k x_t + gamma mean, beta_tilde (1 + gain var)),
    q(x_s | x_t, x_0) = N(k x_t + gamma x_0, beta_tilde)

of `samplers.ancestral` and `chains`, whose divergence needs the posterior and the gain = SNR_s - SNR_t alone, per entry

    KL = (log(1 + gain var) + gain ((x_0 - mean)^2 - var) / (1 + gain var)) / 2.

With var = 0 that is gain (x_0 - mean)^2 / 2, and over ever finer steps -SNR'(t) (x_0 - mean)^2 / 2 (Kingma et al. 2021,
eq. 13 and 15). On the last step the gain is infinite, and the posterior itself is the decoder.

Losses: `hybrid` is L_simple + vlb_weight L_vlb, `variational` L_vlb. L_vlb is in bits per dimension, estimated by T
times the term of one time: the published code's weight T / 1000 of one term is vlb_weight = 0.001.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from diffjax import chains, host
from diffjax.calculus import need_gaussian, need_scalar
from diffjax.denoisers.targets import Target, denoiser, inputs, split_maps
from diffjax.denoisers.variance import LearnedRange
from diffjax.losses.weights import Weight, unit
from diffjax.processes.gaussian import Gaussian
from diffjax.types import Array, Network, Posterior

_UNIT = unit()


def kl(posterior: Posterior, gain: Any, x0: Array) -> Array:
    """Computes KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats, entry by entry."""
    mean, var = posterior
    return 0.5 * (jnp.log1p(gain * var) + gain * ((x0 - mean) ** 2 - var) / (1 + gain * var))  # (elbo.2)


def log_likelihood(posterior: Posterior, x0: Array, levels: int | None = None) -> Array:
    """Computes log p(x_0 | x_t) in nats, entry by entry, of the Gaussian posterior.

    Args:
        levels: x_0 is one of this many values evenly from -1 to 1, and has the probability of its bin, of half width
            1 / (levels - 1), the outermost ones open (Ho et al. 2020, eq. 13). 256 for bytes, 17 for scikit-learn's
            digits. None: x_0 is continuous, the log of a density.

    Raises:
        ValueError: if levels < 2.
    """
    mean, var = posterior
    std = jnp.sqrt(var)
    if levels is None:
        return -0.5 * ((x0 - mean) / std) ** 2 - jnp.log(std) - 0.5 * math.log(2 * math.pi)
    check_levels(levels)
    half = 1 / (levels - 1)
    below, above = (x0 - half - mean) / std, (x0 + half - mean) / std
    lowest, highest = x0 < -1 + half, x0 > 1 - half
    # log(Phi(above) - Phi(below)), in the tail where Phi is small: Phi(above) - Phi(below) = Phi(-below) - Phi(-above).
    flip = below + above > 0
    b, a = jnp.where(flip, -below, above), jnp.where(flip, -above, below)
    log_b, log_a = jax.scipy.special.log_ndtr(b), jax.scipy.special.log_ndtr(a)
    inside = log_b + jnp.log(-jnp.expm1(log_a - log_b))  # (elbo.4)
    ends = jax.scipy.special.log_ndtr(jnp.where(lowest, above, -below))
    return jnp.where(lowest | highest, ends, inside)


def term(posterior: Posterior, gain: Any, x0: Array, levels: int | None = None) -> Array:
    """Computes the bound's term of one step in nats, by entry: a divergence, or the decoder at an infinite gain."""
    mean, var = posterior
    last = jnp.isinf(gain)
    decoder = -log_likelihood(Posterior(mean, jnp.where(last, var, 1.0)), x0, levels)  # no 0 / 0, nor its gradient
    return jnp.where(last, decoder, kl(posterior, jnp.where(last, 1.0, gain), x0))  # (iddpm.2)


def variational(
    net: Network,
    process: Gaussian,
    target: Target,
    x0: Array,
    z: Array,
    t: Any,
    weight: Weight = _UNIT,
    *,
    steps: int | None = None,
    levels: int | None = 256,
) -> Array:
    """Computes L_vlb of one example at one time of the chain: an unbiased scalar for t uniform over it (`times.chain`).

    Args:
        net: (x_in, c) -> two maps of x_0's shape, F and the u of `denoisers.variance.learned_range`.
        weight: not used; the bound has its own.
        steps: T (`chains.length`).
        levels: of the decoder (`log_likelihood`).

    Raises:
        ValueError: for a network of one map, or levels < 2.
    """
    F, u = split_maps(net(*inputs(process.schedule, target, process.corrupt(x0, z, t), t)), x0, 2)
    return _bits(F, u, process, target, x0, z, t, steps, levels)


def hybrid(
    net: Network,
    process: Gaussian,
    target: Target,
    x0: Array,
    z: Array,
    t: Any,
    weight: Weight = _UNIT,
    *,
    vlb_weight: float = 0.001,
    steps: int | None = None,
    levels: int | None = 256,
) -> Array:
    """Computes L_hybrid (Nichol & Dhariwal 2021, eq. 16): regression of F, and L_vlb, which moves the variance alone.

    Args: as of `variational`, and
        weight: of the regression (`losses.weights`).
        vlb_weight: lambda.
    """
    a, b = target(process.schedule, t)
    F, u = split_maps(net(*inputs(process.schedule, target, process.corrupt(x0, z, t), t)), x0, 2)
    simple = weight(process.schedule, target, t) * jnp.mean((F - a * x0 - b * z) ** 2)
    # (iddpm.3)
    return simple + vlb_weight * _bits(jax.lax.stop_gradient(F), u, process, target, x0, z, t, steps, levels)


def _bits(F: Array, u: Array, process: Gaussian, target: Target, x0, z, t, steps, levels) -> Array:
    """Estimates the bound by T times its term at t, in bits per dimension: a scalar."""
    need_scalar(process.schedule, "The bound of a chain from noise")
    need_gaussian(process.schedule, "The bound is that of a chain with Gaussian steps", "use loss.name=regression")
    chain = chains.whole(process.schedule, steps)
    chain.check(t)
    of_maps = denoiser(lambda x, c: jnp.concatenate([F, u], -1), process.schedule, target)
    posterior = LearnedRange(of_maps, chain)(process.corrupt(x0, z, t), t)
    return len(chain.t) / math.log(2) * jnp.mean(term(posterior, chain.gain_at(t), x0, levels))


def check_levels(levels: int) -> None:
    """Raises a ValueError unless levels is an integer >= 2."""
    if not host.is_int(levels, 2):
        raise ValueError(f"The data has levels = {levels!r}, expected an integer >= 2 (256 for bytes), or None.")
