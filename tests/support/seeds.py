"""The code blocks of the documents that the package was made from, as runnable text."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

SEEDS = Path(__file__).resolve().parents[3] / "shared" / "seeds"
#: Seed -> blocks in it.
COUNTS = {"000": 15, "001": 41, "002": 41, "003": 4, "004": 16}
_DIRECTIVE = re.compile(r"^(\s*)\.\. code-block:: python\s*$")
_FENCE = re.compile(r"^(\s*)```python\s*$")


class Block(NamedTuple):
    """One block: ``line`` is where its code begins, as an editor shows it."""

    seed: str
    line: int
    code: str


def seed_text(seed: str) -> str | None:
    """The document, or None where the seeds are not at hand."""
    found = sorted(SEEDS.glob(f"{seed}_*.txt")) if SEEDS.is_dir() else []
    return found[0].read_text(encoding="utf-8") if found else None


def blocks_of(seed: str) -> list[Block]:
    """Every Python block of a seed, in order; of all of them only imports are changed."""
    text = seed_text(seed)
    if text is None:
        return []
    lines = text.splitlines()
    if seed == "001":
        return _unfenced(lines, blocks_of("002"))
    found: list[Block] = []
    for number, line in enumerate(lines):
        directive, fence = _DIRECTIVE.match(line), _FENCE.match(line)
        if directive:
            found.append(_indented(seed, lines, number + 1, len(directive[1])))
        elif fence:
            found.append(_fenced(seed, lines, number + 1))
    return found


def _indented(seed: str, lines: list[str], start: int, margin: int) -> Block:
    while not lines[start].strip() or lines[start].strip().startswith(":"):
        start += 1
    end = start
    while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > margin):
        end += 1
    return _block(seed, start, lines[start:end])


def _fenced(seed: str, lines: list[str], start: int) -> Block:
    end = start
    while not lines[end].strip().startswith("```"):
        end += 1
    return _block(seed, start, lines[start:end])


def _unfenced(lines: list[str], twins: list[Block]) -> list[Block]:
    """001 has lost its markup. Its blocks are those of 002 in handler style, some with glued line numbers."""
    found: list[Block] = []
    start = 0
    for twin in twins:
        wanted = [_same(line) for line in twin.code.splitlines()]
        for at in range(start, len(lines) - len(wanted) + 1):
            part = lines[at : at + len(wanted)]
            unglued = [line[2:] for line in part]
            if [_same(line) for line in part] == wanted:
                break
            if [_same(line) for line in unglued] == wanted:
                part = unglued
                break
        else:
            raise AssertionError(f"no twin of 002:{twin.line} in 001")
        found.append(_block("001", at, part))
        start = at + len(wanted)
    return found


def _same(line: str) -> str:
    """A line as both documents have it."""
    line = line.replace("routilux_mp.serilux", "serilux").replace("routilux_mp", "routilux")
    return " ".join(line.replace("define_", "add_").split())


def _block(seed: str, start: int, lines: list[str]) -> Block:
    code = textwrap.dedent("\n".join(lines)).rstrip() + "\n"
    code = re.sub(r"^(\s*)(from|import) routilux\b", r"\1\2 routilux_mp", code, flags=re.MULTILINE)
    code = re.sub(r"^(\s*)from serilux\b", r"\1from routilux_mp.serilux", code, flags=re.MULTILINE)
    return Block(seed, start + 1, code)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
