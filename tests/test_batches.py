"""Batches against an enumeration of the walk they come from, their hosts, threads and refusals."""

import threading
import time

import numpy as np
import pytest
from numbers_source import Numbers

from diffjax import data
from diffjax.data import batches


@pytest.mark.parametrize(("n", "size"), [(10, 4), (7, 7), (5, 12), (97, 32)])
def test_walk_visits_every_example_once_per_epoch_in_a_new_order(n, size):
    steps = 12 * n // size + 2
    walk = np.concatenate([data.batch_at(Numbers(n), size, 3, k).x for k in range(steps)]).astype(int)
    epochs = [walk[e * n : (e + 1) * n].tolist() for e in range(len(walk) // n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    other = np.concatenate([data.batch_at(Numbers(n), size, 4, k).x for k in range(steps)]).astype(int)
    assert walk.tolist() != other.tolist()


def test_order_is_that_of_sorted_philox_words():
    """Philox 4x64 by hand (Salmon et al. 2011), so that no NumPy version can move the data."""
    seed, epoch, n = 5, 2, 11
    words = [w for block in range(1, 4) for w in philox([block, 0, 0, 0], [seed, epoch])][:n]
    expected = sorted(range(n), key=words.__getitem__)
    got = np.concatenate([data.batch_at(Numbers(n), n, seed, epoch).x])
    assert got.astype(int).tolist() == expected


def philox(counter, key):
    """Ten rounds of Philox 4x64: four words from a counter of four and a key of two."""
    (a, b, c, d), (k, m), mask = counter, key, 2**64 - 1
    for _ in range(10):
        first, second = a * 0xD2E7470EE14C6C93, c * 0xCA5A826395121157
        a, b, c, d = (second >> 64) ^ b ^ k, second & mask, (first >> 64) ^ d ^ m, first & mask
        k, m = (k + 0x9E3779B97F4A7C15) & mask, (m + 0xBB67AE8584CAA73B) & mask
    return [a, b, c, d]


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_global_batch_is_the_same_for_any_number_of_hosts(hosts):
    points = Numbers(50, (2, 3, 1))
    whole = batches.stack_at(points, 16, 7, 20, 5, flip=True).x
    share = lambda i: batches.stack_at(points, 16, 7, 20, 5, flip=True, process_index=i, process_count=hosts).x
    np.testing.assert_array_equal(np.concatenate([share(i) for i in range(hosts)], axis=1), whole)
    assert whole.shape == (5, 16, 2, 3, 1)


@pytest.mark.parametrize("start", [0, 1, 6, 1_000_003])
def test_iterator_is_the_pure_function_from_any_start(start):
    points = Numbers(23, (3, 4, 1))
    with data.Batches(points, 8, 1, start, steps_per_dispatch=3, flip=True, put=lambda x: x) as stream:
        for i in range(4):
            stack = next(stream).x
            for j in range(3):
                np.testing.assert_array_equal(stack[j], data.batch_at(points, 8, 1, start + 3 * i + j, flip=True).x)


def test_default_put_is_on_the_device():
    import jax

    with data.Batches(data.digits().train, 4, 0) as stream:
        batch = next(stream)
    assert isinstance(batch.x, jax.Array)
    assert (batch.x.shape, batch.given["label"].shape) == ((1, 4, 8, 8, 1), (1, 4))


def test_flips_are_fair_mirrors_of_position_not_of_window():
    ramp = data.Arrays(np.broadcast_to(np.arange(4.0)[:, None], (1, 2, 4, 1)).copy())  # one example, again and again
    bits = [batches.stack_at(ramp, size, 2, 0, 2400 // size, flip=True).x.reshape(-1, 2, 4, 1) for size in (1, 5, 48)]
    np.testing.assert_array_equal(bits[0], bits[1])
    np.testing.assert_array_equal(bits[0], bits[2])
    single = [data.batch_at(ramp, 5, 2, k, flip=True).x for k in range(480)]  # windows that start anywhere
    np.testing.assert_array_equal(np.concatenate(single), bits[0])
    flipped = bits[0][:, 0, 0, 0] == 3
    np.testing.assert_array_equal(bits[0][flipped][:, :, ::-1], bits[0][~flipped][:1].repeat(flipped.sum(), 0))
    assert abs(flipped.mean() - 0.5) < 3 * 0.5 / np.sqrt(2400)
    assert abs(np.corrcoef(flipped[1:], flipped[:-1])[0, 1]) < 0.06


def test_flip_only_for_images():
    with pytest.raises(ValueError, match="flip mirrors images"):
        data.Batches(Numbers(5, (2,)), 2, 0, flip=True)


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": 6, "process_count": 4}, {"start_step": -1}, {"steps_per_dispatch": 0},
                {"process_index": 2, "process_count": 2}, {"prefetch": 0}],
)  # fmt: skip
def test_batches_refuse_numbers_that_make_no_batch(options):
    with pytest.raises(ValueError, match=r"batch_size|step|prefetch"):
        data.Batches(Numbers(9), **{"batch_size": 4, "seed": 0, **options})


def threads_named(name):
    return [t for t in threading.enumerate() if t.name.startswith(name)]


def test_thread_stops_when_the_consumer_does():
    with data.Batches(Numbers(9), 4, 0, prefetch=1) as stream:
        next(stream)
        assert threads_named("batches")
    assert not threads_named("batches")
    stream.close()
    assert next(stream, "over") == "over"


def test_thread_stops_when_the_iterator_is_dropped():
    stream = data.Batches(Numbers(9), 4, 0, prefetch=1)
    next(stream)
    del stream
    deadline = time.monotonic() + 5
    while threads_named("batches") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads_named("batches")


@pytest.mark.parametrize("culprit", ["source", "put"])
def test_errors_reach_the_consumer_after_the_batches_before_them(culprit):
    numbers, calls = Numbers(9), []

    def count(result):
        calls.append(0)
        if len(calls) > 2:
            raise RuntimeError("the disk is gone")
        return result

    gather, put = numbers.gather, (count if culprit == "put" else lambda x: x)
    if culprit == "source":
        numbers.gather = lambda indices: count(gather(indices))
    stream = data.Batches(numbers, 4, 0, put=put)
    next(stream), next(stream)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(stream)
    assert not threads_named("batches")


def test_prefetch_stays_ahead_but_not_far():
    made = []
    with data.Batches(Numbers(9), 4, 0, prefetch=3, put=made.append) as stream:
        next(stream)
        deadline = time.monotonic() + 5
        while len(made) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(made) == 5  # one taken, three waiting, one in hand
