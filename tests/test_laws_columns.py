"""Columns of tables by their usual names, and those of which one cannot exceed another."""

import numpy as np
import pytest
from known_table import grid

from scaling import laws
from scaling.errors import UserError

NAMES_OF = {
    "context": (
        "T",
        ["context", "seq_len", "sequence_length", "ctx", "n_ctx", "data/max_seq_len", "T", "Context Length"],
    ),
    "kaplan_NS": ("S", ["steps", "num_steps", "train_steps", "iterations"]),
    "data_constrained": ("U", ["unique_tokens", "tokens_unique"]),
    "ludziejewski": ("E", ["experts", "n_experts", "num_experts"]),
    "abnar": ("A", ["active_share", "share_active"]),
    "krajewski": ("G", ["granularity", "G"]),
    "hunyuan": ("Na", ["params_active", "active_parameters"]),
}


@pytest.mark.parametrize("law", NAMES_OF)
def test_every_column_of_a_law_is_found_by_its_usual_names_and_told(law):
    letter, names = NAMES_OF[law]
    reads = laws.FORMS[law].columns
    values = np.linspace(0.5, 1.0, 48) if letter == "A" else np.arange(2.0, 50.0)
    for name in names:
        runs = laws.Runs(grid().drop(columns="flops").assign(**{name: values}), reads=reads)
        assert runs.values[letter] == pytest.approx(values) and runs.conventions[letter] == name
        assert f"{letter}={name!r} was chosen by the column's name" in runs.notes
    other = laws.Runs(grid().assign(**{names[0]: values, "mine": values + 1}), reads=reads, **{letter: "mine"})
    assert other.values[letter] == pytest.approx(values + 1) and not any("was chosen" in note for note in other.notes)
    assert letter not in laws.Runs(grid().assign(**{names[0]: values}), reads=["N", "D"]).values


def test_two_columns_that_may_be_meant_are_named_unless_they_agree():
    both = grid().assign(context=np.arange(2.0, 50.0), seq_len=np.arange(3.0, 51.0))
    with pytest.raises(
        UserError, match="T could be any of context, seq_len, which differ; name its column: T='COLUMN'"
    ):
        laws.Runs(both, reads=["T"])
    assert laws.Runs(both.assign(seq_len=both.context), reads=["T"]).conventions["T"] == "context"


@pytest.mark.parametrize(
    ("columns", "how", "said"),
    [
        (
            {"params_active": 2e12},
            {},
            r"params_active \(active parameters\) cannot be more than params \(parameters\)",
        ),
        ({"act": 2e12}, {"Na": "act"}, r"act \(active parameters\) cannot be more than params"),
        ({"params_total": 1e6}, {}, r"params \(parameters\) cannot be more than params_total \(all parameters\)"),
        ({"top_k": 8, "experts": 4}, {}, r"top_k \(experts that a token meets\) cannot be more than experts"),
        ({"met": 8, "of": 4}, {"K": "met", "E": "of"}, r"met \(experts that a token meets\) cannot be more than of"),
        ({"own": 1e14}, {"U": "own"}, r"own \(different tokens\) cannot be more than tokens \(tokens\)"),
        ({"updates": 1e14}, {"S": "updates"}, r"updates \(steps\) cannot be more than tokens \(tokens\)"),
        ({"seq_len": 1e14}, {}, r"seq_len \(tokens of context\) cannot be more than tokens"),
        (
            {"non_embedding_params": 2e12},
            {},
            r"non_embedding_params \(parameters without embeddings\) cannot be more",
        ),
    ],
)
def test_a_column_that_exceeds_what_it_is_part_of_is_refused_with_its_rows(columns, how, said):
    df = grid().drop(columns="flops").assign(**columns)
    with pytest.raises(
        UserError, match=said + r".* and is in 48 of 48 rows: 0 \(.* > .*\), 1 .*are the columns swapped"
    ):
        laws.Runs(df, **how)
    assert len(laws.Runs(df, trusted=True, **how)) == 48, "unless the user says that it is right"


def test_parts_that_tables_round_or_count_otherwise_are_accepted():
    df = grid().drop(columns="flops")
    assert laws.Runs(df.assign(params_active=1.005 * df.params, unique_tokens=3e14)).notes == ()
    active = df.rename(columns={"params": "params_active"}).assign(non_embedding_params=2 * df.params)
    assert laws.Runs(active, N="params_active")  # all experts, without embeddings
    assert laws.Runs(df.assign(top_k=3, experts=2, shared=1))  # of three experts one is shared


def test_experts_without_the_shared_ones_are_not_taken_for_all_that_a_token_meets():
    df = grid().drop(columns="flops").assign(top_k=4, shared=1)
    assert "K" not in laws.Runs(df, reads=["N", "D", "K"]).values
    runs = laws.Runs(df.assign(experts_met=5), reads=["N", "D", "K"])
    assert runs.conventions["K"] == "experts_met" and (runs.values["K"] == 5).all()
