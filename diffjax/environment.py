"""What a run is made with: commit, versions, devices."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("diffjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "diffrax", "ml_collections")


def environment() -> dict[str, Any]:
    """Collects commit, versions of packages and devices, as JSON can hold them."""
    versions = {name: _version(name) for name in PACKAGES}
    named = lambda d: d.platform if d.platform == d.device_kind else f"{d.platform}:{d.device_kind}"
    devices = sorted({named(d) for d in jax.devices()})
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "devices": devices,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # an extra that is not installed
        return None


@functools.cache
def _commit() -> str | None:
    """The commit of a source checkout, "-dirty" if it has changes; None for an installed package."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    git = lambda *args: (
        subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False).stdout
    )
    head = git("rev-parse", "--short=12", "HEAD").strip()
    return (head + ("-dirty" if git("status", "--porcelain").strip() else "")) or None
