"""Strict programs are compiled as they are written, whoever asks for them, and recipes then give the same bytes."""

import contextlib
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_parallel as small
from run_command import ROOT, core, environment

from diffjax import alike, parallel, resume, runs, strict
from diffjax.config import ConfigError
from diffjax.runs.build import method_of

SHARDS = 8


def test_a_strict_step_is_compiled_as_it_is_written():
    """What XLA merges, and then rewrites and fuses, hangs on the number of devices."""
    shards = strict.virtual(parallel.mesh(data=1), SHARDS, small.BATCH)

    def compiled(step):
        return parallel.lower(step, 1.0, {"x": np.ones(16)}, shards.mesh).compile().as_text()

    def step(state, batch):
        return state, (jnp.sin(batch["x"] + state), jnp.sin(batch["x"] + state), batch["x"] / jnp.cos(state))

    kinds = (r" sine\(", r"= f32\[16\]\S* divide\(", r"calls=%fused_")  # newer XLA calls one operation "wrapped"
    count = lambda text: [len(re.findall(kind, text)) for kind in kinds]
    (merged, _, fused), exact = count(compiled(step)), count(compiled(shards.mapped(step)))
    assert merged == 1
    assert fused >= 1
    assert exact == [2, 1, 0]


def test_strict_rows_are_compiled_as_they_are_written():
    told, real = [], jax.jit

    def jit(*args, **words):
        told.append(words.get("compiler_options"))
        return real(*args, **words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", jit)
        for exact in (False, True):
            draw = parallel.map_chunks(lambda shared, rows: rows + shared, 2, parallel.mesh(data=1), strict=exact)
            np.testing.assert_array_equal(draw(1, np.ones(3)), 2)
    assert [options for options in told if options] == [
        {"xla_disable_hlo_passes": "cse"},
        {"xla_disable_hlo_passes": "cse,algsimp,fusion"},
    ]


@pytest.mark.parametrize("shards", [0, 8])
def test_a_strict_run_draws_and_maps_strictly(monkeypatch, shards):
    told = []
    monkeypatch.setattr(parallel, "map_chunks", lambda *args, strict=False: told.append(args[3:] or strict))
    built = runs.build_run(runs.load("configs/points.py:tiny", [f"train.shards={shards}"]))
    run = runs.Run(built.method, built.data, built.ema, built.settings, None)
    run.mapped(lambda shared, row: row)
    run.drawer()
    assert told == [bool(shards), (bool(shards),)]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["train.shards=6"], "train.shards is 6, expected 0 or a power of two"),
        (["train.shards=-8"], "train.shards is -8, expected 0 or a power of two"),
        (["train.shards=8", "train.fsdp=4"], "which needs train.fsdp and train.tensor to be 1"),
        (["train.tensor=2"], None),
        (["train.shards=2"], None),
    ],
)
def test_what_a_draw_may_say_of_shards(changes, text):
    config = runs.load("configs/points.py:tiny")
    with pytest.raises(ConfigError, match=text) if text else contextlib.nullcontext():
        resume.redrawn(config, changes, method_of(config)[1])


@pytest.mark.parametrize(("platform", "exact"), [("cpu", "cse,algsimp,fusion"), ("tpu", "cse"), ("gpu", "cse")])
def test_options_hang_on_the_kind_of_device(platform, exact):
    device = type("Device", (), {"platform": platform})()
    mesh = type("Mesh", (), {"devices": np.array([device, device])})()
    assert alike.options(mesh, strict=True) == {"xla_disable_hlo_passes": exact}
    assert alike.options(mesh, strict=False) == ({"xla_disable_hlo_passes": "cse"} if platform == "cpu" else None)


def as_users_compile(*command):
    """What a command prints that runs on one core, of four devices, without the tests' flags.

    By those each operation has other machine code, and memory maps of its own, of which Linux allows 65530.
    """
    flags = "--xla_force_host_platform_device_count=4"
    alone = environment(pinned=True) | {"XLA_FLAGS": flags, "DIFFJAX_CACHE": "off"}
    alone |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    pin = (lambda: os.sched_setaffinity(0, {core()})) if hasattr(os, "sched_setaffinity") else None
    line = [sys.executable, *map(str, command)]
    ran = subprocess.run(line, env=alone, cwd=ROOT, capture_output=True, text=True, preexec_fn=pin)
    assert ran.returncode == 0, (ran.returncode, ran.stdout, ran.stderr)
    return ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["vdm", "pfgm"])
def test_recipes_whose_programs_differ_most_are_the_same_bytes(recipe):
    """A learned clock's quotients and PFGM's draws of gammas: without merging alone, they differ in last bits."""
    found = json.loads(as_users_compile("experiments/benchmarks/same_recipes.py", f"configs/{recipe}.py:tiny"))
    assert (found["steps"], found["samples"]) == ([], [])


@pytest.mark.slow
def test_evaluations_of_one_and_of_four_devices_are_the_same_bytes(tmp_path):
    """What ends a training evaluates parameters that lie on one device, as --mode=eval does."""
    for devices in (1, 4):
        changes = "--config.train.shards=4", f"--config.train.devices={devices}"
        as_users_compile(
            "-m", "diffjax.main", "--config=configs/points.py:tiny", *changes, f"--workdir={tmp_path / str(devices)}"
        )
    one, four = ((tmp_path / devices / "eval.json").read_bytes() for devices in "14")
    assert json.loads(one)["held_out_loss"] > 0
    assert one == four
