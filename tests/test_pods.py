"""A worker's place in a TPU pod, by its environment and by a metadata server that runs here."""

import contextlib
import http.client
import re
import socket
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from diffjax import cluster, pods

GKE = {"TPU_WORKER_HOSTNAMES": "a,b,c", "TPU_WORKER_ID": "2"}
SLICES = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "first:8080"}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        (GKE, ("a", 3, 2)),
        ({**GKE, "TPU_PROCESS_ADDRESSES": "d:8476,e:8476,f:8476"}, ("d", 3, 2)),
        ({**GKE, **SLICES}, ("first", 6, 5)),
        ({"TPU_WORKER_HOSTNAMES": "c", "TPU_WORKER_ID": "0", **SLICES}, ("first", 2, 1)),
        ({"TPU_WORKER_HOSTNAMES": "[fd00::1]:8471,[fd00::2]:8471", "TPU_WORKER_ID": "1"}, ("fd00::1", 2, 1)),
        ({**GKE, "JAX_PLATFORMS": "tpu,cpu"}, ("a", 3, 2)),
        ({**GKE, "JAX_PLATFORMS": "cpu"}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_SKIP_MDS_QUERY": "1"}, None),
    ],
)
def test_places_by_the_environment(environ, place):
    asked = []
    assert pods.worker(environ, asked.append) == (place and pods.Worker(*place))
    assert asked == []


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({**GKE, "TPU_WORKER_ID": "3"}, "TPU_WORKER_ID of this TPU machine is '3', expected 0 to 2"),
        ({**GKE, "TPU_WORKER_ID": "x"}, "TPU_WORKER_ID of this TPU machine is 'x', expected 0 to 2"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_ID of this TPU machine is '', expected 0 to 1"),
        (
            {**GKE, **SLICES, "MEGASCALE_SLICE_ID": "2"},
            "MEGASCALE_SLICE_ID of this TPU machine is '2', expected 0 to 1",
        ),
        ({**GKE, **SLICES, "MEGASCALE_NUM_SLICES": "two"}, "MEGASCALE_NUM_SLICES is 'two', expected the number"),
        ({**GKE, "MEGASCALE_NUM_SLICES": "2"}, "MEGASCALE_COORDINATOR_ADDRESS is not set, but there are 2 TPU slices"),
    ],
)
def test_places_that_contradict_themselves(environ, said):
    """The way on that is told leads on."""
    with pytest.raises(ValueError, match=said) as refused:
        pods.worker(environ)
    flags = dict(re.findall(r"--(coordinator|processes|process)=([\w:]*\d)", str(refused.value)))
    assert cluster.place(flags["coordinator"], int(flags["processes"]), int(flags["process"]), environ) is None


ATTRIBUTES = {
    "agent-worker-number": "1\n",
    "worker-network-endpoints": "x:7:10.0.0.1,y:8:10.0.0.2",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nWORKER_ID: '1'\n",
}


@contextlib.contextmanager
def served(attributes, broken=0):
    """The address of a metadata server, and what it was asked; the first so many answers are errors."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            folder, _, name = self.path.rpartition("/")
            known = folder == "/computeMetadata/v1/instance/attributes" and name in attributes
            code = 200 if known else 404
            if len(asked) <= broken:
                code = 503
            if self.headers["Metadata-Flavor"] != "Google":
                code = 403
            self.send_response(code)
            self.end_headers()
            if code == 200:
                self.wfile.write(attributes[name].encode())

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({}, ("10.0.0.1", 2, 1)),
        ({"worker-network-endpoints": "x,y,z"}, ("x", 3, 1)),
        ({"worker-network-endpoints": "x", "agent-worker-number": "0"}, None),
        ({"tpu-env": "".join(f"{name}: '{value}'\n" for name, value in SLICES.items())}, ("first", 4, 3)),
        ({"agent-worker-number": None}, None),  # a machine of Compute Engine that is no worker
    ],
)
def test_places_by_the_metadata_server(changed, place):
    attributes = {name: value for name, value in {**ATTRIBUTES, **changed}.items() if value is not None}
    with served(attributes) as (address, _):
        found = pods.worker({"GCE_METADATA_IP": address})
    assert found == (place and pods.Worker(*place))


def test_a_place_is_that_of_the_command():
    with served(ATTRIBUTES) as (address, _):
        found = cluster.place(environ={"GCE_METADATA_IP": address})
    assert found == cluster.Place(("10.0.0.1", cluster.PORT), 2, 1)


def test_a_server_that_fails_is_asked_again(monkeypatch):
    monkeypatch.setattr(pods.time, "sleep", lambda seconds: None)
    with served(ATTRIBUTES, broken=2) as (address, asked):
        assert pods.metadata("agent-worker-number", address) == "1\n"
        assert len(asked) == 3
    with (
        served(ATTRIBUTES, broken=9) as (address, asked),
        pytest.raises(ValueError, match=r"answers 503 .* is asked for"),
    ):
        pods.metadata("agent-worker-number", address)
    assert len(asked) == pods.TRIES


def test_a_worker_without_hosts_is_said():
    with served({"agent-worker-number": "3"}) as (address, _), pytest.raises(ValueError, match="is worker '3', but is"):
        pods.worker({"GCE_METADATA_IP": address})


@pytest.mark.parametrize(
    "fault",
    [socket.gaierror(socket.EAI_AGAIN, "later"), OSError(101, "unreachable"), http.client.BadStatusLine("SSH-2.0")],
)
def test_what_may_pass_is_tried_again_and_said(fault, monkeypatch):
    """A machine whose names or network are not there yet is not alone for that."""
    calls = []

    class Opener:
        def open(self, request, timeout):
            calls.append(timeout)
            raise fault if isinstance(fault, http.client.HTTPException) else urllib.error.URLError(fault)

    monkeypatch.setattr(pods.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(pods.urllib.request, "build_opener", lambda *handlers: Opener())
    with pytest.raises(ValueError, match=r"metadata server answers .* when it is asked for agent-worker-number: give"):
        pods.metadata("agent-worker-number")
    assert calls == [pods.SECONDS] * pods.TRIES


def test_an_address_that_is_none_is_said(monkeypatch):
    monkeypatch.setattr(pods.time, "sleep", lambda seconds: None)
    with pytest.raises(ValueError, match="nonnumeric port"):
        pods.metadata("agent-worker-number", "bad:abc")


def test_no_server_is_no_pod(monkeypatch):
    with served({}) as (address, _):
        pass
    assert pods.metadata("agent-worker-number", address) is None  # nobody listens any more

    def nobody(*args):
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    assert pods.metadata("agent-worker-number", "no-such-host.invalid") is None


@contextlib.contextmanager
def silence():
    """The address of one that takes calls and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield f"127.0.0.1:{silent.getsockname()[1]}"


def test_a_server_that_is_silent_is_said(monkeypatch):
    monkeypatch.setattr(pods, "SECONDS", 0.05)
    monkeypatch.setattr(pods.time, "sleep", lambda seconds: None)
    with silence() as address, pytest.raises(ValueError, match=r"nothing within 0\.05 s"):
        pods.metadata("agent-worker-number", address)
