"""Files against memory: the bytes of a batch for any number of threads, worker processes, hosts, and restarts."""

import contextlib
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import jax
import numpy as np
import pytest
import run_command

from diffjax import data
from diffjax.data import batches
from diffjax.data.images import UnusableError
from diffjax.data.source import Subset

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorflow_datasets itself

N = 70
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 4, 6, 3), dtype=np.uint8)
LABELS = np.arange(N) % 10


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The images as PNG files in array_record, of two shards."""
    import tensorflow_datasets as tfds
    from PIL import Image

    root = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()

    class Noise(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(4, 6, 3)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 60), "test": self._generate_examples(60, N)}

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                yield i, {"image": Image.fromarray(PIXELS[i]), "label": int(LABELS[i])}

    config = tfds.download.DownloadConfig(num_shards=2)
    Noise(data_dir=str(root), file_format="array_record").download_and_prepare(download_config=config)
    return str(root)


def opened(root, **options):
    return data.tfds("noise", root, in_memory=False, **options).train


@pytest.fixture(scope="module")
def memory(prepared):
    """The training images in the order of their records, which Pillow and TFDS's own reader tell one by one."""
    import tensorflow_datasets as tfds
    from PIL import Image

    builder = tfds.builder_from_directory(f"{prepared}/noise/1.0.0")
    rows = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    seen = [np.asarray(Image.open(io.BytesIO(row["image"]))) for row in rows]
    assert sorted(x.tobytes() for x in seen) == sorted(x.tobytes() for x in PIXELS[:60])
    return data.Arrays(np.stack(seen), [row["label"] for row in rows])


def same_bytes(got, expected):
    got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
    assert len(got) == len(expected) == 2
    for ours, theirs in zip(got, expected):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("threads", [1, 4, 16])
def test_records_give_the_bytes_of_memory_for_any_number_of_threads(prepared, memory, threads):
    records = opened(prepared)
    records.threads = threads
    for step in (0, 1, 1_000_003):  # two steps of 5 x 24 cross an epoch of 60
        got, expected = (batches.stack_at(source, 24, 3, step, 5, flip=True) for source in (records, memory))
        same_bytes(got, expected)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_parts_of_hosts_are_the_whole_of_memory(prepared, memory, hosts):
    make = partial(batches.stack_at, batch_size=24, seed=3, step=7, steps=2, flip=True, process_count=hosts)
    parts = [make(opened(prepared), process_index=host) for host in range(hosts)]
    whole = batches.stack_at(memory, 24, 3, 7, 2, flip=True)
    same_bytes(jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts), whole)


@pytest.mark.parametrize("start", [0, 4, 10])
def test_a_restart_goes_on_with_the_bytes_of_memory(prepared, memory, start):
    with data.Batches(opened(prepared), 24, 3, start, steps_per_dispatch=2, put=lambda x: x) as stream:
        for step in range(start, start + 8, 2):
            same_bytes(next(stream), batches.stack_at(memory, 24, 3, step, 2))


def test_one_thread_reads_in_long_calls_of_its_own(monkeypatch):
    asked = []

    def read(indices):
        asked.append(indices.tolist())
        return {"x": indices[:, None].astype(np.float32)}

    monkeypatch.setattr("diffjax.data.records.PER_CALL", 32)
    at = np.random.default_rng(1).permutation(N)
    assert data.Records(N, read, threads=1).gather(at).x[:, 0].tolist() == at.tolist()
    assert [len(calls) for calls in asked] == [24, 23, 23]
    assert np.concatenate(asked).tolist() == at.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads is 0, expected an integer >= 1"),
        ({"workers": -1}, "workers is -1, expected an integer >= 0"),
        ({"workers": True}, "workers is True, expected an integer >= 0"),
    ],
)
def test_records_refuse_numbers_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        data.Records(3, numbered, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers is -1, expected an integer >= 0"),
        ({"workers": 2}, "workers is 2, but 'noise' is held in memory, .* set in_memory=False"),
        ({"workers": 2, "in_memory": True}, "workers is 2, but 'noise' is held in memory"),
    ],
)
def test_workers_are_for_files(prepared, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.tfds("noise", prepared, **options)
    assert "\n" not in str(caught.value)


def test_a_file_cut_while_it_is_open_is_a_line(prepared, tmp_path):
    shutil.copytree(f"{prepared}/noise", tmp_path / "noise")
    source = opened(str(tmp_path))
    for file in (tmp_path / "noise" / "1.0.0").glob("*train.array_record*"):
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"train( cannot be read|\[\d+\]' cannot be read as an image)") as caught:
        batches.stack_at(source, 24, 3, 0, 5)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_process_is_sent_reads_alone_and_errors_come_back_whole():
    sent = pickle.loads(pickle.dumps(data.Records(3, numbered, threads=8, workers=2)))
    assert (sent.threads, sent.workers, len(sent)) == (1, 2, 3)
    error = UnusableError(["'a.png' is torn", "'b.png' is torn"])
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.reasons, str(back)) == (UnusableError, error.reasons, str(error))


def test_a_part_of_files_has_their_workers():
    assert Subset(data.Records(9, numbered, workers=2), np.arange(4)).workers == 2
    assert Subset(data.Arrays(np.zeros((9, 2))), np.arange(4)).workers == 0


# --- processes --------------------------------------------------------------------------------------------------------


def numbered(indices):
    return {"x": np.stack([indices, indices**2, np.full_like(indices, os.getpid())], 1).astype(np.float64)}


SEED = 2  # of an order whose first batches hold none of the three torn records


def damaged(indices):
    if indices.min() < 3:
        raise UnusableError([f"record {i} is torn" for i in indices[indices < 3]])
    return numbered(indices)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_bytes_of_memory(prepared, memory, workers):
    source, host = opened(prepared, workers=workers), {"process_index": 1, "process_count": 2}
    with data.Batches(source, 24, 3, 4, steps_per_dispatch=2, flip=True, put=lambda x: x, **host) as stream:
        for step in range(4, 20, 2):
            same_bytes(next(stream), batches.stack_at(memory, 24, 3, step, 2, flip=True, **host))


@pytest.mark.slow
def test_stacks_are_made_by_processes_that_end_with_the_batches():
    with data.Batches(data.Records(50, numbered, workers=2), 5, 0, put=lambda x: x) as stream:
        made = [next(stream).x[0] for _ in range(7)]
    for step, x in enumerate(made):
        at = batches.order_at(50, 0, np.arange(5 * step, 5 * step + 5))
        np.testing.assert_array_equal(x[:, :2], np.stack([at, at**2], 1))
    makers = [int(x[0, 2]) for x in made]
    assert makers[0] == os.getpid()  # what is wrong with data is found here
    assert makers[1:] == [makers[1], makers[2]] * 3
    assert len(set(makers)) == 3
    assert not any(map(alive, makers[1:]))


@pytest.mark.slow
def test_an_error_of_a_worker_comes_after_the_stacks_before_it():
    order = batches.order_at(64, SEED, np.arange(64)).reshape(-1, 4)
    first = next(step for step, at in enumerate(order) if at.min() < 3)
    assert first > 1
    with data.Batches(data.Records(64, damaged, workers=1), 4, SEED, put=lambda x: x) as stream:
        for step in range(first):
            assert next(stream).x[0, :, 0].tolist() == order[step].tolist()
        with pytest.raises(UnusableError) as caught:
            next(stream)
    assert caught.value.reasons == [f"record {i} is torn" for i in order[first] if i < 3]


RUN = """
import os, signal, sys, time
from diffjax import data
from test_data_workers import numbered

def main():
    with data.Batches(data.Records(50, numbered, workers=1), 5, 0, put=lambda x: x) as stream:
        for step in range(10**6):
            print(int(next(stream).x[0, 0, 2]), flush=True)
            time.sleep(0.05)

"""


def started(tmp_path, end):
    (tmp_path / "script.py").write_text(RUN + end)
    env = run_command.environment()
    env["PYTHONPATH"] = os.pathsep.join([str(run_command.ROOT / "tests"), env.get("PYTHONPATH", "")])
    command = [sys.executable, str(tmp_path / "script.py")]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def worker_of(process):
    assert int(process.stdout.readline()) == process.pid
    return int(process.stdout.readline())


@pytest.mark.slow
def test_a_worker_ignores_the_signals_of_a_run_and_ends_with_it(tmp_path):
    process = started(tmp_path, 'if __name__ == "__main__":\n    main()\n')
    try:
        worker = worker_of(process)
        for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(worker, sent)
        for _ in range(10):
            assert int(process.stdout.readline()) == worker
        process.kill()
        deadline = time.monotonic() + 20
        while alive(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = alive(worker)
        if left:
            os.kill(worker, signal.SIGKILL)  # it holds the pipes
        assert not left
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_script_that_closes_nothing_ends_without_a_trace(tmp_path):
    of_two = (
        'if __name__ == "__main__":\n    stream = Batches(Records(50, numbered, workers=2), 5, 0, put=lambda x: x)\n'
    )
    body = f"from diffjax.data import Batches, Records\n{of_two}    [next(stream) for _ in range(4)]\n"
    process = started(tmp_path, body)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Traceback" not in errors  # Grain may warn of an older jaxlib


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "no guard"])
def test_a_worker_that_is_gone_is_a_line(tmp_path, how):
    process = started(tmp_path, "main()\n" if how == "no guard" else 'if __name__ == "__main__":\n    main()\n')
    try:
        if how == "killed":
            os.kill(worker_of(process), signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "RuntimeError: A process that makes batches ended by itself" in errors
    assert 'a script that uses workers has to start its work below `if __name__ == "__main__":`' in errors
