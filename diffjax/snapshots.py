"""Averages stored along a run, WORKDIR/ema/<step>.npz, of which others are made afterwards (`ema.power`).

A file is written before the checkpoint of its step and replaced in one move: whatever checkpoint a killed run goes on
from, the files up to it are there, and those after it are written again with the same content.
"""

import io
from pathlib import Path

import jax
import numpy as np

from diffjax import disk, members
from diffjax.config import ConfigError
from diffjax.ema import Ema, State
from diffjax.types import PyTree


def write(workdir: Path, step: int, state: State) -> None:
    """Stores the averages of `step` (replicated arrays; one process writes)."""
    if jax.process_index() == 0:
        buffer = io.BytesIO()
        # numpy 2.1 would store `allow_pickle` as one more array.
        np.savez(buffer, **_named(state))  # pyright: ignore[reportArgumentType]
        path = _path(workdir, step)
        if path.parent.exists() and not path.parent.is_dir():
            raise ConfigError(f"{path.parent} is no folder, expected that of the stored averages; move it away.")
        path.parent.mkdir(exist_ok=True)
        disk.write(path, buffer.getvalue())


def steps(workdir: Path) -> list[int]:
    """Lists the steps whose averages are stored, in order."""
    return sorted(int(path.stem) for path in (workdir / "ema").glob("*.npz") if path.stem.isdecimal())


def combine(workdir: Path, rule: Ema, name: str, step: int, state: State) -> PyTree:
    """Makes the average called `name` at `step`, of what was stored until then and of the state's own averages.

    Raises:
        ConfigError: if nothing was stored until then, or a file is damaged or of another network.
        ValueError: if the rule knows no such name.
    """
    assert rule.combine is not None
    stored = [_path(workdir, k) for k in steps(workdir) if k <= step]
    if not stored:
        raise ConfigError(
            f"{workdir} has no averages stored until step {step}, of which EMA {name} could be made; "
            f"set sample.ema to one that was tracked: {', '.join(state.averages)}."
        )
    present = int(state.count)
    by_count = {int(_read(path, State(state.count, {})).count): path for path in stored}  # of equal ones the last
    counts = [count for count in sorted(by_count) if 0 < count < present]
    weights = rule.combine(name, [*counts, present])
    total = None
    for i, count in enumerate([*counts, present]):
        averages = (state if count == present else _read(by_count[count], state)).averages
        for tracked, weight in weights.items():
            part = jax.tree.map(lambda leaf, w=weight[i]: w * np.asarray(leaf, np.float64), averages[tracked])
            total = part if total is None else jax.tree.map(np.add, total, part)
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), total, next(iter(state.averages.values())))


def _path(workdir: Path, step: int) -> Path:
    return workdir / "ema" / f"{step:08d}.npz"


def _named(tree: PyTree) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _read(path: Path, like: State) -> State:
    """A state of the same structure and shapes, from a file."""
    named = _named(like)
    try:
        largest = max(leaf.nbytes for leaf in named.values())
        found = members.several(path, list(named), largest / 2**30)  # the archive holds a checksum of each array
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}); without it, the others make a coarser average.") from error
    for key, leaf in named.items():
        if found[key].shape != leaf.shape:
            raise ConfigError(f"{path}: {key} has shape {found[key].shape}, expected {leaf.shape}.")
    return jax.tree.unflatten(jax.tree.structure(like), list(found.values()))
