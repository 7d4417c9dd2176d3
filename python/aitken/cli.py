"""The command line: ``aitken info | demo | datagen | bench | verify``."""

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


def _option(text: str) -> tuple[str, object]:
    """``NAME=VALUE`` with the value read as JSON where it is JSON, as text otherwise."""
    import json

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"NAME=VALUE is needed, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _datagen(args: argparse.Namespace) -> int:
    import warnings

    from . import get_num_threads
    from ._errors import ConvergenceWarning
    from .datagen import generate

    if ":" in args.kind and "" not in sys.path:
        sys.path.insert(0, "")  # a user's module in the current folder
    by_suffix = {".npz": "npz", ".pt": "neuralop"}
    parts = f"{args.out}.parts"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # said below, and by the exit status
            r = generate(
                args.kind,
                args.n,
                args.grid[0] if len(args.grid) == 1 else args.grid,
                args.out,
                seed=args.seed,
                rtol=args.rtol,
                layout=args.layout or by_suffix.get(Path(args.out).suffix.lower(), "fno"),
                resume=args.resume,
                overwrite=args.overwrite,
                executor=args.workers or get_num_threads(),
                solver=args.solver,
                progress=not args.quiet and sys.stderr.isatty(),
                **dict(args.option),
            )
    except KeyboardInterrupt:
        hint = f"; {parts} holds what is done, --resume goes on from there" if os.path.isdir(parts) else ""
        print(f"aitken datagen: interrupted{hint}", file=sys.stderr)
        return 130
    except (TypeError, ValueError, OSError, ImportError) as error:
        print(f"aitken datagen: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if not args.quiet:
        resumed = f", {r.n_resumed} of them found published" if r.n_resumed else ""
        print(
            f"{r.path}: {r.n} samples of {r.kind} with {r.n_unknowns} unknowns{resumed}; "
            f"solver {r.solver}, largest relative residual {r.residual_max:.2g}, {r.seconds:.1f} s"
        )
    if r.n_failed:
        print(
            f"aitken datagen: {r.n_failed} of {r.n} samples are above the tolerance {r.rtol:g} "
            f"({r.message}); their `status` in the file is not 0",
            file=sys.stderr,
        )
        return 1
    return 0


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
        "datagen",
        help="make training data for neural operators; can be killed and resumed",
        description="Sample, assemble and solve N systems of a family and write them as one data set.",
    )
    sub.add_argument(
        "kind",
        metavar="KIND",
        help="darcy, darcy-published, helmholtz, helmholtz-published, poisson, thermal, darcy3d, "
        "convection-diffusion, or a user's MODULE:FUNCTION",
    )
    sub.add_argument("--n", type=int, required=True, metavar="N", help="number of samples")
    sub.add_argument(
        "--grid", type=int, nargs="+", required=True, metavar="G", help="points per side, or per axis"
    )
    sub.add_argument("--out", required=True, metavar="FILE", help="the data set to write")
    sub.add_argument(
        "--seed", type=int, default=0, metavar="S", help="sample i depends on S and i (default 0)"
    )
    sub.add_argument(
        "--rtol", type=float, default=1e-8, metavar="R", help="tolerance of the relative residual (1e-8)"
    )
    sub.add_argument(
        "--layout",
        choices=("fno", "pdebench", "npz", "neuralop"),
        help="names and format of what is written (default by FILE: .npz npz, .pt neuralop, else fno)",
    )
    again = sub.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an unfinished run of these options")
    again.add_argument("--overwrite", action="store_true", help="replace FILE, drop an unfinished run")
    sub.add_argument(
        "--workers", type=int, metavar="W", help="chains solved at the same time (default: all CPUs)"
    )
    sub.add_argument("--solver", default="auto", metavar="NAME", help="solver of the systems (default auto)")
    sub.add_argument(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the family, e.g. coefficient=rough; repeat for more",
    )
    sub.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    sub.set_defaults(run=_datagen)

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
        The exit status: 0 success; 1 a check failed or a sample missed its tolerance; 2 wrong usage,
        something needed is missing, or files cannot be read or written; 130 interrupted.
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
