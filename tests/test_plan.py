"""What `scaling plan` says of a model and of a run."""

import importlib.util
import json
import re
from pathlib import Path

import jax
import pytest

from scaling import accounting
from scaling.compiled.program import program_text
from scaling.config import RunConfig, TransformerConfig, apply_overrides, load
from scaling.errors import UserError
from scaling.plan import format_plan, load_plannable, plan

CONFIGS = Path(__file__).parents[1] / "configs"
GPT2 = CONFIGS / "models" / "gpt2-small.yaml"


def run() -> RunConfig:
    model = load(TransformerConfig, GPT2).model_dump()
    return RunConfig.model_validate(
        {
            "model": model,
            "data": {"corpus": "files:*.txt"},
            "optimizer": {"learning_rate": 6e-4},
            "batch_size": 512,
            "tokens": 10_000_000_000,
            "placement": {"accumulate": 4},
        }
    )


def test_plan_of_a_model_has_the_fixed_names() -> None:
    found = plan(load_plannable(GPT2))
    assert found["params"] == {"total": 124_439_808, "non_embedding": 85_056_000, "active": 124_439_808,
                               "active_without_input_embedding": 85_056_000 + 50_257 * 768,  # the table is the head
                               "active_non_embedding": 85_056_000}  # fmt: skip
    assert set(found["flops_per_token"]) == {"exact", "kaplan_6n", "chinchilla_appendix_f", "palm", "deepseek"}
    # 12 layers of 12·768² weights, the head, and two products with (1024 + 1) / 2 keys
    assert found["flops_per_token"]["exact"] == 6 * (12 * 12 * 768**2 + 50_257 * 768 + 12 * 2 * 768 * 512.5)
    assert sum(found["params_by_part"].values()) == found["params"]["total"]
    assert found["shape"]["visible_keys"] == 512.5
    assert json.loads(json.dumps(found)) == found
    assert "training" not in found and "time" not in found


def test_a_plan_of_a_mixture_itemises_experts_dispatch_and_latent_attention() -> None:
    """DeepSeek-V2-Lite: 26 layers of 64 experts of width 1,408, of which a token uses 6 and 2 shared ones."""
    expert, table = 3 * 2048 * 1408, 102_400 * 2048
    found = plan(load_plannable("deepseek-v2-lite"))
    assert found["params"]["per_expert"] == expert
    assert found["params"]["active_without_input_embedding"] == 2_661_150_208 - table
    assert found["params"]["active_non_embedding"] == 2_661_150_208 - 2 * table
    items = found["flops_per_token_by_part"]
    assert items["experts"] == 6 * 26 * 6 * expert and items["shared"] == 6 * 26 * 2 * expert
    assert items["router"] == 6 * 26 * 64 * 2048 and items["dispatch"] == 0
    assert items["attention_latents"] == 6 * 27 * 2048 * (512 + 64), "down to the latent, and the part that rotates"
    assert items["attention_projections"] == 6 * 27 * 16 * (2048 * (128 + 64) + 512 * (128 + 128) + 128 * 2048)
    text = format_plan(found)
    assert re.search(r"per_expert +8,650,752  of one layer", text) and re.search(r"dispatch +0 ", text)
    assert "note: dispatch: 0 FLOPs, because rows are gathered by index" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_plan_of_experts_of_two_sizes_lists_both() -> None:
    part = {"kind": "moe", "experts": 4}
    sizes = {"vocab": 32, "context": 16, "layers": 4, "d_model": 8, "n_heads": 2, "activation": "relu2"}
    found = plan(load_plannable(sizes | {"d_ff": 32, "feed_forward": [part, part | {"granularity": 2}]}))
    assert found["params"]["per_expert"] == [2 * 8 * 32, 2 * 8 * 16]
    assert re.search(r"per_expert +512 and 256  of one layer", format_plan(found))


def test_a_plan_of_a_run_that_keeps_documents_apart_says_that_it_counts_none() -> None:
    apart = RunConfig.model_validate(run().model_dump() | {"objective": {"documents": "mask"}})
    assert plan(apart)["flops_per_token"] == plan(run())["flops_per_token"]
    assert "note: objective.documents=mask: the exact FLOPs" in format_plan(plan(apart))
    assert "note:" not in format_plan(plan(run()))


def test_plan_of_a_run_adds_training_memory_and_days() -> None:
    found = plan(run(), topology="h100:8")
    tokens = 19_073 * 512 * 1024
    assert found["training"]["tokens"] == tokens
    assert found["training"]["flops"] == found["flops_per_token"]["exact"] * tokens
    assert found["training"]["flops_by_convention"]["palm"] == found["flops_per_token"]["palm"] * tokens
    seconds = found["training"]["flops"] / (found["time"]["mfu"] * 8 * 989.4e12)
    assert found["time"]["days"] == pytest.approx(seconds / 86_400)
    assert 0.2 < found["time"]["mfu"] < 0.75, "products are expected at three quarters of the peak"
    assert found["memory"]["devices"] == 8 and found["memory"]["fits"] is True
    assert found["memory"]["bytes_per_device"] == accounting.memory(run(), devices=8).total
    assert json.loads(json.dumps(found)) == found


def test_plan_says_when_a_run_does_not_fit() -> None:
    big = run().model_copy(update={"model": load(TransformerConfig, CONFIGS / "models" / "llama-3-8b.yaml")})
    found = plan(big, topology="v5e:4x4")
    assert found["memory"]["fits"] is False
    assert "DOES NOT FIT" in format_plan(found)


def test_plan_on_a_cpu_has_no_time() -> None:
    found = plan(run(), topology="cpu:2")
    assert found["time"]["tokens_per_s"] is None and found["time"]["days"] is None and found["memory"]["fits"] is None
    assert "unknown" in format_plan(found)


def test_plan_as_text_lines_up() -> None:
    text = format_plan(plan(run(), topology="v5e:4x4"))
    for needle in ("124,439,808", "exact", "kaplan_6n", "deepseek", "optimizer", "GiB", "days", "v5e:4x4"):
        assert needle in text, needle
    block = text.split("\n\n")[1].splitlines()
    ends = {found.end() for line in block[1:] if (found := re.match(r"\s+\S+\s+[\d,]+", line))}
    assert len(block) == 12 and len(ends) == 1, "numbers end in one column"
    assert max(map(len, text.splitlines())) <= 80
    text = format_plan(plan(load_plannable(CONFIGS / "runs" / "llama-1b.yaml"), topology="h100:8"))
    less = [line for line in text.splitlines() if re.search(r" -[\d.]+ GiB", line)]
    assert less and all(line.endswith("never held at the same time") for line in less), "memory below 0 says why"


def test_models_and_runs_are_told_apart() -> None:
    assert isinstance(load_plannable(GPT2, ["layers=2"]), TransformerConfig)
    planned = load_plannable(CONFIGS / "runs" / "llama-1b.yaml", ["model.layers=2"])
    assert isinstance(planned, RunConfig) and planned.model.layers == 2


def test_compiling_needs_a_run_a_tpu_slice_and_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--compile needs --topology"):
        plan(run(), compile=True)
    with pytest.raises(UserError, match="--compile needs a run"):
        plan(load_plannable(GPT2), topology="v5e:4x4", compile=True)
    with pytest.raises(UserError, match=r"'h100:8' is not a TPU slice .*; known: v4:4x4x4, v5e:4x4, v5p:4x4x4"):
        plan(run(), topology="h100:8", compile=True)
    for text, near in (
        ("v5e:4x4x4", "nearest: v5e:8x8; known: v4:4x4x4"),
        ("v5e:16", "nearest: v5e:4x4; known"),
        ("v5e:3x3", "nearest: v5e:2x2, v5e:4x4; known"),  # which libtpu refuses in words of its own
        ("v5p:5x5x5", "nearest: v5p:4x4x4, v5p:6x6x6; known"),
        ("v5e:32x32", "at most 256 chips; known"),
    ):
        with pytest.raises(UserError, match=f"slices of v5.* have . sides, .* {near}"):
            plan(run(), topology=text, compile=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"libtpu \(not a TPU\): pip install 'scaling-ladder\[tpu-plan\]'"):
        plan(run(), topology="v5e:4x4", compile=True)


def test_a_program_of_a_later_compiler_than_jax_can_read_says_which_to_install() -> None:
    class Later:
        def as_text(self) -> str:
            raise jax.errors.JaxRuntimeError(
                "INTERNAL: RET_CHECK failure (external/xla/xla/hlo/ir/hlo_instruction.cc)"
            )

    with pytest.raises(UserError, match=rf"the libtpu of this jax: pip install 'jax\[tpu\]=={jax.__version__}'"):
        program_text(Later())


def test_the_nearest_placement_that_fits_does_and_nothing_fits_too_little_memory() -> None:
    config, kind = run(), "v5e"

    def needed(overrides: list[str]) -> int:
        changed = config.model_dump(mode="json")
        return accounting.memory(RunConfig.model_validate(apply_overrides(changed, overrides)), 16, kind).total

    asked = needed([])
    assert accounting.nearest_fit(config, 16, kind, asked) == []
    for share in (0.7, 0.4, 0.1):
        found = accounting.nearest_fit(config, 16, kind, share * asked)
        assert found and needed(found) <= share * asked
    assert accounting.nearest_fit(config, 16, kind, 1e6) is None


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match="unknown device 'v9z'; allowed: "):
        plan(run(), topology="v9z:4x4")
    with pytest.raises(UserError, match=r"unknown key `layer`; did you mean `layers`"):
        load_plannable(GPT2, ["layer=3"])
    sharded = RunConfig.model_validate(run().model_dump() | {"placement": {"mesh": {"fsdp": 3}}})
    with pytest.raises(UserError, match=r"placement\.mesh: .*fsdp=3"):
        plan(sharded, topology="h100:8")
