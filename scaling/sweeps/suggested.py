"""The runs that a fit suggests next, as a sweep that can be launched."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaling import accounting, ladder
from scaling.config import LadderConfig, SweepConfig, build, load, read_mapping, to_yaml
from scaling.errors import UserError
from scaling.files import path_of
from scaling.result import write_text_atomically
from scaling.sweeps.designs import make_runs, shared_run

if TYPE_CHECKING:
    from scaling.laws import Fit, Suggestion

SNAP = 0.5  # tolerance of the ladder's nearest size to a size of the grid; the ladder's size is suggested


def write_suggestion(fitted: "Fit", home: str | Path, k: int) -> tuple["Suggestion", Path]:
    """Write `suggested.yaml` in a sweep's folder: at most `k` runs that reduce the uncertainty of the fit's forecast.

    Candidates are those of `laws.suggest`, each size moved to the nearest that the sweep's ladder can make. Raises
    UserError where the folder has no `sweep.yaml`, and as `laws.suggest` does.
    """
    from scaling import laws

    home = path_of(home)
    path = home / "sweep.yaml"
    if not path.exists():
        raise UserError(f"{home} has no sweep.yaml, which a sweep of the suggested runs would be based on")
    base = {**read_mapping(path), "run": shared_run(load(SweepConfig, path))}
    sizes = build(LadderConfig, {**base.get("ladder", {}), "count": "total"}, f"{path}: ladder")
    wanted = laws.default_candidates(fitted, float(fitted.runs.flops.sum()))
    made = {N: _nearest(N, sizes, base["run"].get("model", {})) for N in np.unique(wanted["N"])}
    pairs = sorted(
        {(n, float(D)) for N, D in zip(wanted["N"], wanted["D"], strict=True) if (n := made[N]) is not None}
    )
    suggestion = laws.suggest(fitted, pairs, k=k)
    sweep = build(SweepConfig, suggestion.to_sweep(base), "the suggested sweep")
    make_runs(sweep)  # raises now if the suggestion could not be launched
    target = home / "suggested.yaml"
    head = f"# {suggestion.summary()}".replace("\n", "\n# ")
    write_text_atomically(target, f"{head}\n# scaling sweep {target}\n{to_yaml(sweep)}")
    return suggestion, target


def _nearest(N: float, sizes: LadderConfig, model: dict[str, object]) -> float | None:
    """Parameters of the ladder's model nearest to N; None where it has none near."""
    try:
        return float(accounting.params(ladder.model_for_params(N, sizes, model, SNAP)).total)
    except UserError:
        return None
