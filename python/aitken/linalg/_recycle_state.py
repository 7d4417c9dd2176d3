"""The space that recycling solvers carry from one system to the next."""

from __future__ import annotations

import json
import os
import zipfile
from typing import Any

import numpy as np

from .. import _files

_FORMAT = 1


class RecycleState:
    """Vectors carried from one solve to the next, and what they were made with.

    Pass one object to consecutive calls of `gcrodr`, `rcg` or `rminres` for related systems; each call starts
    from what it holds and leaves what it learned. A fresh state is empty.

    Attributes
    ----------
    U : ndarray, shape (n, k), or None
        The carried vectors, as columns.
    C : ndarray, shape (n, k), or None
        Their images under the operator they were made with.
    k, n : int
        Shape of `U`; 0 while empty.
    dtype : dtype or None
        float64 or complex128.
    generation : int
        Solves that have updated the state.
    stats : dict
        Sums over those solves: ``solves``, ``iterations``, ``matvecs``, ``recycled_vectors``.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import RecycleState, gcrodr
    >>> A = sp.diags_array([-1.0, 2.1, -1.2], offsets=[-1, 0, 1], shape=(400, 400), format="csr")
    >>> state = RecycleState()
    >>> rng = np.random.default_rng(0)
    >>> cold = gcrodr(A, rng.normal(size=400), recycle=state)
    >>> warm = gcrodr(A, rng.normal(size=400), recycle=state)
    >>> state.k > 0, warm.nit < cold.nit
    (True, True)
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.U: np.ndarray | None = None
        self.C: np.ndarray | None = None
        self.generation = 0
        self.stats = {"solves": 0, "iterations": 0, "matvecs": 0, "recycled_vectors": 0}
        self._matrix: Any = None  # what C was made with, to recognise the same matrix

    @property
    def k(self) -> int:
        """Vectors held."""
        return 0 if self.U is None else int(self.U.shape[1])

    @property
    def n(self) -> int:
        """Their length."""
        return 0 if self.U is None else int(self.U.shape[0])

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Their type."""
        return None if self.U is None else self.U.dtype

    @property
    def device(self) -> str:
        """Where they are."""
        return "cpu"

    def copy(self) -> RecycleState:
        """An independent copy."""
        other = RecycleState()
        other.U = None if self.U is None else self.U.copy(order="F")
        other.C = None if self.C is None else self.C.copy(order="F")
        other.generation = self.generation
        other.stats = dict(self.stats)
        other._matrix = self._matrix
        return other

    def vectors(self, n: int, dtype: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
        """`U` and `C` for `n` unknowns in `dtype`, column-major; ValueError if they do not fit."""
        if self.U is None:
            return None, None
        if self.n != n:
            raise ValueError(
                f"`recycle` holds vectors of length {self.n}; the system has {n} unknowns. "
                "Clear it, or use another state"
            )
        if self.U.dtype.kind == "c" and np.dtype(dtype).kind != "c":
            raise ValueError("`recycle` holds complex vectors, but the system is real")
        convert = [None if v is None else np.asarray(v, dtype=dtype, order="F") for v in (self.U, self.C)]
        return convert[0], convert[1]

    def same_matrix(self, token: Any) -> bool:
        """Whether `C` was made with the matrix of `token`."""
        return self.C is not None and self._matrix is not None and tokens_equal(self._matrix, token)

    def update(
        self, U: np.ndarray | None, C: np.ndarray | None, token: Any, nit: int, matvecs: int, used: int
    ) -> None:
        """Take over what a solve left."""
        self.U, self.C, self._matrix = U, C, token
        self.generation += 1
        self.stats["solves"] += 1
        self.stats["iterations"] += int(nit)
        self.stats["matvecs"] += int(matvecs)
        self.stats["recycled_vectors"] += int(used)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to an npz file (written beside, then renamed: never half a file)."""
        head = {"format": _FORMAT, "generation": self.generation, "stats": self.stats}
        _files.save_npz(path, head, {} if self.U is None else {"U": self.U})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RecycleState:
        """Read what `save` wrote. The images `C` are not kept: the first solve makes them anew."""
        state = cls()
        path = os.fspath(path)
        try:
            with open(path, "rb") as stream:
                file = np.load(stream, allow_pickle=False)
                head = json.loads(bytes(file["head"]).decode())
                U = np.asfortranarray(file["U"]) if "U" in file else None
        except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"`path` {path!r} is not a saved RecycleState: {error}") from None
        if head.get("format") != _FORMAT:
            raise ValueError(f"`path` {path!r} has format {head.get('format')}; {_FORMAT} is needed")
        state.generation = int(head["generation"])
        state.stats.update(head["stats"])
        if U is not None:
            if U.ndim != 2 or U.dtype not in (np.float64, np.complex128):
                raise ValueError(f"`path` {path!r} holds vectors of shape {U.shape} and dtype {U.dtype}")
            if not np.isfinite(U).all():
                raise ValueError(f"`path` {path!r} holds vectors with NaN or Inf")
            state.U = U
        return state

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["_matrix"] = None  # may hold what cannot be pickled; C is then made anew
        state["C"] = None
        return state

    def __repr__(self) -> str:
        if self.U is None:
            return "RecycleState(empty)"
        return f"RecycleState(n={self.n}, k={self.k}, dtype={self.dtype}, generation={self.generation})"


def matrix_token(system: Any, M: Any = None) -> Any:
    """What identifies a matrix (and preconditioner): its arrays, or the object of a matrix-free operator."""
    if getattr(system, "csr", None) is not None:
        return (tuple(np.array(part) for part in system.csr), M)
    return (system.operator, M)


def tokens_equal(a: Any, b: Any) -> bool:
    """Whether two tokens name one matrix and preconditioner."""
    if a[1] is not b[1]:
        return False
    if isinstance(a[0], tuple) and isinstance(b[0], tuple):
        return all(
            x.shape == y.shape and x.dtype == y.dtype and np.array_equal(x, y)
            for x, y in zip(a[0], b[0], strict=True)
        )
    return a[0] is b[0]


__all__ = ["RecycleState"]
