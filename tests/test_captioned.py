"""Images with captions: texts are kept as they are, by number; one caption is in one part; what is refused."""

import hashlib
import json

import numpy as np
import pytest
from image_files import archive, fill

from diffjax import data

NAMES = ["RED APPLE", "GREEN APPLE", "été, «naïve» 蘋果", "WAVING HAND", "PEAR", "A", "B", "C", "D", "E", "F", "G"]


def write(root, entries, size=(6, 6)):
    """Images in images/, and a line of JSON for each; gives {name: pixels}."""
    pixels = fill(root, [f"images/{entry['image']}" for entry in entries if entry.get("image")], size=size)
    (root / "captions.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return pixels


def entries(tones=3):
    """Each name in some variants, the first of which is the base form."""
    made = []
    for number, name in enumerate(NAMES):
        for tone in range(tones):
            kind = "fruit" if "APPLE" in name or name == "PEAR" else "other"
            made.append({"image": f"{number}-{tone}.png", "name": name, "category": kind, "base": tone == 0})
    return made


@pytest.mark.parametrize("zipped", [True, False])
def test_images_their_captions_and_classes(zipped, tmp_path):
    told = entries()
    pixels = write(tmp_path / "a", told)
    path = archive(tmp_path / "a.zip", tmp_path / "a") if zipped else str(tmp_path / "a")
    found = data.captioned(path, label="category")
    assert (found.shape, found.classes, found.names) == ((6, 6, 3), 2, ("fruit", "other"))
    assert found.texts == tuple(sorted(NAMES))  # the very texts, nothing normalised
    expected = {pixels[f"images/{e['image']}"].tobytes(): (e["name"], e["category"]) for e in told}
    seen = {}
    for part in (found.train, found.held_out):
        for x, text, label in zip(part.x, part.given["caption"], part.given["label"]):  # pyright: ignore
            seen[x.tobytes()] = (found.texts[text], found.names[label])
    assert seen == expected
    batch = found.train.gather(np.arange(3))
    assert batch.given["caption"].dtype == np.int32


def test_one_caption_is_in_one_part_by_a_hash_of_its_text(tmp_path):
    write(tmp_path, entries())
    found = data.captioned(str(tmp_path), held_out=0.4)
    parts = [{found.texts[i] for i in part.given["caption"]} for part in (found.train, found.held_out)]  # pyright: ignore
    share = lambda name: int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 16**16
    assert parts[1] == {name for name in NAMES if share(name) < 0.4} != set()
    assert not parts[0] & parts[1]


def test_base_forms_alone(tmp_path):
    write(tmp_path, entries())
    found = data.captioned(str(tmp_path), only="base")
    assert len(found.train) + len(found.held_out) == len(NAMES)
    assert found.classes is None


def test_captions_survive_where_the_data_are_not(tmp_path):
    write(tmp_path, entries(1))
    found = data.captioned(str(tmp_path))
    there = data.of_card(json.loads(json.dumps(data.card(found))), "data.json", "gone")
    assert there.texts == found.texts
    older = {name: part for name, part in data.card(data.digits()).items() if name != "texts"}
    assert data.of_card(older, "data.json", "gone").texts is None


def test_another_caption_is_another_data_set(tmp_path):
    told = entries(1)
    write(tmp_path, told)
    before = data.captioned(str(tmp_path)).fingerprint
    told[0]["name"] = "RED  APPLE"
    write(tmp_path, told)
    assert data.captioned(str(tmp_path)).fingerprint != before


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        (["{"], {}, "captions.jsonl, line 1: it is no JSON"),
        (['["a"]'], {}, "line 1: no text 'image'; it has list"),
        (
            ['{"image": "0.png", "text": "x"}'],
            {},
            "line 1: no text 'name'; it has image, text: caption= .--config",
        ),
        (
            ['{"image": "0.png", "name": "a", "kind": "b"}'],
            {"label": "category"},
            "no text 'category'; it has image, name, kind: label= .--config.data.label=. names another field, or None",
        ),
        (['{"image": "0.png", "name": 3}'], {}, "line 1: no text 'name'"),
        (
            ['{"image": "0.png", "name": "a", "base": 1}'],
            {"only": "base"},
            "line 1: 'base' is 1, expected a field that is true or false",
        ),
        (
            ['{"image": "0.png", "name": "a", "base": true}'],
            {"only": "basic"},
            "line 1: 'basic' is not there, expected a field that is true or false: nearest is 'base'; .* only=None",
        ),
        (['{"image": "0.png", "name": "a", "base": false}'], {"only": "base"}, "has no line whose 'base' is true"),
        (['{"image": "7.png", "name": "a"}'], {}, "names the image '7.png', which is not there"),
        (['{"image": "1.png", "name": "a"}'], {}, "'1.png', which may be a/1.png or b/1.png"),
        (['{"image": "0.png", "name": "a"}'], {"channels": 2}, "channels is 2, expected 1, 3 or 4"),
        (['{"image": "0.png", "name": "a"}'], {"size": 0}, "size is 0, expected a positive number"),
    ],
)
def test_captions_that_cannot_be_used(lines, options, said, tmp_path):
    fill(tmp_path, ["0.png", "a/1.png", "b/1.png"])
    (tmp_path / "captions.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=said) as error:
        data.captioned(str(tmp_path), **options)
    assert "\n" not in str(error.value)


def test_no_captions_no_path(tmp_path):
    fill(tmp_path, ["0.png"])
    with pytest.raises(ValueError, match=r"has no captions.jsonl; expected a line of JSON"):
        data.captioned(str(tmp_path))
    with pytest.raises(ValueError, match=r"data.captioned needs path="):
        data.captioned("")
    with pytest.raises(FileNotFoundError, match=r"data.captioned needs path="):
        data.captioned(str(tmp_path / "none"))
