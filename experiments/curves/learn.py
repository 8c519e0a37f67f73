"""How far laws of whole curves are off under schedules that were not fitted, learned and judged; see README.md.

    python experiments/curves/learn.py MULTI_POWER_LAW_CLONE GPT_PICKLE [--write]

GPT_PICKLE: data/gpt_loss+lrs.pkl of github.com/zkshan2002/ScalingLaw (no licence is stated: fetched, not copied). It
is a pickle of pandas tables, which runs what is in it. --write: keep what is learned in the package.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from compare import LAWS, SIZES, ours, published
from scipy.special import stdtrit

from scaling import laws
from scaling.laws.curves import discrepancy
from scaling.laws.intervals.discrepancy import KEYS, Discrepancy, Errors, Learned, learn, likelihood

FREEDOM, LEVEL = 10, 0.9
WORTHS = (1.0, 2.0, 4.0, 8.0, 16.0)
DOUBT, GROUPS = 0.5, 3
"""as in experiments/forecasting, one unit of likelihood for each family"""
POINTS, DRAWS, STARTS = 32, 60, 16
"""checkpoints kept of a curve, evenly; of each fit"""
WINDOW, WARMUP, BEGIN = 128, 1000, 2000
"""of the GPT runs, which have a loss a step: steps averaged; steps of warmup, a guess, for their rates do not show
it; the first step that is used"""
FITTED = {
    "luo": (
        ("cosine_24000", "constant_24000", "wsdcon_9"),
        ("constant_24000", "cosine_24000"),
        ("constant_24000", "cosine_24000", "wsd_20000_24000", "wsdcon_18"),
    ),
    "gpt": (("cosine", "wsd"), ("cosine", "811"), ("wsd", "811")),
    "ours": (
        ("constant 3072", "cosine 3072"),
        ("constant 3072", "wsd 3072"),
        ("constant 3072", "cosine 3072", "wsd 3072"),
    ),
}
"""schedules that are fitted, by family; the others judge"""


@dataclass(frozen=True, eq=False)
class Case:
    """A fit to some schedules of a set, its errors at the others', and those at its own, left out one by one."""

    family: str
    set: str
    law: str
    errors: Errors
    own: list[Errors]
    unit: float
    """residual sd, which errors are in"""


def thin(curve: laws.LossCurve) -> laws.LossCurve:
    at = np.flatnonzero(curve.steps > curve.warmup)
    at = at[np.unique(np.round(np.linspace(0, len(at) - 1, POINTS)).astype(int))]
    return laws.LossCurve(curve.run, curve.rates, curve.steps[at], curve.loss[at])


def gpt(path: Path) -> Iterator[tuple[str, laws.LossCurve]]:
    for name, table in pd.read_pickle(path).items():
        table = table.drop_duplicates("step")
        updates = np.arange(1, int(table.step.iloc[-1]) + 1)
        rates = np.interp(updates, table.step, table.lr) * np.minimum(updates / WARMUP, 1.0)
        logs = np.log(table.set_index("step")["Metrics/loss"]).rolling(WINDOW).mean()
        at = np.round(np.linspace(BEGIN, updates[-1], POINTS)).astype(int)
        yield name.split(":")[-1].split("_")[0], laws.LossCurve(name, rates, at, np.exp(logs.loc[at].to_numpy()))


def sets(clone: Path, pickled: Path) -> Iterator[tuple[str, str, dict[str, list[laws.LossCurve]]]]:
    """Family, name and curves by schedule."""
    yield "ours", "ours", {f"{kind} {steps}": [*map(thin, curves)] for (kind, steps), curves in ours().items()}
    yield "gpt", "gpt", {name: [curve] for name, curve in gpt(pickled)}
    for size in SIZES:
        yield "luo", f"luo_{size}M", {name: [thin(curve)] for name, curve in published(clone, size).items()}


def cases(clone: Path, pickled: Path) -> Iterator[Case]:
    for family, name, curves in sets(clone, pickled):
        for fitted in FITTED[family]:
            for law in LAWS:
                fit = laws.fit_curves([c for kind in fitted for c in curves[kind]], law, starts=STARTS)
                fit.bootstrap(DRAWS)
                tests = [curve for kind, group in curves.items() if kind not in fitted for curve in group]
                errors = fit.errors([curve.after(int(curve.steps[-1])) for curve in tests])
                print(name, *fitted, law, np.round(100 * fit.fit.residual_sd * errors.error, 2), flush=True)
                yield Case(family, name, law, errors, fit.own_cuts, fit.fit.residual_sd)


def learned_from(found: Sequence[Case]) -> Discrepancy:
    """Families equal in weight, their fits equal within."""
    count = pd.Series([case.family for case in found]).value_counts()
    weights = [GROUPS / len(count) / count[case.family] for case in found]
    return learn([case.errors for case in found], weights, FREEDOM, DOUBT, (2.0, 1.0))


def judged(found: Sequence[Case], known: dict[tuple[str, str], Discrepancy], worth: float) -> pd.DataFrame:
    """A row for each outcome: whether it is inside, the interval's width, the log likelihood."""
    rows = []
    for case in found:
        base = known[case.family, case.law]
        used = base.sharpened(case.own, worth) if np.isfinite(worth) else base
        half = np.sqrt(used.variance(case.errors)) * stdtrit(FREEDOM, (1 + LEVEL) / 2)
        values = {"coverage": np.abs(case.errors.error) <= half, "width": 2 * half * case.unit}
        values["value"] = likelihood(used, case.errors, FREEDOM) - np.log(case.unit)
        rows.append(pd.DataFrame(values).assign(family=case.family, set=case.set, law=case.law))
    return pd.concat(rows)


def scores(points: pd.DataFrame, *by: str) -> pd.DataFrame:
    table = points.groupby([*by]).agg(
        coverage=("coverage", "mean"), width=("width", "median"), outcomes=("set", "size")
    )
    return table.assign(coverage=100 * table.coverage, width=100 * table.width).round(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path)
    parser.add_argument("pickled", type=Path)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    found = list(cases(args.clone, args.pickled))
    families = sorted({case.family for case in found})
    known = {
        (left, law): learned_from([case for case in found if case.law == law and case.family != left])
        for left in ("", *families)
        for law in LAWS
    }
    print({key: (of.kappa, of.law) for key, of in known.items()})
    told = {worth: judged(found, known, worth).groupby(["family", "set"]).value.mean().groupby("family").mean().mean()
            for worth in (*WORTHS, np.inf)}  # fmt: skip
    print("log likelihood by worth:", {key: round(float(value), 4) for key, value in told.items()})
    worth = max(WORTHS, key=told.__getitem__)
    right = dict.fromkeys(known, Discrepancy(0.0, 1.0))
    ways = {"form assumed right": (right, np.inf), "learned elsewhere": (known, np.inf), "and own": (known, worth)}
    for title, (values, own) in ways.items():
        table = judged(found, values, own)
        print(f"\n{title}\n{scores(table, 'set', 'law').to_string()}\n{scores(table, 'law').to_string()}")
    if args.write:
        write(known, worth, judged(found, known, worth), families)


def write(known: dict[tuple[str, str], Discrepancy], worth: float, table: pd.DataFrame, families: list[str]) -> None:
    provenance = {
        "sets": sorted(table.set.unique()),
        "protocol": "fitted to two to four schedules of each set, judged by the last losses of the others; the "
        f"record is in per cent, its 90 % intervals are learned without the set's family, of {', '.join(families)}",
        "command": "python experiments/curves/learn.py CLONE PICKLE --write",
    }
    record: dict = {}
    for (name, law), row in scores(table, "set", "law").iterrows():
        record.setdefault(name, {})[law] = row.to_dict()
    values = {law: {key: getattr(known["", law], key) for key in KEYS} for law in LAWS}
    learned = Learned(provenance, FREEDOM, worth, values, record)
    path = Path(discrepancy.__file__).with_name("learned.json")
    path.write_text(json.dumps(vars(learned), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
