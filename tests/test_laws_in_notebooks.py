"""Tables, numbers and mistakes as they come from a notebook: each is read, or refused in one line."""

import copy
import multiprocessing
import pickle
from decimal import Decimal

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from known_table import grid
from synthetic_sweep import sweep_config, write_forecast, write_runs

from scaling import laws, load_runs, report
from scaling.errors import UserError

TABLE = grid().round({"params": 0, "tokens": 0, "flops": 0}).assign(model=["a", "b"] * (len(grid()) // 2))
LONG = 10**21  # beyond 64 bits: NumPy makes an object of it
CURVE = {"step": np.arange(1, 201), "loss": 2 + 3 * np.arange(1, 201) ** -0.5}


@pytest.fixture(scope="module")
def fit():
    found = laws.fit(TABLE, starts=8)
    found.bootstrap(50)
    return found


@pytest.fixture(scope="module")
def both():
    found = laws.fit(TABLE, group="model", shared="alpha", starts=8)
    found.bootstrap(50)
    return found


@pytest.mark.parametrize(
    "given",
    [
        TABLE.astype(object),
        TABLE.astype({"params": "category", "tokens": "Int64"}),
        TABLE.convert_dtypes(dtype_backend="pyarrow"),
        TABLE.assign(params=[Decimal(int(size)) for size in TABLE.params]),
        TABLE.set_index([TABLE.model, TABLE.index]),
        TABLE.assign(note=[[1, 2], [3]] * (len(TABLE) // 2)),
        TABLE.assign(note=[np.arange(2)] * len(TABLE)),
        dict(TABLE),
        {**dict(TABLE), "note": "one text for all rows", "seed": 0},
        {name: list(column) for name, column in TABLE.items()},
    ],
    ids=["object", "categories", "arrow", "decimals", "MultiIndex", "lists", "arrays", "Series", "scalars", "dict"],
)
def test_the_same_numbers_are_the_same_runs(given):
    runs = laws.Runs(given)
    assert runs.hash == laws.Runs(TABLE).hash
    assert list(runs.labels) == ["model"] or "note" in runs.labels


def test_columns_may_be_named_by_numbers_and_tuples():
    rows = TABLE[["params", "tokens", "loss"]]
    numbered = laws.Runs(pd.DataFrame(rows.to_numpy()), N=0, D=1, loss=2)
    tuples = laws.Runs(pd.concat({"x": rows}, axis=1), N=("x", "params"), D=("x", "tokens"), loss=("x", "loss"))
    assert numbered.hash == tuples.hash == laws.Runs(TABLE).hash
    found = laws.fit(pd.DataFrame(rows.to_numpy()), N=0, D=1, loss=2, starts=4)
    assert len(found.predict(pd.DataFrame({0: [1e9], 1: [1e10]}))) == 1


def test_missing_values_are_missing_in_every_notation():
    lost = TABLE.assign(loss=TABLE.loss.astype(object).where(TABLE.index > 3, pd.NA))
    masked = {**dict(TABLE), "loss": np.ma.array(TABLE.loss.to_numpy(), mask=TABLE.index <= 3)}
    for given in (lost, {name: column.to_numpy() for name, column in lost.items()}, masked | {"model": TABLE.model}):
        assert len(laws.Runs(given, missing="drop")) == len(TABLE) - 4
        with pytest.raises(UserError, match=r"4 of .* rows are not: 0 .nan., 1"):
            laws.Runs(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (pd.concat([TABLE, TABLE.loss], axis=1), "column 'loss' must have one value a row, got shape"),
        ({"params": 1e9, "tokens": 1e10, "loss": 2.0}, "column 'params' must have one value a row"),
        ({**dict(TABLE), "loss": TABLE.loss.sort_values()}, "indexes of params and loss differ"),
        (pd.concat([TABLE.assign(note=pd.NA), TABLE.assign(note=2)]), "the same run twice"),
        (pd.concat([TABLE.assign(note=[np.arange(2)] * len(TABLE))] * 2), "the same run twice"),
        (TABLE[:0], "no rows"),
    ],
    ids=["names twice", "scalars", "other index", "NA", "arrays", "empty"],
)
def test_tables_that_cannot_be_runs_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        laws.Runs(given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strats": 8}, "no argument 'strats'; .* did you mean starts"),
        ({"form": "chinchilla"}, "no argument 'form'"),
        ({"weights": np.ones(3)}, "no argument 'weights'"),
        ({"params": "params"}, "no argument 'params'"),  # was read as a column that the law ignores
        ({"N": TABLE.params}, "N is the name of a column, got Series"),
        ({"sigma": 0.01}, "sigma is the name of a column, got float"),
        ({"loss": laws.l1}, "brackets included"),  # was fitted by the default objective
        ({"objective": laws.l1}, "brackets included"),
        ({"starts": "8"}, "starts must be a whole number, at least 1; got '8'"),
        ({"starts": 8.5}, "starts must be a whole number"),
        ({"fixed": {"alpha": None}}, "fixed: alpha must be a number; got None"),
        ({"fixed": {"E": -1}}, "fixed: E of chinchilla must be at least 0; got -1"),
        ({"priors": {"alpha": (0.3, 0.1)}}, r"alpha must be laws.Prior\(mean, sd\); got \(0.3, 0.1\)"),
        ({"group": TABLE.model[::-1]}, "indexes of the table and group differ"),
        ({"group": ["a", None] * (len(TABLE) // 2)}, "rows have no label"),
        ({"law": lambda N: N}, "a law is a name or a laws.Form"),
    ],
)
def test_mistakes_in_a_fit_are_one_line(options, said):
    with pytest.raises(UserError, match=said):
        laws.fit(TABLE, **options)


def test_numbers_of_any_kind_fix_parameters_and_priors_and_are_saved(tmp_path):
    prior = laws.Prior(np.float32(0.3), jnp.array(0.1))
    for fixed in ({"beta": "0.28"}, pd.Series({"beta": 0.28}), {"beta": np.array(0.28)}):
        found = laws.fit(TABLE, fixed=fixed, priors={"alpha": prior}, objective="l2", starts=1e1)
        assert found.params["beta"] == 0.28 and found.loss == laws.l2()
    assert laws.load(found.save(tmp_path / "fit.json")).params == found.params


@pytest.mark.parametrize("C", [LONG, "1e21", np.array(1e21), np.int64(10**18), Decimal(10**21)])
def test_a_budget_is_a_number_of_any_kind(fit, both, C):
    plain = float(C)
    forecaster = laws.Forecaster(TABLE)
    for ask in (
        fit.optimal,
        lambda C: fit.interval("N*", C=C),
        lambda C: laws.influence(fit, C=C).base,
        lambda C: laws.suggest(fit, target=C).target,
        lambda C: laws.predict_table(fit, C),
        lambda C: both.gain(C=C),
        forecaster.size,
        lambda C: forecaster.forecast(*forecaster.size(C), C).loss,
        lambda C: laws.inference_optimum(fit, 2.4, C),
    ):
        assert ask(C) == ask(plain)


def test_a_profile_and_figures_take_a_long_budget(fit):
    assert fit.profile("N*", points=5, C=LONG).interval == fit.profile("N*", points=5, C=1e21).interval
    assert report.plot_forecast(fit, LONG) and report.plot_bootstrap(fit, [("N*", "D*")], C="1e21")
    for C in (0, -1, np.nan, "big"):
        with pytest.raises(UserError, match="C must be a positive number of FLOPs"):
            report.plot_forecast(fit, C)
    for pairs in (("alpha", "beta"), ["alpha"], []):
        with pytest.raises(UserError, match="names two by two"):
            report.plot_bootstrap(fit, pairs)


@pytest.mark.parametrize("C", [[1e20, 1e21], pd.Series([1e21]), None, "big", 10**400, True])
def test_what_is_no_budget_is_refused(fit, C):
    with pytest.raises(UserError, match="C must be a positive number of FLOPs; got"):
        fit.optimal(C)


@pytest.mark.parametrize(
    "ask",
    [
        lambda fit, n: fit.bootstrap(n),
        lambda fit, n: fit.draw("laplace", n),
        lambda fit, n: laws.isoflop(TABLE.assign(tokens=1e19 / 6 / TABLE.params).drop_duplicates("params"), n=n),
        lambda fit, n: laws.backtest(TABLE, n=n, starts=4),
    ],
)
def test_counts_are_whole_numbers_of_any_kind(fit, ask):
    own = copy.copy(fit)
    for n in (1e2, np.int64(100)):
        ask(own, n)
    for n in ("100", 99.5, 0):
        with pytest.raises(UserError, match=r"(n|draws) must be a whole number, at least 2; got"):
            ask(own, n)
    with pytest.raises(UserError, match="seed must be a whole number"):
        own.bootstrap(10, seed=None)


def test_predictions_of_columns_texts_and_mappings(fit):
    same = fit.predict(N=[7e9, 7e10], D=2e12)
    np.testing.assert_array_equal(fit.predict(N=["7B", "70B"], D="2T").loss, same.loss)
    np.testing.assert_array_equal(fit.predict({"params": ["7B", 7e10], "tokens": [2e12, 2e12]}).loss, same.loss)
    for columns, said in (
        ({"N": [1.0, 2.0, 3.0], "D": [1.0, 2.0]}, "shapes of N .3,., D .2,. do not fit together"),
        ({"N": TABLE.params, "D": TABLE.tokens[::-1]}, "indexes of N and D differ"),
        ({"params": 1e9}, "needs N and D; got params"),
        ({"N": "seven", "D": 1e9}, "N must be numbers; got 'seven'"),
    ):
        with pytest.raises(UserError, match=said):
            fit.predict(**columns)
    with pytest.raises(UserError, match="a table or N=…, not both"):
        fit.predict(TABLE, N=1e9)


def test_groups_are_predicted_by_their_column_and_named_by_numbers(both):
    found = both.predict(TABLE)
    np.testing.assert_allclose(found.loss[TABLE.model == "a"], both["a"].predict(TABLE[TABLE.model == "a"]).loss)
    with pytest.raises(UserError, match=r"ask the law of one group, fit\['a'\]"):
        both.optimal(C=1e21)
    numbered = laws.fit({**dict(TABLE), "model": [1, 2] * (len(TABLE) // 2)}, group="model", starts=4)
    assert numbered.groups == ("1", "2") and numbered[1].params == numbered["1"].params


def test_one_name_is_not_its_letters(fit, tmp_path):
    TABLE.to_csv(tmp_path / "runs.csv")
    assert set(laws.read_csv(tmp_path / "runs.csv", where="model == 'a'").labels) == set()
    with pytest.raises(UserError, match="at least two different laws; got chinchilla"):
        laws.compare(TABLE, "chinchilla")
    assert {row["residual"] for row in laws.sensitivity(fit, residuals="log").table} == {"log"}  # was "g"
    with pytest.raises(UserError, match="residuals are of log, raw, log1p; got 'logs'"):
        laws.sensitivity(fit, residuals=["logs"])


def test_a_form_of_numpy_is_refused_when_it_is_made():
    with pytest.raises(UserError, match=r"write it with jax\.numpy"):
        laws.form("power", lambda D, E, B: E + B / np.power(D, 0.3), columns="D", params={"E": (1, 3), "B": (1, 9)})
    with pytest.raises(UserError, match="params are ranges or kinds by name"):
        laws.form("power", lambda D, E: E + 1 / D, columns=["D"], params=["E"])


def _alpha(fit):
    return fit.interval("alpha")


def test_fits_are_pickled_copied_and_sent_to_processes(fit, both):
    for own, group in ((fit, None), (both, "a")):
        for twin in (pickle.loads(pickle.dumps(own)), copy.deepcopy(own)):
            assert twin.interval("alpha") == own.interval("alpha")
            mine, other = (each if group is None else each[group] for each in (own, twin))
            assert other.optimal(C=1e21) == mine.optimal(C=1e21) and other.form is mine.form
    assert pickle.loads(pickle.dumps(laws.power_law("C"))) is laws.get_form("power_law_C")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_alpha, [fit]) == [fit.interval("alpha")]


def _own_law(N, D, E, A, B):
    return E + A / N**0.34 + B / D**0.28


def _predicted(fitted):
    return fitted.predict(N=1e9, D=1e10).loss


def test_fits_of_own_laws_are_pickled_copied_and_sent_to_processes():
    law = laws.form("own", _own_law, columns=["N", "D"], params={"E": (1, 3), "A": (1, 1e4), "B": (1, 1e4)})
    fitted = laws.fit(TABLE, law, starts=4)
    for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert twin.params == fitted.params and _predicted(twin) == _predicted(fitted)
    assert pickle.loads(pickle.dumps(fitted)).bootstrap(20).samples.tolist() == fitted.bootstrap(20).samples.tolist()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_predicted, [fitted]) == [_predicted(fitted)]


def _curve(rate):
    return 2 + 1 / np.sqrt(np.cumsum(rate)) - 0.1 * (1 - rate / rate[0])


def test_fits_of_whole_curves_are_pickled_and_copied():
    step = np.arange(20, 201, 20)
    rates = [peak * np.linspace(1, end, 200) for peak, end in ((1e-3, 0.1), (1e-3, 1.0), (2e-3, 0.1))]
    curves = [
        laws.LossCurve(f"r{k}", rate, step.tolist(), _curve(rate)[step - 1].tolist()) for k, rate in enumerate(rates)
    ]
    fitted = laws.fit_curves(curves, "annealing", starts=4)
    for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert twin.params == fitted.params and twin.law is fitted.law
        assert twin.predict(rates[0]).loss.tolist() == fitted.predict(rates[0]).loss.tolist()


def test_curves_are_read_wherever_they_are_fitted():
    runs = [pd.DataFrame({"run": f"r{k}", "learning_rate": k * np.linspace(1, 0.1, 200), **CURVE}) for k in (1, 2)]
    table = pd.concat(runs)
    assert len(laws.read_curves({name: list(column) for name, column in table.items()})) == 2
    curves = laws.read_curves(table)
    assert (
        laws.fit_curves(table, "annealing", starts=2).params == laws.fit_curves(curves, "annealing", starts=2).params
    )
    with pytest.raises(UserError, match="expected loss curves"):
        laws.fit_curves([runs[0]])


def test_figures_take_the_tables_that_the_analyses_take(tmp_path):
    C = np.repeat([1e18, 1e19, 1e20], 5)
    N = 0.1 * C**0.47 * np.tile(np.geomspace(1 / 3, 3, 5), 3)
    loss = 1.69 + 406.4 / N**0.34 + 410.7 / (C / 6 / N) ** 0.28
    table = pd.DataFrame({"params": N, "tokens": C / 6 / N, "loss": loss})
    table.to_csv(tmp_path / "runs.csv", index=False)
    table.to_parquet(tmp_path / "runs.parquet")
    with pytest.raises(UserError, match=r"laws\.fit takes what pandas\.read_parquet makes of it"):
        laws.fit(tmp_path / "runs.parquet")
    for given in (table, tmp_path / "runs.csv"):
        assert report.plot_isoflop(given) and report.plot_optima(given)
        with pytest.raises(UserError, match="neither E nor A"):
            report.plot_experts(given)


def test_records_of_sweeps_are_told_from_other_tables(tmp_path):
    write_runs(sweep_config(), tmp_path / "synthetic", lines=3)
    write_forecast(sweep_config(), tmp_path / "synthetic", lines=3)
    df = load_runs(tmp_path / "synthetic")
    assert any("2 that test a forecast or do not count" in note for note in laws.Runs(df, C="flops").notes)
    runs = laws.from_results(df, where="optimizer.b2 == 0.95", allow="optimizer.b2")
    assert len(runs) == 15 and not any("as they are" in note for note in runs.notes)
    df.to_csv(tmp_path / "runs.csv", index=False)
    assert laws.from_results(pd.read_csv(tmp_path / "runs.csv")).hash == runs.hash  # pytest makes errors of warnings
    with pytest.raises(UserError, match=r"columns={'N': 'COLUMN'}"):
        laws.from_results(df.drop(columns="params_total"))
    with pytest.raises(UserError, match="role must be 'fit' or 'test'; got 'train'"):
        load_runs(tmp_path / "synthetic", role="train")
    with pytest.raises(UserError, match="no folder is given"):
        load_runs([])
    for read in (lambda: load_runs(df), lambda: laws.from_results(tmp_path / "synthetic")):
        with pytest.raises(UserError, match=r"got a table|got PosixPath"):
            read()
