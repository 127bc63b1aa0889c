"""Where a schedule is at its limits: starts at alpha = 0, ends at sigma = 0, walks of 1, 2 and 11 steps."""

import numpy as np
import pytest
import rows
from families import FAMILIES
from samplers_table import SETTINGS

from diffjax import calculus, grids
from diffjax.samplers import ode
from diffjax.schedules import VDM

SCHEDULES = {name: setting.schedule for name, setting in SETTINGS.items()} | {"vdm": VDM()}
MEAN, VARIANCE = 0.3, 0.25  # of Gaussian data


def posterior(schedule, times):
    """(x, t) -> mean and variance of x_0 given x_t, by the formula for Gaussians."""
    levels = dict(zip(times, zip(*calculus.amplitudes(schedule, times))))

    def of(x, t):
        alpha, sigma = levels[t]
        total = alpha**2 * VARIANCE + sigma**2
        return MEAN + alpha * VARIANCE / total * (x - alpha * MEAN), sigma**2 * VARIANCE / total

    return of


def expected_refusal(name, setting, ts):
    family, (alpha, sigma) = FAMILIES[name], calculus.amplitudes(SCHEDULES[setting], ts[[0, -1]])
    if alpha[0] == 0 and not family.from_pure_noise:
        return True
    return bool(sigma[-1] == 0 and not family.to_data)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if "bridge" not in name])
def test_every_walk_is_finite_or_refused_before_tracing(name):
    """On every schedule; refused where alpha or sigma is 0 for which the method is infinite, and there alone."""
    draws = np.random.default_rng(0).standard_normal((600, 4))
    for setting, schedule in SCHEDULES.items():
        sampler = FAMILIES[name].make(schedule)
        for n in (1, 2, 11):
            for zero in (True, False):
                ts = grids.uniform(schedule, n, zero=zero)
                try:
                    planned = sampler.plan(ts)
                except ValueError as error:
                    print(name, setting, n, zero, error)
                    continue
                assert not expected_refusal(name, setting, ts), (setting, n, zero)
                columns = [np.asarray(column, float) for column in planned if column is not None]
                assert all(np.isfinite(column).all() for column in columns), (setting, n, zero)
                if not isinstance(planned, ode.Interval):
                    sigma = calculus.amplitudes(schedule, ts[:1])[1][0]
                    path = list(rows.read(planned, posterior(schedule, planned.t), sigma * draws[-1], draws))
                    assert np.isfinite(path).all(), (setting, n, zero)
