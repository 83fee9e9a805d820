"""From what a person types for FLOW to the flow: ``module:flow``, ``script.py``, ``flow.json``.

The rule it owns: whatever is wrong with it ends in one ``TargetError`` that says what was looked for.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import DefinitionError

if TYPE_CHECKING:
    from ..flow import Flow


class TargetError(DefinitionError):
    """FLOW does not name a flow."""


def load_flow(target: str) -> Flow:
    """The flow that ``target`` names; a function without required parameters is called for it.

    Raises:
        TargetError: no such module, script or name, or it is not a flow.
    """
    place, _, name = target.rpartition(":") if ":" in target else (target, "", "")
    if place.endswith(".json"):
        return _from_json(Path(place))
    module = _script(Path(place)) if place.endswith(".py") else _module(place)
    return _flow_of(module, name or "flow", target)


def parse_params(pairs: list[str]) -> dict[str, Any]:
    """``["n=3", "name=x"]`` as entry parameters; a value that is JSON is that value, any other is text."""
    params: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise TargetError(f"-p {pair!r}: expected NAME=VALUE")
        try:
            params[key] = json.loads(text)
        except ValueError:
            params[key] = text
    return params


def _flow_of(module: ModuleType, name: str, target: str) -> Flow:
    from ..flow import Flow

    found = getattr(module, name, None)
    if found is None:
        flows = sorted(key for key, value in vars(module).items() if isinstance(value, Flow))
        hint = f"; it has {', '.join(flows)}: name one, like {module.__name__}:{flows[0]}" if flows else ""
        raise TargetError(f"'{target}': module '{module.__name__}' has no '{name}'{hint}")
    if callable(found):
        found = found()
    if not isinstance(found, Flow):
        kind = type(found).__name__
        raise TargetError(f"'{target}': '{name}' is of type {kind}, not a Flow or a function that returns one")
    return found


def _module(name: str) -> ModuleType:
    _first_on_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only when the module itself is missing: a missing import inside of it is the user's to see whole.
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise TargetError(f"no module named '{error.name}' (looked in {Path.cwd()} and the Python path)") from None
        raise


def _script(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"no script {path}")
    path = path.resolve()
    if not path.stem.isidentifier():
        raise TargetError(f"{path.name} cannot be imported: workers need a name that is an identifier; rename it")
    _first_on_path(path.parent)
    module = importlib.import_module(path.stem)
    if Path(module.__file__ or "").resolve() != path:
        raise TargetError(f"the name '{path.stem}' is taken by {module.__file__ or 'a built-in module'}; rename {path}")
    return module


def _from_json(path: Path) -> Flow:
    from ..flow import Flow

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TargetError(f"{path}: {error}") from None
    flow: Flow = Flow.deserialize(data)
    return flow


def _first_on_path(folder: Path) -> None:
    """What ``python script.py`` does for the script's folder; workers get the same path."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
