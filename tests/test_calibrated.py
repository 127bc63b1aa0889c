"""What is calibrated on one model: cheapest grids by enumeration and in closed form, files, fingerprints, refusals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import analytic, calibrated, grids
from diffjax.calculus import amplitudes
from diffjax.samplers import fitted, local_errors, multistep, pndm, principal, sampling_fn, unipc
from diffjax.samplers.base import rows_of
from diffjax.schedules import VP, Cosine
from diffjax.types import Posterior, pytree

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(3)
ALONG = principal.lifted(multistep.adams(VP(), 1), principal.Axes(np.zeros(2), np.ones(2), np.eye(2)))


def enumerated(costs, n, after=None):
    """The cheapest way by trying all of them."""
    m = len(costs) - 1
    best = None
    for inner in itertools.combinations(range(1, m), n - 1):
        path = (0, *inner, m)
        if after is None:
            total = sum(costs[i, j] for i, j in itertools.pairwise(path))
        else:
            total = costs[0, path[1]] + sum(after[h, i, j] for h, i, j in zip(path, path[1:], path[2:]))
        best = min(best or (np.inf, ()), (total, path))
    return best


@pytest.mark.parametrize("m", [1, 2, 5, 8])
def test_the_cheapest_way_is_that_of_enumeration(m):
    for n in range(1, m + 1):
        costs, after = RNG.random((m + 1, m + 1)), RNG.random((m + 1,) * 3)
        for past in (None, after):
            path = tuple(calibrated.shortest(costs, n, past))
            assert path == enumerated(costs, n, past)[1]


def test_a_forbidden_step_is_gone_around_or_refused():
    costs = np.ones((4, 4))
    costs[0, 2] = np.inf
    assert tuple(calibrated.shortest(costs, 2)) == (0, 1, 3)
    costs[0, 1] = np.inf
    with pytest.raises(ValueError, match=r"No way of 2 steps through 4 candidates has a finite cost"):
        calibrated.shortest(costs, 2)


@pytest.mark.parametrize(
    ("costs", "n", "after", "said"),
    [
        (np.ones((3, 4)), 1, None, r"shape \(3, 4\), expected \(M \+ 1, M \+ 1\)"),
        (np.ones((3, 3)), 3, None, "number of steps is 3, expected at most 2"),
        (np.ones((3, 3)), 0, None, "number of steps is 0, expected an integer >= 1"),
        (np.full((3, 3), np.nan), 1, None, "hold NaN"),
        (np.ones((3, 3)), 1, np.ones((3, 3)), r"after a step have shape \(3, 3\)"),
    ],
)
def test_costs_that_are_none(costs, n, after, said):
    with pytest.raises(ValueError, match=said):
        calibrated.shortest(costs, n, after)


def test_the_best_grid_of_ddim_on_a_gaussian_is_even_in_its_angle():
    """DDIM turns Gaussian data of standard deviation s by cos of the angle, arctan(sigma / (alpha s)): even is best."""
    schedule, s, m, n = VP(), 0.6, 12, 4
    ts = grids.angle(schedule, m, sigma_data=s, power=1.0)
    alpha, sigma = amplitudes(schedule, ts)
    phi = np.arctan2(sigma, s * alpha)
    turned = phi[:, None] - phi
    costs = np.where(turned > 0, -np.log(np.cos(np.clip(turned, 0, 1.5))), np.inf)
    costs[turned > 1.5] = np.inf
    path = calibrated.shortest(costs, n)
    assert tuple(path) == tuple(range(0, m + 1, m // n))

    @jax.jit
    def end(sample):
        return sample(gaussian(s).denoiser(schedule), jax.random.key(0), jnp.ones(1))

    found = float(end(sampling_fn(multistep.adams(schedule, 1), ts[path]))[0])
    np.testing.assert_allclose(found, s / np.hypot(sigma, s * alpha)[0] * np.exp(-enumerated(costs, n)[0]), rtol=1e-10)


def gaussian(s, mean=0.0, d=1):
    return analytic.gaussian_mixture([1.0], np.full((1, d), mean), [s**2])


@pytest.fixture(scope="module")
def seen():
    """The flow of a Gaussian of two entries at 6 candidates, and where it is known to end."""
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        schedule = VP()
        model = gaussian(0.6, 0.3, 2).denoiser(schedule)
        x = jax.random.normal(jax.random.key(5), (8, 2)) * float(schedule(1.0)[1])
        ts = grids.angle(schedule, 6, sigma_data=0.6, power=1.0)
        return schedule, local_errors.flow(model, schedule, x, ts, fine=40, batch=8)


def test_the_flow_and_its_pulls_are_those_of_the_gaussian(seen):
    """x_0 = m + s (x - alpha m) / r, so that u^T dx_0/dx = u s / r with r^2 = sigma^2 + alpha^2 s^2."""
    schedule, flow = seen
    alpha, sigma = amplitudes(schedule, flow.ts)
    r = np.hypot(sigma, 0.6 * alpha)[:, None, None]
    z = (flow.x[0] - 0.3 * alpha[0]) / r[0]
    exact = 0.3 * alpha[:, None, None] + r * z
    np.testing.assert_allclose(flow.x, exact, atol=4e-4)
    np.testing.assert_allclose(np.abs(flow.pulls), np.broadcast_to(0.6 / r, flow.pulls.shape), rtol=5e-4)
    np.testing.assert_allclose(flow.means, 0.3 + (0.36 * alpha[:-1, None, None] / r[:-1]) * z, atol=4e-4)


def test_the_local_error_of_ddim_on_a_gaussian(seen):
    """r (cos - 1) z s / r at the end, by hand: the mean over walks of (sum_i u_i z_i)^2 s^2 (1 - cos)^2."""
    schedule, flow = seen
    costs, after = local_errors.costs(flow, multistep.adams(schedule, 1))
    alpha, sigma = amplitudes(schedule, flow.ts)
    phi, r = np.arctan2(sigma, 0.6 * alpha), np.hypot(sigma, 0.6 * alpha)
    z = (flow.x[0] - 0.3 * alpha[0]) / r[0]
    size = np.sqrt(np.mean((np.sign(flow.pulls[0]) * z).sum(1) ** 2))
    assert after is None
    for i, j in ((0, 3), (0, 6), (2, 5), (4, 6)):  # long steps: of short ones the fine walk's own error is seen
        np.testing.assert_allclose(costs[i, j], 0.6 * size * (1 - np.cos(phi[i] - phi[j])), rtol=5e-3)
    path = local_errors.cheapest((costs, after), 3)
    assert tuple(path) == (0, 2, 4, 6)  # equal steps of 1 - cos, which is convex on a quarter turn


def test_a_sampler_that_is_exact_has_no_local_error(seen):
    schedule, flow = seen
    axes = principal.Axes(np.full(2, 0.3), np.full(2, 0.36))
    begins, goes_on = (principal.adams(schedule, axes, 2, free) for free in (True, False))
    costs, after = local_errors.costs(flow, begins, goes_on, least=1e-3)
    ahead = np.isfinite(after)
    assert ahead.sum() == 35  # 3 of 7 candidates
    assert np.isfinite(costs[0, 1:]).all()
    assert after[ahead].max() < 1e-3 + 4e-4  # the fine walk's own error
    assert len(local_errors.cheapest((costs, after), 4)) == 5


def test_a_step_with_history_is_the_walk_of_two_steps(seen):
    """By NumPy: DDIM to the middle, then exponential Adams 2 with the flow's own means."""
    schedule, flow = seen
    sampler, at = multistep.adams(schedule, 2), (1, 3, 4)
    rows = rows_of(sampler, flow.ts[list(at)])
    x, ys = flow.x[1], np.zeros((2, *flow.x[1].shape))
    for k, i in enumerate(at[:-1]):
        ys = np.stack([flow.means[i], ys[0]])
        x = rows.x[k] * x + np.tensordot(rows.ys[k], ys, 1)
    wanted = np.sqrt(np.mean(((x - flow.x[4]) * flow.pulls[4]).sum(1) ** 2))
    np.testing.assert_allclose(local_errors.costs(flow, sampler, sampler)[1][at], wanted, rtol=1e-10)


def test_one_fitted_row_is_exact_on_a_gaussian_of_one_scale():
    """The flow is x_0 = m + s (x - alpha m) / r, and E[x_0 | x] is linear too: two weights reach it."""
    schedule, s, m = VP(), 0.6, 0.3
    target, (alpha, sigma) = gaussian(s, m, 2), (float(a) for a in schedule(1.0))
    x = sigma * jax.random.normal(jax.random.key(1), (64, 2))
    ends = m + s * (x - alpha * m) / np.hypot(sigma, alpha * s)
    ddim = multistep.adams(schedule, 1)
    found = fitted.fit(ddim, [1.0, 0.0], target.denoiser(schedule), x, ends, steps=0)
    assert found.before > 0.9
    assert found.after < 1e-6
    slope = alpha * s**2 / (sigma**2 + alpha**2 * s**2)
    weight = m * (1 - s * alpha / np.hypot(sigma, alpha * s)) / (m * (1 - slope * alpha))
    np.testing.assert_allclose(found.rows.ys[0, 0], weight, rtol=1e-4)
    np.testing.assert_allclose(found.rows.x[0], s / np.hypot(sigma, alpha * s) - weight * slope, rtol=1e-3)


def test_axes_are_refitted_each_by_itself():
    """Axes of the wrong variances: one last row per axis, with its shift, is exact on a Gaussian of two scales."""
    schedule, scales, mean = VP(), np.array([0.2, 0.9]), np.array([0.5, -0.4])
    target = analytic.gaussian_mixture([1.0], mean[None], np.diag(scales**2)[None])
    alpha, sigma = (float(a) for a in schedule(1.0))
    x = sigma * jax.random.normal(jax.random.key(1), (64, 2))
    ends = jnp.asarray(mean + scales * (np.asarray(x) - alpha * mean) / np.hypot(sigma, alpha * scales))
    sampler = principal.adams(schedule, principal.Axes(np.zeros(2), np.ones(2), np.eye(2)), 1)
    found = fitted.fit(sampler, grids.angle(schedule, 3), target.denoiser(schedule), x, ends, steps=0)
    assert found.before > 0.05
    assert found.after < 1e-5


@pytest.mark.slow
def test_rows_fitted_by_states_are_nearer_to_the_flow_on_the_way_and_at_its_end():
    """Four points under their exact denoiser, by a fine walk: an end is one of them, a state moves smoothly."""
    schedule, points = VP(), np.array([[0.6, 0.1], [-0.5, 0.4], [-0.2, -0.7], [0.3, 0.8]])
    model, ts = analytic.empirical(points).denoiser(schedule), np.array([1.0, 0.5, 0.3, 0.15, 0.0])
    x = float(schedule(1.0)[1]) * jax.random.normal(jax.random.key(1), (512, 2))
    fine = grids.karras(schedule, 200, t_min=1e-5)
    walk = lambda made, ts, x: jax.jit(jax.vmap(lambda x: sampling_fn(made, ts)(model, jax.random.key(0), x)))(x)
    flow = lambda t: walk(multistep.adams(schedule, 3), np.append(fine[fine > t], t), x)
    sampler = principal.lifted(multistep.dpmpp_2m(schedule), principal.Axes.of(np.tile(points, (2, 1))))
    middle, ends = flow(0.15), flow(0.0)
    how = dict(steps=60, batch=64, rate=1e-2, axes=False)
    found = fitted.fit_by_states(sampler, ts, model, x[:384], ends[:384], middle[:384], **how)
    assert found.before == pytest.approx(fitted.fit(sampler, ts, model, x[:384], ends[:384], steps=0).before)
    assert found.after < 0.8 * found.before
    for cut, goal in ((3, middle), (4, ends)):
        rows = [rows_of(sampler, ts), found.rows]
        made = [sampler._replace(plan=lambda ts, r=r: jax.tree.map(lambda a: np.asarray(a)[:cut], r)) for r in rows]  # noqa: B023
        own, by_states = (float(jnp.mean((walk(one, ts[: cut + 1], x[384:]) - goal[384:]) ** 2)) for one in made)
        assert by_states < 0.7 * own
    with pytest.raises(ValueError, match="Got a walk of 1 evaluations"):
        fitted.fit_by_states(sampler, [1.0, 0.0], model, x, ends, ends)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A file of two tables for a mixture of two points, its model, and starts that no fit saw."""
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        schedule = VP()
        target = analytic.gaussian_mixture([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.4]], [0.04, 0.02])
        model = target.denoiser(schedule)
        x, new = (jax.random.normal(jax.random.key(seed), (256, 2)) for seed in (7, 8))
        fine = jax.jit(jax.vmap(lambda x: sampling_fn(multistep.adams(schedule, 3), grids.angle(schedule, 200))(
            model, jax.random.key(0), x)))  # fmt: skip
        axes, fits = principal.Axes(np.zeros(2), np.full(2, 0.3), np.eye(2)), {}
        for n in (2, 3):
            ts = grids.angle(schedule, n + 1, sigma_data=0.7)
            sampler = principal.adams(schedule, axes, 2)
            fits[n] = (ts, sampler, fitted.fit(sampler, ts, model, x, fine(x), steps=100, batch=64, rate=5e-3))
        path = tmp_path_factory.mktemp("table") / "table.npz"
        fitted.save(path, schedule, model, (2,), {n: (ts, s, fit.rows) for n, (ts, s, fit) in fits.items()})
        return path, model, fits, new, fine(new), x, fine(x)


def test_what_is_fitted_on_some_starts_is_better_on_others(table):
    path, model, fits, new, ends, *_ = table
    for n, (ts, sampler, fit) in fits.items():
        assert fit.after < 0.7 * fit.before
        errors = []
        for made in (sampler, fitted.table(model.schedule, path, model)):
            grid = grids.calibrated(model.schedule, n, file=path)
            np.testing.assert_array_equal(grid, ts)
            walk = jax.jit(jax.vmap(lambda x, s: s(model, jax.random.key(0), x), in_axes=(0, None)))
            errors.append(float(jnp.sqrt(jnp.mean((walk(new, sampling_fn(made, grid)) - ends) ** 2))))
        assert errors[1] < 0.8 * errors[0]


def test_the_descent_goes_below_what_the_last_row_alone_reaches(table):
    _, model, fits, *_, x, ends = table
    ts, sampler, fit = fits[2]
    alone = fitted.fit(sampler, ts, model, x, ends, steps=0)
    assert alone.before == fit.before
    assert fit.after < 0.85 * alone.after < 0.85 * fit.before


def test_without_numbers_for_each_axis_all_change_alike(table):
    """Weights of one evaluation stay in proportion over the axes; the axes here differ in nothing else."""
    _, model, fits, *_, x, ends = table
    ts, sampler, _ = fits[2]
    both = [fitted.fit(sampler, ts, model, x, ends, steps=10, axes=axes) for axes in (True, False)]
    spread = [np.abs(fit.rows.ys[..., 0] - fit.rows.ys[..., 1]).max() for fit in both]
    assert spread[0] > 1e-4
    assert spread[1] < 1e-12
    assert both[1].after < both[1].before


@pytest.mark.parametrize("k", [2, 3])
def test_changes_along_the_axes_are_polynomials_in_the_logarithm_of_the_variance(k, x64):
    """Five axes of unlike variances; the changes of x have one unit for all of them."""
    schedule, variances = VP(), np.array([0.02, 0.9, 0.1, 0.3, 0.05])
    mixture = analytic.gaussian_mixture([0.5, 0.5], [[0.4] * 5, [-0.4] * 5], [0.05, 0.1])
    sampler = principal.adams(schedule, principal.Axes(np.zeros(5), variances, np.eye(5)), 2)
    ts, x = grids.angle(schedule, 4, sigma_data=0.7), jax.random.normal(jax.random.key(2), (32, 5))
    model = mixture.denoiser(schedule)
    walk = sampling_fn(multistep.adams(schedule, 3), grids.angle(schedule, 60))
    ends = jax.vmap(lambda x: walk(model, jax.random.key(0), x))(x)
    fit = fitted.fit(sampler, ts, model, x, ends, steps=10, batch=16, axes=k, variances=variances)
    assert fit.after < fit.before
    changed = fit.rows.x - rows_of(sampler, ts).x
    for row in changed:
        smooth = lambda d, row=row: np.polyval(np.polyfit(np.log(variances), row, d), np.log(variances))
        left = [np.abs(row - smooth(d)).max() for d in (k - 1, k - 2)]
        assert left[0] < 1e-12 < 1e-4 < left[1]


@pytest.mark.parametrize("made", [lambda s: multistep.dpmpp_2m(s), lambda s: unipc.unipc(s, 3), pndm.ipndm])
def test_a_sampler_with_numbers_for_each_axis_walks_as_before(made, x64):
    schedule, turn = VP(), np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    model = analytic.gaussian_mixture([0.5, 0.5], [[0.4] * 3, [-0.4] * 3], [0.05, 0.1]).denoiser(schedule)
    sampler, axes = made(schedule), principal.Axes(np.array([0.1, 0.0, -0.2]), np.array([0.2, 0.9, 0.1]), turn)
    x, ts = jax.random.normal(jax.random.key(2), (5, 3)), grids.angle(schedule, 6, sigma_data=0.7)
    walk = lambda made: jax.vmap(lambda x: sampling_fn(made, ts)(model, jax.random.key(0), x))(x)
    lifted = principal.lifted(sampler, axes)
    np.testing.assert_allclose(walk(lifted), walk(sampler), rtol=1e-12)
    ends = walk(multistep.adams(schedule, 3))
    alike = fitted.fit(sampler, ts, model, x := jnp.tile(x, (4, 1)), ends := jnp.tile(ends, (4, 1)), steps=20)
    each = fitted.fit(lifted, ts, model, x, ends, steps=20)
    assert each.before == pytest.approx(alike.before, rel=1e-9)
    assert each.after < 0.8 * alike.after


def test_what_has_no_numbers_for_axes():
    axes = principal.Axes(np.zeros(3), np.ones(3), np.eye(3))
    with pytest.raises(ValueError, match="rows are those of `samplers"):
        principal.lifted(principal.adams(VP(), axes), axes)
    with pytest.raises(ValueError, match="adds noise: along axes"):
        principal.lifted(multistep.dpmpp_2m_sde(VP()), axes).plan(grids.angle(VP(), 4))


def test_a_file_gives_back_the_rows(table):
    path, model, fits, *_ = table
    for ts, _, fit in fits.values():
        for got, wanted in zip(rows_of(fitted.table(model.schedule, path), ts), fit.rows):
            np.testing.assert_array_equal(got, wanted)


@pytree
class Shifted:
    """A model that says a little more than another."""

    schedule: object
    by: object

    def __call__(self, x, t):
        return Posterior(0.5 * x + jnp.full(x.shape, self.by, x.dtype))


def test_a_table_is_for_its_model_schedule_and_length(table):
    path = table[0]
    other = analytic.gaussian_mixture([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.3]], [0.04, 0.02])
    with pytest.raises(ValueError, match=r"calibrated on another model: .* differ by 0"):
        fitted.table(VP(), path, other.denoiser(VP()))
    with pytest.raises(ValueError, match=r"holds tables of another schedule: at t = .* that of Cosine"):
        fitted.table(Cosine(), path)
    with pytest.raises(ValueError, match=r"has no table of 5 evaluations, but of 2, 3"):
        grids.calibrated(VP(), 5, file=path)
    sampler = fitted.table(VP(), path)
    for ts in (grids.angle(VP(), 5), grids.uniform(VP(), 3)):
        with pytest.raises(ValueError, match=r"none that .* was calibrated on: take grids.calibrated"):
            sampling_fn(sampler, ts)
    with pytest.raises(ValueError, match=r"needs the file that holds it, sampler\.file"):
        fitted.table(VP())
    with pytest.raises(ValueError, match=r"needs the file that holds it, grid\.file"):
        grids.calibrated(VP(), 2)
    with pytest.raises(ValueError, match=r"holds no calibrated tables"):
        fitted.table(VP(), path.with_name("nothing.npz"))


def test_a_fingerprint_is_of_the_answers_not_of_the_precision():
    one = Shifted(VP(), jnp.float32(0.1))
    print_ = calibrated.Fingerprint.of(one, (3, 2))
    print_.check(Shifted(VP(), jnp.float64(0.10001)))
    with pytest.raises(ValueError, match=r"another model"):
        print_.check(Shifted(VP(), jnp.float32(0.11)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(x=np.zeros((4, 2)), ends=np.zeros((4, 2))), "at least 8"),
        (dict(ends=np.zeros((9, 2))), "expected at least 8 of one shape"),
        (dict(ends=np.full((8, 2), np.nan)), "all finite"),
        (dict(sampler=multistep.adams(VP(), 1, tau=1.0)), "adds noise"),
        (dict(axes=0), "axes"),
        (dict(sampler=ALONG, axes=2), "of degree 1 need the variances that they are of: got none"),
        (dict(sampler=ALONG, axes=3, variances=np.ones(3)), r"got an array of shape \(3,\), expected \(2,\)"),
        (dict(sampler=ALONG, axes=3, variances=-np.ones(2)), "none of them negative"),
    ],
)
def test_what_cannot_be_fitted(change, said):
    given = dict(sampler=multistep.adams(VP(), 1), x=np.zeros((8, 2)), ends=np.zeros((8, 2))) | change
    with pytest.raises(ValueError, match=said):
        fitted.fit(
            given["sampler"],
            [0.9, 0.5],
            gaussian(0.5).denoiser(VP()),
            given["x"],
            given["ends"],
            steps=0,
            axes=given.get("axes", True),
            variances=given.get("variances"),
        )
