"""Files of torch, written here by hand in both layouts: what is read is what was written, and nothing is run."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from diffjax import pickles, torch_files

KIND = {
    np.dtype(np.float32): "Float",
    np.dtype(np.float64): "Double",
    np.dtype(np.int64): "Long",
    np.dtype(bool): "Bool",
}


def name(text):
    """The instruction that names a global, "module.member"."""
    return b"c" + text.rpartition(".")[0].encode() + b"\n" + text.rpartition(".")[2].encode() + b"\n"


def data(value):
    """The instructions that build a text, an integer, a tuple, a dict; bytes are instructions already."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(data, value)) + b"t"
    if isinstance(value, dict):
        return b"}(" + b"".join(data(part) for pair in value.items() for part in pair) + b"u"
    return pickle.dumps(value, 2)[2:-1]


def call(function, *arguments):
    return name(function) + data(arguments) + b"R"


def tensor(key, array, zipped, offset=0, shape=None, strides=None, count=None, kind=None):
    """The instructions that build a view of a storage, as torch writes them."""
    shape = array.shape if shape is None else shape
    strides = tuple(step // array.itemsize for step in array.strides) if strides is None else strides
    kind = name(f"torch.{kind or KIND[array.dtype]}Storage")
    told = ("storage", kind, key, "cpu", array.size if count is None else count, *(() if zipped else (None,)))
    return call(
        "torch._utils._rebuild_tensor_v2",
        data(told) + b"Q",
        offset,
        shape,
        strides,
        False,
        call("collections.OrderedDict"),
    )


def write(path, arrays, zipped, state=None, storages=None, tail=b"", **members):
    """A file of torch; `state` replaces the instructions of the state dict, `storages` the numbers by key."""
    keys = {text: str(at) for at, text in enumerate(arrays)}
    if state is None:
        state = data({text: tensor(keys[text], array, zipped) for text, array in arrays.items()})
    body = b"\x80\x02" + state + b"."
    storages = {keys[text]: array.tobytes() for text, array in arrays.items()} if storages is None else storages
    counts = {keys[text]: array.size for text, array in arrays.items()}
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            parts = {"data.pkl": body, "byteorder": b"little", **{f"data/{key}": raw for key, raw in storages.items()}}
            for member, content in {**parts, **members}.items():
                archive.writestr(f"archive/{member}", content)
        return path
    system = {"protocol_version": 1001, "little_endian": members.get("little", True), "type_sizes": {"int": 4}}
    head = [members.get("magic", torch_files.MAGIC), 1001, system]
    content = b"".join(pickle.dumps(part, 2) for part in head) + body + pickle.dumps(list(storages), 2)
    content += b"".join(struct.pack("<q", counts.get(key, 1)) + raw for key, raw in storages.items())
    path.write_bytes(content + tail)
    return path


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "layer.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "layer.bias": rng.normal(size=3),
        "turned": rng.normal(size=(5, 2)).astype(np.float32).T,
        "steps": np.asarray(7),
        "mask": np.asarray([True, False]),
    }


BOTH = pytest.mark.parametrize("zipped", [False, True], ids=["older", "zip"])


@BOTH
def test_arrays_are_those_that_were_written(tmp_path, arrays, zipped):
    """ "turned" is kept as its storage lies: strides (1, 2) of numbers in Fortran's order."""
    kept = {**arrays, "turned": arrays["turned"]}
    storages = {
        str(at): (array.T if text == "turned" else array).tobytes() for at, (text, array) in enumerate(kept.items())
    }
    found = torch_files.read(write(tmp_path / "a.pt", kept, zipped, storages=storages))
    assert list(found) == list(arrays)
    for text, array in arrays.items():
        assert found[text].dtype == array.dtype
        np.testing.assert_array_equal(found[text], array)
        assert not found[text].flags.writeable


@BOTH
def test_views_share_a_storage_from_an_offset_on(tmp_path, zipped):
    base = np.arange(12, dtype=np.float32)
    views = {"all": tensor("0", base, zipped), "part": tensor("0", base, zipped, 3, (2, 2), (4, 1))}
    found = torch_files.read(write(tmp_path / "a.pt", {"base": base}, zipped, data(views)))
    np.testing.assert_array_equal(found["part"], [[3, 4], [7, 8]])
    np.testing.assert_array_equal(found["all"], base)


@BOTH
def test_the_state_dict_of_a_checkpoint_is_named(tmp_path, zipped):
    base = np.arange(3, dtype=np.float32)
    state = data({"ema": data({"w": tensor("0", base, zipped)}), "step": 3, "model": data({})})
    path = write(tmp_path / "a.pt", {"base": base}, zipped, state)
    np.testing.assert_array_equal(torch_files.read(path, "ema")["w"], base)
    for inside, words in (
        ("", "inside= may be 'ema', 'model'"),
        ("emma", "no 'emma'.*nearest is 'ema'"),
        ("step", "no arrays"),
    ):
        with pytest.raises(ValueError, match=words):
            torch_files.read(path, inside)


def test_an_ordered_dict_with_attributes_is_its_entries():
    """torch's state dicts carry versions of modules as attributes (BUILD): they are left out."""
    state = call("collections.OrderedDict") + data("a") + data(1) + b"s" + data({"_metadata": 3}) + b"b"
    found = pickles.load(io.BytesIO(b"\x80\x02" + state + b"."), "it", {"collections.OrderedDict": dict})
    assert found == {"a": 1}
    assert vars(torch_files).get("_metadata") is None


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_is_what_pickle_reads(protocol):
    value = {
        "a": [1, 2.5, None, True, -(2**70), (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "b": {"c": "ü" * 300, 4: b"x"},
    }
    value["again"] = value["b"]
    stream = io.BytesIO(pickle.dumps(value, protocol) + b"rest")
    assert pickles.load(stream, "it", {"_codecs.encode": lambda text, coding: text.encode(coding)}) == value
    assert stream.read() == b"rest"


RUN = b"\x80\x02" + call("posix.system", "true > hacked") + b"."
WRITTEN = b"\x80\x04" + data("posix") + data("system") + b"\x93" + data(("true",)) + b"R."


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (RUN, "'posix.system' is refused, since nothing is run"),
        (WRITTEN, "'posix.system' is refused"),
        (b"\x80\x02(i__builtin__\neval\n.", "instruction INST is refused"),
        (b"\x80\x02(cx\ny\no.", "'x.y' is refused"),
        (b"\x80\x02}}b}\x81.", "a dict stands where|instruction NEWOBJ is refused"),
        (b"\x80\x02\x82\x01.", "instruction EXT1 is refused"),
        (b"\x80\x02" + call("known", 1, 2, 3).replace(b"c\nknown", b"c\nknown") + b".", "is refused"),
        (b"\x80\x02" + name("a.known") + data((1, 2)) + b"R.", "a.known is called with 2 arguments"),
        (b"\x80\x02" + name("a.known") + b"}b.", "a Name stands where a dict is expected"),  # no state on what we call
        (b"\x80\x02" + data(1) + data((1,)) + b"R.", "a int stands where a Name is expected"),
        (b"\x80\x02]]s.", "finds no object|stands where"),
        (b"\x80\x02}]]s.", "a key that is neither text nor number"),
        (b"\x80\x02}(Ka" + b"u.", "has no value"),
        (b"\x80\x02j\xff\xff\xff\x7f.", "entry 2147483647 of its memo is read and was never written"),
        (b"\x80\x020.", "instruction POP is refused"),
        (b"\x80\x02.", "finds no object"),
        (b"\x80\x02t.", "finds no mark"),
        (b"\x80\x02}}.", "more than one object"),
        (b"\x80\x02}", "pickle exhausted before seeing STOP"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "is damaged"),  # bytes longer than any memory
        (b"\x80\x02X\x02\x00\x00\x00\xff\xff.", "no UTF-8"),
        (b"\x80\x02XX.", "is damaged"),
        (b"\x80\x02Ka" + b"Q.", "persistent id is refused"),
        (b"\xfe", "is damaged: at position 0, opcode"),
    ],
)
def test_hostile_pickles_are_refused_in_a_line(content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        pickles.load(io.BytesIO(content), "it", {"a.known": lambda one: one})
    assert str(caught.value).startswith("it")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_memo_far_away_takes_no_memory():
    """The pickle module's own machine makes room for 2^31 entries; here an entry is one of a dict."""
    assert pickles.load(io.BytesIO(b"\x80\x02}r\xff\xff\xff\x7f."), "it", {}) == {}


def test_lists_within_lists_are_read_once():
    """A list that holds one list twice, forty times over: 2^40 paths, forty lists."""
    bomb = []
    for _ in range(40):
        bomb = [bomb, bomb]
    content = pickle.dumps(bomb, 2)
    assert len(content) < 1000
    found = pickles.load(io.BytesIO(content), "it", {})
    for _ in range(40):
        assert found[0] is found[1]
        found = found[0]
    assert found == []


VIEWS = [
    (dict(shape=(13,), strides=(1,)), "ends at number 12 of storage '0', which has 12"),
    (dict(offset=1), "ends at number 12"),
    (dict(shape=(2, 2), strides=(11, 1)), "ends at number 12"),
    (dict(shape=(2**40,), strides=(0,)), "ends at number 0"),  # one number, told to be 2^40
    (dict(shape=(-1,), strides=(1,)), "no integers >= 0"),
    (dict(shape=(2,), strides=(-1,)), "no integers >= 0"),
    (dict(offset=-1), "no integers >= 0"),
    (dict(offset=True), "no integers >= 0"),
    (dict(shape=(2,), strides=(1, 1)), "has 1 axes and 2 strides"),
    (dict(count=13), "13 were told of|13 of float32 were told of"),
    (dict(count=-1), "a storage is of torch.FloatStorage and -1 numbers"),
    (dict(kind="Untyped"), "'torch.UntypedStorage' is refused"),
    (dict(kind="Double"), "ends within storage '0'|has 48 bytes, and 12 of float64"),
]


@BOTH
@pytest.mark.parametrize(("lie", "words"), VIEWS, ids=[str(lie) for lie, _ in VIEWS])
def test_views_beyond_their_storage_are_refused(tmp_path, zipped, lie, words):
    base = np.arange(12, dtype=np.float32)
    path = write(tmp_path / "a.pt", {"base": base}, zipped, data({"w": tensor("0", base, zipped, **lie)}))
    with pytest.raises(ValueError, match=words) as caught:
        torch_files.read(path)
    assert str(path) in str(caught.value)


def test_damaged_files_are_refused(tmp_path, arrays):
    whole = write(tmp_path / "a.pt", arrays, False).read_bytes()
    cases = {
        "bytes are left at its end": whole + b"x",
        "it ends within storage '4'": whole[:-1],
        "was not written by torch.save": b"PX" + whole,
        "pickle exhausted|damaged": whole[:200],
    }
    for words, content in cases.items():
        path = tmp_path / "b.pt"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            torch_files.read(path)
    for words, change in (("torch's number", {"magic": 1}), ("big-endian", {"little": False})):
        with pytest.raises(ValueError, match=words):
            torch_files.read(write(tmp_path / "c.pt", arrays, False, **change))
    with pytest.raises(ValueError, match="list of storages is not"):
        torch_files.read(write(tmp_path / "c.pt", arrays, False, storages={"0": b"", "1": b""}))
    with pytest.raises(FileNotFoundError):
        torch_files.read(tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match=r"expected at most 0\.0"):
        torch_files.read(path, most_gib=0.0)


def test_damaged_zips_are_refused(tmp_path, arrays):
    path = tmp_path / "a.pt"
    big = {"byteorder": b"big"}
    for words, told in (
        ("byte order b'big'", big),
        ("TorchScript", {"constants.pkl": b""}),
        ("another zip", {"x/data.pkl": b""}),
    ):
        with pytest.raises(ValueError, match=words):
            torch_files.read(write(path, arrays, True, **told))
    with pytest.raises(ValueError, match="storage '4' is not there"):
        torch_files.read(
            write(
                path,
                arrays,
                True,
                storages={str(at): array.tobytes() for at, array in enumerate(list(arrays.values())[:4])},
            )
        )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    with pytest.raises(ValueError, match="packed or locked"):
        torch_files.read(path)
    whole = write(path, arrays, True).read_bytes()
    for content in (whole[:-30], whole.replace(arrays["layer.weight"].tobytes(), bytes(48))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            torch_files.read(path)
