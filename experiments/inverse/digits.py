"""Inverse problems on held-out digits: what is hidden, averaged or blurred is drawn again by every method.

    python -m diffjax.main --config=configs/vpsde.py --config.target.name=V --workdir=runs/v
    python experiments/inverse/digits.py --workdir=runs/v --out=OUT [--smoke]

Of each of 64 held-out digits one draw per problem and method, DDIM at eta = 1 on the run's grid, from sigma / alpha = 5
down: above, the derivative of a network that predicts noise is multiplied by sigma^2 / alpha^2, and with it its errors.
The derivative of a network is no covariance, though: TMPD's conjugate gradients stop after two steps, before its faults
grow (with six, draws for inpainting end at 20 times the size of data), and DPS, whose steps are stiff by the ratio of
the posterior's variance to the noise's, has w = 0.03.

It says how far draws end from the digit (root mean square, in [-1, 1]), how well they agree with what was seen (the
same, over the observation), and how often the evaluation classifier reads the digit's own label; the unconditional draw
is the baseline. One picture per problem: digit, observation, one column per method.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import plots, runs, samplers
from diffjax.calculus import time_of
from diffjax.denoisers import inverse
from diffjax.metrics import digits

START = 5.0  # sigma / alpha where draws begin
NOISE = 0.05  # standard deviation of the observation's
RESAMPLED = "replacement, resampled"  # by 8 Langevin steps at every time, in the manner of RePaint
SHOWN = 8


def main() -> None:
    """results.json, table.md, and a picture per problem."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="four digits, few steps")
    args = parser.parse_args()
    run = runs.open(args.workdir, overrides=["grid.n=20"] if args.smoke else [])
    process, schedule = run.method.parts.process, run.method.parts.schedule
    denoise = run.denoiser({"label": jnp.int32(0)})  # read by a network that has labels
    truth = run.data.held_out.gather(np.arange(4 if args.smoke else 64))
    start = float(time_of(schedule, -2 * np.log(START)))
    ts = run.method.parts.grid(schedule, t_max=start)
    sample = samplers.sampling_fn(samplers.ancestral.ddim(schedule, eta=1.0), ts)
    corrector = samplers.langevin.predictor_corrector(schedule, rule="ald", strength=0.5, corrections=8)
    resample = samplers.sampling_fn(corrector, ts)
    x0, out, results = jnp.asarray(truth.x), Path(args.out), {}
    variance = float(np.var(run.data.train.gather(np.arange(len(run.data.train))).x))
    for problem, operator in problems().items():
        noise = NOISE * jax.random.normal(jax.random.key(1), jax.vmap(operator)(x0).shape)
        y = jax.vmap(operator)(x0) + noise
        columns = [x0, seen_as_image(operator, y, x0)]
        for name, method in methods(variance).items():

            @jax.jit
            def draw(y: Any, key: Any, walk: Any, denoise: Any, method: Any = method, operator: Any = operator) -> Any:
                key_prior, key_walk = jax.random.split(key)
                observation = inverse.Observation(jax.tree_util.Partial(operator), y, NOISE)
                x = process.prior(key_prior, run.data.shape, ts[0])
                return walk(method(denoise, observation), key_walk, x)

            keys = jax.random.split(jax.random.key(2), len(x0))
            walk = resample if name == RESAMPLED else sample
            found = jax.vmap(draw, in_axes=(0, 0, None, None))(y, keys, walk, denoise)
            columns.append(found)
            rms = lambda a: float(jnp.sqrt(jnp.mean(a**2)))
            results.setdefault(problem, {})[name] = {
                "error": rms(found - x0),
                "residual": rms(jax.vmap(operator)(found) - y),
                "label": float(np.mean(digits.read(np.asarray(found)).logits.argmax(-1) == truth.given["label"])),
            }
            print(problem, name, results[problem][name], flush=True)
        board = jnp.stack([column[:SHOWN] for column in columns], 1).reshape(-1, *x0.shape[1:])
        plots.save_image(out / f"{problem}.png", plots.tile(board, len(columns)))
    (out / "results.json").write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(table(results))


def problems() -> dict[str, Callable[[Any], Any]]:
    """Linear maps of an image (8, 8, 1)."""
    hidden = np.ones((8, 8, 1), bool)
    hidden[2:6, 2:6] = False
    kernel = np.exp(-0.5 * (np.arange(8)[:, None] - np.arange(8)[None]) ** 2)
    kernel = jnp.asarray(kernel / kernel.sum(1, keepdims=True), jnp.float32)
    return {
        "inpainting": lambda x: x.reshape(-1)[np.flatnonzero(hidden)],  # the 4 x 4 in the middle is hidden
        "super-resolution": lambda x: x.reshape(4, 2, 4, 2, 1).mean((1, 3)),
        "deblurring": lambda x: jnp.einsum("ih,hwc,jw->ijc", kernel, x, kernel),
    }


def methods(variance: float) -> dict[str, Callable[[Any, Any], Any]]:
    """(denoiser, observation) -> denoiser."""
    return {
        "unconditional": lambda denoise, observation: denoise,
        "replacement": inverse.replacement,
        RESAMPLED: inverse.replacement,
        "DiffPIR": inverse.diffpir,
        "PiGDM": lambda denoise, observation: inverse.pigdm(denoise, observation, v=variance),
        "TMPD": lambda denoise, observation: inverse.tmpd(denoise, observation, iterations=2),
        "DPS": lambda denoise, observation: inverse.dps(denoise, observation, w=0.03),
    }


def seen_as_image(operator: Callable, y: Any, like: Any) -> Any:
    """The observation, by the transpose of its operator, brought to the size of an image."""
    back = jax.linear_transpose(operator, like[0])
    ones = back(jnp.ones_like(y[0]))[0]
    return jax.vmap(lambda y: back(y)[0] / jnp.maximum(ones, 1e-3))(y)


def table(results: dict) -> str:
    """Markdown: error / residual / share of labels read."""
    names = list(next(iter(results.values())))
    lines = ["| problem | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for problem, rows in results.items():
        cells = [f"{rows[n]['error']:.3f} / {rows[n]['residual']:.3f} / {rows[n]['label']:.2f}" for n in names]
        lines.append(f"| {problem} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
