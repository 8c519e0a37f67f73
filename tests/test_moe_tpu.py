"""A mixture of experts compiled for TPUs that are not there; needs libtpu, which has the compiler."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from waiting import LIMIT_S

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"),
]

COMPILE = """
from jax.experimental import topologies
from scaling.config import RunConfig, build
from scaling.training.step import compiled_step
moe = {"kind": "moe", "experts": 16, "top_k": 4, "d_ff": 256}
model = {"vocab": 512, "context": 256, "layers": 2, "d_model": 256, "n_heads": 4, "feed_forward": moe}
run = {"model": model, "data": {"corpus": "python_stdlib"}, "optimizer": {"learning_rate": 0.01}, "batch_size": 32}
run |= {"tokens": 10**6, "placement": {"mesh": {"data": 1, "fsdp": 2, "expert": 8}, "transport": "TRANSPORT"}}
topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4")
print(compiled_step(build(RunConfig, run, "test"), topology.devices).update.as_text())
"""


@pytest.mark.parametrize(("transport", "collective"), [("gather", "all-gather"), ("ragged", "ragged-all-to-all")])
def test_the_grouped_product_and_the_transport_are_in_the_program(transport: str, collective: str) -> None:
    """The platform is that of the mesh: this process has CPUs alone."""
    command = [sys.executable, "-c", COMPILE.replace("TRANSPORT", transport)]
    environment = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = re.findall(r'custom_call_target="tpu_custom_call".*?op_name="([^"]*)"', done.stdout)
    assert sum("gmm" in name for name in kernels) >= 6 and f"{collective}(" in done.stdout.replace("-start(", "(")
