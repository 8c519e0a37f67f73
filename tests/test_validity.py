"""Which runs count: by their records, by what the user excludes, and in a fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import sweep_config, write_forecast, write_runs
from test_run_store import RESULT

from scaling import laws, load_runs
from scaling.errors import UserError
from scaling.result import write_result
from scaling.sweeps import status
from scaling.sweeps.run_store import Entry, ledger, read_exclusions, write_plan
from scaling.sweeps.run_store.ledger import Ledger
from scaling.validity import FITTED, PRECEDENCE, Verdict, decide, judge


def record(**changes: Any) -> dict[str, Any]:
    return {"status": "completed", "loss": 1.5, "tokens": 1000, "batch_tokens": 100, "steps": 10, "epochs": 1.0,
            "validation_tokens": 99, "validation_targets": 99, **changes}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "valid"),
        ({"status": "diverged", "reason": "nan", "tokens": 300, "epochs": 3.0}, "diverged: nan"),
        ({"status": "failed", "loss": None}, "failed"),
        ({"loss": float("nan")}, "failed: no loss is recorded"),
        ({"tokens": 900}, "truncated: trained on 900 of 1,000 tokens"),
        ({"tokens": 901}, "valid"),  # asked for 950, say: whole batches
        ({"validation_tokens": 98}, "truncated: evaluated on 98 of the 99 tokens of the held-out split"),
        ({"epochs": 2.5}, "repeated: 2.5 epochs of its data"),
        (
            {"tokens": 1000, "unique_tokens": 800},
            "repeated: its tokens were seen 1.25 times on average (data.long_documents)",
        ),
        ({"epochs": 2.5, "tokens": 100}, "truncated: trained on 100 of 1,000 tokens"),
        ({"epochs": None, "tokens": float("nan"), "validation_targets": None, "steps": "many"}, "valid"),
    ],
)
def test_a_record_is_judged_by_what_it_says(changes: dict[str, Any], verdict: str) -> None:
    assert str(judge(record(**changes))) == verdict


def test_of_several_findings_the_first_in_precedence_counts() -> None:
    """What a user excludes is excluded whatever its record says; an untuned run that repeated its data is no use."""
    said = Verdict("untuned", "at the edge"), Verdict("excluded", "broken node")
    assert judge(record(status="diverged"), *said).reason == "broken node"
    assert judge(record(epochs=2.0), said[0]).validity == "repeated"
    assert judge(record(), said[0]) == said[0]
    for i, first in enumerate(PRECEDENCE):
        assert all(decide(Verdict(other), Verdict(first)).validity == first for other in PRECEDENCE[i:])
    assert FITTED == ("valid", "untuned")


def test_a_run_with_fewer_tokens_than_planned_is_truncated(tmp_path: Path) -> None:
    write_plan(tmp_path, {name: Entry("fit", {}, 100, 6e5, 2000) for name in "ab"})
    write_result(tmp_path / "a", RESULT)
    write_result(tmp_path / "b", replace(RESULT, run_id="b", tokens=2000, unique_tokens=2000))
    table = load_runs(tmp_path).set_index("run_id")
    assert table["validity"].to_dict() == {"a": "truncated", "b": "valid"}
    assert table.loc["a", "validity_reason"] == "trained on 1,000 of 2,000 tokens"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "synthetic"
    write_runs(sweep_config(), home, broken=2, lines=2)
    write_forecast(sweep_config(), home, lines=2)
    return home


def test_what_the_user_excludes_is_out_of_table_status_and_fit_with_its_reason(home: Path) -> None:
    table = load_runs(home)
    fine, worse = table["run_id"][table["validity"] == "valid"].tolist()[:2]
    (home / "exclusions.yaml").write_text(f"{fine}: its node was\n  broken\n")
    ledger_of = load_runs(home).set_index("run_id")[["validity", "validity_reason"]]
    assert ledger_of.loc[fine].tolist() == ["excluded", "its node was broken"]
    assert ledger_of.loc[worse].tolist() == ["valid", ""]
    rows = {row["run_id"]: row for row in status(home)["runs"]}
    assert (rows[fine]["validity"], rows[fine]["state"]) == ("excluded", "completed")
    runs = laws.from_results(load_runs(home))
    reasons = {e.row: e.reason for e in runs.exclusions}
    assert reasons[fine] == "its node was broken" and fine not in runs.rows and worse in runs.rows
    assert sorted(r.split(":")[0] for r in reasons.values()) == [
        "diverged", "failed", "its node was broken", *["tests the forecast, which is made without it"] * 2,
    ]  # fmt: skip
    assert laws.fit(runs, "chinchilla", starts=8).runs.exclusions == runs.exclusions


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{almost}: slow", r"exclusions\.yaml: '{almost}' is not a run of this sweep; did you mean {fine}\?"),
        ("other: slow", r"'other' is not a run of this sweep; `scaling status .*` lists them"),
        ("{fine}:", "{fine} needs a reason in words, got None"),
        ("{fine}: '  '", "{fine} needs a reason in words"),
        ("{fine}: 3", "{fine} needs a reason in words, got 3"),
        ("- {fine}", "expected `run_id: reason` lines, found list"),
        ("{fine}: a\n{fine}: b", "written twice"),
    ],
)
def test_mistakes_in_exclusions_are_one_line(home: Path, text: str, said: str) -> None:
    fine = min(home.glob("L*")).name
    names = {"fine": fine, "almost": fine[:-1]}
    (home / "exclusions.yaml").write_text(text.format(**names))
    for call in (read_exclusions, load_runs, status):
        with pytest.raises(UserError, match=said.format(**names)) as error:
            call(home)
        assert "\n" not in str(error.value)


def test_an_empty_file_excludes_nothing_and_a_run_may_be_excluded_before_it_is_trained(home: Path) -> None:
    (home / "exclusions.yaml").write_text("# nothing yet\n")
    assert read_exclusions(home) == {}
    run_id = min(home.glob("L*")).name
    for name in ("result.json", "metrics.jsonl"):
        (home / run_id / name).unlink(missing_ok=True)
    (home / "exclusions.yaml").write_text(f"{run_id}: too dear")
    row = next(row for row in status(home)["runs"] if row["run_id"] == run_id)
    assert (row["state"], row["validity"]) == ("planned", "excluded") and len(load_runs(home)) == 16


def test_further_sources_are_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that finds the runs of the smallest budget untuned: they are fitted, and the fit says so."""
    seen: list[int] = []

    def source(known: Ledger) -> dict[str, Verdict]:
        seen.append(len(known.results))
        small = [run_id for run_id, result in known.results.items() if result.flops < 2e11]
        return dict.fromkeys(small, Verdict("untuned", "at the edge"))

    before = laws.from_results(load_runs(home))
    monkeypatch.setattr(ledger, "JUDGES", (*ledger.JUDGES, source))
    table = load_runs(home)
    untuned = table["run_id"][table["validity"] == "untuned"].tolist()
    runs = laws.from_results(table)
    assert len(untuned) == 5 and seen == [17]
    assert runs.hash == before.hash and runs.exclusions == before.exclusions
    assert (
        runs.conventions["untuned"] == f"5 of 13 runs: {', '.join(untuned)}" and "untuned" not in before.conventions
    )


def test_a_table_without_the_columns_is_judged_by_its_records_and_one_with_them_by_them(home: Path) -> None:
    table = load_runs(home)
    plain = laws.from_results(table.drop(columns=["validity", "validity_reason"]))
    assert (plain.rows, plain.exclusions) == (laws.from_results(table).rows, laws.from_results(table).exclusions)
    fine = plain.rows[0]
    table.loc[table["run_id"] == fine, ["validity", "validity_reason"]] = ["excluded", "I say so"]
    changed = laws.from_results(table)
    assert {e.row: e.reason for e in changed.exclusions}[fine] == "I say so" and len(changed) == len(plain) - 1
    table["validity"] = "dubious"
    with pytest.raises(UserError, match=r"^column 'validity': 'dubious' is not one of excluded, failed, "):
        laws.from_results(table)
