"""Every limit, period and path, once, with its unit in its name.

A value comes from, in this order: the argument, the environment variable
``ROUTILUX_MP_<NAME>``, ``[tool.routilux_mp]`` in the nearest ``pyproject.toml``, the default.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .errors import SettingInvalid

_PREFIX = "ROUTILUX_MP_"
#: Every way to write ``[tool.routilux_mp]`` but with escapes, and a little more.
_OUR_TABLE = re.compile(rb"""tool["']?\s*(\.\s*["']?routilux_mp|\]|=)""")
ON_CODE_CHANGE = ("refuse", "reuse", "rerun")


# Neither a dataclass nor with postponed annotations: that would take 3 ms more, and 10 for ``inspect``, at every start.
class Settings(NamedTuple):
    """Settings of one runtime. Immutable; ``Settings.load(**overrides)`` reads all sources."""

    #: The checkpoint root, shared between the machines that fail over to one another.
    checkpoint_dir: str = "./checkpoints"
    #: ``"commit"``: every step is on stable storage before it has effects. ``"none"``: nothing is kept.
    durability: str = "commit"
    #: The checkpoint directory is used by this machine only: allows file systems without hard links (FAT, exFAT).
    single_host: bool = False
    #: ``"local"``: worker processes. ``"inline"``: everything in the calling process.
    backend: str = "local"
    #: Worker processes at most, of one runtime; 0 means the number of cores.
    max_workers: int = 0
    #: How long ``execute`` and ``exec`` wait for a short job to end, or for a full disk to have room for it, before
    #: they return, seconds.
    settle_s: float = 0.5
    #: Emissions that may wait in one slot before the routines that feed it are held.
    slot_queue_max: int = 10_000
    #: Emissions in one batch at most.
    batch_count_max: int = 1024
    #: Encoded size at which a worker closes a batch, bytes.
    batch_bytes_max: int = 32 * 1024
    #: Work that may lie in front of one worker, measured by its own past speed, milliseconds.
    worker_ahead_ms: float = 60.0
    #: A finished activation is reported at the latest after this time, or twice that while much waits for its worker,
    #: milliseconds.
    flush_ms: float = 5.0
    #: Encoded payloads above this size go to a blob file, bytes.
    payload_inline_bytes_max: int = 256 * 1024
    #: An encoded value of the state, a log entry, a cursor or parameters from outside; larger ones are refused, bytes.
    value_bytes_max: int = 32 * 1024 * 1024
    #: Queued payloads kept in the supervisor's memory per job; above it they are read back from the log, bytes.
    queue_memory_bytes_max: int = 64 * 1024 * 1024
    #: What happened to a job and is not on stable storage yet; above it nothing more of it is started, bytes.
    commit_memory_bytes_max: int = 32 * 1024 * 1024
    #: Crashes after which an activation becomes a dead letter.
    max_crashes: int = 3
    #: Inputs that an ``ordered=True`` routine may run ahead of the oldest unfinished one.
    ordered_window_max: int = 1_000
    #: How long running activations may finish on stop, cancel and SIGTERM, seconds.
    grace_s: float = 5.0
    #: An idle worker process is stopped after this time, seconds.
    worker_idle_s: float = 30.0
    #: The epoch is rolled when replaying it would take longer, seconds.
    replay_budget_s: float = 1.0
    #: The epoch is rolled when its log is larger, bytes.
    log_bytes_max: int = 64 * 1024 * 1024
    #: The epoch is rolled when more payloads went through blobs: consumed ones can be deleted only after that, bytes.
    blob_bytes_max: int = 1024 * 1024 * 1024
    #: Two rolls are at least this far apart unless replay demands one, seconds.
    roll_interval_s: float = 5.0
    #: Heartbeat lease, seconds (liveness only).
    lease_s: float = 15.0
    #: The checkpoint directory is looked at this often for requests and for jobs to take over, seconds.
    poll_s: float = 0.5
    #: What this host calls itself; empty means the machine's own identity. For containers and tests.
    host_id: str = ""
    #: Execution records shown in ``job_state.json`` and kept in memory when nothing is durable.
    history_inline_max: int = 10_000
    #: The root may belong to, and is written for, other users of its group; else what belongs to another is refused.
    group_shared: bool = False
    #: Payloads in ``job_state.json``: queued ones are left out when they are more, and the oldest history, bytes.
    view_bytes_max: int = 16 * 1024 * 1024
    #: The signing key; empty means the per-user file.
    key_file: str = ""
    #: If code of unfinished or stateful work has changed: ``"refuse"``, ``"reuse"`` what is done, ``"rerun"`` it all.
    on_code_change: str = "refuse"
    #: Check the core's invariants after every step.
    verify: bool = False

    @classmethod
    def load(cls, **overrides: Any) -> "Settings":
        """Settings from arguments (``None`` means not given), environment, pyproject and defaults.

        Raises:
            SettingInvalid: an unknown name, or a value that cannot be used, naming its source.
        """
        known = cls.__annotations__
        values: dict[str, Any] = {}
        for name, raw in _from_pyproject(current_directory()).items():
            if name not in known:
                raise SettingInvalid(f"pyproject.toml, [tool.routilux_mp]: no setting named '{name}'")
            values[name] = _convert(known[name], raw, f"pyproject.toml: {name}")
        for name, kind in known.items():
            raw = os.environ.get(_PREFIX + name.upper())
            if raw is not None:
                values[name] = _convert(kind, raw, f"environment: {_PREFIX}{name.upper()}")
        for name, raw in overrides.items():
            if name not in known:
                raise SettingInvalid(f"no setting named '{name}'; there are: {', '.join(sorted(known))}")
            if raw is not None:
                values[name] = _convert(known[name], raw, f"argument {name}")
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        check_choice("durability", self.durability, ("commit", "none"))
        check_choice("on_code_change", self.on_code_change, ON_CODE_CHANGE)
        check_choice("backend", self.backend, ("local", "inline"))
        for name, value in self._asdict().items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
                raise SettingInvalid(f"{name} must not be negative, got {value!r}")
        for name in ("slot_queue_max", "batch_count_max", "batch_bytes_max", "max_crashes", "ordered_window_max"):
            if getattr(self, name) < 1:
                raise SettingInvalid(f"{name} must be at least 1, got {getattr(self, name)!r}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ``SettingInvalid`` unless the value is one of these."""
    if value not in choices:
        raise SettingInvalid(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _convert(kind: type, raw: Any, where: str) -> Any:
    try:
        if kind is bool:
            if isinstance(raw, str):
                return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}[
                    raw.lower()
                ]
            return bool(raw)
        if kind is int:
            if isinstance(raw, float) and raw != int(raw):
                raise ValueError(raw)
            return int(raw)
        if kind is float:
            return float(raw)
        return os.fspath(raw)
    except (ValueError, TypeError, KeyError):
        raise SettingInvalid(f"{where}: {raw!r} is not a {kind.__name__}") from None


def current_directory() -> str:
    """Where this process is; "" if that has been removed, as from under a server that runs on."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _from_pyproject(folder: str) -> Mapping[str, Any]:
    while not os.path.isfile(file := os.path.join(folder, "pyproject.toml")):
        folder, below = os.path.dirname(folder), folder
        if folder == below:
            return {}
    try:
        with open(file, "rb") as handle:
            content = handle.read()
        if not _OUR_TABLE.search(content):
            return {}
        import tomllib  # with the parsing 7 ms, for which most programs would wait in vain

        table = tomllib.loads(content.decode()).get("tool", {}).get("routilux_mp", {})
    except (OSError, ValueError) as error:
        raise SettingInvalid(f"{file}: {error}") from error
    return table if isinstance(table, dict) else {}
