"""The layers of aitken, checked: who may include or import whom. Exits 1 and lists what breaks the rule.

C++ (csrc/): bindings -> core/api;  {cpu, cuda} -> drivers -> {sparse, dense} -> core;  nothing upward.
OpenMP belongs to cpu/, CUDA to cuda/, Python to bindings/; a per-ISA file sees no C++ library header.

Python (python/aitken/): public modules -> private modules of the package -> compiled modules; sideways
only along SIDEWAYS. Private modules load no optional library at import.

Run it from anywhere: ``python scripts/check_includes.py [ROOT]``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# layer of a file -> layers it may include (besides its own); prefixes are tried in this order
CPP_LAYERS: dict[str, set[str]] = {
    "core/api": {"core"},
    "core": set(),
    "sparse": {"core", "dense"},
    "dense": {"core"},
    "drivers": {"core", "core/api", "sparse", "dense"},
    "cpu": {"core", "core/api", "sparse", "dense", "drivers"},
    "cuda": {"core", "core/api", "sparse", "dense", "drivers"},
    "bindings": {"core/api"},
}
# What bindings translate themselves: error types, Ctrl-C, and the map that a caller's function becomes.
CPP_EXTRA = {"bindings": {"core/error.hpp", "core/interrupt.hpp", "core/linear_map.hpp"}}

# what a pattern of system headers (or a pragma) is reserved for
CPP_RESERVED: list[tuple[re.Pattern[str], set[str], str]] = [
    (re.compile(r"<pybind11/|<Python\.h>|<numpy/"), {"bindings"}, "Python"),
    (re.compile(r"<omp\.h>"), {"cpu"}, "OpenMP"),
    (re.compile(r"<(cuda|cub/|thrust/|cooperative_groups|cublas|cusolver|cusparse)"), {"cuda"}, "CUDA"),
]
PRAGMA_OMP = re.compile(r"^\s*#\s*pragma\s+omp\b")

ISA_FILES = re.compile(r"cpu/simd/(base|v3|v4)\.cpp|cpu/simd/(inline\.hpp|table\.hpp|.*\.inc)")
# plain C: no templates or inline functions that the linker could share between instruction sets
ISA_SYSTEM = re.compile(r"<(stdint|stddef|string|math|float|[a-z]?[a-z]*mmintrin|immintrin|arm_neon)\.h>")

INCLUDE = re.compile(r"^\s*#\s*include\s+([<\"][^>\"]+[>\"])")
CPP_SUFFIXES = {".hpp", ".cpp", ".cu", ".cuh", ".inc"}

SIDEWAYS = {
    ("linalg", "tune"),
    ("optimize", "linalg"),
    ("datagen", "linalg"),
}
# May use every public module.
PYTHON_TOP = {"compat", "cli", "_demo", "_verify", "__init__", "__main__"}  # programs and the package itself
OPTIONAL = {
    "cupy",
    "cupyx",
    "torch",
    "jax",
    "sklearn",
    "dask",
    "distributed",
    "matplotlib",
    "tqdm",
    "h5py",
    "ot",
}


def cpp_layer(path: str) -> str | None:
    return next((layer for layer in CPP_LAYERS if path.startswith(layer + "/")), None)


def check_cpp(source: Path) -> Iterator[str]:
    for file in sorted(f for f in source.rglob("*") if f.suffix in CPP_SUFFIXES):
        name = file.relative_to(source).as_posix()
        layer = cpp_layer(name)
        if layer is None:  # tests may look at everything
            continue
        allowed = CPP_LAYERS[layer] | {layer}
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            where = f"csrc/{name}:{number}"
            if PRAGMA_OMP.match(line) and layer != "cpu":
                yield f"{where}: OpenMP belongs to cpu/"
            match = INCLUDE.match(line)
            if match is None:
                continue
            target = match[1]
            if target.startswith("<"):
                for pattern, owners, what in CPP_RESERVED:
                    if pattern.match(target) and layer not in owners:
                        yield f"{where}: {target}: {what} belongs to {', '.join(sorted(owners))}/"
                if ISA_FILES.fullmatch(name) and not ISA_SYSTEM.fullmatch(target):
                    yield f"{where}: {target}: a per-ISA file may include plain C headers only"
                continue
            path = target.strip('"')
            if not (source / path).is_file():
                yield f'{where}: "{path}" is not a path below csrc/'
                continue
            other = cpp_layer(path)
            if ISA_FILES.fullmatch(name) and not ISA_FILES.fullmatch(path):
                yield f'{where}: "{path}": a per-ISA file shares no header with other files'
            if other not in allowed and path not in CPP_EXTRA.get(layer, ()):
                yield f'{where}: {layer}/ may not include "{path}"'


def imported(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...], bool]]:
    """Line, absolute dotted name and whether it runs at import, for every import in `tree`."""

    def visit(node: ast.AST, at_import: bool) -> Iterator[tuple[int, tuple[str, ...], bool]]:
        for child in ast.iter_child_nodes(node):
            inside = at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue  # never runs
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield child.lineno, tuple(alias.name.split(".")), at_import
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else ()
                stem = base + (tuple(child.module.split(".")) if child.module else ())
                for alias in child.names:
                    yield child.lineno, (*stem, alias.name), at_import
            yield from visit(child, inside)

    yield from visit(tree, True)


def check_python(package: Path) -> Iterator[str]:
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        unit = parts[0]  # "ot", "_validate", "cli", ...
        private = unit.startswith("_") and not unit.startswith("__")
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        for number, target, at_import in imported(tree, ("aitken", *parts[:-1])):
            where = f"python/aitken/{'/'.join(parts)}.py:{number}"
            if target[0] in OPTIONAL and at_import and len(parts) == 1 and (private or unit == "__init__"):
                yield f"{where}: `import aitken` must not load {target[0]}"
            if target[0] != "aitken" or len(target) < 2:
                continue
            other = target[1]
            public = not other.startswith("_") and (
                (package / other).is_dir() or (package / f"{other}.py").is_file()
            )
            if not public or other == unit or unit in PYTHON_TOP:
                continue
            if private:
                yield f"{where}: a private module may not import aitken.{other}"
            elif (unit, other) not in SIDEWAYS:
                yield f"{where}: aitken.{unit} may not import aitken.{other}"


def main(arguments: list[str]) -> int:
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1]
    problems = [*check_cpp(root / "csrc"), *check_python(root / "python" / "aitken")]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
