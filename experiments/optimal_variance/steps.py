"""Few steps with and without the optimal variance: DDPM and DDIM against their analytic versions, on a trained network.

    python -m diffjax.main --config=configs/vpsde.py --workdir=runs/vp
    python experiments/optimal_variance/steps.py --workdir=runs/vp --out=runs/vp/optimal_variance [--smoke]

The second moments are those of the training digits, one noise each, kept beside the checkpoint in moments.npz. Writes
results.json and table.md: Frechet distance and coverage of 891 samples, the gate's floors beside them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import chains, denoisers, grids, parallel, runs, samplers
from diffjax.denoisers import moments as measured
from diffjax.denoisers import optimal
from diffjax.metrics import gate

SAMPLES, CHUNK = 891, 99


def main() -> None:
    """One row per method, one column per number of evaluations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="one length, fewer samples")
    args = parser.parse_args()
    run = runs.open(args.workdir)
    process, schedule = run.method.parts.process, run.method.parts.schedule
    lengths, count = ((5,), 297) if args.smoke else ((5, 10, 25, 50), SAMPLES)
    plain = run.denoiser({"label": np.int32(0)})  # read by a network that has labels
    train, held_out = (part.gather(np.arange(len(part))).x for part in (run.data.train, run.data.held_out))
    results: dict[str, Any] = {}
    for n in lengths:
        ts = grids.log_snr(schedule, n, t_min=1e-3)
        moments = measured.measure(lambda example: plain, process, jax.random.key(4), {"x": train}, ts[:-1])
        measured.save(Path(args.workdir) / f"moments-{run.step}-{n}.npz", moments)
        large = denoisers.variance.Large(plain, float(np.var(train)))
        ddpm, ddim = samplers.ancestral.ddpm(schedule), samplers.ancestral.ddim(schedule)
        chain = chains.chain(schedule, ts)
        by_noise, by_error, by_entry = (
            optimal.tabulated(plain, chain.t, var) for var in (moments.noise, moments.error, moments.entries)
        )
        methods = {
            "DDPM, small": (ddpm, plain),
            "DDPM, large": (ddpm, large),
            "analytic DDPM (noise)": (ddpm, by_noise),
            "analytic DDPM (error)": (ddpm, by_error),
            "analytic DDPM (error per pixel)": (ddpm, by_entry),
            "DDIM": (ddim, plain),
            "analytic DDIM (error)": (ddim, by_error),
            "analytic DDIM (error per pixel)": (ddim, by_entry),
        }
        for name, (sampler, denoise) in methods.items():
            report = gate.evaluate_digits(draw(run, sampler, ts, denoise, count), train, held_out)
            frechet, coverage = (report.as_dict()[m] for m in ("Frechet distance", "coverage, k = 5"))
            row = {"frechet": frechet["value"], "coverage": coverage["value"], "gate": report.passed}
            results.setdefault(name, {})[n] = row
            results["floor"] = {"frechet": frechet["floor"], "coverage": coverage["floor"]}
            print(n, name, row, flush=True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(table(results, lengths))


def draw(run: runs.Run, sampler: Any, ts: np.ndarray, denoise: Any, count: int) -> np.ndarray:
    """Samples of seeds 0 .. count - 1."""

    def one(shared: Any, key: Any) -> Any:
        denoise, sample = shared
        key_prior, key_walk = jax.random.split(key)
        return sample(denoise, key_walk, run.method.parts.process.prior(key_prior, run.data.shape, ts[0]))

    chunked = parallel.map_chunks(jax.vmap(one, in_axes=(None, 0)), CHUNK)
    keys = jax.vmap(jax.random.key)(np.arange(count, dtype=np.uint32))
    return chunked((denoise, samplers.sampling_fn(sampler, ts)), keys)


def table(results: dict, lengths: tuple[int, ...]) -> str:
    """Markdown: Frechet distance / coverage; in bold what passes the gate."""
    lines = ["| method | " + " | ".join(f"{n} steps" for n in lengths) + " |", "|---" * (len(lengths) + 1) + "|"]
    for name, rows in results.items():
        if name != "floor":
            cells = [f"{rows[n]['frechet']:.2f} / {rows[n]['coverage']:.3f}" for n in lengths]
            cells = [f"**{cell}**" if rows[n]["gate"] else cell for cell, n in zip(cells, lengths)]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    floor = results["floor"]
    lines.append(f"| floor | {floor['frechet']:.2f} / {floor['coverage']:.3f}" + " |" * len(lengths))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
