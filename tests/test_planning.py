"""Planning: no compile for another number of steps, the order that a sampler states, and the example of `table`."""

import functools
import inspect
from itertools import pairwise

import diffrax
import jax
import numpy as np
import pytest
from samplers_table import SAMPLERS, SETTINGS, grid_for

from diffjax import samplers
from diffjax.samplers import Sampler, ancestral, hybrid, langevin, multistep, ode, sampling_fn, table, trigflow
from diffjax.schedules import VE, VP, Cosine
from diffjax.specs import _paths
from diffjax.types import Posterior

# Compiles.


class Compiles:
    """Counts what XLA compiles between `start` and `count`."""

    def __init__(self):
        self.found: list[str] | None = None
        jax.monitoring.register_event_duration_secs_listener(self)

    def __call__(self, event: str, seconds: float, **about: object) -> None:
        """JAX calls this at the end of every timed event."""
        if self.found is not None and event == "/jax/core/compile/backend_compile_duration":
            self.found.append(str(about))

    def during(self, function, *args) -> int:
        """How many there are in one call."""
        self.found = []
        function(*args)
        found, self.found = len(self.found), None
        return found


COMPILES = Compiles()
EVERY = {name: row.make for name, row in SAMPLERS.items()} | {
    "trigflow": trigflow.adams,
    "hybrid": hybrid.ddbm,
    "langevin": langevin.predictor_corrector,
    "ode": ode.probability_flow,
}
KNOTTED = "table_linear"  # tab-DEIS cuts its integrals at a table's knots, a thousand of them


def test_the_counter_counts():
    assert COMPILES.during(lambda: jax.jit(lambda x: 3 * x - 2)(np.ones(17))) == 1


@pytest.mark.parametrize("name", EVERY)
def test_a_plan_of_another_schedule_of_its_class_makes_no_compile(name):
    sampler, other = EVERY[name](VP()), EVERY[name](VP(0.2, 15.0))
    ts = np.asarray(grid_for(name if name in SAMPLERS else "ddim", "vp", 9, zero=False))
    sampling_fn(sampler, ts)
    assert COMPILES.during(sampling_fn, other, ts) == 0


@pytest.mark.parametrize("setting", ["vp", KNOTTED])
@pytest.mark.parametrize("name", EVERY)
def test_a_plan_of_another_length_makes_no_compile(name, setting):
    """Up to 64 steps."""
    schedule = SETTINGS[setting].schedule
    sampler = EVERY[name](schedule)
    like = name if name in SAMPLERS else "ddim"
    first, *others = (np.asarray(grid_for(like, setting, n, zero=False)) for n in (9, 4, 13, 64))
    sampling_fn(sampler, first)
    for ts in others:
        assert COMPILES.during(sampling_fn, sampler, ts) == 0, len(ts)


def test_rows_are_padded_on_the_host():
    sampler = SAMPLERS["ddim"].make(VP())
    grids = [np.asarray(grid_for("ddim", "vp", n)) for n in (5, 7)]
    sampling_fn(sampler, grids[0], max_rows=11)
    assert COMPILES.during(lambda: sampling_fn(sampler, grids[1], max_rows=12)) == 0


def test_what_is_no_new_program():
    """Other numbers of the schedule, another grid, another strength are none; another schedule, or order, is one."""
    traces = []

    class Model:
        def __init__(self, schedule):
            self.schedule = schedule

        def __call__(self, x, t):
            traces.append(None)
            return Posterior(0.5 * x)

    jax.tree_util.register_pytree_node(Model, lambda m: ((m.schedule,), None), lambda _, leaves: Model(*leaves))
    run = jax.jit(lambda sample, model, x: sample(model, jax.random.key(0), x))
    x, counts = np.ones(2, np.float32), []
    for sampler, ts in (
        (multistep.adams(VP()), [1.0, 0.4, 0.1, 0.0]),
        (multistep.adams(VP(0.2, 10.0)), [0.9, 0.5, 0.3, 0.1]),
        (multistep.dpmpp_3m(VP(), lower_final=True), [1.0, 0.4, 0.1, 0.0]),
        (multistep.adams(VE()), [1.0, 0.4, 0.1, 0.0]),
        (multistep.adams(VP(), 2), [1.0, 0.4, 0.1, 0.0]),
    ):
        before = len(traces)
        run(sampling_fn(sampler, ts), Model(sampler.schedule), x)
        counts.append(len(traces) > before)
    assert counts == [True, False, False, True, True]


# Orders.

LOW_END = {"adams_3_lower": 3}  # ends at a lower order, and is measured with that end


@pytest.mark.parametrize(("name", "row"), SAMPLERS.items())
def test_a_sampler_states_the_order_that_its_formula_is_measured_to_have(name, row):
    """Of its interior where the table has that (an exact history), else of its whole walk, for it has no history."""
    stated = row.make(VP()).order
    assert stated == LOW_END.get(name, row.primed or row.order)
    assert stated is None or stated >= row.order


@pytest.mark.parametrize("solver", [*ode.EXPLICIT, *ode.IMPLICIT, "Euler"])
def test_the_order_of_a_flow_is_its_solvers(solver):
    stated = ode.probability_flow(VP(), solver, adaptive=solver != "Euler").order
    assert stated == getattr(diffrax, solver)().order(diffrax.ODETerm(lambda t, x, args: x))


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (trigflow.adams(VP(), 3), 3),
        (hybrid.ddbm(VP()), 1),
        (hybrid.ddbm(VP(), 0.0), 2),
        (langevin.predictor_corrector(VP(), "ancestral", corrections=0), 1),
        (langevin.predictor_corrector(VP()), None),
        (langevin.annealed(VE()), None),
        (ancestral.resampled(VP()), None),
    ],
    ids=["trigflow", "hybrid", "hybrid, flow", "no kernel", "kernel", "annealed", "resampled"],
)
def test_orders_of_those_outside_the_table(sampler: Sampler, order: int | None):
    """A kernel's error and that of drawing all noise anew stay however short the steps: no order."""
    assert sampler.order == order


# The example.


@pytest.mark.usefixtures("x64")
def test_the_example_of_the_module():
    """DPM-Solver++(2M) on equal steps, as in the docstring: row 1 has a_1 and (3 c_1 / 2, -c_1 / 2)."""

    def program(walk):
        x, old = walk.start, None
        for now, then in pairwise(walk.levels):
            new = walk.evaluate(x, now)
            m = new if old is None else 1.5 * new - 0.5 * old
            x, old = table.ddim_of_mean(x, m, now, then), new
        return x

    rows = table.sampler(VP(), program, history=2, order=2).plan(np.array([0.9, 0.5, 0.2]))
    alpha, sigma = SETTINGS["vp"].form.amplitudes(np.array([0.9, 0.5, 0.2]))
    a = sigma[1:] / sigma[:-1]
    c = alpha[1:] - alpha[:-1] * a
    np.testing.assert_allclose(rows.x, np.float64(a), rtol=1e-12)
    np.testing.assert_allclose(rows.ys, np.float64([[c[0], 0], [1.5 * c[1], -0.5 * c[1]]]), rtol=1e-12, atol=1e-14)
    assert not rows.noise.any()


def test_levels_are_looked_up_together():
    """The levels of many lambdas and of many times, against one at a time; the first that is out of reach is named."""
    walk = table.Walk(Cosine(), np.array([0.9, 0.1]), 2, False)
    lams = [-1.5, 0.3, 2.0]
    together = walk.levels_at(lams)
    np.testing.assert_allclose([level.lam for level in together], lams, atol=1e-12)
    assert together == [walk.level_at(lam) for lam in lams]
    assert walk.levels_of([level.t for level in together]) == together
    assert walk.levels_at([]) == []
    with pytest.raises(ValueError, match="Tabulated does not reach log-SNR -16, a node"):
        table.Walk(SETTINGS[KNOTTED].schedule, np.array([0.9, 0.1]), 2, False).levels_at([0.3, -8.0, -9.0])


def test_a_config_is_offered_samplers_alone():
    """Every name makes a sampler of a schedule or a process; helpers of its module have no name."""
    needs = ("decoding.blocks", "hybrid.ddbm", "principal.adams", "restart.restart")
    for name in _paths(samplers):
        make = functools.reduce(getattr, name.split("."), samplers)
        parameters = list(inspect.signature(make).parameters.values())
        assert parameters[0].name in ("schedule", "process"), name
        assert all(p.default is not p.empty for p in parameters[1:]) or name in needs, name
