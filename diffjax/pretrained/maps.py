"""From published names to ours: what each of our parameters is made of, and all that is wrong with a file at once.

A `Leaf` says, for one of our parameters, which published arrays it is made of, in which shapes, and how. `problems`
holds a file against all of them: what is missing, what nobody wants, what has another shape or holds no real numbers;
a line each. Nothing is filled in before the list is empty.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffjax import host, weights
from diffjax.config import ConfigError
from diffjax.pretrained.files import File
from diffjax.types import PyTree

SHOWN = 4  # problems of a kind that the one line names
NEAR = 0.25  # the share of a network's arrays in a file from which names in it may be misspelt ones of that network
NUMBER = re.compile(r"(\d+)")
CLOSE = 1e-4  # by how much a table in a file may differ from the one that the network computes
# Of our axes, (kh, kw, in, out) and (in, out), to those of PyTorch.
TURNS = {"convolution": (3, 2, 0, 1), "resampling": (3, 2, 0, 1), "dense": (1, 0)}


class Leaf(NamedTuple):
    """How a parameter of ours is made.

    Attributes:
        sources: the published arrays that it is made of, each by the names that it may have.
        shapes: of the sources, as published.
        make: (sources) -> the parameter.
    """

    sources: tuple[tuple[str, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    make: Callable[..., np.ndarray]


class Fault(NamedTuple):
    """One thing that is wrong with a file: kind is missing, unexpected, or other."""

    kind: str
    name: str
    text: str


class WeightsError(ConfigError):
    """The error of a file that is not of the network it was given as; `faults` lists all that is wrong."""

    def __init__(self, message: str, faults: list[Fault]):
        super().__init__(message)
        self.faults = faults


Axes = tuple[int, ...] | None


def leaf(names: tuple[str, ...], shape: tuple[int, ...], axes: Axes = None, sign: int = 1) -> Leaf:
    """Makes the leaf of one array, whose axes are published in the order `axes` of ours; shape is ours."""
    axes = axes or tuple(range(len(shape)))
    back = np.argsort(axes).tolist()
    make = lambda array: sign * np.transpose(array, back)
    return Leaf((names,), (tuple(shape[axis] for axis in axes),), make)


def of_torch(kind: str, name: str, shape: tuple[int, ...], into: tuple[str, ...], sign: int = 1) -> Leaf:
    """Makes the leaf of a parameter (`name`: kernel, bias, scale) of a PyTorch layer that is called one of `into`.

    Kinds: convolution and dense (whose weights are (out, in, ...)), pointwise (a 1 x 1 convolution that is dense here),
    nin (W, b: dense, not turned), norm.
    """
    words = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    if kind == "nin":
        return leaf(tuple(f"{at}.{'W' if name == 'kernel' else 'b'}" for at in into), shape, None, sign)
    names = tuple(f"{at}.{words[name]}" for at in into)
    if kind == "pointwise" and name == "kernel":
        return Leaf((names,), ((shape[1], shape[0], 1, 1),), lambda array: sign * array[:, :, 0, 0].T)
    return leaf(names, shape, TURNS.get(kind) if name == "kernel" else None, sign)


def of_flax(kind: str, name: str, shape: tuple[int, ...], into: tuple[str, ...], sign: int = 1) -> Leaf:
    """Makes the leaf of a parameter of a Flax layer that is called one of `into`, of the kinds of `of_torch`."""
    if kind == "nin":
        return leaf(tuple(f"{at}/{'W' if name == 'kernel' else 'b'}" for at in into), shape, None, sign)
    names = tuple(f"{at}/{name}" for at in into)
    if kind == "pointwise" and name == "kernel":
        return Leaf((names,), ((1, 1, *shape),), lambda array: sign * array[0, 0])
    return leaf(names, shape, None, sign)


def problems(file: File, leaves: Mapping[str, Leaf], ignored: str = r"(?!)") -> list[Fault]:
    """Lists all that is wrong with a file for these leaves; what `ignored` matches may be there."""
    found, wanted, faults = file.entries, set(), []
    in_order = lambda leaf: [
        (part.isdecimal(), int(part) if part.isdecimal() else part) for part in NUMBER.split(leaf[0])
    ]
    for ours, made in sorted(leaves.items(), key=in_order):  # block_2 before block_10
        for names, shape in zip(made.sources, made.shapes, strict=True):
            name = next((name for name in names if name in found), None)
            wanted.update(names)
            if name is None:
                faults.append(Fault("missing", names[0], f"{names[0]} of shape {shape} ({ours})"))
                continue
            if found[name].shape != shape:
                text = f"{name} is of shape {found[name].shape}, expected {shape}"
                faults.append(Fault("other", name, text))
            elif not jnp.issubdtype(jnp.dtype(found[name].dtype), jnp.floating):
                faults.append(Fault("other", name, f"{name} is {found[name].dtype}, expected real numbers"))
    absent = [fault.name for fault in faults] if share(file, leaves) >= NEAR else []
    for name in found:
        if name not in wanted and not re.fullmatch(ignored, name):
            close = host.closest(name, absent[:200])
            faults.append(Fault("unexpected", name, name if close is None else f"{name} (nearest is {close})"))
    return faults


def check(file: File, leaves: Mapping[str, Leaf], title: str, ignored: str = r"(?!)", hint: str = "") -> None:
    """Refuses a file that is not of these leaves.

    Args:
        title: of the network.
        hint: what the file may be instead.

    Raises:
        WeightsError: in one line; its `faults` are all there are.
    """
    faults = problems(file, leaves, ignored)
    if not faults:
        return
    said = []
    for kind, text in (("missing", "missing"), ("unexpected", "not wanted"), ("other", "of another kind")):
        own = [fault.text for fault in faults if fault.kind == kind]
        more = f", and {len(own) - SHOWN} more" if len(own) > SHOWN else ""
        said += [f"{len(own)} {text} ({'; '.join(own[:SHOWN])}{more})"] if own else []
    wanted = sum(len(made.sources) for made in leaves.values())
    raise WeightsError(
        f"{file.path} does not hold the weights of {title}: of {wanted} arrays {', '.join(said)}.{hint}", faults
    )


def check_computed(file: File, computed: Mapping[str, np.ndarray], title: str) -> None:
    """Refuses a file that holds another table than the one which the network computes itself.

    Args:
        computed: the network's tables by their published names, each with any leading axes of length 1.
        title: of the network.

    Raises:
        WeightsError: naming the table, and by how much it differs at most.
    """
    for name, own in computed.items():
        if name not in file.entries:
            continue
        found = np.asarray(file.entries[name].read(), np.float64)
        if found.size != own.size:
            text = f"is of shape {found.shape}, expected {own.shape}"
        elif (apart := float(np.abs(found.reshape(own.shape) - own).max())) > CLOSE:
            text = f"differs by {apart:.2g} from the table that {title} computes"
        else:
            continue
        raise WeightsError(f"{file.path}: {name} {text}, expected that table.", [Fault("other", name, text)])


def fill(file: File, leaves: Mapping[str, Leaf], params: PyTree) -> PyTree:
    """Makes our parameters of a file that `check` took; float32.

    Args:
        params: of our network, or their shapes.

    Raises:
        ConfigError: for numbers that are not finite.
    """
    made, like = {}, weights.named(params)
    for ours, part in leaves.items():
        arrays = [file.entries[next(n for n in names if n in file.entries)].read() for names in part.sources]
        made[ours] = np.ascontiguousarray(part.make(*(np.asarray(array, np.float32) for array in arrays)))
        if made[ours].shape != tuple(like[ours].shape):
            raise ValueError(f"{ours} became {made[ours].shape}, expected {tuple(like[ours].shape)}: the map is wrong.")
    return weights.place(params, made)


def share(file: File, leaves: Mapping[str, Leaf]) -> float:
    """Computes the share of a network's arrays that a file has by name and shape."""
    each = [
        any(name in file.entries and file.entries[name].shape == shape for name in names)
        for made in leaves.values()
        for names, shape in zip(made.sources, made.shapes)
    ]
    return sum(each) / max(len(each), 1)
