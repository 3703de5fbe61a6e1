"""A signal ends a run at once where nothing would be lost, else when its state is saved."""

import os
import signal
import threading

import pytest

from lorascope import interrupts
from lorascope.interrupts import Preempted, asked, deferred, held, install, stop_if_asked


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupts._requests.asked = None


def send(name):
    os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_outside_a_training_the_run_ends_at_once(name):
    with pytest.raises(Preempted, match=name):
        send(name)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_inside_it_is_noted_and_waited_for(name, capsys):
    with deferred():
        send(name)
        assert asked() == name
    assert "saving at the end of this step" in capsys.readouterr().err
    with pytest.raises(Preempted, match=name):
        stop_if_asked()


def test_a_scheduler_may_ask_many_times_and_is_told_once(capsys):
    with deferred():
        for name in ("SIGTERM", "SIGUSR1", "SIGTERM", "SIGUSR2"):
            send(name)
        assert asked() == "SIGTERM"
    assert capsys.readouterr().err.count("saving") == 1


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_a_second_ctrl_c_stops_at_once(first):
    with deferred():
        send(first)
        with pytest.raises(KeyboardInterrupt) as caught:
            send("SIGINT")
        assert not isinstance(caught.value, Preempted)


def test_while_the_record_is_written_no_signal_comes_through():
    reached = []
    with pytest.raises(Preempted):  # noqa: PT012
        with held():
            send("SIGTERM")
            reached.append("the end of what is held")
        reached.append("what follows it")
    assert reached == ["the end of what is held"]


def test_it_does_not_either_where_another_thread_takes_the_signal():
    idle = threading.Event()
    other = threading.Thread(target=idle.wait)
    other.start()  # blocks no signal: the system may hand it any
    try:
        for _ in range(200):
            install()
            reached = False
            with pytest.raises(Preempted), held():  # noqa: PT012
                send("SIGTERM")
                reached = True
            assert reached
    finally:
        idle.set()
        other.join()


def test_nothing_asked_is_nothing_done():
    stop_if_asked()
    assert asked() is None
