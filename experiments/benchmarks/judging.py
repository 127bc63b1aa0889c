"""What judging costs by the size of an example: time, and the peak memory of the process, sampling not counted.

    python experiments/benchmarks/judging.py [--smoke]          # 300 examples and 300 samples of 256 x 256 x 3
    python experiments/benchmarks/judging.py --size=128 --n=300

Random smooth images stand for data and samples. Judged are all distances between them beside their floor and a Gaussian
fit, and the loss by time of a denoiser that costs nothing, beside that of the fit: what an evaluation does besides
drawing samples and asking the network. The limit at the default size is 30 s by the clock, on two cores that do
nothing else, and 3 GB; the exit status says whether it was kept.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import data, denoisers, ema, methods, models, processes, runs, schedules, training
from diffjax.method import Drawn
from diffjax.methods import evaluation
from diffjax.metrics import judges

SECONDS, GIGABYTES = 30, 3.0


def images(n: int, size: int, seed: int) -> np.ndarray:
    """Makes images (n, size, size, 3) of bytes: eight grey levels a side, enlarged, with noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (n, 8, 8, 3), np.uint8).repeat(size // 8, 1).repeat(size // 8, 2)
    return coarse + rng.integers(0, 50, coarse.shape, np.uint8)


def parts() -> models.Network:
    """A network of one number: F = w x, which costs nothing beside the judging."""
    return models.Network(
        lambda key, x, c, given: jnp.zeros(()), lambda params, x, c, given, **options: params * x, reads=()
    )


def main() -> int:
    """Judges once, and prints what it cost as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--n", type=int, default=300, help="examples held out, trained on, and sampled")
    parser.add_argument("--smoke", action="store_true", help="a few small images")
    args = parser.parse_args()
    args.size, args.n = (64, 20) if args.smoke else (args.size, args.n)
    train, held_out = (data.Arrays(images(args.n, args.size, seed)) for seed in (0, 1))
    dataset = data.Dataset("images", train, held_out, train.x.shape[1:], None, 256, "0")
    method = methods.denoising(parts(), processes.Gaussian(schedules.VP()), denoisers.V())
    run = runs.Run(method, dataset, ema.warm_up((0.999,)), runs.Settings(), state(method, dataset))
    drawn = Drawn(data.Arrays(images(args.n, args.size, 2)).gather(np.arange(args.n)).x, {})
    before, began, worked = peak(), time.monotonic(), time.process_time()
    sections = judges.judged(drawn, dataset)
    distances = time.process_time() - worked
    curves = evaluation.loss_by_time(run)
    wall, cpu, gigabytes = time.monotonic() - began, time.process_time() - worked, peak()
    found = {"size": args.size, "n": args.n, "cpu_s": cpu, "distances_cpu_s": distances, "wall_s": wall}
    memory = {"peak_gb": gigabytes, "data_and_samples_gb": before}
    losses = {name: curves[name]["mean"] for name in ("held out", "Gaussian fit")}
    print(json.dumps({**found, **memory, "losses": losses, **sections[0].results}))
    left = [section.results["left_out"] for section in sections if "left_out" in section.results]
    return int(bool(left) or wall > SECONDS or gigabytes > GIGABYTES)


def state(method: methods.Method, dataset: data.Dataset) -> training.TrainState:
    """The state of a run that was not trained."""
    import optax

    params = method.init(jax.random.key(0), data.blank(dataset))
    return training.init_state(params, optax.sgd(0.0), ema.warm_up((0.999,)), jax.random.key(0), method)


def peak() -> float:
    """The most memory that this process had so far, in GB."""
    status = Path("/proc/self/status")
    if status.exists():  # where the number below is the parent's, if that was larger when it began this process
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


if __name__ == "__main__":
    sys.exit(main())
