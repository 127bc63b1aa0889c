"""Each degradation against hot, one network and one budget: table and figure of README.md.

    python experiments/degradations/compare.py --out=OUT [--smoke]

A residual MLP that predicts x_0 is trained on the 1500 training digits for every process, from one seed and for as many
steps, and walks back in 40 uniform steps of t. Rows: hot (DDIM, DDPM), blurring and heat (`processes.heat`), and the
cold processes with noise of standard deviation s in every x_t or none, by the improved (share = 0) and the naive
sampler (share = 1). All cold walks but those of masks and mixtures start from D_1 of a Gaussian that is fitted to the
training digits. OUT is a sweep's folder: what is there is not measured again.
"""

import argparse
import dataclasses
import functools
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import data, grids, processes, runs, samplers, sweeps
from diffjax.calculus import Clock
from diffjax.config import spec
from diffjax.denoisers.clipping import Clipped
from diffjax.methods.planning import planned_sampler
from diffjax.metrics import gate
from diffjax.processes import cold, heat
from diffjax.samplers import ancestral
from diffjax.schedules import Rectified, Still

SAMPLES, STEPS, NFE, SHOWN, LOST = 891, 600, 40, 12, 10.0
COLUMNS = [f"{measure}{of}" for measure in ("frechet", "coverage") for of in ("", " floor", " gaussian")]
NETWORK = spec("MLP", width=192, depth=3)
OPTIMIZER = spec("adam", learning_rate=2e-3, schedule="cosine", warmup_steps=100)
WALKS = {
    "DDIM": ancestral.ddim,
    "DDPM": ancestral.ddpm,
    "improved": partial(samplers.unified, share=0.0, estimate="mean"),
    "naive": partial(samplers.unified, share=1.0, estimate="mean"),
}
HOT, NOISY = ("hot", "blurring", "heat"), ("blur", "pixelate", "downsample", "mask")
COLD = ("improved", "naive")
GRIDS = (
    {"of": HOT[:1], "std": 1.0, "step": ("DDIM", "DDPM"), "clip": (False, True)},
    {"of": NOISY, "std": (0.0, 0.1), "step": COLD, "clip": (False, True)},
    {"of": "mix", "std": 0.0, "step": COLD, "clip": (False, True)},
    {"of": HOT[1:2], "std": 1.0, "step": ("DDIM", "DDPM"), "clip": False},  # its mean is of frequencies: no range
    {"of": HOT[2:], "std": 0.1, "step": ("DDIM", "DDPM"), "clip": False},
)


def main() -> None:
    """Writes results.json, table.md and figure.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="few steps and samples, of four processes")
    args = parser.parse_args()
    out = Path(args.out)
    asked = [GRIDS[0], GRIDS[4], {**GRIDS[1], "of": ("blur", "mask"), "std": 0.1}] if args.smoke else GRIDS
    points = sweeps.chain(*({**grid, "smoke": args.smoke, "out": args.out} for grid in asked))
    sweep = sweeps.Sweep(measured, points, root=out).run()
    rows = [row for row in sweep.table(["spread", *COLUMNS]).rows if row["spread"] is not None]
    (out / "results.json").write_text(json.dumps(rows, indent=1))
    (out / "table.md").write_text(table(rows))
    figure(rows, out)


def measured(of: str, std: float, step: str, clip: bool, smoke: bool, out: str) -> dict[str, Any]:
    """Trains the process, or takes the run that is trained, walks back, and judges 891 samples."""
    run = trained(of, std, smoke)
    process, denoise = run.method.parts.process, run.denoiser()
    if of == "mix" and step == "naive":  # a process with a flow refuses it: the clock alone says nothing of one
        process = dataclasses.replace(process, schedule=Clock(process.schedule.base))
        denoise = dataclasses.replace(denoise, schedule=process.schedule)
    ts = grids.uniform(process.schedule, 5 if smoke else NFE, t_min=0.0)
    walk = samplers.sampling_fn(planned_sampler(WALKS[step], process), ts)
    edge = 1.0 if clip else jnp.inf
    keys = jax.random.split(jax.random.key(1), 297 if smoke else SAMPLES)
    x = np.asarray(walked(walk, Clipped(denoise, -edge, edge), process, keys))
    np.save(Path(out) / seen(of, std, step, clip), x[:SHOWN])
    spread = float(x.std()) if np.isfinite(x).all() else float("inf")
    if not spread < LOST:
        return {"spread": min(spread, 1e30)}
    train, held_out = (part.gather(np.arange(len(part))).x for part in (run.data.train, run.data.held_out))
    metrics = gate.evaluate_digits(x, train, held_out).as_dict()
    titles, ends = ("Frechet distance", "coverage, k = 5"), ("value", "floor", "gaussian")
    named = zip(COLUMNS, (metrics[title][end] for title in titles for end in ends))
    return {"spread": spread, **dict(named)}


@jax.jit
def walked(walk: Any, denoise: Any, process: Any, keys: Any) -> Any:
    """Draws a digit for each key; one program for every noise and clip of a process."""

    def one(key: Any) -> Any:
        key_prior, key_walk = jax.random.split(key)
        return process.leave(walk(denoise, key_walk, process.prior(key_prior, (8, 8, 1))))

    return jax.vmap(one)(keys)


def seen(of: str, std: float, step: str, clip: bool) -> str:
    """Names the file of the first samples of a row."""
    return f"{of}-{std:g}-{step}{'-clipped' * clip}.npy"


@functools.lru_cache(1)
def trained(of: str, std: float, smoke: bool) -> runs.Run:
    """Trains the network on one process."""
    dataset = data.digits()
    method = runs.assemble(
        network=NETWORK,
        process=process_of(of, std, dataset.train.gather(np.arange(len(dataset.train))).x),
        target=spec("X0", sigma_data=0.75),
        times=spec("stratified", t_min=1e-3),
        grid=partial(grids.uniform, n=NFE, t_min=0.0),
        sampler=WALKS["DDIM" if of in HOT else "improved"],
    )
    return runs.Trainer(method, dataset, optimizer=OPTIMIZER, steps=110 if smoke else STEPS, batch_size=128).train()


def process_of(of: str, std: float, x: np.ndarray) -> Any:
    """Makes the process of a name, of noise std; what starts from data is fitted to x (n, 8, 8, 1)."""
    if of == "hot":
        return processes.Gaussian(Rectified())
    if of == "blurring":
        return heat.blurring(Rectified(), (8, 8), w_max=2.0)
    if of == "heat":
        return heat.dissipation(Still(std), (8, 8), **heat.measured(x))
    if of == "mask":
        return cold.masked(std=std)
    if of == "mix":
        patches = data.photos(size=8, stride=8).train
        grey = patches.gather(np.arange(len(patches))).x.mean(-1, keepdims=True)
        return cold.mix(images=grey)
    make = {"blur": cold.blur, "pixelate": cold.pixelate, "downsample": cold.downsample}[of]
    return cold.fitted(make(std=std), x)


def table(rows: list[dict]) -> str:
    """Writes Markdown: a row for each process and step, without and with x_0 confined to [-1, 1]."""
    lines = [
        "| degradation | noise s | step | Frechet | coverage | std | clipped: Frechet | coverage | std |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["clip"]:
            continue
        alike = lambda other, row=row: all(row[k] == other[k] for k in ("of", "std", "step"))
        clipped = next((cells(other) for other in rows if alike(other) and other["clip"]), " | | ")
        lines.append(f"| {row['of']} | {row['std']:g} | {row['step']} | {cells(row)} | {clipped} |")
    judged = next(row for row in rows if row["frechet"] is not None)
    for name, label in (("floor", "floor, training digits"), ("gaussian", "Gaussian fit")):
        frechet, coverage = judged[f"frechet {name}"], judged[f"coverage {name}"]
        lines.append(f"| {label} | | | {frechet:.2f} | {coverage:.3f} | 0.753 | | | |")
    return "\n".join(lines) + "\n"


def cells(row: dict) -> str:
    """Writes Frechet distance, coverage and standard deviation of a row."""
    if row["frechet"] is None:
        return f"diverges | | {row['spread']:.1g}"
    return f"{row['frechet']:.{1 if row['frechet'] >= 100 else 2}f} | {row['coverage']:.3f} | {row['spread']:.3f}"


def figure(rows: list[dict], out: Path) -> None:
    """Draws samples of each process, a line each: the deterministic or improved step, clipped where it may be."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["step"] in ("DDIM", "improved") and (row["clip"] or row["of"] in HOT[1:])]
    drawing = Figure(figsize=(9, 0.62 * len(shown)), layout="constrained")
    for ax, row in zip(drawing.subplots(len(shown), 1, squeeze=False)[:, 0], shown):
        x = np.load(out / seen(*(row[k] for k in ("of", "std", "step", "clip"))))[..., 0]
        ax.imshow(np.concatenate([np.pad(a, 1, constant_values=1.0) for a in x], 1), cmap="gray", vmin=-1, vmax=1)
        distance = "diverges" if row["frechet"] is None else f"{row['frechet']:.3g}"
        ax.set_ylabel(f"{row['of']}, s = {row['std']:g}: {distance}", rotation=0, ha="right", va="center", fontsize=9)
        ax.set(xticks=[], yticks=[])
    drawing.savefig(out / "figure.png", dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
