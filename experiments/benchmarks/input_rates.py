"""Whether record files keep an accelerator busy: CPU time per example, a model of the supply, the wait it foretells.

    python experiments/benchmarks/input_rates.py [--smoke] [--workers=1] [--examples=50000]

`stages` are microseconds of CPU time (all threads of the process) per example, the best of several repeats: made-up
images as PNG or in tensors, and float32 codes of the size of latents, in the array_record files of a TFDS builder.
`in_memory` (a source that holds the images), `one_thread` and `threads_16` are whole stacks of batches (`stack_at`),
the last two mirrored; `device_put_uint8` is what a conversion on the device would leave.

`needed` is the rate of CIFAR-10's recipe at SHARE of a device's published peak of bfloat16, three forward passes an
example. The supply of c cores, one of them left to the loop and one to the thread that hands stacks over, is

    one process    1 / one_thread          (small images hold the interpreter's lock: threads add nothing)
    workers        min((c - 2) / in_worker, 1 / hand_over)          Amdahl: the hand-over is serial

`checked` holds it against runs, of one process and of --workers of them: `modelled` is the supply by CPU time, on cores
that nobody else has, `attained` what is taken here where nothing waits between two stacks, and `load` what others do.
Then a sleep of stack / rate stands for the device, at rates of so many times the supply attained: the share of input
wait in a run's ledger, `measured`, beside the model's max(0, 1 - supply / rate).
"""

import argparse
import contextlib
import functools
import io
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from counting import flops, report

from diffjax import data, models, runs
from diffjax.config import build
from diffjax.data import images
from diffjax.data.batches import stack_at
from diffjax.data.source import unit
from diffjax.ledger import Ledger

PEAKS = {"TPU v4": 275e12, "A100": 312e12, "H100": 989e12}  # FLOP/s, bfloat16, dense: the makers' data sheets
SHARE = 0.4  # of the peak: a high one for a U-Net of this size, so that the rate is no underestimate
BATCH, STEPS = 128, 10  # of CIFAR-10's recipe: a batch, and the steps of a dispatch
CORES = (4, 8, 16)
KINDS = {  # name -> shape, whether PNG, examples, examples of a stack
    "png 32": ((32, 32, 3), True, 50_000, 1280),
    "tensor 32": ((32, 32, 3), False, 5_000, 1280),
    "png 64": ((64, 64, 3), True, 2_000, 640),
    "png 256": ((256, 256, 3), True, 200, 128),
    "codes 32 x 32 x 4": ((32, 32, 4), False, 2_000, 640),
}
SMOKE = {name: (shape, png, 96, 32) for name, (shape, png, _, _) in list(KINDS.items())[:2]}


def main() -> None:
    """All kinds, or with --smoke few examples of the small ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few examples, few repeats")
    parser.add_argument("--workers", type=int, default=1, help="processes of the check")
    parser.add_argument("--examples", type=int, default=50_000, help="at most, of each kind")
    flags = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # of tensorflow_datasets itself
    kinds, repeats = (SMOKE, 1) if flags.smoke else (KINDS, 3)
    forward, rates = needed()
    with tempfile.TemporaryDirectory() as root:
        for number, (shape, png, count, _) in enumerate(kinds.values()):
            write(root, f"kind{number}", shape, png, min(count, flags.examples))
        found = {name: stages(root, f"kind{i}", kind[3], repeats) for i, (name, kind) in enumerate(kinds.items())}
        steps = 1 if flags.smoke else STEPS
        open_files = functools.partial(data.tfds, "kind0", root, in_memory=False)
        waits = (2, 4) if flags.smoke else (6, 12)
        costs = {"one_thread_us": found["png 32"]["one_thread"], **worker_costs(open_files, steps, sum(waits))}
        of_workers = lambda n: min(n * 1e6 / costs["in_worker_us"], 1e6 / costs["hand_over_us"])
        own = 1e6 / costs["one_thread_us"]
        checked = {
            name: {"modelled": round(supply), **check(open_files(workers=workers), steps, *waits)}
            for name, supply, workers in (
                ("one process", own, 0),
                (f"{flags.workers} workers", of_workers(flags.workers), flags.workers),
            )
        }
    supply = {str(cores): round(of_workers(cores - 2)) for cores in CORES}
    report(
        "input_rates",
        {
            "cores_here": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "stages_us": found,
            "forward_gflop": round(forward / 1e9, 3),
            "needed": {name: round(rate) for name, rate in rates.items()},
            "costs": costs,
            "supply_one_process": round(own),
            "supply_of_workers_by_cores": supply,
            "over_needed_16_cores": {name: round(supply["16"] / rate, 1) for name, rate in rates.items()},
            "checked": checked,
        },
    )


def needed() -> tuple[float, dict[str, float]]:
    """FLOPs of one forward pass of CIFAR-10's recipe, and its examples a second on each device."""
    network = models.of(build(models, runs.load("configs/vpsde.py:cifar10").model))
    x, c = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    forward = flops(network.apply, jax.eval_shape(network.init, jax.random.key(0), x, c), x, c)
    return forward, {name: SHARE * peak / (3 * forward) for name, peak in PEAKS.items()}


def made_up(shape: tuple[int, ...], count: int) -> Iterator[np.ndarray]:
    """Images of 4 x 4 colours, a ramp and grain, which PNG packs about as photographs; of 4 channels, normal codes."""
    rng, size = np.random.default_rng(0), shape[0]
    for _ in range(count):
        if shape[2] == 4:
            yield rng.normal(size=shape).astype(np.float32)
            continue
        colours = rng.normal(size=(4, 4, 3)).repeat(size // 4, 0).repeat(size // 4, 1)
        ramp = np.linspace(-1, 1, size)[:, None, None] * rng.normal(size=3)
        yield np.clip(128 + 40 * colours + 30 * ramp + 6 * rng.normal(size=shape), 0, 255).astype(np.uint8)


def write(root: str, name: str, shape: tuple[int, ...], png: bool, count: int) -> None:
    """Prepares a data set as a user would."""
    import tensorflow_datasets as tfds
    from PIL import Image

    tfds.disable_progress_bar()
    tensor = lambda: tfds.features.Tensor(shape=shape, dtype=np.float32 if shape[2] == 4 else np.uint8)
    encode = Image.fromarray if png else lambda x: x

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            image = tfds.features.Image(shape=shape) if png else tensor()
            features = {"image": image, "label": tfds.features.ClassLabel(num_classes=10)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> dict:
            return {"train": self._generate_examples(count), "test": self._generate_examples(10)}

        def _generate_examples(self, count: int) -> Iterator:
            for i, x in enumerate(made_up(shape, count)):
                yield i, {"image": encode(x), "label": i % 10}

    Made.name = name
    with contextlib.redirect_stdout(sys.stderr):
        Made(data_dir=root, file_format="array_record").download_and_prepare()


def stages(root: str, name: str, count: int, repeats: int) -> dict[str, float]:
    """Microseconds of CPU time per example of each stage, one after another, and of all of them as batches."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.decode import DeserializeMethod, SkipDecoding

    builder = tfds.builder_from_directory(str(Path(root) / name / "1.0.0"))
    records = builder.as_data_source("train", deserialize_method=DeserializeMethod.RAW_BYTES)
    at = np.random.default_rng(0).permutation(len(records))[:count].tolist()
    count, feature = len(at), builder.info.features["image"]
    png = isinstance(feature, tfds.features.Image)
    parse = functools.partial(
        builder.info.features.deserialize_example_np, decoders={"image": SkipDecoding()} if png else None
    )
    stored = records.__getitems__(at)
    rows = [parse(record)["image"] for record in stored]
    decode = lambda row: images.decode(io.BytesIO(row), "", feature.shape, fit=False, upright=False)
    pixels = [decode(row) if png else row for row in rows]
    whole = np.stack(pixels)
    floats, memory = unit(whole), data.Arrays(whole)
    of_us = lambda call: round(1e6 * best_cpu(call, repeats) / count, 2)
    found = {
        "read": of_us(lambda: records.__getitems__(at)),
        "parse": of_us(lambda: [parse(record) for record in stored]),
        "decode": of_us(lambda: [decode(row) for row in rows]) if png else 0.0,
        "stack": of_us(lambda: np.stack(pixels)),
        "to_float32": of_us(lambda: unit(whole)),
        "device_put_float32": of_us(lambda: jax.block_until_ready(jax.device_put(floats))),
        "device_put_uint8": of_us(lambda: jax.block_until_ready(jax.device_put(whole))),
    }
    stacked = lambda source, flip: of_us(lambda: stack_at(source, count, 0, 0, 1, flip=flip))
    found |= {"in_memory": stacked(memory, False), "in_memory_mirrored": stacked(memory, True)}
    files: Any = data.tfds(name, root, in_memory=False).train
    for threads, key in ((1, "one_thread"), (16, "threads_16")):
        files.threads = threads
        found[key] = stacked(files, True)
    return found


def best_cpu(call: Callable[[], Any], repeats: int) -> float:
    """The least CPU time of several calls, over all threads of the process; the first does not count."""
    times = []
    for _ in range(repeats + 1):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times[1:])


def worker_costs(open_files: Callable, steps: int, stacks: int) -> dict[str, float]:
    """Microseconds per example in a worker, its start apart, and in the process that is handed stacks."""
    spent = {}
    for taken in (2, stacks):
        before = _children()
        with data.Batches(open_files(workers=1).train, BATCH, 0, steps_per_dispatch=steps, flip=True) as batches:
            for _ in range(2):  # the first is made here, the second when the process is there
                next(batches)
            began = time.process_time()
            for _ in range(taken - 2):
                jax.block_until_ready(next(batches))
            own = time.process_time() - began
        spent[taken] = _children() - before, own
    examples = BATCH * steps * (stacks - 2)
    per_example = lambda seconds: round(1e6 * seconds / examples, 2)
    return {
        "in_worker_us": per_example(spent[stacks][0] - spent[2][0]),
        "hand_over_us": per_example(spent[stacks][1]),
        "worker_start_s": round(spent[2][0], 2),
    }


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def check(dataset: Any, steps: int, warm: int, stacks: int) -> dict[str, Any]:
    """The supply, and the share of input wait at multiples of it, by the model and by the ledger."""
    whole = run(dataset, steps, warm, stacks, 0.0)
    supply = BATCH * steps * stacks / sum(whole.values())
    found: dict[str, Any] = {"attained": round(supply), "load": round(os.getloadavg()[0], 1)}
    for times in (0.5, 2.0):
        spent = run(dataset, steps, warm, stacks, BATCH * steps / (times * supply))
        share = spent["input wait"] / (spent["input wait"] + spent["step"])
        found[f"at {times:g}"] = {"model": round(max(0.0, 1 - 1 / times), 4), "measured": round(share, 4)}
    return found


def run(dataset: Any, steps: int, warm: int, stacks: int, seconds: float) -> dict[str, float]:
    """What the ledger has of so many stacks, for each of which a device takes so many seconds."""
    ledger = Ledger()
    with data.Batches(dataset.train, BATCH, 0, steps_per_dispatch=steps, flip=True) as batches:
        for k in range(warm + stacks):
            if k == warm:  # what was made ahead before this is taken
                ledger = Ledger()
            with ledger.of("input wait"):
                batch = next(batches)
            with ledger.of("step"):
                jax.block_until_ready(batch)
                time.sleep(seconds)
        return ledger.seconds


if __name__ == "__main__":
    main()
