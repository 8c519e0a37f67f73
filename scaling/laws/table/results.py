"""From the framework's own records to a table for fitting."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scaling.errors import UserError
from scaling.laws.table.runs import Exclusion, Runs, meets, replace_fields
from scaling.validity import FITTED, verdict_of

if TYPE_CHECKING:
    import pandas as pd

ONE_OF = (
    "context", "experts", "vocab", "vocab_size", "corpus", "tokenizer", "schedule", "cooldown", "final_rate",
    "activation", "norm", "norm_position", "position", "tied", "bias", "parallel_block", "qk_norm", "layer_sharing",
    "optimizer", "b1", "b2", "parametrisation", "mup_width",
)  # fmt: skip
"""what all runs of a fit must share: losses under different ones are not comparable"""
CONFIGURED = ("run.", "model.", "optimizer.", "schedule.", "data.", "placement.")
"""what begins the columns that are keys of a run's configuration"""
SIZES = ("params", "layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff")
VARIED = (*(f"model.{name}" for name in SIZES), "optimizer.learning_rate")
"""keys that a design may vary within one law: sizes, and the rate, of which the best is fitted"""
RATE = "learning rate"
"""the convention that says how far rates are tuned"""
BY_RULE = "by rule, not tuned"
WAITING = "without result"
"""the convention that says which planned runs have no result"""
SAME = "the same in all runs, not tuned"


def from_results(df: "pd.DataFrame", sigma: bool = False, where: Sequence[str] = ()) -> Runs:
    """The runs of `scaling.load_runs(path)`: N = params_total, D = tokens, C = flops by the exact count.

    Runs that test a forecast and those that are not valid (see `scaling.validity.Verdict`) are excluded, each with
    its reason; untuned ones take part, and the conventions name them. The columns `validity` and `validity_reason`
    decide where the table has them, else the records do. How far learning rates are tuned is in the conventions,
    under "learning rate", where the table says.
    sigma: weight the points by their evaluation error. It is off by default: runs of one sweep share the held-out
    split, so most of that error is common to them and the scatter between runs is another thing.
    where: conditions on the table's columns, as of `laws.read_csv`; runs that miss one are excluded with it.

    Raises UserError where the runs mix contexts, vocabularies, corpora, numbers of experts, architectures or
    optimizers (`ONE_OF`), or values of any axis of a design (columns as `optimizer.eps`) but a size and the learning
    rate; for a condition that cannot be read; and where no run is left.
    """
    if len(df) == 0:
        raise UserError("no runs to fit: the folder has no results yet; run the sweep first")
    labels = [str(label) for label in df.get("run_id", df.index)]
    reasons = [_left_out(row) for row in df.to_dict("records")]
    for condition in where:
        missed = f"not {condition}"
        reasons = [why if why or met else missed for why, met in zip(reasons, meets(df, condition), strict=True)]
    keep = [i for i, reason in enumerate(reasons) if reason is None]
    exclusions = tuple(Exclusion(labels[i], reason) for i, reason in enumerate(reasons) if reason is not None)
    if not keep:
        raise UserError(
            f"none of the {len(df)} runs can be fitted; the first, {exclusions[0].row}: {exclusions[0].reason}"
        )
    used = df.iloc[keep].set_axis([labels[i] for i in keep], axis=0)
    shared = _shared_facts(used)
    runs = Runs(used, N="params_total", D="tokens", loss="loss", C="flops", sigma="loss_sem" if sigma else None)
    runs = replace_fields(runs, exclusions=exclusions)
    return runs.with_conventions(
        N="params_total",
        C="exact training FLOPs",
        loss="nats per token, held out",
        **shared,
        **_tuning(df, used),
        **_untuned(used),
        **_branches(used),
    )


def _left_out(row: dict[Any, Any]) -> str | None:
    """Why a run takes no part, None where it does."""
    if row.get("role") == "test":
        return "tests the forecast, which is made without it"
    verdict = verdict_of(row)
    if verdict.validity in FITTED:
        return None
    return verdict.reason if verdict.validity == "excluded" else str(verdict)


def _tuning(df: "pd.DataFrame", used: "pd.DataFrame") -> dict[str, str]:
    """At how many points of the runs `used` the learning rate is the best one; nothing where `df` does not say."""
    if "tuning" not in df:
        return {}
    points = used[used["tuning"].fillna("") != ""].drop_duplicates(["sweep", "point"])["tuning"]
    if (points == "untuned").all() and not (df["better_run"].fillna("") != "").any():
        return {RATE: SAME if used["learning_rate"].nunique() == 1 else BY_RULE}
    counts = [(state, int((points == state).sum())) for state in ("tuned", "bracketed", "untuned")]
    told = ", ".join(f"{state} at {count}" for state, count in counts if count)
    return {RATE: f"{told} of {len(points)} points"}


def _untuned(df: "pd.DataFrame") -> dict[str, str]:
    """The convention that names the runs whose hyper-parameters may not be the best; none where there are none."""
    found = [str(row) for row, record in zip(df.index, df.to_dict("records"), strict=True)
             if verdict_of(record).validity == "untuned"]  # fmt: skip
    return {"untuned": f"{len(found)} of {len(df)} runs: {', '.join(found)}"} if found else {}


def _branches(df: "pd.DataFrame") -> dict[str, str]:
    """The convention that says which runs share steps; none where all were trained by themselves.

    Where two fifths of the noise are the trunk's (36 % in experiments/isoflop_python), nominal 90 % intervals of a,
    N* and L* of a simulated ladder of 5 budgets x 5 sizes hold the truth in 84 to 91 % (tests/test_laws_coverage.py).
    """
    if "branch_trunk" not in df or df["branch_trunk"].isna().all():
        return {}
    trunks = df["branch_trunk"].dropna()
    told = f"{len(trunks)} of {len(df)} runs begin at one of {trunks.nunique()} trunks"
    return {"branches": f"{told}; taken as independent, so intervals are a little narrow"}


def _shared_facts(df: "pd.DataFrame") -> dict[str, str]:
    """The facts that the runs have in common. Raises UserError where one differs."""
    records = df.to_dict("records")
    shared = {}
    # an axis is named as in the design, before the fact on record that it sets
    for name in (*_axes(df), *ONE_OF):
        values = [_fact(record, name) for record in records]
        first: dict[str, Any] = {}
        for value, label in zip(values, df.index, strict=True):
            if value is not None:
                first.setdefault(str(value), (value, label))
        if len(first) > 1:
            kinds = sorted(first)
            named = ", ".join(f"{kind} ({first[kind][1]})" for kind in kinds[:4])
            one = first[kinds[0]][0]
            condition = f"{name} == {one!r}".replace('"', "'")
            raise UserError(f'the runs mix {name}: {named}; fit them apart: scaling fit … --where "{condition}"')
        if first and name in ONE_OF:
            shared[name] = next(iter(first))
    return shared


def _axes(df: "pd.DataFrame") -> list[str]:
    """The columns that are keys of a design and make other runs than those of one law."""
    return [name for name in map(str, df.columns) if name.startswith(CONFIGURED) and name not in VARIED]


def _fact(record: dict[Any, Any], name: str) -> Any:
    """A column, an entry of the record's facts, or a flattened `facts.NAME`; None for what is not there, nan too."""
    facts = record.get("facts")
    value = record.get(name)
    if name not in record and isinstance(facts, dict):
        value = facts.get(name)
    if value is None:
        value = record.get(f"facts.{name}")
    return None if isinstance(value, float) and math.isnan(value) else value
