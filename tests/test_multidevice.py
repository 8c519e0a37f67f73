"""What needs several devices, in processes that have 8 virtual ones or are several themselves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from quick import flags
from waiting import LIMIT_S, free_ports

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "multidevice"


def environment(devices: int, **more: str) -> dict[str, str]:
    told = flags(
        xla_force_host_platform_device_count=devices,
        xla_backend_optimization_level=0,
        xla_llvm_disable_expensive_passes=True,
    )
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": told, **more}


@pytest.mark.slow
@pytest.mark.parametrize("checks", sorted(path.name for path in FOLDER.glob("check_*.py")))
def test_training_on_eight_devices_equals_training_on_one(checks: str) -> None:
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(FOLDER / checks)]
    paths = os.pathsep.join([str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(8, PYTHONPATH=paths),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("script", ["two_processes.py", "two_disks.py"])
def test_two_processes_compute_as_one(script: str, tmp_path: Path) -> None:
    address = f"localhost:{free_ports(1)[0]}"
    processes = [
        subprocess.Popen(
            [sys.executable, str(FOLDER / script), str(tmp_path)],
            cwd=ROOT,
            env=environment(2, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(process)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=LIMIT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]
        assert output.rstrip().endswith("as one"), output[-4000:]
