"""Information on a sweep's runs besides their records: the user's exclusions, and what the plan requested."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from scaling.config.yaml_text import parse_yaml
from scaling.errors import UserError
from scaling.files import read_text, reading
from scaling.names import meant
from scaling.result import Result
from scaling.sweeps.run_store.plan_file import Entry, RunRole, read_plan, role_of, run_folders
from scaling.sweeps.run_store.tuning import tuning_columns, tuning_verdicts
from scaling.validity import Verdict, cut_short

EXCLUSIONS = "exclusions.yaml"


@dataclass(frozen=True)
class Ledger:
    """The records of a sweep and the other information in its folder, by run id."""

    results: Mapping[str, Result]
    """the records that there are"""
    plan: Mapping[str, Entry]
    exclusions: Mapping[str, str]
    roles: Mapping[str, RunRole]
    """of the runs with a record"""
    tuning: Mapping[str, Mapping[str, Any]]
    """of the runs with a record: the columns of `tuning.tuning_columns`"""

    def label(self, run_id: str) -> Mapping[str, Any]:
        """What the design requested for a run; empty for a run outside the plan."""
        return self.plan[run_id].label if run_id in self.plan else {}


Judge = Callable[[Ledger], Mapping[str, Verdict]]
"""finds verdicts about runs of a sweep"""


def read_ledger(home: Path, results: Mapping[str, Result]) -> Ledger:
    """The ledger of the sweep in the folder `home`, whose runs' records are `results`.

    Raises UserError as `read_plan`, `read_exclusions` and `role_of` do.
    """
    plan, exclusions = read_plan(home), read_exclusions(home)
    roles = {run_id: role_of(home / run_id, plan.get(run_id)) for run_id in results}
    rows = [{**vars(result), "role": roles[run_id]} for run_id, result in results.items()]
    labels = [plan[run_id].label if run_id in plan else {} for run_id in results]
    tuning = dict(zip(results, tuning_columns(rows, labels, exclusions), strict=True))
    return Ledger(results, plan, exclusions, roles, tuning)


def read_exclusions(home: Path) -> dict[str, str]:
    """`exclusions.yaml` of the sweep in the folder `home`: run id → why it is to be left out; empty without the file.

    Raises UserError for a file of another form, for a run that the sweep does not have, and for an empty reason.
    """
    path = home / EXCLUSIONS
    try:
        with reading(path, "a list of runs and reasons", "correct it or delete it"):
            given = parse_yaml(read_text(path), str(path))
    except FileNotFoundError:
        return {}
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"{path}: expected `run_id: reason` lines, found {type(given).__name__}")
    known = {*read_plan(home), *(folder.name for folder in run_folders(home))}
    for run_id, reason in given.items():
        if run_id not in known:
            hint = meant(f"{run_id}", sorted(known), most=1) or f"`scaling status {home}` lists them"
            raise UserError(f"{path}: {run_id!r} is not a run of this sweep; {hint}")
        if not isinstance(reason, str) or not reason.strip():
            raise UserError(
                f"{path}: {run_id} needs a reason in words, got {reason!r}; for example "
                f"`{run_id}: trained on a broken node`"
            )
    return {run_id: " ".join(reason.split()) for run_id, reason in given.items()}


def findings(ledger: Ledger) -> dict[str, list[Verdict]]:
    """The verdicts of all sources on the runs in `ledger`, by run id; empty for most."""
    found: defaultdict[str, list[Verdict]] = defaultdict(list)
    for run_id, verdict in chain.from_iterable(source(ledger).items() for source in JUDGES):
        found[run_id].append(verdict)
    return dict(found)


def _excluded(ledger: Ledger) -> dict[str, Verdict]:
    return {run_id: Verdict("excluded", reason) for run_id, reason in ledger.exclusions.items()}


def _copied(ledger: Ledger) -> dict[str, Verdict]:
    """Verdicts on copied folders, which hold the record of another folder that is present, too."""
    return {
        folder: Verdict("excluded", f"the folder {folder} is a copy of {result.run_id}; delete it")
        for folder, result in ledger.results.items()
        if folder != result.run_id and result.run_id in ledger.results
    }


def _short_of_plan(ledger: Ledger) -> dict[str, Verdict]:
    return {
        run_id: verdict
        for run_id, result in ledger.results.items()
        if run_id in ledger.plan
        for verdict in cut_short(result.tokens, ledger.plan[run_id].tokens, result.batch_tokens)
    }


def _tuned(ledger: Ledger) -> dict[str, Verdict]:
    rows = [vars(result) for result in ledger.results.values()]
    verdicts = tuning_verdicts(rows, list(ledger.tuning.values()))
    return {run_id: verdict for run_id, found in zip(ledger.results, verdicts, strict=True) for verdict in found}


JUDGES: tuple[Judge, ...] = (_excluded, _copied, _short_of_plan, _tuned)
