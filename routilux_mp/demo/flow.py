"""The main job as a flow: find -> measure -> aggregate -> draw, in handler style.

A program like any user's: it uses nothing but the public API. ``metrics_flow()`` builds it,
``flow`` is what ``routilux-mp run routilux_mp.demo.flow:flow`` runs. Entry parameters:

    root    the folder of sources                 out     the folder for ``complexity.png`` and ``complexity.txt``
    title   over the picture (optional)           log     a folder for side-effect logs (optional, see ``_noted``)
    limit   only so many files (optional)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..activation_policies import upstream_done_policy
from ..flow import Flow
from ..routine import Routine
from .metrics import measure, summarise, summary_text
from .treemap import draw_treemap

#: A cursor is committed after so many files were found.
_FIND_COMMIT_COUNT = 100
_SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__"})


class Find(Routine):
    """Lists the source files; a generator, so that what was found flows on and is never listed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.find)
        self.add_event("order", ["out", "title", "log"])
        self.add_event("file", ["root", "path", "log"])

    def find(self, **params: Any) -> Iterator[int]:
        """One emission per source file, in the order of their paths."""
        root, log = Path(params["root"]), params.get("log") or ""
        _noted(log, "find", self.idempotency_key)
        paths = source_files(root)
        if params.get("limit"):
            paths = paths[: int(params["limit"])]
        start = self.resume_cursor or 0
        if start == 0:
            self.emit("order", out=str(params["out"]), title=params.get("title") or f"Complexity of {root}", log=log)
        for number, path in enumerate(paths[start:], start + 1):
            self.emit("file", root=str(root), path=path, log=log)
            if number % _FIND_COMMIT_COUNT == 0:
                yield number
        yield len(paths)


class Measure(Routine):
    """Parses and measures one file: the CPU-heavy step."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("file", handler=self.measure)
        self.add_event("measured", ["record"])

    def measure(self, root: str, path: str, log: str) -> None:
        """The metrics of one file."""
        _noted(log, "measure", self.idempotency_key)
        self.emit("measured", record={"path": path, **measure(Path(root, path).read_bytes())})


class Aggregate(Routine):
    """Sums up, once, when nothing upstream is left: ``upstream_done_policy`` knows that it has seen all."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("measured")
        self.add_slot("order")
        self.add_event("summary", ["summary", "out", "title", "log"])
        self.set_logic(self.aggregate)
        self.set_activation_policy(upstream_done_policy())

    def aggregate(self, slot_data: dict[str, list[dict[str, Any]]], policy_message: Any, job_state: Any) -> None:
        """All records in one summary; independent of the order in which they came."""
        order = slot_data["order"][0]
        _noted(order["log"], "aggregate", self.idempotency_key)
        self.emit("summary", summary=summarise([item["record"] for item in slot_data["measured"]]), **order)


class Draw(Routine):
    """Writes the picture and the text; both appear when the activation commits, whole or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("summary", handler=self.draw)
        self.add_event("drawn", ["picture", "text", "totals"])

    def draw(self, summary: dict[str, Any], out: str, title: str, log: str) -> None:
        """``complexity.png`` and ``complexity.txt`` in the folder asked for."""
        _noted(log, "draw", self.idempotency_key)
        picture, text = Path(out, "complexity.png"), Path(out, "complexity.txt")
        with self.output_file(picture, "wb") as file:
            file.write(draw_treemap(summary, title))
        with self.output_file(text, "w", encoding="utf-8") as file:
            file.write(f"{title}\n\n{summary_text(summary)}")
        self.emit("drawn", picture=str(picture), text=str(text), totals=summary["totals"])


def metrics_flow(workers: int = 2) -> Flow:
    """The flow, with so many workers for the heavy step."""
    flow = Flow(flow_id="metrics")
    flow.add_routine(Find(), "find")
    flow.add_routine(Measure(), "measure", workers=workers)
    flow.add_routine(Aggregate(), "aggregate")
    flow.add_routine(Draw(), "draw")
    flow.connect("find", "file", "measure", "file")
    flow.connect("find", "order", "aggregate", "order")
    flow.connect("measure", "measured", "aggregate", "measured")
    flow.connect("aggregate", "summary", "draw", "summary")
    return flow


def source_files(root: Path) -> list[str]:
    """The Python files below a folder as relative paths with slashes, sorted; installed packages are left out."""
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        found += [Path(folder, name).relative_to(root).as_posix() for name in files if name.endswith(".py")]
    return sorted(found)


def _noted(log: str, routine: str, key: str) -> None:
    """Leave a mark outside the job, at least once per attempt: what the demo counts re-runs with.

    One file per process, so that nothing but the operating system is trusted; one write per line, so
    that a kill leaves whole lines.
    """
    if log:
        fd = os.open(Path(log, f"{routine}.{os.getpid()}"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, f"{key}\n".encode())
        finally:
            os.close(fd)


def flow() -> Flow:
    """The flow for the command line: as many measuring workers as there are cores."""
    return metrics_flow(os.cpu_count() or 1)
