"""What this machine is to a run: one line that opens every command, and what to do where a device is not used."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import diffjax
from diffjax import bounds

TESTED = ("0.7.2", "0.12")  # the oldest and the newest jax that the suite runs on
RUNS = "runs"  # the folder for runs that are given none
UNSEEN = {
    "cuda": ("a GPU", ("/dev/nvidia0",)),
    "tpu": ("a TPU", ("/dev/accel0", "/dev/vfio/0")),
}  # extra: (what, files)


def doctor() -> None:
    """Prints which device and which jax runs have here, whether that jax is tested, its memory, and where runs go."""
    print(line(), flush=True)


def line() -> str:
    """Writes what `doctor` prints."""
    devices = jax.devices()
    kind = devices[0].device_kind
    where = devices[0].platform if kind == devices[0].platform else f"{devices[0].platform} ({kind})"
    known = "tested" if is_tested(jax.__version__) else f"not tested; {TESTED[0]} to {TESTED[1]} are"
    said = [f"diffjax {diffjax.__version__}, jax {jax.__version__} ({known})", f"{len(devices)} x {where}"]
    said += [f"memory {bounds.written(memory(devices[0]))}", f"runs in {Path(RUNS).absolute()}"]
    return "; ".join([", ".join(said), *hints(devices[0].platform)])


def is_tested(version: str) -> bool:
    """Tells whether a version of jax is one between those that the suite runs on."""
    parts = lambda text: tuple(int(part) for part in text.split(".")[:3] if part.isdecimal())
    return parts(TESTED[0]) <= parts(version) and parts(version)[:2] <= parts(TESTED[1])


def memory(device: Any) -> int:
    """Finds the bytes that a device has, or on a CPU this process may have."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    return int((stats or {}).get("bytes_limit", 0)) or bounds.at_hand()


def hints(platform: str, exists: Callable[[str], bool] = os.path.exists) -> list[str]:
    """Says, for each accelerator that is in the machine and not in use, what would have it used."""
    found = []
    for extra, (what, files) in UNSEEN.items():
        if platform == "cpu" and any(map(exists, files)):
            chosen = os.environ.get("JAX_PLATFORMS")
            way = f"JAX_PLATFORMS={chosen} hides it" if chosen else f"for it: pip install 'diffjax[{extra}]'"
            found.append(f"{what} is in this machine and not in use; {way}")
    return found
