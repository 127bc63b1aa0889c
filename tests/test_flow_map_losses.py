"""Published losses of flow maps: fixed points, orders in the step, guidance inside, laws of pairs; what is refused."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import flow_maps as oracle
from scipy import stats

from diffjax import processes, schedules
from diffjax.denoisers import Eps, Velocity
from diffjax.denoisers.flow_map import flow_map
from diffjax.losses import eulerian, pairs, progressive
from diffjax.losses import flow_map as core
from diffjax.losses.flow_map import Way
from diffjax.method import Keys

RECTIFIED = schedules.Rectified()
PROCESS = processes.Gaussian(RECTIFIED)
STD = 0.25


def centred(t):
    """slope of v(x, t) for N(0, STD^2), and the standard deviation of x_t."""
    V_t = (1 - t) ** 2 * STD**2 + t**2
    return (t - (1 - t) * STD**2) / V_t, jnp.sqrt(V_t)


def euler_map(steps):
    """The flow map whose every dyadic jump is that of 1 / steps Euler steps, on N(0, STD^2); its diagonal is v."""

    def net(y, c, gap):
        phi = oracle.now(c)
        t, r = (jnp.sin(a) / (jnp.sin(a) + jnp.cos(a)) for a in (phi, phi - gap[0]))
        x = y * jnp.hypot(t, 1 - t)
        count = jnp.round((t - r) * steps)
        k = jnp.arange(steps, dtype=float)
        slopes = jax.vmap(lambda k: centred(t - k / steps)[0])(k)
        through = jnp.prod(jnp.where(k < count, 1 - slopes / steps, 1.0))
        return jnp.where(count > 0, (1 - through) / jnp.where(count > 0, count / steps, 1.0), centred(t)[0]) * x

    return flow_map(net, RECTIFIED, Velocity())


def exact_map():
    law = oracle.gaussian(np.zeros(1), np.array([[STD]]))
    return flow_map(oracle.network(law, RECTIFIED, Velocity()), RECTIFIED, Velocity())


def way_of(x, t, r, **options):
    """A way whose x_t is x: data at 0."""
    return Way(PROCESS, jnp.zeros_like(x), x / t, t, r, **options)


def test_shortcut_ends_at_the_euler_map(x64):
    """Its loss is 0 at the map of 8 Euler steps, at every pair off the diagonal, and is not at the flow's own map."""
    rule, steps = progressive.shortcut(8), 8
    of = lambda f: jax.jit(lambda x, t, r: rule(f, way_of(x, t, r))[1])
    at = {"e": of(euler_map(8)), "x": of(exact_map())}
    x = np.array([0.7])
    for k in (0, 1, 2):
        for j in range(1, 2**k + 1):
            t, r = np.float64(j / 2**k), np.float64((j - 1) / 2**k)
            assert float(at["e"](x, t, r)) < 1e-24
    assert float(at["x"](x, np.float64(0.5), np.float64(0.25))) > 1e-5
    one = jax.jit(euler_map(steps).land)(x, np.float64(1), np.float64(0))
    np.testing.assert_allclose(one / x, 0.189312, atol=5e-7)  # computed elsewhere; the flow's is 0.25
    by_hand = np.prod([1 - float(centred(1 - k / steps)[0]) / steps for k in range(steps)])
    np.testing.assert_allclose(one / x, by_hand, rtol=1e-12)


def test_progressive_distillation_is_two_steps_of_the_teacher(x64):
    """Of N steps from a teacher of 2 N: 0 at the map that makes two DDIM steps of one, whatever the weight."""
    student, rule = euler_map(8), progressive.distillation()  # a jump of 1 / 4 is two steps of 1 / 8
    taught = jax.jit(lambda x, t, r: rule(student, way_of(x, t, r), exact_map()))
    wrong = jax.jit(lambda x, t, r: rule(exact_map(), way_of(x, t, r), exact_map()))
    x, t, r = np.array([0.7]), np.float64(0.75), np.float64(0.5)
    assert float(taught(x, t, r)[0]) < 1e-24
    loss, error = (float(a) for a in wrong(x, t, r))
    np.testing.assert_allclose(loss / error, max(t**2, (1 - t) ** 2), rtol=1e-9)  # c_m = -t, SNR = ((1 - t) / t)^2


BIMODAL = ((0.4, 0.6), (-1.0, 1.0), (0.5, 0.5))


@cache
def bimodal():
    law = oracle.line(*BIMODAL)
    return flow_map(oracle.network(law, RECTIFIED, Velocity()), RECTIFIED, Velocity())


@pytest.mark.parametrize(
    ("heun", "expected", "order"),
    [(False, (0.12675, 0.06475, 0.03277), 1.0), (True, (0.00497, 0.00128, 0.00033), 2.0)],
)
def test_order_of_consistency_distillation(x64, heun, expected, order):
    """Its minimum at t = 1 is the teacher's walk; rms to the flow under p_1, N = 8, 16, 32, computed elsewhere."""
    node = np.linspace(-5, 5, 401)
    weight = stats.norm.pdf(node) / stats.norm.pdf(node).sum()
    step = jax.jit(jax.vmap(lambda x, t, q: progressive.flow_step(bimodal(), x, t, q, heun), (0, None, None)))
    ends = oracle.quantile(stats.norm.cdf(node), *BIMODAL)
    errors = []
    for n in (8, 16, 32):
        x = node[:, None]
        for i in range(n, 0, -1):
            x = step(x, np.float64(i / n), np.float64((i - 1) / n))
        errors.append(np.sqrt(weight @ (np.asarray(x)[:, 0] - ends) ** 2))
    np.testing.assert_allclose(errors, expected, rtol=2e-3, atol=1.2e-5)
    assert abs(np.log2(errors[1] / errors[2]) - order) < 0.1


def test_consistency_training_is_off_by_an_order_of_the_step(x64):
    """(E[f(x_q, q) | x_t] - f(x_t, t)) / (t - q) at two points, computed elsewhere."""
    mixture = ((0.3, 0.7), (-1.0, 1.5), (0.2, 0.6))
    flow = flow_map(oracle.network(oracle.line(*mixture), RECTIFIED, Velocity()), RECTIFIED, Velocity())
    land = jax.jit(jax.vmap(lambda x, t: flow.land(x, t, jnp.zeros_like(t)), (0, None)))
    for x, t, expected in (
        (0.37, 0.8, (-0.026541, -0.012958, -0.006403)),
        (-0.3, 0.95, (-0.167568, -0.079053, -0.038571)),
    ):
        x0, share = oracle.posterior(x, 1 - t, t, *mixture)
        z, here = (x - (1 - t) * x0) / t, float(land(np.full((len(x0), 1), x), np.float64(t))[0, 0])
        found = [
            (share @ np.asarray(land(((1 - q) * x0 + q * z)[:, None], np.float64(q)))[:, 0] - here) / (t - q)
            for q in (t - 0.02, t - 0.01, t - 0.005)
        ]
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_consistency_loss_is_of_where_both_land(x64):
    flow, x, t, q = bimodal(), np.array([0.4]), np.float64(0.8), np.float64(0.5)
    made = lambda **o: jax.jit(lambda x, t, q: progressive.consistency(**o)(flow, way_of(x, t, q)))
    loss = lambda **o: [float(a) for a in made(**o)(x, t, q)]
    w, m, std = (np.array(v) for v in BIMODAL)
    level = lambda t, x: np.sum(w * stats.norm.cdf(x, (1 - t) * m, np.hypot((1 - t) * std, t)))
    # of (x_0, z) = (0, x / t)
    one, other = (oracle.quantile(level(s, y), *BIMODAL)[0] for s, y in ((t, 0.4), (q, q * 0.4 / t)))
    d = (one - other) ** 2
    np.testing.assert_allclose(loss(), [d, d], rtol=1e-9)
    np.testing.assert_allclose(loss(huber=0.1), [np.sqrt(d + 0.01) - 0.1, d], rtol=1e-9)
    np.testing.assert_allclose(loss(weighted=True), [d / 0.3, d], rtol=1e-9)


# Guidance inside


def still(v):
    """A map whose velocity is the constant v, on Rectified: v = Z - D."""
    v = jnp.asarray([v])
    return SimpleNamespace(schedule=RECTIFIED, ends=lambda x, t, r=None: (-v, jnp.zeros_like(v)))


def test_guided_velocities_have_their_fixed_points(x64):
    """(v_y, v_none, w, kappa) = (1.3, -0.4, 2.5, 0.5): 8.1 is v_none + 5 (v_y - v_none); by one's own field 3.85."""
    t = jnp.float64(0.5)
    way = Way(PROCESS, jnp.asarray([-1.3]), jnp.zeros(1), t, t, unseen=still(-0.4))
    v = lambda ends, flow: float(core.velocity(flow, ends, t)[0])
    np.testing.assert_allclose(v(core.guided(still(8.1), way, 2.5, 0.5), still(0)), 8.1, atol=1e-12)
    np.testing.assert_allclose(v(core.corrected(still(3.85), way, 2.5), still(0)), 3.85, atol=1e-12)
    hidden = way._replace(hidden=True)
    for ends in (core.guided(still(8.1), hidden, 2.5, 0.5), core.corrected(still(3.0), hidden, 2.5), way.ends):
        np.testing.assert_allclose(v(ends, still(0)), 1.3, atol=1e-12)
    assert core.guided(still(0), way, 1.0, 0.0)[0] is way.x0
    assert core.corrected(still(0), way, 1.0)[0] is way.x0


# Laws of pairs


def drawn(law, size=2048, step=None):
    one = lambda i: law(Keys(jax.random.key(9), jax.random.fold_in(jax.random.key(5), i)), i, size, step)
    return [np.asarray(a, np.float64) for a in jax.jit(jax.vmap(one))(np.arange(size, dtype=np.int32))]


def test_dyadic_pairs():
    t, r = drawn(pairs.dyadic(RECTIFIED, 8, same=0.25))
    alone = t == r
    assert abs(alone.mean() - 0.25) < 0.05
    gap = t[~alone] - r[~alone]
    found, count = np.unique(gap, return_counts=True)
    np.testing.assert_allclose(found, [0.25, 0.5, 1.0])
    assert stats.chisquare(count).pvalue > 1e-3
    np.testing.assert_allclose(t[~alone] % gap, 0, atol=1e-6)
    assert set(t[~alone][gap == 0.25]) == {0.25, 0.5, 0.75, 1.0}
    assert np.all((r >= 0) & (t <= 1))
    assert stats.kstest(t[alone], "uniform").pvalue > 1e-3


def test_uniform_pairs_that_begin_at_the_end_of_time():
    """Of the pairs that differ a share begins at t_max, r uniform; the others are uniform on the triangle."""
    t, r = drawn(pairs.uniform(schedules.EDM(t_max=20.0), same=0.25, first=0.6), 4096)
    t, r = t / 20, r / 20
    alone, begins = t == r, t == 1
    assert abs(alone.mean() - 0.25) < 0.03
    assert abs(begins[~alone].mean() - 0.6) < 0.03
    assert stats.kstest(r[begins], "uniform").pvalue > 1e-3
    rest = ~alone & ~begins
    assert stats.kstest(t[rest], lambda v: v**2).pvalue > 1e-3
    assert stats.kstest(r[rest] / t[rest], "uniform").pvalue > 1e-3


def test_terminal_pairs_and_grids():
    t, r = drawn(pairs.terminal(RECTIFIED))
    assert np.all((r >= 0) & (r <= t) & (t <= 1))
    gap = t - r
    assert stats.kstest(np.log(gap / (1 - gap)), lambda v: stats.norm.cdf(v + 0.8)).pvalue > 1e-3
    t, r = drawn(pairs.grid(RECTIFIED, 5))
    np.testing.assert_allclose(t - r, 0.2, atol=1e-6)
    assert stats.chisquare(np.unique(np.round(t, 3), return_counts=True)[1]).pvalue > 1e-3


def test_consistency_grids_grow_as_published():
    total = 8000
    at = lambda growth, *share: [float(growth(jnp.asarray(s * total), total)) for s in share]
    assert at(pairs.squared, 0, 0.5, 1) == [2, 107, 151]
    assert at(pairs.doubled, 0, 0.5, 1) == [11, 161, 1281]


def test_consistency_pairs_are_neighbours():
    edm = schedules.EDM()
    level = lambda i, N: (0.002 ** (1 / 7) + (i - 1) / (N - 1) * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    t, r = drawn(pairs.consistency(edm, n=6))
    grid = np.array([0, *(level(i, 6) for i in range(1, 7))])
    place = np.array([np.argmin(np.abs(grid - v)) for v in t])
    np.testing.assert_allclose(t, grid[place], rtol=1e-4)
    np.testing.assert_allclose(r, grid[place - 1], rtol=1e-4, atol=1e-7)
    assert set(place) == set(range(1, 7))
    t, r = drawn(pairs.consistency(edm, n=40, drawn="log_normal"))
    grid = np.array([level(i, 40) for i in range(1, 41)])
    place = np.array([np.argmin(np.abs(grid - v)) for v in r])
    np.testing.assert_allclose(t, grid[place + 1], rtol=1e-3)
    law = np.diff(stats.norm.cdf((np.log(grid) + 1.1) / 2))
    few = [chunk.sum() for chunk in np.array_split(law / law.sum(), 8)]
    seen = [chunk.sum() for chunk in np.array_split(np.bincount(place, minlength=39), 8)]
    assert stats.chisquare(seen, np.array(few) * len(t)).pvalue > 1e-3
    t, r = drawn(pairs.consistency(RECTIFIED, total=100, first=2, last=4, spacing="even"), step=jnp.int32(0))
    np.testing.assert_allclose(t - r, 1 / 3, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "least"), [(schedules.VE(), 0.02), (schedules.VDM(), 0.002), (schedules.EDM(t_max=20.0), 0.002)]
)
def test_consistency_pairs_stay_apart_where_the_schedule_ends_early(schedule, least):
    """Levels of the published grid go to 80; those of a schedule that ends below are of its own end."""
    t, r = drawn(pairs.consistency(schedule, n=40, least=least))
    assert np.all(t > r)
    assert np.max(t) <= float(schedule.t_max) * (1 + 1e-6)


# Bad input


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: eulerian.meanflow(power=-1), "power = -1, expected a number in"),
        (lambda: eulerian.meanflow(floor=0.0), "floor = 0.0, expected a positive number"),
        (lambda: eulerian.meanflow(kappa=1.0), r"kappa = 1.0, expected a number in \[0, 1\)"),
        (lambda: eulerian.improved(w=0.0), "w = 0.0, expected a positive number"),
        (lambda: eulerian.pixel(least=1.5), "least = 1.5, expected a number of sigma"),
        (lambda: eulerian.scm(normalise=-0.1), "normalise = -0.1, expected a number, 0"),
        (lambda: progressive.shortcut(100), "steps = 100, expected a power of 2 .as 64 or 128"),
        (lambda: progressive.self_distillation(1.0), r"at = 1.0, expected a number in \(0, 1\)"),
        (lambda: progressive.distillation(snr="truncate"), "snr = 'truncate'; nearest is 'truncated'"),
        (lambda: progressive.consistency(huber=-1.0), "huber = -1.0, expected a number"),
        (lambda: pairs.uniform(RECTIFIED, same=1.5), r"same = 1.5, expected a number in \[0, 1\]"),
        (lambda: pairs.uniform(RECTIFIED, first=-0.5), r"first = -0.5, expected a number in \[0, 1\]"),
        (lambda: pairs.dyadic(RECTIFIED, 12), "expected a power of 2 .as 8 or 16"),
        (lambda: pairs.grid(RECTIFIED, 0), "n is 0, expected an integer >= 1"),
        (lambda: pairs.consistency(RECTIFIED), "n = None and total = None, expected one"),
        (lambda: pairs.consistency(RECTIFIED, total=9, first=20, last=10), "first = 20 and last = 10, expected a grid"),
        (lambda: pairs.consistency(RECTIFIED, n=4, mean=np.nan), "mean = nan, expected a finite number"),
        (lambda: pairs.consistency(schedules.VE(), n=4), "Got least = 0.002 .* between 0.01 and 50"),
        (lambda: pairs.terminal(RECTIFIED, mean=np.inf), "mean = inf, expected a finite number"),
        (lambda: pairs.consistency(schedules.VE(), n=4, least=60.0), "least between 0.01 and 50, where VE begins"),
        (lambda: pairs.consistency(RECTIFIED, n=4, spacing="evenly"), "spacing = 'evenly'; nearest is 'even'"),
        (lambda: pairs.consistency(RECTIFIED, total=10, first=1), "first is 1, expected an integer >= 2"),
        (
            lambda: pairs.check(lambda keys, i, n: (jnp.zeros(()), jnp.asarray(0.1)), RECTIFIED),
            r"\(t, r\) = \(0, 0.1\)",
        ),
        (lambda: flow_map(lambda x, c, gap: x, RECTIFIED, Eps()), "Eps-prediction does not determine x_0"),
    ],
)
def test_bad_input(make, match):
    with pytest.raises(ValueError, match=match):
        make()
