"""Published sets, cut at budgets: what a forecaster may see and the runs that it is judged by."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from scaling import laws

CUTS, FEW, FEWEST, TESTED = 4, 15, 14, 12
"""cuts of a set, rows of the small tables, fewest rows to fit, most runs to judge a case by"""
NEAREST, FURTHEST, LEAST_RATIO = 2.0, 100.0, 5.0
"""in units of the cut; tokens a parameter of a run to be forecast"""


@dataclass(frozen=True)
class Case:
    """Runs up to a cut, and some of those beyond it."""

    set: str
    family: str
    rows: str
    """all, or 15"""
    cut: float
    runs: laws.Runs
    tests: pd.DataFrame
    """params, tokens, loss, flops"""


def read_sets(data: Path, listed: Path) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Name, family and table of each set in the list whose file is there."""
    for name, entry in yaml.safe_load(listed.read_text()).items():
        if not (data / entry["file"]).exists():
            print(f"{name}: no {data / entry['file']}, left out")
            continue
        table = pd.read_csv(data / entry["file"])
        table = table.query(entry["where"]) if "where" in entry else table
        table = table[table.loss > 0].drop_duplicates(["params", "tokens", "loss"])
        counted = table.flops.astype(float) if "flops" in table else 6.0 * table.params * table.tokens
        run = {"run": table[entry["run"]]} if "run" in entry else {}
        table = table.assign(C=counted)[["params", "tokens", "loss", "C"]].astype(float).assign(**run)
        yield name, entry["family"], table.sort_values("C").reset_index(drop=True)


def cases_of(name: str, family: str, table: pd.DataFrame) -> Iterator[Case]:
    """Four cuts, evenly in log C from the 18th run to a quarter of the largest, with all rows and with 15 of them.

    Judged by runs of 2 to 100 times the cut with at least 5 tokens a parameter, at most twice outside the D/N seen.
    """
    first = table.C[min(17, len(table) - 4)]
    for rows in ("all", str(FEW)):
        for cut in np.exp(np.linspace(np.log(first), np.log(table.C.max() / 4), CUTS)):
            seen = table[cut >= table.C]
            if rows != "all" and len(seen) > FEW:
                seen = seen.sample(FEW, random_state=int(np.log(cut) * 100) % 2**31)
            ratios = seen.tokens / seen.params
            tests = table[(NEAREST * cut <= table.C) & (FURTHEST * cut >= table.C)]
            ratio = tests.tokens / tests.params
            tests = tests[(ratio >= max(ratios.min() / 2, LEAST_RATIO)) & (ratio <= ratios.max() * 2)]
            if len(seen) >= FEWEST and len(tests):
                tests = tests.sample(TESTED, random_state=1) if len(tests) > TESTED else tests
                tests = tests.assign(flops=6.0 * tests.params * tests.tokens)
                run = "run" if "run" in seen else None
                yield Case(name, family, rows, float(cut), laws.Runs(seen.drop(columns="C"), run=run), tests)
