"""A corpus, a store and runs of a second, for the tests of training."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from quick import OPTIONS

from scaling.config import RunConfig, build, merge, to_yaml
from scaling.data import TokenStore, open_store, prepare

RUN: dict[str, Any] = {
    "model": {
        "vocab": 256,
        "context": 32,
        "layers": 1,
        "d_model": 16,
        "n_heads": 2,
        "d_ff": 32,
        "activation": "relu2",
    },
    "optimizer": {"learning_rate": 0.01},
    "batch_size": 8,
    "tokens": 40 * 8 * 32,
    "records": {"log_every": 5, "checkpoint_minutes": None, "wandb": "disabled"},
}


def quick_jit(f: Any) -> Any:
    """`jax.jit` that compiles in a quarter of the time, for what runs once."""
    return jax.jit(f, compiler_options=OPTIONS | {"xla_backend_optimization_level": 0})


def write_corpus(folder: Path, documents: int = 60, words: int = 300) -> str:
    """Documents of four words in random order; returns the corpus as a data configuration names it."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    for i in range(documents):
        text = "".join(draw.choice(["alpha ", "beta ", "gamma ", "delta\n"]) for _ in range(words))
        (folder / f"{i:03d}.txt").write_text(text)
    return f"files:{folder}/*.txt"


def on_one_device(config: RunConfig) -> RunConfig:
    """The same run, by the same name, without its mesh."""
    return config.model_copy(update={"placement": type(config.placement)()})


class Tiny:
    """Runs over one prepared store below `folder`."""

    def __init__(self, folder: Path):
        self.folder, self.corpus = folder, write_corpus(folder / "corpus")
        prepare(self.config().data, self.store, progress=False)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def config(self, **changes: Any) -> RunConfig:
        """The tiny run with nested `changes`."""
        records = {"folder": str(self.folder / "runs"), "store_folder": str(self.store)}
        return build(
            RunConfig, merge(merge(RUN, {"data": {"corpus": self.corpus}, "records": records}), changes), "tiny"
        )

    def start(
        self, config: RunConfig, folder: Path, devices: int = 1, prelude: str = "", **environment: str
    ) -> "subprocess.Popen[str]":
        """`train(config, folder=folder)` in a process of its own."""
        return self.start_pack([config], [folder], devices, prelude, **environment)

    def start_pack(
        self, configs: list[RunConfig], folders: list[Path], devices: int = 1, prelude: str = "", **environment: str
    ) -> "subprocess.Popen[str]":
        """`train_pack(configs, folders)` in a process of its own."""
        paths = [str(folder.with_suffix(".yaml")) for folder in folders]
        for path, config in zip(paths, configs, strict=True):
            Path(path).write_text(to_yaml(config))
        code = f"""
from pathlib import Path
from scaling.config import RunConfig, load
{prelude}
from scaling.training import train_pack
configs = [load(RunConfig, path) for path in {paths!r}]
train_pack(configs, [Path(folder) for folder in {[str(folder) for folder in folders]!r}], quiet=True)
"""
        command = [sys.executable, "-c", code]
        pipe = subprocess.PIPE
        environment = {**self.environment(devices), **environment}
        return subprocess.Popen(command, env=environment, text=True, stdout=pipe, stderr=pipe)

    def open(self) -> TokenStore:
        """The prepared store."""
        return open_store(self.config().data, self.store)

    def environment(self, devices: int = 1) -> dict[str, str]:
        """Of a process on the CPU."""
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
