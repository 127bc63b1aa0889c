"""Judges a run on held-out data, each number beside its floor and a Gaussian-fit baseline, and writes the report."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

<<<<<<< HEAD
from diffjax import analytic, data, runs
=======
from diffjax import analytic, data, parallel, runs
from diffjax.calculus import amplitudes
>>>>>>> 888f1d2
from diffjax.commands import codelength
from diffjax.commands.sample import as_overrides, require_workdir
from diffjax.config import Config
from diffjax.method import Example, size_of
from diffjax.methods import Denoising
from diffjax.methods.denoising import validation
from diffjax.metrics import digits, gate, neighbours, wasserstein
from diffjax.runs import Run
from diffjax.runs import workdir as files
from diffjax.runs.checks import chosen
from diffjax.runs.draws import held_out as held_out_of
from diffjax.types import Array, Key, PyTree

REPEATS = 16  # noise draws per example in the loss by time
SHOWN, FRAMES = 64, 10
MOST = 2000  # examples that metrics between all pairs look at


def main(config: Config | None, overrides: list[str], flags: Namespace) -> None:
    """The command line's entry."""
    require_workdir(flags)
    changes = as_overrides(flags.sampler, flags.nfe, overrides)
    found = runs.open(flags.workdir, step=flags.step, overrides=changes)
    asked = changes if flags.step is None else [f"step={flags.step}", *changes]
    own = Path(flags.workdir, "eval", files.named(asked)) if asked else None  # the run's own report stays what it was
    run(flags.workdir, run=found, out=flags.out or own)


def run(workdir: str | Path, *, run: Run | None = None, out: str | Path | None = None) -> dict[str, Any]:
    """Evaluates the EMA of a run and writes report.md, eval.json and figures/.

    Args:
        workdir: of a training run.
        run: if it is at hand; default that of the newest good checkpoint.
        out: the folder for these; default the workdir. From the command line, WORKDIR/eval/<what was changed>.

    Returns:
        What eval.json holds: step, loss by time, metrics with floors and baselines, and the gate's verdict
        (None for data that has no gate).
    """
    workdir, run = Path(workdir), run or runs.open(workdir)
    out = Path(out or workdir)
    out.mkdir(parents=True, exist_ok=True)
    of, params, config = run.denoising("A report"), run.params, run.config
    seeds = range(config.eval.samples)
    given = run.given(seeds)
    samples, trajectory = run.drawer(trace=visible)(params, seeds, given)
    losses = loss_by_time(run, of, params)
    bits = codelength.measure(run, of, params)
    measured, table, passed = judge(run, samples, paired=bool(of.process.asks))
    for section in (class_accuracy, pair_error):
        named, found, text = section(run, of, samples, given)
        if found:
            measured[named], table = found, table + text
    _figures(out / "figures", workdir, run, of, samples, trajectory, losses, given)
    results = {
        "step": run.step,
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
    files.write_atomically(out / "report.md", _report(run, results, table))
    print(f"{table}\n{out / 'report.md'}", flush=True)
    return results


def visible(state: Any) -> Array:
    """The x of a sampler's state."""
    return getattr(state, "x", state)


def judge(run: Run, samples: np.ndarray, paired: bool = False) -> tuple[dict[str, Any], str, bool | None]:
    """Metrics beside floors and baselines, the same as Markdown, and the gate's verdict (None: there is no gate).

    Args:
        paired: samples lie near the very held-out examples, so that no gate is fair.
    """
    everything = lambda source: source.gather(np.arange(min(len(source), MOST)))["x"]
    train, held_out = everything(run.data.train), everything(run.data.held_out)
    if run.data.name == "digits" and not paired:
        report = gate.evaluate_digits(samples, train, held_out)
        return report.as_dict(), report.table(), report.passed
    n = min(len(samples), len(held_out), len(train))
    fakes = {"value": samples, "floor": train, "gaussian": gate.fit_gaussian(train, n, np.random.default_rng(0))}
    measured = {column: _distances(fake[:n], held_out[:n]) for column, fake in fakes.items()}
    metrics = {name: {column: measured[column][name] for column in fakes} for name in measured["value"]}
    rows = [f"| {name} | " + " | ".join(f"{row[c]:.4f}" for c in fakes) + " |" for name, row in metrics.items()]
    head = ["| metric | value | floor | Gaussian fit |", "|---|---|---|---|"]
    return metrics, "\n".join([*head, *rows, "", f"At n = {n}; there is no gate for this.", ""]), None


def class_accuracy(run: Run, of: Denoising, samples: np.ndarray, given: dict) -> tuple[str, dict[str, float], str]:
    """How often the evaluation classifier reads the label that a sample was asked for, and a real digit's own."""
    if "label" not in given or run.data.name != "digits":
        return "class accuracy", {}, ""
    held_out = run.data.held_out.gather(np.arange(len(run.data.held_out)))
    share = lambda images, labels: float(np.mean(digits.read(images).logits.argmax(-1) == labels))
    found = {"value": share(samples, given["label"]), "floor": share(held_out["x"], held_out["label"])}
    text = (
        f"\nThe classifier reads the label asked for in {found['value']:.3f} of the samples; "
        f"in {found['floor']:.3f} of real digits their own.\n"
    )
    return "class accuracy", found, text


def pair_error(run: Run, of: Denoising, samples: np.ndarray, given: dict) -> tuple[str, dict[str, float], str]:
    """Mean squared error, to the held-out examples that they stand for, of samples and of the images they are given."""
    x = held_out_of(run.data, range(len(samples)))["x"]
    images = {name: given[name] for name in of.process.asks if given[name].shape == x.shape}
    error = lambda other: float(np.mean((other - x) ** 2))
    found = {"value": error(samples), "endpoint": error(images["y"])} if images else {}
    text = images and (
        f"\nMean squared error to the held-out example that the endpoint was made of: {found['value']:.4f}; "
        f"of the endpoint itself {found['endpoint']:.4f}.\n"
    )
    return "squared error", found, text or ""


def _distances(fake: np.ndarray, real: np.ndarray) -> dict[str, float]:
    real_accuracy, fake_accuracy = neighbours.two_sample_accuracy(real, fake)
    return {
        "1-NN accuracy, real": real_accuracy,
        "1-NN accuracy, fake": fake_accuracy,
        "coverage, k = 5": neighbours.coverage(real, fake, 5),
        "exact W2": wasserstein.exact(fake, real),
        "sliced W2": wasserstein.sliced(fake, real),
    }


def loss_by_time(run: Run, of: Denoising, params: PyTree) -> dict[str, Any]:
    """The regression loss by t / t_max: on held-out data; on as much training data, its floor; of a Gaussian fit.

    The same noise and times serve all three, so that their differences are not noise.
    """
    dataset, bins = run.data, run.settings.time_bins
    n = min(len(dataset.held_out), 2048)
    held_out, train = (data.example(source.gather(np.arange(n))) for source in (dataset.held_out, dataset.train))
    network = _losses(run, of, validation(of, of.mean_denoiser))
    fit = gaussian_fit(run).denoiser(of.schedule)
    gaussian = _losses(run, of, validation(of, lambda params, given: fit))
    curves = {
        "held out": network(params, held_out),
        "train": network(params, train),
        "Gaussian fit": gaussian(params, held_out),
    }
    return {"edges": np.linspace(0, 1, bins + 1).tolist(), **curves}


def _losses(run: Run, of: Denoising, losses_of: Any) -> Any:
    """(params, examples) -> {"mean", "std" of one draw, "bins"} over REPEATS passes with fixed keys."""
    bins = run.settings.time_bins

    @jax.jit
    def one_pass(params: PyTree, batch: Example, key: Any) -> tuple[Array, Array]:
        batch = coupled(run, of, key, batch)
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


def coupled(run: Run, of: Denoising, key: Key, batch: Example) -> Example:
    """With the noise "z" that the run's coupling gives, if it has one: as many whole training batches as there are."""
    prepare = run.method.prepare
    if prepare is None or "z" not in chosen(of, run.data):
        return batch
    size = min(run.settings.batch_size, len(batch.x))
    count = len(batch.x) // size
    parts = jax.tree.map(lambda a: a[: count * size].reshape(count, size, *a.shape[1:]), batch)
    keys = jax.random.split(jax.random.fold_in(key, 2), count)
    z = jax.lax.map(lambda part: prepare.apply(prepare.init(), *part).chosen["z"], (keys, parts))
    return jax.tree.map(lambda a: a.reshape(count * size, *a.shape[2:]), parts.choose(z=z))


def gaussian_fit(run: Run) -> analytic.GaussianMixture:
    """A Gaussian fitted to the training data: its posterior mean is the best linear denoiser."""
    train = run.data.train
    x = train.gather(np.arange(min(len(train), 10_000)))["x"]
    flat = x.reshape(len(x), -1).astype(np.float64)
    cov = np.cov(flat.T).reshape(1, flat.shape[1], flat.shape[1])
    return analytic.gaussian_mixture([1.0], flat.mean(0).reshape(1, *x.shape[1:]), cov)


def _figures(
    folder: Path,
    workdir: Path,
    run: Run,
    of: Denoising,
    samples: Any,
    trajectory: Any,
    losses: dict[str, Any],
    given: dict[str, Any],
) -> None:
    from diffjax import plots

    real = run.data.held_out.gather(np.arange(min(SHOWN, len(run.data.held_out))))["x"]
    told = {name: part[:SHOWN] for name, part in given.items()}
    images = {f"given {name}": part for name, part in told.items() if part.shape[1:] == run.data.shape}
    plots.samples(folder / "samples.png", {**images, "samples": samples[:SHOWN], "held out": real})
    ts = of.grid(of.schedule)
    rows = np.unique(np.linspace(0, trajectory.shape[1] - 1, FRAMES).astype(int))
    ts = ts[len(ts) - 1 - trajectory.shape[1] :] if len(ts) - 1 > trajectory.shape[1] else ts  # a step without a row
    times = [ts[min(int((row + 1) * (len(ts) - 1) / trajectory.shape[1] + 0.5), len(ts) - 1)] for row in rows]
    path = trajectory[: SHOWN // 8, rows].swapaxes(0, 1)
    first = {name: part[: path.shape[1]] for name, part in told.items()}
    path = np.stack([np.asarray(jax.vmap(of.process.place, (0, 0, None))(u, first, t)) for u, t in zip(path, times)])
    plots.filmstrip(folder / "filmstrip.png", path, times)
    curves = {name: [np.nan if v is None else v for v in losses[name]["bins"]] for name in losses if name != "edges"}
    plots.loss_by_time(folder / "loss_by_time.png", losses["edges"], curves)
    fine = np.linspace(0, float(of.schedule.t_max), 400)
    plots.schedule(folder / "schedule.png", fine, *amplitudes(of.schedule, fine), ts)
    if logged := files.read_metrics(workdir):
        steps = [line["step"] for line in logged]
        kept = {
            name: [np.nan if line[name] is None else line[name] for line in logged] for name in ("loss", "grad_norm")
        }
        plots.training_curve(folder / "training.png", steps, kept)


def _report(run: Run, results: dict[str, Any], table: str) -> str:
    config, losses, data = run.config, results["loss_by_time"], run.data
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
