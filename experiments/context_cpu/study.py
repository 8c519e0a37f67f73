"""What is context worth? Laws, the forecast that is frozen before its test is trained, tables and figures.

    python experiments/context_cpu/measure.py runs     # with --models for what models make of other windows, too
    python experiments/context_cpu/study.py            # freezes forecast.json where there is none
    scaling sweep experiments/context_cpu/test.yaml

It reads the small tables beside it, never the runs. Contexts and windows are in tokens, here bytes; losses in nats
per byte on held-out text; N counts all parameters.
"""

import datetime
import json
from pathlib import Path

import pandas as pd

from scaling import laws

HERE = Path(__file__).parent
TWICE, LEVEL, DRAWS = 8192, 0.9, 1000
"""the context of the test, twice the longest; of intervals; of bootstraps"""
COLUMNS = {"N": "params_total", "D": "tokens", "C": "flops", "T": "context", "loss": "loss"}


def read(name: str) -> pd.DataFrame:
    table = pd.read_csv(HERE / f"{name}.csv")
    return table.assign(set=table["sweep"].str.removeprefix("context-"))


def of_one_size(runs: pd.DataFrame) -> pd.DataFrame:
    """Nine contexts at 4 million tokens, 33 thousand parameters."""
    fixed = runs["set"].isin(["tokens", "between"]) & (runs["d_model"] == 32)
    return runs[fixed].sort_values("context")


def of_all_sizes(runs: pd.DataFrame) -> pd.DataFrame:
    """Three sizes at 4 million tokens, one of them at 1, 2 and 8, too."""
    return runs[runs["set"].isin(["tokens", "between", "data"])]


def fitted(runs: pd.DataFrame, law: str) -> laws.Fit:
    columns = {letter: COLUMNS.get(letter) for letter in ("N", "D", "C", "loss")}
    if law in ("context", "context_optimum"):
        columns |= {"N": None, "D": None, "C": None}
    fit = laws.fit(laws.Runs(runs, T="context", trusted=True, **columns), law, loss=laws.huber(1e-2), starts=64)
    fit.bootstrap(DRAWS, kind="noise")
    return fit


def freeze(runs: pd.DataFrame) -> list[dict[str, object]]:
    """What the run of twice the longest context will reach, first by the law of its size, then by that of all."""
    own = of_one_size(runs)
    columns = {"N": own["params_total"].iloc[0], "D": own["tokens"].iloc[-1], "T": TWICE}
    frozen = []
    for law, table in (("context_optimum", own), ("chinchilla_context_optimum", of_all_sizes(runs))):
        fit = fitted(table, law)
        told = fit.predict(level=LEVEL, **{letter: float(columns[letter]) for letter in fit.form.columns})
        frozen.append(
            {"law": law, "runs": len(table), "date": datetime.date.today().isoformat(), "level": LEVEL}
            | {key: int(value) for key, value in columns.items()}
            | {"loss": float(told.loss), "low": float(told.run_low), "high": float(told.run_high)}
        )
    return frozen


def main() -> None:
    runs = read("runs")
    path = HERE / "forecast.json"
    if not path.exists():
        path.write_text(json.dumps(freeze(runs), indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
