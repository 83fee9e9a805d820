"""How documents are laid out: JSON like any other, a line for everything that people look for."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from routilux_mp._documents import to_text

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner), max_leaves=20
)


@given(st.dictionaries(st.text(), _VALUES))
def test_it_is_the_same_json(data: dict[str, Any]) -> None:
    assert json.loads(to_text(data)) == json.loads(json.dumps(data))


_TRICKY = st.text(st.sampled_from('}{, "_type\\:[]')) | st.sampled_from(['}, {"_type"', "}, {", "_type"])
_RECORDS = st.lists(
    st.builds(
        lambda name, data: {"_type": "ExecutionRecord", name: data},
        _TRICKY, st.recursive(_TRICKY, lambda inner: st.lists(inner) | st.dictionaries(_TRICKY, inner), max_leaves=8),
    ),
    max_size=300,
)  # fmt: skip


@given(_RECORDS)
def test_records_are_the_same_json_too(records: list[dict[str, Any]]) -> None:
    data = {"execution_history": records, "_type": [{"_type": [{}, {"_type": records}]}, *records]}
    assert json.loads(to_text(data)) == data


def test_every_record_has_a_line() -> None:
    records = [{"_type": "ExecutionRecord", "data": {"text": f'}}, {{"_type"{n}'}} for n in range(450)]
    lines = to_text({"execution_history": records}).splitlines()
    assert [json.loads(line.strip().removesuffix(",")) for line in lines[2:-2]] == records


def test_every_key_and_every_element_has_a_line() -> None:
    text = to_text({"status": "running", "history": [{"a": 1, "b": [1, 2]}, 7], "states": {"r": {"n": 1}, "s": []}})
    assert text.splitlines() == [
        "{",
        '  "status": "running",',
        '  "history": [',
        '    {"a": 1, "b": [1, 2]},',
        "    7",
        "  ],",
        '  "states": {',
        '    "r": {"n": 1},',
        '    "s": []',
        "  }",
        "}",
    ]
