"""Names that nobody gave."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from routilux_mp import _ids


@pytest.mark.parametrize("chance", [bytes(16), b"\xff" * 16, bytes(range(16))])
def test_an_id_is_a_random_uuid(chance: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ids.os, "urandom", lambda count: chance[:count])
    monkeypatch.setattr(uuid.os, "urandom", lambda count: chance[:count])  # type: ignore[attr-defined]
    assert _ids.new_id() == str(uuid.uuid4())


def test_no_two_are_alike() -> None:
    found: set[Any] = {_ids.new_id() for _ in range(1000)}
    assert len(found) == 1000
    assert {uuid.UUID(text).version for text in found} == {4}
