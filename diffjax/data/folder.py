"""A folder of images, or a zip of them, as StyleGAN's and EDM's tools write it."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffjax import host
from diffjax.data import endpoints, images, splits
from diffjax.data.images import SUFFIXES, Background
from diffjax.data.records import IN_MEMORY, Columns, Records
from diffjax.data.source import Dataset, check_flip, fingerprint
from diffjax.data.source import in_memory as arrays
from diffjax.data.tree import LABELS, Tree, labels_beside, tree

TRAIN, HELD_OUT, ASIDE = "train", ("val", "valid", "validation", "test"), ("test",)
SHARE = 0.1
NAMED_BY = ("folder", "top", "parent")


class _Files(NamedTuple):
    """The images of a tree, in the order of their names.

    Attributes:
        names: in the tree.
        own: relative to the folder of their part, where the tree has train/ and val/; else as `names`.
        apart: (n,) bool, which are held out by their folder; None: no folder says so.
        label: (n,) int32, or None.
        classes: the names of the labels, or None where they have none.
    """

    names: list[str]
    own: list[str]
    apart: np.ndarray | None
    label: np.ndarray | None
    classes: tuple[str, ...] | None


def folder(
    path: str,
    size: int | None = None,
    channels: int | None = 3,
    held_out: float | None = None,
    flip: bool = False,
    in_memory: bool | None = None,
    label: str | None = "folder",
    background: Background = None,
    y: str | None = None,
) -> Dataset:
    """Makes a data set of every image below `path`, a folder or a zip, as (H, W, channels) in [-1, 1].

    The label is the sub-folder, in alphabetical order of the names, which the data set keeps; images directly in `path`
    have no label. With a dataset.json at the root the label is what it says. Folders train/ and val/ (or valid/,
    validation/, test/) at the root are the split; a test/ beside val/ is left alone. Else an image is held out if a
    hash of its relative name says so: adding files, or moving the folder, moves no other image to the other part, but
    where a class would be in one part alone. What is read of a file: `diffjax.data.images`.

    Args:
        size: scale the shorter side to it and cut out the centre; None: all images must have one size.
        channels: 1, 3 or 4; images are converted. None: 1 where all of them are grey, else 3.
        held_out: the probability of being held out; None: 0.1, or what train/ and val/ say.
        flip: mirror training images at random.
        in_memory: hold all of them as bytes; None: if they need less than 4 GiB. Otherwise they are read when needed.
        label: "folder"; of folders in folders the "top" one or the "parent", with its path; None: no labels.
        background: what pixels that are not opaque lie on, a grey level or a colour 0 .. 255; None: they are refused.
        y: a second folder or zip, of the endpoints for bridges: an image of the same name, but for its suffix, for each
            one here, read by the same rules.

    Raises:
        FileNotFoundError: if there is no such folder or zip.
        ValueError: for one without images, one that is both flat and sorted, or an image that cannot be used.
    """
    _check(path, channels, size, held_out, flip, y)
    images.check_background(background, 3 if channels is None else channels)
    if label not in (*NAMED_BY, None):
        raise ValueError(f"folder: label is {label!r}, expected {', '.join(NAMED_BY)}, or None for no labels.")
    files = tree(path, SUFFIXES)
    found = _found(files, label)
    if found.apart is not None and held_out is not None:
        raise ValueError(
            f"{files.where!r} has its split in folders: leave held_out={held_out} out, or path= one of them."
        )
    apart = found.apart
    if apart is None:
        apart = splits.by_name(found.own, SHARE if held_out is None else held_out, found.label)
    shape = shape_of(files, found.names, size, channels)
    if flip:
        check_flip(shape)
    reads = {"x": reader(files, found.names, shape, background, fit=size is not None)}
    second = None if y is None else _endpoints(y, found.names)
    if second is not None:
        reads["y"] = reader(*second, shape, background, fit=size is not None)
    parts = [_records(reads, np.flatnonzero(apart == side), found.label) for side in (False, True)]
    fits = len(apart) * len(reads) * int(np.prod(shape)) <= IN_MEMORY if in_memory is None else in_memory
    classes = None if found.label is None else int(found.label.max()) + 1
    named = [(files, found.names), *([] if second is None else [second])]
    name = Path(files.where).name.removesuffix(".zip")
    if fits:
        train, out = (part.load() for part in parts)
        made = arrays(name, train, out, classes=classes, levels=256, flip=flip)
    else:
        sizes = [(name, files.bytes(name)) for files, names in named for name in names]
        digest = fingerprint(shape, background, apart, found.label, *sizes)
        made = Dataset(name, *parts, shape=shape, classes=classes, levels=256, fingerprint=digest, flip=flip)
    decode = partial(images.decode, shape=shape, background=background, fit=size is not None)
    return made._replace(names=found.classes, judge=None if second is None else endpoints.judge, decode=decode)


def _check(
    path: str, channels: int | None, size: int | None, held_out: float | None, flip: bool, y: str | None
) -> None:
    if not path:
        raise ValueError("data.folder needs path=, a folder of images or a zip of them: --config.data.path=photos.")
    if channels is not None and channels not in images.MODES:
        raise ValueError(f"folder: channels is {channels!r}, expected 1, 3 or 4.")
    if size is not None and not host.is_int(size, 1):
        raise ValueError(f"folder: size is {size!r}, expected a positive number of pixels, or None.")
    if size is not None and size**2 > images.MOST_PIXELS:
        raise ValueError(f"folder: size is {size}, expected at most {int(images.MOST_PIXELS**0.5)} pixels.")
    if held_out is not None and not (isinstance(held_out, float) and 0 < held_out < 1):
        raise ValueError(f"folder: held_out is {held_out!r}, expected a share between 0 and 1.")
    if flip and y is not None:
        raise ValueError("flip mirrors x alone, but each x belongs to its y: set flip=False.")


def _found(files: Tree, label: str | None) -> _Files:
    """Finds what a tree's names say of part and class."""
    names = [name for name in files.names if name != LABELS]
    if not names:
        raise ValueError(f"{files.where!r} holds no image; expected {', '.join(SUFFIXES)}, in it or below it.")
    if LABELS in files.names and label is not None:
        return _Files(names, names, None, _labelled(files, names), None)
    kept, own, apart = _parts(files, names)
    classes = _classes(files.where, own, label)
    if classes is None:
        return _Files(kept, own, apart, None, None)
    numbers = {name: number for number, name in enumerate(sorted(set(classes)))}
    return _Files(kept, own, apart, np.asarray([numbers[name] for name in classes], np.int32), tuple(numbers))


def _labelled(files: Tree, names: list[str]) -> np.ndarray | None:
    told = labels_beside(files)
    if told is None:
        return None
    if missing := [name for name in names if name not in told]:
        raise ValueError(
            f"{files.where}: {LABELS} has no label for {missing[0]!r} and {len(missing) - 1} more; add them, or set "
            "label=None."
        )
    return np.asarray([told[name] for name in names], np.int32)


def _parts(files: Tree, names: list[str]) -> tuple[list[str], list[str], np.ndarray | None]:
    """Splits train/ from val/ where the root holds nothing else: names, names in their part, which are held out."""
    tops = {name.partition("/")[0] for name in names}
    others = [top for top in HELD_OUT if top in tops]
    flat = any("/" not in name for name in names)
    if flat or TRAIN not in tops or not others or not tops <= {TRAIN, *HELD_OUT}:
        return names, names, None
    if len(set(others) - set(ASIDE)) > 1:
        raise ValueError(f"{files.where!r} holds {', '.join(others)} beside train; expected one held-out folder.")
    kept = [name for name in names if name.partition("/")[0] in (TRAIN, others[0])]
    apart = np.asarray([name.partition("/")[0] != TRAIN for name in kept])
    return kept, [name.partition("/")[2] for name in kept], apart


def _classes(where: str, names: list[str], label: str | None) -> list[str] | None:
    """Names the class of each file, or None where there are no classes."""
    flat = [name for name in names if "/" not in name]
    if label is None or len(flat) == len(names):
        return None
    if flat:
        raise ValueError(
            f"The folder {where!r} holds images directly ({flat[0]}) and in sub-folders; "
            "expected all of them in it (no labels), or all in sub-folders (classes)."
        )
    deep = next((name for name in names if name.count("/") > 1), None)
    if label == "folder" and deep is not None:
        raise ValueError(
            f"The folder {where!r} holds images in folders of folders ({deep}): say which are the classes, "
            "label='top', label='parent', or label=None for none; or path= the folder that holds the classes."
        )
    return [name.rpartition("/")[0] if label == "parent" else name.partition("/")[0] for name in names]


def _endpoints(path: str, names: list[str]) -> tuple[Tree, list[str]]:
    """Finds the endpoint of each image by its name without suffix."""
    files = tree(path, SUFFIXES, "data.folder: y")
    stem = lambda name: name.rpartition(".")[0]
    theirs, _, _ = _parts(files, [name for name in files.names if name != LABELS])
    found, own = dict(zip(map(stem, theirs), theirs)), Counter(map(stem, names))
    doubled = [name for count in (Counter(map(stem, theirs)), own) for name, n in count.items() if n > 1]
    missing, more = [name for name in names if stem(name) not in found], sorted(set(found) - set(own))
    for wrong, what in ((doubled, "two of"), (missing, "no endpoint for"), (more, "an endpoint without an image,")):
        if wrong:
            raise ValueError(
                f"{files.where!r} and the folder of images have {what} {wrong[0]!r} ({len(wrong)} in all); "
                "expected one pair of images for each name."
            )
    return files, [found[stem(name)] for name in names]


def shape_of(files: Tree, names: list[str], size: int | None, channels: int | None) -> tuple[int, int, int]:
    """Finds the shape (H, W, C) of every image, from the headers alone; `size` and `channels` as of `folder`."""
    channels = _channels(files, names) if channels is None else channels
    if size is not None:
        return (size, size, channels)

    def measured(name: str) -> tuple[int, int]:
        with images.opened(files.open(name), _full(files, name)) as image:
            return images.size(image)

    sizes = images.each(names, measured)
    first = sizes[0]
    if others := [(name, size) for name, size in zip(names, sizes) if size != first]:
        name, (width, height) = others[0]
        more = f" ({len(others)} of {len(names)} differ)" if len(others) > 1 else ""
        raise ValueError(
            f"{_full(files, name)!r} is {width} x {height} pixels and {names[0]!r} is {first[0]} x {first[1]}{more}; "
            "expected one size, or size= to scale and cut them to."
        )
    return (first[1], first[0], channels)


def _channels(files: Tree, names: list[str]) -> int:
    """Finds the channels of grey images, 1, or 3 where one is none, from the headers alone."""

    def is_grey(name: str) -> bool:
        with images.opened(files.open(name), _full(files, name)) as image:
            return image.mode in ("1", "L", "LA")

    return 1 if all(images.each(names, is_grey)) else 3


def _full(files: Tree, name: str) -> str:
    return f"{files.where}/{name}"


def reader(
    files: Tree, names: list[str], shape: tuple[int, int, int], background: Background, fit: bool
) -> Callable[[Sequence[int]], np.ndarray]:
    """Makes `read(indices)` -> (b, H, W, C) uint8, of some images of a tree."""
    one = lambda name: images.decode(files.open(name), _full(files, name), shape, background, fit)
    return lambda indices: np.stack(images.each((names[i] for i in indices), one))


def _records(reads: dict[str, Callable], members: np.ndarray, labels: np.ndarray | None) -> Records:
    def read(indices: np.ndarray) -> Columns:
        at = members[indices]
        batch = dict(images.each(reads.items(), lambda named: (named[0], named[1](at))))
        return batch if labels is None else {**batch, "label": labels[at]}

    return Records(len(members), read, labels=None if labels is None else labels[members])
