"""Check that the per-ISA object files share no symbol with the rest of the module.

The linker keeps one copy of a weak symbol (an inline function, a template, a vague-linkage constant) for
the whole module. If that copy came from the AVX-512 file, older processors would crash in code that never
asked for AVX-512. So each per-ISA object may define its table and nothing else that another object can see.

Usage: check_isa_symbols.py OBJECT...        (base.o, v3.o, v4.o, bf16.o; exit status 1 names what is wrong)
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys

TABLE = re.compile(r"_?aitken_simd_(base|v3|v4|bf16)")  # Mach-O puts an underscore in front
WEAK = set("WwVvu")  # GNU unique symbols (u) are merged across objects just as weak ones are


def problems(path: str, nm: str) -> list[str]:
    """Describe what is wrong with one object file.

    Parameters
    ----------
    path : str
        Object file to read.
    nm : str
        The nm program.

    Returns
    -------
    list of str
        One line per offending symbol; empty if the object is clean.
    """
    run = subprocess.run([nm, "-P", path], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        return [f"{nm} failed: {run.stderr.strip()}"]
    found = []
    tables = []
    for line in run.stdout.splitlines():
        name, kind, *_ = line.split()
        if kind in WEAK:
            found.append(f"weak symbol {name} ({kind})")
        elif kind == "U":
            if name.startswith(("_Z", "__Z")):
                found.append(f"undefined C++ symbol {name}: code shared with other files")
        elif kind.isupper() and TABLE.fullmatch(name):
            tables.append(name)
        elif kind.isupper() and kind not in "AN":
            found.append(f"global symbol {name} ({kind})")
    if len(tables) != 1:
        found.append(f"expected one table aitken_simd_LEVEL, found {tables or 'none'}")
    return found


def main() -> int:
    """Check every object named on the command line.

    Returns
    -------
    int
        Exit status: 0 if all are clean, 1 otherwise.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("objects", nargs="+", metavar="OBJECT")
    parser.add_argument("--nm", default=os.environ.get("NM", "nm"), help="nm program (default: $NM or nm)")
    args = parser.parse_args()
    bad = 0
    for path in args.objects:
        for line in problems(path, args.nm):
            print(f"{path}: {line}")
            bad += 1
    if bad == 0:
        print(f"{len(args.objects)} per-ISA objects share no symbol")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
