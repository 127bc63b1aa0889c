"""A training step of the small DiT and JiT and of the U-Net of digits, on this machine, in one run.

    python experiments/benchmarks/networks.py [--smoke] [--repeats N]

Batches of 128 digits of 8 x 8, Adam, donated state, steps in turn. Where PyTorch is installed (the extra `benchmarks`)
the DiT and the U-Net also stand beside their twins there, as in versus_torch.py: copied weights, outputs held to 1e-4.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import versus_torch
from counting import best_times, flops, report
from versus_torch import RATE, Case, F, Twin, torch

from diffjax import models
from diffjax.models import layers, positions

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


class Tokens(Twin):
    """The forward pass of `models.DiT` in PyTorch, of one map and no labels, with fixed positions."""

    def __call__(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """F for images (batch, C, H, W) and log-SNRs (batch,)."""
        of, size, p = self.network, self.network.sizes, self.network.patch
        batch, channels, rows, columns = x.shape[0], x.shape[1], x.shape[2] // p, x.shape[3] // p
        position = (layers.MAX_LOG_SNR - c.clamp(-layers.MAX_LOG_SNR, layers.MAX_LOG_SNR)) * 500 / layers.MAX_LOG_SNR
        angles = position[:, None] * torch.exp(torch.linspace(0, -math.log(10_000), of.features // 2))
        features = torch.cat([angles.cos(), angles.sin()], -1)
        e = F.silu(self.dense("embedding/noise_1", F.silu(self.dense("embedding/noise_0", features))))
        table = lambda name, count: self.dense(f"{name}modulation", e)[:, None].chunk(count, -1)
        norm = lambda h, shift, scale: torch.addcmul(shift, F.layer_norm(h, (size.width,), eps=1e-6), 1 + scale)

        patches = x.reshape(batch, channels, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1)
        h = self.dense("patch", patches.reshape(batch, rows * columns, -1))
        h = h + torch.tensor(positions.sincos((rows, columns), size.width))
        for i in range(size.depth):
            name = f"block_{i}/"
            b_1, a_1, g_1, b_2, a_2, g_2 = table(name, 6)
            qkv = self.dense(f"{name}qkv", norm(h, b_1, a_1)).chunk(3, -1)
            q, k, v = (a.reshape(batch, a.shape[1], size.heads, -1).transpose(1, 2) for a in qkv)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(h.shape)
            h = h + g_1 * self.dense(f"{name}out", y)
            y = F.gelu(self.dense(f"{name}up", norm(h, b_2, a_2)), approximate="tanh")
            h = h + g_2 * self.dense(f"{name}down", y)
        y = self.dense("out", norm(h, *table("", 2))).reshape(batch, rows, columns, p, p, channels)
        return y.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


TWINS: dict[type, type[Twin]] = {models.UNet: Twin, models.DiT: Tokens}


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
