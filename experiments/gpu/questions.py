"""What is asked of a GPU, each question a generator of rows: `python experiments/gpu/questions.py NAME [--small]`.

A row is printed as a line of JSON as soon as it is measured. `--small` asks the same of shapes that a CPU takes in
seconds, to see that nothing is broken; its numbers say nothing.
"""

import argparse
import json
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from step import timed

from scaling.config import RunConfig, build, load, locate, merge
from scaling.data import prepare
from scaling.families.attention_mask import AttentionMask
from scaling.models.attend import attend
from scaling.training import train

EXPERIMENTS = Path(__file__).resolve().parents[1]
CLOSE = 0.01
"""relative error of bfloat16 attention beside float32, ‖a − b‖ / ‖b‖: rounding alone gives about 0.003"""
TINY = {"vocab": 512, "context": 64, "layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": None, "d_ff": 128}
Row = dict[str, Any]


def smoke(small: bool) -> Iterator[Row]:
    """Is attention right, does a run end, does it go on where it was?"""
    kernels = ("xla",) if jax.default_backend() == "cpu" else ("cudnn", "xla")
    length = 64 if small else 1024
    for kernel in kernels:
        for name, mask in (
            ("causal", AttentionMask(length)),
            ("window", AttentionMask(length // 4)),
            ("full", AttentionMask(length, kind="full")),
        ):
            errors = attention_errors(kernel, mask, length)
            yield {
                "check": "attention", "kernel": kernel, "mask": name, "errors": errors,
                "ok": all(error < CLOSE for error in errors.values()),
            }  # fmt: skip
    yield from run_and_resume(small)


def attention_errors(kernel: str, mask: AttentionMask, length: int) -> dict[str, float]:
    """Of the output and of the gradients, in bfloat16 by a kernel beside the reference in full float32."""
    shapes = ((2, length, 8, 64), (2, length, 4, 64), (2, length, 4, 64), (2, length, 8, 64))
    keys = jax.random.split(jax.random.key(0), len(shapes))
    *inputs, dy = (jax.random.normal(k, s, jnp.bfloat16) for k, s in zip(keys, shapes, strict=True))

    def both(name: str, dtype: Any) -> list[jax.Array]:
        def out(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return attend(q, k, v, mask, implementation=name)

        y, back = jax.vjp(out, *(x.astype(dtype) for x in inputs))
        return [x.astype(jnp.float32) for x in (y, *back(dy.astype(dtype)))]

    with jax.default_matmul_precision("highest"):
        right = jax.jit(lambda: both("reference", jnp.float32))()
    found = jax.jit(lambda: both(kernel, jnp.bfloat16))()
    pairs = zip(("out", "dq", "dk", "dv"), found, right, strict=True)
    return {what: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for what, a, b in pairs}


def corpus(folder: Path) -> str:
    """Real text that is on every machine: the modules of Python's library, as files; its name as a corpus."""
    (folder / "texts").mkdir()
    for path in Path(sysconfig.get_path("stdlib")).glob("*.py"):
        (folder / "texts" / f"{path.stem}.txt").write_bytes(path.read_bytes())
    return f"files:{folder}/texts/*.txt"


def run_and_resume(small: bool) -> Iterator[Row]:
    """A run to its end, by the fastest attention and by the reference in float32; the first again from its middle."""
    steps, length, layers, d_model = (20, 64, 2, 64) if small else (200, 512, 6, 384)
    model = {"vocab": 256, "context": length, "layers": layers, "d_model": d_model}
    with tempfile.TemporaryDirectory() as home:
        values: Row = {
            "model": {**model, "n_heads": d_model // 64, "d_ff": 4 * d_model},
            "data": {"corpus": corpus(Path(home)), "validation_tokens": 16384, "epochs": 1000},
            "optimizer": {"learning_rate": 0.003}, "batch_size": 8, "tokens": steps * 8 * length,
            "records": {"folder": home, "store_folder": home, "wandb": "disabled", "checkpoint_steps": steps // 2},
        }  # fmt: skip
        plain = {"placement": {"attention": "reference", "compute_dtype": "float32"}}
        losses = {}
        for name, more in (("fastest", {}), ("reference", plain)):
            config = build(RunConfig, merge(values, {**more, "records": {"sweep": name}}), "questions.py")
            prepare(config.data, home, progress=False)
            result = train(config, folder=Path(home) / name, quiet=True)
            losses[name] = result.loss
            yield {"check": "run", "way": name, "status": result.status, "loss": result.loss,
                   "tokens_per_s": result.tokens_per_s, "compile_s": result.facts["compile_s"]}  # fmt: skip
        yield {"check": "losses", "ok": abs(losses["fastest"] - losses["reference"]) < 0.05 * losses["reference"]}
        config = build(RunConfig, merge(values, {"records": {"sweep": "fastest"}}), "questions.py")
        folder = Path(home) / "fastest"
        (folder / "result.json").unlink()
        (folder / "checkpoints" / str(steps)).rename(folder / "checkpoints" / f"broken-{steps}")
        again = train(config, folder=folder, quiet=True)
        yield {
            "check": "resume", "from": steps // 2, "loss": again.loss, "bitwise": again.loss == losses["fastest"],
            "ok": f"continued from step {steps // 2}" in again.reason
            and abs(again.loss - losses["fastest"]) < 1e-3 * losses["fastest"],
        }  # fmt: skip


def shape(name: str, small: bool, **changes: Any) -> RunConfig:
    """A shipped run on one device, its batch in one piece."""
    base = load(RunConfig, locate(name, ["runs"])).model_dump(mode="json")
    single: Row = {"placement": {"mesh": {"data": 0, "fsdp": 1}, "accumulate": 0}}
    if small:
        tokenizer = {"kind": "bytes", "vocab": 256, "split_digits": False}
        single |= {"model": TINY, "data": {"tokenizer": tokenizer}}
    return build(RunConfig, merge(merge(base, single), changes), name)


def models(small: bool) -> Iterator[Row]:
    """Which share of the peak do GPT-2 small and a Llama of 1.04B parameters reach?"""
    tried = (
        ("gpt2-small", 32, "none"), ("llama-1b", 16, "dots"), ("gpt2-small", 64, "none"), ("llama-1b", 16, "none"),
        ("gpt2-small", 64, "dots"), ("llama-1b", 16, "full"),
    )  # fmt: skip
    for name, windows, remat in tried[: 2 if small else None]:
        config = shape(name, small, batch_size=2 if small else windows, placement={"remat": remat})
        row = {"model": name, "windows": config.batch_size, "context": config.model.context, "remat": remat}
        yield from attempted(row, lambda config=config: timed(config, 2 if small else 10).row())


def context(small: bool) -> Iterator[Row]:
    """What do windows of 8K, 32K and 128K tokens cost, at 131,072 tokens a batch?"""
    tokens = 256 if small else 131_072
    for length in (128, 256) if small else (8192, 32_768, 131_072):
        config = shape("llama-1b", small, model={"context": length}, batch_size=tokens // length,
                       placement={"remat": "full"})  # fmt: skip
        row = {"model": "llama-1b", "context": length, "windows": config.batch_size}
        yield from attempted(row, lambda config=config: timed(config, 2, warm=1).row())


def compiling(small: bool) -> Iterator[Row]:
    """How long does XLA compile a step, layers as a scan or one by one, and how long from its cache?"""
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for name in ("gpt2-small",) if small else ("gpt2-small", "llama-1b"):
            for layers in ("scan",) if small else ("scan", "unroll"):
                for cached in (False, True):
                    config = shape(name, small, batch_size=2, placement={"layers": layers, "remat": "full"})
                    row = {"model": name, "layers": layers, "cached": cached}
                    yield from attempted(row, lambda c=config: {"compile_s": timed(c, 1, warm=0).compile_s})
                    jax.clear_caches()


def packing(small: bool) -> Iterator[Row]:
    """How many tokens a second do 1, 4 and 16 runs of 10M parameters make together, side by side?"""
    sys.path.insert(0, str(EXPERIMENTS / "packing"))
    from packing import aggregate  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as home:
        jax.config.update("jax_compilation_cache_dir", f"{home}/cache")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        tokens = 4 * 4 * 64 if small else 200 * 16 * 512
        data = {"corpus": corpus(Path(home)), "epochs": 1000}
        changes: Row = {"data": data, "records": {"store_folder": home}, "tokens": tokens}
        changes |= {"model": {**TINY, "vocab": 256}, "batch_size": 4} if small else {}
        base = load(RunConfig, EXPERIMENTS / "packing" / "run.yaml").model_dump(mode="json")
        config = build(RunConfig, merge(base, changes), "run.yaml")
        prepare(config.data, home, progress=False)
        for turn in range(1 if small else 3):
            for runs in (1, 2) if small else (1, 4, 16):
                row = {"runs": runs, "round": turn}
                yield from attempted(row, lambda runs=runs: {"tokens_per_s": aggregate(config, runs)})


def experts(small: bool) -> Iterator[Row]:
    """How fast are four of OLMoE's layers with 16 and 64 experts beside the dense model of equal active FLOPs?"""
    sys.path.insert(0, str(EXPERIMENTS / "moe_gpu"))
    from speed import OLMOE, TINY, WIDTH, run  # type: ignore[import-not-found]

    model, width = (TINY, 16) if small else (OLMOE, WIDTH)
    for count in (None, 16) if small else (None, 16, 64):
        config = run(model, width, count, 2 if small else 8, "auto")
        yield from attempted({"experts": count}, lambda config=config: timed(config, 2 if small else 10).row())


def attempted(row: Row, measure: Callable[[], Row]) -> Iterator[Row]:
    """The row with what is measured; one that does not fit into the memory, or breaks, says so and others follow."""
    try:
        yield {**row, **measure()}
    except Exception as error:
        yield {**row, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    jax.clear_caches()


QUESTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "smoke": smoke, "models": models, "context": context, "packing": packing, "experts": experts,
    "compiling": compiling,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit")
    print(json.dumps({"device": device.device_kind, "jax": jax.__version__, "memory": memory}), flush=True)
    for row in QUESTIONS[args.question](args.small):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
