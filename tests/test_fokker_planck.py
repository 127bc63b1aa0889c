"""The reverse SDEs of every strength have the forward marginals: their rows solve the Fokker-Planck equation."""

import jax
import numpy as np
import pytest
from closed_forms import amplitudes
from oracles.mixture import Mixture
from samplers_table import SETTINGS

from diffjax.samplers import sde

TARGET = Mixture((0.3, 0.7), (-0.6, 0.5), (0.04, 0.02))


def density(x, alpha, sigma):
    """p of the mixture's x_t, and its slope."""
    w, m, v = (np.asarray(a)[:, None] for a in TARGET)
    total = alpha**2 * v + sigma**2
    parts = w * np.exp(-((x - alpha * m) ** 2) / (2 * total)) / np.sqrt(2 * np.pi * total)
    return parts.sum(0), (parts * (alpha * m - x) / total).sum(0)


@pytest.mark.parametrize("churn2", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("setting", ["vp", "sub_vp", "ve", "edm", "cosine"])
def test_every_strength_solves_the_fokker_planck_equation(setting, churn2):
    """-dp/dt = -(b p - D p' / 2)' for the drift b and the noise D of the sampler's rows, by central differences.

    Without noise and under VE that is the heat equation backwards (kexue 9280).
    """
    schedule, form, *_ = SETTINGS[setting]
    t, dt = 0.3 * float(schedule.t_max), 1e-3
    row = jax.tree.map(lambda a: a[0], sde.euler_maruyama(schedule, np.sqrt(churn2)).plan(np.array([t, t - dt])))
    level = amplitudes(form, t)

    def flux(x):
        p, slope = density(x, *level)
        drift = ((row.x - 1) * x + row.mean * TARGET.denoise(x, *level)) / dt
        return drift * p - row.noise_var / dt / 2 * slope

    width = np.sqrt(level[0] ** 2 * 0.2 + level[1] ** 2)
    x, h = np.linspace(-1.0, 1.0, 7) * width, 1e-4
    outflow = (flux(x + h * width) - flux(x - h * width)) / (2 * h * width)
    ahead, behind = (density(x, *amplitudes(form, t * (1 + sign * h)))[0] for sign in (1, -1))
    fall = (behind - ahead) / (2 * h * t)
    np.testing.assert_allclose(-outflow, fall, atol=2e-6 * np.abs(fall).max())
