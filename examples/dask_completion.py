"""Matrix completion over workers: the fixed factor goes to all, row blocks to each, answers are put together.

    python examples/dask_completion.py                  # Dask where it is installed, else a pool of processes
    python examples/dask_completion.py threads 3000     # a pool of threads; rows and columns

`als_half_sweep` is pure, and what a row gets does not depend on its block: any scheduler that maps will do.
Prints the training error by sweep, and checks the factors against `matrix_completion` on this machine alone.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from aitken import ConvergenceWarning
from aitken.completion import als_half_sweep, matrix_completion
from aitken.datasets import power_law_pattern

RANK, LAM, SWEEPS, WORKERS = 16, 2.0, 10, 2
Map = Callable[[list[Any], Any, list[Any]], list[Any]]


def solve_block(block: Any, fixed: Any, start: Any) -> Any:
    """One task: the rows of a block, by their normal equations."""
    return als_half_sweep(block, fixed, start, lam=LAM, n_threads=1)


def pool_map(pool: Any) -> Map:
    """Tasks of a pool; each gets a copy of the fixed factor (threads: the same one)."""
    return lambda blocks, fixed, starts: list(pool.map(solve_block, blocks, [fixed] * len(blocks), starts))


def dask_map(client: Any) -> Map:
    """Tasks of a Dask cluster; the fixed factor is sent to every worker once."""

    def run(blocks: list[Any], fixed: Any, starts: list[Any]) -> list[Any]:
        there = client.scatter(fixed, broadcast=True)
        futures = [client.submit(solve_block, b, there, s) for b, s in zip(blocks, starts, strict=True)]
        return list(client.gather(futures))

    return run


@contextmanager
def _dask() -> Any:
    from distributed import Client, LocalCluster

    # A cluster elsewhere: Client("tcp://scheduler:8786").
    with LocalCluster(n_workers=WORKERS, threads_per_worker=1) as cluster, Client(cluster) as client:
        yield dask_map(client)


@contextmanager
def _pool(kind: Any) -> Any:
    with kind(WORKERS) as pool:
        yield pool_map(pool)


def workers(name: str) -> AbstractContextManager[Map]:
    """The map of a scheduler by name: "dask", "processes" or "threads"."""
    if name == "dask":
        return _dask()
    return _pool({"processes": ProcessPoolExecutor, "threads": ThreadPoolExecutor}[name])


def blocks_of(A: Any, count: int) -> list[Any]:
    """Row blocks with about the same number of entries each."""
    cuts = np.searchsorted(A.indptr, np.linspace(0, A.nnz, count + 1))
    cuts[0], cuts[-1] = 0, A.shape[0]
    return [A[i:j] for i, j in pairwise(cuts) if j > i]


def complete(A: Any, U: Any, V: Any, run: Map, blocks: int = 8) -> tuple[Any, Any]:
    """`SWEEPS` sweeps from U and V; prints the training error after each."""
    rows, columns = blocks_of(A, blocks), blocks_of(sparse.csr_array(A.T), blocks)
    entries = A.tocoo()

    def half(parts: list[Any], fixed: Any, moving: Any) -> Any:
        starts = np.split(moving, np.cumsum([part.shape[0] for part in parts])[:-1])
        return np.concatenate(run(parts, fixed, starts))

    for sweep in range(SWEEPS):
        begin = time.perf_counter()
        V = half(columns, U, V)
        U = half(rows, V, U)
        left = entries.data - np.einsum("ij,ij->i", U[entries.row], V[entries.col])
        seconds = time.perf_counter() - begin
        print(f"  sweep {sweep + 1:>2}   RMSE {np.sqrt(np.mean(left**2)):.6f}   {seconds:.3f} s", flush=True)
    return U, V


def problem(n: int) -> Any:
    """Entries of very uneven degrees, rank 8 and noise."""
    rows, cols = power_law_pattern(n, n // 3, draws=40 * n)
    rng = np.random.default_rng(1)
    U, V = (rng.standard_normal((size, 8)) / 8**0.25 for size in (n, n // 3))
    vals = np.einsum("ij,ij->i", U[rows], V[cols]) + 0.3 * rng.standard_normal(len(rows))
    return sparse.csr_array((vals, (rows, cols)), shape=(n, n // 3))


def main() -> int:
    has_dask = importlib.util.find_spec("distributed") is not None
    name = sys.argv[1] if len(sys.argv) > 1 else "dask" if has_dask else "processes"
    if name not in ("dask", "processes", "threads") or (name == "dask" and not has_dask):
        print(f"no {name!r} here; there is processes, threads{', dask' if has_dask else ''}", file=sys.stderr)
        return 2
    n = int(sys.argv[2]) if len(sys.argv) > 2 else 3000
    A = problem(n)
    rng = np.random.default_rng(0)
    U, V = (rng.standard_normal((size, RANK)) / np.sqrt(RANK) for size in A.shape)
    why = "" if has_dask or len(sys.argv) > 1 else " (Dask is not installed: pip install 'aitken[dask]')"
    print(f"{A.shape[0]} x {A.shape[1]}, {A.nnz} entries, rank {RANK}; {WORKERS} workers by {name}{why}")
    with workers(name) as run:
        U1, V1 = complete(A, U.copy(), V.copy(), run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of sweeps is fixed
        one = matrix_completion(A, RANK, lam=LAM, init=(U, V), inner="exact", maxiter=SWEEPS, tol=0.0)
    apart = float(np.linalg.norm(U1 @ V1.T - one.U @ one.V.T) / np.linalg.norm(one.s))
    print(f"  relative difference from matrix_completion after as many sweeps: {apart:.1e}")
    return 0 if apart < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())
