"""Accuracy by class, coverage and Frechet distance against the scale: guidance without and with a classifier.

    python -m diffjax.main --config=configs/guidance.py --workdir=runs/guidance
    python experiments/guidance/scales.py --workdir=runs/guidance --out=runs/guidance/scales [--smoke]

Both guide the same network: the one from its conditional and unconditional branches, the other its unconditional branch
by a noise-aware classifier, which is trained here on the same 1500 digits. Writes results.json, table.md, figure.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from diffjax.commands.experiment import Experiment, denoiser_of, plan, seed_inputs
from jax.tree_util import Partial

from diffjax import data, denoisers, ema, models, parallel, training
from diffjax.commands.evaluate import class_accuracy, judge
from diffjax.commands.sample import restore, served
from diffjax.denoisers import guidance

SCALES = {"classifier-free": (0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0), "classifier": (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)}
STEPS, SAMPLES, CHUNK = 1500, 891, 99


def main() -> None:
    """Trains the classifier, samples at every scale, judges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="few steps and scales")
    args = parser.parse_args()
    experiment, state, _ = restore(args.workdir)
    params, count = served(experiment, state, args.workdir), 297 if args.smoke else SAMPLES
    classifier = train_classifier(experiment, 20 if args.smoke else STEPS)
    accuracy = classifier_accuracy(experiment, classifier)
    print("classifier, held-out accuracy by sigma / alpha:", accuracy, flush=True)
    null, results = experiment.config.model.classes, {"classifier accuracy": accuracy}
    chain = plan(experiment.config, experiment.schedule).chain
    branch = lambda label: denoiser_of(experiment, params, label, chain)
    makers = {
        "classifier-free": lambda label, w: guidance.classifier_free(branch, label, jnp.int32(null), w),
        "classifier": lambda label, w: guidance.tilted(branch(jnp.int32(null)), classifier(label), w),
    }
    for name, make in makers.items():
        draw, results[name] = sampler_of(experiment, make), {}
        for w in SCALES[name][:2] if args.smoke else SCALES[name]:
            samples = draw(w, count)
            metrics, _, passed = judge(experiment, samples)
            row = {
                "accuracy": class_accuracy(experiment, samples)["value"],
                "coverage": metrics["coverage, k = 5"]["value"],
                "frechet": metrics["Frechet distance"]["value"],
                "gate": passed,
            }
            results[name][w] = row
            print(name, w, row, flush=True)
    results["floor"] = {
        "accuracy": class_accuracy(experiment, samples)["floor"],
        "coverage": metrics["coverage, k = 5"]["floor"],
        "frechet": metrics["Frechet distance"]["floor"],
    }
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(table(results))
    figure(results, out / "figure.png")


def train_classifier(experiment: Experiment, steps: int) -> Any:
    """label -> its potential: a network trained at all noise levels alike."""
    network = models.network(models.Classifier(classes=10, channels=16))
    schedule, process = experiment.schedule, experiment.process
    params = models.init(network, jax.random.key(1), experiment.dataset.shape)
    of = lambda params, label, **options: denoisers.Classifier(
        Partial(lambda params, x, c: network.apply(params, x, c, **options), params), schedule, label
    )

    def loss(params: Any, keys: Any, example: Any, index: Any, size: int) -> Any:
        t = experiment.times(keys, index, size)
        z = process.noise(jax.random.fold_in(keys.example, 1), example["x"])
        value = denoisers.cross_entropy(of(params, example["label"]), process, example["x"], z, t)
        return value, {"t01": t / schedule.t_max}

    optimizer, emas = optax.adamw(optax.cosine_decay_schedule(2e-3, steps), weight_decay=0.05), ema.warm_up([0.99])
    step = jax.jit(training.make_step(loss, optimizer, emas), donate_argnums=0)
    state = training.init_state(params, optimizer, emas, jax.random.key(2))
    for i in range(steps):
        batch = data.batch_at(experiment.dataset.train, 128, 0, i)
        state, _ = step(state, {name: jnp.asarray(value) for name, value in batch.items()})
    trained = state.ema.averages["0.99"]
    return lambda label: of(trained, label)


def classifier_accuracy(experiment: Experiment, classifier: Any) -> dict[str, float]:
    """On held-out digits at five noise levels."""
    held_out = experiment.dataset.held_out.gather(np.arange(len(experiment.dataset.held_out)))
    found = {}
    for level in (0.1, 0.5, 1.0, 2.0, 5.0):
        t = experiment.schedule.inverse(-2 * np.log(level))
        z = jax.random.normal(jax.random.key(3), held_out["x"].shape)
        x = jax.vmap(lambda x, z: experiment.process.corrupt(x, z, t))(held_out["x"], z)  # noqa: B023
        read = jax.vmap(lambda x: jnp.argmax(classifier(0).logits(x, t)))(x)  # noqa: B023
        found[str(level)] = float(np.mean(np.asarray(read) == held_out["label"]))
    return found


def sampler_of(experiment: Experiment, make: Any) -> Any:
    """(w, n) -> samples of seeds 0 .. n - 1, each asked for the label seed mod 10."""

    def one(shared: Any, own: Any) -> Any:
        (w, request), (key, label) = shared, own
        key_prior, key_walk = jax.random.split(key)
        x = experiment.process.prior(key_prior, experiment.dataset.shape, request.start)
        return request.walk(make(label, w), key_walk, x)

    chunked = parallel.map_chunks(jax.vmap(one, in_axes=(None, 0)), CHUNK)
    request = plan(experiment.config, experiment.schedule)
    return lambda w, n: chunked((jnp.float32(w), request), seed_inputs(experiment, range(n)))


def table(results: dict) -> str:
    """Markdown."""
    lines = ["| guidance | w | class accuracy | coverage | Frechet | gate |", "|---|---|---|---|---|---|"]
    for name in SCALES:
        for w, row in results[name].items():
            gate = "pass" if row["gate"] else "fail"
            lines.append(
                f"| {name} | {w:g} | {row['accuracy']:.3f} | {row['coverage']:.3f} | {row['frechet']:.2f} | {gate} |"
            )
    floor = results["floor"]
    lines.append(f"| real digits | | {floor['accuracy']:.3f} | {floor['coverage']:.3f} | {floor['frechet']:.2f} | |")
    return "\n".join(lines) + "\n"


def figure(results: dict, path: Path) -> None:
    """One panel per measure, both guidances over their scale, the floor dashed."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 3.2), layout="constrained")
    for ax, measure in zip(drawing.subplots(1, 3), ("accuracy", "coverage", "frechet")):
        for name in SCALES:
            ax.plot(list(results[name]), [row[measure] for row in results[name].values()], "o-", ms=3, label=name)
        ax.axhline(results["floor"][measure], color="gray", ls="--", lw=1, label="real digits")
        ax.set(title=measure, xlabel="w", xscale="symlog")
        if measure == "frechet":
            ax.set_yscale("log")
    drawing.axes[0].legend(fontsize=8)
    drawing.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
