"""Messages survive the wire, however the bytes are cut."""

from __future__ import annotations

import random

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import GoOn, Part, Revoke, Work
from routilux_mp._core.job import ListValue
from routilux_mp._core.stimuli import Completion, Emit, Failure, StateOp
from routilux_mp._serialization.packing import pack
from routilux_mp._worker.wire import Forget, Frames, JobInfo, Reported, Task, Text, decode, encode

PARTS = (Part(0, -1, Batch(5, b"abc"), 1, 2), Part(1, 7, Batch(1, b"d"), 0, 1))
STATE = (("", "k", 1.5), ("r", "gone", None), ("r", "b", b"x"))
FAILURE = Failure("error", "T", "m", "t", False)
OPS = (StateOp("set", "", "k", b"v"),)
MESSAGES = [
    Task("j", Work(1, 2, 3, (4, 9), PARTS, True, b"m", 2, b"c", STATE, True)),
    Task("j", Work(1, 2, 3, (4, 9), PARTS, question=(3, True), is_tolerant=True)),
    Reported("j", Completion(1, 2, (Emit(0, Batch(3, b"xyz")),), OPS, (("", "k"),), b"c", FAILURE, False, 99)),
    Reported("j", Completion(1, 0)),
    JobInfo("j", "c", "f", {"flow_id": "f"}, "/blobs", (b"k" * 32,), 1, 2, 3.5, 4),
    Forget("j"),
    GoOn(1, 2),
    Revoke(3, 4),
    Text("stderr", "äöü\n"),
]


def same(a: object, b: object) -> bool:
    """Equal, batches by what is in them."""
    if isinstance(a, Batch) and isinstance(b, Batch):
        return (a.count, a.data, a.size) == (b.count, b.data, b.size)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_as_it_was(message: object) -> None:
    [content] = Frames().feed(encode(message))  # type: ignore[arg-type]
    assert same(decode(content), message)


def test_an_appended_list_travels_as_base_and_items() -> None:
    work = Work(1, 1, 0, (), (), state=(("", "k", ListValue(b"base", [b"a", b"b"])),))
    [content] = Frames().feed(encode(Task("j", work)))
    task = decode(content)
    assert isinstance(task, Task)
    assert task.work.state == (("", "k", (b"base", (b"a", b"b"))),)


@pytest.mark.parametrize("size", [1, 3, 7, 64, 1000, 100_000])
def test_frames_are_found_however_the_stream_is_cut(size: int) -> None:
    chance = random.Random(size)
    messages = [chance.choice(MESSAGES) for _ in range(50)] + [Text("stdout", "x" * 5000)]
    stream = b"".join(encode(m) for m in messages)  # type: ignore[arg-type]
    frames, found = Frames(), []
    for start in range(0, len(stream), size):
        found += [decode(content) for content in frames.feed(stream[start : start + size])]
    assert len(found) == len(messages)
    assert all(map(same, found, messages))


def test_what_is_not_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        Frames().feed(b"\xff\xff\xff\xff....")
    with pytest.raises(ValueError, match="'Z'"):
        decode(pack(("Z", 1)))
