"""The likelihood by the flow: against the exact density of solved targets, and as a codelength of data on a lattice."""

import functools

import closed_forms as forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import wide
from scipy import integrate, linalg, stats

from diffjax import analytic, calculus, grids, likelihood
from diffjax.likelihood import dequantise
from diffjax.processes import Gaussian
from diffjax.samplers import ode as flow
from diffjax.samplers import sampling_fn
from diffjax.schedules import EDM, VE, VP, Cosine, Rectified, Tabulated

SETTINGS = {
    "vp": (VP(), forms.VP),
    "edm": (EDM(), forms.EDM),
    "cosine": (Cosine(), forms.COSINE),
}
MIXTURE = forms.Mixture(
    np.asarray([0.3, 0.7]),
    np.asarray([[-0.8, 0.3], [0.5, -0.1]]),
    np.asarray([[[0.2, 0.05], [0.05, 0.1]], [[0.1, -0.06], [-0.06, 0.15]]]),
)
X = np.asarray([[-0.8, 0.3], [0.1, 0.1], [1.1, -0.6], [-1.5, 0.9]])


def target(mixture=MIXTURE):
    return analytic.gaussian_mixture(mixture.weights, mixture.means, mixture.covariances)


def amplitudes(form, t):
    return tuple(float(a) for a in form.amplitudes(wide(t)))


@jax.jit
def run(density, denoise, keys, x):
    return jax.vmap(density, in_axes=(None, 0, 0))(denoise, keys, x)


@functools.partial(jax.jit, static_argnums=0)
def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


prior_density = jax.jit(lambda process, x, t: process.prior_log_density(x, t))


@functools.partial(jax.jit, static_argnums=2)
def blurred(keys, x0, levels, schedule, t):
    """Gaussian dequantisation of each x0 by its key."""
    return jax.vmap(lambda key, x0: dequantise.gaussian(key, x0, levels, schedule, t))(keys, x0)


@functools.partial(jax.jit, static_argnums=2)
def filled(keys, x0, levels):
    """Uniform dequantisation of each x0 by its key."""
    return jax.vmap(lambda key, x0: dequantise.uniform(key, x0, levels))(keys, x0)


def log_prob(law, alpha, sigma, x):
    return law.log_prob(x, alpha, sigma)


def exact_prior(schedule, t, law=None):
    """log p_T of the mixture itself: then the flow's density is the mixture's at the grid's end, to the last bits."""
    (alpha,), (sigma,) = calculus.amplitudes(schedule, [t])
    return jax.tree_util.Partial(log_prob, law or target(), alpha, sigma)


@pytest.mark.parametrize("setting", SETTINGS)
def test_mixtures_to_a_ten_thousandth_of_a_bit_per_dimension(setting, x64):
    """SciPy's density of x_{t_min}; at the default tolerances; alpha may be 0 at the end."""
    schedule, form = SETTINGS[setting]
    ts = [float(schedule.t_max), 1e-2]
    density = likelihood.ode(ts, Gaussian(schedule), trace="exact", prior=exact_prior(schedule, ts[0]))
    got = run(density, target().denoiser(schedule), keys(len(X)), X)
    expected = np.log([MIXTURE.density(x, *amplitudes(form, ts[1])) for x in X])
    assert np.abs(np.asarray(got.log_p) - expected).max() / (2 * np.log(2)) < 1e-4


@pytest.mark.parametrize("solver", ["Dopri8", "Tsit5"])
def test_the_error_is_the_tolerance(solver, x64):
    """At the setting of the other tests, so that Tsit5 is compiled once for all of them."""
    for tolerance in (1e-5, 1e-9):
        prior, options = exact_prior(VP(), 1.0), dict(rtol=tolerance, atol=tolerance, trace="exact")
        density = likelihood.ode([1.0, 1e-3], Gaussian(VP()), solver, **options, prior=prior)
        got = run(density, target().denoiser(VP()), keys(len(X)), X).log_p
        expected = np.log([MIXTURE.density(x, *amplitudes(forms.VP, 1e-3)) for x in X])
        assert np.abs(np.asarray(got) - expected).max() < 30 * tolerance


def test_float32_is_enough():
    """From t = 1e-5 on: bits per dimension within 1e-4 of the data's density, for one entry, whose signs are exact."""
    line = forms.Mixture(np.asarray([0.3, 0.7]), np.asarray([[-0.8], [0.5]]), np.asarray([[[0.1]], [[0.2]]]))
    x = np.linspace(-1.5, 1.5, 7)[:, None]
    density = likelihood.ode([1.0, 1e-5], Gaussian(VP()), prior=exact_prior(VP(), 1.0, target(line)))
    got = run(density, target(line).denoiser(VP()), keys(7), x.astype(np.float32))
    assert got.log_p.dtype == jnp.float32
    expected = np.log([line.density(p) for p in x])
    assert np.abs(np.asarray(got.log_p) - expected).max() / np.log(2) < 1e-4


def test_what_the_start_and_the_prior_cost(x64):
    """N(0, 0.25) at up to 2.5 standard deviations; t_min = 1e-5 costs 9e-6 nats, N(0, I) for p_T 1.1e-2.

    Both in closed form: the density of x_{t_min}, and the two densities of x_T, which the affine flow scales x to.
    """
    v, x = 0.25, 0.5 * np.linspace(-2.5, 2.5, 11)[:, None]
    point = analytic.gaussian_mixture([1.0], [[0.0]], [v])
    (a, s), (a_T, s_T) = amplitudes(forms.VP, 1e-5), amplitudes(forms.VP, 1.0)
    total, end = np.sqrt(a**2 * v + s**2), np.sqrt(a_T**2 * v + s_T**2)
    law = analytic.gaussian_mixture([1.0], [[0.0]], [1.0])
    normal = jax.tree_util.Partial(log_prob, law, np.float64(1), np.float64(0))  # as a mixture: one program for two
    found = {}
    for name, prior in {"exact": exact_prior(VP(), 1.0, point), "normal": normal}.items():
        density = likelihood.ode([1.0, 1e-5], Gaussian(VP()), rtol=1e-10, atol=1e-10, prior=prior)
        got = run(density, point.denoiser(VP()), keys(11), x)
        np.testing.assert_allclose(got.latent, end / total * x, atol=1e-8)
        found[name] = np.asarray(got.log_p)
    truncation = found["exact"] - stats.norm(0, np.sqrt(v)).logpdf(x[:, 0])
    assert 5e-6 < np.abs(truncation).max() < 9e-6
    np.testing.assert_allclose(found["exact"], stats.norm(0, total).logpdf(x[:, 0]), atol=1e-9)
    latent = end / total * x[:, 0]
    mismatch = stats.norm(0, 1).logpdf(latent) - stats.norm(0, end).logpdf(latent)
    np.testing.assert_allclose(found["normal"] - found["exact"], mismatch, atol=1e-9)
    assert np.abs(found["normal"] - found["exact"]).max() < 1.1e-2


C = np.asarray([[0.30, 0.12, -0.07], [0.12, 0.20, 0.05], [-0.07, 0.05, 0.25]])


def test_one_probe_is_kept_through_the_solve(x64):
    """Correlated Gaussian data: J = (log V)' / 2 commute, so that one v gives v' [log V]_0^T v / 2 for the integral.

    Signs up to a common one are four, and the error is one of four numbers, to the solver's tolerance. The flow is
    linear, and the process's own prior N(0, sigma_T^2) is taken where it arrives.
    """
    point, process = analytic.gaussian_mixture([1.0], np.zeros((1, 3)), C[None]), Gaussian(VP())
    (a, s), (a_T, s_T) = amplitudes(forms.VP, 0.01), amplitudes(forms.VP, 1.0)
    stretch = 0.5 * (linalg.logm(a_T**2 * C + s_T**2 * np.eye(3)) - linalg.logm(a**2 * C + s**2 * np.eye(3)))
    signs = np.asarray([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]])
    possible = np.einsum("ki,ij,kj->k", signs, stretch, signs) - np.trace(stretch)
    x = np.asarray([0.3, -0.2, 0.5])
    right = stats.norm(0, s_T).logpdf(linalg.expm(stretch) @ x).sum() + np.trace(stretch)
    density = likelihood.ode([1.0, 0.01], process, rtol=1e-9, atol=1e-9)
    got = run(density, point.denoiser(VP()), keys(40), np.tile(x, (40, 1))).log_p
    distance = np.abs(np.asarray(got)[:, None] - right - possible[None])
    assert distance.min(1).max() < 1e-7
    assert set(distance.argmin(1)) == {0, 1, 2, 3}, "keys differ in their probes"


@pytest.mark.parametrize(("trace", "probes", "diagonal"), [("hutchinson", 1, 0.0), ("gaussian", 4, 1.0)])
def test_random_traces_are_unbiased_and_of_the_known_variance(trace, probes, diagonal):
    """2 sum_{i != j} S_ij^2 with S the integral of J, and the diagonal for Gaussian probes; four share it."""
    point, ts = analytic.gaussian_mixture([1.0], np.zeros((1, 3)), C[None]), np.linspace(1.0, 0.01, 31) ** 2
    (a, s), (a_T, s_T) = amplitudes(forms.VP, 1e-4), amplitudes(forms.VP, 1.0)
    stretch = 0.5 * (linalg.logm(a_T**2 * C + s_T**2 * np.eye(3)) - linalg.logm(a**2 * C + s**2 * np.eye(3)))
    variance = 2 * (np.sum(stretch**2) - (1 - diagonal) * np.sum(np.diag(stretch) ** 2)) / probes
    density = likelihood.ode(ts, Gaussian(VP()), adaptive=False, trace=trace, probes=probes)
    x = np.tile(np.asarray([0.3, -0.2, 0.5], np.float32), (4000, 1))
    got = np.asarray(run(density, point.denoiser(VP()), keys(4000), x).log_p, np.float64)
    expected = stats.multivariate_normal(np.zeros(3), a**2 * C + s**2 * np.eye(3)).logpdf(x[0])
    assert np.mean(got) == pytest.approx(expected, abs=4 * np.sqrt(variance / 4000) + 3e-3)
    assert np.var(got) == pytest.approx(variance, rel=0.12)


@pytest.mark.parametrize(("solver", "order"), [("Euler", 1), ("Heun", 2)])
def test_fixed_steps_converge_at_their_order(solver, order, x64):
    """80 steps at once, and as many for each half, which is one program; the exact densities join the halves."""
    density = lambda x, t: np.log([MIXTURE.density(point, 1 - t, t) for point in x])

    def solve(x, t, t_end):
        ts, prior = np.linspace(t_end, t, 81), exact_prior(Rectified(), t_end)
        gained = likelihood.ode(ts, Gaussian(Rectified()), solver, adaptive=False, trace="exact", prior=prior)
        got = run(gained, target().denoiser(Rectified()), keys(len(X)), x)
        latent = np.asarray(got.latent)
        return latent, np.asarray(got.log_p) - density(latent, t_end)

    coarse, at_once = solve(X, 0.1, 0.9)
    middle, first = solve(X, 0.1, 0.5)
    fine, second = solve(middle, 0.5, 0.9)
    ways = ((coarse, at_once), (fine, first + second))
    errors = [np.abs(density(latent, 0.9) + gained - density(X, 0.1)).max() for latent, gained in ways]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(
    ("solver", "adaptive"),
    [("Tsit5", True), ("Heun", True), ("Tsit5", False), ("Euler", False)],
)
def test_evaluations_are_counted(solver, adaptive):
    """By a denoiser that counts them."""
    count, exact = [], target().denoiser(VP())

    class Counting:
        schedule = exact.schedule

        def __call__(self, x, t):
            jax.debug.callback(lambda: count.append(1))
            return exact(x, t)

    ts = [1.0, 0.05] if adaptive else np.linspace(1.0, 0.05, 8)
    density = likelihood.ode(ts, Gaussian(VP()), solver, 1e-3, 1e-3, adaptive)
    got = jax.jit(lambda x: density(Counting(), jax.random.key(0), x))(X[0].astype(np.float32))
    jax.effects_barrier()
    assert len(count) == int(got.nfe) > 6


def test_no_example_depends_on_its_neighbours(x64):
    """The solve of one among copies of itself, and among others that need other steps."""
    density = likelihood.ode([1.0, 1e-3], Gaussian(VP()), trace="exact", prior=exact_prior(VP(), 1.0))
    together = run(density, target().denoiser(VP()), keys(len(X)), X)
    assert len(set(np.asarray(together.nfe).tolist())) > 1
    together = jax.tree.map(np.asarray, together)
    for i in range(len(X)):
        alone = run(density, target().denoiser(VP()), keys(len(X)), np.tile(X[i], (len(X), 1)))
        np.testing.assert_allclose(np.asarray(alone.log_p)[i], together.log_p[i], rtol=0, atol=1e-12)
        assert np.asarray(alone.nfe)[i] == together.nfe[i]


def test_decoding_the_latent_comes_back(x64):
    """The sampler of the same flow, from x_T down."""
    process, ts = Gaussian(VP()), [1.0, 1e-3]
    prior = exact_prior(VP(), 1.0)
    density = likelihood.ode(ts, process, rtol=1e-9, atol=1e-9, trace="exact", prior=prior)
    latent = run(density, target().denoiser(VP()), keys(len(X)), X).latent
    decode = sampling_fn(flow.probability_flow(VP(), rtol=1e-9, atol=1e-9), ts)
    back = jax.jit(jax.vmap(decode, in_axes=(None, None, 0)))(target().denoiser(VP()), jax.random.key(0), latent)
    np.testing.assert_allclose(back, X, atol=1e-6)


TRACED = []


@jax.jit
def once(density, denoise, x):
    TRACED.append(1)
    return density(denoise, jax.random.key(0), x).log_p


def test_other_numbers_are_no_new_compile():
    found, traces = [], []
    for schedule, t_min, rtol in ((VP(), 1e-2, 1e-4), (VP(beta_max=15.0), 1e-3, 1e-5)):
        density = likelihood.ode([1.0, t_min], Gaussian(schedule), rtol=rtol)
        found.append(float(once(density, target().denoiser(schedule), X[0].astype(np.float32))))
        traces.append(len(TRACED))
    assert traces[0] == traces[1] > 0
    assert found[0] != found[1]


def test_a_denoiser_of_another_schedule_is_refused():
    density, x = likelihood.ode([1.0, 0.1], Gaussian(VP())), np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="planned for VP"):
        density(target().denoiser(VP(beta_max=15.0)), jax.random.key(0), x)
    assert np.isnan(once(density, target().denoiser(VP(beta_max=15.0)), x))


class Bare:
    """A process that says nothing of its prior's density."""

    schedule = VP()


def heavy(key, shape):
    return jax.random.t(key, 5.0, shape)


MISTAKES = [
    (lambda: likelihood.ode([1.0, 0.1], Gaussian(VP()), "Kvaerno5"), "no adaptive ODE solver 'Kvaerno5'; there is "),
    (lambda: likelihood.ode([1.0, 0.1], Gaussian(VP()), "Euler"), "no adaptive ODE solver 'Euler'"),
    (lambda: likelihood.ode([1.0, 0.1], Gaussian(VP()), rtol=0.0), r"rtol = 0\.0.*expected all positive"),
    (lambda: likelihood.ode([1.0, 0.0], Gaussian(VP())), "singular at t = 0; end the grid above it"),
    (lambda: likelihood.ode([0.1, 1.0], Gaussian(VP())), "decrease strictly"),
    (lambda: likelihood.ode([1.0, 0.1], Gaussian(VP()), trace="rademacher"), "there is hutchinson, gaussian, exact"),
    (lambda: likelihood.ode([1.0, 0.1], Gaussian(VP()), probes=0), "probes is 0, expected an integer >= 1"),
    (lambda: likelihood.ode([1.0, 0.1], Bare()), "Bare has no prior_log_density"),
    (lambda: likelihood.ode([1.0, 0.1], Gaussian(VP(), heavy)), "noise law heavy has no density here"),
    (lambda: dequantise.uniform(jax.random.key(0), jnp.zeros(2), 1), "levels = 1, expected an integer >= 2"),
    (lambda: dequantise.gaussian(jax.random.key(0), jnp.zeros(2), 0, VP(), 0.1), "levels = 0, expected an integer"),
]


@pytest.mark.parametrize(("make", "match"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_the_priors_density_is_that_of_its_draws(x64):
    """By SciPy, at the end and at a time of the grid; of a law with a density of its own."""
    x = np.random.default_rng(0).normal(size=(2, 3))
    for schedule, t, std in ((EDM(), None, 80.0), (VE(), None, 50.0), (VP(), 0.4, amplitudes(forms.VP, 0.4)[1])):
        got = prior_density(Gaussian(schedule), x, t)
        np.testing.assert_allclose(got, stats.norm(0, std).logpdf(x).sum(), rtol=1e-12)
    log_density = lambda z: jax.scipy.stats.t.logpdf(z, 5.0).sum()
    got = prior_density(Gaussian(VP(), heavy, log_density), x, 0.4)
    expected = stats.t(5.0, scale=amplitudes(forms.VP, 0.4)[1]).logpdf(x).sum()
    np.testing.assert_allclose(got, expected, rtol=1e-12)


# Codelengths of data on a lattice.


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_uniform_noise_fills_the_bin_and_costs_its_width(levels):
    x0 = np.linspace(-1, 1, levels, dtype=np.float32)
    x, cost = map(np.asarray, filled(keys(2000, seed=levels), np.tile(x0, (2000, 1)), levels))
    u = (x - x0) * (levels - 1)
    assert stats.kstest(u.ravel()[:20_000], stats.uniform(-1, 2).cdf).pvalue > 1e-3
    np.testing.assert_allclose(cost, levels * np.log((levels - 1) / 2), rtol=1e-6)
    constant = {2: -1.0, 17: 3.0, 256: np.log2(127.5)}[levels]  # bits per dimension beside -log2 p / d
    assert dequantise.bits(0.0, cost[0], levels) == pytest.approx(constant, abs=1e-5)


def test_uniform_noise_bounds_the_codelength_by_quadrature(x64):
    """E[-log p(x_0 + u)] + log((L - 1) / 2) >= -log of the bin's probability; equal where p is flat."""
    law, levels = stats.norm(0.1, 0.4), 17
    for level in np.linspace(-1, 1, levels)[::4]:
        bin_ = (level - 1 / 16, level + 1 / 16)
        bound = integrate.quad(lambda x: -law.logpdf(x) * 8, *bin_)[0] + np.log(8)
        truth = -np.log(np.diff(law.cdf(bin_))[0])
        assert truth < bound < truth + 0.04
        x, cost = filled(keys(4000), np.full(4000, level), levels)
        code = np.asarray(cost) - law.logpdf(np.asarray(x))
        assert np.mean(code) == pytest.approx(bound, abs=4 * np.std(code) / np.sqrt(4000) + 1e-9)


@pytest.mark.parametrize("t", [0.02, 0.1, 0.4])
def test_gaussian_noise_is_exact_for_a_uniform_lattice(t, x64):
    """p(x_t) q's posterior is Bayes' rule: cost - log p(x_t) = d log L for every draw, however large the noise."""
    levels, (alpha, sigma) = 5, amplitudes(forms.VP, t)
    x0 = np.asarray([[-1.0, 0.5], [0.0, 1.0]])
    lattice = alpha * np.linspace(-1, 1, levels)
    draws, costs = map(np.asarray, blurred(keys(4000), np.tile(x0, (4000, 1, 1)), levels, VP(), t))
    log_ps = np.log(stats.norm(lattice, sigma).pdf(draws[..., None]).mean(-1)).sum((1, 2))
    np.testing.assert_allclose(costs - log_ps, 4 * np.log(levels), rtol=1e-9)
    np.testing.assert_allclose(dequantise.bits(log_ps, costs, 4), np.log2(levels), rtol=1e-9)
    z = (draws - alpha * x0) / sigma
    assert stats.kstest(z.ravel(), stats.norm().cdf).pvalue > 1e-3


@functools.cache
def lattice_model():
    """Sixteen pairs of four levels, each as likely: 2 bits per dimension and no less."""
    grid = np.linspace(-1, 1, 4)
    return analytic.empirical(np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2))


def test_the_whole_code_of_a_lattice_is_its_entropy():
    """Gaussian noise, the flow and the prior of x_T: every example is log2 4 = 2 bits per dimension to 1e-4."""
    schedule, t_min, law = VP(), 1e-2, lattice_model()
    density = likelihood.ode([1.0, t_min], Gaussian(schedule), trace="exact", prior=exact_prior(schedule, 1.0, law))

    x, cost = blurred(keys(16), np.asarray(law.data)[0, :16], 4, schedule, t_min)
    log_p = run(density, law.denoiser(schedule), keys(16), x).log_p
    np.testing.assert_allclose(dequantise.bits(np.asarray(log_p), np.asarray(cost), 2), 2.0, atol=1e-4)


def test_uniform_noise_is_dear_to_a_model_of_the_lattice():
    """Its density between the levels falls as t_min does: the reason why the Gaussian noise is there."""
    schedule, law = VP(), lattice_model()
    found, prior = [], exact_prior(schedule, 1.0, law)
    x, cost = filled(keys(16), np.asarray(law.data)[0, :16], 4)
    for t_min in (3e-2, 1e-2, 3e-3):
        density = likelihood.ode([1.0, t_min], Gaussian(schedule), trace="exact", prior=prior)
        log_p = run(density, law.denoiser(schedule), keys(16), x).log_p
        found.append(np.mean(dequantise.bits(np.asarray(log_p), np.asarray(cost), 2)))
    assert found[2] > found[1] > found[0] > 2
    assert found[2] > 10


def test_a_chain_of_betas_is_as_cheap_as_a_smooth_schedule():
    """DDPM's table, whose rates jump at every knot: in the clock t that costs ten times the evaluations."""
    schedule = Tabulated.linear(100)
    ts = grids.log_snr(schedule, 60, t_min=0.02, zero=False)
    alpha, sigma = (float(a) for a in forms.chain(np.linspace(1e-4, 0.02, 100) * 10).amplitudes(np.asarray(ts[-1])))
    density = likelihood.ode(ts, Gaussian(schedule), trace="exact", prior=exact_prior(schedule, 1.0))
    got = run(density, target().denoiser(schedule), keys(len(X)), X.astype(np.float32))
    expected = np.log([MIXTURE.density(x, alpha, sigma) for x in X])
    assert np.abs(np.asarray(got.log_p) - expected).max() < 1e-4
    assert np.max(got.nfe) < 100
