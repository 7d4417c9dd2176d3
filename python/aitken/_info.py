"""`aitken.info()`: what this installation is and what it can use."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from . import _core, _loader


class Info(dict[str, Any]):
    """A nested dict that prints as an aligned table."""

    def __repr__(self) -> str:
        lines: list[str] = []
        for key, value in self.items():
            if isinstance(value, dict):
                lines.append(f"{key}:")
                lines.extend(f"  {name:<14} {_plain(item)}" for name, item in value.items())
            else:
                lines.append(f"{key:<16} {_plain(value)}")
        return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {item}" for name, item in value.items()) or "none"
    return "-" if value is None or value == "" else str(value)


def _version(*distributions: str) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _lapack_library() -> str:
    import scipy

    try:
        entry = scipy.show_config(mode="dicts")["Build Dependencies"]["lapack"]
    except (KeyError, TypeError):  # not every distributor fills the table
        return "unknown"
    return f"{entry.get('name', 'unknown')} {entry.get('version', '')}".strip()


def info() -> Info:
    """Versions, SIMD level, threads, LAPACK, and whether the GPU path works and if not why.

    Returns
    -------
    Info
        A nested dict; its ``repr`` is a table.

    Examples
    --------
    >>> import aitken
    >>> aitken.info()["simd"]["level"] in ("base", "v3", "v4")
    True
    """
    build = _core.build_info()
    gpu = _loader.cuda_status()
    lapack = _core.lapack_info()
    loaded = [name for name, entry in lapack["routines"].items() if entry["loaded"]]
    return Info(
        {
            "aitken": build["version"],
            "versions": {
                "python": platform.python_version(),
                "platform": platform.platform(),
                "numpy": _version("numpy"),
                "scipy": _version("scipy"),
                "cupy": _version("cupy-cuda13x", "cupy-cuda12x", "cupy"),
                "torch": _version("torch"),
            },
            "build": {name: value for name, value in build.items() if name != "version"},
            "simd": {"level": _core.simd_level(), "supported": list(_core.simd_levels_supported())},
            "threads": {"used": _core.get_num_threads(), "cpus": _cpus()},
            "lapack": {
                "source": f"SciPy {_version('scipy')}, {_lapack_library()}",
                "int_bits": lapack["int_bits"],
                "routines": loaded,
                "refused": dict(_loader.lapack_refused),
            },
            "gpu": {
                "available": gpu.available,
                "reason": gpu.reason,
                "module_built": gpu.built,
                "devices": gpu.n_devices,
                "error_code": gpu.code,
                "cupy_installed": gpu.cupy,
            },
        }
    )


__all__ = ["Info", "info"]
