"""Strict mode: a training step whose results are the same bytes for 1, 2, 4, ... devices, by a fixed order of sums.

A batch is V virtual shards, contiguous and of B/V examples each. One program of that size computes the loss and the
gradient of each, whichever device it falls to; their sum is one binary tree over the shards, whatever the devices:

    s_0(v) = what shard v gives      s_{l+1}(v) = s_l(2v) + s_l(2v + 1)      mean = s_{log2 V}(0) / V

Each of D devices sums the complete subtree of its own V/D shards. The log2 D levels above go between devices, halves of
the vector at a time (recursive halving and doubling: Thakur, Rabenseifner and Gropp 2005, section 4.5): device i and
i XOR 2^l exchange halves and add, so that each ends with 1/D of the sum, and then the pieces go back the same way. What
a device sends is 2 (1 - 1/D) times the gradients. Collectives only move numbers, and a + b = b + a to the bit.

The rest of a step (norms, optimizer, averages, metrics) is computed on every device from whole values of fixed shapes.
Compilers give an operation other bits when they fuse it with its neighbours (a product and a sum become one rounding),
and their neighbours depend on D. So everything that does is parted from everything that does not by `held`.

Other bits also come of what compilers do to a program for several devices alone; strict steps, and samples of strict
runs, are compiled with the options of `alike`.

The shards of a device are worked through in a loop, one compiled body for all of them, on CPUs too: there XLA slows
convolutions down inside loops (`training.make_steps`), and strict steps of a convolutional network are slow.

What this asks of the devices: the same kind, the same versions, and kernels that give one result for one input (on a
GPU XLA_FLAGS=--xla_gpu_deterministic_ops=true; on a CPU one core, since Eigen's sums depend on the threads).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffjax import alike, host
from diffjax.across import WHOLE, Across, over
from diffjax.method import size_of
from diffjax.parallel import AXIS
from diffjax.types import Array, Key, PyTree


class Shards(NamedTuple):
    """The devices of a strict step, in the place of `Across`, and the virtual shards that they share.

    Attributes:
        count: V, a power of two that the number of devices divides.
        mesh: the devices, along the one axis `parallel.AXIS`.
    """

    count: int
    mesh: Mesh

    def slope(self, compute: Callable, params: PyTree, key: Key, batch: PyTree, apart: bool = True) -> PyTree:
        """Averages the loss and the gradients of `compute(gather, params, key, batch, places)` over the shards.

        Losses that may couple the examples of a batch (not `apart`) have no shards: every device computes them of the
        whole batch. Rows that are logged are the device's own in both cases.
        """
        size = size_of(batch)
        index = self.place() * size + jnp.arange(size, dtype=jnp.int32)
        one = lambda rows: held(compute(WHOLE.whole, *held((params, key, *rows))))
        if not apart:
            (loss, logged), grads = one(self.whole((batch, index)))
            return (loss, self.own(logged, size)), grads
        each = self.count // self.devices()
        rows = jax.tree.map(lambda a: a.reshape(each, -1, *a.shape[1:]), (batch, index))
        (mean, _), slopes = jax.eval_shape(one, jax.tree.map(lambda a: a[0], rows))

        def packed(rows: PyTree) -> tuple[tuple[Array, ...], PyTree]:
            (loss, logged), grads = one(rows)
            return pack((loss, grads)), logged

        sums, logged = _summed(packed, rows, each)
        total = unpack(held([self._over_devices(vector) for vector in sums]), (mean, slopes))
        loss, grads = jax.tree.map(lambda a, like: (a / self.count).astype(like.dtype), total, (mean, slopes))
        return (loss, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), logged)), grads

    def together(self, params: PyTree) -> PyTree:
        """Gives parameters as they are: every device has them whole."""
        return params

    def gathered(self, rows: PyTree) -> tuple[PyTree, Across]:
        """Gives per-example rows of the whole batch; nothing is left to take from other devices."""
        return self.whole(rows), WHOLE

    def whole(self, rows: PyTree) -> PyTree:
        """Makes of a device's rows (B/D, ...) those of all devices, in order."""
        return held(jax.lax.all_gather(rows, AXIS, tiled=True))

    def own(self, rows: PyTree, size: int) -> PyTree:
        """Slices the `size` rows of this device out of the rows of all devices."""
        return Across(AXIS).own(held(rows), size)

    def devices(self) -> int:
        """Counts the devices that share a batch, D."""
        return self.mesh.size

    def place(self) -> Array:
        """Tells this device's place among them."""
        return jax.lax.axis_index(AXIS)

    def mapped(self, step: Callable) -> Callable:
        """Maps a device's step over whole batches (`across.over`), and gives it the compiler's options of `alike`."""
        whole = over(self.mesh, AXIS, step)
        whole.options = alike.options(self.mesh, strict=True)  # pyright: ignore[reportFunctionMemberAccess]  (for `parallel.compile_step`)
        return whole

    def _over_devices(self, vector: Array) -> Array:
        """Sums a vector (n,) over the devices by the tree, whose lowest level are neighbours."""
        devices, n = self.devices(), vector.size
        levels = [(1 << level, (self.place() >> level) % 2 == 0) for level in range(devices.bit_length() - 1)]
        swap = lambda x, bit: jax.lax.ppermute(x, AXIS, [(i, i ^ bit) for i in range(devices)])
        piece = jnp.pad(vector, (0, -n % devices))
        for bit, lower in levels:
            low, high = jnp.split(piece, 2)
            piece = jnp.where(lower, low, high) + swap(jnp.where(lower, high, low), bit)
        for bit, lower in reversed(levels):
            other = swap(piece, bit)
            piece = jnp.where(lower, jnp.concatenate([piece, other]), jnp.concatenate([other, piece]))
        return piece[:n]


def of_settings(mesh: Mesh, settings: Any, error: type[Exception] = ValueError) -> Across | Shards | None:
    """Tells by what a run's steps take from all devices: shards where its settings ask for them (`virtual`).

    Of a batch in parts each device sums up its own gradients first; None: as XLA sees fit.
    """
    shards = virtual(mesh, settings.shards, settings.batch_size, settings.accumulate, settings.backend, error)
    apart = settings.accumulate > 1 and settings.backend == "jit" and 1 < mesh.size == mesh.shape[AXIS]
    return Across(AXIS, mesh=mesh) if shards is None and apart else shards


def virtual(
    mesh: Mesh,
    count: int | None,
    batch_size: int,
    accumulate: int = 1,
    backend: str = "jit",
    error: type[Exception] = ValueError,
) -> Shards | None:
    """Makes the shards of a run's strict steps; of none, 0 or None, it makes None, the ordinary step.

    Raises:
        ValueError: (or `error`) for a count that is no power of two, that the devices do not divide or that does not
            divide the batch; for the backend "pmap" or a batch in parts (`accumulate`); and for a mesh that splits more
            than batches.
    """
    if not count:
        return None
    host.check_int("train.shards", count, 1, error)
    devices = mesh.size
    if count & (count - 1):
        raise error(f"train.shards is {count}, expected a power of two: shards are summed in pairs.")
    if backend != "jit":
        raise error(f"train.shards is {count}, but train.backend is {backend!r}: strict steps are for 'jit'.")
    if mesh.shape[AXIS] != devices:
        raise error(f"train.shards is {count}, which needs train.fsdp and train.tensor to be 1: every device has all.")
    if count % devices:
        raise error(
            f"train.shards is {count}, expected a multiple of the number of devices, {devices}: set train.devices to "
            "a power of two up to it, or more shards."
        )
    if accumulate > 1:
        raise error(
            f"train.shards is {count}, but train.accumulate is {accumulate}: leave it at 1. Shards are "
            "such parts, and a device has the memory of one; more shards need less."
        )
    if batch_size % count:
        raise error(f"train.batch_size is {batch_size}, expected a multiple of {count}, the shards.")
    return Shards(count, mesh)


def held(tree: PyTree) -> PyTree:
    """Gives `tree` back, through a loop that is never entered: no compiler moves or fuses anything past it.

    It would be `jax.lax.optimization_barrier`, but XLA takes that away before it fuses on CPUs (jaxlib 0.7.2 to 0.12).
    The loop's condition is false for every input, in a way that XLA does not find out; its body would change all.
    """
    leaves, structure = jax.tree.flatten(tree)
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    plain = [jax.random.key_data(leaf) if is_key else leaf for leaf, is_key in zip(leaves, keys, strict=True)]
    first = next((leaf for leaf in plain if leaf.size), None)
    if first is None:
        return tree
    one = first.ravel()[0]
    bits = one.astype(jnp.uint8) if one.dtype == bool else _bits(one)
    entered = jnp.any((bits | 1) == 0)
    changed = lambda carry: (jnp.zeros((), bool), [~a if a.dtype == bool else -a for a in carry[1]])
    _, plain = jax.lax.while_loop(lambda carry: carry[0], changed, (entered, plain))
    back = [
        jax.random.wrap_key_data(a, impl=jax.random.key_impl(leaf)) if is_key else a
        for a, leaf, is_key in zip(plain, leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, back)


def _bits(x: Array) -> Array:
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = x.real
    width = jnp.dtype(x.dtype).itemsize
    return jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[width])


def pack(tree: PyTree) -> tuple[Array, ...]:
    """Makes of the arrays of a tree one vector for each kind of number, of float32 at least: one message, no layout."""
    kinds: dict[Any, list[Array]] = {}
    for leaf in jax.tree.leaves(tree):
        kinds.setdefault(_wide(leaf), []).append(leaf.astype(_wide(leaf)).ravel())
    return tuple(map(jnp.concatenate, kinds.values()))


def unpack(vectors: Any, like: PyTree) -> PyTree:
    """Makes a tree of the shapes of `like` of what `pack` made of such a one, as wide as it is there."""
    leaves, structure = jax.tree.flatten(like)
    kinds = list(dict.fromkeys(map(_wide, leaves)))
    at, found = dict.fromkeys(kinds, 0), []
    for leaf in leaves:
        kind = _wide(leaf)
        start, at[kind] = at[kind], at[kind] + leaf.size
        found.append(vectors[kinds.index(kind)][start : at[kind]].reshape(leaf.shape))
    return jax.tree.unflatten(structure, found)


def _wide(leaf: Any) -> Any:
    return jnp.dtype(leaf.dtype if jnp.finfo(leaf.dtype).bits >= 32 else jnp.float32)


def _summed(packed: Callable, rows: PyTree, count: int) -> tuple[PyTree, PyTree]:
    """Sums what `packed` makes of each of `count` shards by the tree; what they log is stacked.

    A loop, with the memory of one shard: what a binary counter carries when 1 is added is the tree's pairs. Place l
    keeps the sum of 2^l shards whose other half is still to come. XLA does not know how often the loop runs, so that of
    one shard is no other program than that of eight. Unrolled, each shard would have machine code of its own, of which
    XLA:CPU (jaxlib 0.10) makes such as differ in the last bit of a sum, though their HLO is one.
    """
    sums, logged = jax.eval_shape(packed, jax.tree.map(lambda a: a[0], rows))
    zeros = partial(jax.tree.map, lambda a: jnp.zeros(a.shape, a.dtype))
    stacks = jax.tree.map(lambda a: jnp.zeros((count, *a.shape), a.dtype), logged)
    unknown = held(jnp.full((), count, jnp.int32))

    def add(i: Array, carry: PyTree) -> PyTree:
        kept, stacks = carry
        new, logged = packed(jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), rows))
        left, done = [], jnp.zeros((), bool)
        for place, sums in enumerate(kept):
            full, pick = (i >> place) % 2 == 1, lambda where, a, b: jax.tree.map(partial(jnp.where, where), a, b)
            left.append(pick(~done & ~full, new, sums))
            new, done = pick(~done & full, _added(sums, new), new), done | ~full
        put = lambda stack, a: jax.lax.dynamic_update_index_in_dim(stack, a, i, 0)
        return left, jax.tree.map(put, stacks, logged)

    first = [zeros(sums) for _ in range(count.bit_length())]
    kept, stacks = jax.lax.fori_loop(0, unknown, add, (first, stacks))
    return kept[-1], stacks


def _added(low: PyTree, high: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, low, high)
