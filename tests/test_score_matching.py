"""The forms of score matching agree where theory says so, by quadrature over a mixture and against each other."""

import closed_forms as forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import wide
from scipy import integrate, stats

from diffjax import analytic, divergence, losses
from diffjax.denoisers import Score
from diffjax.losses import score_matching as sm
from diffjax.losses import weights
from diffjax.processes import Gaussian
from diffjax.schedules import EDM, VP

WEIGHTS, MEANS, VARIANCES = np.asarray([0.35, 0.65]), np.asarray([-1.2, 0.7]), np.asarray([0.09, 0.25])
T = 0.3
ALPHA, SIGMA = (float(a) for a in forms.VP.amplitudes(wide(T)))


def target():
    return analytic.gaussian_mixture(WEIGHTS, MEANS[:, None], VARIANCES)


SCORES = {  # the right one, that of another law, and one that is none
    "exact": lambda x: target().score(x, ALPHA, SIGMA),
    "linear": lambda x: -0.8 * x + 0.1,
    "wild": lambda x: jnp.sin(3 * x) - x**3 / 10,
}


def marginal(x):
    """p, (log p)' and E[x_0 | x], Var[x_0 | x] of x_t, in NumPy."""
    total = ALPHA**2 * VARIANCES + SIGMA**2
    parts = WEIGHTS * stats.norm(ALPHA * MEANS, np.sqrt(total)).pdf(x[:, None])
    p = parts.sum(1)
    share = parts / p[:, None]
    means = MEANS + ALPHA * VARIANCES / total * (x[:, None] - ALPHA * MEANS)
    spread = SIGMA**2 * VARIANCES / total
    mean = (share * means).sum(1)
    score = (share * (ALPHA * MEANS - x[:, None]) / total).sum(1)
    return p, score, mean, (share * (spread + means**2)).sum(1) - mean**2


GRID = np.linspace(-8, 8, 4001)  # smooth and decaying: the trapezoidal rule converges faster than any power
P, TRUE, _, VAR = marginal(GRID)
DX = GRID[1] - GRID[0]


def over_x(values):
    return float(np.sum(P * np.asarray(values, np.float64)) * DX)


def over_x0_and_z(loss):
    """E over both, component by component, by Gauss and Hermite."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(90)
    mass = mass / mass.sum()
    total, compiled = 0.0, jax.jit(jax.vmap(loss))
    for w, m, v in zip(WEIGHTS, MEANS, VARIANCES):
        x0, z = (a.ravel() for a in np.meshgrid(m + np.sqrt(v) * nodes, nodes, indexing="ij"))
        values = compiled(x0[:, None], z[:, None])
        total += w * np.sum(np.outer(mass, mass).ravel() * np.asarray(values))
    return total


def explicit_mean(score):
    truth = lambda x: target().score(x, ALPHA, SIGMA)
    return over_x(jax.jit(jax.vmap(lambda x: sm.explicit(score, truth, x)))(GRID[:, None]))


@pytest.mark.parametrize("name", SCORES)
def test_denoising_minus_explicit_is_one_constant(name, x64):
    """(d / sigma^2 - E |grad log p|^2) / 2, and alpha^2 / sigma^4 E Var[x_0 | x_t] / 2: for every score."""
    score = SCORES[name]
    got = over_x0_and_z(lambda x0, z: sm.denoising(score, Gaussian(VP()), x0, z, T)) - explicit_mean(score)
    assert got == pytest.approx((1 / SIGMA**2 - over_x(TRUE**2)) / 2, abs=1e-10)
    assert got == pytest.approx(ALPHA**2 / SIGMA**4 * over_x(VAR) / 2, abs=1e-10)


def test_the_least_denoising_loss_is_the_gap_and_not_zero(x64):
    """It is the mean of `gap`, which an exact posterior gives."""
    denoise = target().denoiser(VP(), with_var=True)
    given = jax.jit(jax.vmap(lambda x: sm.gap(denoise(x, T), VP(), T)))(GRID[:, None])
    np.testing.assert_allclose(given, ALPHA**2 / SIGMA**4 * VAR / 2, rtol=1e-6, atol=1e-12)
    least = over_x0_and_z(lambda x0, z: sm.denoising(SCORES["exact"], Gaussian(VP()), x0, z, T))
    assert least == pytest.approx(over_x(given), abs=1e-10)
    assert least > 0.1
    assert explicit_mean(SCORES["exact"]) < 1e-20


@pytest.mark.parametrize("name", SCORES)
def test_implicit_is_explicit_but_for_a_constant(name, x64):
    """E[tr ds/dx + |s|^2 / 2] = explicit - E |grad log p|^2 / 2."""
    score = SCORES[name]
    got = over_x(jax.jit(jax.vmap(lambda x: sm.implicit(score, x)))(GRID[:, None]))
    assert got == pytest.approx(explicit_mean(score) - over_x(TRUE**2) / 2, abs=1e-12)


def field(x):
    """A score of a (2, 2) example that is no gradient."""
    a = jnp.asarray(np.random.default_rng(5).normal(size=(4, 4)))
    return (a @ jnp.tanh(x.ravel())).reshape(x.shape)


X = np.random.default_rng(6).normal(size=(2, 2))


def jacobian_and_score():
    a, flat = np.random.default_rng(5).normal(size=(4, 4)), X.ravel()
    return a * (1 - np.tanh(flat) ** 2), a @ np.tanh(flat)


def test_each_form_by_hand(x64):
    """In NumPy, for an example of four entries: sums over entries, means over directions."""
    jacobian, s = jacobian_and_score()
    v = np.random.default_rng(7).normal(size=(3, 4))
    pushed, along = np.einsum("ki,ij,kj->k", v, jacobian, v), v @ s

    @jax.jit
    def forms(x, directions):
        sliced = sm.sliced(field, x, directions), sm.sliced(field, x, directions, True)
        return sm.implicit(field, x), *sliced, sm.explicit(field, lambda x: 2 * x, x)

    implicit, whole, reduced, explicit = forms(X, v.reshape(3, 2, 2))
    np.testing.assert_allclose(implicit, np.trace(jacobian) + s @ s / 2, rtol=1e-12)
    np.testing.assert_allclose(whole, np.mean(pushed + along**2 / 2), rtol=1e-12)
    np.testing.assert_allclose(reduced, np.mean(pushed) + s @ s / 2, rtol=1e-12)
    np.testing.assert_allclose(explicit, np.sum((s - 2 * X.ravel()) ** 2) / 2, rtol=1e-12)


@pytest.mark.parametrize("reduced", [False, True])
def test_slices_along_the_axes_sum_up_to_the_implicit_form(reduced, x64):
    """Each unit vector once; with |s|^2 in place of (v' s)^2 the norm counts d times."""
    sliced, (_, s) = jax.jit(lambda x, axis: sm.sliced(field, x, axis, reduced)), jacobian_and_score()
    total = sum(float(sliced(X, axis)) for axis in np.eye(4).reshape(4, 1, 2, 2))
    implicit = jax.jit(lambda x: sm.implicit(field, x))(X)
    np.testing.assert_allclose(total, float(implicit) + (3 * s @ s / 2 if reduced else 0), rtol=1e-12)


def test_slices_are_unbiased_and_the_reduced_form_varies_less():
    """Gaussian directions; variances as those of quadratic forms: 2 |S|^2 with S = sym J (+ s s' / 2)."""
    jacobian, s = jacobian_and_score()
    x, symmetric = np.float32(X), (jacobian + jacobian.T) / 2
    implicit = float(jax.jit(lambda x: sm.implicit(field, x))(x))
    directions = divergence.gaussian(jax.random.key(0), x, 100_000)
    for reduced, form in ((False, symmetric + np.outer(s, s) / 2), (True, symmetric)):
        got = jax.jit(jax.vmap(lambda v, reduced=reduced: sm.sliced(field, x, v[None], reduced)))(directions)
        variance = 2 * np.sum(form**2)
        got = np.asarray(got)
        assert np.mean(got) == pytest.approx(implicit, abs=4 * np.sqrt(variance / 1e5))
        assert np.var(got) == pytest.approx(variance, rel=0.03)


def test_conditional_differentiates_any_kernel(x64):
    """Gaussian: denoising. Laplace's: the sign. Student's: by hand."""
    process, x0, z = Gaussian(VP()), X, np.random.default_rng(8).normal(size=(2, 2))
    x = ALPHA * x0 + SIGMA * z
    conditional = lambda log_p: jax.jit(lambda x0, x: sm.conditional(field, log_p, x0, x))(x0, x)
    said = np.asarray(jax.jit(field)(x))
    normal = lambda x, x0: jnp.sum(jax.scipy.stats.norm.logpdf(x, ALPHA * x0, SIGMA))
    expected = float(jax.jit(lambda x0, z: sm.denoising(field, process, x0, z, T))(x0, z))
    np.testing.assert_allclose(conditional(normal), expected, rtol=1e-10)
    by_hand = np.sum((said + z / SIGMA) ** 2) / 2
    np.testing.assert_allclose(expected, by_hand, rtol=1e-10)
    laplace = lambda x, x0: -jnp.sum(jnp.abs(x - x0))
    by_hand = np.sum((said + np.sign(x - x0)) ** 2) / 2
    np.testing.assert_allclose(conditional(laplace), by_hand, rtol=1e-12)
    student = lambda x, x0: -3.0 * jnp.sum(jnp.log1p((x - x0) ** 2 / 5))
    away = x - x0
    by_hand = np.sum((said + 6 * away / (5 + away**2)) ** 2) / 2
    np.testing.assert_allclose(conditional(student), by_hand, rtol=1e-12)


@pytest.mark.parametrize(("schedule", "form", "t"), [(VP(), forms.VP, 0.3), (EDM(), forms.EDM, 1.7)])
def test_the_regression_loss_with_the_likelihood_weight_is_denoising(schedule, form, t, x64):
    """2 / d g^2 times it, for a network that gives the score, and for a denoiser's through Tweedie's formula."""
    x0, z = X, np.random.default_rng(8).normal(size=(2, 2))
    process, (alpha, sigma) = Gaussian(schedule), (float(a) for a in form.amplitudes(wide(t)))
    scale, g2 = np.hypot(alpha, sigma), float(form.rates(wide(t))[1])
    net = lambda x, c: field(x) * (1 + 0.1 * c)
    score = lambda x: net(x / scale, 2 * np.log(alpha / sigma))

    @jax.jit
    def both(x0, z):
        weighted = losses.regression(net, process, Score(), x0, z, t, weights.likelihood())
        return weighted, sm.denoising(score, process, x0, z, t)

    got, plain = map(float, both(x0, z))
    np.testing.assert_allclose(got, g2 * 2 / 4 * plain, rtol=1e-9)


def kl(v, w):
    """Of N(0, v) from N(0, w)."""
    return 0.5 * (v / w - 1 - np.log(v / w))


def bound(score_slope, v, t_min):
    """integral of g^2 E explicit dt for data N(0, v) and the score -x score_slope(t), by the library's own loss."""
    law = analytic.gaussian_mixture([1.0], [[0.0]], [v])

    @jax.jit
    @jax.vmap
    def weighted(t, slope, alpha, sigma, std):
        loss = sm.explicit(lambda x: -slope * x, lambda x: law.score(x, alpha, sigma), std[None])
        return weights.likelihood()(VP(), Score(), t) * loss

    def integrand(ts):
        alpha, sigma = (a.astype(float) for a in forms.VP.amplitudes(ts.astype(wide)))
        std = np.sqrt(alpha**2 * v + sigma**2)  # a quadratic of mean 0: its value at one standard deviation
        return np.asarray(weighted(ts, np.broadcast_to(score_slope(ts), ts.shape), alpha, sigma, std))

    nodes, mass = np.polynomial.legendre.leggauss(60)
    u = (nodes + 1) / 2 * np.log(1 / t_min) + np.log(t_min)
    return np.sum(mass * np.exp(u) * integrand(np.exp(u))) * np.log(1 / t_min) / 2


def test_the_weight_bounds_the_likelihood_and_is_tight_for_a_diffused_model(x64):
    """Song et al. 2021b, theorem 1: equality for the score of another Gaussian and its own p_T as the prior."""
    v, w, t_min = 0.25, 0.6, 1e-3
    (a, s), (a_T, s_T) = ((float(x) for x in forms.VP.amplitudes(wide(t))) for t in (t_min, 1.0))

    def spread(t, v):
        alpha, sigma = (a.astype(float) for a in forms.VP.amplitudes(t.astype(wide)))
        return alpha**2 * v + sigma**2

    truth = kl(a**2 * v + s**2, a**2 * w + s**2)
    got = bound(lambda t: 1 / spread(t, w), v, t_min) + kl(a_T**2 * v + s_T**2, a_T**2 * w + s_T**2)
    assert got == pytest.approx(truth, rel=1e-9)


def test_the_bound_holds_for_a_score_that_is_none(x64):
    """s = -0.9 x at all times: the reverse SDE keeps a Gaussian, whose variance is an ODE; the bound is not tight."""
    v, t_min, slope = 0.25, 1e-3, 0.9
    beta = lambda t: 0.1 + 19.9 * t
    # backwards dx = (beta x / 2 - beta slope x) dtau + sqrt(beta) dw from N(0, 1)
    reverse = lambda tau, y: [beta(1 - tau) * ((1 - 2 * slope) * y[0] + 1)]
    model = integrate.solve_ivp(reverse, (0, 1 - t_min), [1.0], rtol=1e-11, atol=1e-13).y[0, -1]
    (a, s), (a_T, s_T) = ((float(x) for x in forms.VP.amplitudes(wide(t))) for t in (t_min, 1.0))
    truth = kl(a**2 * v + s**2, model)
    got = bound(lambda t: slope, v, t_min) + kl(a_T**2 * v + s_T**2, 1.0)
    assert truth > 0.1
    assert got > 1.05 * truth


def heavy(key, shape):
    return jax.random.t(key, 5.0, shape)


def test_what_does_not_fit_is_refused():
    x = np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"directions \(3, 4\) at x of shape \(2, 2\)"):
        sm.sliced(field, x, np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"draws heavy; use score_matching\.conditional"):
        sm.denoising(field, Gaussian(VP(), heavy), x, x, T)
    with pytest.raises(ValueError, match=r"variance has shape \(\), expected that of its mean, \(1,\)"):
        sm.gap(jax.jit(lambda x: target().denoiser(VP())(x, T))(np.zeros(1)), VP(), T)
