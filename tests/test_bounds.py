"""Bounds before allocation: what no memory holds is refused in one line, with its bytes, before any is taken."""

import os
import resource
import tracemalloc
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import bounds, grids, host, models, runs, schedules
from diffjax.config import ConfigError

GIB = 2**30


def test_at_hand_is_what_the_system_says_at_most():
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**27 < bounds.at_hand() <= machine


def test_at_hand_is_the_least_of_machine_group_and_own_limit(tmp_path, monkeypatch):
    """A container's limit counts, "max" is none; so does ulimit -v."""
    group, none = tmp_path / "memory.max", tmp_path / "none"
    monkeypatch.setattr(bounds, "_LIMITS", (str(none), str(group)))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    group.write_text("max\n")
    whole = bounds.at_hand()
    group.write_text(f"{2**26}\n")
    assert bounds.at_hand() == 2**26 < whole
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**25, 2**25))
    assert bounds.at_hand() == 2**25


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (3 * GIB + GIB // 2, "3.5 GiB"),
        (2**80, "1.0 YiB"),
        (10**400, None),
    ],
)
def test_bytes_are_written_as_people_do(count, text):
    """No integer is too large for it, where a float is."""
    found = bounds.written(count)
    assert found == text or (text is None and found.endswith(" YiB"))


def test_size_counts_the_bytes_of_arrays_and_of_shapes_alone():
    tree = {"a": np.zeros((3, 5), np.float32), "b": (jax.ShapeDtypeStruct((10**6, 10**7), jnp.bfloat16), jnp.int32(1))}
    assert bounds.size(tree) == 60 + 2 * 10**13 + 4
    assert bounds.size(jax.random.key(0)) == 8


def test_what_fits_passes_and_what_does_not_is_one_line(monkeypatch):
    monkeypatch.setattr(bounds, "at_hand", lambda: 2 * GIB)
    bounds.check("x", 2 * GIB, "")
    with pytest.raises(ValueError, match=r"^n = 7 would take 2\.0 GiB of memory, and 2\.0 GiB are here: lower it\.$"):
        bounds.check("n = 7", 2 * GIB + 1, "lower it")


def settings(**changes):
    return SimpleNamespace(**{**dict(batch_size=8, steps_per_dispatch=1, time_bins=1, samples=64, chunk=16), **changes})


@pytest.mark.parametrize(
    ("changes", "turns", "wanted"),
    [
        (dict(batch_size=2**20), 1, 2**20 * 16 * 1),
        (dict(batch_size=2**10, steps_per_dispatch=2**10), 1, 2**20 * 16),
        (dict(batch_size=2**19), 2, 2**20 * 16),
        (dict(time_bins=2**19), 1, 4 * 8 * 2**19),
        (dict(samples=2**19), 1, 2 * 2**19 * 16),
        (dict(chunk=2**19), 1, 2 * 2**19 * 16),
    ],
)
def test_a_runs_sizes_are_held_against_memory(monkeypatch, changes, turns, wanted):
    """Of an example of 16 bytes; one byte less than it takes is refused by name, and all of it passes."""
    example = np.zeros(4, np.float32)
    monkeypatch.setattr(bounds, "at_hand", lambda: wanted)
    bounds.check_run(example, turns, settings(**changes))
    monkeypatch.setattr(bounds, "at_hand", lambda: wanted - 1)
    name = {"samples": "eval.samples", "chunk": "sample.chunk", "time_bins": "eval.time_bins"}
    with pytest.raises(ValueError, match=rf"{name.get(next(iter(changes)), 'train.batch_size')} = \d+.* would take"):
        bounds.check_run(example, turns, settings(**changes))


SMALL = ["data.name=moons", "data.n=200", "data.held_out=100", "model.name=MLP", "model.width=8", "model.depth=1"]
SMALL += ["target.name=V", "eval.samples=64"]
TOGETHER = "train.steps_per_dispatch=1200 train.steps=1200 train.log_every=1200 train.sample_every=1200"
HUGE = {
    "grid.n=100001": "The number of steps is 100001, expected at most 100000",
    "grid.n=1000000000": "The number of steps is 1000000000, expected at most",
    "grid.n=100000000000000000000000": "The number of steps is 1000",
    "train.batch_size=1000000000000": "train.batch_size is 1000000000000, expected at most 2147483647",
    f"train.batch_size=2000000000 {TOGETHER}": r"train.batch_size = 2000000000 .* would take .* TiB",
    "train.steps=2147483648": "train.steps is 2147483648, expected at most 2147483647",
    "train.steps=100000000000000000000000": "train.steps is 1000.*expected at most 2147483647",
    "model.width=1000000": r"A network of [\d,]+ parameters, with its optimizer and averages, would take \d.* TiB",
    "model.width=100000000000": "width = 100000000000: expected at most 16777216",
    "model.width=" + "1" * 400: r"width = 1{400}: expected at most",
    "model.depth=1000000000": "depth = 1000000000: expected at most 1024",
    "model.classes=1000000000000": "classes = 1000000000000: expected at most",
    "eval.samples=1000000000": "eval.samples is 1000000000, expected at most 16777216",
    "eval.time_bins=2000000000": r"eval.time_bins = 2000000000 with train.batch_size = 32 would take 238\.4 GiB",
    "sample.chunk=1000000000000": "sample.chunk is 1000000000000, expected at most",
    "checkpoint.keep=1000000000000": "checkpoint.keep is 1000000000000, expected at most",
    "data.n=1000000000000": r"moons: n is 1000000000000, expected at most",
    "schedule.name=Tabulated.linear schedule.steps=1000000000000": "steps",
}


@pytest.mark.parametrize("text", HUGE, ids=lambda text: text[:40])
def test_a_config_of_sizes_that_no_memory_holds_is_refused_before_any_is_taken(text, monkeypatch):
    """In one line that names the field; the memory that it takes to say so is that of tracing."""
    overrides = [*SMALL, *text.split()]
    monkeypatch.setattr(bounds, "at_hand", lambda: 16 * GIB)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=HUGE[text]) as caught:
            runs.build_run(runs.load("configs/vpsde.py:tiny", overrides))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 2**27


def test_seeds_are_counted_before_they_are_listed():
    with pytest.raises(ValueError, match="Got 1000000000000 seeds, expected at most 16777216"):
        host.check_seeds(10**12)


@pytest.mark.parametrize("n", [10**9, 10**30])
def test_every_grid_bounds_its_steps(n):
    for name, grid in grids.BASES.items():
        schedule = schedules.Counted(8) if name == "counts" else schedules.VP()
        with pytest.raises(ValueError, match=r"expected (at most|counts of at most|an integer from 1 to 8)"):
            grid(schedule, str(n) if name == "sections" else n, **({"steps": n} if name == "iddpm" else {}))


OTHERS = {
    ("masked", "data.length=100000000000"): "places of 3 tokens are more than 10.30 sequences",
    ("masked", "data.n=100000000000"): "tokens: n is 100000000000, expected at most",
    ("masked", "method.vocabulary=100000000000"): "vocabulary is 100000000000, expected at most",
    ("monoflow", "method.critics=100000000000"): "critics is 100000000000, expected at most",
    ("coupling_flow", "method.layers=100000000000"): "layers is 100000000000, expected at most",
    ("flow_map", "method.steps=100000000000"): "steps is 100000000000, expected at most",
    ("vpsde", "times.name=chain times.steps=100000000000"): "steps is 100000000000, expected at most",
    ("vpsde", "prepare.name=importance prepare.history=100000000000"): "are more than 268435456 losses",
    ("rectified", "prepare.name=optimal_transport prepare.method=sinkhorn prepare.iterations=100000000000"): (
        "iterations is 100000000000, expected at most"
    ),
}


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: f"{case[0]} {case[1].split('=')[-2]}")
def test_numbers_of_other_methods_are_bounded_too(case):
    name, text = case
    with pytest.raises(ConfigError, match=OTHERS[case]):
        runs.build_run(runs.load(f"configs/{name}.py:tiny", text.split()))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: models.UNet(channels=10**9), "channels = 1000000000: expected at most"),
        (lambda: models.UNet(multipliers=(1, 10**9)), r"multipliers\[1\] = 1000000000: expected at most"),
        (lambda: models.UNet(blocks=10**6), "blocks = 1000000: expected at most 1024"),
    ],
)
def test_a_network_out_of_all_proportion_is_refused_when_it_is_made(make, match):
    with pytest.raises(ValueError, match=match):
        make()
