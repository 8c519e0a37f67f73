"""How far off a forecaster's law is at runs beyond those fitted; see `laws.intervals.discrepancy`.

experiments/forecasting learns it from published runs (`learned.json` lists them). The user's own runs update it: the
law is fitted up to budgets within the runs and compared with the runs beyond.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.forms import Form
from scaling.laws.intervals.discrepancy import Discrepancy, Errors, Learned, refuted_at, shipped
from scaling.laws.predict.near_law import SLOPE, NearLaw, near_law, nearness, of_one_budget, run_numbers, steepness
from scaling.laws.solve.priors import Prior
from scaling.laws.table.runs import Runs
from scaling.laws.validate.backtest import default_cuts
from scaling.units import si

FEWEST, SHARE, CUTS = 8, 2 / 3, 4
"""fewest runs at the first own cut; with fewer than 12 runs, this share of them; most own cuts"""
STEEP, STEEP_KAPPA = (0.1, 0.13), 0.05
"""range of the power of FLOPs with which losses fall over which κ grows from the learned value to STEEP_KAPPA: models
so small, or so briefly trained, do not follow a power law yet. Forecasts for five ladders with powers of .101 to .113
were off by .6 to 2.3 % at four times their FLOPs, for four with .12 to .14 by 3.9 to 6.9 %, and for the untuned runs
of Porian et al. (2024), with .119, by 5 % on average"""
BEYOND = 1.5
"""a run tests a cut if it has at least this many times the cut's FLOPs"""


def learned() -> Learned:
    """The discrepancies that ship with the package."""
    return shipped("scaling.laws.predict")


def for_runs(known: Discrepancy, runs: Runs) -> Discrepancy:
    """A law's discrepancy for runs like these: larger for steep ladders and for runs of a single budget."""
    if of_one_budget(runs.flops):
        return replace(known, slope=SLOPE.sd)
    ends = (known.kappa, max(known.kappa, STEEP_KAPPA))
    return replace(known, kappa=float(np.interp(steepness(runs), STEEP, ends)))


def errors(law: NearLaw, columns: Mapping[str, Array], loss: Array, weight: Array) -> Errors:
    """Errors of a law's forecasts at columns by letter, C among them, against losses; all [points]."""
    return Errors(
        law.log_loss(columns) - np.log(loss),
        law.sd(columns),
        np.full(len(loss), law.noise),
        columns["C"] / law.runs.flops.max(),
        weight,
    )


def own_cuts(runs: Runs, form: Form, priors: Mapping[str, Prior]) -> list[Errors]:
    """Errors of the law fitted to the runs up to each cut in FLOPs, at the runs from `BEYOND` times the cut on.

    Runs are weighted by their nearness. Every cut leaves more than one budget below it: a fit to a single one would
    test `SLOPE`, which has an uncertainty of its own. Empty where there are too few runs.
    """
    C, weights, found = runs.flops, nearness(runs), []
    columns, run = columns_of(runs), run_numbers(runs)
    ends = np.array([C[run == number].max() for number in range(run.max() + 1)])
    fewest = min(FEWEST, int(SHARE * len(ends)))
    for cut in default_cuts(ends, fewest // 2, CUTS):
        seen, tested = cut >= C, BEYOND * cut <= C
        if len(set(run[seen])) < fewest or not tested.any() or of_one_budget(C[seen]):
            continue
        try:
            law = near_law(runs, form, priors, seen)
        except UserError:  # too few runs, or all at one number of tokens per parameter
            continue
        there = {name: column[tested] for name, column in columns.items()}
        found.append(errors(law, there, runs.loss[tested], weights[tested]))
    return found


def sharpened(published: Discrepancy, cuts: Sequence[Errors], worth: float) -> Discrepancy:
    """A law's discrepancy from published runs, updated by the user's own cuts.

    Where the errors at the last cut are larger than chance explains, published runs are no guide to these: the whole
    interval, except for a run's scatter, is widened by the factor by which the errors exceeded expectation.
    """
    moved = published.sharpened(cuts, worth)
    if not refuted(published, cuts):
        return moved
    return replace(moved, widened=max(moved.widened, published.deviations(cuts[-1])))


def refuted(published: Discrepancy, cuts: Sequence[Errors]) -> bool:
    """Whether the errors at the last of the user's own cuts are larger than chance explains."""
    return bool(cuts) and refuted_at(published.deviations(cuts[-1]), learned().freedom)


def doubts(runs: Runs, forms: Sequence[Form], cuts: Sequence[Sequence[Errors]]) -> str:
    """Evidence against a forecast from the runs and from each law's own cuts; empty where there is none."""
    published = [for_runs(learned().of(form.name), runs) for form in forms]
    found = [_refutation(form, known, own) for form, known, own in zip(forms, published, cuts, strict=True)]
    if of_one_budget(runs.flops):
        found.append(
            "the runs are of one budget, which does not show how fast losses fall with FLOPs; the interval assumes "
            f"the power {SLOPE.mean} ± {SLOPE.sd} of published runs; train a second budget"
        )
    elif (power := steepness(runs)) > np.mean(STEEP):
        found.append(
            f"losses of models of at most {si(runs.N.max())} parameters fall with the power {power:.2f} of FLOPs: "
            "forecasts of such steep ladders were 4 to 7 % off at four times their FLOPs, which the interval "
            "includes; train larger models, for longer"
        )
    return "; ".join(filter(None, found))


def _refutation(form: Form, published: Discrepancy, cuts: Sequence[Errors]) -> str:
    if not refuted(published, cuts):
        return ""
    last = cuts[-1]
    off = float(np.expm1(np.average(last.error, weights=last.weight)))
    return (
        f"{form.name} does not hold for these runs: fitted without the largest of them, it forecast those "
        f"{abs(off):.1%} too {'high' if off > 0 else 'low'}, {published.deviations(last):.2g} times the usual error, "
        "and the interval is wider by as much; leave out the smallest budgets, or add larger ones"
    )


def columns_of(runs: Runs) -> dict[str, Array]:
    """N, D, C and M, tokens per parameter, of runs."""
    return {letter: runs.column(letter) for letter in ("N", "D", "C", "M")}
