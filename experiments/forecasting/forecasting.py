"""The league of forecasters on published runs; see README.md.

    python experiments/forecasting/forecasting.py DATA [--laws auto …] [--sets sets.yaml] [--write | --shipped]

DATA: the folder with the CSV files that the list of sets names. --laws: forecasters, as `laws.Forecaster` takes them,
or "plain", Chinchilla's law by `laws.fit` with the interval of `Fit.predict` for a single run. --write: keep what is
learned in the package and the tables beside this file. --shipped: learn nothing, judge what is shipped by sets that
it has not seen.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from cases import Case, cases_of, read_sets

from scaling import laws
from scaling.errors import UserError
from scaling.laws.intervals.discrepancy import KEYS, Discrepancy, Errors, Learned, learn, likelihood
from scaling.laws.predict import discrepancy
from scaling.laws.predict.discrepancy import errors, for_runs, sharpened
from scaling.laws.predict.near_law import NearLaw

HERE = Path(__file__).parent
LEVEL = 0.9
FREEDOM = 10
WORTHS = (2.0, 4.0, 8.0, 16.0, 32.0, np.inf)
DOUBT, GROUPS = 0.5, 12
"""in log: how far a law's own standard deviation is doubted beforehand, against one unit of likelihood for each
family with all rows and with 15 of them"""
HORIZONS = {"4×": (0, 6), "8×": (6, 16), "30×": (16, np.inf)}


def forecasters(case: Case, named: list[str]) -> dict[str, laws.Forecaster | laws.Fit]:
    made: dict[str, laws.Forecaster | laws.Fit] = {}
    for name in named:
        if name == "plain":
            made[name] = laws.fit(case.runs)
            made[name].bootstrap(500, kind="noise")
            continue
        maker = laws.Forecaster(case.runs, name, LEVEL)
        try:
            maker.laws  # noqa: B018
        except UserError as error:
            print(f"{name} makes no forecast of {case.set}, {case.rows} rows, up to {case.cut:.3g} FLOPs: {error}")
            continue
        made[name] = maker
    return made


def tested(case: Case, law: NearLaw) -> Errors:
    tests = case.tests
    columns = {"N": tests.params, "D": tests.tokens, "C": tests.flops, "M": tests.tokens / tests.params}
    arrays = {letter: column.to_numpy() for letter, column in columns.items()}
    return errors(law, arrays, tests.loss.to_numpy(), np.ones(len(tests)))


def learned_from(found: list[tuple[Case, Errors]]) -> Discrepancy:
    """Families with all rows and with 15 equal in weight, their cases equal within.

    Steep ladders and tables of one budget, which have a discrepancy of their own, say nothing of the others'.
    """
    plain = Discrepancy(0.0, 1.0)
    found = [(case, of) for case, of in found if for_runs(plain, case.runs) == plain]
    cases = pd.DataFrame([(case.family, case.rows) for case, _ in found], columns=["family", "rows"])
    weights = 1.0 / cases.groupby(["family", "rows"]).family.transform("size").to_numpy()
    return learn([of for _, of in found], GROUPS * weights / weights.sum(), FREEDOM, DOUBT, (0.006, 0.7))


def judge(case: Case, name: str, maker: laws.Forecaster | laws.Fit) -> list[dict]:
    rows = []
    for run in case.tests.itertuples():
        if isinstance(maker, laws.Forecaster):
            try:
                made = maker.forecast(run.params, run.tokens, run.flops)
            except UserError as error:
                print(f"{name}, {case.set}, {case.rows} rows, up to {case.cut:.3g} FLOPs: {error}")
                continue
            centre, low, high = made.loss, made.low, made.high
        else:
            predicted = maker.predict(N=run.params, D=run.tokens, level=LEVEL)
            centre, low, high = predicted.loss, predicted.run_low, predicted.run_high
        ahead = run.C / case.cut
        horizon = next(key for key, (least, most) in HORIZONS.items() if least < ahead <= most)
        error = np.log(centre / run.loss)
        rows.append(
            {"forecaster": name, "set": case.set, "family": case.family, "rows": case.rows, "cut": case.cut}
            | {"ahead": ahead, "horizon": horizon, "bias": error, "error": abs(error)}
            | {"coverage": float(low <= run.loss <= high), "width": np.log(high / low)}
        )
    return rows


def scores(points: pd.DataFrame, *by: str) -> pd.DataFrame:
    """Bias, mean |error|, coverage and width in per cent: means of a set's cases, then equal weight for each set."""
    each = points.groupby(["forecaster", "rows", "set", "horizon", *{*by} & {"cut"}])[
        ["bias", "error", "coverage", "width"]
    ].mean()
    table = each.groupby(list(by)).mean()
    table["width"] = each.groupby(list(by)).width.median()
    return (100 * table).round(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--laws", nargs="+", default=["auto", "average", "chinchilla", "farseer", "plain"])
    parser.add_argument("--sets", type=Path, default=HERE / "sets.yaml")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true")
    what.add_argument("--shipped", action="store_true")
    args = parser.parse_args()
    cases = [case for entry in read_sets(args.data, args.sets) for case in cases_of(*entry)]
    made = [(case, forecasters(case, args.laws)) for case in cases]
    known, worth, scale = ({}, np.inf, 1.0) if args.shipped else learned_apart(made)
    table = pd.DataFrame(
        [row for case, makers in made for name, maker in makers.items() for row in judge(case, name, maker)]
    )
    print(scores(table, "forecaster", "rows", "horizon").unstack("horizon").to_string())
    print(scores(table, "forecaster", "rows").to_string())
    print(scores(table[table.forecaster == args.laws[0]], "set", "rows", "horizon").unstack("horizon").to_string())
    if args.write:
        write(args, table, known[""], worth, scale)


def learned_apart(made: list[tuple[Case, dict]]) -> tuple[dict, float, float]:
    """What is learned without each family, and without none, by law, what it is worth, and the scale of intervals.

    Forecasters go by what is learned without their family from then on."""
    found: dict[str, list[tuple[Case, Errors]]] = {}
    for case, makers in made:
        fitted = {
            law.form.name: law
            for maker in makers.values()
            if isinstance(maker, laws.Forecaster)
            for law in maker.laws
        }
        for form, law in fitted.items():
            errors_of = tested(case, law)
            if np.isfinite([errors_of.error, errors_of.law]).all():  # else it makes no forecast
                found.setdefault(form, []).append((case, errors_of))
    families = sorted({case.family for case, _ in made})
    known = {
        left: {form: learned_from([(c, e) for c, e in all_ if c.family != left]) for form, all_ in found.items()}
        for left in ("", *families)
    }
    for left, values in known.items():
        print(f"without {left or 'none'}:", {form: (of.kappa, of.law) for form, of in values.items()})
    worth = best_worth(made, found, known)
    deviations = []
    for case, makers in made:
        for name, maker in makers.items():
            if isinstance(maker, laws.Forecaster):
                maker.discrepancies = tuple(
                    sharpened(for_runs(known[case.family][form.name], case.runs), cuts, worth)
                    for form, cuts in zip(maker.forms, maker.own_cuts, strict=True)
                )
                maker.scale = 1.0
                deviations += deviations_of(case, maker) if name == "auto" else []
    sizes = pd.DataFrame(deviations)
    scales = {left: scale_of(sizes[sizes.family != left]) for left in ("", *families)}
    print("scale without:", scales)
    for case, makers in made:
        for maker in makers.values():
            if isinstance(maker, laws.Forecaster):
                maker.scale = scales[case.family]
    return known, worth, scales[""]


def deviations_of(case: Case, maker: laws.Forecaster) -> list[dict]:
    """Errors at the runs that judge a case, in units of half the interval."""
    rows = []
    for run in case.tests.itertuples():
        made = maker.forecast(run.params, run.tokens, run.flops)
        size = abs(np.log(made.loss / run.loss)) / np.log(made.high / made.loss)
        share = 1.0 / len(case.tests)
        rows.append(
            {"family": case.family, "rows": case.rows, "case": (case.set, case.cut), "size": size, "share": share}
        )
    return rows


def scale_of(sizes: pd.DataFrame) -> float:
    """The factor with which intervals of 90 % hold 90 %: families with all rows and with 15 equal in weight, their
    cases equal within."""
    weights = sizes.share / sizes.groupby(["family", "rows"]).share.transform("sum")
    order = np.argsort(sizes["size"].to_numpy())
    reached = np.cumsum(weights.to_numpy()[order]) / weights.sum()
    return round(float(sizes["size"].to_numpy()[order][np.searchsorted(reached, LEVEL)]), 3)


def best_worth(made: list, found: dict, known: dict) -> float:
    """Own cuts that the learned values count as: the likeliest, by the default forecaster, families left out."""
    told = {}
    for worth in WORTHS:
        values = []
        for (case, makers), (_, of) in zip(made, found["interaction"], strict=True):
            base = for_runs(known[case.family]["interaction"], case.runs)
            used = base if np.isinf(worth) else sharpened(base, makers["auto"].own_cuts[0], worth)
            values.append({"set": case.set, "rows": case.rows, "value": likelihood(used, of, FREEDOM).mean()})
        told[worth] = pd.DataFrame(values).groupby(["set", "rows"]).value.mean().mean()
    print("log likelihood by worth:", {key: round(float(value), 4) for key, value in told.items()})
    return max((w for w in WORTHS if np.isfinite(w)), key=told.__getitem__)


def write(
    args: argparse.Namespace, table: pd.DataFrame, known: dict[str, Discrepancy], worth: float, scale: float
) -> None:
    ours = table[table.forecaster == args.laws[0]]
    record: dict = {}
    for (name, rows, horizon), row in scores(ours, "set", "rows", "horizon").iterrows():
        record.setdefault(name, {}).setdefault(f"{rows} rows", {})[horizon] = row.round(1).to_dict()
    families = sorted(table.family.unique())
    provenance = {
        "sets": sorted(table.set.unique()),
        "protocol": "fitted to C ≤ c at four c of each set, with all rows and with 15; judged by runs of 2 to 100 "
        "times c with at least 5 tokens a parameter; the record is in per cent, its 90 % intervals are learned "
        f"without the set's family, of {', '.join(families)}",
        "command": "python experiments/forecasting/forecasting.py DATA --write",
    }
    values = {form: {key: getattr(of, key) for key in KEYS} for form, of in sorted(known.items())}
    learned = Learned(provenance, FREEDOM, worth, values, record, scale)
    path = Path(discrepancy.__file__).with_name("learned.json")
    path.write_text(json.dumps(vars(learned), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    scores(table, "forecaster", "set", "rows", "cut", "horizon").to_csv(HERE / "league.csv", float_format="%.4g")
    figure(table, HERE / "forecasts.png")


def figure(table: pd.DataFrame, path: Path) -> None:
    """Errors against distance, and coverage against width, of each forecaster."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(table.forecaster))
    drawn, axes = plt.subplots(1, len(names), figsize=(3.2 * len(names), 3.4), sharey=True, layout="constrained")
    for axis, name in zip(np.atleast_1d(axes), names, strict=True):
        own = table[table.forecaster == name]
        for family, part in own.groupby("family"):
            axis.plot(part.ahead, 100 * part.bias.clip(-0.15, 0.15), ".", ms=3, alpha=0.6, label=family)
        total = scores(own, "forecaster").iloc[0]
        axis.axhline(0, color="black", lw=0.8)
        axis.set(xscale="log", xlabel="FLOPs in units of the cut")
        told = f"|error| {total.error:.1f} %, bias {total.bias:+.1f} %"
        held = f"{total.coverage:.0f} % inside 90 %, width {total.width:.1f} %"
        axis.set_title(f"{name}: {told}\n{held}", fontsize=8)
    first = np.atleast_1d(axes)[0]
    first.set_ylabel("forecast over outcome, % (at most ±15)")
    drawn.legend(*first.get_legend_handles_labels(), loc="outside right upper", fontsize=7, title="family")
    drawn.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
