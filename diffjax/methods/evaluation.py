"""What a denoising run says of itself in its report: the loss by time, the variational bound, and the walk in pictures.

The regression loss stands beside that on as much training data, its floor, and that of a Gaussian fitted to the data,
whose posterior mean is the best linear denoiser; one noise and one time serve all three, so that differences are none
of the noise.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import analytic
from diffjax.calculus import amplitudes, axes
from diffjax.method import Drawn, Example, Figure, Keys, Losses, Section, attempt, merged, per_example, size_of
from diffjax.methods import bound
from diffjax.types import Array, Denoiser, Key, PyTree

REPEATS = 16  # noise draws per example in the loss by time,
NUMBERS = 2**24  # and fewer, down to one, where all draws would be of more numbers
TOGETHER = 2**23  # numbers of examples whose loss is taken together; of more in parts,
ENTRIES = 2**25  # and of no more numbers in all: 170 examples of 256 x 256 x 3
MOST, FITTED = 2048, 10_000  # examples whose loss is taken, and that the Gaussian is fitted to
LOOKED = 1024  # examples whose scale is looked at, and
DROWNED = 0.25  # the share of sigma(t_max) that may be left of them; of the configs here at most 0.13 is (VE, NCSN)
SHOWN, POINTS, FRAMES = 8, 512, 10  # walks that are drawn, of images or of points; their times


def report(run: Any, drawn: Drawn) -> list[Section]:
    """Makes the sections of a denoising run: losses, the bound, pictures."""
    return [
        *attempt("the loss by time", lambda: [losses(run)]),
        *attempt("the variational bound", lambda: [bound.section(run)]),
        *attempt("the walk", lambda: [walk(run, drawn)]),
    ]


def remarks(of: Any, dataset: Any) -> list[str]:
    """Says, a line each, what of a data set does not suit the parts of a denoising method."""
    rows = of.condition.none.get("label", getattr(of.network, "classes", None))
    return [*_unseen(rows, dataset), *_scale(of.schedule, dataset), *_flat(of, dataset.shape)]


def _unseen(classes: Any, dataset: Any) -> list[str]:
    if classes is None or dataset.classes is None or classes <= dataset.classes:
        return []
    return [
        f"the model has {classes} classes, {dataset.name} has {dataset.classes}: the others have no training example, "
        "and samples have such a label only if asked for"
    ]


def _flat(of: Any, shape: tuple[int, ...]) -> list[str]:
    """Looks where samples start: by relative positions alone no network leaves an image of one colour."""
    if getattr(of.network, "tells_places", True) or of.process.conditions or len(shape) < 2:
        return []
    x = np.asarray(of.process.leave(of.process.prior(jax.random.key(0), shape)))
    if np.ptp(x, axis=tuple(range(len(shape) - 1))).max() > 1e-5 * (1 + np.abs(x).max()):
        return []
    return [
        "samples start from an image of one colour, and this network's positions are relative, so that it gives all of "
        "its patches one answer: give the model positions=sincos, or urpe=true"
    ]


def _scale(schedule: Any, dataset: Any) -> list[str]:
    """Compares the data with the schedule: at t_max its noise has to drown it, since samples start from noise alone."""
    if axes(schedule):  # the process of such a schedule says itself where sampling starts
        return []
    found = data_scale(dataset)
    alpha, sigma = (float(a[0]) for a in amplitudes(schedule, np.asarray([float(schedule.t_max)])))
    if found is None or not alpha * found > DROWNED * sigma > 0:
        return []
    return [
        f"{dataset.name}: |mean| + sd is {found:.4g} at its largest entry, of which alpha(t_max) = {alpha:.4g} leaves "
        f"{alpha * found:.4g} beside the noise's sigma = {sigma:.4g}; samples start from the noise alone, beside the "
        "data: standardise it (data.npz: standardize=entries), or take a schedule that ends with more noise"
    ]


def data_scale(dataset: Any) -> float | None:
    """Measures |mean| + sd of training data at its largest entry, of LOOKED examples; None for tokens."""
    x = dataset.some("train", LOOKED if dataset.in_memory else LOOKED // 8).x
    if not np.issubdtype(x.dtype, np.floating):
        return None
    return float((np.abs(x.mean(0, dtype=np.float64)) + x.std(0, dtype=np.float64)).max())


def losses(run: Any) -> Section:
    """Measures the regression loss by t / t_max: on held-out data, on training data, of a Gaussian fit."""
    of = run.method.parts
    curves = loss_by_time(run)
    names, hidden = ("held out", "train", "Gaussian fit"), of.process.hidden
    edges = curves["edges"]
    alone = f"\nThere is no Gaussian fit: it would know {' and '.join(hidden)}, which the network is not told.\n"
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
{alone if hidden else ""}
![loss by time](figures/loss_by_time.png)

*The loss at each noise level: held-out data beside training data, its floor, and the best linear denoiser.*

![training](figures/training.png)

*Loss and gradient norm along the training.*
"""
    how = {"sampler": of.specs()["sampler"], "grid": of.specs()["grid"]}
    plotted = {name: [np.nan if v is None else v for v in curves[name]["bins"]] for name in names}
    figure = Figure("loss_by_time", "loss_by_time", (edges, plotted))
    results = {**how, "held_out_loss": curves["held out"]["mean"], "loss_by_time": curves}
    return Section(results, text, (figure,))


def loss_by_time(run: Any) -> dict[str, Any]:
    """Measures the three losses by bin of t / t_max: {"edges", and by name {"mean", "std" of one draw, "bins"}}."""
    of, dataset, params, bins = run.method.parts, run.data, run.params, run.settings.time_bins
    held_out = dataset.some("held_out", min(MOST, max(ENTRIES // int(np.prod(dataset.shape)), 1)))
    train = dataset.some("train", len(held_out.x))
    network = curve(run, validation(of, of.mean_denoiser))
    gaussian = curve(run, validation(of, lambda fit, given: fit.denoiser(of.schedule)))
    curves = {"held out": network(params, held_out), "train": network(params, train)}
    curves["Gaussian fit"] = {"mean": None, "std": None, "bins": [None] * bins}
    if not of.process.hidden:  # the fit would know what the process hides from a network
        with suppress(ValueError, MemoryError):  # of one example there is none
            curves["Gaussian fit"] = gaussian(gaussian_fit(dataset), held_out)
    return {"edges": np.linspace(0, 1, bins + 1).tolist(), **curves}


def validation(of: Any, denoise: Callable[[PyTree, dict], Denoiser]) -> Losses:
    """Makes the losses of `denoise(params, given)`'s mean: the weighted regression, whatever the training loss was."""
    process, schedule, target, times = of.process, of.schedule, of.target, of.times(of.schedule)

    def loss(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        t, x = times(keys, index, size), process.enter(example.x)
        key_noise, _ = jax.random.split(jax.random.fold_in(keys.example, 1))
        z = process.enter(example.chosen["z"]) if "z" in example.chosen else process.noise(key_noise, x)
        x_t, (aim, _) = process.corrupt(x, z, t), process.ends(x, z, t)
        given = process.given(jax.random.fold_in(keys.example, 4), example.given, x.shape, x)
        error, out = denoise(params, given)(x_t, t).mean - aim, target.skip_out(schedule, t)[1]
        if jnp.ndim(out):  # a frequency that is gone has no error
            error, out = jnp.where(out == 0, 0.0, error), jnp.where(out == 0, 1.0, out)
        in_network_space = error / out  # before the square, which of an almost lost frequency is above float32's range
        return jnp.mean(of.weight(schedule, target, t) * in_network_space**2), {"t01": t / schedule.t_max}

    return per_example(loss)


def curve(run: Any, losses_of: Losses) -> Callable[[PyTree, Example], dict[str, Any]]:
    """(params, examples) -> {"mean", "std" of one draw, "bins"} over passes with fixed keys, REPEATS or fewer."""
    bins, d = run.settings.time_bins, int(np.prod(run.data.shape))

    @jax.jit
    def one_pass(params: PyTree, batch: Example, key: Any) -> tuple[Array, Array]:
        batch = coupled(run, key, batch)
        size = size_of(batch)
        losses, aux = losses_of(params, key, batch, jnp.arange(size, dtype=jnp.int32), size)
        return losses, aux["t01"]

    @partial(jax.jit, static_argnums=4)
    def one_part(params: PyTree, batch: Example, key: Any, places: Array, size: int) -> tuple[Array, Array]:
        losses, aux = losses_of(params, key, batch, places, size)
        return losses, aux["t01"]

    def in_parts(params: PyTree, batch: Example, key: Any) -> list[np.ndarray]:
        batch = coupled(run, key, batch)
        size, width = size_of(batch), max(TOGETHER // d, 1)
        parts = []
        for start in range(0, size, width):
            at = np.minimum(np.arange(start, start + width), size - 1)  # the tail repeats the last example
            part = one_part(params, jax.tree.map(lambda a: a[at], batch), key, at.astype(np.int32), size)  # noqa: B023
            parts.append([np.asarray(a)[: size - start] for a in part])
        return [np.concatenate(column) for column in zip(*parts)]

    def curve(params: PyTree, examples: Example) -> dict[str, Any]:
        entries = len(examples.x) * d
        whole = one_pass if entries <= TOGETHER else in_parts
        repeats = min(REPEATS, max(NUMBERS // entries, 1))
        passes = [whole(params, examples, jax.random.key(i)) for i in range(repeats)]
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
    """Fits a Gaussian to training data: of many entries to fewer examples than those (`analytic.fitted_gaussian`)."""
    d = int(np.prod(dataset.shape))
    return analytic.fitted_gaussian(dataset.some("train", FITTED if d <= MOST else MOST).x)


def walk(run: Any, drawn: Drawn) -> Section:
    """Shows the walk from noise to data at ten of its times, x_t and E[x_0 | x_t], and the schedule with the grid."""
    of, trajectory = run.method.parts, drawn.trajectory
    ts, steps = of.grid(of.schedule), trajectory.shape[1]
    rows = np.unique(np.linspace(0, steps - 1, FRAMES).astype(int))
    ts = ts[len(ts) - 1 - steps :] if len(ts) - 1 > steps else ts  # a step without a row
    times = [ts[min(int((row + 1) * (len(ts) - 1) / steps + 0.5), len(ts) - 1)] for row in rows]
    walked = trajectory[: SHOWN if len(run.data.shape) > 1 else POINTS, rows].swapaxes(0, 1)
    given = {name: part[: walked.shape[1]] for name, part in drawn.given.items()}
    keys = jax.vmap(jax.random.key)(np.arange(walked.shape[1], dtype=np.uint32))  # seeds 0, 1, ... drew them
    given = jax.vmap(lambda key, given: of.completed(key, given, run.data.shape))(keys, given)
    path = [np.asarray(jax.vmap(of.process.place, (0, 0, None))(u, given, t)) for u, t in zip(walked, times)]
    seen: list[Any] = []
    told = attempt("x_0 along the walk", lambda: seen.append(estimates(run, walked, given, times)) or [])
    fine = np.linspace(0, float(of.schedule.t_max), 400)
    lowest = (a.reshape(len(fine), -1)[:, 0] for a in amplitudes(of.schedule, fine))
    figures = (
        Figure("filmstrip", "filmstrip", (np.stack(path), times, *seen)),
        Figure("schedule", "schedule", (fine, *lowest, ts)),
    )
    under = ", and under it what the network takes x_0 to be there" if any(e is not None for e in seen) else ""
    text = f"""## From noise to data

![filmstrip](figures/filmstrip.png)

*From left to right, x_t from noise to a sample{under}.*

![schedule](figures/schedule.png)

*Left: signal (alpha, of the lowest frequency if each has its own) and noise (sigma) in x_t; right: their ratio, stops.*
"""
    left = merged(told)
    return Section(left, text + "".join(section.text for section in told), figures)


def estimates(run: Any, walked: Any, given: dict[str, Any], times: Sequence[float]) -> np.ndarray | None:
    """Computes E[x_0 | x_t] by the mean denoiser where walks were, of walked's shape; None for parts without one.

    Args:
        walked: (frames, n, *shape) states of a walk, at `times`.
        given: what each walk was given, leaves (n, ...).
    """
    if (make := getattr(run.method.parts, "mean_denoiser", None)) is None:
        return None
    leave = run.method.parts.process.leave

    @jax.jit
    def means(params: PyTree, x: Any, given: dict[str, Any], t: Any) -> Array:
        return jax.vmap(lambda x, given: leave(make(params, given)(x, t).mean))(x, given)

    return np.stack([np.asarray(means(run.params, x, given, jnp.float32(t))) for x, t in zip(walked, times)])
