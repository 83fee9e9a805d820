"""From a request that somebody put into `control/` to a stimulus for the core, or to the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .._core.batch import Batch
from .._core.job import Job
from .._core.stimuli import Ask, Cancel, Pause, Post, Resume, Retry, Skip, Yield
from .._serialization.places import slot_place
from .._storage.control import Request
from ..errors import EmissionNotSerializable, UnknownName, UsageError

#: Encodes a value from outside for a place.
Encode = Callable[[dict[str, Any], bytes], Batch]


def ask_of(request: Request, job: Job, encode: Encode, me: str) -> Ask:
    """What the core is asked; ``me``: token of this owner. Whatever is wrong with the request becomes its refusal."""
    try:
        return Ask(request.request_id, _wish(request, job, encode, me))
    except (UsageError, EmissionNotSerializable) as error:
        return Ask(request.request_id, None, str(error))


def _wish(request: Request, job: Job, encode: Encode, me: str) -> Pause | Resume | Cancel | Retry | Skip | Post | Yield:
    arguments = request.arguments
    match request.kind:
        case "pause":
            return Pause(_reason(request), is_offer=arguments.get("handover") is True)
        case "resume":
            return Resume()
        case "cancel":
            return Cancel(_reason(request))
        case "retry":
            return Retry(*_activation(arguments, job))
        case "skip":
            return Skip(*_activation(arguments, job))
        case "post":
            return _post(arguments, job, encode)
        case "yield":
            # Whoever asked has become the owner meanwhile, perhaps: it must not hand the job on.
            if arguments.get("owner", me) != me:
                raise UsageError("another owner was asked")
            return Yield()
    raise UnknownName(f"no request of kind {request.kind!r} is known to this version")


def _reason(request: Request) -> str:
    return str(request.arguments.get("reason") or f"asked by {request.requester or 'somebody'}")


def _activation(arguments: Mapping[str, Any], job: Job) -> tuple[int, int]:
    """(routine, number) of what a person wrote: "routine", "routine/7", "job/routine/7" or nothing."""
    text = str(arguments.get("activation") or "")
    if not text:
        return -1, -1
    text = text.removeprefix(f"{job.job_id}/")
    head, slash, tail = text.rpartition("/")
    name, seq = (head, int(tail)) if slash and tail.isdecimal() else (text, -1)
    routine = job.topology.index_of(name)
    if routine is None:
        raise UnknownName(f"Routine '{name}' not found in flow")
    return routine, seq


def _post(arguments: Mapping[str, Any], job: Job, encode: Encode) -> Post:
    name, slot, data = arguments.get("routine"), arguments.get("slot"), arguments.get("data")
    routine = job.topology.index_of(name) if isinstance(name, str) else None
    if routine is None:
        raise UnknownName(f"Routine {name!r} not found in flow")
    slots = job.topology.routines[routine].slots
    if slot not in slots:
        raise UnknownName(f"Slot {slot!r} not found in routine '{name}'")
    values = data if isinstance(data, dict) else {"data": data}
    return Post(routine, slots.index(slot), encode(values, slot_place(job.job_id, str(name), str(slot))))
