"""Tables of other people: units, rows twice or missing, names and numbers."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from known_table import grid

from scaling import laws
from scaling.errors import UserError
from scaling.laws.table.words import command_line
from scaling.numbers import to_number

PUBLISHED = Path(__file__).parents[1] / "../shared/published"


@pytest.mark.parametrize(
    ("unit", "name"), [(1e9, "GFLOPs"), (1e12, "TFLOPs"), (1e15, "PFLOPs"), (86400e15, "PFLOP/s-days"), (40.0, "")]
)
def test_flops_in_another_unit_are_refused_and_the_unit_is_named(unit, name):
    df = grid()
    with pytest.raises(
        UserError, match=rf"off 6·N·D in 48 of 48 rows: 0 \(.*{f'looks like {name}' if name else ''};"
    ):
        laws.Runs(df.assign(flops=df.flops / unit), C="flops")


def test_flops_a_few_times_off_are_noted_and_those_of_a_convention_are_not():
    df = grid()
    (note,) = laws.Runs(df.assign(flops=5 * df.flops), C="flops").notes
    assert "C is 5 times 6·N·D in the median of 48 of 48 rows" in note
    assert laws.Runs(df.assign(flops=1.5 * df.flops), C="flops").notes == ()
    one = df.assign(flops=np.where(df.index == 7, 100, 1) * df.flops)
    with pytest.raises(UserError, match=r"in 1 of 48 rows: 7 \("):
        laws.Runs(one, C="flops")


@pytest.mark.parametrize(
    ("millions", "billions", "said"),
    [
        (True, False, "N up to 1e.04 looks like millions"),
        (False, True, "D up to 300 looks like billions"),
        (True, True, "millions of parameters and D up to 300 looks like billions"),
    ],
)
def test_sizes_in_millions_and_tokens_in_billions_are_refused(millions, billions, said):
    df = grid()
    df["params"] /= 1e6 if millions else 1
    df["tokens"] /= 1e9 if billions else 1
    with pytest.raises(UserError, match=said):
        laws.Runs(df)


def test_a_table_that_is_trusted_is_taken_at_its_word():
    df = grid()
    runs = laws.Runs(df.assign(flops=df.flops / 1e9, params=df.params / 1e6), C="flops", trusted=True)
    assert runs.notes == () and runs.N.max() < 2e4
    with command_line({"params": "N"}), pytest.raises(UserError, match="use --trusted"):
        laws.Runs(df.assign(params=df.params / 1e6))


def test_toy_ladders_are_no_millions():
    n, d = np.geomspace(2e4, 1e6, 6), np.geomspace(1e6, 3e7, 6)
    assert laws.Runs({"params": n, "tokens": d, "loss": np.linspace(3, 2, 6)}).notes == ()


def test_perplexities_are_refused_and_bits_are_noted():
    df = grid()
    perplexities = df.assign(loss=np.exp(df.loss + 1))
    with pytest.raises(UserError, match=r"losses around .* \(loss\) look like perplexities: .*, trusted=True"):
        laws.Runs(perplexities)
    assert laws.Runs(perplexities, trusted=True).notes == ()
    rewards = perplexities.assign(loss=perplexities.loss - perplexities.loss.min())
    assert laws.Runs(rewards, signed=True).notes == ()
    curve = pd.DataFrame({"run": "a", "step": [1, 2], "learning_rate": 1.0, "loss": [60.0, 30.0]})
    with pytest.raises(UserError, match="losses around 30 "):
        laws.read_curves(curve)
    assert len(laws.read_curves(curve, trusted=True)) == 1
    assert "is in bits" in laws.Runs(df.assign(c4_bpb=df.loss), loss="c4_bpb").notes[0]
    assert laws.Runs(df).notes == ()


def test_perplexities_below_twenty_are_told_by_their_name_or_by_what_text_has():
    df = grid()
    for name in ("ppl", "val_ppl", "eval/perplexity"):
        with pytest.raises(UserError, match=rf"\({name}\) are perplexities: .* logarithm"):
            laws.Runs(df.assign(**{name: np.exp(df.loss)}), loss=name)
    perplexities = df.assign(loss=np.exp(df.loss))
    assert perplexities.loss.median() < 20
    (note,) = laws.Runs(perplexities).notes
    assert "times those of text at these sizes" in note and "take the logarithm" in note
    assert laws.Runs(perplexities, trusted=True).notes == ()
    assert laws.Runs(df.assign(loss=1.3 * df.loss)).notes == ()  # another text, or vocabulary


def test_bits_under_the_name_of_loss_are_told_by_what_text_has_where_models_are_large():
    df = grid()
    (bits,) = laws.Runs(df.assign(loss=df.loss / np.log(2))).notes
    assert "1.5 times those of text" in bits and "multiply bits by ln 2" in bits
    (bytewise,) = laws.Runs(df.assign(loss=df.loss / np.log(2) / 4.3)).notes
    assert "0.34 times those of text" in bytewise and "bits or nats per byte" in bytewise
    toy = {"params": df.params / 1e4, "tokens": df.tokens / 1e3, "flops": df.flops / 1e7}
    assert laws.Runs(df.assign(**toy, loss=df.loss / 2)).notes == ()  # of bytes, or easy: nothing to go by
    fits = [laws.fit(df.assign(loss=scale * df.loss), starts=8) for scale in (1, 1 / np.log(2))]
    sizes, offsets = [fit.optimal(C=1e22).N for fit in fits], [fit.params["E"] for fit in fits]
    assert sizes[1] == pytest.approx(sizes[0], rel=1e-4)  # as the note says
    assert offsets[1] == pytest.approx(offsets[0] / np.log(2), rel=1e-4)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"tokenizer": np.where(np.arange(48) % 2, "gpt2", "llama")}, r"differ in tokenizer \(gpt2, llama\)"),
        ({"model.vocab": np.where(np.arange(48) % 2, 256, 32000)}, r"differ in model.vocab \(256, 32000\)"),
        ({"vocab_size": 12}, r"\d+ of 48 losses are above ln vocab_size \(2.48\), the loss of guessing in nats"),
        ({"unique_tokens": 2e10}, r"D is more than unique_tokens in 24 of 48 rows, up to 15 times: .*U='unique_tok"),
        ({"data/unique_tokens": 2e10}, "D is more than data/unique_tokens in 24 "),
    ],
)
def test_columns_that_speak_against_comparing_the_rows_are_told(columns, said):
    (note,) = laws.Runs(grid(**columns)).notes
    assert re.search(said, note)


def test_two_losses_of_each_run_are_told_with_the_column_that_tells_them():
    df = grid()
    both = pd.concat([df, df.assign(loss=1.05 * df.loss)], ignore_index=True)
    (note,) = laws.Runs(both, duplicates="keep").notes
    assert "48 rows have the same N and D as another and a loss that differs by 5%" in note
    (named,) = laws.Runs(both.assign(kind=np.repeat(["train", "val"], 48)), duplicates="keep").notes
    assert "they differ in kind: group='kind'" in named
    seeds = pd.concat([df, df.assign(loss=df.loss * np.exp(0.004 * np.sin(df.index)))], ignore_index=True)
    assert laws.Runs(seeds, duplicates="keep").notes == ()


def test_sizes_without_embeddings_are_told_by_name_and_by_flops_that_leave_them():
    df = grid()
    (named,) = laws.Runs(df.rename(columns={"params": "non_embedding_params"}), N="non_embedding_params").notes
    assert "without embeddings" in named
    table = 5e7 * (df.params / 1e8) ** (1 / 3)
    (told,) = laws.Runs(df.assign(params=df.params - table, flops=1.3 * df.flops), C="flops").notes
    assert re.search(r"C is 2\.\d+ times 6·N·D at the smallest N and 1\.\d+ times at the largest", told)
    assert laws.Runs(df.assign(flops=1.3 * df.flops), C="flops").notes == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda df: df.assign(tokens=df.tokens / 524288), "or is D in steps or sequences?"),
        (
            lambda df: df.assign(params=10 * df.tokens, tokens=df.params),
            r"are N \(parameters\) and D \(tokens\) swapped",
        ),
        (lambda df: df.assign(epochs=np.where(df.index % 2, 8, 1)), "epochs goes up to 8: .*U='COLUMN'"),
        (lambda df: df.assign(step=df.tokens / 1e6), "column step: if rows are checkpoints .*run='COLUMN'"),
    ],
)
def test_what_a_table_does_not_mean_as_it_is_read_is_told(changed, said):
    (note,) = laws.Runs(changed(grid().drop(columns="flops"))).notes
    assert re.search(said, note)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("Params (M)", 1e6), ("params [B]", 1e9), ("size (in millions)", 1e6), ("N (x1e9)", 1e9), ("n_billions", 1e9),
        ("params_M", 1), ("params (total)", 1), ("millions", 1), ("Params (m)", 1e6), ("size (billion params)", 1e9),
    ],
)  # fmt: skip
def test_a_column_counts_in_the_unit_that_its_name_has(name, unit):
    df = grid().drop(columns="flops")
    honest = laws.Runs(df)
    runs = laws.Runs(df.assign(**{name: df.params / unit}).drop(columns="params"), N=name)
    np.testing.assert_allclose(runs.N, honest.N, rtol=1e-14)
    assert runs.notes == ((f"{name} is in units of {unit:g}, by its name",) if unit != 1 else ())
    own = df.assign(**{name: [f"{n / 1e6!r}M" for n in df.params]})  # numbers that say theirs
    np.testing.assert_allclose(laws.Runs(own, N=name).N, honest.N, rtol=1e-14)


def test_a_prediction_of_a_table_reads_units_as_the_fit_did():
    df = grid().drop(columns="flops").rename(columns={"params": "Params (M)"})
    fit = laws.fit(df.assign(**{"Params (M)": df["Params (M)"] / 1e6}), N="Params (M)", starts=8)
    said = fit.predict(pd.DataFrame({"Params (M)": [1e3], "tokens": [1e11]})).loss[0]
    assert said == pytest.approx(fit.predict(N=1e9, D=1e11).loss)
    assert fit.predict(pd.DataFrame({"N": [1e9], "D": [1e11]})).loss[0] == pytest.approx(said)
    assert "N parameters (Params (M), in ones)" in fit.summary()


def test_a_table_need_not_have_what_the_law_does_not_read():
    df = grid()[["flops", "loss"]].drop_duplicates("flops")
    assert set(laws.fit(df, "power_law_C", C="flops", starts=8).runs.values) == {"C", "loss"}
    chosen = laws.fit(df, "power_law_C", starts=8).runs
    assert set(chosen.values) == {"C", "loss"} and "C='flops' was chosen by the column's name" in chosen.notes
    with pytest.raises(UserError, match=r"no column N='params', D='tokens'; .* D='COLUMN', or with C='COLUMN'"):
        laws.fit(df.rename(columns={"flops": "cost"}), "power_law_C", starts=8)
    with pytest.raises(UserError, match="no column D='tokens'"):  # M is D/N
        laws.Runs(grid()[["params", "loss"]], reads=["M"])
    with pytest.raises(UserError, match="no column loss='loss'; the table has params, tokens, flops: name"):
        laws.Runs(grid().drop(columns="loss"), reads=["D"])  # and flops is not what was meant


def test_flops_that_are_not_read_are_told_where_they_are_others():
    df = grid()
    (note,) = laws.Runs(df.assign(flops=1.3 * df.flops)).notes
    assert note == "flops is not used: C is 6·N·D, and it is 1.3 to 1.3 times that; C='flops'"
    assert laws.Runs(df.assign(flops=1.3 * df.flops), C="flops").notes == () == laws.Runs(df).notes


def test_groups_that_have_a_law_each_are_not_compared():
    two = pd.concat([grid(data="a"), grid(seed=1, data="b").assign(loss=lambda df: 1.1 * df.loss)], ignore_index=True)
    assert any("they differ in data" in note for note in laws.Runs(two).notes)
    fit = laws.fit(two, group="data", starts=8)
    assert fit.runs.notes == ()


def test_tables_without_a_row_are_one_line():
    with pytest.raises(UserError, match="the table has no rows"):
        laws.Runs(grid()[:0])
    with pytest.raises(UserError, match="no row is left of 48; the first, 0: loss is missing"):
        laws.Runs(grid().assign(loss=np.nan), missing="drop")


def test_a_table_of_a_thousand_columns_is_told_by_its_first():
    wide = pd.DataFrame({f"{i:04d}" + "x" * 80: [1.0] for i in range(1000)})
    with pytest.raises(UserError, match=r"\(1000 in all\)") as told:
        laws.Runs(wide)
    assert len(str(told.value)) < 1500


def test_columns_that_are_read_or_say_nothing_are_not_told():
    df = grid(epochs=1, step=np.arange(48), unique_tokens=3e11, vocab_size=32000, tokenizer="bpe")
    assert laws.Runs(df.assign(run_id=np.arange(48)), run="run_id").notes == ()
    assert laws.Runs(df.assign(epochs=2, unique_tokens=1e9), U="unique_tokens", S="step").notes == ()


@pytest.mark.parametrize(("mark", "decimal"), [("\t", "."), (";", "."), (";", ",")])
def test_tables_divided_by_tabs_and_semicolons_are_the_same_runs(tmp_path, mark, decimal):
    df = grid()[["params", "tokens", "loss"]]
    df.to_csv(tmp_path / "runs.csv", sep=mark, decimal=decimal, index=False)
    runs = laws.read_csv(tmp_path / "runs.csv")
    for found, column in zip((runs.N, runs.D, runs.loss), df, strict=True):
        np.testing.assert_allclose(found, df[column], rtol=1e-15)


def test_all_pairs_of_rows_are_named_with_the_column_in_which_they_differ():
    df = grid().assign(seed=0, dataset="c4")
    again = pd.concat([df, df.iloc[[2, 5]].assign(seed=1)], ignore_index=True)
    with pytest.raises(
        UserError, match=r"rows 2 and 48, 5 and 49 are .* \(2 pairs\): they differ in 'seed' \(0 and 1\)"
    ):
        laws.Runs(again)
    dropped = laws.Runs(again, duplicates="drop")
    assert len(dropped) == 48 and {e.row: e.reason for e in dropped.exclusions} == {
        "48": "the same run as row 2", "49": "the same run as row 5"}  # fmt: skip
    assert len(laws.Runs(again, duplicates="keep")) == 50
    kept = laws.fit(again, duplicates="keep", starts=4)
    assert len(kept.runs) == 50
    with pytest.raises(UserError, match="'error', 'drop', 'keep'; got 'no'"):
        laws.Runs(again, duplicates="no")


def test_missing_values_are_dropped_where_that_is_asked_for():
    df = grid()
    df.loc[[3, 8], "loss"] = np.nan
    df.loc[9, "tokens"] = np.nan
    with pytest.raises(UserError, match=r"'tokens' .* 9 \(nan\).*, or missing='drop'"):
        laws.Runs(df)
    runs = laws.Runs(df, missing="drop")
    assert {e.row: e.reason for e in runs.exclusions} == {
        "3": "loss is missing", "8": "loss is missing", "9": "tokens is missing"}  # fmt: skip
    df.loc[8, "loss"] = -1.0
    with pytest.raises(UserError, match=r"8 \(-1\)"):
        laws.Runs(df, missing="drop")


def test_further_columns_may_be_zero_unless_a_law_reads_them():
    df = grid().assign(seed=np.arange(48) % 2, E=np.arange(48) % 3)
    runs = laws.Runs(df, S="seed", E="E")
    assert (runs.column("S") == df.seed).all() and laws.fit(runs, starts=4).params
    with pytest.raises(UserError, match=r"needs E above zero; 16 of 48 rows are not: 0 \(0\)"):
        laws.fit(runs, "clark")


@pytest.mark.parametrize(
    ("text", "value"),
    [("7B", 7e9), ("1T", 1e12), ("350M", 3.5e8), ("1e24", 1e24), ("12k", 12e3), ("1,400", 1400), (3, 3)],
)
def test_numbers_as_people_write_them(text, value):
    assert to_number(text) == value


@pytest.mark.parametrize("text", ["2,8315", "0,51", "1,40,0", "1,4000"])
def test_a_comma_that_divides_no_thousands_is_no_number(text):
    with pytest.raises(ValueError, match=text):
        to_number(text)


def test_texts_of_numbers_make_the_same_runs():
    df = grid().head(4)
    texts = df.assign(params=["70M", "1.4B", "7B", "1T"], tokens=df.tokens.astype(str))
    np.testing.assert_array_equal(laws.Runs(texts).N, [7e7, 1.4e9, 7e9, 1e12])
    np.testing.assert_array_equal(laws.Runs(texts).D, df.tokens)


@pytest.mark.parametrize(
    "names",
    [
        {"params": "parameter_count", "tokens": "throughput/total_tokens", "loss": "eval/paloma/macro_loss"},
        {"params": "N", "tokens": "D", "loss": "val_loss"},
        {"params": "n_params", "tokens": "train_tokens", "loss": "Final Loss"},
    ],
)
def test_columns_are_found_by_their_usual_names_and_said(names):
    runs = laws.Runs(grid().rename(columns=names))
    assert len(runs.notes) == 3 and f"N={names['params']!r} was chosen" in runs.notes[0]
    np.testing.assert_array_equal(runs.loss, grid().loss)
    with pytest.raises(UserError, match="no column N='size'"):
        laws.Runs(grid(), N="size")
    with pytest.raises(UserError, match="no column loss='loss'"):  # two could be meant
        laws.Runs(grid().rename(columns={"loss": "val_loss"}).assign(test_loss=1.0))


def test_the_law_that_predicts_best_is_first_and_a_disagreement_is_said():
    df = grid(0.002)
    near = df.flops < np.quantile(df.flops, 0.7)
    df["loss"] *= np.where(near, 1.0, np.exp(0.01 * np.log(df.flops / df.flops[near].max())))
    found = laws.compare(
        laws.Runs(df, C="flops"), ["chinchilla", "chinchilla_no_offset", "chinchilla_equal"], starts=8, n=20
    )
    errors = [entry.backtest.score.rmse for entry in found.entries]
    assert errors == sorted(errors)
    by_aic = min(found.entries, key=lambda entry: entry.likelihood.aic).fit.form.name
    told = any(note.startswith(f"AIC ranks {by_aic} first") for note in found.notes)
    assert told == (by_aic != found.order[0])
    assert min(row["delta_aic"] for row in found.table) == 0


@pytest.mark.parametrize("label", ["mean", "Total:", "Average"])
def test_a_row_that_sums_up_the_others_is_refused(label):
    df = grid().assign(run=[f"run {i}" for i in range(47)] + [label])
    with pytest.raises(UserError, match=rf"by run, 1 of 48 rows .* 47 \({label.strip(':').lower()}\)"):
        laws.Runs(df)
    assert len(laws.Runs(df, trusted=True)) == 48
    assert laws.Runs(df.assign(run="mean")).notes == ()  # all are means, of several seeds for example


@pytest.mark.parametrize(
    ("column", "bad", "good"),
    [("State", "crashed", "finished"), ("status", "diverged", "ok"), ("failed", True, False)],
)
def test_rows_of_runs_that_did_not_end_well_are_told(column, bad, good):
    df = grid().assign(**{column: [bad if i == 5 else good for i in range(48)]})
    (note,) = laws.Runs(df).notes
    assert note.startswith(f"by {column}, 1 of 48 rows") and "5 (" in note
    assert (f'{column} == "{good}"' in note) == isinstance(good, str)
    assert laws.Runs(df[df[column] == good]).notes == ()


@pytest.mark.parametrize(
    ("head", "said"),
    [("# of spring\nparams,tokens,loss\n", "starts with #"), ("params  tokens  loss\n", "no separator but spaces")],
)
def test_a_header_that_is_none_is_refused_with_its_reason(tmp_path, head, said):
    file = tmp_path / "runs.csv"
    file.write_text(head + "1e7,1e9,3\n")
    with pytest.raises(UserError, match=said):
        laws.read_csv(file)


@pytest.mark.parametrize("mark", [",", ";"])
def test_the_separator_that_a_file_tells_excel_is_no_header(tmp_path, mark):
    file = tmp_path / "runs.csv"
    file.write_text(f"sep={mark}\n" + grid().to_csv(index=False, sep=mark))
    assert laws.read_csv(file).hash == laws.Runs(grid()).hash
