"""Two players: the critic's optimum, the generator's gradient, four modes, devices, and a run that is resumed."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from run_command import environment
from twice import assert_trainer_resumes, assert_trains_and_resumes

from diffjax import data, methods, models, parallel, runs
from diffjax.method import Example
from diffjax.optimizers import build_optimizer
from diffjax.runs.build import load

# --- closed forms: p = N(a, A), x = G(z) = b + c z, and a critic that is any quadratic

A, VAR = 0.5, 0.8  # of p
THETA = {"b": -1.0, "c": 0.6}  # of q
NODES = np.linspace(-12, 12, 1201)
WEIGHTS = np.exp(-(NODES**2) / 2) / np.sqrt(2 * np.pi) * (NODES[1] - NODES[0])  # of N(0, 1): exact to rounding


def exact_logit(b: float, c: float) -> dict[str, float]:
    """log p/q = k + l x + m x^2."""
    return {
        "k": np.log(c**2 / VAR) / 2 - A**2 / (2 * VAR) + b**2 / (2 * c**2),
        "l": A / VAR - b / c**2,
        "m": 1 / (2 * c**2) - 1 / (2 * VAR),
    }


def affine(**options):
    """The method of the two families that hold both optima."""
    generator = models.from_function(lambda p, z, c, given: p["b"] + p["c"] * z, THETA)
    critic = models.from_function(lambda p, x, c, given: p["k"] + p["l"] * x + p["m"] * x**2, exact_logit(**THETA))
    return methods.monoflow(generator, critic, **options)


def mean_loss(turn):
    """E of a turn's loss over x ~ p and z ~ N(0, 1), by quadrature: x and z stand in separate terms of it."""
    x, z = (v[:, None] for v in (A + np.sqrt(VAR) * NODES, NODES))
    batch = Example(x, {}, {"z": z})

    def mean(params):
        losses, _ = turn.losses(params, jax.random.key(0), batch, jnp.arange(len(x)), len(x))
        return jnp.sum(jnp.asarray(WEIGHTS) * losses)

    return jax.jit(mean)


def params_at(critic, theta=THETA):
    return jax.tree.map(np.float64, {"generator": theta, "critic": critic})


@pytest.mark.usefixtures("x64")
def test_the_critics_minimum_is_the_log_density_ratio():
    mean = mean_loss(affine().turns[0])
    best = params_at(exact_logit(**THETA))
    slope = jax.jit(jax.grad(mean))(best)["critic"]
    np.testing.assert_allclose(list(slope.values()), 0, atol=1e-12)
    # its value there is 2 log 2 - 2 JS(p, q), integrated apart from any logit
    x = np.linspace(-15, 15, 60_001)
    p, q = (np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v) for m, v in ((A, VAR), (-1.0, 0.36)))
    js = np.sum(p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))) * (x[1] - x[0]) / 2
    np.testing.assert_allclose(mean(best), 2 * np.log(2) - 2 * js, rtol=1e-10)
    for name in ("k", "l", "m"):  # and it is a minimum
        for step in (-0.05, 0.05):
            assert (
                mean(params_at({**exact_logit(**THETA), name: exact_logit(**THETA)[name] + step})) > mean(best) + 1e-6
            )


@pytest.mark.usefixtures("x64")
def test_the_penalty_is_half_the_squared_slope_at_data():
    """E_p |l + 2 m x|^2 in closed form."""
    critic = exact_logit(**THETA)
    plain, fined = (mean_loss(affine(penalty=w).turns[0])(params_at(critic)) for w in (0.0, 0.3))
    expected = (critic["l"] + 2 * critic["m"] * A) ** 2 + 4 * critic["m"] ** 2 * VAR
    np.testing.assert_allclose(fined - plain, 0.3 / 2 * expected, rtol=1e-10)


F = {  # of the divergences that the docstring names
    "kl": lambda r: -np.log(r),
    "forward_kl": lambda r: r * np.log(r),
    "saturating": lambda r: r * np.log(r) - (1 + r) * np.log((1 + r) / 2),
    "gan": lambda r: (1 + r) * np.log((1 + r) / (2 * r)),
}


def divergence(name, b, c):
    """D_f(q) by quadrature over q."""
    x = b + c * NODES
    k = exact_logit(b, c)
    return np.sum(WEIGHTS * F[name](np.exp(k["k"] + k["l"] * x + k["m"] * x**2)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", F)
def test_the_generator_descends_the_divergence_of_its_h(name):
    theta = {"b": -0.3, "c": 1.1}  # wider than p, so that E_p of r is finite
    slope = jax.jit(jax.grad(mean_loss(affine(h=name).turns[-1])))(params_at(exact_logit(**theta), theta))["generator"]
    e = 1e-5
    for parameter in theta:
        up, down = ({**theta, parameter: theta[parameter] + s} for s in (e, -e))
        expected = (divergence(name, **up) - divergence(name, **down)) / (2 * e)
        np.testing.assert_allclose(slope[parameter], expected, rtol=1e-7)
    if name == "kl":  # of two Gaussians in closed form
        closed = {"b": (theta["b"] - A) / VAR, "c": theta["c"] / VAR - 1 / theta["c"]}
        np.testing.assert_allclose([slope[k] for k in closed], list(closed.values()), rtol=1e-9)


def test_turns_and_what_each_moves():
    method = affine(critics=4)
    assert [turn.moves for turn in method.turns] == ["critic"] * 4 + ["generator"]
    assert method.served == ("generator",)


# --- four modes

MODES = data.modes()
STEPS = 4500


def players(steps, width=16, **options):
    """(method, optimizers)."""
    net = lambda **o: models.of(models.Perceptron(width=width, depth=2, **o))
    method = methods.monoflow(net(), net(shape=()), **options)
    rates = {"critic": 1e-3, "generator": 5e-4}
    spec = {"name": "adam", "b1": 0.5}
    return method, {who: build_optimizer({**spec, "learning_rate": r}, steps)[0] for who, r in rates.items()}


def trainer(workdir=None, steps=STEPS, **settings):
    method, optimizer = players(steps, h="kl", critics=2, penalty=0.1)
    options = {
        "batch_size": 64,
        "log_every": steps,
        "steps": steps,
        "steps_per_dispatch": 100,
        "chunk": 5000,
    } | settings
    return runs.Trainer(method, MODES, optimizer=optimizer, workdir=workdir, sample_every=steps, **options)


@pytest.mark.slow  # trained to the end; its loss, critic and turns are held above, its config below
def test_four_modes_have_their_weights_and_spreads():
    with trainer() as made:
        first = made.state
        run = made.train()
    gone = {leaf.is_deleted() for leaf in jax.tree.leaves((first.params, first.opt_state))}
    assert gone == {bool(parallel.donating(0))}, "donation"
    x = run.draw(20_000, given={})
    angle = np.pi / 2 * np.arange(4)
    centres = 1.4 * np.stack([np.cos(angle), np.sin(angle)], 1)
    near = np.argmin(((x[:, None] - centres) ** 2).sum(-1), 1)
    np.testing.assert_allclose(np.bincount(near, minlength=4) / len(x), [0.1, 0.2, 0.3, 0.4], atol=0.05)
    for component in range(4):
        np.testing.assert_allclose(x[near == component].std(0), 0.35, atol=0.1)
    seeds = [7, 3, 11]  # a sample is a function of its seed
    np.testing.assert_array_equal(run.draw(seeds, given={}), run.draw(seeds[::-1], given={})[::-1])
    np.testing.assert_array_equal(run.draw(seeds, given={}), x[seeds])


@pytest.mark.slow  # of a Trainer; the next test resumes by the command
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path):
    small = dict(steps=40, batch_size=16, steps_per_dispatch=1, log_every=10)
    assert_trainer_resumes(lambda workdir: trainer(workdir, **small), tmp_path)


@pytest.mark.slow
def test_the_config_trains_and_is_resumed_from_the_command_line(tmp_path, capsys):
    results = assert_trains_and_resumes("configs/monoflow.py:tiny", tmp_path, capsys)
    run = runs.open(tmp_path / "whole")
    assert set(run.state.params) == {"generator", "critic"}
    assert set(run.params) == {"generator"}  # averaged and exported: what draws read
    assert np.isfinite(results["metrics"]["sliced W2"]["value"])
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert '"loss/critic"' in lines
    assert '"gap"' in lines


def test_a_players_decay_ends_with_the_run():
    """A cosine over all updates of a player: Adam moves by the rate alone where the gradient stays 1."""
    changes = ["method.critics=3", "learning_rate.schedule=cosine", "train.clip_norm=inf"]
    optimizers = runs.build_run(load("configs/monoflow.py:tiny", changes)).optimizer

    def moved(optimizer, updates):
        def one(state, _):
            update, state = optimizer.update(jnp.ones(()), state, jnp.ones(()))
            return state, -update

        return jax.jit(lambda: jax.lax.scan(one, optimizer.init(jnp.ones(())), None, updates)[1])()

    for player, updates, peak in (("critic", 120, 1e-3), ("generator", 40, 5e-4)):
        expected = peak * np.cos(np.pi / 2 * np.arange(updates) / updates) ** 2
        np.testing.assert_allclose(moved(optimizers[player], updates), expected, rtol=1e-4, atol=1e-8)


# --- devices


KINDS = {"one": {"devices": 1}, "two": {"devices": 2}, "pmap": {"devices": 2, "backend": "pmap"}}


def devices(out):
    """Parameters after five steps on one device, on two, and on two under pmap."""
    found = {}
    for name, options in KINDS.items():
        with trainer(steps=5, steps_per_dispatch=1, batch_size=16, **options) as made:
            made.train()
            for i, leaf in enumerate(jax.tree.leaves((made.state.params, made.state.ema, made.state.opt_state))):
                found[f"{name}/{i}"] = np.asarray(leaf)
    np.savez(out, **found)


@pytest.mark.slow  # `test_players` has two players on devices
def test_one_device_two_devices_and_pmap_agree(tmp_path):
    out = tmp_path / "out.npz"
    env = environment(2)
    child = subprocess.run([sys.executable, __file__, str(out)], env=env, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stdout + child.stderr
    found = dict(np.load(out))
    count = len(found) // 3
    for i in range(count):
        for name in ("two", "pmap"):
            np.testing.assert_allclose(found[f"{name}/{i}"], found[f"one/{i}"], rtol=1e-4, atol=2e-6)


# --- bad input


def test_refuses_bad_input_in_one_line():
    net = lambda *shape: models.of(models.Perceptron(shape or None, width=4))
    cases = [
        (
            dict(h="wgan"),
            r"^Got h = 'wgan' \(a hinge or Wasserstein critic knows .*expected one of arcsinh, forward_kl, gan, kl",
        ),
        (dict(h=lambda d: -d), r"^Got an h with h'\(-20\) = -1, expected one that increases on logits of -20 to 20\.$"),
        (dict(h=lambda d: jnp.maximum(d, 0)), r"^Got an h with h'\(-20\) = 0, expected one that increases"),
        (dict(critics=0), r"^critics is 0, expected an integer >= 1\.$"),
        (dict(latent=0), r"^latent is 0, expected an integer >= 1\.$"),
        (dict(penalty=-1.0), r"^Got penalty = -1\.0, expected a weight, 0 or more\.$"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            methods.monoflow(net(), net(), **options)
    optimizer = dict.fromkeys(("generator", "critic"), optax.adam(1e-3))
    with pytest.raises(ValueError, match=r"^The generator makes examples of shape \(5,\), expected \(2,\)"):
        runs.Trainer(methods.monoflow(net(5), net()), MODES, optimizer=optimizer, batch_size=8)


def test_an_increasing_function_and_a_latent_of_another_size():
    net = lambda *shape: models.of(models.Perceptron(shape, width=4))
    method = methods.monoflow(net(2), net(), h=jnp.arcsinh, latent=3)
    params = jax.jit(method.init)(jax.random.key(0), Example(np.zeros(2, np.float32)))
    assert params["generator"]["dense_0"]["kernel"].shape == (3, 4)
    draw = jax.jit(lambda params, key: method.draw(params, method.plan((2,)), key, {}))
    assert draw(params, jax.random.key(1)).shape == (2,)


if __name__ == "__main__":
    devices(sys.argv[1])
