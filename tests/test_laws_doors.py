"""What `scaling.laws` offers is offered: in the README, the docs, a notebook, a study, a command or a report."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import laws
from scaling.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)]
ASKED = [block for block in BLOCKS if block.startswith("laws.")]
LINES = [line for block in ASKED for line in block.splitlines()]
SWEEP = ((1e7, 1e9), (1e9, 1e11), (1.0, 32.0))
"""ends of sizes, tokens and experts"""


def texts():
    """Everything from which someone, or a command, gets to a law."""
    yield "\n".join(BLOCKS)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    package = Path(laws.__file__).parents[1]
    for path in [*package.rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        if package / "laws" not in path.parents:
            yield path.read_text(encoding="utf-8")


def test_every_function_has_a_door():
    used = {name for text in texts() for name in re.findall(r"\blaws\.(\w+)", text)}
    functions = {name for name in laws.__all__ if inspect.isfunction(getattr(laws, name))}
    assert functions - used == set()


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)

    def loss(N, D):
        return (1.69 + 406.4 / N**0.34 + 410.7 / D**0.28) * np.exp(0.003 * rng.standard_normal(len(N)))

    def runs(N, D, value, **columns):
        return laws.Runs({"params": N, "tokens": D, "loss": value} | columns, **{key: key for key in columns})

    C = np.repeat(np.geomspace(1e18, 1e20, 5), 7)
    N = 0.1 * C**0.47 * np.tile(np.geomspace(1 / 3, 3, 7), 5)
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e8, 1e11, 20)))
    size, experts = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 6), 2.0 ** np.arange(1, 9)))
    e = 1 / (1 / (experts - 1 + 1 / (1 / 1.9 - 1 / 314.0)) + 1 / 314.0)
    log_loss = -0.08 * np.log10(size) - 0.11 * np.log10(e) + 0.009 * np.log10(size) * np.log10(e) + 1.07
    bits = np.tile([4.0, 8.0, 16.0, 4.0, 6.0, 12.0, 3.0], 5)
    nll = np.linspace(1.5, 3.5, 30)
    accuracy = 0.25 + 0.7 / (1 + np.exp(3 * (nll - 2.4))) + 0.003 * rng.standard_normal(30)
    lr, batch = (np.tile(axis.ravel(), 35) for axis in np.meshgrid(np.geomspace(1e-3, 8e-3, 3), [2e5, 4e5, 8e5]))
    each = np.repeat(np.arange(35), 9)
    lost = np.exp(0.01 * (np.log(lr / 3e-3) ** 2 + np.log(batch / 4e5) ** 2))
    web = np.linspace(0.1, 0.9, 12)
    tall, long, many = (
        axis.ravel() for axis in np.meshgrid(*(np.geomspace(*ends, 4) for ends in SWEEP), indexing="ij")
    )
    joint = 30 * many**-0.1 / tall**0.3 + 60 / long**0.3 + 1.2
    finer = runs(tall, long, (2 / many**0.6 + 15) / tall**0.2 + 40 / long**0.2 + 0.5, G=many, C=6 * tall * long)
    reach = 256 * many
    deeper = 1.6 + 400 / tall**0.34 + 400 / long**0.3 + 2 / reach**0.5
    wide = 1.2 + 400 / tall**0.34 + 6 / reach**0.8 + 90 * reach**0.3 / long**0.31
    exact = runs(N, C / 6 / N, loss(N, C / 6 / N))
    return {
        "runs": exact,
        "fit": laws.fit(exact, loss=laws.l2(), starts=16),
        "curves": runs(n, d, loss(n, d), run=n.astype(str)),
        "rates": {"params": N[each], "tokens": (C / 6 / N)[each], "loss": loss(N, C / 6 / N)[each] * lost}
        | {"lr": lr, "batch": batch},
        "scored": pd.DataFrame(
            {"loss": nll, "arc": 0.8 - 2 * np.exp(-0.9 * nll), "hellaswag": 0.7 - np.exp(-0.6 * nll)}
        ),
        "models": pd.DataFrame(
            {"family": ["a", "b"] * 15, "flops": 1e21 * 10**nll, "arc": accuracy, "hellaswag": accuracy**2}
        ),
        "mixed": pd.DataFrame(
            {"web": web, "code": 1 - web, "loss_web": 2 + np.exp(-web), "loss_code": 1 + np.exp(web - 1)}
        ),
        "scores": laws.Runs({"nll": nll, "acc": accuracy}, N=None, D=None, loss="acc", NLL="nll"),
        "routed": laws.Runs({"N": size, "E": experts, "loss": 10**log_loss}, N="N", D=None, E="E"),
        "moe": laws.fit(runs(tall, long, joint, E=many), "ludziejewski", fixed={"Es": 2.07, "Em": 290.45}, starts=8),
        "fine": laws.fit(finer, "krajewski", starts=8),
        "long": laws.fit(runs(tall, long, deeper, T=reach), "chinchilla_context", starts=8),
        "valley": laws.fit(runs(tall, long, wide, T=reach), "chinchilla_context_optimum", starts=8),
        "quantised": runs(N, C / 6 / N, loss(N * (1 - np.exp(-bits / 2.0)) ** 3, C / 6 / N), P=bits),
    }


@pytest.mark.parametrize("line", LINES, ids=[line.partition("(")[0] for line in LINES])
def test_each_line_of_the_docs_answers(tables, line):
    assert eval(line, {"laws": laws} | tables) is not None


def test_the_docs_ask_in_two_blocks():
    assert len(ASKED) == 2 and len(LINES) > 15


OF_RUNS = [
    name
    for name in laws.__all__
    if inspect.isfunction(ask := getattr(laws, name)) and next(iter(inspect.signature(ask).parameters), "") == "runs"
]
MORE = {"compare": (["chinchilla", "chinchilla_equal"],), "cut_curves": ([1e18],)}


@pytest.mark.parametrize("name", ["Forecaster", *OF_RUNS])
def test_a_table_and_its_file_do_wherever_runs_do(name, tmp_path):
    C = np.repeat(np.geomspace(1e18, 1e20, 4), 6)
    N = 0.1 * C**0.47 * np.tile(np.geomspace(1 / 3, 3, 6), 4)
    D = C / 6 / N
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(len(C)))
    table = pd.DataFrame({"params": N, "tokens": D, "loss": (1.69 + 406.4 / N**0.34 + 410.7 / D**0.28) * noise})
    table.to_csv(tmp_path / "runs.csv", index=False)

    def said(runs):
        try:
            answer = getattr(laws, name)(runs, *MORE.get(name, ()))
        except UserError as error:  # some need a further column, however runs are given
            return str(error)
        answer = answer.forecast(1e10, 2e11, 1.2e22).loss if name == "Forecaster" else answer
        return answer.summary() if hasattr(answer, "summary") else repr(answer)

    given = (table, dict(table), tmp_path / "runs.csv", str(tmp_path / "runs.csv"))
    assert {said(runs) for runs in given} == {said(laws.Runs(table))}
    other = said(table.rename(columns={"params": "weights"}))
    assert "with laws.Runs(table, N='COLUMN')" in other or other == said(table)
