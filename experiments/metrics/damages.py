"""What feature spaces see of damaged images: noise, blur, JPEG and a missing class, as multiples of the floor.

    python experiments/metrics/damages.py --data=cifar10_test_jpeg.zip --out=runs/damages [--size=96] [--smoke]

The zip holds colour images, CLASS/NAME. A fifth of each class is real; the other fifths stand in its place (the floor),
and the first of them is damaged. In the features of EfficientNet-Lite0 (extra `features`), in pixels, and in pixels
averaged over 2 x 2, whose covariance so many images have. With --smoke: the shipped digits, their classifier for the
network. Writes results.json and table.md.
"""

import argparse
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from diffjax import data
from diffjax.metrics import features, spaces

PARTS = 5  # of each class


def main() -> None:
    """Reads, damages, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a zip of images in a folder for each class; --smoke needs none")
    parser.add_argument("--out", required=True)
    parser.add_argument("--size", type=int, default=96, help="side that images are brought to for the network")
    parser.add_argument("--smoke", action="store_true", help="few and small: the shipped digits")
    args = parser.parse_args()
    if args.smoke:
        digits = data.digits().train.gather(np.arange(1500))
        images, labels, network = (
            np.rint((digits.x + 1) * 127.5).astype(np.uint8),
            digits.given["label"],
            features.digits(),
        )
    elif args.data:
        images, labels = read(args.data)
        network = features.efficientnet_lite0(size=args.size)
    else:
        parser.error("--data=ZIP is needed, or --smoke")
    rng = np.random.default_rng(0)
    parts = [
        np.concatenate(part) for part in zip(*(fifths(np.flatnonzero(labels == c), rng) for c in np.unique(labels)))
    ]
    real, *others = parts
    sets = {"real": images[real], **{f"part {i + 1}": images[part] for i, part in enumerate(others)}}
    sets |= {name: damage(images[others[0]], rng) for name, damage in DAMAGES.items()}
    sets["a class is missing"] = without(np.concatenate(others), labels, len(real), images)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    found = {name: measured(space, sets) for name, space in ((network.name, network), *PIXELS.items())}
    (out / "results.json").write_text(json.dumps({"n": len(real), "spaces": found}, indent=1))
    text = "\n".join(table(name, rows) for name, rows in found.items())
    (out / "table.md").write_text(text)
    print(text)


def read(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images (n, H, W, 3) uint8 of a zip, and the number of each one's folder (n,)."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png")))
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    folders = [name.split("/")[-2] for name in names]
    return np.stack(images), np.unique(folders, return_inverse=True)[1]


def fifths(places: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Splits the places of a class at random into equal parts; what is left over is dropped."""
    size = len(places) // PARTS
    return list(rng.permutation(places)[: PARTS * size].reshape(PARTS, size))


def without(places: np.ndarray, labels: np.ndarray, n: int, images: np.ndarray) -> np.ndarray:
    """Picks n images of all classes but the last, equally of each as far as that goes."""
    kept = places[labels[places] != labels.max()]
    return images[kept[np.linspace(0, len(kept) - 1, n).astype(int)]]


def noise(levels: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Makes the damage of normal noise with this standard deviation, of 255 grey levels."""
    return lambda x, rng: np.rint(x + levels * rng.standard_normal(x.shape)).clip(0, 255).astype(np.uint8)


def blur(width: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Makes the damage of a Gaussian blur of this width in pixels."""
    return lambda x, rng: np.rint(ndimage.gaussian_filter(x.astype(float), (0, width, width, 0))).astype(np.uint8)


def jpeg(quality: int) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Makes the damage of a JPEG of this quality."""

    def packed(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image.squeeze()).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file)).reshape(image.shape)

    return lambda x, rng: np.stack([packed(image) for image in x])


DAMAGES = {
    "noise, 2 levels": noise(2),
    "noise, 8 levels": noise(8),
    "blur, 0.5 pixels": blur(0.5),
    "blur, 1 pixel": blur(1.0),
    "JPEG, quality 75": jpeg(75),
    "JPEG, quality 30": jpeg(30),
}


def averaged(x: np.ndarray) -> np.ndarray:
    """Averages images (n, H, W, C) over 2 x 2 pixels, flattened."""
    n, height, width, colours = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, colours).mean((2, 4)).reshape(n, -1)


PIXELS = {
    "pixels": features.pixels(),
    "pixels, 2 x 2 averaged": features.Features("averaged", None, averaged, "2x2"),
}


def measured(space: features.Features, sets: dict[str, np.ndarray]) -> dict[str, dict]:
    """Measures all that a space says: metric -> set -> number; metrics that so few images do not allow are absent."""
    rows, left = spaces.compared({name: space.of(images / 127.5 - 1) for name, images in sets.items()})
    print("".join(f"{space.name}: no {name}: {why}\n" for name, why in left.items()), end="", flush=True)
    return rows


def table(name: str, rows: dict[str, dict]) -> str:
    """Formats the metrics of a space, a row for each set; of the Frechet distance its multiple of the floor, too."""
    first = next(iter(rows.values()))
    parts = [key for key in first if key.startswith("part ")]
    others = [key for key in first if key not in ("n", "expected", *parts)]
    head = f"| {name} | {' | '.join(rows)} |\n|---{'|---' * len(rows)}|"
    mean = {metric: np.mean([row[part] for part in parts]) for metric, row in rows.items()}
    cells = {"floor, theory": [row["expected"] for row in rows.values()], "floor, measured": list(mean.values())}
    lines = [f"| {key} | {' | '.join('-' if v is None else f'{v:.4g}' for v in row)} |" for key, row in cells.items()]
    times = lambda metric, value: f" ({value / mean[metric]:.2f} x)" if metric == spaces.FRECHET else ""
    for key in others:
        lines.append(f"| {key} | {' | '.join(f'{row[key]:.4g}{times(m, row[key])}' for m, row in rows.items())} |")
    return "\n".join([head, *lines, ""])


if __name__ == "__main__":
    main()
