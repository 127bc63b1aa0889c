"""Bounds of the mutual information by scores of pairs: what tells (x, z) of one draw from (x, z) of two.

A score T(x, z) is told pairs of the joint law p(x, z), and pairs apart, of p(x) p(z). With I the mutual information in
nats, JSD the Jensen-Shannon divergence of the two laws, at most log 2, and K pairs of which each has K - 1 others,

    J = E log sigmoid(T) + E_apart log sigmoid(-T)  <=  2 JSD - 2 log 2        Nowozin et al. 2016 (kexue 6024)
    DV = E T - log E_apart e^T                      <=  I                      Donsker and Varadhan 1983; Belghazi 2018
    NCE = E [T_ii - log (1/K) sum_j e^T_ij]         <=  min(I, log K)          van den Oord et al. 2018

J and DV are equal to their bounds at T = log p(x, z) / (p(x) p(z)). J is no number of nats: it orders encoders, and its
gradient is unbiased; DV's is biased by the logarithm of a mean over few pairs, and so is the value, upwards.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.types import Array


def jensen_shannon(joint: Array, apart: Array) -> Array:
    """Computes what a pair of one draw and one of two add to J, of scores of equal shape; at most 0."""
    return jax.nn.log_sigmoid(joint) + jax.nn.log_sigmoid(-apart)  # (infomax.1)


def divergence(value: Any) -> Any:
    """Computes the Jensen-Shannon divergence that J bounds from below, J / 2 + log 2, in nats; log 2 at most."""
    return value / 2 + math.log(2)


def donsker_varadhan(joint: Array, apart: Array) -> Array:
    """Computes DV of scores (n,) of pairs of one draw, and (m,) of pairs apart, in nats."""
    return jnp.mean(joint) - (jax.nn.logsumexp(apart) - math.log(apart.size))  # (infomax.2)


def info_nce(scores: Array) -> Array:
    """Computes NCE of scores (K, K), T of x_i and z_j, in nats: log K at most.

    Raises:
        ValueError: for scores that are no square of two pairs or more.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise ValueError(
            f"Got scores of shape {scores.shape}, expected (K, K) of K >= 2 pairs: one alone has no other."
        )
    return jnp.mean(jnp.diagonal(scores) - jax.nn.logsumexp(scores, axis=1)) + math.log(len(scores))  # (infomax.3)
