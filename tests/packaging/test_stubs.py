"""The committed stub of the compiled module says what the module says."""

import ast
import re
from pathlib import Path

import pytest

import aitken
from aitken import _core

STUB = Path(aitken.__file__).with_name("_core.pyi")


def _stub_functions() -> dict[str, list[str]]:
    tree = ast.parse(STUB.read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {f.name: [a.arg for a in (*f.args.args, *f.args.kwonlyargs)] for f in functions}


def _module_functions() -> dict[str, list[str]]:
    """Names and argument names, from the signatures pybind11 writes into docstrings."""
    found = {}
    for name in dir(_core):
        doc = getattr(_core, name).__doc__ if callable(getattr(_core, name)) else None
        if not doc or name.startswith("_"):
            continue
        signatures = re.findall(rf"{name}\((.*?)\) -> ", doc)
        assert signatures, f"{name} has no signature"
        arguments = [re.findall(r"(\w+): ", re.sub(r"\[[^\]]*\]", "", s)) for s in signatures]
        assert all(a == arguments[0] for a in arguments), f"overloads of {name} differ in names"
        found[name] = arguments[0]
    return found


def test_same_functions() -> None:
    assert set(_stub_functions()) == set(_module_functions())


@pytest.mark.parametrize("name", sorted(_stub_functions()))
def test_same_arguments(name: str) -> None:
    assert _stub_functions()[name] == _module_functions()[name]
