"""A law of the runs in sweeps' folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.sweeps.run_store import load_runs, without_result

if TYPE_CHECKING:
    from scaling import laws

SHOWN = 5
"""runs without a result that are named"""


def law_runs(path: str | Path | Sequence[str | Path], law: str | Sequence[str], **named: Any) -> "laws.Runs":
    """The runs of a sweep's folder, or of several, as `law` reads them, see `laws.from_results`, which takes `named`.

    The conventions tell planned runs that have no result. Raises UserError as `load_runs` and `laws.from_results`.
    """
    from scaling import laws
    from scaling.laws.table.results import WAITING

    runs = laws.from_results(load_runs(path), law=law, **named)
    lacking = [without_result(each) for each in ([path] if isinstance(path, str | Path) else path)]
    waiting = [run_id for ids, _ in lacking for run_id in ids]
    if not waiting:
        return runs
    told = f"{len(waiting)} of {sum(count for _, count in lacking)} planned runs have no result: "
    return runs.with_conventions(**{WAITING: told + ", ".join(waiting[:SHOWN]) + ", …" * (len(waiting) > SHOWN)})


def fit_sweep(
    path: str | Path | Sequence[str | Path],
    law: str = "chinchilla",
    *,
    where: Sequence[str] = (),
    allow: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    trusted: bool = False,
    draws: int = 4000,
    seed: int = 0,
    **options: Any,
) -> "laws.Fit":
    """Fit a law to the runs of a sweep's folder, or of several together, as `scaling fit` does.

    law: a name in `laws.FORMS`.
    where, allow, columns, group, trusted: which runs, as of `laws.from_results`.
    draws, seed: refits for the intervals, with noise of the residuals' size; 0 for none.
    options: of `laws.fit`, such as loss, residual, shared, priors.

    Raises UserError where the runs are not of one recipe, or too few.
    """
    from scaling import laws

    runs = law_runs(path, law, where=where, allow=allow, columns=columns, group=group, trusted=trusted)
    fitted = laws.fit(runs, law, group=group, **options)
    if draws:
        # a sweep is a design of few runs: a resample of its rows would lose whole budgets
        fitted.bootstrap(draws, seed=seed, kind="noise")
    return fitted
