"""A pytest plugin that makes POT's test modules use `aitken.compat.ot` in the place of `ot`."""

from __future__ import annotations

import aitken.compat.ot as compat


def pytest_collection_modifyitems(items):
    """Once the modules are imported, what they call ``ot`` and what they took from it by name is ours."""
    for module in {item.module for item in items}:
        for name in compat.__all__:
            if hasattr(module, name):
                setattr(module, name, getattr(compat, name))
        if hasattr(module, "ot"):
            module.ot = compat
