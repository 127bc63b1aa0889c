"""Devices: one mesh, two shardings, two backends (`jit`, `pmap`) for one pure step, and chunks for sampling.

Everything here changes where numbers live, never what they are: noise is a function of the global index (`training`).
"""

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffjax import activity
from diffjax.types import Array, PyTree, T

AXIS = "data"  # the mesh axis that batches are split over, and pmap's axis_name
BACKENDS = ("jit", "pmap")


def mesh(devices: Sequence[Any] | None = None, data: int | None = None) -> Mesh:
    """Makes a one-axis mesh over the first `data` of the devices (all of them by default), of every process.

    Raises:
        ValueError: if there are fewer devices than asked for.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices) if data is None else data
    if not 1 <= count <= len(devices):
        raise ValueError(f"Got data = {count} devices, expected 1 to {len(devices)}, those that there are.")
    # Auto always: the default has been Auto and Explicit by turns, and Explicit forbids sharding constraints.
    return Mesh(np.asarray(devices[:count]), (AXIS,), axis_types=(AxisType.Auto,))


def chosen(count: int | None, batch_size: int, parts: int = 1, error: type[Exception] = ValueError) -> list[Any]:
    """Chooses the first `count` devices, None: all, for batches that are worked through in so many parts.

    Raises:
        ValueError: (or `error`) for more than there are, or a batch that they do not divide.
    """
    if count is not None and not 1 <= count <= jax.device_count():
        raise error(f"train.devices is {count}, expected 1 to {jax.device_count()}, the devices that are here.")
    devices = jax.devices()[:count]
    check_size(batch_size, len(devices), parts, error)
    return devices


def check_size(batch_size: int, devices: int, parts: int = 1, error: type[Exception] = ValueError) -> None:
    """Checks that so many devices divide a batch that is worked through in so many parts.

    Raises:
        ValueError: (or `error`) if they do not.
    """
    if batch_size % (devices * parts):
        each = f"{devices}, the devices" if parts == 1 else f"{devices} devices x train.accumulate = {parts}"
        raise error(f"train.batch_size is {batch_size}, expected a multiple of {each}.")


# glibc's numbers of what mallopt sets, and values: no block is mapped by itself, none goes back to the kernel.
_ALLOCATOR = {"MMAP_MAX": (-4, 0), "TRIM_THRESHOLD": (-1, 2**31 - 1), "TOP_PAD": (-2, 2**26)}


@functools.cache
def keep_memory() -> bool:
    """Has the C library keep the memory that a program on a CPU gives back, for the next one; tells whether it could.

    glibc returns large blocks to the kernel, which clears every page of them when they are next used: 60 MB in each
    step of the default network, a third of its time (docs/results.md). The process holds what it needed at its peak
    until it ends. Nothing happens where the environment has a MALLOC_... of its own, or with another C library.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    done = [mallopt(number, value) for number, value in _ALLOCATOR.values()]
    return done == [1] * len(done)


def replicated(mesh: Mesh) -> NamedSharding:
    """Makes the sharding that keeps a whole value on every device: state, metrics."""
    return NamedSharding(mesh, P())


def sharded(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Makes the sharding that splits axis `leading` over the devices: batches."""
    return NamedSharding(mesh, P(*[None] * leading, AXIS))


def replicate(mesh: Mesh, tree: T) -> T:
    """Puts `tree` on every device, as a state before its first step. Every process must hold the same values."""
    return _put(tree, replicated(mesh))


def shard_batch(mesh: Mesh, batch: PyTree, leading: int = 0) -> PyTree:
    """Puts this process's part of a batch on its devices, as global arrays; axis `leading` is the batch (1 for stacks).

    Raises:
        ValueError: if the local devices do not divide the batch.
    """
    _check_divisible(batch, leading, len(mesh.local_devices))
    put = lambda x: jax.make_array_from_process_local_data(sharded(mesh, leading), np.asarray(x))
    return jax.tree.map(put, batch)


def compile_step(
    step: Callable, backend: str = "jit", mesh: Mesh | None = None, *, donate: bool = True, leading: int = 0
) -> Callable:
    """Compiles `(state, batch) -> (state, metrics)` over the mesh; the caller sees one logical state and whole batches.

    Args:
        step: from `training.make_step` (leading = 0) or `make_steps` (leading = 1), made with axis_name=AXIS for pmap;
            of one with an attribute `lift`, "jit" compiles the program that takes its numbers as arguments.
        backend: "jit" (any number of processes) or "pmap" (one process).
        donate: give the old state's memory to the new one; the old state is deleted.

    Raises:
        ValueError: for another backend, for pmap in several processes, and when called with a batch that the devices
            do not divide.
    """
    if backend not in BACKENDS:
        raise ValueError(f"Got backend {backend!r}, expected one of {', '.join(BACKENDS)}.")
    devices = _ready(mesh)
    compiled = (_jit if backend == "jit" else _pmap)(step, devices, (0,) if donate else (), leading)

    def run(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        _check_divisible(batch, leading, devices.size)
        return block_on_cpu(compiled(state, batch))

    return run


def lower(
    step: Callable, state: PyTree, batch: PyTree, mesh: Mesh, *, donate: bool = True, leading: int = 0
) -> jax.stages.Lowered:
    """Lowers the program that `compile_step` makes by "jit", also for devices that are described alone (`topology`).

    Args: as of `compile_step`; of state and batch (whole ones) shapes and dtypes are enough.

    Raises:
        ValueError: for a batch that the devices do not divide.
    """
    _check_divisible(batch, leading, mesh.size)
    program, numbers = _program(step, state, batch, mesh, (0,) if donate else (), leading)
    return program.lower(*numbers, state, batch)


def _program(
    step: Callable, state: PyTree, batch: PyTree, mesh: Mesh, donated: tuple[int, ...], leading: int
) -> tuple[Any, tuple[PyTree, ...]]:
    """The program of a step under "jit", and what it takes before state and batch: the numbers of one with a `lift`."""
    everywhere, split = replicated(mesh), sharded(mesh, leading)
    if not hasattr(step, "lift"):
        return jax.jit(step, donate_argnums=donated, in_shardings=(everywhere, split), out_shardings=everywhere), ()
    lifted, numbers = step.lift(state, batch)  # pyright: ignore[reportFunctionMemberAccess]
    donate, shardings = tuple(place + 1 for place in donated), (everywhere, everywhere, split)
    return jax.jit(lifted, donate_argnums=donate, in_shardings=shardings, out_shardings=everywhere), (numbers,)


def _jit(step: Callable, mesh: Mesh, donated: tuple[int, ...], leading: int) -> Callable:
    if not hasattr(step, "lift"):
        return _program(step, None, None, mesh, donated, leading)[0]
    made: list[tuple[Callable, PyTree]] = []

    def run(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        if made:
            compiled, numbers = made[0]
            return compiled(*numbers, state, batch)
        with activity.doing("compiling the training step"):  # its numbers are found when it is traced
            compiled, numbers = _program(step, state, batch, mesh, donated, leading)
            made.append((compiled, replicate(mesh, numbers)))
            return compiled(*made[0][1], state, batch)

    return run


def _pmap(step: Callable, mesh: Mesh, donated: tuple[int, ...], leading: int) -> Callable:
    if jax.process_count() > 1:
        raise ValueError(f"Got backend 'pmap' in {jax.process_count()} processes, expected one; use backend 'jit'.")
    devices = list(mesh.devices.flat)
    # Axes None: the state goes in and out unmapped, one logical value that every device holds.
    mapped = jax.pmap(step, AXIS, in_axes=(None, leading), out_axes=None, devices=devices, donate_argnums=donated)
    split = lambda x: x.reshape(*x.shape[:leading], len(devices), -1, *x.shape[leading + 1 :])
    return lambda state, batch: mapped(state, jax.tree.map(split, batch))


def _put(tree: T, sharding: NamedSharding) -> T:
    """Puts `tree` where `sharding` says, typed keys included, which `device_put` refuses in several processes."""

    def put(x: Any) -> Array:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        return jax.device_put(x, sharding)

    return jax.device_put(tree, sharding) if jax.process_count() == 1 else jax.tree.map(put, tree)


def _ready(mesh_or_none: Mesh | None) -> Mesh:
    """The mesh that a program is to run on, its memory prepared."""
    devices = mesh() if mesh_or_none is None else mesh_or_none
    if devices.devices.flat[0].platform == "cpu":
        keep_memory()
    return devices


def _check_divisible(batch: PyTree, leading: int, count: int) -> None:
    shapes = {np.shape(leaf) for leaf in jax.tree.leaves(batch)}
    if bad := [shape for shape in sorted(shapes) if len(shape) <= leading or shape[leading] % count]:
        raise ValueError(
            f"Got a batch of shape {bad[0]}, expected axis {leading} to be a multiple of {count}, the devices."
        )


def block_on_cpu(tree: T) -> T:
    """Awaits `tree` if this is a CPU posing as several devices: there, unawaited steps wait for each other."""
    several = jax.default_backend() == "cpu" and jax.device_count() > 1
    return jax.block_until_ready(tree) if several else tree


def initialize_distributed(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins this process to a run of several hosts, before anything else touches a device; once is enough.

    On TPU pods and under Slurm no argument is needed; elsewhere give the coordinator's "host:port", the number of
    processes, and this one's place among them. From here on SIGTERM is JAX's: ask Orbax for preemption.
    """
    if not jax.distributed.is_initialized():
        jax.distributed.initialize(coordinator, processes, process)


def map_chunks(batched_fn: Callable, chunk: int, mesh: Mesh | None = None) -> Callable[[PyTree, PyTree], PyTree]:
    """Makes `(shared, rows (n, ...)) -> NumPy rows (n, ...)`, which runs in chunks of one fixed size for each device.

    Every device runs the very program of batch `chunk`, on rows that may be padding. So it compiles once, and the bits
    of row i depend neither on n nor on the number of devices (on a CPU: on one core); a convolution compiled for
    another batch size differs in the last bits. With several processes, all ask for the same rows and all get them.

    Args:
        batched_fn: pure, (shared, rows (chunk, ...)) -> (chunk, ...), each row on its own (`jax.vmap` of one sample).
        chunk: rows for each device and dispatch.

    Raises:
        ValueError: if chunk < 1, or when called with no rows or with rows of several lengths.
    """
    if chunk < 1:
        raise ValueError(f"Got chunk = {chunk}, expected at least 1.")
    devices = _ready(mesh)
    # check_vma=False: a scan that starts from constants is no error.
    per_device = jax.shard_map(batched_fn, mesh=devices, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False)
    compiled = jax.jit(per_device)
    width = chunk * devices.size

    def run(shared: PyTree, rows: PyTree) -> PyTree:
        n, shared = _length(rows), replicate(devices, shared)
        parts = []
        for start in range(0, n, width):
            at = np.minimum(np.arange(start, start + width), n - 1)  # the tail repeats the last row
            part = _put(jax.tree.map(lambda x: x[at], rows), sharded(devices))  # noqa: B023
            parts.append(jax.tree.map(_to_host, compiled(shared, part)))
        return jax.tree.map(lambda *xs: np.concatenate(xs)[:n], *parts)

    return run


def _length(rows: PyTree) -> int:
    lengths = sorted({jnp.shape(leaf)[0] for leaf in jax.tree.leaves(rows)})
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(f"Got rows of lengths {lengths}, expected one length, at least 1.")
    return lengths[0]


def _to_host(x: Array) -> Any:
    if x.is_fully_addressable:
        return np.asarray(x)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(x, tiled=True)
