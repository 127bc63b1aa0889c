"""The diffusion transformer of one example (H, W, C) in NumPy, float64, patch by patch and head by head."""

import math

import numpy as np


def dense(p, x):
    return x @ np.asarray(p["kernel"], np.float64) + np.asarray(p.get("bias", 0.0), np.float64)


def layer_norm(p, x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def rms_norm(p, x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(p["scale"], np.float64)


def sincos(places, width):
    """Column first, then row; of each the sines of all frequencies, then their cosines."""
    m = width // 4
    w = [10_000.0 ** (-j / m) for j in range(m)]
    return np.asarray([f(p * v) for p in reversed(places) for f in (math.sin, math.cos) for v in w])


def turn(places, pairs):
    """Angles of a place's pairs: half of them turn with the row, half with the column."""
    m = pairs // 2
    return np.asarray([p * 10_000.0 ** (-j / m) for p in places for j in range(m)])


def rotate(x, angle):
    """Pairs of entries as complex numbers."""
    z = (x[0::2] + 1j * x[1::2]) * np.exp(1j * angle)
    return np.stack([z.real, z.imag], -1).reshape(-1)


def attention(p, q, k, v, heads, angles, qk_norm, table, shape, prefix):
    size, out = len(q), np.zeros(q.shape)
    of = [None] * prefix + [(i, j) for i in range(shape[0]) for j in range(shape[1])]
    d = q.shape[1] // heads
    for head in range(heads):
        at = slice(head * d, (head + 1) * d)
        qs, ks = q[:, at], k[:, at]
        if qk_norm:
            qs, ks = rms_norm(p["norm_q"], qs), rms_norm(p["norm_k"], ks)
        if angles is not None:
            qs = np.stack([x if o is None else rotate(x, angles(o)) for x, o in zip(qs, of)])
            ks = np.stack([x if o is None else rotate(x, angles(o)) for x, o in zip(ks, of)])
        for i in range(size):
            logits = np.asarray([qs[i] @ ks[j] / math.sqrt(d) for j in range(size)])
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            if table is not None:
                for j in range(size):
                    if of[i] is not None and of[j] is not None:
                        row, column = (a - b + n - 1 for a, b, n in zip(of[i], of[j], shape))
                        weights[j] *= table[head, row, column]
            out[i, at] = weights @ v[:, at]
    return out


def forward(
    params,
    x,
    e,
    own,
    *,
    patch,
    heads,
    positions,
    norm,
    mlp,
    qk_norm,
    prefix=0,
    prefix_from=0,
    urpe=False,
    outputs=1,
    channels=1,
):
    """F of x; e is the embedding of time and label, own the label's vector alone, channels those of a map of F."""
    N = {"layer": layer_norm, "rms": rms_norm}[norm]
    part = lambda name: params.get(name, {})
    shape = (x.shape[0] // patch, x.shape[1] // patch)
    places = [(i, j) for i in range(shape[0]) for j in range(shape[1])]
    cut = lambda i, j: x[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].reshape(-1)
    h = np.stack([cut(*place) for place in places]).astype(np.float64)
    h = dense(params["bottleneck"], h) if "bottleneck" in params else h
    h = dense(params["patch"], h)
    width = h.shape[1]
    if positions in ("sincos", "both"):
        h = h + np.stack([sincos(place, width) for place in places])
    if positions == "learned":
        h = h + params["place"]
    angles = (lambda place: turn(place, width // heads // 2)) if positions in ("rotary", "both") else None
    depth = sum(name.startswith("block_") for name in params)
    for i in range(depth):
        if prefix and i == prefix_from:
            h = np.concatenate([own + np.asarray(params["prefix"], np.float64), h])
        p, before = params[f"block_{i}"], prefix if prefix and i >= prefix_from else 0
        b1, a1, g1, b2, a2, g2 = np.split(dense(p["modulation"], e), 6)
        q, k, v = np.split(dense(p["qkv"], N(p.get("norm_1"), h) * (1 + a1) + b1), 3, -1)
        table = p["table"] if urpe else None
        h = h + g1 * dense(p["out"], attention(p, q, k, v, heads, angles, qk_norm, table, shape, before))
        y = dense(p["up"], N(p.get("norm_2"), h) * (1 + a2) + b2)
        if mlp == "swiglu":
            a, b = np.split(y, 2, -1)
            y = a / (1 + np.exp(-a)) * b
        else:
            y = y / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        h = h + g2 * dense(p["down"], y)
    b, a = np.split(dense(params["modulation"], e), 2)
    y = dense(params["out"], N(part("norm_out"), h[prefix:]) * (1 + a) + b)
    maps = []
    for values in np.split(y, outputs, -1):
        out = np.zeros((*x.shape[:2], channels))
        for (i, j), block in zip(places, values):
            out[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch] = block.reshape(patch, patch, -1)
        maps.append(out)
    return np.concatenate(maps, -1)
