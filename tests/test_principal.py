"""Adams along principal axes: exact on Gaussians, its trajectory by quadrature in NumPy, free start, refusals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rows
from closed_forms import amplitudes
from numpy.polynomial import Polynomial
from samplers_table import SETTINGS
from scipy import integrate

from diffjax import analytic, grids
from diffjax.calculus import FlowOnly
from diffjax.calculus import amplitudes as amplitudes_at
from diffjax.samplers import ancestral, encoding_fn, nfe, principal, sampling_fn
from diffjax.schedules import VP, Rectified
from diffjax.types import Posterior, pytree

pytestmark = pytest.mark.usefixtures("x64", "levels_once")
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
MEAN = np.array([0.4, -0.8, 0.1])
BASIS = np.linalg.qr(RNG.standard_normal((3, 3)))[0]
VARIANCES = np.array([0.003, 0.2, 1.7])
COVARIANCE = BASIS @ np.diag(VARIANCES) @ BASIS.T
AXES = principal.Axes(MEAN @ BASIS, VARIANCES, BASIS)
W, M, V = np.array([0.3, 0.7]), np.array([[-0.6, 0.2, 0.9], [0.5, -0.4, 0.1]]), np.array([0.04, 0.02])


def mixture():
    return analytic.gaussian_mixture(W, M, V)  # as float64: not at import


@jax.jit
def run(sample, denoise, x):
    return sample(denoise, KEY, x)


def walk(sampler, ts, target, x):
    """The library's walk."""
    return np.asarray(run(sampling_fn(sampler, ts), target.denoiser(sampler.schedule), jnp.asarray(x)))


def read(sampler, axes, form, ts, target, x):
    """The end of the walk that the rows describe, along the axes; target: (x, alpha, sigma) -> E[x_0 | x]."""
    turned = lambda x, *level: axes.basis.T @ target(axes.basis @ x, *level)
    noise = np.zeros((len(ts), x.size))
    return axes.basis @ rows.walk(sampler, ts, rows.HostModel(turned, form), axes.basis.T @ x, noise)[0]


def gaussian(mean=MEAN, covariance=COVARIANCE):
    """E[x_0 | x] of N(mean, covariance)."""

    def target(x, alpha, sigma):
        total = alpha**2 * covariance + sigma**2 * np.eye(len(mean))
        return mean + alpha * covariance @ np.linalg.solve(total, x - alpha * mean)

    return target


def transported(schedule, ts, x, mean=MEAN, basis=BASIS, variances=VARIANCES):
    """The probability flow of N(mean, basis diag(variances) basis^T)."""
    (a, s), (b, r) = (map(float, level) for level in zip(*amplitudes_at(schedule, ts[[0, -1]])))
    stretch = np.sqrt((b**2 * variances + r**2) / (a**2 * variances + s**2))
    return b * mean + basis @ (stretch * (basis.T @ (x - a * mean)))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("n", "free"), [(1, True), (1, False), (2, True), (2, False), (5, True), (5, False)])
def test_gaussian_data_takes_any_number_of_steps(setting, order, n, free):
    """From alpha = 0 too."""
    schedule, form, *_ = SETTINGS[setting]
    sampler, ts = principal.adams(schedule, AXES, order, free), grids.uniform(schedule, n)
    x = float(schedule(schedule.t_max)[1]) * np.array([0.3, -1.1, 0.7])
    assert nfe(sampling_fn(sampler, ts)) == (n - 1 if free and n > 1 else n)
    got = read(sampler, AXES, form, ts, gaussian(), x)
    np.testing.assert_allclose(got, transported(schedule, ts, x), atol=2e-11)


def test_the_library_walks_along_the_axes_as_it_is_read():
    """Into the basis, along the rows and back; on data that is no Gaussian."""
    schedule, form, *_ = SETTINGS["vp"]
    sampler, ts, x = principal.adams(schedule, AXES, 2), grids.angle(schedule, 6), np.array([0.9, -0.4, 1.6])
    np.testing.assert_allclose(
        walk(sampler, ts, mixture(), x), read(sampler, AXES, form, ts, denoise, x), rtol=1e-11, atol=1e-11
    )


def test_a_variance_per_entry_needs_no_basis():
    schedule, variances = VP(), np.array([[0.01, 0.3], [0.2, 0.9]])
    mean, ts = np.array([[0.1, -0.4], [0.9, 0.0]]), grids.angle(schedule, 4)
    target = analytic.gaussian_mixture([1.0], [mean], [np.diag(variances.ravel())])
    x = np.array([[0.5, -0.2], [1.3, -0.9]])
    got = walk(principal.adams(schedule, principal.Axes(mean, variances)), ts, target, x)
    expected = transported(schedule, ts, x.ravel(), mean.ravel(), np.eye(4), variances.ravel())
    np.testing.assert_allclose(got.ravel(), expected, atol=1e-12)


def by_quadrature(form, ts, x, order, free):
    """Predictor and corrector kept apart, every weight an adaptive integral in the angle."""
    alpha, sigma = amplitudes(form, ts)
    s = np.sqrt(VARIANCES.mean())
    phi, rho = np.arctan2(sigma, alpha * s), [np.sqrt(b**2 + a**2 * VARIANCES) for a, b in zip(alpha, sigma)]

    def added(points, start, end):
        nodes, values = zip(*points)
        total = np.zeros(3)
        for j, value in enumerate(values):
            others = [o for i, o in enumerate(nodes) if i != j]
            basis = Polynomial.fromroots(others) / np.prod([nodes[j] - o for o in others]) if others else Polynomial(1)
            for k, c in enumerate(VARIANCES):
                speed = lambda p, basis=basis, c=c: basis(p) / np.sqrt((s * np.sin(p)) ** 2 + c * np.cos(p) ** 2)
                total[k] -= integrate.quad(speed, start, end, epsabs=1e-13, epsrel=1e-13)[0] * value[k]
        return total

    r, past, last = (BASIS.T @ x - alpha[0] * AXES.mean) / rho[0], [], None
    for i, (start, end) in enumerate(itertools.pairwise(phi)):
        if free and i == 0:
            past, last = [(start, np.zeros(3))], r
            continue
        z = rho[i] * r
        gap = BASIS.T @ denoise(BASIS @ (z + alpha[i] * AXES.mean), alpha[i], sigma[i]) - AXES.mean
        y = (gap - VARIANCES * alpha[i] / rho[i] ** 2 * z) * np.hypot(sigma[i], alpha[i] * s) / sigma[i]
        past = [(start, y), *past][: order + 1]
        if last is not None:
            r = last + added(past, phi[i - 1], start)
        last, r = r, r + added(past[:order], start, end)
    return BASIS @ (rho[-1] * r + alpha[-1] * AXES.mean)


def denoise(x, alpha, sigma):
    """E[x_0 | x] of the mixture, whose parts are isotropic."""
    total = alpha**2 * V + sigma**2
    log = np.log(W) - 0.5 * ((x - alpha * M) ** 2).sum(1) / total - 1.5 * np.log(total)
    weights = np.exp(log - log.max())
    parts = M + (alpha * V / total)[:, None] * (x - alpha * M)
    return weights @ parts / weights.sum()


@pytest.mark.parametrize("setting", ["vp", "edm", "rectified", "table_linear"])
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_trajectory_by_quadrature(order, free, setting):
    schedule, form, *_ = SETTINGS[setting]
    ts, x = grids.angle(schedule, 6, sigma_data=0.8), np.array([0.9, -0.4, 1.6])
    got = read(principal.adams(schedule, AXES, order, free), AXES, form, ts, denoise, x)
    np.testing.assert_allclose(got, by_quadrature(form, ts, x, order, free), rtol=1e-10, atol=1e-10)


def test_axes_of_one_variance_are_any_axes():
    schedule, form, *_ = SETTINGS["vp"]
    ts, x = grids.angle(schedule, 5), np.array([0.9, -0.4, 1.6])
    plain, turned = (principal.Axes(np.zeros(3), np.full(3, 0.4), basis) for basis in (np.eye(3), BASIS))
    a, b = (read(principal.adams(schedule, axes), axes, form, ts, denoise, x) for axes in (plain, turned))
    np.testing.assert_allclose(a, b, atol=1e-13)


def test_the_free_start_leaves_out_what_is_nearly_0():
    """With the moments of the data: the same N - 1 further evaluations, and an end that differs by less than 1e-4."""
    schedule, form, *_ = SETTINGS["vp"]
    ts, x = grids.angle(schedule, 8), np.array([0.9, -0.4, 1.6])
    covariance = (W * V).sum() * np.eye(3) + (M - W @ M).T @ np.diag(W) @ (M - W @ M)
    variances, basis = np.linalg.eigh(covariance)
    axes = principal.Axes(W @ M @ basis, variances, basis)
    ends = [read(principal.adams(schedule, axes, 2, free), axes, form, ts, denoise, x) for free in (True, False)]
    assert 0 < np.abs(ends[0] - ends[1]).max() < 1e-4


def test_axes_are_the_moments_of_examples(tmp_path):
    examples = RNG.standard_normal((50, 2, 3)) * np.arange(1, 7).reshape(2, 3)
    axes = principal.Axes.of(examples)
    flat = examples.reshape(50, 6)
    np.testing.assert_allclose(axes.basis @ axes.mean, flat.mean(0), atol=1e-13)
    covariance = axes.basis @ np.diag(axes.variances) @ axes.basis.T
    products = np.mean([np.outer(x, x) for x in flat], axis=0)
    np.testing.assert_allclose(covariance, products - np.outer(flat.mean(0), flat.mean(0)), atol=1e-12)
    for kept in (axes, principal.Axes.of(examples, diagonal=True)):
        kept.save(tmp_path / "axes.npz")
        for a, b in zip(kept, principal.Axes.load(tmp_path / "axes.npz")):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(kept.variances, np.diag(covariance).reshape(2, 3))


def test_an_entry_that_never_varies_stays_where_it_is():
    """Of a model that says so too; and a model that is wrong there moves it a little, not to infinity."""
    schedule, form, *_ = SETTINGS["vp"]
    axes = principal.Axes.of(np.array([[0.5, -1.0], [-0.5, -1.0], [0.1, -1.0]]))
    ends = lambda mean: read(
        principal.adams(schedule, axes),
        axes,
        form,
        grids.angle(schedule, 6),
        gaussian(np.array([0.1, mean]), np.diag([0.1, 0.0])),
        np.array([0.4, 1.2]),
    )
    assert ends(-1.0)[1] == pytest.approx(-1.0, abs=2e-3)
    assert ends(-0.9)[1] == pytest.approx(-0.9, abs=0.1)


@pytree
class Turned:
    """E[x_0 | x] of another model's data turned by BASIS^T, written out."""

    model: object

    @property
    def schedule(self):
        """The model's."""
        return self.model.schedule

    def __call__(self, x, t):
        """Into the model's coordinates and back."""
        return Posterior(jnp.asarray(BASIS.T) @ self.model(jnp.asarray(BASIS) @ x, t).mean)


@pytest.mark.parametrize("order", [1, 3])
def test_along_a_basis(order):
    """The walk along axes is that of the turned data along x's own entries, turned back: every state of it, too."""
    schedule, x = VP(), np.array([0.9, -0.4, 1.6])
    ts, model = grids.log_snr(schedule, 4), mixture().denoiser(schedule)
    own = principal.Axes(AXES.mean, AXES.variances)
    here, there = (principal.adams(schedule, axes, order, free_start=False) for axes in (AXES, own))
    walks = [sampling_fn(sampler, ts, trace=lambda state: state.x) for sampler in (here, there)]
    got, path = run(walks[0], model, x)
    expected, turned = map(np.asarray, run(walks[1], Turned(model), BASIS.T @ x))
    np.testing.assert_allclose(got, BASIS @ expected, atol=1e-13)
    np.testing.assert_allclose(path, turned @ BASIS.T, atol=1e-13)


def test_rows_do_not_grow_with_the_basis():
    """The basis is one leaf of the sampling function, (d, d), whatever the number of rows; no row holds a matrix."""
    schedule, d = VP(), 7
    axes = principal.Axes(np.zeros(d), np.ones(d), np.linalg.qr(RNG.standard_normal((d, d)))[0])
    for n in (3, 30):
        sample = sampling_fn(principal.adams(schedule, axes, 2), grids.angle(schedule, n))
        assert sum(np.shape(leaf) == (d, d) for leaf in jax.tree.leaves(sample)) == 1
        assert max(leaf.size for leaf in jax.tree.leaves(sample.args[0])) == (n - 1) * 3 * d


def test_trace_padding_and_encoding_work_along_a_basis():
    schedule, x = VP(), np.asarray([0.3, -0.2, 0.8])
    sampler, ts = principal.adams(schedule, AXES, 2), grids.angle(schedule, 5)
    model = mixture().denoiser(schedule)
    plain = run(sampling_fn(sampler, ts), model, x)
    end, path = run(sampling_fn(sampler, ts, trace=lambda state: state.x), model, x)
    np.testing.assert_array_equal(plain, end)
    path = np.asarray(path)
    np.testing.assert_allclose(path[-1], end, atol=1e-13)
    assert path.shape == (4, 3)
    _, kept = run(sampling_fn(sampler, ts, trace=lambda state: state), model, x)
    np.testing.assert_allclose(np.asarray(kept.along) @ BASIS.T, path, atol=1e-12)
    padded = sampling_fn(sampler, ts, max_rows=9)
    assert nfe(padded) == 4
    np.testing.assert_allclose(run(padded, model, x), plain, atol=1e-13)
    ts = grids.karras(schedule, 200, t_min=1e-3, zero=False)
    sampler = principal.adams(schedule, AXES, 2, free_start=False)
    up = run(encoding_fn(sampler, ts), model, plain)
    np.testing.assert_allclose(run(sampling_fn(sampler, ts), model, up), plain, atol=1e-4)


def test_one_compile_serves_all_axes_schedules_and_grids():
    traced = []

    @jax.jit
    def run(sample, x):
        traced.append(1)
        return sample(Told(None), KEY, x)

    class Told:
        def __init__(self, schedule):
            self.schedule = schedule

        def __call__(self, x, t):
            return Posterior(jnp.tanh(x))

    for schedule, axes in ((VP(), AXES), (VP(beta_max=15.0), AXES._replace(variances=VARIANCES[::-1]))):
        for power in (1.0, 1.5):
            sampler = principal.adams(schedule, axes)._replace(schedule=None)
            run(sampling_fn(sampler, grids.angle(schedule, 5, power=power)), jnp.ones(3))
    assert len(traced) == 1


def test_it_adds_no_noise_and_so_serves_flows_that_are_not_gaussian():
    """Of Gaussian data the end is still exact; a sampler that adds noise refuses the same schedule."""
    schedule, x = FlowOnly(Rectified()), np.array([0.3, -1.1, 0.7])
    ts, target = grids.uniform(schedule, 4), analytic.gaussian_mixture([1.0], [MEAN], [COVARIANCE])
    got = walk(principal.adams(schedule, AXES), ts, target, x)
    np.testing.assert_allclose(got, transported(schedule, ts, x), atol=2e-11)
    with pytest.raises(ValueError, match="adds Gaussian noise"):
        sampling_fn(ancestral.ddim(schedule, eta=0.5), ts)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(order=4), "The order is 4, expected 1, 2 or 3"),
        (dict(order=2.0), "The order is 2.0, expected 1, 2 or 3"),
        (dict(order=True), "The order is True, expected 1, 2 or 3"),
        (dict(free_start="false"), "free_start is 'false', expected True or False"),
        (dict(axes=np.zeros((9, 3))), r"of type ndarray, expected `Axes.of\(examples\)`, or .* the file"),
        (dict(axes=None), r"of type NoneType, expected .* RUN/axes.npz"),
        (dict(axes=AXES._replace(variances=VARIANCES[:2])), r"shape \(3,\) and variances of shape \(2,\)"),
        (dict(axes=AXES._replace(variances=-VARIANCES)), "not negative"),
        (dict(axes=AXES._replace(variances=np.zeros(3))), "not all 0"),
        (dict(axes=AXES._replace(mean=np.array([0, np.nan, 0]))), "expected finite numbers"),
        (dict(axes=AXES._replace(basis=2 * BASIS)), r"basis of shape \(3, 3\).*orthonormal"),
        (dict(axes=AXES._replace(basis=BASIS[:2])), r"basis of shape \(2, 3\).*\(d, d\)"),
        (dict(axes="nowhere.npz"), "'nowhere.npz' holds no axes .*--mode=moments"),
    ],
)
def test_refuses(change, match):
    with pytest.raises(ValueError, match=match):
        principal.adams(VP(), **{"axes": AXES, **change})


def test_refuses_a_free_start_in_the_middle():
    schedule = VP()
    ts = grids.uniform(schedule, 4, t_max=0.4)
    with pytest.raises(ValueError, match=r"The walk starts at sigma / alpha = .* set free_start=False"):
        sampling_fn(principal.adams(schedule, AXES), ts)
    sampling_fn(principal.adams(schedule, AXES, free_start=False), ts)


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_refuses_files_that_hold_something_else(content, tmp_path):
    path = tmp_path / "axes.npz"
    if content is None:
        np.savez(path, mean="a", variances="b")
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"axes.npz' holds no axes \(.*--mode=moments"):
        principal.adams(VP(), path)


@pytest.mark.parametrize(
    ("axes", "match"),
    [
        (AXES, r"walks along 3 axes, but an example has shape \(2, 2\)"),
        (principal.Axes(np.zeros(2), np.ones(2)), r"moments have shape \(2,\), but an example has shape \(2, 2\)"),
    ],
)
def test_refuses_examples_of_another_shape(axes, match):
    schedule = VP()
    target = analytic.gaussian_mixture([1.0], [np.zeros((2, 2))], [0.3])
    with pytest.raises(ValueError, match=match):
        walk(principal.adams(schedule, axes), grids.angle(schedule, 4), target, np.ones((2, 2)))


def test_too_few_examples_have_no_axes():
    with pytest.raises(ValueError, match=r"Got 3 examples of 3 entries: too few .* diagonal=True"):
        principal.Axes.of(RNG.standard_normal((3, 3)))
    assert principal.Axes.of(RNG.standard_normal((3, 3)), diagonal=True).basis is None


@pytest.mark.parametrize("examples", [np.zeros((1, 3)), np.full((4, 3), np.nan), np.float64(3.0)])
def test_refuses_examples_without_moments(examples):
    with pytest.raises(ValueError, match="n >= 2, all finite"):
        principal.Axes.of(examples)
