"""The checksum against published vectors and integer arithmetic, and against the damage that it is there to catch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.checksum import checksums

DTYPES = ["bool", "int8", "uint8", "int32", "uint32", "bfloat16", "float16", "float32", "complex64", "float8_e4m3fn"]


def total(x):
    return checksums([x])[0][0]


def fmix32(h):
    """MurmurHash3's finaliser in Python's integers."""
    h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
    return h ^ (h >> 16)


def sample(dtype, shape=(6, 5)):
    rng = np.random.default_rng(0)
    if dtype == "bool":
        return jnp.asarray(rng.integers(0, 2, shape), bool)
    return jnp.asarray(rng.integers(1, 100, shape)).astype(dtype)


@pytest.mark.parametrize(("bits", "digest"), [(0, 0), (1, 0x514E28B7), (0xFFFFFFFF, 0x81F16F39)])
def test_first_element_is_murmurhash3_of_nothing(bits, digest):
    # MurmurHash3_x86_32 of the empty string returns its finaliser of the seed: published vectors
    assert total(np.array([bits], np.uint32)) == digest


def test_position_and_words_in_integer_arithmetic():
    x = np.random.default_rng(1).standard_normal((3, 4, 2))
    expected = 0
    for i, value in enumerate(x.reshape(-1)):
        low, high = np.array([value]).view(np.uint32).tolist()
        expected += fmix32(fmix32(i * 0x9E3779B1 % 2**32 ^ low) ^ high)
    assert total(x) == expected % 2**32


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_single_bit_counts(dtype):
    x = np.asarray(sample(dtype))
    sound = total(x)
    for element in (0, 7, x.size - 1):
        for bit in range(8 * x.dtype.itemsize):
            data = bytearray(x.tobytes())
            data[element * x.dtype.itemsize + bit // 8] ^= 1 << bit % 8
            assert total(np.frombuffer(bytes(data), x.dtype).reshape(x.shape)) != sound


def test_one_unit_in_the_last_place_is_seen():
    x = np.linspace(-1, 1, 1000, dtype=np.float32)
    y = x.copy()
    y[123] = np.nextafter(y[123], np.float32(2))
    assert total(x) != total(y)


@pytest.mark.parametrize(
    "damage",
    [lambda x: -x, lambda x: x[::-1], lambda x: np.roll(x, 1), lambda x: 0 * x, lambda x: x[[1, 0, *range(2, x.size)]]],
    ids=["signs", "reversed", "rolled", "zeros", "swapped"],
)
def test_structured_damage_is_seen(damage):
    x = np.arange(1, 257, dtype=np.float32)
    assert total(x) != total(np.ascontiguousarray(damage(x)))


def test_keys_and_their_data_agree():
    key = jax.random.key(3)
    assert total(key) == total(jax.random.key_data(key)) != total(jax.random.key(4))


def test_non_finite_values_are_counted():
    x = jnp.array([1.0, jnp.nan, jnp.inf, -jnp.inf, 0.0])
    tree = {"a": x, "b": x.astype(jnp.bfloat16), "c": jnp.arange(3), "d": jnp.array([1j * jnp.inf, 2])}
    assert [bad for _, bad in checksums(tree)] == [3, 3, 0, 1]


def test_nothing_sums_to_zero():
    assert checksums({}) == []
    assert checksums([jnp.zeros((0, 3))]) == [(0, 0)]
