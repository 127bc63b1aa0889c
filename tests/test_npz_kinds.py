"""npz files that are not what they seem, bounds before memory, and pairs of two arrays."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from diffjax import data, runs
from diffjax.data.pairs import paired
from diffjax.runs import build_run

RNG = np.random.default_rng(0)


def header(shape, descr="|u1", order=False):
    """The bytes of a .npy file of version 1.0 up to its numbers."""
    text = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}"
    text += " " * (-(10 + len(text) + 1) % 64) + "\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


def packed(path, **members):
    """A zip of raw members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "."), content)
    return str(path)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


FILES = {
    "one array": (lambda p: (p.write_bytes(npy(np.zeros((9, 2)))), str(p))[1], r"one array \(\.npy\).*savez\(file, x="),
    "text": (lambda p: packed(p, x__npy=b"hello"), "'x' has no header of an array"),
    "no suffix": (lambda p: packed(p, x=npy(np.zeros((9, 2)))), r"'x' is no array \(\.npy\) .*: it has none"),
    "empty member": (lambda p: packed(p, x__npy=b""), "'x' has no header of an array"),
    "no code": (lambda p: packed(p, x__npy=header("__import__('os').getpid()")), "no header of an array"),
    "version 9": (lambda p: packed(p, x__npy=b"\x93NUMPY\x09\0" + header((9, 2))[8:]), "no header of an array"),
    "huge": (lambda p: packed(p, x__npy=header((2**60, 2))), r"says \(\d+, 2\) of uint8, 2305843009213693952 bytes"),
    "negative": (lambda p: packed(p, x__npy=header((-9, 2)) + bytes(18)), "damaged at 'x': its header says"),
    "short": (lambda p: packed(p, x__npy=header((9, 2)) + bytes(17)), "18 bytes; there are 17"),
    "long": (lambda p: packed(p, x__npy=header((9, 2)) + bytes(19)), "18 bytes; there are 19"),
    "ragged": (lambda p: (np.savez(p, x=np.array([[1], [1, 2]], object)), str(p))[1], "Python objects.*numpy.stack"),
    "fields": (lambda p: (np.savez(p, x=np.zeros(9, [("a", "f4")])), str(p))[1], r"'x' has shape \(9,\), expected"),
    "no numbers": (lambda p: (np.savez(p, x=np.zeros((40, 0))), str(p))[1], r"x have shape \(40, 0\), expected \(N,"),
    "no examples": (lambda p: (np.savez(p, x=np.zeros((0, 4))), str(p))[1], "holds no example"),
    "one example": (lambda p: (np.savez(p, x=np.zeros((1, 4))), str(p))[1], "Got 1 examples, expected two or more"),
    "scalar": (lambda p: (np.savez(p, x=np.float32(1)), str(p))[1], r"has shape \(\), expected"),
    "channels first": (
        lambda p: (np.savez(p, x=np.zeros((9, 4, 32, 32), np.uint8)), str(p))[1],
        r"\(9, 4, 32, 32\), channels first, expected \(N, H, W, C\): save x\.transpose\(0, 2, 3, 1\)",
    ),
    "grey first": (lambda p: (np.savez(p, x=np.zeros((9, 1, 8, 8))), str(p))[1], "channels first"),
    "directory": (lambda p: packed(p / "no", x=b"") if p.is_dir() else packed(p, a__txt=b"x"), "has no array 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_none_is_refused_by_name_in_one_line(tmp_path, case):
    make, message = FILES[case]
    path = make(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=message) as caught:
        data.npz(path, label=None)
    assert "x.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("member", ["x", "label"])
def test_no_pickle_is_opened(tmp_path, member):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "EXECUTED"), "w"))

    evil = np.empty(9, object)
    evil[:] = [Evil() for _ in range(9)]
    arrays = {"x": np.zeros((9, 2)), "label": np.arange(9), member: evil}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=rf"'{member}' holds Python objects"):
        data.npz(str(tmp_path / "x.npz"))
    assert not (tmp_path / "EXECUTED").exists()


def test_bytes_are_bounded_by_the_header_before_any_are_taken(tmp_path):
    """48 MB of zeros in 48 kB: refused at a bound of 30 MB without taking 2 MB."""
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((48, 1000, 1000), np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(
        ValueError, match=r"'x' is \(48, 1000, 1000\) of uint8, 0\.0 GiB, expected at most 0\.03 GiB: set"
    ):
        data.npz(str(tmp_path / "bomb.npz"), label=None, most_gib=0.03)
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()
    assert data.npz(str(tmp_path / "bomb.npz"), label=None, most_gib=0.05).shape == (1000, 1000, 1)


@pytest.mark.parametrize("kind", ["float16", ">f4", "<f8", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_dtypes_and_orders_are_read_alike(tmp_path, kind, order):
    x = RNG.integers(0, 2, (12, 3, 2, 1)).astype(kind, order=order)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", x=x)
        d = data.npz(str(tmp_path / "x.npz"), label=None)
        found = np.concatenate([part.gather(np.arange(len(part))).x for part in (d.train, d.held_out)])
        wanted = x / 127.5 - 1 if kind == "|u1" else x
        assert sorted(map(tuple, found.reshape(12, -1))) == sorted(
            map(tuple, wanted.astype(np.float32).reshape(12, -1))
        )


# --- pairs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uint8", "float32", "vectors", "grey"])
@pytest.mark.parametrize("read", ["npz", "arrays"])
def test_two_arrays_are_pairs_with_one_range(tmp_path, kind, read):
    shape = {"vectors": (20, 3), "grey": (20, 4, 4)}.get(kind, (20, 4, 4, 1))
    x, y = RNG.integers(0, 256, (2, *shape), dtype=np.uint8)
    if kind in ("float32", "vectors"):
        x, y = (a.astype(np.float32) / 127.5 - 1 for a in (x, y))
    np.savez(tmp_path / "x.npz", x=x, y=y, label=np.arange(20) % 2)
    made = {"npz": lambda: data.npz(str(tmp_path / "x.npz"), y="y"),
            "arrays": lambda: data.arrays(x, y=y, label=np.arange(20) % 2)}[read]()  # fmt: skip
    scale = lambda a: a / 127.5 - 1 if a.dtype == np.uint8 else a
    flat_x, flat_y = (scale(a).reshape(20, -1) for a in (x, y))
    for part in (made.train, made.held_out):
        batch = part.gather(np.arange(len(part)))
        assert batch.given["y"].dtype == np.float32
        for a, b in zip(batch.x, batch.given["y"]):
            (here,) = np.flatnonzero(np.abs(flat_x - a.ravel()).max(1) < 1e-6)
            np.testing.assert_allclose(b.ravel(), flat_y[here], atol=1e-6)
    assert made.judge is not None
    assert made.fingerprint != data.arrays(x, label=np.arange(20) % 2).fingerprint


BAD_PAIRS = {
    "another shape": (np.zeros((20, 4)), r"y has shape \(20, 4\), expected finite numbers of x's shape \(20, 3\)"),
    "fewer": (np.zeros((19, 3)), r"y has shape \(19, 3\)"),
    "not finite": (np.full((20, 3), np.inf), "'y' has dtype float64, expected finite"),
    "bytes": (np.zeros((20, 3), np.uint8), "'x' is float64 and 'y' uint8, expected uint8 for both or none"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_arrays_that_are_no_pairs(tmp_path, case):
    y, message = BAD_PAIRS[case]
    np.savez(tmp_path / "x.npz", x=np.zeros((20, 3)), y=y)
    with pytest.raises(ValueError, match=message):
        data.npz(str(tmp_path / "x.npz"), label=None, y="y")


def test_named_held_out_pairs_name_their_endpoints(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((9, 2)), y=np.ones((9, 2)), a=np.zeros((3, 2)), b=np.full((3, 2), 2.0))
    path = str(tmp_path / "x.npz")
    d = data.npz(path, label=None, y="y", held_out="a", held_out_y="b")
    assert (d.held_out.gather(np.arange(3)).given["y"] == 2).all()
    for options in ({"y": "y", "held_out": "a"}, {"held_out_y": "b"}, {"held_out": "a", "held_out_y": "b"}):
        with pytest.raises(ValueError, match="endpoints of held-out examples are named with them"):
            data.npz(path, label=None, **options)


def test_a_bridge_is_built_on_ones_own_pairs(tmp_path):
    x = RNG.normal(size=(40, 3))
    np.savez(tmp_path / "x.npz", x=x, y=x + 0.1)
    options = ["data.name=npz", f"data.path={tmp_path}/x.npz", "data.label=None", "data.y=y", "model.name=MLP",
               "model.width=8", "model.depth=1", "model.condition=3"]  # fmt: skip
    built = build_run(runs.load("configs/bridge.py:tiny", options))
    assert tuple(data.blank(built.data).given) == ("y",)
    images = np.zeros((9, 4, 4, 1), np.uint8)
    with pytest.raises(ValueError, match="has endpoints of its own"):
        paired(data.arrays(images, y=images), "blur")
