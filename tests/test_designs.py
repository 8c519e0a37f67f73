"""Designs: what they promise about budgets, sizes and seeds, and what they refuse."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling import accounting
from scaling.config import SweepConfig, build, load, merge
from scaling.errors import UserError
from scaling.sweeps import describe_sweep, format_sweep, make_runs, make_test_runs, run_sweep
from scaling.sweeps.designs import expected_optimum, make
from scaling.sweeps.executors import Devices
from scaling.sweeps.executors.environment import Platform
from scaling.sweeps.plan import estimate

CONFIGS = Path(__file__).parents[1] / "configs"

BASE: dict[str, Any] = {
    "name": "s",
    "run": {
        "model": {"vocab": 256, "context": 128, "activation": "relu2"},
        "data": {"corpus": "python_stdlib"},
        "batch_size": 4,
    },
    "ladder": {"aspect": 16, "d_head": 16, "width_multiple": 8, "ff_multiple": 1},
    "learning_rate": {"kind": "width", "width": 16, "learning_rate": 0.02, "exponent": -0.9},
    "design": {
        "kind": "isoflop", "budgets": [1e11, 1e12], "sizes": 3, "spacing": 1.6,
        "center_flops": 3e11, "center_params": 40e3, "center_exponent": 0.5,
    },
}  # fmt: skip


def sweep(**changes: Any) -> SweepConfig:
    return build(SweepConfig, merge(BASE, changes), "test")


def grid(axes: dict[str, list[Any]], **changes: Any) -> SweepConfig:
    values = merge(BASE, changes) | {"design": {"kind": "grid", "axes": axes}}
    values["run"] = {"tokens": 100_000} | values["run"]
    return build(SweepConfig, values, "test")


def listed(sizes: list[float]) -> SweepConfig:
    points = [{"params": size, "tokens": 1e3} for size in sizes]
    return build(SweepConfig, BASE | {"design": {"kind": "list", "points": points}}, "test")


@settings(max_examples=25)
@given(
    budget=st.floats(3e11, 1e14),
    sizes=st.integers(3, 6),
    spacing=st.floats(1.3, 2.0),
    context=st.sampled_from([64, 128]),
    batch=st.integers(1, 16),
)
def test_isoflop_meets_its_budget_and_spaces_its_sizes(
    budget: float, sizes: int, spacing: float, context: int, batch: int
) -> None:
    config = sweep(
        run={"model": {"context": context}, "batch_size": batch},
        design={"budgets": [budget], "sizes": sizes, "spacing": spacing, "center_params": 100e3},
        learning_rate={"exponent": -1.0},
    )
    runs = make_runs(config)
    assert runs == make_runs(config) and len(runs) == sizes
    for run in runs:
        per_token = accounting.flops_per_token(run.config.model).exact  # the ledger has tests of its own
        tokens = run.config.steps * run.config.batch_tokens
        assert tokens == run.config.tokens == run.config.steps * batch * context
        assert abs(per_token * tokens - budget) <= 0.5 * per_token * batch * context * (1 + 1e-9)
        assert run.flops == pytest.approx(per_token * tokens, rel=1e-12)
        assert run.config.optimizer.learning_rate == pytest.approx(0.02 * 16 / run.config.model.d_model)
    for small, large in pairwise(runs):
        assert large.params / small.params == pytest.approx(spacing, rel=0.021)  # each within 1 % of its target
    center = 100e3 * (budget / 3e11) ** 0.5
    assert runs[0].params * runs[-1].params == pytest.approx(center**2, rel=0.021)


def test_seeds_replicate_every_run_and_change_nothing_else() -> None:
    runs = make_runs(sweep(seeds=[0, 7]))
    assert len(runs) == 12 and len({run.id for run in runs}) == 12
    for first, second in zip(runs[::2], runs[1::2], strict=True):
        assert first.config.model_copy(update={"seed": 7}) == second.config
        assert (first.label["seed"], second.label["seed"]) == (0, 7)


def test_grid_is_the_product_of_its_axes_and_asks_the_ladder() -> None:
    axes = {
        "model.params": [20e3, 60e3],
        "optimizer.learning_rate": [0.01, 0.02],
        "model.norm": ["rmsnorm", "layernorm"],
    }
    runs = make_runs(grid(axes, learning_rate=None))
    assert len(runs) == 8
    assert {(r.label["model.params"], r.config.optimizer.learning_rate, r.config.model.norm) for r in runs} == {
        (n, lr, norm) for n in (20e3, 60e3) for lr in (0.01, 0.02) for norm in ("rmsnorm", "layernorm")
    }
    for run in runs:
        assert run.params == pytest.approx(run.label["model.params"], rel=0.01)
        assert run.config.tokens == 100_000
        assert run.flops == accounting.flops_per_token(run.config.model).exact * run.config.steps * 512


def test_zipped_keys_go_together_and_are_crossed_with_the_axes() -> None:
    design = {
        "kind": "grid",
        "axes": {"optimizer.b2": [0.9, 0.95]},
        "zip": {"model.params": [20e3, 40e3, 60e3], "tokens": [100_000, 50_000, 30_000]},
    }
    values = {**BASE, "design": design, "run": {**BASE["run"], "optimizer": {"weight_decay": 0.2}}}
    runs = make_runs(build(SweepConfig, values, "test"))
    assert [(run.config.optimizer.b2, run.label["model.params"], run.config.tokens) for run in runs] == [
        (b2, *pair) for b2 in (0.9, 0.95) for pair in ((20e3, 100_000), (40e3, 50_000), (60e3, 30_000))
    ]
    for run in runs:
        assert run.params == pytest.approx(run.label["model.params"], rel=0.01)
    alone = make_runs(build(SweepConfig, values | {"design": {**design, "axes": {}}}, "test"))
    assert [run.config.tokens for run in alone] == [100_000, 50_000, 30_000]


def test_a_listed_run_may_have_seeds_of_its_own() -> None:
    points = [{"params": 20e3, "tokens": 1e5}, {"params": 40e3, "tokens": 2e5, "seeds": [5, 6, 7]}]
    values = {**BASE, "design": {"kind": "list", "points": points}, "seeds": [0, 1]}
    runs = make_runs(build(SweepConfig, values, "test"))
    assert [(run.config.tokens, run.config.seed) for run in runs] == [
        *((100_000, seed) for seed in (0, 1)),
        *((200_000, seed) for seed in (5, 6, 7)),
    ]


def test_where_runs_compute_and_are_kept_does_not_change_their_ids(tmp_path: Path) -> None:
    here = make_runs(sweep(), folder=str(tmp_path))
    moved = make_runs(sweep(name="other", run={"placement": {"remat": "full"}}))
    assert [run.id for run in here] == [run.id for run in moved]
    assert here[0].config.records.folder == str(tmp_path) and moved[0].config.records.sweep == "other"


def test_test_runs_take_the_budget_of_the_forecast() -> None:
    config = sweep(forecast={"flops": 4e12, "seeds": [0, 1, 2]})
    runs = make_test_runs(config, 150e3)
    assert [run.config.seed for run in runs] == [0, 1, 2] and len({run.id for run in runs}) == 3
    for run in runs:
        assert run.params == pytest.approx(150e3, rel=0.01)
        assert run.flops == pytest.approx(4e12, rel=0.002)
        assert run.config.records.checkpoint_steps == run.config.steps  # the last state, to generate text from
    own = sweep(forecast={"flops": 4e12}, run={"records": {"checkpoint_steps": 100}})
    assert make_test_runs(own, 150e3)[0].config.records.checkpoint_steps == 100


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (sweep(run={"tokens": 5}), r"run\.tokens is set by design\.budgets"),
        (sweep(run={"model": {"d_model": 64}}), r"run\.model\.d_model is set by the ladder"),
        (sweep(run={"seed": 1}), r"run\.seed is set by seeds"),
        (sweep(run={"records": {"role": "test"}}), r"run\.records\.role is set by forecast"),
        (sweep(run={"optimizer": {"learning_rate": 0.1}}), r"run\.optimizer\.learning_rate is set by learning_rate"),
        (sweep(learning_rate=None),
         r"budget=1e\+11.*`run\.optimizer` is missing; it needs at least run\.optimizer\.learning_rate$"),
        (sweep(run={"model": {"contxt": 12}}), r"contxt.*context"),
        (sweep(run={"data": {"epoch": 2}}), r"unknown key `run\.data\.epoch`; did you mean `epochs`"),
        (sweep(seeds=[-1]), r"`seeds` should be greater than or equal to 0, got -1"),
        (sweep(run={"batch_size": None}), "batch_size"),
        (sweep(design={"budgets": [1e11, 1e11]}),
         r"two runs are identical .*: design\.budgets lists 1e\+11 twice; remove one of them$"),
        (sweep(seeds=[0, 1, 0]), r"two runs are identical .*: seeds lists 0 twice; remove one of them$"),
        (listed([20e3, 20e3]),
         r"two runs are identical .*: target_params=20000, target_tokens=1000, seed=0 occurs twice"),
        (sweep(design={"budgets": [1e6], "center_exponent": 0.1}), r"budget of 1e\+06 FLOPs is less than one batch"),
        (sweep(design={"center_params": 100}), r"1e\+11 FLOPs needs 36\.\d+ parameters: no shape .* within 9\.8"),
        (sweep(design={"center_params": 100}),
         r"; raise design\.center_params or the budget, or lower ladder\.width_mul"),
        (sweep(design={"center_params": 100}, ladder={"width_multiple": 1, "ff_multiple": 1, "d_head": 2}),
         r"d_ff=\d+; raise design\.center_params or the budget$"),
        (listed([1]), r"; use that size, or lower ladder"),
        (sweep(ladder={"width_multiple": 64, "ff_multiple": 64}), "no shape of the ladder has"),
        (grid({"model.params": [20e3, 20e3]}),
         r"two runs are identical .*: design\.axes\.model\.params lists 20000.* twice"),
        (grid({"model.params": [True]}), r"model\.params: True is not a number"),
        (grid({"model.params": [20e3], "model.layers": [1]}), r"design\.axes\.model\.layers and the ladder both set"),
        (grid({"seed": [1, 2]}), r"design\.axes\.seed is not allowed.* write `seeds: \[1, 2\]`"),
        (grid({"model.parms": [1e4]}),
         r"design\.axes\.model\.parms: unknown key `model\.parms`; did you mean `params`"),
        (grid({"model.params": [2e4], "optimizer.b2": [2]}),
         r"`design\.axes\.optimizer\.b2` should be less than 1, got 2"),
        (grid({"optimzer.b2": [0.9]}),
         r"design\.axes\.optimzer\.b2: unknown key `optimzer`; did you mean `optimizer`"),
        (grid({"optimizer.learning_rate": [0.1]}), "both set optimizer.learning_rate"),
        (build(SweepConfig, {**BASE, "design": {"kind": "grid", "zip": {"seed": [1]}}}, "t"),
         r"design\.zip\.seed is not allowed.* write `seeds: \[1\]`"),
        (grid({"tokens": [1000]}), r"run\.tokens is set by design\.axes\.tokens"),
        (grid({"model.nrom": ["rmsnorm"]}, run={"model": {"layers": 1, "d_model": 8, "n_heads": 1}}), "nrom.*norm"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line_that_names_the_key(config: SweepConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make_runs(config)
    assert "\n" not in str(error.value)


PATTERN = [{"kind": "mlp"}, {"kind": "moe", "experts": 8}]


@pytest.mark.parametrize(
    ("axes", "base"),
    [
        ({"model.feed_forward.sparsity": [0.5, 0.75]}, PATTERN),
        ({"model.feed_forward.kind": ["moe"]}, PATTERN),
        ({"model.feed_forward": [PATTERN, None], "model.feed_forward.experts": [4, 8]}, None),
    ],
)
def test_an_axis_that_goes_into_a_list_is_told_that_it_does(axes: dict[str, list[Any]], base: Any) -> None:
    model = BASE["run"]["model"] | {"feed_forward": base} if base else BASE["run"]["model"]
    with pytest.raises(UserError) as error:
        make_runs(grid(axes | {"model.params": [40e3]}, run={"model": model}))
    key = list(axes)[-1]
    assert f"design.axes.{key}: `{key}` is inside `model.feed_forward`, which is a list" in str(error.value)
    assert "each value is then a whole list" in str(error.value)


def test_sizes_that_the_ladder_cannot_tell_apart_are_named() -> None:
    config = sweep(design={"budgets": [1e11], "spacing": 1.0001})
    with pytest.raises(UserError, match=r"two runs are identical .*target_params=23\d\d\d.*target_params=23\d\d\d"):
        make_runs(config)


def test_plan_adds_up_and_its_time_is_that_of_the_slots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(estimate, "find_devices", lambda: Devices("cpu", (0, 1), "cpu"))
    config = sweep(forecast={"flops": 4e12}, design={"sizes": 4})
    described = json.loads(json.dumps(describe_sweep(config, tmp_path)))
    runs = make_runs(config)
    assert [row["run_id"] for row in described["runs"]] == [run.id for run in runs]
    (test,) = make_test_runs(config, expected_optimum(config, 4e12) or 0)
    assert described["total"]["flops"] == pytest.approx(sum(run.flops for run in (*runs, test)))
    assert described["total"]["runs"] == 9 and described["left"]["runs"] == 9
    assert all(row["memory_bytes"] > 16 * row["params"] for row in described["runs"])  # weights, gradient, 2 moments
    # eight runs on two slots, four of each cost: each slot takes two of each; then the test run
    per_slot = sum(run.flops for run in runs) / 2 / estimate.ASSUMED_CORE + 4 * estimate.START_S
    tested = test.flops / estimate.ASSUMED_CORE + estimate.START_S
    assert described["left"]["seconds"] == pytest.approx(per_slot + tested, rel=0.01)
    (row,) = described["forecast"]["runs"]
    assert described["forecast"]["expected"] and row["run_id"] is None and row["seconds"] == pytest.approx(tested)
    assert (row["role"], row["params"], row["tokens"]) == ("test", test.params, test.tokens)
    text = format_sweep(described)
    assert all(run.id in text for run in runs) and "assumed" in text and "1 test run of 4e+12" in text
    assert list(tmp_path.iterdir()) == []


def test_runs_are_built_once_and_planned_in_the_folder_of_their_records(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[int] = []
    plan_points = make.plan_points
    monkeypatch.setattr(make, "plan_points", lambda *args: built.append(1) or plan_points(*args))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for records, folder in (({}, "runs"), ({"folder": "~/mine"}, f"{tmp_path}/mine")):
        described = describe_sweep(sweep(run={"records": records}))
        assert described["folder"] == f"{folder}/{sweep().name}"
    assert describe_sweep(sweep(), "elsewhere")["folder"] == f"elsewhere/{sweep().name}"
    assert len(built) == 3
    with pytest.raises(UserError, match="files:unused"):  # before anything is launched, after all runs were built
        run_sweep(sweep(run={"data": {"corpus": "files:unused"}}), folder=tmp_path)
    assert len(built) == 4


def test_memory_in_a_plan_is_that_of_the_precision_of_its_devices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def memory(platform: Platform, kind: str, **placement: str) -> list[int]:
        monkeypatch.setattr(estimate, "find_devices", lambda: Devices(platform, (0,), kind))
        config = sweep(run={"placement": {"attention": "reference", **placement}})
        return [row["memory_bytes"] for row in describe_sweep(config, tmp_path)["runs"]]

    whole, half = (memory("cpu", "cpu", compute_dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert memory("cpu", "cpu") == whole and all(a > 1.2 * b for a, b in zip(whole, half, strict=True))
    assert memory("gpu", "NVIDIA H100 80GB HBM3") == memory("gpu", "NVIDIA H100 80GB HBM3", compute_dtype="bfloat16")
    assert memory("gpu", "NVIDIA H100 80GB HBM3") == half and memory("tpu", "TPU") == half


def test_plan_for_a_cluster_counts_its_devices_and_not_this_machines(tmp_path: Path) -> None:
    slurm = {"gpus": 1, "gpu": "h100", "array_parallelism": 3}
    speed = describe_sweep(sweep(executor={"kind": "slurm", "slurm": slurm}), tmp_path)["speed"]
    assert (speed["slots"], speed["device"]) == (3, "h100")
    assert speed["flops_per_s"] == pytest.approx(0.4 * 989e12, rel=0.01)  # dense bfloat16 of the data sheet
    ray = {"address": "head:6379"}
    assert describe_sweep(sweep(executor={"kind": "ray", "ray": ray}), tmp_path)["speed"]["slots"] == 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("sweeps/*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    assert len(make_runs(load(SweepConfig, path))) >= 6


def test_a_budget_that_is_no_budget_is_named() -> None:
    with pytest.raises(UserError, match=r"`design.budgets.0` should be greater than 0"):
        sweep(design={"budgets": [-1e11]})
