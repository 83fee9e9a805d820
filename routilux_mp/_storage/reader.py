"""Walking over a job's commit files, wherever they are by now.

Nothing here writes. The rules it owns: (6) absence ends a walk but decides nothing; (7) checksum,
hash chain and each OPEN's record of the epoch before it are checked, damage falls back to the
archive only when that is whole, and nothing is dropped silently, least of all a hole in the middle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ..errors import CheckpointDamaged
from . import frames
from .archive import Archive
from .files import let_go
from .frames import COMMIT, KIND_NAMES, OPEN, SEAL, CheckpointFile
from .layout import ARCHIVE, COMMIT_FILE_BYTES_MAX, EPOCHS, commit_name, epoch_name, parse_commit, parse_epoch
from .place import Place
from .put import LOOK_AGAIN_S

_LOOKS = 8


class LogRef(NamedTuple):
    """Where the bytes of a frame are; it stays true when the epoch is archived."""

    epoch: int
    commit: int
    frame: int


#: Where the first record of a job is that began with it, and of one whose first commit came after its OPEN.
FIRST_RECORD: Final = LogRef(1, 1, 1)
_FIRST_COMMITTED: Final = LogRef(1, 2, 0)


@dataclass
class Walk:
    """The commit files from some point to the end of the log, in order."""

    files: list[CheckpointFile] = field(default_factory=list)

    @property
    def last(self) -> CheckpointFile | None:
        return self.files[-1] if self.files else None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class LogReader:
    """Reads one job's commit files, wherever they are by now."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._epochs = place.where(EPOCHS)
        self._archives: dict[int, Archive] = {}
        self._recent: CheckpointFile | None = None

    def walk(self, epoch: int, number: int = 1, digest: bytes | None = None) -> Walk:
        """Everything from file `number` of `epoch` on; `digest` is that of the file before, None to trust it.

        Raises:
            CheckpointDamaged: the log cannot be read to its end.
        """
        walk = Walk()
        while True:
            trouble: CheckpointDamaged | None = None
            part: list[CheckpointFile] = []
            try:
                self._read_epoch(part, epoch, number, digest)
            except CheckpointDamaged as error:
                trouble = error
            # After the files: an owner that rolls meanwhile is then seen as what it is.
            following = self.file(epoch + 1, 1)
            if following is None:
                following = self._missed(part, trouble, after=(epoch, number, digest))
            if following is None:
                walk.files += part
                return walk
            if trouble is not None or not is_end_of(part[-1] if part else None, following):
                part = self._ended_epoch(epoch, number, digest, following)
            walk.files += part
            digest = part[-1].digest if part else digest
            epoch, number = epoch + 1, 1

    def file(self, epoch: int, number: int) -> CheckpointFile | None:
        """One commit file of the directory, else of the archive when it is damaged; None when not there."""
        try:
            with self.place.dir(EPOCHS, epoch_name(epoch)) as at:
                return self._read_file(at, epoch, number)
        except FileNotFoundError:
            return None
        except CheckpointDamaged as error:
            try:
                return self.archive(epoch).file(number)
            except (FileNotFoundError, CheckpointDamaged):
                raise error from None

    def archive(self, epoch: int) -> Archive:
        """The archive of `epoch`; FileNotFoundError when there is none."""
        found = self._archives.get(epoch)
        if found is None:
            found = self._archives[epoch] = Archive(self.place, epoch)
        return found

    def epoch_files(self, epoch: int) -> Iterator[CheckpointFile]:
        """An ended epoch, lazily: from its archive, and from its directory what the archive has not."""
        number, digest = 1, None
        try:
            for file in self.archive(epoch).files():
                yield file
                number, digest = file.header.number + 1, file.digest
            return
        except (FileNotFoundError, CheckpointDamaged):
            pass  # not archived yet, or damaged: whether the directory is whole is found out now
        following = self.file(epoch + 1, 1)
        if following is None:
            raise CheckpointDamaged(f"{self._where(epoch + 1, 1)} is missing although later files are there")
        yield from self._ended_epoch(epoch, number, digest, following)

    def frame(self, ref: LogRef) -> bytes:
        """The bytes of one frame.

        Raises:
            CheckpointDamaged: neither the commit file nor the archive has it.
        """
        epoch, number, index = ref
        file = self._recent
        if file is None or (file.header.epoch, file.header.number) != (epoch, number):
            file = self._find(epoch, number)
            self._recent = file
        if index not in records_in(file):
            raise CheckpointDamaged(f"{self._where(epoch, number)} has no frame {index}, which the log refers to")
        return file.frames[index]

    def first(self) -> bytes:
        """The first record of the job; CheckpointDamaged as of :meth:`frame`."""
        opened = self._recent = self._find(1, 1)
        return self.frame(FIRST_RECORD if records_in(opened) else _FIRST_COMMITTED)

    def standing(self, epoch: int, number: int, digest: bytes) -> CheckpointFile:
        """The file that follows the one with `digest`; FileNotFoundError while it is not seen."""
        part: list[CheckpointFile] = []
        with self.place.dir(EPOCHS, epoch_name(epoch)) as at:
            part.append(self._read_file(at, epoch, number))
        if part[0].header.predecessor != digest:
            raise CheckpointDamaged(f"{self._where(epoch, number)} is damaged: it does not follow the file before it")
        return part[0]

    def _find(self, epoch: int, number: int) -> CheckpointFile:
        file = None
        try:
            file = self.file(epoch, number)
        except CheckpointDamaged:
            pass  # the archive may have it; when it has not, that is what is reported
        if file is not None and file.header.kind in (OPEN, COMMIT):
            return file
        # A sealer that slept through a collection may have put a SEAL where a COMMIT was: the archive knows.
        try:
            return self.archive(epoch).file(number)
        except FileNotFoundError:
            where = self._where(epoch, number)
            raise CheckpointDamaged(f"{where} is missing or damaged, and there is no archive of its epoch") from None

    def _read_epoch(self, part: list[CheckpointFile], epoch: int, number: int, digest: bytes | None) -> None:
        """Append what the directory holds from `number` on, up to the SEAL or the first absence."""
        try:
            handle = self.place.open(EPOCHS, epoch_name(epoch))
        except FileNotFoundError:
            return
        try:
            while True:
                file = self._read_file(handle, epoch, number)
                if digest is not None and file.header.predecessor != digest:
                    raise CheckpointDamaged(
                        f"{self._where(epoch, number)} is damaged: it does not follow the file before it"
                    )
                part.append(file)
                if file.header.kind == SEAL:
                    return
                digest = file.digest
                number += 1
        except FileNotFoundError:
            return
        finally:
            let_go(self.place.fs, handle)

    def _read_file(self, at: int, epoch: int, number: int) -> CheckpointFile:
        name = commit_name(number)
        try:
            raw = self.place.fs.read(name, at, COMMIT_FILE_BYTES_MAX)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.place.unreadable(error, EPOCHS, epoch_name(epoch), name) from error
        file = frames.decode(raw, f"{self._epochs}/{epoch_name(epoch)}/{name}")
        header = file.header
        if header.epoch != epoch or header.number != number or (header.kind == OPEN) != (number == 1):
            raise CheckpointDamaged(
                f"{self._where(epoch, number)} is damaged: it is {KIND_NAMES.get(header.kind, header.kind)} "
                f"{header.number} of epoch {header.epoch}"
            )
        return file

    def _ended_epoch(
        self, epoch: int, number: int, digest: bytes | None, following: CheckpointFile
    ) -> list[CheckpointFile]:
        """The files of an ended epoch from `number` on, from whichever place has them all.

        They may be on their way from one to the other, and a network client may see neither for a
        moment, so it is tried more than once.
        """
        trouble: CheckpointDamaged | None = None
        for wait_s in LOOK_AGAIN_S[:_LOOKS]:
            for source in (self._from_directory, self._from_archive):
                try:
                    part = source(epoch, number, digest)
                except FileNotFoundError:
                    continue
                except CheckpointDamaged as error:
                    trouble = trouble or error
                    continue
                if is_end_of(part[-1] if part else None, following):
                    return part
            if trouble is not None:
                break  # what is there and damaged does not get better
            self.place.look_again(wait_s, EPOCHS, epoch_name(epoch))
            self.place.look_again(0.0, ARCHIVE)
        raise trouble or CheckpointDamaged(
            f"{self._epochs}/{epoch_name(epoch)} is damaged: files that the next epoch's OPEN names are missing, and "
            f"there is no archive that has them"
        )

    def _from_directory(self, epoch: int, number: int, digest: bytes | None) -> list[CheckpointFile]:
        part: list[CheckpointFile] = []
        self._read_epoch(part, epoch, number, digest)
        return part

    def _from_archive(self, epoch: int, number: int, digest: bytes | None) -> list[CheckpointFile]:
        part = list(self.archive(epoch).files())
        before = part[number - 2].digest if number > 1 else part[0].header.predecessor
        if digest is not None and before != digest:
            raise CheckpointDamaged(
                f"{self._where(epoch, number)} is damaged: the archive does not follow what came before"
            )
        return part[number - 1 :]

    def _missed(
        self, part: list[CheckpointFile], trouble: CheckpointDamaged | None, *, after: tuple[int, int, bytes | None]
    ) -> CheckpointFile | None:
        """The log seems to end with `part`: None when it does, the next OPEN when a first look had missed it.

        What is seen is there, even if absence proves nothing: nothing later may be there. `after`:
        epoch, number and digest at which `part` begins.
        """
        epoch, number, digest = after
        for wait_s in LOOK_AGAIN_S[:_LOOKS]:
            last = part[-1] if part else None
            at = last.header.number if last is not None else number - 1
            is_sealed = last is not None and last.header.kind == SEAL
            beyond = sorted(e for e in map(parse_epoch, self.place.names(EPOCHS)) if e is not None and e > epoch)
            opened = next((file for e in beyond if (file := self.file(e, 1)) is not None), None)
            if opened is not None and opened.header.epoch == epoch + 1:
                return opened
            later = [
                n for n in map(parse_commit, self.place.names(EPOCHS, epoch_name(epoch))) if n is not None and n > at
            ]
            if trouble is not None and opened is None:
                raise trouble
            if opened is None and (is_sealed or not later):
                return None
            self.place.look_again(wait_s, EPOCHS, epoch_name(epoch + 1))
            if not is_sealed and trouble is None:
                self._read_epoch(part, epoch, at + 1, last.digest if last is not None else digest)
                if part and part[-1] is not last:
                    return None  # a living owner goes on writing; this reading ends where it ends
        missing = self._where(epoch + 1, 1) if is_sealed or trouble is not None else self._where(epoch, at + 1)
        raise trouble or CheckpointDamaged(f"{missing} is missing although later files are there; nothing was changed")

    def _where(self, epoch: int, number: int) -> str:
        return f"{self._epochs}/{epoch_name(epoch)}/{commit_name(number)}"


def records_in(file: CheckpointFile) -> range:
    """Which frames of a commit file are records: all of a COMMIT, of an OPEN those after its document."""
    if file.header.kind == COMMIT:
        return range(len(file.frames))
    return range(1, len(file.frames)) if file.header.kind == OPEN else range(0)


def is_end_of(last: CheckpointFile | None, following: CheckpointFile) -> bool:
    """Whether `last` is the SEAL that the OPEN `following` says it came after."""
    if last is None or last.header.kind != SEAL or following.header.predecessor != last.digest:
        return False
    record = document_of(following).get("predecessor")
    return record == {"files": last.header.number, "sha256": last.digest.hex()}


def document_of(file: CheckpointFile) -> dict[str, object]:
    where = f"{KIND_NAMES.get(file.header.kind)} of epoch {file.header.epoch}"
    if not file.frames:
        raise CheckpointDamaged(f"the {where} is damaged: its document is missing")
    return frames.decode_document(file.frames[0], where)
