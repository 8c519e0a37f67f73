"""What a forecast is made of: near runs rule the law, priors hold it, and its form's own error is added."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import laws
from scaling.errors import UserError
from scaling.laws.intervals.discrepancy import Discrepancy, Errors
from scaling.laws.predict.discrepancy import learned, own_cuts, sharpened
from scaling.laws.predict.near_law import LEAST_NOISE, SLOPE, known_before, near_law, nearness, steepness
from scaling.laws.solve import linear

PUBLISHED = Path(__file__).parents[1] / "../shared/published"


def chinchilla(n, d):
    return 1.8 + 480 / n**0.35 + 2100 / d**0.37


def grid(budgets=(1e18, 3e18, 1e19, 3e19), widths=7, noise=0.0, seed=0, law=chinchilla):
    """IsoFLOP budgets around 20 tokens a parameter, from a tenth to ten times the size."""
    rng = np.random.default_rng(seed)
    C = np.repeat(budgets, widths)
    n = np.sqrt(C / 120) * np.tile(np.geomspace(0.1, 10, widths), len(budgets))
    d = C / (6 * n)
    return laws.Runs({"params": n, "tokens": d, "loss": law(n, d) * np.exp(noise * rng.standard_normal(len(n)))})


def test_a_run_counts_by_how_near_it_is_to_the_best_of_no_more_flops():
    runs = laws.Runs(
        {"params": [1e6, 2e6, 4e6, 8e6], "tokens": [1e8] * 4, "loss": [4.0, 4.0 * np.exp(0.02), 3.9, 4.4]}
    )
    weights = nearness(runs)
    assert weights[[0, 2]] == pytest.approx(1.0)
    assert weights[1] == pytest.approx(0.5)  # 2 % above
    assert weights[3] == pytest.approx(1 / (1 + (np.log(4.4 / 3.9) / 0.02) ** 2))


def test_runs_far_from_the_optimum_do_not_bend_the_forecast():
    """Losses of too few tokens a parameter lie above the law, as those of real wide grids do."""

    def strained(n, d):
        return chinchilla(n, d) * (1 + 0.2 * np.maximum(np.log(3 * n / d), 0))

    runs = grid(law=strained, noise=0.001)
    N, D = 3e9, 6e10
    made = laws.Forecaster(runs).forecast(N, D, 6 * N * D)
    alike = laws.fit(runs, loss=laws.huber(0.02)).predict(N=N, D=D).loss
    error, error_alike = (abs(np.log(loss / chinchilla(N, D))) for loss in (made.loss, alike))
    assert error < 0.005 and error_alike > 0.05


@pytest.mark.parametrize("law", ["auto", "average", "chinchilla"])
def test_on_runs_of_the_true_form_the_forecast_is_right(law):
    runs = grid(budgets=(1e18, 4e18, 1.6e19), widths=5)
    for ahead in (4, 30):
        C = ahead * 1.6e19
        N, D = laws.Forecaster(runs, law).size(C)
        made = laws.Forecaster(runs, law).forecast(N, D, C)
        assert made.loss == pytest.approx(chinchilla(N, D), rel=0.01)
        assert made.low < chinchilla(N, D) < made.high


def test_the_discrepancy_grows_as_a_random_walk_in_log_flops():
    known = Discrepancy(kappa=0.01, law=1.0)
    assert known.form_sd(np.exp([-1.0, 0.0, 1.0, 4.0])) == pytest.approx([0.0, 0.0, 0.01, 0.02])
    widths = []
    for C in (4e19, 4e20, 4e21):
        made = laws.Forecaster(grid()).forecast(np.sqrt(C / 120), C / 6 / np.sqrt(C / 120), C)
        widths.append(made.spread["discrepancy"])
    squares = np.square(widths)
    assert squares[1] - squares[0] == pytest.approx(squares[2] - squares[1], rel=0.05)


def test_own_cuts_move_what_was_learned_by_as_much_as_they_are_worth():
    known = Discrepancy(kappa=0.01, law=0.5)
    size = np.full(5, np.e)
    expected = Errors(np.zeros(5), np.zeros(5), np.zeros(5), size, np.ones(5))
    twice = replace(expected, error=np.full(5, 0.02))  # of a standard deviation of 0.01
    assert known.sharpened([], 16.0) == known
    assert known.sharpened([expected] * 4, 16.0).widened == pytest.approx(np.sqrt(16 / 20))
    assert known.sharpened([twice] * 4, 16.0).widened == pytest.approx(np.sqrt((16 + 4 * 4) / 20))
    wild = replace(expected, error=np.full(5, 9.0))
    assert known.sharpened([wild], 16.0).own == (9.0,)  # one catastrophe counts as three deviations


def test_runs_that_the_law_does_not_hold_for_widen_their_own_interval():
    def broken(n, d):
        """Falls faster than any power law with an offset up to a budget, then hardly."""
        return chinchilla(n, d) * np.exp(-0.06 * np.minimum(np.log(6 * n * d / 1e18), 2.0))

    budgets = np.geomspace(1e18, 1e20, 6)
    widened = [laws.Forecaster(grid(budgets, 5, 0.002, law=law)).discrepancies[0] for law in (chinchilla, broken)]
    assert len(widened[0].own) >= 3
    assert widened[0].widened < 1 < widened[1].widened


# Byte-level transformers on the Python standard library, three sizes at each of 7e9, 2.1e10 and 7e10 FLOPs: the least
# losses fall with the power .07 of FLOPs and then .11, which no sum of power laws does.
SMALL = {
    "params": [7104, 5260, 3912, 8944, 6624, 12080, 21464, 11760, 15892],
    "tokens": [128000, 186880, 197632, 269824, 406016, 217600, 423936, 739328, 586752],
    "flops": [6.991872e9, 6.996787e9, 7.000916e9, 2.098151e10, 2.100889e10, 2.101494e10, 6.995961e10, 6.998183e10,
              7.001594e10],
    "loss": [2.475897, 2.44392, 2.452448, 2.266465, 2.262857, 2.291766, 1.988679, 2.011306, 1.98694],
}  # fmt: skip
BEYOND = {"N": 32444, "D": 1124864, "flops": 2.8001e11}
REACHED = 1.706881


def test_errors_at_the_last_own_cut_that_no_chance_explains_refute_the_law():
    published = Discrepancy(kappa=0.01, law=1.0)
    within, beyond = (
        Errors(np.full(3, error), np.zeros(3), np.zeros(3), np.full(3, np.e), np.ones(3)) for error in (0.03, 0.035)
    )  # of a standard deviation of .01: 99 in 100 of Student's t of ten degrees of freedom are below 3.17 of them
    for cuts, widened in (([beyond, within], None), ([within, beyond], 3.5), ([], None)):
        moved = sharpened(published, cuts, 16.0)
        assert moved.widened == pytest.approx(widened or published.sharpened(cuts, 16.0).widened)
    runs = laws.Runs(SMALL)
    maker = laws.Forecaster(runs)
    made = maker.forecast(**BEYOND)
    assert len(maker.own_cuts[0]) == 1  # of nine runs, six
    assert "interaction does not hold for these runs" in made.doubt and "% too high" in made.doubt
    narrow = replace(maker.discrepancies[0], widened=1.0)
    assert made.low < REACHED < made.high
    maker.scale /= 2
    assert np.log(maker.forecast(**BEYOND).high / made.loss) == pytest.approx(np.log(made.high / made.loss) / 2)
    maker.scale *= 2
    maker.discrepancies = (narrow,)
    assert maker.forecast(**BEYOND).low > REACHED
    assert not laws.Forecaster(grid((1e18, 3e18, 1e19), 3, 0.002)).forecast(1e9, 2e10, 1.2e20).doubt


@pytest.mark.parametrize("C", [1e11, 1e17])
@pytest.mark.parametrize(
    "power, share, told", [(0.14, 1, True), (0.12, 2 / 3, True), (0.11, 1 / 3, False), (0.1, 0, False)]
)
def test_steep_ladders_have_the_interval_of_such(C, power, share, told):
    """κ grows from what is learned at .1 to 5 % at .13; what the runs' own cuts say of it is set aside."""
    flops = np.repeat([C, 3 * C, 10 * C], 3)
    n = flops**0.5 / 11 * np.tile([0.8, 1, 1.25], 3)
    runs = laws.Runs({"params": n, "tokens": flops / 6 / n, "loss": 3 * (flops / C) ** -power})
    assert steepness(runs) == pytest.approx(power)
    maker = laws.Forecaster(runs)
    made = maker.forecast(n[-2] * 2, flops[-1] / 3 / n[-2], 4 * flops[-1])
    assert (f"fall with the power {power:.2f} of FLOPs" in made.doubt) == told
    plain = learned().of("interaction").kappa
    assert maker.discrepancies[0].kappa == pytest.approx(plain + share * (0.05 - plain), rel=1e-6)


def test_one_budget_does_not_say_how_fast_losses_fall():
    """Of a curve that bends more than the law's, as where short runs lack steps, the slope is the published one."""
    n = 1e8 * np.geomspace(0.3, 3, 12)
    flops = 1e19 * (1 + 0.01 * np.arange(12))  # whole batches
    bend = {"params": n, "tokens": flops / 6 / n, "loss": 3 * np.exp(0.06 * np.log(n / 1e8) ** 2)}
    runs = laws.Runs(bend)
    assert steepness(runs) == 0
    made = laws.Forecaster(runs).forecast(2e8, 4e19 / 6 / 2e8, 4e19)
    assert np.log(3 / made.loss) / np.log(4) == pytest.approx(SLOPE.mean, abs=0.02)
    assert "the runs are of one budget" in made.doubt
    assert made.recipe["discrepancy"]["interaction"]["slope"] == SLOPE.sd
    assert any("and 1.20% per e-fold" in note for note in made.notes)
    far = laws.Forecaster(runs).forecast(1e9, 1e21 / 6e9, 1e21)  # a slope that is off leads astray in proportion
    assert made.spread["discrepancy"] == pytest.approx(SLOPE.sd * np.log(4e19 / flops.max()), rel=0.1)
    assert far.spread["discrepancy"] == pytest.approx(SLOPE.sd * np.log(1e21 / flops.max()), rel=0.1)
    two = laws.Runs(
        {
            key: np.append(column, column * factor)
            for (key, column), factor in zip(bend.items(), (2, 2, 0.92), strict=True)
        }
    )
    of_two = laws.Forecaster(two)
    assert "one budget" not in of_two.forecast(2e8, 8e19 / 6 / 2e8, 8e19).doubt
    assert of_two.own_cuts[0] == []  # a cut at the first would judge the published slope, not the law


def test_a_rolling_origin_uses_no_run_beyond_its_cut():
    runs = grid().sorted()
    form = laws.get_form("interaction")
    seen = runs.flops < 1e19
    changed = laws.Runs(
        {"params": runs.N, "tokens": runs.D * np.where(seen, 1, 3), "loss": runs.loss * np.where(seen, 1, 2)}
    )
    C = {"C": runs.flops}
    one, other = (
        near_law(laws.Runs({"params": r.N, "tokens": r.D, "loss": r.loss, **C}, C="C"), form,
                 known_before(form, runs.exclude(~seen, "unseen"), {}), seen)
        for r in (runs, changed)
    )  # fmt: skip
    at = {"N": np.array([1e9]), "D": np.array([2e10]), "C": np.array([1.2e20])}
    assert one.log_loss(at) == pytest.approx(other.log_loss(at), abs=1e-7)
    assert own_cuts(grid((1e18, 2e18), 4), form, known_before(form, runs, {})) == []


def test_noise_has_a_floor_and_is_found():
    form = laws.get_form("interaction")
    for noise, expected in ((0.0, LEAST_NOISE), (0.01, 0.01)):
        runs = grid(widths=15, noise=noise, seed=3)
        assert near_law(runs, form, known_before(form, runs, {})).noise == pytest.approx(expected, rel=0.35)


def test_checkpoints_of_a_run_count_as_one():
    """Each row three times over says no more than once where it is said to be of one run."""
    runs, wanted = grid(widths=5, noise=0.01), ("loss", "low", "high")
    at = {letter: np.array([value]) for letter, value in (("N", 1e9), ("D", 2e10), ("C", 1.2e20), ("M", 20.0))}
    alone = laws.Forecaster(runs).forecast(1e9, 2e10, 1.2e20)
    thrice = {"N": np.repeat(runs.N, 3), "D": np.repeat(runs.D, 3), "loss": np.repeat(runs.loss, 3)}
    named = laws.Runs({**thrice, "run": np.repeat(np.arange(len(runs)), 3)}, run="run", duplicates="keep")
    maker = laws.Forecaster(named)
    told = maker.forecast(1e9, 2e10, 1.2e20)
    # the search for the noise, within 2 % of which the width is the same, ends elsewhere
    assert [getattr(told, name) for name in wanted] == pytest.approx(
        [getattr(alone, name) for name in wanted], rel=0.02 * np.log(alone.high / alone.loss)
    )
    assert any(note.startswith(f"rows are checkpoints of {len(runs)} training runs") for note in told.notes)
    untold = laws.Forecaster(laws.Runs(thrice, duplicates="keep"))
    assert untold.laws[0].sd(at) < 0.8 * maker.laws[0].sd(at)


def test_a_forecast_without_a_useful_interval_is_refused():
    maker = laws.Forecaster(grid(widths=5))
    found = maker.laws[0]
    square = np.eye(len(found.theta))
    wide = [replace(found, covariance=sd * found.covariance.max() * square) for sd in (np.nan, 1e6)]
    for law in (*wide, replace(found, theta=found.theta + 1e3 * square[0])):  # the last one's loss is infinite
        maker.laws = (law,)
        with warnings.catch_warnings(), pytest.raises(UserError, match="20 runs leave interaction without a useful"):
            warnings.simplefilter("error", RuntimeWarning)
            maker.forecast(1e9, 2e10, 1.2e20)
    infinite = linear.derivative(lambda lanes: np.full((len(lanes), 2), np.inf), np.zeros(3))
    assert infinite.shape == (2, 3) and np.isnan(infinite).all()


def test_ones_own_priors_replace_the_published_ones():
    runs = grid(widths=5)
    made = laws.Forecaster(runs, priors={"alpha": laws.Prior(0.5, 0.001)}).forecast(1e9, 2e10, 1.2e20)
    assert made.params["alpha"] == pytest.approx(0.5, abs=0.005)
    assert "prior: alpha 0.5 ± 0.001" in made.notes and "prior: beta 0.3 ± 0.1" in made.notes
    with pytest.raises(UserError, match="priors: no gamma: interaction has E, A"):
        laws.Forecaster(runs, priors={"gamma": laws.Prior(0, 1)})


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("chinchilla", {"E", "alpha", "beta"}),
        ("chinchilla_equal", {"E", "alpha"}),
        ("interaction", {"E", "alpha", "beta", "eta", "zeta"}),
        ("chinchilla_no_offset", set()),  # whose exponents are a third of those above an offset
        ("farseer", set()),  # whose alpha and beta are no exponents of N and D
    ],
)
def test_published_exponents_are_priors_only_where_they_are_meant(name, known):
    assert set(known_before(laws.get_form(name), grid(), {})) == known
    own = {"E": laws.Prior(1.0, 0.1)}
    assert known_before(laws.get_form("chinchilla"), grid(), own)["E"] == own["E"]


def test_several_laws_are_averaged_by_akaike_weights():
    runs = grid(noise=0.002)
    names = ["chinchilla", "chinchilla_no_offset"]
    made = laws.Forecaster(runs, names).forecast(1e9, 2e10, 1.2e20)
    each = {name: laws.Forecaster(runs, name).forecast(1e9, 2e10, 1.2e20) for name in names}
    assert sum(made.laws.values()) == pytest.approx(1) and made.laws["chinchilla"] > 0.9
    average = sum(made.laws[name] * np.log(each[name].loss) for name in names)
    assert np.log(made.loss) == pytest.approx(average)
    assert made.spread["models"] > 0 and any("Akaike weights" in note for note in made.notes)


@pytest.mark.parametrize(
    ("law", "said"),
    [
        ("chinchila", "no law 'chinchila'; did you mean chinchilla"),
        ([], "law is empty"),
        ("context", "context reads T; a forecast is for N, D and their FLOPs"),
        ("power_law_C", "take a law of two of N, D, C and M"),
    ],
)
def test_what_cannot_forecast_is_one_line(law, said):
    with pytest.raises(UserError, match=said):
        laws.Forecaster(grid(), law)


def test_few_runs_are_forecast_by_chinchillas_law():
    runs = grid(budgets=(1e18, 1e19), widths=3)
    assert [form.name for form in laws.Forecaster(runs).forms] == ["chinchilla"]
    assert [form.name for form in laws.Forecaster(grid()).forms] == ["interaction"]


def test_what_was_learned_says_where_it_comes_from():
    shipped = learned()
    assert shipped.provenance["sets"] and "forecasting.py" in shipped.provenance["command"]
    assert set(shipped.record) == set(shipped.provenance["sets"])
    assert {"interaction", "chinchilla"} <= set(shipped.laws)
    largest = max(law["kappa"] for law in shipped.laws.values())
    assert shipped.of(laws.get_form("kaplan_ND")).kappa == largest


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.exists(), reason="../shared/published is not here")
def test_published_runs_are_forecast_without_bias_and_within_the_interval():
    """DCLM's isoFLOP table and RefinedWeb's wide grid, 4 to 30 times beyond half of their budgets."""
    marin = pd.read_csv(PUBLISHED / "marin_isoflops.csv")
    porian = pd.read_csv(PUBLISHED / "porian_refinedweb_isoflops.csv")
    tables = {
        "dclm": marin[marin.experiment.str.contains("dclm")],
        "refinedweb": porian.query("hparams == 'tuned' and val == 'val' and param_count == 'standard'"),
    }
    errors, inside = [], []
    for table in tables.values():
        table = table.assign(C=6 * table.params * table.tokens)
        cut = np.exp(np.log(table.C).quantile([0, 1]).mean())
        tests = table[(4 * cut < table.C) & (30 * cut > table.C) & (table.tokens > 5 * table.params)]
        forecaster = laws.Forecaster(laws.Runs(table[cut >= table.C][["params", "tokens", "loss"]]))
        for run in tests.sample(min(len(tests), 20), random_state=0).itertuples():
            made = forecaster.forecast(run.params, run.tokens, run.C)
            errors.append(np.log(made.loss / run.loss))
            inside.append(made.low <= run.loss <= made.high)
    assert abs(np.mean(errors)) < 0.01 and np.mean(np.abs(errors)) < 0.02
    assert np.mean(inside) >= 0.8


@pytest.mark.skipif(not PUBLISHED.exists(), reason="../shared/published is not here")
def test_a_law_whose_parameters_run_off_says_so_in_one_line():
    table = pd.read_csv(PUBLISHED / "epoch_chinchilla.csv")
    table = table[table.loss > 0].drop_duplicates(["params", "tokens", "loss"])
    cheap = table[table.params * table.tokens <= 5.507252807696328e18 / 6]
    with pytest.raises(UserError, match="17 runs do not determine farseer"):
        laws.Forecaster(laws.Runs(cheap[["params", "tokens", "loss"]]), "farseer").forecast(1e9, 2e10, 1.2e20)
