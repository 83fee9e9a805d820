"""The protocol with one rule taken away at a time: each must have a counterexample.

A variant is refuted by what owners do (a task committed or acknowledged twice, an acknowledged one
that is not in the history, two owners of an epoch) wherever that is possible; where the rule protects
readers, by what readers then read (`damaged_max` snapshots and archives are damaged besides).
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.model.state import Rules, Size

_PAIR = Size(processes=2, tasks=2, epochs=3, crashes=1, standbys_remember=False)
#: A place of epoch 2 is free again only after snapshots 3 and 4.
_PAIR_LONG = Size(processes=2, tasks=2, epochs=4, crashes=0, standbys_remember=False)

_RESULTS = Size(processes=2, tasks=2, epochs=3, crashes=1, standbys_remember=False, has_results=True)


@dataclass(frozen=True)
class Variant:
    """One broken protocol, how far to look, and what is found there."""

    name: str
    rules: Rules
    #: Words of the violation that the shortest counterexample ends in.
    finds: str
    size: Size = _PAIR
    #: As in `Explorer`.
    damaged_max: int | None = None


BROKEN = [
    Variant("no fence: commits are appended", Rules(commit="append"), "not in the history"),
    Variant("no fence: commits overwrite", Rules(commit="overwrite"), "not in the history"),
    Variant("SEAL is collected too", Rules(keeps_seal=False), "not in the history"),
    Variant("OPEN is collected too", Rules(keeps_open=False), "two owners", _PAIR_LONG),
    Variant("COMMITs of a live epoch are collected", Rules(collects_live_epoch=True), "became"),
    Variant("absence is trusted: no SEAL before OPEN", Rules(seals=False), "not in the history"),
    Variant("the lock is trusted", Rules(trusts_lock=True, commit="overwrite"), "twice"),
    Variant("a lost reply is taken as success", Rules(lost_reply="is success"), "not in the history"),
    Variant("a lost reply is taken as failure", Rules(lost_reply="is failure"), "not in the history"),
    Variant("COMMITs go after one newer snapshot", Rules(snapshots_needed=1), "damaged", damaged_max=2),
    Variant("COMMITs go without an archive", Rules(archives_first=False), "the history reads", damaged_max=0),
    Variant("a failed fsync is tried again", Rules(retries_fsync=True), "the history reads", damaged_max=0),
    Variant("a blob is named by its content", Rules(blob_name="content"), "the blob", damaged_max=0),
    Variant("leftovers are told before the SEAL", Rules(sweeps_below_seal=False), "the result", _RESULTS, 0),
    Variant("leftovers of living workers go too", Rules(spares_living=False), "the result", _RESULTS, 0),
    Variant("a blob goes before its release stands", Rules(blob_waits_for_commit=False), "the blob", damaged_max=0),
]
