"""The U-Net beside the same one in PyTorch on this machine's CPU: a training step, and the network alone.

    pip install -e ".[benchmarks]"
    python experiments/benchmarks/versus_torch.py [--smoke] [--pieces] [--repeats N]

Equal shapes, copied weights, outputs held to 1e-4 of each other before anything is timed; PyTorch runs eagerly, with
channels last in memory, on as many threads. Steps alternate, so that drift hits both alike. A ratio is PyTorch's time
over ours: above 1 ours is faster. With --pieces, what the step is made of, at the largest feature map of each case.
With --keep the process keeps its memory, as a run of ours does (`parallel.keep_memory`): PyTorch gains by it too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from counting import report

from diffjax import models, parallel
from diffjax.models import layers, places

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # said by `main`
    torch = F = None

RATE = 1e-3


class Case(NamedTuple):
    """A network, the size of its images and of a batch."""

    network: Any
    shape: tuple[int, int, int]
    batch: int


CASES = {
    "8 x 8, 16 channels": Case(models.UNet(16, (1, 2), 1, (4,)), (8, 8, 1), 128),
    "28 x 28, 16 channels": Case(models.UNet(16, (1, 2), 1, (14,)), (28, 28, 1), 64),
    "32 x 32, 32 channels": Case(models.UNet(32, (1, 2, 2), 1, (8,)), (32, 32, 3), 32),
}
SMOKE = {"8 x 8, 8 channels": Case(models.UNet(8, (1, 1), 1, (4,)), (8, 8, 1), 8)}


class Twin:
    """The forward pass of `models.UNet` in PyTorch, of one map and no labels, over parameters under flax's names."""

    def __init__(self, network: Any, params: Any) -> None:
        self.network = network
        leaves = jax.tree_util.tree_leaves_with_path(params)
        self.params = {"/".join(key.key for key in path): self._tensor(leaf) for path, leaf in leaves}

    @staticmethod
    def _tensor(leaf: Any) -> torch.Tensor:
        """A kernel of HWIO becomes one of OIHW, one of a dense layer is transposed."""
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim)
        tensor = torch.tensor(np.asarray(leaf if axes is None else np.transpose(leaf, axes)).copy())
        if leaf.ndim == 4:
            tensor = tensor.to(memory_format=torch.channels_last)
        return tensor.requires_grad_()

    def dense(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.params[f"{name}/kernel"], self.params[f"{name}/bias"])

    def conv(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.params[f"{name}/kernel"], self.params[f"{name}/bias"], padding=1)

    def norm(self, name: str, x: torch.Tensor, embedding: torch.Tensor | None = None) -> torch.Tensor:
        groups = layers.groups_of(x.shape[1])
        if embedding is None:
            return F.group_norm(x, groups, self.params[f"{name}/scale"], self.params[f"{name}/bias"], 1e-6)
        scale, shift = self.dense(f"{name}/affine", embedding)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(shift, F.group_norm(x, groups, eps=1e-6), 1 + scale)

    def block(self, name: str, x: torch.Tensor, embedding: torch.Tensor, resample: Any = None) -> torch.Tensor:
        resample = resample or (lambda x: x)
        h = self.conv(f"{name}/conv_0", resample(F.silu(self.norm(f"{name}/norm_0", x))))
        h = self.conv(f"{name}/conv_1", F.silu(self.norm(f"{name}/norm_1", h, embedding)))
        x = resample(x)
        if f"{name}/skip/kernel" in self.params:
            kernel = self.params[f"{name}/skip/kernel"]
            x = F.conv2d(x, kernel[:, :, None, None], self.params[f"{name}/skip/bias"])
        return x + h

    def attend(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """One head, as the cases have it."""
        h = self.norm(f"{name}/norm", x).flatten(2).transpose(1, 2)
        q, k, v = self.dense(f"{name}/qkv", h).chunk(3, -1)
        h = self.dense(f"{name}/out", F.scaled_dot_product_attention(q, k, v))
        return x + h.transpose(1, 2).reshape(x.shape)

    def __call__(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """F for images (batch, C, H, W) and log-SNRs (batch,)."""
        of = self.network
        position = (layers.MAX_LOG_SNR - c.clamp(-layers.MAX_LOG_SNR, layers.MAX_LOG_SNR)) * 500 / layers.MAX_LOG_SNR
        turns = torch.exp(torch.linspace(0, -math.log(10_000), of.channels // 2, device=x.device))
        angles = position[:, None] * turns
        features = torch.cat([angles.cos(), angles.sin()], -1)
        embedding = F.silu(self.dense("embedding/noise_1", F.silu(self.dense("embedding/noise_0", features))))
        down, up = (lambda x: F.avg_pool2d(x, 2)), (lambda x: F.interpolate(x, scale_factor=2))
        attended = lambda name, h: self.attend(name, h) if f"{name}/qkv/kernel" in self.params else h

        h = self.conv("conv_in", x)
        skips, levels = [h], range(len(of.multipliers))
        for level in levels:
            if level > 0:
                h = self.block(f"down_{level}", h, embedding, down)
                skips.append(h)
            for i in range(of.blocks):
                name = f"encode_{level}_{i}"
                h = attended(f"{name}_attention", self.block(name, h, embedding))
                skips.append(h)
        h = attended("middle_attention", self.block("middle_0", h, embedding))
        h = self.block("middle_1", h, embedding)
        for level in reversed(levels):
            for i in range(of.blocks + 1):
                h = self.block(f"decode_{level}_{i}", torch.cat([h, skips.pop()], 1), embedding)
            h = attended(f"decode_{level}_attention", h)
            if level > 0:
                h = self.block(f"up_{level}", h, embedding, up)
        return self.conv("conv_out", F.silu(self.norm("norm_out", h)))


def compare(case: Case, repeats: int, kind: type[Twin] = Twin) -> dict[str, Any]:
    """Ratios of the medians and of the best times, PyTorch over ours, and the distance of the outputs."""
    rng = np.random.default_rng(0)
    net = models.network(case.network)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(case.shape), jnp.zeros(()))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype), shapes)
    x, z = rng.normal(size=(2, case.batch, *case.shape)).astype(np.float32)
    c = rng.uniform(-8, 8, case.batch).astype(np.float32)
    twin = kind(case.network, params)
    last = lambda a: torch.tensor(a).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    tx, tz, tc = last(x), last(z), torch.tensor(c)

    apply = jax.jit(jax.vmap(net.apply, (None, 0, 0)))
    ours = np.asarray(apply(params, x, c))
    with torch.no_grad():
        theirs = twin(tx, tc).permute(0, 2, 3, 1).numpy()
    apart = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not apart < 1e-4:
        raise SystemExit(f"The outputs are {apart:.1e} apart, relative to the largest: these are two networks.")

    optimizer = optax.adam(RATE)
    mean_loss = lambda params: jnp.mean(jnp.square(jax.vmap(net.apply, (None, 0, 0))(params, x, c) - z))

    def update(state: Any) -> Any:
        gradient = jax.grad(mean_loss)(state[0])
        updates, memory = optimizer.update(gradient, state[1])
        return optax.apply_updates(state[0], updates), memory

    step = jax.jit(update, donate_argnums=0)
    held = {"state": (jax.tree.map(jnp.copy, params), optimizer.init(params))}
    adam = torch.optim.Adam(list(twin.params.values()), RATE)

    def our_step() -> None:
        held["state"] = jax.block_until_ready(step(held["state"]))

    def their_step() -> None:
        adam.zero_grad()
        F.mse_loss(twin(tx, tc), tz).backward()
        adam.step()

    def their_forward() -> None:
        with torch.no_grad():
            twin(tx, tc)

    times = alternate(
        {
            "step": (our_step, their_step),
            "forward": (lambda: jax.block_until_ready(apply(params, x, c)), their_forward),
        },
        repeats,
    )
    found: dict[str, Any] = {"outputs_apart": apart}
    for name, (mine, torchs) in times.items():
        found[name] = {
            "torch_over_ours": round(float(np.median(torchs) / np.median(mine)), 3),
            "torch_over_ours_best": round(min(torchs) / min(mine), 3),
            "ours_ms": round(1e3 * float(np.median(mine)), 2),
            "torch_ms": round(1e3 * float(np.median(torchs)), 2),
        }
    return found


def pieces(case: Case, repeats: int) -> dict[str, Any]:
    """Milliseconds, ours and PyTorch's, of a convolution and its two gradients, a modulated norm, and resampling."""
    height, width, _ = case.shape
    channels = case.network.channels
    shape, groups = (case.batch, height, width, channels), layers.groups_of(channels)
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, *shape)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, channels, channels)).astype(np.float32)
    tx, tg = (torch.tensor(a).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) for a in (x, g))
    tk = torch.tensor(kernel.transpose(3, 2, 0, 1).copy()).contiguous(memory_format=torch.channels_last)
    numbers = ("NHWC", "HWIO", "NHWC")
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers)
    pulled = lambda of, at: jax.jit(lambda at, g: jax.vjp(of, at)[1](g)[0])
    norm = lambda x: jax.nn.silu(layers.group_norm(x, groups))
    block = lambda x: places.up(places.down(x))

    def grad(of: Callable, *at: torch.Tensor) -> Callable:
        held = [a.detach().clone().requires_grad_() for a in at]
        return lambda: torch.autograd.grad(of(*held), held, tg)

    tconv = lambda x, k: F.conv2d(x, k, padding=1)
    resampled = lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2)
    normal = lambda x: F.silu(F.group_norm(x, groups))
    geometry = (None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1)
    back = lambda *wanted: torch.ops.aten.convolution_backward(tg, tx, tk, *geometry, wanted)
    forward, by_x, by_kernel = jax.jit(conv), pulled(lambda x: conv(x, kernel), x), pulled(lambda k: conv(x, k), kernel)
    normed, blocked = pulled(norm, x), pulled(block, x)
    done = jax.block_until_ready
    calls = {
        "convolution": (lambda: done(forward(x, kernel)), lambda: tconv(tx, tk)),
        "its gradient in x": (lambda: done(by_x(x, g)), lambda: back(True, False, False)),
        "its gradient in the kernel": (lambda: done(by_kernel(kernel, g)), lambda: back(False, True, False)),
        "norm and silu, with gradient": (lambda: done(normed(x, g)), grad(normal, tx)),
        "down and up, with gradient": (lambda: done(blocked(x, g)), grad(resampled, tx)),
    }
    times = alternate(calls, repeats)
    best = lambda seconds: round(1e3 * min(seconds), 2)
    return {name: {"ours_ms": best(mine), "torch_ms": best(torchs)} for name, (mine, torchs) in times.items()}


def alternate(pairs: dict[str, tuple[Callable, Callable]], repeats: int) -> dict[str, tuple[list, list]]:
    """Seconds of every call, in turn; the first two rounds do not count."""
    times: dict[str, tuple[list, list]] = {name: ([], []) for name in pairs}
    for turn in range(repeats + 2):
        for name, calls in pairs.items():
            for call, kept in zip(calls, times[name]):
                began = time.perf_counter()
                call()
                if turn > 1:
                    kept.append(time.perf_counter() - began)
    return times


def main() -> None:
    """One JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a tiny network, few repeats")
    parser.add_argument("--pieces", action="store_true", help="convolution, norm and resampling alone")
    parser.add_argument("--keep", action="store_true", help="the memory, for both")
    parser.add_argument("--repeats", type=int, default=20)
    flags = parser.parse_args()
    if torch is None:
        raise SystemExit('PyTorch is not installed: pip install -e ".[benchmarks]"')
    kept = flags.keep and parallel.keep_memory()
    measure, repeats = pieces if flags.pieces else compare, 2 if flags.smoke else flags.repeats
    found = {name: measure(case, repeats) for name, case in (SMOKE if flags.smoke else CASES).items()}
    versions = {"torch": importlib.metadata.version("torch"), "threads": torch.get_num_threads()}
    versions["memory_kept"] = kept
    report("versus_torch", {"cases": found, **versions})


if __name__ == "__main__":
    main()
