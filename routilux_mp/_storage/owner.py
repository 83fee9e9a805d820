"""Who owns an epoch: what an OPEN file says about its writer, and how this process says it.

Not here: whether that owner still lives (the supervisor asks). The rule it owns: clocks of two
hosts are never compared, so a process is named by boot, pid namespace, pid and start time.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .layout import WRITER_VERSION


@dataclass(frozen=True, slots=True)
class OwnerInfo:
    """The writer of an OPEN. Texts are empty and numbers 0 where its system could not tell."""

    #: The random token of the owning store, as hex: its heartbeat's name, and half of every file's identity.
    token: str
    host: str
    #: /etc/machine-id: two hosts may have the same name.
    machine_id: str
    #: Changes with every boot.
    boot_id: str
    #: Pids mean something only inside one namespace.
    pid_namespace: str
    pid: int
    #: Clock ticks between boot and the process's start: tells a re-used pid apart.
    start_ticks: int
    #: How long its heartbeat may be silent, seconds.
    lease_s: float
    #: The version of the package that wrote it.
    version: str

    def is_on_this_host(self, here: OwnerInfo) -> bool:
        """Whether its pid can be looked up from `here`: the same machine, boot and pid namespace."""
        same = (self.machine_id, self.boot_id, self.pid_namespace)
        return bool(self.boot_id) and same == (here.machine_id, here.boot_id, here.pid_namespace)

    def to_document(self) -> dict[str, Any]:
        """What goes into an OPEN."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> OwnerInfo:
        """From an OPEN; what an older or newer writer left out or wrote otherwise is empty."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            empty, kinds = _KINDS[str(field.type)]
            value = document.get(field.name, empty)
            values[field.name] = value if isinstance(value, kinds) and not isinstance(value, bool) else empty
        return cls(**values)


_KINDS: Mapping[str, tuple[Any, tuple[type, ...]]] = {
    "str": ("", (str,)),
    "int": (0, (int,)),
    "float": (0.0, (int, float)),
}


def this_process(token: bytes, lease_s: float, host_id: str = "") -> OwnerInfo:
    """The calling process, as it is written into OPEN files; `host_id` replaces the machine's own identity."""
    return OwnerInfo(
        token=token.hex(),
        host=host_id or socket.gethostname(),
        machine_id=host_id or _read("/etc/machine-id"),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_pid_namespace(),
        pid=os.getpid(),
        start_ticks=start_ticks(os.getpid()),
        lease_s=lease_s,
        version=WRITER_VERSION,
    )


def start_ticks(pid: int) -> int:
    """When a process of this host started, in clock ticks since boot; 0 when there is none or no /proc."""
    # The command name may hold spaces and parentheses; the fields after it may not.
    after_name = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(after_name[19]) if len(after_name) > 19 else 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""  # not Linux, or hidden from us


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""  # not Linux, or hidden from us
