"""Response surfaces over learning rate and batch: known optima are recovered, published ones forecast."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_sweep import Law, sweep_config, write_runs

from scaling import laws
from scaling.cli import main
from scaling.errors import UserError

DATA = Path(__file__).parents[1] / "../shared/published/lr_batch.csv"
TRUTH = {"lr": (1.8, -0.7, 0.3), "B": (0.6, 0.0, 0.57)}


def best(letter, N, D):
    c, a, b = TRUTH[letter]
    return c * N**a * D**b


def table(
    rng, noise=0.002, scatter=0.0, batches=(0.25, 0.5, 1.0, 2.0, 4.0), rates=(0.25, 0.5, 1.0, 2.0, 4.0), skew=0.0
):
    """A grid about the optima of four sizes on four numbers of tokens; ln L is quadratic."""
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(5e7, 1e9, 4), np.geomspace(2e9, 5e10, 4)))
    shift = scatter * rng.standard_normal((2, len(N)))
    rows = []
    for i in range(len(N)):
        for rate in rates:
            for batch in batches:
                u, v = np.log(rate) - shift[0, i], np.log(batch) - shift[1, i]
                rise = 0.015 * u**2 / 2 - 0.005 * u * v + 0.014 * v**2 / 2
                level = 1.7 + 400 / N[i] ** 0.34 + 400 / D[i] ** 0.28
                loss = level * np.exp(rise + noise * rng.standard_normal())
                rows.append((N[i], D[i], rate * best("lr", N[i], D[i]), batch * best("B", N[i], D[i]), loss))
    return pd.DataFrame(rows, columns=["params", "tokens", "learning_rate", "batch_tokens", "loss"])


def test_without_noise_the_laws_of_a_quadratic_basin_come_out():
    surface = laws.response_surface(table(np.random.default_rng(0), noise=0.0), n=200)
    told = surface.to_dict()
    assert told["curvature"]["lr"]["value"] == pytest.approx(0.015, rel=0.02)
    for letter, (_, a, b) in TRUTH.items():
        law = told["laws"][letter]
        assert law["exponents"]["N"]["value"] == pytest.approx(a, abs=0.01)
        assert law["exponents"]["D"]["value"] == pytest.approx(b, abs=0.01)
        at = surface.optimum(1e10, 1e12)[letter]
        assert at.value == pytest.approx(best(letter, 1e10, 1e12), rel=0.03)


def test_the_regret_is_the_loss_lost_beside_the_optimum():
    surface = laws.response_surface(table(np.random.default_rng(0), noise=0.0), n=200)
    N, D = 3e8, 1e10
    at = {letter: 2 * best(letter, N, D) for letter in TRUTH}
    lost = np.expm1(np.log(2) ** 2 * (0.015 / 2 - 0.005 + 0.014 / 2))
    found = surface.regret(N, D, **at)
    assert found.value == pytest.approx(lost, rel=0.05)
    with pytest.raises(UserError, match=r"B=…"):
        surface.regret(N, D, lr=1e-3)


@pytest.mark.parametrize(("scatter", "rates", "batches"), [(0.0, (0.5, 1, 2), (1,)), (0.2, (0.5, 1, 2), (0.5, 1, 2))])
def test_intervals_hold_the_truth_as_often_as_they_say(scatter, rates, batches):
    """The optimum of a new point, which scatters as those of the table do, 16 points, 60 tables."""
    held = {"lr": [], "B": []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        surface = laws.response_surface(table(rng, scatter=scatter, rates=rates, batches=batches), n=400, seed=seed)
        for letter, found in surface.optimum(2e9, 1e11).items():
            true = best(letter, 2e9, 1e11) * np.exp(scatter * rng.standard_normal())
            held[letter].append(found.low <= true <= found.high)
    assert all(0.8 <= np.mean(hits) <= 1.0 for hits in held.values() if hits), held


def test_what_is_to_be_gained_at_three_rates_a_point_has_an_interval():
    data = table(np.random.default_rng(3), noise=0.0005, rates=(0.6, 1.2, 2.4), batches=(1,))
    surface = laws.response_surface(data)
    assert surface.letters == ("lr",)  # one batch a point is no setting
    truth = np.expm1(0.015 / 2 * np.log(1.2) ** 2)
    gains = [point.gain for point in surface.points]
    assert np.mean([gain.low <= truth <= gain.high for gain in gains]) > 0.75
    assert all(gain.low >= 0 for gain in gains)


def test_points_are_told_by_sizes_or_by_labels():
    data = table(np.random.default_rng(0))
    rough = data.assign(tokens=data["tokens"] * np.tile([1.0, 1.003], len(data) // 2))  # whole batches
    assert len(laws.response_surface(rough, n=50).points) == 16
    labels = np.where(data["params"] < 2e8, "a", "b")
    assert len(laws.response_surface(data, point=labels, n=50).points) == 2


def test_an_optimum_beyond_what_was_tried_is_said():
    data = table(np.random.default_rng(0), rates=(0.1, 0.2, 0.4))
    assert any("learning_rate: the optimum of 16 of 16 points lies beyond" in n for n in
               laws.response_surface(data, n=50).notes)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.01}, "no point has runs with two learning rates"),
        ({"batch_tokens": -1.0}, "batch_tokens"),
    ],
)
def test_a_table_without_several_settings_is_refused(change, message):
    data = table(np.random.default_rng(0)).assign(**change)
    with pytest.raises(UserError, match=message):
        laws.response_surface(data)


@pytest.mark.skipif(not DATA.exists(), reason="../shared/published is not here")
def test_step_laws_runs_are_forecast_from_their_smaller_ones():
    data = pd.read_csv(DATA)
    data["tokens"] = data["bsz"] * 2048
    columns = {"N": "non_embedding_param_size", "D": "data_size", "loss": "lm_loss", "lr": "lr", "B": "tokens"}
    surface = laws.response_surface(data, n=400, **columns)
    told = surface.to_dict()["laws"]
    assert told["lr"]["exponents"]["N"]["value"] == pytest.approx(-0.713, abs=0.15)  # published
    assert told["lr"]["exponents"]["D"]["value"] == pytest.approx(0.307, abs=0.05)
    assert told["B"]["exponents"]["D"]["value"] == pytest.approx(0.571, abs=0.05)
    judged = surface.backtest(2e19)
    assert len(judged) > 20 and judged["regret"].mean() < 0.0006
    assert judged["lr_inside"].mean() > 0.8


def test_the_command_line_says_it_of_a_table_and_of_a_tuned_sweep(tmp_path, capsys):
    data = table(np.random.default_rng(0))
    data.rename(columns={"learning_rate": "eta"}).to_csv(tmp_path / "t.csv", index=False)
    assert main(["fit", str(tmp_path / "t.csv"), "--tuning", "--column", "lr=eta", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["laws"]["lr"]["exponents"]["N"]["value"] == pytest.approx(-0.7, abs=0.05)
    home = tmp_path / "s"
    write_runs(
        sweep_config(tuning={"learning_rate": [0.5, 1, 2]}), home, Law(best_factor=1.2, curvature=0.02), lines=2
    )
    assert main(["fit", str(home), "--tuning", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert len(points) == 15
    truth = np.expm1(0.02 * np.log(1.2) ** 2)
    assert all(point["gain"]["low"] <= truth <= point["gain"]["high"] for point in points)


def test_runs_of_several_recipes_and_options_that_are_not_read_are_refused(tmp_path, capsys):
    """Without a word the one would mix losses of two optimizers, the other fit what `--where` leaves out."""
    tried = {"learning_rate": [0.5, 1, 2]}
    for name, decay in (("a", 0.1), ("b", 0.3)):
        own = {"b2": 0.95, "weight_decay": decay}
        config = sweep_config(name=name, tuning=tried, run={**sweep_config().run, "optimizer": own})
        write_runs(config, tmp_path / name, Law(best_factor=1.2, curvature=0.02), lines=2)
    folders = [str(tmp_path / "a"), str(tmp_path / "b"), "--tuning"]
    assert main(["fit", *folders]) == 2
    assert "optimizer.weight_decay: 0.1" in capsys.readouterr().err
    assert main(["fit", *folders, "--allow", "optimizer.weight_decay", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["points"]) == 30 and told["conventions"]["allowed"] == "optimizer.weight_decay"
    assert "nats per token" in told["conventions"]["loss"] and told["runs"] == 90
    assert main(["fit", *folders, "--where", "optimizer.weight_decay == 0.3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["points"]) == 15
    for option in (["--law", "clark"], ["-o", "x.json"], ["--suggest"], ["--objective", "l1"]):
        assert main(["fit", *folders, *option]) == 2
        assert "is not for --tuning, which reads --" in capsys.readouterr().err
    assert main(["fit", *folders, "--column", "lr=eta"]) == 2 and "applies to CSVs" in capsys.readouterr().err
    assert main(["fit", *folders, "--bootstrap", "0"]) == 2
