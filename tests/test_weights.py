"""Weights files: what is written comes back, the library reads it too, and a file that lies is one line."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as library

from diffjax import data, runs, weights
from diffjax.config import ConfigError

# Arrays in a file.

TREE = {
    "layers_0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.float64([1 / 3, -0.0])},
    "count": np.int32(7),
    "none": np.zeros((0, 4), np.float32),
    "of": [np.array([True, False]), np.uint8([1, 255])],
}


def test_what_is_written_is_read_and_the_library_reads_it_too(tmp_path):
    path = tmp_path / "a.safetensors"
    size = weights.write(path, weights.named(TREE), {"note": "ü"})
    assert size == path.stat().st_size
    found = weights.header(path)
    assert found.texts["note"] == "ü"
    assert set(found.entries) == {"layers_0/kernel", "layers_0/bias", "count", "none", "of/0", "of/1"}
    back = weights.place(TREE, weights.read(found))
    by_library = library.load_file(path)
    for name, leaf in weights.named(TREE).items():
        mine = weights.named(back)[name]
        for other in (mine, by_library[name]):
            assert (other.dtype, other.shape) == (leaf.dtype, np.shape(leaf))
            assert other.tobytes() == leaf.tobytes()


def test_bfloat16_comes_back_to_the_bit(tmp_path):
    path, x = tmp_path / "b.safetensors", jnp.asarray([1 / 3, -2.5, 3e38, 1e-40], jnp.bfloat16)
    weights.write(path, {"x": x}, {})
    (found,) = weights.read(weights.header(path)).values()
    assert found.dtype == jnp.bfloat16
    by_hand = np.float32([1 / 3, -2.5, 3e38, 1e-40]).view(np.uint32)  # rounded to nearest, ties to even
    by_hand = ((by_hand + 0x7FFF + ((by_hand >> 16) & 1)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(found.view(np.uint16), by_hand)
    assert path.read_bytes().endswith(by_hand.tobytes())


def test_a_file_of_the_library_is_read(tmp_path):
    rng = np.random.default_rng(0)
    wanted = {"a": rng.normal(size=(3, 2)), "b/c": rng.integers(0, 9, 5), "d": np.float16(rng.normal(size=4))}
    library.save_file(wanted, tmp_path / "c.safetensors", {"who": "library"})
    found = weights.header(tmp_path / "c.safetensors")
    assert found.texts == {"who": "library"}
    jax.tree.map(np.testing.assert_array_equal, weights.read(found), wanted)


def test_no_two_leaves_have_one_name():
    x = np.zeros(1)
    trees = {"a/b": x, "a": {"b": x, "b%2Fc": x, "b/c": x}, "memory": {"m": x}, "list": [x, {"0": x}], "%": x}
    names = [*weights.named(trees), *weights.named({"m": x}, "memory/")]
    assert len(set(names)) == len(jax.tree.leaves(trees)) + 1
    assert {"a/b", "a%2Fb", "%6Demory/m", "memory/m", "list/1/0"} <= set(names)


# The card of a data set.


def test_a_card_tells_what_a_draw_asks_of_its_data():
    """Labels that never occur are drawn for no seed; blank examples have the data's shapes."""
    x, y = np.zeros((40, 3, 2), np.uint8), np.linspace(0, 1, 40)
    dataset = data.arrays(x, label=np.arange(40) % 4 * 2, y=y)._replace(names=tuple("abcdefg"), levels=256)
    found = data.of_card(json.loads(json.dumps(data.card(dataset))), "here", "they are gone")
    assert found.present.tolist() == [0, 2, 4, 6]
    assert (found.shape, found.classes, found.names, found.levels) == ((3, 2), 7, tuple("abcdefg"), 256)
    like = data.blank(found)
    kinds = {name: (leaf.shape, leaf.dtype) for name, leaf in {"x": like.x, **like.given}.items()}
    assert kinds == {"x": ((3, 2), np.float32), "label": ((), np.int32), "y": ((), np.float32)}
    for ask in (len, lambda part: part.gather(np.zeros(1, int))):
        with pytest.raises(ConfigError, match=r"examples of the data, which are not here: they are gone\.$"):
            ask(found.train)


# Files that lie.


def packed(told, body=b"", length=None):
    """A file of this header, JSON or bytes, and these numbers."""
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def one(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}}


EIGHT = bytes(8)
LIES = {
    "empty": (b"", "no .safetensors file, or a truncated one: it has 0 bytes"),
    "seven bytes": (b"1234567", "it has 7 bytes"),
    "a header of 2^63 bytes": (packed({}, length=2**63), "its header would have 9,223,372,036,854,775,808 bytes"),
    "a header beyond the file": (packed(one(), EIGHT, length=10**6), "its header would have 1,000,000 bytes"),
    "a header beyond the bound": (packed(b" " * 2**24 + b"{}"), "expected at most 16,777,216"),
    "text": (b"not a weights file, but a letter", "no .safetensors file, or a truncated one"),
    "a pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00cos\nsystem", "a pickle, which is never loaded"),
    "an .npz": (b"PK\x03\x04" + bytes(60), "a zip, as .npz"),
    "no JSON": (packed(b"{'a': 1}"), "the header of .* is no JSON"),
    "no object": (packed(b"[1, 2]"), "holds list, expected an object"),
    "no UTF-8": (packed(b'{"\xff": 1}'), "is no text"),
    "nothing": (packed(b""), "is empty"),
    "deep": (packed(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "nested too deep"),
    "a name twice": (packed(b'{"a": 1, "a": 2}'), "'a'.*twice"),
    "a long name": (packed({"a" * 10**6: 3}), "name 'aaaa.* has 1,000,000 characters"),
    "no table": (packed({"a": 3}), "'a' in its header has no dtype, shape and data_offsets"),
    "a key more": (packed(one(strides=[4]), EIGHT), "has no dtype, shape and data_offsets"),
    "a dtype of objects": (packed(one("O"), EIGHT), "has dtype 'O', expected one of F64"),
    "a dtype in a list": (packed(one(["F32"]), EIGHT), "has dtype"),
    "a negative size": (packed(one(shape=(-2,)), EIGHT), "has shape"),
    "a size of a fraction": (packed(one(shape=(2.0,)), EIGHT), "has shape"),
    "a size of true": (packed(one(shape=(True, 2)), EIGHT), "has shape"),
    "a size of many digits": (packed(one(shape=(10**4000,)), EIGHT), "another number of bytes"),
    "many axes": (packed(one(shape=(1,) * 5000), EIGHT), "has shape"),
    "another size": (packed(one(shape=(3,)), EIGHT), "another number of bytes"),
    "another dtype's size": (packed(one("F64"), EIGHT), "another number of bytes"),
    "negative offsets": (packed(one(offsets=(-8, 0)), EIGHT), "has data_offsets"),
    "offsets that go back": (packed(one(offsets=(8, 0)), EIGHT), "another number of bytes"),
    "three offsets": (packed(one(offsets=(0, 8, 8)), EIGHT), "has data_offsets"),
    "beyond the file": (packed(one(shape=(2**40,), offsets=(0, 2**42)), EIGHT), "ends beyond the file"),
    "truncated": (packed(one(), bytes(7)), "ends beyond the file"),
    "bytes left over": (packed(one(), bytes(9)), "has 1 bytes more"),
    "a gap": (packed(one(offsets=(1, 9)), bytes(9)), "leaves a gap behind 'the header'"),
    "an overlap": (packed({**one(), "b": {**one(offsets=(4, 12))["a"]}}, bytes(12)), "'b' overlaps 'a'"),
    "one place twice": (packed({**one(), "b": one()["a"]}, EIGHT), "'b' overlaps 'a'"),
    "metadata of numbers": (packed({"__metadata__": {"x": 1}, **one()}, EIGHT), "__metadata__"),
    "metadata that is a list": (packed({"__metadata__": [], **one()}, EIGHT), "__metadata__"),
    "of somebody else": (packed(one(), EIGHT), "has no 'diffjax' in its header's __metadata__"),
}


@pytest.mark.parametrize("what", LIES)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path, what, capsys):
    content, words = LIES[what]
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        runs.open(path)
    assert "w.safetensors" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    for tree, words in (
        ({"a": np.complex64([1])}, "a is complex64, expected one of"),
        ({"a": np.array(["x"])}, "a is <U1, expected one of"),
        ({"a" * 2000: np.zeros(1)}, "has 2,000 characters"),
        ({"a": np.float32([np.inf])}, "a holds numbers that are not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            weights.write(tmp_path / "w", tree, {})
    with pytest.raises(ValueError, match=r"a header of .* bytes"):
        weights.write(tmp_path / "w", {}, {"x": "y" * weights.MOST_HEADER})
    assert list(tmp_path.iterdir()) == []
