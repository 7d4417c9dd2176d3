"""The documentation tells the truth: its code runs, its links lead somewhere, its tables were measured."""

import hashlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aitken import ConvergenceWarning, cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CODE = re.compile(r"(?:<!-- needs: (\w+) -->\n)?```python\n(.*?)```", re.DOTALL)
SHELL = re.compile(r"```bash\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)")
WITH_CODE = [page for page in PAGES if CODE.search(page.read_text(encoding="utf-8"))]

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="not a source checkout")


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_there_is_code_to_run():
    names = ("ot", "ot_many", "linalg", "relaxation", "tune", "completion", "optimize", "deepcg")
    guides = {f"docs/guide/{name}.md" for name in names}
    assert {"README.md", *guides} <= {relative(page) for page in WITH_CODE}


@pytest.mark.parametrize("page", WITH_CODE, ids=relative)
def test_code_runs(page, tmp_path, monkeypatch, capsys):
    """All blocks of a page, in order, in one namespace; those marked `needs` where the library is there."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    namespace = {"__name__": "docs"}
    for match in CODE.finditer(text):
        needs, code = match.groups()
        if needs and importlib.util.find_spec(needs) is None:
            continue
        line = text.count("\n", 0, match.start(2))
        exec(compile("\n" * line + code, str(page), "exec"), namespace)
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{relative(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_commands_exist(page):
    """Every `aitken ...` and `python FILE` command in a shell block is one that there is."""
    for block in SHELL.findall(page.read_text(encoding="utf-8")):
        for command in re.split(r"\n|&&", block):
            words = shlex.split(command, comments=True)
            if words[:1] == ["aitken"]:
                cli.parser().parse_args(words[1:])
            elif words[:1] == ["python"] and words[1].endswith(".py"):
                assert (ROOT / words[1]).exists(), command


def load_report():
    spec = importlib.util.spec_from_file_location("bench_report", ROOT / "bench" / "report.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


TABLES = [
    *(
        (name, stem)
        for name in ("README.md", "docs/benchmarks.md")
        for stem in ("ot", "krylov", "completion")
    ),
    *((name, stem) for name in ("README.md", "docs/benchmarks.md") for stem in ("optimize", "deepcg")),
    ("docs/theory/deepcg.md", "deepcg"),
]


@pytest.mark.parametrize(("name", "stem"), TABLES)
def test_tables_come_from_a_results_file(name, stem):
    """The tables are what bench/report.py makes of a committed results file, unedited."""
    report = load_report()
    text = (ROOT / name).read_text(encoding="utf-8")
    assert f"<!-- bench:{stem}:" in text
    files = sorted((ROOT / "bench" / "results").glob(f"{stem}-*.json"))
    assert files, "no results in bench/results"
    assert any(
        report.render_into(text, json.loads(file.read_text(encoding="utf-8"))) == text for file in files
    )


def test_full_results_are_complete():
    for file in (ROOT / "bench" / "results").glob("ot-*.json"):
        data = json.loads(file.read_text(encoding="utf-8"))
        assert not data["quick"]
        assert data["machine"]["cpu"]
        assert data["ceilings"]["triad_gbs"] > 0
        for problem in data["problems"]:
            if "part" in problem:
                continue
            kinds = {row["kind"] for row in problem["rows"]}
            assert {"ours", "twin", "peer"} <= kinds, problem["name"]
            for row in problem["rows"]:
                if row["seconds"]:
                    assert row["err"] <= 1e-9 or row["solver"] == "POT emd", (problem["name"], row["solver"])


def test_full_results_of_transport_families_are_complete():
    """Every part is there with its peers, and every time has a certificate that meets its tolerance."""
    peers = {
        "batch": {"POT sinkhorn", "POT solve_batch", "POT emd", "OTT-JAX", "GeomLoss"},
        "pairs": {"POT sinkhorn, matrix b", "POT sinkhorn, loop"},
        "points": set(),
        "divergence": {"POT", "OTT-JAX", "GeomLoss"},
        "unbalanced": {"POT sinkhorn_unbalanced", "OTT-JAX", "GeomLoss"},
        "grid": {"OTT-JAX"},
        "barycenter": {"POT barycenter"},
        "exact": {"POT emd"},
        "quadratic": {"POT smooth_ot_dual"},
        "ragged": set(),
        "gradients": set(),
        "warm": set(),
    }
    tolerances = {"gradients": 1e-6, "divergence": 1e-7, "barycenter": 1e-8, "exact": 1e-6}
    for file in (ROOT / "bench" / "results").glob("ot-*.json"):
        problems = json.loads(file.read_text(encoding="utf-8"))["problems"]
        assert {problem.get("part") for problem in problems} == {None, *peers}
        for problem in problems:
            part = problem.get("part")
            if part is None:
                continue
            for peer in peers[part]:
                found = any(row["solver"].startswith(peer) for row in problem["rows"])
                assert found, (problem["name"], peer)
            for row in problem["rows"]:
                assert "Error" not in row["note"], (problem["name"], row["solver"])
                if row.get("err_pot"):
                    assert row["err_pot"] <= 1e-9, problem["name"]
                if row["seconds"] and "a pass" not in row["solver"]:
                    tolerance = tolerances.get(part, 1e-9)
                    assert row["err"] <= tolerance, (problem["name"], row["solver"])


def test_full_results_of_sequences_are_complete():
    """Every kind of problem with ours and peers, every time with a residual that meets its tolerance."""
    for file in (ROOT / "bench" / "results").glob("krylov-*.json"):
        data = json.loads(file.read_text(encoding="utf-8"))
        assert not data["quick"]
        assert data["machine"]["cpu"]
        assert data["ceilings"]["cycle_gbs"] > 0
        names = " ".join(problem["name"] for problem in data["problems"])
        assert all(f"{kind} " in names for kind in ("T1", "T5", "T6", "T7", "T8", "one A:", "Oseen"))
        for problem in data["problems"]:
            assert {row["kind"] for row in problem["rows"]} == {"ours", "peer"}, problem["name"]
            for row in problem["rows"]:
                if row["seconds"]:
                    assert row["err"] <= problem["rtol"], (problem["name"], row["solver"])
        assert all(row["residual"] <= 1e-8 for row in data["datagen"]["rows"])


def test_full_results_of_grids_are_complete():
    """Every part is there, every time comes with a residual that meets its tolerance, peers are in it."""
    for file in (ROOT / "bench" / "results").glob("deepcg-*.json"):
        data = json.loads(file.read_text(encoding="utf-8"))
        assert not data["quick"]
        assert data["machine"]["cpu"]
        parts = {problem["part"] for problem in data["problems"]}
        assert parts == {"solve", "counts", "network", "safety", "batch", "threads", "smoke"}
        for problem in data["problems"]:
            if problem["part"] == "solve":
                names = {row["solver"] for row in problem["rows"]}
                assert {
                    "aitken mg",
                    "aitken learned_mg",
                    "SciPy cg",
                    "PyAMG SA + cg",
                    "PyAMG RS + cg",
                } <= names
            if problem["part"] in ("solve", "network", "smoke"):
                for row in problem["rows"]:
                    if row["seconds"]:
                        assert row["err"] <= problem["rtol"], (problem["name"], row["solver"])


def run(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "aitken.cli", *words], capture_output=True, text=True, timeout=170, **options
    )


def test_info_command():
    done = run("info", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["simd"]["level"] in ("base", "v3", "v4")


def test_bench_command_names_what_there_is():
    done = run("bench", "nosuch", cwd=ROOT)
    assert done.returncode == 2
    assert "'nosuch'" in done.stderr
    for stem in ("ot", "krylov", "relaxation", "completion", "optimize", "deepcg"):
        assert re.search(rf"\b{stem}\b", done.stderr)


def test_unknown_command_is_refused():
    done = run("frobnicate")
    assert done.returncode == 2
    assert "frobnicate" in done.stderr


def test_verify_command():
    done = run("verify", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASS") >= 4
    assert "FAIL" not in done.stdout


def test_verify_fails_when_the_solver_is_wrong(monkeypatch, capsys):
    """A plan that misses its marginals, or a wrong gradient, must not pass."""
    from aitken import _verify, ot

    honest = ot.sinkhorn

    def wrong(*args, **options):
        r = honest(*args, **options)
        r.plan = r.plan * (1 + 1e-6)
        r.value = r.value * (1 + 1e-3)
        return r

    monkeypatch.setattr(ot, "sinkhorn", wrong)
    assert not _verify._gradients()[0]
    assert not _verify._closed_form()[0]
    assert any(err > goal for _, err, goal, _ in _verify.child()["errors"])


def test_verify_fails_when_the_linear_solver_is_wrong(monkeypatch):
    """An answer off by 1e-5, or one that carrying does not help, must not pass."""
    from aitken import _verify, linalg

    honest = linalg.solve_batch

    def wrong(*args, **options):
        r = honest(*args, **options)
        r.X = r.X * (1 + 1e-5)
        return r

    def cold(*args, **options):
        return honest(*args, **{**options, "project": 0, "recycle_dim": 0, "restart": 200})

    monkeypatch.setattr(linalg, "solve_batch", wrong)
    assert not _verify._against_splu()[0]
    assert any(err > goal for name, err, goal, _ in _verify.child()["errors"] if "GCRO-DR" in name)
    monkeypatch.setattr(linalg, "solve_batch", cold)
    assert not _verify._against_splu()[0]


def test_verify_fails_when_relaxation_is_wrong(monkeypatch):
    """Answers off by 1e-6, and an omega that is not learned, must not pass."""
    from aitken import _verify, linalg

    honest, sequence = linalg.ssor_cg, linalg.solve_sequence

    def wrong(*args, **options):
        r = honest(*args, **options)
        r.x = r.x * (1 + 1e-6)
        return r

    def untuned(*args, tuner=None, **options):
        return sequence(*args, **options) if tuner is None else sequence(*args, **options, omega=1.0)

    monkeypatch.setattr(linalg, "ssor_cg", wrong)
    bad = {name for name, err, goal, _ in _verify._solve_relaxation(hashlib.sha256()) if err > goal}
    assert bad == {"SSOR-CG 110x110", "SSOR-CG 40x40, with products"}
    assert _verify._learned_omega()[0]
    monkeypatch.setattr(linalg, "solve_sequence", untuned)
    assert not _verify._learned_omega()[0]


def test_verify_fails_when_completion_is_wrong(monkeypatch):
    """Factors off by 1e-5, and half sweeps that are not exact, must not pass."""
    from aitken import _verify, completion

    honest, half = completion.matrix_completion, completion.als_half_sweep

    def wrong(*args, **options):
        r = honest(*args, **options)
        r.U = r.U * (1 + 1e-5)
        return r

    def inexact(*args, **options):
        return half(*args, **options, inner="cg", inner_maxiter=1)

    assert all(err <= goal and ok for _, err, goal, ok in _verify._solve_completion(hashlib.sha256()))
    assert _verify._recovered()[0]
    monkeypatch.setattr(completion, "als_half_sweep", inexact)
    assert not _verify._recovered()[0]
    monkeypatch.setattr(completion, "als_half_sweep", half)
    monkeypatch.setattr(completion, "matrix_completion", wrong)
    bad = [name for name, err, goal, _ in _verify._solve_completion(hashlib.sha256()) if err > goal]
    assert {"completion, exact", "completion, CG", "completion, robust"} <= set(bad)
    assert not _verify._recovered()[0]


def test_verify_fails_when_a_minimum_is_wrong(monkeypatch):
    """Points off by 1e-5, and ends that are not minima, must not pass."""
    from aitken import _verify, optimize

    honest = optimize.sketched_newton

    def wrong(*args, **options):
        r = honest(*args, **options)
        r.x = r.x * (1 + 1e-5)
        return r

    def early(*args, **options):
        with pytest.warns(ConvergenceWarning):
            return honest(*args, **options, maxiter=3)

    assert all(err <= goal and ok for _, err, goal, ok in _verify._solve_constrained(hashlib.sha256()))
    assert _verify._against_slsqp()[0]
    monkeypatch.setattr(optimize, "sketched_newton", wrong)
    assert all(err > goal for _, err, goal, _ in _verify._solve_constrained(hashlib.sha256()))
    assert not _verify._against_slsqp()[0]
    monkeypatch.setattr(optimize, "sketched_newton", early)
    assert not _verify._against_slsqp()[0]


def test_demo_fails_when_a_minimum_is_wrong(monkeypatch):
    """A point off the constraints, one that is no minimum, and a solve without success must not pass."""
    from aitken._demo import optimize

    honest = optimize.sketched_newton
    case = optimize.Case("control", [optimize.elliptic_control(6, "nonlinear")])
    optimize._walk(case, "aitken", optimize.ours, (optimize.TOL,))
    assert case.ok()

    def moved(*args, **options):
        r = honest(*args, **options)
        r.x = r.x * (1 + 1e-5)
        return r

    def feasible(fun, x0, *, jac, hess, **options):
        return honest(lambda x: 0.5 * x @ x, x0, jac=lambda x: x, hess=lambda x: np.eye(len(x)), **options)

    def unsuccessful(*args, **options):
        r = honest(*args, **options)
        r.success = False
        return r

    for other in (moved, feasible, unsuccessful):
        monkeypatch.setattr(optimize, "sketched_newton", other)
        case.rows.clear()
        optimize._walk(case, "aitken", optimize.ours, (optimize.TOL,))
        assert not case.ok(), other.__name__


def test_demo_fails_when_the_gaps_are_filled_badly(monkeypatch):
    """A picture that misses its own objective, or is no better than the mean, must not pass."""
    from aitken._demo import completion

    honest = completion.matrix_completion

    def wrong(*args, **options):
        r = honest(*args, **options)
        r.U = r.U * (1 + 1e-4)
        return r

    def flat(M, rank, **options):
        return honest(M, 1, **{**options, "lam": 1e5})

    p = completion.picture(fast=True)
    completion._ours(p)
    assert p.ok()
    assert p.rows[0].rmse == p.rmse(p.result.to_dense())
    for other in (wrong, flat):
        monkeypatch.setattr(completion, "matrix_completion", other)
        p.rows.clear()
        completion._ours(p)
        assert not p.ok()


def test_demo_fails_when_an_answer_is_wrong(monkeypatch):
    """Each row of the heat equation is held to a residual that the demonstration computes itself."""
    from aitken import linalg
    from aitken._demo import relaxation

    honest = linalg.solve_sequence

    def wrong(*args, **options):
        r = honest(*args, **options)
        r.X[-1] *= 1 + 1e-6
        return r

    s = relaxation.steps(fast=True)
    relaxation._tuned(s)
    assert s.ok()
    assert s.rows[0].residual <= relaxation.RTOL
    relaxation._peer(s, "too early", 0.01, lambda A, b, start: (start, 0), "")
    lines = relaxation.table_lines(s)
    assert lines[-1][-2:] == ("-", "residual not reached")
    assert s.ok()  # a peer's miss is not ours
    s.rows.clear()
    monkeypatch.setattr(linalg, "solve_sequence", wrong)
    relaxation._tuned(s)
    assert not s.ok()


def test_demo_fails_when_a_pressure_is_wrong(monkeypatch):
    """Pressures are held to a residual of differences that the demonstration takes itself."""
    from aitken import linalg
    from aitken._demo import deepcg

    honest = linalg.PreparedModel.solve

    def wrong(self, *args, **options):
        r = honest(self, *args, **options)
        r.x = r.x * (1 + 1e-4)
        return r

    s = deepcg.smoke(32, 6)
    deepcg.solve(s, limit=0.1, with_pyamg=False)
    assert s.ok()
    assert [row.solver for row in s.rows][-1] == "SciPy cg"
    s.rows[-1].residual = 1.0
    assert s.ok()  # a peer's miss is not ours
    assert deepcg.table_lines(s)[-1][-1] == "residual not reached"
    monkeypatch.setattr(linalg.PreparedModel, "solve", wrong)
    s = deepcg.smoke(32, 6)
    deepcg._simulate(s)
    assert not s.ok()


@pytest.mark.slow
def test_demo_command(tmp_path):
    pytest.importorskip("matplotlib")
    done = run("demo", "--fast", "--html", str(tmp_path / "demo.html"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert page.count("data:image/") >= 5
    assert "heat equation" in page
    assert "Smoke past a moving ball" in page
    assert "A matrix with gaps" in page
    assert "Minimisation under constraints" in page
    assert "http://" not in page
    assert "https://" not in page


def test_demo_without_optional_libraries():
    """Without matplotlib, scikit-learn, POT and PyAMG: the tables alone, and the name of the extra."""
    code = """
import sys
for name in ("matplotlib", "sklearn", "ot", "pyamg"):
    sys.modules[name] = None
from aitken import _demo
sys.exit(_demo.run(fast=True))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    assert "Gaussian clouds" in done.stdout
    assert "Helmholtz" in done.stdout
    assert "omega learned" in done.stdout
    assert "smoke past a moving ball" in done.stdout
    assert "NumPy soft-impute" in done.stdout
    assert "SciPy trust-constr" in done.stdout
    assert done.stdout.count("aitken[demo]") >= 4
