"""CIFAR-10 on one accelerator in a few minutes: the U-Net is trained for as long as a budget lasts, and judged.

    python experiments/benchmarks/gpu_cifar10.py --pack --from=cifar-10-python.tar.gz   # where diffjax is whole
    python experiments/benchmarks/gpu_cifar10.py [--budget=300] [--data=FOLDER] [--weights=FILE] [--out=FOLDER]
    python experiments/benchmarks/gpu_cifar10.py --smoke                          # small, made-up images, on a CPU

The packed data is a subset, 25,000 images to train on and 5,000 held out, without loss below 45 MiB (`gpu_packing`), in
a folder that git ignores; the weights of the feature space lie beside it where they were installed. The network is that
of configs/vpsde.py:cifar10, in bfloat16, on straight lines from noise to data with the velocity as target; minutes, not
that recipe's days, set the rest: a rate of 3e-4 after 300 steps, and an average of decay 0.999. What is to come is
compiled and timed before training, so that what is left of the budget is known: training gets it.

Of 5,000 samples, by Adams' method of order 2 in 40 evaluations, the Frechet distance to as many held-out images is
printed beside its floor, training images in the place of the samples, its mean for two samples of one law, and a
Gaussian fit of 3,000 training images. Images of JPEG copies are others: such a distance stands beside no published one.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gpu_features
import gpu_packing
import jax
import jax.numpy as jnp
import numpy as np
import optax
from gpu_rows import MARGIN, Rows
from jax.tree_util import Partial

from diffjax import denoisers, ema, grids, losses, models, parallel, processes, samplers, schedules, training
from diffjax.method import Example
from diffjax.methods.denoising import denoising
from diffjax.metrics import frechet, gate

FOLDER, FILE = Path("runs/gpu_cifar10"), "cifar10.npz"
DECAY, FITTED = 0.999, 3000
SPARE = 8.0  # seconds beside what the end was measured to take


class Sizes(NamedTuple):
    """What is trained and drawn."""

    network: Any
    batch: int
    samples: int
    chunk: int  # samples, and images whose features are computed, at a time
    evaluations: int
    most_steps: int
    window: int  # steps between two looks at the clock


FULL = Sizes(
    models.UNet(128, (1, 2, 2, 2), 4, (16,), dropout=0.1, skip_scale=0.5**0.5, dtype="bfloat16"),
    batch=128,
    samples=5000,
    chunk=250,
    evaluations=40,
    most_steps=1_300_000,
    window=25,
)
SMOKE = Sizes(models.UNet(4, (1, 2), 1, (), dropout=0.1, dtype="bfloat16"), 8, 40, 20, 3, 6, 3)


def pack(target: Path, source: str, test: str | None, train: int, held_out: int) -> None:
    """Packs a subset of CIFAR-10, and the weights of the feature space where they are installed, into a folder."""
    from diffjax import data

    found, rng = data.cifar10(source, test), np.random.default_rng(0)
    parts: dict[str, np.ndarray] = {}
    whole: dict[str, Any] = {"train": found.train, "held_out": found.held_out}
    for (name, part), count in zip(whole.items(), (train, held_out)):
        if count > len(part):
            raise ValueError(f"--{name.replace('_', '-')} is {count}, expected at most {len(part)}, all there are.")
        parts[name] = part.x[np.sort(rng.permutation(len(part))[:count])]
    size = gpu_packing.pack(target / FILE, parts)
    print(f"{target / FILE}: {train} images to train on, {held_out} held out, {size / 2**20:.2f} MiB, without loss")
    weights = gpu_features.installed()
    if weights is None:
        print(f"{gpu_features.FILE} is not here: distances will be in random convolutions, or give --weights=FILE")
    else:
        shutil.copy(weights, target / gpu_features.FILE)
        print(f"{target / gpu_features.FILE}: weights of the feature space")


def made_up(count: int, seed: int) -> np.ndarray:
    """Makes uint8 images (count, 8, 8, 3) of one bright blob each, for smoke tests."""
    rng = np.random.default_rng(seed)
    at, colour = rng.uniform(1, 6, (2, count, 1, 1, 1)), rng.uniform(80, 255, (count, 1, 1, 3))
    rows, columns = np.indices((8, 8))[..., None]
    return (colour * np.exp(-((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / 6)).astype(np.uint8)


class Trained:
    """The training of the network, step by step, on images that lie on the device."""

    def __init__(self, sizes: Sizes, images: np.ndarray) -> None:
        self.sizes, mesh, self.schedule = sizes, parallel.mesh(jax.devices()[:1]), schedules.Rectified()
        self.net, self.target = models.network(sizes.network), denoisers.Velocity(sigma_data=0.5)
        times = partial(losses.times.stratified, t_min=1e-3)
        method = denoising(self.net, processes.Gaussian(self.schedule), self.target, times=times)
        rate = optax.join_schedules([optax.linear_schedule(0.0, 3e-4, 300), optax.constant_schedule(3e-4)], [300])
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
        emas = ema.warm_up((DECAY,))

        def init(key: Any) -> training.TrainState:
            params = method.init(key, Example(jnp.zeros(images.shape[1:])))
            return training.init_state(params, optimizer, emas, key, method)

        def batch_at(images: Any, step: Any) -> Example:
            of_images, of_sides = jax.random.split(jax.random.fold_in(jax.random.key(7), step))
            x = images[jax.random.randint(of_images, (sizes.batch,), 0, len(images))].astype(jnp.float32) / 127.5 - 1
            mirrored = jax.random.bernoulli(of_sides, 0.5, (sizes.batch, 1, 1, 1))
            return Example(jnp.where(mirrored, x[:, :, ::-1], x))

        every = parallel.replicated(mesh)
        self.images = jax.device_put(images, every)
        self.batch_at = jax.jit(batch_at, out_shardings=parallel.sharded(mesh))
        self.state = jax.jit(init, out_shardings=every)(jax.random.key(0))
        self.run = parallel.compile_step(training.make_step(method, optimizer, emas), "jit", mesh)
        self.losses: list[float] = []

    def window(self) -> None:
        """Makes the steps of a window, and awaits them.

        Raises:
            ValueError: for a step that is not finite.
        """
        found, first = [], len(self.losses)
        for step in range(first, first + self.sizes.window):
            self.state, metrics = self.run(self.state, self.batch_at(self.images, jnp.int32(step)))
            found.append(metrics["loss"])
        self.losses += [float(loss) for loss in found]
        if not np.isfinite(self.losses[first:]).all() or int(self.state.skipped):
            raise ValueError(f"A loss or norm of steps {first} to {len(self.losses) - 1} is not finite.")

    def until(self, enough: Callable[[], bool]) -> dict[str, Any]:
        """Trains until it is enough, a window at least; gives the row of it."""
        began, before, sizes = time.perf_counter(), len(self.losses), self.sizes
        while True:
            self.window()
            if enough() or len(self.losses) >= sizes.most_steps:
                break
        seconds, steps = time.perf_counter() - began, len(self.losses)
        span = min(100, steps // 2)
        return {
            "steps": steps,
            "batch": sizes.batch,
            "images_per_s": round(sizes.batch * (steps - before) / seconds, 1),
            "epochs": round(steps * sizes.batch / len(self.images), 2),
            "loss_first": round(float(np.mean(self.losses[:span])), 5),
            "loss_last": round(float(np.mean(self.losses[-span:])), 5),
        }

    def drawer(self) -> Callable[[int], np.ndarray]:
        """Makes the function of a number of samples -> uint8 images, by the averaged parameters as they then are."""
        sizes, shape = self.sizes, self.images.shape[1:]
        ts = grids.uniform(self.schedule, sizes.evaluations, t_min=0.0)
        sample = samplers.sampling_fn(samplers.multistep.adams(self.schedule, 2), ts)

        @jax.jit
        def chunk(sample: Any, params: Any, keys: Any) -> jax.Array:
            denoise = denoisers.denoiser(Partial(self.net.apply, params), self.schedule, self.target)
            one = lambda key: sample(denoise, key, jax.random.normal(jax.random.fold_in(key, 1), shape))
            x = jax.vmap(one)(keys)
            return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)

        def draw(count: int) -> np.ndarray:
            params, found = self.state.ema.averages[str(DECAY)], []
            for start in range(0, count, sizes.chunk):
                keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(11)))(start + jnp.arange(sizes.chunk))
                found.append(chunk(sample, params, keys))
            return np.concatenate([np.asarray(part) for part in found])[:count]

        return draw


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Calls; gives (result, seconds)."""
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def measure(
    rows: Rows, sizes: Sizes, parts: dict[str, np.ndarray], space: gpu_features.Space, out: Path | None
) -> None:
    """Makes the rows from the first compilation to the distance."""
    n = min(sizes.samples, len(parts["train"]), len(parts["held_out"]))
    frechet.check_size(n, space.d, "images")
    held: dict[str, Any] = {}
    features = gpu_features.computer(space, sizes.chunk)

    def prepared() -> dict[str, Any]:
        held["trained"] = trained = Trained(sizes, parts["train"])
        _, first = timed(trained.window)
        _, window = timed(trained.window)
        held["draw"] = draw = trained.drawer()
        _, compiled = timed(lambda: draw(sizes.chunk))
        _, chunk = timed(lambda: draw(sizes.chunk))
        held["draw_s"] = chunk * -(-n // sizes.chunk)
        count = sum(leaf.size for leaf in jax.tree.leaves(trained.state.params))
        seconds = {"step_ms": round(1e3 * window / sizes.window, 3), "draw_s": round(held["draw_s"], 2)}
        return {"parameters": count, "compile_s": round(first - window + compiled - chunk, 1), **seconds}

    def floor() -> dict[str, Any]:
        fitted = gate.fit_gaussian(parts["train"][:FITTED] / 127.5 - 1, n, np.random.default_rng(0))
        gaussian = np.round((np.clip(fitted, -1, 1) + 1) * 127.5).astype(np.uint8)
        features(parts["held_out"][: sizes.chunk])  # compiles
        real, held["features_s"] = timed(lambda: features(parts["held_out"][:n]))
        law = held["real"] = frechet.fit(real)
        fakes = {"floor": parts["train"][:n], "gaussian": gaussian}
        clouds = {name: frechet.fit(features(images)) for name, images in fakes.items()}
        found, seconds = timed(lambda: {name: frechet.distance(cloud, law) for name, cloud in clouds.items()})
        held["distance_s"] = seconds  # of two distances, and so more than of one and its fit
        held["beside"] = {name: round(value, 4) for name, value in found.items()}
        held["beside"]["expected"] = round(frechet.floor(law, n, n), 4)
        return {"space": space.name, "features": space.d, "n": n, **held["beside"]}

    def judged() -> dict[str, Any]:
        images, drawn = timed(lambda: held["draw"](n))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            np.savez(out / "samples.npz", x=images[:256])
        value = frechet.distance(frechet.fit(features(images)), held["real"])
        print_ = {"space": space.name, "n": n, "frechet": round(value, 4), **held["beside"]}
        return {**print_, "evaluations": sizes.evaluations, "draw_s": round(drawn, 2)}

    guesses = (1.0, 1.0) if sizes is SMOKE else (60.0, 25.0)  # seconds, mostly of compilation; not measured
    for name, guess, make in (("prepare", guesses[0], prepared), ("floor", guesses[1], floor)):
        rows.forget_pace()  # reading data and compiling one network say little of another
        if rows.row(name, guess, make) is None:
            rows.skip("training", f"{name} is not there")
            return
    end = held["draw_s"] + held["features_s"] + held["distance_s"] + (0.0 if sizes is SMOKE else SPARE)
    rows.forget_pace()  # what follows was measured
    trained = held["trained"]
    enough = lambda: rows.left() - MARGIN < end
    if rows.row("training", end, lambda: trained.until(enough)) is None:
        return
    rows.forget_pace()
    rows.row("distance", 0.0, judged)


def main() -> None:
    """Prints a line for each row, and a last one with all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a small network, few steps, made-up images")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds from the start, compilation included")
    parser.add_argument("--data", type=Path, default=FOLDER, help=f"a folder with the packed data; {FOLDER}")
    parser.add_argument("--weights", type=Path, help=f"{gpu_features.FILE}; that beside the data, or of the package")
    parser.add_argument("--out", type=Path, help="a folder for the first 256 samples")
    parser.add_argument("--pack", type=Path, nargs="?", const=FOLDER, help=f"make the packed data; {FOLDER}")
    parser.add_argument("--from", dest="source", help="with --pack: an archive of CIFAR-10, or images (data.cifar10)")
    parser.add_argument("--test", help="with --pack: images to hold out, where --from is of images")
    parser.add_argument("--train", type=int, default=25_000, help="with --pack: images to train on")
    parser.add_argument("--held-out", type=int, default=5_000, help="with --pack: images to hold out")
    flags = parser.parse_args()
    try:
        if flags.pack is not None:
            if flags.source is None:
                raise ValueError("--pack needs --from=, an archive of CIFAR-10 or a folder or zip of its images.")
            return pack(flags.pack, flags.source, flags.test, flags.train, flags.held_out)
        if not flags.smoke and not (flags.data / FILE).is_file():
            raise ValueError(f"{flags.data / FILE} is not there: make it by --pack --from=cifar-10-python.tar.gz.")
        beside = flags.data / gpu_features.FILE
        space = gpu_features.chosen(flags.weights or (beside if beside.is_file() else None), flags.smoke)
        rows = Rows("gpu_cifar10", flags.budget)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    sizes = SMOKE if flags.smoke else FULL
    rows.about |= {"space": space.name, "space_said": space.said}
    held: dict[str, np.ndarray] = {}

    def unpacked() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, FILE) if flags.smoke else flags.data / FILE
            if flags.smoke:
                gpu_packing.pack(file, {"train": made_up(60, 0), "held_out": made_up(40, 1)})
            held.update(gpu_packing.unpack(file))
        return {name: len(images) for name, images in held.items()}

    if rows.row("data", 10, unpacked) is not None:
        measure(rows, sizes, held, space, flags.out)
    sys.exit(rows.close())


if __name__ == "__main__":
    main()
