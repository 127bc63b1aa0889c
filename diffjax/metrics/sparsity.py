"""Sparsity: how few entries of a vector hold most of it, by ratios of norms (kexue 9595).

For x with n entries, and exponents 0 < q < p <= inf,

    S(x) = n^(1/p - 1/q) |x|_q / |x|_p,        n^(1/p - 1/q) <= S <= 1,        smaller is sparser:

1 where all |x_i| are equal, the least where one alone is not 0. At q = 1, p = 2 it is the cosine of the angle between
|x| and (1, ..., 1), and 1 / sqrt(1 + Var|x| / (E|x|)^2), moments over the entries. Of the axioms of Hurley and Rickard
2009 (sections II and III), said of what is even, these hold for all q < p: scale changes nothing; neither does a clone
of all entries; a constant added to all |x_i| raises S, more of the largest entry lowers it, and k zeros appended
multiply it by (n / (n + k))^(1/q - 1/p). Robin Hood's, where a larger entry gives to a smaller one less than half of
their difference: S does not fall where q <= 1 <= p, and rises there for all but (1, inf), where (3, 2, 1) and (3, 1.6,
1.4) are equal; for (2, 4) or (0.3, 0.6) there are vectors where S falls.

With a = |x|^q / sum |x|^q, a law, it is an entropy. H_r = log(sum a^r) / (1 - r) is Renyi's, e^H_r the effective number
of entries (Hill 1973), and S = (e^H_r / n)^(1/q - 1/p) with r = p / q. So n S^2 = 1 / sum a^2 at q = 1, p = 2: of a row
of attention how many tokens it attends to.

Independent standard normal entries are what unused latents are like. Their norm is independent of their direction:

    E S = sqrt(n) E|z| / E|z|_2 = sqrt(n / pi) Gamma(n / 2) / Gamma((n + 1) / 2),        -> sqrt(2 / pi).
"""

from typing import Any

import numpy as np

from diffjax import host


def evenness(x: Any, q: float = 1.0, p: float = 2.0, mask: Any = None) -> np.ndarray:
    """Computes S(x) of vectors x (..., n), over their last axis: (...), in [n^(1/p - 1/q), 1], smaller is sparser.

    Args:
        q, p: exponents of the norms, 0 < q < p; p may be infinite.
        mask: True for the entries that count, of a shape that broadcasts to x's; None: all. n is their number.

    Raises:
        ValueError: unless 0 < q < p; for no entries, one that is not finite, or a vector of zeros, which has no S.
    """
    if not 0 < q < p:
        raise ValueError(f"q = {q} and p = {p}: expected exponents 0 < q < p, such as 1 and 2.")
    size, counted = _sizes(x, mask)
    power = 1 / q - (0.0 if np.isinf(p) else 1 / p)
    # By logarithms: n^(1/q) alone is beyond float64 where q is small.
    log_norm = lambda r: np.log(np.sum(size**r, -1, where=counted)) / r  # the largest entry is 1, the sum at least that
    ratio = log_norm(q) - (0.0 if np.isinf(p) else log_norm(p))
    return np.exp(ratio - power * np.log(counted.sum(-1)))  # (sparsity.1)


def effective(weights: Any, order: float = 2.0, mask: Any = None) -> np.ndarray:
    """Computes the effective number of entries of weights (..., n), e^H of Renyi's entropy H: (...), from 1 to n.

    Args:
        weights: of any sum; their sizes are what counts.
        order: of the entropy, 0 or more. 2: 1 / sum a^2; 1: Shannon's, as within 1e-8 of it; 0: how many are not
            0; inf: 1 / max a.
        mask: as of `evenness`.

    Raises:
        ValueError: for a negative order, or as `evenness`.
    """
    if not order >= 0:
        raise ValueError(f"The order of the entropy is {order}, expected 0 or more, such as 2.")
    size, counted = _sizes(weights, mask)
    a = np.where(counted, size / np.sum(size, -1, keepdims=True, where=counted), 0)
    if np.isinf(order):
        return 1 / a.max(-1)
    positive = a > 0
    logs = np.log(a, out=np.zeros_like(a), where=positive)
    if abs(order - 1) < 1e-8:  # nearer to 1 round-off of the sum, over 1 - order, is more than what Shannon's is off by
        return np.exp(-np.sum(a * logs, -1))
    most = np.log(a.max(-1, keepdims=True))
    log_sum = order * most[..., 0] + np.log(np.sum(np.exp(order * (logs - most)), -1, where=positive))
    return np.exp(log_sum / (1 - order))  # (sparsity.2)


def gaussian(n: int) -> float:
    """Computes the mean of `evenness` of n independent standard normal entries: what a latent is held against.

    Raises:
        ValueError: unless n is an integer >= 1.
    """
    from scipy.special import gammaln

    host.check_int("n", n)
    return float(np.sqrt(n / np.pi) * np.exp(gammaln(n / 2) - gammaln((n + 1) / 2)))  # (sparsity.3)


def _sizes(x: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Makes |x| over its largest entry, (..., n) float64, and which entries count; refuses what has no sparsity."""
    if np.iscomplexobj(x):
        raise ValueError(f"Got entries of type {np.asarray(x).dtype}, expected real numbers, such as np.abs(x).")
    x = np.asarray(x, np.float64)
    if not x.ndim or not x.size:
        raise ValueError(f"Got an array of shape {x.shape}, expected vectors (..., n) with n >= 1.")
    counted = np.ones(x.shape, bool) if mask is None else np.asarray(mask)
    if counted.dtype != bool:
        raise ValueError(f"The mask is {counted.dtype}, expected bool: True for the entries that count.")
    counted = np.broadcast_to(counted, x.shape)
    size = np.where(counted, np.abs(x), 0)
    for bad, what in (
        (~counted.any(-1), "has no entry that counts: its mask is False throughout"),
        (~np.isfinite(size).all(-1), "is not finite"),
        (~size.any(-1), "is all 0, neither sparse nor even: leave it out"),
    ):
        if bad.any():
            at = np.argwhere(bad)[0]
            raise ValueError(f"Vector {', '.join(map(str, at))} {what}." if at.size else f"The vector {what}.")
    return size / size.max(-1, keepdims=True), counted
