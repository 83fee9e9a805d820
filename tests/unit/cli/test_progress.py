"""What is shown while a job runs."""

import pytest

from routilux_mp.cli import progress
from routilux_mp.cli.progress import PlainBoard, Rates, Stage, described


def test_rates_are_over_the_last_seconds():
    rates = Rates()
    assert rates.of(Stage("a", 0, 100, 1), 0.0) == 0
    assert rates.of(Stage("a", 10, 100, 1), 1.0) == pytest.approx(10)
    for second in range(2, 30):
        rates.of(Stage("a", 10, 100, 1), float(second))
    assert rates.of(Stage("a", 10, 100, 1), 30.0) == 0


def test_what_a_stage_says():
    assert described(Stage("a", 50, 110, 1), 2.0) == "2.0/s  eta 30s"
    assert described(Stage("a", 0, 600, 1), 1.0) == "1.0/s  eta 10m00s"
    assert described(Stage("a", 0, 1, 1), 0.0) == "running"
    assert described(Stage("a", 0, 1, 0), 0.0) == "waiting"
    assert described(Stage("a", 1, 1, 0), 0.0) == ""
    assert described(Stage("a", 1, 1, 0, 1), 0.0) == "1 failed"
    assert described(Stage("a", 50, 110, 1, 2000), 2.0) == "2.0/s  eta 30s, 2,000 failed"


def test_plain_lines_come_every_two_seconds_and_at_the_end(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    board = PlainBoard()
    for done in range(50):
        now[0] += 0.1
        board.show([Stage("find", done, 50, 1)])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 2
    board.show([Stage("find", 50, 50, 0)])
    board.close()
    assert capsys.readouterr().err == "find 50/50\n"
    board.close()
    assert capsys.readouterr().err == ""
