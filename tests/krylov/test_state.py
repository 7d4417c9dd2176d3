"""The space that is carried from call to call: what it holds, how it is kept, and what it refuses."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from aitken.linalg import RecycleState, gcrodr, rcg, rminres
from tests.krylov import problems

N = 80


def filled(dtype=float):
    A = problems.nonsymmetric(N, 0, dtype=dtype)
    state = RecycleState()
    b = np.random.default_rng(0).standard_normal(N)
    gcrodr(A, b, restart=20, recycle_dim=6, rtol=1e-9, recycle=state)
    return A, b, state


def same(one, two):
    np.testing.assert_array_equal(one.U, two.U)
    assert (one.k, one.n, one.dtype, one.generation, one.stats) == (
        two.k,
        two.n,
        two.dtype,
        two.generation,
        two.stats,
    )


@pytest.mark.parametrize("dtype", [float, complex])
def test_what_it_says_of_itself(dtype):
    empty = RecycleState()
    assert (empty.k, empty.n, empty.dtype, empty.U, empty.C) == (0, 0, None, None, None)
    assert repr(empty) == "RecycleState(empty)"
    A, b, state = filled(dtype)
    assert state.U.shape == state.C.shape == (N, state.k)
    assert state.n == N
    assert state.dtype == dtype
    assert state.device == "cpu"
    assert repr(state) == f"RecycleState(n={N}, k={state.k}, dtype={np.dtype(dtype)}, generation=1)"
    first = dict(state.stats)
    assert first["solves"] == 1
    assert first["recycled_vectors"] == 0
    result = gcrodr(A, b[::-1].copy(), restart=20, recycle_dim=6, rtol=1e-9, recycle=state)
    assert state.generation == 2
    assert state.stats == {
        "solves": 2,
        "iterations": first["iterations"] + result.nit,
        "matvecs": first["matvecs"] + result.matvecs,
        "recycled_vectors": result.recycled,
    }
    state.clear()
    assert repr(state) == "RecycleState(empty)"
    assert state.stats["solves"] == 0


def test_the_same_matrix_is_recognised_and_a_changed_one_is_not():
    A, b, state = filled()
    options = {"restart": 20, "recycle_dim": 6, "rtol": 1e-9}
    extra = state.k

    def overhead(matrix, s, **more):
        r = gcrodr(matrix, b[::-1].copy(), recycle=s, **options, **more)
        assert r.recycled >= 6
        return r.matvecs - r.nit

    same_object, equal_entries = overhead(A, state.copy()), overhead(A.copy(), state.copy())
    changed = A.copy()
    changed[3, 4] += 1e-13
    assert same_object == equal_entries
    assert overhead(changed, state.copy()) == same_object + extra
    assert overhead(sp.csr_array(A), state.copy()) == same_object
    operator = spla.LinearOperator(A.shape, matvec=A.__matmul__, dtype=float)
    own = RecycleState()
    gcrodr(operator, b, recycle=own, **options)
    assert overhead(operator, own.copy()) == same_object
    twin = spla.LinearOperator(A.shape, matvec=A.__matmul__, dtype=float)
    assert overhead(twin, own.copy()) == same_object + own.k
    # With the preconditioner in the operator, another preconditioner is another operator.
    M, left = np.eye(N) * 0.5, RecycleState()
    gcrodr(A, b, recycle=left, M=M, side="left", **options)
    assert overhead(A, left.copy(), M=M, side="left") == same_object
    assert overhead(A, left.copy(), M=M.copy(), side="left") == same_object + left.k


def test_a_matrix_changed_in_place_is_a_new_one():
    A, b, state = filled()
    A = sp.csr_array(A)
    state = RecycleState()
    gcrodr(A, b, restart=20, recycle_dim=6, recycle=state)
    A.data *= 1.0 + 1e-3 * np.sin(np.arange(A.nnz))
    result = gcrodr(A, b[::-1].copy(), restart=20, recycle_dim=6, rtol=1e-9, recycle=state)
    assert result.converged
    np.testing.assert_allclose(A @ state.U, state.C, atol=1e-11)


@pytest.mark.parametrize("solver", [gcrodr, rcg, rminres])
def test_other_sizes_and_types(solver):
    _, _, state = filled()
    before = state.copy()
    with pytest.raises(
        ValueError, match=rf"`recycle` holds vectors of length {N}; the system has 16 unknowns"
    ):
        solver(np.eye(16), np.ones(16), recycle=state)
    same(state, before)
    _, _, complex_state = filled(complex)
    with pytest.raises(ValueError, match="`recycle` holds complex vectors, but the system is real"):
        solver(np.eye(N), np.ones(N), recycle=complex_state)
    for wrong in ({}, np.eye(3), "state", 3):
        with pytest.raises(TypeError, match="`recycle` must be a RecycleState"):
            solver(np.eye(N), np.ones(N), recycle=wrong)


def test_a_real_state_serves_a_complex_system():
    A, b, state = filled()
    cold = gcrodr(A + 0.01j * np.eye(N), b, restart=20, recycle_dim=6, rtol=1e-9)
    warm = gcrodr(A + 0.01j * np.eye(N), b, restart=20, recycle_dim=6, rtol=1e-9, recycle=state)
    assert warm.nit < 0.75 * cold.nit
    assert warm.recycled >= 6
    assert state.dtype == np.complex128


def test_no_vectors_asked_for_leaves_the_state_alone():
    A, b, state = filled()
    before = state.copy()
    assert gcrodr(A, b, recycle_dim=0, recycle=state).recycled == 0
    same(state, before)


@pytest.mark.parametrize("dtype", [float, complex])
def test_copies_and_pickles(dtype, tmp_path):
    A, b, state = filled(dtype)
    path = tmp_path / "state.npz"
    state.save(path)
    loaded = RecycleState.load(os.fspath(path))
    pickled = pickle.loads(pickle.dumps(state))
    options = {"restart": 20, "recycle_dim": 6, "rtol": 1e-9}
    other = A + 0.01 * problems.nonsymmetric(N, 3, dtype=dtype)
    answers = []
    for twin in (state.copy(), copy.deepcopy(state), pickled, loaded):
        same(twin, state)
        assert not np.shares_memory(twin.U, state.U)
        answers.append(gcrodr(other, b, recycle=twin, **options))
        assert twin.generation == 2
        assert twin.U is not state.U
    assert state.generation == 1
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.x, answers[0].x)
    # C is not kept on disk: the first solve makes it anew, and the answer is as good.
    assert loaded.C is not None
    again = RecycleState.load(path)
    assert again.C is None
    assert gcrodr(A, b[::-1].copy(), recycle=again, **options).converged


def test_empty_states_are_kept_too(tmp_path):
    for twin in (RecycleState().copy(), pickle.loads(pickle.dumps(RecycleState()))):
        assert twin.k == 0
    RecycleState().save(tmp_path / "empty")
    assert RecycleState.load(tmp_path / "empty").k == 0
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_what_is_not_a_saved_state(tmp_path):
    _, _, state = filled()
    path = tmp_path / "state.npz"
    state.save(path)
    content = path.read_bytes()
    wrong = tmp_path / "wrong"
    np.savez(tmp_path / "other.npz", U=np.eye(3))
    np.save(tmp_path / "array.npy", np.eye(3))
    cases = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "text": b"not a state\n",
        "other arrays": (tmp_path / "other.npz").read_bytes(),
        "one array": (tmp_path / "array.npy").read_bytes(),
        "pickle": pickle.dumps({"U": 3}),
    }
    for name, data in cases.items():
        wrong.write_bytes(data)
        with pytest.raises(ValueError, match=r"`path`.*wrong"):
            pytest.fail(f"{name}: {RecycleState.load(wrong)}")
    with pytest.raises(FileNotFoundError):
        RecycleState.load(tmp_path / "nothing")
    bad = state.copy()
    bad.U[3, 1] = np.nan
    bad.save(wrong)
    with pytest.raises(ValueError, match="`path`"):
        RecycleState.load(wrong)


FULL = """
import resource, signal, sys
import numpy as np
from aitken.linalg import RecycleState
state = RecycleState()
state.U = np.asfortranarray(np.random.default_rng(0).normal(size=(5000, 4)))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
try:
    state.save(sys.argv[1])
except OSError as error:
    print("refused", error.errno)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of file size are POSIX")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    _, _, state = filled()
    path = tmp_path / "state.npz"
    state.save(path)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL, os.fspath(path)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("refused"), done.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]


def test_a_directory_that_is_not_there(tmp_path):
    _, _, state = filled()
    with pytest.raises(OSError, match="nowhere"):
        state.save(tmp_path / "nowhere" / "state.npz")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        state.save(tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(("first", "second"), [((15, 14), (5, 4)), ((20, 12), (3, 2)), ((20, 12), (2, 1))])
@pytest.mark.parametrize("block", [False, True])
def test_more_vectors_than_a_cycle_has_room_for(first, second, block):
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(10, 10))
    A = sp.csr_array(sp.kronsum(line, line))
    B = np.random.default_rng(0).normal(size=(100, 2))
    state = RecycleState()
    for restart, recycle_dim in (first, second):
        b = B if block else B[:, 0]
        options = {"restart": restart, "recycle_dim": recycle_dim, "block": block, "maxiter": 2000}
        assert gcrodr(A, b, recycle=state, rtol=1e-6, **options).converged
    assert state.U.shape[1] <= second[0]
