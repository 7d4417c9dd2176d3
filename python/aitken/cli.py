"""The command line: ``aitken info | demo | bench | verify``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def _info(args: argparse.Namespace) -> int:
    import json

    from . import info

    facts = info()
    print(json.dumps(facts, indent=2) if args.json else facts)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from ._demo import run

    return run(fast=args.fast, html=args.html)


def _verify(args: argparse.Namespace) -> int:
    from ._verify import run

    return run(quick=args.quick)


def _source_root() -> Path | None:
    """The source checkout: the current folder or one above it, or the one this file lies in."""
    here = Path.cwd()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        if (folder / "bench" / "_harness.py").is_file() and (folder / "pyproject.toml").is_file():
            return folder
    return None


def _bench(args: argparse.Namespace) -> int:
    root = _source_root()
    if root is None:
        print(
            "aitken bench: the benchmarks are part of the source checkout and not of an installation; "
            "run it inside a checkout, with the peers from pip install '.[bench]'",
            file=sys.stderr,
        )
        return 2
    stems = sorted(
        path.stem for path in (root / "bench").glob("*.py") if path.stem not in ("_harness", "report")
    )
    if args.stem not in stems:
        print(f"aitken bench: no benchmark {args.stem!r}; there is {', '.join(stems)}", file=sys.stderr)
        return 2
    # A fresh process: the threads have to be pinned before NumPy loads.
    package = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, str(root / "bench" / f"{args.stem}.py"), *args.options]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


def parser() -> argparse.ArgumentParser:
    """The argument parser of the command ``aitken``."""
    from . import __version__

    top = argparse.ArgumentParser(
        prog="aitken", description="Solvers for sequences and batches of related problems."
    )
    top.add_argument("--version", action="version", version=f"aitken {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    sub = commands.add_parser(
        "info", help="versions, SIMD level, threads, LAPACK; whether the GPU works, and why not"
    )
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(run=_info)

    sub = commands.add_parser(
        "demo", help="solve real problems against SciPy and the installed peers; writes an HTML report"
    )
    sub.add_argument("--fast", action="store_true", help="smaller problems, about ten seconds")
    sub.add_argument(
        "--html",
        metavar="FILE",
        default="aitken-demo.html",
        help="where to write the report with the pictures (default aitken-demo.html; needs matplotlib)",
    )
    sub.set_defaults(run=_demo)

    sub = commands.add_parser(
        "bench",
        help="run a benchmark of the source checkout against its peers",
        description="Run bench/STEM.py of the source checkout; options after STEM go to it.",
    )
    sub.add_argument("stem", metavar="STEM", help="the system, for example: ot")
    sub.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="...", help="options of the benchmark, e.g. --quick"
    )
    sub.set_defaults(run=_bench)

    sub = commands.add_parser("verify", help="self-test of this installation, about 30 seconds")
    sub.add_argument("--quick", action="store_true", help="this process's SIMD level and threads only")
    sub.set_defaults(run=_verify)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; default `sys.argv`.

    Returns
    -------
    int
        The exit status: 0 success, 1 a check failed, 2 wrong usage or something needed is missing.
    """
    args = parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader went away, as in `aitken info | head`
        sys.stdout = open(os.devnull, "w")
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
