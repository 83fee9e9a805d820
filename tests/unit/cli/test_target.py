"""What FLOW may be, and what is said when it is not."""

import sys

import pytest

from routilux_mp.cli.target import TargetError, load_flow, parse_params


def test_params_are_json_or_text():
    assert parse_params(["n=3", "name=x y", "list=[1, 2]", "empty=", "eq=a=b", 'text="3"']) == {
        "n": 3, "name": "x y", "list": [1, 2], "empty": "", "eq": "a=b", "text": "3",
    }  # fmt: skip


@pytest.mark.parametrize("pair", ["n", "=3"])
def test_a_param_without_a_name_or_value_is_refused(pair):
    with pytest.raises(TargetError, match="NAME=VALUE"):
        parse_params([pair])


FLOW = """
from routilux_mp import Flow
my_flow = Flow(flow_id="made")
def flow():
    return Flow(flow_id="called")
other = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def test_modules_scripts_and_names(folder):
    (folder / "some_module_e.py").write_text(FLOW)
    (folder / "deep").mkdir()
    (folder / "deep" / "some_script_e.py").write_text(FLOW)
    assert load_flow("some_module_e:my_flow").flow_id == "made"
    assert load_flow("some_module_e").flow_id == "called"
    assert load_flow("deep/some_script_e.py:my_flow").flow_id == "made"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no_such_module_e:flow", "no module named 'no_such_module_e'"),
        ("nowhere.py", "no script nowhere.py"),
        ("some_module_f:none", "has no 'none'; it has my_flow: name one, like some_module_f:my_flow"),
        ("some_module_f:other", "'other' is of type int, not a Flow"),
        ("json.py", "the name 'json' is taken by"),
        ("not-a-name.py", "rename it"),
        ("none.json", "none.json"),
    ],
)
def test_what_is_wrong_is_named(folder, target, said):
    for name in ("some_module_f.py", "json.py", "not-a-name.py"):
        (folder / name).write_text(FLOW)
    with pytest.raises(TargetError) as caught:
        load_flow(target)
    assert said in str(caught.value)


def test_a_missing_import_inside_the_module_is_shown_as_it_is(folder):
    (folder / "imports_e.py").write_text("import no_such_thing_e\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_thing_e"):
        load_flow("imports_e:flow")
