"""Output files are moved into place once their commit stands, as often as anybody tries."""

import logging

from routilux_mp._core.records import Annotated, Completed, Paused
from routilux_mp._core.stimuli import StateOp
from routilux_mp._supervisor.outputs import outputs_of, put_in_place


def test_outputs_are_found_in_every_kind_of_record():
    op = StateOp("output", "", "", ("a.tmp", "a"))
    completed = Completed(1, 0, (0, 1), ops=(StateOp("set", "", "k", 1), op))
    assert list(outputs_of([Paused(1), completed, Annotated(2, ()), Completed(3, 0, (1, 1))])) == [("a.tmp", "a")]


def test_moving_twice_is_moving_once(tmp_path):
    private, final = tmp_path / ".a.tmp", tmp_path / "a"
    final.write_text("old")
    private.write_text("new")
    for _ in range(2):
        put_in_place([(str(private), str(final))])
        assert final.read_text() == "new"
    assert list(tmp_path.iterdir()) == [final]


def test_what_cannot_be_moved_is_kept_and_named(tmp_path, caplog):
    private, folder = tmp_path / ".a.tmp", tmp_path / "a"
    private.write_text("new")
    folder.mkdir()
    (folder / "something").write_text("in the way")
    other, good = tmp_path / ".b.tmp", tmp_path / "b"
    other.write_text("fine")
    with caplog.at_level(logging.WARNING):
        put_in_place(
            [(str(private), str(folder)), (str(tmp_path / "none"), str(tmp_path / "gone")), (str(other), str(good))]
        )
    assert private.read_text() == "new"
    assert str(private) in caplog.text
    assert str(tmp_path / "gone") in caplog.text
    assert good.read_text() == "fine"
