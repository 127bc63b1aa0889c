"""What stands in a workdir: one writer, and files that anybody may have torn."""

import contextlib
import json

import pytest
from own_objects import pulled
from test_lock import end, holder

from diffjax import runs
from diffjax.config import ConfigError
from diffjax.lock import NAME, HeldError
from diffjax.runs import workdir as files

CONFIG = "configs/vpsde.py:tiny"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != NAME}


def test_a_start_beside_another_is_refused_in_one_line_and_touches_nothing(tmp_path):
    """By whatever name; once the other has ended, the folder is free."""
    with pulled(workdir=tmp_path / "run") as one:
        one.train(5)
    before = contents(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    child, _ = holder(tmp_path / "run")
    try:
        for name in ("run", "link"):
            with pytest.raises(ConfigError, match=rf"is being written by process {child.pid} of") as refused:
                pulled(workdir=tmp_path / name)
            assert "\n" not in str(refused.value)
        assert contents(tmp_path / "run") == before
    finally:
        end(child)
    with pulled(workdir=tmp_path / "link") as again:
        assert again.train(10).step == 10


def test_a_trainer_made_again_in_one_process_takes_the_folder(tmp_path):
    first = pulled(workdir=tmp_path)
    with pulled(workdir=tmp_path) as second:
        second.train(5)
        with pytest.raises(HeldError, match="was taken by another run of this process"):
            first.train(5)
    assert [line["step"] for line in files.read_metrics(tmp_path)] == [5]


def test_a_killed_start_is_named_by_the_next(tmp_path, capsys):
    child, _ = holder(tmp_path)
    child.kill()
    end(child)
    pulled(workdir=tmp_path).close()
    assert f"process {child.pid} of" in capsys.readouterr().out
    pulled(workdir=tmp_path).close()
    assert "did not end by itself" not in capsys.readouterr().out


def test_two_starts_of_one_second_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files.time, "strftime", lambda *args: "20261128-120000")
    config = runs.load(CONFIG)
    with files.fresh(config) as a, files.fresh(config) as b, files.fresh(config) as c:
        names = [path.name for path in (a, b, c)]
    assert names == ["vpsde-tiny-20261128-120000", "vpsde-tiny-20261128-120000-2", "vpsde-tiny-20261128-120000-3"]
    with contextlib.suppress(ConfigError), files.fresh(config) as d:
        raise ConfigError("refused before anything was written")
    assert not d.exists()
    assert c.exists()


@pytest.mark.parametrize("content", [b"", b'{"commit": "a", ', b"[]", b"\xff", b'{"earlier": 3}'])
def test_torn_information_stops_no_run(tmp_path, content):
    config = runs.load(CONFIG)
    files.prepare(tmp_path, config)[0].release()
    (tmp_path / "env.json").write_bytes(content)
    held, said = files.prepare(tmp_path, config)
    held.release()
    assert said == []
    assert json.loads((tmp_path / "env.json").read_text())["versions"]["jax"]


@pytest.mark.parametrize("content", [b"", b'{"seed": 0, ', b"[1, 2]", b"\xff\xfe", b"[" * 100_000])
def test_a_torn_config_is_one_line_that_names_the_file(tmp_path, content):
    files.prepare(tmp_path, runs.load(CONFIG))[0].release()
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json (is|holds) .* no checkpoint beside it") as raised:
        files.read_config(tmp_path)
    assert "\n" not in str(raised.value)
    held, said = files.prepare(tmp_path, runs.load(CONFIG))
    held.release()
    assert len(said) == 1
    assert said[0].startswith("replaced, since no step was made:")
    assert files.read_config(tmp_path) == runs.load(CONFIG)


def test_a_folder_in_the_place_of_information_stops_no_run(tmp_path, capsys):
    names = ("env.json", "command.txt", "results.json")
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "config.json").write_text("{}")  # that the folder is a workdir
    with pulled(workdir=tmp_path) as one:
        one.train(5)
    said = capsys.readouterr().out
    for name in names:
        assert said.count(f"{name} cannot be written: Is a directory") == 1


def test_lines_that_are_no_log_are_left_out_and_said(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 10, "loss": 1.0}\n3\n\xff\n{"loss": 2}\n{"step": 20, "loss": 0.5}\n{"step": 30}\n{"st')
    assert [line["step"] for line in files.read_metrics(tmp_path)] == [10, 20, 30]
    said = files.cut_metrics(tmp_path, 20)
    assert len(said) == 4
    assert [line for line in said if "line 2," in line or "line 3," in line or "line 7," in line] == said[:3]
    assert said[3].endswith("1 lines without a step")
    assert path.read_text() == '{"step": 10, "loss": 1.0}\n{"step": 20, "loss": 0.5}\n'
    assert files.cut_metrics(tmp_path, 20) == []


@pytest.mark.parametrize(
    ("steps", "kept", "said"),
    [
        ([10, 20, 30, 40], [10, 20, 30], []),
        ([10, 30], [10, 30], ["the lines of 1 steps, which are lost (20)"]),
        ([], [], ["the lines of 3 steps, which are lost (10, 20, 30)"]),
        ([10, 20, 20, 30], [10, 20, 30], ["1 lines of a step twice"]),
        ([30, 10, 20], [10, 20, 30], []),
        ([10, 20, 25, 30], [10, 20, 25, 30], []),
    ],
)
def test_lines_that_are_lost_or_doubled_are_said(tmp_path, steps, kept, said):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": k, "loss": 1.0}) + "\n" for k in steps))
    assert files.cut_metrics(tmp_path, 30, 10) == [f"left out of metrics.jsonl: {line}" for line in said]
    assert [line["step"] for line in files.read_metrics(tmp_path)] == kept


def test_a_log_that_is_gone_is_said(tmp_path):
    assert files.cut_metrics(tmp_path, 0, 10) == []
    (said,) = files.cut_metrics(tmp_path, 20, 10)
    assert said.endswith("the lines of 2 steps, which are lost (10, 20)")
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_log_that_cannot_be_read_is_refused_and_not_emptied(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10}\n')
    opened = type(path).open

    def denied(self, *args, **words):
        if self.name == path.name:
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **words)

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "open", denied)
        with pytest.raises(ConfigError, match=r"metrics\.jsonl cannot be read: Permission denied"):
            files.cut_metrics(tmp_path, 10)
    assert path.read_text() == '{"step": 10}\n'
