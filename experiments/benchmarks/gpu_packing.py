"""Images packed without loss into one small file that NumPy and Python's own library read, for machines with no more.

Colours are g, r - g and b - (r + g) / 2, modulo 256; of each plane what the median predictor of LOCO-I leaves
(Weinberger et al. 2000: left, above, or left + above - above left), folded to 0, 1, ... by size, is packed by bz2, in
blocks of images. CIFAR-10 takes half of its raw size.
"""

import bz2
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 1000  # images in a block: blocks are unpacked side by side
MOST_MIB = 45.0


def pack(path: Path, parts: dict[str, np.ndarray], most_mib: float = MOST_MIB) -> int:
    """Packs parts, uint8 images (n, H, W, 3) by name, into an .npz file; gives its bytes.

    Raises:
        ValueError: for another kind of array, or a file above `most_mib`, which is then not written.
    """
    arrays: dict[str, Any] = {}
    for name, images in parts.items():
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
            raise ValueError(f"{name} is {images.dtype} of shape {images.shape}, expected uint8 (n, H, W, 3), n >= 1.")
        with ThreadPoolExecutor() as pool:
            blocks = list(pool.map(_pack, (images[at : at + BLOCK] for at in range(0, len(images), BLOCK))))
        arrays[f"{name}.shape"] = np.asarray(images.shape)
        arrays[f"{name}.sizes"] = np.asarray([len(block) for block in blocks])
        arrays[f"{name}.bytes"] = np.frombuffer(b"".join(blocks), np.uint8)
    mib = sum(array.nbytes for array in arrays.values()) / 2**20
    if mib > most_mib:
        count = sum(map(len, parts.values()))
        fit = int(count * most_mib / mib * 0.995)
        raise ValueError(
            f"{count} images take {mib:.3g} MiB, expected at most {most_mib:g}: take about {fit} (--train=)."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        np.savez(file, **arrays)
    return path.stat().st_size


def unpack(path: Path) -> dict[str, np.ndarray]:
    """Reads the parts of a packed file, uint8 (n, H, W, 3) by name.

    Raises:
        ValueError: for a file that is none.
    """
    found = {}
    with np.load(path) as file:
        names = [name.removesuffix(".shape") for name in file.files if name.endswith(".shape")]
        if not names:
            raise ValueError(f"{path} holds no packed images: make it by gpu_cifar10.py --pack.")
        for name in names:
            shape, sizes, content = (file[f"{name}.{part}"] for part in ("shape", "sizes", "bytes"))
            ends = np.cumsum(sizes)
            blocks = [content[end - size : end].tobytes() for size, end in zip(sizes, ends, strict=True)]
            with ThreadPoolExecutor() as pool:
                parts = pool.map(lambda block, shape=shape: _unpack(block, tuple(shape[1:3])), blocks)
            found[name] = np.concatenate(list(parts)).reshape(shape)
    return found


def _pack(images: np.ndarray) -> bytes:
    r, g, b = (images[..., i].astype(np.int16) for i in range(3))
    # 128 is the middle: differences near 0 then seldom wrap around.
    planes = np.stack([g, (r - g + 128) % 256, (b - ((r + g) >> 1) + 128) % 256])
    left = np.pad(planes, ((0, 0), (0, 0), (0, 0), (1, 0)))[..., :-1]
    above = np.pad(planes, ((0, 0), (0, 0), (1, 0), (0, 0)))[..., :-1, :]
    corner = np.pad(left, ((0, 0), (0, 0), (1, 0), (0, 0)))[..., :-1, :]
    rest = ((planes - _median(left, above, corner)) % 256).astype(np.uint8).view(np.int8).astype(np.int16)
    return bz2.compress(np.where(rest >= 0, 2 * rest, -2 * rest - 1).astype(np.uint8).tobytes())


def _unpack(block: bytes, places: tuple[int, int]) -> np.ndarray:
    folded = np.frombuffer(bz2.decompress(block), np.uint8).reshape(3, -1, *places).astype(np.int16)
    rest = np.where(folded % 2 == 0, folded // 2, -(folded + 1) // 2)
    rest = np.ascontiguousarray(rest.transpose(2, 3, 0, 1))  # (H, W, 3, n): a place of all images at once
    planes, nothing = np.zeros_like(rest), np.zeros_like(rest[0, 0])
    for i in range(places[0]):
        for j in range(places[1]):
            left = planes[i, j - 1] if j else nothing
            above = planes[i - 1, j] if i else nothing
            corner = planes[i - 1, j - 1] if i and j else nothing
            planes[i, j] = (rest[i, j] + _median(left, above, corner)) % 256
    g, red, blue = planes.transpose(2, 3, 0, 1)
    r = (red - 128 + g) % 256
    b = (blue - 128 + ((r + g) >> 1)) % 256
    return np.stack([r, g, b], -1).astype(np.uint8)


def _median(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Predicts the median of left, above and left + above - corner."""
    low, high = np.minimum(left, above), np.maximum(left, above)
    return np.clip(left + above - corner, low, high)
