"""The state tables, as data: of a job and of an activation. The diagrams in the docs are made from them."""

from __future__ import annotations

from .records import (
    Adopted,
    Annotated,
    Answered,
    Closed,
    Completed,
    Declined,
    Edited,
    Ended,
    Failed,
    PauseAsked,
    Paused,
    Posted,
    Postponed,
    Recoded,
    Reordered,
    Resumed,
    Revived,
    Skipped,
    StopAsked,
    Submitted,
    Taken,
)  # fmt: skip

#: status of a job -> the durable records that may come next
JOB: dict[str, frozenset[type]] = {
    "pending": frozenset({Submitted, Adopted}),
    "running": frozenset(
        {
            Completed,
            Failed,
            Taken,
            Posted,
            Annotated,
            PauseAsked,
            Paused,
            StopAsked,
            Closed,
            Ended,
            Resumed,
            Answered,
            Revived,
            Skipped,
            Declined,
            Postponed,
            Edited,
            Reordered,
            Recoded,
        }
    ),
    "paused": frozenset(
        {
            Resumed,
            StopAsked,
            Ended,
            Posted,
            Annotated,
            Closed,
            PauseAsked,
            Paused,
            Answered,
            Revived,
            Skipped,
            Recoded,
            Edited,
            Reordered,
        }
    ),
    "completed": frozenset({Answered}),  # that it comes too late
    "failed": frozenset({Answered, Resumed, Recoded}),  # only while unfinished work has retries left
    "cancelled": frozenset({Answered}),
}

#: (status, record) -> status, where a record changes it
JOB_MOVES: dict[tuple[str, str], tuple[str, ...]] = {
    ("pending", "Submitted"): ("running",),
    ("pending", "Adopted"): ("running", "paused"),
    ("running", "Paused"): ("paused",),
    ("paused", "Resumed"): ("running",),
    ("failed", "Resumed"): ("running",),
    ("running", "Ended"): ("completed", "failed", "cancelled"),
    ("paused", "Ended"): ("cancelled", "failed"),
}

#: where an activation is -> what moves it where
ACTIVATION_MOVES: dict[tuple[str, str], str] = {
    ("slot", "Taken (a policy took it)"): "queued",
    ("queued", "Dispatched"): "running",
    ("running", "Returned (handed back, uncharged)"): "queued",
    ("running", "Completed"): "done",
    ("running", "Completed with a cursor"): "running",
    ("running", "Conflicted"): "special",
    ("running", "Failed: retry"): "special",
    ("running", "Failed: again (crash below max_crashes)"): "special",
    ("special", "Dispatched when due"): "running",
    ("running", "Failed: continue, skip, tolerate"): "done",
    ("running", "Failed: dead"): "dead letter",
    ("running", "Failed: stop"): "queued",
    ("special", "Revived (its retry is due now)"): "special",
    ("special", "Skipped (by a person)"): "done",
    ("dead letter", "Revived (by a person)"): "special",
    ("dead letter", "Skipped (by a person)"): "done",
}
