"""The process of a Schroedinger bridge: what it hides, which samplers are right, what is learned, where it leads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import read, unit
from test_schroedinger import BRIDGE, EPSILON, FREE, LAWS, LINE

from diffjax import calculus, denoisers, grids, losses, methods, models, processes, samplers
from diffjax.denoisers import DDBM
from diffjax.method import Example
from diffjax.processes import BridgeSchedule
from diffjax.processes.schroedinger import MarkovSchedule
from diffjax.samplers import ancestral, bridging_fn, heun, hybrid, multistep, ode, sde
from diffjax.samplers.base import rows_of
from diffjax.schedules import EDM, VP, Rectified
from diffjax.theory import schroedinger as theory

BROWNIAN = EDM(np.sqrt(EPSILON))
PROCESS = processes.schroedinger(BROWNIAN)
SCHEDULE = PROCESS.schedule
TARGET = DDBM(0.9, 1.1, 0.2)


def share(t):
    """The time of Brownian motion on [0, 1] where sigma is t."""
    return t**2 / EPSILON


# Samplers.


@pytest.mark.parametrize("base", [VP(0.1, 2.1), BROWNIAN], ids=["vp", "brownian"])
def test_a_walk_is_that_of_the_ordinary_diffusion_from_y(base):
    """For any m(x, t): DDPM on (B, C), from the pinned start, is DDPM on the base from x_T = y, path by path."""
    end, rng = float(base.t_max), np.random.default_rng(0)
    ts, y, noise = end * np.array([1, 0.8, 0.55, 0.2, 0.05, 0]), rng.normal(size=3), rng.normal(size=(5, 3))
    schedule = processes.schroedinger(base).schedule
    r = lambda t: np.divide(*np.square(calculus.amplitudes(base, [t]))[::-1])[0]  # 1 / SNR
    A = [(r(t) / r(end)) * calculus.amplitudes(base, [t])[0][0] / calculus.amplitudes(base, [end])[0][0] for t in ts]
    weight = dict(zip(ts, A))
    known = lambda x, t: (np.tanh(1.3 * x) * (1 - 0.3 * t) + 0.1, 0.0)
    in_u = lambda u, t: known(u + weight[t] * y, t)
    expected = np.stack(list(read(ancestral.ddpm(base).plan(ts), known, y, noise)))
    first = list(read(ancestral.resampled(schedule).plan(ts[:2]), in_u, np.zeros(3), noise))
    rest = list(read(ancestral.ddpm(schedule).plan(ts[1:]), in_u, first[0], noise[1:]))
    got = np.stack([*first, *rest]) + np.asarray(A)[1:, None] * y
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


def law_of_walk(pair, n, with_var):
    """(means, variances, covariances with y) of x after every row, on a line, from y of its law; and the times."""
    ts = grids.pinned(SCHEDULE, n, gap=BROWNIAN.t_max / n, t_min=1e-9)
    weight = dict(zip(ts, share(ts)))

    def model(u, t):
        x = u.copy()
        x[1] += weight[t]
        K, k, Q = theory.posterior(pair, share(t), EPSILON)
        mean = K[0, 0] * x
        mean[0] += k[0]
        return mean, Q[0, 0] if with_var else 0.0

    units = [unit(2 + i, 2 + n) for i in range(n)]
    path = list(read(ancestral.resampled(SCHEDULE).plan(ts[:2]), model, np.zeros(2 + n), units))
    path += list(read(ancestral.ddpm(SCHEDULE).plan(ts[1:]), model, path[0], units[1:]))
    path = [x + weight[t] * unit(1, 2 + n) for x, t in zip(path, ts[1:])]
    (m,), ((v,),) = pair.mean1, pair.cov1
    found = [(x[0] + x[1] * m, x[1] ** 2 * v + x[2:] @ x[2:], x[1] * v) for x in path]
    return np.transpose(found), ts[1:]


@pytest.mark.parametrize("pair", [theory.gaussian(*LINE, EPSILON), theory.independent(*LINE)], ids=["bridge", "free"])
def test_the_walk_s_law_is_the_bridge_s(pair):
    """With Var[x_0 | x_t] added, every x_t has its law on any grid; with the mean alone the end's error is first order.

    The pair that it makes tends to the projected one. The bridge's own is met on any grid: its E[x_0 | x_t] is a
    martingale of the Markov walk.
    """
    (mean, v, _), ts = law_of_walk(pair, 7, with_var=True)
    for i, t in enumerate(ts[:-1]):
        m, V = theory.marginal(pair, share(t), EPSILON)
        assert (mean[i], v[i]) == (pytest.approx(m[0], abs=1e-12), pytest.approx(V[0, 0], rel=1e-10))
    ends = [law_of_walk(pair, n, with_var=False)[0][:, -1] for n in (200, 400)]
    meant = pair.mean0[0], pair.cov0[0, 0], theory.projected(pair, EPSILON).cross[0, 0]
    (_, *off), (_, *half) = np.abs(np.asarray(ends) - meant)
    if pair.cross[0, 0]:
        assert max(off[1], half[1]) < 1e-7
    else:
        assert off[1] / half[1] == pytest.approx(2, abs=0.1)
    assert off[0] / half[0] == pytest.approx(2, abs=0.1)
    assert max(half) < 0.01
    np.testing.assert_allclose(ends[1][0], meant[0], atol=1e-8)


def test_walks_lead_from_one_law_to_the_other():
    """4,096 walks in two dimensions with the exact drift, by the library's own loop: means, covariances and pairs."""
    rng = np.random.default_rng(3)
    y = rng.multivariate_normal(LAWS[2], LAWS[3], 4096).astype(np.float32)
    sample = bridging_fn(ancestral.ddpm(SCHEDULE), grids.pinned(SCHEDULE, 40, gap=1e-2, t_min=1e-3))

    @jax.jit
    def walk(sample, y, keys):
        one = lambda y, key: sample(theory.exact(SCHEDULE, BRIDGE, y), key, jnp.zeros(2))
        return jax.vmap(one)(y, keys)

    x = np.asarray(walk(sample, y, jax.random.split(jax.random.key(0), len(y))), np.float64)
    both = np.cov(np.concatenate([x, y], 1).T)
    np.testing.assert_allclose(x.mean(0), LAWS[0], atol=0.06)
    np.testing.assert_allclose(both, BRIDGE.cov, atol=0.08)


@pytest.mark.parametrize(
    ("make", "right"),
    [
        (ancestral.ddpm, True),
        (lambda s: ancestral.ddim(s, 1.0), True),
        (lambda s: multistep.adams(s, 2, tau=1.0), True),
        (multistep.dpmpp_2m_sde, True),
        (sde.euler_maruyama, True),
        (ancestral.ddim, False),
        (lambda s: ancestral.ddim(s, 0.9), False),
        (ancestral.resampled, False),
        (lambda s: sde.euler_maruyama(s, churn=0.9), False),
        (lambda s: multistep.adams(s, 2), False),
        (lambda s: multistep.adams(s, 2, tau=0.9), False),
        (heun.edm, False),
        (hybrid.ddbm, False),
        (ode.probability_flow, False),
    ],
)
def test_samplers_of_another_noise_refuse(make, right):
    ts = BROWNIAN.t_max * np.array([0.9, 0.6, 0.3, 0.1])
    rows_of(make(BridgeSchedule(BROWNIAN)), ts)  # of a bridge that knows y all of them are
    if right:
        rows_of(make(SCHEDULE), ts)
        return
    with pytest.raises(ValueError, match="not add the noise of the reverse SDE, which alone is right") as caught:
        rows_of(make(SCHEDULE), ts)
    assert "\n" not in str(caught.value)


def test_a_pinned_grid_begins_at_the_endpoint():
    assert samplers.pinned(SCHEDULE, grids.pinned(SCHEDULE, 5))
    bridging_fn(ancestral.ddpm(SCHEDULE), grids.pinned(SCHEDULE, 5))
    with pytest.raises(ValueError, match="reverse SDE"):
        bridging_fn(ancestral.ddim(SCHEDULE), grids.pinned(SCHEDULE, 5))


def test_what_needs_gaussian_noise_refuses():
    for what in (SCHEDULE, calculus.FlowOnly(VP())):
        with pytest.raises(ValueError, match=r"only the reverse SDE is right|only its flow is right"):
            calculus.need_gaussian(what, "This", "do that")
    calculus.need_gaussian(BridgeSchedule(BROWNIAN), "This", "do that")
    assert calculus.sde_only(SCHEDULE)
    assert not calculus.sde_only(BridgeSchedule(BROWNIAN))


# What is learned.


@pytest.mark.parametrize("pair", [BRIDGE, FREE], ids=["bridge", "free"])
@pytest.mark.parametrize("fraction", [0.2, 0.9])
def test_the_loss_s_minimum_is_the_exact_drift(pair, fraction, x64):
    """Of a linear network on Gaussian pairs: the loss is quadratic, its mean a cubature of 12 points, exact."""
    t, L = fraction * BROWNIAN.t_max, np.eye(6)
    L[:4, :4] = np.linalg.cholesky(pair.cov)
    centre = np.concatenate([pair.mean0, pair.mean1, np.zeros(2)])
    points = centre + np.sqrt(6) * np.concatenate([L.T, -L.T])

    def net(w, x, c):
        return w[:4].reshape(2, 2) @ x + w[4:]

    def loss(w):
        one = lambda x0, y, z: losses.regression(
            jax.tree_util.Partial(net, w), PROCESS, TARGET.given({"y": y}), x0, z, t
        )
        return jax.vmap(one)(*jnp.split(points, 3, axis=1)).mean()

    slope, curvature = jax.jit(lambda w: (jax.grad(loss)(w), jax.hessian(loss)(w)))(jnp.zeros(6))
    best = jax.tree_util.Partial(net, jnp.asarray(-np.linalg.solve(curvature, slope)))
    K, k, _ = theory.posterior(pair, fraction**2, EPSILON)
    for x, y in np.random.default_rng(1).normal(size=(3, 2, 2)):
        denoise = denoisers.denoiser(best, SCHEDULE, TARGET.given({"y": y}))
        u = x - fraction**2 * y
        np.testing.assert_allclose(denoise(jnp.asarray(u), t).mean, K @ x + k, atol=1e-9)
        np.testing.assert_allclose(theory.exact(SCHEDULE, pair, y)(jnp.asarray(u), t).mean, K @ x + k, atol=1e-12)


def test_no_network_is_shown_the_endpoint():
    """A function that would read all of `given` gets the rest; a module with room for y is refused."""
    asked = []
    network = models.from_function(lambda params, x, c, given: asked.append(set(given)) or x, {})
    begun = network._replace(init=lambda key, x, c, given: asked.append(set(given)) or {})
    method, given = methods.denoising(begun, PROCESS, TARGET), {"y": np.ones(2), "label": 3}
    method.init(jax.random.key(0), Example(np.ones(2), given))
    method.parts.net({}, given)(np.ones(2), np.float32(0.1))
    assert asked == [{"label"}, {"label"}]
    assert method.asks is None  # a function may read all
    silent = models.from_function(lambda params, x, c, given: x, {}, reads=())
    assert methods.denoising(silent, PROCESS, TARGET).asks == ("y",)  # the process reads it
    with pytest.raises(ValueError, match="reads y, which Schroedinger hides from it: the drift of a Markov process"):
        methods.denoising(models.of(models.MLP(width=8, condition=2)), PROCESS, TARGET)
    methods.denoising(models.of(models.MLP(width=8, condition=2)), processes.bridge(BROWNIAN), TARGET)


def test_a_denoiser_stays_in_its_own_sde():
    """On another schedule nothing would refuse the flow; a second moment of the noise is no variance here."""
    exact = theory.exact(SCHEDULE, BRIDGE, LAWS[2])
    with pytest.raises(ValueError, match="MarkovSchedule is right in the reverse SDE of its own schedule alone"):
        denoisers.coordinates.run_on(exact, EDM(0.2))
    found = denoisers.moments.measure(
        lambda example: exact, PROCESS, jax.random.key(0), {"x": np.ones((4, 2), np.float32)}, [0.3, 0.1]
    )
    assert np.isnan(found.noise).all()
    assert np.isfinite(found.error).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: processes.Schroedinger(BROWNIAN), "the schedule EDM, expected MarkovSchedule: processes.schroedinger"),
        (
            lambda: processes.Schroedinger(processes.bridge(BROWNIAN).schedule),
            "BridgeSchedule, expected Markov",
        ),
        (lambda: processes.Bridge(BROWNIAN), "the schedule EDM, expected BridgeSchedule: processes.bridge.schedule."),
        (
            lambda: DDBM().check(BROWNIAN),
            "take processes.bridge.schedule., or processes.schroedinger.schedule. bet",
        ),
    ],
)
def test_a_schedule_that_is_not_pinned_is_refused_where_it_is_given(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_process_may_be_rebuilt_of_anything():
    """As pytrees are: of axes, shapes and objects that stand for leaves."""
    for kind in (processes.schroedinger(BROWNIAN), processes.bridge(BROWNIAN)):
        leaves, structure = jax.tree.flatten(kind)
        assert type(structure.unflatten([object() for _ in leaves])) is type(kind)
        assert type(type(kind)(0)) is type(kind)


def test_the_process_says_its_static_problem():
    vp = processes.schroedinger(VP(0.1, 2.1))
    alpha, sigma = (float(a[0]) for a in calculus.amplitudes(VP(0.1, 2.1), [1.0]))
    assert float(vp.epsilon) == pytest.approx(sigma**2, rel=1e-6)
    assert float(vp.carried(2.0)) == pytest.approx(2 * alpha, rel=1e-6)
    assert float(PROCESS.epsilon) == pytest.approx(EPSILON, rel=1e-6)
    assert type(SCHEDULE) is MarkovSchedule
    assert processes.schroedinger(BROWNIAN, from_noise=True).asks == ()
    with pytest.raises(ValueError, match="a bridge needs both above 0"):
        processes.schroedinger(Rectified())
    with pytest.raises(ValueError, match=r"moons has no endpoints, .* data.name=between with data.end"):
        PROCESS.check_data((), "moons")
    with pytest.raises(ValueError, match=r"endpoint y has shape \(3,\)"):
        theory.exact(SCHEDULE, BRIDGE, np.zeros(3))
