"""How far off a forecaster's law is at runs beyond those fitted; see `laws.intervals.discrepancy`.

What published runs say of it is learned by experiments/forecasting (`learned.json` says which). The user's own runs
sharpen that: the law is fitted up to budgets within the runs and held against those beyond.
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
"""runs at the first own cut, of fewer than 12 runs this share of them, and most own cuts"""
STEEP, STEEP_KAPPA = (0.1, 0.13), 0.05
"""powers of FLOPs with which losses fall between which κ grows from what was learned to this: models so small, or so
briefly trained, do not follow a power law yet. Five ladders of .101 to .113 were forecast .6 to 2.3 % off at four
times their FLOPs, four of .12 to .14 3.9 to 6.9 %; untuned runs of Porian et al. (2024) with .119 5 % in the mean"""
BEYOND = 1.5
"""how many times a cut's FLOPs a run is at least to test it"""


def learned() -> Learned:
    """What was shipped."""
    return shipped("scaling.laws.predict")


def for_runs(known: Discrepancy, runs: Runs) -> Discrepancy:
    """A law's discrepancy for runs like these: steep ladders, and runs of one budget, have more of it."""
    if of_one_budget(runs.flops):
        return replace(known, slope=SLOPE.sd)
    ends = (known.kappa, max(known.kappa, STEEP_KAPPA))
    return replace(known, kappa=float(np.interp(steepness(runs), STEEP, ends)))


def errors(law: NearLaw, columns: Mapping[str, Array], loss: Array, weight: Array) -> Errors:
    """A law's forecasts at columns by letter, C among them, held against losses; all [points]."""
    return Errors(
        law.log_loss(columns) - np.log(loss),
        law.sd(columns),
        np.full(len(loss), law.noise),
        columns["C"] / law.runs.flops.max(),
        weight,
    )


def own_cuts(runs: Runs, form: Form, priors: Mapping[str, Prior]) -> list[Errors]:
    """The law fitted to the runs of no more FLOPs than a cut, held against those `BEYOND` times further.

    Weighted by their nearness. No cut is at runs of one budget: that would judge `SLOPE`, whose doubt is its own.
    Empty where there are too few runs.
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
        except UserError:  # so few runs, or all of one tokens per parameter
            continue
        there = {name: column[tested] for name, column in columns.items()}
        found.append(errors(law, there, runs.loss[tested], weights[tested]))
    return found


def sharpened(published: Discrepancy, cuts: Sequence[Errors], worth: float) -> Discrepancy:
    """What published runs say of a law, moved to the user's own cuts.

    Where the errors at the last of them are more than chance, published runs tell nothing of these: all of the
    interval but a run's scatter is as much wider as they were larger than expected.
    """
    moved = published.sharpened(cuts, worth)
    if not refuted(published, cuts):
        return moved
    return replace(moved, widened=max(moved.widened, published.deviations(cuts[-1])))


def refuted(published: Discrepancy, cuts: Sequence[Errors]) -> bool:
    """Whether the errors at the last of the user's own cuts are more than chance."""
    return bool(cuts) and refuted_at(published.deviations(cuts[-1]), learned().freedom)


def doubts(runs: Runs, forms: Sequence[Form], cuts: Sequence[Sequence[Errors]]) -> str:
    """What the runs, and each law's own cuts, say against a forecast; empty where nothing does."""
    published = [for_runs(learned().of(form.name), runs) for form in forms]
    said = [_refutation(form, known, own) for form, known, own in zip(forms, published, cuts, strict=True)]
    if of_one_budget(runs.flops):
        said.append(
            "the runs are of one budget, which does not say how fast losses fall with FLOPs: as the power "
            f"{SLOPE.mean} ± {SLOPE.sd} of published runs, which the interval has in it; train a second budget"
        )
    elif (power := steepness(runs)) > np.mean(STEEP):
        said.append(
            f"losses of models of at most {si(runs.N.max())} parameters fall with the power {power:.2f} of FLOPs: "
            "ladders so steep were forecast 4 to 7 % off at four times their FLOPs, which the interval has in it; "
            "train larger models, for longer"
        )
    return "; ".join(filter(None, said))


def _refutation(form: Form, published: Discrepancy, cuts: Sequence[Errors]) -> str:
    if not refuted(published, cuts):
        return ""
    last = cuts[-1]
    off = float(np.expm1(np.average(last.error, weights=last.weight)))
    return (
        f"{form.name} does not hold for these runs: fitted without the largest of them it forecast those "
        f"{abs(off):.1%} too {'high' if off > 0 else 'low'}, {published.deviations(last):.2g} times what is usual, "
        "and the interval is as much wider; leave out the smallest budgets, or add larger ones"
    )


def columns_of(runs: Runs) -> dict[str, Array]:
    """N, D, C and M, tokens per parameter, of runs."""
    return {letter: runs.column(letter) for letter in ("N", "D", "C", "M")}
