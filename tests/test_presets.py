"""The presets under configs/models against the published parameter counts."""

import csv
import re
from pathlib import Path

import pytest

from scaling import accounting
from scaling.config import ModelConfig, TransformerConfig, load, read_mapping
from scaling.families import Mask
from scaling.families.attention_mask import visible_keys
from scaling.plan import plan

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "configs" / "models"
LADDERS = ROOT.parent / "shared" / "ladders.csv"

EXACT = {  # counted from the reference implementations
    "gpt2-small": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-175b": 174_604_259_328,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "olmo-2-1b": 1_484_916_736,
    "olmo-2-7b": 7_298_617_344,
    "olmo-2-13b": 13_716_198_400,
    "olmo-2-32b": 32_234_279_936,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3-405b": 405_853_388_800,
    "llama-3.1-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "gemma-2-9b": 9_241_705_984,
    "gemma-3-1b": 999_885_952,
    "gemma-3-4b": 3_880_263_168,
    "smollm3-3b": 3_075_098_624,
    "longformer-base": 148_659_456 - 590_592 - 2_304 - 1_536,  # see there
}
MIXTURES = {  # total, and what a token meets with the input embedding: of the published weights
    "mixtral-8x7b": (46_702_792_704, 12_879_925_248),
    "mixtral-8x22b": (140_630_071_296, 39_161_468_928),
    "olmoe-1b-7b": (6_919_161_856, 1_282_017_280),
    "deepseekmoe-16b": (16_375_728_128, 2_828_650_496),
    "deepseek-v2-lite": (15_706_484_224, 2_661_150_208),
    "deepseek-v3": (671_026_404_352, 37_552_282_624),
    "qwen3-30b-a3b": (30_532_122_624, 3_353_032_704),
    "gpt-oss-20b": (20_914_757_184, 4_187_440_704),
    "llama-4-scout": (107_769_861_120, 17_172_894_720),
}
ROUNDED_MIXTURES = {  # the same as their reports print it, and within what
    "deepseek-v2": (236e9, 21e9, 0.02),  # 2405.04434
    "kimi-k2": (1.04e12, 32.6e9, 0.02),  # 2507.20534
    "qwen3-235b-a22b": (235e9, 22e9, 0.01),  # 2505.09388
    "llama-4-maverick": (400e9, 17e9, 0.02),  # Meta's model card
    "gpt-oss-120b": (116.83e9, 5.13e9 + 201_088 * 2880, 1e-3),  # 2508.10925: active without the input embedding
}
ROUNDED = {  # as printed in the papers
    "gpt3-125m": (125e6, 0.01),
    "gpt3-350m": (350e6, 0.02),
    "gpt3-760m": (760e6, 0.01),
    "gpt3-1.3b": (1.3e9, 0.02),
    "gpt3-2.7b": (2.7e9, 0.02),
    "gpt3-6.7b": (6.7e9, 0.01),
    "gpt3-13b": (13e9, 0.02),
    "palm-8b": (8.63e9, 1e-3),
    "palm-62b": (62.50e9, 1e-3),
    "palm-540b": (540.35e9, 1e-4),
    "lstm-zaremba-large": (66e6, 0.01),
    "lstm-jozefowicz-big": (1.8e9, 0.02),
}


def preset(name: str) -> ModelConfig:
    return load(ModelConfig, MODELS / f"{name}.yaml")


def total(name: str) -> int:
    return accounting.params(preset(name)).total


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_of_experts_has_the_published_total_and_active_parameters(name: str) -> None:
    found = accounting.params(preset(name))
    assert (found.total, found.active) == MIXTURES[name]


@pytest.mark.parametrize("name", ROUNDED_MIXTURES)
def test_a_mixture_of_experts_has_the_counts_that_its_report_rounds(name: str) -> None:
    found, (published, active, tolerance) = accounting.params(preset(name)), ROUNDED_MIXTURES[name]
    assert found.total == pytest.approx(published, rel=tolerance)
    assert found.active == pytest.approx(active, rel=tolerance)


@pytest.mark.parametrize(("name", "flops"), [("gpt-oss-20b", 24_141_260_160), ("gpt-oss-120b", 34_534_221_696)])
def test_flops_of_gpt_oss_by_the_formula_of_six_n_and_windows(name: str, flops: int) -> None:
    """6·(active − input embedding) + 12·Σ heads·d_head·min(context, window). The ledger, told to count a window's
    keys whole, has the same but for vectors, which are in N and in no product."""
    model = preset(name)
    assert isinstance(model, TransformerConfig) and model.context == 4096
    count = accounting.params(model)
    scores = 12 * sum(model.n_heads * model.d_head * min(model.context, window) for window in model.windows)
    assert 6 * (count.active - count.items["embedding"]) + scores == flops
    matrices = sum(
        value for item, value in accounting.flops_per_token(model).items.items() if item != "attention_scores"
    )
    vectors = sum(t.size * t.active for t in model.tensors() if t.role == "vector")
    assert matrices + 6 * vectors + scores == pytest.approx(flops, rel=1e-12)


@pytest.mark.parametrize(("name", "millions"), [("gemma-3-1b", 698), ("gemma-3-4b", 3209), ("gemma-3-12b", 10_759)])
def test_gemma_3_has_the_parameters_outside_of_its_embedding_that_its_report_prints(name: str, millions: int) -> None:
    """2503.19786, table 1."""
    count = accounting.params(preset(name))
    assert round((count.total - count.items["embedding"]) / 1e6) == millions


def test_presets_of_long_context_count_the_keys_that_their_layers_see() -> None:
    """By hand: of min(i + 1, window) and of a chunk's i + 1; both sides of Longformer, and its one global token."""

    def seen(name: str, mask: Mask = "causal") -> list[float]:
        model = preset(name)
        assert isinstance(model, TransformerConfig)
        return [visible_keys(model.context, own) for own in model.attention_masks(mask)]

    L, w = 131_072, 1024
    near = (w * (w + 1) / 2 + (L - w) * w) / L
    assert seen("gemma-3-4b")[:7] == pytest.approx([near] * 5 + [(L + 1) / 2, near])
    assert set(seen("llama-3.1-8b")) == {(L + 1) / 2}
    scout = preset("llama-4-scout")
    assert isinstance(scout, TransformerConfig)
    assert {mask.chunk for mask in scout.attention_masks("causal")} == {None}  # the window is one
    longer = scout.model_copy(update={"context": 4 * 8192})
    assert [visible_keys(longer.context, own) for own in longer.attention_masks("causal")][2:4] == [
        8193 / 2, (4 * 8192 + 1) / 2
    ]  # fmt: skip
    both = (4096 * 513 - 256 * 257) / 4096  # 513 keys, less those that are not there at the ends
    assert set(seen("longformer-base", "full")) == {both + (4096 - 257) * 2 / 4096}
    longformer = preset("longformer-base")  # which cannot be read from left to right, and is not planned so
    assert plan(longformer)["shape"]["visible_keys"] == seen("longformer-base", "full")[0]
    assert plan(longformer)["flops_per_token"]["exact"] == accounting.flops_per_token(longformer).exact
    assert accounting.flops_per_token(longformer) == accounting.flops_per_token(longformer, mask="full")


def test_latent_attention_by_closed_form() -> None:
    """Of a layer: D·q + q·H·(n + r) of queries or D·H·(n + r), D·(c + r) + c·H·(n + v) of keys and values, H·v·D out,
    and the norms of the latents."""
    n, r, v, c = 128, 64, 128, 512
    for name, (L, D, H, q) in {
        "deepseek-v2-lite": (27, 2048, 16, None),
        "deepseek-v2": (60, 5120, 128, 1536),
        "deepseek-v3": (61, 7168, 128, 1536),
        "kimi-k2": (61, 7168, 64, 1536),
    }.items():
        queries = D * H * (n + r) if q is None else D * q + q * H * (n + r)
        layer = queries + D * (c + r) + c * H * (n + v) + H * v * D
        found = accounting.params(preset(name)).items
        assert found["attention"] == L * layer
        assert found["norm"] == L * (2 * D + c + (q or 0)) + D


@pytest.mark.parametrize("name", EXACT)
def test_preset_has_the_published_count_to_the_digit(name: str) -> None:
    assert total(name) == EXACT[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_preset_has_the_count_that_the_paper_rounds(name: str) -> None:
    published, tolerance = ROUNDED[name]
    assert total(name) == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.yaml")))
def test_preset_says_what_it_counts(name: str) -> None:
    stated = re.search(r"([\d,]+) parameters", (MODELS / f"{name}.yaml").read_text())
    assert stated and int(stated[1].replace(",", "")) == total(name)


def test_llama_by_closed_form() -> None:
    """V·D twice, and in each layer 2·D² + 2·D·K·d of attention, 3·D·F of MLP, 2·D of norms; D of the final norm."""
    for name, (L, D, K, d, F, V) in {
        "llama-2-70b": (80, 8192, 8, 128, 28672, 32_000),
        "llama-3-70b": (80, 8192, 8, 128, 28672, 128_256),
        "llama-3-405b": (126, 16384, 8, 128, 53248, 128_256),
        "llama-65b": (80, 8192, 64, 128, 22016, 32_000),
    }.items():
        assert total(name) == 2 * V * D + L * (2 * D * D + 2 * D * K * d + 3 * D * F + 2 * D) + D


def test_settings_that_no_count_shows() -> None:
    llama3, mistral, gpt2 = preset("llama-3-405b"), preset("mistral-7b"), preset("gpt2-xl")
    assert (llama3.rope_theta, llama3.context, llama3.n_kv_heads, llama3.norm_eps) == (500_000, 8192, 8, 1e-5)
    assert set(mistral.windows) == {4096} and mistral.context == 8192
    assert (gpt2.activation, gpt2.norm, gpt2.init, gpt2.init_std) == ("gelu", "layernorm", "normal", 0.02)
    assert preset("llama-7b").norm_eps == 1e-6 and preset("llama-2-7b").context == 4096


def rows() -> list[dict[str, str]]:
    if not LADDERS.exists():
        return []
    with LADDERS.open() as file:
        return list(csv.DictReader(file))


NAMES = {"mistral-7b-v0.1": "mistral-7b"}


def in_table(family: str) -> list[dict[str, str]]:
    if not LADDERS.exists():
        pytest.skip("the table of published ladders is not beside this checkout")
    return [row for row in rows() if row["family"].startswith(family)]


@pytest.mark.parametrize("family", ["gpt2", "gpt3", "llama1", "llama2", "llama3", "mistral"])
def test_preset_equals_the_table_of_published_ladders(family: str) -> None:
    table = in_table(family)
    assert table
    for row in table:
        model = preset(NAMES.get(row["name"], row["name"]))
        assert accounting.params(model).total == int(row["params_published"]), row["name"]
        for key in ("layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff", "vocab"):
            assert getattr(model, key) == int(row[key]), (row["name"], key)
        assert model.context == int(row["context"].split()[0])
        assert model.tied == (row["tied"] == "1")


CHINCHILLA = {  # layers, d_model, heads, d_head, d_ff, published (2203.15556, tables 4 and A9)
    "chinchilla-44M": (8, 512, 8, 64, 2048, 44e6),
    "chinchilla-1018M": (23, 1792, 14, 128, 7168, 1018e6),
    "chinchilla-16183M": (47, 5120, 40, 128, 20480, 16183e6),
    "chinchilla-70b": (80, 8192, 64, 128, 32768, 70e9),
    "gopher-280b": (80, 16384, 128, 128, 65536, 280e9),
}


def with_relative_positions(model: ModelConfig) -> int:
    """The ledger's matrices with a fifth attention matrix: what Chinchilla and Gopher count."""
    items = accounting.params(model).items
    return items["embedding"] + items["attention"] * 5 // 4 + items["mlp"]


@pytest.mark.parametrize("name", CHINCHILLA)
def test_six_n_of_chinchilla(name: str) -> None:
    L, d, h, k, d_ff, published = CHINCHILLA[name]
    model = TransformerConfig(
        vocab=32_000, context=2048, layers=L, d_model=d, n_heads=h, d_head=k, d_ff=d_ff, activation="gelu",
        position="none",
    )  # fmt: skip
    n = with_relative_positions(model)
    assert n == 32_000 * d + L * (5 * d * h * k + 2 * d * d_ff)
    digits = {44e6: 0.012, 70e9: 0.004, 280e9: 0.012}
    assert 6 * n == pytest.approx(6 * published, rel=digits.get(published, 5e-4))
    if (MODELS / f"{name}.yaml").exists():
        assert with_relative_positions(preset(name)) == n


def test_chinchilla_rows_here_are_those_of_the_table() -> None:
    for row in [*in_table("chinchilla"), *in_table("gopher")]:
        shape = tuple(int(row[key]) for key in ("layers", "d_model", "n_heads", "d_head", "d_ff"))
        unit = {"M": 1e6, "B": 1e9}[row["params_published"][-1]]
        assert CHINCHILLA[row["name"]] == (*shape, float(row["params_published"][:-1]) * unit)


def test_siblings_extend_one_another() -> None:
    for path in MODELS.glob("*.yaml"):
        own = path.read_text()
        if re.search(r"^extends:", own, re.M):
            assert len(read_mapping(path)) > sum(
                ":" in line and not line.startswith("#") for line in own.splitlines()
            )
