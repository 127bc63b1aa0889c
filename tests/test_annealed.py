"""Annealed denoising score matching: what its published form converges to, and what the repairs do.

All of it by the loss's own value: of an energy g . x it is a quadratic in g, whose mean given x_t = x is exact by four
nodes for each component of the data. Its least point is the field f*, its curvature 2 Q; an energy of all the plane is
the one whose slopes lie nearest to f*, weighted by Q.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import spsolve

from diffjax.losses import score_matching
from diffjax.processes import Gaussian
from diffjax.schedules import EDM

exact = pytest.mark.usefixtures("x64")
LEVELS = (0.1, 0.6)
NODES = np.asarray([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])  # exact for a quadratic under a standard normal
TWO = ((0.3, 0.7), ((1.0, 0.0), (-0.5, 0.8)), (0.05, 0.05))  # shares, means, variances
RINGS = ((0.5, 0.5), ((0.0, 0.0), (0.0, 0.0)), (0.05, 0.4))


@jax.jit
def least(shares, means, variances, levels, points, sigma_0):
    process = Gaussian(EDM())
    loss = lambda g, x0, x, t: score_matching.annealed(lambda y: g @ y, process, x0, (x - x0) / t, t, sigma_0)

    def of_level(g, x, sigma):
        total = variances + sigma**2
        gap = x[None] - means
        joint = shares * jnp.exp(-jnp.sum(gap**2, 1) / 2 / total) / total
        spread = jnp.sqrt(variances * sigma**2 / total)
        x0s = (means + (variances / total)[:, None] * gap)[:, None] + spread[:, None, None] * NODES[None]
        each = jax.vmap(jax.vmap(lambda x0: loss(g, x0, x, sigma)))(x0s)
        return joint @ each.mean(1)

    def solve(x):
        slope = jax.grad(lambda g: jnp.sum(jax.vmap(lambda sigma: of_level(g, x, sigma))(levels)))
        start, axes = slope(jnp.zeros(2)), jnp.eye(2)
        curvature = jax.vmap(slope)(axes) - start[None]  # of a quadratic
        return -start / jnp.diag(curvature), jnp.diag(curvature)[0] / 2, curvature[0, 1]

    return jax.vmap(solve)(points)


def optimum(of, points, sigma_0, levels=LEVELS):
    """f* (n, 2) and Q (n,): the least point and half the curvature of sum of p_sigma(x) E[loss | x_t = x] in g."""
    f, Q, across = map(np.asarray, least(*map(np.asarray, (*of, levels, points)), sigma_0))
    assert np.all(np.abs(across) <= 1e-12 * Q)
    return f, Q


def around(at, d=1e-4):
    """A point, and those beside it on both axes."""
    return [np.asarray(at) + s * e for s, e in ((0, 0), *((s, e) for e in d * np.eye(2) for s in (1, -1)))]


def curl(values, d=1e-4):
    """df_2/dx_1 - df_1/dx_2 of the values beside a point."""
    right, left, up, down = values
    return (right[1] - left[1] - up[0] + down[0]) / (2 * d)


def log_Q(of, x, levels=LEVELS):
    shares, means, variances = (np.asarray(a) for a in of)
    square = np.sum((x[..., None, :] - means) ** 2, -1)
    each = [np.sum(shares * np.exp(-square / 2 / (variances + s**2)) / (variances + s**2), -1) / s**2 for s in levels]
    return np.log(sum(each))


AT = {
    (0.5, 0.5): ((-0.0658, 7.7477), -45.48),
    (0.0, 0.0): ((7.0957, -40.3058), -28.45),
    (0.3, -0.2): ((-11.7215, -12.2918), 79.00),
}


@exact
def test_the_published_loss_has_a_field_with_curl():
    """f* = -grad P / (sigma_0^2 Q) and its curl; the repair's is -grad log Q, without curl."""
    points = np.concatenate([around(at) for at in AT])
    published, repaired = (optimum(TWO, points, sigma_0)[0].reshape(3, 5, 2) for sigma_0 in (0.1, None))
    for (at, (field, whirl)), found, other in zip(AT.items(), published, repaired):
        np.testing.assert_allclose(found[0], field, atol=6e-5)
        np.testing.assert_allclose(curl(found[1:]), whirl, atol=6e-3)
        slope = [-(log_Q(TWO, at + e) - log_Q(TWO, at - e)) / 2e-5 for e in 1e-5 * np.eye(2)]
        np.testing.assert_allclose(other[0], slope, rtol=1e-6)
        assert abs(curl(other[1:])) < 1e-5


def projection(of, sigma_0, levels=LEVELS, side=121):
    """The energy on a grid of [-3, 3]^2 that the loss has least, f* at the edges' midpoints, and what it leaves of f*.

    Returns:
        E (side^2,), points (side^2, 2), and the share of the sum of Q |f*|^2 that no gradient reaches.
    """
    axis, step = np.linspace(-3, 3, side), 6 / (side - 1)
    points = np.stack([a.ravel() for a in np.meshgrid(axis, axis, indexing="ij")], 1)
    number = np.arange(side**2).reshape(side, side)
    edges = [(number[:-1], number[1:]), (number[:, :-1], number[:, 1:])]  # along each axis
    begin, end = (np.concatenate([edge[i].ravel() for edge in edges]) for i in (0, 1))
    along = np.repeat([0, 1], side * (side - 1))
    f, Q = optimum(of, (points[begin] + points[end]) / 2, sigma_0, levels)
    f, rows = f[np.arange(len(f)), along], np.arange(len(f))
    slope = sparse.csr_matrix(
        (np.repeat([-1 / step, 1 / step], len(f)), (np.tile(rows, 2), np.r_[begin, end])), (len(f), side**2)
    )
    weighted = slope.T @ sparse.diags(Q)
    E = np.r_[0.0, spsolve((weighted @ slope)[1:, 1:].tocsc(), (weighted @ f)[1:])]  # up to a constant
    return E, points, np.sum(Q * (slope @ E - f) ** 2) / np.sum(Q * f**2)


PROJECTED = {  # data, sigma_0, levels, and the share
    "published": (TWO, 0.1, LEVELS, (0.0092165, 0.0092175)),
    "radial": (RINGS, 0.1, LEVELS, (0, 5e-9)),
    "one level": (TWO, 0.1, (0.6, 0.6), (0, 5e-9)),
    "repaired": (TWO, None, LEVELS, (0, 5e-8)),
}


@exact
@pytest.mark.parametrize("name", PROJECTED)
def test_the_share_of_the_field_that_no_energy_reaches(name):
    """By weighted least squares on a grid: of the published form with two levels, beside three that have an energy."""
    of, sigma_0, levels, (low, high) = PROJECTED[name]
    E, points, share = projection(of, sigma_0, levels)
    assert low <= share <= high
    if name == "repaired":  # that energy is the data's under a random level
        near = np.all(np.abs(points) < 1.5, 1)
        gap = (E + log_Q(of, points))[near]
        np.testing.assert_allclose(gap, gap.mean(), atol=1e-2)


@exact
@pytest.mark.parametrize(("sigma_0", "factor"), [(None, 1.0), (0.3, 0.25 / 0.09)])
def test_one_level_of_gaussian_data_has_its_energy(sigma_0, factor):
    """E = k x^2 / 2 with k = 1 / (v + sigma^2), at sigma = .5; sigma_0 in its place tempers it."""
    v, sigma, process = 0.8, 0.5, Gaussian(EDM())
    nodes, mass = np.polynomial.hermite_e.hermegauss(4)
    x0, z = (a.ravel() for a in np.meshgrid(np.sqrt(v) * nodes, nodes))
    mass = jnp.asarray(np.outer(mass, mass).ravel() / mass.sum() ** 2)
    one = lambda k, x0, z: score_matching.annealed(lambda x: k * x**2 / 2, process, x0, z, sigma, sigma_0)
    mean = lambda k: jnp.sum(mass * jax.vmap(partial(one, k))(jnp.asarray(x0), jnp.asarray(z)))
    found = jax.jit(lambda k: -jax.grad(mean)(k) / jax.hessian(mean)(k))(0.0)
    np.testing.assert_allclose(found, factor / (v + sigma**2), rtol=1e-12)


@pytest.mark.parametrize(
    ("energy", "t", "sigma_0", "line"),
    [
        (jnp.sum, 0.5, 0.0, r"^sigma_0 is 0\.0, expected a positive number; None puts"),
        (jnp.sum, 0.5, -0.1, r"^sigma_0 is -0\.1, expected a positive number; None puts"),
        (jnp.sum, 0.0, None, r"^sigma_t is 0\.0, expected a positive number, which the loss divides by"),
        (lambda x: x, 0.5, 0.1, r"^An energy is one number for an example, but got shape \(2,\) for x of shape \(2,\)"),
    ],
)
def test_bad_input_is_one_line(energy, t, sigma_0, line):
    with pytest.raises(ValueError, match=line) as error:
        score_matching.annealed(energy, Gaussian(EDM()), jnp.zeros(2), jnp.zeros(2), t, sigma_0)
    assert "\n" not in str(error.value)
