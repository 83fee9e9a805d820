"""Metrics of one file and of many."""

import random

import pytest

from routilux_mp.demo.metrics import measure, summarise, summary_text

SOURCE = b'''"""Doc."""
import os  # a comment


class Thing:
    def method(self, a, b):
        if a and b or a:
            for x in a:
                while x:
                    x = [y for y in b if y if a]
        return a if b else x


async def lone():
    # alone
    pass
'''


def test_counts_of_a_known_file():
    found = measure(SOURCE)
    assert found["lines"] == 16
    assert found["classes"] == 1
    assert found["functions"] == 2
    # if, and, or, for, while, comprehension with two conditions (3), conditional expression
    assert found["branches"] == 9
    assert found["nesting"] == 3
    assert found["comments"] == 2
    assert found["code"] == 11
    assert found["names"] == len({"Thing", "method", "self", "a", "b", "x", "y", "lone"})
    assert (found["worst"], found["worst_branches"]) == ("Thing.method", 10)
    assert found["unparsable"] == ""


@pytest.mark.parametrize(
    ("source", "lines", "reason"),
    [
        (b"", 0, ""),
        (b"x = 1", 1, ""),
        (b"print 'python two'\n", 1, "SyntaxError"),
        (b"x = 1\0\n", 1, None),
        (b"# coding: no-such-codec\n", 1, "SyntaxError"),
        (b"\xff\xfe", 1, "SyntaxError"),
        (b"(" * 5000 + b")" * 5000 + b"\n", 1, None),
    ],
)
def test_a_file_that_cannot_be_parsed_is_counted_and_says_why(source, lines, reason):
    found = measure(source)
    assert found["lines"] == lines
    if reason is None:
        assert found["unparsable"]
    else:
        assert found["unparsable"] == reason


def test_deep_nesting_needs_no_recursion():
    deep = b"".join(b" " * depth + b"if x:\n" for depth in range(90)) + b" " * 90 + b"pass\n"
    assert measure(deep)["nesting"] == 90


def test_invalid_escapes_do_not_warn():
    assert measure(b"x = '\\d'\n")["unparsable"] == ""


def test_a_summary_does_not_depend_on_the_order_of_the_files():
    records = [{"path": f"{'abc'[i % 3]}/m{i}.py", **measure(SOURCE * (i + 1))} for i in range(7)]
    records.append({"path": "top.py", **measure(b"broken(\n")})
    summary = summarise(records)
    shuffled = records[:]
    random.Random(1).shuffle(shuffled)
    assert summarise(shuffled) == summary
    assert summary["totals"]["files"] == 8
    assert summary["totals"]["unparsable"] == 1
    assert summary["totals"]["lines"] == sum(record["lines"] for record in records)
    assert set(summary["packages"]) == {"a", "b", "c", "(modules)"}
    assert "8 files" in summary_text(summary)
