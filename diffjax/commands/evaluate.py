"""Judges a run on held-out data, each number beside its floor and a Gaussian-fit baseline, and writes the report."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import analytic, parallel, training
from diffjax.commands import codelength
from diffjax.commands import workdir as files
from diffjax.commands.checks import prepared_one
from diffjax.commands.experiment import (
    Experiment,
    endpoint_of,
    held_out_pairs,
    mean_denoiser,
    seed_inputs,
)
from diffjax.commands.sample import as_overrides, drawer, require_workdir, restore, served
from diffjax.config import Config
from diffjax.metrics import digits, gate, neighbours, wasserstein
from diffjax.processes.path import ends
from diffjax.schedules import amplitudes
from diffjax.types import Array, Key, PyTree

REPEATS = 16  # noise draws per example in the loss by time
SHOWN, FRAMES = 64, 10
MOST = 2000  # examples that metrics between all pairs look at


def main(config: Config | None, overrides: list[str], flags: Namespace) -> None:
    """The command line's entry."""
    require_workdir(flags)
    changes = as_overrides(flags.sampler, flags.nfe, overrides)
    experiment, state, _ = restore(flags.workdir, step=flags.step, overrides=changes)
    asked = changes if flags.step is None else [f"step={flags.step}", *changes]
    own = Path(flags.workdir, "eval", files.named(asked)) if asked else None  # the run's own report stays what it was
    run(flags.workdir, experiment=experiment, state=state, out=flags.out or own)


def run(
    workdir: str | Path,
    *,
    experiment: Experiment | None = None,
    state: Any = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluates the EMA of a run and writes report.md, eval.json and figures/.

    Args:
        workdir: of a training run.
        experiment, state: if they are at hand; default the run's newest good checkpoint.
        out: the folder for these; default the workdir. From the command line, WORKDIR/eval/<what was changed>.

    Returns:
        What eval.json holds: step, loss by time, metrics with floors and baselines, and the gate's verdict
        (None for data that has no gate).
    """
    workdir = Path(workdir)
    out = Path(out or workdir)
    out.mkdir(parents=True, exist_ok=True)
    if experiment is None or state is None:
        experiment, state, _ = restore(workdir)
    experiment = experiment.learned(state)
    params, config = served(experiment, state, workdir), experiment.config
    draw = drawer(experiment, parallel.mesh(), trace=visible)
    samples, trajectory = draw(params, range(config.eval.samples))
    losses = loss_by_time(experiment, params)
    bits = codelength.measure(experiment, params)
    measured, table, passed = judge(experiment, samples)
    if experiment.conditional and experiment.dataset.name == "digits":
        measured["class accuracy"] = accuracy = class_accuracy(experiment, samples)
        table += (
            f"\nThe classifier reads the label asked for in {accuracy['value']:.3f} of the samples; "
            f"in {accuracy['floor']:.3f} of real digits their own.\n"
        )
    if experiment.bridge and not experiment.bridge.from_noise:
        measured["squared error"] = error = pair_error(experiment, samples)
        table += (
            f"\nMean squared error to the held-out example that the endpoint was made of: {error['value']:.4f}; "
            f"of the endpoint itself {error['endpoint']:.4f}.\n"
        )
    _figures(out / "figures", workdir, experiment, samples, trajectory, losses)
    results = {
        "step": int(state.step),
        "samples": len(samples),
        "sampler": config.sampler.to_dict(),
        "grid": config.grid.to_dict(),
        "held_out_loss": losses["held out"]["mean"],
        "loss_by_time": losses,
        "bits_per_dimension": bits,
        "metrics": measured,
        "gate": passed,
    }
    files.write_atomically(out / "eval.json", json.dumps(results, indent=2))
    files.write_atomically(out / "report.md", _report(experiment, results, table))
    print(f"{table}\n{out / 'report.md'}", flush=True)
    return results


def visible(state: Any) -> Array:
    """The x of a sampler's state."""
    return getattr(state, "x", state)


def judge(experiment: Experiment, samples: np.ndarray) -> tuple[dict[str, Any], str, bool | None]:
    """Metrics beside floors and baselines, the same as Markdown, and the gate's verdict (None: there is no gate)."""
    everything = lambda source: source.gather(np.arange(min(len(source), MOST)))["x"]
    train, held_out = everything(experiment.dataset.train), everything(experiment.dataset.held_out)
    paired = experiment.bridge and not experiment.bridge.from_noise  # its samples lie near the very held-out examples
    if experiment.dataset.name == "digits" and not paired:
        report = gate.evaluate_digits(samples, train, held_out)
        return report.as_dict(), report.table(), report.passed
    n = min(len(samples), len(held_out), len(train))
    fakes = {"value": samples, "floor": train, "gaussian": gate.fit_gaussian(train, n, np.random.default_rng(0))}
    measured = {column: _distances(fake[:n], held_out[:n]) for column, fake in fakes.items()}
    metrics = {name: {column: measured[column][name] for column in fakes} for name in measured["value"]}
    rows = [f"| {name} | " + " | ".join(f"{row[c]:.4f}" for c in fakes) + " |" for name, row in metrics.items()]
    head = ["| metric | value | floor | Gaussian fit |", "|---|---|---|---|"]
    return metrics, "\n".join([*head, *rows, "", f"At n = {n}; there is no gate for this.", ""]), None


def class_accuracy(experiment: Experiment, samples: np.ndarray) -> dict[str, float]:
    """How often the evaluation classifier reads the label that a sample was asked for, and a real digit's own."""
    held_out = experiment.dataset.held_out.gather(np.arange(len(experiment.dataset.held_out)))
    asked = seed_inputs(experiment, range(len(samples)))[1]
    share = lambda images, labels: float(np.mean(digits.read(images).logits.argmax(-1) == labels))
    return {"value": share(samples, asked), "floor": share(held_out["x"], held_out["label"])}


def pair_error(experiment: Experiment, samples: np.ndarray) -> dict[str, float]:
    """Mean squared error of the samples of seeds 0, 1, ... and of their endpoints to the examples they came from."""
    pairs = held_out_pairs(experiment, range(len(samples)))
    return {
        "value": float(np.mean((samples - pairs["x"]) ** 2)),
        "endpoint": float(np.mean((pairs["y"] - pairs["x"]) ** 2)),
    }


def _distances(fake: np.ndarray, real: np.ndarray) -> dict[str, float]:
    real_accuracy, fake_accuracy = neighbours.two_sample_accuracy(real, fake)
    return {
        "1-NN accuracy, real": real_accuracy,
        "1-NN accuracy, fake": fake_accuracy,
        "coverage, k = 5": neighbours.coverage(real, fake, 5),
        "exact W2": wasserstein.exact(fake, real),
        "sliced W2": wasserstein.sliced(fake, real),
    }


def loss_by_time(experiment: Experiment, params: PyTree) -> dict[str, Any]:
    """The regression loss by t / t_max: on held-out data; on as much training data, its floor; of a Gaussian fit.

    The same noise and times serve all three, so that their differences are not noise.
    """
    dataset, bins = experiment.dataset, experiment.config.eval.time_bins
    n = min(len(dataset.held_out), 2048)
    held_out, train = (source.gather(np.arange(n)) for source in (dataset.held_out, dataset.train))
    network = _losses(experiment, regression(experiment, mean_denoiser(experiment)))
    fit = gaussian_fit(experiment).denoiser(experiment.schedule)
    gaussian = _losses(experiment, regression(experiment, lambda params, label, y=None: fit))
    curves = {
        "held out": network(params, held_out),
        "train": network(params, train),
        "Gaussian fit": gaussian(params, held_out),
    }
    return {"edges": np.linspace(0, 1, bins + 1).tolist(), **curves}


def _losses(experiment: Experiment, one: Any) -> Any:
    """(params, examples) -> {"mean", "std" of one draw, "bins"} over REPEATS passes with fixed keys."""
    bins = experiment.config.eval.time_bins

    @jax.jit
    def one_pass(params: PyTree, batch: PyTree, key: Any) -> tuple[Array, Array]:
        batch = coupled(experiment, key, batch)
        size = jax.tree.leaves(batch)[0].shape[0]
        losses, aux = training.batch_losses(one, params, key, batch, jnp.arange(size, dtype=jnp.int32), size)
        return losses, aux["t01"]

    def curve(params: PyTree, examples: PyTree) -> dict[str, Any]:
        passes = [one_pass(params, examples, jax.random.key(i)) for i in range(REPEATS)]
        losses, t01 = (np.concatenate([np.asarray(p[i], np.float64) for p in passes]) for i in range(2))
        at = np.minimum((t01 * bins).astype(int), bins - 1)
        total, count = np.bincount(at, losses, bins), np.bincount(at, minlength=bins)
        means = [float(s / c) if c else None for s, c in zip(total, count)]
        return {"mean": float(losses.mean()), "std": float(losses.std()), "bins": means}

    return curve


def coupled(experiment: Experiment, key: Key, batch: PyTree) -> PyTree:
    """With the noise "z" that the run's coupling gives, if it has one: as many whole training batches as there are."""
    prepare = experiment.prepare
    if prepare is None or "z" not in prepared_one(experiment):
        return batch
    size = min(experiment.config.train.batch_size, len(batch["x"]))
    count = len(batch["x"]) // size
    parts = jax.tree.map(lambda a: a[: count * size].reshape(count, size, *a.shape[1:]), batch)
    keys = jax.random.split(jax.random.fold_in(key, 2), count)
    parts = {**parts, "z": jax.lax.map(lambda part: prepare.apply(prepare.init(), *part)["z"], (keys, parts))}
    return jax.tree.map(lambda a: a.reshape(count * size, *a.shape[2:]), parts)


def gaussian_fit(experiment: Experiment) -> analytic.GaussianMixture:
    """A Gaussian fitted to the training data: its posterior mean is the best linear denoiser."""
    train = experiment.dataset.train
    x = train.gather(np.arange(min(len(train), 10_000)))["x"]
    flat = x.reshape(len(x), -1).astype(np.float64)
    cov = np.cov(flat.T).reshape(1, flat.shape[1], flat.shape[1])
    return analytic.gaussian_mixture([1.0], flat.mean(0).reshape(1, *x.shape[1:]), cov)


def regression(experiment: Experiment, denoise: Any) -> Any:
    """The weighted regression loss of `denoise(params, label, endpoint)`'s mean, whatever the training loss was."""
    schedule, target = experiment.schedule, experiment.target

    def loss(
        params: PyTree, keys: Any, example: PyTree, index: Array, batch_size: int
    ) -> tuple[Array, dict[str, Array]]:
        t, x = experiment.times(keys, index, batch_size), example["x"]
        key_noise, _ = jax.random.split(jax.random.fold_in(keys.example, 1))
        z = example["z"] if "z" in example else experiment.process.noise(key_noise, x)
        x_t, (aim, _) = experiment.process.corrupt(x, z, t), ends(experiment.process, x, z, t)
        y = endpoint_of(experiment, jax.random.fold_in(keys.example, 4), example)
        error = jnp.mean((denoise(params, example.get("label"), y)(x_t, t).mean - aim) ** 2)
        in_network_space = error / target.skip_out(schedule, t)[1] ** 2
        return experiment.weight(schedule, target, t) * in_network_space, {"t01": t / schedule.t_max}

    return loss


def _figures(
    folder: Path, workdir: Path, experiment: Experiment, samples: Any, trajectory: Any, losses: dict[str, Any]
) -> None:
    from diffjax import grids, plots
    from diffjax.config import build

    real = experiment.dataset.held_out.gather(np.arange(min(SHOWN, len(experiment.dataset.held_out))))["x"]
    groups = {"samples": samples[:SHOWN], "held out": real}
    ends = seed_inputs(experiment, range(SHOWN))[2:]
    plots.samples(folder / "samples.png", {"endpoints": ends[0], **groups} if ends else groups)
    ts = build(grids, experiment.config.grid, experiment.schedule)
    rows = np.unique(np.linspace(0, trajectory.shape[1] - 1, FRAMES).astype(int))
    ts = ts[len(ts) - 1 - trajectory.shape[1] :] if len(ts) - 1 > trajectory.shape[1] else ts  # a bridge's first step
    times = [ts[min(int((row + 1) * (len(ts) - 1) / trajectory.shape[1] + 0.5), len(ts) - 1)] for row in rows]
    path = trajectory[: SHOWN // 8, rows].swapaxes(0, 1)
    if ends and experiment.bridge:  # the walk is that of u
        path = np.stack([np.asarray(experiment.bridge.placed(u, ends[0][: len(u)], t)) for u, t in zip(path, times)])
    plots.filmstrip(folder / "filmstrip.png", path, times)
    curves = {name: [np.nan if v is None else v for v in losses[name]["bins"]] for name in losses if name != "edges"}
    plots.loss_by_time(folder / "loss_by_time.png", losses["edges"], curves)
    fine = np.linspace(0, float(experiment.schedule.t_max), 400)
    plots.schedule(folder / "schedule.png", fine, *amplitudes(experiment.schedule, fine), ts)
    if logged := files.read_metrics(workdir):
        steps = [line["step"] for line in logged]
        kept = {
            name: [np.nan if line[name] is None else line[name] for line in logged] for name in ("loss", "grad_norm")
        }
        plots.training_curve(folder / "training.png", steps, kept)


def _report(experiment: Experiment, results: dict[str, Any], table: str) -> str:
    config, losses, data = experiment.config, results["loss_by_time"], experiment.dataset
    rows = zip(
        losses["edges"], losses["edges"][1:], *(losses[k]["bins"] for k in ("held out", "train", "Gaussian fit"))
    )
    shown = lambda v: "-" if v is None else f"{v:.4f}"
    by_time = "\n".join(f"| {a:.1f} - {b:.1f} | {shown(h)} | {shown(t)} | {shown(g)} |" for a, b, h, t, g in rows)
    means, stds = (
        " | ".join(shown(losses[k][what]) for k in ("held out", "train", "Gaussian fit")) for what in ("mean", "std")
    )
    sizes = f"{len(data.train)} training and {len(data.held_out)} held-out examples of {data.name}"
    how = f"{config.sampler.name} on the {config.grid.name} grid of {config.grid.n} steps"
    return f"""# {config.name}: step {results["step"]}

{sizes} (split {data.fingerprint}); {results["samples"]} samples of EMA {config.sample.ema} by {how}.

![samples](figures/samples.png)

## Verdict

{table}

## Loss by time

| t / t_max | held out | train (floor) | Gaussian fit |
|---|---|---|---|
{by_time}
| all | {means} |
| standard deviation of one draw | {stds} |

![loss by time](figures/loss_by_time.png) ![training](figures/training.png)

{codelength.table(results["bits_per_dimension"])}
## From noise to data

![filmstrip](figures/filmstrip.png)

![schedule](figures/schedule.png)
"""
