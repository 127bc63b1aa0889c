"""Plans whose weights extrapolate far: they say so when they are made, those of shipped configs never do."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import rows
from families import FAMILIES

from diffjax import calculus, grids, runs, samplers
from diffjax.methods.planning import planned_sampler
from diffjax.runs.build import PARTS
from diffjax.samplers import AmplifyingPlan, ancestral, deis, multistep, sampling_fn, table, trigflow
from diffjax.schedules import EDM, VP, Rectified

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("error")  # so that a plan that warns fails the tests of no alarm
MEANS, SPREAD = (-1.0, 1.0), 0.2  # of a mixture of two, of standard deviation 1.02


def deviation(sampler, ts):
    """The standard deviation of 400 samples with the exact denoiser of the mixture, in NumPy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AmplifyingPlan)
        planned = sampler.plan(ts)
    levels = dict(zip(planned.t, zip(*calculus.amplitudes(sampler.schedule, planned.t))))

    def model(x, t):
        alpha, sigma = levels[t]
        total = (alpha * SPREAD) ** 2 + sigma**2
        logits = np.stack([-((x - alpha * m) ** 2) / 2 / total for m in MEANS])
        shares = np.exp(logits - logits.max(0))
        each = np.stack([m + alpha * SPREAD**2 / total * (x - alpha * m) for m in MEANS])
        return np.sum(shares * each, 0) / shares.sum(0), 0.0

    draws = np.random.default_rng(0).standard_normal((len(planned.t) + 1, 400))
    *_, found = rows.read(planned, model, levels[planned.t[0]][1] * draws[-1], draws)
    return np.std(found)


@pytest.mark.parametrize(
    ("make", "grid", "n", "off"),
    [
        (lambda s: multistep.adams(s, 3, tau=1.0), grids.uniform, 10, 3.0),
        (lambda s: multistep.adams(s, 3, tau=1.0), grids.uniform, 20, 1.0),
        (multistep.adams, grids.uniform, 10, 1.0),
        (multistep.dpmpp_3m_sde, grids.uniform, 10, 1.0),
    ],
)
def test_a_plan_that_explodes_says_so_and_names_a_grid_that_does_not(make, grid, n, off):
    """Its samples are off by more than `off`; on the grid that it names they are within 0.15, in as many steps."""
    sampler = make(VP())
    with pytest.warns(
        AmplifyingPlan, match=r"from t = 0\.\d+ to 0\.001 .* \(bound 30\).* take grids\.\w+, where"
    ) as said:
        sampling_fn(sampler, grid(VP(), n))
    assert abs(deviation(sampler, grid(VP(), n)) - 1.02) > off
    named = str(said[0].message).split("grids.")[1].split(",")[0]
    better = getattr(grids, named)(VP(), n)
    sampling_fn(sampler, better)
    assert abs(deviation(sampler, better) - 1.02) < 0.15


def test_it_says_so_from_pure_noise_too():
    """Where log-SNR has no grid, the angle has."""
    with pytest.warns(AmplifyingPlan, match=r"take grids\.angle, where it is \d"):
        sampling_fn(multistep.adams(Rectified(), 3), grids.uniform(Rectified(), 10))


@pytest.mark.parametrize("make", [lambda s: deis.lms(s, 4), lambda s: trigflow.adams(s, 4)])
def test_references_of_many_steps_in_float32_say_so(make):
    """Order 4 to n = 0 over many spacings of its nodes: the sum cancels by as much as N^3."""
    with pytest.warns(AmplifyingPlan, match=r"to 0 the weights of the last evaluations are together"):
        make(VP()).plan(grids.log_snr(VP(), 300))


PLANNED_IN_ROWS = [n for n, f in FAMILIES.items() if f.to_data and f.schedule == VP() and not f.more and n != "pndm"]


@pytest.mark.parametrize("name", PLANNED_IN_ROWS)
def test_no_alarm_on_the_grids_of_the_field(name):
    """In 10 and in 50 steps; PNDM on `angle` is the exception that is documented."""
    for grid, schedule in ((grids.log_snr, VP()), (grids.angle, VP()), (grids.karras, EDM())):
        for n in (10, 50):
            FAMILIES[name].make(schedule).plan(grid(schedule, n))


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.py")), ids=lambda path: path.stem)
def test_no_alarm_on_a_shipped_config(path):
    config = runs.load(str(path))
    if "sampler" not in config or "grid" not in config or config.sampler.name is None:
        pytest.skip("no walk")
    process = PARTS["process"].make(config)
    sampler = planned_sampler(PARTS["sampler"].make(config), process)
    samplers.walking_fn(sampler, PARTS["grid"].make(config)(process.schedule))


def test_the_measure():
    """Adams-Bashforth of order 3 on equal steps of x' = y: 23, -16 and 5 twelfths, hence 44 / 12; one step is 1."""
    weights = np.array([[1.0, 0, 0], [1.5, -0.5, 0], [23 / 12, -16 / 12, 5 / 12]])
    ts = np.array([3e3, 2e3, 1e3])  # steps of 1000, larger than x
    planned = table.Row(ts, np.zeros(3), np.ones(3), np.ones(3), 1e3 * weights, np.zeros(3))
    walked = [table.Level(t, 1.0, 0.0) for t in (*ts, 0.0)]
    np.testing.assert_allclose(table.amplification(planned, walked), [1.0, 2.0, 44 / 12])
    small = planned._replace(ys=1e-3 * weights)  # steps that x does not feel
    np.testing.assert_allclose(table.amplification(small, walked), np.array([1.0, 2.0, 44 / 12]) * 1e-3)
    one = ancestral.ddim(VP()).plan(np.array([1.0, 0.5, 0.0]))
    assert not isinstance(one, table.Row)  # and has no weights to amplify
