"""Nearest-neighbour comparisons of samples with data, by Euclidean distance between flattened arrays.

Two-sample accuracy (Lopez-Paz and Oquab 2017; Xu et al. 2018, arXiv:1806.07755), coverage (Naeem et al. 2020,
arXiv:2002.09797, eq. 9), and two copying checks against the training set (in the manner of Meehan et al. 2020).
"""

import numpy as np

from diffjax import host

WIDE = 512  # entries of an example from which on distances are taken by inner products


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Computes distances (n, m) of x (n, ...) and y (m, ...). ValueError if dimensions differ or one is empty.

    Of more than WIDE entries by inner products, |x|^2 + |y|^2 - 2 x y from their common mean, some twenty times faster:
    a square is then off by rounding of about 1e-15 (|x|^2 + |y|^2), and 0 where it is below 1e-12 of that.
    """
    from scipy.spatial.distance import cdist

    if not len(x) or not len(y) or np.shape(x)[1:] != np.shape(y)[1:]:
        shapes = f"{np.shape(x)} and {np.shape(y)}"
        raise ValueError(f"samples of shapes {shapes}; expected (n, ...) and (m, ...) with n, m >= 1")
    if np.size(x) // len(x) > WIDE:
        return _across(x, y)
    flat = [np.asarray(a, np.float64).reshape(len(a), -1) for a in (x, y)]
    return cdist(flat[0], flat[1])


def nearest(x: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Computes the distance (n,) of each sample of x (n, ...) to the nearest of data (m, ...)."""
    return distances(x, data).min(1)


def _across(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    inner, sizes = np.zeros((len(x), len(y))), [np.zeros(len(x)), np.zeros(len(y))]
    for parts in host.blocks(x, y):
        mean = np.concatenate(parts).mean(0)
        one, two = (part - mean for part in parts)
        inner += one @ two.T
        sizes = [size + np.einsum("ij,ij->i", part, part) for size, part in zip(sizes, (one, two))]
    return _roots(sizes[0][:, None] + sizes[1], inner)


def _by_products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    inner = np.zeros((len(x) + len(y),) * 2)
    for parts in host.blocks(x, y):
        both = np.concatenate(parts)
        both -= both.mean(0)
        inner += both @ both.T  # half the work: NumPy sees that it is symmetric
    return _roots(np.diag(inner)[:, None] + np.diag(inner), inner)


def _roots(size: np.ndarray, inner: np.ndarray) -> np.ndarray:
    squares = size - 2 * inner
    return np.sqrt(np.where(squares > 1e-12 * size, squares, 0))


def joint_distances(real: np.ndarray, fake: np.ndarray, wide: int = WIDE) -> np.ndarray:
    """Computes the distances (n + m, n + m) of real and fake samples together, in this order.

    Args:
        wide: entries of an example from which on they are taken by inner products (`distances`).
    """
    if np.size(real[0]) > wide:
        return _by_products(real, fake)
    across = distances(real, fake)
    return np.block([[distances(real, real), across], [across.T, distances(fake, fake)]])


def two_sample_accuracy(real: np.ndarray, fake: np.ndarray, joint: np.ndarray | None = None) -> tuple[float, float]:
    """Computes leave-one-out 1-nearest-neighbour accuracies of telling real from fake: on the real, on the fake ones.

    About 1/2 each for equal laws and equal n. Real below fake: the fakes crowd the modes; both near 1: no overlap.
    Equidistant neighbours share the vote.

    Args:
        joint: `joint_distances(real, fake)`, where it is known.
    """
    if len(real) != len(fake):
        raise ValueError(f"{len(real)} real and {len(fake)} fake samples: the accuracy is 1/2 only at equal numbers")
    gaps = joint_distances(real, fake) if joint is None else joint.copy()
    np.fill_diagonal(gaps, np.inf)
    nearest = gaps == gaps.min(1, keepdims=True)
    is_real = np.arange(len(gaps)) < len(real)
    correct = (nearest & (is_real[:, None] == is_real)).sum(1) / nearest.sum(1)
    return float(correct[is_real].mean()), float(correct[~is_real].mean())


def radii(within: np.ndarray, k: int, what: str = "real") -> np.ndarray:
    """Computes the distance of each sample to its k-th neighbour, itself left out, of a cloud's distances (n, n).

    Raises:
        ValueError: unless 1 <= k < n.
    """
    if not 1 <= k < len(within):
        raise ValueError(f"k = {k}; expected 1 <= k < {len(within)}, the number of {what} samples")
    return np.partition(within, k, axis=1)[:, k]  # column 0 is the sample itself


def coverage(real: np.ndarray, fake: np.ndarray, k: int = 5, joint: np.ndarray | None = None) -> float:
    """Computes the share of real samples with a fake one inside the ball that reaches their k-th real neighbour.

    Its mean for equal laws is `covered`. `joint` as of `two_sample_accuracy`.
    """
    n = len(real)
    within, across = (distances(real, real), distances(real, fake)) if joint is None else (joint[:n, :n], joint[:n, n:])
    return float((across.min(1) <= radii(within, k)).mean())


def covered(n: int, m: int, k: int = 5) -> float:
    """Computes the mean coverage of n real samples by m of their own continuous law: 1 - prod_j (n - j) / (n + m - j).

    A real sample is not covered where its k nearest, of all n - 1 + m others, are real: j = 1 .. k. With n = m it
    falls to 1 - 2^-k, 0.969 at k = 5.
    """
    j = np.arange(1, k + 1)
    return float(1 - np.prod((n - j) / (n + m - j)))  # (features.6)


def train_neighbour_ratio(
    fake: np.ndarray, train: np.ndarray, held_out: np.ndarray, near: tuple[np.ndarray, np.ndarray] | None = None
) -> float:
    """Computes the median distance to the nearest training sample: that of fakes over that of held-out data.

    1 for fresh data, 0 for copies of the training set, above 1 for samples off the data. ValueError when the held-out
    median is 0 (data with duplicates has no such ratio).

    Args:
        near: the `nearest` distances to train of fake and of held_out, where they are known.
    """
    fakes, fresh = (nearest(fake, train), nearest(held_out, train)) if near is None else near
    typical = np.median(fresh)
    if typical == 0:
        raise ValueError("more than half of the held-out samples are in the training set: the split leaks")
    return float(np.median(fakes) / typical)


def copied_share(
    fake: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    quantile: float = 0.01,
    near: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    """Computes the share of fakes nearer to a training sample than all but `quantile` of the held-out data.

    It sees copies of a part of the training set, which leave the median of `train_neighbour_ratio` where it was.

    Of fresh data about `quantile` are counted. `near` as of `train_neighbour_ratio`.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile = {quantile}; expected a number in [0, 1]")
    fakes, fresh = (nearest(fake, train), nearest(held_out, train)) if near is None else near
    return float((fakes < np.quantile(fresh, quantile)).mean())
