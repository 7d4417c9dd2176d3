"""SciPy's own tests of its Krylov solvers, run with ours in their place.

The test modules are taken from the installed SciPy and executed under another name while the solvers in
``scipy.sparse.linalg._isolve`` are replaced, so that their tables of cases hold our functions. Each of their
cases is one case here. Where we differ on purpose, `DEVIATIONS` says so and why.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from scipy.sparse.linalg import _isolve

from aitken import ConvergenceWarning, Status, linalg

SOLVERS = ("cg", "minres", "bicgstab", "gmres", "lgmres", "gcrotmk")
MODULES = ("test_iterative", "test_minres", "test_lgmres", "test_gcrotmk")
FOLDER = Path(_isolve.__file__).parent / "tests"
SHIPPED = all((FOLDER / f"{name}.py").is_file() for name in MODULES)

# Systems that lgmres and gcrotmk solve within the one cycle that test_maxiter allows.
SMALL = (
    *("rand-diag", "rand", "rand-sym", "rand-sym-pd", "rand-cmplx", "rand-cmplx-herm", "rand-cmplx-sym-pd"),
    *("nonsymposdef", "sym-nonpd"),
)
ONE_CYCLE = [
    *(
        f"{name}{single}-{solver}"
        for name in SMALL
        for single in ("", "-F")
        for solver in ("lgmres", "gcrotmk")
    ),
    *(f"{sign}poisson1d{single}-gcrotmk" for sign in ("", "neg-") for single in ("", "-F")),
]
# Case -> why ours does not do what SciPy's test asks. Strict: a deviation that is none fails.
DEVIATIONS: dict[str, str] = {
    **{
        f"test_iterative:test_maxiter[{name}]": "the last cycle is checked too: what it solved has info 0"
        for name in ONE_CYCLE
        if not name.startswith("sym-nonpd-F")
    },
    "test_lgmres:TestLGMRES.test_nans": "NaN in `A` is refused by name, before any iteration",
    "test_gcrotmk:TestGCROTMK.test_nans": "NaN in `A` is refused by name, before any iteration",
}


def _load(name: str) -> types.ModuleType:
    """SciPy's test module with our solvers."""
    kept = {solver: getattr(_isolve, solver) for solver in SOLVERS}
    spec = importlib.util.spec_from_file_location(f"_aitken_parity_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    pytest.mark.fail_slow = lambda *args: lambda function: function  # a plug-in of SciPy's own runs
    try:
        for solver in SOLVERS:
            setattr(_isolve, solver, getattr(linalg, solver))
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        del pytest.mark.fail_slow
        for solver, original in kept.items():
            setattr(_isolve, solver, original)
    if hasattr(module, "_SOLVERS"):
        module._SOLVERS = [getattr(linalg, solver) for solver in SOLVERS]
    return module


def _choices(module: types.ModuleType, function) -> list[tuple[str, dict]]:
    """Every set of arguments that pytest would call a test function with, with its name."""
    axes: list[list[tuple[str, dict]]] = []
    named: set[str] = set()
    for mark in getattr(function, "pytestmark", ()):
        if mark.name == "parametrize":
            names = (
                [n.strip() for n in mark.args[0].split(",")]
                if isinstance(mark.args[0], str)
                else mark.args[0]
            )
            ids = mark.kwargs.get("ids")
            axis = []
            for i, value in enumerate(mark.args[1]):
                values = (value,) if len(names) == 1 else value
                label = ids[i] if ids else getattr(value, "__name__", str(value))
                axis.append((label, dict(zip(names, values, strict=True))))
            axes.append([a for a in axis if _ours(a[1].get("solver"))])
            named.update(names)
    for name in inspect.signature(function).parameters:
        if name == "solver" and name not in named:
            axes.append([(s, {"solver": getattr(linalg, s)}) for s in SOLVERS])
        elif name == "case" and name not in named:
            axes.append([(c.name, {"case": c}) for c in module.cases if _ours(c.solver)])
        elif name not in named and name != "self":
            return []  # a fixture of pytest's own: a test of SciPy's output
    return [
        ("-".join(label for label, _ in choice), {k: v for _, values in choice for k, v in values.items()})
        for choice in itertools.product(*axes)
    ]


def _ours(solver) -> bool:
    return solver is None or any(solver is getattr(linalg, name) for name in SOLVERS)


def _cases() -> list:
    if not SHIPPED:
        return []
    found = []
    for name in MODULES:
        module = _load(name)
        functions = []
        for key, value in vars(module).items():
            if key.startswith("test_") and inspect.isfunction(value):
                functions.append((key, value, value))
            elif key.startswith("Test") and key != "TestQMR" and inspect.isclass(value):
                functions += [
                    (f"{key}.{test}", getattr(value(), test), getattr(value, test))
                    for test in vars(value)
                    if test.startswith("test_")
                ]
        for key, call, marked in functions:
            lenient = any(mark.name == "xfail" for mark in getattr(marked, "pytestmark", ()))
            for label, arguments in _choices(module, call):
                case = f"{name}:{key}" + (f"[{label}]" if label else "")
                marks = (
                    [pytest.mark.xfail(reason=DEVIATIONS[case], strict=True)] if case in DEVIATIONS else []
                )
                found.append(pytest.param(call, arguments, lenient, id=case, marks=marks))
    return found


CASES = _cases()


@pytest.mark.skipif(not SHIPPED, reason="the installed SciPy ships no tests")
def test_every_deviation_is_a_case():
    assert len(CASES) > 250
    assert set(DEVIATIONS) <= {case.id for case in CASES}


@pytest.mark.parametrize(("call", "arguments", "lenient"), CASES)
def test_scipys_own(call, arguments, lenient):
    np.random.seed(1234)  # some of their tests draw from the global generator  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # SciPy's functions are silent
        warnings.filterwarnings("ignore", ".*without specifying `callback_type`.*", DeprecationWarning)
        try:
            call(**arguments)
        except AssertionError:
            if not lenient:  # SciPy itself marks it as expected to fail
                raise


# ------------------------------------------------------------------------------------ what else parity means


@pytest.mark.parametrize("name", SOLVERS)
def test_signatures(name):
    theirs = inspect.signature(getattr(spla, name)).parameters
    ours = inspect.signature(getattr(linalg, name)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for key, parameter in theirs.items():
        assert ours[key].default == parameter.default, key
        assert ours[key].kind == parameter.kind, key
    for key in list(ours)[len(theirs) :]:
        assert ours[key].kind == inspect.Parameter.KEYWORD_ONLY
        assert ours[key].default is not inspect.Parameter.empty


def _laplacian(m: int, dtype=np.float64) -> sp.csr_array:
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
    return sp.csr_array(sp.kronsum(line, line), dtype=dtype)


@pytest.mark.parametrize("name", SOLVERS)
def test_same_answers_and_info(name):
    A = _laplacian(20) + 0.1 * sp.eye_array(400)
    b = np.random.default_rng(0).normal(size=400)
    for options in (
        {"rtol": 1e-9},
        {"rtol": 1e-9, "M": sp.diags_array(1 / A.diagonal())},
        {"rtol": 1e-14, "maxiter": 1},
    ):
        if name == "gmres":
            options["restart"] = 10
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            ours, our_info = getattr(linalg, name)(A, b, **options)
        theirs, their_info = getattr(spla, name)(A, b, **options)
        assert our_info == their_info
        assert ours.shape == theirs.shape
        if our_info == 0:
            # SciPy's minres stops by estimates of its own, some digits earlier or later.
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 if name == "minres" else 1e-7)
            assert np.linalg.norm(A @ ours - b) <= 1e-9 * np.linalg.norm(b)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", ["f", "d", "F", "D"])
def test_forms_of_input(name, dtype):
    if name == "minres" and dtype in "FD":
        pytest.skip("SciPy's minres is for real matrices")
    A = (_laplacian(8) + sp.eye_array(64)).astype(dtype)
    b = np.arange(64).astype(dtype)
    theirs = getattr(spla, name)(A, b)[0]
    expected = np.linalg.solve(A.toarray().astype("D"), b)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        as_matrix = np.asmatrix(A.toarray())
    for matrix in (A, sp.csc_matrix(A), A.tocoo(), A.toarray(), as_matrix, spla.aslinearoperator(A)):
        for right in (b, b[:, None], b.tolist()):
            x, info = getattr(linalg, name)(matrix, right)
            assert info == 0
            assert x.shape == (64,)
            np.testing.assert_allclose(x, expected, rtol=1e-3, atol=1e-3)
            if right is b and (name, dtype) != ("minres", "f"):  # theirs drifts to double
                assert x.dtype == theirs.dtype


@pytest.mark.parametrize("name", SOLVERS)
def test_bad_shapes_are_value_errors(name):
    solver, A, b = getattr(linalg, name), np.eye(4), np.ones(4)
    for arguments, options in (
        ((np.ones((4, 3)), b), {}),
        ((A, np.ones(3)), {}),
        ((A, np.ones((4, 2))), {}),
        ((A, b, np.ones(3)), {}),
        ((A, b), {"M": np.eye(3)}),
    ):
        with pytest.raises(ValueError):
            getattr(spla, name)(*arguments, **options)
        with pytest.raises(ValueError, match="`"):
            solver(*arguments, **options)


@pytest.mark.parametrize("name", SOLVERS)
def test_stop_iteration(name):
    A, b = _laplacian(12), np.ones(144)
    seen = []

    def callback(argument):
        seen.append(argument)
        if len(seen) == 2:
            raise StopIteration

    options = {"callback_type": "pr_norm"} if name == "gmres" else {}
    if name in ("lgmres", "gcrotmk"):
        options["rtol"] = 1e-13
        options["inner_m" if name == "lgmres" else "m"] = 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = getattr(linalg, name)(A, b, callback=callback, **options)
    assert result.status == Status.STOPPED_BY_CALLBACK
    assert result.info > 0
    assert len(seen) == 2


@pytest.mark.parametrize("name", SOLVERS)
def test_no_convergence_is_a_warning_with_a_certificate(name):
    A, b = _laplacian(30), np.ones(900)
    with pytest.warns(ConvergenceWarning, match=f"{name}: the iteration limit was reached"):
        result = getattr(linalg, name)(A, b, rtol=1e-14, maxiter=1)
    assert result.status == Status.MAX_ITERATIONS
    assert not result.converged
    assert result.true_residual == pytest.approx(np.linalg.norm(b - A @ result.x), rel=1e-10)
    assert result.info == 1


@pytest.mark.parametrize("name", SOLVERS)
def test_bits_do_not_depend_on_threads(name):
    A = _laplacian(220)
    b = np.random.default_rng(1).normal(size=A.shape[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        one, two = (getattr(linalg, name)(A, b, maxiter=3, n_threads=k).x for k in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", SOLVERS)
def test_as_pyamg_accelerator(name):
    pyamg = pytest.importorskip("pyamg")
    A = sp.csr_matrix(_laplacian(40))
    hierarchy = pyamg.ruge_stuben_solver(A)
    b = np.random.default_rng(0).normal(size=A.shape[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        x = hierarchy.solve(b, tol=1e-8, accel=getattr(linalg, name), maxiter=50)
    assert np.linalg.norm(A @ x - b) <= 1e-8 * np.linalg.norm(b)
    by_name = hierarchy.aspreconditioner()
    assert getattr(linalg, name)(A, b, rtol=1e-8, M=by_name).nit < 30
