"""The side of a network alone in a file, and what says which base it belongs to.

A run's checkpoints hold base and side, {"base", "side"}: a run goes on, draws and is exported without another run's
folder. What is passed on may be the side alone, a .safetensors file (`diffjax.weights`) of the arrays of params["side"]
with a digest of the base's numbers: put on another base, of the same shapes, it is refused, since its change means
nothing there. So is a side of another kind, or of a factor that is in no shape, LoRA's gamma / rank: the file holds the
text of `Network.side`.
"""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import weights
from diffjax.types import PyTree

BASE = "diffjax_base"  # the text that says which base: SHA-256 over names, kinds and numbers
KIND = "diffjax_side"  # and the one that says which side


def write(path: str | Path, kind: str, params: PyTree) -> int:
    """Writes the side of {"base", "side"} into a .safetensors file; gives its bytes.

    Args:
        kind: of the side, the `side` of its network.

    Raises:
        ValueError: for no kind, parameters without a side, and as `weights.write`.
    """
    if not isinstance(params, dict) or set(params) != {"base", "side"}:
        raise ValueError(f"Got parameters of {_names(params)}, expected a base and a side (`models.side`).")
    _check(kind)
    own = jax.device_get(params["side"])
    return weights.write(path, weights.named(own), {BASE: digest(params["base"]), KIND: kind})


def read(path: str | Path, kind: str, base: PyTree, side: PyTree) -> PyTree:
    """Reads a side, and puts it beside the base that it was trained on.

    Args:
        kind: of the side, the `side` of its network.
        base: parameters of the base's own run.
        side: arrays, or their shapes and dtypes, of the network's own side: `jax.eval_shape(net.init, ...)["side"]`.

    Returns:
        {"base", "side"}.

    Raises:
        FileNotFoundError, ValueError: naming the file, for what is no file of a side, one of another side or factor, or
            one that was trained on another base; for no kind.
    """
    _check(kind)
    header = weights.header(path)
    if BASE not in header.texts:
        raise ValueError(f"{path} has no {BASE!r} in its header's __metadata__: it is no side net's file.")
    weights.check(header, weights.named(side))
    if (said := header.texts.get(KIND)) != kind:
        raise ValueError(f"{path} is the file of the side {said or 'that it does not name'!r}, expected {kind!r}.")
    if (own := digest(base)) != (said := header.texts[BASE]):
        raise ValueError(
            f"{path} is the side of another base: it was trained on parameters of digest {said[:12]}, these have "
            f"{own[:12]}. Open the run that it began from, with the average that it began from."
        )
    return {"base": base, "side": weights.place(side, weights.read(header))}


def digest(params: PyTree) -> str:
    """Computes the SHA-256 over names, kinds and numbers of parameters, whatever the order of their tree."""
    whole = hashlib.sha256()
    for name, leaf in sorted(weights.named(jax.device_get(params)).items()):
        leaf = np.ascontiguousarray(leaf)
        whole.update(f"{name}\0{leaf.dtype}{leaf.shape}\0".encode())
        whole.update(leaf.reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def _check(kind: Any) -> None:
    if not isinstance(kind, str) or not kind:
        raise ValueError(f"The kind of the side is {kind!r}, expected a text: `side` of the network of base and side.")


def _names(params: Any) -> str:
    return ", ".join(map(str, params))[:60] if isinstance(params, dict) and params else type(params).__name__
