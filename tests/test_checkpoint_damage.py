"""Damaged checkpoints are skipped by name, and a run goes on from the newest good one."""

import gc
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import ABSTRACT, CONFIG, assert_same, make, restore, save

from diffjax import records
from diffjax.checkpoint import Checkpoints


@pytest.fixture(scope="module", autouse=True)
def young():
    """`gc.collect` looks at this file's objects alone, not at all that the process has made before: a second each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Steps 10, 20, 30, to be copied, not touched."""
    directory = tmp_path_factory.mktemp("sound") / "checkpoints"
    save(directory, (10, 20, 30))
    return directory


@pytest.fixture
def copy(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "checkpoints"))


def largest(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def data(step):
    return largest(step / "state" / "ocdbt.process_0" / "d")


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


def edit_record(step, change):
    path = step / "info" / "metadata"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


DAMAGE = {
    "missing data": (lambda p: data(p).unlink(), "cannot read its state"),
    "truncated data": (lambda p: rewrite(data(p), lambda b: b[: len(b) // 2]), "cannot read its state"),
    "no data at all": (lambda p: shutil.rmtree(p / "state"), "incomplete, it lacks state"),
    "empty manifest": (lambda p: (p / "state" / "manifest.ocdbt").write_bytes(b""), "cannot read its state"),
    "flipped manifest": (lambda p: rewrite(p / "state" / "manifest.ocdbt", flip), "cannot read its state"),
    "no leaf metadata": (lambda p: (p / "state" / "_METADATA").unlink(), "cannot read its state"),
    "no step metadata": (lambda p: (p / "_CHECKPOINT_METADATA").unlink(), "incomplete, it lacks _CHECKPOINT_METADATA"),
    "no record": (lambda p: shutil.rmtree(p / "info"), "incomplete, it lacks info"),
    "truncated record": (lambda p: rewrite(p / "info" / "metadata", lambda b: b[:99]), "cannot read its info"),
    "binary record": (lambda p: (p / "info" / "metadata").write_bytes(b"\xff" * 50), "cannot read its info"),
    "changed metric": (lambda p: edit_record(p, lambda r: r["metrics"].update(loss=0.0)), "its record is not what was"),
    "changed shape": (lambda p: edit_record(p, lambda r: r["leaves"][".step"].update(shape=[1])), "its record is not"),
    "an empty directory": (lambda p: [shutil.rmtree(p), p.mkdir()], "incomplete, it lacks"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_step_is_skipped_by_name_in_one_line(copy, kind, capfd, caplog):
    damage, reason = DAMAGE[kind]
    damage(copy / "30")
    (step, state, info), lines = restore(copy)
    assert step == 20
    assert_same(state, make(20))
    (line,) = lines
    assert line.startswith(f"skipped a checkpoint: step 30: {reason}")
    assert "\n" not in line
    assert len(line) < 350
    assert line.endswith(info.skipped)
    gc.collect()  # asyncio complains of an unheard error when its task is collected
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    with pytest.raises(ValueError, match=f"^step 30: {reason}"):
        restore(copy, step=30)


@pytest.mark.parametrize("name", ["35", "30"])
def test_a_copied_or_renamed_step_is_not_another(copy, name):
    """Under a number of its own it would be taken for a later state; in the place of the newest for that one."""
    if name == "30":
        shutil.rmtree(copy / "30")
    shutil.copytree(copy / "20", copy / name)
    (step, state, _), (line,) = restore(copy)
    assert step == (30 if name == "35" else 20)
    assert_same(state, make(step))
    assert line == f"skipped a checkpoint: step {name}: it is step 20, whose folder was copied or renamed"
    with Checkpoints(copy, report=lambda line: None) as checkpoints:
        checkpoints.save(40, make(40), metrics={}, config=CONFIG)
    assert (copy / name).is_dir(), "what is not ours was deleted"


def test_a_record_without_a_number_is_held_against_the_states_own(copy):
    """Those of older runs have none."""

    def renumbered(record):
        del record["step"], record["crc32"]
        record["crc32"] = records.crc32(record)

    for step in ("20", "30"):
        edit_record(copy / step, renumbered)
    shutil.copytree(copy / "20", copy / "35")
    (step, *_), (line,) = restore(copy)
    assert step == 30
    assert line == "skipped a checkpoint: step 35: its state is that of step 20"


def test_flipped_bytes_never_restore(copy):
    """Every one of 30 places in the data file: the step is refused, or restored exactly where the byte is unused."""
    path = data(copy / "30")
    content, refused = path.read_bytes(), 0
    for place in np.linspace(0, len(content) - 1, 30, dtype=int):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        (step, state, _), _ = restore(copy)
        assert_same(state, make(step))
        refused += step == 20
    assert refused > 20  # which bytes are unused varies with the layout that Orbax chose


def test_wrong_numbers_are_named_by_leaf(copy, tmp_path):
    """A sound data file of another state: only the checksums can tell."""
    other = make(30)
    kernel = np.asarray(other.params["dense"]["kernel"]).copy()
    kernel[2, 1] = np.nextafter(kernel[2, 1], np.float32(9))
    other.params["dense"]["kernel"] = jnp.asarray(kernel)
    with Checkpoints(tmp_path / "other") as checkpoints:
        checkpoints.save(30, other, metrics={}, config={})
    shutil.rmtree(copy / "30" / "state")
    shutil.copytree(tmp_path / "other" / "30" / "state", copy / "30" / "state")
    (step, _, info), _ = restore(copy)
    assert step == 20
    assert info.skipped == ("step 30: .params['dense']['kernel'] (float32[8, 64]) is not what was saved: checksum",)


def test_several_damaged_steps_and_strays(copy):
    data(copy / "30").unlink()
    (copy / "20" / "_CHECKPOINT_METADATA").unlink()
    (copy / "99").mkdir()
    (copy / "notes").mkdir()
    (copy / "40").write_text("a file")
    (step, state, info), lines = restore(copy)
    assert step == 10
    assert_same(state, make(10))
    assert [line.split(":")[0] for line in info.skipped] == ["step 99", "step 30", "step 20"]
    assert len(lines) == 3


def test_when_every_step_is_damaged_there_is_no_fresh_start(copy):
    for k in (10, 20, 30):
        data(copy / str(k)).unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be restored: step 30: .*; step 20: .*; step 10: "):
        restore(copy)


def test_strays_alone_are_no_checkpoint(tmp_path):
    (tmp_path / "9").mkdir()
    found, lines = restore(tmp_path)
    assert found is None
    assert lines == ["skipped a checkpoint: step 9: incomplete, it lacks state, info, _CHECKPOINT_METADATA"]


def test_a_run_goes_on_past_a_damaged_step(copy):
    rewrite(data(copy / "30"), lambda b: b[:10])
    (copy / "35").mkdir()
    (copy / "35" / "keep me").write_text("a stray")
    (copy / "36").write_text("a stray file")
    lines = []
    with Checkpoints(copy, keep=2, best=0, report=lines.append) as checkpoints:
        assert checkpoints.restore(ABSTRACT).step == 20
        assert checkpoints.latest == 20
        for k in (25, 30, 35, 36):
            assert checkpoints.save(k, make(k), metrics={}, config=CONFIG)
    assert lines[-3:] == [f"{copy}/{k} is no sound checkpoint: set aside as {k}.aside1" for k in (30, 35, 36)]
    (step, state, _), _ = restore(copy)
    assert step == 36
    assert_same(state, make(36))
    assert sorted(p.name for p in copy.iterdir()) == ["30.aside1", "35", "35.aside1", "36", "36.aside1"]
    assert 10 in [p.stat().st_size for p in (copy / "30.aside1").rglob("*")]  # as it was found
    assert (copy / "35.aside1" / "keep me").read_text() == "a stray"
    assert (copy / "36.aside1").read_text() == "a stray file"
