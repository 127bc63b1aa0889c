"""The first signal asks, the second Ctrl-C insists, and the handlers found are put back."""

import os
import signal
import threading

import pytest

from diffjax.signals import install_stop_handler


@pytest.fixture
def found():
    """Handlers of one's own, as a program around ours may have."""
    mine = {signal.SIGTERM: lambda *_: None, signal.SIGINT: lambda *_: None}
    before = {number: signal.signal(number, handler) for number, handler in mine.items()}
    yield mine
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_after_a_signal_aborts_at_once(found, number):
    reached = []
    with pytest.raises(KeyboardInterrupt), install_stop_handler():  # noqa: PT012
        os.kill(os.getpid(), number)
        reached.append("after the first")
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("after the second")
    assert reached == ["after the first"]
    assert {n: signal.getsignal(n) for n in found} == found


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
