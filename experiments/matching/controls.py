"""Negative controls of digits by a field: what a generator makes of one that is wrong in a known way.

    python experiments/matching/controls.py --teacher=runs/digits_teacher --out=OUT [--smoke]

"backwards" follows the critic's field of `configs/matching.py:digits` with its sign turned; "frozen" leaves its critic
as it is after 200 steps; "one score" follows the score of data alone, that of samples left out, which collapses to
modes (score distillation). A batch of 2 needs no program: `:digits_kernel --config.train.batch_size=2`. Each fails the
gate of digits; writes table.md.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from diffjax import denoisers, ending, runs
from diffjax.losses import fields
from diffjax.method import Method
from diffjax.methods import estimates, matching
from diffjax.metrics import gate
from diffjax.runs.build import Built, load

STILL = 200  # steps after which the critic is frozen
SMALL = [
    "train.steps=20",
    "train.sample_every=20",
    "train.log_every=20",
    "train.batch_size=16",
    "train.steps_per_dispatch=10",
    "checkpoint.every=20",
]
SHOWN = (
    "Frechet distance",
    "1-NN accuracy, real",
    "1-NN accuracy, fake",
    "coverage, k = 5",
    "rarest class, of its share",
)


class Backwards(estimates.Critic):
    """The critic whose field points away from data."""

    def field(self, *seen: Any) -> jax.Array:
        """Computes -V."""
        return -super().field(*seen)


def score_alone(real: Any, fake: Any, process: Any, target: Any, scale: str) -> fields.Field:
    """Makes the field sigma grad log p_t: `fields.SCALES["noise"]`, without the second score."""
    denoise = denoisers.denoiser(real, process.schedule, target)

    def field(x: jax.Array, t: Any) -> jax.Array:
        alpha, sigma = process.schedule(t)
        return (alpha * denoise(x, t).mean - x) / sigma

    return field


def backwards(made: Built) -> tuple[Method, dict[str, Any]]:
    """Makes the method whose sign is wrong."""
    of = made.method.parts
    return matching.Matching(of.generator, Backwards(*of.estimate), of.turns).method(), made.optimizer


def frozen(made: Built) -> tuple[Method, dict[str, Any]]:
    """Makes the optimizers of which the critic's stops."""
    rate = optax.piecewise_constant_schedule(1e-3, {STILL: 0.0})
    return made.method, {**made.optimizer, "critic": optax.adam(rate, b1=0.0)}


def one_score(made: Built) -> tuple[Method, dict[str, Any]]:
    """Makes the method of one score; its network of samples learns, and nobody asks it."""
    of = made.method.parts
    pair = of.estimate._replace(difference=score_alone)
    return matching.Matching(of.generator, pair, of.turns).method(), made.optimizer


CONTROLS = {
    "backwards": ("digits", backwards),
    "frozen": ("digits", frozen),
    "one score": ("digits_distilled", one_score),
}


def main() -> None:
    """Trains and judges every control."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="a few steps")
    args = parser.parse_args()
    lines = ["| control | Frechet | 1-NN real / fake | coverage | rarest | gate |", "|---" * 6 + "|"]
    for name, (variant, change) in CONTROLS.items():
        made = runs.build_run(load(f"configs/matching.py:{variant}", SMALL if args.smoke else []))
        method, optimizer = change(made)
        begun = {"real": runs.open(args.teacher).params} if "distilled" in variant else {}
        init = method.init
        method = method._replace(init=lambda key, example: {**init(key, example), **begun})  # noqa: B023  used at once
        with runs.Trainer(method, made.data, optimizer=optimizer, ema=made.ema, settings=made.settings) as trainer:
            x = trainer.train().draw(1024, given={})
        train, held_out = (part.gather(np.arange(len(part))).x for part in (made.data.train, made.data.held_out))
        report = gate.evaluate_digits(x, train, held_out)
        found = [report.as_dict()[key]["value"] for key in SHOWN]
        cells = [f"{found[0]:.1f}", f"{found[1]:.3f} / {found[2]:.3f}", *(f"{value:.3f}" for value in found[3:])]
        lines.append(f"| {name} | {' | '.join(cells)} | {'passed' if report.passed else 'failed'} |")
        print(lines[-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    ending.script(main)
