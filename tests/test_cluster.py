"""Where a process belongs, and what the processes of a run say to each other: sockets and threads, no device."""

import re
import socket
import threading
import time

import pytest

from diffjax import cluster, main, peers, rendezvous
from diffjax.config import ConfigError
from diffjax.runs.checks import check_settings
from diffjax.runs.settings import Settings

FACTS = {"jax": "1"}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def short(monkeypatch):
    """Beats of a hundredth of a second, and an end that is noted and not made, also by threads of earlier tests."""
    ended = []
    for name, value in {"BEAT": 0.02, "SILENCE": 0.4, "GRACE": 0.1}.items():
        monkeypatch.setattr(peers, name, value)
    monkeypatch.setattr(peers, "leave", lambda line, status: ended.append((line, status)))
    monkeypatch.setenv(rendezvous.VARIABLE, "5")
    return ended


def together(*calls):
    """What functions give or raise, run at the same time."""
    found = [None] * len(calls)

    def run(i):
        try:
            found[i] = calls[i]()
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    return found


def gathered(count):
    """The peers of each of so many processes, in this one."""
    address = ("127.0.0.1", free_port())
    first = lambda: rendezvous.listen(address, count, FACTS, {"jax": 7})
    other = lambda i: lambda: rendezvous.connect(address, count, i, FACTS)
    hub, *others = together(first, *(other(i) for i in range(1, count)))
    assert [more for _, more in others] == [{"jax": 7}] * (count - 1)
    return [hub, *(known for known, _ in others)]


def close(all_of_them):
    for one in all_of_them:
        one.close()


ALONE = {"TPU_SKIP_MDS_QUERY": "1"}  # a machine without a TPU, as jax says it


@pytest.mark.parametrize(
    ("flags", "environ", "place"),
    [
        ((None, None, None), ALONE, None),
        (("localhost:80", 2, 1), {}, (("localhost", 80), 2, 1, None)),
        (("[::1]:80", 2, 1), {}, (("::1", 80), 2, 1, None)),
        (("localhost:80", 1, 0), {}, None),
        ((None,) * 3, {"TPU_WORKER_HOSTNAMES": "a,b,c", "TPU_WORKER_ID": "2"}, (("a", cluster.PORT), 3, 2, None)),
        ((None,) * 3, {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ((None,) * 3, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "n1", **ALONE}, None),
        (
            (None,) * 3,
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", **ALONE},
            None,
        ),  # the batch script itself
        (("h:80", 2, 0), {"TPU_WORKER_HOSTNAMES": "a,b,c", "TPU_WORKER_ID": "2"}, (("h", 80), 2, 0, None)),
    ],
)
def test_places(flags, environ, place):
    assert cluster.place(*flags, environ) == (place and cluster.Place(*place))


def slurm(**more):
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "gpu[01-02]", "SLURM_JOB_ID": "9"}
    return cluster.place(environ={**step, "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", **more})


def test_tasks_of_slurm_share_the_devices_of_their_node():
    assert slurm()[0][0] == "gpu01"
    assert slurm()[1:] == (4, 3, None)
    assert slurm(CUDA_VISIBLE_DEVICES="0,1,2,3").devices == [2, 3]
    assert slurm(CUDA_VISIBLE_DEVICES="2").devices is None  # Slurm has bound it to one
    assert slurm(SLURM_STEP_ID="1")[0][1] != slurm()[0][1]  # another step has another port
    assert slurm(SLURM_JOB_ID="10")[0][1] != slurm()[0][1]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("gpu[003-007,12]", "gpu003"), ("a[1,3]-ib,b", "a1-ib"), ("x-[10-11]", "x-10")],
)
def test_first_host(nodes, first):
    assert cluster.first_host(nodes) == first


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("localhost:80", None, None), "--coordinator also needs --processes and --process: such as"),
        ((None, 2, 0), "--processes also needs --coordinator"),
        (("localhost", 2, 0), "--coordinator is 'localhost', expected HOST:PORT"),
        (("localhost:0", 2, 0), "expected HOST:PORT"),
        (("localhost:99999", 2, 0), "expected HOST:PORT"),
        (("localhost:80", 0, 0), "--processes is 0, expected at least 1"),
        (("localhost:80", 2, 2), "--process is 2, expected 0 to 1"),
        (("localhost:80", 2, -1), "--process is -1, expected 0 to 1"),
    ],
)
def test_places_that_are_none(flags, said):
    with pytest.raises(ValueError, match=said):
        cluster.place(*flags, {})


@pytest.mark.parametrize("mode", ["show", "replay"])
def test_what_one_process_does_needs_no_place(mode, monkeypatch, capsys):
    """On a worker of a pod, or in a task of Slurm, too: it waits for nobody."""
    monkeypatch.setattr(cluster, "_pod", lambda environ: cluster.Place(("127.0.0.1", 1), 2, 1))
    monkeypatch.setattr(cluster, "join", lambda *place: pytest.fail("it waits for the others"))
    assert main.main([f"--mode={mode}"]) == 2
    assert "is for one process" not in capsys.readouterr().err
    assert main.main([f"--mode={mode}", "--coordinator=h:80", "--processes=2", "--process=1"]) == 2
    assert "is for one process: leave --coordinator" in capsys.readouterr().err


def test_values_are_shared_in_order(short):
    known = gathered(3)
    for turn in range(3):
        found = together(*(lambda one=one: one.share([one.index, turn]) for one in known))  # noqa: B023
        assert found == [[[0, turn], [1, turn], [2, turn]]] * 3
    close(known)


def test_all_stop_at_one_step_that_none_has_passed(short):
    """Processes of different speed; the slowest is asked to stop: all end at one step, and `settle` tells who asked."""
    for who in (0, 2):
        known = gathered(3)
        start = threading.Barrier(3)

        def walk(one, who=who, start=start):
            start.wait()
            for step in range(0, 100_000, 2):
                time.sleep(0.001 * (one.index + 1))
                asked = 15 if one.index == who and step >= 40 else None
                if one.agreed(asked, step, 2) is not None:
                    break
                start.wait()  # as a collective: nobody is a step ahead
            return step, one.settle(None), one.agreed(None, 0)

        found = together(*(lambda one=one: walk(one) for one in known))
        assert [of_one[1:] for of_one in found] == [(15, None)] * 3
        assert len({of_one[0] for of_one in found}) == 1
        assert 40 <= found[0][0] <= 44
        close(known)


def test_a_stop_before_any_step_is_done(short):
    """Who asks is at his first boundary, the others are still on their way to it."""
    known = gathered(2)

    def late(one):
        time.sleep(0.3)
        return [step for step in (1, 2, 3) if one.agreed(None, step) is not None][:1]

    def early(one):
        return [step for step in (1, 2, 3) if one.agreed(15, step) is not None][:1]

    assert together(lambda: late(known[0]), lambda: early(known[1])) == [[2], [2]]
    close(known)


def test_a_stop_at_the_last_step_is_known_to_all(short):
    known = gathered(2)
    assert together(lambda: known[0].settle(None), lambda: known[1].settle(2)) == [2, 2]
    assert together(lambda: known[0].settle(None), lambda: known[1].settle(None)) == [None, None]
    close(known)


def test_values_that_have_to_be_equal(short, monkeypatch):
    cluster.same("data", "a")  # of one process
    known = gathered(2)

    def check(one, value):
        monkeypatch.setattr(cluster, "_here", [one])
        return cluster.same("data", value)

    # one after the other, since what a process knows is global: the second answers from a thread of its own
    values = ("a", "b", {"rate": 1, "seed": 7})
    answer = threading.Thread(target=lambda: [known[1].share(value) for value in values], daemon=True)
    answer.start()
    check(known[0], "a")
    with pytest.raises(ValueError, match=r"process 1 \(.*\) has data b, process 0 has a: give all processes the same"):
        check(known[0], "a")
    with pytest.raises(ValueError, match=r"has data \{'seed': 7\}, process 0 has \{'seed': 8, 'steps': 2\}"):
        check(known[0], {"rate": 1, "seed": 8, "steps": 2})
    answer.join(5)
    close(known)


@pytest.mark.parametrize("who", [0, 1])
def test_a_process_that_is_gone_is_named_by_all(short, who):
    known = gathered(3)
    known[who].close()  # as the kernel closes connections of a process that is killed
    left = [one for one in known if one.index != who]
    waits = together(*(lambda one=one: one.share(0) for one in left))
    assert {type(error) for error in waits} == {peers.LostError}
    gone = f"{known[0].names[who]} is gone: it was killed, or its machine or network is down"
    assert {str(error) for error in waits} == {gone}
    time.sleep(0.5)
    assert {line for line, _ in short} == {one.signed(f"error: {gone}") for one in left}
    close(left)


def test_a_process_that_is_frozen_is_named(short, monkeypatch):
    known = gathered(2)
    monkeypatch.setattr(known[1]._links[0], "send", lambda message: None)
    began = time.monotonic()
    (error,) = together(lambda: known[0].share(0))
    assert "process 1" in str(error)
    assert "has been silent for 0 s: frozen, or out of reach" in str(error)
    assert 0.3 < time.monotonic() - began < 5
    close(known)


def test_a_process_that_fails_is_named_with_its_line(short):
    known = gathered(3)
    error, _, other = together(
        lambda: known[0].share(0), lambda: known[1].fail("error: no data", 1), lambda: known[2].share(0)
    )
    assert str(error) == f"{known[0].names[1]} has ended: no data"
    assert str(other) == str(error)
    assert (error.status, other.status) == (1, 1)
    close(known)


def test_what_is_wrong_in_all_processes_is_said_by_the_first(short):
    known = gathered(2)
    _, other = together(lambda: known[0].fail("error: bad", 2), lambda: known[1].fail("error: bad", 2))
    assert other
    close(known)


@pytest.mark.parametrize(
    ("words", "said"), [({"devices": 1}, "devices is 1, but"), ({"backend": "pmap"}, "'pmap', but")]
)
def test_several_processes_train_on_all_devices_by_jit(monkeypatch, words, said):
    check_settings(Settings(**words))
    monkeypatch.setattr(cluster, "_here", [None])
    with pytest.raises(ConfigError, match=said):
        check_settings(Settings(**words))
    check_settings(Settings())


def comes(count=2, index=1, facts=FACTS, port=None, expected=2):
    """What process 0 of `expected` and one that comes to it say."""
    address = ("127.0.0.1", port or free_port())
    return together(
        lambda: rendezvous.listen(address, expected, FACTS, {}),
        lambda: rendezvous.connect(address, count, index, facts),
    )


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ({"count": 3}, "was started with --processes=3, process 0 with 2"),
        ({"index": 0}, "came, but process 0 .* is here: give each its own"),
        ({"facts": {"jax": "2"}}, "has jax 2, process 0 has 1: all need the same"),
    ],
)
def test_a_process_that_differs_is_refused_in_both(short, who, said):
    for error in comes(**who):
        assert isinstance(error, ValueError)
        assert re.search(said, str(error))
        assert "\n" not in str(error)


def test_a_process_that_does_not_come_is_named(short, monkeypatch):
    monkeypatch.setenv(rendezvous.VARIABLE, "0.5")
    first, second = comes(expected=4, count=4)
    assert str(first).startswith("Processes 2, 3 of 4 did not come to 127.0.0.1:")
    assert str(second) == str(first)


def test_a_coordinator_that_does_not_answer(short, monkeypatch):
    monkeypatch.setenv(rendezvous.VARIABLE, "0.5")
    with pytest.raises(ValueError, match=r"No answer from the coordinator 127.0.0.1:\d+ within 0 s"):
        rendezvous.connect(("127.0.0.1", free_port()), 2, 1, FACTS)
    with pytest.raises(ValueError, match=r"there is no host 'no.such.host.invalid'"):
        rendezvous.connect(("no.such.host.invalid", 80), 2, 1, FACTS)


def test_a_port_that_is_taken_and_strangers_at_it(short):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ValueError, match=r"Process 0 cannot listen at 127.0.0.1"):
            rendezvous.listen(taken.getsockname(), 2, FACTS, {})

        def answers():
            with taken.accept()[0] as one:
                one.sendall(b"SSH-2.0\n")

        threading.Thread(target=answers, daemon=True).start()
        with pytest.raises(ValueError, match="is no process 0 of a run"):
            rendezvous.connect(taken.getsockname(), 2, 1, FACTS)
    port = free_port()

    def stranger():
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", port)) as one:
                    one.sendall(b"GET / HTTP/1.0\n\n")
                return
            except OSError:
                time.sleep(0.02)

    address = ("127.0.0.1", port)
    late = lambda: (time.sleep(0.5), rendezvous.connect(address, 2, 1, FACTS))[1]
    hub, _, other = together(lambda: rendezvous.listen(address, 2, FACTS, {}), stranger, late)
    assert hub.count == other[0].count == 2
    close([hub, other[0]])


def test_a_relay_hands_on_and_does_not_show_an_end():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(("127.0.0.1", rendezvous.relay(server.getsockname())))
        far = server.accept()[0]
        near.sendall(b"there")
        assert far.recv(5) == b"there"
        far.sendall(b"back")
        assert near.recv(4) == b"back"
        far.close()
        near.settimeout(0.3)
        with pytest.raises(TimeoutError):  # not b"", the end of a connection
            near.recv(1)
        near.close()
