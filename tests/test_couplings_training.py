"""Couplings in training: prepared noise, runs along a path, pairs of a file, and what is refused."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from run_command import environment
from test_couplings import KEYS, pairs
from unjudged import without_samples

from diffjax import config as C
from diffjax import couplings, data, losses, runs
from diffjax.calculus import FlowOnly
from diffjax.commands import sample, train
from diffjax.method import Example
from diffjax.processes import Gaussian, categorical, cold, path, poisson
from diffjax.processes.bridge import Bridge, BridgeSchedule
from diffjax.runs import build_run
from diffjax.schedules import VE, VP, Rectified

PROCESS = path.rectified()


@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
def test_the_prepared_noise_is_normal_and_nearer_to_the_data(method):
    prepare = losses.prepare.optimal_transport(PROCESS, method)
    x, key = pairs(256)[0] + np.float32(1.5), jax.random.key(3)
    batch = jax.jit(prepare.apply)((), key, Example(x, {"label": np.full(256, 3)}))
    noise = lambda i: jax.random.normal(jax.random.fold_in(key, i), (2,))
    drawn = np.asarray(jax.jit(jax.vmap(noise))(np.arange(256)))
    z = np.asarray(batch.chosen["z"])
    gaps = np.abs(z[:, None] - drawn).max(-1)  # rounding differs inside a larger program
    assert gaps.min(1).max() < 1e-6
    if method == "exact":
        assert len(set(gaps.argmin(1))) == 256
    assert couplings.transport_cost(x, z) < 0.7 * couplings.transport_cost(x, drawn)
    np.testing.assert_allclose(z.mean(0), 0, atol=0.2)
    np.testing.assert_array_equal(batch.given["label"], np.full(256, 3))
    assert prepare.update((), None, {}) == ()


DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from diffjax import losses, parallel, training, ema, optimizers
import optax
from diffjax.method import Example
from diffjax.processes import path
found = {}
for method in ("exact", "sinkhorn"):
    prepare = losses.prepare.optimal_transport(path.rectified(), method)
    def loss(params, keys, example, index, size):
        z = example.chosen["z"]
        return ((params * z - example.x) ** 2).mean(), {"z0": z[0]}

    method_of = training.loss_method(loss, prepare)
    for backend, n in (("jit", 1), ("jit", 4), ("pmap", 4))[: 3 if method == "exact" else 2]:
        mesh = parallel.mesh(jax.devices()[:n])
        axis = parallel.AXIS if backend == "pmap" else None
        step = training.make_step(method_of, optax.sgd(0.1), ema.warm_up([]), axis_name=axis)
        run = parallel.compile_step(step, backend, mesh)
        state = training.init_state(jnp.ones(()), optax.sgd(0.1), ema.warm_up([]), jax.random.key(0), method_of)
        state = parallel.replicate(mesh, state)
        x = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
        for _ in range(3):
            state, metrics = run(state, parallel.shard_batch(mesh, Example(x)))
            jax.block_until_ready(state)
        found[method, backend, n] = float(jax.device_get(state.params))
    values = [v for key, v in found.items() if key[0] == method]
    assert np.ptp(values) < 1e-6, found
print("agreed", found)
"""


@pytest.mark.slow
def test_the_pairs_do_not_depend_on_the_number_of_devices():
    env = environment(4)
    done = subprocess.run([sys.executable, "-c", DEVICES], env=env, capture_output=True, text=True, timeout=300)
    assert "agreed" in done.stdout, done.stderr


OTHER_NOISE = {
    "Poisson": poisson(VE(), 64.0),
    "Cold": cold.blur(std=0.1),
    "Masking": cold.masked(),
    "Mixed": cold.mix(images=np.zeros((3, 2))),
    "Bridge": Bridge(BridgeSchedule(VP()), law=jax.random.laplace),
    "Path": path.along(lambda x0, z, t: (1 - t) * x0 + t * z, law=jax.random.laplace),
}


@pytest.mark.parametrize("name", OTHER_NOISE)
def test_transport_refuses_a_process_of_another_noise(name):
    """Samples start from that noise: pairs with a normal one would train on what no sample meets."""
    with pytest.raises(ValueError, match=rf"the noise of {name} has another law.*process\.name=path\.rectified"):
        losses.prepare.optimal_transport(OTHER_NOISE[name])


@pytest.mark.parametrize("config", ["cold", "pfgm"])
def test_a_run_of_another_noise_refuses_transport_before_it_reads_data(config):
    with pytest.raises(C.ConfigError, match="standard normal noise"):
        build_run(runs.load(f"configs/{config}.py:tiny", ["prepare.name=optimal_transport"]), pytest.fail)


def test_transport_takes_the_process_and_no_schedule():
    with pytest.raises(ValueError, match="Got FlowOnly, expected the process"):
        losses.prepare.optimal_transport(path.rectified().schedule)


@pytest.mark.parametrize(
    ("process", "x0", "match"),
    [
        (categorical.masked(Rectified(), 3), np.zeros((64, 2), np.int32), "of Replacement is Replaced"),
        (cold.masked(), np.zeros((64, 2), np.float32), "of Masking is Veil"),
    ],
)
def test_noise_without_a_distance_is_not_paired(process, x0, match):
    for couple in (couplings.exact(process), couplings.entropic(process)):
        with pytest.raises(ValueError, match=match):
            couple(KEYS, x0)


def test_transport_wants_a_process_that_knows_its_flow_alone():
    with pytest.raises(ValueError, match=r"process\.name=path\.rectified"):
        losses.prepare.optimal_transport(Gaussian(Rectified()))
    with pytest.raises(ValueError, match="there are exact and sinkhorn"):
        losses.prepare.optimal_transport(PROCESS, "greedy")


TINY = "configs/rectified.py:tiny"
MOONS = ["data.name=moons", "model.name=MLP", "model.width=16", "model.depth=1"]
SHORT = ["train.steps=10", "train.sample_every=10", "eval.samples=100", "checkpoint.every=5"]


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory):
    """A run along quarter circles with transport."""
    workdir = tmp_path_factory.mktemp("runs") / "flow"
    return workdir, train.run(runs.load(TINY, [*MOONS, *SHORT, "data.held_out=100"]), workdir)


@pytest.mark.slow
def test_a_run_along_a_path_is_sampled_and_judged(flow_run):
    workdir, results = flow_run
    assert results["status"] == "done"
    assert np.isfinite(sample.run(workdir, [0, 1])).all()
    # F = 0 at the start: its loss is the mean square of the velocity, that of a quarter circle
    assert results["held_out_loss"] < (np.pi / 2) ** 2 * 1.2


@pytest.mark.slow
def test_stochastic_samplers_refuse_the_run(flow_run):
    with pytest.raises(C.ConfigError, match="the process is not Gaussian"):
        sample.run(flow_run[0], [0], sampler="ancestral.ddpm")


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    """x = 2 + z / 2: one line of Euler's method from noise to data."""
    z = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    file = tmp_path_factory.mktemp("pairs") / "pairs.npz"
    np.savez(file, x=2 + 0.5 * z, z=z)
    return file


def test_pairs_stay_together(pairs_file):
    dataset = data.npz(str(pairs_file), label=None, z="z")
    for part in (dataset.train, dataset.held_out):
        batch = part.gather(np.asarray([3, 1]))
        np.testing.assert_allclose(batch.x, 2 + 0.5 * batch.chosen["z"], rtol=1e-6)
    drawn = data.batch_at(dataset.train, 8, seed=1, step=5)
    np.testing.assert_allclose(drawn.x, 2 + 0.5 * drawn.chosen["z"], rtol=1e-6)
    assert dataset.fingerprint != data.npz(str(pairs_file), label=None).fingerprint


def test_the_reflow_config_builds(pairs_file):
    config = runs.load("configs/rectified.py:reflow", [*MOONS[1:], f"data.path={pairs_file}"])
    assert isinstance(build_run(config).method.parts.schedule, FlowOnly)


@pytest.mark.slow
def test_pairs_are_trained_on(pairs_file, tmp_path, monkeypatch):
    without_samples(monkeypatch)  # its samples are looked at below
    fast = ["learning_rate.peak=0.02", "learning_rate.warmup_steps=0", "train.batch_size=64", "ema.decays=(0.9,)"]
    fast += ["train.steps_per_dispatch=100", "train.log_every=100", "sample.ema=0.9"]
    short = ["train.steps=200", "train.sample_every=200", "eval.samples=64", "checkpoint.every=200"]
    config = runs.load("configs/rectified.py:distill", [*MOONS[1:], *short, *fast, f"data.path={pairs_file}"])
    train.run(config, tmp_path / "run")
    shape = build_run(config).data.shape
    z = np.asarray(jax.jit(jax.vmap(lambda seed: sample_noise(shape, seed)))(np.arange(8)))
    got = sample.run(tmp_path / "run", range(8))
    assert np.abs(got - (2 + 0.5 * z)).mean() < 0.15, "each seed's noise flows to its own x"


def sample_noise(shape, seed):
    return jax.random.normal(jax.random.split(jax.random.key(seed))[0], shape)


PAIRS = ["data.name=npz", "data.label=None", "data.z=z", *MOONS[1:]]
COLD = ["process.name=cold.blur", "target.name=X0", "sampler.name=unified"]


@pytest.mark.parametrize(
    ("name", "overrides", "match"),
    [
        (TINY, ["process.name=Gaussian"], r"set process\.name=path\.rectified"),
        (TINY, ["schedule.name=VP"], "the schedule is VP; give Rectified"),
        (TINY, ["prepare.name=learned"], "the schedule is Warped; give Rectified"),
        (TINY, ["target.name=Score"], "predict X0, Eps, V or EDM"),
        (TINY, ["sampler.name=ancestral.ddpm"], "the process is not Gaussian"),
        (TINY, ["process.name=path.straight"], "it has rectified, variance_preserving"),
        ("pairs", [], r"prepare\.optimal_transport would part each x from its z"),
        ("pairs", ["prepare.name=nothing", "process.name=Gaussian"], "only the flow is right"),
        ("pairs", ["prepare.name=nothing", *COLD], "only the flow is right"),
        ("pairs", ["prepare.name=nothing", "data.z=noise"], "has no array 'noise'"),
        ("pairs", ["prepare.name=nothing", "data.flip=True"], "flip"),
    ],
)
def test_mistakes_in_configs(name, overrides, match, pairs_file):
    extra = MOONS if name == TINY else [*PAIRS, f"data.path={pairs_file}"]
    with pytest.raises(C.ConfigError, match=match):
        build_run(runs.load(TINY, [*extra, *overrides]))


def test_pairs_are_not_augmented(tmp_path):
    z = np.random.default_rng(0).normal(size=(40, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "pairs.npz", x=z / 2, z=z)
    options = [*PAIRS[:3], f"data.path={tmp_path}/pairs.npz", "prepare.name=nothing"]
    with pytest.raises(C.ConfigError, match="flip mirrors x alone"):
        build_run(runs.load(TINY, [*options, "data.flip=True"]))
    with pytest.raises(C.ConfigError, match="would part each x from its z"):
        build_run(runs.load(TINY, [*options, "augment.name=geometric", "model.augment=9"]))


@pytest.mark.parametrize(("z", "match"), [(np.zeros((4, 3)), "expected finite"), (np.full((4, 2), np.nan), "finite")])
def test_noise_of_another_shape(z, match, tmp_path):
    np.savez(tmp_path / "bad.npz", x=np.zeros((4, 2)), z=z)
    with pytest.raises(ValueError, match=match):
        data.npz(str(tmp_path / "bad.npz"), label=None, z="z")


def test_named_held_out_examples_have_no_noise(pairs_file):
    with pytest.raises(ValueError, match="of pairs a share is held out"):
        data.npz(str(pairs_file), label=None, z="z", held_out="x")


def test_path_processes_couple_too():
    x0, z = jax.jit(couplings.exact(path.rectified()))(KEYS, np.zeros((64, 2), np.float32))
    assert z.shape == x0.shape
