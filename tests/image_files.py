"""Images of every depth and kind for tests, PNGs and PPMs among them that Pillow cannot write."""

import json
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

PNG_TYPES = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}


def png(mode, depth, size=(4, 4), level=None):
    """The bytes of a PNG by the specification: big-endian samples, filter 0 on each row."""
    channels = len(mode)
    top = 2**depth - 1 if level is None else level
    kind = ">u2" if depth == 16 else "u1"
    row = b"\0" + np.full(size[0] * channels, top, kind).tobytes()
    if depth < 8:
        row = b"\0" + b"\xff" * (-(-size[0] * depth // 8))
    chunk = lambda name, body: struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    header = struct.pack(">IIBBBBB", *size, depth, PNG_TYPES[mode], 0, 0, 0)
    pixels = zlib.compress(row * size[1])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def ppm(magic, largest, size=(4, 4)):
    """The bytes of a binary PGM (P5) or PPM (P6), or of the plain P2 or P3, every sample the largest."""
    count = size[0] * size[1] * (3 if magic in ("P3", "P6") else 1)
    head = f"{magic} {size[0]} {size[1]} {largest}\n".encode()
    if magic in ("P2", "P3"):
        return head + b" ".join([str(largest).encode()] * count)
    return head + largest.to_bytes(2 if largest > 255 else 1, "big") * count


def paint(file, seed=0, size=(4, 4), mode="RGB"):
    """Writes a random image; gives its pixels."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return pixels


def fill(root, names, **options):
    """Writes one random image for each name; gives {name: pixels}."""
    return {name: paint(root / name, seed, **options) for seed, name in enumerate(names)}


def archive(path, root, labels=None, compression=zipfile.ZIP_STORED):
    """Packs a folder's images into a zip as EDM's tool does, with its dataset.json."""
    with zipfile.ZipFile(path, "w", compression) as packed:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                packed.write(file, file.relative_to(root).as_posix())
        if labels is not None:
            packed.writestr("dataset.json", labels if isinstance(labels, str) else json.dumps({"labels": labels}))
    return str(path)


def content(part):
    """{label: sorted pixels}: what a part holds, by its labels, in no order."""
    batch = part.gather(np.arange(len(part)))
    labels = batch.given.get("label", np.zeros(len(part), int)).tolist()
    pixels = np.rint((batch.x + 1) * 127.5).astype(np.uint8)
    return {k: sorted(p.tobytes() for p, own in zip(pixels, labels) if own == k) for k in sorted(set(labels))}


def both(dataset):
    """`content` of training and held-out part together."""
    parts = [content(part) for part in (dataset.train, dataset.held_out)]
    return {k: sorted(parts[0].get(k, []) + parts[1].get(k, [])) for k in sorted({*parts[0], *parts[1]})}
