"""What fine-tuning costs by side networks: parameters, what the way back keeps, operations. Nothing is computed.

    python experiments/finetune/counts.py --out=OUT [--smoke] [--time]

Networks of the digits' U-Net and DiT with classes told by the side, as in `configs/finetune.py`, and transformers
by depth. Counted in traced programs: trained parameters, bytes per example that the way back keeps (a
difference of two batches, so that parameters drop out), operations of loss and gradient per example beside those of the
way there. `--time` also compiles each step and times it beside that of a whole fine-tuning, in turn. Writes table.md
and results.json.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import finetune, models
from diffjax.models import side

UNET = dict(channels=16, multipliers=(1, 2), blocks=1, attention=(4,))
DIT = dict(preset="tiny", patch=2, positions="both")
WAYS: dict[str, tuple[Callable[[Any], Any], str | None]] = {  # a network of the base, and what of it is trained
    "whole": (lambda base: models.of(base.clone(classes=10)), None),
    "label alone": (lambda base: side.lora(base, rank=1, classes=10), "^side/label$"),
    "LoRA, rank 4": (lambda base: side.lora(base, rank=4, classes=10), "^side/"),
    "adapters of 8": (lambda base: side.adapter(base, width=8, classes=10), "^side/"),
    "prefixes of 8": (lambda base: side.prefix(base, tokens=8, classes=10), "^side/"),
    "ladder of 8, every block": (lambda base: side.ladder(base, width=8, classes=10), "^side/"),
    "control net": (lambda base: side.control(base, classes=10), "^side/"),
}


def cost(net: models.Network, only: str | None, given: dict, shape: tuple[int, ...], batch: int) -> dict[str, Any]:
    """Counts what a network costs: trained parameters, bytes kept and operations per example, there and in all."""
    x, c = jnp.zeros(shape), jnp.zeros(())
    params = jax.eval_shape(net.init, jax.random.key(0), x, c, given)
    mask = finetune.trained(params, only)
    leaves, structure = jax.tree.flatten(params)
    marks = jax.tree.leaves(mask)
    own = [leaf for leaf, mark in zip(leaves, marks) if mark]
    rest = [np.zeros(leaf.shape, leaf.dtype) for leaf, mark in zip(leaves, marks) if not mark]

    def loss(own: list, n: int) -> Any:
        trained, still = iter(own), iter(rest)
        whole = jax.tree.unflatten(structure, [next(trained if mark else still) for mark in marks])
        told = jax.tree.map(lambda a: jnp.broadcast_to(a, (n, *jnp.shape(a))), given)
        F = net.apply(whole, jnp.ones((n, *shape)), jnp.zeros(n), told)
        return jnp.mean(F**2)

    kept = [models.residual_bytes(lambda own, n=n: loss(own, n), own) for n in (batch, 2 * batch)]
    there = models.flops(lambda own: loss(own, batch), own) / batch
    both = models.flops(jax.value_and_grad(lambda own: loss(own, batch)), own) / batch
    count = sum(leaf.size for leaf in own)
    return dict(trained=count, kept=(kept[1] - kept[0]) // batch, there=there, both=both)


def timed(ways: dict, base: Any, shape: tuple[int, ...], batch: int, rounds: int) -> dict[str, float]:
    """Times loss and gradient of each way beside the whole one's, in turn: the median of the ratios."""
    steps = {}
    for name, (make, only) in ways.items():
        net, given = make(base), {"label": np.zeros(batch, np.int32)}
        x, c = np.ones((batch, *shape), np.float32), np.zeros(batch, np.float32)
        params = jax.jit(net.init)(jax.random.key(0), x[0], c[0], {"label": np.int32(0)})

        def loss(params: Any, net: Any = net, only: Any = only, given: Any = given, x: Any = x, c: Any = c) -> Any:
            return jnp.mean((net.apply(finetune.freeze(params, only), x, c, given) - 1) ** 2)

        steps[name] = (jax.jit(jax.value_and_grad(loss)), params)
        jax.block_until_ready(steps[name][0](params))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (step, params) in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(params))
            times[name].append(time.perf_counter() - start)
    whole = np.array(times["whole"])
    return {name: float(np.median(np.array(own) / whole)) for name, own in times.items()}


def by_depth(depths: tuple[int, ...], width: int) -> dict[str, dict[int, int]]:
    """Counts the bytes per example that the way back keeps, by depth, of transformers of 16 tokens without classes."""
    four = lambda depth: "block_(" + "|".join(str(depth * (i + 1) // 4 - 1) for i in range(4)) + ")$"
    ways: dict[str, Callable[[int, Any], tuple[Any, str | None]]] = {
        "whole": lambda depth, base: (models.of(base), None),
        "LoRA of rank 4 on qkv": lambda depth, base: (side.lora(base, rank=4, where="qkv$"), "^side/"),
        "adapters of 8": lambda depth, base: (side.adapter(base, width=8), "^side/"),
        "ladder of 8, every block": lambda depth, base: (side.ladder(base, width=8), "^side/"),
        "ladder of 8, four blocks": lambda depth, base: (side.ladder(base, width=8, where=four(depth)), "^side/"),
    }
    found: dict[str, dict[int, int]] = {}
    for name, make in ways.items():
        for depth in depths:
            net, only = make(depth, models.DiT(depth=depth, width=width, heads=4))
            found.setdefault(name, {})[depth] = cost(net, only, {}, (8, 8, 1), 1)["kept"]
    return found


def main() -> None:
    """Writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="small networks, no depth above 4")
    parser.add_argument("--time", action="store_true", help="time a step of each, too")
    args = parser.parse_args()
    small = dict(depth=1, width=12, heads=2)
    bases = {"DiT": models.DiT(**small)} if args.smoke else {"U-Net": models.UNet(**UNET), "DiT": models.DiT(**DIT)}
    ways = dict(list(WAYS.items())[:: 2 if args.smoke else 1])
    found: dict[str, Any] = {}
    lines = ["| base | way | trained | of all | kept per example (KiB) | Mflop there | Mflop in all | time |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, base in bases.items():
        shape = (8, 8, 1)
        took = timed(ways, base, shape, 128, 3 if args.smoke else 30) if args.time else {}
        for way, (make, only) in ways.items():
            row = cost(make(base), only, {"label": np.int32(1)}, shape, 1)
            row["time"] = took.get(way)
            found[f"{name}, {way}"] = row
            share = row["trained"] / found[f"{name}, whole"]["trained"]
            said = "" if row["time"] is None else f"{row['time']:.2f}"
            counts = f"{row['kept'] / 1024:.0f} | {row['there'] / 1e6:.2f} | {row['both'] / 1e6:.2f}"
            lines.append(f"| {name} | {way} | {row['trained']:,} | {share:.3f} | {counts} | {said} |")
    depths = (4,) if args.smoke else (4, 8, 16)
    found["by depth"] = by_depth(depths, 12 if args.smoke else 64)
    lines += [
        "",
        f"| bytes kept per example, layers | {' | '.join(map(str, depths))} |",
        "|---|" + "---|" * len(depths),
    ]
    for way, row in found["by depth"].items():
        lines.append(f"| {way} | " + " | ".join(f"{size:,}" for size in row.values()) + " |")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    (args.out / "results.json").write_text(json.dumps(found, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
