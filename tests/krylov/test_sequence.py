"""`solve_sequence` and `RecyclingSolver`: systems of every kind, one after the other."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from aitken import ConvergenceWarning, Status
from aitken.linalg import LinearResult, RecyclingSolver, gcrodr, solve_batch, solve_sequence
from tests.krylov import problems

RTOL = 1e-8
COUNTED = ("X", "nit", "matvecs", "residuals", "status", "recycled", "projected", "carried")


def family(count=12, s=16, wind=0.3, seed=0):
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, s)
    drift = sp.kron(sp.eye_array(s), sp.diags_array([-wind, wind], offsets=[-1, 1], shape=(s, s)))
    params, matrices = rng.random((count, 2)), []
    for p in params:
        A, _ = problems.true_darcy(np.exp(p[0] * np.sin(4 * t[:, None]) + p[1] * np.cos(5 * t)))
        A = sp.csr_array(A + drift) if wind else A
        A.sort_indices()
        matrices.append(A)
    return matrices, rng.standard_normal((count, s * s)), params


def certify(matrices, b, result, rtol=RTOL):
    for A, v, x, relative in zip(matrices, b, result.X, result.residuals, strict=True):
        residual = np.linalg.norm(v - A @ x) / np.linalg.norm(v)
        assert relative == pytest.approx(residual, rel=1e-5, abs=1e-13)
        assert residual <= rtol * (1 + 1e-6)
    assert result.converged
    assert (result.status == Status.CONVERGED).all()


def same_bits(one, two, fields=COUNTED):
    for name in fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


# ------------------------------------------------------------------------------------------- kinds of systems


def test_lists_iterators_and_functions_are_one():
    matrices, b, _ = family()
    pairs = list(zip(matrices, b, strict=True))
    asked = []

    def system(i):
        asked.append(i)
        return pairs[i]

    listed = solve_sequence(pairs, solver="gcrodr", rtol=RTOL)
    certify(matrices, b, listed)
    assert listed.solver == "gcrodr"
    assert listed.reason == "as asked"
    for other in (
        solve_sequence(tuple(pairs), solver="gcrodr", rtol=RTOL),
        solve_sequence(iter(pairs), solver="gcrodr", rtol=RTOL),
        solve_sequence((p for p in pairs), solver="gcrodr", rtol=RTOL),
        solve_sequence(system, n_systems=12, solver="gcrodr", rtol=RTOL),
    ):
        same_bits(listed, other)
        np.testing.assert_array_equal(other.order, np.arange(12))
    assert asked == list(range(12))
    # What solve_batch does in one native call, to the bit.
    data = np.array([A.data for A in matrices])
    batch = solve_batch(matrices[0].indptr, matrices[0].indices, data, b, solver="gcrodr", rtol=RTOL)
    np.testing.assert_array_equal(batch.nit, listed.nit)
    np.testing.assert_allclose(batch.X, listed.X, atol=1e-6 * np.abs(listed.X).max())


def test_recycling_pays():
    matrices, b, params = family(s=24)
    pairs = list(zip(matrices, b, strict=True))
    options = {"rtol": RTOL, "M": "jacobi", "params": params, "guard": False}
    carried = solve_sequence(pairs, solver="gcrodr", **options)
    plain = solve_sequence(pairs, solver="gmres", **options)
    certify(matrices, b, carried)
    certify(matrices, b, plain)
    assert carried.nit.sum() < 0.6 * plain.nit.sum()
    assert not plain.recycled.any()
    assert carried.order[0] == plain.order[0]
    assert (carried.order != np.arange(12)).any()
    assert carried.projected[carried.order[0]] == 0
    assert carried.params is params


@pytest.mark.parametrize(
    "form", ["operators", "dense", "coo", "mixed patterns", "float32", "complex", "columns"]
)
def test_forms_of_systems(form):
    matrices, b, _ = family()
    give = {
        "operators": lambda i, A: spla.LinearOperator(A.shape, matvec=A.__matmul__, dtype=float),
        "dense": lambda i, A: A.toarray(),
        "coo": lambda i, A: A.tocoo(),
        "mixed patterns": lambda i, A: sp.csr_array(A + 1e-3 * sp.eye_array(A.shape[0], k=5 + i % 3)),
        "float32": lambda i, A: A.astype(np.float32),
        "complex": lambda i, A: sp.csr_array(A * (1 + 0.1j)),
        "columns": lambda i, A: A,
    }[form]
    rtol = 1e-4 if form == "float32" else RTOL
    given = [give(i, A) for i, A in enumerate(matrices)]
    rhs = b[:, :, np.newaxis] if form == "columns" else b
    result = solve_sequence(list(zip(given, rhs, strict=True)), rtol=rtol, solver="gcrodr", guard=False)
    plain = [give(i, A) for i, A in enumerate(matrices)] if form != "operators" else matrices
    certify(plain, b, result, rtol)
    assert result.nit[3:].mean() < result.nit[0]
    if form in ("operators", "mixed patterns"):
        auto = solve_sequence(list(zip(given, rhs, strict=True)), rtol=rtol, guard=False)
        assert auto.solver == "gcrodr"
        assert auto.reason == "systems differ in pattern or are operators"
        same_bits(auto, result)


@pytest.mark.parametrize("x0", ["project", "previous", None])
def test_kinds_of_start(x0):
    matrices, _, _ = family()
    b = np.ones((12, 256))
    result = solve_sequence(
        list(zip(matrices, b, strict=True)),
        solver="gcrodr",
        x0=x0,
        rtol=RTOL,
        recycle_dim=0,
        project=4,
        guard=False,
    )
    certify(matrices, b, result)
    np.testing.assert_array_equal(result.projected, np.minimum(np.arange(12), 4) * (x0 == "project"))
    cold = [gcrodr(A, v, M="ilu0", rtol=RTOL, recycle_dim=0).nit for A, v in zip(matrices, b, strict=True)]
    if x0 is None:
        assert list(result.nit) == cold
    elif x0 == "previous":
        for i in range(1, 12):
            start = result.X[i - 1]
            assert result.nit[i] == gcrodr(matrices[i], b[i], start, M="ilu0", rtol=RTOL, recycle_dim=0).nit
    else:
        assert result.nit[4:].sum() < sum(cold[4:])


def test_threads_change_nothing():
    matrices, b, params = family(count=10, s=8)
    pairs = list(zip(matrices, b, strict=True)) * 20  # 200 systems, three chains
    many = np.tile(params, (20, 1)) + 1e-3 * np.arange(200)[:, None]
    alone = solve_sequence(pairs, solver="gcrodr", params=many, rtol=RTOL)
    assert len(alone.chains) == 3
    for executor in (1, 2, 3):
        same_bits(alone, solve_sequence(pairs, solver="gcrodr", params=many, rtol=RTOL, executor=executor))
    seen = set()

    def watch(i, result):
        seen.add(threading.current_thread().name)

    solve_sequence(pairs, solver="gcrodr", rtol=RTOL, executor=3, callback=watch)
    assert all("ThreadPool" in name for name in seen)


def test_threads_leave_the_warning_filters_alone():
    matrices, b, _ = family(count=10, s=8)
    pairs = list(zip(matrices, b, strict=True)) * 20
    before = list(warnings.filters)
    for _ in range(3):
        with pytest.warns(ConvergenceWarning, match="solve_sequence: 200 of 200 systems") as caught:
            result = solve_sequence(pairs, solver="gcrodr", rtol=1e-12, maxiter=1, executor=3)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert warnings.filters == before
        assert not result.converged


@pytest.mark.parametrize("solver", ["auto", "rcg", "direct", "superlu", "amg"])
def test_other_solvers(solver):
    if solver == "amg":
        pytest.importorskip("pyamg")
    matrices, b, params = family(wind=0.0)
    pairs = list(zip(matrices, b, strict=True))
    result = solve_sequence(pairs, solver=solver, params=params, rtol=RTOL)
    certify(matrices, b, result)
    assert result.reason
    if solver != "auto":
        assert result.solver == solver
    same_bits(result, solve_sequence(pairs, solver=solver, params=params, rtol=RTOL))
    if solver in ("direct", "superlu", "amg"):
        operators = [(spla.aslinearoperator(A.toarray()), v) for A, v in pairs]
        operators = [(spla.LinearOperator(A.shape, matvec=A.matvec, dtype=float), v) for A, v in operators]
        with pytest.raises(ValueError, match=f"`solver` '{solver}' needs sparse matrices of one pattern"):
            solve_sequence(operators, solver=solver)
        with pytest.raises(ValueError, match="`callback` is for iterative solvers"):
            solve_sequence(pairs, solver=solver, callback=print)
        for x0 in ("previous", None):  # nothing depends on a start
            same_bits(result, solve_sequence(pairs, solver=solver, params=params, rtol=RTOL, x0=x0))
    if solver == "auto":
        seen = []
        watched = solve_sequence(pairs, rtol=RTOL, callback=lambda i, r: seen.append(i))
        assert watched.solver == "gcrodr"
        assert "callback" in watched.reason
        assert seen == list(range(12))


def test_a_users_solver_is_judged_by_our_residual():
    matrices, b, _ = family()
    pairs = list(zip(matrices, b, strict=True))
    starts = []

    def scipys(A, v, x0=None, rtol=1e-5):
        starts.append(x0)
        return spla.gmres(A, v, x0=x0, rtol=0.5 * rtol, restart=100)

    result = solve_sequence(pairs, solver=scipys, rtol=RTOL, x0="previous")
    certify(matrices, b, result)
    assert result.solver == "scipys"
    assert starts[0] is None
    for i in range(1, 12):
        np.testing.assert_array_equal(starts[i], result.X[i - 1])
    assert sorted(result.records) == list(range(12))
    assert all(isinstance(r, LinearResult) for r in result.records.values())

    ours = solve_sequence(pairs, solver=gcrodr, rtol=RTOL, M="ilu0", recycle_dim=5)
    certify(matrices, b, ours)
    assert ours.solver == "gcrodr"

    def lies(A, v, x0=None, **options):
        return np.zeros_like(v), 0

    with pytest.warns(ConvergenceWarning, match="12 of 12 systems did not converge"):
        result = solve_sequence(pairs, solver=lies)
    assert not result.converged
    np.testing.assert_allclose(result.residuals, 1.0)


# ---------------------------------------------------------------------------------------- out, keep, callback


def test_where_solutions_go():
    matrices, b, _ = family()
    pairs = list(zip(matrices, b, strict=True))
    expected = solve_sequence(pairs, solver="gcrodr", rtol=RTOL)
    seen = {}
    nowhere = solve_sequence(
        pairs, solver="gcrodr", rtol=RTOL, keep=False, callback=lambda i, r: seen.update({i: r.x})
    )
    assert nowhere.X is None
    same_bits(nowhere, expected, COUNTED[1:])
    np.testing.assert_array_equal([seen[i] for i in range(12)], expected.X)
    out = np.full((12, 256), np.nan)
    result = solve_sequence(pairs, solver="gcrodr", rtol=RTOL, out=out)
    assert result.X is out
    same_bits(result, expected)
    for shape in ((12, 255), (11, 256), (256,)):
        with pytest.raises(ValueError, match=r"`out` has shape.*\(12, 256\) is needed"):
            solve_sequence(pairs, solver="gcrodr", out=np.zeros(shape))


def test_callbacks_may_stop():
    matrices, b, _ = family()
    pairs = list(zip(matrices, b, strict=True))
    full = solve_sequence(pairs, solver="gcrodr", rtol=RTOL)

    def stop(i, result):
        assert isinstance(result, LinearResult)
        if i == 4:
            raise StopIteration

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stopped = solve_sequence(pairs, solver="gcrodr", rtol=RTOL, callback=stop)
        endless = solve_sequence(iter(pairs), solver="gcrodr", rtol=RTOL, callback=stop)
    assert list(stopped.status) == [Status.CONVERGED] * 5 + [Status.STOPPED_BY_CALLBACK] * 7
    assert not stopped.converged
    np.testing.assert_array_equal(stopped.X[:5], full.X[:5])
    assert not stopped.X[5:].any()
    assert len(endless.X) == len(endless.status) == 5

    class Mine(Exception):
        pass

    def fail(i, result):
        raise Mine(i)

    for executor in (None, 2):
        with pytest.raises(Mine):
            solve_sequence(pairs * 20, solver="gcrodr", callback=fail, executor=executor)


# -------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_named():
    matrices, b, params = family(count=4)
    pairs = list(zip(matrices, b, strict=True))
    for error, match, systems, options in (
        (TypeError, "`systems` must be a sequence", 3, {}),
        (ValueError, "`systems` is empty", [], {}),
        (ValueError, "`systems` is empty", iter([]), {}),
        (TypeError, r"`systems\[0\]` must be a pair \(A, b\) or .*, not int", [1, 2], {}),
        (TypeError, r"`systems\[1\]` must be a pair \(A, b\) or .*, not tuple", [pairs[0], (1, 2, 3, 4)], {}),
        (ValueError, "`n_systems` is needed", pairs.__getitem__, {}),
        (ValueError, "`n_systems` is 3, but `systems` has length 4", pairs, {"n_systems": 3}),
        (ValueError, "`n_systems` must be >= 1", pairs.__getitem__, {"n_systems": 0}),
        (ValueError, "`solver` must be one of.*got 'x'", pairs, {"solver": "x"}),
        (ValueError, "`x0` must be one of.*got 'zero'", pairs, {"x0": "zero"}),
        (ValueError, "`sort` must be one of.*got 'up'", pairs, {"sort": "up"}),
        (ValueError, r"`params` has shape \(3, 2\)", pairs, {"params": params[:3]}),
        (ValueError, "`rtol`.*-1", pairs, {"rtol": -1.0}),
        (ValueError, "`project` must be >= 0", pairs, {"project": -1}),
        (TypeError, "`callback`", pairs, {"callback": 3}),
        (TypeError, "no_such", pairs, {"no_such": 1}),
        (TypeError, "`executor` must be None or a number of threads", pairs, {"executor": "x"}),
        (ValueError, "`executor` must be >= 1", pairs, {"executor": 0}),
        (TypeError, "`executor` needs `systems` that can be indexed", iter(pairs), {"executor": 2}),
    ):
        with pytest.raises(error, match=match):
            solve_sequence(systems, **{"solver": "gcrodr", **options})


@pytest.mark.parametrize("executor", [None, 2])
def test_errors_say_which_system(executor):
    matrices, b, _ = family(count=4)
    pairs = list(zip(matrices, b, strict=True)) * 40
    zero = matrices[0].copy()
    zero.data[: zero.indptr[1]] = 0
    for place, wrong, error, match in (
        (3, (np.eye(3), np.ones(3)), ValueError, "`A` has 3 rows"),
        (90, (matrices[0], b[0] * np.nan), ValueError, "`b` has a non-finite value"),
        (100, (zero, b[0]), ValueError, r"row 0 of ILU\(0\)"),
        (5, (matrices[0] * 1j, b[0]), ValueError, "complex128; this solver began with 256 and float64"),
        (159, ("matrix", b[0]), TypeError, "`A` must be"),
    ):
        systems = list(pairs)
        systems[place] = wrong
        with pytest.raises(error, match=match) as caught:
            solve_sequence(systems, solver="gcrodr", executor=executor)
        assert f"in `systems[{place}]`" in caught.value.__notes__


# -------------------------------------------------------------------------------------------- RecyclingSolver


def test_the_solver_carries_by_itself():
    matrices, b, params = family()
    solver = RecyclingSolver(M="jacobi", rtol=RTOL, guard=False)
    first = [solver.solve(A, v, params=p) for A, v, p in zip(matrices, b, params, strict=True)]
    for A, v, r in zip(matrices, b, first, strict=True):
        assert r.converged
        assert np.linalg.norm(v - A @ r.x) <= RTOL * np.linalg.norm(v)
    assert [r.projected for r in first] == [min(i, 8) for i in range(12)]
    assert first[0].recycled == 0
    assert all(r.recycled >= 20 for r in first[1:])
    solver.restart()
    again = [solver.solve(A, v, params=p) for A, v, p in zip(matrices, b, params, strict=True)]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.x, two.x)
        assert one.nit == two.nit


def test_a_start_that_is_given_is_taken():
    matrices, b, _ = family()
    solver = RecyclingSolver(rtol=RTOL)
    x = solver.solve(matrices[0], b[0]).x
    assert solver.solve(matrices[0], b[0], x).nit == 0
    assert solver.solve(matrices[0], b[0]).nit == 0  # found in the span of what was solved
    with pytest.raises(ValueError, match=r"`x0` has shape \(3,\)"):
        solver.solve(matrices[0], b[0], np.zeros(3))


def test_one_matrix_and_its_setup():
    matrices, _, _ = family()
    calls = []

    def make(A):
        calls.append(A)
        return spla.aslinearoperator(sp.diags_array(1 / A.diagonal()).tocsr())

    solver, rng = RecyclingSolver(M=make, rtol=RTOL, guard=False), np.random.default_rng(0)
    results = [solver.solve(matrices[0], rng.standard_normal(256)) for _ in range(40)]
    assert len(calls) == 1
    assert all(r.converged for r in results)
    assert max(r.nit for r in results[2:]) <= 0.8 * results[0].nit
    solver.solve(matrices[1], rng.standard_normal(256))
    assert len(calls) == 2


@pytest.mark.parametrize("method", ["gcrodr", "rcg"])
def test_an_idle_solve_between(method):
    """b = 0 for a new matrix: what is carried is not taken for that matrix's image afterwards."""
    matrices, b, _ = family(wind=0.0)
    solver = RecyclingSolver(method, rtol=RTOL, guard=False)
    for A, v in zip(matrices[:3], b, strict=False):
        solver.solve(A, v)
    assert solver.solve(matrices[3], np.zeros(256)).nit == 0
    fresh = [solver.solve(matrices[3], v) for v in b[4:7]]
    for v, r in zip(b[4:7], fresh, strict=True):
        assert r.converged
        assert np.linalg.norm(v - matrices[3] @ r.x) <= RTOL * np.linalg.norm(v)
        assert r.recycled > 0


def test_the_solver_refuses_what_does_not_belong():
    matrices, b, _ = family()
    for error, match, options in (
        (ValueError, "`method` must be one of.*got 'x'", {"method": "x"}),
        (ValueError, "`M` must be one of.*got 'y'", {"M": "y"}),
        (TypeError, "`M` must be a name or a function of the matrix, not int", {"M": 3}),
        (ValueError, "`recycle_dim` must be below `restart`", {"recycle_dim": 40}),
        (TypeError, "`guard`", {"guard": "yes"}),
        (ValueError, "`project`", {"project": -1}),
        (ValueError, "`maxiter`", {"maxiter": -1}),
    ):
        with pytest.raises(error, match=match):
            RecyclingSolver(**options)
    solver = RecyclingSolver()
    solver.solve(matrices[0], b[0])
    with pytest.raises(ValueError, match=r"`A` has 3 rows.*this solver began with 256"):
        solver.solve(np.eye(3), np.ones(3))
    with pytest.raises(ValueError, match=r"`b` has shape \(256, 2\); one right-hand side"):
        solver.solve(matrices[0], np.ones((256, 2)))
    assert solver.solve(matrices[1], b[1]).converged  # and goes on


@pytest.mark.parametrize("solver", ["gcrodr", "rcg", "ssor_cg", "sor"])
def test_a_matrix_changed_in_place_is_another_matrix(solver):
    A = sp.diags_array([-1.0, 2.5, -1.0], offsets=[-1, 0, 1], shape=(300, 300), format="csr")
    b = np.ones(300)

    def systems(i):
        A.data *= 1.5
        return A, b

    result = solve_sequence(systems, n_systems=3, solver=solver, rtol=1e-10)
    assert result.converged
    assert np.linalg.norm(A @ result.X[2] - b) <= 1e-10 * np.linalg.norm(b)
    assert np.linalg.norm(A @ result.X[1] - 1.5 * b) <= 1e-9 * np.linalg.norm(b)
