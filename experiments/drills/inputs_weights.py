"""Hostile weights files: what is no such file, and copies of a right one whose header lies."""

import io
import json
import os
import pickle
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from crafted import SMALL, Input, flipped

FILE = "w.safetensors"
Split = tuple[dict[str, Any], bytes]  # a header and the numbers behind it


def split(content: bytes) -> Split:
    """Takes a file apart."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(told: Any, body: bytes, length: int | None = None) -> bytes:
    """Makes a file of a header, JSON or bytes, and numbers."""
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def first(told: dict[str, Any]) -> dict[str, Any]:
    """The entry of the first array."""
    return next(entry for name, entry in told.items() if name != "__metadata__")


def facts(change: Callable[[dict], Any]) -> Callable[[dict, bytes], Split]:
    """Changes what the header says of the run."""

    def changed(told: dict, body: bytes) -> Split:
        own = json.loads(told["__metadata__"]["diffjax"])
        change(own)
        told["__metadata__"]["diffjax"] = json.dumps(own)
        return told, body

    return changed


def deep(levels: int) -> str:
    return '{"a": ' * levels + "1" + "}" * levels


def npz() -> bytes:
    """An archive of one array."""
    made = io.BytesIO()
    np.savez(made, x=np.zeros(100))
    return made.getvalue()


class _Evil:
    def __reduce__(self):
        return os.system, ("touch EXECUTED",)


def weights(_: Path) -> Iterator[Input]:
    """Weights files, opened to sample and to start from."""
    start = ("--config=configs/vpsde.py:tiny", *SMALL, f"--config.train.start={FILE}", "--workdir=work")
    uses = (("--mode=sample", f"--workdir={FILE}", "--out=out", "--seeds=0-3"), start)
    count = 0

    def of(what: str, make: Callable[[bytes, random.Random], bytes], says: str = "w.safetensors") -> Input:
        nonlocal count
        count += 1
        right = lambda folder: (folder.parents[1] / "weights/model.safetensors").read_bytes()
        put = lambda folder, rng: (folder / FILE).write_bytes(make(right(folder), rng))
        return Input("weights", what, uses[count % 2], says, put)

    def lie(what: str, change: Callable[[dict, bytes], Split], says: str = "w.safetensors") -> Input:
        return of(what, lambda content, _: joined(*change(*split(content))), says)

    def entry(what: str, **fields: Any) -> Input:
        return lie(f"an array of {what}", lambda told, body: (first(told).update(fields) or told, body))

    yield of("nothing", lambda content, rng: b"")
    yield of("noise", lambda content, rng: rng.randbytes(5000))
    yield of("zeros", lambda content, rng: bytes(5000))
    yield of("text", lambda content, rng: b"weights " * 500)
    yield of("a pickle", lambda content, rng: pickle.dumps([_Evil()] * 50))
    yield of("an old pickle", lambda content, rng: pickle.dumps([_Evil()] * 50, protocol=0))
    for name in ("a", "__metadata__"):
        yield of(f"a file of {name} alone", lambda content, rng, name=name: joined({name: {}}, b""))
    for share in (1, 3, 5, 7):
        yield of(f"cut at {share}/8", lambda content, rng, share=share: content[: len(content) * share // 8])
    yield of("one byte less", lambda content, rng: content[:-1])
    yield of("one byte more", lambda content, rng: content + b"\0")
    yield of("flipped", lambda content, rng: flipped(content, rng))
    yield of("flipped numbers", lambda content, rng: content[:-8] + bytes(b ^ 1 for b in content[-8:]))
    yield of("numbers of nothing", lambda content, rng: content[:-8] + b"\xff" * 8)
    for length in (0, 1, 2**24 + 1, 2**40, 2**63, 2**64 - 1):
        yield of(f"a header of {length} bytes", lambda c, rng, n=length: joined(*split(c), n))
    yield of("a large header", lambda content, rng: joined(b" " * 2**26 + b"{}", b""))
    yield of("a header of lists", lambda content, rng: joined(b'{"a": [' + b"[]," * 5_000_000 + b"[]]}", b""))
    yield of("deep", lambda content, rng: joined(b'{"a": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", b""))
    yield of("digits", lambda content, rng: joined(b'{"a": ' + b"9" * 1_000_000 + b"}", b""))
    yield of("a name twice", lambda content, rng: joined(b'{"a": {}, "a": {}}', b""))
    yield of("a long name", lambda content, rng: joined({"n" * 10**7: {}}, b""))
    yield of("many arrays", lambda c, r: joined({f"a{i}": {} for i in range(10**6)}, b""))
    yield of("no object", lambda content, rng: joined([1], b""))
    yield of("no UTF-8", lambda content, rng: joined(b'{"\xff\xfe": 1}', b""))
    yield entry("no dtype", dtype=None)
    yield entry("objects", dtype="O")
    yield entry("F8", dtype="F8_E4M3")
    yield entry("another size", dtype="F64")
    yield entry("a negative size", shape=[-4])
    yield entry("a huge size", shape=[2**62, 2**62])
    yield entry("many digits", shape=[10**1000])
    yield entry("no numbers", shape=["4"])
    yield entry("many axes", shape=[1] * 100_000)
    yield entry("negative offsets", data_offsets=[-8, 0])
    yield entry("offsets beyond", data_offsets=[2**60, 2**60 + 64])
    yield entry("offsets that are one", data_offsets=[0])
    yield entry("offsets that overlap", data_offsets=[0, 2**40])
    yield lie("an array too few", lambda told, body: (told.pop(next(n for n in told if n[0] != "_")) and told, body))
    more = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    yield lie("an array too many", lambda told, body: ({**told, "x": more}, body))
    yield lie("no metadata", lambda told, body: (told.pop("__metadata__") and told, body))
    yield lie("metadata of numbers", lambda told, body: ({**told, "__metadata__": {"diffjax": 1}}, body))
    yield lie("metadata that is deep", lambda told, body: ({**told, "__metadata__": {"diffjax": deep(90_000)}}, body))
    for levels in (20, 300, 900):
        bent = lambda own, n=levels: own["config"].update(model=json.loads(deep(n)))
        yield lie(f"a config {levels} deep", facts(bent))
    yield lie("a newer format", facts(lambda own: own.update(format=99)))
    yield lie("no config", facts(lambda own: own.pop("config")))
    yield lie("a config of objects", facts(lambda own: own.update(config={"objects": {}})))
    yield lie("a config of text", facts(lambda own: own.update(config="x")))
    yield lie("a dotted key", facts(lambda own: own["config"].update({"a.b": 1})), "a.b|w.safetensors")
    yield lie("a module", facts(lambda own: own["config"].update(model={"name": "evilmod:X"})))
    yield lie("a dotted module", facts(lambda own: own["config"].update(model={"name": "os.system"})), "os.system")
    for group, field in (("model", "width"), ("model", "depth"), ("sample", "chunk"), ("grid", "n")):
        for value in (10**11, -1, "x", [1], {"name": "x"}):
            put = lambda own, g=group, f=field, v=value: own["config"][g].update({f: v})
            yield lie(f"{group}.{field} = {value}"[:60], facts(put), f"{field}|{group}|MLP|w.safetensors")
    yield lie("another width", facts(lambda own: own["config"]["model"].update(width=17)))
    yield lie("no data", facts(lambda own: own.pop("data")))
    for name, value in (
        *(("x", {"shape": shape, "dtype": "float32"}) for shape in ([10**12], [-1], [], [1] * 999, "x")),
        *(("x", {"shape": [2], "dtype": dtype}) for dtype in ("object", "<U9", None, "float33")),
        *(("classes", value) for value in (10**12, -1, "x", 0)),
        *(("names", value) for value in (["a"], [1, 2], "ab", {})),
        *(("labels", value) for value in ([5], [1, 0], [-1], "01", [10**30])),
        *(("units", value) for value in ({}, 1, {"mean": [1, [2]], "scale": 1, "range": [0, 1]})),
        ("units", {"mean": [0.0] * 100_000, "scale": [1.0] * 100_000, "range": [0, 1]}),
        *(("format", value) for value in (9, "1", None, 10**30)),
    ):
        put = lambda own, n=name, v=value: own["data"].update({n: v})
        yield lie(f"the card's {name} = {value}"[:60], facts(put), "w.safetensors|MLP")
    yield of("an .npz", lambda content, rng: npz())
    yield of("an .npy", lambda content, rng: b"\x93NUMPY\1\0" + np.zeros(100).tobytes())
