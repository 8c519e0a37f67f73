"""Parameters of the project in the layouts of transformers: the same numbers transposed, joined and permuted."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from scaling.families import TransformerConfig

Arrays = dict[str, np.ndarray]
Named = dict[str, Any]
LINEAR = {"kernel": "weight", "bias": "bias"}


def by_layer(config: TransformerConfig, params: Named) -> list[Named]:
    """The parameters of each layer, unstacked."""

    def sliced(values: Any, i: int) -> Any:
        return {k: sliced(v, i) for k, v in values.items()} if isinstance(values, dict) else values[i]

    found = {i: sliced(params[s.name], n) for s in config.stacks for n, i in enumerate(s.members)}
    return [found[i] for i in range(config.unique_layers)]


def linear(name: str, own: Named) -> Iterator[tuple[str, np.ndarray]]:
    """A map as torch keeps it, [outputs, inputs]."""
    for key, value in own.items():
        yield f"{name}.{LINEAR[key]}", value.T


def norm(name: str, own: Named, plus_one: bool = False) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.weight", own["scale"] - plus_one
    if "bias" in own:
        yield f"{name}.bias", own["bias"]


def interleaved(own: Named, d_head: int, width: int, first: int = 0) -> Named:
    """A map to heads whose rotated features, `width` from `first` on, are pairs of neighbours instead of halves."""
    order = np.arange(d_head)
    order[first : first + width] = first + np.arange(width).reshape(2, -1).T.reshape(-1)

    def turned(w: np.ndarray) -> np.ndarray:
        return w.reshape(*w.shape[:-1], -1, d_head)[..., order].reshape(w.shape)

    return {key: turned(value) for key, value in own.items()}


def joined(*maps: Named) -> Named:
    """Several maps of the same input as one."""
    return {key: np.concatenate([own[key] for own in maps], -1) for key in maps[0]}


def by_head(*maps: Named, heads: int) -> Named:
    """As `joined`, with the outputs of all maps for the first head in front."""

    def split(w: np.ndarray) -> np.ndarray:
        return w.reshape(*w.shape[:-1], heads, -1)

    return {
        key: np.concatenate([split(own[key]) for own in maps], -1).reshape(*maps[0][key].shape[:-1], -1)
        for key in maps[0]
    }


def ends(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    yield "model.embed_tokens.weight", params["embedding"]
    yield "lm_head.weight", params["embedding"] if config.tied else params["head"].T


def feed_forward(name: str, own: Named, names: dict[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    """A dense part, or a router and experts."""
    if "router" not in own:
        for key in own:
            yield from linear(f"{name}.{names.get(key, key + '_proj')}", own[key])
        return
    yield f"{name}.gate.weight", own["router"]["kernel"].T
    if "balance" in own:
        yield f"{name}.gate.e_score_correction_bias", own["balance"]
    experts = {key: np.swapaxes(w["kernel"], 1, 2) for key, w in own["experts"].items()}
    yield f"{name}.experts.gate_up_proj", np.concatenate([experts["gate"], experts["up"]], 1)
    yield f"{name}.experts.down_proj", experts["down"]
    if "shared" in own:
        yield from feed_forward(f"{name}.shared_experts", own["shared"], names)


def norms(config: TransformerConfig, name: str, own: Named, plus_one: bool) -> Iterator[tuple[str, np.ndarray]]:
    second = "post_attention_layernorm"
    if "attention_out_norm" in own:
        yield from norm(f"{name}.{second}", own["attention_out_norm"], plus_one)
        yield from norm(f"{name}.post_feedforward_layernorm", own["mlp_out_norm"], plus_one)
        second = "pre_feedforward_layernorm"
    if "attention_norm" in own:
        yield from norm(f"{name}.input_layernorm", own["attention_norm"], plus_one)
    if "mlp_norm" in own:
        yield from norm(f"{name}.{second}", own["mlp_norm"], plus_one)


def llama(
    config: TransformerConfig,
    params: Named,
    *,
    plus_one: bool = False,
    query: float = 1.0,
    interleaved: int = 0,
    names: dict[str, str] | None = None,
    attention: Callable[..., Iterator[tuple[str, np.ndarray]]] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """plus_one: norms keep their scale less 1. query: factor on queries. interleaved: number of rotated
    features, if their pairs are neighbours. names: of the maps of a dense part. attention: as `heads`."""
    yield from ends(config, params)
    yield from norm("model.norm", params["norm"], plus_one)
    for i, own in enumerate(by_layer(config, params)):
        name = f"model.layers.{i}"
        yield from norms(config, name, own, plus_one)
        options = {"plus_one": plus_one, "query": query, "neighbours": interleaved}
        yield from (attention or heads)(config, f"{name}.self_attn", own["attention"], **options)
        yield from feed_forward(f"{name}.mlp", own["mlp"], names or {})


def heads(
    config: TransformerConfig, name: str, own: Named, *, plus_one: bool, query: float, neighbours: int
) -> Iterator[tuple[str, np.ndarray]]:
    for key in "qkvo":
        kept = {k: v * query for k, v in own[key].items()} if key == "q" else own[key]
        if neighbours and key in "qk":
            kept = interleaved(kept, config.d_head, neighbours)
        yield from linear(f"{name}.{key}_proj", kept)
    for key in "qk":
        if f"{key}_scale" in own:
            yield f"{name}.{key}_norm.weight", own[f"{key}_scale"] - plus_one


def deepseek(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    return llama(config, params, attention=latent)


def latent(config: TransformerConfig, name: str, own: Named, **_: Any) -> Iterator[tuple[str, np.ndarray]]:
    part: Any = config.parts[0][0]
    query = interleaved(own["q"], part.nope + part.rope, part.rope, part.nope)
    down = joined(own["kv_down"], interleaved(own["k_rope"], part.rope, part.rope))
    yield from linear(f"{name}.{'q_b_proj' if 'q_down' in own else 'q_proj'}", query)
    if "q_down" in own:
        yield from linear(f"{name}.q_a_proj", own["q_down"])
        yield f"{name}.q_a_layernorm.weight", own["q_scale"]
    yield from linear(f"{name}.kv_a_proj_with_mqa", down)
    yield f"{name}.kv_a_layernorm.weight", own["kv_scale"]
    yield from linear(f"{name}.kv_b_proj", by_head(own["k_up"], own["v_up"], heads=config.n_heads))
    yield from linear(f"{name}.o_proj", own["o"])


def gpt_oss(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in llama(config, params):
        if ".mlp." not in name:
            yield name, value
    for i, own in enumerate(by_layer(config, params)):
        name, experts = f"model.layers.{i}.mlp", own["mlp"]["experts"]
        yield f"model.layers.{i}.self_attn.sinks", own["attention"]["sinks"]
        yield from linear(f"{name}.router", own["mlp"]["router"])
        for key, suffix in (("kernel", ""), ("bias", "_bias")):
            both = np.stack([experts["gate"][key], experts["up"][key]], -1)
            yield f"{name}.experts.gate_up_proj{suffix}", both.reshape(*both.shape[:-2], -1)
            yield f"{name}.experts.down_proj{suffix}", experts["down"][key]


def llama4(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in llama(config, params, interleaved=config.d_head):
        name = name.replace(".mlp.", ".feed_forward.").replace("shared_experts", "shared_expert")
        name = name.replace("feed_forward.gate.weight", "feed_forward.router.weight")
        yield name, np.swapaxes(value, 1, 2) if ".experts." in name else value


def phi3(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in llama(config, params):
        if not any(key in name for key in (".q_proj", ".k_proj", ".v_proj", ".gate_proj", ".up_proj")):
            yield name, value
    for i, own in enumerate(by_layer(config, params)):
        yield from linear(f"model.layers.{i}.self_attn.qkv_proj", joined(*(own["attention"][key] for key in "qkv")))
        yield from linear(f"model.layers.{i}.mlp.gate_up_proj", joined(own["mlp"]["gate"], own["mlp"]["up"]))


def gpt2(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    def conv(name: str, own: Named) -> Iterator[tuple[str, np.ndarray]]:
        for key, value in own.items():
            yield f"{name}.{LINEAR[key]}", value

    yield "transformer.wte.weight", params["embedding"]
    yield "lm_head.weight", params["embedding"]
    yield "transformer.wpe.weight", params["position"]
    yield from norm("transformer.ln_f", params["norm"])
    for i, own in enumerate(by_layer(config, params)):
        name = f"transformer.h.{i}"
        yield from norm(f"{name}.ln_1", own["attention_norm"])
        yield from norm(f"{name}.ln_2", own["mlp_norm"])
        yield from conv(f"{name}.attn.c_attn", joined(*(own["attention"][key] for key in "qkv")))
        yield from conv(f"{name}.attn.c_proj", own["attention"]["o"])
        yield from conv(f"{name}.mlp.c_fc", own["mlp"]["up"])
        yield from conv(f"{name}.mlp.c_proj", own["mlp"]["down"])


def gptj(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    yield "transformer.wte.weight", params["embedding"]
    yield "lm_head.weight", params["head"].T
    yield "lm_head.bias", np.zeros(config.vocab, np.float32)
    yield from norm("transformer.ln_f", params["norm"])
    for i, own in enumerate(by_layer(config, params)):
        name, turned = f"transformer.h.{i}", config.ropes[0].width(config.d_head)
        yield from norm(f"{name}.ln_1", own["attention_norm"])
        for key in "qk":
            yield from linear(f"{name}.attn.{key}_proj", interleaved(own["attention"][key], config.d_head, turned))
        yield from linear(f"{name}.attn.v_proj", own["attention"]["v"])
        yield from linear(f"{name}.attn.out_proj", own["attention"]["o"])
        yield from linear(f"{name}.mlp.fc_in", own["mlp"]["up"])
        yield from linear(f"{name}.mlp.fc_out", own["mlp"]["down"])


def gpt_neox(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    yield "gpt_neox.embed_in.weight", params["embedding"]
    yield "lm_head.weight", params["head"].T
    yield from norm("gpt_neox.final_layer_norm", params["norm"])
    for i, own in enumerate(by_layer(config, params)):
        name = f"gpt_neox.layers.{i}"
        yield from norm(f"{name}.input_layernorm", own["attention_norm"])
        yield from norm(f"{name}.post_attention_layernorm", own["mlp_norm"])
        qkv = by_head(*(own["attention"][key] for key in "qkv"), heads=config.n_heads)
        yield from linear(f"{name}.attention.query_key_value", qkv)
        yield from linear(f"{name}.attention.dense", own["attention"]["o"])
        yield from linear(f"{name}.mlp.dense_h_to_4h", own["mlp"]["up"])
        yield from linear(f"{name}.mlp.dense_4h_to_h", own["mlp"]["down"])


def bloom(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    yield "transformer.word_embeddings.weight", params["embedding"]
    yield "lm_head.weight", params["embedding"] if config.tied else params["head"].T
    yield from norm("transformer.ln_f", params["norm"])
    for i, own in enumerate(by_layer(config, params)):
        name = f"transformer.h.{i}"
        yield from norm(f"{name}.input_layernorm", own["attention_norm"])
        if "mlp_norm" in own:
            yield from norm(f"{name}.post_attention_layernorm", own["mlp_norm"])
        maps = [own["attention"][key] for key in "qkv"]
        qkv = joined(*maps) if config.n_kv_heads == 1 else by_head(*maps, heads=config.n_heads)
        yield from linear(f"{name}.self_attention.query_key_value", qkv)
        yield from linear(f"{name}.self_attention.dense", own["attention"]["o"])
        yield from linear(f"{name}.mlp.dense_h_to_4h", own["mlp"]["up"])
        yield from linear(f"{name}.mlp.dense_4h_to_h", own["mlp"]["down"])


falcon = bloom


def mpt(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    yield "transformer.wte.weight", params["embedding"]
    yield "lm_head.weight", params["embedding"]
    yield from norm("transformer.norm_f", params["norm"])
    for i, own in enumerate(by_layer(config, params)):
        name = f"transformer.blocks.{i}"
        yield from norm(f"{name}.norm_1", own["attention_norm"])
        yield from norm(f"{name}.norm_2", own["mlp_norm"])
        yield from linear(f"{name}.attn.Wqkv", joined(*(own["attention"][key] for key in "qkv")))
        yield from linear(f"{name}.attn.out_proj", own["attention"]["o"])
        yield from linear(f"{name}.ffn.up_proj", own["mlp"]["up"])
        yield from linear(f"{name}.ffn.down_proj", own["mlp"]["down"])


def opt(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    """Its positions begin in the third row."""
    unused = np.zeros((2, config.d_model), np.float32)
    yield "model.decoder.embed_tokens.weight", params["embedding"]
    yield "lm_head.weight", params["embedding"]
    yield "model.decoder.embed_positions.weight", np.concatenate([unused, params["position"]])
    yield from norm("model.decoder.final_layer_norm", params["norm"])
    for i, own in enumerate(by_layer(config, params)):
        name = f"model.decoder.layers.{i}"
        yield from norm(f"{name}.self_attn_layer_norm", own["attention_norm"])
        yield from norm(f"{name}.final_layer_norm", own["mlp_norm"])
        for key, theirs in {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}.items():
            yield from linear(f"{name}.self_attn.{theirs}", own["attention"][key])
        yield from linear(f"{name}.fc1", own["mlp"]["up"])
        yield from linear(f"{name}.fc2", own["mlp"]["down"])


def albert(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    """With embeddings as wide as the layers, which it maps by one more matrix: the unit matrix."""
    (own,), name = by_layer(config, params), "encoder.albert_layer_groups.0.albert_layers.0"
    yield "embeddings.word_embeddings.weight", params["embedding"]
    yield "embeddings.position_embeddings.weight", params["position"]
    yield "embeddings.token_type_embeddings.weight", np.zeros((2, config.d_model), np.float32)
    yield "encoder.embedding_hidden_mapping_in.weight", np.eye(config.d_model, dtype=np.float32)
    yield "encoder.embedding_hidden_mapping_in.bias", np.zeros(config.d_model, np.float32)
    for key, theirs in {"q": "query", "k": "key", "v": "value", "o": "dense"}.items():
        yield from linear(f"{name}.attention.{theirs}", own["attention"][key])
    yield from norm(f"{name}.attention.LayerNorm", own["attention_norm"])
    yield from linear(f"{name}.ffn", own["mlp"]["up"])
    yield from linear(f"{name}.ffn_output", own["mlp"]["down"])
    yield from norm(f"{name}.full_layer_layer_norm", own["mlp_norm"])


def longformer(config: TransformerConfig, params: Named) -> Iterator[tuple[str, np.ndarray]]:
    """Its positions begin in the third row."""
    unused = np.zeros((2, config.d_model), np.float32)
    yield "embeddings.word_embeddings.weight", params["embedding"]
    yield "embeddings.position_embeddings.weight", np.concatenate([unused, params["position"]])
    yield "embeddings.token_type_embeddings.weight", np.zeros((2, config.d_model), np.float32)
    for i, own in enumerate(by_layer(config, params)):
        name = f"encoder.layer.{i}"
        for key, theirs in {"q": "query", "k": "key", "v": "value"}.items():
            yield from linear(f"{name}.attention.self.{theirs}", own["attention"][key])
            yield from linear(f"{name}.attention.self.{theirs}_global", own["attention"][f"{key}_global"])
        yield from linear(f"{name}.attention.output.dense", own["attention"]["o"])
        yield from norm(f"{name}.attention.output.LayerNorm", own["attention_norm"])
        yield from linear(f"{name}.intermediate.dense", own["mlp"]["up"])
        yield from linear(f"{name}.output.dense", own["mlp"]["down"])
        yield from norm(f"{name}.output.LayerNorm", own["mlp_norm"])
