"""Steps compiled for TPUs that are not there: kernels and what travels. Needs libtpu, which has the compiler."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
from waiting import LIMIT_S

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"),
]

COMPILE = """
import json, sys
from jax.experimental import topologies
from scaling.config import RunConfig, build
from scaling.training.step import compiled_step
topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4")
print(compiled_step(build(RunConfig, json.loads(sys.argv[1]), "test"), topology.devices).update.as_text())
"""
RUN = {"data": {"corpus": "python_stdlib"}, "optimizer": {"learning_rate": 0.01}, "batch_size": 32, "tokens": 10**6}
EXPERTS: dict[str, Any] = {
    "vocab": 512, "context": 256, "layers": 2, "d_model": 256, "n_heads": 4,
    "feed_forward": {"kind": "moe", "experts": 16, "top_k": 4, "d_ff": 256},
}  # fmt: skip
LONG: dict[str, Any] = {"vocab": 512, "context": 2048, "layers": 2, "d_model": 1024, "n_heads": 16, "n_kv_heads": 4}


@pytest.mark.parametrize(
    ("model", "placement", "kernel", "collective"),
    [
        (EXPERTS, {"mesh": {"data": 1, "fsdp": 2, "expert": 8}, "transport": "gather"}, "gmm", "all-gather"),
        (EXPERTS, {"mesh": {"data": 1, "fsdp": 2, "expert": 8}, "transport": "ragged"}, "gmm", "ragged-all-to-all"),
        (LONG, {"mesh": {"data": 1, "fsdp": 2, "context": 8}}, "splash", "all-to-all"),
        (LONG, {"mesh": {"data": 1, "context": 8, "tensor": 2}, "context": "gather"}, "splash", "all-gather"),
        (LONG, {"mesh": {"data": 1, "context": 8, "tensor": 2}, "context": "ring"}, "splash", "collective-permute"),
    ],
)
def test_the_kernel_and_what_travels_are_in_the_program(
    model: dict[str, Any], placement: dict[str, Any], kernel: str, collective: str
) -> None:
    """The platform is that of the mesh: this process has CPUs alone."""
    command = [sys.executable, "-c", COMPILE, json.dumps(RUN | {"model": model, "placement": placement})]
    environment = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('custom_call_target="tpu_custom_call"') >= 3  # forward, and gradients of both sides
    assert re.search(rf'op_name="[^"]*{kernel}', done.stdout)
    assert f"{collective}(" in done.stdout.replace("-start(", "(")
