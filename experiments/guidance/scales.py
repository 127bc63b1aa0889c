"""Accuracy by class, coverage and Frechet distance against the scale: guidance without and with a classifier.

    python -m diffjax.main --config=configs/guidance.py --workdir=runs/guidance
    python experiments/guidance/scales.py --workdir=runs/guidance --out=runs/guidance/scales [--smoke]

Both guide the same network: the one from its conditional and unconditional branches, the other its unconditional branch
by a noise-aware classifier, which is trained here on the same 1500 digits. Writes results.json, table.md, figure.png.
OUT is a sweep's folder: what is there is not drawn again.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from diffjax import data, denoisers, ema, ending, models, runs, sweeps, training
from diffjax.denoisers import guidance
from diffjax.method import Drawn
from diffjax.metrics import judges

SCALES = {"classifier-free": (0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0), "classifier": (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)}
MEASURES = {"accuracy": "class accuracy", "coverage": "coverage, k = 5", "frechet": "Frechet distance"}
STEPS, SAMPLES, CHUNK = 1500, 891, 99


def main() -> None:
    """Trains the classifier, samples at every scale, judges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="few steps and scales")
    args = parser.parse_args()
    run, out = runs.open(args.workdir), Path(args.out)
    run.parts("guided_denoiser", "This study")
    classifier = train_classifier(run, 20 if args.smoke else STEPS)
    results: dict[str, Any] = {"classifier accuracy": classifier_accuracy(run, classifier)}
    print("classifier, held-out accuracy by sigma / alpha:", results["classifier accuracy"], flush=True)
    tilted = lambda branch, given, hidden, w: guidance.tilted(branch(hidden), classifier(given["label"]), w)
    guides = {"classifier-free": guidance.classifier_free, "classifier": tilted}
    every = {"eval.samples": 297 if args.smoke else SAMPLES, "sample.chunk": CHUNK}
    grids = [{"measure.by": by, "measure.w": SCALES[by][: 2 if args.smoke else None], **every} for by in guides]
    points, measure = sweeps.chain(*grids), partial(judged, guides)
    sweep = sweeps.Sweep(args.workdir, {}, evaluate=points, root=out, measure=measure).run()
    rows = sweep.table([*MEASURES, "gate", *(f"{measure} floor" for measure in MEASURES)]).rows
    for row in rows:
        results.setdefault(row["measure.by"], {})[row["measure.w"]] = {part: row[part] for part in (*MEASURES, "gate")}
    results["floor"] = {measure: rows[0][f"{measure} floor"] for measure in MEASURES}
    (out / "results.json").write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(table(results))
    figure(results, out / "figure.png")


def judged(guides: dict[str, Any], run: runs.Run, by: str, w: float) -> dict[str, Any]:
    """The measures of samples that are guided by one of `guides` at scale w, their floors, and the gate."""
    given = run.given(range(run.settings.samples))
    x = run.draw(run.settings.samples, given, guidance=partial(guides[by], w=w))
    verdict, labels = judges.digit_gate(Drawn(x, given), run.data)
    metrics = {**verdict.results["metrics"], **labels.results["metrics"]}
    values = {measure: metrics[title]["value"] for measure, title in MEASURES.items()}
    floors = {f"{measure} floor": metrics[title]["floor"] for measure, title in MEASURES.items()}
    return {**values, "gate": verdict.passed, **floors}


def train_classifier(run: runs.Run, steps: int) -> Any:
    """label -> its potential: a network trained at all noise levels alike."""
    network = models.network(models.Classifier(classes=10, channels=16))
    process, schedule = run.method.parts.process, run.method.parts.schedule
    times = run.method.parts.times(schedule)
    params = models.init(network, jax.random.key(1), run.data.shape)
    of = lambda params, label, **options: denoisers.Classifier(
        Partial(lambda params, x, c: network.apply(params, x, c, **options), params), schedule, label
    )

    def loss(params: Any, keys: Any, example: Any, index: Any, size: int) -> Any:
        t = times(keys, index, size)
        z = process.noise(jax.random.fold_in(keys.example, 1), example.x)
        value = denoisers.cross_entropy(of(params, example.given["label"]), process, example.x, z, t)
        return value, {"t01": t / schedule.t_max}

    optimizer, emas = optax.adamw(optax.cosine_decay_schedule(2e-3, steps), weight_decay=0.05), ema.warm_up([0.99])
    step = jax.jit(training.make_step(training.loss_method(loss), optimizer, emas), donate_argnums=0)
    state = training.init_state(params, optimizer, emas, jax.random.key(2))
    for i in range(steps):
        state, _ = step(state, jax.tree.map(jnp.asarray, data.batch_at(run.data.train, 128, 0, i)))
    trained = state.ema.averages["0.99"]
    return lambda label: of(trained, label)


def classifier_accuracy(run: runs.Run, classifier: Any) -> dict[str, float]:
    """On held-out digits at five noise levels."""
    held_out, process = run.data.held_out.gather(np.arange(len(run.data.held_out))), run.method.parts.process
    found = {}
    for level in (0.1, 0.5, 1.0, 2.0, 5.0):
        t = process.schedule.inverse(-2 * np.log(level))
        z = jax.random.normal(jax.random.key(3), held_out.x.shape)
        x = jax.vmap(lambda x, z: process.corrupt(x, z, t))(held_out.x, z)  # noqa: B023
        read = jax.vmap(lambda x: jnp.argmax(classifier(0).logits(x, t)))(x)  # noqa: B023
        found[str(level)] = float(np.mean(np.asarray(read) == held_out.given["label"]))
    return found


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
    ending.script(main)
