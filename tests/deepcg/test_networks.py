"""Networks on grids against the NumPy oracle and PyTorch, at every SIMD level and at awkward sizes."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
from scipy import ndimage

import aitken
from aitken import _core
from aitken.linalg._deepcg_networks import (
    VARIANTS,
    ConvolutionalModel,
    LearnedMultigrid,
    cycle_shapes,
    sweep_norm,
)
from tests.oracles import convolution as oracle

LEVELS = aitken.info()["simd"]["supported"]
SHAPES = {
    2: [(1, 1), (2, 2), (1, 7), (9, 1), (3, 5), (17, 26), (6, 63), (40, 50)],
    3: [(1, 1, 1), (1, 1, 5), (4, 1, 1), (2, 3, 1), (3, 5, 7), (6, 4, 26), (5, 9, 31), (16, 16, 16)],
}
# max over cells, relative to the largest value: float32 sums of at most 432 terms over up to 24 layers
SINGLE = 1e-5


def direction_arrays(variant, seed=0):
    """Weights that keep activations near 1 through all layers; biases that matter."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in VARIANTS[variant].shapes().items():
        fan = np.prod(shape[1:]) if name[0] == "W" else 1
        out[name] = (rng.standard_normal(shape) * (np.sqrt(1.2 / fan) if fan > 1 else 0.05)).astype(
            np.float32
        )
    return out


def cycle_arrays(ndim, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {k: 0.3 * rng.standard_normal(s) for k, s in cycle_shapes(ndim, 2).items()}
    return {k: v.astype(np.float32) for k, v in arrays.items()} | {"omega": np.array([1.2, 0.6])}


def unit(shape, seed=1, dtype=np.float64):
    r = np.random.default_rng(seed).standard_normal(shape)
    return (r / np.linalg.norm(r)).astype(dtype)


def pairs(variant):
    plan = VARIANTS[variant]
    return plan.down, plan.coarse, plan.up


def relative(x, reference):
    return np.abs(x - reference).max() / np.abs(reference).max()


def applied(variant, arrays, r, level, dtype="float32"):
    """f(r) by the kernels of one level."""
    plan = VARIANTS[variant]
    layers = [(arrays[f"W{k}"].ravel(), arrays[f"b{k}"]) for k in range(plan.n_layers)]
    weights = _core.NetworkWeights(plan.ndim, plan.down, plan.coarse, plan.up, layers, dtype, level)
    out = np.empty_like(r)
    weights.network((1,) * (3 - r.ndim) + r.shape).apply(r, out, None, 0)
    return out


needs_bf16 = pytest.mark.skipif(
    not _core.has_bf16() or aitken.info()["simd"]["level"] != "v4",
    reason="AVX512_BF16 and level v4 are needed",
)


# ---- the oracle itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_oracle_convolution_is_scipys_correlation(ndim):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, *range(4, 4 + ndim))), rng.standard_normal((2, 3, *[3] * ndim))
    b = np.array([0.5, -1.0])
    expected = [
        sum(ndimage.correlate(c, k, mode="constant") for c, k in zip(x, w[o], strict=True)) + b[o]
        for o in range(2)
    ]
    np.testing.assert_allclose(oracle.conv(x, w, b), expected, rtol=1e-12, atol=1e-12)


def test_oracle_pool_and_repeat_invert_each_other_on_constants():
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    np.testing.assert_allclose(oracle.pool(oracle.repeat(x)), x)
    assert oracle.pool(np.arange(16.0).reshape(1, 4, 4))[0, 0, 0] == np.mean([0, 1, 4, 5])


# ---- direction network -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("variant", ["2d", "64", "128"])
def test_direction_network_is_the_oracles(variant, level):
    arrays = direction_arrays(variant)
    for shape in SHAPES[VARIANTS[variant].ndim]:
        r = unit(shape)
        expected = oracle.direction(arrays, pairs(variant), r)
        assert relative(applied(variant, arrays, r, level), expected) < SINGLE, shape


def distance(x, reference):
    return np.linalg.norm(x - reference) / np.linalg.norm(reference)


@needs_bf16
@pytest.mark.parametrize("variant", ["2d", "64"])
def test_bfloat16_is_the_oracle_with_rounded_fields(variant):
    arrays, errors = direction_arrays(variant), []
    for shape in SHAPES[VARIANTS[variant].ndim]:
        r = unit(shape)
        found = applied(variant, arrays, r, "v4", "bfloat16")
        rounded = oracle.direction(arrays, pairs(variant), r, oracle.bfloat16)
        errors.append(distance(found, rounded))
    # sums in another order now and then round to the other side, but not in each of the small grids
    assert max(errors) < 1e-2
    assert min(errors) < 1e-5
    exact = oracle.direction(arrays, pairs(variant), r)
    assert 4e-4 < distance(found, exact) < 0.03  # and these are not the float kernels


def test_oracle_rounds_to_bfloat16():
    x = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -3.14159265, 0.0])
    np.testing.assert_array_equal(oracle.bfloat16(x), [1, 1, 1 + 2**-6, 1 + 2**-7, -3.140625, 0])


@pytest.mark.parametrize("variant", ["2d", "64", "128"])
def test_direction_network_is_torchs(variant):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    plan, arrays = VARIANTS[variant], direction_arrays(variant, seed=3)
    conv = functional.conv2d if plan.ndim == 2 else functional.conv3d
    mean = functional.avg_pool2d if plan.ndim == 2 else functional.avg_pool3d
    weights = {k: torch.from_numpy(a) for k, a in arrays.items()}
    layers = iter(range(plan.n_layers))

    def layer(x):
        k = next(layers)
        return conv(x, weights[f"W{k}"], weights[f"b{k}"], padding=weights[f"W{k}"].shape[-1] // 2)

    r = unit((12, 20) if plan.ndim == 2 else (8, 6, 10), dtype=np.float32)
    a = functional.relu(layer(layer(torch.from_numpy(r)[None, None])))
    b = functional.relu(layer(a))
    for _ in range(plan.down):
        a = functional.relu(layer(b)) + a
        b = functional.relu(layer(a))
    h = mean(b, 2)
    for _ in range(plan.coarse):
        h = functional.relu(layer(functional.relu(layer(h)))) + h
    v = functional.interpolate(h, scale_factor=2, mode="nearest") + b
    for _ in range(plan.up):
        v = functional.relu(layer(functional.relu(layer(v)))) + v
    expected = layer(v).numpy()[0, 0]
    assert relative(ConvolutionalModel(arrays, variant=variant).setup(r.shape).apply(r), expected) < SINGLE


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=needs_bf16)])
def test_bits_do_not_depend_on_threads_or_company(dtype):
    model = ConvolutionalModel(direction_arrays("64"), variant="64", dtype=dtype)
    r = np.stack([unit((7, 10, 13), seed=k) for k in range(3)])
    state = model.setup((7, 10, 13))
    alone = np.stack([model.setup((7, 10, 13)).apply(one, n_threads=1) for one in r])
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(state.apply(r, n_threads=threads), alone)
    flat = state.apply(r.reshape(3, -1))
    np.testing.assert_array_equal(flat.reshape(r.shape), alone)


def test_obstacles_are_zeros_before_and_after():
    arrays, shape = direction_arrays("2d"), (11, 14)
    model, fluid = ConvolutionalModel(arrays, variant="2d"), np.ones(shape, dtype=bool)
    fluid[3:7, 5:9] = False
    r = unit(shape)
    z = model.setup(shape, fluid).apply(r)
    assert not z[~fluid].any()
    expected = oracle.direction(arrays, pairs("2d"), r * fluid) * fluid
    assert relative(z, expected) < SINGLE
    poisoned = np.where(fluid, r, np.nan)
    np.testing.assert_array_equal(model.setup(shape, fluid).apply(poisoned), z)


def test_a_residual_with_nan_gives_nan():
    r = unit((6, 8))
    r[2, 3] = np.nan
    z = ConvolutionalModel(direction_arrays("2d"), variant="2d").setup((6, 8)).apply(r)
    assert np.isnan(z[2, 3])


def test_results_do_not_depend_on_what_was_applied_before():
    model = ConvolutionalModel(direction_arrays("2d"), variant="2d")
    state, r = model.setup((9, 11)), unit((9, 11))
    first = state.apply(r)
    state.apply(np.full((9, 11), np.inf))
    np.testing.assert_array_equal(state.apply(r), first)


def test_float32_and_in_place():
    state = ConvolutionalModel(direction_arrays("2d"), variant="2d").setup((9, 11))
    r = unit((9, 11), dtype=np.float32)
    z = state.apply(r)
    assert z.dtype == np.float32
    np.testing.assert_array_equal(state.apply(r.astype(np.float64)), z.astype(np.float64))
    assert state.apply(r, out=r) is r
    np.testing.assert_array_equal(r, z)


def test_one_state_in_several_threads():
    state = ConvolutionalModel(direction_arrays("2d"), variant="2d").setup((30, 31))
    residuals = [unit((30, 31), seed=k) for k in range(8)]
    expected, found = [state.apply(r) for r in residuals], [None] * 8

    def work(k):
        for _ in range(5):
            found[k] = state.apply(residuals[k], n_threads=1)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found, expected)


def test_flops_are_the_published_ones():
    state = ConvolutionalModel(direction_arrays("64"), variant="64").setup((16, 16, 16))
    assert state.flops / 16**3 == pytest.approx(121.9e3, rel=2e-3)
    deep = ConvolutionalModel(direction_arrays("128"), variant="128")
    assert deep.setup((16, 16, 16)).flops / 16**3 == pytest.approx(184.1e3, rel=2e-3)
    counts = [ConvolutionalModel(direction_arrays(v), variant=v).n_parameters for v in ("2d", "64", "128")]
    assert counts == [32657, 97457, 152881]


def test_models_are_copied_and_pickled():
    model = ConvolutionalModel(direction_arrays("2d"), variant="2d", meta={"trained_on": "nothing"})
    r = unit((8, 8))
    z = model.setup((8, 8)).apply(r)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.setup((8, 8)).apply(r), z)
        assert other.meta == model.meta
    assert model.meta["trained_on"] == "nothing"
    assert (model.name, model.linear, model.spd, model.ndim) == ("dcdm2d", False, False, 2)


class Operator:
    """What a model asks of a grid operator."""

    grid_shape = (6, 9)
    fluid = np.arange(54).reshape(6, 9) % 5 > 0


def test_setup_from_an_operator():
    model = ConvolutionalModel(direction_arrays("2d"), variant="2d")
    r = unit((6, 9))
    z = model.setup(Operator()).apply(r)
    np.testing.assert_array_equal(z, model.setup((6, 9), Operator.fluid).apply(r))
    assert not z[~Operator.fluid].any()


def test_what_is_refused():
    arrays = direction_arrays("2d")
    model = ConvolutionalModel(arrays, variant="2d")
    with pytest.raises(ValueError, match="`variant`"):
        ConvolutionalModel(arrays, variant="32")
    with pytest.raises(ValueError, match="`dtype`"):
        ConvolutionalModel(arrays, variant="2d", dtype="float16")
    with pytest.raises(ValueError, match="W0 of shape"):
        ConvolutionalModel({**arrays, "W0": arrays["W1"]}, variant="2d")
    with pytest.raises(ValueError, match="no 'W3'"):
        ConvolutionalModel({k: v for k, v in arrays.items() if k != "W3"}, variant="2d")
    with pytest.raises(ValueError, match="'W99'"):
        ConvolutionalModel({**arrays, "W99": arrays["b1"]}, variant="2d")
    with pytest.raises(ValueError, match="dtype int64"):
        ConvolutionalModel({**arrays, "b1": np.zeros(16, dtype=np.int64)}, variant="2d")
    with pytest.raises(ValueError, match="finite"):
        ConvolutionalModel({**arrays, "b1": np.full(16, 1e39)}, variant="2d")
    with pytest.raises(ValueError, match="2 axes"):
        model.setup((4, 4, 4))
    with pytest.raises(TypeError, match="`A`"):
        model.setup(np.eye(3))
    with pytest.raises(ValueError, match="`A`"):
        model.setup((4, 0))
    with pytest.raises(ValueError, match="`fluid`"):
        model.setup((4, 4), np.ones((4, 5), dtype=bool))
    state = model.setup((4, 6))
    for shape in ((6, 4), (24, 1), (2, 2, 4, 6), (23,), ()):
        with pytest.raises(ValueError, match="`r`"):
            state.apply(np.zeros(shape))
    with pytest.raises(TypeError, match="`r`"):
        state.apply(np.zeros((4, 6), dtype=complex))
    with pytest.raises(ValueError, match="`out`"):
        state.apply(np.zeros((4, 6)), out=np.zeros((4, 6), dtype=np.float32))


@needs_bf16
def test_bfloat16_needs_its_level():
    arrays = direction_arrays("2d")
    with pytest.raises(ValueError, match="AVX512_BF16"):
        applied("2d", arrays, unit((4, 4)), "base", "bfloat16")


# ---- the network of a multigrid level --------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_geometry_network_is_the_oracles(ndim, level):
    arrays = cycle_arrays(ndim)
    weights = [arrays[k].ravel() for k in ("W1", "b1", "W2", "b2", "W3", "b3")]
    for shape in [*SHAPES[ndim], (40, 50) if ndim == 2 else (3, 35, 34)]:
        x = np.random.default_rng(5).standard_normal((4, *shape)).astype(np.float32)
        expected = oracle.geometry(arrays, x)
        for threads in (1, 3):
            found = _core.geometry_fields(ndim, weights, x, level, threads)
            assert relative(found, expected) < SINGLE, shape
    model = LearnedMultigrid(arrays, ndim=ndim)
    assert relative(model.fields(x), expected) < SINGLE


@pytest.mark.parametrize("ndim", [2, 3])
def test_geometry_network_is_torchs(ndim):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    arrays = cycle_arrays(ndim, seed=4)
    w = {k: torch.from_numpy(np.float32(v)) for k, v in arrays.items()}
    x = np.random.default_rng(6).standard_normal((4, 7, 6, 9)[: ndim + 1]).astype(np.float32)
    conv = functional.conv2d if ndim == 2 else functional.conv3d
    h = functional.relu(conv(torch.from_numpy(x)[None], w["W1"], w["b1"], padding=1))
    for k in (2, 3):
        h = conv(h, w[f"W{k}"].reshape(*w[f"W{k}"].shape, *[1] * ndim), w[f"b{k}"])
        h = functional.relu(h) if k == 2 else h
    assert relative(LearnedMultigrid(arrays, ndim=ndim).fields(x), h.numpy()[0]) < SINGLE


def test_geometry_bits_do_not_depend_on_threads():
    model = LearnedMultigrid(cycle_arrays(3), ndim=3)
    x = np.random.default_rng(7).standard_normal((4, 5, 37, 18))
    one = model.fields(x, n_threads=1)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(model.fields(x, n_threads=threads), one)


@pytest.mark.parametrize(
    ("omega", "converges"),
    [
        ((0.8, 0.8), True),
        ((1.24, 0.6), True),
        ((0.999,), True),
        ((1.0,), False),  # 1 at t = 2
        ((2.4, 0.3), False),
        ((-0.1, 0.8), True),
        ((-0.5, 0.2), False),
        ((0.5, -0.5), True),  # 1 - t^2 / 4
        ((0.0, 0.0), False),
        ((1.9, 0.54), True),
        ((1.9, 0.62), True),
    ],
)
def test_sweeps_that_do_not_converge_are_refused(omega, converges):
    t = np.linspace(0, 2, 200001)[1:]
    norm = np.abs(np.prod([1 - om * t for om in omega], axis=0)).max()
    assert (norm < 1) == converges  # the table above against plain sampling
    assert (sweep_norm(omega) < 1) == converges
    arrays = {**cycle_arrays(2), "omega": np.array(omega)}
    if converges:
        assert LearnedMultigrid(arrays, ndim=2).omega == pytest.approx(omega)
    else:
        with pytest.raises(ValueError, match="must stay below 1"):
            LearnedMultigrid(arrays, ndim=2)


def test_cycle_weights_that_do_not_fit_are_refused():
    arrays = cycle_arrays(2)
    model = LearnedMultigrid(arrays, ndim=2)
    assert (model.name, model.linear, model.spd, model.n_parameters) == ("learned_mg", True, True, 917)
    assert model.weights()["ndim"] == 2
    with pytest.raises(ValueError, match="W1 of shape"):
        LearnedMultigrid(arrays, ndim=3)
    with pytest.raises(ValueError, match="no 'omega'"):
        LearnedMultigrid({k: v for k, v in arrays.items() if k != "omega"}, ndim=2)
    with pytest.raises(ValueError, match="9 numbers in omega"):
        LearnedMultigrid({**arrays, "omega": np.full(9, 0.5)}, ndim=2)
    with pytest.raises(ValueError, match="`ndim`"):
        LearnedMultigrid(arrays, ndim=1)
    with pytest.raises(ValueError, match="`features`"):
        model.fields(np.zeros((3, 4, 4)))
    with pytest.raises(ValueError, match="read-only"):
        model.arrays["W1"][:] = 0
