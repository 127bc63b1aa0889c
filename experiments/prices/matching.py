"""The price of tricks in following a field: a kernel's finite batch, a drift over its own size, a critic that lags.

    python experiments/prices/matching.py --out=OUT [--smoke]

Points move along fields of `losses.fields` towards N(0, I), where the truth is known: their variance is 1 on each axis
if nothing goes wrong. Writes table.md and results.json.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.losses import fields
from diffjax.methods.estimates import Batch


def kernel_spread(of: Batch, n: int, d: int, eps: float, steps: int, seed: int = 0) -> float:
    """Variance on an axis of n points that drift among n fresh draws of N(0, I) and each other, averaged at the end.

    They begin at the truth; the second half of the steps is averaged.
    """

    @jax.jit
    def walk(key: Any) -> Any:
        def step(x: Any, key: Any) -> tuple[Any, Any]:
            V = of.field(jax.random.normal(key, (n, d)), x, jnp.arange(n), lambda tree: tree)
            x = x + eps * V
            return x, jnp.mean((x - x.mean(0)) ** 2) * n / (n - 1)

        key_start, key_walk = jax.random.split(key)
        x = jax.random.normal(key_start, (n, d))
        return jax.lax.scan(step, x, jax.random.split(key_walk, steps))[1][steps // 2 :].mean()

    return float(walk(jax.random.key(seed)))


def lag_limit(k: int) -> float:
    """The largest step at which a variance still settles with a critic k steps behind, for N(0, 1): sin(pi / (4k + 2)).

    Near the truth the scale's error obeys u' = u - 2 eps u_lagging, and u' = u - beta u_lagging settles for
    beta < 2 sin(pi / (4k + 2)).
    """
    return float(np.sin(np.pi / (4 * k + 2)))


@partial(jax.jit, static_argnums=(0, 2))
def lagging(k: int, eps: Any, steps: int) -> Any:
    """The largest of |scale - 1| in the last tenth of a walk from scale 1.01 by a critic that is exact k steps ago."""

    def step(state: tuple[Any, Any], _: Any) -> tuple[tuple[Any, Any], Any]:
        scale, past = state  # of samples N(0, scale^2), now and at the k steps before, newest first
        seen = past[k - 1] if k else scale
        log_ratio = lambda x, t: jnp.sum(-(x**2) / 2 + x**2 / (2 * seen**2))
        V = fields.classifier(log_ratio, "kl")(jnp.ones(1) * scale, 0.0)[0]  # of the point one standard deviation out
        past = jnp.concatenate([scale[None], past[:-1]]) if k else past
        return (scale + eps * V, past), jnp.abs(scale - 1)

    start = jnp.asarray(1.01)
    errors = jax.lax.scan(step, (start, jnp.full(max(k, 1), start)), None, steps)[1]
    return errors[-(steps // 10) :].max()


def measured_limit(k: int, steps: int) -> float:
    """The largest step, found by halving, after which the error is smaller than at the start."""
    low, high = 0.0, 2.5
    for _ in range(20):
        middle = (low + high) / 2
        settled = float(lagging(k, jnp.asarray(middle), steps)) < 0.01
        low, high = (middle, high) if settled else (low, middle)
    return low


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    """A Markdown table."""
    cells = lambda row: "| " + " | ".join(v if isinstance(v, str) else f"{v:.4g}" for v in row) + " |"
    return "\n".join([cells(head), "|" + "---|" * len(head), *map(cells, rows)])


def main() -> None:
    """Measures the three prices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="few points and steps")
    args = parser.parse_args()
    batches = (8, 16) if args.smoke else (8, 32, 128, 512)
    dimensions = (1, 2) if args.smoke else (1, 2, 8, 32)
    steps = 20 if args.smoke else 400
    found: dict[str, Any] = {}

    # widths in units of the mean distance of two draws, which grows like the root of twice the dimension
    spread = lambda scale, n, d, eps, kind="gaussian": kernel_spread(
        Batch(fields.kernel(0.5 * np.sqrt(d), kind, scale)), n, d, eps, steps
    )
    found["kernel"] = {d: {n: spread("shift", n, d, 0.3) for n in batches} for d in dimensions}
    lengths = {0.3: steps, 0.1: 3 * steps, 0.03: 10 * steps}  # as long in all
    found["normalised"] = {
        scale: {
            eps: kernel_spread(Batch(fields.kernel(0.5, scale=scale)), batches[-2], 1, eps, n)
            for eps, n in lengths.items()
        }
        for scale in ("shift", "rms")
    }
    lags = (0, 1, 2) if args.smoke else (0, 1, 2, 4, 8, 16)
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(True):
        found["lag"] = {k: (measured_limit(k, 200 if args.smoke else 20_000), lag_limit(k)) for k in lags}

    tables = [
        "Variance (truth 1) of points in a kernel's drift, Gaussian of width sqrt(d) / 2, steps of 0.3:",
        table(
            ("dimensions", *(f"batch {n}" for n in batches)),
            [(str(d), *(row[n] for n in batches)) for d, row in found["kernel"].items()],
        ),
        f"In one dimension, {batches[-2]} points, by the length of a step:",
        table(
            ("drift", *(f"eps {eps}" for eps in lengths)),
            [(name, *(row[eps] for eps in lengths)) for name, row in found["normalised"].items()],
        ),
        "The largest step with a critic k steps behind, N(0, 1):",
        table(("k", "measured", "sin(pi / (4k + 2))"), [(str(k), *pair) for k, pair in found["lag"].items()]),
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text("\n\n".join(tables) + "\n")
    (args.out / "results.json").write_text(json.dumps(found, indent=1))
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
