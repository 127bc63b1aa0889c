"""What a denoising run says of itself in its report: the loss by time, the variational bound, and the walk in pictures.

The regression loss stands beside that on as much training data, its floor, and that of a Gaussian fitted to the data,
whose posterior mean is the best linear denoiser; one noise and one time serve all three, so that differences are none
of the noise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import analytic
from diffjax.calculus import amplitudes
from diffjax.method import Drawn, Example, Figure, Keys, Losses, Section, per_example, size_of
from diffjax.methods import bound
from diffjax.types import Array, Denoiser, Key, PyTree

REPEATS = 16  # noise draws per example in the loss by time
MOST, FITTED = 2048, 10_000  # examples whose loss is taken, and that the Gaussian is fitted to
SHOWN, FRAMES = 8, 10


def report(run: Any, drawn: Drawn) -> list[Section]:
    """Makes the sections of a denoising run: losses, the bound, pictures."""
    return [losses(run), bound.section(run), walk(run, drawn)]


def losses(run: Any) -> Section:
    """Measures the regression loss by t / t_max: on held-out data, on training data, of a Gaussian fit."""
    of = run.method.parts
    curves = loss_by_time(run)
    names = ("held out", "train", "Gaussian fit")
    edges = curves["edges"]
    rows = zip(edges, edges[1:], *(curves[name]["bins"] for name in names))
    shown = lambda v: "-" if v is None else f"{v:.4f}"
    by_time = "\n".join(f"| {a:.1f} - {b:.1f} | {shown(h)} | {shown(t)} | {shown(g)} |" for a, b, h, t, g in rows)
    means, stds = (" | ".join(shown(curves[name][what]) for name in names) for what in ("mean", "std"))
    text = f"""## Loss by time

| t / t_max | held out | train (floor) | Gaussian fit |
|---|---|---|---|
{by_time}
| all | {means} |
| standard deviation of one draw | {stds} |

![loss by time](figures/loss_by_time.png) ![training](figures/training.png)
"""
    how = {"sampler": of.specs()["sampler"], "grid": of.specs()["grid"]}
    plotted = {name: [np.nan if v is None else v for v in curves[name]["bins"]] for name in names}
    figure = Figure("loss_by_time", "loss_by_time", (edges, plotted))
    results = {**how, "held_out_loss": curves["held out"]["mean"], "loss_by_time": curves}
    return Section(results, text, (figure,))


def loss_by_time(run: Any) -> dict[str, Any]:
    """Measures the three losses by bin of t / t_max: {"edges", and by name {"mean", "std" of one draw, "bins"}}."""
    of, dataset, params, bins = run.method.parts, run.data, run.params, run.settings.time_bins
    n = min(len(dataset.held_out), MOST)
    held_out, train = (source.gather(np.arange(n)) for source in (dataset.held_out, dataset.train))
    network = _curve(run, validation(of, of.mean_denoiser))
    fit = gaussian_fit(dataset).denoiser(of.schedule)
    gaussian = _curve(run, validation(of, lambda params, given: fit))
    curves = {
        "held out": network(params, held_out),
        "train": network(params, train),
        "Gaussian fit": gaussian(params, held_out),
    }
    return {"edges": np.linspace(0, 1, bins + 1).tolist(), **curves}


def validation(of: Any, denoise: Callable[[PyTree, dict], Denoiser]) -> Losses:
    """Makes the losses of `denoise(params, given)`'s mean: the weighted regression, whatever the training loss was."""
    process, schedule, target, times = of.process, of.schedule, of.target, of.times(of.schedule)

    def loss(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        t, x = times(keys, index, size), example.x
        key_noise, _ = jax.random.split(jax.random.fold_in(keys.example, 1))
        z = example.chosen["z"] if "z" in example.chosen else process.noise(key_noise, x)
        x_t, (aim, _) = process.corrupt(x, z, t), process.ends(x, z, t)
        given = process.given(jax.random.fold_in(keys.example, 4), example.given, x.shape, x)
        error = jnp.mean((denoise(params, given)(x_t, t).mean - aim) ** 2)
        in_network_space = error / target.skip_out(schedule, t)[1] ** 2
        return of.weight(schedule, target, t) * in_network_space, {"t01": t / schedule.t_max}

    return per_example(loss)


def _curve(run: Any, losses_of: Losses) -> Callable[[PyTree, Example], dict[str, Any]]:
    """(params, examples) -> {"mean", "std" of one draw, "bins"} over REPEATS passes with fixed keys."""
    bins = run.settings.time_bins

    @jax.jit
    def one_pass(params: PyTree, batch: Example, key: Any) -> tuple[Array, Array]:
        batch = coupled(run, key, batch)
        size = size_of(batch)
        losses, aux = losses_of(params, key, batch, jnp.arange(size, dtype=jnp.int32), size)
        return losses, aux["t01"]

    def curve(params: PyTree, examples: Example) -> dict[str, Any]:
        passes = [one_pass(params, examples, jax.random.key(i)) for i in range(REPEATS)]
        losses, t01 = (np.concatenate([np.asarray(p[i], np.float64) for p in passes]) for i in range(2))
        at = np.minimum((t01 * bins).astype(int), bins - 1)
        total, count = np.bincount(at, losses, bins), np.bincount(at, minlength=bins)
        means = [float(s / c) if c else None for s, c in zip(total, count)]
        return {"mean": float(losses.mean()), "std": float(losses.std()), "bins": means}

    return curve


def coupled(run: Any, key: Key, batch: Example) -> Example:
    """Gives examples the noise "z" of the run's coupling, if it has one: to as many whole batches as there are."""
    prepare = run.method.prepare
    if prepare is None or "z" not in jax.eval_shape(lambda: prepare.apply(prepare.init(), key, batch)).chosen:
        return batch
    size = min(run.settings.batch_size, len(batch.x))
    count = len(batch.x) // size
    parts = jax.tree.map(lambda a: a[: count * size].reshape(count, size, *a.shape[1:]), batch)
    keys = jax.random.split(jax.random.fold_in(key, 2), count)
    z = jax.lax.map(lambda part: prepare.apply(prepare.init(), *part).chosen["z"], (keys, parts))
    return jax.tree.map(lambda a: a.reshape(count * size, *a.shape[2:]), parts.choose(z=z))


def gaussian_fit(dataset: Any) -> analytic.GaussianMixture:
    """Fits a Gaussian to the training data."""
    x = dataset.train.gather(np.arange(min(len(dataset.train), FITTED))).x
    flat = x.reshape(len(x), -1).astype(np.float64)
    cov = np.cov(flat.T).reshape(1, flat.shape[1], flat.shape[1])
    return analytic.gaussian_mixture([1.0], flat.mean(0).reshape(1, *x.shape[1:]), cov)


def walk(run: Any, drawn: Drawn) -> Section:
    """Shows the walk from noise to data, x_t at ten of its times, and the schedule with the grid."""
    of, trajectory = run.method.parts, drawn.trajectory
    ts, steps = of.grid(of.schedule), trajectory.shape[1]
    rows = np.unique(np.linspace(0, steps - 1, FRAMES).astype(int))
    ts = ts[len(ts) - 1 - steps :] if len(ts) - 1 > steps else ts  # a step without a row
    times = [ts[min(int((row + 1) * (len(ts) - 1) / steps + 0.5), len(ts) - 1)] for row in rows]
    path = trajectory[:SHOWN, rows].swapaxes(0, 1)
    given = {name: part[: path.shape[1]] for name, part in drawn.given.items()}
    path = np.stack([np.asarray(jax.vmap(of.process.place, (0, 0, None))(u, given, t)) for u, t in zip(path, times)])
    fine = np.linspace(0, float(of.schedule.t_max), 400)
    figures = (
        Figure("filmstrip", "filmstrip", (path, times)),
        Figure("schedule", "schedule", (fine, *amplitudes(of.schedule, fine), ts)),
    )
    text = """## From noise to data

![filmstrip](figures/filmstrip.png)

![schedule](figures/schedule.png)
"""
    return Section({}, text, figures)
