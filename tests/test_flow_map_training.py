"""Flow maps as a method: networks told two times, warm starts, teachers, gradients in mean, costs, what is refused."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_flow_map import MEAN, PARAMS, PROCESS, STD, exact
from twice import judged

from diffjax import finetune, methods, models, processes, runs, schedules
from diffjax.config import beside
from diffjax.denoisers import X0, Eps, V, Velocity
from diffjax.denoisers.flow_map import GAP, flow_map
from diffjax.losses import eulerian, lagrangian, pairs, progressive
from diffjax.losses.flow_map import Way
from diffjax.method import Example
from diffjax.models.counting import flops
from diffjax.runs import build_run
from diffjax.samplers import ancestral, sampling_fn

FLOWS = beside(Path(__file__).parents[1] / "configs" / "__init__.py", "flow_map.py")
IMAGE, CLOCK = np.random.default_rng(0).normal(size=(8, 8, 1)).astype(np.float32), np.float32(0.4)
NETWORKS = {
    "UNet": partial(models.UNet, channels=4, multipliers=(1,), attention=(), embedding="angle"),
    "DiT": partial(models.DiT, depth=1, width=16, heads=2, features=32),
    "MLP": partial(models.MLP, width=16, depth=1, embedding="angle"),
}


def filled(network, given=()):
    """Parameters that are zero nowhere, without a compile."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGE, CLOCK, dict(given))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: (0.3 * rng.normal(size=a.shape)).astype(a.dtype), shapes)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_one_time_begins_one_of_two(name):
    """The new layer is zeros, so that the gap says nothing yet; whatever it holds, the diagonal is the old network."""
    one, two = (models.of(NETWORKS[name](**options)) for options in ({}, {"gap": GAP}))
    told = lambda value: {"gap": np.full(GAP, value, np.float32)}
    old, new = filled(one), filled(two, told(0))
    apply = jax.jit(two.apply)
    begun = finetune.take_over(new, old)
    plain = np.asarray(jax.jit(one.apply)(old, IMAGE, CLOCK))
    np.testing.assert_array_equal(apply(begun, IMAGE, CLOCK, told(0.7)), plain)
    layer = next(part for part in ("gap", "augment") if part in new["embedding"])
    moved = {**begun, "embedding": {**begun["embedding"], layer: new["embedding"][layer]}}
    np.testing.assert_array_equal(apply(moved, IMAGE, CLOCK, told(0.0)), plain)
    assert np.abs(np.asarray(apply(moved, IMAGE, CLOCK, told(0.7))) - plain).max() > 1e-3


def test_players_begin_with_the_run_of_one_time():
    network, old = models.of(NETWORKS["UNet"](gap=GAP)), filled(models.of(NETWORKS["UNet"]()))
    params = {"map": filled(network, {"gap": np.zeros(GAP, np.float32)})}
    begun = finetune.take_over({**params, "teacher": params["map"]}, old)
    for who in ("map", "teacher"):
        assert not np.any(begun[who]["embedding"]["gap"]["kernel"])
        np.testing.assert_array_equal(begun[who]["conv_in"]["kernel"], old["conv_in"]["kernel"])
    with pytest.raises(ValueError, match="Only this network has the parameter other"):
        finetune.take_over({**params["map"], "other": np.zeros(1)}, old)


def test_an_untrained_warm_start_draws_by_ddim():
    """The map of a network whose layer of the gap is zeros is DDIM's step for all (t, r)."""
    one, two = models.of(NETWORKS["MLP"]()), models.of(NETWORKS["MLP"](gap=GAP))
    method = methods.flow_map(two, PROCESS, steps=3)
    params = finetune.take_over(filled(two, {"gap": np.zeros(GAP, np.float32)}), filled(one))
    key = jax.random.key(4)
    drawn = jax.jit(lambda params: method.draw(params, method.plan((8, 8, 1)), key, {}))(params)
    walk = sampling_fn(ancestral.ddim(PROCESS.schedule), np.linspace(1, 0, 4))
    x = PROCESS.prior(key, (8, 8, 1))
    expected = jax.jit(lambda params: walk(method.parts.map(params, {}), key, x))(params)
    np.testing.assert_allclose(drawn, expected, rtol=1e-5, atol=1e-5)


# Gradients in mean, of a Gaussian, by Gauss-Hermite: exact, as all losses are polynomials in x_0 and z

RULES = {
    "improved": eulerian.improved(),
    "scm": eulerian.scm(sigma_data=1.0),
    "lagrangian": lagrangian.self_distillation(),
    "terminal": lagrangian.terminal(by_time=True),
    "progressive": progressive.self_distillation(0.3),
}


def slopes(rule, each, ts, rs):
    """The gradients of the mean loss, of each parameters at its times, by one compile."""
    method = methods.flow_map(exact(), PROCESS, rule=rule)
    node, weight = np.polynomial.hermite_e.hermegauss(5)
    grid = np.stack(np.meshgrid(node, node, indexing="ij"), -1).reshape(-1, 2)
    weights = np.outer(weight, weight).ravel() / np.sum(weight) ** 2
    n = len(grid)
    x0, z, places = MEAN + STD * grid[:, :1], np.tile(grid[:, 1:], 2), np.arange(n, dtype=np.int32)

    @jax.jit
    @jax.grad
    def slope(params, t, r):
        batch = Example(x0, {}, {"t": jnp.full(n, t), "r": jnp.full(n, r), "z": z})
        return jnp.sum(method.turns[0].losses(params, jax.random.key(0), batch, places, n)[0] * weights)

    return [jax.device_get(slope(*args)) for args in zip(each, ts, rs)]


@pytest.mark.parametrize("name", RULES)
def test_gradients_vanish_in_mean_at_the_exact_map_alone(x64, name):
    """Off it they do not: of a map of other data, which satisfies its own identities too, on the diagonal."""
    off, own = {"mean": MEAN + 0.1, "std": np.asarray(STD * 1.2)}, name in ("lagrangian", "progressive")
    r = np.array([0.25, 0.05, 0.8 if own else 0.25, 0.8])
    sizes = [
        np.abs(np.concatenate([slope["mean"], slope["std"][None]]))
        for slope in slopes(RULES[name], [PARAMS, PARAMS, off, PARAMS], np.full(4, 0.8), r)
    ]
    assert max(size.max() for size in (sizes[0], sizes[1], sizes[3])) < 1e-9
    assert sizes[2].min() > 1e-5


OFF = {"mean": MEAN + 0.4, "std": np.asarray(STD * 2)}  # another map than the data's


def one(rule, t, r):
    """(loss, gradient) of one example, at the wrong map."""
    loss, place = methods.flow_map(exact(), PROCESS, rule=rule).turns[0].losses, jnp.zeros(1, jnp.int32)
    chosen = {"t": jnp.full(1, t), "r": jnp.full(1, r), "z": jnp.asarray([[0.3, -1.2]])}
    batch = Example(jnp.asarray([[0.9, -0.2]]), {}, chosen)
    value, slope = jax.jit(jax.value_and_grad(lambda p: loss(p, jax.random.key(0), batch, place, 1)[0].sum()))(OFF)
    return float(value), np.concatenate([slope["mean"], slope["std"][None]])


def test_every_loss_is_the_regression_on_the_diagonal(x64):
    """|u(x, t, t) - (z - x_0)|^2, by hand; two of them have one gradient."""
    t, x0, z = 0.6, np.array([0.9, -0.2]), np.array([0.3, -1.2])
    x, V_t = (1 - t) * x0 + t * z, (1 - t) ** 2 * 0.25 + t**2
    away = (x - (1 - t) * OFF["mean"]) / V_t
    expected = np.mean((t * away - OFF["mean"] - (1 - t) * 0.25 * away - (z - x0)) ** 2)
    found = {name: one(rule, t, t) for name, rule in RULES.items() if name != "scm"}
    np.testing.assert_allclose([value for value, _ in found.values()], expected, rtol=1e-9)
    np.testing.assert_allclose(found["lagrangian"][1], found["progressive"][1], rtol=1e-9, atol=1e-12)


def test_the_consistency_loss_goes_down_as_meanflow_does(x64):
    """Its gradient is cos^2 of the angle times that of MeanFlow to r = 0."""
    t = 0.6
    share = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
    (_, whole), (_, slope) = one(eulerian.meanflow(), t, 0.0), one(eulerian.scm(sigma_data=1.0), t, 0.3)
    np.testing.assert_allclose(slope, share * whole, rtol=1e-9, atol=1e-12)


def test_the_lagrangian_residual_by_time_is_that_of_the_map(x64):
    """|d/dr (x - (t - r) u(x, t, r)) - u(X, r, r)|^2, differentiated here as it is written."""
    t, r = np.float64(0.7), np.float64(0.2)
    u = methods.flow_map(exact(), PROCESS).parts.velocity(OFF, {})
    bent = lambda x, t, r: u(x, t, r) + (t - r) * x * r  # no flow's map
    x = jnp.asarray([0.4, -0.7])
    land = lambda r: x - (t - r) * bent(x, t, r)
    X, turn = jax.jvp(land, (r,), (jnp.ones_like(r),))
    expected = np.mean((np.asarray(turn) - np.asarray(u(X, r, r))) ** 2)
    assert expected > 1e-4

    def net(x_in, c, gap):
        phi = jnp.arctan(jnp.exp(-c / 2))
        t, r = (jnp.sin(a) / (jnp.sin(a) + jnp.cos(a)) for a in (phi, phi - gap[0]))
        return bent(x_in * jnp.hypot(t, 1 - t), t, r)

    flow = flow_map(net, PROCESS.schedule, Velocity())
    way = Way(PROCESS, jnp.zeros(2), x / t, t, r)
    np.testing.assert_allclose(lagrangian.self_distillation(by_time=True)(flow, way)[0], expected, rtol=1e-8)


# Teachers and guidance


def test_a_teacher_stands_still_and_says_the_velocity(x64):
    """The loss of the exact map is 0 with the exact teacher, without a mean; the teacher's entry has no gradient."""
    method = methods.flow_map(exact(), PROCESS, rule=eulerian.meanflow(), distil=True, teacher=True)
    assert (method.served, method.turns[0].moves) == (("map",), "map")
    chosen = {"t": np.array([0.8]), "r": np.array([0.1]), "z": np.array([[0.3, -1.2]])}
    batch = Example(np.array([[0.9, -0.2]]), {}, chosen)
    loss, place = method.turns[0].losses, jnp.zeros(1, jnp.int32)
    of = lambda params: loss(params, jax.random.key(0), batch, place, 1)[0].sum()
    off = {"mean": MEAN + 0.1, "std": np.asarray(STD)}
    both = jax.jit(jax.value_and_grad(of))
    value, slope = both({"map": PARAMS, "teacher": PARAMS})
    np.testing.assert_allclose(value, 0, atol=1e-18)
    value, slope = both({"map": off, "teacher": PARAMS})
    assert value > 1e-4
    assert np.all(np.asarray(jax.tree.leaves(slope["teacher"])[0]) == 0)
    assert np.abs(np.asarray(slope["map"]["mean"])).max() > 1e-4


def test_updates_are_counted_where_a_law_reads_them():
    network = models.of(NETWORKS["MLP"](gap=GAP))
    law = partial(pairs.consistency, total=10, first=2, last=4)
    counting = methods.flow_map(network, PROCESS, target=V(), rule=progressive.consistency(), two_times=law)
    batch = counting.prepare.apply(jnp.int32(7), jax.random.key(0), Example(jnp.zeros((3, 2))))
    np.testing.assert_array_equal(batch.chosen["step"], [7, 7, 7])
    assert int(counting.prepare.update(jnp.int32(7), None, {})) == 8
    assert methods.flow_map(network, PROCESS).prepare is None
    assert methods.flow_map(network, PROCESS, rule=eulerian.scm(warm_up=5)).prepare is not None


# Costs


def test_a_step_costs_what_is_said_in_regressions():
    """MeanFlow's at most 1.45 of flow matching's, 4/3 by forward and backward of a network alone; shortcut's 5/3."""
    unet = partial(models.UNet, channels=16, multipliers=(1, 2), blocks=1, attention=(4,), embedding="angle")
    plain, two = models.of(unet()), models.of(unet(gap=GAP))
    batch = Example(jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))

    def cost(method):
        params = jax.eval_shape(method.init, jax.random.key(0), Example(jnp.asarray(IMAGE)))
        one = lambda params, x: (
            method.turns[0].losses(params, jax.random.key(0), Example(x), jnp.arange(2), 2)[0].mean()
        )
        return flops(jax.value_and_grad(one), params, batch.x)

    of = lambda rule, **parts: cost(methods.flow_map(two, PROCESS, rule=rule, **parts))
    base = cost(methods.denoising(plain, PROCESS, Velocity()))
    assert 1.2 < of(None) / base <= 1.45
    assert 1.5 < of(progressive.shortcut(8), two_times=partial(pairs.dyadic, steps=8)) / base <= 1.75


def test_draws_cost_their_evaluations():
    network = models.of(models.UNet(channels=16, multipliers=(1, 2), attention=(4,), embedding="angle", gap=GAP))
    params = jax.eval_shape(network.init, jax.random.key(0), IMAGE, CLOCK, {"gap": np.zeros(GAP, np.float32)})
    forward = flops(network.apply, params, IMAGE, CLOCK, {"gap": np.zeros(GAP, np.float32)})
    for steps, gamma in ((1, 0.0), (4, 0.5)):
        method = methods.flow_map(network, PROCESS, steps=steps, gamma=gamma)
        request = method.plan((8, 8, 1))
        assert request.nfe == steps
        found = flops(lambda params, m=method, r=request: m.draw(params, r, jax.random.key(0), {}), params)
        assert steps <= found / forward <= 1.005 * steps


def test_derivatives_are_finite_from_the_end_to_the_data():
    """Where the two times are the ends of the schedule: MeanFlow's loss and its gradient, with target V."""
    network = models.of(NETWORKS["MLP"](gap=GAP))
    params = filled(network, {"gap": np.zeros(GAP, np.float32)})
    for schedule in (schedules.VP(), schedules.Cosine(), schedules.EDM()):
        loss = methods.flow_map(network, processes.Gaussian(schedule), target=V()).turns[0].losses
        end = np.float32(schedule.t_max)
        chosen = {"t": np.stack([end, end]), "r": np.float32([0, 0.5 * end])}
        batch = jax.tree.map(jnp.asarray, Example(np.stack([IMAGE, IMAGE]), {}, chosen))
        of = lambda p, b=batch, f=loss: f(p, jax.random.key(0), b, jnp.arange(2, dtype=jnp.int32), 2)[0].mean()
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(jax.jit(jax.value_and_grad(of))(params)))


@pytest.mark.parametrize("name", [name for name in FLOWS.VARIANTS if name.split("_")[-1] in FLOWS.LOSSES])
def test_recipe_builds(name):
    """Rule, pairs, steps and teacher of each belong together; those of MNIST stand in the digits' place."""
    config = runs.load(f"configs/flow_map.py:{name}")
    if config.data.name == "mnist":
        config.data = {"name": "digits"}
    assert build_run(config).method.parts.rule is not None


@pytest.mark.slow
@pytest.mark.parametrize("config", ["configs/flow_map.py:tiny_shortcut", "configs/flow_map.py:tiny_consistency"])
def test_config_trains(config, tmp_path):
    """The agreement of steps is reported where ways other than that to data are taught."""
    found = judged(config, tmp_path)
    assert found.get("flow_map", {"apart": {"1": 1.0}})["apart"]["1"] > 0
    assert ("flow_map" in found) == config.endswith("shortcut")


# Bad input

MLP = models.of(NETWORKS["MLP"](gap=GAP))
LABELLED = models.of(NETWORKS["MLP"](gap=GAP, classes=8))
HIDDEN, TAUGHT = methods.Condition({"label": 8}, 0.5), {"distil": True, "teacher": True}


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        (
            {"network": models.of(NETWORKS["UNet"]())},
            r"set the model's gap=17 \(MLP, UNet, DiT\)",
        ),
        ({"network": NETWORKS["UNet"](gap=GAP)}, "as the network"),
        ({"network": models.of(NETWORKS["MLP"](gap=GAP, dtype="bfloat16"))}, "drifts to NaN in bfloat16"),
        ({"gamma": 1.5}, r"gamma = 1.5, expected a number in \[0, 1\]"),
        ({"process": processes.Gaussian(schedules.VDM()), "gamma": 1.0}, "gamma is 1, .* VDM has sigma"),
        ({"target": Eps()}, r"Eps on Rectified does not say both ends of a way at t = 1"),
        (
            {"target": X0(), "rule": progressive.consistency()},
            "X0 on Rectified does not say both ends .* at t = 0",
        ),
        ({"power": 1.0, "rule": eulerian.meanflow()}, "Got power or floor beside a rule"),
        ({"two_times": partial(pairs.uniform, same=1.0)}, "same = 1, r = t always"),
        ({"rule": eulerian.meanflow(w=2.0)}, "This guidance needs a network that was trained without"),
        ({"rule": progressive.distillation()}, "This loss has a teacher: set method.distil=True"),
        ({"distil": True}, "distil = True without a run to begin from: set train.start"),
        ({"w": 2.0, "network": LABELLED, "condition": methods.Condition({"label": 8}, 0.1)}, "guidance of a teacher"),
        ({"process": processes.bridge(schedules.VP())}, "also depends on y"),
        ({"rule": progressive.shortcut(8)}, r"finest of 8 steps .* \(of no such steps\): take two_times.name=dyadic"),
        ({"rule": progressive.shortcut(8), "two_times": partial(pairs.dyadic, steps=4)}, r"pairs \(4\): take"),
        ({"rule": progressive.consistency()}, "wants neighbours of a grid"),
        ({"rule": eulerian.scm(), "steps": 2}, "way to data alone: 2 steps of it need gamma = 1"),
        ({"two_times": pairs.uniform, "same": 0.25}, "Got method.same = 0.25 beside two_times"),
        ({"rule": lagrangian.terminal(), "network": models.of(NETWORKS["MLP"](gap=GAP, dtype="bfloat16"))}, "to NaN"),
        ({"rule": eulerian.pixel(), "process": processes.Gaussian(schedules.VP()), "target": X0()}, "infinite slope"),
        ({"two_times": pairs.uniform(schedules.Rectified())}, r"as the two_times, expected a function of \(schedule\)"),
        ({"two_times": lambda schedule: lambda keys, i, n: jnp.zeros(())}, r"expected two times, \(t, r\)"),
        ({"rule": "eulerian.improved"}, "'eulerian.improved' as the rule, expected a function of"),
        ({"times": lambda schedule: lambda keys, i, n: jnp.asarray(1.7)}, r"\(t, r\) = \(1.7, 1.7\), expected 0 <= r"),
        (
            {"rule": progressive.distillation(), "two_times": partial(pairs.grid, n=4), "steps": 3, **TAUGHT},
            "teaches 4 even steps, and method.steps is 3",
        ),
        (
            {"rule": eulerian.meanflow(w=2.0), "network": LABELLED, "condition": HIDDEN, **TAUGHT},
            "guidance in the rule beside a teacher",
        ),
        (
            {"two_times": lambda schedule: lambda keys, i, n: (jnp.asarray(0.1), jnp.asarray(0.5))},
            r"\(t, r\) = \(0.1, 0.5\)",
        ),
    ],
)
def test_parts_that_make_no_flow_map_are_refused(parts, match):
    with pytest.raises(ValueError, match=match):
        methods.flow_map(**{"network": MLP, "process": PROCESS, **parts})


def test_a_network_of_ones_own_that_reads_no_gap_is_refused():
    own = lambda says: models.Network(lambda key, x, c, given: jnp.ones(2), says, None)
    deaf, told = (
        own(lambda params, x, c, given: params * x),
        own(lambda params, x, c, given: params * x + given["gap"][:2]),
    )
    example = Example(jnp.zeros(2), {}, {})
    with pytest.raises(ValueError, match=r"what this network says does not depend on it"):
        methods.flow_map(deaf, PROCESS).init(jax.random.key(0), example)
    assert methods.flow_map(told, PROCESS).init(jax.random.key(0), example).shape == (2,)


def test_a_hidden_student_is_taught_by_a_hidden_teacher():
    """Where the label is hidden the loss is that of no label, in the student and in what teaches it."""
    rule = lagrangian.self_distillation()
    loss = methods.flow_map(LABELLED, PROCESS, rule=rule, condition=HIDDEN, w=2.0, **TAUGHT).turns[0].losses
    own, teacher = (filled(LABELLED, {"gap": np.zeros(GAP, np.float32), "label": np.int32(0)}) for _ in range(2))
    params = {"map": own, "teacher": jax.tree.map(lambda a: 0.7 * a, teacher)}
    chosen = {"t": np.full(16, 0.7, np.float32), "r": np.full(16, 0.2, np.float32)}

    def values(label):
        batch = Example(np.stack([IMAGE] * 16), {"label": np.asarray(label, np.int32)}, chosen)
        run = jax.jit(lambda p: loss(p, jax.random.key(0), batch, jnp.arange(16, dtype=jnp.int32), 16)[0])
        return np.asarray(run(params))

    alike = np.isclose(values(np.arange(16) % 8), values(np.full(16, 8)), rtol=1e-5)
    assert 2 <= alike.sum() <= 14


def test_guidance_inside_is_of_hidden_conditions():
    """A loss with w is made where the condition is hidden from a share, and is another number than without."""
    condition = methods.Condition({"label": 8}, 0.5)
    params = filled(LABELLED, {"gap": np.zeros(GAP, np.float32), "label": np.int32(0)})
    given, chosen = {"label": np.arange(16, dtype=np.int32) % 8}, {"t": np.full(16, 0.7, np.float32)}
    batch = Example(np.stack([IMAGE] * 16), given, {**chosen, "r": np.full(16, 0.2, np.float32)})

    def values(w):
        rule = eulerian.improved(w=w)
        loss = methods.flow_map(LABELLED, PROCESS, rule=rule, condition=condition).turns[0].losses
        run = jax.jit(lambda p: loss(p, jax.random.key(0), batch, jnp.arange(16, dtype=jnp.int32), 16)[0])
        return np.asarray(run(params))

    off, on = values(1.0), values(2.0)
    same = np.isclose(off, on, rtol=1e-5)
    assert 2 <= same.sum() <= 14  # those whose label is hidden have their own velocity
