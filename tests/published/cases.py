"""The models that are compared with their reference implementations: small ones, each from a preset."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scaling.config import TransformerConfig, build, merge, read_mapping

MODELS = Path(__file__).parents[2] / "configs" / "models"
LENGTH, VOCAB = 24, 64
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (1, LENGTH))
DOCUMENTS = np.repeat([0, 1, 2], [9, 4, LENGTH - 13])[None]
SMALL = {"vocab": VOCAB, "context": LENGTH, "layers": 3, "d_model": 32, "n_heads": 4, "d_ff": 48}
HF_SMALL = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
            "intermediate_size": 48, "max_position_embeddings": LENGTH}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A preset with changes, and the same model in the words of transformers."""

    preset: str
    changes: dict[str, Any]
    architecture: str
    """class of transformers"""
    settings: dict[str, Any]
    """its configuration, in addition to HF_SMALL"""
    layout: str = "llama"
    """function of `layouts` that gives the reference its weights"""
    usual: tuple[str, ...] = ()
    """patterns of our parameters that the reference does not have: they stay at 0 or 1"""
    options: dict[str, Any] = field(default_factory=dict)
    """of the layout"""
    patched: str = ""
    """function of `make` that changes the reference, for what a preset's comment names as a difference"""
    mask: Any = "causal"

    @property
    def documents(self) -> np.ndarray | None:
        """[1, L], which of the window's documents a token is in."""
        return DOCUMENTS if self.mask == "document" else None

    @property
    def model(self) -> TransformerConfig:
        shape = merge(SMALL, self.changes)
        values = merge(read_mapping(MODELS / f"{self.preset}.yaml"), shape)
        return build(TransformerConfig, values, self.preset)


def rope(theta: float, **scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta} | scaling}


GROUPED = {"n_kv_heads": 2}
HF_GROUPED = {"num_key_value_heads": 2}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"factor": 8.0, "beta_fast": 4.0, "beta_slow": 0.5}
MLA = {"kind": "mla", "kv_rank": 12, "nope": 8, "rope": 8, "v": 6}
HF_MLA = {"kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 6, "q_lora_rank": None}
MPT = {"position": "alibi", "activation": "gelu_erf", "bias": False}
OLMO = {"norm_position": "output", "mixer": {"kind": "attention", "qk_norm": "width"}}
NO_LINEAR_BIAS = (r"/(q|k|v|o|up|down)/bias",)

CASES: dict[str, Case] = {
    "gpt2": Case("gpt2-small", {}, "GPT2LMHeadModel", {"n_inner": 48}, "gpt2"),
    "gpt2, documents": Case(
        "gpt2-small", {"restart_positions": True}, "GPT2LMHeadModel", {"n_inner": 48}, "gpt2", mask="document"),
    "llama-2": Case("llama-2-7b", {}, "LlamaForCausalLM", {"rms_norm_eps": 1e-5}),
    "llama-3.1": Case(
        "llama-3.1-8b", GROUPED | {"rope_theta": 100.0, "rope": {"scaling": {"kind": "llama3", **LLAMA3,
        "original_context": 64}}}, "LlamaForCausalLM",
        HF_GROUPED | {"rms_norm_eps": 1e-5} | rope(100.0, **LLAMA3, rope_type="llama3",
        original_max_position_embeddings=64)),
    "mistral": Case("mistral-7b", GROUPED | {"sliding_window": [5]}, "MistralForCausalLM",
                    HF_GROUPED | {"sliding_window": 5, "rms_norm_eps": 1e-5} | rope(1e4)),
    "mistral, documents": Case(
        "mistral-7b", GROUPED | {"sliding_window": [5], "restart_positions": True}, "MistralForCausalLM",
        HF_GROUPED | {"sliding_window": 5, "rms_norm_eps": 1e-5} | rope(1e4), mask="document"),
    "gemma-2": Case(
        "gemma-2-9b", GROUPED | {"d_head": 16, "layers": 4, "sliding_window": [5, None], "attention_softcap": 4.0,
        "logit_softcap": 3.0}, "Gemma2ForCausalLM",
        HF_GROUPED | {"head_dim": 16, "num_hidden_layers": 4, "sliding_window": 5, "attn_logit_softcapping": 4.0,
        "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 24} | rope(1e4),
        options={"plus_one": True, "query": (24 / 16) ** 0.5}),
    "gemma-3": Case(
        "gemma-3-4b", GROUPED | {"d_head": 16, "layers": 6, "sliding_window": [5] * 5 + [None]},
        "Gemma3ForCausalLM",
        HF_GROUPED | {"head_dim": 16, "num_hidden_layers": 6, "sliding_window": 5, "query_pre_attn_scalar": 16,
        "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}},
        options={"plus_one": True}),
    "pythia": Case(
        "pythia-160m", {"n_heads": 2}, "GPTNeoXForCausalLM",
        {"num_attention_heads": 2, "rotary_pct": 0.25, "use_parallel_residual": True,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}}, "gpt_neox"),
    "falcon": Case(
        "palm-8b", {"activation": "gelu_erf", "n_kv_heads": 1, "d_head": 8, "bias": True}, "FalconForCausalLM",
        {"ffn_hidden_size": 48, "multi_query": True, "parallel_attn": True, "new_decoder_architecture": False,
         "alibi": False, "bias": False, "num_ln_in_parallel_attn": 1} | rope(1e4),
        "falcon", NO_LINEAR_BIAS),
    "gpt-j": Case(
        "gpt2-small", {"position": "rope", "rope": {"fraction": 0.5}, "parallel_block": True, "tied": False},
        "GPTJForCausalLM", {"n_inner": 48, "rotary_dim": 4, "activation_function": "gelu_new"}, "gptj",
        (r"attention/(q|k|v|o)/bias",)),
    "mpt": Case("gpt2-small", MPT | {"d_model": 48, "n_heads": 6, "d_ff": 192}, "MptForCausalLM",
                {"hidden_size": 48, "num_attention_heads": 6, "max_seq_len": LENGTH, "expansion_ratio": 4}, "mpt"),
    "bloom": Case("gpt2-small", {"position": "alibi", "d_ff": 128}, "BloomForCausalLM",
                  {"n_layer": 3, "n_head": 4}, "bloom", patched="no_embedding_norm"),
    "olmo": Case("palm-8b", {"parallel_block": False, "tied": False, "n_kv_heads": 2, "d_head": 8},
                 "OlmoForCausalLM", HF_GROUPED | {"tie_word_embeddings": False} | rope(1e4), usual=("norm/scale",)),
    "olmo-2": Case("olmo-2-7b", GROUPED, "Olmo2ForCausalLM", HF_GROUPED | {"rms_norm_eps": 1e-6} | rope(5e5)),
    "olmo-3": Case(
        "llama-2-7b", GROUPED | OLMO | {"layers": 4, "sliding_window": [5, 5, 5, None], "rope": [{}, {}, {},
        {"scaling": {"kind": "yarn", **YARN, "original_context": 64}}]}, "Olmo3ForCausalLM",
        HF_GROUPED | {"rms_norm_eps": 1e-5, "num_hidden_layers": 4, "sliding_window": 5,
        "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "yarn", "rope_theta": 1e4, "original_max_position_embeddings": 64, **YARN}}}),
    "qwen2": Case("qwen2.5-7b", GROUPED, "Qwen2ForCausalLM", HF_GROUPED | {"rms_norm_eps": 1e-6} | rope(1e6)),
    "qwen3": Case("qwen3-8b", GROUPED | {"d_head": 16}, "Qwen3ForCausalLM",
                  HF_GROUPED | {"head_dim": 16, "rms_norm_eps": 1e-6} | rope(1e6)),
    "smollm3": Case("smollm3-3b", GROUPED | {"layers": 4}, "SmolLM3ForCausalLM",
                    HF_GROUPED | {"num_hidden_layers": 4, "pad_token_id": None} | rope(5e6)),
    "phi-3": Case(
        "llama-2-7b", GROUPED | {"rope": {"scaling": {"kind": "longrope", "factor": LENGTH / 8, "original_context": 8,
        "short_factor": [1.0] * 4, "long_factor": [1.1, 1.5, 2.5, 4.0]}}}, "Phi3ForCausalLM",
        HF_GROUPED | {"rms_norm_eps": 1e-5, "original_max_position_embeddings": 8, "pad_token_id": None}
        | rope(1e4, rope_type="longrope", short_factor=[1.0] * 4, long_factor=[1.1, 1.5, 2.5, 4.0],
               original_max_position_embeddings=8), "phi3"),
    "opt": Case("gpt2-small", {"activation": "relu"}, "OPTForCausalLM",
                {"ffn_dim": 48, "word_embed_proj_dim": 32}, "opt"),
    "arcee": Case("tiny", GROUPED | {"tied": False}, "ArceeForCausalLM", HF_GROUPED | {"rms_norm_eps": 1e-5}),
    "cohere": Case("palm-8b", {"n_kv_heads": 1, "d_head": 8}, "CohereForCausalLM",
                   {"num_key_value_heads": 1, "logit_scale": 1.0, "layer_norm_eps": 1e-5, "pad_token_id": None}
                   | rope(1e4),
                   options={"interleaved": 8}),
    "starcoder2": Case(
        "gpt2-small", GROUPED | {"position": "rope", "sliding_window": [7]}, "Starcoder2ForCausalLM",
        HF_GROUPED | {"sliding_window": 7, "use_bias": True, "hidden_act": "gelu_pytorch_tanh"} | rope(1e4),
        options={"names": {"up": "c_fc", "down": "c_proj"}}),
    "mixtral": Case(
        "mixtral-8x7b", GROUPED, "MixtralForCausalLM",
        HF_GROUPED | {"num_local_experts": 8, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5} | rope(1e6)),
    "olmoe": Case(
        "olmoe-1b-7b", {"feed_forward": {"experts": 8, "top_k": 3, "granularity": 2}}, "OlmoeForCausalLM",
        {"intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 3, "rms_norm_eps": 1e-5} | rope(1e4)),
    "qwen3-moe": Case(
        "qwen3-30b-a3b", GROUPED | {"d_head": 16, "feed_forward": {"experts": 8, "top_k": 3, "d_ff": 20}},
        "Qwen3MoeForCausalLM",
        HF_GROUPED | {"head_dim": 16, "moe_intermediate_size": 20, "num_experts": 8, "num_experts_per_tok": 3,
        "norm_topk_prob": True, "decoder_sparse_step": 1} | rope(1e6)),
    "deepseekmoe": Case(
        "deepseekmoe-16b", {"feed_forward": {"experts": 8, "top_k": 3, "shared": 2, "d_ff": 20}}, "LlamaForCausalLM",
        {"rms_norm_eps": 1e-6}, patched="deepseek_experts"),
    "deepseek-v2-lite": Case(
        "deepseek-v2-lite", {"mixer": MLA, "feed_forward": {"experts": 8, "top_k": 3, "shared": 2, "d_ff": 20},
        "rope": {"scaling": {"kind": "yarn", **YARN, "original_context": 64, "attention_factor":
        0.0707 * float(np.log(8)) + 1}}}, "DeepseekV2ForCausalLM",
        HF_MLA | {"first_k_dense_replace": 1, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 2,
        "moe_intermediate_size": 20, "topk_method": "greedy", "head_dim": 8}
        | rope(1e4, rope_type="yarn", **YARN, original_max_position_embeddings=64, mscale=0.707,
               mscale_all_dim=0.707), "deepseek"),
    "deepseek-v2": Case(
        "deepseek-v2", {"mixer": MLA | {"q_rank": 10}, "feed_forward": {"experts": 12, "top_k": 3, "d_ff": 20,
        "groups": 4, "top_groups": 2}}, "DeepseekV2ForCausalLM",
        HF_MLA | {"q_lora_rank": 10, "first_k_dense_replace": 1, "n_routed_experts": 12, "num_experts_per_tok": 3,
        "n_shared_experts": 2, "moe_intermediate_size": 20, "topk_method": "group_limited_greedy", "n_group": 4,
        "topk_group": 2, "routed_scaling_factor": 16.0, "head_dim": 8} | rope(1e4), "deepseek"),
    "deepseek-v3": Case(
        "deepseek-v3", {"mixer": MLA | {"q_rank": 10}, "first_dense": 1, "feed_forward": {"experts": 12, "top_k": 3,
        "d_ff": 20, "groups": 4, "top_groups": 2}, "rope": {"scaling": {"kind": "yarn", **YARN,
        "original_context": 64}}}, "DeepseekV3ForCausalLM",
        HF_MLA | {"q_lora_rank": 10, "first_k_dense_replace": 1, "n_routed_experts": 12, "num_experts_per_tok": 3,
        "n_shared_experts": 1, "moe_intermediate_size": 20, "n_group": 4, "topk_group": 2, "num_key_value_heads": 4,
        "routed_scaling_factor": 2.5, "norm_topk_prob": True}
        | rope(1e4, rope_type="yarn", **YARN, original_max_position_embeddings=64, mscale=1.0, mscale_all_dim=1.0),
        "deepseek"),
    "kimi-k2": Case(
        "kimi-k2", {"mixer": MLA | {"q_rank": 10}, "feed_forward": {"experts": 12, "top_k": 3, "d_ff": 20}},
        "DeepseekV3ForCausalLM",
        HF_MLA | {"q_lora_rank": 10, "first_k_dense_replace": 1, "n_routed_experts": 12, "num_experts_per_tok": 3,
        "n_shared_experts": 1, "moe_intermediate_size": 20, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4,
        "routed_scaling_factor": 2.827, "norm_topk_prob": True} | rope(5e4), "deepseek"),
    "gpt-oss": Case(
        "gpt-oss-20b", GROUPED | {"d_head": 16, "layers": 4, "sliding_window": [5, None],
        "feed_forward": {"experts": 8, "top_k": 3},
        "rope": {"scaling": {"kind": "yarn", **YARN, "original_context": 64, "ramp": "exact"}}},
        "GptOssForCausalLM",
        HF_GROUPED | {"head_dim": 16, "num_hidden_layers": 4, "sliding_window": 5, "num_local_experts": 8,
        "num_experts_per_tok": 3}
        | rope(1.5e5, rope_type="yarn", **YARN, original_max_position_embeddings=64, truncate=False), "gpt_oss"),
    "llama-4": Case(
        "llama-4-scout", GROUPED | {"layers": 5, "attention_chunk": [7, 7, 7, None],
        "rope": [{}, {}, {}, {"fraction": 0, "temperature": {"floor": 4, "scale": 0.3}}],
        "feed_forward": [{"kind": "mlp"}, {"kind": "moe", "experts": 4, "top_k": 1, "shared": 1, "d_ff": 20,
                                           "scores": "sigmoid"}]}, "Llama4ForCausalLM",
        HF_GROUPED | {"num_hidden_layers": 5, "head_dim": 8, "intermediate_size": 20, "intermediate_size_mlp": 48,
        "num_local_experts": 4, "interleave_moe_layer_step": 2, "use_qk_norm": False, "attention_chunk_size": 7,
        "floor_scale": 4, "attn_scale": 0.3} | rope(5e5), "llama4", patched="weight_of_output"),
    "albert": Case(
        "gpt2-small", {"layer_sharing": 3, "norm_position": "post"}, "AlbertModel",
        {"embedding_size": 32, "layer_norm_eps": 1e-5}, "albert", patched="no_embedding_norm", mask="full"),
    "longformer": Case(
        "longformer-base", {"sliding_window": [5]}, "LongformerModel",
        {"attention_window": [8] * 3, "max_position_embeddings": LENGTH + 2, "pad_token_id": 1,
         "layer_norm_eps": 1e-5}, "longformer", patched="no_embedding_norm", mask="full"),
}  # fmt: skip
