"""Fields against closed forms and quadrature, the one loss, and what critics and kernels know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from diffjax import analytic, calculus, methods, models, schedules
from diffjax.losses import fields, matching
from diffjax.method import Example

x64 = pytest.mark.usefixtures("x64")
AT = np.array([-0.5, 0.4, 1.8])
P = (np.array([0.3, 0.7]), np.array([-1.0, 1.5]), np.sqrt([0.1, 0.4]))  # weights, means, standard deviations
Q = (np.array([0.5, 0.5]), np.array([0.0, 2.0]), np.sqrt([0.6, 0.3]))
WIDTH = 0.3


def mixture(law):
    weights, means, stds = law
    return analytic.gaussian_mixture(weights, means[:, None], (stds**2)[:, None, None])


def smoothed_score(law, x, width=WIDTH):
    """The score of a mixture seen at alpha = 1, sigma = width, in NumPy."""
    weights, means, stds = law
    var = stds**2 + width**2
    parts = weights * np.exp(-((x[:, None] - means) ** 2) / (2 * var)) / np.sqrt(var)
    return np.sum(parts * (means - x[:, None]) / var, 1) / parts.sum(1)


DRIFT = WIDTH**2 * (smoothed_score(P, AT) - smoothed_score(Q, AT))


def quantiles(law, n):
    """Points of equal weight: those of the law's distribution function at (i + 1/2) / n."""
    weights, means, stds = law
    grid = np.linspace(-6, 6, 200_001)
    return np.interp((np.arange(n) + 0.5) / n, (weights * special.ndtr((grid[:, None] - means) / stds)).sum(1), grid)


@x64
def test_four_estimates_of_one_field_agree():
    np.testing.assert_allclose(DRIFT, [-0.275013, 0.220215, -0.0815010], atol=1e-6)  # by another quadrature
    schedule = schedules.EDM()
    p, q = (mixture(law).denoiser(schedule) for law in (P, Q))
    log_ratio = lambda x, t: mixture(P).log_prob(x, *schedule(t)) - mixture(Q).log_prob(x, *schedule(t))
    energy = lambda law: lambda x, t: -mixture(law).log_prob(x, *schedule(t))
    known = {
        "scores": fields.scores(p, q, "mean"),
        "energies": fields.energies(energy(P), energy(Q), schedule, "mean"),
        "denoisers": fields.energies(p, q, schedule, "mean"),  # which know an energy
        "classifier": lambda x, t: WIDTH**2 * fields.classifier(log_ratio, "kl", schedule)(x, t),
    }
    at = lambda field: jax.vmap(lambda x: field(x, jnp.asarray(WIDTH)))(jnp.asarray(AT)[:, None])[:, 0]
    found = jax.jit(lambda: {name: at(field) for name, field in known.items()})()
    for name, V in found.items():
        np.testing.assert_allclose(V, DRIFT, rtol=1e-10, err_msg=name)
    points = [jnp.asarray(quantiles(law, 20_000))[:, None] for law in (P, Q)]
    drift = jax.jit(lambda x: fields.kernel(WIDTH, scale="shift").drifts(x, *points)[0, 0])
    np.testing.assert_allclose([drift(jnp.asarray([x])) for x in AT], DRIFT, atol=2e-6)
    laplace = fields.kernel(0.5, "laplace", "shift")
    found = [laplace.drifts(jnp.asarray([x]), *points)[0, 0] for x in AT[:2]]
    np.testing.assert_allclose(found, [-0.284034, 0.221705], atol=2e-6)  # near, not equal


@x64
@pytest.mark.parametrize("name", [name for name in fields.SCALES if name != "published"])
def test_scales_of_means_and_of_scores_are_one_weight(name):
    schedule = schedules.VP()
    p, q = (mixture(law).denoiser(schedule) for law in (P, Q))
    x, t = jnp.asarray([0.7]), jnp.asarray(0.3)
    pair = jax.jit(lambda: (fields.scores(p, q, name)(x, t), fields.energies(p, q, schedule, name)(x, t)))()
    np.testing.assert_allclose(*pair, rtol=1e-9)
    published = fields.scores(p, q, "published")(x, t)
    mean = fields.scores(p, q, "mean")(x, t)
    np.testing.assert_allclose(published, mean / abs(0.7 - p(x, t).mean[0]), rtol=1e-9)


# --- closed forms: p = N(a, A), x = b + c z, x_t = alpha x + sigma z'

A_MEAN, A_VAR = -0.2, 1.5
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def log_ratio(b, c, alpha, sigma, a=A_MEAN, var=A_VAR):
    """log p_t/q_t of the two Gaussians, a function of x_t."""
    v, w = alpha**2 * var + sigma**2, alpha**2 * c**2 + sigma**2
    return lambda x: jnp.sum(-((x - alpha * a) ** 2) / (2 * v) + (x - alpha * b) ** 2 / (2 * w)) + 0.5 * jnp.log(w / v)


def slope(field, b, c, alpha, sigma):
    """dL/d(b, c) of the one loss, by quadrature over z and z'."""
    z, noise = (a.ravel() for a in np.meshgrid(NODES, NODES))
    weight = np.outer(WEIGHTS, WEIGHTS).ravel()

    def loss(theta):
        x = theta[0] + theta[1] * z
        still = b + c * z
        V = jax.vmap(lambda x_t: field(x_t[None])[0])(alpha * still + sigma * noise)
        return jnp.sum(weight * jax.vmap(matching.toward)(x, V))

    return np.asarray(jax.jit(jax.grad(loss))(jnp.asarray([b, c])))


@x64
def test_the_loss_descends_the_divergence_of_noised_laws():
    b, c, alpha, sigma = 0.5, 0.8, 0.6, 0.8
    gaussian = lambda m, v: analytic.gaussian_mixture([1.0], [[m]], [[[v]]]).denoiser(schedules.VP())
    t = calculus.time_of(schedules.VP(), 2 * np.log(alpha / sigma))
    by_scores = fields.scores(gaussian(A_MEAN, A_VAR), gaussian(b, c**2), "kl")
    expected = [0.213559, -0.0868146]
    np.testing.assert_allclose(slope(lambda x: by_scores(x, t), b, c, alpha, sigma), expected, atol=2e-6)
    d = log_ratio(b, c, alpha, sigma)
    critic = fields.classifier(lambda x, t: d(x), "kl")
    np.testing.assert_allclose(slope(lambda x: alpha * critic(x, t), b, c, alpha, sigma), expected, atol=2e-6)


@x64
@pytest.mark.parametrize(
    ("h", "expected"),
    [
        ("kl", (0.466667, -0.716667)),
        ("gan", (0.209347, None)),
        ("saturating", (None, -0.429384)),
        ("arcsinh", (0.402770, -0.588911)),
    ],
)
def test_the_loss_of_each_h_at_known_gaussians(h, expected):
    d = log_ratio(0.5, 0.8, 1.0, 0.0)
    field = fields.classifier(lambda x, t: d(x), h)
    found = slope(lambda x: field(x, 0.0), 0.5, 0.8, 1.0, 0.0)
    for got, wanted in zip(found, expected, strict=True):
        assert wanted is None or abs(got - wanted) < 2e-5


@x64
def test_a_generator_of_two_numbers_follows_the_flow_of_its_samples():
    """m = a + (m0 - a) e^(-s/A), V = A + (V0 - A) e^(-2s/A), by Runge-Kutta on the loss's own gradient."""
    z = jnp.asarray(NODES)

    def rate(theta):
        d = log_ratio(*theta, 1.0, 0.0, 0.5, 0.8)
        field = fields.classifier(lambda x, t: d(x), "kl")

        def loss(theta):
            x = theta[0] + theta[1] * z
            V = jax.lax.stop_gradient(jax.vmap(lambda x: field(x[None], 0.0)[0])(x))
            return jnp.sum(WEIGHTS * jax.vmap(lambda x, V: matching.toward(x, V, 0.1))(x, V)) / 0.1

        return -jax.grad(loss)(theta)

    def step(theta, _):
        h = 0.02
        k1 = rate(theta)
        k2 = rate(theta + h / 2 * k1)
        k3 = rate(theta + h / 2 * k2)
        return theta + h / 6 * (k1 + 2 * k2 + 2 * k3 + rate(theta + h * k3)), None

    (b, c), _ = jax.jit(lambda theta: jax.lax.scan(step, theta, None, 50))(jnp.asarray([-1.0, 0.6]))
    np.testing.assert_allclose([b, c**2], [0.070243, 0.763883], atol=2e-6)


@x64
def test_the_loss_is_half_the_squared_step_and_its_gradient_that_of_h():
    w = jnp.asarray([[0.3, -0.7], [1.1, 0.2]])
    d = lambda x: jnp.sum(jnp.sin(x)) + x[0] * x[1]
    z, eps = jnp.asarray([0.4, -1.2]), 0.3
    V = fields.classifier(lambda x, t: d(x), "gan")(w @ z, 0.0)
    value, grad = jax.value_and_grad(lambda w: matching.toward(w @ z, V, eps))(w)
    np.testing.assert_allclose(value, eps**2 * np.sum(np.asarray(V) ** 2) / 2, rtol=1e-12)
    direct = jax.grad(lambda w: -jax.nn.log_sigmoid(d(w @ z)))(w)
    np.testing.assert_allclose(grad, eps * direct, rtol=1e-12)


# --- what critics learn


@x64
def test_a_critic_of_pairs_learns_the_log_ratio_and_a_constant():
    p, q = np.array([0.1, 0.3, 0.2, 0.25, 0.15]), np.array([0.3, 0.1, 0.25, 0.05, 0.3])
    mean = lambda d: jnp.sum(p[:, None] * q[None] * matching.paired(d[:, None], d[None]))
    found = optimize.minimize(jax.jit(jax.value_and_grad(mean)), np.zeros(5), jac=True, method="BFGS", tol=1e-10).x
    found -= np.log(p / q)
    np.testing.assert_allclose(found, found[0], atol=1e-6)
    apart = lambda d: jnp.sum(p * matching.apart(d, -jnp.inf) + q * matching.apart(jnp.inf, d))
    found = optimize.minimize(jax.jit(jax.value_and_grad(apart)), np.zeros(5), jac=True, method="BFGS", tol=1e-10).x
    np.testing.assert_allclose(found, np.log(p / q), atol=1e-6)


@x64
def test_a_critic_of_a_poor_class_has_another_field():
    """N(1, .5) against N(-.3, 1.2): quadratics hold the log ratio, straight lines do not."""
    x = np.linspace(-14, 14, 4001)
    p, q = (
        np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v) * (x[1] - x[0]) for m, v in ((1, 0.5), (-0.3, 1.2))
    )

    def best(order):
        powers = np.stack([x**i for i in range(order + 1)], 1)
        loss = lambda k: jnp.sum(p * jax.nn.softplus(-(powers @ k)) + q * jax.nn.softplus(powers @ k))
        return optimize.minimize(jax.jit(jax.value_and_grad(loss)), np.zeros(order + 1), jac=True, tol=1e-12).x

    same = matching.apart(jnp.asarray(0.3), jnp.asarray(-0.2))
    np.testing.assert_allclose(same, np.log1p(np.exp(-0.3)) + np.log1p(np.exp(-0.2)), rtol=1e-12)
    np.testing.assert_allclose(best(2), [-0.524766, 2.25, -0.583333], atol=2e-6)
    np.testing.assert_allclose(best(1), [-0.651032, 1.580837], atol=2e-6)


def parabola(**options):
    """The estimate by a critic d = k x^2 / 2, of which all losses are known."""
    critic = models.from_function(lambda p, x, c, given: p["k"] * x**2 / 2, {"k": 2.0})
    return methods.estimates.Critic(critic, **options)


@x64
def test_penalties_stand_at_data_at_samples_and_between():
    """d = k x^2 / 2 has |grad d|^2 / 2 = k^2 x^2 / 2."""
    example, sample, keys = (
        Example(jnp.asarray([0.5])),
        jnp.asarray([-1.5]),
        methods.estimates.Keys(*jax.random.split(jax.random.key(0))),
    )
    learn = lambda **o: parabola(**o).learn({"critic": {"k": 2.0}}, keys, example, sample, 0, 1)[0]
    plain = learn()
    np.testing.assert_allclose(plain, np.log1p(np.exp(-0.25)) + np.log1p(np.exp(2.25)), rtol=1e-12)
    np.testing.assert_allclose(learn(pairs=True), np.log1p(np.exp(2.25 - 0.25)), rtol=1e-12)
    np.testing.assert_allclose(learn(r1=0.3) - plain, 0.3 * 2 * 0.25, rtol=1e-9)
    np.testing.assert_allclose(learn(r2=0.3) - plain, 0.3 * 2 * 2.25, rtol=1e-9)
    found = (learn(between=0.3) - plain) / (0.3 * 2)
    assert 0 <= found <= 2.25
    assert found not in (0.25, 2.25)


@x64
def test_the_field_of_pairs_is_measured_against_the_datum():
    example, sample, keys = (
        Example(jnp.asarray([0.5])),
        jnp.asarray([-1.5]),
        methods.estimates.Keys(*jax.random.split(jax.random.key(0))),
    )
    field = lambda **o: parabola(**o).field({"critic": {"k": 2.0}}, keys, example, sample)
    np.testing.assert_allclose(field(h="gan"), special.expit(-2.25) * 2 * -1.5, rtol=1e-12)
    np.testing.assert_allclose(field(h="gan", pairs=True), special.expit(0.25 - 2.25) * 2 * -1.5, rtol=1e-12)


# --- kernels


@x64
def test_a_kernel_at_a_finite_batch():
    rng = np.random.default_rng(0)
    x, y, z = (
        jnp.asarray(rng.normal(size=2)),
        jnp.asarray(rng.normal(size=(5, 2))),
        jnp.asarray(rng.normal(size=(7, 2))),
    )

    def pairs(one):
        others = jnp.concatenate([z[:3], z[4:]])
        return {
            "antisymmetric": (one.drifts(x, y, z), -one.drifts(x, z, y)),
            "one of each": (one.drifts(x, y[:1], z[:1]), jnp.tile(y[0] - z[0], (2, 1))),
            "not with itself": (one.drifts(z[3], y, z, 3), one.drifts(z[3], y, others)),
        }

    for kind in fields.KINDS:
        for name, (found, expected) in jax.jit(pairs, static_argnums=0)(
            fields.kernel((0.4, 2.0), kind, "shift")
        ).items():
            np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=f"{kind}: {name}")
    points = jnp.asarray(quantiles(([1.0], [0.0], [1.0]), 20_000))[:, None]
    pull = fields.kernel(0.5, scale="shift").drifts(jnp.asarray([2.0]), points, jnp.asarray([[2.0]]))
    np.testing.assert_allclose(pull[0, 0], -0.4, atol=1e-4)  # x h^2 / (1 + h^2)


@x64
def test_scales_of_a_kernel():
    rng = np.random.default_rng(1)
    data_, samples = jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.normal(size=(6, 3)) + 1)
    shift, score, rms = (methods.estimates.Batch(fields.kernel((0.5, 2.0), scale=s)) for s in fields.NORMALISED)
    field = jax.jit(lambda of: of.field(data_, samples, jnp.arange(6), lambda tree: tree), static_argnums=0)
    drifts = jax.jit(jax.vmap(shift.kernel.drifts, (0, None, None, 0)))(samples, data_, samples, jnp.arange(6))
    np.testing.assert_allclose(field(shift), drifts.sum(1), rtol=1e-12)
    np.testing.assert_allclose(field(score), drifts[:, 0] / 0.25 + drifts[:, 1] / 4, rtol=1e-12)
    lambdas = np.sqrt(np.mean(np.asarray(drifts) ** 2, axis=(0, 2)))
    np.testing.assert_allclose(field(rms), np.einsum("bwd,w->bd", drifts, 1 / lambdas), rtol=1e-12)
    gather = lambda tree: jax.lax.all_gather(tree, "data", tiled=True)
    parts = jax.jit(jax.vmap(lambda x, y, i: rms.field(x, y, i, gather), axis_name="data"))
    found = parts(*(a.reshape(2, 3, *a.shape[1:]) for a in (data_, samples, jnp.arange(6))))
    np.testing.assert_allclose(found.reshape(6, 3), field(rms), rtol=1e-12)  # two devices hold three examples each
