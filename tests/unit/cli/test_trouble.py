"""What `run` says while a job is blocked: seldom, with how long it has been so, and when that is over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from routilux_mp.cli.progress import Stage
from routilux_mp.cli.running import Trouble


class Board:
    def __init__(self) -> None:
        self.said: list[str] = []

    def show(self, stages: Sequence[Stage]) -> None:
        raise AssertionError("it is no progress")

    def say(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        raise AssertionError("it is not over")


def test_it_is_said_now_and_then_and_taken_back() -> None:
    board = Board()
    trouble = Trouble(board)
    blocked = {"reason": "the disk is full", "since": datetime.fromtimestamp(100, UTC)}
    trouble.show(None, 100.0)
    for now_s in range(101, 123):
        trouble.show(blocked, float(now_s))
    assert board.said == ["! blocked for 10 s: the disk is full", "! blocked for 20 s: the disk is full"]
    trouble.show(None, 125.0)
    trouble.show(None, 126.0)
    assert board.said[2:] == ["it goes on, after 25 s"]


def test_what_is_soon_over_is_not_worth_a_line() -> None:
    board = Board()
    trouble = Trouble(board)
    trouble.show({"reason": "no space", "since": datetime.fromtimestamp(100, UTC)}, 103.0)
    trouble.show(None, 104.0)
    assert not board.said
