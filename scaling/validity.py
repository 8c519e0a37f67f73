"""Whether a run says what it is meant to say, and whether a law is fitted to it: decided here and nowhere else."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from scaling.errors import UserError

Validity = Literal["excluded", "failed", "diverged", "truncated", "repeated", "untuned", "valid"]

PRECEDENCE: tuple[Validity, ...] = get_args(Validity)
"""of several findings about a run the first in this order is its validity: what leaves out a good run comes first,
what has no loss comes before what has one, and what a fit leaves out before what it keeps"""

BETTER = "another learning rate was better"
"""why a run is left out that is not the best of those which differ in their learning rate alone"""

FITTED: tuple[Validity, ...] = ("valid", "untuned")
"""what laws are fitted to; untuned runs are, and the fit's conventions name them"""


@dataclass(frozen=True)
class Verdict:
    """A finding about a run.

    - `excluded`: the user says so, in the sweep's `exclusions.yaml`; or another learning rate was better
    - `failed`: it broke, or has no loss on record
    - `diverged`: its loss went to nan, or far above that of a uniform guess
    - `truncated`: trained on a batch or more less than asked for, or evaluated on part of the held-out split
    - `repeated`: saw its data more than once
    - `untuned`: a neighbouring hyper-parameter may give a lower loss
    - `valid`: none of these
    """

    validity: Validity
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.validity}: {self.reason}" if self.reason else self.validity


def judge(record: Mapping[str, Any], *said: Verdict) -> Verdict:
    """The verdict on a run with a record.

    record: what `result.json` says, facts among the rest; a row of `load_runs` is one. What it does not say, it is
    not judged by. said: what is known of the run beside its record.
    """
    return decide(*_findings(record), *said)


def decide(*found: Verdict) -> Verdict:
    """The one of several findings that counts, by PRECEDENCE; `valid` where there is none."""
    return min(found, key=lambda verdict: PRECEDENCE.index(verdict.validity), default=Verdict("valid"))


def verdict_of(row: Mapping[Any, Any]) -> Verdict:
    """The verdict that the columns `validity` and `validity_reason` of a table hold, else that on the record.

    Raises UserError for a validity that there is not.
    """
    given = row.get("validity")
    if not isinstance(given, str):
        return judge(row)
    if given not in PRECEDENCE:
        raise UserError(f"column 'validity': {given!r} is not one of {', '.join(PRECEDENCE)}")
    return Verdict(given, _text(row.get("validity_reason")))


def _findings(record: Mapping[str, Any]) -> Iterator[Verdict]:
    """What is not known is nan, of which no comparison is true."""
    status = record.get("status", "completed")
    if status != "completed":
        yield Verdict("diverged" if status == "diverged" else "failed", _text(record.get("reason")))
    elif math.isnan(_number(record, "loss")):
        yield Verdict("failed", "no loss on record")
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
        yield Verdict("repeated", f"its tokens were met {met:.3g} times in the mean (data.long_documents)")


def cut_short(trained: float, asked: float, batch: float) -> Iterator[Verdict]:
    """`truncated`, where a batch or more is missing of the tokens asked for: they are rounded to whole batches."""
    if trained <= asked - batch:
        yield Verdict("truncated", f"trained on {trained:,.0f} of {asked:,.0f} tokens")


def _number(record: Mapping[str, Any], key: str) -> float:
    """A finite number; nan for all else."""
    value = record.get(key)
    return float(value) if isinstance(value, Real) and math.isfinite(value) else math.nan


def _text(value: Any) -> str:
    """A text; empty for what tables put in place of one."""
    return value if isinstance(value, str) else ""
