"""Training: the PyTorch twins against the oracle, losses against differences, data, runs that resume."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tests.oracles import deepcg as oracle

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from aitken.linalg import _deepcg_torch as twin  # noqa: E402
from aitken.linalg import _deepcg_training as training  # noqa: E402
from aitken.linalg import train_model  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dusty(shape, seed, share=0.2):
    rng = np.random.default_rng(seed)
    return training.fill_pockets(rng.random(shape) > share, [(True, True)] * len(shape))


def random_fields(hierarchy, rng, hard=False):
    """Fields within their ranges; hard: as far apart as allowed, on a checkerboard."""
    fields = twin.Fields([], [], [])
    for level in hierarchy.levels[:-1]:
        odd = np.indices(level.shape).sum(axis=0) % 2 == 1

        def field(low, high, odd=odd):
            values = np.where(odd, low, high) if hard else rng.uniform(low, high, odd.shape)
            return torch.from_numpy(values * 1.0)[None]

        fields.phi.append(field(1e-3, 1.0))
        fields.blend.append(field(0.0, 1.0))
        fields.scale.append(field(np.exp(-0.7), np.exp(0.7)))
    return fields


def as_matrix(hierarchy, fields, omega, gamma=1):
    shape = hierarchy.levels[0].shape
    n = int(np.prod(shape))
    unit = torch.eye(n, dtype=torch.float64).reshape(n, 1, *shape)
    return np.stack([twin.cycle(hierarchy, fields, omega, e, gamma).numpy().ravel() for e in unit], axis=1)


# ----------------------------------------------------------------------------------------- the twin's cycle


@pytest.mark.parametrize("gamma", [1, 2])
@pytest.mark.parametrize(
    ("shape", "spacing", "ends", "shift"),
    [
        ((12, 16), (1.0, 1.0), "dirichlet", 0.0),
        ((9, 14), (1.0, 1.2), [("dirichlet", "neumann"), "neumann"], 0.3),
        ((18, 7), (1.0, 2.5), ["neumann", "dirichlet"], 0.0),
        ((6, 8, 5), (1.0, 1.0, 1.0), "dirichlet", 0.0),
        ((10, 5, 6), (1.0, 1.0, 0.5), ["dirichlet", "neumann", "neumann"], 0.1),
    ],
)
def test_cycle_is_the_oracles(shape, spacing, ends, shift, gamma):
    rng = np.random.default_rng(0)
    exterior = [(low == "dirichlet", high == "dirichlet") for low, high in oracle.sides(ends, len(shape))]
    fluid = training.fill_pockets(rng.random(shape) > 0.2, exterior)
    hierarchy = twin.Hierarchy(
        fluid[None], spacing=spacing, exterior=exterior, shift=shift, dtype=torch.float64
    )
    fields = random_fields(hierarchy, rng)
    level = oracle.finest(fluid, spacing=spacing, exterior=ends, shift=shift)
    learned = [
        oracle.Fields(*(field[0].numpy() for field in three))
        for three in zip(fields.phi, fields.blend, fields.scale, strict=True)
    ]
    expected = oracle.Multigrid(level, visits=gamma, omega=(1.24, 0.6), fields=learned)
    assert [one.shape for one in expected.levels] == [one.shape for one in hierarchy.levels]
    b = rng.standard_normal(shape) * fluid
    z = twin.cycle(hierarchy, fields, (1.24, 0.6), torch.from_numpy(b)[None], gamma)[0].numpy()
    np.testing.assert_allclose(z.ravel(), expected(b), rtol=0, atol=1e-12 * np.abs(z).max())


@pytest.mark.parametrize("omega", [(1.3, 0.8), (2.5, 0.51), (1.24, 0.6)])
@pytest.mark.parametrize(("shape", "seed"), [((9, 12), 1), ((13, 8), 2), ((6, 5, 7), 3)])
def test_cycle_is_positive_definite_for_any_fields(shape, seed, omega):
    fluid = dusty(shape, seed)
    hierarchy = twin.Hierarchy(fluid[None], dtype=torch.float64)
    B = as_matrix(hierarchy, random_fields(hierarchy, None, hard=True), omega)
    B = B[np.ix_(fluid.ravel(), fluid.ravel())]
    assert np.abs(B - B.T).max() <= 1e-13 * np.abs(B).max()
    values = np.linalg.eigvalsh((B + B.T) / 2)
    assert values[0] > 1e-5 * values[-1]


@pytest.mark.parametrize("seed", range(5))
def test_omega_converges_whatever_the_parameters(seed):
    network = twin.GeometryNetwork(2)
    rng = np.random.default_rng(seed)
    t = np.linspace(1e-3, 2, 4001)
    for raw in rng.normal(scale=1 + seed, size=(50, 2)):
        with torch.no_grad():
            network.raw_omega.copy_(torch.from_numpy(raw))
        first, second = (float(om.detach()) for om in network.omega())
        assert np.abs((1 - first * t) * (1 - second * t)).max() < 1


# ------------------------------------------------------------------------------------------------ the losses


def differences(loss, parameters, rng, step=1e-7):
    """Derivatives along random directions: by autograd, and by central differences."""
    value = loss()
    grads = torch.autograd.grad(value, parameters)
    pairs = []
    for _ in range(4):
        along = [torch.from_numpy(rng.standard_normal(p.shape)) for p in parameters]
        slope = float(sum((g * v).sum() for g, v in zip(grads, along, strict=True)))
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, v in zip(parameters, along, strict=True):
                    p.add_(v, alpha=sign * step)
                ends.append(float(loss().detach()))
                for p, v in zip(parameters, along, strict=True):
                    p.sub_(v, alpha=sign * step)
        pairs.append((slope, (ends[0] - ends[1]) / (2 * step)))
    return np.array(pairs)


@pytest.mark.parametrize("shape", [(12, 17), (8, 6, 9)])
def test_gradient_of_the_unrolled_loss(shape):
    rng = np.random.default_rng(0)
    torch.manual_seed(2)  # none of its ReLUs has its kink within the step
    network = twin.GeometryNetwork(len(shape)).double()
    with torch.no_grad():  # away from the zero of the last layer, where most derivatives vanish
        network.layers[2].weight.normal_(std=0.3)
    fluid = np.stack([dusty(shape, 1), dusty(shape, 2)])
    hierarchy = twin.Hierarchy(fluid, dtype=torch.float64)
    b = torch.from_numpy(rng.standard_normal(fluid.shape) * fluid)

    def loss():
        return twin.unrolled_loss(hierarchy, network.fields(hierarchy), network.omega(), b, 4)

    slopes = differences(loss, list(network.parameters()), rng)
    np.testing.assert_allclose(slopes[:, 0], slopes[:, 1], rtol=1e-5, atol=1e-7)
    assert np.abs(slopes).max() > 1e-2


def test_unrolled_loss_is_what_conjugate_gradients_do():
    shape = (16, 12)
    fluid = dusty(shape, 4)
    hierarchy = twin.Hierarchy(fluid[None], dtype=torch.float64)
    fields = random_fields(hierarchy, np.random.default_rng(5))
    b = np.random.default_rng(6).standard_normal(shape) * fluid

    def cycle(r):
        z = twin.cycle(hierarchy, fields, (1.2, 0.6), torch.from_numpy(r.reshape(1, *shape)))
        return z.numpy().ravel()

    run = oracle.pr_pcg(oracle.operator(fluid), b.ravel(), cycle, rtol=0.0, maxiter=5)
    loss = float(twin.unrolled_loss(hierarchy, fields, (1.2, 0.6), torch.from_numpy(b)[None], 5))
    assert loss == pytest.approx(np.log(run.residuals[5] / run.residuals[0]) / 5, rel=1e-9)


def test_direction_loss_and_its_gradient():
    rng = np.random.default_rng(0)
    torch.manual_seed(1)
    network = twin.DirectionNetwork("2d").double()
    fluid = np.ones((1, 8, 10), dtype=bool)
    top = twin.Hierarchy(fluid, levels=1, dtype=torch.float64).levels[0]
    r = rng.standard_normal((3, 8, 10))
    r /= np.linalg.norm(r, axis=(1, 2), keepdims=True)
    A = oracle.operator(fluid[0])
    f = network(torch.from_numpy(r)[:, None])[:, 0].detach().numpy().reshape(3, -1)
    expected = np.mean(
        [
            np.sum((x - (g @ x) / (g @ (A @ g)) * (A @ g)) ** 2)
            for g, x in zip(f, r.reshape(3, -1), strict=True)
        ]
    )

    def loss():
        return twin.direction_loss(network, top, torch.from_numpy(r))

    assert float(loss().detach()) == pytest.approx(expected, rel=1e-12)
    slopes = differences(loss, list(network.parameters()), rng)
    np.testing.assert_allclose(slopes[:, 0], slopes[:, 1], rtol=1e-4, atol=1e-6)


def test_direction_loss_survives_a_vanishing_direction():
    network = twin.DirectionNetwork("2d")
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    top = twin.Hierarchy(np.ones((1, 8, 8), dtype=bool), levels=1).levels[0]
    r = torch.full((2, 8, 8), 0.125)
    loss = twin.direction_loss(network, top, r)
    loss.backward()
    assert float(loss.detach()) == 1.0
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(("variant", "count"), [("2d", 32_657), ("64", 97_457), ("128", 152_881)])
def test_published_sizes(variant, count):
    assert sum(p.numel() for p in twin.DirectionNetwork(variant).parameters()) == count


# -------------------------------------------------------------------------------------------------- the data


def test_ritz_data():
    shape, m = (12, 14), 60
    data = training.RitzData(shape, m, [3, 0])
    A = oracle.operator(np.ones(shape, dtype=bool)).toarray()
    gram = data.basis.astype(float) @ data.basis.T
    assert np.abs(gram - np.eye(m)).max() < 1e-5
    projected = data.basis.astype(float) @ A @ data.basis.T.astype(float)
    np.testing.assert_allclose(data.values, np.linalg.eigvalsh(projected), atol=1e-4)
    exact = np.linalg.eigvalsh(A)
    assert data.values[-1] == pytest.approx(exact[-1], abs=1e-3)
    assert (data.weights == 9).sum() == m // 2 + m // 20
    samples = data.sample(range(200))
    assert samples.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(samples, axis=(1, 2)), 1, atol=1e-6)
    share = ((samples.reshape(200, -1) @ data.basis.T @ data.vectors) ** 2).mean(axis=0)
    assert share[: m // 2].mean() / share[-m // 4 :].mean() == pytest.approx(81, rel=0.3)
    np.testing.assert_allclose(data.sample([7, 3])[1], samples[3], atol=1e-6)


def test_ritz_data_of_a_small_krylov_space():
    """A square grid has about half as many different eigenvalues as cells: nothing but those may come out."""
    data = training.RitzData((8, 8), 64, [0, 0])
    exact = np.linalg.eigvalsh(oracle.operator(np.ones((8, 8), dtype=bool)).toarray())
    assert 30 <= len(data.values) <= 64
    assert np.abs(data.values[:, None] - exact).min(axis=1).max() < 1e-4
    np.testing.assert_allclose(np.linalg.norm(data.sample(range(9)), axis=(1, 2)), 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 31), (12, 10, 14)])
def test_random_geometries_are_regular(shape):
    shares = []
    exterior = [(True, False), *[(False, False)] * (len(shape) - 1)]
    for seed in range(25):
        rng = np.random.default_rng(seed)
        fluid = training.random_geometry(rng, shape, exterior)
        ends = [("dirichlet" if low else "neumann", "neumann") for low, _ in exterior]
        _, singular = oracle.components(oracle.finest(fluid, exterior=ends), fluid)
        assert not any(singular)
        b = training.random_source(rng, fluid)
        assert np.linalg.norm(b) == pytest.approx(1, abs=1e-5)
        assert not b[~fluid].any()
        shares.append(fluid.mean())
    assert max(shares) == 1
    assert min(shares) < 0.8


# -------------------------------------------------------------------------------------------------- the runs

RUNS: dict[str, dict[str, Any]] = {
    "learned_mg": {"ndim": 2, "shapes": [(16, 16), (12, 18)], "steps": 8},
    "dcdm2d": {"shapes": [(8, 8), (8, 12)], "steps": [5, 3], "batch": 4, "n_samples": 9},
    "dcdm64": {"shapes": [(8, 8, 8)], "steps": 7, "batch": 2, "n_samples": 50},
}


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_resumes_to_the_same_bits(kind, stop_at, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "REPORT_EVERY", 1)
    whole = train_model(kind, rng=5, n_threads=1, **RUNS[kind])
    path = tmp_path / "run.npz"

    def stop(intermediate_result):
        if intermediate_result.nit >= stop_at:
            raise StopIteration

    part = train_model(kind, rng=5, n_threads=1, checkpoint=path, callback=stop, **RUNS[kind])
    assert part.meta["trained_on"]["steps_done"] == stop_at
    reports = []
    rest = train_model(
        kind,
        n_threads=1,
        checkpoint=path,
        callback=lambda intermediate_result: reports.append(intermediate_result.nit),
        **RUNS[kind],
    )
    assert reports == list(range(stop_at + 1, sum(np.atleast_1d(RUNS[kind]["steps"])) + 1))
    assert whole.meta == rest.meta
    assert whole.arrays.keys() == rest.arrays.keys()
    assert any((whole.arrays[name] != part.arrays[name]).any() for name in whole.arrays)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(array, rest.arrays[name])


def test_interrupted_run_leaves_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "REPORT_EVERY", 1)
    path = tmp_path / "run.npz"

    def interrupt(intermediate_result):
        if intermediate_result.nit == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_model(
            "learned_mg", rng=5, n_threads=1, checkpoint=path, callback=interrupt, **RUNS["learned_mg"]
        )
    rest = train_model("learned_mg", rng=5, n_threads=1, checkpoint=path, **RUNS["learned_mg"])
    whole = train_model("learned_mg", rng=5, n_threads=1, **RUNS["learned_mg"])
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(array, rest.arrays[name])
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


def test_tells_how_it_goes(caplog, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(training, "REPORT_EVERY", 4)
    with caplog.at_level("INFO", logger="aitken"):
        train_model("learned_mg", rng=0, n_threads=1, verbose=1, progress=True, **RUNS["learned_mg"])
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].split() == ["learned_mg", "nit", "loss", "lr", "grid"]
    assert [line.split()[1] for line in lines[1:]] == ["4", "8"]
    bar = capsys.readouterr().err
    assert " 50%" in bar
    assert "100%" in bar
    assert "8 of 8 steps" in bar


def test_seed_decides():
    one, same, other = (
        train_model("learned_mg", rng=seed, n_threads=1, **RUNS["learned_mg"]) for seed in (1, 1, 2)
    )
    assert all((one.arrays[name] == same.arrays[name]).all() for name in one.arrays)
    assert (one.arrays["W1"] != other.arrays["W1"]).any()


def held_out_loss(model, shape):
    network = twin.GeometryNetwork(len(shape))
    network.adopt(model.arrays)
    losses = []
    with torch.no_grad():
        for seed in range(6):
            rng = np.random.default_rng([99, seed])
            fluid = training.random_geometry(rng, shape, [(True, True)] * len(shape))
            b = torch.from_numpy(training.random_source(rng, fluid))[None]
            hierarchy = twin.Hierarchy(fluid[None])
            losses.append(
                float(twin.unrolled_loss(hierarchy, network.fields(hierarchy), network.omega(), b, 6))
            )
    return np.mean(losses)


@pytest.mark.parametrize("shape", [(24, 24), (12, 12, 12)])
def test_learned_cycle_learns(shape):
    few, more = (
        train_model("learned_mg", ndim=len(shape), shapes=[shape], steps=steps, batch=2, lr=0.02, rng=0)
        for steps in (1, 60)
    )
    assert held_out_loss(more, shape) < held_out_loss(few, shape) - 0.05


def test_direction_network_learns():
    losses = []
    train_model(
        "dcdm2d",
        shapes=[(16, 16)],
        steps=250,
        batch=8,
        lr=3e-3,
        rng=0,
        n_threads=1,
        callback=lambda intermediate_result: losses.append(intermediate_result.loss),
    )
    assert len(losses) == 5
    assert losses[-1] < 0.25 < losses[0]


def test_trains_on_given_masks_and_from_a_model():
    masks = [dusty((16, 16), seed) for seed in range(3)] + [np.ones((10, 20), dtype=bool)]
    start = train_model("learned_mg", masks, steps=3, rng=0)
    assert sorted(start.meta["trained_on"]["shapes"]) == [[10, 20], [16, 16]]
    tuned = train_model("learned_mg", masks, steps=1, lr=1e-6, model=start, rng=0)
    for name, array in start.arrays.items():
        np.testing.assert_allclose(tuned.arrays[name], array, atol=2e-5)
    assert (tuned.arrays["W1"] != start.arrays["W1"]).any()


def test_gives_up_a_run_that_does_not_begin(monkeypatch):
    monkeypatch.setattr(training, "TRIAL_SAMPLES", 8)
    monkeypatch.setattr(training, "USELESS", -1.0)
    with pytest.raises(RuntimeError, match="did not begin to learn in 4 attempts"):
        train_model("dcdm2d", shapes=[(8, 8)], steps=20, batch=4, rng=0)


def test_starts_anew_with_half_the_rate(monkeypatch, tmp_path):
    """The first attempt gives NaN once; the second goes through, and a resumed run is the same."""
    real = training._DirectionTask.loss

    def poisoned(self, network, stage, attempt, step):
        loss = real(self, network, stage, attempt, step)
        return loss * float("nan") if attempt == 0 and step == 3 else loss

    monkeypatch.setattr(training._DirectionTask, "loss", poisoned)
    monkeypatch.setattr(training, "REPORT_EVERY", 1)
    rates: dict[int, list[float]] = {}
    options = {"shapes": [(8, 8)], "steps": 6, "batch": 2, "lr": 1e-3, "rng": 0, "n_threads": 1}
    whole = train_model(
        "dcdm2d",
        callback=lambda intermediate_result: rates.setdefault(intermediate_result.nit, []).append(
            intermediate_result.lr
        ),
        **options,
    )
    assert whole.meta["trained_on"]["restarts"] == 1
    assert rates[2] == pytest.approx([rates[2][0], rates[2][0] / 2])

    def stop(intermediate_result):
        if intermediate_result.nit == 5:
            raise StopIteration

    path = tmp_path / "run.npz"
    train_model("dcdm2d", checkpoint=path, callback=stop, **options)
    rest = train_model("dcdm2d", checkpoint=path, **options)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(array, rest.arrays[name])


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "unet"}, ValueError, "`kind` must be one of"),
        ({"kind": "learned_mg"}, ValueError, "`ndim` must be 2 or 3"),
        ({"kind": "learned_mg", "ndim": 4}, ValueError, "`ndim` must be <= 3; got 4"),
        ({"kind": "dcdm2d", "ndim": 3}, ValueError, "`ndim` must be 2 for kind 'dcdm2d'; got 3"),
        ({"kind": "dcdm2d", "shapes": [(9, 8)]}, ValueError, "even sides"),
        ({"kind": "dcdm2d", "shapes": [(8, 8, 8)]}, ValueError, r"`shapes\[0\]` must have 2 sides"),
        ({"kind": "dcdm2d", "shapes": [(8, 4)]}, ValueError, r"`shapes\[0\]\[1\]` must be >= 8; got 4"),
        ({"kind": "dcdm2d", "shapes": 64}, TypeError, "`shapes` must be a sequence"),
        ({"kind": "dcdm2d", "steps": [1, 2, 3]}, ValueError, "`steps` must be one value or one for each"),
        ({"kind": "dcdm2d", "steps": 0}, ValueError, "`steps` must be >= 1; got 0"),
        ({"kind": "dcdm2d", "lr": -1.0}, ValueError, "`lr`"),
        ({"kind": "dcdm2d", "rng": 1.5}, TypeError, "`rng`"),
        ({"kind": "dcdm2d", "geometries": [np.ones((8, 8), bool)]}, ValueError, "`geometries` are for kind"),
        (
            {"kind": "learned_mg", "geometries": [np.ones((8, 8))]},
            TypeError,
            r"`geometries\[0\]` must be boolean",
        ),
        ({"kind": "learned_mg", "geometries": [np.zeros((8, 8), bool)]}, ValueError, "no fluid"),
        ({"kind": "learned_mg", "geometries": []}, TypeError, "`geometries` must be a sequence"),
        (
            {"kind": "learned_mg", "geometries": [np.ones((8, 8), bool)], "shapes": [(8, 8)]},
            ValueError,
            "give one of the two",
        ),
        ({"kind": "learned_mg", "ndim": 2, "callback": 3}, TypeError, "`callback`"),
        ({"kind": "learned_mg", "ndim": 2, "model": 3.0}, TypeError, "`model`"),
        (
            {"kind": "learned_mg", "ndim": 2, "checkpoint": "no/such/run.npz"},
            FileNotFoundError,
            "`checkpoint`",
        ),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        train_model(**{"steps": 1, **options})


def test_checkpoint_of_another_run(tmp_path):
    path = tmp_path / "run.npz"
    train_model("learned_mg", rng=5, checkpoint=path, **RUNS["learned_mg"])
    with pytest.raises(ValueError, match=r"is of another run: its steps is \[8\], not \[9\]"):
        train_model("learned_mg", rng=5, checkpoint=path, **{**RUNS["learned_mg"], "steps": 9})
    with pytest.raises(ValueError, match="its seed is 5, `rng` is 6"):
        train_model("learned_mg", rng=6, checkpoint=path, **RUNS["learned_mg"])
    data = path.read_bytes()
    for bad in (data[: len(data) // 2], b"", b"no archive"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"was not written by train_model"):
            train_model("learned_mg", rng=5, checkpoint=path, **RUNS["learned_mg"])


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "aitken.linalg._deepcg_torch")
    monkeypatch.delattr("aitken.linalg._deepcg_torch", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'aitken\[train\]'"):
        train_model("learned_mg", **RUNS["learned_mg"])
