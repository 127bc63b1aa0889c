"""What published networks are told of the noise level, as functions of the log-SNR that any network here is told.

A network told the index of a step, a time or a level of noise knows the level by that, and the log-SNR says each of
them: on a schedule of another clock, too, it is then told what it was trained to read.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.types import Array

CLOCKS = ("chain", "cosine_chain", "vp", "ve", "edm", "signal")
CHAIN = 1000  # steps of the published chains
MOST_LOG_SNR = 60.0  # log-SNRs are infinite at the ends: beyond this every clock stands still


def published_time(clock: str, c: Array) -> Array:
    """Computes what a network is told by this clock at the log-SNR c.

    chain, cosine_chain: the index, 0 to 999, of the step of DDPM's linear chain, or of iDDPM's cosine chain, that ends
    at this log-SNR, real between two steps; vp: 999 t of `schedules.VP`; ve: log(sigma / 2), of data in [-1, 1], theirs
    being in [0, 1]; edm: log(sigma) / 4; signal: 1 - t of `schedules.Rectified`.
    """
    c = jnp.clip(c, -MOST_LOG_SNR, MOST_LOG_SNR)
    if clock in ("chain", "cosine_chain"):
        table = jnp.asarray(_chain(clock), c.dtype)
        decay = jax.nn.softplus(-c) / 2  # -log alpha of a variance-preserving chain
        steps = jnp.interp(decay, table, jnp.arange(CHAIN + 1, dtype=c.dtype))  # (pretrained.1)
        return jnp.clip(steps - 1, 0, CHAIN - 1)
    if clock == "vp":
        low, rise, integral = 0.1, 19.9, jax.nn.softplus(-c)
        return (CHAIN - 1) * 2 * integral / (low + jnp.sqrt(low**2 + 2 * rise * integral))  # (pretrained.2)
    if clock == "signal":
        return jax.nn.sigmoid(c / 2)
    return -c / 2 - math.log(2.0) if clock == "ve" else -c / 8


def cos_sin(clock: str, c: Array, width: int) -> Array:
    """Computes cos and sin of the published time at width / 2 frequencies 10000^(-2 i / width) (Dhariwal & Nichol)."""
    half = width // 2
    frequencies = jnp.exp(jnp.arange(half, dtype=c.dtype) * (-math.log(10_000) / half))
    angles = jnp.tensordot(published_time(clock, c), frequencies, axes=0)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def _chain(clock: str) -> np.ndarray:
    """Minus the logarithm of alpha after 0, 1, .. 1000 steps, in float64 on the host."""
    if clock == "chain":
        betas = np.linspace(1e-4, 0.02, CHAIN)
    else:
        bar = np.cos((np.arange(CHAIN + 1) / CHAIN + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    return np.concatenate([[0.0], -0.5 * np.cumsum(np.log1p(-betas))])
