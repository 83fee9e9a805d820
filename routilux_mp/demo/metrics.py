"""Metrics of one Python source file: lines, functions, branches, nesting, names.

Pure functions from bytes to plain data, so that the same file gives the same record in every
process. Not a linter: a file that cannot be parsed (the standard library's tests hold some on
purpose) is counted by its lines and says why.
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from typing import Any

_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.Assert, ast.match_case)
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_QUIET = frozenset(
    {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
)


def measure(source: bytes) -> dict[str, Any]:
    """The metrics of one file, as plain values; ``"unparsable"`` holds the reason or an empty string."""
    record: dict[str, Any] = {
        "lines": source.count(b"\n") + (not source.endswith(b"\n") and bool(source)),
        "code": 0,
        "comments": 0,
        "functions": 0,
        "classes": 0,
        "branches": 0,
        "nesting": 0,
        "names": 0,
        "worst": "",
        "worst_branches": 0,
        "unparsable": "",
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old sources warn; that is not our subject
            tree = ast.parse(source)
        record["code"], record["comments"] = _line_kinds(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        record["unparsable"] = type(error).__name__
        return record
    _walk(tree, record)
    return record


def _line_kinds(source: bytes) -> tuple[int, int]:
    """Lines that hold code, and lines that hold a comment."""
    code: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in _QUIET:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code), len(comments)


def _walk(tree: ast.Module, record: dict[str, Any]) -> None:
    """Fill in what the syntax tree says. With a stack of its own: recursion would end at deep nesting."""
    names: set[str] = set()
    by_function: dict[str, int] = {}
    stack: list[tuple[ast.AST, int, str]] = [(tree, 0, "")]
    while stack:
        node, depth, function = stack.pop()
        if isinstance(node, _FUNCTIONS):
            record["functions"] += 1
            names.add(node.name)
            function = f"{function}.{node.name}" if function else node.name
            by_function.setdefault(function, 1)
        elif isinstance(node, ast.ClassDef):
            record["classes"] += 1
            names.add(node.name)
            function = f"{function}.{node.name}" if function else node.name
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        branches = _branches(node)
        if branches:
            record["branches"] += branches
            if function in by_function:
                by_function[function] += branches
        if isinstance(node, _BLOCKS):
            depth += 1
            record["nesting"] = max(record["nesting"], depth)
        stack.extend((child, depth, function) for child in ast.iter_child_nodes(node))
    record["names"] = len(names)
    if by_function:
        record["worst_branches"], record["worst"] = max((count, name) for name, count in by_function.items())


def _branches(node: ast.AST) -> int:
    """How many ways beyond the first one this node opens."""
    if isinstance(node, _BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return 0


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """All files in one: totals, sums per top-level package, the worst functions. Independent of the order given."""
    records = sorted(records, key=lambda record: record["path"])
    counted = ("lines", "code", "comments", "functions", "classes", "branches")
    totals = {name: sum(record[name] for record in records) for name in counted}
    totals["files"] = len(records)
    totals["unparsable"] = sum(1 for record in records if record["unparsable"])
    packages: dict[str, dict[str, int]] = {}
    for record in records:
        group = record["path"].split("/")[0] if "/" in record["path"] else "(modules)"
        sums = packages.setdefault(group, {"files": 0, "lines": 0, "functions": 0, "branches": 0, "nesting": 0})
        sums["files"] += 1
        for name in ("lines", "functions", "branches"):
            sums[name] += record[name]
        sums["nesting"] = max(sums["nesting"], record["nesting"])
    worst = sorted(records, key=lambda record: (-record["worst_branches"], record["path"]))[:10]
    return {
        "totals": totals,
        "packages": dict(sorted(packages.items())),
        "worst": [[record["path"], record["worst"], record["worst_branches"]] for record in worst],
        "files": [[record["path"], record["lines"], record["branches"], record["functions"]] for record in records],
    }


def summary_text(summary: dict[str, Any]) -> str:
    """The summary as a page of text, the same bytes for the same files."""
    totals = summary["totals"]
    out = [
        f"{totals['files']:,} files, {totals['lines']:,} lines "
        f"({totals['code']:,} with code, {totals['comments']:,} with comments)",
        f"{totals['classes']:,} classes, {totals['functions']:,} functions, {totals['branches']:,} branches; "
        f"{totals['unparsable']} files that this Python cannot parse",
        "",
        f"{'package':<20}{'files':>7}{'lines':>10}{'functions':>11}{'branches':>10}{'deepest':>9}",
    ]
    largest = sorted(summary["packages"].items(), key=lambda item: (-item[1]["lines"], item[0]))
    for name, sums in largest[:15]:
        out.append(
            f"{name[:19]:<20}{sums['files']:>7,}{sums['lines']:>10,}{sums['functions']:>11,}"
            f"{sums['branches']:>10,}{sums['nesting']:>9}"
        )
    if len(largest) > 15:
        out.append(f"... and {len(largest) - 15} smaller packages")
    out += ["", "the most branched functions:"]
    out += [f"{branches:>6}  {path}  {name}" for path, name, branches in summary["worst"]]
    return "\n".join(out) + "\n"
