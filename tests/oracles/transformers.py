"""The published DiT and SiT in NumPy, float64, channels first, by the names of their files (Peebles & Xie 2023)."""

import numpy as np

from oracles.unets import linear, silu


def layer_norm(rows):
    return (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-6)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def positions(size, width):
    """Fixed sines and cosines of a size x size grid, the column in the first half of the entries, (T, width)."""
    quarter = width // 4
    omega = 1 / 10000 ** (np.arange(quarter) / quarter)
    wave = lambda place: np.concatenate([np.sin(place * omega), np.cos(place * omega)])
    return np.stack([np.concatenate([wave(j), wave(i)]) for i in range(size) for j in range(size)])


def dit(w, x, t, label, width, depth, heads, patch, classes, maps=2, features=256):
    """The network on one x (C, H, H): (maps C, H, H)."""
    channels, size, _ = x.shape
    n, rows = size // patch, lambda name, r, out: np.stack([linear(w, name, row, out) for row in r])
    kernel = w.get_array("x_embedder.proj.weight", (width, channels, patch, patch))
    blocks = x.reshape(channels, n, patch, n, patch)
    h = np.einsum("cipjq,dcpq->ijd", blocks, kernel).reshape(n * n, width)
    h = h + w.get_array("x_embedder.proj.bias", (width,)) + positions(n, width)
    half = features // 2
    angles = t * np.exp(-np.log(10000) * np.arange(half) / half)
    told = linear(w, "t_embedder.mlp.0", np.concatenate([np.cos(angles), np.sin(angles)]), width)
    told = linear(w, "t_embedder.mlp.2", silu(told), width)
    told = silu(told + w.get_array("y_embedder.embedding_table.weight", (classes + 1, width))[label])
    for i in range(depth):
        name = f"blocks.{i}"
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = np.split(
            linear(w, f"{name}.adaLN_modulation.1", told, 6 * width), 6
        )
        qkv = rows(f"{name}.attn.qkv", layer_norm(h) * (1 + scale_1) + shift_1, 3 * width)
        q, k, v = np.moveaxis(qkv.reshape(n * n, 3, heads, width // heads), 1, 0)
        scores = np.exp(np.einsum("thd,shd->hts", q, k) / np.sqrt(width // heads))
        mixed = np.einsum("hts,shd->thd", scores / scores.sum(-1, keepdims=True), v).reshape(n * n, width)
        h = h + gate_1 * rows(f"{name}.attn.proj", mixed, width)
        inner = gelu(rows(f"{name}.mlp.fc1", layer_norm(h) * (1 + scale_2) + shift_2, 4 * width))
        h = h + gate_2 * rows(f"{name}.mlp.fc2", inner, width)
    shift, scale = np.split(linear(w, "final_layer.adaLN_modulation.1", told, 2 * width), 2)
    y = rows("final_layer.linear", layer_norm(h) * (1 + scale) + shift, patch * patch * maps * channels)
    y = y.reshape(n, n, patch, patch, maps * channels)
    return np.einsum("ijpqc->cipjq", y).reshape(maps * channels, size, size)
