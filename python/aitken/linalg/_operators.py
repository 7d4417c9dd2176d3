"""What users pass as `A` and `M`, turned into one checked form in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from .. import _core, _dispatch, _validate

_INDEX_LIMIT = np.iinfo(np.int32).max


def _describe_shape(name: str, shape: tuple[int, ...]) -> str:
    return f"`{name}` has shape {tuple(int(s) for s in shape)}"


def _refuse_cuda(name: str, value: Any) -> None:
    place = _dispatch.locate(name, value)
    if place is not None and place.backend == "cuda":
        raise TypeError(
            f"`{name}` is on {place}, but linalg runs on the CPU only; pass `{name}.get()` or its CPU copy"
        )


def _scalar_type(name: str, dtype: Any) -> np.dtype[Any]:
    """float64 or complex128, whichever holds the numbers of `dtype`."""
    kind = np.dtype(dtype).kind
    if kind in "fiub":
        return np.dtype(np.float64)
    if kind == "c":
        return np.dtype(np.complex128)
    raise TypeError(f"`{name}` has dtype {np.dtype(dtype)}; a numeric dtype is needed")


def scalar_type(**operands: Any) -> np.dtype[Any]:
    """float64, or complex128 where an operand (``name=value``, None is skipped) is complex.

    Raises
    ------
    TypeError
        For an operand whose dtype is not numeric.
    """
    result = np.dtype(np.float64)
    for name, value in operands.items():
        if value is None or isinstance(value, str):
            continue
        dtype = getattr(value, "dtype", None)
        if dtype is None:
            if callable(value):
                continue
            dtype = np.asarray(value).dtype
        result = np.result_type(result, _scalar_type(name, dtype))
    return result


class System:
    """A square matrix or operator in the form that native solvers take.

    Attributes
    ----------
    n : int
        Number of rows.
    dtype : dtype
        float64 or complex128: what is computed with.
    pattern : CsrPattern or None
        The checked pattern, with columns ascending in every row; None for an operator without entries.
    indptr, indices, data : ndarray or None
        The entries in compressed rows (int64, int32 or int64, `dtype`). They may be the caller's arrays
        and are not written to.
    operator : LinearOperator or None
        The operator, where there are no entries.
    """

    __slots__ = ("_handle", "data", "dtype", "indices", "indptr", "n", "name", "operator", "pattern")

    def __init__(
        self,
        n: int,
        dtype: np.dtype[Any],
        name: str,
        *,
        pattern: _core.CsrPattern | None = None,
        indptr: NDArray[np.int64] | None = None,
        indices: NDArray[Any] | None = None,
        data: NDArray[Any] | None = None,
        operator: Any = None,
        handle: Any = None,
    ) -> None:
        self.n = n
        self.dtype = dtype
        self.name = name
        self.pattern = pattern
        self.indptr = indptr
        self.indices = indices
        self.data = data
        self.operator = operator
        self._handle = handle

    @property
    def has_entries(self) -> bool:
        """Whether the entries are known (not an operator)."""
        return self.pattern is not None

    @property
    def csr(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None:
        """``(indptr, indices, data)``, or None for an operator."""
        if self.indptr is None or self.indices is None or self.data is None:
            return None
        return self.indptr, self.indices, self.data

    @property
    def handle(self) -> Any:
        """The native map; for a matrix it is made when first asked for."""
        if self._handle is None and self.pattern is not None and self.data is not None:
            self._handle = _core.csr_map(self.pattern, self.data)
        return self._handle

    def same_pattern(self, other: System) -> bool:
        """Whether both have entries, in the same places."""
        if self.pattern is None or other.indptr is None or other.indices is None:
            return False
        return self.pattern.matches(other.indptr, other.indices)

    def own_values(self) -> System:
        """Copy the numbers, which may be the caller's own and change before they are compared with."""
        if self.data is not None:
            self.data = self.data.copy()
        return self

    def adopt(self, other: System) -> None:
        """Take over the native map of a matrix of the same pattern, which is not needed any more."""
        if other._handle is not None and other.dtype == self.dtype:
            self._handle = other._handle
            self._handle.update(self.data)

    def __repr__(self) -> str:
        what = f"{self.pattern.nnz} entries" if self.pattern is not None else "operator"
        return f"<System {self.n} x {self.n}, {self.dtype}, {what}>"


def _check_square(name: str, shape: tuple[int, ...]) -> int:
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"{_describe_shape(name, shape)}; a square matrix is needed")
    if shape[0] >= _INDEX_LIMIT:
        raise ValueError(f"{_describe_shape(name, shape)}; at most {_INDEX_LIMIT - 1} rows are supported")
    return int(shape[0])


def _index_array(name: str, what: str, values: Any) -> NDArray[Any]:
    """int32 or int64, contiguous; other integers become int64."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}`: {what} has dtype {array.dtype} and shape {array.shape}; integers in a row are needed"
        )
    kind = np.int32 if array.dtype == np.int32 else np.int64
    return np.ascontiguousarray(array, dtype=kind)


def _structure(name: str, matrix: Any, rows: int, cols: int, unit: str) -> None:
    """Raise ValueError unless compressed rows (columns, block rows) are well formed; values are not read."""
    indptr = _index_array(name, "indptr", matrix.indptr).astype(np.int64, copy=False)
    indices = _index_array(name, "indices", matrix.indices)
    _core.csr_pattern(rows, cols, indptr, indices, None, name, unit)
    if len(matrix.data) < indptr[-1]:
        raise ValueError(f"`{name}`: data has length {len(matrix.data)}, but indptr ends at {indptr[-1]}")


def _to_csr(name: str, matrix: Any) -> Any:
    """A sparse matrix of any format as CSR, its arrays checked before SciPy's own code runs over them."""
    rows, cols = (int(s) for s in matrix.shape)
    form = matrix.format
    if form == "csr":
        return matrix
    if form == "csc":
        _structure(name, matrix, cols, rows, "column")
    elif form == "bsr":
        r, c = matrix.blocksize
        if matrix.data.ndim != 3 or r * c == 0 or rows % r or cols % c:
            raise ValueError(f"`{name}`: blocks of shape ({r}, {c}) do not tile shape ({rows}, {cols})")
        _structure(name, matrix, rows // r, cols // c, "block row")
    elif form == "coo":
        lengths = {len(matrix.row), len(matrix.col), len(matrix.data)}
        if len(lengths) != 1:
            raise ValueError(f"`{name}`: row, col and data have different lengths {sorted(lengths)}")
        for axis, values, size in (("row", matrix.row, rows), ("column", matrix.col, cols)):
            bad = np.flatnonzero((values < 0) | (values >= size))
            if bad.size:
                where = f"entry {bad[0]} (row {matrix.row[bad[0]]})"
                raise ValueError(
                    f"`{name}`: {axis} index {values[bad[0]]} of {where} is outside 0..{size - 1}"
                )
    return matrix.tocsr()


def _from_entries(name: str, matrix: Any, dtype: np.dtype[Any] | None, check_finite: bool) -> System:
    """A System from a sparse matrix in CSR form."""
    n = _check_square(name, matrix.shape)
    own = _scalar_type(name, matrix.dtype)
    target = own if dtype is None else np.result_type(own, dtype)

    def arrays(m: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], _core.CsrPattern]:
        indptr = _index_array(name, "indptr", m.indptr).astype(np.int64, copy=False)
        indices = _index_array(name, "indices", m.indices)
        data = np.asarray(m.data)
        if data.ndim != 1:
            raise ValueError(f"`{name}`: data has shape {data.shape}; a vector is needed")
        data = np.ascontiguousarray(data, dtype=target)
        pattern = _core.csr_pattern(n, n, indptr, indices, data if check_finite else None, name, "row")
        if len(data) < pattern.nnz:
            raise ValueError(f"`{name}`: data has length {len(data)}, but indptr ends at {pattern.nnz}")
        return indptr, indices, data, pattern

    indptr, indices, data, pattern = arrays(matrix)
    if not (pattern.sorted and pattern.unique):
        # Built from the checked arrays: what the matrix says of itself (has_canonical_format) may be wrong.
        used = int(indptr[-1])
        matrix = sparse.csr_array((data[:used].copy(), indices[:used].copy(), indptr.copy()), shape=(n, n))
        matrix.sum_duplicates()
        indptr, indices, data, pattern = arrays(matrix)
    data = data[: pattern.nnz]
    return System(n, target, name, pattern=pattern, indptr=indptr, indices=indices[: pattern.nnz], data=data)


def _from_operator(name: str, operator: Any, dtype: np.dtype[Any] | None, *, varies: bool = False) -> System:
    n = _check_square(name, operator.shape)
    own = np.dtype(np.float64) if operator.dtype is None else _scalar_type(name, operator.dtype)
    target = own if dtype is None else np.result_type(own, dtype)
    handle = _core.callback_map(
        n, operator.matvec, operator.rmatvec, varies, name, bool(target == np.complex128)
    )
    return System(n, target, name, operator=operator, handle=handle)


def as_system(A: Any, *, name: str = "A", dtype: Any = None, check_finite: bool = True) -> System:
    """Check a square matrix or operator and bring it into the form that native solvers take.

    Parameters
    ----------
    A : sparse array or matrix, ndarray, np.matrix, LinearOperator, or what ``aslinearoperator`` takes
        Shape (n, n). Sparse formats become CSR; entries given twice are summed and rows sorted on a copy,
        the caller's matrix is not modified. Integers and single precision are converted to double.
    name : str, default "A"
        The parameter's name, for messages.
    dtype : dtype, optional
        Compute in complex128 where this is complex, even if `A` is real: `scalar_type` of all operands.
    check_finite : bool, default True
        Refuse NaN and Inf. Indices are always checked.

    Returns
    -------
    System

    Raises
    ------
    TypeError
        For arrays on a GPU, masked arrays, non-numeric dtypes, and what is neither matrix nor operator.
    ValueError
        For a shape that is not square, malformed sparse arrays and non-finite values; the message names
        the row.
    """
    if isinstance(A, System):
        return A
    _refuse_cuda(name, A)
    target = None if dtype is None else _scalar_type(name, dtype)
    if sparse.issparse(A):
        return _from_entries(name, _to_csr(name, A), target, check_finite)
    native = getattr(A, "_native_map", None)
    if native is not None and isinstance(A, LinearOperator):  # one of our preconditioners as the matrix
        n = _check_square(name, A.shape)
        own = np.dtype(A.dtype)
        common = own if target is None else np.result_type(own, target)
        return System(n, common, name, operator=A, handle=_as_scalar(native, own, common))
    if isinstance(A, LinearOperator):
        inner = getattr(A, "A", None) if type(A).__name__ == "MatrixLinearOperator" else None
        if inner is not None:  # aslinearoperator(matrix): its entries are at hand
            return as_system(inner, name=name, dtype=dtype, check_finite=check_finite)
        return _from_operator(name, A, target)
    if not isinstance(A, np.ndarray) and hasattr(A, "__dlpack__"):
        A = _dispatch.select(**{name: A}).take(name, A)
    if isinstance(A, np.ndarray | list | tuple):
        if isinstance(A, np.ma.MaskedArray):
            raise TypeError(f"`{name}` is a masked array; fill it or drop the masked entries first")
        array = np.asarray(A)
        kind = _scalar_type(name, array.dtype)
        _check_square(name, array.shape)
        return _from_entries(name, sparse.csr_array(array.astype(kind, copy=False)), target, check_finite)
    try:
        operator = aslinearoperator(A)
    except TypeError:
        raise TypeError(
            f"`{name}` must be a sparse or dense matrix or a LinearOperator, not {type(A).__name__}"
        ) from None
    return _from_operator(name, operator, target)


def _as_scalar(native: Any, have: np.dtype[Any], want: np.dtype[Any]) -> Any:
    return native if have == want else _core.complex_map(native)


def as_inverse(M: Any, system: System, *, name: str = "M", varies: bool = False) -> Any:
    """The native map of a preconditioner for `system`, or None for the identity.

    Parameters
    ----------
    M : None, str, preconditioner of ours, sparse or dense matrix, LinearOperator or callable
        An approximation of the inverse of the matrix. A string (``"jacobi"``, ``"block-jacobi"``,
        ``"ssor"``, ``"ilu0"``, ``"ilut"``, ``"ic0"``, ``"chebyshev"``, ``"schwarz"``; ``"none"``) makes it
        from the entries of `system`. Our own preconditioners run without Python in the loop.
    system : System
        What is to be solved.
    name : str, default "M"
        The parameter's name, for messages.
    varies : bool, default False
        Whether an operator or callable may change from call to call.

    Returns
    -------
    native map or None

    Raises
    ------
    TypeError
        For what cannot be applied, and for a complex `M` with a real system.
    ValueError
        For a shape other than the matrix's, an unknown name, and a name where `system` has no entries.
    """
    if M is None or (isinstance(M, str) and M == "none"):
        return None
    if isinstance(M, str):
        from ._preconditioners import BY_NAME

        kind = BY_NAME[_validate.choice(name, M, ["none", *BY_NAME])]
        if not system.has_entries:
            raise ValueError(
                f"`{name}` is {M!r}, which is made from the entries of `{system.name}`, but "
                f"`{system.name}` is an operator; pass a preconditioner or None"
            )
        return kind(system)._native_map
    _refuse_cuda(name, M)
    shape = getattr(M, "shape", None)
    if shape is not None and tuple(shape) != (system.n, system.n):
        raise ValueError(f"{_describe_shape(name, shape)}; ({system.n}, {system.n}) is needed, as `A` has")
    if shape is None and callable(M):
        return _core.callback_map(system.n, M, None, varies, name, bool(system.dtype == np.complex128))
    if isinstance(M, LinearOperator) and getattr(M, "_native_map", None) is None and varies:
        inverse = _from_operator(name, M, system.dtype, varies=True)
    else:
        inverse = as_system(M, name=name, dtype=system.dtype)
    if inverse.dtype != system.dtype:
        raise TypeError(f"`{name}` is complex (dtype {inverse.dtype}) but `A` and `b` are real")
    return inverse.handle


def _columns(name: str, value: Any, system: System, check_finite: bool) -> NDArray[Any]:
    """A vector or a matrix of columns as a new column-major array of shape (n, s) in the system's dtype."""
    _refuse_cuda(name, value)
    if sparse.issparse(value):
        raise TypeError(f"`{name}` is a sparse matrix of shape {tuple(value.shape)}; pass a dense array")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"`{name}` is a masked array; fill it or drop the masked entries first")
    if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
        value = _dispatch.select(**{name: value}).take(name, value)
    array = np.asarray(value)
    kind = _scalar_type(name, array.dtype)
    if array.ndim not in (1, 2) or array.shape[0] != system.n:
        raise ValueError(
            f"`{name}` has shape {array.shape}; ({system.n},) or ({system.n}, s) is needed, as "
            f"`{system.name}` has {system.n} rows"
        )
    if np.result_type(kind, system.dtype) != system.dtype:
        raise TypeError(f"`{name}` is complex (dtype {array.dtype}) but the system is real")
    columns = array if array.ndim == 2 else array[:, np.newaxis]
    out = np.array(columns, dtype=system.dtype, order="F")
    if check_finite and not np.isfinite(out.sum()):
        bad = np.argwhere(~np.isfinite(out))
        if len(bad):
            place = int(bad[0, 0]) if array.ndim == 1 else tuple(int(i) for i in bad[0])
            raise ValueError(f"`{name}` has a non-finite value at index {place}: {out[tuple(bad[0])]}")
    return out


def prepare_vectors(
    system: System, b: Any, x0: Any = None, *, check_finite: bool = True
) -> tuple[NDArray[Any], NDArray[Any], tuple[int, ...]]:
    """Right-hand sides and start as column-major copies that a solver may work in.

    Parameters
    ----------
    system : System
        What is to be solved.
    b : array_like, shape (n,) or (n, s)
        Right-hand sides. Complex ones need a complex system: ``as_system(A, dtype=scalar_type(A=A, b=b))``.
    x0 : array_like, optional
        Start, of `b`'s shape; (n,) and (n, 1) are the same. Default: zeros.
    check_finite : bool, default True
        Refuse NaN and Inf.

    Returns
    -------
    B, X : ndarray, shape (n, s)
        In the system's dtype.
    shape : tuple of int
        The shape of `b`, in which the answer is given.

    Raises
    ------
    TypeError, ValueError
        For arrays of another kind or shape, and non-finite values.
    """
    B = _columns("b", b, system, check_finite)
    shape = tuple(int(s) for s in np.shape(b))
    if x0 is None:
        return B, np.zeros_like(B), shape
    X = _columns("x0", x0, system, check_finite)
    if X.shape != B.shape:
        raise ValueError(f"{_describe_shape('x0', np.shape(x0))}; {shape} is needed, as `b` has")
    return B, X, shape


__all__ = ["System", "as_inverse", "as_system", "prepare_vectors", "scalar_type"]
