"""Whether a run is valid, and whether a law is fitted to it: decided only here."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from scaling.errors import UserError

Validity = Literal["excluded", "failed", "diverged", "truncated", "repeated", "untuned", "valid"]

PRECEDENCE: tuple[Validity, ...] = get_args(Validity)
"""of several findings about a run, the first in this order is its validity: exclusions of a good run come first,
findings without a loss before those with one, and those that a fit leaves out before those it keeps"""

BETTER = "another learning rate was better"
"""reason for leaving out a run that is not the best of those that differ only in learning rate"""

FITTED: tuple[Validity, ...] = ("valid", "untuned")
"""validities that laws are fitted to; the fit's conventions name untuned runs"""

MEMORISED = 0.01
"""share of the held-out tokens in documents that were also trained on from which it is told: what is less changes a
loss by less than a percent"""


@dataclass(frozen=True)
class Verdict:
    """A finding about a run.

    - `excluded`: by the user, in the sweep's `exclusions.yaml`; or another learning rate was better
    - `failed`: it failed, or has no recorded loss
    - `diverged`: its loss went to nan, or far above that of a uniform guess
    - `truncated`: trained on at least a batch less than requested, or evaluated on part of the held-out split
    - `repeated`: saw its data more than once
    - `untuned`: a neighbouring hyper-parameter may give a lower loss
    - `valid`: none of these
    """

    validity: Validity
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.validity}: {self.reason}" if self.reason else self.validity


def judge(record: Mapping[str, Any], *others: Verdict) -> Verdict:
    """The verdict on a run with a record.

    record: the contents of `result.json`, facts included; a row of `load_runs` works, too. Missing values are not
    judged. others: verdicts on the run from other sources than its record.
    """
    return decide(*_findings(record), *others)


def decide(*found: Verdict) -> Verdict:
    """The finding that takes precedence, by PRECEDENCE; `valid` where there is none."""
    return min(found, key=lambda verdict: PRECEDENCE.index(verdict.validity), default=Verdict("valid"))


def verdict_of(row: Mapping[Any, Any]) -> Verdict:
    """The verdict in the columns `validity` and `validity_reason` of a table, else that on the record.

    Raises UserError for an unknown validity.
    """
    given = row.get("validity")
    if not isinstance(given, str):
        return judge(row)
    if given not in PRECEDENCE:
        raise UserError(f"column 'validity': {given!r} is not one of {', '.join(PRECEDENCE)}")
    return Verdict(given, _text(row.get("validity_reason")))


def _findings(record: Mapping[str, Any]) -> Iterator[Verdict]:
    """Findings from a record. Unknown values are nan, for which no comparison is true."""
    status = record.get("status", "completed")
    if status != "completed":
        yield Verdict("diverged" if status == "diverged" else "failed", _text(record.get("reason")))
    elif math.isnan(_number(record, "loss")):
        yield Verdict("failed", "no loss is recorded")
    batch = _number(record, "batch_tokens")
    yield from cut_short(_number(record, "tokens"), _number(record, "steps") * batch, batch)
    seen, there = _number(record, "validation_tokens"), _number(record, "validation_targets")
    if seen < there:
        yield Verdict("truncated", f"evaluated on {seen:,.0f} of the {there:,.0f} tokens of the held-out split")
    epochs = _number(record, "epochs")
    if epochs > 1 + 1e-6:
        yield Verdict("repeated", f"{epochs:.3g} epochs of its data")
    elif 0 < (unique := _number(record, "unique_tokens")) < _number(record, "tokens") - batch:
        met = _number(record, "tokens") / unique
        yield Verdict("repeated", f"its tokens were seen {met:.3g} times on average (data.long_documents)")


def cut_short(trained: float, requested: float, batch: float) -> Iterator[Verdict]:
    """`truncated`, where at least a batch of the requested tokens is missing: they are rounded to whole batches."""
    if trained <= requested - batch:
        yield Verdict("truncated", f"trained on {trained:,.0f} of {requested:,.0f} tokens")


def _number(record: Mapping[str, Any], key: str) -> float:
    """A finite number; nan for anything else."""
    value = record.get(key)
    return float(value) if isinstance(value, Real) and math.isfinite(value) else math.nan


def _text(value: Any) -> str:
    """A text; empty for a table's placeholder of a missing one."""
    return value if isinstance(value, str) else ""
