"""What is known of a sweep's runs beside their records: what the user excludes, and what the plan had asked for."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from itertools import chain
from pathlib import Path

from scaling.config.load import parse_yaml
from scaling.errors import UserError
from scaling.result import Result
from scaling.sweeps.run_store.plan_file import read_plan, run_folders
from scaling.sweeps.tuning import verdicts
from scaling.validity import Verdict, cut_short

EXCLUSIONS = "exclusions.yaml"

Source = Callable[[Path, Mapping[str, Result]], Mapping[str, Verdict]]
"""finds something about runs of the sweep in a folder; given the records that there are, by run id"""


def read_exclusions(home: Path) -> dict[str, str]:
    """`exclusions.yaml` of the sweep in the folder `home`: run id → why it is to be left out; empty without the file.

    Raises UserError for a file of another shape, for a run that the sweep does not have, and for an empty reason.
    """
    path = home / EXCLUSIONS
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    given = parse_yaml(text, str(path))
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"{path}: expected `run_id: reason` lines, found {type(given).__name__}")
    known = {*read_plan(home), *(folder.name for folder in run_folders(home))}
    for run_id, reason in given.items():
        if run_id not in known:
            near = get_close_matches(f"{run_id}", known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"`scaling status {home}` lists them"
            raise UserError(f"{path}: {run_id!r} is no run of this sweep; {hint}")
        if not isinstance(reason, str) or not reason.strip():
            raise UserError(
                f"{path}: {run_id} wants a reason in words, got {reason!r}; for example "
                f"`{run_id}: trained on a broken node`"
            )
    return {run_id: " ".join(reason.split()) for run_id, reason in given.items()}


def findings(home: Path, results: Mapping[str, Result]) -> dict[str, list[Verdict]]:
    """What each source says of the runs of the sweep in the folder `home`, by run id; nothing of most.

    results: the records that there are, by run id. Raises UserError as the sources do.
    """
    found: defaultdict[str, list[Verdict]] = defaultdict(list)
    for run_id, verdict in chain.from_iterable(source(home, results).items() for source in SOURCES):
        found[run_id].append(verdict)
    return dict(found)


def _excluded(home: Path, results: Mapping[str, Result]) -> dict[str, Verdict]:
    return {run_id: Verdict("excluded", reason) for run_id, reason in read_exclusions(home).items()}


def _short_of_plan(home: Path, results: Mapping[str, Result]) -> dict[str, Verdict]:
    return {
        run_id: verdict
        for run_id, entry in read_plan(home).items()
        if run_id in results
        for verdict in cut_short(results[run_id].tokens, entry.tokens, results[run_id].batch_tokens)
    }


def _tuned(home: Path, results: Mapping[str, Result]) -> dict[str, Verdict]:
    plan = read_plan(home)
    known = [run_id for run_id in results if run_id in plan]
    rows = [{**vars(results[run_id]), "role": plan[run_id].role} for run_id in known]
    said = verdicts(rows, [plan[run_id].label for run_id in known], read_exclusions(home))
    return {run_id: verdict for run_id, found in zip(known, said, strict=True) for verdict in found}


SOURCES: tuple[Source, ...] = (_excluded, _short_of_plan, _tuned)
