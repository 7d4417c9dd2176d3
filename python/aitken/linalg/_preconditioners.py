"""Preconditioners as SciPy LinearOperators; all the arithmetic is native."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from .. import _core, _validate
from ._operators import System, as_system

_ARRAYS = ("indptr", "indices", "data")


def _rebuild(kind: type[_Preconditioner], matrix: dict[str, Any], options: dict[str, Any]) -> _Preconditioner:
    pattern = _core.csr_pattern(
        matrix["n"], matrix["n"], matrix["indptr"], matrix["indices"], matrix["data"], "A", "row"
    )
    return kind(
        System(matrix["n"], matrix["data"].dtype, "A", pattern=pattern, **{k: matrix[k] for k in _ARRAYS}),
        **options,
    )


@contextmanager
def _singular() -> Iterator[None]:
    """Checked values can be refused natively for one reason alone: they are singular for the method."""
    try:
        yield
    except ValueError as error:
        raise np.linalg.LinAlgError(str(error)) from None


class _Preconditioner(LinearOperator):
    """An approximation of the inverse of a matrix with known entries.

    Subclasses keep their options in `_options` and say how the native map is made.
    """

    def __init__(self, A: Any, options: dict[str, Any]) -> None:
        system = as_system(A)
        if not system.has_entries:
            raise TypeError("`A` is an operator; a matrix is needed, whose entries are known")
        self._options = options
        self._keep(system)
        super().__init__(dtype=system.dtype, shape=(system.n, system.n))
        maker, arguments = self._recipe(system.n)
        with _singular():
            self._native_map = maker(self._pattern, self._data, *arguments)

    def _keep(self, system: System) -> None:
        """Remember the matrix: its pattern for `update`, its numbers for pickling."""
        self._pattern: Any = system.pattern
        self._indptr = np.array(system.indptr)
        self._indices = np.array(system.indices)
        self._data = np.array(system.data)

    def _recipe(self, n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The native maker, and its arguments after pattern and data."""
        raise NotImplementedError

    def update(self, A: Any) -> Self:
        """Take new values of the same pattern; everything that depends on the pattern alone is kept.

        Parameters
        ----------
        A : sparse array or matrix, or dense array
            Shape (n, n), with entries where the matrix of the constructor has them. float64 for a real
            preconditioner.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            For an operator, or a complex `A` where the preconditioner is real.
        ValueError
            For another shape or pattern, malformed arrays or non-finite values.
        numpy.linalg.LinAlgError
            Where the values admit no such preconditioner (the row is named); it cannot be applied then
            until an update succeeds.
        """
        system = as_system(A, dtype=self.dtype)
        if not system.has_entries:
            raise TypeError("`A` is an operator; a matrix is needed, whose entries are known")
        if system.dtype != self.dtype:
            raise TypeError(f"`A` is complex (dtype {system.dtype}), but the preconditioner is real")
        if system.n != self.shape[0]:
            raise ValueError(f"`A` has shape {(system.n, system.n)}; {self.shape} is needed")
        if not self._pattern.matches(system.indptr, system.indices):
            nnz = system.pattern.nnz if system.pattern is not None else 0
            raise ValueError(
                f"`A` has another pattern ({nnz} entries) than the matrix this preconditioner was made "
                f"for ({self._pattern.nnz} entries); make a new one"
            )
        self._data = np.array(system.data)
        with _singular():
            self._native_map.update(self._data)
        return self

    def _apply(self, x: NDArray[Any], adjoint: bool) -> NDArray[Any]:
        native = self._native_map
        dtype = self.dtype
        if x.dtype.kind == "c" and dtype == np.float64:
            native, dtype = _core.complex_map(native), np.dtype(np.complex128)
        given = np.asfortranarray(x, dtype=dtype)
        out = np.empty_like(given, order="F")
        (native.apply_adjoint if adjoint else native.apply)(given, out)
        return out

    def _matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._apply(x, False)

    def _matmat(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._apply(X, False)

    def _rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._apply(x, True)

    def _rmatmat(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._apply(X, True)

    def __reduce__(self) -> tuple[Any, ...]:
        matrix = {"n": self.shape[0], "indptr": self._indptr, "indices": self._indices, "data": self._data}
        return _rebuild, (type(self), matrix, dict(self._options))

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self._options.items())
        return f"<{type(self).__name__} {self.shape[0]} x {self.shape[1]}, {self.dtype}{options}>"


def _starts(name: str, blocks: Any, n: int) -> NDArray[np.int64]:
    """First rows of contiguous blocks, and n: from a number of rows per block or from such a list."""
    if np.ndim(blocks) == 0:
        size = _validate.integer(name, blocks, minimum=1)
        return np.append(np.arange(0, n, size, dtype=np.int64), np.int64(n)) if n else np.zeros(2, np.int64)
    starts = np.asarray(blocks)
    if starts.ndim != 1 or starts.dtype.kind not in "iu":
        raise TypeError(f"`{name}` must be an integer or a sequence of integers, not {blocks!r}")
    starts = starts.astype(np.int64)
    if len(starts) < 2 or starts[0] != 0 or starts[-1] != n:
        raise ValueError(f"`{name}` must start with 0 and end with the number of rows, {n}; got {blocks!r}")
    falls = np.flatnonzero(np.diff(starts) < 0)
    if falls.size:
        raise ValueError(
            f"`{name}` decreases at position {falls[0] + 1} ({starts[falls[0]]} to {starts[falls[0] + 1]})"
        )
    return starts


class Jacobi(_Preconditioner):
    """The inverse of the diagonal.

    Parameters
    ----------
    A : sparse array or matrix, or dense array
        Shape (n, n), real or complex; computed with in double precision.

    Raises
    ------
    ValueError
        For malformed arrays, non-finite values and shapes that are not square.
    numpy.linalg.LinAlgError
        For a zero on the diagonal; the message names the row.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import Jacobi
    >>> M = Jacobi(np.array([[2.0, 1.0], [0.0, 4.0]]))
    >>> M @ np.ones(2)
    array([0.5 , 0.25])
    """

    def __init__(self, A: Any) -> None:
        super().__init__(A, {})

    def _recipe(self, n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _core.jacobi_map, ()


class BlockJacobi(_Preconditioner):
    """The inverses of contiguous diagonal blocks, each by a dense LU factorisation with pivoting.

    Parameters
    ----------
    A : sparse array or matrix, or dense array
        Shape (n, n), real or complex; computed with in double precision.
    blocks : int or sequence of int, default 64
        Rows per block, or the first row of every block followed by n.

    Raises
    ------
    TypeError, ValueError
        For a malformed `A` or `blocks`.
    numpy.linalg.LinAlgError
        For a singular block; the message names its rows.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import BlockJacobi
    >>> M = BlockJacobi(np.array([[0.0, 1.0, 9.0], [2.0, 0.0, 9.0], [0.0, 0.0, 4.0]]), blocks=[0, 2, 3])
    >>> M @ np.array([3.0, 4.0, 8.0])
    array([2., 3., 2.])
    """

    def __init__(self, A: Any, *, blocks: int | Sequence[int] | NDArray[Any] = 64) -> None:
        super().__init__(A, {"blocks": blocks})

    def _recipe(self, n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _core.block_jacobi_map, (_starts("blocks", self._options["blocks"], n),)


class SSOR(_Preconditioner):
    """Symmetric successive over-relaxation.

    With D, L, U the diagonal and the strict triangles of A, the inverse of
    ``w / (2 - w) (D/w + L) (D/w)^-1 (D/w + U)`` is applied.

    Parameters
    ----------
    A : sparse array or matrix, or dense array
        Shape (n, n), real or complex; computed with in double precision.
    omega : float, default 1.0
        The relaxation parameter w, between 0 and 2 (both excluded).

    Raises
    ------
    TypeError, ValueError
        For a malformed `A` or an `omega` out of range.
    numpy.linalg.LinAlgError
        For a zero on the diagonal; the message names the row.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import SSOR
    >>> M = SSOR(np.array([[2.0, -1.0], [-1.0, 2.0]]))
    >>> M @ np.array([1.0, 0.0])
    array([0.625, 0.25 ])
    >>> M.set_omega(1.5).omega
    1.5
    """

    def __init__(self, A: Any, *, omega: float = 1.0) -> None:
        super().__init__(A, {"omega": self._check(omega)})

    @staticmethod
    def _check(omega: Any) -> float:
        return _validate.real_scalar(
            "omega", omega, minimum=0.0, maximum=2.0, open_minimum=True, open_maximum=True
        )

    def _recipe(self, n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _core.ssor_map, (self._options["omega"],)

    @property
    def omega(self) -> float:
        """The relaxation parameter."""
        return float(self._native_map.omega)

    def set_omega(self, omega: float) -> Self:
        """Change the relaxation parameter in O(1): the next application makes the new scales.

        Parameters
        ----------
        omega : float
            Between 0 and 2, both excluded.

        Returns
        -------
        self
        """
        self._native_map.omega = self._options["omega"] = self._check(omega)
        return self


class ILU0(_Preconditioner):
    """Incomplete LU factorisation on the pattern of A.

    Parameters
    ----------
    A : sparse array or matrix, or dense array
        Shape (n, n), real or complex; computed with in double precision.
    modified : bool, default False
        Add the fill that is dropped to the diagonal, so that ``L U`` has the row sums of A.

    Raises
    ------
    TypeError, ValueError
        For a malformed `A`.
    numpy.linalg.LinAlgError
        For a zero or non-finite pivot; the message names the row.

    Notes
    -----
    Rows are solved level by level, eight at a time; bits do not depend on the number of threads.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from scipy.sparse.linalg import gmres
    >>> from aitken.linalg import ILU0
    >>> A = sparse.diags_array([-1.0, 2.5, -1.2], offsets=[-1, 0, 1], shape=(50, 50)).tocsr()
    >>> b = np.ones(50)
    >>> x, info = gmres(A, b, M=ILU0(A))  # a tridiagonal matrix has no fill: one iteration
    >>> bool(info == 0 and np.linalg.norm(b - A @ x) < 1e-10)
    True
    """

    def __init__(self, A: Any, *, modified: bool = False) -> None:
        super().__init__(A, {"modified": _validate.boolean("modified", modified)})

    def _recipe(self, n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _core.ilu0_map, (self._options["modified"],)


class ILUT(_Preconditioner):
    """Incomplete LU factorisation by thresholds (Saad 1994).

    Parameters
    ----------
    A : sparse array or matrix, or dense array
        Shape (n, n), real or complex; computed with in double precision.
    drop : float, default 1e-3
        Entries of a row of the factors below `drop` times the 2-norm of A's row are dropped; in L before they
        are divided by their pivot.
    fill : int, default 10
        How many entries more than A's row each row of L, and of U, may have; the largest are kept.

    Raises
    ------
    TypeError, ValueError
        For a malformed `A` and options out of range.
    numpy.linalg.LinAlgError
        For a zero or non-finite pivot; the message names the row.

    Notes
    -----
    The pattern of the factors follows the values, so that `update` does all the work anew.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import ILUT
    >>> A = np.array([[4.0, 1.0, 1.0], [1.0, 4.0, 0.0], [1.0, 0.0, 4.0]])
    >>> M = ILUT(A, drop=0.0)  # nothing dropped: the inverse
    >>> bool(np.allclose(A @ (M @ np.ones(3)), 1.0))
    True
    """

    def __init__(self, A: Any, *, drop: float = 1e-3, fill: int = 10) -> None:
        super().__init__(
            A, {"drop": _validate.tolerance("drop", drop), "fill": _validate.integer("fill", fill, minimum=0)}
        )

    def _recipe(self, n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _core.ilut_map, (self._options["drop"], self._options["fill"])

    @property
    def nnz(self) -> int:
        """Number of entries of L and U together, the diagonal counted once."""
        return int(self._native_map.fill)


class IC0(_Preconditioner):
    """Incomplete Cholesky factorisation on the pattern of the lower triangle of A.

    Where a pivot is not positive, the factorisation starts again with the diagonal times ``1 + shift``;
    the shift is 1e-3 at first and doubles, at most twelve times.

    Parameters
    ----------
    A : sparse array or matrix, or dense array
        Shape (n, n), Hermitian; the upper triangle and imaginary parts on the diagonal are not looked at.
        Computed with in double precision.
    modified : bool or float, default False
        Take the fill that is dropped off the diagonals of both its rows, so that ``L L^H`` has the row sums
        of A. A number in [0, 1] takes this share of it: 0.97 is usual for the Poisson equation, where the
        whole fill leaves some pivots nearly zero.

    Raises
    ------
    TypeError, ValueError
        For a malformed `A`.
    numpy.linalg.LinAlgError
        For a diagonal entry that is not positive, or a pivot that no shift made positive; the message
        names the row.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import IC0
    >>> M = IC0(np.array([[4.0, 2.0], [2.0, 5.0]]))
    >>> M @ np.array([8.0, 12.0])
    array([1., 2.])
    >>> M.shift
    0.0
    """

    def __init__(self, A: Any, *, modified: bool | float = False) -> None:
        if not isinstance(modified, bool | np.bool_):
            modified = _validate.real_scalar("modified", modified, minimum=0.0, maximum=1.0)
        super().__init__(A, {"modified": modified})

    def _recipe(self, n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _core.ic0_map, (float(self._options["modified"]),)

    @property
    def shift(self) -> float:
        """The shift that the last factorisation needed, relative to the diagonal; 0 as a rule."""
        return float(self._native_map.shift)


class Chebyshev(_Preconditioner):
    """A Chebyshev polynomial in ``D^-1 A`` (D the diagonal) times ``D^-1``.

    Of all polynomials p of its degree it has the least ``max |1 - t p(t)|`` over an interval of t.

    Parameters
    ----------
    A : sparse array or matrix, or dense array
        Shape (n, n), real or complex; computed with in double precision. Meant for matrices whose scaled
        spectrum is real and positive.
    degree : int, default 4
        Degree of the polynomial: products with A per application.
    interval : (float, float), optional
        The interval, ``0 < lo < hi``. By default hi is 1.1 times an estimate of the spectral radius (twelve
        power steps from a fixed start), or Gershgorin's bound where that is less, and lo = hi / `ratio`.
    ratio : float, default 30.0
        hi / lo where `interval` is not given; above 1.

    Raises
    ------
    TypeError, ValueError
        For a malformed `A` and options out of range.
    numpy.linalg.LinAlgError
        For a zero on the diagonal (the message names the row), or a spectral radius of zero.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import Chebyshev
    >>> M = Chebyshev(np.diag([2.0, 8.0]), degree=2, interval=(0.5, 1.5))
    >>> np.round(M @ np.ones(2), 6)  # 1 - t p(t) vanishes at t = 1 for even degrees
    array([0.5  , 0.125])
    """

    def __init__(
        self,
        A: Any,
        *,
        degree: int = 4,
        interval: tuple[float, float] | None = None,
        ratio: float = 30.0,
    ) -> None:
        if interval is not None:
            if np.shape(interval) != (2,):
                raise ValueError(f"`interval` must be a pair (lo, hi); got {interval!r}")
            lo = _validate.positive_scalar("interval", interval[0])
            hi = _validate.real_scalar("interval", interval[1], minimum=lo, open_minimum=True)
            interval = (lo, hi)
        super().__init__(
            A,
            {
                "degree": _validate.integer("degree", degree, minimum=0, maximum=2**31 - 1),
                "interval": interval,
                "ratio": _validate.real_scalar("ratio", ratio, minimum=1.0, open_minimum=True),
            },
        )

    def _recipe(self, n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        lo, hi = self._options["interval"] or (0.0, 0.0)
        return _core.chebyshev_map, (self._options["degree"], lo, hi, self._options["ratio"])

    @property
    def interval(self) -> tuple[float, float]:
        """The interval in use, as given or estimated."""
        lo, hi = self._native_map.interval
        return float(lo), float(hi)


class AdditiveSchwarz(_Preconditioner):
    """Restricted additive Schwarz: overlapping subdomains are solved, each keeps the values of its own rows.

    Parameters
    ----------
    A : sparse array or matrix, or dense array
        Shape (n, n), real or complex; computed with in double precision.
    blocks : int or sequence of int, default 1024
        Own rows per subdomain (contiguous), or the first row of every subdomain followed by n.
    overlap : int, default 1
        Layers of neighbours, along the entries of the rows, that are added to every subdomain.
    solver : {"ilu0", "lu"}, default "ilu0"
        What a subdomain is solved with; "lu" is dense and costs m^2 numbers for m rows.

    Raises
    ------
    TypeError, ValueError
        For a malformed `A` and options out of range.
    numpy.linalg.LinAlgError
        For a zero or non-finite pivot; the message names the row and the subdomain.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from aitken.linalg import AdditiveSchwarz
    >>> A = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(4, 4)).tocsr()
    >>> M = AdditiveSchwarz(A, blocks=[0, 2, 4], overlap=2)  # every subdomain is the whole matrix
    >>> bool(np.allclose(A @ (M @ np.ones(4)), 1.0))
    True
    """

    def __init__(
        self,
        A: Any,
        *,
        blocks: int | Sequence[int] | NDArray[Any] = 1024,
        overlap: int = 1,
        solver: str = "ilu0",
    ) -> None:
        super().__init__(
            A,
            {
                "blocks": blocks,
                "overlap": _validate.integer("overlap", overlap, minimum=0, maximum=2**31 - 1),
                "solver": _validate.choice("solver", solver, ("ilu0", "lu")),
            },
        )

    def _recipe(self, n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        starts = _starts("blocks", self._options["blocks"], n)
        return _core.schwarz_map, (starts, self._options["overlap"], self._options["solver"] == "lu")


# The names that solvers take for `M`.
BY_NAME: dict[str, type[Any]] = {
    "jacobi": Jacobi,
    "block-jacobi": BlockJacobi,
    "ssor": SSOR,
    "ilu0": ILU0,
    "ilut": ILUT,
    "ic0": IC0,
    "chebyshev": Chebyshev,
    "schwarz": AdditiveSchwarz,
}

__all__ = ["ILU0", "ILUT", "IC0", "SSOR", "AdditiveSchwarz", "BlockJacobi", "Chebyshev", "Jacobi"]
