"""Turns that move several players, what they begin with, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_matching import P, Q, mixture
from twice import assert_trains_and_resumes

from diffjax import data, denoisers, finetune, losses, methods, models, processes, runs, schedules
from diffjax.losses import fields, matching
from diffjax.method import Example, Method, Turn, per_example
from diffjax.runs.build import load
from diffjax.training import check_parts, init_state, make_step

x64 = pytest.mark.usefixtures("x64")


def net(*shape, **options):
    return models.of(models.Perceptron(shape or None, width=4, depth=1, **options))


def made(name, **options):
    flow = processes.Gaussian(schedules.Rectified())
    parts = {"classifier": {"critic": net()}, "kernel": {}}.get(name, {"real": net(), "fake": net()})
    if name == "energies":
        energy = models.scalar.gradient(models.scalar.scalar(net()))
        parts = {"real": energy, "fake": energy}
    parts = {"generator": net(), "process": flow, "target": denoisers.Velocity(), **parts}
    return getattr(methods.matching, name)(**{**parts, **options})


def test_turns_and_what_each_moves():
    moves = lambda method: [turn.moves for turn in method.turns]
    assert moves(made("classifier", critics=3)) == ["critic"] * 3 + ["generator"]
    assert moves(made("scores", critics=2)) == [("real", "fake")] * 2 + ["generator"]
    assert moves(made("scores", teacher=True)) == ["fake", "generator"]
    assert moves(made("kernel")) == ["generator"]
    assert moves(made("scores", simultaneous=True)) == [("generator", "real", "fake")]
    assert all(made(name).served == ("generator",) for name in methods.matching.__all__)


BATCH = Example(jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), jnp.float32))
RATES = {"generator": 0.1, "real": 0.2, "fake": 0.3, "critic": 0.4}


def adams(*names):
    return {name: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(RATES[name])) for name in names}


@pytest.mark.parametrize(
    "name", ["classifier", *(pytest.param(n, marks=pytest.mark.slow) for n in ("scores", "energies"))]
)
def test_one_turn_moves_each_player_down_its_own_loss(name):
    """A simultaneous step against the gradients of alternating turns, all taken at the old parameters."""
    together, apart = made(name, simultaneous=True), made(name)
    others = apart.turns[0].moves
    names = (others,) if isinstance(others, str) else others
    params = jax.jit(together.init)(jax.random.key(0), jax.tree.map(lambda a: a[0], BATCH))
    params = jax.tree.map(lambda a: a + 0.1, params)
    key, at = jax.random.key(5), jnp.arange(6)

    def grads():
        of = lambda turn: jax.grad(lambda p: turn.losses(p, key, BATCH, at, 6)[0].mean())(params)
        whole, learned, followed = of(together.turns[0]), of(apart.turns[0]), of(apart.turns[1])
        return (
            whole,
            {**followed, **{who: learned[who] for who in names}},
            learned["generator"],
            {w: followed[w] for w in names},
        )

    whole, each, *crossed = jax.jit(grads)()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), whole, each)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(crossed)), "a player moves another one's parameters"
    assert all(optax.tree.norm(each[who]) > 1e-6 for who in ("generator", *names))


def test_each_player_clips_its_own_gradient():
    loss = lambda params, *_: (
        100 * params["critic"] + jax.lax.stop_gradient(params["critic"]) * params["generator"],
        {},
    )
    method = Method(lambda key, example: {}, (Turn(per_example(loss), ("critic", "generator")),), lambda *a: None)
    optimizer = {n: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)) for n in ("critic", "generator")}
    emas = runs.settings.average(runs.Settings())
    state = init_state(
        {"critic": jnp.float32(0.5), "generator": jnp.float32(1.0)}, optimizer, emas, jax.random.key(0), method
    )
    assert set(state.opt_state) == {"critic", "generator"}
    state, metrics = jax.jit(make_step(method, optimizer, emas))(state, Example(jnp.zeros((2, 1))))
    np.testing.assert_allclose([state.params["critic"], state.params["generator"]], [0.4, 0.95], rtol=1e-6)
    assert "loss/critic+generator" in metrics["aux"]


def test_the_average_counts_the_generators_turns():
    """One update of it in a step, however many turns the critic has."""
    method, optimizer = made("classifier", critics=2), adams("critic", "generator")
    emas = runs.settings.average(runs.Settings(ema="0.5"))
    params = jax.jit(method.init)(jax.random.key(0), Example(jnp.zeros(2)))
    state = init_state(params, optimizer, emas, jax.random.key(1), method)
    batch = Example(jnp.asarray(np.random.default_rng(0).normal(size=(9, 2)), jnp.float32))
    step = jax.jit(make_step(method, optimizer, emas))
    average = lambda state: state.ema.averages["0.5"]
    before = average(state)["generator"]
    state, metrics = step(state, batch)
    decay = float(metrics["ema_decay"]["0.5"])
    expected = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, before, state.params["generator"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), average(state)["generator"], expected
    )
    assert set(average(state)) == {"generator"}


def test_players_of_one_network_begin_with_a_run():
    method = made("scores", teacher=True)
    example = Example(np.zeros(2, np.float32))
    params = jax.jit(method.init)(jax.random.key(0), example)
    given = jax.tree.map(lambda a: a + 7, params["real"])
    started = finetune.take_over(params, given)
    for who in ("generator", "real", "fake"):
        jax.tree.map(np.testing.assert_array_equal, started[who], given)
    other = finetune.take_over({**params, "generator": {"w": jnp.ones(3)}}, given)
    np.testing.assert_array_equal(other["generator"]["w"], np.ones(3))
    with pytest.raises(ValueError, match="Only "):
        finetune.take_over(params, {"w": jnp.ones(3)})


# --- bad input


BAD = [
    (lambda: made("classifier", critics=0), r"^critics is 0, expected an integer >= 1\.$"),
    (lambda: made("scores", critics=0), r"^critics is 0, expected an integer >= 1\.$"),
    (lambda: made("classifier", h="hinge"), r"^Got h = 'hinge' \(a hinge or Wasserstein critic knows no density ratio"),
    (lambda: made("classifier", h=lambda d: -d), r"^Got an h with h'\(-20\) = -1, expected one that increases"),
    (lambda: made("classifier", r2=-1.0), r"^Got r2 = -1\.0, expected a weight, 0 or more\.$"),
    (lambda: made("classifier", eps=0.0), r"^eps is 0\.0, expected a positive number\.$"),
    (lambda: made("scores", critics=2, simultaneous=True), r"^Got critics = 2 with simultaneous = True"),
    (lambda: made("scores", scale="snr"), r"^Got scale = 'snr', expected one of kl, noise, mean, published\.$"),
    (lambda: made("scores", span=(0.5, 0.2)), r"^Got span = \(0\.5, 0\.2\), expected two shares of t_max"),
    (lambda: made("scores", span=(0.0, 0.2)), r"^Got span = \(0\.0, 0\.2\), where sigma is 0"),
    (lambda: made("energies", scale="published"), r"^Got scale = 'published' for two energies"),
    (lambda: made("scores", target=denoisers.X0()), r"^X0 on Rectified keeps 0 of the noise .*Velocity"),
    (
        lambda: made("scores", target=denoisers.Eps()),
        r"^Eps on Rectified keeps inf of .* divided by alpha = 0.*Velocity",
    ),
    (lambda: made("scores", process=schedules.Rectified()), r"^Got Rectified, expected a process: .*Gaussian"),
    (lambda: made("classifier", critic=models.Perceptron(())), r"^Got .*Perceptron.* as the critic, .*models\.of"),
    (lambda: made("classifier", generator=models.MLP()), r"^Got .*MLP.* as the generator, a module alone; models\.of"),
    (
        lambda: made("energies", real=models.of(models.MLP(width=4, depth=1, outputs=2))),
        r"^The real reads its network as an energy's, .*scalar\.energy",
    ),
    (lambda: made("classifier", h=3), r"^Got h = 3, expected one of arcsinh, .*an increasing function of d\.$"),
    (lambda: matching.toward(jnp.zeros(2), jnp.zeros(())), r"^The field of a sample has shape \(\), expected \(2,\)"),
    (lambda: made("scores", at=1.5), r"^Got at = 1\.5, expected a time in \(0, 1\]\.$"),
    (lambda: made("kernel", widths=(0.0,)), r"^A kernel's width is 0\.0, expected a positive number\.$"),
    (lambda: made("kernel", widths=()), r"^Got no width of a kernel"),
    (lambda: made("kernel", kind="cauchy"), r"^There is no kernel 'cauchy'; .*gaussian, laplace"),
    (lambda: made("kernel", scale="norm"), r"^There is no scale of a kernel 'norm'; .*rms, score, shift"),
    (
        lambda: made("kernel", generator=models.of(models.MLP(width=4, depth=1, classes=3))),
        r"^The generator reads label",
    ),
    (lambda: check_parts(made("kernel"), 1, 1), r"^Got train\.batch_size = 1, expected 2 or more"),
    (lambda: check_parts(made("kernel"), 2, 4), r"^Got accumulate = 2, but the losses of turn 0 \(of generator\)"),
    (
        lambda: fields.scores(mixture(P).denoiser(schedules.VP()), mixture(Q).denoiser(schedules.EDM())),
        r"^The denoiser of data is for VP\(.*one schedule\.$",
    ),
    (
        lambda: fields.scores(mixture(P).denoiser(schedules.VP()), mixture(Q).denoiser(schedules.VP(beta_max=10.0))),
        r"one schedule\.$",
    ),
    (
        lambda: fields.energies(mixture(P).denoiser(schedules.VP()), mixture(Q).denoiser(schedules.EDM())),
        r"^Got schedules of energy of data VP\(.*, energy of samples EDM\(.*; a difference of energies wants one",
    ),
    (
        lambda: fields.energies(
            mixture(P).denoiser(schedules.VP()), mixture(Q).denoiser(schedules.VP()), schedules.EDM()
        ),
        r"x_t EDM\(.*; a difference of energies wants one schedule\.$",
    ),
    (
        lambda: made("classifier", h=lambda d: jnp.stack([d, d])),
        r"^Got an h that makes shape \(2,\) of a logit, expected one number\.$",
    ),
    (lambda: made("classifier", h=lambda d: jnp.maximum(d, 0)), r"^Got an h with h'\(-20\) = 0, expected one that"),
    (
        lambda: made("classifier", generator=net(3)).init(jax.random.key(0), Example(jnp.zeros(2))),
        r"^The generator makes examples of shape \(3,\), expected \(2,\), the data's\.",
    ),
    (lambda: fields.energies(jnp.sum, jnp.sum, None, "published"), r"^Got scale = 'published' for two energies"),
    (lambda: fields.scores(None, None, "snr"), r"^There is no scale 'snr' of a field"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_refuses_bad_input_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("part", "of"), [("loss", losses.energy), ("denoiser", denoisers.variance.energy)])
def test_denoising_by_an_energy_wants_one(part, of):
    """Two maps alone are none: the first has to be the other's gradient."""
    process = processes.Gaussian(schedules.VP())
    two = models.of(models.MLP(width=4, depth=1, outputs=2))
    with pytest.raises(ValueError, match=f"^The {part} reads its network as an energy's, .*scalar.energy"):
        methods.denoising(two, process, denoisers.Eps(), **{part: of})


def test_refuses_a_critic_of_other_data():
    critic = models.of(models.UNet(channels=8, multipliers=(1, 1)))
    flow = processes.Gaussian(schedules.Rectified())
    method = methods.matching.classifier(net(), critic, flow, denoisers.Velocity())
    with pytest.raises(ValueError, match=r"^The critic takes no example of shape \(2,\): the U-Net takes images"):
        runs.Trainer(method, data.modes(n=64), optimizer=adams("critic", "generator"), batch_size=8)


@pytest.mark.slow  # test_generators has a critic's by the command
def test_the_config_trains_and_is_resumed(tmp_path, capsys):
    found = assert_trains_and_resumes("configs/matching.py:tiny", tmp_path, capsys)
    assert np.isfinite(found["metrics"]["sliced W2"]["value"])


def test_a_config_names_the_players_and_the_teacher(tmp_path):
    config = load("configs/matching.py:tiny")
    assert runs.build_run(config).method.turns[0].moves == ("real", "fake")
    config = load("configs/matching.py:tiny", [f"train.start={tmp_path}"])
    with config.unlocked():
        del config.optimizer["real"]
    assert runs.build_run(config).method.turns[0].moves == "fake"
