"""Checkpoints across processes: saves that are killed, and other numbers of devices. The children run this file."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import compiled
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import assert_same, make, restore, save

from diffjax.checkpoint import Checkpoints
from diffjax.checksum import checksums


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Steps 10, 20, 30, to be copied, not touched."""
    directory = tmp_path_factory.mktemp("sound") / "checkpoints"
    save(directory, (10, 20, 30))
    return directory


def child(*args, devices=1, **kwargs):
    flags = compiled.xla_flags(f"--xla_force_host_platform_device_count={devices}")
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), env.get("PYTHONPATH", "")])
    return subprocess.Popen([sys.executable, __file__, *map(str, args)], env=env, text=True, **kwargs)


def save_forever(directory):
    """Resumes, then saves step after step as fast as it can, saying which are complete."""
    target = make(0, size=20_000)
    with Checkpoints(directory, keep=2, best=0) as checkpoints:
        found = checkpoints.restore(target)
        step = found.step if found else 0
        while True:
            step += 1
            checkpoints.save(step, make(step, size=20_000), metrics={}, config={})
            print("started", step, flush=True)
            checkpoints.wait()
            print("complete", step, flush=True)


def kill_repeatedly(directory, kills):
    rng, target, complete = random.Random(0), make(0, size=20_000), 0
    for kill in range(kills):
        process = child("save_forever", directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        said = process.stdout.readline()  # the first save is under way
        assert said.startswith("started"), process.stderr.read()
        out = process.stdout.readline() if kill % 2 else ""  # every other kill comes after a save, in whatever follows
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        more, err = process.communicate()
        out += more
        assert err == ""
        complete = max([complete, *(int(line.split()[1]) for line in out.splitlines() if "complete" in line)])
        found, lines = restore(directory, target)
        if found is None:
            assert complete == 0
            continue
        assert lines == []
        assert found.step - complete in (0, 1)  # the kill may fall between the commit and its announcement
        assert_same(found.state, make(found.step, size=20_000))
        complete = found.step
    return complete


def test_a_killed_save_leaves_the_last_complete_step(tmp_path):
    assert kill_repeatedly(tmp_path, 2) > 0
    assert sum("orbax-checkpoint-tmp" in p.name for p in tmp_path.iterdir()) <= 1  # the last kill's, no older one's


@pytest.mark.slow
def test_thirty_kills(tmp_path):
    assert kill_repeatedly(tmp_path, 30) > 10


def shard(tree, count):
    """The leaves whose first axis divides are split over `count` devices, the others replicated."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("data",))
    spec = lambda x: ("data",) if x.ndim and x.shape[0] % count == 0 else ()
    place = lambda x: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec(x)))
    return jax.tree.map(lambda x: jax.device_put(x, place(x)), tree)


def on_eight_devices(mine, theirs):
    """Saves sharded; restores onto 8 and onto 4 devices what one device saved; sums under each sharding."""
    assert jax.device_count() == 8
    state = shard(make(30), 8)
    with Checkpoints(mine) as checkpoints:
        checkpoints.save(30, state, metrics={}, config={})
    for count in (8, 4):
        target = shard(make(1), count)
        with Checkpoints(theirs, create=False) as checkpoints:
            found = checkpoints.restore(target).state
        assert_same(found, make(30))
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(target)):
            assert x.sharding == y.sharding
    assert len(found.params["dense"]["kernel"].addressable_shards) == 4
    uneven = jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), "data"), jax.sharding.PartitionSpec("data"))
    half = jax.ShapeDtypeStruct((3,), jnp.float16, sharding=uneven)
    with (
        Checkpoints(theirs, create=False) as checkpoints,
        pytest.raises(ValueError, match="partitioned 8 times, but the dim"),
    ):
        checkpoints.restore(target._replace(params={**target.params, "half": half}))  # an error, and no damage
    print(json.dumps([checksums(shard(make(30), count)) for count in (1, 4, 8)]))


@pytest.mark.slow  # a process for each number
def test_another_number_of_devices(sound, tmp_path):
    process = child("on_eight_devices", tmp_path, sound, devices=8, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == ""
    (step, state, _), lines = restore(tmp_path)
    assert (step, lines) == (30, [])
    assert_same(state, make(30))
    here = [list(pair) for pair in checksums(make(30))]
    assert json.loads(out) == [here, here, here]


if __name__ == "__main__":
    {"save_forever": save_forever, "on_eight_devices": on_eight_devices}[sys.argv[1]](*sys.argv[2:])
