"""Training of one's own objects: networks of any library, runs that stop and go on, and what is refused in one line."""

import json
import os
import shutil
import signal
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from own_objects import (
    CENTRES,
    NETWORKS,
    PLAIN,
    STDS,
    OfLinen,
    OfNnx,
    both,
    denoising,
    mixture,
    pulled,
    trainer,
    two_players,
)

from diffjax import data, denoisers, grids, models, parallel, processes, runs, samplers, schedules, training
from diffjax.config import ConfigError
from diffjax.logs import Log
from diffjax.method import Method, Turn, per_example
from diffjax.runs import workdir as files
from diffjax.signals import STOPPING


@pytest.mark.parametrize("library", NETWORKS)
def test_a_network_of_any_library_learns_a_labelled_mixture(library):
    """Means and standard deviations of each class, within their standard errors and what so short a training leaves."""
    rate = optax.cosine_decay_schedule(1e-2, 200)
    options = dict(batch_size=256, steps_per_dispatch=50, log_every=200, ema="0.97", chunk=1000)
    method = denoising(NETWORKS[library](), grid=partial(grids.log_snr, n=20, t_min=1e-3))
    run = trainer(method, mixture(), optax.adam(rate), **options).train(200)
    draw = partial(run.draw, sampler=samplers.multistep.dpmpp_2m)
    for label, (centre, std) in enumerate(zip(CENTRES, STDS)):
        drawn = draw(1000, label=label).astype(np.float64)
        np.testing.assert_allclose(drawn.mean(0), centre, atol=0.1)
        np.testing.assert_allclose(drawn.std(0), std, atol=0.08)
    half = draw(40)  # of seeds alone the labels take turns
    np.testing.assert_array_equal(half[1::2], draw(range(1, 40, 2), label=1))


def test_the_rate_counts_the_time_of_steps_that_are_only_dispatched(tmp_path, monkeypatch):
    """What the log waits for is time of those steps."""
    fetch = runs.Trainer._fetch

    def late(*args, **words):
        time.sleep(0.2)
        return fetch(*args, **words)

    monkeypatch.setattr(runs.Trainer, "_fetch", late)
    pulled(workdir=tmp_path, log_every=5).train(10)
    rates = [line["timing"]["steps_per_s"] for line in files.read_metrics(tmp_path)]
    assert len(rates) == 2
    assert max(rates) <= 5 / 0.2


# Stopped, and made again.


def leaves(run):
    keyed = lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return [np.asarray(keyed(leaf)) for leaf in jax.tree.leaves(run.state)]


def test_stopped_at_half_and_made_again_it_ends_with_the_same_bytes(tmp_path):
    of_network = lambda **options: trainer(denoising(NETWORKS["function"]()), **options)
    with of_network(workdir=tmp_path / "run") as half:
        before = half.train(10)
    assert before.step == 10
    with of_network(workdir=tmp_path / "run") as again:
        assert again.step == 10
        run = again.train(20)
    assert run.step == 20
    whole = of_network().train(20)
    assert len(leaves(whole)) > 20
    for a, b, c in zip(leaves(whole), leaves(run), leaves(of_network().train(20)), strict=True):
        assert a.tobytes() == b.tobytes() == c.tobytes()
    moved = [np.abs(a - b).max() for a, b in zip(leaves(whole), leaves(before)) if a.dtype == np.float32]
    assert max(moved) > 1e-3, "the second half trains"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with ten steps."""
    workdir = tmp_path_factory.mktemp("runs") / "saved"
    with pulled(workdir=workdir, checkpoint_every=10) as one:
        one.train(10)
    return workdir


OTHERS = {
    "rate": (dict(optimizer=optax.sgd(2e-3)), r"objects\.program\.network, loss or optimizer"),
    "optimizer": (dict(optimizer=optax.adam(1e-2)), r"objects\.program\.network, loss or optimizer.*objects\.shapes"),
    "data": (dict(dataset=data.arrays(np.asarray(mixture(200, seed=1).train.x))), r"objects\.data"),
    "batch size": (dict(batch_size=16), r"objects\.settings\.batch_size: 32 -> 16"),
    "seed": (dict(seed=3), r"objects\.settings\.seed: 0 -> 3"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_workdir_refuses_other_objects_and_names_what_differs(other, saved):
    options, differs = OTHERS[other]
    files = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=rf"holds a run of another config \(.*{differs}") as error:
        pulled(workdir=saved, **options)
    assert "\n" not in str(error.value)
    assert files == {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}


@pytest.mark.parametrize("of", ["jax", "diffjax"])
def test_another_version_makes_another_program_which_is_said(of, saved, tmp_path, capsys):
    """Of an older workdir, which does not name the package, too."""
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["objects"]["program"]["network, loss or optimizer"] = "of another"
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="of another ->"):
        pulled(workdir=workdir)
    versions = config["objects"]["program"]
    versions.pop(of) if of == "diffjax" else versions.update({of: "0.0.1"})
    (workdir / "config.json").write_text(json.dumps(config))
    with pulled(workdir=workdir) as one:
        assert one.step == 10
    said = capsys.readouterr().out
    assert "trained by another jax or diffjax before (" in said
    assert "of another ->" in said
    assert f"program.{of}:" in said
    with pytest.raises(ConfigError, match=r"objects\.settings\.seed"):
        pulled(workdir=workdir, seed=3)


def test_settings_that_change_no_step_may_change(saved):
    with pulled(workdir=saved, steps=50, log_every=5, chunk=7, keep=3, samples=40) as same:
        assert same.step == 10


def signalled(monkeypatch, number=signal.SIGTERM, at=20):
    """The process gets a signal when this step is logged."""
    write = Log.write

    def kill(self, step, values):
        write(self, step, values)
        if step == at:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Log, "write", kill)


@pytest.fixture(scope="module")
def unstopped():
    """What a stop and another start shall not change."""
    return pulled().train(30)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_saves_and_raises(tmp_path, monkeypatch, number, unstopped):
    with monkeypatch.context() as patch, pulled(workdir=tmp_path) as one:
        signalled(patch, number)
        with pytest.raises(runs.Stopped) as caught:
            one.train(30)
    assert (caught.value.signal, caught.value.step, caught.value.workdir) == (number, 20, tmp_path)
    assert str(caught.value) == f"stopped at step 20, saved; --workdir={tmp_path} resumes"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal()] == ["20"]
    with pulled(workdir=tmp_path) as again:
        assert again.step == 20
        for a, b in zip(leaves(again.train(30)), leaves(unstopped), strict=True):
            assert a.tobytes() == b.tobytes()


def test_a_signal_that_comes_during_the_last_save_is_served(tmp_path, monkeypatch):
    """By then no step is left that could ask for it."""
    train = runs.Trainer._train
    monkeypatch.setattr(runs.Trainer, "_train", lambda *args: (train(*args), signal.raise_signal(signal.SIGTERM))[0])
    with pulled(workdir=tmp_path) as one, pytest.raises(runs.Stopped, match="stopped at step 10, saved"):
        one.train(10)
    assert (tmp_path / "checkpoints" / "10").is_dir()


def test_without_a_workdir_a_signal_does_not_say_saved(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        signalled(patch)
        one = pulled()
        with pytest.raises(runs.Stopped, match="stopped at step 20, not saved: it has no workdir") as caught:
            one.train(30)
    assert caught.value.workdir is None
    assert "resumes" not in str(caught.value) + capsys.readouterr().out
    assert one.train(30).step == 30, "the object itself goes on"


# What is refused.


class Counting(linen.Module):
    """A network with running statistics."""

    @linen.compact
    def __call__(self, x, c, train=False):
        return linen.BatchNorm(use_running_average=not train)(x)


class ReadsText(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.ones(2))

    def __call__(self, x, c, given):
        return self.scale[...] * x + given["text"].sum()


def bridge():
    schedule = schedules.VP(beta_min=0.1, beta_max=2.1)
    return processes.bridge(schedule), denoisers.DDBM(sigma_0=1.0, sigma_T=1.0, sigma_0T=0.5)


def on_bridge(network):
    process, target = bridge()
    return denoising(network, process, target, grid=partial(grids.pinned, n=4, gap=1e-3, t_min=1e-3))


def texts(n=200):
    return data.arrays(np.zeros((n, 2)), label=np.arange(n) % 2, text=np.zeros((n, 3)))


def own(loss=None, moves=None, params=None, draw=None):
    """A method of two numbers, one part of it wrong."""
    params = {"m": jnp.zeros(2)} if params is None else params
    loss = loss or (lambda params, keys, example, index, size: (jnp.sum((example.x - params["m"]) ** 2), {}))
    draw = draw or (lambda params, request, key, given: params["m"])
    return Method(lambda key, example: params, (Turn(per_example(loss), moves),), draw)


def fails(function):
    return denoising(models.from_function(function, {"a": np.ones(())}))


BAD = {
    "a turn that moves what there is not": (
        lambda: trainer(own(moves="crit", params={"critic": jnp.zeros(2)}), PLAIN, {"crit": optax.sgd(0.1)}),
        "A turn moves 'crit', but init makes parameters of critic",
    ),
    "an integer parameter": (
        lambda: trainer(own(params={"m": jnp.arange(2)}), PLAIN),
        r"\['m'\] is int32, expected fl",
    ),
    "a loss that is no number": (
        lambda: trainer(own(lambda p, keys, example, *_: ((example.x - p["m"]) ** 2, {})), PLAIN),
        r"The loss of a batch of one example has shape \(1, 2\), expected \(1,\)",
    ),
    "a logged vector": (
        lambda: trainer(own(lambda p, keys, example, *_: (jnp.sum(p["m"] ** 2), {"z": example.x})), PLAIN),
        r"aux\['z'\] of a batch of one example has shape \(1, 2\)",
    ),
    "samples of another shape": (
        lambda: trainer(own(draw=lambda params, request, key, given: params["m"][:1]), PLAIN),
        r"draws samples of shape \(1,\), expected \(2,\), that of its data",
    ),
    "a draw that fails": (
        lambda: trainer(own(draw=lambda params, request: params["m"]), PLAIN),
        "The method fails on one example, x of shape .*TypeError",
    ),
    "a function of two": (
        lambda: trainer(fails(lambda params, x: x), PLAIN),
        r"fails on one example, x of shape \(2,\)",
    ),
    "a network that gives a tuple": (lambda: trainer(fails(lambda p, x, c, given: (x, x)), PLAIN), "fails on one exam"),
    "a network for batches": (lambda: trainer(fails(lambda p, x, c, given: x[:, :]), PLAIN), "one example, x of shape"),
    "the maker of a sampler": (
        lambda: samplers.sampling_fn(samplers.ancestral.ddim, grids.uniform(schedules.VP(), 4)),
        r"Got a sampler ddim, expected one of a schedule, such as samplers\.ancestral\.ddim\(VP\(\)\)",
    ),
    "a sampler of a class": (
        lambda: samplers.sampling_fn(samplers.multistep.adams(schedules.VP), grids.uniform(schedules.VP(), 4)),
        "Got a sampler of a class, expected one of a schedule",
    ),
    "the class of a network": (lambda: denoising(OfNnx), "as the network, a class, not an object of it; models.of"),
    "a raw linen module": (lambda: denoising(models.MLP(8)), r"as the network.*models\.of\(module\)"),
    "a raw linen module that says what it reads": (lambda: denoising(OfLinen()), r"as the network.*models\.of\(mod"),
    "a raw nnx module": (lambda: denoising(OfNnx(nnx.Rngs(0))), r"as the network, without init, apply.*models\.of"),
    "the class of a process": (lambda: denoising(process=processes.Gaussian), "as the process, a class, not an"),
    "a schedule as the process": (lambda: denoising(process=schedules.VP()), "as the process, without schedule, noise"),
    "the class of a target": (lambda: denoising(target=denoisers.V), "as the target, a class, not an object of it"),
    "a name as the target": (lambda: denoising(target="V"), r"'V' as the target, without .*denoisers\.V\(\)"),
    "running statistics": (
        lambda: trainer(denoising(models.of(Counting())), PLAIN),
        r"Counting keeps state beside its parameters \(batch_stats\)",
    ),
    "running statistics of nnx": (
        lambda: models.of(nnx.BatchNorm(2, rngs=nnx.Rngs(0))),
        "BatchNorm keeps state beside its parameters",
    ),
    "a bridge without endpoints": (
        lambda: trainer(on_bridge(models.of(models.MLP(8))), PLAIN),
        "reads y of what is given, but arrays gives nothing",
    ),
    "a bridge without endpoints, a function as its network": (
        lambda: trainer(on_bridge(models.from_function(lambda p, x, c, given: p * x, jnp.ones(2))), PLAIN),
        "reads y of what is given, but arrays gives nothing",
    ),
    "a text that nobody reads": (lambda: trainer(dataset=texts()), "arrays gives label, text, but nobody reads text"),
    "labels that nobody reads": (
        lambda: trainer(denoising(models.of(models.MLP(8)))),
        "reads label: .*unread=.'label',",
    ),
    "labels that data does not give": (lambda: trainer(dataset=PLAIN), "reads label of what is given, but arrays gi"),
    "a text that data does not give": (
        lambda: trainer(denoising(models.of(ReadsText()))),
        "reads text of what is given, but arrays gives label",
    ),
    "two players, one optimizer": (
        lambda: trainer(two_players(), PLAIN),
        "one optimizer, expected one for each player: optimizer={'critic': optax.adam",
    ),
    "two players, one of their optimizers": (
        lambda: trainer(two_players(), PLAIN, {"critic": optax.sgd(0.1)}),
        "optimizers for critic, expected one for each player",
    ),
    "one player, a dict": (
        lambda: trainer(optimizer=both()),
        "optimizers for critic, generator, expected one: this method names no players",
    ),
    "the name of an optimizer": (lambda: trainer(optimizer="adam"), "Got str as an optimizer, expected optax's"),
    "arrays as data": (lambda: trainer(dataset=np.zeros((9, 2))), r"Got ndarray as the data.*data\.arrays\(x"),
    "a network as the method": (lambda: trainer(NETWORKS["linen"]()), "Got Network as the method, expected a Method"),
    "an unknown option": (lambda: trainer(batch_sise=3), "Trainer has no option 'batch_sise': nearest is 'batch_size'"),
    "an average without a decay": (lambda: trainer(ema="slow"), "ema is 'slow', expected a decay such as '0.999'"),
    "no examples": (lambda: trainer(batch_size=0), "train.batch_size is 0, expected an integer >= 1"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_objects_are_refused_in_one_line_before_anything_is_compiled(mistake, monkeypatch):
    make, match = BAD[mistake]
    compiled = []
    monkeypatch.setattr(parallel, "compile_step", lambda *args, **options: compiled.append(args))
    monkeypatch.setattr(training, "first_params", lambda *args: compiled.append(args))
    with pytest.raises(ValueError, match=match) as error:
        make()
    assert "\n" not in str(error.value)
    assert not compiled


@pytest.fixture(scope="module")
def untrained():
    return trainer().run()


DRAWS = {
    "a label out of range": (dict(label=99), "label is 99, expected 0 to 1; no number stands"),
    "a misspelt name": (dict(given={"lable": 1}), "Nobody reads 'lable' of what is given: nearest is 'label'"),
    "a misspelt part": (dict(samplr=samplers.heun.edm), "draw knows no 'samplr': nearest is 'sampler'"),
    "labels of another number": (dict(label=[0, 1, 1]), r"given\['label'\] has shape \(3,\), expected \(\) for all or"),
}


@pytest.mark.parametrize("mistake", DRAWS)
def test_bad_words_of_a_draw(mistake, untrained):
    words, match = DRAWS[mistake]
    with pytest.raises(ValueError, match=match) as error:
        untrained.draw(2, **words)
    assert "\n" not in str(error.value)


def test_a_report_needs_a_folder():
    with pytest.raises(ConfigError, match=r"no workdir to write its report into; give report\(out=FOLDER\)"):
        pulled().report()


def test_a_run_of_objects_is_not_opened_by_its_folder(saved):
    with pytest.raises(ConfigError, match=r"made of objects, which no file holds: make its runs\.Trainer again"):
        runs.open(saved)


def test_a_report_of_objects_judges_them(tmp_path, saved):
    """Their own folder, or another; the samples are those of seeds 0, 1, ..."""
    with pulled(workdir=saved, samples=40) as one:
        found = one.report(tmp_path / "out")
    assert (found["step"], found["samples"], found["gate"]) == (10, 40, None)
    assert found["metrics"]["exact W2"]["value"] > found["metrics"]["exact W2"]["floor"]
    assert (tmp_path / "out" / "report.md").read_text().startswith("# run: step 10")
