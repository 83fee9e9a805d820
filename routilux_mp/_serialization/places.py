"""Where an encoded value belongs: the part of a signature that keeps it from being moved.

Both sides of every signature ask here, so that they cannot disagree. A place names the job, so
nothing signed for one job is accepted in another.
"""

from __future__ import annotations

from typing import Final

from .packing import pack

#: Signed text in a document that people read and exchange.
DOCUMENT_PLACE: Final = b"routilux_mp document value"


def emission_place(job_id: str, routine_id: str, event: str) -> bytes:
    """Emissions of one event."""
    return pack(("emission", job_id, routine_id, event))


def slot_place(job_id: str, routine_id: str, slot: str) -> bytes:
    """What came to a slot from outside the flow: entry parameters and posts."""
    return pack(("slot", job_id, routine_id, slot))


def state_place(job_id: str, scope: str, key: str) -> bytes:
    """A value of shared state, or one item of an appended list."""
    return pack(("state", job_id, scope, key))


def log_place(job_id: str) -> bytes:
    """An entry of the shared log."""
    return pack(("log", job_id))


def cursor_place(job_id: str, routine_id: str) -> bytes:
    """A cursor that an activation of this routine committed."""
    return pack(("cursor", job_id, routine_id))


def message_place(job_id: str, routine_id: str) -> bytes:
    """What the activation policy of this routine said."""
    return pack(("message", job_id, routine_id))


def output_place(job_id: str, routine_id: str, output_type: str) -> bytes:
    """What a routine sent to the caller."""
    return pack(("output", job_id, routine_id, output_type))


def record_place(job_id: str, routine_id: str, name: str) -> bytes:
    """What a handler added to the execution history."""
    return pack(("record", job_id, routine_id, name))


def past_place(job_id: str) -> bytes:
    """What was recorded of a job before it came to this root."""
    return pack(("past", job_id))
