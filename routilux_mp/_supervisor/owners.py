"""Whether the owner of a job lives. Liveness only: whoever is wrong about it is fenced or loses a race.

On this host: by pid and start time. On another: by how long its heartbeat has not changed. The rule it
owns: a person who resumes a job is told at once when its owner is alive here, and waits no longer
than it takes to know when it is elsewhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .._storage.control import Request, new_request_id
from .._storage.glance import Glance
from .._storage.owner import OwnerInfo
from ..errors import JobOwned, StorageError
from .recovery import is_alive

if TYPE_CHECKING:
    from .._storage.store import Store

_LOOK_S = 0.05


class Owners:
    """What one reader knows of the owners below a root."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._me = store.owner
        self.heartbeats = store.heartbeats()

    def is_here(self, owner: OwnerInfo) -> bool:
        """Whether it can be watched by its pid."""
        return owner.is_on_this_host(self._me)

    def is_gone(self, owner: OwnerInfo, seal_reason: str | None) -> bool:
        """Whether it has given the job up or is dead, for all that can be known at once."""
        if owner.token == self._me.token or seal_reason in ("handover", "ended"):
            return True
        if self.is_here(owner):
            return not is_alive(owner.pid, owner.start_ticks)
        sign = self.heartbeats.sign_of(owner)
        return sign is not None and sign.is_leaving

    def is_suspect(self, owner: OwnerInfo) -> bool:
        """Whether it has been silent for long. One of this host that never had a heartbeat cannot fall silent."""
        if self.is_here(owner) and self.heartbeats.sign_of(owner) is None:
            return False
        return self.heartbeats.is_suspect(owner)

    def require_gone(self, job_id: str, owner: OwnerInfo | None, seal_reason: str | None) -> bool:
        """Return once the job is free; True when that took a while, so that more may have been written.

        Raises:
            JobOwned: its owner lives.
        """
        # A SEAL "takeover" whose writer died: its predecessor can write nothing any more, whether it lives or not.
        if owner is None or seal_reason == "takeover":
            return False
        self.heartbeats.look()
        if self.is_gone(owner, seal_reason):
            return False
        if self.is_here(owner):
            raise JobOwned(_owned(job_id, owner, "on this host"))
        self.heartbeats.silent_s(owner)  # the time runs from here
        last = self._content(owner)
        while not self.heartbeats.is_suspect(owner):
            time.sleep(min(_LOOK_S, max(0.001, self.heartbeats.suspect_in_s(owner))))
            self.heartbeats.look()
            if self.is_gone(owner, None):
                return True
            if self._content(owner) != last:
                raise JobOwned(_owned(job_id, owner, "its heartbeat goes on"))
        return True

    def ask_to_yield(self, job_id: str, owner: OwnerInfo | None, wait_s: float) -> None:
        """Ask a living owner to hand the job over, and wait until it has, or for ``wait_s``."""
        if owner is None:
            return
        self.heartbeats.look()
        if self.is_gone(owner, None) or self.is_suspect(owner):
            return
        control = self._store.control(job_id)
        control.put(
            Request(new_request_id(), "yield", {"owner": owner.token}, f"pid {self._me.pid} on {self._me.host}")
        )
        deadline_s = time.monotonic() + wait_s
        while time.monotonic() < deadline_s:
            found = self._glance(job_id)
            if found is None or found.owner.token != owner.token or found.seal_reason in ("handover", "ended"):
                return
            self.heartbeats.look()
            if self.is_gone(owner, None) or self.is_suspect(owner):
                return
            time.sleep(_LOOK_S)

    def _glance(self, job_id: str) -> Glance | None:
        try:
            return self._store.glance(job_id)
        except StorageError:
            return None  # whoever reads the job next says what is wrong with it

    def _content(self, owner: OwnerInfo) -> bytes | None:
        return self.heartbeats.content_of(owner)


def _owned(job_id: str, owner: OwnerInfo, why: str) -> str:
    return (
        f"job {job_id} is owned by process {owner.pid} on host '{owner.host}', which is alive ({why}); stop it, "
        f"ask it with `routilux-mp pause {job_id} --handover`, or resume with takeover=True"
    )
