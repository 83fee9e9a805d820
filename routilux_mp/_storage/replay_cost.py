"""When to roll: what replaying the log would cost, from measured read times (rule 4).

Nothing is read here. The rule it owns: rolling stays a constant share of the work, because a roll
waits until the log outweighs the snapshot that would replace it.
"""

from __future__ import annotations

#: Before anything was measured: one commit file on a local disk, and one byte through the checksums.
_FILE_S = 40e-6
_BYTE_S = 2e-9
#: The weight of a new measurement against all before it.
_NEW_SHARE = 0.3
#: Fewer files than this say more about the moment than about the file system.
_FILES_MIN = 20


class ReplayCost:
    """Seconds per commit file and per byte, as far as they are known."""

    def __init__(self) -> None:
        self.file_s = _FILE_S
        self.byte_s = _BYTE_S
        self.budget_s = 1.0
        self.log_bytes_max = 64 * 1024 * 1024
        self.blob_bytes_max = 1024 * 1024 * 1024
        self.interval_s = 5.0

    def observe(self, files: int, log_bytes: int, seconds: float) -> None:
        """A replay of `files` files took `seconds` (reading, and folding where the caller adds that)."""
        if files >= _FILES_MIN:
            measured = max(_FILE_S / 10, (seconds - log_bytes * self.byte_s) / files)
            self.file_s += _NEW_SHARE * (measured - self.file_s)

    def replay_s(self, files: int, log_bytes: int) -> float:
        return files * self.file_s + log_bytes * self.byte_s

    def asks_for_roll(
        self, *, files: int, log_bytes: int, snapshot_bytes: int, since_roll_s: float, blob_bytes: int = 0
    ) -> bool:
        """Whether the log should be rolled into a snapshot of `snapshot_bytes`.

        `blob_bytes`: of payloads that can be deleted only after a roll; the snapshot is to be outweighed by them, too.
        """
        if blob_bytes > max(self.blob_bytes_max, snapshot_bytes) and since_roll_s >= self.interval_s:
            return True
        replay_s = self.replay_s(files, log_bytes)
        # A log that grows by much more than it should is not waited for either: whoever reads it holds it in memory.
        is_demanded = replay_s > self.budget_s or log_bytes > 2 * self.log_bytes_max
        if not is_demanded and log_bytes <= self.log_bytes_max:
            return False
        if replay_s <= self.replay_s(1, snapshot_bytes):
            return False
        return is_demanded or since_roll_s >= self.interval_s
