"""Writes `logits.npz`: what the reference implementations in transformers compute, and with which versions.

By hand, in an environment that has the project, torch and transformers:

    python tests/published/make.py [CASE …]

prints how far the project's logits are from theirs. With names of cases it compares those only and writes nothing.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.deepseek_v2 import modeling_deepseek_v2
from transformers.models.llama4 import modeling_llama4

sys.path.insert(0, str(Path(__file__).parents[1]))

from published import layouts
from published.cases import CASES, HF_SMALL, TOKENS, Case
from published.ours import logits
from published.steps import ADAMW, FINAL, STEPS, TRAINED, WARMUP, WINDOWS, losses
from published.weights import weights

PATH = Path(__file__).with_name("logits.npz")


def no_embedding_norm(model: Any, case: Case) -> None:
    """Longformer, ALBERT and BLOOM normalise embeddings, which is not implemented here."""
    if case.layout == "bloom":
        model.transformer.word_embeddings_layernorm = torch.nn.Identity()
    else:
        model.embeddings.LayerNorm = torch.nn.Identity()


def deepseek_experts(model: Any, case: Case) -> None:
    """DeepSeekMoE, which transformers does not have: Llama with the experts of DeepSeek-V2 after the first layer."""
    part = case.model.parts[-1][1]
    config = transformers.DeepseekV2Config(
        hidden_size=32, n_routed_experts=part.experts, num_experts_per_tok=part.top_k, n_shared_experts=part.shared,
        moe_intermediate_size=part.d_ff, topk_method="greedy",
    )  # fmt: skip
    for layer in model.model.layers[1:]:
        layer.mlp = modeling_deepseek_v2.DeepseekV2Moe(config)


def weight_of_output(model: Any, case: Case) -> None:
    """The router's weight multiplies an expert's output as here, not its input as in Llama 4."""

    def forward(self: Any, x_BxLxD: Any) -> Any:
        x_TxD = x_BxLxD.reshape(-1, self.hidden_dim)
        scores_TxE, logits = self.router(x_TxD)
        every = self.experts(x_TxD.repeat(self.num_experts, 1)).reshape(self.num_experts, *x_TxD.shape)
        return self.shared_expert(x_TxD) + (every * scores_TxE.T[:, :, None]).sum(0), logits

    modeling_llama4.Llama4TextMoe.forward = forward


def reference(case: Case) -> Any:
    """The model of transformers with our weights; every array is used, and none is left as it was."""
    settings = HF_SMALL | case.settings
    kind = getattr(transformers, case.architecture)
    config = kind.config_class(**settings, attn_implementation="eager")
    torch.manual_seed(0)
    model = kind(config).float().eval()
    if case.patched:
        globals()[case.patched](model, case)
    ours = dict(getattr(layouts, case.layout)(case.model, weights(case.model, case.usual), **case.options))
    theirs = model.state_dict()
    for name in sorted(ours.keys() - theirs.keys()):
        usual = 1 if name.endswith("norm.weight") else 0
        assert np.all(ours.pop(name) == usual), f"{name} is not in the reference"
    missing = {n for n in theirs if n not in ours and "position_ids" not in n and "pooler" not in n}
    assert not missing, f"the reference's {sorted(missing)} are not set"
    for name, value in ours.items():
        assert theirs[name].shape == value.shape, (name, theirs[name].shape, value.shape)
    model.load_state_dict({n: torch.tensor(np.ascontiguousarray(v)) for n, v in ours.items()}, strict=False)
    return model


def computed(case: Case) -> dict[str, np.ndarray]:
    """Logits [1, L, V] float32, or hidden states [1, L, D] of an encoder; where there is one, the load-balance loss
    summed over layers, `top_k` times as large as Switch's."""
    model, tokens = reference(case), torch.tensor(TOKENS)
    with torch.no_grad():
        if case.layout == "longformer":
            known, places = torch.zeros_like(tokens), 2 + torch.arange(tokens.shape[1])[None]
            known[:, 0] = 1
            found = model(tokens, position_ids=places, global_attention_mask=known).last_hidden_state
            return {"": found.numpy()}
        if case.mask == "full":
            return {"": model(tokens).last_hidden_state.numpy()}
        if case.documents is not None:  # told to transformers by positions that restart
            _, first = np.unique(case.documents, return_index=True)
            places = torch.arange(tokens.shape[1])[None] - torch.tensor(first[case.documents])
            return {"": model(tokens, position_ids=places, use_cache=False).logits.numpy()}
        if not hasattr(model, "router_aux_loss_coef"):
            return {"": model(tokens, use_cache=False).logits.numpy()}
        found = model(tokens, use_cache=False, output_router_logits=True)
        (part,) = {feed_forward for _, feed_forward in case.model.parts}
        loss = sys.modules[type(model).__module__].load_balancing_loss_func
        each = [loss((layer,), part.experts, part.top_k) for layer in found.router_logits]
        return {"": found.logits.numpy(), "/balance": np.float32(sum(each))}


def trained(case: Case) -> np.ndarray:
    """[steps], the losses of torch's AdamW on the same batches; matrices decay, embeddings do not."""
    model, found = reference(case), []
    decays = {
        n: w.ndim > 1 and not any(part in n for part in ("embed", "wte", "wpe")) for n, w in model.named_parameters()
    }
    groups = [
        {"params": [w for n, w in model.named_parameters() if decays[n] is kind], "weight_decay": decay}
        for kind, decay in ((True, ADAMW["weight_decay"]), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, betas=(ADAMW["b1"], ADAMW["b2"]), eps=ADAMW["eps"])
    for i, rows in enumerate(torch.tensor(WINDOWS)):
        after = min(max(i + 1 - WARMUP, 0) / (STEPS - WARMUP), 1)
        share = min((i + 1) / WARMUP, 1) * (FINAL + (1 - FINAL) * (1 + np.cos(np.pi * after)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = ADAMW["learning_rate"] * share
        logits = model(rows[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), ADAMW["clip_norm"])
        optimizer.step()
        found.append(loss.item())
    return np.array(found, np.float32)


def main() -> None:
    names, found = sys.argv[1:] or list(CASES), {}
    for name in names:
        case = CASES[name]
        found |= {name + what: value for what, value in computed(case).items()}
        away = np.abs(logits(case)[0] - found[name]).max()
        print(f"{name:18} {case.architecture:24} max |Δ| {away:.1e} of {np.abs(found[name]).max():.3g}", flush=True)
    for name in set(TRAINED) & set(names):
        found[f"{name}/losses"] = trained(TRAINED[name])
        away = np.abs(losses(TRAINED[name]) / found[f"{name}/losses"] - 1).max()
        print(f"{name:18} {STEPS} updates: losses {found[f'{name}/losses'][[0, -1]]}, apart by {away:.1e}")
    if not sys.argv[1:]:
        versions = np.array([f"transformers {transformers.__version__}", f"torch {torch.__version__}"])
        np.savez_compressed(PATH, versions=versions, **found)


if __name__ == "__main__":
    main()
