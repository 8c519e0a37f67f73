"""Hyper-parameters by rule: the published formulas, their units, and what a sweep makes of them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from scaling import accounting
from scaling.config import Rule, Size, SweepConfig, TransformerConfig, build, merge
from scaling.config.rules import BatchRule, BatchRules, DecayRules, RateRules
from scaling.errors import UserError
from scaling.sweeps import describe_sweep, format_sweep, make_runs

BASE: dict[str, Any] = {
    "name": "s",
    "run": {
        "model": {"vocab": 256, "context": 128, "activation": "relu2"},
        "data": {"corpus": "python_stdlib"},
        "optimizer": {"learning_rate": 0.01},
        "batch_size": 4,
    },
    "ladder": {"aspect": 16, "d_head": 16, "width_multiple": 8, "ff_multiple": 1},
    "design": {
        "kind": "isoflop", "budgets": [1e11, 1e12], "sizes": 3, "center_flops": 3e11, "center_params": 40e3,
    },
}  # fmt: skip


def sweep(*without: str, **changes: Any) -> SweepConfig:
    """without: keys of `run` that rules set."""
    values = merge(BASE, changes)
    values["run"] = {key: value for key, value in values["run"].items() if key not in without}
    return build(SweepConfig, values, "test")


def rate(**values: Any) -> Rule:
    return TypeAdapter(RateRules).validate_python(values)


def batch(**values: Any) -> BatchRule:
    return TypeAdapter(BatchRules).validate_python(values)


def decay(**values: Any) -> Rule:
    return TypeAdapter(DecayRules).validate_python(values)


def size(**values: float) -> Size:
    standard = {"n_params": 1e9, "n_non_embedding": 1e9, "tokens": 1e11, "flops_deepseek": 1e20, "d_model": 1024,
                "batch_tokens": 2**19, "learning_rate": 1e-3}  # fmt: skip
    return Size(**(standard | values))


@pytest.mark.parametrize(
    ("rule", "at", "by_hand"),
    [
        (rate(kind="step_law"), size(), 1.63250e-3),  # 1.79 · 10^(−6.417 + 3.377)
        (batch(kind="step_law"), size(), 1.10771e6),  # 0.58 · 10^6.281
        (rate(kind="deepseek"), size(), 9.86000e-4),  # 0.3118 · 10^−2.5
        (batch(kind="deepseek"), size(), 1.01714e6),  # 0.2920 · 10^6.542
        (batch(kind="power_lines"), size(tokens=4e10), 0.72051e6),  # 62.669 · 10^(0.383 · 10.60206)
        (decay(kind="power_lines"), size(tokens=2e10), 0.117261),  # 2^19 / (10^−3 · 2·10^10 · 1.084 · 20^−0.527)
        (rate(kind="width", width=256, learning_rate=0.02), size(), 0.005),
        (rate(kind="width", width=256, learning_rate=0.02, exponent=-0.5), size(), 0.01),
        (rate(kind="fixed", learning_rate=0.003, factor=2), size(), 0.006),
        (batch(kind="fixed", tokens=4096), size(), 4096),
        (decay(kind="fixed", weight_decay=0), size(), 0),
    ],
)
def test_formulas_are_those_of_the_papers(rule: Rule, at: Size, by_hand: float) -> None:
    assert rule.value(at) == pytest.approx(by_hand, rel=2e-4)
    assert type(rule)(**{**rule.model_dump(), "factor": 3 * rule.factor}).value(at) == pytest.approx(
        3 * by_hand, rel=2e-4
    )


@pytest.mark.parametrize(
    ("layers", "d_model", "n_kv_heads", "d_ff", "published_rate", "published_batch"),
    [(30, 4096, 32, 11008, 4.2e-4, 2304 * 4096), (95, 8192, 8, 22016, 3.2e-4, 4608 * 4096)],
)
def test_deepseek_rules_give_what_deepseek_trained_with(
    layers: int, d_model: int, n_kv_heads: int, d_ff: int, published_rate: float, published_batch: float
) -> None:
    """Bi et al. 2024, table 2: learning rates and batches of their 7B and 67B models on 2T tokens, said to be chosen
    by the rules."""
    model = TransformerConfig(
        vocab=102400, context=4096, layers=layers, d_model=d_model, n_heads=d_model // 128, n_kv_heads=n_kv_heads,
        d_ff=d_ff, activation="swiglu",
    )  # fmt: skip
    C = 2e12 * accounting.flops_per_token(model).deepseek
    assert rate(kind="deepseek").value(size(flops_deepseek=C)) == pytest.approx(published_rate, rel=0.03)
    assert batch(kind="deepseek").value(size(flops_deepseek=C)) == pytest.approx(published_batch, rel=0.1)


EXPONENTS = [
    (rate(kind="step_law"), "n_non_embedding", -0.713),
    (rate(kind="step_law"), "tokens", 0.307),
    (rate(kind="step_law"), "n_params", 0.0),
    (rate(kind="deepseek"), "flops_deepseek", -0.125),
    (rate(kind="width", width=64, learning_rate=1.0), "d_model", -1.0),
    (batch(kind="deepseek"), "flops_deepseek", 0.3271),
    (batch(kind="step_law"), "tokens", 0.571),
    (batch(kind="step_law"), "n_non_embedding", 0.0),
    (batch(kind="power_lines"), "tokens", 0.383),
    (decay(kind="power_lines"), "batch_tokens", 1.0),
    (decay(kind="power_lines"), "learning_rate", -1.0),
    (decay(kind="power_lines"), "n_params", -0.527),
    (decay(kind="power_lines"), "tokens", 0.527 - 1),
]


@pytest.mark.parametrize(("rule", "name", "exponent"), EXPONENTS)
@given(at=st.floats(1e2, 1e12), times=st.floats(1.5, 1e3))
def test_a_rule_is_a_power_of_each_quantity(rule: Rule, name: str, exponent: float, at: float, times: float) -> None:
    ratio = rule.value(size(**{name: at * times})) / rule.value(size(**{name: at}))
    assert ratio == pytest.approx(times**exponent, rel=1e-9)


@given(tokens=st.floats(1, 1e9), context=st.integers(1, 4096), multiple=st.integers(1, 64))
def test_a_batch_is_the_nearest_whole_number_of_windows(tokens: float, context: int, multiple: int) -> None:
    windows = batch(kind="fixed", tokens=tokens, multiple=multiple).windows(size(), context)
    assert windows >= multiple and windows % multiple == 0
    assert windows == multiple or abs(windows * context - tokens) <= context * multiple / 2 * (1 + 1e-9)


def test_isoflop_runs_have_batch_tokens_rate_and_decay_by_rule_in_this_order() -> None:
    config = sweep(
        "batch_size", "optimizer",
        batch_size={"kind": "step_law", "multiple": 2}, learning_rate={"kind": "step_law"},
        weight_decay={"kind": "power_lines"},
    )  # fmt: skip
    batches = set()
    for run in make_runs(config):
        model, optimizer = run.config.model, run.config.optimizer
        per_token, N = accounting.flops_per_token(model).exact, accounting.params(model)
        wanted, B, D = run.label["budget"] / per_token, run.config.batch_tokens, run.config.tokens
        assert B % 256 == 0 and abs(B - 0.58 * wanted**0.571) <= 128
        assert D % B == 0 and abs(D - wanted) <= B / 2
        assert optimizer.learning_rate == pytest.approx(1.79 * N.non_embedding**-0.713 * D**0.307)
        tau = 1.084 * (D / N.total) ** -0.527
        assert B / (optimizer.learning_rate * optimizer.weight_decay * D) == pytest.approx(tau)
        batches.add(B)
    assert len(batches) > 1


def test_a_batch_by_rule_goes_with_microbatches() -> None:
    config = sweep(
        "batch_size",
        batch_size={"kind": "fixed", "tokens": 3000, "multiple": 4}, run={"placement": {"accumulate": 4}},
    )  # fmt: skip
    assert {run.config.batch_size for run in make_runs(config)} == {24}


def test_rules_change_only_what_they_set() -> None:
    plain = make_runs(sweep())
    ruled = make_runs(sweep("batch_size", batch_size={"kind": "fixed", "tokens": 512}))
    assert [run.id for run in plain] == [run.id for run in ruled]


def test_the_plan_notes_rules_outside_of_their_range(tmp_path: Path) -> None:
    def notes(**rules: Any) -> list[str]:
        found = describe_sweep(sweep("optimizer", "batch_size", **rules), tmp_path)["notes"]
        return [note for note in found if note.split()[0].endswith(":")]

    found = notes(batch_size={"kind": "step_law"}, learning_rate={"kind": "deepseek"})
    assert [note.split()[0] for note in found] == ["learning_rate:", "batch_size:"]
    assert "deepseek was fitted on C 1e+17 to 2e+19, but these runs have" in found[0] and "2401.02954" in found[0]
    assert (
        notes(batch_size={"kind": "fixed", "tokens": 512}, learning_rate={"kind": "fixed", "learning_rate": 1}) == []
    )
    inside = batch(kind="step_law").outside([size(tokens=2e9), size(tokens=1e11)])
    assert inside is None and batch(kind="step_law").outside([size(tokens=2e9), size(tokens=1.1e11)])


def test_the_plan_shows_batch_and_notes(tmp_path: Path) -> None:
    text = format_sweep(describe_sweep(sweep("batch_size", batch_size={"kind": "step_law"}), tmp_path))
    assert "batch" in text.splitlines()[0] and "note: batch_size: the rule step_law was fitted on D" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"learning_rate": {"width": 16, "learning_rate": 0.02}},
            r"`learning_rate\.kind` should be 'fixed' or 'width'",
        ),
        ({"learning_rate": {"kind": "with"}}, r"`learning_rate\.kind` should be .*'step_law', got 'with'"),
        ({"learning_rate": {"kind": "step_law", "width": 16}}, r"unknown key `learning_rate\.width`; .*factor, kind"),
        ({"batch_size": {"kind": "fixed", "tokens": 0}}, r"`batch_size\.tokens` should be greater than 0, got 0"),
        ({"tuning": {"learning_rate": [1, 1.0]}}, r"`tuning`: learning_rate lists a factor twice: 1, 1"),
    ],
)
def test_a_rule_that_is_none_is_told_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        sweep(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": {"kind": "step_law"}}, r"run\.batch_size is set by batch_size"),
        ({"learning_rate": {"kind": "step_law"}}, r"run\.optimizer\.learning_rate is set by learning_rate"),
        ({"weight_decay": {"kind": "power_lines"}, "run": {"optimizer": {"weight_decay": 0.1}}},
         r"run\.optimizer\.weight_decay is set by weight_decay"),
    ],
)  # fmt: skip
def test_what_a_rule_sets_is_not_set_twice(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_runs(sweep(**changes))


def test_branches_take_rules_of_the_size_and_refuse_those_of_the_tokens() -> None:
    design = {"kind": "branches", "params": [20e3], "tokens": [4e5, 8e5]}
    values = {**BASE, "design": design, "run": {k: v for k, v in BASE["run"].items() if k != "optimizer"}}
    width = build(
        SweepConfig, values | {"learning_rate": {"kind": "width", "width": 16, "learning_rate": 0.02}}, "test"
    )
    assert [run.after is None for run in make_runs(width)] == [True, False]
    with pytest.raises(UserError, match=r"cannot branch off .* differ in optimizer\.learning_rate"):
        make_runs(build(SweepConfig, values | {"learning_rate": {"kind": "step_law"}}, "test"))
