"""A hundred million entries completed from the disk, with the memory that this takes.

    python examples/completion_out_of_core.py                # 10^8 entries: two minutes, 1.6 GB of disk
    python examples/completion_out_of_core.py --rows 2000    # 2 10^6

Entries are made in chunks, written once, and read block by block, twice per sweep. What stays in memory are
the factors, one block, and what one sort takes while writing.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator

import numpy as np

from aitken.completion import EntryStore, matrix_completion

PER_ROW = 1000  # entries of each row, at distinct columns
NOISE = 0.1


def peak() -> float:
    """Most memory resident so far, pages of mapped files among it, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def chunks(
    U: np.ndarray, V: np.ndarray, step: int = 2000
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Entries of ``U @ V.T`` and noise, `step` rows at a time."""
    for first in range(0, len(U), step):
        rows = np.arange(first, min(first + step, len(U)))
        rng = np.random.default_rng(first)
        start = rng.integers(0, len(V), len(rows))
        cols = (start[:, None] + 37 * np.arange(PER_ROW)) % len(V)
        values = np.einsum("ik,ijk->ij", U[rows], V[cols])
        values += NOISE * rng.standard_normal(cols.shape, dtype=np.float32)
        yield np.repeat(rows, PER_ROW), cols.ravel(), values.ravel()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=50_000, help="37 * 1000 at least")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--sweeps", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    U, V = (
        rng.standard_normal((n, args.rank), dtype=np.float32) / np.float32(args.rank**0.25)
        for n in (args.rows, args.columns)
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        store = EntryStore.write(folder, chunks(U, V), shape=(args.rows, args.columns))
        print(f"wrote {store.nnz:.3g} entries in {time.perf_counter() - start:.1f} s; peak {peak():.2f} GiB")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fixed number of sweeps does not converge
            result = matrix_completion(
                store, args.rank, lam=1.0, inner="cg", maxiter=args.sweeps, tol=0.0, finalize=False, rng=0
            )
    for sweep, (seconds, rmse) in enumerate(
        zip(result.history["time"], result.history["rmse_train"], strict=True), 1
    ):
        print(f"sweep {sweep}: {seconds:6.1f} s, training RMSE {rmse:.4f} (noise {NOISE})")
    print(f"peak {peak():.2f} GiB")


if __name__ == "__main__":
    main()
