"""From the framework's own records to a table for fitting."""

from typing import TYPE_CHECKING, Any

from scaling.errors import UserError
from scaling.laws.runs import Exclusion, Runs, replace_fields
from scaling.validity import FITTED, verdict_of

if TYPE_CHECKING:
    import pandas as pd

ONE_OF = ("context", "experts", "vocab", "vocab_size", "corpus", "tokenizer", "schedule", "cooldown", "final_rate")
"""what all runs of a fit must share: losses under different ones are not comparable"""
RATE = "learning rate"
"""the convention that says how far rates are tuned"""
BY_RULE = "by rule, not tuned"


def from_results(df: "pd.DataFrame", sigma: bool = False) -> Runs:
    """The runs of `scaling.load_runs(path)`: N = params_total, D = tokens, C = flops by the exact count.

    Runs that test a forecast and those that are not valid (see `scaling.validity.Verdict`) are excluded, each with
    its reason; untuned ones take part, and the conventions name them. The columns `validity` and `validity_reason`
    decide where the table has them, else the records do. How far learning rates are tuned is in the conventions,
    under "learning rate", where the table says.
    sigma: weight the points by their evaluation error. It is off by default: runs of one sweep share the held-out
    split, so most of that error is common to them and the scatter between runs is another thing.

    Raises UserError where the runs mix contexts, vocabularies, corpora or numbers of experts, and where none is
    left.
    """
    if len(df) == 0:
        raise UserError("no runs to fit: the folder has no results yet; run the sweep first")
    labels = [str(label) for label in df.get("run_id", df.index)]
    reasons = [_left_out(row) for row in df.to_dict("records")]
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
        return {RATE: BY_RULE}
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
    for name in ONE_OF:
        values = [_fact(record, name) for record in records]
        kinds = sorted({str(value) for value in values if value is not None})
        if len(kinds) > 1:
            first = {str(value): str(label) for value, label in zip(values[::-1], df.index[::-1], strict=True)}
            named = ", ".join(f"{kind} ({first[kind]})" for kind in kinds[:4])
            raise UserError(f"the runs mix {name}: {named}; fit them apart")
        if kinds:
            shared[name] = kinds[0]
    return shared


def _fact(record: dict[Any, Any], name: str) -> Any:
    """A column, an entry of the record's facts, or a flattened `facts.NAME`."""
    if name in record:
        return record[name]
    facts = record.get("facts")
    if isinstance(facts, dict) and name in facts:
        return facts[name]
    return record.get(f"facts.{name}")
