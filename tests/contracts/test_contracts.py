"""What every public solver guarantees, whatever it solves. Solvers enter themselves in contracts.py."""

from __future__ import annotations

import copy
import doctest
import inspect
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import OptimizeResult

from aitken import ConvergenceWarning, Result, Status
from tests.contracts.contracts import CONTRACTS
from tests.interruption import check_ctrl_c, environment, needs_posix

ROOT = Path(__file__).resolve().parents[2]
SOLVERS = pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)


def _parameters(wanted=lambda contract, name, x: True):
    """Every array input of every solver, or those that are wanted."""
    return pytest.mark.parametrize(
        ("contract", "parameter"),
        [
            pytest.param(c, name, id=f"{path}-{name}")
            for path, c in CONTRACTS.items()
            for name, x in c.inputs().items()
            if wanted(c, name, x)
        ],
    )


PARAMETERS = _parameters()


@pytest.fixture(autouse=True)
def _skip_what_differs(request):
    """Skip what a contract says its solver does otherwise, with the reason."""
    contract = getattr(request.node, "callspec", None) and request.node.callspec.params.get("contract")
    for part, why in contract.differs.items() if contract else ():
        if part in request.node.name:
            pytest.skip(f"{contract.name}: {why}")


def _same_bits(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        assert first[name].dtype == second[name].dtype


def _near(first, second, tol):
    for name in first:
        scale = np.abs(second[name]).max()
        np.testing.assert_allclose(first[name], second[name], rtol=0, atol=tol * scale, err_msg=name)


def _spaced(x):
    """The same values with gaps between them."""
    wide = np.full([2 * s for s in x.shape], np.nan, dtype=x.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in x.shape)]
    view[...] = x
    return view


def _reversed(x):
    """The same values in memory the other way round."""
    return np.ascontiguousarray(x[tuple(slice(None, None, -1) for _ in x.shape)])[
        tuple(slice(None, None, -1) for _ in x.shape)
    ]


def _unaligned(x):
    raw = np.zeros(x.nbytes + 1, dtype=np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned
    return view


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


# Same values in the same order of rows: same bits. Another order of memory may mean another kernel.
SAME_VALUES = {
    "spaced": _spaced,
    "reversed": _reversed,
    "unaligned": _unaligned,
    "read-only": _read_only,
    "big-endian": lambda x: x.astype(">f8"),
    "list": lambda x: x.tolist(),
    "subclass": lambda x: x.view(type("Wrapped", (np.ndarray,), {})),
}

# ------------------------------------------------------------------------------------------- input and output


@SOLVERS
def test_result_has_what_is_promised(contract):
    result = contract.run(contract.inputs())
    assert isinstance(result, Result | OptimizeResult)
    for name in ("status", "success", "message", *contract.fields):
        assert name in result, name
    assert isinstance(result.status, Status)
    assert isinstance(result.success, bool)
    assert isinstance(result.message, str)
    assert result.message
    if isinstance(result, Result):  # the other is printed by SciPy
        assert type(result).__name__ in repr(result)


@SOLVERS
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_success_is_certified(contract, dtype, tolerance):
    inputs = {k: x.astype(dtype) for k, x in contract.inputs().items()}
    tol = tolerance(dtype)
    result = contract.run(inputs, tol=tol.solve)
    assert result.success
    assert result.status == Status.CONVERGED
    assert result[contract.error] <= tol.solve
    recomputed = contract.certificate(inputs, result, contract.options)
    assert recomputed <= tol.solve + tol.kernel  # the rounding of another order of summation
    assert recomputed == pytest.approx(result[contract.error], rel=1e-3, abs=tol.kernel)


@SOLVERS
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-12])
def test_the_tolerance_is_the_certificates(contract, tol):
    inputs = contract.inputs()
    result = contract.run(inputs, tol=tol)
    assert result.success
    assert contract.certificate(inputs, result, contract.options) <= tol + 1e-13


@SOLVERS
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_dtype_and_inputs_stay(contract, dtype):
    inputs = {k: x.astype(dtype) for k, x in contract.inputs().items()}
    before = copy.deepcopy(inputs)
    answers = contract.answers(contract.run(inputs))
    for name in contract.keeps_dtype:
        assert answers[name].dtype == dtype
    for name, x in inputs.items():
        np.testing.assert_array_equal(x, before[name])
    for name, x in answers.items():
        assert np.isfinite(x).all(), name
        for parameter, given in inputs.items():
            assert not np.shares_memory(x, given), f"{name} is a view of `{parameter}`"


@PARAMETERS
@pytest.mark.parametrize("form", SAME_VALUES)
def test_forms_of_one_input(contract, parameter, form):
    inputs = contract.inputs()
    expected = contract.answers(contract.run(inputs))
    given = SAME_VALUES[form](inputs[parameter])
    kept = copy.deepcopy(given)
    result = contract.run({**inputs, parameter: given})
    _same_bits(contract.answers(result), expected)
    np.testing.assert_array_equal(given, kept)


@_parameters(lambda contract, name, x: x.ndim > 1)
def test_fortran_order(contract, parameter, tolerance):
    inputs = contract.inputs()
    tol = tolerance("float64")
    expected = contract.answers(contract.run(inputs, tol=tol.solve))
    inputs[parameter] = np.asfortranarray(inputs[parameter])
    kept = inputs[parameter].copy()
    result = contract.run(inputs, tol=tol.solve)
    _near(contract.answers(result), expected, tol.answer)
    np.testing.assert_array_equal(inputs[parameter], kept)


@SOLVERS
@pytest.mark.parametrize("dtype", [np.int64, np.int16, np.uint8, np.float16, np.longdouble])
def test_other_numeric_types_are_promoted(contract, dtype):
    exact = contract.integers()
    options = {"tol": 1e-6} if dtype == np.float16 else {}  # becomes float32
    float_type = np.float32 if dtype == np.float16 else np.float64
    expected = contract.answers(contract.run({k: x.astype(float_type) for k, x in exact.items()}, **options))
    got = contract.answers(contract.run({k: x.astype(dtype) for k, x in exact.items()}, **options))
    _same_bits(got, expected)


@SOLVERS
def test_smallest_problem(contract):
    inputs = contract.smallest()
    result = contract.run(inputs)
    assert result.success
    assert contract.certificate(inputs, result, contract.options) <= 1e-12
    for name, x in contract.answers(result).items():
        assert np.isfinite(x).all(), name


@SOLVERS
def test_every_array_library(contract, xp):
    inputs = contract.inputs()
    expected = contract.answers(contract.run(inputs))
    got = contract.answers(contract.run({k: xp.asarray(x) for k, x in inputs.items()}))
    for name, x in got.items():
        assert xp.owns(x), f"{name} is a {type(x)}"
    arrays = {name: xp.to_numpy(x) for name, x in got.items()}
    if xp.backend == "cpu":
        _same_bits(arrays, expected)
    else:
        _near(arrays, expected, 1e-6)


# ----------------------------------------------------------------------------------------------------- errors


@PARAMETERS
def test_nonfinite_values_are_refused_by_name(contract, parameter):
    for value in contract.refused_values(parameter):
        inputs = contract.inputs()
        inputs[parameter].flat[inputs[parameter].size // 2] = value
        with pytest.raises(ValueError, match=f"`{parameter}`.*{value}"):
            contract.run(inputs)


@PARAMETERS
def test_wrong_number_of_dimensions(contract, parameter):
    for change in (lambda x: x[None], lambda x: x[0]):
        inputs = contract.inputs()
        inputs[parameter] = change(inputs[parameter])
        shape = re.escape(str(inputs[parameter].shape))
        with pytest.raises(ValueError, match=f"`{parameter}` has shape {shape}"):
            contract.run(inputs)


@_parameters(lambda contract, name, x: name in contract.sized)
def test_wrong_length(contract, parameter):
    for change in (lambda x: x[:-1], lambda x: np.concatenate([x, x[-1:]]), lambda x: x[:0]):
        inputs = contract.inputs()
        inputs[parameter] = change(inputs[parameter])
        shape = re.escape(str(inputs[parameter].shape))
        with pytest.raises(ValueError, match=f"`{parameter}` has shape {shape}"):
            contract.run(inputs)


@PARAMETERS
def test_empty_arrays(contract, parameter):
    inputs = contract.inputs()
    inputs[parameter] = inputs[parameter][:0]
    with pytest.raises(ValueError, match=r"`.+` has shape"):
        contract.run(inputs)


@PARAMETERS
@pytest.mark.parametrize("kind", ["complex", "object", "text", "date", "masked"])
def test_wrong_kinds_of_data(contract, parameter, kind):
    if kind in contract.accepts:
        pytest.skip(f"{contract.name} takes {kind} data")
    inputs = contract.inputs()
    x = inputs[parameter]
    inputs[parameter] = {
        "complex": lambda: x.astype(complex),
        "object": lambda: x.astype(object),
        "text": lambda: x.astype(str),
        "date": lambda: x.astype("M8[D]"),
        "masked": lambda: np.ma.masked_array(x, x > 10),
    }[kind]()
    with pytest.raises(TypeError, match=f"`{parameter}`"):
        contract.run(inputs)


class _OnGpu:
    """Looks like an array on another device; nothing may be read from it."""

    shape, dtype, ndim = (3,), np.dtype(float), 1

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **_):
        raise AssertionError("data of another device was read")


@_parameters(lambda contract, name, x: len(contract.inputs()) > 1)
def test_mixed_devices(contract, parameter):
    inputs = contract.inputs()
    inputs[parameter] = _OnGpu()
    with pytest.raises(
        TypeError, match=f"`{parameter}`.*CUDA device 0|CUDA device 0.*`{parameter}`"
    ) as caught:
        contract.run(inputs)
    assert "the CPU" in str(caught.value)


@SOLVERS
def test_options_are_checked_by_name(contract):
    inputs = contract.inputs()
    wrong = {
        "tol": [0.0, -1.0, np.nan, "small", float],
        "rtol": [-1.0, np.nan, "small", float],
        "atol": [-1.0, np.nan, "small", float],
        "maxiter": [0, -3, 2.5, "many", True],
        "n_threads": [-2, 1.5, "two"],
        "callback": [3, "print"],
    }
    known = inspect.signature(contract.function).parameters
    for name in wrong.keys() & known.keys():
        for value in wrong[name]:
            if type(value) is not bool and value in contract.allows.get(name, ()):
                continue
            with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
                contract.solve(inputs, **{**contract.options, name: value})
    with pytest.raises(TypeError, match="no_such_option"):
        contract.run(inputs, no_such_option=1)


@SOLVERS
def test_everything_after_the_data_is_keyword_only(contract):
    parameters = inspect.signature(contract.function).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert set(contract.inputs()) <= set(positional)
    options = [p.name for p in parameters if p.default is not p.empty and p.name not in contract.inputs()]
    assert set(options) & set(positional) <= set(contract.positional)


# ------------------------------------------------------------------------------- callbacks and how solves end


@SOLVERS
def test_callback_sees_the_iteration(contract):
    seen = []

    def callback(intermediate_result):
        seen.append(intermediate_result)

    result = contract.run(contract.inputs(), callback=callback if contract.legacy_callback else seen.append)
    assert result.success
    assert seen
    assert [s.nit for s in seen] == list(range(1, len(seen) + 1))
    assert all(isinstance(s, Result | OptimizeResult) for s in seen)
    silent = contract.run(contract.inputs())
    _same_bits(contract.answers(result), contract.answers(silent))


@SOLVERS
@pytest.mark.parametrize("after", [1, 2, 3])
def test_stop_iteration_is_honoured(contract, after):
    calls = []

    def stop(intermediate_result):
        calls.append(intermediate_result)
        if len(calls) == after:
            raise StopIteration

    inputs = contract.inputs()
    options = {**contract.options, **contract.hard}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the caller wanted it: no warning
        result = contract.run(inputs, **options, callback=stop)
    assert len(calls) == after
    assert result.status == Status.STOPPED_BY_CALLBACK == 5
    assert not result.success
    # What is returned is the state at the stop, with its own certificate.
    recomputed = contract.certificate(inputs, result, options)
    assert recomputed == pytest.approx(result[contract.error], rel=1e-6)


@SOLVERS
def test_exceptions_of_a_callback_pass_unchanged(contract):
    class Mine(Exception):
        pass

    for error in (Mine("x", 3), KeyboardInterrupt(), ValueError("`a` of the caller"), SystemExit(4)):

        def fail(intermediate_result, error=error):
            raise error

        with pytest.raises(type(error)) as caught:
            contract.run(contract.inputs(), callback=fail)
        assert caught.value is error
        assert contract.run(contract.inputs()).success  # and the library is as before


@SOLVERS
@pytest.mark.parametrize("maxiter", [1, 2, 3])
def test_running_out_of_iterations_is_a_warning(contract, maxiter):
    inputs = contract.inputs()
    options = {**contract.options, **contract.hard}
    with pytest.warns(ConvergenceWarning) as caught:
        result = contract.run(inputs, **options, maxiter=maxiter, tol=1e-10)
    assert len(caught) == 1
    assert caught[0].filename == contract.solve.__code__.co_filename  # points at the caller
    text = str(caught[0].message)
    assert text.startswith(f"{contract.name}: ")
    assert f"{result[contract.error]:.3g}" in text
    assert "target 1e-10" in text
    assert "`maxiter`" in text  # the advice
    assert result.status == Status.MAX_ITERATIONS == 1
    assert not result.success
    recomputed = contract.certificate(inputs, result, options)
    assert recomputed > 1e-10
    assert recomputed == pytest.approx(result[contract.error], rel=1e-6)
    for name, x in contract.answers(result).items():
        assert np.isfinite(x).all(), name


@SOLVERS
def test_unreachable_tolerance_ends_honestly(contract):
    with pytest.warns(ConvergenceWarning):
        result = contract.run(contract.inputs(), tol=1e-30, maxiter=500)
    assert not result.success
    assert result.status in (Status.MAX_ITERATIONS, Status.STAGNATED)
    assert result[contract.error] < 1e-10  # and the answer is as good as it gets


@SOLVERS
def test_results_pickle(contract):
    result = contract.run(contract.inputs())
    for protocol in (2, pickle.HIGHEST_PROTOCOL):
        again = pickle.loads(pickle.dumps(result, protocol))
        assert type(again) is type(result)
        assert list(again.keys()) == list(result.keys())
        _same_bits(contract.answers(again), contract.answers(result))
        assert again.status is result.status
    assert list(copy.deepcopy(result).keys()) == list(result.keys())


# -------------------------------------------------------------------------------------------------- same bits


@SOLVERS
def test_bits_do_not_depend_on_threads_or_repetition(contract, n_threads):
    inputs = contract.inputs()
    expected = contract.answers(contract.run(inputs, n_threads=1))
    for _ in range(3):
        _same_bits(contract.answers(contract.run(inputs, n_threads=n_threads)), expected)


_SIMD_CHILD = """
import sys
import numpy as np
import aitken
from tests.contracts.contracts import CONTRACTS
out = {}
for path, c in CONTRACTS.items():
    for dtype in ("float64", "float32"):
        inputs = {k: x.astype(dtype) for k, x in c.inputs().items()}
        for name, x in c.answers(c.run(inputs)).items():
            out[f"{path}|{dtype}|{name}"] = x
np.savez(sys.argv[1], level=aitken.info()["simd"]["level"], **out)
"""


def test_simd_levels_agree(tmp_path):
    """Every instruction set this machine has computes the same to 1e-12 (float32: its own rounding)."""
    runs = {}
    for level in ("base", "v3", "v4"):
        file = tmp_path / f"{level}.npz"
        done = subprocess.run(
            [sys.executable, "-c", _SIMD_CHILD, str(file)],
            env={**environment(), "AITKEN_SIMD": level},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 and level != "base" and "AITKEN_SIMD" in done.stderr:
            continue  # this processor has no such level
        assert done.returncode == 0, done.stderr
        with np.load(file) as data:
            runs[level] = dict(data)
        assert str(runs[level].pop("level")) == level
    base = runs.pop("base")
    if not runs:
        pytest.skip("this processor has the base level only")
    for level, run in runs.items():
        for name in base.keys():
            tol = 1e-12 if "|float64|" in name else 2e-6
            scale = np.abs(base[name]).max()
            np.testing.assert_allclose(
                run[name], base[name], rtol=0, atol=tol * scale, err_msg=f"{level} {name}"
            )


# ----------------------------------------------------------------------------------------------------- Ctrl-C


@needs_posix
@pytest.mark.parametrize(
    ("contract", "variant"),
    [pytest.param(c, v, id=f"{path}-{v}") for path, c in CONTRACTS.items() for v in c.long],
)
def test_ctrl_c(contract, variant):
    """A long native solve ends within 0.2 s of the signal, as KeyboardInterrupt."""
    check_ctrl_c(contract.long[variant], "call()")


# ---------------------------------------------------------------------------------------------- documentation


def _sections(doc):
    """Section -> its text, of a numpydoc docstring."""
    lines = inspect.cleandoc(doc).splitlines()
    marks = [i for i in range(len(lines) - 1) if lines[i] and re.fullmatch("-{3,}", lines[i + 1])]
    ends = [*marks[1:], len(lines)]
    return {lines[i]: "\n".join(lines[i + 2 : end]) for i, end in zip(marks, ends, strict=True)}


@SOLVERS
def test_docstring_is_complete(contract):
    function = contract.function
    sections = _sections(function.__doc__)
    for name in ("Parameters", "Returns", "Raises", "Warns", "Examples"):
        assert sections.get(name, "").strip(), f"no section {name}"
    heads = re.findall(r"^(\w+(?:, \w+)*) : ", sections["Parameters"], flags=re.M)
    documented = [name for head in heads for name in head.split(", ")]
    parameters = inspect.signature(function).parameters.values()
    assert documented == [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]


@SOLVERS
def test_examples_run(contract):
    function = contract.function
    tests = doctest.DocTestFinder().find(function, contract.name, globs={})
    assert sum(len(t.examples) for t in tests) > 0
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    for test in tests:
        assert runner.run(test, out=sys.stdout.write).failed == 0


@SOLVERS
def test_signature_is_typed(contract):
    signature = inspect.signature(contract.function)
    assert signature.return_annotation is not signature.empty
    untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert not untyped
