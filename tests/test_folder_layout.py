"""How a folder or a zip of images is read: hidden paths, links, classes, train/ and val/, dataset.json, endpoints."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from image_files import archive, both, content, fill, paint

from diffjax import data

CATS = [f"cat/{i}.png" for i in range(6)] + [f"dog/{i}.png" for i in range(6)]


def classes_of(written, first=("cat", "dog")):
    """{number: pixels of the class}, by the written files' top folders."""
    return {
        k: sorted(p.tobytes() for name, p in written.items() if name.split("/")[0] == c) for k, c in enumerate(first)
    }


# --- hidden paths and links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "hidden",
    [".ipynb_checkpoints/0.png", "cat/.ipynb_checkpoints/0.png", ".git/a/b.png", "cat/._0.png", "__MACOSX/cat/x.png"],
)
def test_hidden_paths_are_no_images_and_move_no_label(tmp_path, hidden, packed):
    written = fill(tmp_path / "x", CATS)
    paint(tmp_path / "x" / hidden, 99)
    (tmp_path / "x/cat/Thumbs.db").write_bytes(b"no image")
    d = data.folder(archive(tmp_path / "x.zip", tmp_path / "x") if packed else str(tmp_path / "x"))
    assert (d.classes, d.names) == (2, ("cat", "dog"))
    assert both(d) == classes_of(written)


def test_a_hidden_root_is_no_hidden_path(tmp_path):
    written = fill(tmp_path / ".cache/x", CATS)
    assert both(data.folder(str(tmp_path / ".cache/x"))) == classes_of(written)


def test_links_to_folders_and_files_are_followed_once(tmp_path):
    written = fill(tmp_path / "store", CATS)
    root = tmp_path / "x"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(tmp_path / "store/cat")
    for i in range(6):
        (root / f"dog/{i}.png").symlink_to(tmp_path / f"store/dog/{i}.png")
    (root / "dog/up").symlink_to(root)  # and a circle ends
    (root / "cat/self").symlink_to(tmp_path / "store/cat")
    assert both(data.folder(str(root))) == classes_of(written)
    (tmp_path / "linked").symlink_to(root)
    assert both(data.folder(str(tmp_path / "linked"))) == classes_of(written)


def test_one_folder_under_two_names_and_links_to_nothing_are_named(tmp_path):
    fill(tmp_path, CATS)
    (tmp_path / "zebra").symlink_to(tmp_path / "cat")
    with pytest.raises(ValueError, match="one folder as 'cat' and, by a link, as 'zebra': remove one"):
        data.folder(str(tmp_path))
    (tmp_path / "zebra").unlink()
    (tmp_path / "cat/x.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"cat/x\.png' is a link to '.*gone\.png', where there is no file"):
        data.folder(str(tmp_path))


# --- classes --------------------------------------------------------------------------------------------------------


def test_folders_in_folders_are_asked_about(tmp_path):
    names = [f"{style}/{kind}/{i}.png" for style in ("ink", "photo") for kind in ("cat", "dog") for i in range(3)]
    fill(tmp_path, names)
    message = r"folders of folders \(ink/cat/0\.png\): say which are the classes, label='top', label='parent'"
    with pytest.raises(ValueError, match=message):
        data.folder(str(tmp_path))
    assert data.folder(str(tmp_path), label="top").names == ("ink", "photo")
    assert data.folder(str(tmp_path), label="parent").names == ("ink/cat", "ink/dog", "photo/cat", "photo/dog")
    flat = data.folder(str(tmp_path), label=None)
    assert (flat.classes, flat.names, len(flat.train) + len(flat.held_out)) == (None, None, 12)


SPLIT = [f"{part}/{kind}/{i}.png" for part in ("train", "val") for kind in ("cat", "dog") for i in range(3)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("held", ["val", "valid", "validation", "test"])
def test_train_and_val_are_the_split(tmp_path, held, packed):
    names = [name.replace("val/", f"{held}/") for name in SPLIT]
    written = fill(tmp_path / "x", names)
    path = archive(tmp_path / "x.zip", tmp_path / "x") if packed else str(tmp_path / "x")
    for in_memory in (True, False):
        d = data.folder(path, in_memory=in_memory)
        assert (d.names, d.classes) == (("cat", "dog"), 2)
        for part, top in ((d.train, "train"), (d.held_out, held)):
            own = {name.partition("/")[2]: pixels for name, pixels in written.items() if name.startswith(f"{top}/")}
            assert content(part) == classes_of(own)
    with pytest.raises(ValueError, match=r"split in folders: leave held_out=0\.3 out"):
        data.folder(path, held_out=0.3)


def test_a_test_folder_beside_val_is_left_alone_and_flat_parts_have_no_labels(tmp_path):
    fill(tmp_path / "a", [*SPLIT, "test/cat/9.png"])
    d = data.folder(str(tmp_path / "a"))
    assert (len(d.train), len(d.held_out)) == (6, 6)
    fill(tmp_path / "b", [f"{part}/{i}.png" for part in ("train", "test") for i in range(4)])
    d = data.folder(str(tmp_path / "b"))
    assert (len(d.train), len(d.held_out), d.classes) == (4, 4, None)
    fill(tmp_path / "c", [f"{part}/{i}.png" for part in ("train", "val", "valid") for i in range(2)])
    with pytest.raises(ValueError, match="val, valid beside train; expected one held-out folder"):
        data.folder(str(tmp_path / "c"))


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, [f"{kind}/{i}.png" for kind in ("bus", "train", "val") for i in range(3)])
    assert data.folder(str(tmp_path)).names == ("bus", "train", "val")


def test_train_alone_with_classes_is_asked_about(tmp_path):
    fill(tmp_path, SPLIT[:6])
    with pytest.raises(ValueError, match=r"\(train/cat/0\.png\).*or path= the folder that holds the classes"):
        data.folder(str(tmp_path))


# --- zips and dataset.json ------------------------------------------------------------------------------------------

SHARDS = [f"{i // 5:05d}/img{i:08d}.png" for i in range(12)]  # as EDM's dataset_tool.py names them


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("in_memory", [True, False])
def test_an_edm_zip_has_the_labels_of_its_dataset_json(tmp_path, compression, in_memory):
    written = fill(tmp_path / "x", SHARDS)
    labels = {name: 3 * (i % 2) for i, name in enumerate(SHARDS)}
    path = archive(tmp_path / "cifar.zip", tmp_path / "x", list(labels.items()), compression)
    d = data.folder(path, in_memory=in_memory)
    assert (d.name, d.classes, d.names, d.shape) == ("cifar", 4, None, (4, 4, 3))
    assert both(d) == {k: sorted(p.tobytes() for name, p in written.items() if labels[name] == k) for k in (0, 3)}
    part = data.folder(path, in_memory=not in_memory).train
    assert content(part) == content(d.train)  # and the split is the same, from memory as from the file


@pytest.mark.parametrize("labels", [None, "absent"])
def test_a_stylegan_zip_without_labels_has_none_though_its_images_lie_in_folders(tmp_path, labels):
    written = fill(tmp_path / "x", SHARDS)
    told = json.dumps({"labels": None}) if labels is None else None
    d = data.folder(archive(tmp_path / "f.zip", tmp_path / "x", told), label="folder" if labels is None else None)
    assert d.classes is None
    assert both(d) == {0: sorted(p.tobytes() for p in written.values())}


def test_an_unpacked_archive_is_read_alike(tmp_path):
    fill(tmp_path, SHARDS)
    told = {"labels": {name.replace("/", "\\"): i % 3 for i, name in enumerate(SHARDS)}}
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    assert data.folder(str(tmp_path)).classes == 3
    assert data.folder(str(tmp_path), label=None).classes is None


BAD_LABELS = {
    "few": (
        [[name, 0] for name in SHARDS[:-2]],
        r"no label for '00002/img00000010\.png' and 1 more; add them, or set label",
    ),
    "one-hot": ([[name, [0, 1]] for name in SHARDS], "labels '.*' \\[0, 1\\], expected integers from 0 on"),
    "float": ([[name, 0.5] for name in SHARDS], "0.5, expected integers"),
    "truth": ([[name, True] for name in SHARDS], "True, expected integers"),
    "negative": ([[name, -1] for name in SHARDS], "-1, expected integers"),
    "huge": ([[name, 2**40] for name in SHARDS], "expected integers"),
    "a list of names": (SHARDS, 'is not {"labels": '),
    "number": (3, 'is not {"labels": '),
    "torn": ('{"labels": [["00000/', r"dataset\.json is no JSON text \(.*\); write it again, or set label=None"),
    "deep": ("[" * 200_000, "is no JSON text"),
    "bytes": ("\udcff", "is no JSON text"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_labels_that_are_none_are_refused_by_file(tmp_path, case):
    labels, message = BAD_LABELS[case]
    fill(tmp_path, SHARDS)
    text = labels if isinstance(labels, str) else json.dumps({"labels": labels})
    (tmp_path / "dataset.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message) as caught:
        data.folder(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_archives_that_are_none(tmp_path):
    fill(tmp_path / "x", CATS)
    path = archive(tmp_path / "x.zip", tmp_path / "x", compression=zipfile.ZIP_DEFLATED)
    whole = Path(path).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-30])
    (tmp_path / "text.zip").write_text("no archive")
    for name in ("cut.zip", "text.zip"):
        with pytest.raises(ValueError, match=rf"{name}' is no zip archive, or a truncated one"):
            data.folder(str(tmp_path / name))
    flipped = bytearray(whole)
    flipped[80] ^= 255
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(ValueError, match=r"flipped\.zip' is damaged at 'cat/0\.png'"):
        data.folder(str(tmp_path / "flipped.zip"))
    locked = bytearray(whole)
    at = whole.index(b"PK\1\2")
    locked[6] |= 1  # of the first file: its local header, and the directory's entry
    locked[at + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(ValueError, match="by a password"):
        data.folder(str(tmp_path / "locked.zip"))
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as packed:
        packed.writestr("a/latents.npy", b"")
    with pytest.raises(ValueError, match=r"empty\.zip' holds no image; expected \.png"):
        data.folder(str(tmp_path / "empty.zip"))
    with pytest.raises(FileNotFoundError, match="no folder or zip"):
        data.folder(str(tmp_path / "none.zip"))


def test_a_file_of_an_archive_is_bounded_by_its_entry(tmp_path, monkeypatch):
    from diffjax.data import tree

    fill(tmp_path / "x", CATS)
    path = archive(tmp_path / "x.zip", tmp_path / "x")
    monkeypatch.setattr(tree, "MOST_BYTES", 50)
    with pytest.raises(ValueError, match=r"'cat/0\.png' has \d+ bytes, expected at most 50: take it out"):
        data.folder(path)


# --- two folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("layout", ["flat", "classes", "split", "zip"])
def test_pairs_of_two_folders_stay_together(tmp_path, layout, in_memory):
    names = {"flat": [f"{i}.png" for i in range(9)], "split": SPLIT}.get(layout, CATS)
    x = fill(tmp_path / "x", names)
    y = fill(tmp_path / "y", [name.replace(".png", ".bmp") for name in reversed(names)])
    second = archive(tmp_path / "y.zip", tmp_path / "y") if layout == "zip" else str(tmp_path / "y")
    d = data.folder(str(tmp_path / "x"), y=second, in_memory=in_memory)
    wanted = {x[name].tobytes(): y[name.replace(".png", ".bmp")].tobytes() for name in names}
    found = {}
    for part in (d.train, d.held_out):
        batch = part.gather(np.arange(len(part)))
        assert batch.given["y"].dtype == np.float32
        pixels = [np.rint((a + 1) * 127.5).astype(np.uint8) for a in (batch.x, batch.given["y"])]
        found |= {a.tobytes(): b.tobytes() for a, b in zip(*pixels)}
    assert found == wanted
    assert d.judge is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: os.remove(y / "3.png"), r"no endpoint for '3\.png' \(1 in all\)"),
        (lambda y: paint(y / "10.png"), r"an endpoint without an image, '10' \(1 in all\)"),
        (lambda y: paint(y / "3.bmp"), r"two of '3'"),
        (lambda y: paint(y / "3.png", size=(5, 4)), r"y/3\.png' is 5 x 4 pixels, expected 4 x 4"),
    ],
)
def test_pairs_that_do_not_match_are_named(tmp_path, change, message):
    fill(tmp_path / "x", [f"{i}.png" for i in range(9)])
    fill(tmp_path / "y", [f"{i}.png" for i in range(9)])
    change(tmp_path / "y")
    with pytest.raises(ValueError, match=message):
        data.folder(str(tmp_path / "x"), y=str(tmp_path / "y"))


def test_pairs_are_not_mirrored(tmp_path):
    fill(tmp_path, CATS)
    with pytest.raises(ValueError, match="flip mirrors x alone, but each x belongs to its y"):
        data.folder(str(tmp_path), y=str(tmp_path), flip=True)
