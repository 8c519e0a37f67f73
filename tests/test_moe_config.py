"""What a mixture of experts may be, and what it counts as."""

from pathlib import Path
from typing import Any

import jax
import pytest
from moe_layer import D, L, model
from tiny_run import Tiny

from scaling import accounting
from scaling.config import SweepConfig
from scaling.errors import UserError
from scaling.models.routing import route
from scaling.sweeps.designs import make_runs
from scaling.sweeps.plan.confounded import confounded_notes


def test_sparsity_stands_for_a_number_of_experts() -> None:
    """(E − K)/E, and one model has one spelling."""
    by_number = model(top_k=2, experts=64)
    for sparsity in (62 / 64, 0.96875):
        given = model(top_k=2, experts=None, sparsity=sparsity)
        assert given == by_number and given.facts["sparsity"] == 62 / 64
    assert model(top_k=1, experts=None, sparsity=0.6667).facts["experts"] == 3


@pytest.mark.parametrize(
    "values, said",
    [
        ({"top_k": 7}, "top_k=7 is more than experts=6"),
        ({"experts": 1}, "experts=1 is a dense layer; set this feed_forward to null or {kind: mlp}"),
        ({"normalise": True}, "so the router would learn nothing"),
        ({"granularity": 2}, "both set the width"),
        ({"granularity": 7, "d_ff": None}, "granularity=7 does not divide d_ff=48; allowed"),
        ({"groups": 4, "top_groups": 1}, r"experts=6 is not divisible by groups=4; allowed: \[2, 3, 6\]"),
        ({"groups": 3, "top_groups": 1, "top_k": 3}, "are too few for top_k=3"),
        ({"group_score": "best"}, "group_score=best ranks groups, but there are none; leave it unset"),
        ({"routing": "hash", "balance_over": "batch"}, "balance_over=batch has no effect with routing=hash"),
        (
            {"balance_over": "batch", "balance_rate": 0.1},
            "balance_over=batch applies to the load-balance loss, whose weight",
        ),
        ({"routing": "hash", "z_loss": 0.1}, "z_loss=0.1 has no effect with routing=hash"),
        ({"routing": "expert_choice", "experts": 48}, "no expert would get a token: experts=48"),
        (
            {"top_k": 2, "capacity": 0.1},
            r"capacity=0.1 gives an expert only 0.8 of a slot: .* = 8 tokens; set capacity to 0.125 or more",
        ),
        ({"sparsity": 0.9}, "experts=6 and sparsity=0.9 both set the number of experts"),
        ({"sparsity": 0.7, "experts": None}, r"sparsity=0.7 means 3.333 experts .*: 0.5 \(2 experts\), 0.6666"),
        ({"sparsity": 0.3, "experts": None}, r"means 1.429 experts with top_k=1; nearest: 0.5 \(2 experts\)[^,]"),
        ({"sparsity": 1.0, "experts": None}, "less than 1"),
        ({"sparsity": "much", "experts": None}, "sparsity\\n.*valid number"),
    ],
)
def test_what_cannot_be_is_told(values: dict[str, Any], said: str) -> None:
    with pytest.raises((UserError, ValueError), match=said):
        model(**values)


@pytest.mark.parametrize(("experts", "top_k", "choosing"), [(18, 1, 0.75), (6, 1, 1.0), (16, 5, 14 / 3)])
def test_flops_are_of_the_tokens_that_experts_take(experts: int, top_k: int, choosing: float) -> None:
    """Experts that choose take whole tokens of a window of 24: 18 of them one each, and not 1⅓."""
    found = {}
    for routing in ("token_choice", "expert_choice"):
        config = model(experts=experts, top_k=top_k, routing=routing)
        part: Any = config.parts[0][1]
        logits = jax.random.normal(jax.random.key(0), (1, L, experts))
        pairs = float(route(part, logits, None).tokens_E.sum())
        matrices = 3 * D * 20
        found[routing] = pairs / L
        assert accounting.flops_per_token(config).items["experts"] == pytest.approx(6 * matrices * pairs / L)
        assert accounting.params(config).items["experts"] == experts * matrices
    assert found == pytest.approx({"token_choice": top_k, "expert_choice": choosing})


def test_layers_with_different_numbers_of_experts_are_spread_over_devices_that_divide_all(tmp_path: Path) -> None:
    experts = [{"kind": "moe", "experts": 6}, {"kind": "moe", "experts": 8}]
    config = Tiny(tmp_path).config
    with pytest.raises(UserError, match=r"expert=4 does not divide experts=6; allowed: \[1, 2\]"):
        config(model={"layers": 2, "feed_forward": experts}, placement={"mesh": {"expert": 4}})
    assert config(model={"layers": 2, "feed_forward": experts}, placement={"mesh": {"expert": 2}})


def test_an_objective_that_hides_what_comes_later_names_the_routing_that_sees_it(tmp_path: Path) -> None:
    part = {"kind": "moe", "experts": 4, "routing": "expert_choice"}
    with pytest.raises(UserError, match=r"a causal attention mask, which routing=expert_choice does not support; it"):
        Tiny(tmp_path).config(model={"feed_forward": part})


def test_runs_of_a_grid_with_experts_have_the_active_size_and_the_flops_that_were_asked_for() -> None:
    moe = {"kind": "moe", "experts": 8}
    fine = {"kind": "moe", "experts": 12, "top_k": 3, "granularity": 3, "shared": 1}
    axes = {"flops": [1e11], "model.params": [20e3], "model.feed_forward": [None, moe, fine]}
    run = {"model": {"vocab": 256, "context": 64, "activation": "relu2"}, "data": {"corpus": "python_stdlib"}}
    values = {"name": "moe", "run": run | {"optimizer": {"learning_rate": 0.01}, "batch_size": 4},
              "design": {"kind": "grid", "axes": axes},
              "ladder": {"count": "active_non_embedding", "aspect": 12, "d_head": 8, "width_multiple": 4,
                         "ff_multiple": 1}}  # fmt: skip
    runs = make_runs(SweepConfig.model_validate(values))
    assert [accounting.params(r.config.model).active_non_embedding for r in runs] == pytest.approx(
        [20e3] * 3, rel=0.01
    )
    assert [r.flops for r in runs] == pytest.approx([1e11] * 3, rel=0.002)
    assert runs[1].params > 2 * runs[0].params and runs[2].config.model.inner % 3 == 0
    facts = runs[2].config.model.facts
    assert facts == {"experts": 12, "top_k": 3, "shared": 1, "granularity": 3, "sparsity": 0.75}


def confounded(design: dict[str, Any], **ladder: Any) -> list[str]:
    """What is said of the shapes and axes of a sweep of this design."""
    varied = {key.removeprefix("model.") for key in {**design.get("axes", {}), **design.get("zip", {})}}
    shared = {"vocab": 256, "context": 64, "activation": "relu2"}
    model = {key: value for key, value in shared.items() if key not in varied}
    run = {"model": model, "data": {"corpus": "python_stdlib"}, "optimizer": {"learning_rate": 0.01}, "batch_size": 4}
    values = {"name": "moe", "run": run, "design": design,
              "ladder": {"count": "active_non_embedding", "aspect": 12, "d_head": 8, "width_multiple": 8,
                         "ff_multiple": 1} | ladder}  # fmt: skip
    config = SweepConfig.model_validate(values)
    return confounded_notes(config, make_runs(config))


def mixture(**values: Any) -> dict[str, Any]:
    return {"kind": "moe", "experts": 4} | values


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        # at 40,000 and ff_ratio near 4, two experts of the full width leave less for d_model than one
        ([mixture(), mixture(top_k=2)], ["layers=3, d_model=32 with feed_forward={kind: moe, experts: 4}"]),
        # as many hidden units and as large a router
        ([mixture(), mixture(top_k=2, granularity=2)], []),
        # the router's own parameters
        ([mixture(), mixture(experts=256)], ["experts: 256}"]),
    ],
)
def test_mixtures_of_one_size_that_the_ladder_gives_other_shapes_are_told(
    parts: list[dict[str, Any]], said: list[str]
) -> None:
    axes = {"tokens": [1e6], "model.params": [40e3], "model.feed_forward": parts}
    found = confounded({"kind": "grid", "axes": axes})
    assert len(found) == len(said)
    for text, note in zip(said, found, strict=True):
        assert "at every point the ladder's shape changes with model.feed_forward (model.params=40000: " in note
        assert text in note, note


def test_other_axes_that_move_with_the_shape_or_with_one_another_are_told() -> None:
    size = {"tokens": [1e6], "model.params": [60e3]}
    (note,) = confounded({"kind": "grid", "axes": size | {"model.vocab": [256, 1024]}}, count="total")
    assert "the ladder's shape changes with model.vocab" in note
    assert not confounded({"kind": "grid", "axes": size | {"model.context": [64, 128]}})
    experts = {"model.feed_forward": [mixture(), mixture(experts=8)], "model.context": [64, 128]}
    (note,) = confounded({"kind": "grid", "axes": size, "zip": experts})
    assert note.startswith("design.zip: model.feed_forward and model.context vary together in all runs")
    tuned = {"model.context": [64, 128], "optimizer.weight_decay": [0.1, 0.2]}
    assert not confounded({"kind": "grid", "axes": size, "zip": tuned}), "no law reads what is tuned"


def test_sizes_whose_tokens_follow_from_them_are_told() -> None:
    sizes = [40e3, 60e3, 90e3]
    follow = {"model.params": sizes, "tokens": [20 * n for n in sizes]}
    (note,) = confounded({"kind": "grid", "zip": follow})[:1]
    assert "model.params and tokens vary together" in note
    (note,) = confounded({"kind": "list", "points": [{"params": n, "tokens": 20 * n} for n in sizes]})
    assert note.startswith("N and D vary together in all runs (the correlation of their logarithms is 1.0000)")
    assert not confounded({"kind": "grid", "axes": follow}), "crossed, they are told apart"
