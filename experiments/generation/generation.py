"""Tokens per second of text that is written over a cache, beside the same model that reads the whole text for each.

    python experiments/generation/generation.py [--tokens 2048] [--whole 8]

Without a cache every token is one forward pass over the text so far, here padded to its full length, as one compiled
program needs it; `--whole` of them are timed. Both are greedy, of the same parameters, and compiled before.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from scaling.accounting import cache_bytes, params
from scaling.config import RunConfig
from scaling.generation.decode import Decoder
from scaling.generation.sampling import Sampling
from scaling.models import functional
from scaling.parallel import make_mesh
from scaling.training.trained import Trained

SHAPES = {
    "full attention": {"layers": 4, "d_model": 128, "n_heads": 4},
    "wider": {"layers": 4, "d_model": 256, "n_heads": 4},
    "windows of 256, every fourth full": {
        "layers": 4, "d_model": 256, "n_heads": 4, "n_kv_heads": 1, "sliding_window": [256, 256, 256, None],
    },
    "latents": {
        "layers": 4, "d_model": 256, "n_heads": 4,
        "mixer": {"kind": "mla", "kv_rank": 64, "nope": 32, "rope": 16, "v": 32},
    },
    "lstm": {"kind": "lstm", "layers": 2, "d_model": 256, "tied": False},
}  # fmt: skip
PROMPT = np.arange(1, 9, dtype=np.int32)


def trained(shape: dict[str, object], length: int) -> Trained:
    """A run that was not trained at all: the speed is the same."""
    run = RunConfig.model_validate(
        {
            "model": {"vocab": 256, "context": length, **shape},
            "data": {"corpus": "python_stdlib"},
            "optimizer": {"learning_rate": 0.01},
            "batch_size": 1,
            "tokens": length,
        }
    )
    mesh = make_mesh(run.placement.mesh, jax.devices()[:1])
    return Trained(Path(), run, 0, functional.init(run.model, jax.random.key(0)), mesh)


def with_cache(model: Trained, tokens: int) -> float:
    """Seconds a token."""
    decoder = Decoder(model, Sampling(0.0), 256, len(PROMPT) + tokens)
    for _ in range(2):  # the first compiles
        texts, left, start = decoder.read([PROMPT], 0), tokens, time.perf_counter()
        while left > 0:
            texts, new, _ = decoder.write(texts, left, [False])
            left -= max(1, new.shape[1])
        took = time.perf_counter() - start
    return took / tokens


def without_cache(model: Trained, tokens: int, times: int) -> float:
    """Seconds a token."""
    length = len(PROMPT) + tokens

    @jax.jit
    def following(params: functional.Params, text_1xL: jax.Array, at: jax.Array) -> jax.Array:
        bound = functional.bind_run(model.run, params)
        hidden_D = bound(text_1xL)[0, at]
        return text_1xL.at[0, at + 1].set(jnp.argmax(hidden_D @ bound.head_matrix()))

    text = following(model.params, jnp.zeros((1, length), jnp.int32), 0).block_until_ready()
    start = time.perf_counter()
    for at in range(times):
        text = following(model.params, text, at)
    text.block_until_ready()
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--whole", type=int, default=8)
    args = parser.parse_args()
    print(f"{'model':<34} {'parameters':>10} {'cache':>9} {'tokens/s':>9} {'without':>8} {'ratio':>6}")
    for name, shape in SHAPES.items():
        model = trained(shape, len(PROMPT) + args.tokens)
        cached, whole = with_cache(model, args.tokens), without_cache(model, args.tokens, args.whole)
        held = cache_bytes(model.run.model, len(PROMPT) + args.tokens, "float32")
        print(
            f"{name:<34} {params(model.run.model).total:>10,} {held / 1e6:>6.2f} MB {1 / cached:>9.0f} "
            f"{1 / whole:>8.1f} {whole / cached:>6.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
