"""Random traces of the model, replayed on the real store: after every step both must say the same.

The same holds for: what stands in every file, which process owns which epoch, what an owner was told
about its commit, and what a process that never saw the job reads. The proof in `test_model` is then
about this code, not about a drawing of it.
"""

from __future__ import annotations

import random
import re

import pytest

from routilux_mp._storage.housekeeping import Housekeeper
from tests.model.protocol import moves
from tests.model.real import FIRST, RealProcess, real_disk
from tests.model.state import SEAL, Move, Process, Rules, Size, first_disk, fresh_reading, record_at
from tests.support.memory import MemoryFiles
from tests.support.stores import truth
from tests.support.turns import Stage

#: The store puts snapshots only after a roll; everything else is the model that is proved safe.
RULES = Rules(snapshot_after_takeover=False)
A_SLEEPERS_SEAL = "put SEAL / where a COMMIT was collected"
SIZE = Size(processes=3, tasks=6, epochs=6)
STEPS = 80


STEPS_THAT_MATTER = {
    "COMMIT of task  at /: an error at link, gives up",
    "COMMIT of task  at /: the place is taken, fenced",
    "OPEN  is taken: stands by",
    "SEAL / (roll): the place is taken, fenced",
    "SEAL / is there",
    "SEAL /: walks over a COMMIT",
    "crash",
    "delete blob /",
    "delete file /",
    "delete snapshot /",
    "put COMMIT of task  at /, reply lost",
    "put OPEN , reply lost",
    "put SEAL / (roll), reply lost",
    "put SEAL /, reply lost",
    "put archive ",
    "put snapshot ",
    A_SLEEPERS_SEAL,
}


class Replay:
    """One trace, on the model and on the store side by side."""

    def __init__(self, seed: int, stage: Stage) -> None:
        self._random = random.Random(f"trace-{seed}")
        self._files = MemoryFiles()
        self._stage = stage
        self._seeds = iter(range(1_000))
        # In some traces owners are mostly left alone and keep house well: only those get as far as collecting.
        self._calm = self._random.choice([0.0, 0.9])
        self.disk = first_disk(SIZE)
        self.model = [Process("own", 1, 1), *[Process()] * (SIZE.processes - 1)]
        self.real = [self._new_process() for _ in self.model]
        self.real[0].create()
        self.labels: list[str] = []

    def step(self) -> None:
        index, move = self._draw()
        if self._is_left_alone(index, move):
            move = move._replace(disk=self.disk)
        self.labels.append(f"process {index}: {move.label}")
        if move.label.startswith("put SEAL") and self.disk.first == move.disk.first != self.disk.log:
            self.labels[-1] += " where a COMMIT was collected"
        before = self.model[index]
        self._replay(index, before, move)
        self.disk, self.model[index] = move.disk, move.process
        self._settle(index)
        self.compare()

    def compare(self) -> None:
        found = real_disk(self._files, SIZE.epochs)
        trace = "\n".join(self.labels)
        assert found.log == self.disk.log, trace
        assert found.snapshots == self.disk.snapshots, trace
        assert [a and len(a) for a in found.archives] == [a and len(a) for a in self.disk.archives], trace
        assert found.has_blob == self.disk.has_blob, trace
        for real, model in zip(self.real, self.model):
            assert real.role == ("seal or open" if model.role in ("seal", "open") else model.role), trace
            if model.role == "own":
                assert (real.position, real.done) == ((model.epoch, model.number), model.done), trace
        fresh = fresh_reading(self.disk, from_snapshot=False)
        first, *after = truth(self._files)
        assert first == FIRST, trace
        assert tuple(int(data) for data in after) == fresh, trace

    # -- choosing --------------------------------------------------------------------------------

    def _draw(self) -> tuple[int, Move]:
        while True:
            index = self._random.randrange(len(self.model))
            possible = [move for move in self._moves(index) if self._is_wanted(index, move)]
            if possible:
                return index, self._random.choice(possible)

    def _moves(self, index: int) -> list[Move]:
        found = list(moves(self.disk, self.model[index], RULES, SIZE))
        readings = [move for move in found if move.label.startswith("read to")]
        # This disk has no caches: a reader sees all of it. Old readings are readers that sleep.
        newest = max(readings, key=lambda move: (move.process.epoch, move.process.number), default=None)
        return [move for move in found if move not in readings or move is newest]

    def _is_wanted(self, index: int, move: Move) -> bool:
        if move.label == "housekeep again":
            return False  # the store remembers what it has collected
        if move.is_crash or "reply lost" in move.label or "an error at link" in move.label:
            return self._random.random() < 0.15 * (1.0 - self._calm)
        if self.model[index].role in ("idle", "seal", "open") and self._random.random() < self._calm:
            return False
        if move.label.startswith("put OPEN"):
            # The real thread is not replaced as the model's is; so a new epoch waits for one that has begun.
            is_pending = self.real[index].keeping is not None or (self._calm > 0 and self.model[index].keeper)
            return not is_pending
        return True

    def _is_left_alone(self, index: int, move: Move) -> bool:
        """A sleeper's SEAL in a collected epoch. The model deletes it every time, the store if it had not been there.

        Either is right: it says nothing to anybody.
        """
        keeper = self.model[index].keeper
        if not move.label.startswith("delete file") or not keeper:
            return False
        _, epoch, number = keeper[2][0]
        return record_at(self.disk.log, epoch, number) == SEAL and self.real[index].has_collected(epoch)

    # -- replaying -------------------------------------------------------------------------------

    def _replay(self, index: int, before: Process, move: Move) -> None:
        real, label = self.real[index], move.label
        fate = "lost" if "reply lost" in label else "fails" if "an error at link" in label else ""
        if move.is_crash:
            real.crash()
            self.real[index] = self._new_process()
        elif label.startswith("read to"):
            real.start_take_over()
        elif move.process.keeper != before.keeper and move.process.role == before.role:
            self._keep(real, before, move)
        elif before.role == "own" and label.startswith("COMMIT") | label.startswith("put COMMIT"):
            task = next(task for task in range(SIZE.tasks) if task not in real.done)
            assert f"task {task} " in label
            told = real.commit(task, fate)
            assert told == (move.acknowledged is not None), label
        elif before.role == "own":
            real.start_roll()
            real.go_on(fate)
        else:
            real.go_on(fate)

    def _keep(self, real: RealProcess, before: Process, move: Move) -> None:
        if move.label == "look for ended epochs":
            real.start_keeper()
        elif move.label.startswith("delete") and move.disk == self.disk:
            # Somebody else has deleted it: perhaps before the real thread came there, perhaps while it stood there.
            assert before.keeper
            if real.is_about_to_delete(*before.keeper[2][0]):
                real.keep_house()
        else:
            real.keep_house()

    def _settle(self, index: int) -> None:
        """Looking around happens right after the change before it, in the real thread."""
        while (keeper := self.model[index].keeper) and keeper[0] == "collect":
            (move,) = [m for m in moves(self.disk, self.model[index], RULES, SIZE) if m.label.startswith("choose")]
            self.model[index] = move.process

    def _new_process(self) -> RealProcess:
        return RealProcess(self._files, self._stage, next(self._seeds))


def replay(seed: int) -> Replay:
    """One trace to its end."""
    stage = Stage()
    try:
        both = Replay(seed, stage)
        while len(both.labels) < STEPS and SEAL not in both.disk.log[-1]:
            both.step()
        return both
    finally:
        stage.close()


def replay_all(seeds: range) -> list[Replay]:
    return [replay(seed) for seed in seeds]


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(50, 200, 50))])
def test_traces_of_the_model_on_the_store(first: int) -> None:
    replay_all(range(first, first + 50))


@pytest.mark.slow
def test_the_traces_reach_what_matters() -> None:
    traces = replay_all(range(60))
    taken = {re.sub(r"process \d+: |\d", "", label) for trace in traces for label in trace.labels}
    missing = STEPS_THAT_MATTER - taken
    assert not missing


def test_a_store_that_departs_from_the_model_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: housekeeping that deletes the SEAL as well."""
    ended = Housekeeper._delete_commits

    def also_the_seal(self: Housekeeper, epoch: int) -> None:
        ended(self, epoch)
        names = self._place.names("epochs", f"e{epoch:07d}")
        self._unlink(max(names), "epochs", f"e{epoch:07d}")

    monkeypatch.setattr(Housekeeper, "_delete_commits", also_the_seal)
    with pytest.raises(AssertionError):
        replay_all(range(60))
