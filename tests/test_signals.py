"""The first signal asks, the second insists, and the handlers found are put back."""

import os
import signal
import threading

import pytest

from diffjax import signals
from diffjax.signals import STOPPING, Insisted, install_stop_handler


@pytest.fixture
def found():
    """Handlers of one's own, as a program around ours may have."""
    mine = {number: lambda *_: None for number in STOPPING}
    before = {number: signal.signal(number, handler) for number, handler in mine.items()}
    yield mine
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_raises_the_flag_and_nothing_else(found, number):
    with install_stop_handler() as stop:
        assert not stop
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop
        assert stop.received is number
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers repeat themselves: no abort, and the first one counts
        assert stop.received is number
    assert {n: signal.getsignal(n) for n in found} == found


@pytest.mark.parametrize("second", STOPPING)
@pytest.mark.parametrize("first", STOPPING)
def test_a_second_signal_aborts_at_once(found, first, second, monkeypatch):
    monkeypatch.setattr(signals, "REPEATED", -1)
    reached = []
    with pytest.raises(Insisted, match=second.name) as caught, install_stop_handler():  # noqa: PT012
        os.kill(os.getpid(), first)
        reached.append("after the first")
        os.kill(os.getpid(), second)
        reached.append("after the second")
    assert reached == ["after the first"]
    assert isinstance(caught.value, KeyboardInterrupt)
    assert caught.value.signal is second
    assert {n: signal.getsignal(n) for n in found} == found


def test_ctrl_c_is_never_taken_for_a_repetition(found):
    with pytest.raises(Insisted), install_stop_handler():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system hangs up nothing")
def test_under_nohup_a_hang_up_stays_ignored(found):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with install_stop_handler() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received is signal.SIGTERM
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_handlers_are_put_back_after_an_error(found):
    with pytest.raises(ZeroDivisionError), install_stop_handler():
        _ = 1 / 0
    assert {n: signal.getsignal(n) for n in found} == found


def test_outside_the_main_thread_the_flag_stays_down():
    seen = []

    def work():
        with install_stop_handler() as stop:
            seen.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
