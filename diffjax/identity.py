"""What a run of objects is known by, since no config names them: that others are refused in its workdir."""

import functools
import hashlib
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from diffjax.types import PyTree

# Settings that change no step.
UNSAID = {
    "steps",
    "sample_every",
    "checkpoint_every",
    "keep",
    "best",
    "loggers",
    "devices",
    "fsdp",
    "tensor",
    "chunk",
    "samples",
    "label",
    "text",
}


def of_objects(name: str, settings: dict[str, Any], data: str, state: PyTree, program: str) -> ConfigDict:
    """Makes the fingerprint of a run: its name, settings, data, shapes of its state, program of one step.

    A program says all that the others leave out, but also changes with jax and this package, which stand beside it.

    Args:
        data: digest of the examples.
        state: arrays or their shapes.
        program: of one step, as text.
    """
    shapes = [f"{jax.tree_util.keystr(path)} {leaf.shape}" for path, leaf in jax.tree_util.tree_leaves_with_path(state)]
    objects = {
        "settings": {field: value for field, value in settings.items() if field not in UNSAID},
        "data": data,
        "shapes": _digest("\n".join(shapes)),
        "program": {"network, loss or optimizer": _digest(program), "jax": jax.__version__, "diffjax": library()},
    }
    return ConfigDict(dict(name=name, objects=objects)).lock()


@functools.cache
def library() -> str:
    """Makes a digest of the package's own code."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return _digest("\n".join(f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in files))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
