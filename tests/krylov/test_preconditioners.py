"""`aitken.linalg` preconditioners against dense oracles, and what solvers accept as `A` and `M`."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator, cg, gmres

import aitken
from aitken import _core, linalg
from aitken.linalg import _operators, _preconditioners
from tests.oracles import preconditioners as oracle

N = 36
STARTS = [0, 10, 10, 29, N]
# Everything at once: name -> (make, oracle's dense inverse).
KINDS = {
    "jacobi": (linalg.Jacobi, lambda A: np.diag(1 / np.diag(A))),
    "block-jacobi": (
        lambda A: linalg.BlockJacobi(A, blocks=STARTS),
        lambda A: oracle.block_jacobi(A, STARTS),
    ),
    "ssor": (lambda A: linalg.SSOR(A, omega=1.4), lambda A: np.linalg.inv(oracle.ssor(A, 1.4))),
    "ilu0": (linalg.ILU0, lambda A: inverse_product(*oracle.ilu0(A))),
    "milu0": (
        lambda A: linalg.ILU0(A, modified=True),
        lambda A: inverse_product(*oracle.ilu0(A, modified=True)),
    ),
    "ilut": (
        lambda A: linalg.ILUT(A, drop=0.05, fill=1),
        lambda A: inverse_product(*oracle.ilut(A, 0.05, 1)),
    ),
    "chebyshev": (
        lambda A: linalg.Chebyshev(A, degree=3, interval=(0.2, 1.8)),
        lambda A: oracle.chebyshev(A, 3, 0.2, 1.8),
    ),
    "schwarz": (
        lambda A: linalg.AdditiveSchwarz(A, blocks=STARTS),
        lambda A: oracle.schwarz(A, STARTS, 1, "ilu0"),
    ),
    "schwarz-lu": (
        lambda A: linalg.AdditiveSchwarz(A, blocks=STARTS, overlap=2, solver="lu"),
        lambda A: oracle.schwarz(A, STARTS, 2, "lu"),
    ),
}
SYMMETRIC = {
    "ic0": (linalg.IC0, lambda A: inverse_product(*both(oracle.ic0(A)[0]))),
    "mic0": (
        lambda A: linalg.IC0(A, modified=True),
        lambda A: inverse_product(*both(oracle.ic0(A, modified=True)[0])),
    ),
    "mic0, relaxed": (
        lambda A: linalg.IC0(A, modified=0.97),
        lambda A: inverse_product(*both(oracle.ic0(A, modified=0.97)[0])),
    ),
}


def inverse_product(L, U):
    return np.linalg.inv(L @ U)


def both(L):
    return L, L.conj().T


def random_matrix(dtype, seed=0, n=N, density=0.12, *, hermitian=False):
    """Diagonally dominant, rows of different lengths, pattern not symmetric."""
    rng = np.random.default_rng(seed)
    A = np.where(rng.random((n, n)) < density, rng.standard_normal((n, n)), 0).astype(dtype)
    if np.issubdtype(dtype, np.complexfloating):
        A = A * (1 + 0.7j * rng.standard_normal((n, n)))
    if hermitian:
        A = np.tril(A, -1) + np.tril(A, -1).conj().T
    np.fill_diagonal(A, 0.3 + 1.2 * np.abs(A).sum(axis=1) - 1.2 * np.abs(np.diag(A)))
    return A


def matrix_for(name, dtype, seed=0):
    return random_matrix(dtype, seed, hermitian=name in SYMMETRIC)


ALL = {**KINDS, **SYMMETRIC}
DTYPES = [np.float64, np.complex128]


# ------------------------------------------------------------------------------------- the oracles themselves


def test_oracle_ilu_agrees_on_the_pattern():
    A = random_matrix(np.float64)
    L, U = oracle.ilu0(A)
    np.testing.assert_allclose((L @ U)[A != 0], A[A != 0], rtol=1e-13, atol=1e-13)
    L, U = oracle.ilu0(A, modified=True)
    np.testing.assert_allclose((L @ U).sum(axis=1), A.sum(axis=1), rtol=1e-12, atol=1e-13)


def test_oracle_ilut_without_dropping_is_lu():
    A = random_matrix(np.complex128)
    L, U = oracle.ilut(A, 0.0, N)
    np.testing.assert_allclose(L @ U, A, rtol=1e-12, atol=1e-13)


def test_oracle_ic_agrees_on_the_pattern():
    A = random_matrix(np.complex128, hermitian=True)
    L, shift = oracle.ic0(A)
    assert shift == 0
    np.testing.assert_allclose((L @ L.conj().T)[A != 0], A[A != 0], rtol=1e-13, atol=1e-13)


def test_oracle_chebyshev_is_optimal():
    # The residual polynomial takes its maximum, 1 / T_k, with alternating signs at k + 1 points.
    lo, hi, degree = 0.5, 1.8, 3
    t = (lo + hi) / 2 - (hi - lo) / 2 * np.cos(np.pi * np.arange(degree + 2) / (degree + 1))
    # [[1, x - 1], [x - 1, 1]] has the eigenvalue x with the vector of ones.
    residual = [
        1 - x * oracle.chebyshev(np.array([[1.0, x - 1.0], [x - 1.0, 1.0]]), degree, lo, hi).sum(axis=1)[0]
        for x in t
    ]
    bound = 1 / np.cosh((degree + 1) * np.arccosh((hi + lo) / (hi - lo)))
    np.testing.assert_allclose(residual, bound * (-1.0) ** np.arange(degree + 2), rtol=1e-12)


# ---------------------------------------------------------------------------------------- against the oracles


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", [0, 1])
def test_dense(name, dtype, seed, tolerance):
    make, dense = ALL[name]
    A = matrix_for(name, dtype, seed)
    M = make(sparse.csr_array(A))
    expected = dense(A)
    assert M.dtype == dtype
    assert M.shape == (N, N)
    atol = 20 * tolerance(np.float64).kernel * np.abs(expected).max()
    X = np.random.default_rng(9).standard_normal((N, 3)).astype(dtype)
    np.testing.assert_allclose(M.matvec(X[:, 0]), expected @ X[:, 0], rtol=0, atol=atol * 5)
    np.testing.assert_allclose(M.matmat(X), expected @ X, rtol=0, atol=atol * 5)
    np.testing.assert_allclose(M.rmatvec(X[:, 0]), expected.conj().T @ X[:, 0], rtol=0, atol=atol * 5)
    np.testing.assert_allclose(M.rmatmat(X), expected.conj().T @ X, rtol=0, atol=atol * 5)
    np.testing.assert_array_equal(M.matvec(X[:, 1:2])[:, 0], M.matmat(X)[:, 1])


@pytest.mark.parametrize("wind", [0.0, 0.8])
def test_ilu0_of_five_points_is_dilu(wind):
    A = oracle.five_point(7, seed=3, wind=wind)
    d = oracle.dilu(A)
    D = np.diag(d)
    M = (D + np.tril(A, -1)) @ np.diag(1 / d) @ (D + np.triu(A, 1))
    x = np.random.default_rng(0).standard_normal(49)
    np.testing.assert_allclose(linalg.ILU0(sparse.csr_array(A)) @ (M @ x), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ic0_equals_ilu0(dtype):
    A = sparse.csr_array(random_matrix(dtype, 5, hermitian=True))
    x = np.random.default_rng(0).standard_normal(N)
    np.testing.assert_allclose(linalg.IC0(A) @ x, linalg.ILU0(A) @ x, rtol=1e-12, atol=1e-14)


def test_ic0_reads_the_lower_triangle_alone():
    A = random_matrix(np.float64, 5, hermitian=True)
    x = np.ones(N)
    np.testing.assert_array_equal(linalg.IC0(np.tril(A)) @ x, linalg.IC0(A) @ x)


def test_ic0_shift():
    A = random_matrix(np.float64, 2, hermitian=True)
    np.fill_diagonal(A, 0.38 * np.diag(A))
    L, shift = oracle.ic0(A)
    assert shift > 0
    M = linalg.IC0(A)
    assert M.shift == shift
    x = np.random.default_rng(1).standard_normal(N)
    np.testing.assert_allclose(M @ (L @ (L.T @ x)), x, rtol=0, atol=1e-9)
    M.update(sparse.csr_array(A + 3 * np.diag(np.diag(A))))
    assert M.shift == 0.0


def test_modified_keeps_row_sums():
    A = oracle.five_point(8)
    for M in (linalg.ILU0(A, modified=True), linalg.IC0(A, modified=True)):
        np.testing.assert_allclose(M @ (A @ np.ones(64)), np.ones(64), rtol=1e-12)


def test_ssor_omega():
    A = random_matrix(np.float64, 3)
    M = linalg.SSOR(A)
    assert M.omega == 1.0
    x = np.random.default_rng(1).standard_normal(N)
    adjoint = M.rmatvec(x)
    for omega in (0.3, 1.9):
        assert M.set_omega(omega) is M
        assert M.omega == omega
        np.testing.assert_array_equal(M @ x, linalg.SSOR(A, omega=omega) @ x)
        np.testing.assert_array_equal(M.rmatvec(x), linalg.SSOR(A, omega=omega).rmatvec(x))
    np.testing.assert_array_equal(M.set_omega(1.0).rmatvec(x), adjoint)
    M.set_omega(1.5)
    M.update(2 * A)
    assert M.omega == 1.5


def test_ilut_fill():
    A = sparse.csr_array(oracle.five_point(10, seed=1))
    counts = [linalg.ILUT(A, drop=0.0, fill=fill).nnz for fill in (0, 2, 5)]
    assert A.nnz == counts[0] < counts[1] < counts[2]
    assert linalg.ILUT(A, drop=0.2, fill=5).nnz < counts[0]


def test_chebyshev_interval():
    A = sparse.csr_array(oracle.five_point(12, seed=4))
    d = 1 / A.diagonal()
    largest = np.linalg.eigvals(d[:, None] * A.toarray()).real.max()
    M = linalg.Chebyshev(A, ratio=20.0)
    lo, hi = M.interval
    assert largest <= hi <= 1.1 * largest
    assert lo == hi / 20
    assert linalg.Chebyshev(A, interval=(0.5, 1.5)).interval == (0.5, 1.5)


@given(n=st.integers(0, 20), seed=st.integers(0, 1000), density=st.floats(0, 1))
def test_ilu0_any_pattern(n, seed, density):
    A = random_matrix(np.float64, seed, n, density)
    M = linalg.ILU0(sparse.csr_array(A))
    L, U = oracle.ilu0(A)
    x = np.random.default_rng(seed).standard_normal(n)
    np.testing.assert_allclose(M @ (L @ (U @ x)), x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(M.H @ (U.T @ (L.T @ x)), x, rtol=0, atol=1e-10)


# ---------------------------------------------------------------------------------------- update, bits, state


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_update_is_a_fresh_start(name, dtype):
    make, _ = ALL[name]
    first = sparse.csr_array(matrix_for(name, dtype))
    second = first.copy()
    second.data = second.data * (1 + 0.1j if dtype == np.complex128 and name not in SYMMETRIC else 1.3)
    M = make(first)
    X = np.random.default_rng(1).standard_normal((N, 2)).astype(dtype)
    old, old_adjoint = M @ X, M.rmatmat(X)
    assert M.update(second) is M
    assert not np.array_equal(M @ X, old)
    fresh = make(second)
    np.testing.assert_array_equal(M @ X, fresh @ X)
    np.testing.assert_array_equal(M.rmatmat(X), fresh.rmatmat(X))
    M.update(first)
    np.testing.assert_array_equal(M @ X, old)
    np.testing.assert_array_equal(M.rmatmat(X), old_adjoint)


@pytest.mark.parametrize("name", ALL)
def test_bits_do_not_depend_on_threads(name):
    make, _ = ALL[name]
    A = sparse.csr_array(matrix_for(name, np.float64))
    big = sparse.block_diag([A] * 300, format="csr")  # wide levels and many columns
    if name == "block-jacobi":
        make = linalg.BlockJacobi
    elif name.startswith("schwarz"):
        make = linalg.AdditiveSchwarz
    X = np.random.default_rng(1).standard_normal((big.shape[0], 3))
    results = []
    try:
        for threads in (1, 2, 3):
            aitken.set_num_threads(threads)
            M = make(big)
            results.append((M @ X, M.rmatmat(X)))
    finally:
        aitken.set_num_threads(0)
    for forward, adjoint in results[1:]:
        np.testing.assert_array_equal(forward, results[0][0])
        np.testing.assert_array_equal(adjoint, results[0][1])


@pytest.mark.parametrize("name", ALL)
def test_several_python_threads(name):
    make, _ = ALL[name]
    M = make(matrix_for(name, np.float64))
    X = np.random.default_rng(1).standard_normal((N, 8))
    expected = [(M @ X[:, j], M.rmatvec(X[:, j])) for j in range(8)]
    wrong = []

    def work(j):
        for _ in range(50):
            for found, known in zip((M @ X[:, j], M.rmatvec(X[:, j])), expected[j], strict=True):
                if not np.array_equal(found, known):
                    wrong.append(j)

    workers = [threading.Thread(target=work, args=(j,)) for j in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("name", ALL)
def test_pickle(name):
    make, _ = ALL[name]
    A = matrix_for(name, np.complex128)
    M = make(sparse.csr_array(A))
    if name == "ssor":
        M.set_omega(0.7)
    M.update(2 * A)
    copy = pickle.loads(pickle.dumps(M))
    x = np.ones(N)
    np.testing.assert_array_equal(copy @ x, M @ x)
    assert repr(copy) == repr(M)


@pytest.mark.parametrize("name", ALL)
def test_real_on_complex(name):
    make, _ = ALL[name]
    M = make(matrix_for(name, np.float64))
    x = np.random.default_rng(1).standard_normal(N) + 1j * np.random.default_rng(2).standard_normal(N)
    np.testing.assert_array_equal(M @ x, (M @ x.real) + 1j * (M @ x.imag))
    np.testing.assert_array_equal(M.rmatvec(x), M.rmatvec(x.real) + 1j * M.rmatvec(x.imag))


@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.int64, np.bool_])
def test_other_dtypes_are_computed_in_double(dtype):
    A = (random_matrix(np.float64) * 8).round().astype(dtype)
    np.fill_diagonal(A, 1 if dtype == np.bool_ else 99)
    wide = A.astype(np.complex128 if np.issubdtype(dtype, np.complexfloating) else np.float64)
    M = linalg.Jacobi(A)
    assert M.dtype == wide.dtype
    np.testing.assert_array_equal(M @ np.ones(N), linalg.Jacobi(wide) @ np.ones(N))


@pytest.mark.parametrize("name", ["ilu0", "ic0", "ssor", "chebyshev", "schwarz", "block-jacobi", "ilut"])
def test_helps_scipy(name):
    A = sparse.csr_array(oracle.five_point(20))
    b = np.ones(400)

    def count(M, solver=gmres):
        steps = []
        options = {"callback_type": "pr_norm"} if solver is gmres else {}
        x, info = solver(A, b, M=M, rtol=1e-8, callback=lambda _: steps.append(0), **options)
        assert info == 0
        assert np.linalg.norm(b - A @ x) <= 1e-6 * np.linalg.norm(b)
        return len(steps)

    M = _preconditioners.BY_NAME[name](A)
    assert count(M) < count(linalg.Jacobi(A))
    if name in ("ic0", "ssor", "chebyshev"):  # symmetric
        assert count(M, cg) < count(None, cg)


# --------------------------------------------------------------------------------------------------- singular


def singular_cases():
    bad_pivot = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    zero = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    yield "ilu0", linalg.ILU0, bad_pivot, "row 1"
    yield "ilut", lambda A: linalg.ILUT(A, drop=0.0), bad_pivot, "row 1"
    yield "jacobi", linalg.Jacobi, zero, "row 1"
    yield "ssor", linalg.SSOR, zero, "row 1"
    yield "chebyshev", linalg.Chebyshev, zero, "row 1"
    yield "ic0", linalg.IC0, zero, "row 1"
    yield "block", lambda A: linalg.BlockJacobi(A, blocks=2), bad_pivot, "rows 0 to 1"
    yield "schwarz", lambda A: linalg.AdditiveSchwarz(A, blocks=2, overlap=0), bad_pivot, "row 1"


@pytest.mark.parametrize(("make", "A", "what"), [pytest.param(*c[1:], id=c[0]) for c in singular_cases()])
def test_singular(make, A, what):
    stored = sparse.csr_array(np.ones((3, 3)))
    stored.data = A.ravel().copy()  # zeros are stored
    with pytest.raises(np.linalg.LinAlgError, match=f"`A`: .*{what}"):
        make(stored)
    good = stored.copy()
    good.data = (np.eye(3) * 9 + 1).ravel()
    M = make(good)
    expected = M @ np.ones(3)
    with pytest.raises(np.linalg.LinAlgError, match=what):
        M.update(stored)
    with pytest.raises(RuntimeError, match="the last update failed"):
        M @ np.ones(3)
    M.update(good)
    np.testing.assert_array_equal(M @ np.ones(3), expected)


def test_no_diagonal():
    A = sparse.csr_array(([1.0, 2.0], ([0, 1], [1, 1])), shape=(2, 2))
    for kind in (linalg.Jacobi, linalg.SSOR, linalg.Chebyshev):
        with pytest.raises(np.linalg.LinAlgError, match="row 0 has no entry on the diagonal"):
            kind(A)
    with pytest.raises(np.linalg.LinAlgError, match="row 0"):
        linalg.ILU0(A)


# -------------------------------------------------------------------------------------------------- bad input


def broken(**arrays):
    """A CSR matrix whose arrays were tampered with behind SciPy's back."""
    A = sparse.csr_array(np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 4.0]]))
    for name, value in arrays.items():
        setattr(A, name, np.asarray(value))
    return A


MALFORMED = [
    (broken(indices=[0, 1, 1, 3, 0, 2]), "`A`: index 3 in row 1"),
    (broken(indices=[0, -1, 1, 2, 0, 2]), "`A`: index -1 in row 0"),
    (broken(indices=np.array([0, 1, 1, 2**40, 0, 2])), "`A`: index 1099511627776 in row 1"),
    (broken(indptr=[0, 4, 2, 6]), "`A`: indptr decreases at row 1"),
    (broken(indptr=[1, 2, 4, 6]), r"`A`: indptr\[0\] must be 0"),
    (broken(indptr=[0, 2, 4]), "`A`: indptr has length 3; 4 is needed"),
    (broken(indptr=[0, 2, 4, 9]), "`A`: row 2 ends at entry 9"),
    (broken(data=[1.0, 2.0, 3.0]), "`A`: row 1 ends at entry 4"),
    (broken(data=[1.0, 2.0, 3.0, np.nan, 1.0, 1.0]), "`A`: non-finite value in row 1"),
    (broken(data=[1.0, 2.0, 3.0, 1.0, 1.0, -np.inf]), "`A`: non-finite value in row 2"),
    (broken(indices=[0.0, 1.0, 1.0, 2.0, 0.0, 2.0]), "`A`: indices has dtype float64"),
]


@pytest.mark.parametrize(("A", "message"), MALFORMED)
def test_malformed_csr(A, message):
    with pytest.raises(ValueError, match=message):
        linalg.ILU0(A)
    M = linalg.ILU0(broken())
    with pytest.raises(ValueError, match=message):
        M.update(A)


def test_malformed_other_formats():
    csc = sparse.csc_array(np.eye(3))
    csc.indices = np.array([0, 5, 2], dtype=np.int32)
    with pytest.raises(ValueError, match="`A`: index 5 in column 1"):
        linalg.Jacobi(csc)
    bsr = sparse.bsr_array(np.eye(4), blocksize=(2, 2))
    bsr.indices = np.array([0, 7], dtype=np.int32)
    with pytest.raises(ValueError, match="`A`: index 7 in block row 1"):
        linalg.Jacobi(bsr)
    coo = sparse.coo_array(np.eye(3))
    coo.coords = (np.array([0, 1, 9]), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="`A`: row index 9"):
        linalg.Jacobi(coo)


@pytest.mark.parametrize(
    ("A", "error", "message"),
    [
        (np.ones((2, 3)), ValueError, r"`A` has shape \(2, 3\)"),
        (sparse.csr_array((2, 3)), ValueError, r"`A` has shape \(2, 3\)"),
        (np.ones(3), ValueError, r"`A` has shape \(3,\)"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), ValueError, "`A`: non-finite value in row 0"),
        (np.array([["a"]]), TypeError, "`A` has dtype"),
        (np.array([[None]]), TypeError, "`A` has dtype object"),
        (np.ma.masked_array(np.eye(2)), TypeError, "`A` is a masked array"),
        (3.0, TypeError, "`A` must be"),
        (None, TypeError, "`A` must be"),
        (aslinearoperator(LinearOperator((2, 2), matvec=lambda x: x)), TypeError, "`A` is an operator"),
    ],
)
def test_bad_matrix(A, error, message):
    with pytest.raises(error, match=message):
        linalg.Jacobi(A)


def test_bad_options():
    A = np.eye(4)
    for make, error, message in [
        (lambda: linalg.SSOR(A, omega=2.0), ValueError, "`omega` must be finite, > 0, < 2; got 2.0"),
        (lambda: linalg.SSOR(A).set_omega(0), ValueError, "`omega`"),
        (lambda: linalg.SSOR(A, omega="1"), TypeError, "`omega`"),
        (lambda: linalg.ILU0(A, modified=1), TypeError, "`modified`"),
        (lambda: linalg.ILUT(A, drop=-1.0), ValueError, "`drop`"),
        (lambda: linalg.ILUT(A, fill=2.5), TypeError, "`fill`"),
        (lambda: linalg.BlockJacobi(A, blocks=0), ValueError, "`blocks` must be >= 1; got 0"),
        (lambda: linalg.BlockJacobi(A, blocks=[0, 3, 2, 4]), ValueError, "`blocks` decreases at position 2"),
        (lambda: linalg.BlockJacobi(A, blocks=[0, 2]), ValueError, "`blocks` must start with 0 and end"),
        (lambda: linalg.BlockJacobi(A, blocks=[0.0, 4.0]), TypeError, "`blocks`"),
        (lambda: linalg.AdditiveSchwarz(A, overlap=-1), ValueError, "`overlap`"),
        (lambda: linalg.AdditiveSchwarz(A, solver="ilu"), ValueError, "`solver` .* did you mean 'ilu0'"),
        (lambda: linalg.Chebyshev(A, degree=-1), ValueError, "`degree`"),
        (lambda: linalg.Chebyshev(A, interval=(2.0, 1.0)), ValueError, "`interval`"),
        (lambda: linalg.Chebyshev(A, interval=3.0), ValueError, "`interval` must be a pair"),
        (lambda: linalg.Chebyshev(A, ratio=1.0), ValueError, "`ratio`"),
    ]:
        with pytest.raises(error, match=message) as caught:
            make()
        assert not isinstance(caught.value, np.linalg.LinAlgError)


def test_update_of_another_pattern():
    M = linalg.ILU0(broken())
    other = sparse.csr_array(np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 0.0, 4.0]]))
    with pytest.raises(ValueError, match=r"`A` has another pattern \(6 entries\)"):
        M.update(other)
    with pytest.raises(ValueError, match=r"`A` has shape \(2, 2\)"):
        M.update(np.eye(2))
    with pytest.raises(TypeError, match="`A` is complex"):
        M.update(broken() * 1j)
    M.update(broken() * 2)  # still usable


# -------------------------------------------------------------------------------------- as_system, as_inverse


def forms(A):
    """The same matrix in everything users pass."""
    for form in ("csr", "csc", "bsr", "dia", "coo", "lil", "dok"):
        yield sparse.csr_array(A).asformat(form)
        yield sparse.csr_matrix(A).asformat(form)
    wide = sparse.csr_array(A)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    yield wide
    unsorted = sparse.csr_array(A)
    for i in range(len(A)):
        part = slice(unsorted.indptr[i], unsorted.indptr[i + 1])
        unsorted.indices[part] = unsorted.indices[part][::-1].copy()
        unsorted.data[part] = unsorted.data[part][::-1].copy()
    unsorted.has_sorted_indices = True  # which is not so
    yield unsorted
    coo = sparse.csr_array(A).tocoo()
    coords = [np.concatenate([c, c]) for c in coo.coords]
    doubled = sparse.coo_array((np.concatenate([coo.data * 0.25, coo.data * 0.75]), coords), shape=A.shape)
    yield doubled
    indptr = np.r_[0, np.cumsum(np.bincount(coords[0], minlength=len(A)))]
    order = np.argsort(coords[0], kind="stable")
    yield sparse.csr_array((doubled.data[order], coords[1][order], indptr), shape=A.shape)
    yield A
    yield np.asfortranarray(A)
    yield np.matrix(A)
    yield A.tolist()
    yield aslinearoperator(sparse.csr_array(A))
    yield aslinearoperator(A)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("dtype", DTYPES)
def test_as_system_of_every_form(dtype):
    A = random_matrix(dtype, 4, 6, 0.5)
    x = np.random.default_rng(0).standard_normal(6).astype(dtype)
    reference = _operators.as_system(sparse.csr_array(A))
    for given_matrix in forms(A):
        system = _operators.as_system(given_matrix)
        assert (system.n, system.dtype, system.has_entries) == (6, dtype, True)
        assert reference.pattern.matches(system.indptr, system.indices)
        np.testing.assert_allclose(system.data, reference.data, rtol=1e-15)
        y = np.empty_like(x)
        system.handle.apply(x, y)
        np.testing.assert_allclose(y, A @ x, rtol=1e-13, atol=1e-13)


def test_as_system_does_not_modify():
    A = sparse.csr_array((np.ones(4), np.array([1, 0, 0, 0]), np.array([0, 3, 4])), shape=(2, 2))
    indices, data, indptr = A.indices.copy(), A.data.copy(), A.indptr.copy()
    system = _operators.as_system(A)
    np.testing.assert_array_equal(system.indices, [0, 1, 0])
    np.testing.assert_array_equal(system.data, [2.0, 1.0, 1.0])
    for now, before in ((A.indices, indices), (A.data, data), (A.indptr, indptr)):
        np.testing.assert_array_equal(now, before)


def test_as_system_operator():
    A = random_matrix(np.float64, 1, 8, 0.4)

    class Mine(LinearOperator):
        def _matvec(self, x):
            return A @ x

        def _rmatvec(self, x):
            return A.T @ x

    class Shaped:  # what aslinearoperator takes
        shape = (8, 8)
        dtype = np.dtype(np.float64)

        def matvec(self, x):
            return A @ x

    x = np.arange(8.0)
    y = np.empty(8)
    for operator in (Mine(np.float64, (8, 8)), Shaped()):
        system = _operators.as_system(operator)
        assert not system.has_entries
        assert system.csr is None
        system.handle.apply(x, y)
        np.testing.assert_array_equal(y, A @ x)
    system = _operators.as_system(Mine(np.float64, (8, 8)), dtype=np.complex128)
    z = np.empty(8, dtype=complex)
    system.handle.apply(x * 1j, z)
    np.testing.assert_allclose(z, 1j * (A @ x), rtol=1e-14)
    system.handle.apply_adjoint(x * 1j, z)
    np.testing.assert_allclose(z, 1j * (A.T @ x), rtol=1e-14)


def test_check_finite():
    A = broken(data=[1.0, 2.0, 3.0, np.nan, 1.0, 1.0])
    assert np.isnan(_operators.as_system(A, check_finite=False).data[3])
    with pytest.raises(ValueError, match="`A`: index 3"):
        _operators.as_system(broken(indices=[0, 1, 1, 3, 0, 2]), check_finite=False)
    with pytest.raises(ValueError, match="`A`: data has length 2"):
        _operators.as_system(broken(data=[1.0, 2.0]), check_finite=False)


def test_cuda_input_is_refused():
    class OnDevice:
        shape = (2, 2)
        dtype = np.dtype(np.float64)

        def __dlpack__(self, **_):
            raise AssertionError("not to be read")

        def __dlpack_device__(self):
            return 2, 0

    system = _operators.as_system(np.eye(2))
    with pytest.raises(TypeError, match="`A` is on CUDA device 0"):
        linalg.Jacobi(OnDevice())
    with pytest.raises(TypeError, match="`M` is on CUDA device 0"):
        _operators.as_inverse(OnDevice(), system)


def applied(handle, x):
    y = np.empty_like(x)
    handle.apply(x, y)
    return y


@pytest.mark.parametrize("name", _preconditioners.BY_NAME)
@pytest.mark.parametrize("dtype", DTYPES)
def test_as_inverse_by_name(name, dtype):
    A = sparse.csr_array(random_matrix(dtype, 2, hermitian=True))
    system = _operators.as_system(A)
    M = _preconditioners.BY_NAME[name](A)
    x = np.random.default_rng(0).standard_normal(N).astype(dtype)
    for inverse in (_operators.as_inverse(name, system), _operators.as_inverse(M, system)):
        assert isinstance(inverse, _core.MatrixMapF64 | _core.MatrixMapC128)  # no Python in the loop
        np.testing.assert_array_equal(applied(inverse, x), M @ x)


def test_as_inverse_of_others():
    A = random_matrix(np.float64, 2)
    system = _operators.as_system(A)
    x = np.random.default_rng(0).standard_normal(N)
    inverse = np.linalg.inv(A)
    assert _operators.as_inverse(None, system) is None
    assert _operators.as_inverse("none", system) is None
    for M in (
        inverse,
        sparse.csc_array(inverse),
        aslinearoperator(inverse),
        LinearOperator((N, N), matvec=lambda v: inverse @ v, dtype=float),
        lambda v: inverse @ v,
        lambda v: (inverse @ v).reshape(N, 1),
    ):
        np.testing.assert_allclose(applied(_operators.as_inverse(M, system), x), inverse @ x, rtol=1e-12)
    assert _operators.as_inverse(lambda v: v, system, varies=True).varies
    assert _operators.as_inverse(LinearOperator((N, N), matvec=lambda v: v), system, varies=True).varies
    complex_system = _operators.as_system(A, dtype=complex)
    M = linalg.ILU0(A)
    np.testing.assert_array_equal(
        applied(_operators.as_inverse(M, complex_system), x * (1 + 2j)), M @ (x * (1 + 2j))
    )


def test_as_inverse_of_a_pyamg_hierarchy():
    pyamg = pytest.importorskip("pyamg")
    A = sparse.csr_array(oracle.five_point(12))
    M = pyamg.smoothed_aggregation_solver(sparse.csr_matrix(A)).aspreconditioner()
    x = np.random.default_rng(0).standard_normal(144)
    inverse = _operators.as_inverse(M, _operators.as_system(A))
    np.testing.assert_array_equal(applied(inverse, x), M @ x)


def test_as_inverse_refuses():
    system = _operators.as_system(np.eye(3))
    for M, error, message in [
        ("ilu", ValueError, "`M` must be one of .*did you mean 'ilut'"),
        (np.eye(2), ValueError, r"`M` has shape \(2, 2\); \(3, 3\) is needed"),
        (linalg.Jacobi(np.eye(4)), ValueError, r"`M` has shape \(4, 4\)"),
        (np.eye(3) * 1j, TypeError, "`M` is complex"),
        (linalg.Jacobi(np.eye(3) * 1j), TypeError, "`M` is complex"),
        (7, TypeError, "`M` must be"),
    ]:
        with pytest.raises(error, match=message):
            _operators.as_inverse(M, system)
    operator = _operators.as_system(LinearOperator((3, 3), matvec=lambda v: v))
    with pytest.raises(ValueError, match="`M` is 'ilu0', which is made from the entries of `A`"):
        _operators.as_inverse("ilu0", operator)


def test_callbacks():
    x, y = np.ones(3), np.empty(3)

    def fails(result, error, message):
        handle = _core.callback_map(3, lambda v: result, None, False, "M", False)
        with pytest.raises(error, match=message):
            handle.apply(x, y)

    fails(np.ones(2), ValueError, r"`M` returned shape \(2,\); \(3,\) is needed")
    fails(np.ones((3, 2)), ValueError, r"`M` returned shape \(3, 2\)")
    fails(np.ones(3) * 1j, TypeError, "`M` returned dtype complex128 where the system is real")
    fails(np.array(["a", "b", "c"]), TypeError, "`M` returned dtype")
    fails(None, ValueError, r"`M` returned shape \(\)")

    def raises(v):
        raise KeyError("mine")

    handle = _core.callback_map(3, raises, None, False, "M", False)
    with pytest.raises(KeyError, match="mine"):
        handle.apply(x, y)
    with pytest.raises(RuntimeError, match="`M` has no adjoint"):
        handle.apply_adjoint(x, y)
    kept = []
    handle = _core.callback_map(3, lambda v: kept.append(v) or v, None, False, "M", False)
    handle.apply(np.asfortranarray([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]), np.empty((3, 2), order="F"))
    np.testing.assert_array_equal(kept, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # arrays of its own


def test_native_apply_checks_memory():
    handle = _operators.as_system(np.eye(4)).handle
    good = np.ones(4)
    for x, y in [
        (good, np.empty(3)),
        (np.empty(3), good),
        (np.ones(8)[::2], np.empty(4)),
        (np.ones((4, 2)), np.empty((4, 2), order="F")),
        (np.ones((4, 2), order="F"), np.empty((4, 3), order="F")),
        (good, good),
        (good, np.broadcast_to(np.empty(1), (4,))),
    ]:
        with pytest.raises(ValueError):
            handle.apply(x, y)
    with pytest.raises(TypeError):
        handle.apply(good.astype(np.float32), np.empty(4))
    with pytest.raises(ValueError, match="`data` must have length 4, got 5"):
        handle.update(np.ones(5))
    pattern = _core.csr_pattern(2, 2, np.array([0, 2, 2]), np.array([0, 0]), None, "A", "row")
    with pytest.raises(ValueError, match="twice"):
        _core.csr_map(pattern, np.ones(2))


def test_prepare_vectors():
    system = _operators.as_system(np.eye(3))
    b = np.arange(3)
    B, X, shape = _operators.prepare_vectors(system, b)
    assert (B.shape, X.shape, shape, B.dtype) == ((3, 1), (3, 1), (3,), np.float64)
    assert not X.any()
    B, X, shape = _operators.prepare_vectors(system, np.ones((3, 2)), np.full((3, 2), 2.0))
    assert B.flags.f_contiguous
    assert X.flags.f_contiguous
    assert shape == (3, 2)
    x0 = np.ones(3)
    _, X, _ = _operators.prepare_vectors(system, np.ones((3, 1)), x0)
    X += 1
    assert x0.sum() == 3  # a copy
    for b, x0, error, message in [
        (np.ones(4), None, ValueError, r"`b` has shape \(4,\)"),
        (np.ones((3, 1, 1)), None, ValueError, "`b` has shape"),
        (np.array([1.0, np.nan, 0.0]), None, ValueError, "`b` has a non-finite value at index 1: nan"),
        (np.ones(3), np.ones(2), ValueError, r"`x0` has shape \(2,\)"),
        (np.ones((3, 2)), np.ones(3), ValueError, r"`x0` has shape \(3,\); \(3, 2\) is needed"),
        (np.ones(3) * 1j, None, TypeError, "`b` is complex"),
        (np.array(["a", "b", "c"]), None, TypeError, "`b` has dtype"),
        (sparse.csr_array(np.ones((3, 1))), None, TypeError, "`b` is a sparse matrix"),
    ]:
        with pytest.raises(error, match=message):
            _operators.prepare_vectors(system, b, x0)
    assert _operators.scalar_type(A=np.eye(2, dtype=np.float32), b=[1, 2j]) == np.complex128
    assert _operators.scalar_type(A=np.eye(2), M=None, x0=None) == np.float64
