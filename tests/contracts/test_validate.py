"""Checks, results, warnings and dispatch: the parts that every public solver shares."""

import pickle
import re
import sys
import types
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

import aitken
from aitken import _dispatch, _loader
from aitken import _validate as v
from aitken._errors import ConvergenceWarning, CudaUnavailableError
from aitken._result import Result, Status, warn_not_converged


class TestFloatArray:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            (np.float64, np.float64),
            (np.float32, np.float32),
            (np.float16, np.float32),
            (np.longdouble, np.float64),
            (np.int32, np.float64),
            (np.uint8, np.float64),
            (np.bool_, np.float64),
            (">f8", np.float64),
            (">f4", np.float32),
            (">i2", np.float64),
        ],
    )
    def test_types(self, given, kept):
        x = np.array([[1, 0], [1, 1]], dtype=given)
        y = v.as_float_array("x", x)
        assert y.dtype == kept
        assert y.dtype.isnative
        assert np.array_equal(y, x)

    def test_no_copy_where_none_is_needed(self):
        x = np.arange(12.0).reshape(3, 4)
        assert v.as_float_array("x", x) is x
        assert np.shares_memory(v.as_float_array("x", x[::2, ::-1]), x)
        assert np.shares_memory(v.as_float_array("x", x.T), x)

    def test_dtype_is_forced(self):
        assert v.as_float_array("x", [1, 2], dtype=np.float32).dtype == np.float32

    @pytest.mark.parametrize(
        "x",
        [
            np.array([1j]),
            np.array([None]),
            np.array(["a"]),
            np.array(["2020-01-01"], dtype="M8[D]"),
            np.ma.masked_array([1.0], [True]),
            sp.eye_array(2),
        ],
    )
    def test_kinds_refused(self, x):
        with pytest.raises(TypeError, match="`weights`"):
            v.as_float_array("weights", x)

    def test_ragged(self):
        with pytest.raises(ValueError, match="`M` is not a rectangular array"):
            v.as_float_array("M", [[1.0, 2.0], [3.0]])

    def test_shapes(self):
        x = np.zeros((2, 3))
        v.as_float_array("M", x, ndim=2, shape=(2, None))
        with pytest.raises(ValueError, match=re.escape("`M` has shape (2, 3); 1-D or 3-D is needed")):
            v.as_float_array("M", x, ndim=(1, 3))
        with pytest.raises(ValueError, match=re.escape("`M` has shape (2, 3); (any, 4) is needed")):
            v.as_float_array("M", x, shape=(None, 4))
        with pytest.raises(ValueError, match=re.escape("`M` has shape (2, 3); (6,) is needed (rows of `A`)")):
            v.check_shape("M", x, (6,), why="rows of `A`")

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_first_bad_index(self, bad):
        x = np.ones((3, 4), dtype=np.float32)
        x[1, 2] = bad
        x[2, 0] = np.nan
        with pytest.raises(ValueError, match=re.escape(f"`M` has a non-finite value at index (1, 2): {bad}")):
            v.as_float_array("M", x)
        with pytest.raises(ValueError, match="at index 2:"):
            v.as_float_array("a", x[1])
        assert v.as_float_array("M", x, finite=False) is x

    def test_large_finite_values_pass(self):
        x = np.full(4, 1.7e308)  # the sum overflows, the entries are finite
        assert v.as_float_array("x", x) is x
        assert v.as_float_array("x", np.full(4, 3e38, np.float32)).dtype == np.float32

    def test_opposite_infinities_do_not_cancel(self):
        with pytest.raises(ValueError, match="index 0: inf"):
            v.check_finite("x", np.array([np.inf, -np.inf]))

    def test_positive_infinity_allowed(self):
        v.check_finite("M", np.array([1.0, np.inf]), allow_posinf=True)
        with pytest.raises(ValueError, match="index 1: -inf"):
            v.check_finite("M", np.array([np.inf, -np.inf]), allow_posinf=True)
        with pytest.raises(ValueError, match="index 0: nan"):
            v.check_finite("M", np.array([np.nan, np.inf]), allow_posinf=True)

    def test_empty(self):
        assert v.as_float_array("x", np.zeros((0, 3))).shape == (0, 3)
        v.check_nonnegative("x", np.zeros(0))

    def test_negative(self):
        v.check_nonnegative("a", np.array([0.0, 1.0]))
        with pytest.raises(ValueError, match=re.escape("`a` has a negative value at index 1: -0.5")):
            v.check_nonnegative("a", np.array([0.0, -0.5, -1.0]))


class TestScalars:
    @pytest.mark.parametrize("value", [1, 0.5, np.float32(2), np.array(3.0), np.int64(4)])
    def test_positive(self, value):
        assert v.positive_scalar("reg", value) == float(value)

    @pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf])
    def test_positive_refused(self, value):
        with pytest.raises(ValueError, match=re.escape(f"`reg` must be finite, > 0; got {float(value)!r}")):
            v.positive_scalar("reg", value)

    @pytest.mark.parametrize("value", ["1", None, 1j, True, [1.0], np.ones(1), np.array("1")])
    def test_kind_refused(self, value):
        with pytest.raises(TypeError, match="`reg` must be a real number"):
            v.positive_scalar("reg", value)

    def test_bounds(self):
        assert v.real_scalar("omega", 2, minimum=0, maximum=2, open_minimum=True) == 2.0
        with pytest.raises(ValueError, match=re.escape("`omega` must be finite, > 0, < 2; got 2.0")):
            v.real_scalar("omega", 2, minimum=0, maximum=2, open_minimum=True, open_maximum=True)

    def test_tolerance(self):
        assert v.tolerance("tol", 0) == 0.0
        with pytest.raises(ValueError, match="`tol`"):
            v.tolerance("tol", -1e-9)

    def test_integers(self):
        assert v.integer("maxiter", np.int32(3), minimum=0) == 3
        assert v.optional_integer("maxiter", None) is None
        for bad in (1.0, "1", True, None, np.bool_(True)):
            with pytest.raises(TypeError, match="`maxiter` must be an integer"):
                v.integer("maxiter", bad)
        with pytest.raises(ValueError, match="`maxiter` must be >= 0; got -1"):
            v.integer("maxiter", -1, minimum=0)
        with pytest.raises(ValueError, match="`k` must be <= 2; got 3"):
            v.integer("k", 3, maximum=2)

    def test_choices(self):
        assert v.choice("method", "newton", ["auto", "newton"]) == "newton"
        assert v.choice("round", False, ["a", False]) is False
        with pytest.raises(
            ValueError, match=r"`method` must be one of 'auto', 'newton'.*did you mean 'newton'"
        ):
            v.choice("method", "newtom", ["auto", "newton"])
        with pytest.raises(TypeError, match="`method`"):
            v.choice("method", 3, ["auto", "newton"])
        with pytest.raises(TypeError, match="`round`"):
            v.choice("round", 0, ["a", False])

    def test_booleans_and_callbacks(self):
        assert v.boolean("round", np.bool_(True)) is True
        with pytest.raises(TypeError, match="`round`"):
            v.boolean("round", 1)
        assert v.callback("callback", None) is None
        assert v.callback("callback", print) is print
        with pytest.raises(TypeError, match="`callback`"):
            v.callback("callback", 3)

    def test_threads(self):
        assert [v.n_threads(n) for n in (None, 0, -1, 3)] == [0, 0, 0, 3]
        with pytest.raises(ValueError, match="`n_threads`"):
            v.n_threads(-2)

    def test_seeds(self):
        assert v.rng_seed(7) == 7
        assert v.rng_seed(2**64 - 1) == 2**64 - 1
        first, second = (v.rng_seed(np.random.default_rng(3)) for _ in range(2))
        assert first == second
        generator = np.random.default_rng(3)
        assert v.rng_seed(generator) != v.rng_seed(generator)
        assert v.rng_seed(None) != v.rng_seed(None)
        for bad, kind in ((-1, ValueError), (2**64, ValueError), (1.0, TypeError), (True, TypeError)):
            with pytest.raises(kind, match="`rng`"):
                v.rng_seed(bad)

    def test_unknown_keyword(self):
        v.no_unknown_keywords("solve", [], ["tol"])
        with pytest.raises(TypeError, match=r"solve\(\) got an unknown option `tlo`; did you mean `tol`"):
            v.no_unknown_keywords("solve", ["tlo"], ["tol", "maxiter"])


class TestResult:
    def make(self):
        return Result(
            x=np.arange(5.0), nit=3, status=Status.STAGNATED, history={"err": [1.0, 0.5]}, _hidden=1
        )

    def test_access(self):
        r = self.make()
        assert r["nit"] == r.nit == 3
        assert list(r.keys()) == ["x", "nit", "status", "history"] == list(r)
        assert "nit" in r
        assert "_hidden" not in r
        assert len(r) == 4
        assert r.get("nope", 7) == 7
        assert set(dict(r)) == set(r.keys())
        with pytest.raises(KeyError):
            r["_hidden"]
        with pytest.raises(AttributeError):
            r.nope  # noqa: B018

    def test_pickle(self):
        r = pickle.loads(pickle.dumps(self.make()))
        assert type(r) is Result
        assert r.status is Status.STAGNATED
        assert r._hidden == 1
        assert np.array_equal(r.x, np.arange(5.0))

    def test_repr(self):
        text = repr(self.make())
        assert "status: 2 (stagnated)" in text
        assert "_hidden" not in text
        big = Result(x=np.zeros((200, 300)), P=sp.eye_array(3, format="csr"))
        assert "<ndarray float64 (200, 300)>" in repr(big)
        assert "(3, 3)" in repr(big)
        assert len(repr(big)) < 300
        assert repr(Result()) == "Result()"

    def test_every_status_speaks(self):
        assert [int(s) for s in Status] == list(range(10))
        for status in Status:
            assert status.message
            quiet = status in (Status.CONVERGED, Status.STOPPED_BY_CALLBACK)
            assert (status.advice == "") == quiet

    def test_status_numbers_are_the_native_ones(self, pytestconfig):
        source = (pytestconfig.rootpath / "csrc" / "core" / "status.hpp").read_text()
        native = {
            name.upper(): int(number) for name, number in re.findall(r"^\s+(\w+) = (\d+),", source, re.M)
        }
        assert native == {s.name: int(s) for s in Status}

    def test_warning(self):
        with pytest.warns(ConvergenceWarning) as caught:
            warn_not_converged(
                Result(status=Status.MAX_ITERATIONS), solver="f", quantity="L1 error", error=1e-3, target=1e-9
            )
        text = str(caught[0].message)
        assert "f: the iteration limit was reached; L1 error 0.001, target 1e-09." in text
        assert Status.MAX_ITERATIONS.advice in text
        assert caught[0].filename == __file__  # points at the caller, not into the package

    @pytest.mark.parametrize("status", [Status.CONVERGED, Status.STOPPED_BY_CALLBACK])
    def test_no_warning(self, status):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_not_converged(Result(status=status), solver="f", quantity="e", error=1.0, target=0.0)


class Foreign:
    """A producer of DLPack capsules that is not NumPy, with a device of our choice."""

    def __init__(self, array, device=(1, 0), requires_grad=False):
        self.array, self.device_, self.requires_grad = array, device, requires_grad
        self.dtype = array.dtype

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device_


def in_library(name):
    return type("Tensor", (Foreign,), {"__module__": f"{name}.core"})


@pytest.fixture
def no_cupy(monkeypatch):
    monkeypatch.setattr(_loader, "has_cupy", lambda: False)


class TestDispatch:
    def test_numpy_and_sparse(self):
        for x in (np.ones(2), [1.0, 2.0], sp.eye_array(2), None):
            backend = _dispatch.select(x=x, reg=1.0)
            assert (backend.name, backend.library, backend.xp) == ("cpu", "numpy", np)
            assert backend.take("x", x) is x

    def test_foreign_cpu_is_zero_copy_and_comes_back(self, monkeypatch):
        library = types.ModuleType("fakelib")
        library.from_dlpack = lambda x: ("fakelib", x)
        monkeypatch.setitem(sys.modules, "fakelib", library)
        data = np.arange(4.0)
        tensor = in_library("fakelib")(data)
        backend = _dispatch.select(a=np.ones(4), M=tensor)
        assert backend.library == "fakelib"
        taken = backend.take("M", tensor)
        assert np.shares_memory(taken, data)
        kind, back = backend.give(taken)
        assert kind == "fakelib"
        assert back is taken
        assert backend.give(3.0) == 3.0

    def test_two_libraries(self):
        x, y = in_library("one")(np.ones(1)), in_library("two")(np.ones(1))
        with pytest.raises(TypeError, match=r"`a` is a one array but `b` is a two array"):
            _dispatch.select(a=x, b=y)

    def test_mixed_devices_name_both(self):
        gpu = in_library("torch")(np.ones(1), device=(2, 1))
        with pytest.raises(
            TypeError, match=r"`a` is on the CPU \(numpy\) but `M` is on CUDA device 1 \(torch\)"
        ):
            _dispatch.select(a=np.ones(1), M=gpu, reg=1.0)
        other = in_library("torch")(np.ones(1), device=(2, 0))
        with pytest.raises(TypeError, match=r"`a` is on CUDA device 1 .* `M` is on CUDA device 0"):
            _dispatch.select(a=gpu, M=other)

    def test_cuda_without_cupy_names_the_extra(self, no_cupy):
        gpu = in_library("torch")(np.ones(1), device=(2, 0))
        with pytest.raises(
            CudaUnavailableError, match=r"`M` is on CUDA device 0 \(torch\).*aitken\[cuda13\]"
        ):
            _dispatch.select(a=None, M=gpu)

    def test_cuda_off_says_why(self, monkeypatch):
        status = _loader.CudaStatus(False, "error 35: the driver is too old", True, 35, 0, True)
        monkeypatch.setattr(_loader, "cuda_status", lambda: status)
        gpu = in_library("torch")(np.ones(1), device=(2, 0))
        with pytest.raises(CudaUnavailableError, match=r"`M`.*error 35: the driver is too old"):
            _dispatch.select(M=gpu)

    def test_unknown_device(self):
        with pytest.raises(TypeError, match="`M` is a weird array on DLPack device type 8"):
            _dispatch.select(M=in_library("weird")(np.ones(1), device=(8, 0)))

    def test_gradient_tensors(self):
        tensor = in_library("torch")(np.ones(1), requires_grad=True)
        with pytest.raises(TypeError, match=r"`M` requires grad.*`M\.detach\(\)`"):
            _dispatch.select(M=tensor).take("M", tensor)

    def test_unreadable_producer(self):
        class Broken(Foreign):
            def __dlpack__(self, **options):
                raise BufferError("no such type")

        tensor = Broken(np.ones(1))
        with pytest.raises(TypeError, match=r"`M`.*cannot be read: no such type"):
            _dispatch.select(M=tensor).take("M", tensor)

    def test_gpu_is_off_for_a_stated_reason(self):
        status = _loader.cuda_status()
        if status.available:
            pytest.skip("the GPU path works here")
        assert len(status.reason) > 20
        with pytest.raises(aitken.CudaUnavailableError, match=re.escape(status.reason)):
            _loader.cuda_module()
