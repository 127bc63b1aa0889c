"""The networks of gpu_tables.py in PyTorch, compiled by `torch.compile`, and a training step of them, beside ours.

Equal shapes and parameters, bfloat16 by autocast, fused AdamW, an average of the parameters, and cuDNN's or flash
attention by `scaled_dot_product_attention`. Before anything is timed, small networks of both kinds are held to ours on
copied weights.
"""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from versus_torch import F, Twin, torch

from diffjax import models
from diffjax.models import layers, positions

APART = 1e-3  # of outputs in float32, relative to the largest


def missing(smoke: bool) -> str | None:
    """Says why nothing can be compared with PyTorch here; None where it can."""
    if torch is None:
        return "torch: not here"
    return None if smoke or torch.cuda.is_available() else f"torch: {torch.__version__} sees no GPU"


class TorchDiT(Twin):
    """The forward pass of `models.DiT`, with labels or without, of one map, with fixed positions."""

    def __init__(self, network: Any, params: Any, side: int) -> None:
        super().__init__(network, params)
        self.network = SimpleNamespace(patch=network.patch, sizes=network.sizes)  # what `torch.compile` can read
        half = network.features // 2
        self.turns = torch.exp(torch.linspace(0, -math.log(10_000), half))
        self.table = torch.tensor(positions.sincos((side // network.patch,) * 2, network.sizes.width))

    def __call__(self, x: torch.Tensor, c: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        """F for images (batch, C, H, W), log-SNRs and, where the network has them, labels (batch,)."""
        size, p = self.network.sizes, self.network.patch
        batch, channels, rows, columns = x.shape[0], x.shape[1], x.shape[2] // p, x.shape[3] // p
        e = _embedded(self, c, self.turns)
        if label is not None:
            e = e + F.embedding(label, self.params["embedding/label/embedding"].t())
        e = F.silu(e)
        told = lambda name, count: self.dense(f"{name}modulation", e)[:, None].chunk(count, -1)
        norm = lambda h, shift, scale: torch.addcmul(shift, F.layer_norm(h, (size.width,), eps=1e-6), 1 + scale)

        patches = x.reshape(batch, channels, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1)
        h = self.dense("patch", patches.reshape(batch, rows * columns, -1)).float() + self.table
        for i in range(size.depth):
            name = f"block_{i}/"
            b_1, a_1, g_1, b_2, a_2, g_2 = told(name, 6)
            qkv = self.dense(f"{name}qkv", norm(h, b_1, a_1)).chunk(3, -1)
            q, k, v = (a.reshape(batch, a.shape[1], size.heads, -1).transpose(1, 2) for a in qkv)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(h.shape)
            h = h + g_1 * self.dense(f"{name}out", y)
            y = F.gelu(self.dense(f"{name}up", norm(h, b_2, a_2)), approximate="tanh")
            h = h + g_2 * self.dense(f"{name}down", y)
        y = self.dense("out", norm(h, *told("", 2))).float().reshape(batch, rows, columns, p, p, channels)
        return y.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


class TorchUNet(Twin):
    """The forward pass of `models.UNet` with scaled sums and dropout, of one map and no labels."""

    training = False

    def __init__(self, network: Any, params: Any, side: int) -> None:
        super().__init__(network, params)
        read = ("channels", "multipliers", "blocks", "dropout", "skip_scale")
        self.network = SimpleNamespace(**{name: getattr(network, name) for name in read})

    def block(self, name: str, x: torch.Tensor, embedding: torch.Tensor, resample: Any = None) -> torch.Tensor:
        """Computes a residual block, as `Twin` does, times the scale of its sum."""
        resample, scale = resample or (lambda x: x), self.network.skip_scale
        h = self.conv(f"{name}/conv_0", resample(F.silu(self.norm(f"{name}/norm_0", x))))
        h = F.dropout(F.silu(self.norm(f"{name}/norm_1", h, embedding)), self.network.dropout, self.training)
        h, x = self.conv(f"{name}/conv_1", h), resample(x)
        if f"{name}/skip/kernel" in self.params:
            x = F.conv2d(x, self.params[f"{name}/skip/kernel"][:, :, None, None], self.params[f"{name}/skip/bias"])
        return (x + h) * scale

    def attend(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Computes attention of one head, as `Twin` does, times the scale of its sum."""
        return super().attend(name, x) * self.network.skip_scale

    def __call__(self, x: torch.Tensor, c: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        """F for images (batch, C, H, W) and log-SNRs (batch,); labels are passed over."""
        return super().__call__(x, c)


KINDS: dict[type, Any] = {models.DiT: TorchDiT, models.UNet: TorchUNet}
SMALL = {  # every part of the large ones
    models.DiT: (models.DiT(depth=2, width=32, heads=2, classes=3), (8, 8, 4)),
    models.UNet: (models.UNet(8, (1, 2), 1, (4,), skip_scale=0.5**0.5), (8, 8, 3)),
}


def _embedded(twin: Twin, c: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    most = layers.MAX_LOG_SNR
    angles = ((most - c.clamp(-most, most)) * 500 / most)[:, None] * turns
    features = torch.cat([angles.cos(), angles.sin()], -1)
    return twin.dense("embedding/noise_1", F.silu(twin.dense("embedding/noise_0", features)))


def apart(kind: type, device: str) -> float:
    """Computes how far the outputs of a small network of this kind and of its twin are apart, over the largest.

    Raises:
        ValueError: where they are two networks.
    """
    (network, shape), rng = SMALL[kind], np.random.default_rng(0)
    net = models.network(network)
    zeros = (jnp.zeros(shape), jnp.zeros(()), {"label": jnp.int32(0)} if network.classes else {})
    shapes = jax.eval_shape(net.init, jax.random.key(0), *zeros)
    params = jax.tree.map(lambda leaf: (0.1 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
    x, c = rng.normal(size=(4, *shape)).astype(np.float32), rng.uniform(-8, 8, 4).astype(np.float32)
    label = np.arange(4, dtype=np.int32) % 3
    given = {"label": label} if network.classes else {}
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(jax.vmap(net.apply, (None, 0, 0, 0)))(params, x, c, given))
    torch.backends.cudnn.allow_tf32 = False
    with torch.device(device), torch.no_grad():
        told = (torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(c), torch.tensor(label, dtype=torch.long))
        theirs = KINDS[kind](network, params, shape[0])(*told).permute(0, 2, 3, 1).cpu().numpy()
    torch.backends.cudnn.allow_tf32 = True
    found = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not found < APART:
        raise ValueError(f"{kind.__name__} and its twin are {found:.1e} apart, relative to the largest output.")
    return found


def compared(network: Any, shape: tuple[int, ...], batch: int, params: Any, ours: float, smoke: bool) -> dict[str, Any]:
    """Times a training step of the twin beside ours, on a GPU, or for a smoke test uncompiled on a CPU.

    Args:
        ours: images a second of our step.
    """
    device, rng = ("cpu" if smoke else "cuda"), np.random.default_rng(0)
    distance = apart(type(network), device)
    with torch.device(device):
        twin = KINDS[type(network)](network, params, shape[0])
        twin.training = True
        x, z = (torch.tensor(a).permute(0, 3, 1, 2) for a in rng.normal(size=(2, batch, *shape)).astype(np.float32))
        x, z = (a.contiguous(memory_format=torch.channels_last) for a in (x, z))
        label = torch.tensor(rng.integers(0, network.classes or 1, batch))
        leaves = list(twin.params.values())
        averages = [leaf.detach().clone() for leaf in leaves]
        optimizer = torch.optim.AdamW(leaves, 1e-4, weight_decay=1e-4, fused=not smoke)

    def losses(x: torch.Tensor, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        t = torch.rand(len(x), device=x.device).clamp(1e-3, 1 - 1e-3)
        at = t[:, None, None, None]
        with torch.autocast(device, torch.bfloat16):
            seen = ((1 - at) * x + at * z) * ((1 - at) ** 2 + at**2).rsqrt()
            found = twin(seen, 2 * torch.log((1 - t) / t), label)
        return F.mse_loss(found.float(), z - x)

    made = losses if smoke else torch.compile(losses)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = made(x, z, label)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, leaves, 1e-4)
        return loss

    wait = (lambda: None) if smoke else torch.cuda.synchronize
    began = time.perf_counter()
    for _ in range(3):
        loss = step()
    wait()
    compiled, best, count = time.perf_counter() - began, float("inf"), 1 if smoke else 10
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(count):
            loss = step()
        wait()
        best = min(best, (time.perf_counter() - began) / count)
    if not math.isfinite(last := float(loss.detach())):
        raise ValueError(f"The twin's loss is {last}.")
    found = {"images_per_s": round(batch / best, 2), "step_ms": round(1e3 * best, 3), "compile_s": round(compiled, 1)}
    return {**found, "ours_over_torch": round(ours * best / batch, 4), "apart": distance, "torch": torch.__version__}
