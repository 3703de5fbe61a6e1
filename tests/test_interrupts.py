"""A signal ends a run at once where nothing would be lost, else when its state is saved."""

import os
import signal

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
    with pytest.raises(Preempted):  # noqa: PT012
        with held():
            send("SIGTERM")
            reached = True
        reached = False
    assert reached


def test_nothing_asked_is_nothing_done():
    stop_if_asked()
    assert asked() is None
