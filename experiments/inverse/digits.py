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
is the baseline. One picture per problem: digit, observation, one column per method. OUT is a sweep's folder: what is
there is not drawn again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import ending, plots, runs, sweeps
from diffjax.calculus import time_of
from diffjax.denoisers import inverse
from diffjax.metrics import digits

START = 5.0  # sigma / alpha where draws begin
NOISE = 0.05  # standard deviation of the observation's
WEIGHTS = np.exp(-0.5 * (np.arange(8)[:, None] - np.arange(8)[None]) ** 2)
KERNEL = np.float32(WEIGHTS / WEIGHTS.sum(1, keepdims=True))
PROBLEMS = {
    "inpainting": "inpaint",  # the 4 x 4 in the middle is hidden
    "super-resolution": "downsample",
    "deblurring": lambda x: jnp.einsum("ih,hwc,jw->ijc", KERNEL, x, KERNEL),  # near singular: roundings show
}
RESAMPLED = "replacement, resampled"  # by 8 Langevin steps at every time, in the manner of RePaint
DDIM = {"sampler.name": "ancestral.ddim", "sampler.eta": 1.0}
ALD = {"sampler.name": "predictor_corrector", "sampler.rule": "ald", "sampler.strength": 0.5, "sampler.corrections": 8}
PARTS, SHOWN = ("rms", "residual", "label"), 8


def main() -> None:
    """results.json, table.md, and a picture per problem."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="four digits, few steps")
    args = parser.parse_args()
    run, out, count = runs.open(args.workdir), Path(args.out), 4 if args.smoke else 64
    run.parts("guided_denoiser", "This study")
    every = {"grid.t_max": float(time_of(run.method.parts.schedule, -2 * np.log(START))), "measure.count": count}
    every |= {"grid.n": 20} if args.smoke else {}
    tried = [{"measure.by": by, **(ALD if by == RESAMPLED else DDIM), **every} for by in methods(1.0)]
    points = sweeps.product({"measure.problem": PROBLEMS}, tried)
    sweep = sweeps.Sweep(args.workdir, {}, evaluate=points, root=out, measure=restored).run()
    results, boards = {}, {}
    for node in sweep.plan.nodes[1:]:
        own, found = node.config.measure, json.loads((node.folder / "eval.json").read_text())
        results.setdefault(own.problem, {})[own.by] = {part: found[part] for part in PARTS}
        boards.setdefault(own.problem, []).append(np.float32(found["shown"]))
    for problem, columns in boards.items():
        operator, truth, y = observed(run, problem, count)
        back = jax.linear_transpose(operator, truth.x[0])
        seen = jax.vmap(lambda y: back(y)[0] / jnp.maximum(back(jnp.ones_like(y))[0], 1e-3))(y)  # noqa: B023
        board = np.stack([truth.x[:SHOWN], seen[:SHOWN], *columns], 1).reshape(-1, *run.data.shape)
        plots.save_image(out / f"{problem}.png", plots.tile(board, 2 + len(columns)))
    (out / "results.json").write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(table(results))


def observed(run: runs.Run, problem: str, count: int) -> tuple[Any, Any, jax.Array]:
    """The operator, the first held-out digits, and what is seen of them."""
    operator, truth = run.operator(PROBLEMS[problem]), run.data.held_out.gather(np.arange(count))
    y = jax.vmap(operator)(jnp.asarray(truth.x))
    return operator, truth, y + NOISE * jax.random.normal(jax.random.key(1), y.shape)


def restored(run: runs.Run, problem: str, by: str, count: int) -> dict[str, Any]:
    """The three numbers of a problem's draws by one method, and the draws that are shown."""
    operator, truth, y = observed(run, problem, count)
    method = methods(float(np.var(run.data.train.gather(np.arange(len(run.data.train))).x)))[by]

    def one(shared: Any, own: Any) -> Any:
        (request, denoise), (key, y) = shared, own
        key_prior, key_walk = jax.random.split(key)
        observation = inverse.Observation(jax.tree_util.Partial(operator), y, NOISE)
        x = run.method.parts.process.prior(key_prior, run.data.shape, request.start)
        return request.walk(method(denoise, observation), key_walk, x)

    denoise = run.denoiser({"label": jnp.int32(0)})  # read by a network that has labels
    rows = jax.random.split(jax.random.key(2), count), y
    found = jax.jit(jax.vmap(one, in_axes=(None, 0)))((run.method.plan(run.data.shape), denoise), rows)
    rms = lambda a: float(jnp.sqrt(jnp.mean(a**2)))
    label = float(np.mean(digits.read(np.asarray(found)).logits.argmax(-1) == truth.given["label"]))
    errors = {"rms": rms(found - truth.x), "residual": rms(jax.vmap(operator)(found) - y), "label": label}
    return {**errors, "shown": found[:SHOWN].tolist()}


def methods(variance: float) -> dict[str, Any]:
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


def table(results: dict) -> str:
    """Markdown: error / residual / share of labels read."""
    names = list(next(iter(results.values())))
    lines = ["| problem | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for problem, rows in results.items():
        cells = [f"{rows[n]['rms']:.3f} / {rows[n]['residual']:.3f} / {rows[n]['label']:.2f}" for n in names]
        lines.append(f"| {problem} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    ending.script(main)
