"""Members of one's own, by path in a config; and that a file's word is never enough to run them."""

import contextlib
import inspect
import json
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from diffjax import data, denoisers, ema, grids, losses, methods, models, processes, runs, samplers, schedules, specs
from diffjax.config import ConfigError, build, check_trusted, from_json, spec
from diffjax.data import augment
from diffjax.denoisers import guidance, variance
from diffjax.main import main
from diffjax.method import Example
from diffjax.optimizers import build_optimizer

CODE = """
import flax.linen as nn
import jax.numpy as jnp
import optax
from diffjax import schedules

class Mine(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x, c, given=None, train=False):
        hidden = nn.Dense(self.width)(jnp.concatenate([x, jnp.tanh(c / 8)[None]]))
        return nn.Dense(x.shape[-1])(nn.silu(hidden))

def steep(beta_max=30.0):
    return schedules.VP(beta_max=beta_max)

def descent(learning_rate, momentum=0.5):
    return optax.sgd(learning_rate, momentum)

def light(x):
    return jnp.mean(x) + x[0]

class Holder:
    inner = Mine

number = 7
"""
SMALL = ("data.name=moons", "data.n=200", "learning_rate.warmup_steps=0", "eval.samples=20")
SMALL += ("train.steps=4", "train.log_every=2", "train.sample_every=4")
MINE = "model.name=own_pkg.nets:Mine"


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """A package of somebody's, on the path; nothing is trusted, and nothing of it is imported yet."""
    folder = tmp_path / "own_pkg"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text(CODE)
    (folder / "broken.py").write_text("raise OSError('no such board')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(specs, "_TRUSTED", set())
    monkeypatch.chdir(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("own_pkg")]:
        del sys.modules[name]


def test_a_spec_may_name_a_class_or_a_function_of_ones_own():
    built = build(models, spec("own_pkg.nets:Mine", width=5))
    assert isinstance(built, nn.Module)
    assert built.width == 5
    assert build(schedules, {"name": "own_pkg.nets:steep"}).beta_max == 30.0
    assert build(models, spec("own_pkg.nets:Holder.inner")).width == 8


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"name": "own_pkg.nets:Mime"}, "own_pkg.nets has no 'Mime': nearest is 'Mine'"),
        ({"name": "own_pkg.nets:Mine", "widht": 5}, "own_pkg.nets.Mine has no option 'widht': nearest is 'width'"),
        ({"name": "own_pkg.nets:number"}, "own_pkg.nets:number is of type int, expected a class or a function"),
        ({"name": "own_pkg.nest:Mine"}, "own_pkg.nest:Mine cannot be imported: ModuleNotFoundError: No module named"),
        ({"name": "own_pkg.broken:Mine"}, "own_pkg.broken:Mine cannot be imported: OSError: no such board"),
        ({"name": ":Mine"}, "Got ':Mine' as a name, expected package.module:Member"),
        ({"name": "own_pkg.nets:"}, "expected package.module:Member"),
        ({"name": "own_pkg/nets.py:Mine"}, "expected package.module:Member"),
        ({"name": "own_pkg.nets:Mine:x"}, "expected package.module:Member"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(made, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")) as error:
        build(models, made)
    assert "\n" not in str(error.value)


def test_an_optimizer_may_be_ones_own():
    mine, _ = build_optimizer({"name": "own_pkg.nets:descent", "learning_rate": 0.1, "momentum": 0.25}, 10)
    theirs = optax.sgd(0.1, 0.25)
    params = {"w": 1.0}
    state, other = mine.init(params), theirs.init(params)
    for _ in range(3):
        (a, state), (b, other) = mine.update(params, state), theirs.update(params, other)
        assert float(a["w"]) == pytest.approx(float(b["w"]))
    with pytest.raises(ValueError, match="takes no 'nesterof'"):
        build_optimizer({"name": "own_pkg.nets:descent", "learning_rate": 0.1, "nesterof": 1}, 10)


def test_a_reward_of_ones_own_is_named_by_its_path():
    changes = [*SMALL, MINE, "prepare.name=reward", "prepare.of=own_pkg.nets:light", "prepare.beta=0.5"]
    method = runs.build_run(runs.load("configs/vpsde.py:tiny", changes)).method
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    batch = method.prepare.apply(method.prepare.init(), jax.random.key(0), Example(x, {}))
    want = np.exp((np.float64(x).mean(1) + x[:, 0]) / 0.5)
    np.testing.assert_allclose(batch.chosen["weight"], want / want.mean(), rtol=1e-5)
    for of, match in (
        ("own_pkg.nets:ligth", "own_pkg.nets has no 'ligth': nearest is 'light'"),
        ("own_pkg.nets:number", "own_pkg.nets:number is of type int, expected a class or a function"),
        ("light", "There is no reward 'light': .*in a config its path, package.module:function"),
    ):
        with pytest.raises(ConfigError, match=match):
            runs.build_run(
                runs.load("configs/vpsde.py:tiny", [*SMALL, MINE, "prepare.name=reward", f"prepare.of={of}"])
            )


def test_what_is_no_network_is_refused():
    with pytest.raises(ConfigError, match="Got VP as a network"):
        runs.build_run(runs.load("configs/vpsde.py:tiny", [*SMALL, "model.name=own_pkg.nets:steep"]))


def test_a_run_of_ones_own_network_is_opened_by_who_trusts_it(capsys):
    """By command: trained, since it was typed; afterwards the workdir's word for it is not enough."""
    overrides = [f"--config.{text}" for text in (*SMALL, MINE, "model.width=4")]
    assert main(["--config=configs/vpsde.py:tiny", *overrides, "--workdir=run"]) == 0
    specs._TRUSTED.clear()
    del sys.modules["own_pkg.nets"]
    capsys.readouterr()
    draw = ["--mode=sample", "--workdir=run", "--seeds=0-1"]
    assert main(draw) == 2
    line = capsys.readouterr().err
    assert "run/config.json names code to be imported and called, own_pkg.nets:Mine" in line
    assert "--trust=own_pkg.nets" in line
    assert "own_pkg.nets" not in sys.modules
    with pytest.raises(ConfigError, match=r"diffjax\.trust\('own_pkg\.nets'\)"):
        runs.open("run")
    assert main([*draw, "--trust=other,own_pkg.nets"]) == 0
    run = runs.open("run")
    assert run.params["Dense_0"]["kernel"].shape == (3, 4)
    run.export("mine.safetensors")
    assert runs.open("mine.safetensors").params["Dense_0"]["kernel"].shape == (3, 4)
    specs._TRUSTED.clear()
    for text, trusted in (("own_pkg.net", False), ("own", False), ("own_pkg", True)):  # a package and what is in it
        specs._TRUSTED.clear()
        specs.trust(text)
        with contextlib.nullcontext() if trusted else pytest.raises(ConfigError, match="names code"):
            runs.open("mine.safetensors")
    for wrong in ("own_pkg/nets.py", Path("nets.py"), "nets.py", "", 3, "a:b:c", ["own_pkg", "-"]):
        with pytest.raises(
            ConfigError, match=r"to trust, expected (package|the name that code is imported by: 'nets')"
        ):
            specs.trust(wrong)
    specs._TRUSTED.clear()
    with pytest.raises(ConfigError, match=r"The config in mine\.safetensors names code .* own_pkg\.nets:Mine"):
        runs.open("mine.safetensors")


def test_code_that_a_file_names_is_not_run(monkeypatch):
    """Whatever group names it, and whatever else of that module is trusted."""
    monkeypatch.setattr("os.system", lambda command: pytest.fail("it was run"))
    for hostile in (
        {"name": "r", "model": {"name": "os:system", "command": "x"}},
        {"name": "r", "optimizer": {"generator": {"name": "os:system"}, "critic": {"name": "adam"}}},
        {"name": "r", "method": {"name": "os:system", "network": {"name": "MLP"}}},
        {"name": "r", "prepare": {"name": "reward", "of": "os:system"}},
    ):
        specs.trust(["os:getcwd", "own_pkg.nets"])
        with pytest.raises(ConfigError, match="names code to be imported and called, os:system"):
            check_trusted(from_json(json.dumps(hostile)), "W/config.json")


def test_typing_a_name_is_trust_in_it_and_in_nothing_else():
    config = {"model": {"name": "own_pkg.nets:Mine"}}
    runs.load("configs/vpsde.py:tiny", [MINE])
    check_trusted(config, "a file")
    with pytest.raises(ConfigError, match=r"own_pkg\.nets:steep"):
        check_trusted({"schedule": {"name": "own_pkg.nets:steep"}}, "a file")


# What a config may name is what its errors list: members that can be made, no helpers.
SPACES = {
    **dict.fromkeys((losses,), 7),
    **dict.fromkeys((losses.times, losses.prepare, processes, samplers, grids), 1),
    **dict.fromkeys((models, schedules, denoisers, losses.weights, augment, ema, data), 0),
    variance: 4,
    guidance: 3,
}


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.__name__)
def test_alternatives_are_members_and_no_helpers(space):
    for path in specs._paths(space):
        _, member, _, _ = specs.member(space, {"name": path})
        parameters = inspect.signature(member).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        assert len(positional) >= SPACES[space]  # it can be called as a config's member is
        assert member.__doc__


def test_alternatives_of_the_spaces_with_helpers_are_these():
    assert set(specs._paths(losses)) == {
        *("energy", "hybrid", "npr", "regression", "restoration", "sn", "variational"),
        *(f"categorical.{name}" for name in ("cross_entropy", "d3pm", "flow_matching", "score_entropy")),
    }
    assert set(specs._paths(models)) == {
        *(
            "Decoder",
            "DiT",
            "Encoder",
            "GridDecoder",
            "GridEncoder",
            "JiT",
            "MLP",
            "Maps",
            "Perceptron",
            "PublishedUNet",
            "TokenMLP",
            "TokenUNet",
            "Transformer",
            "UNet",
        ),
        *("scalar.critic", "scalar.energy"),
        *(f"side.{name}" for name in ("adapter", "control", "ladder", "lora", "prefix")),
    }
    assert {"Arrays", "Batches", "batch_at"}.isdisjoint(specs._paths(data))
    assert "generators.monoflow" in specs._paths(methods)
    assert "generators.MonoFlow" not in specs._paths(methods)
    fields = {name for name in specs._paths(methods) if name.startswith("matching.")}
    assert fields == {f"matching.{name}" for name in ("classifier", "energies", "kernel", "scores")}
