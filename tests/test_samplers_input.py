"""Bad parameters and grids: refused before tracing, by what was got and what was expected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.samplers import ancestral, deis, heun, multistep, ode, pndm, restart, sampling_fn, sde, singlestep, unipc
from diffjax.schedules import EDM, VP, Cosine, Rectified, Tabulated

UNIT = np.linspace(1.0, 0.0, 5)
BAD_PARAMETERS = [
    (lambda: ancestral.ddim(VP(), eta=1.5), r"eta is 1\.5, expected a number in \[0, 1\]"),
    (lambda: ancestral.ddim(VP(), eta=-0.1), r"eta is -0\.1"),
    (lambda: ancestral.ddim(VP(), eta=np.nan), "eta is nan"),
    (lambda: sde.euler_maruyama(VP(), churn=-1.0), r"churn is -1\.0, expected a finite number"),
    (lambda: sde.euler_maruyama(VP(), churn=np.inf), "churn is inf"),
    (lambda: heun.edm(VP(), churn=-1.0), r"churn = -1\.0.*expected all >= 0"),
    (lambda: heun.edm(VP(), s_noise=-1.0), r"s_noise = -1\.0"),
    (lambda: heun.edm(VP(), s_min=2.0, s_max=1.0), r"s_min = 2\.0, s_max = 1\.0"),
    (lambda: multistep.adams(VP(), 4), "order is 4, expected 1, 2 or 3"),
    (lambda: multistep.adams(VP(), 0), "order is 0"),
    (lambda: multistep.adams(VP(), 2, tau=-1.0), r"tau is -1\.0, expected a finite number >= 0"),
    (lambda: multistep.adams(VP(), 2, tau=np.nan), "tau is nan"),
    (lambda: multistep.dpmpp_2m_sde(VP(), eta=-0.5), r"eta is -0\.5, expected a finite number >= 0"),
    (lambda: multistep.dpmpp_3m_sde(VP(), eta=np.inf), "eta is inf"),
    (lambda: multistep.dpmpp_2m_sde(VP(), kind="euler"), "kind is 'euler', expected 'midpoint' or 'heun'"),
    (lambda: singlestep.dpm_solver(VP(), 4), "4, expected .*2 or 3"),
    (lambda: deis.tab(VP(), 5), "order is 5, expected 1, 2, 3 or 4"),
    (lambda: deis.lms(VP(), 0), "order is 0, expected 1, 2, 3 or 4"),
    (lambda: pndm.ipndm(VP(), 5), "5, expected .*4"),
    (lambda: unipc.unipc(VP(), 4), "order of UniPC is 4, expected 1, 2 or 3"),
    (lambda: unipc.unipc(VP(), 2, "bh3"), "variant of UniPC is 'bh3', expected one of bh1, bh2, exact"),
    (lambda: restart.restart(VP(), ((3, 1, 0.3, 0.06),)), r"\(3, 1, 0\.3, 0\.06\), expected .*0 < n_min < n_max"),
    (lambda: restart.restart(VP(), ((1, 1, 0.06, 0.3),)), r"levels >= 2"),
    (lambda: restart.restart(VP(), ((3, 0, 0.06, 0.3),)), r"repeats >= 1"),
    (lambda: restart.restart(VP(), ((3.5, 1, 0.06, 0.3),)), r"\(3\.5, 1, 0\.06, 0\.3\), expected"),
    (lambda: restart.restart(VP(), ((3, 1, 0.06),)), r"\(3, 1, 0\.06\), expected"),
    (lambda: restart.restart(VP(), rho=0.0), r"rho is 0\.0, expected a positive number"),
    (lambda: ode.probability_flow(VP(), "Tsit6"), "no adaptive ODE solver 'Tsit6'; there is .*Tsit5"),
    (lambda: ode.probability_flow(VP(), "Euler"), "no adaptive ODE solver 'Euler'"),
    (lambda: ode.probability_flow(VP(), "ItoMilstein"), "no adaptive ODE solver"),
    (lambda: ode.probability_flow(VP(), "AbstractERK"), "no adaptive ODE solver"),
    (lambda: ode.probability_flow(VP(), "Kvaerno5", adaptive=False), "no fixed-step ODE solver 'Kvaerno5'"),
    (lambda: ode.probability_flow(VP(), rtol=0.0), r"rtol = 0\.0.*expected all positive"),
    (lambda: ode.probability_flow(VP(), max_steps=0), "max_steps = 0"),
]


@pytest.mark.parametrize(("make", "message"), BAD_PARAMETERS)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


BAD_GRIDS = [
    (ancestral.ddim(VP()), [0.0, 0.5, 1.0], r"must decrease strictly; ts\[0\] = 0, ts\[1\] = 0\.5"),
    (ancestral.ddim(VP()), [1.0, 0.5, 0.5, 0.0], r"must decrease strictly; ts\[1\] = 0\.5"),
    (ancestral.ddim(VP()), [1.0, np.nan, 0.0], "holds nan at index 1"),
    (ancestral.ddim(VP()), [1.0], r"shape \(1,\), expected \(N \+ 1,\)"),
    (ancestral.ddim(VP()), [[1.0, 0.0]], r"shape \(1, 2\)"),
    (ancestral.ddim(VP()), [1.5, 0.5, 0.0], r"runs from 1\.5 to 0, expected it inside \[0, 1\.0\]"),
    (ancestral.ddim(VP()), [1.0, 0.5, -0.1], r"to -0\.1, expected it inside"),
    (ode.probability_flow(VP()), UNIT, "singular at t = 0; end the grid above it"),
    (sde.euler_maruyama(Rectified()), UNIT, "SDE of Rectified is singular at t = 1; start the grid below it"),
    (sde.euler_maruyama(Cosine()), UNIT, "SDE of Cosine is singular at t = 1"),
    (heun.edm(Rectified()), UNIT, "infinite at t = 1; start the grid below it"),
    (heun.edm(Cosine()), UNIT, "infinite at t = 1"),
    (singlestep.dpm_solver(Rectified()), UNIT, "At t = 1 alpha is 0: the noise prediction.*start the grid below it"),
    (deis.tab(Cosine()), UNIT, "At t = 1 alpha is 0"),
    (deis.lms(Rectified()), UNIT, "At t = 1 alpha is 0"),
    (pndm.ipndm(Rectified()), UNIT, "At t = 1 alpha is 0"),
    (pndm.pndm(Rectified()), UNIT, "At t = 1 alpha is 0"),
    (restart.restart(Rectified()), UNIT, "Heun's clock sigma / alpha is infinite at t = 1"),
    (restart.restart(EDM(), ((3, 1, 90.0, 95.0),)), [80.0, 1.0, 0.0], "begins at sigma / alpha = 90, outside the grid"),
    (restart.restart(EDM(), ((3, 1, 0.01, 0.3),)), [80.0, 1.0, 0.5, 0.0], "0.01, outside the grid, which runs from 80"),
    (restart.restart(EDM(), ((3, 1, 0.9, 3.0), (3, 1, 1.1, 3.0))), [80.0, 1.0, 0.0], "begin at the same level"),
    (restart.restart(VP(), ((3, 1, 1.0, 1e4),)), UNIT, "VP does not reach log-SNR"),
    (heun.edm(Tabulated.linear(), churn=4.0), UNIT, "at t = 1, which Tabulated does not reach; set s_max below"),
]


@pytest.mark.parametrize(("sampler", "ts", "message"), BAD_GRIDS)
def test_bad_grids_are_refused(sampler, ts, message):
    with pytest.raises(ValueError, match=message):
        sampling_fn(sampler, ts)


def test_plans_are_made_outside_jit():
    def traced(beta_max):
        return sampling_fn(ancestral.ddim(VP(beta_max=beta_max, t_max=1.0)), UNIT)(None, None, jnp.ones(2))

    with pytest.raises(ValueError, match="build samplers and grids outside jit"):
        jax.jit(traced)(jnp.float32(10.0))
