"""Room for bodies is taken by what arrives, not by what is declared; a second signal ends the service at once."""

import os
import signal

import pytest

from crosscale.cluster.hosts import AgreedStop
from crosscale.cluster.stop import StopSignals
from crosscale.errors import RequestError
from crosscale.serve.admission import Bounded
from crosscale.serve.server import _Server
from crosscale.serve.settings import Refused, Settings


def test_bytes_count_as_they_arrive():
    held = Bounded("bytes", 100)
    with held.growing() as first, held.growing() as second:
        assert held.used == 0  # sixteen clients that only declare take no room
        first(60)
        second(40)
        with pytest.raises(Refused, match="busy") as refusal:
            second(1)
        assert refusal.value.status == 429
    assert held.used == 0
    with held.hold(100):
        pass


def test_one_client_leaves_room_for_the_others():
    held = Bounded("bytes", 100)
    with held.growing("a") as first:
        first(30)
        with held.growing("a") as again, pytest.raises(Refused, match="30 bytes of one client are under way"):
            again(21)
        with held.growing("b") as other:
            other(50)
            first(20)
            assert held.used == 100
    assert (held.used, held._of) == (0, {})


def test_the_largest_body_fits_beside_another():
    with pytest.raises(RequestError, match=r"max_bytes=60 exceeds half of held_bytes=100.*give held_bytes=120"):
        Settings(max_bytes=60, held_bytes=100)
    assert Settings(max_bytes=50, held_bytes=100).held_bytes == 100


def test_the_command_makes_room_for_large_bodies(monkeypatch):
    from crosscale.cli import serve

    asked = []
    monkeypatch.setattr(serve, "find_spec", lambda name: name)
    monkeypatch.setattr("crosscale.serve.settings.Settings", _Noted(asked))
    with pytest.raises(_Stop):
        serve.run(["--run", "x", "--max-bytes", "250000000"], as_json=False)
    assert asked[0]["max_bytes"] == 250_000_000
    assert asked[0]["held_bytes"] == 500_000_000


class _Stop(Exception):  # noqa: N818
    pass


class _Noted:
    held_bytes = Settings.held_bytes

    def __init__(self, asked):
        self.asked = asked

    def __call__(self, **given):
        self.asked.append(given)
        Settings(**given)
        raise _Stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_service_at_once(monkeypatch, number):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    server = _Server.__new__(_Server)
    server.should_exit, server.force_exit, server._captured_signals = False, False, []
    server._stop(number, None)
    assert (server.should_exit, ended) == (True, [])
    server._stop(signal.SIGTERM, None)
    assert ended == [128 + signal.SIGTERM]


def test_a_closed_terminal_reaches_a_service_and_every_process_of_a_training(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        server, heard = _Server.__new__(_Server), []
        monkeypatch.setattr(server, "_stop", lambda number, frame: heard.append(number))
        with server.capture_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        sent = []
        with AgreedStop():
            monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
            signal.raise_signal(signal.SIGHUP)
        assert (heard, sent) == ([signal.SIGHUP], [signal.SIGTERM])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM"])
def test_a_closed_terminal_stops_as_a_signal_to_end_does(name):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where nohup started the tests
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.Signals[name])
            assert stop.requested == name
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a process
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.requested is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
