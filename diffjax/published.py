"""Weights files that somebody has published: fetched once, checked, and opened like one's own.

    run = diffjax.pretrained("https://example.org/digits.safetensors", sha256="9f86d0...")
    run = diffjax.pretrained("hf:owner/name")             # model.safetensors of a repository of the Hugging Face Hub
    run.draw(16)

A file is read as any weights file is (`exports`): nothing of it is executed, and code that it names is imported only if
it is trusted. What was fetched is kept in a folder of the user's, by its address.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from diffjax import activity, runs, weights
from diffjax.config import ConfigError

VARIABLE = "DIFFJAX_WEIGHTS"  # a folder in place of the user's own
HUB = "https://huggingface.co/{repository}/resolve/{revision}/model.safetensors"
PATIENCE = 30.0  # seconds that a server may be silent
MOST = 64 * 2**30  # bytes of a file
_PART = 2**20


def pretrained(source: str | Path, *, sha256: str | None = None, overrides: Iterable[str] = ()) -> runs.Run:
    """Opens published weights: of an https or http address, of "hf:owner/name" or "hf:owner/name@revision", of a file.

    Args:
        sha256: of the file, as hexadecimal digits, which it has to have; default any.
        overrides: as of `runs.open`.

    Raises:
        ConfigError: in one line, for an address that gives no file, or one that is no weights file of a run, is
            damaged, or has another digest; nothing of it is kept then.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"sha256 is {sha256!r}, expected 64 hexadecimal digits.")
    path = fetched(address(str(source)), sha256) if _is_address(str(source)) else Path(source)
    if not path.is_file():
        raise ConfigError(
            f"There is no weights file {str(source)!r}; expected a file, an https address, or hf:owner/name."
        )
    _check_digest(path, str(source), sha256)
    return runs.open(path, overrides=overrides)


def address(source: str) -> str:
    """Writes the address that a source stands for: that of the Hugging Face Hub for "hf:owner/name[@revision]".

    Raises:
        ConfigError: for a name of another form.
    """
    if not source.startswith("hf:"):
        return source
    found = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w.-]+))?", source)
    if found is None:
        raise ConfigError(f"Got {source!r}, expected hf:owner/name or hf:owner/name@revision.")
    return HUB.format(repository=found[1], revision=found[2] or "main")


def folder() -> Path:
    """Finds the folder for what was fetched: $DIFFJAX_WEIGHTS, else the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(VARIABLE) or cache / "diffjax" / "weights")


def fetched(url: str, sha256: str | None = None) -> Path:
    """Fetches a weights file, or finds it where it was fetched before.

    Raises:
        ConfigError: as `pretrained`.
    """
    path = folder() / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.safetensors"
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            try:
                _download(url, part)
                part.close()
                _check_digest(Path(part.name), url, sha256)
                _check_weights(Path(part.name), url)
                os.replace(part.name, path)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part.name)
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        if isinstance(error, ConfigError):
            raise
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise ConfigError(f"{url} cannot be fetched: {_reason(error)}.") from error
    return path


def _is_address(source: str) -> bool:
    return source.startswith(("https://", "http://", "hf:"))


def _download(url: str, out: Any) -> None:
    """Writes what an address gives into a file, as long as it is no more than there may be."""
    done = 0
    with activity.doing(lambda: f"fetching {url}, {done / 2**20:.0f} MiB"):
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            told = int(answer.headers.get("Content-Length") or 0)
            room = min(MOST, shutil.disk_usage(Path(out.name).parent).free)
            while part := answer.read(_PART):
                done += len(part)
                if max(done, told) > room:
                    raise ConfigError(f"{url} has {max(done, told):,} bytes, expected at most {room:,}.")
                out.write(part)
        if done < told:
            raise ConfigError(f"{url} ended after {done:,} of {told:,} bytes: try it again.")


def _check_digest(path: Path, source: str, sha256: str | None) -> None:
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise ConfigError(f"{source} has the digest {found}, expected {sha256.lower()}: it is another file.")


def _check_weights(path: Path, url: str) -> None:
    try:
        weights.read(weights.header(path))
    except ValueError as error:
        raise ConfigError(str(error).replace(str(path), url)) from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    code = getattr(error, "code", None)
    return f"{code} {reason}" if code else str(reason)
