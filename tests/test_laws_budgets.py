"""Which tables are isoFLOP designs: published ones of both kinds, and a designed sweep."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_sweep import sweep_config, write_runs

from scaling import laws
from scaling.cli import main

PUBLISHED = Path(__file__).parents[1] / "../shared/published"


def published(name: str) -> pd.DataFrame:
    path = PUBLISHED / name
    if not path.exists():
        pytest.skip(f"no {path}")
    return pd.read_csv(path)


def design(jitter: float, sizes: int = 5, budgets: int = 3, spacing: float = 3.0) -> laws.Runs:
    """A Chinchilla law at `budgets` budgets, FLOPs off by up to the share `jitter`."""
    rng = np.random.default_rng(0)
    C = 1e18 * spacing ** np.repeat(np.arange(budgets), sizes)
    n = 1e7 * (C / 1e18) ** 0.5 * np.tile(1.5 ** np.arange(sizes), budgets)
    flops = C * (1 + jitter * rng.uniform(-1, 1, len(C)))
    d = flops / (6 * n)
    return laws.Runs({"N": n, "D": d, "loss": 1.7 + 400 / n**0.34 + 410 / d**0.28, "C": flops}, N="N", D="D", C="C")


def test_a_collection_of_runs_is_no_design() -> None:
    runs = laws.Runs(published("epoch_chinchilla.csv"), C="flops")
    assert not runs.form_budgets() and laws.try_isoflop(runs) is None
    assert len(laws.isoflop(runs).budgets) > 0  # who asks for it by name still gets it


def test_every_published_isoflop_design_is_one() -> None:
    for name, rows in published("porian_refinedweb_isoflops.csv").groupby("config"):
        assert laws.Runs(rows.drop_duplicates(["params", "tokens", "loss"]), C="flops").form_budgets(), name


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (design(0.0), True),
        (design(0.03), True),
        (design(0.0, sizes=3), False),
        (design(0.2), False),
        (design(0.04, spacing=1.15), False),  # 8 % of spread and budgets 14 % apart
    ],
)
def test_budgets_are_tight_apart_and_of_four_sizes(runs: laws.Runs, expected: bool) -> None:
    assert runs.form_budgets() is expected
    assert (laws.try_isoflop(runs) is not None) is expected


def test_a_fifth_of_other_runs_does_not_hide_a_design_and_more_does() -> None:
    whole = design(0.0)
    for extra, expected in ((3, True), (5, False)):
        C = np.geomspace(3e19, 3e22, extra)
        other = {"N": C**0.5 / 100, "D": C**0.5 * 100 / 6, "loss": np.linspace(2.4, 2.0, extra), "C": C}
        columns = {key: np.concatenate([getattr(whole, key), values]) for key, values in other.items()}
        assert laws.Runs(columns, N="N", D="D", C="C").form_budgets() is expected


def test_fit_prints_minima_of_a_sweep_and_not_of_any_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(sweep_config(), tmp_path / "s", lines=3)
    assert main(["fit", str(tmp_path / "s"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["isoflop"]["budgets"]) == 3
    draw = np.random.default_rng(0)
    n, d = 10 ** draw.uniform(7, 10, 60), 10 ** draw.uniform(9, 11.5, 60)
    loss = (1.7 + 400 / n**0.34 + 410 / d**0.28) * np.exp(0.005 * draw.standard_normal(60))
    pd.DataFrame({"params": n, "tokens": d, "loss": loss}).to_csv(tmp_path / "runs.csv", index=False)
    assert main(["fit", str(tmp_path / "runs.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["isoflop"] is None
