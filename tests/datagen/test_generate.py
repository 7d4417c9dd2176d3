"""The factory: nothing is lost or done twice, files are the same however a run went, errors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import types
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

import aitken
from aitken import ConvergenceWarning, Status, cli, datagen
from aitken.datagen import _generate, _store, generate, make_family

RUN = {"kind": "darcy", "n": 200, "grid": 12, "seed": 3, "chain_size": 8}
PACKAGE = str(Path(aitken.__file__).parents[1])
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([PACKAGE, os.environ.get("PYTHONPATH", "")])}
SUFFIX = {"fno": ".h5", "pdebench": ".h5", "npz": ".npz", "neuralop": ".pt"}
NEEDS = {"fno": "h5py", "pdebench": "h5py", "neuralop": "torch"}


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def make(out, **changes):
    options = {**RUN, "layout": "npz", **changes}
    return generate(out=out, **options)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "d.npz"
    return out, make(out)


def load(path, layout):
    """Arrays of a data set under their stored names, attributes by `attributes`."""
    if layout == "npz":
        with np.load(path) as file:
            data = dict(file)
        return data, json.loads(str(data.pop("attributes")))
    if layout == "neuralop":
        import torch

        tensors = torch.load(path, weights_only=True)
        attributes = json.loads(tensors.pop("attributes"))
        return {name: t.numpy() for name, t in tensors.items()}, attributes
    import h5py

    with h5py.File(path) as file:
        return {name: file[name][:] for name in file}, dict(file.attrs)


# ------------------------------------------------------------------------------------------------ content


@pytest.mark.parametrize("layout", ["fno", "pdebench", "npz", "neuralop"])
@pytest.mark.parametrize(("kind", "grid"), [("darcy", 10), ("poisson", 10), ("thermal", 10), ("darcy3d", 4)])
def test_layouts_hold_solutions_of_their_samples(tmp_path, layout, kind, grid):
    """Read as users read it; every row's residual recomputed from the family and the stored solution."""
    if layout in NEEDS:
        pytest.importorskip(NEEDS[layout])
    out = tmp_path / f"d{SUFFIX[layout]}"
    r = generate(kind, 37, grid, out, seed=9, layout=layout, rtol=1e-9, chain_size=5)
    assert (r.success, r.n_computed, r.n_resumed, r.n_failed) == (True, 37, 0, 0)
    data, attributes = load(out, layout)
    family = make_family(kind, grid)
    x_name, y_name = {"pdebench": ("nu", "tensor"), "neuralop": ("x", "y")}.get(layout, ("coeff", "sol"))
    p = np.stack([family.parameters(9, i) for i in range(37)])
    np.testing.assert_array_equal(data[x_name], family.inputs(p))
    solution = data[y_name]
    if layout == "pdebench":
        assert solution.shape == (37, 1, *family.shape)
        solution = solution[:, 0]
        names = ("x-coordinate", "y-coordinate", "z-coordinate")[: len(family.shape)]
        for name, points in zip(names, family.coordinates()[::-1], strict=True):
            np.testing.assert_array_equal(data[name], points)
    assert solution.shape == (37, *family.shape)
    if kind == "thermal":
        np.testing.assert_array_equal(data["mask"], family.mask)
        unknowns = solution[:, family.mask]
    elif kind == "poisson":
        np.testing.assert_array_equal(data["params"], p.reshape(37, -1))
        unknowns = solution[:, 1:-1, 1:-1].reshape(37, -1)
    else:
        unknowns = solution.reshape(37, -1)
    values, b = family.assemble(p)
    shape = (family.n, family.n)
    for i in range(37):
        A = csr_array((values[i], family.indices, family.indptr), shape=shape)
        true = np.linalg.norm(b[i] - A @ unknowns[i]) / np.linalg.norm(b[i])
        assert true <= 1e-9
        assert true == pytest.approx(data["residual"][i], rel=0.5, abs=1e-14)
    assert np.all(data["status"] == 0)
    assert data["nit"].shape == (37,)
    assert r.residual_max == data["residual"].max()
    assert attributes["rtol"] == 1e-9
    assert attributes["seed"] == 9
    assert attributes["solver"] == r.solver
    assert attributes["version"] == aitken.__version__
    assert json.loads(attributes["manifest"])["kind"] == kind
    assert not (tmp_path / f"{out.name}.parts").exists()


def test_samples_do_not_follow_the_size_of_the_set(tmp_path, reference):
    """Sample i of n = 50 is sample i of n = 200: same input bit for bit, same solution to the tolerance."""
    make(tmp_path / "d.npz", n=50)
    small, large = load(tmp_path / "d.npz", "npz")[0], load(reference[0], "npz")[0]
    np.testing.assert_array_equal(small["coeff"], large["coeff"][:50])
    np.testing.assert_allclose(small["sol"], large["sol"][:50], rtol=1e-5)


def test_blocks_and_chains(monkeypatch):
    """Blocks bound what is sorted together, chains what is solved together; no sample is lost."""
    family = make_family("darcy", 12)
    monkeypatch.setattr(_generate, "_BLOCK_BYTES", 40 * 144 * 8)
    plan = _generate._plan(family, 100, 0, 8, "auto")
    assert plan.block == 40
    seen = []
    for _, index in plan.blocks():
        order = _generate._order(plan, index)
        chains = plan.chains(order)
        assert min(map(len, chains)) >= min(8, len(index))
        assert max(map(len, chains)) < 16
        seen += [*np.concatenate(chains)]
    assert sorted(seen) == list(range(100))
    assert seen != list(range(100))
    keys = np.log(np.stack([family.parameters(0, i) for i in range(40)])).reshape(40, -1)
    steps = [np.linalg.norm(np.diff(keys[o], axis=0), axis=1).mean() for o in (range(40), seen[:40])]
    assert steps[1] < steps[0]
    assert _generate._plan(make_family("poisson", 12), 100, 0, None, "auto").chain == 256
    assert _generate._plan(family, 100, 0, None, "auto").chain == 64
    huge = _generate._plan(make_family("darcy3d", 48), 100, 0, None, "auto")
    assert 1 <= huge.chain < 64


def test_sets_of_several_blocks(tmp_path, monkeypatch, reference):
    monkeypatch.setattr(_generate, "_BLOCK_BYTES", 40 * 144 * 8)
    make(tmp_path / "d.npz")
    assert load(tmp_path / "d.npz", "npz")[1]["block_size"] == 40
    several, one = load(tmp_path / "d.npz", "npz")[0], load(reference[0], "npz")[0]
    np.testing.assert_array_equal(several["coeff"], one["coeff"])
    np.testing.assert_allclose(several["sol"], one["sol"], rtol=1e-5)


# --------------------------------------------------------------------------- the same bytes, however it went


@pytest.mark.parametrize("executor", [1, 2, 3, "threads", "processes"])
def test_workers_change_no_byte(tmp_path, reference, executor):
    out = tmp_path / "other-name.npz"
    if executor == "threads":
        with ThreadPoolExecutor(2) as pool:
            make(out, executor=pool)
            assert pool.submit(int).result() == 0  # a lent executor stays open
    elif executor == "processes":
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            make(out, executor=pool)
    else:
        make(out, executor=executor)
    assert digest(out) == digest(reference[0])


def test_dask_client(tmp_path, reference):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        make(tmp_path / "d.npz", executor=client)
    assert digest(tmp_path / "d.npz") == digest(reference[0])


CHILD = """
import sys, json
from aitken.datagen import generate
generate(**json.loads(sys.argv[1]))
"""


def start(out, **changes):
    options = {**RUN, "layout": "npz", "resume": True, "out": str(out), **changes}
    return subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(options)], env=ENVIRONMENT)


@pytest.mark.parametrize("layout", ["fno", "npz", "neuralop"])
def test_killed_at_any_moment_and_resumed(tmp_path, layout):
    """kill -9 at random moments, from importing to removing parts, until a run gets through."""
    if layout in NEEDS:
        pytest.importorskip(NEEDS[layout])
    whole, out = (tmp_path / f"{name}{SUFFIX[layout]}" for name in ("whole", "cut"))
    child = start(whole, layout=layout)
    parts = Path(f"{whole}.parts")
    while child.poll() is None and not parts.exists():
        time.sleep(0.001)
    begun = time.perf_counter()
    assert child.wait(60) == 0
    span = time.perf_counter() - begun
    chance = random.Random(layout)
    killed, published = 0, set()
    parts = Path(f"{out}.parts")
    for _ in range(6):
        child = start(out, layout=layout)
        while child.poll() is None and not (parts / "lock").exists():
            time.sleep(0.001)
        time.sleep(chance.random() * span / 3)
        child.kill()
        killed += child.wait(60) == -signal.SIGKILL
        now = {(p.name, p.stat().st_mtime_ns) for p in parts.glob("chain-*.npz")} if parts.exists() else set()
        assert published <= now or out.exists()  # what was published is not written again
        published = now
        if out.exists():
            break
    assert killed >= 2
    child = start(out, layout=layout)
    assert child.wait(60) == 0
    assert digest(out) == digest(whole)
    assert not parts.exists()


STEPS = ("manifest.json", "order-000000.npy", "chain-000000-000002.npz", "d.npz")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", STEPS)
def test_killed_around_every_rename(tmp_path, monkeypatch, reference, name, when):
    """A child that dies with os._exit right before or after a file gets its name; then resumed here."""
    out = tmp_path / "d.npz"
    code = f"""
import os
from pathlib import Path
from aitken.datagen import _store, generate
rename = os.replace
def dying(source, target):
    last = Path(target).name == {name!r}
    if last and {when == "before"}:
        os._exit(7)
    rename(source, target)
    if last:
        os._exit(7)
_store.os.replace = dying
generate(out={str(out)!r}, layout="npz", **{RUN!r})
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, timeout=60)
    assert done.returncode == 7
    solved = []
    honest = _generate._solve_chain
    monkeypatch.setattr(_generate, "_solve_chain", lambda *a: solved.append(len(a[2])) or honest(*a))
    r = make(out, resume=True)
    assert digest(out) == digest(reference[0])
    assert r.n_computed == sum(solved)
    expected = {"manifest.json": 0, "order-000000.npy": 0, "d.npz": 200}.get(name, 16 + 8 * (when == "after"))
    assert r.n_resumed == expected
    assert r.n_computed + r.n_resumed == 200
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.npz"]


def test_finished_runs_are_not_repeated(tmp_path, monkeypatch, reference):
    out, first = reference
    monkeypatch.setattr(_generate, "_solve_chain", None)
    again = make(out, resume=True)
    assert (again.n_computed, again.n_resumed) == (0, 200)
    assert first.reason
    for field in ("residual_max", "solver", "reason", "nit_mean", "n_failed", "success"):
        assert again[field] == first[field]


def test_damaged_parts_are_made_again(tmp_path, monkeypatch, reference):
    out = tmp_path / "d.npz"
    stop_after(out, 10)
    parts = sorted(Path(f"{out}.parts").glob("chain-*.npz"))
    parts[0].write_bytes(parts[0].read_bytes()[:1000])
    parts[1].write_bytes(b"")
    r = make(out, resume=True)
    assert r.n_resumed == 8 * 8
    assert digest(out) == digest(reference[0])


def stop_after(out, chains, **changes):
    """A run whose callback ends it after that many chains."""
    calls = []

    def callback(intermediate_result):
        calls.append(intermediate_result)
        if len(calls) == chains:
            raise StopIteration

    r = make(out, callback=callback, **changes)
    return r, calls


def test_callback_stops_and_resume_goes_on(tmp_path, reference):
    out = tmp_path / "d.npz"
    r, calls = stop_after(out, 3)
    assert r.status == Status.STOPPED_BY_CALLBACK
    assert not r.success
    assert (r.n_computed, [c.n_done for c in calls]) == (24, [8, 16, 24])
    assert not out.exists()
    assert make(out, resume=True).n_resumed == 24
    assert digest(out) == digest(reference[0])
    r, _ = stop_after(tmp_path / "last.npz", 25)  # nothing was left to stop
    assert r.success
    assert (tmp_path / "last.npz").exists()


# ----------------------------------------------------------------------------------- refusals and failures


def test_other_options_are_refused(tmp_path):
    out = tmp_path / "d.npz"
    stop_after(out, 2)
    before = sorted((p.name, digest(p)) for p in Path(f"{out}.parts").iterdir())
    for changes, name in [
        ({"seed": 4}, "`seed` was 3 and is 4"),
        ({"n": 201}, "`n` was 200"),
        ({"grid": 13}, "`grid`"),
        ({"rtol": 1e-9}, "`rtol`"),
        ({"coefficient": "rough"}, "`options`"),
        ({"kind": "darcy-published"}, "`kind`"),
        ({"chain_size": 9}, "`chain_size`"),
    ]:
        with pytest.raises(ValueError, match=f"`resume`.*{name}"):
            make(out, resume=True, **changes)
    assert sorted((p.name, digest(p)) for p in Path(f"{out}.parts").iterdir()) == before
    make(out, resume=True)
    with pytest.raises(ValueError, match="`seed` was 3 and is 4"):
        make(out, resume=True, seed=4)


def test_existing_files_are_kept(tmp_path, reference):
    out = tmp_path / "d.npz"
    out.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        make(out)
    with pytest.raises(ValueError, match="not written by"):
        make(out, resume=True)
    assert out.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.npz"]
    stop_after(out, 4, overwrite=True)
    assert out.read_bytes() == b"precious"
    with pytest.raises(FileExistsError, match="`out` exists"):
        make(out)
    make(out, resume=True)
    assert digest(out) == digest(reference[0])


def test_unfinished_runs_are_kept(tmp_path):
    out = tmp_path / "d.npz"
    stop_after(out, 4)
    with pytest.raises(FileExistsError, match="unfinished"):
        make(out)
    assert make(out, seed=5, overwrite=True).n_computed == 200


def test_foreign_files_in_the_parts_folder_stay(tmp_path):
    parts = tmp_path / "d.npz.parts"
    parts.mkdir()
    (parts / "notes.txt").write_text("mine")
    make(tmp_path / "d.npz")
    assert (parts / "notes.txt").read_text() == "mine"
    assert [p.name for p in parts.iterdir()] == ["notes.txt"]


def test_one_run_at_a_time(tmp_path):
    """A second run of the same process, and one of another process; a killed one leaves no lock."""
    out = tmp_path / "d.npz"

    def callback(intermediate_result):
        with pytest.raises(BlockingIOError, match="another run"):
            make(out, resume=True)
        other = subprocess.run(
            [sys.executable, "-m", "aitken.cli", "datagen", "darcy", "--n", "9", "--grid", "8", "--overwrite"]
            + ["--out", str(out)],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert other.returncode == 2
        assert "another run" in other.stderr
        raise StopIteration

    make(out, callback=callback)
    child = start(out, n=20000, chain_size=64, overwrite=True, resume=False)
    parts = Path(f"{out}.parts")
    while child.poll() is None and not (parts / "chain-000000-000020.npz").exists():
        time.sleep(0.01)
    with pytest.raises(BlockingIOError, match="another run"):
        make(out, overwrite=True)
    child.kill()
    child.wait(60)
    assert make(out, overwrite=True).success


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits")
@pytest.mark.parametrize("layout", ["fno", "npz", "neuralop"])
@pytest.mark.parametrize("limit", [400, 9_000, 100_000])
def test_full_disk(tmp_path, layout, limit):
    """Writes fail for real beyond a file size limit: in the manifest, in a chain, in the final file."""
    if layout in NEEDS:
        pytest.importorskip(NEEDS[layout])
    out = tmp_path / f"d{SUFFIX[layout]}"
    options = {**RUN, "layout": layout, "out": str(out)}
    code = f"""
import resource, sys
from aitken.datagen import generate
if {layout == "neuralop"}:
    import torch
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
try:
    generate(**{options!r})
except OSError as error:
    sys.exit(f"{{type(error).__name__}} {{error.errno}} {{error}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"OSError {errno.EFBIG} "), done.stderr
    assert str(out) in done.stderr
    assert "resume=True" in done.stderr
    assert not out.exists()
    parts = Path(f"{out}.parts")
    left = [p.name for p in parts.iterdir()] if parts.exists() else []
    assert not [name for name in left if name.endswith(".tmp")]
    chains = sum(name.startswith("chain") for name in left)
    assert chains == (25 if limit == 100_000 else 0)
    r = generate(**{**options, "resume": True})
    assert r.n_resumed == 8 * chains
    whole = tmp_path / f"whole{SUFFIX[layout]}"
    generate(**{**options, "out": whole})
    assert digest(out) == digest(whole)


def test_folders_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="folder that does not exist"):
        make(tmp_path / "no" / "d.npz")
    with pytest.raises(IsADirectoryError, match="`out` is a folder"):
        make(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="folder that does not exist"):
        make(tmp_path / "file" / "d.npz")

    def read_only(self, *args, **options):
        raise PermissionError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OSError, match=r"`out` cannot be written: Read-only file system.*d\.npz") as caught:
        make(tmp_path / "d.npz")
    assert caught.value.errno == errno.EROFS
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="`out` cannot be written"):
            make(tmp_path / "d.npz")
    finally:
        tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"n": 0}, ValueError, "`n` must be >= 1; got 0"),
        ({"n": 2.0}, TypeError, "`n`"),
        ({"grid": 1}, ValueError, "`grid`"),
        ({"kind": "darzy"}, ValueError, "`kind`"),
        ({"seed": -1}, ValueError, "`seed`"),
        ({"seed": 2**64}, ValueError, "`seed`"),
        ({"seed": None}, TypeError, "`seed`"),
        ({"rtol": 0.0}, ValueError, "`rtol`"),
        ({"rtol": -1e-8}, ValueError, "`rtol`"),
        ({"rtol": float("nan")}, ValueError, "`rtol`"),
        ({"layout": "hdf"}, ValueError, "`layout`"),
        ({"layout": "fno"}, ValueError, "`out` is 'd.npz', but `layout` 'fno'"),
        ({"layout": "neuralop"}, ValueError, "`out` is 'd.npz'"),
        ({"resume": 1}, TypeError, "`resume`"),
        ({"resume": True, "overwrite": True}, ValueError, "`resume` and `overwrite`"),
        ({"executor": 0}, ValueError, "`executor`"),
        ({"executor": "two"}, TypeError, "`executor`"),
        ({"executor": True}, TypeError, "`executor`"),
        ({"solver": "lu"}, ValueError, "`solver`"),
        ({"sort": "best"}, ValueError, "`sort`"),
        ({"chain_size": 0}, ValueError, "`chain_size`"),
        ({"callback": 3}, TypeError, "`callback`"),
        ({"progress": "yes"}, TypeError, "`progress`"),
        ({"coefficients": "rough"}, TypeError, "did you mean `coefficient`"),
    ],
)
def test_bad_input(tmp_path, changes, error, match):
    with pytest.raises(error, match=match):
        make(tmp_path / "d.npz", **changes)
    assert not list(tmp_path.iterdir())


def test_bad_paths():
    with pytest.raises(TypeError, match="`out`"):
        make(3)


@pytest.mark.parametrize(
    ("layout", "library", "extra"), [("fno", "h5py", "io"), ("neuralop", "torch", "train")]
)
def test_missing_libraries_are_named_at_once(tmp_path, monkeypatch, layout, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"{library}.*aitken\[{extra}\]"):
        make(tmp_path / "d", layout=layout)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------- user's families


class Chord(datagen.Family):
    """Three masses on a chord; sample 5 can be made impossible, NaN, or of a wrong shape."""

    symmetric = positive_definite = True
    shape = (3,)
    indptr = np.array([0, 2, 5, 7])
    indices = np.array([0, 1, 0, 1, 2, 1, 2])

    def __init__(self, grid, *, fault=None):
        super().__init__(fault=fault)

    def parameters(self, seed, i):
        fault = self.options["fault"] if i == 5 else None
        if fault == "shape":
            return np.ones(2)
        return np.array(
            [np.nan if fault == "nan" else -1.0 if fault else 1 + datagen.stream(seed, i).random()]
        )

    def assemble(self, parameters):
        data = parameters * np.array([2.0, -1, -1, 2, -1, -1, 2])
        data[parameters[:, 0] < 0] = {"matrix": np.inf, "singular": 0.0}.get(self.options["fault"], 1.0)
        b = np.ones((len(data), 3))
        return (data[:, :-1] if self.options["fault"] == "data" else data), b


def test_users_family(tmp_path):
    r = generate(Chord, 40, 3, tmp_path / "d.npz", layout="npz")
    data, attributes = load(tmp_path / "d.npz", "npz")
    assert (r.kind, attributes["options"]) == ("custom", {"fault": None})
    np.testing.assert_allclose(data["sol"] * data["coeff"], np.tile([1.5, 2, 1.5], (40, 1)), rtol=1e-12)


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("nan", "parameters of custom` has a non-finite"),
        ("shape", "`parameters` of custom gave arrays of different"),
        ("matrix", "data of custom` has a non-finite"),
        ("data", r"`assemble` of custom gave data of shape \(\d+, 6\)"),
    ],
)
def test_faulty_families_are_named(tmp_path, fault, match):
    with pytest.raises(ValueError, match=match):
        generate(Chord, 40, 3, tmp_path / "d.npz", layout="npz", fault=fault)
    assert not (tmp_path / "d.npz").exists()


def test_options_must_be_json(tmp_path):
    with pytest.raises(TypeError, match="JSON"):
        generate(Chord, 40, 3, tmp_path / "d.npz", layout="npz", fault=object())


def test_failed_samples_are_never_silent(tmp_path, monkeypatch):
    """A solver that claims success for a residual above the tolerance is not believed."""
    honest = _generate._solve_systems

    def boasting(*args):
        X, residual, status, nit, *names = honest(*args)
        residual[2], status[2] = 3e-7, 0
        residual[4], status[4] = np.nan, 0
        return X, residual, status, nit, *names

    monkeypatch.setattr(_generate, "_solve_systems", boasting)
    with pytest.warns(ConvergenceWarning, match="2 of 10 samples above the tolerance.*target 1e-08"):
        r = generate("darcy", 10, 8, tmp_path / "d.npz", layout="npz")
    assert (r.n_failed, r.success, r.residual_max) == (2, False, np.inf)
    assert r.status == Status.STAGNATED
    data, _ = load(tmp_path / "d.npz", "npz")
    assert (data["status"] != 0).sum() == 2
    assert np.array_equal(data["status"] != 0, ~(data["residual"] <= 1e-8))
    with pytest.warns(ConvergenceWarning):
        assert generate("darcy", 10, 8, tmp_path / "d.npz", layout="npz", resume=True).n_failed == 2


# ------------------------------------------------------------------------------------------- command line


def command(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "aitken.cli", "datagen", *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_command_line(tmp_path, capsys):
    out = tmp_path / "d.npz"
    words = [
        "datagen",
        "darcy",
        "--n",
        "20",
        "--grid",
        "8",
        "--seed",
        "3",
        "--out",
        str(out),
        "--workers",
        "2",
    ]
    assert cli.main([*words, "--option", "coefficient=binary"]) == 0
    said = capsys.readouterr().out
    assert "20 samples of darcy with 64 unknowns" in said
    attributes = load(out, "npz")[1]
    assert (attributes["seed"], attributes["options"]) == (3, {"coefficient": "binary"})
    assert cli.main([*words, "--option", "coefficient=binary"]) == 2
    assert "FileExistsError" in capsys.readouterr().err
    assert cli.main([*words, "--option", "coefficient=binary", "--resume"]) == 0
    assert "20 of them found published" in capsys.readouterr().out
    assert cli.main([*words, "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert cli.main([*words, "--overwrite", "--layout", "fno"]) == 2
    assert "`layout`" in capsys.readouterr().err


def test_command_line_reports_failed_samples(tmp_path, monkeypatch, capsys):
    honest = _generate._solve_systems
    monkeypatch.setattr(
        _generate, "_solve_systems", lambda *a: (*honest(*a)[:1], np.ones(len(a[3])), *honest(*a)[2:])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            cli.main(["datagen", "darcy", "--n", "5", "--grid", "8", "--out", str(tmp_path / "d.npz")]) == 1
        )
    assert "5 of 5 samples" in capsys.readouterr().err


def test_command_line_takes_a_users_function(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "class Scale:\n"
        "    indptr, indices = np.array([0, 1]), np.array([0])\n"
        "    def parameters(self, seed, i):\n"
        "        return np.array([i + 1.0])\n"
        "    def assemble(self, p):\n"
        "        return p, np.ones_like(p)\n"
        "def scale(grid):\n"
        "    return Scale()\n"
    )
    done = command("mine:scale", "--n", "4", "--grid", "1", "--out", "d.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(load(tmp_path / "d.npz", "npz")[0]["sol"][:, 0], 1 / np.arange(1, 5))
    assert command("mine:nothing", "--n", "4", "--grid", "1", "--out", "e.npz", cwd=tmp_path).returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_interrupted_command_says_how_to_go_on(tmp_path, workers):
    words = ["darcy", "--n", "100000", "--grid", "16", "--out", "d.npz", "--workers", workers]
    child = subprocess.Popen(
        [sys.executable, "-m", "aitken.cli", "datagen", *words],
        env=ENVIRONMENT,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    parts = tmp_path / "d.npz.parts"
    while child.poll() is None and len(list(parts.glob("chain-*.npz"))) < 3:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "--resume" in said
    assert "d.npz.parts" in said
    assert not list(parts.glob("*.tmp"))
    assert len(list(parts.glob("chain-*.npz"))) >= 3


def test_progress_bar(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    make(tmp_path / "d.npz", progress=True)
    assert "200/200" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.ModuleType("tqdm.auto"))
    make(tmp_path / "e.npz", progress=True)  # says so in the log and goes on


def test_import_needs_no_optional_library():
    code = "import sys, aitken.datagen; print([m for m in ('h5py', 'torch', 'tqdm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_names_are_documented():
    for name in datagen.__all__:
        assert getattr(datagen, name).__doc__
    assert _store.LAYOUTS == tuple(SUFFIX)
