"""Networks read as energies, and the algebra of energies, against closed forms, quadrature and NumPy."""

import closed_forms as forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import analytic, denoisers, grids, losses, models, runs
from diffjax.denoisers import Eps, V, composition, guidance, variance
from diffjax.models import scalar
from diffjax.processes import Gaussian
from diffjax.runs import run as of_runs
from diffjax.runs.build import load
from diffjax.samplers import ancestral
from diffjax.schedules import VE, VP, Rectified
from diffjax.types import pytree

exact = pytest.mark.usefixtures("x64")
X = np.asarray([0.7, -1.3, 2.1])
SCALED = lambda params, x, c, given: params * x  # N(x) = w x


def made(form, w=0.0, sigma_data=0.5, schedule=None):
    network = scalar.gradient(scalar.scalar(models.from_function(SCALED, np.float64(w)), form), sigma_data, form)
    net = jax.tree_util.Partial(network.apply, jnp.asarray(w, float))
    return variance.energy(net, schedule or VP(), Eps(sigma_data))


@exact
@pytest.mark.parametrize("form", scalar.FORMS)
def test_an_untrained_energy_is_that_of_gaussian_data(form):
    alpha, sigma = (float(a) for a in forms.VP.amplitudes(forms.wide("0.4")))
    total = alpha**2 * 0.25 + sigma**2
    denoise = made(form)
    E, gradient = denoise.energy_gradient(X, 0.4)
    np.testing.assert_allclose(E, X @ X / (2 * total), rtol=1e-13)
    np.testing.assert_allclose(gradient, X / total, rtol=1e-13)
    np.testing.assert_allclose(denoise(X, 0.4).mean, alpha * 0.25 / total * X, rtol=1e-12)
    np.testing.assert_array_equal(denoise.energy(X, 0.4), E)


@exact
@pytest.mark.parametrize("form", scalar.FORMS)
def test_a_trained_energy_is_the_scalar_by_its_units(form):
    """E = e / (c_in sigma) at u = c_in x; e as the form says of N(u) = w u, with the Gaussian's beginning."""
    w, (alpha, sigma) = 0.3, (float(a) for a in forms.VP.amplitudes(forms.wide("0.4")))
    width = np.hypot(sigma, alpha * 0.5)
    u, k = X / width, sigma / width
    e, slope = {
        "sum": (k * u @ u / 2 + w * u.sum(), k * u + w),
        "inner": ((k + w) * u @ u / 2, (k + w) * u),
        "square": (k * (1 - w) ** 2 * u @ u / 2, k * (1 - w) ** 2 * u),
    }[form]
    E, gradient = made(form, w).energy_gradient(X, 0.4)
    np.testing.assert_allclose(E, e * width / sigma, rtol=1e-12)
    np.testing.assert_allclose(gradient, slope / sigma, rtol=1e-12)


def test_both_maps_are_one_networks_and_batches_are_examples():
    network, key = scalar.energy("MLP", width=8, depth=1), jax.random.key(0)
    assert scalar.energy("MLP", width=8, depth=1) is network  # and so are its traces
    centres, d = np.asarray(jax.random.normal(key, (3, 2))), 1e-2 * np.eye(2, dtype=np.float32)
    xs = np.concatenate([centres, *(centres + s * np.tile(e, (3, 1)) for e in d for s in (1, -1))])
    cs = np.tile(np.asarray([-1.0, 0.3, np.inf], np.float32), 5)
    params = jax.tree.map(lambda a: a + 0.1, jax.jit(network.init)(key, xs[0], cs[0]))
    both = jax.jit(lambda p: (network.apply(p, xs, cs), jax.vmap(network.apply, (None, 0, 0))(p, xs, cs)))(params)
    np.testing.assert_allclose(*both, rtol=1e-6)
    F, e = np.split(np.asarray(both[0]), 2, -1)
    np.testing.assert_array_equal(e[:, 0], e[:, 1])
    _, right, left, up, down = e[:, 0].reshape(5, 3)
    slope = np.stack([right - left, up - down], 1) / 2e-2
    np.testing.assert_allclose(slope, F[:3], rtol=2e-2, atol=2e-3)


@exact
def test_the_loss_is_the_regression_of_the_gradient():
    process, z = Gaussian(VP()), np.asarray([0.2, -0.4, 1.1])
    net = made("inner", 0.3).net
    alpha, sigma = (float(a) for a in forms.VP.amplitudes(forms.wide("0.4")))
    width = np.hypot(sigma, alpha * 0.5)
    F = (sigma / width + 0.3) * (alpha * X + sigma * z) / width
    got = losses.energy(net, process, Eps(0.5), X, z, 0.4)
    np.testing.assert_allclose(got, np.mean((F - z) ** 2), rtol=1e-12)


@pytest.mark.parametrize("told", [{}, {"label": jnp.int32(3)}])
def test_a_run_knows_its_log_density_up_to_a_constant(told):
    """Through the parts of its method, as the card says; before training that of N(0, 1) data, and of any label."""
    variant, small = ("tiny", []) if told else ("points", ["data.n=64", "data.held_out=8"])
    built = runs.build_run(load(f"configs/energy.py:{variant}", ["model.width=4", "model.depth=1", *small]))
    run = of_runs.of(built, of_runs.init_state(built))
    of = run.method.parts.plain_denoiser(run.params, told)
    x, y = np.float32(np.random.default_rng(0).normal(size=(2, *run.data.shape)))
    alpha, sigma = (float(a) for a in run.method.parts.schedule(0.3))
    V = alpha**2 * of.target.sigma_data**2 + sigma**2
    expected = (np.sum(y**2) - np.sum(x**2)) / (2 * V)
    np.testing.assert_allclose(of.energy(y, 0.3) - of.energy(x, 0.3), expected, rtol=1e-4)
    assert not hasattr(run.denoiser(told), "energy")


# The algebra, on Gaussian mixtures in one dimension.

FIRST = ((0.4, 0.6), (-1.0, 1.2), (0.3, 0.2))
SECOND = ((0.7, 0.3), (-0.5, 1.0), (0.4, 0.5))


def mixture(of, schedule=None):
    weights, means, variances = (np.asarray(a) for a in of)
    return analytic.gaussian_mixture(weights, means[:, None], variances).denoiser(schedule or VP())


def log_density(of, x, alpha, sigma):
    weights, means, variances = (np.asarray(a) for a in of)
    total = alpha**2 * variances + sigma**2
    return np.log(np.sum(weights * np.exp(-((x - alpha * means) ** 2) / 2 / total) / np.sqrt(2 * np.pi * total)))


CENTRES = np.linspace(-5, 5, 41)
BUMPS = lambda w, x, c, given: w * jnp.exp(-(((x - CENTRES) / 0.4) ** 2) / 2)  # their sum is a scalar, linear in w


@exact
def test_the_energy_of_least_loss_is_the_log_density():
    """Of sums of bumps, by normal equations: the loss is a quadratic in w, exact by two nodes of x_0 given x_t."""
    t, (alpha, sigma) = 0.1, (float(a) for a in forms.VP.amplitudes(forms.wide("0.1")))
    weights, means, variances = (np.asarray(a)[:, None, None] for a in FIRST)
    total = alpha**2 * variances + sigma**2
    x = np.linspace(-5, 5, 201)[:, None]
    x0 = means + alpha * variances / total * (x - alpha * means)
    x0 = x0 + np.sqrt(variances * sigma**2 / total) * np.asarray([-1.0, 1.0])
    joint = np.broadcast_to(weights * np.exp(-((x - alpha * means) ** 2) / 2 / total) / np.sqrt(total), x0.shape)
    z = (x - alpha * x0) / sigma
    network = scalar.gradient(scalar.scalar(models.from_function(BUMPS, np.zeros(CENTRES.shape)), "sum"), 0.8)
    net = lambda w: jax.tree_util.Partial(network.apply, w)
    one = lambda w, x0, z: losses.energy(net(w), Gaussian(VP()), Eps(0.8), x0[None], z[None], t)
    mean = lambda w: joint.ravel() @ jax.vmap(one, (None, 0, 0))(w, x0.ravel(), z.ravel())
    w = jnp.zeros(CENTRES.shape)
    slope, curvature = jax.jit(lambda w: (jax.grad(mean)(w), jax.hessian(mean)(w)))(w)
    w = jnp.asarray(np.linalg.lstsq(curvature, -slope, rcond=1e-12)[0])
    found = jax.vmap(lambda x: variance.energy(net(w), VP(), Eps(0.8)).energy(x, t))(x)
    gap = found + np.asarray([log_density(FIRST, at, alpha, sigma) for at in x[:, 0]])
    near = joint.sum((0, 2)) > 1e-2 * joint.sum((0, 2)).max()
    np.testing.assert_allclose(gap[near], gap[near].mean(), atol=1e-3)


@exact
@pytest.mark.parametrize("name", ["product", "power", "negation", "mixture", "guided"])
def test_the_algebra_is_that_of_densities(name):
    """Energies from log densities in NumPy, gradients from differences of those."""
    one, two = mixture(FIRST), mixture(SECOND)
    blended = lambda p, q: -np.log((np.exp(p) + 3 * np.exp(q)) / 4)
    make, expected = {
        "product": (lambda: composition.product(one, two), lambda p, q: -p - q),
        "power": (lambda: composition.power(one, 0.6), lambda p, q: -0.6 * p),
        "negation": (lambda: composition.negation(one, two, 0.5, (0.3, 0.5)), lambda p, q: -p + 0.5 * q),
        "mixture": (lambda: composition.mixture([one, two], [1, 3]), blended),
        "guided": (lambda: composition.guided(one, two, 2.5), lambda p, q: -q - 2.5 * (p - q)),
    }[name]
    denoise, (alpha, sigma) = make(), (float(a) for a in forms.VP.amplitudes(forms.wide("0.3")))
    value = lambda x: expected(log_density(FIRST, x, alpha, sigma), log_density(SECOND, x, alpha, sigma))
    for x in (-0.8, 0.5):
        E, gradient = denoise.energy_gradient(jnp.asarray([x]), 0.3)
        slope = (value(x + 1e-5) - value(x - 1e-5)) / 2e-5
        np.testing.assert_allclose(E, value(x), rtol=1e-12)
        np.testing.assert_allclose(gradient[0], slope, rtol=1e-8)
        np.testing.assert_allclose(denoise(jnp.asarray([x]), 0.3).mean[0], (x - sigma**2 * slope) / alpha, rtol=1e-8)


@exact
def test_guidance_is_an_energy():
    """A classifier-free mean is that of p_u (p_c / p_u)^w at every point, and a product of one label the same."""
    one, two, x = mixture(FIRST), mixture(SECOND), jnp.asarray([0.4])
    expected = guidance.extrapolated(one, two, 2.5)(x, 0.3).mean
    np.testing.assert_allclose(composition.guided(one, two, 2.5)(x, 0.3).mean, expected, rtol=1e-12)
    branch = lambda given: [one, two][int(given["label"])]
    labels = composition.all_of(branch, {"label": jnp.int32(7)}, {"label": jnp.int32(1)}, (0,), 2.5)
    np.testing.assert_allclose(labels(x, 0.3).mean, expected, rtol=1e-12)


@pytree
class Shifted:
    """An energy with another constant."""

    denoise: object
    by: float

    @property
    def schedule(self):
        return self.denoise.schedule

    def energy_gradient(self, x, t):
        E, gradient = self.denoise.energy_gradient(x, t)
        return E + self.by, gradient


@exact
def test_a_mixture_counts_by_the_constants_of_its_energies():
    """Weights w of energies shifted by k are weights w exp(-k)."""
    one, two, x = mixture(FIRST), mixture(SECOND), jnp.asarray([0.4])
    shifted = composition.mixture([Shifted(one, 0.7), Shifted(two, -0.4)], [1, 3])
    plain = composition.mixture([one, two], [np.exp(-0.7), 3 * np.exp(0.4)])
    (a, slope), (b, other) = (of.energy_gradient(x, 0.3) for of in (shifted, plain))
    np.testing.assert_allclose(slope, other, rtol=1e-12)
    np.testing.assert_allclose(a - b, -np.log((np.exp(-0.7) + 3 * np.exp(0.4)) / 4), rtol=1e-12)


@exact
@pytest.mark.parametrize(("start", "flow", "sde"), [(5.0, 25 / 26**2, 0.333369), (50.0, 2500 / 2501**2, 0.333333)])
def test_a_sum_of_scores_ends_in_another_law(start, flow, sde):
    """N(0, 1) twice: the product has variance 1/2, the walks end elsewhere: the library's rows, many of them."""
    schedule = VE(sigma_max=start, sigma_min=1e-3)
    one = analytic.gaussian_mixture([1.0], [[0.0]], [1.0]).denoiser(schedule)
    twice, ts = composition.product(one, one), grids.ladder(schedule, 20_000)
    gain = np.asarray(jax.vmap(lambda t: twice(jnp.ones(1), t).mean[0])(ts[:-1]))
    np.testing.assert_allclose(twice.energy(jnp.ones(1), ts[-1]) - twice.energy(jnp.zeros(1), ts[-1]), 1, rtol=1e-5)
    for eta, expected in ((0.0, flow), (1.0, sde)):
        rows, law = ancestral.ddim(schedule, eta=eta).plan(ts), start**2
        for x, mean, noise, at in zip(rows.x, rows.mean, rows.noise_var, gain):
            law = (x + mean * at) ** 2 * law + noise
        np.testing.assert_allclose(law, expected, rtol=6e-3)  # steps of 5e-4 in log sigma


@pytest.mark.parametrize(
    ("v", "gamma", "bad"), [((1, 0.5), 0.6, 0.0), ((1, 2), 0.9, None), ((1, 2), 1.5, 1.0), ((0.5, 2), 1.0, None)]
)
def test_a_negation_has_an_integral_or_is_refused(v, gamma, bad):
    """Precisions 1 / V_1 - gamma / V_2 on alpha = 1 - t: -.2 at the data and .268 at (.6, .8) for the first row."""
    one = mixture(FIRST, Rectified(t_max=0.99))
    if bad is None:
        assert composition.negation(one, one, gamma, v).weights == (1.0, -gamma)
        return
    with pytest.raises(ValueError, match=r"no integral at t = .*take gamma < "):
        composition.negation(one, one, gamma, v)
    fine = [0.8] if bad == 0 else [0.1]
    assert composition.negation(one, one, gamma, v, fine).weights == (1.0, -gamma)


# What is refused.

PLAIN = denoisers.denoiser(lambda x, c: x, VP(), Eps())
RELU = lambda params, x, c, given: jax.nn.relu(params * x)
LEAKY = lambda params, x, c, given: jax.jit(jax.nn.leaky_relu)(params * x)
KEY, C = jax.random.key(0), jnp.float32(0.3)
REFUSED = {
    "form": (lambda: scalar.scalar(models.MLP(), "mean"), "no form 'mean' of a scalar; there is sum, inner, square"),
    "model": (lambda: scalar.critic("MLQ"), "no model 'MLQ' to read a scalar of; there is MLP"),
    "option": (lambda: scalar.energy("MLP", widht=3), "MLP cannot be made of .*'widht'"),
    "maps": (lambda: scalar.energy("MLP", width=8, depth=1, outputs=2).init(KEY, jnp.zeros(2), C), "F of shape .4,."),
    "vector": (
        lambda: scalar.gradient(models.from_function(SCALED, 1.0)).init(KEY, jnp.zeros(2), C),
        r"An energy is one number .* gives shape \(2,\)",
    ),
    "kinked": (
        lambda: scalar.gradient(scalar.scalar(models.from_function(RELU, 1.0))).init(KEY, jnp.zeros(2), C),
        "the network has relu, which has no second derivative: take a smooth activation",
    ),
    "kinked in a call": (
        lambda: scalar.gradient(scalar.scalar(models.from_function(LEAKY, 1.0))).init(KEY, jnp.zeros(2), C),
        "the network has leaky_relu",
    ),
    "sigma_data": (lambda: scalar.energy("MLP", sigma_data=0.0), "sigma_data is 0.0, expected a positive number"),
    "target": (lambda: variance.energy(lambda x, c: x, VP(), V()), "the target is V; set target.name=Eps"),
    "one map": (lambda: variance.energy(lambda x, c: x, VP(), Eps()).energy(jnp.zeros(2), 0.5), "2 map"),
    "one map trained": (
        lambda: losses.energy(lambda x, c: x, Gaussian(VP()), Eps(), jnp.zeros(2), jnp.zeros(2), 0.5),
        "2 map",
    ),
    "no energy": (lambda: composition.product(mixture(FIRST), PLAIN), "NetworkDenoiser knows none"),
    "schedules": (lambda: composition.product(mixture(FIRST), mixture(FIRST, VE())), "parts were made for VP.* and VE"),
    "no parts": (lambda: composition.product(), "has no parts"),
    "weights": (lambda: composition.mixture([mixture(FIRST)] * 2, [1, -1]), r"\[1.0, -1.0\], expected 2 numbers >= 0"),
    "count": (lambda: composition.mixture([mixture(FIRST)] * 2, [1]), "expected 2 numbers"),
    "power": (lambda: composition.power(mixture(FIRST), -1), "power w is -1, expected a positive number"),
    "gamma": (lambda: composition.negation(mixture(FIRST), mixture(FIRST), 0, (1, 1)), "gamma is 0"),
    "variances": (lambda: composition.negation(mixture(FIRST), mixture(FIRST), 0.5, (1,)), "expected two numbers, of"),
    "guided": (lambda: composition.guided(mixture(FIRST), PLAIN, 2.0), "^Guidance by energies is made of denoisers"),
    "guided schedules": (
        lambda: composition.guided(mixture(FIRST), mixture(FIRST, VE()), 2.0),
        "Guidance by energies is",
    ),
    "labels": (lambda: composition.all_of(lambda given: mixture(FIRST), {}, {}), "labels = .*guidance.labels="),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line(name):
    call, line = REFUSED[name]
    with pytest.raises(ValueError, match=line) as error:
        call()
    assert "\n" not in str(error.value)
