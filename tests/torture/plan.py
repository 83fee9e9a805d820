"""What one seed decides: which fault strikes, where, and what else goes on meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from routilux_mp._storage.control import Request, new_request_id
from tests.torture import flow
from tests.torture.points import KINDS, POINTS, Fault

#: Phases that only a take-over comes to.
_NEEDS_SUCCESSOR: Final = ("take-over", "seal-takeover", "fenced")
#: Phases of somebody who asks, and of who answers.
_NEEDS_REQUESTS: Final = ("control", "answer")
_NEEDS_HANDOVER: Final = ("seal-handover",)
#: Operations of private files that have names.
_NAMED: Final = (".create", ".link", ".unlink")
_UNNAMED: Final = (".create_unnamed", ".link_unnamed")


class Plan(NamedTuple):
    """A run."""

    seed: int
    faults: tuple[Fault, ...]
    standbys: int
    items: int
    settings: dict[str, Any]
    requests: Sequence[Request]
    hosts_differ: bool
    #: The owner is sent SIGTERM so long after it began; 0: it is not.
    term_after_s: float
    #: A stopped owner is woken when so many epochs have been opened meanwhile; 0: when the job has ended.
    wakes_after: int
    #: Private files have names, as on NFS.
    is_named: bool
    #: Files of processes that died days ago lie about.
    has_litter: bool
    #: So many answers are remembered.
    answers_max: int
    #: Anybody else is woken after so long.
    nap_s: float

    @property
    def lease_s(self) -> float:
        return float(self.settings["lease_s"])


def plan_of(seed: int) -> Plan:
    """The plan of this seed. Neighbouring seeds aim at different points: ``len(CASES)`` of them are all there are."""
    chance = random.Random(f"torture-{seed}")
    point, kind = CASES[seed % len(CASES)]
    phase = point.partition(".")[0]
    target = Fault(point, kind, _nth(chance), chance.random() < 0.4, chance.choice((1, 1, 1, 3)))
    faults = [target]
    needs_successor = phase.startswith(_NEEDS_SUCCESSOR)
    named = point.endswith(_NAMED) and f"{phase}.link" in POINTS
    is_named = named or (not point.endswith(_UNNAMED) and chance.random() < 0.3)
    term_after_s = 0.0
    if phase.startswith(_NEEDS_HANDOVER) or (not needs_successor and chance.random() < 0.15):
        term_after_s = chance.uniform(0.001, 0.08)
    elif needs_successor or chance.random() < 0.4:
        kind = chance.choice(("KILL", "KILL", "STOP"))
        commit = "commit.link" if is_named else "commit.link_unnamed"
        faults.append(Fault(commit, kind, chance.randrange(1, 12), chance.random() < 0.5))
    asks = phase.startswith(_NEEDS_REQUESTS) or chance.random() < 0.25
    return Plan(
        seed=seed,
        faults=tuple(faults),
        standbys=chance.choice((2, 2, 3, 4)),
        items=chance.choice((8, 12, 16)),
        settings=_settings(chance, is_local=phase.startswith("blob") or chance.random() < 0.5),
        requests=_requests(chance) if asks else (),
        hosts_differ=chance.random() < 0.3,
        term_after_s=term_after_s,
        wakes_after=chance.choice((1, 1, 2, 4, 0)),
        is_named=is_named,
        has_litter=phase.endswith("sweep") or chance.random() < 0.1,
        answers_max=3 if phase == "control-sweep" or chance.random() < 0.3 else 512,
        nap_s=chance.choice((0.02, 0.1, 0.8)),
    )


def point_of(seed: int) -> str:
    """Where the plan of this seed aims."""
    return CASES[seed % len(CASES)][0]


def undisturbed(seed: int) -> Plan:
    """The same, and nothing happens."""
    return plan_of(seed)._replace(faults=(), requests=(), term_after_s=0.0)


def _nth(chance: random.Random) -> int:
    return chance.choice((1, 1, 1, 2, 2, 3, chance.randrange(4, 9), chance.randrange(4, 25)))


def _settings(chance: random.Random, *, is_local: bool) -> dict[str, Any]:
    return {
        "backend": "local" if is_local else "inline",
        "lease_s": 0.4,
        "poll_s": 0.1,
        "roll_interval_s": 0,
        "log_bytes_max": chance.choice((1, 6_000, 12_000)),
        "payload_inline_bytes_max": flow.PAYLOAD_INLINE_BYTES_MAX,
        "batch_bytes_max": 200,
        "max_crashes": 1000,
        "grace_s": 2.0,
        "verify": True,
    }


def _requests(chance: random.Random) -> tuple[Request, ...]:
    """In this order; what is paused goes on in the end."""
    posts = [("post", {"routine": "step", "slot": "in", "data": _data(k)}) for k in range(chance.randrange(3))]
    first = [("pause", {"reason": "lunch", "handover": chance.random() < 0.3})]
    if chance.random() < 0.4:
        first = [("yield", {})]
    wishes = [*first, *posts, ("resume", {})]
    now_ns = time.time_ns()
    requests = [
        Request(new_request_id(now_ns + 1_000_000 * n, chance.randbytes), kind, arguments, "the torture")
        for n, (kind, arguments) in enumerate(wishes)
    ]
    # One that is older than all: it has expired if only a few answers are remembered.
    requests.insert(len(wishes) - 1, Request(new_request_id(10**9, chance.randbytes), "retry", {}, "somebody late"))
    return tuple(requests)


def _data(k: int) -> dict[str, Any]:
    return {"i": flow.POSTED_FROM + 5 * k, "token": f"posted-{k}"}


def _mixed() -> list[tuple[str, str]]:
    cases = [(point, kind) for point in POINTS for kind in KINDS]
    random.Random("cases").shuffle(cases)
    return cases


#: Every point with every kind of fault.
CASES: Final = _mixed()
