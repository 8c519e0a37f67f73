"""What a step of a hundred million parameters really takes of this machine, against the ledger."""

import json
import subprocess
import sys

import pytest
from tiny_run import Tiny
from waiting import LIMIT_S

SCRIPT = r"""
import json, re, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from scaling import accounting
from scaling.config import RunConfig, build
from scaling.training.knobs import make_knobs
from scaling.training.step import compiled_step, rows_spec

def resident(what):
    return 1024 * int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

def filled(x):
    return np.full(x.shape, 1, x.dtype)

run = build(RunConfig, json.loads(sys.argv[1]), "test")
step = compiled_step(run)
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
state = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype, device=x.sharding), step.layout)
rows = jax.tree.map(filled, rows_spec(run, np.uint8, run.model.context))
for _ in range(2):
    state, metrics = step.update(state, make_knobs(run), rows)
    metrics.block_until_ready()
taken = resident("VmHWM") - before
print(json.dumps({"taken": taken, "ledger": accounting.memory(run, 1, "cpu").total}))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("users_compiler")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("remat", "accumulate"), [("full", 1), ("none", 0)])
def test_a_step_takes_what_the_ledger_says(tiny: Tiny, remat: str, accumulate: int) -> None:
    """1.05 and 1.02 of it were measured. A scan that keeps its weights a second time takes 1.35 of it, unrolled
    layers of which nothing is computed again 1.6, and microbatches that the ledger does not count 1.2."""
    model = {"context": 256, "layers": 12, "d_model": 768, "n_heads": 12, "vocab": 256}
    placement = {"remat": remat, "accumulate": accumulate}
    run = {"model": model, "data": {"corpus": tiny.corpus}, "optimizer": {"learning_rate": 1e-3}}
    values = run | {"batch_size": 4, "tokens": 10**6, "placement": placement}
    command = [sys.executable, "-c", SCRIPT, json.dumps(values)]
    done = subprocess.run(
        command, env=tiny.environment(), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["taken"] == pytest.approx(found["ledger"], rel=0.1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))
