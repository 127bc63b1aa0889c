"""A run's sampler as one file, by `jax.export`: for a machine that has jax, and neither diffjax nor the run.

The parameters are constants in the program, behind a barrier: what is computed of them is not folded beforehand, which
would change last bits. A call draws a fixed number of samples, those of `Run.draw` to the bit where data has no units
of its own and one device of the same kind draws as many together. On a CPU this is found in tests and not by design,
since `Run.draw` is compiled with other options there (`alike`). Samples of a strict run (`train.shards`) differ from
the program's in last bits.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from diffjax import disk
from diffjax.data import Dataset, asked, blank
from diffjax.method import Method
from diffjax.specs import ConfigError, one_line
from diffjax.types import Array, PyTree

FILE, HOW = "sampler.jaxexport", "sampler.md"
PLATFORMS = ("cpu", "cuda", "tpu")
MOST = 2**30  # bytes of parameters: a program is one message of less than 2 GiB


class Program(NamedTuple):
    """An exported sampler: its bytes, the platforms that it runs on, and why not on the others ("")."""

    content: bytes
    platforms: tuple[str, ...]
    why: str = ""


def check(dataset: Dataset) -> None:
    """Checks that what `jax.export` writes programs with is installed, and that samples come back without a codec.

    Raises:
        ConfigError: saying how to install it, or why samples cannot be brought back.
    """
    if dataset.units is not None:
        with one_line():
            _ = dataset.units.affine  # of a codec there is none
    try:
        importlib.import_module("flatbuffers")
    except ImportError as error:
        raise ConfigError("--compiled needs flatbuffers: pip install 'diffjax[compiled]'.") from error


def export(method: Method, params: PyTree, given: PyTree, shape: tuple[int, ...], n: int, units: Any = None) -> Program:
    """Exports `draw(seeds (n,) uint32, given with leaves (n, ...)) -> (n, *shape)`, in the data's units.

    Args:
        given: of one sample, as arrays or their shapes.
        n: samples of a call.
        units: with `affine`, mean and scale, which samples are brought back by in float32, or None.

    Raises:
        ConfigError: for a sampler that calls back to Python, or more parameters than a program holds.
    """
    if (size := sum(leaf.nbytes for leaf in jax.tree.leaves(params))) > MOST:
        raise ConfigError(f"The parameters have {size:,} bytes; a compiled sampler holds at most {MOST:,}.")
    rows = lambda leaf: jax.ShapeDtypeStruct((n, *leaf.shape), leaf.dtype)
    arguments = jax.ShapeDtypeStruct((n,), jnp.uint32), jax.tree.map(rows, given)
    draw, why = jax.jit(drawer(method, params, shape, units)), ""
    for platforms in (PLATFORMS, (jax.default_backend().replace("gpu", "cuda"),)):
        try:
            return Program(bytes(jax.export.export(draw, platforms=platforms)(*arguments).serialize()), platforms, why)
        except (ValueError, TypeError, NotImplementedError) as error:
            why = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    raise ConfigError(f"This sampler cannot be exported: {why}")


def drawer(method: Method, params: PyTree, shape: tuple[int, ...], units: Any = None) -> Callable[[Array, dict], Array]:
    """Makes `draw(seeds, given)` with all it needs in it."""
    fixed = jax.tree.map(jnp.asarray, (params, method.plan(shape)))
    whole = lambda part: jnp.asarray(np.broadcast_to(part, shape), jnp.float32)
    ends = None if units is None else tuple(map(whole, units.affine))

    def draw(seeds: Array, given: dict) -> Array:
        shared = jax.lax.optimization_barrier(fixed)
        one = lambda seed, own: method.draw(shared[0], shared[1], jax.random.key(seed), own)
        back = lambda x: x if ends is None else ends[0] + ends[1] * x
        return jax.vmap(lambda seed, own: back(one(seed, own)))(seeds, given)

    return draw


def write(folder: Path, method: Method, params: PyTree, dataset: Dataset, n: int) -> str:
    """Writes sampler.jaxexport, of n samples a call, and how it is called, sampler.md; says so in a line.

    Raises:
        ConfigError: as `export`.
    """
    example = blank(dataset)
    given = {name: example.given[name] for name in asked(method, dataset)}
    made = export(method, params, given, dataset.shape, n, dataset.units)
    disk.write(folder / FILE, made.content)
    disk.write(folder / HOW, how_to(made, n, given, example.x))
    return f"{n} samples a call: {len(made.content):,} bytes in {folder / FILE}; {folder / HOW} says how to call it"


def how_to(program: Program, n: int, given: dict[str, Any], x: Any) -> str:
    """Writes how the file is called where diffjax is not; `given` and `x` are of one example."""
    kinds = {key: f"{leaf.dtype} {(n, *leaf.shape)}" for key, leaf in given.items()}
    table = "".join(f"\n        {key!r}: ...,  # {kind}" for key, kind in kinds.items())
    why = f" (not the others: {program.why})" if program.why else ""
    return f"""# {FILE}

A sampler of {n} samples a call, {x.dtype} {x.shape} each; {len(program.content):,} bytes with its parameters, for \
{", ".join(program.platforms)}{why}.
It needs jax, numpy and flatbuffers; made with jax {jax.__version__}: later ones read it as jax.export promises.

    import jax, jax.export, numpy as np

    draw = jax.jit(jax.export.deserialize(bytearray(open("{FILE}", "rb").read())).call)
    seeds = np.arange({n}, dtype=np.uint32)  # a seed's sample is always the same
    given = {{{table}{chr(10) + "    " if table else ""}}}
    x = np.asarray(draw(seeds, given))  # {(n, *x.shape)}

For fewer samples repeat a seed and leave its samples out; for more call it again.
"""
