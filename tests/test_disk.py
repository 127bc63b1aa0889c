"""Files written whole or not at all, and readers whose one line says which file is wrong, and how."""

import json
import os

import pytest

from diffjax import disk


def test_what_is_written_is_there_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    for content in ("{}", b'{"a": 1}'):
        disk.write(path, content)
    assert path.read_bytes() == b'{"a": 1}'
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    disk.write(path, "old")

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        disk.write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_and_its_folder_are_synced_before_and_after_the_move(tmp_path, monkeypatch):
    """What a power cut leaves is the old file or the new one."""
    done = []
    fsync, replace = os.fsync, type(tmp_path).replace
    names = lambda file: os.path.basename(os.readlink(f"/proc/self/fd/{file}"))
    monkeypatch.setattr(os, "fsync", lambda file: done.append(names(file)) or fsync(file))
    monkeypatch.setattr(type(tmp_path), "replace", lambda self, to: done.append("moved") or replace(self, to))
    disk.write(tmp_path / "a.json", "{}")
    assert done == ["a.json.part", "moved", tmp_path.name]


WRONG = {
    "empty": (b"", r"a\.json is empty\.$"),
    "cut": (b'{"a": [1, 2', r"a\.json is no JSON: Expecting"),
    "list": (b"[1, 2]", r"a\.json holds list, expected an object\.$"),
    "number": (b"3", r"a\.json holds int, expected an object\.$"),
    "binary": (b'{"a": "\xff"}', r"a\.json is no text: byte 7 is no UTF-8\.$"),
    "deep": (b"[" * 100_000, r"a\.json is nested too deep\.$"),
    "digits": (b'{"a": ' + b"9" * 10_000 + b"}", r"a\.json is no JSON: .*digits"),
    "twice": (b'{"a": 1, "a": 2}', r"a\.json is no JSON: the key 'a' is there twice\.$"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_damaged_file_is_named_in_one_line(tmp_path, kind):
    content, message = WRONG[kind]
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(disk.DamagedFileError, match=message) as raised:
        disk.read_json(tmp_path / "a.json")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_file_is_not_read_before_its_size_is_known(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # holes: no byte of it is on the disk
    with pytest.raises(disk.DamagedFileError, match=r"has 1,099,511,627,776 bytes, expected at most 67,108,864\.$"):
        disk.read_json(path)
    with pytest.raises(disk.DamagedFileError, match="is no file"):
        disk.read_json(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        disk.read_json(tmp_path / "b.json")


def test_whole_lines_are_read_and_the_others_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25}]
    path.write_bytes(
        b"\n".join([json.dumps(rows[0]).encode(), b'\xff{"step"', b"3", json.dumps(rows[1]).encode(), b'{"st'])
    )
    found, wrong = disk.read_lines(path)
    assert found == rows
    assert [line.partition("a.jsonl, ")[2].split(" ")[1].rstrip(",") for line in wrong] == ["2", "3", "5"]
    assert disk.read_lines(tmp_path / "none.jsonl") == ([], [])
    with pytest.raises(disk.DamagedFileError, match="is no file"):
        disk.read_lines(tmp_path)
