"""The ledger against hand-made sums, brute force, the real parameter tree and published numbers."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling import accounting
from scaling.config import TransformerConfig
from scaling.errors import UserError
from scaling.families import Mask
from scaling.families.attention_mask import AttentionMask, visible_keys

TINY = TransformerConfig(
    vocab=11, context=6, layers=3, d_model=8, n_heads=2, n_kv_heads=1, d_head=6, d_ff=10, activation="swiglu",
    position="learned", tied=False, bias=True, norm="layernorm", norm_position="sandwich", qk_norm=True,
    sliding_window=(2, None),
)  # fmt: skip


def test_parameters_of_a_tiny_model_by_hand() -> None:
    layer_attention = (8 * 12 + 12) + 2 * (8 * 6 + 6) + (12 * 8 + 8)  # q, k and v, o
    layer_mlp = 2 * (8 * 10 + 10) + (10 * 8 + 8)  # up and gate, down
    norms = 3 * (4 * (8 + 8) + 2 * 6) + (8 + 8)  # four norms and two QK scales a layer, the final norm
    assert accounting.params(TINY).items == {
        "embedding": 11 * 8,
        "position": 6 * 8,
        "attention": 3 * layer_attention,
        "mlp": 3 * layer_mlp,
        "norm": norms,
        "head": 8 * 11,
    }
    assert accounting.params(TINY).total == 88 + 48 + 3 * layer_attention + 3 * layer_mlp + norms + 88
    assert accounting.params(TINY).non_embedding == 3 * layer_attention + 3 * layer_mlp + norms
    assert accounting.params(TINY).active == accounting.params(TINY).total


def test_training_flops_of_a_tiny_model_by_hand() -> None:
    flops = accounting.flops_per_token(TINY)
    # keys seen by the six positions: 1 2 2 2 2 2 in layers 0 and 2, 1 2 3 4 5 6 in layer 1
    seen = (11 + 21 + 11) / 6
    projections = 3 * (8 * 12 + 2 * 8 * 6 + 12 * 8)
    assert flops.items["attention_projections"] == 3 * 2 * projections
    assert flops.items["attention_scores"] == pytest.approx(3 * 2 * (2 * 12 * seen), rel=1e-12)
    assert flops.items["mlp"] == 3 * 2 * 3 * (3 * 8 * 10)
    assert flops.items["head"] == 3 * 2 * 8 * 11
    assert flops.exact == sum(flops.items.values())
    full = accounting.flops_per_token(TINY, keys=6)
    assert full.exact - flops.exact == pytest.approx(3 * 2 * 2 * 12 * (3 * 6 - seen), rel=1e-12)
    assert full.as_dict() | {"exact": 0} == flops.as_dict() | {"exact": 0}


def test_conventions_of_a_tiny_model_by_hand() -> None:
    flops = accounting.flops_per_token(TINY)
    count = accounting.params(TINY)
    assert flops.kaplan_6n == 6 * count.non_embedding
    assert flops.palm == 6 * count.total + 12 * 3 * 2 * 6 * 6
    attention, mlp = 8 * 12 + 2 * 8 * 6 + 12 * 8, 3 * 8 * 10
    assert flops.deepseek == 6 * 3 * (attention + mlp) + 12 * 3 * 12 * 6
    # appendix F for one sequence of 6 tokens, key_size × heads = 12
    sequence = 2 * 6 * 11 * 8 + 2 * 6 * 8 * 11
    sequence += 3 * (2 * 6 * attention + 2 * 6 * 6 * 12 + 3 * 2 * 6 * 6 + 2 * 6 * 6 * 12 + 2 * 6 * mlp)
    assert flops.chinchilla_appendix_f == 3 * sequence / 6
    assert set(flops.as_dict()) == {"exact", "kaplan_6n", "chinchilla_appendix_f", "palm", "deepseek"}


def test_conventions_agree_with_their_papers_on_their_own_shapes() -> None:
    """A standard shape (MHA, d_ff = 4·d_model): DeepSeek's eq. 2 and appendix F as printed, literally."""
    layers, d, L, V, H = 30, 4096, 4096, 102_400, 32
    model = TransformerConfig(vocab=V, context=L, layers=layers, d_model=d, n_heads=H, activation="gelu")
    flops = accounting.flops_per_token(model)
    assert flops.deepseek == 72 * layers * d**2 + 12 * layers * d * L
    key = d // H
    attention = 2 * 3 * L * d * (key * H) + 2 * L * L * (key * H) + 3 * H * L * L + 2 * L * L * (key * H)
    attention += 2 * L * (key * H) * d
    dense = 2 * L * (d * 4 * d + d * 4 * d)
    forward = 2 * L * V * d + layers * (attention + dense) + 2 * L * d * V
    assert flops.chinchilla_appendix_f == 3 * forward / L


def test_palm_reproduces_the_utilisation_that_palm_reports() -> None:
    """PaLM 540B: 238.3k tokens/s on 6144 TPU v4 are 46.2 % (2204.02311, table 3), with N = all parameters."""
    palm = TransformerConfig(
        vocab=256_000, context=2048, layers=118, d_model=18_432, n_heads=48, n_kv_heads=1, d_head=256,
        d_ff=4 * 18_432, activation="swiglu", norm="layernorm", parallel_block=True, tied=True,
    )  # fmt: skip
    peak = accounting.peak_flops("TPU v4", "bfloat16")
    assert peak is not None
    assert accounting.params(palm).total == pytest.approx(540.35e9, rel=1e-4)
    assert 238.3e3 * accounting.flops_per_token(palm).palm / (6144 * peak) == pytest.approx(0.462, abs=5e-4)


@given(st.integers(1, 40), st.integers(1, 60), st.sampled_from(["causal", "full"]))
def test_mean_visible_keys_equal_a_count_of_the_mask(context: int, window: int, mask: Mask) -> None:
    nearest = 0 if mask == "causal" else -context
    seen = [[max(nearest, 1 - window) <= q - k < window for k in range(context)] for q in range(context)]
    assert visible_keys(context, AttentionMask(window, kind=mask)) == pytest.approx(
        sum(map(sum, seen)) / context, rel=1e-12
    )


def test_shared_layers_hold_parameters_once_and_compute_every_time() -> None:
    plain = TINY.model_copy(update={"layers": 4})
    shared = plain.model_copy(update={"layer_sharing": 4})
    one = plain.model_copy(update={"layers": 1})
    assert accounting.params(shared).items == accounting.params(one).items
    assert accounting.flops_per_token(shared).exact == accounting.flops_per_token(plain).exact


def models(**fixed: object) -> st.SearchStrategy[TransformerConfig]:
    """Any model that a configuration may describe, small."""

    def make(**values: object) -> TransformerConfig:
        d_head = 2 * int(str(values.pop("half_head")))
        kv, group = int(str(values.pop("kv"))), int(str(values.pop("group")))
        sharing, unique = int(str(values["layer_sharing"])), int(str(values.pop("unique")))
        heads = {"n_heads": kv * group, "n_kv_heads": kv, "d_head": d_head}
        parallel, before = values.pop("parallel"), values["norm_position"] in ("pre", "sandwich")
        heads |= {"parallel_block": parallel if before else bool(parallel)}
        return TransformerConfig.model_validate(values | heads | {"layers": sharing * unique} | fixed)

    return st.builds(
        make,
        vocab=st.integers(2, 40),
        context=st.integers(1, 12),
        unique=st.integers(1, 3),
        layer_sharing=st.integers(1, 2),
        d_model=st.integers(1, 6).map(lambda n: 4 * n),
        half_head=st.integers(1, 4),
        kv=st.integers(1, 3),
        group=st.integers(1, 3),
        d_ff=st.integers(1, 30),
        activation=st.sampled_from(["gelu", "relu", "relu2", "silu", "swiglu", "geglu"]),
        norm=st.sampled_from(["rmsnorm", "layernorm"]),
        norm_position=st.sampled_from(["pre", "post", "sandwich", "output"]),
        position=st.sampled_from(["rope", "learned", "sinusoidal", "alibi", "none"]),
        tied=st.booleans(),
        bias=st.booleans(),
        parallel=st.sampled_from([False, True, "two_norms"]),
        qk_norm=st.booleans(),
    )


@settings(max_examples=20)
@given(models())
def test_ledger_equals_the_real_parameter_tree(model: TransformerConfig) -> None:
    """The tree that is drawn and trained; N again by the names of its leaves."""
    import jax

    from scaling.models import functional

    real = jax.eval_shape(lambda key: functional.init(model, key), jax.random.key(0))
    leaves = {".".join(k.key for k in path): x for path, x in jax.tree_util.tree_leaves_with_path(real)}
    assert {t.name: t.shape for t in model.tensors()} == {name: x.shape for name, x in leaves.items()}
    assert all(len(t.axes) == len(t.shape) for t in model.tensors())
    assert accounting.params(model).total == sum(x.size for x in leaves.values())
    outside = sum(x.size for name, x in leaves.items() if name in ("embedding", "position", "head"))
    assert accounting.params(model).non_embedding == accounting.params(model).total - outside


KINDS = {  # as jax.Device.device_kind spells them
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H100 PCIe": 756.5e12,
    "NVIDIA H100 NVL": 835.5e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA H200 NVL": 835.5e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GB200": 2500e12,
    "NVIDIA L40S": 362.05e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA L4": 121e12,
    "Tesla V100-SXM2-16GB": None,
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1153.5e12,
    "cpu": None,
    "NVIDIA GeForce RTX 4090": None,
}


@pytest.mark.parametrize("kind", KINDS)
def test_peak_of_each_device_kind(kind: str) -> None:
    assert accounting.peak_flops(kind, "bfloat16") == KINDS[kind]


def test_peaks_in_float32_and_of_unknown_dtypes() -> None:
    assert accounting.peak_flops("NVIDIA A100-SXM4-80GB", "float32") == 156e12
    assert accounting.peak_flops("Tesla V100-SXM2-16GB", "float32") == 15.7e12
    assert accounting.peak_flops("cpu", "float32") is None
    with pytest.raises(UserError, match=r"'float8'.*allowed: bfloat16, float32"):
        accounting.peak_flops("h100", "float8")
    memory = SimpleNamespace(**{d.name.replace("-", "_"): d.memory for d in accounting.devices.DEVICES})
    assert memory.a100_40gb == 40e9 and memory.a100 == 80e9 and memory.v5e == 16 * 2**30
    for kind, gigabytes in {"Tesla V100-SXM2-32GB": 32, "NVIDIA GB200": 186, "NVIDIA B200": 180}.items():
        found = accounting.devices.device(kind)
        assert found is not None and found.memory == gigabytes * 10**9


def test_topologies() -> None:
    assert accounting.topology("v5e:4x4").devices == 16
    assert accounting.topology("H100:8").devices == 8
    assert accounting.topology("v5p:4x4x8").devices == 128
    assert accounting.topology("v7x:2x2x1").devices == 8, "two JAX devices a chip"
    assert accounting.topology("l4").devices == 1
    assert accounting.topology("v5e:4x4:2").devices == 32 and accounting.topology("v5e:4x4:2").slices == 2
    for text in ("v5e:", "v5e:4x", "v5e:0x4", "h100:-1", "h100:many"):
        with pytest.raises(UserError, match="expected KIND:CHIPS"):
            accounting.topology(text)
    with pytest.raises(UserError, match=r"unknown device 'h1000'; allowed: .*h100.*v5e.*; did you mean h100\?"):
        accounting.topology("h1000:8")
