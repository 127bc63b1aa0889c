"""Where a schedule is at its limits: starts at alpha = 0, ends at sigma = 0, walks of 1, 2 and 11 steps."""

import jax
import numpy as np
import pytest
import rows
from families import FAMILIES
from samplers_table import SETTINGS

from diffjax import calculus, grids, samplers
from diffjax.samplers import base, ode, table, trigflow
from diffjax.schedules import VDM, VP, Cosine, Rectified

pytestmark = pytest.mark.usefixtures("levels_once")
ALL = {name: setting.schedule for name, setting in SETTINGS.items()} | {"vdm": VDM()}
SCHEDULES = {name: ALL[name] for name in ("vp", "ve", "edm", "cosine_1", "rectified_1", "table_linear")}
SHARED = ("ddim", "adams_tau", "unipc", "trigflow", "heun")  # one of each way to plan: on all schedules
MEAN, VARIANCE = 0.3, 0.25  # of Gaussian data
WALKS = [(1, True), (2, True), (11, True), (11, False)]  # (steps, to t = 0)
DRAWS = np.random.default_rng(0).standard_normal((64, 4))


def posterior(schedule, times):
    """(x, t) -> mean and variance of x_0 given x_t, by the formula for Gaussians."""
    levels = dict(zip(times, zip(*calculus.amplitudes(schedule, times))))

    def of(x, t):
        alpha, sigma = levels[t]
        total = alpha**2 * VARIANCE + sigma**2
        return MEAN + alpha * VARIANCE / total * (x - alpha * MEAN), sigma**2 * VARIANCE / total

    return of


@pytest.mark.parametrize("name", [name for name in FAMILIES if "bridge" not in name and name != "encoder"])
def test_every_walk_is_finite_or_refused_before_tracing(name):
    """Refused where alpha or sigma is 0 and the method infinite, and nowhere else."""
    family = FAMILIES[name]
    for setting, schedule in (ALL if name in SHARED else SCHEDULES).items():
        sampler = family.make(schedule)
        for n, zero in WALKS:
            ts = grids.uniform(schedule, n, zero=zero)
            alpha, sigma = calculus.amplitudes(schedule, ts)
            infinite = (alpha[0] == 0 and not family.from_pure_noise) or (sigma[-1] == 0 and not family.to_data)
            try:
                planned = base.rows_of(sampler, ts)
            except ValueError:
                assert infinite or family.more, (setting, n, zero)
                continue
            assert not infinite, (setting, n, zero)
            if not isinstance(planned, ode.Interval):
                path = list(rows.read(planned, posterior(schedule, planned.t), sigma[0] * DRAWS[-1], DRAWS))
                assert np.isfinite(path).all(), (setting, n, zero)


@pytest.mark.parametrize("name", ["bridge", "bridge_adams"])
def test_bridges(name):
    """From the point where alpha and sigma are both 0."""
    for n in (2, 11):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(FAMILIES[name].sample(n)))
    with pytest.raises(ValueError, match="steps is 1, expected an integer >= 2"):
        FAMILIES[name].sample(1)


@pytest.mark.parametrize("schedule", [Rectified(), Cosine()], ids=lambda s: type(s).__name__)
def test_encoders_arrive_at_pure_noise_or_are_refused(schedule):
    ts = grids.uniform(schedule, 4, zero=False)
    for name in ("ddim", "adams", "dpmpp_2s", "unipc", "trigflow", "principal"):
        encode = samplers.encoding_fn(FAMILIES[name].make(schedule), ts)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(encode)), name
    for name in ("lms", "heun", "dpm_solver"):
        with pytest.raises(ValueError, match="start the grid below it"):
            samplers.encoding_fn(FAMILIES[name].make(schedule), ts)


def test_a_plan_that_is_not_finite_is_refused():
    """Whatever the sampler: row, column and number are named."""
    plain = samplers.ancestral.ddim(VP())
    infinite = plain._replace(plan=lambda ts: plain.plan(ts)._replace(mean=np.array([1.0, np.nan, 0.5])))
    with pytest.raises(ValueError, match=r"Row 1 of 3 has \.mean = nan on the grid from t = 1 to 0: .*inwards\."):
        samplers.sampling_fn(infinite, [1.0, 0.5, 0.2, 0.0])


# TrigFlow.


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 11])
@pytest.mark.parametrize("schedule", [Rectified(), Cosine()], ids=lambda s: type(s).__name__)
def test_trigflow_from_pure_noise_is_exact_on_gaussian_data_of_its_scale(schedule, n, order):
    """N(0, s^2): x_T of variance sigma^2 ends in variance s^2, on TrigFlow's own grid and on equal steps."""
    for ts in (grids.angle(schedule, n), grids.uniform(schedule, n)):
        found = rows.laws(trigflow.adams(schedule, order, sigma_data=0.7), ts, 0.0, 0.49)
        np.testing.assert_allclose(found[:, -1], [0.0, 0.49], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_trigflow_from_pure_noise_with_a_mean(order):
    """N(m, s^2): dr/dphi = -(m / s) sin(phi), so r_0 = x_T / sigma_T + m / s; errors fall by the method's order.

    The first step, of order 1, costs only h^3: sin is flat at pi / 2.
    """
    schedule, s, m = Rectified(), 0.5, 0.7
    ends = [rows.laws(trigflow.adams(schedule, order, s), angles(schedule, n, s), m, s**2)[:, -1] for n in (32, 64)]
    (coarse, _), (fine, spread) = ends
    np.testing.assert_allclose(spread, s**2, rtol=1e-9)
    assert np.log2((coarse - m) / (fine - m)) == pytest.approx(order, abs=0.1)


def angles(schedule, n, s):
    """Even steps in the angle."""
    return grids.angle(schedule, n, sigma_data=s, power=1.0)


def test_trigflow_at_pure_noise_is_the_limit_of_what_it_is_below():
    at, below = (
        trigflow.adams(schedule, 3).plan(np.array([t, 0.6, 0.3, 0.0]))
        for schedule, t in ((Rectified(), 1.0), (Rectified(), 1 - 1e-9))
    )
    for name, column in at._asdict().items():
        np.testing.assert_allclose(column, getattr(below, name), rtol=1e-7, atol=1e-8)
    assert (at.y_x[0], at.y_mean[0]) == (0.0, -2.0)  # y = -E[x_0] / s


def test_columns_of_rows_are_numbers():
    """What the table above takes for granted: a reader for every family but the flow's."""
    kinds = {type(family.make(family.schedule).plan(family.grid()[1:])) for family in FAMILIES.values()}
    assert kinds - {ode.Interval} == set(rows.READERS)
    assert table.Row in kinds


# Grids.


@pytest.mark.parametrize("make", [grids.karras, grids.log_snr])
@pytest.mark.parametrize("n", [1, 2, 11])
def test_grids_in_log_snr_refuse_a_start_at_pure_noise_whatever_their_length(make, n):
    with pytest.raises(ValueError, match=r"log-SNR is infinite at t = 1\.0 \(alpha = 0\.0"):
        make(Cosine(), n)


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_the_angle_serves_every_schedule(schedule):
    """Also where data carries noise, up to as many steps as its own angle at t = 0 would not have allowed."""
    for n in (1, 2, 11, 60):
        ts = grids.angle(schedule, n)
        assert (ts[0], ts[-1], len(ts)) == (float(schedule.t_max), 0.0, n + 1)
