"""Runs whose state is split over devices: they are saved whole, and go on however they are split then."""

import json
import socket
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from test_sharding import BATCH, NETS, batches, child, finish, leaves_of, pieces, problem, spawn, train

from diffjax import cluster, data, denoisers, methods, parallel, processes, runs, schedules, sharding, training
from diffjax.config import ConfigError

# What the child processes run: `python this_file NAME OUT ...`


def trainer(workdir=None, **options):
    x = np.random.default_rng(5).normal(size=(64, 128)).astype(np.float32)
    method = methods.denoising(NETS["layers"][0], processes.Gaussian(schedules.VP()), denoisers.V())
    fixed = {"batch_size": BATCH, "log_every": 1, "sample_every": 100, "checkpoint_every": 2, "ema": "0.9"}
    return runs.Trainer(
        method, data.arrays(x), optimizer=optax.adam(1e-3, eps=1e-4), workdir=workdir, **{**fixed, **options}
    )


def resumed(out, folder):
    """A run of fsdp = 4 goes on split otherwise, and elsewhere; what it is then, and what it draws."""
    found, ways = {}, [(dict(fsdp=4), 2), (dict(fsdp=1), 4), (dict(fsdp=2, tensor=2), 6), (dict(devices=1), 7)]
    runs.Trainer._show = lambda *_: None
    for name, parts in {"split": ways, "whole": [({}, 7)]}.items():
        for options, steps in parts:
            with trainer(Path(folder) / name, **options) as made:
                found[f"{name}/began at {steps}"] = made.step
                run = made.train(steps)
                if "tensor" in options:
                    found["split/parameter"] = pieces(run.params), sum(x.nbytes for x in jax.tree.leaves(run.params))
                    found["drawn/split"] = run.draw(4, nfe=5)
                    host = run._replace(state=parallel.to_host(run.state))
                    found["drawn/whole"] = host.draw(4, nfe=5)
        found |= {f"{name}/{i:03}": leaf for i, leaf in enumerate(leaves_of(run.state))}
    np.savez(out, **found)


def opened(out, folder):
    """A run of one device, opened whole and over all of them; its draws, and how much of it a device has."""
    small = [f"model.{name}" for name in ("name=DiT", "width=128", "depth=1", "heads=2")]
    built = runs.build_run(runs.load("configs/vpsde.py:tiny", [*small, "train.devices=1"]))
    runs.Trainer._show = lambda *_: None
    with runs.Trainer(**built._asdict(), workdir=folder) as made:
        made.train(1)
    found = {}
    ways = {"whole": [], "split": ["train.fsdp=4", "train.tensor=2"], "strict": ["train.shards=8"]}
    for name, split in ways.items():
        run = runs.open(folder, overrides=split)
        found |= {f"{name}/drawn": run.draw(4), f"{name}/bytes": pieces(run.params)}
    with pytest.raises(ConfigError, match=r"train.shards is 8, which needs train.fsdp"):
        runs.open(folder, overrides=["train.fsdp=4", "train.shards=8"])
    with pytest.raises(ConfigError, match=r"train.fsdp x train.tensor is 3 x 1, expected a divisor of 8, the devices"):
        runs.open(folder, overrides=["train.fsdp=3"])
    np.savez(out, **found)


def two_processes(out, port, process):
    """Two processes of two devices each share one state; each gives the whole of it."""
    cluster.join(f"localhost:{port}", 2, int(process))
    mesh = parallel.mesh(fsdp=4)
    method, optimizer, emas, state = problem()
    split = sharding.shardings(state, mesh, (), state.params)
    gather = sharding.gathering(split)
    compiled = parallel.compile_step(
        training.make_step(method, optimizer, emas, gather=gather), mesh=mesh, shardings=split
    )
    state, half = parallel.place(mesh, state, split), BATCH // 2
    for x in batches():
        mine = x[half * int(process) :][:half]
        state, _ = compiled(state, parallel.shard_batch(mesh, {"x": mine}))
    whole = leaves_of(parallel.to_host(state))
    np.savez(f"{out}{process}.npz", *whole)
    cluster.part()


# The tests


@pytest.mark.slow
def test_a_run_goes_on_split_otherwise(tmp_path):
    """fsdp 4, then whole, then fsdp 2 x tensor 2, then on one device: what it is had it always been whole."""
    out = tmp_path / "out.npz"
    finish(spawn(8, "resumed", out, tmp_path, file=__file__))
    found = dict(np.load(out))
    assert [int(found[f"split/began at {n}"]) for n in (2, 4, 6, 7)] == [0, 2, 4, 6]
    split, whole = (
        {k: v for k, v in found.items() if k[:6] == f"{n}/" and k[6:].isdecimal()} for n in ("split", "whole")
    )
    assert len(split) == len(whole) >= 17
    for got, expected in zip(split.values(), whole.values(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    lines = {n: (tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("split", "whole")}
    losses = {n: [json.loads(line)["loss"] for line in lines[n]] for n in lines}
    assert len(losses["whole"]) == 7
    np.testing.assert_allclose(losses["split"], losses["whole"], rtol=1e-5)
    assert found["split/parameter"][0] < 0.5 * found["split/parameter"][1]
    np.testing.assert_allclose(found["drawn/split"], found["drawn/whole"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_run_of_one_device_opens_split_over_eight(tmp_path):
    finish(spawn(8, "opened", tmp_path / "out.npz", tmp_path / "run", file=__file__))
    found = dict(np.load(tmp_path / "out.npz"))
    assert found["split/bytes"] < 0.5 * found["whole/bytes"]
    for other in ("split", "strict"):
        np.testing.assert_allclose(found[f"{other}/drawn"], found["whole/drawn"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_two_processes_share_one_state(tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    finish(*[spawn(2, "two_processes", tmp_path / "out", port, process, file=__file__) for process in range(2)])
    one = train(data=1)[0]
    for process in range(2):
        found = np.load(tmp_path / f"out{process}.npz")
        for i, expected in enumerate(one):
            np.testing.assert_allclose(found[f"arr_{i}"], expected, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    child(globals())
