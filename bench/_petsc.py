"""PETSc's side of bench/krylov.py, as a program of its own: PETSc mostly lives in another environment.

    python bench/_petsc.py SYSTEMS.npz ANSWERS.npz

needs NumPy and petsc4py alone, and prints one line of JSON. Each solver gets every system in turn with the
true residual as its norm, a setting for each `rtol` in the file, and keeps its solver object, its
preconditioner's pattern and the last answer's space (HPDDM's GCRO-DR) from system to system. Seconds are CPU
seconds.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from petsc4py import PETSc

ILU = {"pc_type": "ilu"}
SOLVERS = {
    "PETSc gmres+ilu(0)": {"ksp_type": "gmres", "ksp_gmres_restart": 40, **ILU},
    "PETSc lgmres+ilu(0)": {"ksp_type": "lgmres", "ksp_gmres_restart": 40, "ksp_lgmres_augment": 3, **ILU},
    "PETSc bcgs+ilu(0)": {"ksp_type": "bcgs", **ILU},
    "PETSc cg+icc(0)": {"ksp_type": "cg", "pc_type": "icc"},
    "PETSc cg+hypre": {"ksp_type": "cg", "pc_type": "hypre"},
    "PETSc gmres+hypre": {"ksp_type": "gmres", "ksp_gmres_restart": 40, "pc_type": "hypre"},
    "HPDDM gcrodr+ilu(0)": {
        "ksp_type": "hpddm",
        "ksp_hpddm_type": "gcrodr",
        "ksp_gmres_restart": 40,
        "ksp_hpddm_recycle": 20,
        **ILU,
    },
}
SPD_ONLY = ("PETSc cg+icc(0)", "PETSc cg+hypre")
OTHERS_ONLY = ("PETSc gmres+hypre", "PETSc lgmres+ilu(0)")


def solve_all(
    options: dict[str, object], work: dict[str, np.ndarray], rtol: float, limit: float, X: np.ndarray
) -> tuple[float, list[int]]:
    """Solve the systems in turn until `limit` seconds are spent; answers go to `X`."""
    indptr, indices = work["indptr"].astype(PETSc.IntType), work["indices"].astype(PETSc.IntType)
    data, b = work["data"], work["b"]
    n, iterations, spent, A = indptr.size - 1, [], 0.0, None
    database = PETSc.Options()
    for key, value in options.items():
        database[key] = value
    ksp = PETSc.KSP().create(PETSc.COMM_SELF)
    for i in range(max(len(a) for a in (data, b) if a.ndim == 2)):
        start = time.process_time()
        values = data if data.ndim == 1 else data[i]
        if A is None:
            rows = (indptr, indices, values.copy())
            A = PETSc.Mat().createAIJWithArrays((n, n), rows, comm=PETSc.COMM_SELF)
            ksp.setOperators(A)
            ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
            if options["ksp_type"] != "cg":
                ksp.setPCSide(PETSc.PC.Side.RIGHT)
            ksp.setTolerances(rtol=rtol, atol=0.0, max_it=20000)
            ksp.setFromOptions()
            ksp.setInitialGuessNonzero(bool(work["warm"]))
            x, y = A.createVecs()
            x.set(0.0)
        elif data.ndim == 2:
            A.setValuesCSR(indptr, indices, values)
            A.assemble()
            ksp.setOperators(A)
        y.setArray(b if b.ndim == 1 else b[i])
        if not work["warm"]:
            x.set(0.0)
        ksp.solve(y, x)
        X[i] = x.getArray()
        spent += time.process_time() - start
        iterations.append(ksp.getIterationNumber())
        if spent > limit:
            break
    for key in options:
        database.delValue(key)
    ksp.destroy()
    return spent, iterations


def main(source: str, target: str) -> int:
    work = dict(np.load(source))
    n = work["indptr"].size - 1
    count = max(len(a) for a in (work["data"], work["b"]) if a.ndim == 2)
    target_rtol, limit = float(work["rtol"]), float(work["limit"])
    rows, answers = {}, {}
    for k, (name, options) in enumerate(SOLVERS.items()):
        if name in (OTHERS_ONLY if work["spd"] else SPD_ONLY):
            continue
        try:
            rtol = target_rtol
            for _ in range(4):
                X = np.full((count, n), np.nan)
                spent, iterations = solve_all(options, work, rtol, limit, X)
                reached = worst(work, X[: len(iterations)])
                if reached <= target_rtol or spent > limit or not reached < 1e3 * target_rtol:
                    break
                rtol *= 0.3
            rows[name] = {"seconds": spent / len(iterations), "nit": iterations, "rtol": rtol, "key": f"x{k}"}
            answers[f"x{k}"] = X[: len(iterations)]
        except PETSc.Error as error:  # this build of PETSc lacks it, or it broke down
            rows[name] = {"error": str(error).splitlines()[0]}
    np.savez(target, **answers)
    print(json.dumps({"version": ".".join(map(str, PETSc.Sys.getVersion())), "rows": rows}))
    return 0


def worst(work: dict[str, np.ndarray], X: np.ndarray) -> float:
    """Largest relative residual of answers, by NumPy."""
    data, b, indices = work["data"], work["b"], work["indices"]
    row = np.repeat(np.arange(work["indptr"].size - 1), np.diff(work["indptr"]))
    largest = 0.0
    for i, x in enumerate(X):
        rhs = b if b.ndim == 1 else b[i]
        image = np.bincount(row, (data if data.ndim == 1 else data[i]) * x[indices], rhs.size)
        largest = max(largest, float(np.linalg.norm(rhs - image) / np.linalg.norm(rhs)))
    return largest


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
