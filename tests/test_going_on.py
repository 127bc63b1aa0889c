"""A run that goes on with another config: what may change, what rate it then has, and how a new run begins from it."""

import functools
import json
import shlex
import shutil

import jax
import numpy as np
import pytest
from own_objects import pulled
from test_going_on_plans import CONFIG, TINY, cosine, recipe
from unjudged import without_samples

from diffjax import config as C
from diffjax import main as command_line
from diffjax import runs
from diffjax.commands import train
from diffjax.config import ConfigError
from diffjax.runs import workdir as files
from diffjax.runs.run import saved_state


def command(workdir, *overrides, config=CONFIG):
    """Exit status of training in a workdir; of its own config where `config` is None."""
    words = TINY if config else ()
    source = [f"--config={config}"] if config else []
    return command_line.main([*source, f"--workdir={workdir}", *(f"--config.{o}" for o in (*words, *overrides))])


@functools.cache
def built():
    """Of one shape with every run here."""
    return runs.build_run(recipe())


def state(workdir):
    return saved_state(built(), workdir).state


def same(a, b):
    bits = lambda leaf: jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(bits(x), bits(y)), a, b)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        without_samples(patch)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick):
    """A run of 20 steps, at a constant rate, whose evaluation draws nothing."""
    workdir = tmp_path_factory.mktemp("going_on") / "run"
    assert command(workdir) == 0
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def history(workdir):
    return json.loads((workdir / "history.json").read_text())["changes"]


def logged(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "timing"} for line in lines]


def test_more_steps_at_a_constant_rate_are_those_of_a_run_never_stopped(run, tmp_path):
    """By the workdir alone: no override is dropped."""
    assert command(run, "train.steps=40", config=None) == 0
    assert command(tmp_path / "whole", "train.steps=40") == 0
    same(state(run), state(tmp_path / "whole"))
    assert logged(run) == logged(tmp_path / "whole")
    assert [(c["step"], c["field"], c["old"], c["new"], c["kind"]) for c in history(run)] == [
        (20, "train.steps", 20, 40, "extending")
    ]


def test_another_rate_holds_from_here_on_with_everything_kept(run):
    before = state(run)
    assert command(run, "train.steps=30", "learning_rate.peak=1e-9", "train.log_every=5") == 0
    after = state(run)
    assert int(after.step) == 30
    assert int(jax.tree.leaves(after.opt_state)[0]) == int(jax.tree.leaves(before.opt_state)[0]) + 10
    far = max(np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (after.params, before.params)), strict=True))
    assert 0 < far < 1e-7  # ten steps of 1e-9
    lines = logged(run)
    assert [line["step"] for line in lines] == [10, 20, 25, 30]
    assert [line["learning_rate"] for line in lines[-2:]] == pytest.approx([1e-9, 1e-9])
    assert {c["field"]: c["kind"] for c in history(run)} == {
        "train.steps": "extending",
        "learning_rate.peak": "extending",
        "train.log_every": "free",
    }


def test_what_is_free_changes_no_step(run):
    before = state(run)
    free = ["eval.samples=30", "checkpoint.keep=3", "train.sample_every=10", "sampler.name=heun.edm", "grid.n=5"]
    assert command(run, *free, config=None) == 0
    same(state(run), before)
    assert {c["kind"] for c in history(run)} == {"free"}
    assert files.read_config(run).sampler.name == "heun.edm"
    assert len((run / "history.json").read_text().splitlines()) == 2 + len(history(run))  # a line each


def test_a_fixed_field_is_refused_with_the_command_that_begins_from_this_run(run, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert command(run, "train.batch_size=16", "train.steps=30", config=None) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "train.batch_size: 8 -> 16" in said
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    typed = shlex.split(said[said.index("python -m diffjax.main") :])[3:]
    new = tmp_path / "new"
    assert command_line.main([word.replace("NEW", str(new)) for word in typed]) == 0
    assert "begins with the state of" in capsys.readouterr().out
    assert [line["step"] for line in logged(new)] == [30]
    old, grown = state(run), state(new)
    assert int(grown.step) == 30
    assert int(grown.ema.count) == int(old.ema.count) + 10
    assert (new / "checkpoints" / "20").is_dir()  # saved at once
    assert files.read_config(new).train.batch_size == 16


def test_a_state_that_does_not_fit_is_one_line(run, tmp_path, capsys):
    carried = (f"train.start={run}", "train.carry=state")
    assert command(tmp_path / "new", "model.width=16", *carried) == 2
    assert "does not fit this model and optimizer" in capsys.readouterr().err
    assert command(tmp_path / "other", "train.carry=state") == 2
    assert "there is no run to begin from" in capsys.readouterr().err
    assert command(tmp_path / "third", f"train.start={run}", "train.carry=stat") == 2
    assert "nearest is 'state'" in capsys.readouterr().err


def test_a_rule_for_a_run_that_does_not_go_on_is_refused(tmp_path, capsys):
    assert command(tmp_path / "new", "learning_rate.extend=hold") == 2
    assert "is for a run that goes on" in capsys.readouterr().err


COSINE = ("learning_rate.schedule=cosine", "learning_rate.peak=1e-3")


@pytest.fixture(scope="module")
def decayed(tmp_path_factory, quick):
    """A run of 20 steps whose rate is 0 by now."""
    workdir = tmp_path_factory.mktemp("going_on") / "decayed"
    assert command(workdir, *COSINE) == 0
    return workdir


def test_a_new_run_has_none_of_the_rates_of_the_one_whose_config_it_takes(decayed, tmp_path):
    """Its own peak and steps hold, from its first step on."""
    shutil.copytree(decayed, tmp_path / "old")
    assert command(tmp_path / "old", "train.steps=40", "learning_rate.extend=stretch", config=None) == 0
    assert len(files.read_config(tmp_path / "old").learning_rate.plans) == 2
    changed = ("learning_rate.peak=1e-4", "train.steps=20")
    words = [f"--config={tmp_path / 'old'}/config.json", f"--workdir={tmp_path / 'new'}"]
    assert command_line.main([*words, *(f"--config.{word}" for word in changed)]) == 0
    found = [line["learning_rate"] for line in logged(tmp_path / "new")]
    np.testing.assert_allclose(found, [cosine(n, 1e-4, 20) for n in (9, 19)], rtol=1e-4)


CARRIED = (*COSINE, "train.steps=40", "seed=1", "train.carry=state")  # another seed: what a run does not go on with


def test_a_carried_state_needs_a_rule_for_its_rate(decayed, tmp_path, capsys):
    assert command(tmp_path / "new", *CARRIED, f"train.start={decayed}") == 2
    assert "learning_rate.extend=stretch" in capsys.readouterr().err
    assert not (tmp_path / "new" / "config.json").exists()  # so that the same command with a rule is a new run


@pytest.mark.parametrize(
    ("rule", "then"),
    [
        ("stretch", lambda n: cosine(n, 1e-3, 40)),
        ("restart", lambda n: cosine(n - 20, 1e-3, 20)),
        ("hold", lambda n: 0.0),
    ],
)
def test_rates_of_a_carried_state_go_on_by_the_same_rules(rule, then, decayed, tmp_path, capsys):
    for _ in range(2):  # the same command once more changes nothing
        assert command(tmp_path / "new", *CARRIED, f"train.start={decayed}", f"learning_rate.extend={rule}") == 0
    found = [line["learning_rate"] for line in logged(tmp_path / "new")]
    np.testing.assert_allclose(found, [then(n) for n in (29, 39)], rtol=1e-4)
    assert ("the learning rate is 0 in all of the 20 steps to come" in capsys.readouterr().out) == (rule == "hold")


def test_a_carried_state_without_a_step_left_is_refused(run, tmp_path, capsys):
    assert command(run, "train.batch_size=16", config=None) == 2
    assert "--config.train.steps=MORE" in capsys.readouterr().err
    assert command(tmp_path / "new", "train.batch_size=16", f"train.start={run}", "train.carry=state") == 2
    assert "train.steps is 20, but the state of" in capsys.readouterr().err


def test_a_run_of_objects_is_no_run_of_a_command(tmp_path, capsys):
    with pulled(workdir=tmp_path / "run") as one:
        one.train(5)
    for more in ((), ("train.steps=10",)):
        assert command(tmp_path / "run", *more, config=None) == 2
        assert "was made of objects" in capsys.readouterr().err


def test_what_is_free_of_a_run_of_objects(tmp_path, capsys):
    """Of a fingerprint that does not name them, too."""
    free = dict(nonfinite="skip", log_every=7, time_bins=5, accumulate=2, keep=5)
    with pulled(workdir=tmp_path / "run", log_every=5, checkpoint_every=5) as one:
        one.train(10)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    old = tmp_path / "old"
    shutil.copytree(tmp_path / "run", old)
    for name in ("accumulate", "nonfinite", "log_every", "time_bins"):
        del saved["objects"]["settings"][name]
    (old / "config.json").write_text(json.dumps(saved))
    for workdir in (tmp_path / "run", old):
        with pulled(workdir=workdir, **free) as again:
            assert again.train(14).step == 14
    assert "lost" not in capsys.readouterr().out
    assert {change["kind"] for change in history(tmp_path / "run")} == {"free"}
    with pytest.raises(ConfigError, match=r"batch_size: 32 -> 16\).*Trainer\(\.\.\., carry=") as raised:
        pulled(workdir=old, batch_size=16)
    assert "--config" not in str(raised.value)


def test_a_run_whose_checkpoints_are_gone_says_that_it_begins_again(run, capsys):
    shutil.rmtree(run / "checkpoints")
    assert command(run, config=None) == 0
    assert "no checkpoint is left: it begins again at step 0" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"", b'{"seed": 0, ', b"[1]", b"\xff"])
def test_a_config_that_is_torn_or_lost_is_restored_from_the_newest_checkpoint(run, content, capsys):
    whole = files.read_config(run)
    if content is None:
        (run / "config.json").unlink()
    else:
        (run / "config.json").write_bytes(content)
    assert files.read_config(run) == whole
    assert "is restored from the checkpoint of step 20" in capsys.readouterr().out
    held, _ = files.prepare(run, whole)
    held.release()
    assert files.read_config(run) == whole
    assert "restored" in capsys.readouterr().out  # by prepare; written by it, it is whole again
    assert files.read_config(run) == whole
    assert capsys.readouterr().out == ""


def test_a_folder_in_the_place_of_the_config_is_one_line(run, capsys):
    (run / "config.json").unlink()
    (run / "config.json").mkdir()
    assert command(run) == 2
    assert "config.json is a folder; move it away" in capsys.readouterr().err


def test_a_workdir_has_a_format_and_one_that_is_newer_is_refused(run):
    saved = json.loads((run / "config.json").read_text())
    assert saved["format"] == files.FORMAT
    for number in (files.FORMAT + 1, "1", None):
        (run / "config.json").write_text(json.dumps({**saved, "format": number}))
        with pytest.raises(ConfigError, match=r"has format .*, expected at most"):
            files.read_config(run)
    del saved["format"]  # as at first
    (run / "config.json").write_text(json.dumps(saved))
    assert runs.open(run).step == 20


def test_a_run_does_not_go_on_with_other_data(tmp_path, capsys):
    """Under one path, or under another; the same data under another path is welcome."""
    rng = np.random.default_rng(0)
    for name, x in (("a", rng.normal(size=(60, 2))), ("b", rng.normal(size=(60, 2)))):
        np.savez(tmp_path / f"{name}.npz", x=x.astype(np.float32))
    of = lambda name: ("data.name=npz", "data.label=None", f"data.path={tmp_path / name}.npz")
    words = [word for word in TINY if not word.startswith("data.")]
    start = lambda *more: train.run(runs.load(CONFIG, [*more, *words]), tmp_path / "run")
    start(*of("a"))
    (tmp_path / "a.npz").rename(tmp_path / "moved.npz")
    start(*of("moved"))
    (tmp_path / "b.npz").rename(tmp_path / "moved.npz")
    with pytest.raises(ConfigError, match="was trained on other data"):
        start(*of("moved"))


def test_train_gives_the_run_of_a_config_with_its_changes(run):
    """In Python too: a Trainer of a config without a rule is refused, as the command is."""
    longer = C.overridden(files.read_config(run).copy_and_resolve_references(), ["train.steps=30"])
    changed = C.overridden(longer.copy_and_resolve_references(), ["learning_rate.schedule=cosine"])
    with pytest.raises(ConfigError, match=r"learning_rate\.extend"):
        runs.Trainer(**runs.build_run(changed)._asdict(), workdir=run)
    with runs.Trainer(**runs.build_run(longer)._asdict(), workdir=run) as trainer:
        assert trainer.train().step == 30
