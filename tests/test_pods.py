"""A worker's place in a TPU pod, by its environment and by a metadata server that runs here."""

import contextlib
import socket
import threading
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
        ({**GKE, "JAX_PLATFORMS": "tpu,cpu"}, ("a", 3, 2)),
        ({**GKE, "JAX_PLATFORMS": "cpu"}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c"}, None),
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
        ({**GKE, "TPU_WORKER_ID": "3"}, "worker '3' of 3"),
        ({**GKE, "TPU_WORKER_ID": "x"}, "worker 'x' of 3"),
        ({**GKE, **SLICES, "MEGASCALE_SLICE_ID": "2"}, "slice '2' of 2"),
        ({**GKE, **SLICES, "MEGASCALE_NUM_SLICES": "two"}, "slice '1' of 0"),
    ],
)
def test_places_that_contradict_themselves(environ, said):
    with pytest.raises(ValueError, match=f"This TPU machine is {said}, .* or set TPU_SKIP_MDS_QUERY=1"):
        pods.worker(environ)


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
            code = 503 if len(asked) <= broken else 200 if known else 404
            code = 403 if self.headers["Metadata-Flavor"] != "Google" else code
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


def test_no_server_is_no_pod():
    with served({}) as (address, _):
        pass
    assert pods.metadata("agent-worker-number", address) is None  # nobody listens any more
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
