"""When do experts pay? The tables, the figures, and a forecast that is frozen before its test is trained.

    python experiments/moe_cpu/study.py runs/moe    # tables, figure; freezes forecast.json where there is none
    scaling sweep experiments/moe_cpu/test.yaml
    python experiments/moe_cpu/study.py runs/moe runs/moe-test

N is the active parameters, embeddings included (they are the head, too); losses are nats per byte on held-out text.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

import scaling
from scaling import laws
from scaling.report import plot_groups

HERE = Path(__file__).parent
BUDGET = 8e11
"""of the test: 4 times the largest of the sweep"""
COLUMNS = {"N": "params_active", "D": "tokens", "C": "flops", "loss": "loss"}


def table(runs: pd.DataFrame, value: str) -> pd.DataFrame:
    """Means over seeds, budgets and sizes down, experts across."""
    budget = runs["flops"].map(lambda c: float(f"{c:.0e}"))
    size = runs["run_id"].map(runs.set_index("run_id")["asked"])
    return runs.assign(budget=budget, size=size).pivot_table(value, ["budget", "size"], "experts")


def read(folder: str) -> pd.DataFrame:
    """Runs that ended, with the active size that the design asked for, without embeddings."""
    runs = scaling.load_runs(folder)
    plan = json.loads((Path(folder) / "plan.json").read_text())
    entries = plan.get("runs", plan)
    asked = {name: entry["label"]["model.params"] for name, entry in entries.items()}
    runs = runs.assign(asked=runs["run_id"].map(asked))[runs["status"] == "completed"]
    return runs.sort_values("experts", kind="stable")  # a pooled law compares with the first group, the dense models


def pooled(runs: pd.DataFrame) -> laws.Fit:
    """One law for each number of experts, exponents in common."""
    fit = laws.fit(runs, "chinchilla", **COLUMNS, group="experts", shared=("alpha", "beta"))
    fit.bootstrap(2000)
    return fit


def freeze(runs: pd.DataFrame, tests: list[tuple[int, float, float]]) -> list[dict[str, float]]:
    """What each test run will reach, by the default recipe over the runs with as many experts."""
    frozen = []
    for experts, n, d in tests:
        own = laws.Runs(runs[runs["experts"] == experts], **COLUMNS)
        told = laws.Forecaster(own).forecast(n, d, BUDGET)
        keys = ("date", "loss", "low", "high", "level")
        frozen.append({"experts": experts, "N": n, "D": d} | {key: getattr(told, key) for key in keys})
    return frozen


def planned() -> list[tuple[int, float, float]]:
    """(experts, active parameters, tokens) of the test's runs."""
    from scaling import accounting
    from scaling.config import SweepConfig, load
    from scaling.sweeps import make_runs

    runs = make_runs(load(SweepConfig, HERE / "test.yaml"))
    return sorted({(_experts(r.config.model), accounting.params(r.config.model).active, r.tokens) for r in runs})


def _experts(model: Any) -> int:
    return int(model.facts.get("experts", 1))


def main() -> None:
    runs = read(sys.argv[1])
    pd.set_option("display.width", 120, "display.precision", 4)
    print("loss, nats per byte, mean of seeds\n", table(runs, "loss"), sep="")
    print("\nwall time of a run, seconds\n", table(runs, "wall_s").round(1), sep="")
    fit = pooled(runs)
    print("\n", fit.summary(), sep="")
    for gain in fit.gain().values():
        low, high = gain.interval or (float("nan"), float("nan"))
        times = f"{gain.multiplier:.2f} [{low:.2f}, {high:.2f}] times fewer FLOPs than {gain.against}"
        print(f"{gain.group} experts: {times}, for the {gain.loss:.4f} that takes it {gain.C:.3g}")
    (HERE / "figures").mkdir(exist_ok=True)
    plot_groups(fit).savefig(HERE / "figures" / "groups.png", dpi=150, bbox_inches="tight")
    path = HERE / "forecast.json"
    if not path.exists():
        path.write_text(json.dumps(freeze(runs, planned()), indent=1) + "\n")
    tests = read(sys.argv[2]) if len(sys.argv) > 2 else runs[:0]
    for told in json.loads(path.read_text()):
        came = tests[tests["experts"] == told["experts"]]["loss"].map("{:.4f}".format)
        said = f"{told['loss']:.4f} [{told['low']:.4f}, {told['high']:.4f}] at {told['level']:.0%}"
        print(f"{told['experts']:>2} experts, N {told['N']:,}, D {told['D']:,}: {said}; came {', '.join(came)}")


if __name__ == "__main__":
    main()
