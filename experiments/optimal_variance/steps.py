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
from diffjax.commands.experiment import Experiment, mean_denoiser, seed_inputs

from diffjax import chains, denoisers, grids, parallel, samplers
from diffjax.commands.evaluate import judge
from diffjax.commands.sample import restore, served
from diffjax.denoisers import optimal

SAMPLES, CHUNK = 891, 99


def main() -> None:
    """One row per method, one column per number of evaluations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="one length, fewer samples")
    args = parser.parse_args()
    experiment, state, step = restore(args.workdir)
    params, schedule = served(experiment, state, args.workdir), experiment.schedule
    lengths, count = ((5,), 297) if args.smoke else ((5, 10, 25, 50), SAMPLES)
    plain = mean_denoiser(experiment)(params, np.int32(0))
    train = experiment.dataset.train.gather(np.arange(len(experiment.dataset.train)))
    results: dict[str, Any] = {}
    for n in lengths:
        ts = grids.log_snr(schedule, n, t_min=1e-3)
        moments = optimal.measure(lambda example: plain, experiment.process, jax.random.key(4), train, ts[:-1])
        optimal.save(Path(args.workdir) / f"moments-{step}-{n}.npz", moments)
        large = denoisers.variance.Large(plain, float(np.var(train["x"])))
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
            samples = draw(experiment, sampler, ts, denoise, count)
            metrics, _, passed = judge(experiment, samples)
            frechet, coverage = (metrics[m] for m in ("Frechet distance", "coverage, k = 5"))
            row = {"frechet": frechet["value"], "coverage": coverage["value"], "gate": passed}
            results.setdefault(name, {})[n] = row
            results["floor"] = {"frechet": frechet["floor"], "coverage": coverage["floor"]}
            print(n, name, row, flush=True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(table(results, lengths))


def draw(experiment: Experiment, sampler: Any, ts: np.ndarray, denoise: Any, count: int) -> np.ndarray:
    """Samples of seeds 0 .. count - 1."""

    def one(shared: Any, own: Any) -> Any:
        (denoise, sample), (key, _) = shared, own
        key_prior, key_walk = jax.random.split(key)
        return sample(denoise, key_walk, experiment.process.prior(key_prior, experiment.dataset.shape, ts[0]))

    chunked = parallel.map_chunks(jax.vmap(one, in_axes=(None, 0)), CHUNK)
    return chunked((denoise, samplers.sampling_fn(sampler, ts)), seed_inputs(experiment, range(count)))


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
