"""The notebooks run from top to bottom, their numbers are the published ones, and they ship with their outputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_sweep import Law, sweep_config, write_forecast, write_runs
from test_laws_groups_of_sweeps import WORSE, write

from scaling import laws

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PUBLISHED = ROOT / "../shared/published/epoch_chinchilla.csv"


def run(name: str, folder: Path, ask: str) -> tuple[Any, Any]:
    """The notebook after its execution in `folder`, and the value of the expression `ask` at its end."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json; print(json.dumps({ask}))"))
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, startup_timeout=600, resources=where).execute()
    return notebook, json.loads(notebook.cells.pop().outputs[0].text)


def text_of(notebook: Any) -> str:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.get("text") or output.get("data", {}).get("text/markdown", "") for output in outputs]
    return "\n".join(texts)


def pictures(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_ship_executed_in_order_small_and_without_machine_paths(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_500_000
    assert not any(word in text for word in ("/home/", "/work/", "/tmp/", "plotlyjs"))
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(
        output.output_type == "error" or output.get("name") == "stderr" for c in code for output in c.outputs
    )
    assert pictures(notebook) >= 7
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.exists(), reason="../shared/published is not here")
def test_the_chinchilla_notebook_gets_the_published_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("CHINCHILLA_CSV", str(PUBLISHED.resolve()))
    monkeypatch.setenv("CHINCHILLA_DRAWS", "1500")
    ask = (
        "{'real': REAL, 'objective': fit.objective, 'l1': l1.objective, 'l1_params': l1.params, 'n': len(runs), "
        "'table': comparison.to_dict('index'), 'alpha': fit.interval('alpha', 0.95), "
        "'beta': fit.interval('beta', 0.95), 'exponents': [row.exponent for row in found.rows]}"
    )
    notebook, found = run("fit_chinchilla", tmp_path, ask)
    assert found["real"] and found["n"] == 240 and "SYNTHETIC" not in text_of(notebook)
    assert found["objective"] == pytest.approx(1.01827402e-3, rel=1e-6)
    assert found["l1"] == pytest.approx(1.1294946, rel=1e-7)
    assert found["l1_params"]["A"] == pytest.approx(482.006, rel=1e-5)
    table = found["table"]
    sizes = {name: row["N* (billion)"] for name, row in table.items()}
    assert sizes["Hoffmann et al., as printed"] == pytest.approx(32.2, abs=0.1)
    assert sizes["Hoffmann et al., unrounded"] == pytest.approx(40.3, abs=0.1)
    assert sizes["Besiroglu et al."] == pytest.approx(72.3, abs=0.1)
    objectives = {name: row["Huber objective"] for name, row in table.items()}
    assert objectives["Hoffmann et al., as printed"] == pytest.approx(4.121e-3, abs=5e-7)
    assert objectives["Hoffmann et al., unrounded"] == pytest.approx(1.231e-3, abs=5e-7)
    assert found["alpha"] == pytest.approx([0.317, 0.373], abs=0.005)
    assert found["beta"] == pytest.approx([0.331, 0.415], abs=0.008)  # of 1,500 draws
    assert found["exponents"][3] == pytest.approx(0.5139, abs=2e-4)  # .3671724/(.3473105 + .3671724)
    assert all(0.48 < exponent < 0.56 for exponent in found["exponents"])
    text = text_of(notebook)  # what it says of them follows from the numbers
    assert "4.0 times the objective" in text and "from 40 to\n  32 billion" in text and "44 times" in text


@pytest.mark.slow
def test_the_chinchilla_notebook_runs_without_the_data_and_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("CHINCHILLA_CSV", raising=False)
    monkeypatch.setenv("CHINCHILLA_DRAWS", "50")
    notebook, found = run("fit_chinchilla", tmp_path, "{'real': REAL, 'n': len(runs), 'alpha': fit.params['alpha']}")
    assert found["real"] is False and found["n"] == 240
    text = text_of(notebook)
    assert "SYNTHETIC, not the Chinchilla runs" in text and "say nothing about Chinchilla" in text
    assert found["alpha"] == pytest.approx(0.3478, abs=0.03)  # the law that the table was made from
    assert list(tmp_path.iterdir()) == []


def test_the_chinchilla_notebook_ships_with_what_the_synthetic_table_gives_and_says_where_the_real_one_is():
    notebook = nbformat.read(ROOT / "notebooks" / "fit_chinchilla.ipynb", 4)
    said = text_of(notebook)
    assert "SYNTHETIC, not the Chinchilla runs" in said and "say nothing about Chinchilla" in said
    assert "https://github.com/epoch-research/analyzing-chinchilla" in said
    naming = [cell for cell in notebook.cells if cell.cell_type == "code" and "CHINCHILLA_CSV" in cell.source]
    assert len(naming) == 1 and len(naming[0].source.splitlines()) <= 4


@pytest.mark.slow
def test_the_notebook_of_two_sweeps_finds_what_compute_is_worth_in_a_synthetic_pair(tmp_path, monkeypatch):
    monkeypatch.delenv("SWEEPS", raising=False)
    monkeypatch.setenv("COMPARE_DRAWS", "200")
    ask = "{'truth': TRUE_GAIN, 'gain': [(g.multiplier, *g.interval) for g in fit.gain(1e19, 0.99).values()]}"
    notebook, found = run("compare_sweeps", tmp_path, ask)
    ((multiplier, low, high),) = found["gain"]
    assert low < found["truth"] < high and multiplier == pytest.approx(found["truth"], rel=0.03)
    assert "SYNTHETIC" in text_of(notebook) and "**other** is better" in text_of(notebook)
    assert pictures(notebook) == 8


@pytest.mark.slow
def test_the_notebook_of_two_sweeps_goes_from_their_folders_to_a_verdict(tmp_path, monkeypatch):
    design = {"kind": "isoflop", "budgets": [1e11, 3e11, 1e12], "sizes": 5, "spacing": 1.5, "center_flops": 3e11,
              "center_params": 41e3, "center_exponent": 0.5}  # fmt: skip
    sweeps = [write(tmp_path / "runs", name, design=design) for name in ("relu2", "gelu")]
    monkeypatch.setenv("SWEEPS", " ".join(map(str, sweeps)))
    monkeypatch.setenv("COMPARE_DRAWS", "100")
    notebook, found = run("compare_sweeps", tmp_path, "[g.multiplier for g in fit.gain().values()]")
    assert found == [pytest.approx(WORSE**-2, rel=0.1)]
    assert "**gelu** is worse" in text_of(notebook) and "SYNTHETIC" not in text_of(notebook)


@pytest.mark.slow
def test_the_sweep_notebook_goes_from_a_folder_to_a_forecast(tmp_path, monkeypatch):
    home, law = tmp_path / "runs" / "synthetic", Law(noise=0.001)
    write_runs(sweep_config(), home, law, broken=2, lines=2)
    write_forecast(sweep_config(), home, law, lines=2)
    monkeypatch.setenv("SWEEP", str(home))
    ask = (
        "{'rows': len(df), 'fitted': len(runs), 'a': fit.interval('a', 0.99), 'outcome': outcome.losses, "
        "'loss': float(fit.predict(N=1e5, D=5e6))}"
    )
    notebook, found = run("fit_your_sweep", tmp_path, ask)
    assert (found["rows"], found["fitted"]) == (17, 13) and len(found["outcome"]) == 2
    low, high = found["a"]
    assert low < 0.5 / (0.4 + 0.5) < high
    assert found["loss"] == pytest.approx(law(1e5, 5e6), rel=0.02)
    assert "diverged: the loss of step 812 is nan" in text_of(notebook)
    assert "these runs say that there is an E" in text_of(notebook)
    assert pictures(notebook) == 7


@pytest.mark.slow
def test_the_notebook_of_experts_finds_what_the_synthetic_law_says(tmp_path, monkeypatch):
    """Dense worth and compute saved by the law that the table was made from, found here by searches on grids."""
    monkeypatch.delenv("MOE_SWEEP", raising=False)
    monkeypatch.setenv("MOE_DRAWS", "60")
    ask = (
        "{'truth': TRUTH, 'N': middle, 'D': tokens, 'C': budget, 'experts': list(experts), "
        "'worth': [w.N for w in worth], 'saved': [(g.multiplier, *g.interval) for g in saving[budget]], "
        "'pays': pays, 'best': best.value, 'gain': [g.multiplier for g in apart.gain(budget).values()]}"
    )
    notebook, found = run("moe_laws", tmp_path, ask)
    form, p = laws.FORMS["ludziejewski"], found["truth"]
    natural = np.array([p[name] for name in form.params])

    def loss(N, D, E):
        return form.loss(natural, [N, D, np.full_like(N, E)])

    N = np.geomspace(1e5, 1e11, 60001)
    for E, worth, (saved, low, high), gain in zip(
        found["experts"], found["worth"], found["saved"], found["gain"], strict=True
    ):
        as_good = loss(np.array([found["N"]]), found["D"], E)
        assert worth == pytest.approx(N[np.abs(loss(N, found["D"], 1.0) - as_good).argmin()], rel=0.1)
        dense, C = loss(N, found["C"] / 6 / N, 1.0).min(), found["C"] / np.geomspace(1, 50, 501)
        router = 1 + 0.002 * E
        needed = [c for c in C if loss(N[::20], c / 6 / N[::20] / router, E).min() <= dense][-1]
        assert saved == pytest.approx(found["C"] / needed, rel=0.08) and low < saved < high
        assert gain == pytest.approx(found["C"] / needed, rel=0.15)
    assert found["pays"] == [4, 8, 16, 32] and found["best"] == float("inf")
    assert "the search's end, outside the runs' 1 to 32" in text_of(notebook)


@pytest.mark.slow
def test_the_notebook_of_experts_reads_a_sweep(tmp_path, monkeypatch):
    home = tmp_path / "runs" / "synthetic"
    law = Law(
        of=lambda run: 0.9 + 20 / (run.params_active * run.experts**0.5) ** 0.3 + 90 / run.tokens**0.35, noise=0.001
    )
    ladder = {"count": "active_non_embedding", "aspect": 12, "d_head": 8, "width_multiple": 4, "ff_multiple": 1}
    axes = {
        "flops": [5e10, 1e11, 2e11],
        "model.params": [5e3, 10e3, 20e3],
        "model.feed_forward": [None, *({"kind": "moe", "experts": E} for E in (4, 8, 32))],
    }
    sweep = sweep_config(design={"kind": "grid", "axes": axes}, ladder=ladder, forecast=None)
    write_runs(sweep, home, law, lines=2)
    monkeypatch.setenv("MOE_SWEEP", str(home))
    monkeypatch.setenv("MOE_DRAWS", "40")
    notebook, found = run(
        "moe_laws", tmp_path, "{'runs': len(runs), 'experts': list(experts), 'times': worth[-1].times}"
    )
    assert (found["runs"], found["experts"]) == (36, [4, 8, 32])
    assert found["times"] == pytest.approx(32**0.5, rel=0.35) and pictures(notebook) >= 7


@pytest.mark.slow
def test_the_notebook_of_contexts_tells_the_stored_runs(tmp_path, monkeypatch):
    """Best contexts by a search on a grid, and differences of pairs by the table of blocks itself."""
    study = ROOT / "experiments" / "context_cpu"
    monkeypatch.setenv("CONTEXT_STUDY", str(study))
    monkeypatch.setenv("CONTEXT_DRAWS", "40")
    ask = (
        "{'params': joint.params, 'runs': len(every), 'best': [b.T for b in best], 'tokens': tokens, 'came': came, "
        "'told': told, 'pairs': pairs.values.tolist(), 'worth': row['times']}"
    )
    notebook, found = run("context_laws", tmp_path, ask)
    p, T = found["params"], np.geomspace(4, 1e5, 40001)

    def of_context(D):
        return p["K"] / T ** p["gamma"] + p["B"] * T ** p["delta"] / D ** p["beta"]

    assert found["runs"] == 31
    assert found["best"] == pytest.approx([T[of_context(D).argmin()] for D in found["tokens"]], rel=1e-3)
    gained = of_context(4e6)[[np.abs(T - 64).argmin(), np.abs(T - 128).argmin()]] @ [1, -1]
    smaller = p["A"] / 32992 ** p["alpha"] - gained  # what is left for A/N^α
    assert found["worth"] == pytest.approx((p["A"] / smaller) ** (1 / p["alpha"]) / 32992, rel=1e-2)
    runs = pd.read_csv(study / "runs.csv").query("d_model == 32 and context == 1024 and 3.9e6 < tokens < 4.1e6")
    blocks = pd.read_csv(study / "blocks.csv").merge(runs[["sweep", "run_id"]]).set_index("sweep")
    near, full = (
        blocks.loc[f"context-{name}"].filter(regex=r"^\d+$").to_numpy(float) for name in ("sight", "tokens")
    )
    what, context, difference, error = found["pairs"][2]
    assert (what, context) == ("all layers see 64 tokens", 1024)
    assert (difference, error) == pytest.approx(((near - full).mean(), (near - full).std(ddof=1) / len(full) ** 0.5))
    assert len(found["came"]) == 1 and found["told"][0]["runs"] == 9
    assert pictures(notebook) >= 7
