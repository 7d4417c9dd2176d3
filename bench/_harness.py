"""What every benchmark shares: pinned threads, machine facts, ceilings, fair timing, isolation, tables, JSON.

A benchmark calls `pin_threads()` before it imports NumPy, then `arguments()`, then fills a `Report` and
ends with ``sys.exit(report.finish())``. Exit status: 0 done, 2 the device asked for is not there, 3 a peer is
missing.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
NO_DEVICE, MISSING_PEER = 2, 3


# ---------------------------------------------------------------------------------------- set-up


def pin_threads(argv: Sequence[str] | None = None) -> int:
    """Set the thread variables from ``--threads`` (default 1); libraries read them when they load."""
    if "numpy" in sys.modules:
        raise RuntimeError("pin_threads() must run before NumPy is imported")
    threads = early_threads(argv)
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    return threads


def early_threads(argv: Sequence[str] | None = None) -> int:
    """The value of ``--threads``, before the other options are parsed."""
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--threads", type=int, default=1)
    return int(early.parse_known_args(argv)[0].threads)


def arguments(description: str, extra: Callable[[argparse.ArgumentParser], None] | None = None) -> Any:
    """Parse the options that all benchmarks have, and those that `extra` adds."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a short run, a minute or so")
    parser.add_argument("--json", metavar="FILE", help="write the results there, with machine facts")
    parser.add_argument(
        "--update", action="store_true", help="keep the problems that FILE holds and this run leaves out"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of ours and of the peers (default 1)")
    parser.add_argument("--only", metavar="REGEX", default="", help="problems whose name matches")
    if extra is not None:
        extra(parser)
    return parser.parse_args()


def import_peers(names: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Import ``{module: distribution}``; returns the modules found and the distributions missing."""
    found, missing = {}, []
    for module, distribution in names.items():
        try:
            found[module] = importlib.import_module(module)
        except ImportError:
            missing.append(distribution)
    return found, missing


# -------------------------------------------------------------------------------------- machine facts


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^(model name|cpu family|model|vendor_id)\s*:\s*(.+)$", text, re.MULTILINE))
    name = fields.get("model name", platform.machine())
    if "cpu family" in fields:  # virtual machines often hide the number behind the brand
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    return name


def cpu_slug() -> str:
    """Short file name for this CPU: brand, family and SIMD level."""
    import aitken

    words = re.sub(r"[^a-z0-9]+", "-", _cpu_model().lower()).strip("-")
    return f"{words}-{aitken.info()['simd']['level']}"


def machine_facts(threads: int, distributions: Sequence[str]) -> dict[str, Any]:
    """Everything that a reader needs to judge the seconds."""
    import aitken

    info = aitken.info()
    versions = {}
    for name in ("numpy", "scipy", *distributions):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    facts = {
        "cpu": _cpu_model(),
        "cpus": info["threads"]["cpus"],
        "threads": threads,
        "simd": info["simd"]["level"],
        "compiler": info["build"]["compiler"],
        "build_type": info["build"]["build_type"],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "aitken": info["aitken"],
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }
    try:
        import threadpoolctl
    except ImportError:
        return facts
    facts["pools"] = [
        f"{pool['internal_api']} {pool.get('version') or ''} x{pool['num_threads']}".replace("  ", " ")
        for pool in threadpoolctl.threadpool_info()
    ]
    return facts


def ceilings(threads: int = 1, quick: bool = False) -> dict[str, float]:
    """What this machine can do, measured now: bandwidth, exponentials, matrix products.

    ``triad_gbs``: ``y += s x`` (24 bytes per element: two reads, one write), arrays far beyond the caches;
    ``exp_ns`` and ``exp_numpy_ns``: one double exponential by our row kernel (cost and plan in the second
    level cache) and by NumPy; ``sgemm_gflops``: a square single-precision product.
    """
    import numpy as np
    from scipy.linalg.blas import daxpy

    size = 4_000_000 if quick else 16_000_000
    x, y = np.ones(size), np.ones(size)
    with blas_threads(threads):
        triad = timed(lambda: daxpy(x, y, a=1.0000001), repeats=7)
        side = 1024 if quick else 2048
        A = np.ones((side, side), dtype=np.float32)
        out = np.empty_like(A)
        sgemm = timed(lambda: np.matmul(A, A, out=out), repeats=5)
    rows, cols = 64, 512
    cost = np.linspace(0.0, 1.0, rows * cols).reshape(rows, cols)
    plan = np.empty((rows, cols))

    def numpy_exp() -> None:
        for _ in range(32):
            np.exp(cost, out=plan)

    return {
        "triad_gbs": 24e-9 * size / triad.min,
        "exp_ns": exp_ceiling(),
        "exp_numpy_ns": 1e9 * timed(numpy_exp, repeats=7).min / (32 * rows * cols),
        "sgemm_gflops": 2e-9 * side**3 / sgemm.min,
    }


def exp_ceiling() -> float:
    """Nanoseconds of one double exponential by our row kernel, one thread, data in the second-level cache."""
    import numpy as np

    from aitken import _core

    rows, cols = 64, 512
    cost = np.linspace(0.0, 1.0, rows * cols).reshape(rows, cols)
    zero_x, zero_y, plan = np.zeros(rows), np.zeros(cols), np.empty((rows, cols))

    def own_exp() -> None:
        for _ in range(32):
            _core.ot_plan_rows(cost, 0.1, zero_x, zero_y, 0, plan, 1)

    return 1e9 * timed(own_exp, repeats=7).min / (32 * rows * cols)


def triad(threads: int) -> float:
    """GB/s of ``y += s x`` far beyond the caches, BLAS on that many threads."""
    import numpy as np
    from scipy.linalg.blas import daxpy

    size = 16_000_000
    x, y = np.ones(size), np.ones(size)
    with blas_threads(threads):
        return 24e-9 * size / timed(lambda: daxpy(x, y, a=1.0000001), repeats=7).min


def blas_threads(threads: int) -> Any:
    """Context in which the BLAS libraries use that many threads (threadpoolctl)."""
    import contextlib

    try:
        import threadpoolctl
    except ImportError:  # the environment variables still hold
        return contextlib.nullcontext()
    return threadpoolctl.threadpool_limits(threads, user_api="blas")


# -------------------------------------------------------------------------------------------- timing


@dataclass
class Timing:
    """Seconds of several runs."""

    runs: list[float] = field(default_factory=list)

    @property
    def min(self) -> float:
        return min(self.runs)

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def to_json(self) -> dict[str, Any]:
        return {"min": self.min, "median": self.median, "runs": len(self.runs)}


def timed(
    work: Callable[[], Any], *, repeats: int = 7, budget: float = float("inf"), warm: bool = True
) -> Timing:
    """Time `work` up to `repeats` times, at least once, stopping early once `budget` seconds are spent."""
    if warm:
        work()
    timing = Timing()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            timing.runs.append(time.perf_counter() - start)
            if sum(timing.runs) > budget:
                break
    finally:
        if enabled:
            gc.enable()
    return timing


# ----------------------------------------------------------------------------------------- isolation


def _serve(connection: Any, function: Callable[[Any], Iterator[Any]]) -> None:
    connection.send(("ready", None))
    for job in iter(connection.recv, None):
        try:
            for sample in function(job):
                connection.send(("sample", sample))
            connection.send(("end", None))
        except Exception as error:
            connection.send(("error", f"{type(error).__name__}: {error}"))


class Isolated:
    """A child process for solvers that may take for ever, or take the process down with them.

    ``function(job)`` is a generator that yields one sample per solve; `run` gathers the samples and ends the
    child when one of them takes longer than `limit` seconds. The child lives on between jobs.
    """

    def __init__(self, function: Callable[[Any], Iterator[Any]]) -> None:
        self._function = function
        self._process: Any = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._function), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()  # ready: what it imports first is on nobody's clock

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def run(self, job: Any, limit: float) -> tuple[list[Any], str]:
        """Return the samples and ``"ok"``, ``"timeout"`` or the error's text."""
        if self._process is None:
            self._start()
        self._connection.send(job)
        samples: list[Any] = []
        while True:
            try:
                if not self._connection.poll(limit):
                    self.close()
                    return samples, "timeout"
                kind, value = self._connection.recv()
            except EOFError:
                self.close()
                return samples, "the process died"
            if kind == "sample":
                samples.append(value)
            else:
                return samples, "ok" if kind == "end" else value

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# ---------------------------------------------------------------------------------------- tables and JSON


def seconds(value: float | None) -> str:
    """Seconds with three digits, in a unit that suits them."""
    if value is None:
        return "-"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.2g} s"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned text: the first `left` columns and the last to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    last = len(header) - 1

    def line(cells: Sequence[str]) -> str:
        parts = (
            cell.ljust(width) if k < left or k == last else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(parts).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


class Report:
    """Collects problems, prints the head and the end of a run, writes the JSON file."""

    def __init__(self, stem: str, args: Any, distributions: Sequence[str]) -> None:
        self.args = args
        self.missing: list[str] = []
        self.data: dict[str, Any] = {
            "bench": stem,
            "quick": args.quick,
            "device": args.device,
            "machine": machine_facts(args.threads, distributions),
            "ceilings": ceilings(args.threads, args.quick),
            "problems": [],
        }
        facts, limits = self.data["machine"], self.data["ceilings"]
        print(f"aitken {facts['aitken']}  {stem}  {facts['date']}")
        print(f"{facts['cpu']}, {facts['cpus']} CPUs; SIMD level {facts['simd']}; {facts['compiler']}")
        versions = ", ".join(f"{name} {version or 'missing'}" for name, version in facts["versions"].items())
        print(f"threads {facts['threads']} ({'; '.join(facts.get('pools', ['pools unknown']))})")
        print(f"Python {facts['python']}, {versions}")
        print(
            f"ceilings: triad {limits['triad_gbs']:.1f} GB/s, exp {limits['exp_ns']:.2f} ns (NumPy "
            f"{limits['exp_numpy_ns']:.2f}), sgemm {limits['sgemm_gflops']:.0f} GFLOP/s\n",
            flush=True,
        )

    def add(self, problem: dict[str, Any]) -> None:
        """Add one finished problem (a dict with a ``name``)."""
        load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None  # others on this machine?
        others = [known for known in self.data["problems"] if known["name"] != problem["name"]]
        new = {**problem, "ceilings": self.data["ceilings"], "load": load}
        self.data["problems"] = [*others, new]

    def save(self) -> None:
        """Write the file as far as it is, so that a run that is cut off keeps its finished problems."""
        if not self.args.json:
            return
        path = Path(self.args.json)
        if self.args.update and path.exists():
            old = json.loads(path.read_text(encoding="utf-8"))
            mine = {problem["name"] for problem in self.data["problems"]}
            kept = [problem for problem in old["problems"] if problem["name"] not in mine]
            merged = kept + self.data["problems"]
            self.data["problems"] = sorted(merged, key=lambda problem: problem.get("order", 0))
            for key, value in old.items():
                self.data.setdefault(key, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.data, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def finish(self) -> int:
        """Write the file, name missing peers, return the exit status."""
        self.save()
        if self.args.json:
            print(f"written to {self.args.json}")
        if self.missing:
            print(f"missing peers: {', '.join(self.missing)}; pip install '.[bench]'", file=sys.stderr)
            return MISSING_PEER
        return 0
