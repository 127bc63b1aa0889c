"""Published weights: fetched once from a server of this machine, and refused in one line where they are not right."""

import hashlib
import http.server
import threading

import numpy as np
import pytest

from diffjax import published, runs
from diffjax.config import ConfigError
from diffjax.main import main

FLAGS = ("data.name=moons", "data.n=200", "model.name=MLP", "model.width=8", "model.depth=1", "train.steps=4")
FLAGS += ("train.log_every=2", "train.sample_every=4", "learning_rate.warmup_steps=0", "eval.samples=20")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address of a server, its folder with model.safetensors, the requests it had, samples of the run)."""
    folder, seen = tmp_path_factory.mktemp("served"), []
    built = runs.build_run(runs.load("configs/vpsde.py:tiny", FLAGS))
    run = runs.Trainer(**built._asdict()).train()
    run.export(folder / "model.safetensors")
    (folder / "text.safetensors").write_bytes(b"no weights at all, and some more")
    (folder / "short.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-8])

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def do_GET(self):
            seen.append(self.path)
            if self.path == "/cut.safetensors":  # promises more than it gives
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"12345")
                return
            super().do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder, seen, run.draw(3)
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(published.VARIABLE, str(tmp_path / "weights"))
    monkeypatch.setattr(published, "PATIENCE", 5.0)
    return tmp_path / "weights"


def test_a_run_is_fetched_once_and_drawn_from(served, cache):
    url, folder, seen, samples = served
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    for _ in range(2):
        run = published.pretrained(f"{url}/model.safetensors", sha256=digest.upper())
        np.testing.assert_array_equal(run.draw(3), samples)
    assert seen.count("/model.safetensors") == 1
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
    np.testing.assert_array_equal(published.pretrained(folder / "model.safetensors").draw(3), samples)


@pytest.mark.parametrize(
    ("name", "digest", "said"),
    [
        ("gone.safetensors", None, "cannot be fetched: 404 File not found"),
        ("text.safetensors", None, r"/text\.safetensors"),
        ("short.safetensors", None, r"/short\.safetensors"),
        ("cut.safetensors", None, "cut.safetensors"),
        ("model.safetensors", "0" * 64, "has the digest .* expected 0000"),
        ("model.safetensors", "12", "expected 64 hexadecimal digits"),
    ],
)
def test_what_is_not_right_is_refused_and_not_kept(served, cache, name, digest, said):
    with pytest.raises(ConfigError, match=said) as error:
        published.pretrained(f"{served[0]}/{name}", sha256=digest)
    assert "\n" not in str(error.value)
    assert not cache.exists() or not list(cache.iterdir())


def test_a_server_that_is_not_there_is_said(served):
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:9/x cannot be fetched: .*refused"):
        published.pretrained("http://127.0.0.1:9/x")


def test_a_file_that_was_kept_is_held_against_the_digest_too(served):
    url = f"{served[0]}/model.safetensors"
    published.pretrained(url)
    with pytest.raises(ConfigError, match="it is another file"):
        published.pretrained(url, sha256="0" * 64)


def test_a_file_larger_than_there_may_be_is_not_fetched(served, cache, monkeypatch):
    monkeypatch.setattr(published, "MOST", 100)
    with pytest.raises(ConfigError, match="expected at most 100"):
        published.pretrained(f"{served[0]}/model.safetensors")
    assert not list(cache.iterdir())


def test_names_of_the_hub_are_addresses():
    assert published.address("hf:a/b") == "https://huggingface.co/a/b/resolve/main/model.safetensors"
    assert published.address("hf:a/b.c@v1").endswith("/a/b.c/resolve/v1/model.safetensors")
    for wrong in ("hf:a", "hf:a/b/c", "hf:a/../b", "hf:a/b@"):
        with pytest.raises(ConfigError, match="expected hf:owner/name"):
            published.address(wrong)
    with pytest.raises(ConfigError, match=r"no weights file 'nowhere\.safetensors'"):
        published.pretrained("nowhere.safetensors")


def test_training_starts_from_what_was_fetched(served, tmp_path):
    path = published.fetched(f"{served[0]}/model.safetensors")
    flags = [f"--config.{text}" for text in (*FLAGS, f"train.start={path}")]
    assert main(["--config=configs/vpsde.py:tiny", *flags, f"--workdir={tmp_path / 'run'}"]) == 0
