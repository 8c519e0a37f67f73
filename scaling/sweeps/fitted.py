"""A law of the runs in sweeps' folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.config import ForecastConfig, build, read_mapping
from scaling.files import path_of
from scaling.sweeps.run_store import load_runs, without_result

if TYPE_CHECKING:
    from scaling import laws

SHOWN = 5
"""runs without a result that are named"""


def law_runs(path: str | Path | Sequence[str | Path], law: str | Sequence[str], **named: Any) -> "laws.Runs":
    """The runs of a sweep's folder, or of several, as `law` reads them, see `laws.from_results`, which takes `named`.

    The conventions name planned runs without a result. Raises UserError as `load_runs` and `laws.from_results` do.
    """
    from scaling import laws
    from scaling.laws.table.results import WAITING

    runs = laws.from_results(load_runs(path), law=law, **named)
    lacking = [without_result(each) for each in ([path] if isinstance(path, str | Path) else path)]
    waiting = [run_id for ids, _ in lacking for run_id in ids]
    if not waiting:
        return runs
    summary = f"{len(waiting)} of {sum(count for _, count in lacking)} planned runs have no result: "
    return runs.with_conventions(**{WAITING: summary + ", ".join(waiting[:SHOWN]) + ", …" * (len(waiting) > SHOWN)})


def fit_sweep(
    path: str | Path | Sequence[str | Path],
    law: str = "chinchilla",
    *,
    where: Sequence[str] = (),
    allow: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    trusted: bool = False,
    **options: Any,
) -> "laws.Fit":
    """Fit a law to the runs of a sweep's folder, or of several together, as `scaling fit` and its launch do.

    law: a name in `laws.FORMS`.
    where, allow, columns, group, trusted: which runs, as in `laws.from_results`.
    options: of `laws.fit_design`: loss, n, seed, residual, shared, priors (default: `priors_of` the sweep).

    Raises UserError where the runs do not share one recipe, or are too few.
    """
    from scaling import laws

    runs = law_runs(path, law, where=where, allow=allow, columns=columns, group=group, trusted=trusted)
    priors = {} if group else priors_of(path, law)
    return laws.fit_design(runs, law, group=group, **{"priors": priors, **options})


def priors_of(path: str | Path | Sequence[str | Path], law: str) -> dict[str, "laws.Prior"]:
    """`forecast.priors` of the sweep in a folder, which are for Chinchilla's law; empty for another law and for
    several sweeps. Raises UserError for a mistake in its `sweep.yaml`."""
    from scaling import laws

    paths = [path_of(each) for each in ([path] if isinstance(path, str | Path) else path)]
    if law != "chinchilla" or len(paths) != 1 or not (file := paths[0] / "sweep.yaml").is_file():
        return {}
    forecast = read_mapping(file).get("forecast")
    if forecast is None:
        return {}
    priors = build(ForecastConfig, forecast, f"{file}: forecast").priors
    return {name: laws.Prior(*prior) for name, prior in priors.items()}
