"""What the supervisor writes to a worker: nothing wakes it only to be kept."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator

import pytest

from routilux_mp.backends._pipe import Pipe


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with selectors.DefaultSelector() as selector:
        pipe = Pipe(ours, selector, None)
        yield pipe, theirs
        pipe.close()
    theirs.close()


def arrived(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


def test_what_is_held_goes_before_what_is_written_next_and_with_it(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, theirs = ends
    pipe.hold(b"one ")
    pipe.hold(b"two ")
    assert arrived(theirs) == b""
    pipe.write(b"three")
    assert arrived(theirs) == b"one two three"
    pipe.write(b"four")
    assert arrived(theirs) == b"four"


def test_what_is_held_can_be_let_go(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, theirs = ends
    pipe.let_go()
    assert arrived(theirs) == b""
    pipe.hold(b"one")
    pipe.let_go()
    assert arrived(theirs) == b"one"
    pipe.let_go()
    assert arrived(theirs) == b""


def test_nothing_is_sent_to_who_has_hung_up(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, theirs = ends
    pipe.hold(b"one")
    pipe.hang_up()
    pipe.let_go()
    pipe.write(b"two")
    assert arrived(theirs) == b""
