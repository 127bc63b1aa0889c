"""The collectives of a compiled program, read from its text: which, how many, of how many bytes, in loops how often.

Data parallelism has one duty, the sum of the gradients over the devices: one number for each parameter, in the type
that is summed, once a step and whatever the number of devices; `gradients` holds a program to that. A program that
sums them twice, or gathers what it should have kept, shows here before a machine is paid for. The type is XLA's choice
where a gradient is cast: that of a float32 matrix that is used in bfloat16 crosses the links in bfloat16.

The text is XLA's own (`compiled.as_text()`, openxla.org/xla/operation_semantics), of CPUs, GPUs and TPUs.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
SHARE = 0.01  # of the parameters: what moves less is no sum of gradients, but of losses and counters

_COMPUTATION = re.compile(r"(ENTRY\s+)?%?([\w.\-]+)\b.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT\s+)?%?([\w.\-]+) = ")
_OPERATION = re.compile(r"\s*([\w\-]+)\(")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,<=]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_CALLED_LIST = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_LOOP = re.compile(r"\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LIMIT = re.compile(r"compare\((?:[^,()]* )?%?([\w.\-]+), (?:[^,()]* )?%?([\w.\-]+)\), direction=LT")
_CALLERS = ("fusion", "call", "conditional", "async-start")  # whose computations may hold a collective


class Collective(NamedTuple):
    """A collective of a program: its kind, what one execution gives each device, and how often a call executes it."""

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]  # dtype and shape of each array of the result
    group: int  # devices that take part in one of it
    times: float  # executions in one call of the program; nan in a loop of unknown length
    channel: int = 0  # the number that its pieces share, 0: none

    @property
    def bytes(self) -> int:
        """Bytes of the result of one execution, on each device."""
        return sum(map(_bytes, self.arrays))

    @property
    def wide(self) -> "Collective":
        """What it is without its scalars, such as a loss that is summed with gradients."""
        return self._replace(arrays=tuple(array for array in self.arrays if math.prod(array[1]) > 1))

    @property
    def entries(self) -> int:
        """Numbers in the result of one execution, on each device."""
        return sum(math.prod(shape) for _, shape in self.arrays)

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one execution, by a ring over its group, the least that there is."""
        n = self.group
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1.0, "collective-permute": 1.0}
        return self.bytes * share.get(self.kind, (n - 1) / n)


class Kind(NamedTuple):
    """What a program has of one kind of collectives."""

    number: int  # in its text
    times: float  # executions in one call
    bytes: float  # of their results, in one call


class Gradients(NamedTuple):
    """What data parallelism sums in one call of a program, scalars apart."""

    number: int  # of collectives that move a share of the parameters, in its text
    entries: float  # of all collectives in one call: one for each parameter and step
    bytes: float  # of those entries


def read(text: str) -> list[Collective]:
    """Reads the collectives of a program's text, those that it calls and those inside its loops among them.

    A pair of -start and -done is one collective, one that is wrapped in async-start is one, and so are the pieces that
    a TPU's compiler fuses with what is computed meanwhile, all of one channel. A loop's length is what XLA says, or the
    limit that its counter is compared with, which in loops of jax counts from 0 by 1.

    Raises:
        ValueError: for a text without an entry computation.
    """
    computations, entry = _computations(text)
    whole = _devices(text)
    known: dict[str, list[Collective]] = {}

    def inside(name: str) -> list[Collective]:
        if name not in known:
            fused: set[int] = set()
            known[name] = [found for line in computations.get(name, ()) for found in of_line(line, fused)]
        return known[name]

    def of_line(line: str, fused: set[int]) -> Iterator[Collective]:
        kind, operation = _split(line)
        base = operation.removesuffix("-start")
        if base in KINDS:
            channel = re.search(r"channel_id=(\d+)", line)
            shared = int(channel[1]) if channel else 0
            yield Collective(base, _result(kind, operation), _group(line, whole), 1.0, shared)
        elif operation == "while" and (loop := _LOOP.search(line)):
            trips = None if not (bodies := inside(loop[2])) else _length(line, computations.get(loop[1], ()))
            for one in bodies:
                yield one._replace(times=one.times * (math.nan if trips is None else trips))
        elif operation in _CALLERS:
            for name in called(line):
                scatter = name.startswith("all-reduce-scatter")  # each is one, though all may have one channel
                for one in inside(name):
                    if operation == "fusion" and one.channel and not scatter:
                        if one.channel in fused:
                            continue
                        fused.add(one.channel)
                    yield _scattered(one) if scatter else one

    return inside(entry)


def called(line: str) -> list[str]:
    """Lists the computations that an instruction calls."""
    several = [name.strip().lstrip("%") for found in _CALLED_LIST.findall(line) for name in found.split(",")]
    return [*_CALLED.findall(line), *filter(None, several)]


def by_kind(found: Iterable[Collective]) -> dict[str, Kind]:
    """Sums collectives by kind, in the order of `KINDS`."""
    parts: dict[str, list[Collective]] = defaultdict(list)
    for one in found:
        parts[one.kind].append(one)
    total = lambda ones, what: sum(what(one) * one.times for one in ones)
    return {
        kind: Kind(len(ones), sum(one.times for one in ones), total(ones, lambda one: one.bytes))
        for kind in KINDS
        if (ones := parts.get(kind))
    }


def sent(found: Iterable[Collective]) -> float:
    """Counts the bytes that each device sends in one call of a program."""
    return sum(one.sent * one.times for one in found)


def gradients(found: Iterable[Collective], params: int) -> Gradients:
    """Finds what of a program's collectives is the sum of gradients.

    Args:
        params: number of the parameters, which the entries of the sum are to be in each step.
    """
    wide = [one.wide for one in found]
    large = [one for one in wide if one.entries >= SHARE * params]
    total = lambda what: sum(what(one) * one.times for one in wide)
    return Gradients(len(large), total(lambda one: one.entries), total(lambda one: one.bytes))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, by name, and which of them is the program."""
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if line[:1].isspace():
            lines.append(line)
        elif not line.startswith("HloModule") and (head := _COMPUTATION.match(line)):
            lines = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
    if not entry:
        raise ValueError("Got a text without an ENTRY computation, expected that of a compiled program: as_text().")
    return found, entry


def _split(line: str) -> tuple[str, str]:
    """An instruction's type and its operation: ("f32[2,3]{1,0}", "all-reduce")."""
    if not (start := _INSTRUCTION.match(line)):
        return "", ""
    at = end = start.end()
    depth = 0
    while end < len(line) and (depth or line[end] != " "):  # types of tuples have spaces inside parentheses
        depth += (line[end] in "([{") - (line[end] in ")]}")
        end += 1
    operation = _OPERATION.match(line, end)
    return line[at:end], operation[1] if operation else ""


def _result(kind: str, operation: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The arrays that a collective gives; a -start carries its operands before them, and a permute's counters after."""
    if operation in ("all-gather-start", "collective-permute-start"):
        kind = _parts(kind)[1]
    shape = lambda dims: tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
    return tuple((dtype, shape(dims)) for dtype, dims in _ARRAY.findall(kind))


def _parts(kind: str) -> list[str]:
    """The types that the type of a tuple is made of."""
    parts, depth = [""], 0
    for letter in kind[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _bytes(array: tuple[str, tuple[int, ...]]) -> int:
    dtype, shape = array
    digits = re.search(r"\d+", dtype)
    bits = int(digits[0]) if digits else 8 * (dtype == "pred")  # no bytes of a token
    return math.prod(shape) * bits // 8


def _group(line: str, whole: int) -> int:
    """How many devices take part: of lists, of a grid of devices, or of a mesh's named axes; all where none is said."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    if grid := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line):
        return int(grid[2])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", named[1])}
        axes = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    return whole


def _devices(text: str) -> int:
    head = text.partition("\n")[0]
    numbers = (re.search(rf"{name}=(\d+)", head) for name in ("num_partitions", "replica_count"))
    return math.prod(int(number[1]) for number in numbers if number)


def _length(line: str, condition: Iterable[str]) -> int | None:
    """How often a loop runs, None where its text does not say."""
    if known := _TRIPS.search(line):
        return int(known[1])
    root = next((text for text in condition if text.lstrip().startswith("ROOT")), "")
    if not (compared := _LIMIT.search(root)):
        return None
    limits = (re.search(rf"%?{re.escape(compared[2])} = .* constant\((\d+)\)", text) for text in condition)
    return next((int(limit[1]) for limit in limits if limit), None)


def _scattered(one: Collective) -> Collective:
    """A sum of which a TPU's fusion keeps each device's part alone, as what it is."""
    if one.kind != "all-reduce":
        return one
    part = lambda shape: (-(-math.prod(shape) // one.group),)
    return one._replace(kind="reduce-scatter", arrays=tuple((dtype, part(shape)) for dtype, shape in one.arrays))


def summary(found: Iterable[Collective], calls: int = 1) -> dict[str, Any]:
    """Writes collectives by kind as JSON can hold them, executions and bytes a step of a call of so many steps."""
    return {
        kind: {"number": one.number, "times": one.times / calls, "bytes": one.bytes / calls}
        for kind, one in by_kind(found).items()
    }
