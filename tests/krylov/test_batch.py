"""`solve_batch`: every solver, every executor, the same bits; what is counted, and how it fails."""

from __future__ import annotations

import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from aitken import ConvergenceWarning, Status
from aitken.linalg import gcrodr, solve_batch
from tests.interruption import check_ctrl_c, needs_posix
from tests.krylov import problems
from tests.oracles import krylov as oracle

ROOT = Path(__file__).resolve().parents[2]
FIELDS = (
    *("X", "order", "status", "nit", "matvecs", "residuals", "costs"),
    *("recycled", "projected", "carried"),
)


def family(count, s=12, wind=0.0, seed=0):
    """Diffusion with two parameters (and a wind) on s x s cells, as arrays of one pattern."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, s)
    params, data = rng.random((count, 2)), []
    for p in params:
        a = np.exp(p[0] * np.sin(4 * t[:, None]) + p[1] * np.cos(5 * t))
        A, _ = problems.true_darcy(a)
        if wind:
            drift = sp.diags_array([-wind, wind], offsets=[-1, 1], shape=(s, s))
            A = sp.csr_array(A + sp.kron(sp.eye_array(s), drift))
        A.sort_indices()
        data.append(A.data)
    b = rng.standard_normal((count, s * s))
    return A.indptr, A.indices, np.array(data), b, params


def matrix(arrays, i):
    indptr, indices, data = arrays[:3]
    values = data if data.ndim == 1 else data[i]
    return sp.csr_array((values, indices, indptr), shape=(indptr.size - 1,) * 2)


def rhs(arrays, i):
    return arrays[3] if arrays[3].ndim == 1 else arrays[3][i]


def certify(arrays, result, rtol):
    """Every number the result gives on its answers, recomputed."""
    for i, x in enumerate(result.X):
        b = rhs(arrays, i)
        residual = np.linalg.norm(b - matrix(arrays, i) @ x) / np.linalg.norm(b)
        assert result.residuals[i] == pytest.approx(residual, rel=1e-5, abs=1e-13)
        assert (result.status[i] == Status.CONVERGED) == (result.residuals[i] <= rtol)
    assert result.converged == result.success == (result.residuals.max() <= rtol)


def same_bits(one, two, fields=FIELDS):
    for name in fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


# -------------------------------------------------------------------------------------- solvers and executors


def needs(solver):
    if solver == "amg":
        pytest.importorskip("pyamg")


@pytest.mark.parametrize("solver", ["auto", "gcrodr", "rcg", "direct", "superlu", "amg"])
def test_every_solver_with_every_executor(solver):
    needs(solver)
    arrays = family(130)
    options = {"solver": solver, "params": arrays[4], "rtol": 1e-8, "guard": False}
    alone = solve_batch(*arrays[:4], **options)
    certify(arrays, alone, 1e-8)
    assert len(alone.chains) == 2
    np.testing.assert_array_equal(np.concatenate(alone.chains), alone.order)
    np.testing.assert_array_equal(np.sort(alone.order), np.arange(130))
    for n_threads in (1, 2, 3):
        same_bits(alone, solve_batch(*arrays[:4], n_threads=n_threads, **options))
    for executor in (1, 2, 3):
        same_bits(alone, solve_batch(*arrays[:4], executor=executor, **options))
    with ThreadPoolExecutor(2) as pool:
        same_bits(alone, solve_batch(*arrays[:4], executor=pool, **options))
    with ProcessPoolExecutor(1) as pool:
        same_bits(alone, solve_batch(*arrays[:4], executor=pool, **options))


class Elsewhere(Executor):
    """Runs at once, last come first: what a Client of another library may do."""

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def test_anything_with_submit_will_do():
    arrays = family(130, wind=0.3)
    alone = solve_batch(*arrays[:4], solver="gcrodr")
    same_bits(alone, solve_batch(*arrays[:4], solver="gcrodr", executor=Elsewhere()))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"side": "left"},
        {"side": "flexible"},
        {"carry": "t"},
        {"select": "sv"},
        {"ortho": "cgs2"},
        {"ortho": "mgs"},
        {"basis_dtype": "float32"},
        {"recycle_dim": 0},
        {"project": 0},
        {"guard": False},
        {"restart": 12, "recycle_dim": 5},
        *({"M": m} for m in ("none", "jacobi", "block-jacobi", "ssor", "ilut", "schwarz", "chebyshev")),
        {"solver": "rcg", "M": "jacobi"},
        {"solver": "rcg", "M": "none"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [float, complex])
def test_options(options, dtype):
    if options.get("solver") == "rcg":
        if dtype is complex:
            pytest.skip("the complex family is not Hermitian")
        arrays = family(12)
    else:
        indptr, indices, data, b, params = family(12, wind=0.3)
        if dtype is complex:
            data, b = data * (1 + 0.1j), b * (1 - 2j)
        arrays = (indptr, indices, data, b, params)
    result = solve_batch(*arrays[:4], params=arrays[4], **{"solver": "gcrodr", "rtol": 1e-9, **options})
    assert result.X.dtype == dtype
    certify(arrays, result, 1e-9)
    if options.get("recycle_dim") == 0:
        assert not result.recycled.any()
        assert not result.carried.any()
    if options.get("project") == 0:
        assert not result.projected.any()


@pytest.mark.parametrize("solver", ["gcrodr", "rcg", "direct", "superlu"])
def test_shared_matrices_and_shared_right_hand_sides(solver):
    indptr, indices, data, b, _ = family(70)
    for arrays in (
        (indptr, indices, data[0], b),
        (indptr, indices, data, b[0]),
        (indptr, indices, data[0], b[0]),
    ):
        result = solve_batch(*arrays, solver=solver, rtol=1e-9)
        certify(arrays, result, 1e-9)
        assert result.X.shape == (1 if arrays[2].ndim == arrays[3].ndim == 1 else 70, 144)
        with ThreadPoolExecutor(2) as pool:
            same_bits(result, solve_batch(*arrays, solver=solver, rtol=1e-9, executor=pool))
    spelt_out = solve_batch(indptr, indices, np.tile(data[0], (70, 1)), b, solver=solver, rtol=1e-9)
    same_bits(spelt_out, solve_batch(indptr, indices, data[0], b, solver=solver, rtol=1e-9))


@pytest.mark.parametrize("guard", [False, True])
def test_one_matrix_a_hundred_times(guard):
    """The space is as good for the last right-hand side as for the third."""
    arrays = family(120, s=20, wind=0.3)
    arrays = (arrays[0], arrays[1], arrays[2][0], arrays[3])
    result = solve_batch(*arrays, solver="gcrodr", rtol=1e-8, guard=guard)
    certify(arrays, result, 1e-8)
    assert result.nit.max() <= result.nit[0] + 2
    if not guard:
        assert result.nit[2:].max() <= 0.7 * result.nit[0]
        assert (result.recycled[1:] >= 20).all()
        # C stays: no product is spent on it. Beside iterations there are the start's and the residuals'.
        assert (result.matvecs - result.nit - result.projected)[1:].max() <= 4


# -------------------------------------------------------------------------------------------- what is counted


def test_results_come_in_the_order_given():
    arrays = family(100, wind=0.3)
    result = solve_batch(*arrays[:4], solver="gcrodr", params=arrays[4], rtol=1e-10)
    assert (np.diff(result.order) != 1).any()  # they were solved in another
    for i in (0, 17, 99):
        np.testing.assert_allclose(
            result.X[i], np.linalg.solve(matrix(arrays, i).toarray(), rhs(arrays, i)), atol=1e-7
        )
    assert result.projected[result.order[0]] == 0
    assert result.recycled[result.order[0]] == 0
    # Permuting the systems permutes the answers, to the tolerance.
    shuffle = np.random.default_rng(0).permutation(100)
    again = solve_batch(
        *arrays[:2],
        arrays[2][shuffle],
        arrays[3][shuffle],
        solver="gcrodr",
        params=arrays[4][shuffle],
        rtol=1e-10,
    )
    np.testing.assert_allclose(again.X, result.X[shuffle], atol=1e-7)


def test_projection_counts():
    arrays = family(30, wind=0.3)
    for project in (0, 1, 3, 8):
        result = solve_batch(*arrays[:4], solver="gcrodr", project=project, guard=False)
        np.testing.assert_array_equal(result.projected, np.minimum(np.arange(30), project))
    one = solve_batch(
        *arrays[:2], arrays[2][0], np.repeat(arrays[3][:20], 3, axis=0), solver="gcrodr", guard=False
    )
    assert one.projected[-1] == 32  # with one matrix more of them pay
    assert (one.nit[1::3] == 0).all()  # the same right-hand side again
    chains = solve_batch(*family(130)[:4], solver="gcrodr", project=4, guard=False)
    starts = [chain[0] for chain in chains.chains]
    assert len(starts) == 2
    assert not chains.projected[starts].any()  # chains know nothing of one another
    assert not chains.recycled[starts].any()


def test_the_start_is_the_oracles():
    """With nothing recycled and one step allowed, what is left is the projection's residual."""
    arrays = family(6, wind=0.3)
    result = solve_batch(
        *arrays[:4], solver="gcrodr", recycle_dim=0, M="none", project=3, guard=False, rtol=1e-9
    )
    for i in range(1, 6):
        X = result.X[max(0, i - 3) : i][::-1].T
        x = oracle.project_solutions(matrix(arrays, i), rhs(arrays, i), X)
        cold = gcrodr(matrix(arrays, i), rhs(arrays, i), x0=x, recycle_dim=0, rtol=1e-9)
        assert abs(result.nit[i] - cold.nit) <= 1


def waves(count, s=24):
    """A family on which everything that is carried pays: Helmholtz with two smooth parameters."""
    params = np.random.default_rng(3).uniform(-1, 1, (count, 2))
    systems = [problems.helmholtz(s, 12.0, p) for p in params]
    A = systems[0][0]
    return A.indptr, A.indices, np.array([m.data for m, _ in systems]), systems[0][1], params


def test_sorting_and_projection_save_iterations():
    """On a smooth two-parameter family, as the specification measured it."""
    arrays = waves(60)

    def total(**options):
        r = solve_batch(*arrays[:4], solver="gcrodr", M="jacobi", rtol=1e-6, **options)
        assert r.converged
        return r.nit.sum()

    nothing = total(recycle_dim=0, project=0)
    carried = total(project=0)
    sorted_too = total(project=0, params=arrays[4])
    everything = total(params=arrays[4])
    assert carried < 0.6 * nothing
    assert sorted_too < carried
    assert everything < 0.75 * sorted_too


def test_the_guard_drops_what_does_harm():
    """Matrices that have nothing to do with one another: their spaces cost products and save nothing."""
    n, count = 60, 40
    rng = np.random.default_rng(0)
    indptr, indices = np.arange(0, n * n + 1, n), np.tile(np.arange(n), n)
    data = np.array(
        [(rng.standard_normal((n, n)) / 20 + np.diag(1 + rng.random(n))).ravel() for _ in range(count)]
    )
    b = rng.standard_normal((count, n))
    arrays = (indptr, indices, data, b)
    options = {"solver": "gcrodr", "M": "none", "rtol": 1e-8, "project": 0}
    plain = solve_batch(*arrays, recycle_dim=0, **options)
    kept = solve_batch(*arrays, guard=False, **options)
    guarded = solve_batch(*arrays, guard=True, **options)
    for result in (plain, kept, guarded):
        certify(arrays, result, 1e-8)
    assert kept.carried.all()
    assert not plain.carried.any()
    assert guarded.carried[:3].all()  # some solves show what it is worth
    assert not guarded.carried[8:].any()
    assert (guarded.recycled[8:] == 0).all()
    cost = [(r.nit + r.recycled).sum() for r in (plain, guarded, kept)]
    assert cost[0] <= cost[1] < cost[2]


def test_where_recycling_pays_it_is_left_alone_but_measured_anew():
    """Every hundredth system of a chain is solved without the space, to know what it is worth."""
    arrays = waves(127)
    result = solve_batch(*arrays[:4], solver="gcrodr", M="jacobi", rtol=1e-6, project=0)
    assert len(result.chains) == 1
    assert list(np.flatnonzero(~result.carried)) == [100]
    assert result.recycled[100] == 0
    assert result.nit[100] > 1.5 * result.nit[99]


# ------------------------------------------------------------------------------------------- out and callback


def test_out_receives_the_solutions():
    arrays = family(20)
    expected = solve_batch(*arrays[:4], solver="gcrodr")
    out = np.full((20, 144), np.nan)
    result = solve_batch(*arrays[:4], solver="gcrodr", out=out)
    assert result.X is out
    same_bits(result, expected)
    read_only = np.zeros((20, 144))
    read_only.flags.writeable = False
    for wrong in (
        np.zeros((20, 143)),
        np.zeros((20, 144), np.float32),
        np.zeros((144, 20)).T,
        np.zeros((20, 144), complex),
        read_only,
    ):
        with pytest.raises(ValueError, match=r"`out` has shape.*\(20, 144\)"):
            solve_batch(*arrays[:4], solver="gcrodr", out=wrong)
    with pytest.raises(TypeError, match="`out` must be an ndarray, not list"):
        solve_batch(*arrays[:4], solver="gcrodr", out=[[0.0]])


@pytest.mark.parametrize("solver", ["gcrodr", "rcg", "direct", "superlu"])
def test_callbacks_see_every_system_and_may_stop(solver):
    arrays = family(20)
    seen = []
    result = solve_batch(*arrays[:4], solver=solver, callback=lambda *told: seen.append(told))
    assert [s for s, _, _ in seen] == list(range(20))
    assert [n for _, n, _ in seen] == list(result.nit)
    np.testing.assert_allclose(
        [r for _, _, r in seen], result.residuals * np.linalg.norm(arrays[3], axis=1), rtol=1e-12
    )

    def stop(system, nit, residual):
        if system == 6:
            raise StopIteration

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the caller wanted it
        stopped = solve_batch(*arrays[:4], solver=solver, callback=stop)
    assert not stopped.converged
    assert list(stopped.status) == [Status.CONVERGED] * 7 + [Status.STOPPED_BY_CALLBACK] * 13
    np.testing.assert_array_equal(stopped.X[:7], result.X[:7])
    assert not stopped.X[7:].any()
    assert np.isnan(stopped.residuals[7:]).all()

    class Mine(Exception):
        pass

    def fail(system, nit, residual):
        if system == 3:
            raise Mine(system)

    for executor in (None, 2):
        with pytest.raises(Mine):
            solve_batch(*family(130)[:4], solver=solver, callback=fail, executor=executor)


def test_a_stop_reaches_all_chains():
    arrays = family(700, s=6)

    def stop(system, nit, residual):
        raise StopIteration

    for executor in (3, Elsewhere()):
        result = solve_batch(*arrays[:4], solver="gcrodr", callback=stop, executor=executor)
        done = result.status == Status.CONVERGED
        assert 1 <= done.sum() <= (3 if executor == 3 else len(result.chains[0]))
        assert (result.status[~done] == Status.STOPPED_BY_CALLBACK).all()


# ----------------------------------------------------------------------------------------------- how it fails


@pytest.mark.parametrize("solver", ["gcrodr", "superlu", "direct", "rcg", "amg"])
def test_one_singular_member(solver):
    """It is named, its answer is honest, and the others are solved as if it were not there."""
    needs(solver)
    arrays = family(30)
    data = arrays[2].copy()
    data[11] = 0
    arrays = (*arrays[:2], data, *arrays[3:])
    options = {"M": "none"} if solver in ("gcrodr", "rcg") else {}
    with pytest.warns(ConvergenceWarning, match="1 of 30 systems did not converge; system 11: ") as caught:
        result = solve_batch(*arrays[:4], solver=solver, rtol=1e-8, **options)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not result.converged
    certify(arrays, result, 1e-8)
    failed = [i for i in range(30) if result.status[i] != Status.CONVERGED]
    assert failed == [11]
    assert result.residuals[11] == pytest.approx(1.0)
    assert np.isfinite(result.X).all()


@pytest.mark.parametrize("where", [0, 1, 40, 100, 129])
@pytest.mark.parametrize("executor", [None, 2, "processes"])
def test_a_zero_pivot_names_its_system(where, executor):
    arrays = family(130)
    data = arrays[2].copy()
    data[where, arrays[0][5] : arrays[0][6]] = 0
    for solver, what in (("gcrodr", "ILU"), ("rcg", "IC")):
        pool = Elsewhere() if executor == "processes" else executor
        with pytest.raises(ValueError, match=rf"^system {where}: .*row 5.*{what}\(0\)"):
            solve_batch(*arrays[:2], data, arrays[3], solver=solver, params=arrays[4], executor=pool)


def test_systems_with_nothing_to_do():
    arrays = family(20)
    b = arrays[3].copy()
    b[[0, 5, 6, 19]] = 0
    arrays = (*arrays[:3], b, arrays[4])
    for solver in ("gcrodr", "rcg", "direct", "superlu"):
        result = solve_batch(*arrays[:4], solver=solver, rtol=1e-9)
        assert result.converged
        assert not result.X[[0, 5, 6, 19]].any()
        assert (result.residuals[[0, 5, 6, 19]] == 0).all()
        for i in (1, 7, 18):
            assert np.linalg.norm(b[i] - matrix(arrays, i) @ result.X[i]) <= 1e-9 * np.linalg.norm(b[i])


def test_too_few_iterations_are_one_warning():
    arrays = family(130)
    for executor in (None, 3):
        filters = list(warnings.filters)
        with pytest.warns(ConvergenceWarning, match="130 of 130 systems") as caught:
            result = solve_batch(
                *arrays[:4], solver="gcrodr", M="none", maxiter=3, rtol=1e-10, executor=executor
            )
        assert len(caught) == 1
        assert warnings.filters == filters
        assert (result.nit == 3).all()
        assert (result.status == Status.MAX_ITERATIONS).all()
        certify(arrays, result, 1e-10)


def test_solvers_refuse_what_they_cannot_do():
    arrays = family(4, wind=0.3)
    with pytest.raises(ValueError, match='`solver` "direct" is for real symmetric matrices'):
        solve_batch(*arrays[:4], solver="direct")
    with pytest.raises(ValueError, match='`solver` "direct" is for real symmetric matrices'):
        solve_batch(*family(4)[:2], 1j * family(4)[2], arrays[3], solver="direct")
    needs("amg")
    with pytest.raises(ValueError, match='`solver` "amg" is for real matrices'):
        solve_batch(*arrays[:2], 1j * arrays[2], arrays[3], solver="amg")


def test_multigrid_on_what_is_no_m_matrix_keeps_the_best_answer():
    needs("amg")
    arrays = family(6, wind=3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = solve_batch(*arrays[:4], solver="amg", rtol=1e-10)
    certify(arrays, result, 1e-10)
    assert (result.residuals <= 1).all()


def test_bad_input_is_named():
    indptr, indices, data, b, params = family(6)
    nan_data, nan_b = data.copy(), b.copy()
    nan_data[3, 20], nan_b[2, 5] = np.nan, np.inf
    twice = indices.copy()
    twice[1] = twice[0]
    for error, match, changes in (
        (ValueError, "`solver` must be one of.*got 'lu'", {"solver": "lu"}),
        (ValueError, "`sort` must be one of.*got 'up'", {"sort": "up"}),
        (ValueError, "`sort` must be one of.*got 'up'", {"sort": "up", "params": params}),
        (ValueError, "`M` must be one of.*got 'x'", {"M": "x"}),
        (ValueError, "`recycle_dim` must be below `restart`; got 5 and 5", {"restart": 5, "recycle_dim": 5}),
        (ValueError, "`rtol`.*-1.0", {"rtol": -1.0}),
        (ValueError, "`rtol`.*nan", {"rtol": np.nan}),
        (ValueError, "`maxiter` must be >= 0; got -1", {"maxiter": -1}),
        (ValueError, "`project` must be >= 0; got -1", {"project": -1}),
        (TypeError, "`guard`.*2", {"guard": 2}),
        (TypeError, "`callback`", {"callback": 3}),
        (ValueError, "`executor` must be >= 1; got 0", {"executor": 0}),
        (TypeError, "`executor` must be None.*not str", {"executor": "threads"}),
        (TypeError, "`executor` must be None.*not bool", {"executor": True}),
        (ValueError, r"`params` has shape \(2, 2\)", {"params": params[:2]}),
        (ValueError, "`params`", {"params": params * np.nan}),
        (ValueError, r"`data`.*479|`data` has shape \(6, \d+\)", {"data": data[:, :-1]}),
        (ValueError, "`data`.*nan", {"data": nan_data}),
        (ValueError, "`b`.*inf", {"b": nan_b}),
        (ValueError, r"`data` has shape \(6, .*`b` \(4, 144\)", {"b": b[:4]}),
        (ValueError, r"`b` has shape \(6, 100\)", {"b": b[:, :100]}),
        (ValueError, "there must be a system", {"data": data[:0], "b": b[:0]}),
        (
            ValueError,
            "`indices`.*144.*row 0",
            {"indices": np.where(np.arange(indices.size) == 0, 144, indices)},
        ),
        (
            ValueError,
            "`indices`.*-1.*row 0",
            {"indices": np.where(np.arange(indices.size) == 0, -1, indices)},
        ),
        (ValueError, "`indices` holds a column twice", {"indices": twice}),
        (ValueError, r"indptr\[0\]", {"indptr": indptr[::-1]}),
        (ValueError, "`indptr` has dtype float64", {"indptr": indptr.astype(float)}),
        (ValueError, "`indptr` has length 1", {"indptr": [0]}),
        (TypeError, "`data` has dtype object", {"data": data.astype(object)}),
        (TypeError, "`b` has dtype <U", {"b": b.astype(str)}),
    ):
        given = {"indptr": indptr, "indices": indices, "data": data, "b": b, "solver": "gcrodr", **changes}
        arrays = [given.pop(name) for name in ("indptr", "indices", "data", "b")]
        with pytest.raises(error, match=match):
            solve_batch(*arrays, **given)


def test_nothing_of_the_callers_changes():
    arrays = family(70)
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    for solver in ("gcrodr", "rcg", "direct", "superlu"):
        solve_batch(*arrays[:4], params=arrays[4], solver=solver)
    for one, two in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(one, two)


# ----------------------------------------------------------------------------------------------------- Ctrl-C

SETUP = """
import numpy as np, scipy.sparse as sp
from aitken.linalg import solve_batch, solve_sequence
line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=({s}, {s}))
A = sp.csr_array(sp.kronsum(line, line))
b = np.random.default_rng(0).normal(size=({count}, A.shape[0]))
"""
BATCH = (
    "solve_batch(A.indptr, A.indices, A.data, b, solver={!r}, M='none', rtol=1e-13, maxiter=10**7, "
    "recycle_dim=0, executor={})"
)
LONG = {
    # Many short systems, and few that each take minutes.
    "short systems": {"s": 40, "count": 20000, "call": BATCH.format("gcrodr", None)},
    "short systems, threads": {"s": 40, "count": 20000, "call": BATCH.format("gcrodr", 3)},
    "long systems": {"s": 700, "count": 2, "call": BATCH.format("gcrodr", None)},
    "long systems, threads": {"s": 250, "count": 128, "call": BATCH.format("gcrodr", 2)},
    "rcg, threads": {"s": 250, "count": 128, "call": BATCH.format("rcg", 2)},
    "sequence, threads": {
        "s": 250,
        "count": 128,
        "call": "solve_sequence([(A, v) for v in b], solver='gcrodr', M='none', rtol=1e-13, maxiter=10**7, "
        "recycle_dim=0, executor=2)",
    },
}


@needs_posix
@pytest.mark.parametrize("case", LONG)
def test_ctrl_c(case):
    check_ctrl_c(SETUP.format(**LONG[case]), LONG[case]["call"])
