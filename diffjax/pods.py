"""TPU slices of several hosts: a worker's place among them, by its environment or its machine's metadata server.

GKE says it in the environment (TPU_WORKER_HOSTNAMES, TPU_WORKER_ID), Compute Engine's TPU VMs over HTTP at an address
that every machine there knows: cloud.google.com/compute/docs/metadata; the names of what is asked are those that
jax.distributed asks for. Several slices (MEGASCALE_NUM_SLICES and its like) are one run: worker w of slice s is process
s W + w, if each slice has W workers, and process 0 is where MEGASCALE_COORDINATOR_ADDRESS says.
"""

import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import NamedTuple

TRIES, SECONDS = 3, 5.0  # of a question, and for each
SKIP = "TPU_SKIP_MDS_QUERY"  # jax sets it on every machine without a TPU
_NOBODY = {getattr(socket, name, None) for name in ("EAI_NONAME", "EAI_NODATA")}  # there is no such host
_WAY_ON = (
    "give --coordinator=HOST:PORT, --processes and --process, and for this machine alone "
    "--coordinator=localhost:8476 --processes=1 --process=0"
)


class Worker(NamedTuple):
    """A worker's place: the host of process 0, how many processes there are, and which of them it is."""

    host: str
    processes: int
    process: int


def worker(environ: Mapping[str, str], ask: Callable[[str], str | None] | None = None) -> Worker | None:
    """Finds the place of this machine among the hosts of its TPU slices; None where it is alone, or is for no TPU.

    Args:
        ask: name of an attribute -> its value by the metadata server (`metadata`), of a machine that has one.

    Raises:
        ValueError: in one line, for a place that is incomplete or contradicts itself, or a server that does not answer.
    """
    platforms = environ.get("JAX_PLATFORMS", "").lower()
    if platforms and "tpu" not in platforms:
        return None
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES") or ""
    mine, settings = environ.get("TPU_WORKER_ID", ""), {}
    if not hosts and SKIP not in environ:
        ask = ask or (lambda name: metadata(name, environ.get("GCE_METADATA_IP")))
        if (number := ask("agent-worker-number")) is not None:
            hosts, mine = ask("worker-network-endpoints") or "", number.strip()
            settings = _settings(ask("tpu-env") or "")
            if not hosts:
                raise ValueError(f"This TPU machine is worker {mine!r}, but is not told of what hosts: {_WAY_ON}.")
    return _place([_host(one) for one in hosts.split(",") if one.strip()], mine, {**settings, **environ})


def _place(hosts: list[str], mine: str, settings: Mapping[str, str]) -> Worker | None:
    slices, slice_ = (settings.get(name) or usual for name, usual in _MEGASCALE.items())
    if not hosts or (len(hosts) == 1 and slices == "1"):
        return None
    if not slices.isdecimal() or int(slices) < 1:
        raise ValueError(f"MEGASCALE_NUM_SLICES is {slices!r}, expected the number of TPU slices: {_WAY_ON}.")
    for what, number, count in (("TPU_WORKER_ID", mine, len(hosts)), ("MEGASCALE_SLICE_ID", slice_, int(slices))):
        if not number.isdecimal() or int(number) >= count:
            raise ValueError(f"{what} of this TPU machine is {number!r}, expected 0 to {count - 1}: {_WAY_ON}.")
    first = _host(settings.get("MEGASCALE_COORDINATOR_ADDRESS") or "") or ("" if int(slices) > 1 else hosts[0])
    if not first:
        raise ValueError(f"MEGASCALE_COORDINATOR_ADDRESS is not set, but there are {slices} TPU slices: {_WAY_ON}.")
    return Worker(first, len(hosts) * int(slices), int(slice_) * len(hosts) + int(mine))


_MEGASCALE = {"MEGASCALE_NUM_SLICES": "1", "MEGASCALE_SLICE_ID": "0"}


def _host(written: str) -> str:
    """Reads the host of "name", "host:port", "[address]:port" or "name:id:address"."""
    written = written.strip()
    if written.startswith("["):
        return written[1:].partition("]")[0]
    parts = written.split(":")
    return parts[2] if len(parts) == 3 else parts[0]


def _settings(text: str) -> dict[str, str]:
    """Reads lines such as "MEGASCALE_NUM_SLICES: '2'"."""
    found = re.findall(r"^\s*(\w+)\s*:\s*'?(.*?)'?\s*$", text, re.MULTILINE)
    return dict(found)


def metadata(name: str, address: str | None = None) -> str | None:
    """Asks the metadata server for an attribute of this machine; None where there is no server, or no such attribute.

    Args:
        address: of the server, "host" or "host:port"; default the one that machines of Compute Engine know.

    Raises:
        ValueError: in one line, for a server that does not answer, or with an error.
    """
    url = f"http://{address or 'metadata.google.internal'}/computeMetadata/v1/instance/attributes/{name}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    open_ = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # it is this machine's, behind no proxy
    said = ""
    for turn in range(TRIES):
        try:
            with open_(request, timeout=SECONDS) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as refused:
            if refused.code == http.client.NOT_FOUND:
                return None
            said = f"{refused.code} {refused.reason}"
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as failed:
            reason = getattr(failed, "reason", failed)  # of a URLError: what failed
            if isinstance(reason, ConnectionRefusedError) or (
                isinstance(reason, socket.gaierror) and reason.errno in _NOBODY
            ):
                return None  # nobody of that name, or nobody listens
            said = f"nothing within {SECONDS:g} s" if isinstance(reason, TimeoutError) else repr(reason)
        if turn < TRIES - 1:
            time.sleep(0.5)
    raise ValueError(f"This TPU machine's metadata server answers {said} when it is asked for {name}: {_WAY_ON}.")
