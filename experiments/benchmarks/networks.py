"""A training step of the small DiT and JiT and of the U-Net of digits, on this machine, in one run.

    python experiments/benchmarks/networks.py [--smoke] [--repeats N]

Batches of 128 digits of 8 x 8, Adam, donated state, steps in turn. Where PyTorch is installed (the extra `benchmarks`)
the DiT and the U-Net also stand beside their twins there, as in versus_torch.py: copied weights, outputs held to 1e-4.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import versus_torch
from counting import best_times, flops, report
from gpu_twins import TorchDiT
from versus_torch import RATE, Case, Twin, torch

from diffjax import models

CASES = {
    "U-Net, 16 channels": Case(models.UNet(16, (1, 2), 1, (4,)), (8, 8, 1), 128),
    "DiT tiny, patch 2": Case(models.DiT(preset="tiny", patch=2), (8, 8, 1), 128),
    "DiT tiny, patch 2, fused": Case(models.DiT(preset="tiny", patch=2, kernel="fused"), (8, 8, 1), 128),
    "DiT tiny, patch 2, scan": Case(models.DiT(preset="tiny", patch=2, scan=True), (8, 8, 1), 128),
    "JiT tiny, patch 2": Case(models.JiT(preset="tiny", patch=2), (8, 8, 1), 128),
}
SMOKE = {
    "U-Net, 8 channels": Case(models.UNet(8, (1, 1), 1, (4,)), (8, 8, 1), 8),
    "DiT, 1 block": Case(models.DiT(depth=1, width=16, heads=2), (8, 8, 1), 8),
}


TWINS: dict[type, Any] = {models.UNet: Twin, models.DiT: partial(TorchDiT, side=8)}  # of digits


def stepping(case: Case) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A call that makes one step, and what is known of the network without a clock."""
    rng, net = np.random.default_rng(0), models.network(case.network)
    x, z = rng.normal(size=(2, case.batch, *case.shape)).astype(np.float32)
    c = rng.uniform(-8, 8, case.batch).astype(np.float32)
    params = models.init(net, jax.random.key(0), case.shape)
    optimizer = optax.adam(RATE)
    mean_loss = lambda params: jnp.mean(jnp.square(jax.vmap(net.apply, (None, 0, 0))(params, x, c) - z))

    def update(state: Any) -> Any:
        updates, memory = optimizer.update(jax.grad(mean_loss)(state[0]), state[1])
        return optax.apply_updates(state[0], updates), memory

    step, held = jax.jit(update, donate_argnums=0), {"state": (params, optimizer.init(params))}

    def one() -> Any:
        held["state"] = step(held["state"])
        return held["state"]

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    forward = flops(net.apply, params, x[0], c[0])
    return one, {"parameters": count, "mflop_of_an_evaluation": round(forward / 1e6, 3)}


def main() -> None:
    """One JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny networks, few repeats")
    parser.add_argument("--repeats", type=int, default=20)
    flags = parser.parse_args()
    cases, repeats = (SMOKE, 2) if flags.smoke else (CASES, flags.repeats)
    made = {name: stepping(case) for name, case in cases.items()}
    times = best_times({name: step for name, (step, _) in made.items()}, repeats)
    found = {name: {**known, "step_ms": round(1e3 * times[name], 2)} for name, (_, known) in made.items()}
    if torch is None:
        print('PyTorch is not installed, its times are left out: pip install -e ".[benchmarks]"', file=sys.stderr)
    else:
        for name, case in cases.items():
            if type(case.network) in TWINS and not getattr(case.network, "scan", False):
                found[name]["versus_torch"] = versus_torch.compare(case, repeats, TWINS[type(case.network)])
    report("networks", {"cases": found, "torch": torch and torch.__version__})


if __name__ == "__main__":
    main()
