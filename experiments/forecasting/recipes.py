"""Is the recipe chosen on the sets that judge it? Each family judged by the recipe that is best on the others.

    python experiments/forecasting/recipes.py DATA [--sets sets.yaml]

A recipe: how near the best of its budget a run counts half, and the priors' means of E's share and the exponents.
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from cases import Case, cases_of, read_sets
from forecasting import HERE, HORIZONS

from scaling import laws
from scaling.laws import Prior
from scaling.laws.predict import near_law

NEARS, SHARES, EXPONENTS = (0.02, 0.05, 1e3), (0.5, 0.6, 0.7), (0.3, 0.35)


def errors_of(case: Case) -> list[dict]:
    runs, form = case.runs.sorted(), laws.get_form("interaction")
    law = near_law.near_law(runs, form, near_law.known_before(form, runs, {}))
    tests = case.tests
    found = law.log_loss({"N": tests.params.to_numpy(), "D": tests.tokens.to_numpy()}) - np.log(tests.loss.to_numpy())
    ahead = tests.C / case.cut
    horizons = [next(key for key, (least, most) in HORIZONS.items() if least < far <= most) for far in ahead]
    told = {"set": case.set, "family": case.family, "rows": case.rows}
    return [told | {"horizon": h, "bias": e, "error": abs(e)} for h, e in zip(horizons, found, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", type=Path, default=HERE / "sets.yaml")
    args = parser.parse_args()
    cases = [case for entry in read_sets(args.data, args.sets) for case in cases_of(*entry)]
    tables = {}
    for near, share, exponent in product(NEARS, SHARES, EXPONENTS):
        near_law.NEAR, near_law.SHARE = near, Prior(share, near_law.SHARE.sd)
        for name in ("alpha", "beta"):
            near_law.KNOWN[name] = Prior(exponent, near_law.KNOWN[name].sd)
        rows = pd.DataFrame([row for case in cases for row in errors_of(case)])
        cells = rows.groupby(["family", "set", "rows", "horizon"])[["bias", "error"]].mean()
        tables[near, share, exponent] = cells
        print((near, share, exponent), (100 * cells.mean()).round(2).to_dict(), flush=True)
    by_family = pd.DataFrame({key: cells.error.groupby("family").mean() for key, cells in tables.items()})
    chosen = []
    for family in by_family.index:
        best = by_family.drop(index=family).mean().idxmin()
        print(
            f"{family}: best on the others {[float(v) for v in best]}, |error| {100 * by_family[best][family]:.2f} %"
        )
        chosen.append(tables[best].loc[[family]])
    print((100 * pd.concat(chosen).groupby(["rows", "horizon"]).mean()).round(2).to_string())


if __name__ == "__main__":
    main()
