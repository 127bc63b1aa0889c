"""The published U-Nets in NumPy, float64, channels first, by the names of their files; and random weights under them.

Written from the structure of diffusers' UNet2DModel and of score_sde's NCSNpp (PyTorch), layer by layer; nothing of the
library is used. `Weights` lists every name that is asked for with its shape, so that a first walk with zeros says what
a file of that architecture holds.
"""

import numpy as np


class Weights(dict):
    """Arrays by name; one that is asked for and is not there is drawn, so that a walk makes a whole file."""

    def __init__(self, seed=0):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def get_array(self, name, shape):
        if name not in self:
            scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.3
            self[name] = scale * self.rng.standard_normal(shape)
        assert self[name].shape == tuple(shape), name
        return self[name]


silu = lambda x: x / (1 + np.exp(-x))


def conv(w, name, x, out, size=3, stride=1, pad=(1, 1), weight="weight"):
    """A correlation with (out, in, size, size), zeros put before and after as `pad` says."""
    kernel = w.get_array(f"{name}.{weight}", (out, x.shape[0], size, size))
    x = np.pad(x, ((0, 0), pad, pad))
    h, v = ((n - size) // stride + 1 for n in x.shape[1:])
    found = np.zeros((out, h, v))
    for i in range(size):
        for j in range(size):
            part = x[:, i : i + stride * (h - 1) + 1 : stride, j : j + stride * (v - 1) + 1 : stride]
            found += np.einsum("oc,chw->ohw", kernel[:, :, i, j], part)
    return found + w.get_array(f"{name}.bias", (out,))[:, None, None]


def linear(w, name, x, out):
    return w.get_array(f"{name}.weight", (out, len(x))) @ x + w.get_array(f"{name}.bias", (out,))


def norm(w, name, x, groups, eps=1e-6):
    parts = x.reshape(groups, -1)
    y = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + eps)
    scale, shift = (w.get_array(f"{name}.{end}", (len(x),)) for end in ("weight", "bias"))
    return y.reshape(x.shape) * scale[:, None, None] + shift[:, None, None]


def attend(q, k, v):
    """Over places, (C, H, W) each: one head."""
    flat = [a.reshape(len(a), -1) for a in (q, k, v)]
    scores = flat[0].T @ flat[1] / np.sqrt(len(q))
    scores = np.exp(scores - scores.max(1, keepdims=True))
    return (flat[2] @ (scores / scores.sum(1, keepdims=True)).T).reshape(v.shape)


def sinusoid(t, width):
    half = width // 2
    angles = t * np.exp(-np.log(10000) * np.arange(half) / (half - 1))
    return np.concatenate([np.sin(angles), np.cos(angles)])


nearest = lambda x: x.repeat(2, 1).repeat(2, 2)


def diffusers(w, x, t, widths, layers, attention, groups=32, old=True):
    """UNet2DModel of google/ddpm-*: x (3, H, W), t an index; `old` names of attention are query, key, value."""
    q, k, v, o = ("query", "key", "value", "proj_attn") if old else ("to_q", "to_k", "to_v", "to_out.0")
    told = sinusoid(t, widths[0])
    told = linear(w, "time_embedding.linear_1", told, 4 * widths[0])
    told = silu(linear(w, "time_embedding.linear_2", silu(told), 4 * widths[0]))

    def resnet(name, x, out):
        h = conv(w, f"{name}.conv1", silu(norm(w, f"{name}.norm1", x, groups)), out)
        h = h + linear(w, f"{name}.time_emb_proj", told, out)[:, None, None]
        h = conv(w, f"{name}.conv2", silu(norm(w, f"{name}.norm2", h, groups)), out)
        return h + (x if len(x) == out else conv(w, f"{name}.conv_shortcut", x, out, 1, 1, (0, 0)))

    def attention_block(name, x):
        h = norm(w, f"{name}.group_norm", x, groups)
        places = h.reshape(len(h), -1).T
        dense = lambda part, rows: np.stack([linear(w, f"{name}.{part}", row, len(x)) for row in rows]).T
        h = attend(*(dense(part, places).reshape(x.shape) for part in (q, k, v)))
        return x + dense(o, h.reshape(len(h), -1).T).reshape(x.shape)

    h = conv(w, "conv_in", x, widths[0])
    skips = [h]
    for level, width in enumerate(widths):
        for i in range(layers):
            h = resnet(f"down_blocks.{level}.resnets.{i}", h, width)
            h = attention_block(f"down_blocks.{level}.attentions.{i}", h) if level in attention else h
            skips.append(h)
        if level < len(widths) - 1:
            h = conv(w, f"down_blocks.{level}.downsamplers.0.conv", h, width, stride=2, pad=(0, 1))
            skips.append(h)
    h = resnet("mid_block.resnets.0", h, widths[-1])
    h = resnet("mid_block.resnets.1", attention_block("mid_block.attentions.0", h), widths[-1])
    for at, level in enumerate(reversed(range(len(widths)))):
        for i in range(layers + 1):
            h = resnet(f"up_blocks.{at}.resnets.{i}", np.concatenate([h, skips.pop()]), widths[level])
            h = attention_block(f"up_blocks.{at}.attentions.{i}", h) if level in attention else h
        if level > 0:
            h = conv(w, f"up_blocks.{at}.upsamplers.0.conv", nearest(h), widths[level])
    return conv(w, "conv_out", silu(norm(w, "conv_norm_out", h, groups)), len(x))


def filtered(x, taps, up=1, down=1, pad=(0, 0)):
    """upfirdn of StyleGAN 2 by both axes: zeros between, zeros around, correlation with taps x taps, every down-th."""
    c, h, v = x.shape
    wide = np.zeros((c, h * up, v * up))
    wide[:, ::up, ::up] = x
    wide = np.pad(wide, ((0, 0), pad, pad))
    n = len(taps)
    size = [s - n + 1 for s in wide.shape[1:]]
    kernel = np.outer(taps, taps)[::-1, ::-1]
    found = sum(kernel[i, j] * wide[:, i : i + size[0], j : j + size[1]] for i in range(n) for j in range(n))
    return found[:, ::down, ::down]


FILTER = np.asarray([1.0, 3.0, 3.0, 1.0]) / 8


def ncsnpp(w, x, told, nf, multipliers, layers, attention, fir, pyramid, fourier):
    """NCSNpp of score_sde with BigGAN blocks, modules numbered as they are called; told is a time or a log sigma."""
    counter = iter(range(10_000))
    module = lambda: f"all_modules.{next(counter)}"
    groups = lambda x: min(len(x) // 4, 32)
    if fourier:
        angles = told * 2 * np.pi * w.get_array(f"{module()}.W", (nf,))
        emb = np.concatenate([np.sin(angles), np.cos(angles)])
    else:
        emb = sinusoid(told, nf)
    emb = linear(w, module(), emb, 4 * nf)
    emb = silu(linear(w, module(), silu(emb), 4 * nf))

    def resample(x, way):
        if way is None:
            return x
        if fir:
            return filtered(x, 2 * FILTER, up=2, pad=(2, 1)) if way == "up" else filtered(x, FILTER, down=2, pad=(1, 1))
        return nearest(x) if way == "up" else x.reshape(len(x), x.shape[1] // 2, 2, -1, 2).mean((2, 4))

    def block(x, out, way=None):
        name = module()
        h = resample(silu(norm(w, f"{name}.GroupNorm_0", x, groups(x))), way)
        h = conv(w, f"{name}.Conv_0", h, out) + linear(w, f"{name}.Dense_0", emb, out)[:, None, None]
        h = conv(w, f"{name}.Conv_1", silu(norm(w, f"{name}.GroupNorm_1", h, groups(h))), out)
        changed, x = len(x) != out or way is not None, resample(x, way)
        return (h + (conv(w, f"{name}.Conv_2", x, out, 1, 1, (0, 0)) if changed else x)) / np.sqrt(2)

    def nin(name, x):
        product = np.einsum("chw,cd->dhw", x, w.get_array(f"{name}.W", (len(x), len(x))))
        return product + w.get_array(f"{name}.b", (len(x),))[:, None, None]

    def attention_block(x):
        name = module()
        h = norm(w, f"{name}.GroupNorm_0", x, groups(x))
        return (x + nin(f"{name}.NIN_3", attend(*(nin(f"{name}.NIN_{i}", h) for i in range(3))))) / np.sqrt(2)

    h, shown, last = conv(w, module(), x, nf), x, len(multipliers) - 1
    skips = [h]
    for level, multiplier in enumerate(multipliers):
        for _ in range(layers):
            h = block(h, nf * multiplier)
            h = attention_block(h) if level in attention else h
            skips.append(h)
        if level < last:
            h = block(h, len(h), "down")
            if pyramid:
                shown = conv(w, f"{module()}.Conv2d_0", filtered(shown, FILTER, pad=(2, 2)), len(h), 3, 2, (0, 0))
                h = shown = (shown + h) / np.sqrt(2)
            skips.append(h)
    h = block(attention_block(block(h, len(h))), len(h))
    for level in range(last, -1, -1):
        for _ in range(layers + 1):
            h = block(np.concatenate([h, skips.pop()]), nf * multipliers[level])
        h = attention_block(h) if level in attention else h
        h = block(h, len(h), "up") if level > 0 else h
    h = silu(norm(w, module(), h, groups(h)))
    return conv(w, module(), h, len(x))
