"""Why a generator lags that follows a difference of two scores: who is exact, and whom the networks began with.

    python experiments/matching/lag.py --teacher=runs/teacher --out=OUT [--only=NAME,...] [--smoke]

Eight Gaussians, whose posterior mean is known. The score of data is exact, or that of a finished run of
`configs/matching.py:teacher`; the network of samples begins with that run or from nothing, as the generator does, and
learns for k turns of it for one of the generator's. Each way is judged by `gaussians.measures`. Writes table.md.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gaussians import CENTRES, COUNT, STD, measures

from diffjax import analytic, ending, models, runs
from diffjax.methods import matching
from diffjax.runs.build import load


class Way(NamedTuple):
    """One way to estimate the field.

    Attributes:
        real: "exact", or "teacher" for the network of a finished run.
        fake: whom the network of samples begins with: "teacher", or "nothing".
        generator: whom the generator begins with, likewise.
        turns: of the network of samples, for one of the generator's.
    """

    real: str
    fake: str
    generator: str
    turns: int = 2


WAYS = {
    "all from the teacher": Way("teacher", "teacher", "teacher"),
    "exact score of data": Way("exact", "teacher", "teacher"),
    "samples' network from nothing": Way("teacher", "nothing", "teacher"),
    "generator from nothing": Way("teacher", "teacher", "nothing"),
    "exact and the rest from nothing": Way("exact", "nothing", "nothing"),
    "exact and the rest from nothing: k = 5": Way("exact", "nothing", "nothing", 5),
}

SMALL = [
    "train.steps=20",
    "train.batch_size=16",
    "train.sample_every=20",
    "train.log_every=20",
    "train.steps_per_dispatch=10",
    "checkpoint.every=20",
]


def exact(schedule: Any, target: Any) -> models.Network:
    """Makes the network whose F is that of the posterior mean of eight Gaussians; it has no parameters.

    The network is told x_t / sqrt(alpha^2 sigma_data^2 + sigma^2) and log(alpha^2 / sigma^2): on the schedule
    alpha = 1 - t, sigma = t that is t = 1 / (1 + alpha / sigma).
    """
    law = analytic.gaussian_mixture([1 / 8] * 8, CENTRES, [STD**2] * 8)

    def apply(params: Any, x: jax.Array, c: jax.Array, given: Any = None, **options: Any) -> jax.Array:
        t = jax.nn.sigmoid(-c / 2)
        alpha, sigma = schedule(t)
        x = x * jnp.hypot(sigma, alpha * target.sigma_data)
        c_skip, c_out = target.skip_out(schedule, t)
        return (law.posterior(x, alpha, sigma).mean - c_skip * x) / c_out

    return models.Network(lambda *args, **options: {}, apply, ())


def train(way: Way, teacher: Path, small: bool) -> np.ndarray:
    """Trains a generator one way, and draws samples (n, 2)."""
    said = [f"method.critics={way.turns}", *(SMALL if small else [])]  # their rates decay by turns
    config = load("configs/matching.py:scores", said)
    made = runs.build_run(config)
    parts = made.method.parts
    pair = parts.estimate._replace(teacher=True)
    if way.real == "exact":
        pair = pair._replace(real=exact(pair.process.schedule, pair.target))
    own = matching.Matching(parts.generator, pair, way.turns).method()
    known = runs.open(teacher).params
    begun = {"real": way.real, "fake": way.fake, "generator": way.generator}

    def init(key: jax.Array, example: Any) -> dict[str, Any]:
        return {who: known if begun[who] == "teacher" else mine for who, mine in own.init(key, example).items()}

    own_rates = {who: made.optimizer[who] for who in ("fake", "generator")}
    method = own._replace(init=init)
    with runs.Trainer(method, made.data, optimizer=own_rates, ema=made.ema, settings=made.settings) as trainer:
        return np.asarray(trainer.train().draw(64 if small else COUNT, given={}), np.float64)


def main() -> None:
    """Trains every way, judges, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(WAYS), help="names of ways, with commas between")
    parser.add_argument("--smoke", action="store_true", help="a few steps")
    args = parser.parse_args()
    lines = ["| way | near a mode | least share x 8 | total variation | width | modes |", "|---" * 6 + "|"]
    for name in args.only.split(","):
        row = measures(train(WAYS[name], args.teacher, args.smoke))
        cells = (f"{row[key]:.3f}" for key in ("near", "least", "tv", "width"))
        lines.append(f"| {name} | {' | '.join(cells)} | {row['modes']} |")
        print(lines[-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    ending.script(main)
