"""What a compiled step costs a chip, and the time that it takes at least by the roofline (Williams et al. 2009).

    t = max( FLOPs / peak,   bytes / bandwidth of the memory,   bytes sent / bandwidth of the links )

It is no measurement: every part at its peak, and all of them at once. FLOPs are counted in the traced program
(`models.flops`), where loops count as often as they run, and split evenly. Bytes are XLA's "bytes accessed": of the
operands and results of every fused operation, also those that never leave the core's own memory, so that a step may be
faster than the second term says, where the first and the third are bounds; and a loop's body counts once, so that they
are too few where a network or an accumulation is a loop (`Costs.looped`). Bytes sent are those of rings
(`collectives.Collective.sent`).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from diffjax import collectives, topology
from diffjax.collectives import Collective

PARTS = ("argument", "output", "alias", "temp")  # of the memory of a program


class Costs(NamedTuple):
    """What a step costs each device, memory apart, which is that of a whole call."""

    devices: int
    flops: float  # counted in the traced program
    xla_flops: float  # XLA's count, of a loop's body once
    bytes: float  # accessed, XLA's count
    memory: dict[str, int]  # bytes by part, and "peak", the most that is held at once
    found: list[Collective]  # of a call
    calls: int  # steps of a call
    params: int  # number of them

    @property
    def looped(self) -> bool:
        """Whether loops inside a step hide a share of it from XLA's counts."""
        return self.xla_flops < 0.9 * self.flops


class Bound(NamedTuple):
    """The times of a step in seconds at the peaks of a chip, by what takes them."""

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """The largest of the three."""
        return max(self)

    @property
    def by(self) -> str:
        """Which of the three it is."""
        return max(self._fields, key=lambda name: getattr(self, name))


def costs(compiled: Any, flops: float, devices: int, params: int, calls: int = 1) -> Costs:
    """Reads what a compiled program costs.

    The peak of its memory is XLA's; of a jax that has none, the sum of arguments, outputs and temporaries, where what
    is in one place counts once: as much or more, since they need not all be there at once.

    Args:
        compiled: of `calls` steps.
        flops: of one step, on all devices.
        params: number of the parameters.
    """
    analysed, found = compiled.cost_analysis(), collectives.read(compiled.as_text())
    sizes = compiled.memory_analysis()
    memory = {part: int(getattr(sizes, f"{part}_size_in_bytes", 0)) for part in PARTS}
    whole = memory["argument"] + memory["output"] - memory["alias"] + memory["temp"]
    memory["peak"] = int(getattr(sizes, "peak_memory_in_bytes", 0)) or whole
    known = analysed["flops"], analysed["bytes accessed"]
    return Costs(devices, flops / devices, *known, memory, found, calls, params)


def bound(of: Costs, chip: topology.Chip, devices_of_a_chip: int = 1) -> Bound:
    """Computes the times of a step by the roofline; a chip of two devices has half of its peaks for each."""
    part = devices_of_a_chip
    sent = collectives.sent(of.found) / of.calls
    return Bound(of.flops * part / chip.flops, of.bytes * part / chip.bandwidth, sent * part / chip.link)


def lines(of: Costs, slice_: topology.Slice, images: int) -> Iterator[str]:
    """Writes what a step of so many images costs on a slice."""
    chip, each = slice_.chip, of.devices / slice_.chips
    per = "chip" if each == 1 else "core"
    more = " or more: XLA counts a loop's body once" * of.looped
    yield f"topology   {slice_.name}, {slice_.chips} chips, compiled for, not run; no time is measured"
    yield f"{per:<11}{of.flops / 1e9:.3f} GFLOP, {of.bytes / 1e6:.1f} MB accessed a step{more}"
    parts = ", ".join(f"{of.memory[name] / 1e6:.1f} {name}" for name in PARTS)
    has = f" of {chip.memory / each / 1e6:.0f}" if chip else ""
    yield f"peak       {of.memory['peak'] / 1e6:.1f}{has} MB a {per} ({parts})"
    for kind, one in collectives.summary(of.found, of.calls).items():
        yield f"{kind + ' ':<11}{one['number']} in the program, {one['bytes'] / 1e6:.3f} MB a step"
    if of.params:
        summed = collectives.gradients(of.found, of.params)
        told = f"{summed.entries / of.calls:,.0f} numbers a step, scalars apart, of {of.params:,} parameters"
        yield f"gradients  {summed.number} collective{'s' * (summed.number != 1)}, {told}"
    if chip is None:
        yield f"roofline   none: no published figures of this kind of chip here, only of {', '.join(topology.CHIPS)}"
        return
    least = bound(of, chip, round(each))
    times = ", ".join(f"{name} {1e3 * value:.3f}" for name, value in least._asdict().items())
    rate = images / least.seconds
    yield f"roofline   {1e3 * least.seconds:.3f} ms a step at all peaks, by {least.by} ({times} ms)"
    yield f"           {rate / slice_.chips:,.0f} images/s a chip, {rate:,.0f} in all"
