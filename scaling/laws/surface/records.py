"""The framework's own records as a table of tried settings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scaling.errors import UserError
from scaling.laws.forms.feed import FEEDS, LOSS, SEED
from scaling.laws.table.conditions import meets
from scaling.laws.table.recipe import one_recipe
from scaling.laws.table.results import meaning_of
from scaling.names import several

if TYPE_CHECKING:
    import pandas as pd

FREE = ("optimizer.learning_rate", "run.batch_size", SEED)
"""keys in which the runs of one surface may differ, beside those of N and D"""
POINT = "point"


def are_records(df: "pd.DataFrame") -> bool:
    """Whether a table is of `scaling.load_runs`."""
    return "recipe_from" in df and POINT in df


def tried_runs(
    df: "pd.DataFrame", where: Sequence[str], allow: Sequence[str]
) -> tuple["pd.DataFrame", Mapping[str, str], dict[str, float]]:
    """The completed runs of sweeps' points, by run id, their common conventions, and for each point with a diverged
    run the lowest learning rate that diverged.

    where, allow: as in `laws.from_results`. Raises UserError where no run is left, and where the runs do not share
    one recipe.
    """
    for condition in several(where):
        df = df[meets(df, condition)]
    df = df[(df["role"] == "fit") & (df[POINT] != "")]
    df = df.assign(**{POINT: df["sweep"] + "/" + df[POINT]})
    lost = df[df["status"] == "diverged"].groupby(POINT)["learning_rate"].min()
    used = df[df["status"] == "completed"].set_index("run_id")
    if not len(used):
        met = f" that meets {' and '.join(several(where))}" if where else ""
        raise UserError(f"no completed run of a sweep's design{met}, so there are no settings to compare")
    common = one_recipe(used, (*FREE, *FEEDS["N"].columns, *FEEDS["D"].columns), allow)
    return used, {**common, "loss": meaning_of(LOSS, used)}, {str(point): float(rate) for point, rate in lost.items()}
