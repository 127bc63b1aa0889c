"""Slices of TPUs by name, "v5e:4x4", as devices that programs are compiled for where there is no TPU.

The compiler is in the wheel libtpu (extra `tpu-aot`); from a name it describes the devices of a slice, and compiles for
them what they would run (jax.experimental.topologies). Such a program cannot run here: it says what it costs.
"""

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax

OLDEST = (0, 10)  # the first jax whose compiler for described devices does not crash
MOST = 10_000  # chips of a slice of a generation that is not in the table
EXAMPLES = "v5e:4x4, v5p:2x2x2 or v6e:8x8"
# Read when libtpu is loaded: no look for a TPU's host in the network, no lock that keeps the machine's TPU for one
# process, nothing on stderr, no log files.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class Chip(NamedTuple):
    """What a chip has, by its maker's figures; rates are in seconds."""

    name: str
    flops: float  # of products of bfloat16
    bandwidth: float  # bytes between chip and memory
    memory: float  # bytes, of which libtpu keeps a part: of v5e 15.75 of 16 GiB are left
    link: float  # bytes that it can send to its neighbours, over all links
    axes: int  # of a slice
    most: int  # chips of the largest slice


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, read on 2026-11-30. `link` is half of their "bidirectional" figure; that
# of v4, which they leave out, is 6 links of 50 GB/s (Jouppi et al. 2023, arXiv:2304.01433, table 4).
CHIPS = {
    "v4": Chip("v4", 275e12, 1200e9, 32 * 2**30, 300e9, 3, 4096),
    "v5e": Chip("v5e", 197e12, 819e9, 16 * 2**30, 200e9, 2, 256),
    "v5p": Chip("v5p", 459e12, 2765e9, 95 * 2**30, 600e9, 3, 6144),
    "v6e": Chip("v6e", 918e12, 1600e9, 32 * 2**30, 400e9, 2, 256),
}


class Slice(NamedTuple):
    """A described slice; `chip` is None where the table has no figures of its kind."""

    name: str
    devices: list[Any]
    chips: int
    chip: Chip | None


def check(name: str, error: type[Exception] = ValueError) -> None:
    """Checks that programs can be compiled here for a slice, and readies this process for that; takes no time.

    It is to be called before anything touches a device: from then on this process computes on its CPU.

    Raises:
        ValueError: (or `error`) for a jax that is too old, no libtpu, or a name that is none of a slice.
    """
    if jax.__version_info__ < OLDEST:
        raise error(
            f"--topology needs jax {'.'.join(map(str, OLDEST))} or newer, whose compiler for described devices works; "
            f"this is {jax.__version__}: pip install -U 'diffjax[tpu-aot]'."
        )
    if importlib.util.find_spec("libtpu") is None:
        raise error("--topology needs libtpu, the compiler of TPUs: pip install 'diffjax[tpu-aot]'; no TPU is needed.")
    written = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,3})(?:_twisted|_untwisted)?", name)
    sizes = [int(size) for size in written[2].split("x")] if written else []
    if not written or not all(sizes):
        raise error(f"--topology is {name!r}, expected a kind of TPU and the sides of a slice, such as {EXAMPLES}.")
    chip, chips = CHIPS.get(written[1]), math.prod(sizes)
    if chip and len(sizes) != chip.axes:
        raise error(f"--topology is {name!r}, but slices of {chip.name} have {chip.axes} sides: such as {EXAMPLES}.")
    if chips > (most := chip.most if chip else MOST):
        raise error(f"--topology is {name!r}, {chips} chips, but slices of {written[1]} have at most {most}.")
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    if jax.config.jax_platforms != "cpu":  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_platforms", "cpu")


def described(name: str, error: type[Exception] = ValueError) -> Slice:
    """Describes a slice by its name.

    Raises:
        ValueError: (or `error`) as `check`, or for a slice that the compiler does not know.
    """
    from jax.experimental import topologies

    check(name, error)
    try:
        devices = list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except jax.errors.JaxRuntimeError as refused:
        said = " ".join(str(refused).split()).removeprefix("INVALID_ARGUMENT: ").rstrip(".")
        raise error(f"--topology is {name!r}, which libtpu refuses: {said}; expected such as {EXAMPLES}.") from None
    chips = len({tuple(device.coords) for device in devices})
    return Slice(name, devices, chips, CHIPS.get(name.partition(":")[0]))


def compiled(lowered: Any, error: type[Exception] = ValueError) -> Any:
    """Compiles a lowered program for the devices that it was lowered for.

    Raises:
        ValueError: (or `error`) in one line for a program that does not fit into the memory of a chip.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as refused:
        said = " ".join(str(refused).split())
        if "RESOURCE_EXHAUSTED" not in said:
            raise
        numbers = re.search(r"[^.:]*\([\d.]+[KMGT]\) exceeds available \w+ \([^)]*\)", said)
        raise error(
            f"the step does not fit into a chip: {(numbers[0] if numbers else said[:200]).strip()}; lower "
            "train.batch_size, raise train.accumulate, or set model.remat of a transformer, or take a larger slice."
        ) from None
