"""Hosts of TPU slices, as far as they can be had without one: the variables that GKE sets and a metadata server as
Compute Engine has it are made up, two real processes are then joined by JAX's own detection."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from waiting import LIMIT_S, free_ports

from scaling import processes

NAMED = (*processes.EXPLICIT, processes.SLURM_TASKS, *processes.TPU_HOSTS, processes.TPU_SLICES, processes.WATCHED)
ENDPOINTS = "worker-network-endpoints"
TPU_ENV = "ACCELERATOR_TYPE: 'v5litepod-16'\nMEGASCALE_NUM_SLICES: '{}'\nMEGASCALE_SLICE_ID: '{}'\n"
JOIN = """
import os, sys
from pathlib import Path
import jax
os.environ.pop("TPU_SKIP_MDS_QUERY", None)  # JAX sets it on a machine without a TPU
from scaling import processes
processes.PCI = Path(sys.argv[1])
from scaling.config.placement import Processes
from scaling.parallel import initialize
initialize(Processes())
print(jax.process_index(), jax.process_count(), jax.device_count())
"""


@pytest.fixture(autouse=True)
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a TPU, by what Linux lists; nothing else says that it is one of several."""
    for name in (*NAMED, "TPU_SKIP_MDS_QUERY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pci" / "0000:00:04.0").mkdir(parents=True)
    (tmp_path / "pci" / "0000:00:04.0" / "vendor").write_text("0x1ae0\n")
    monkeypatch.setattr(processes, "PCI", tmp_path / "pci")
    return tmp_path / "pci"


@contextmanager
def metadata(attributes: Mapping[str, str]) -> Iterator[str]:
    """A metadata server with these attributes of the machine; its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            value = attributes.get(self.path.removeprefix("/computeMetadata/v1/instance/attributes/"))
            known = value is not None and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write((value or "").encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("localhost", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"localhost:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("attributes", "variables", "hosts"),
    [
        ({}, {}, 1),
        ({ENDPOINTS: "10.0.0.1"}, {}, 1),
        ({ENDPOINTS: "10.0.0.1,10.0.0.2"}, {}, 2),
        ({ENDPOINTS: "unknown:unknown:10.0.0.1,unknown:unknown:10.0.0.2", "tpu-env": TPU_ENV.format(4, 1)}, {}, 8),
        ({ENDPOINTS: "10.0.0.1,10.0.0.2"}, {"TPU_SKIP_MDS_QUERY": "1"}, 1),
        ({ENDPOINTS: "10.0.0.1,10.0.0.2"}, {"TPU_WORKER_HOSTNAMES": "a,b,c"}, 3),
        ({}, {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, 2),
        ({}, {"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}, 4),
    ],
)
def test_hosts_are_counted_by_variables_or_by_the_metadata_server(
    monkeypatch: pytest.MonkeyPatch, attributes: dict[str, str], variables: dict[str, str], hosts: int
) -> None:
    with metadata(attributes) as address:
        for name, value in {**variables, "GCE_METADATA_IP": address}.items():
            monkeypatch.setenv(name, value)
        assert processes.tpu_hosts() == hosts
        assert processes.several() == processes.unwatched() == (hosts > 1)


def test_nobody_is_asked_on_a_machine_without_a_tpu_and_nobody_answers_on_one_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GCE_METADATA_IP", f"localhost:{free_ports(1)[0]}")
    assert processes.tpu_hosts() == 1
    monkeypatch.setattr(processes, "PCI", tmp_path / "none")
    monkeypatch.setattr(processes, "_metadata", lambda key: pytest.fail(f"asked for {key}"))
    assert processes.tpu_hosts() == 1


@pytest.mark.slow
@pytest.mark.parametrize("where", ["gce", "gke", "slices"])
def test_two_hosts_find_each_other_as_jax_does(where: str, plugged: Path) -> None:
    """gce: a metadata server of each host. gke: one slice of two hosts. slices: two slices of one host."""
    port = str(free_ports(1)[0])
    with ExitStack() as stack:
        started = []
        for i in range(2):
            attributes = {ENDPOINTS: "localhost,localhost", "agent-worker-number": str(i)} if where == "gce" else {}
            own = {
                "gce": {},
                "gke": {"TPU_WORKER_HOSTNAMES": "localhost,localhost", "TPU_WORKER_ID": str(i)},
                "slices": {
                    "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0", "MEGASCALE_NUM_SLICES": "2",
                    "MEGASCALE_SLICE_ID": str(i), "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
                },
            }[where]  # fmt: skip
            unset = {} if where == "slices" else dict.fromkeys(("MEGASCALE_COORDINATOR_ADDRESS",), "")
            environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_FORCE_TPU_INIT": "1"} | unset | own
            environment["GCE_METADATA_IP"] = stack.enter_context(metadata(attributes | {"tpu-env": ""}))
            environment["JAX_COORDINATOR_PORT"] = port
            command = [sys.executable, "-c", JOIN, str(plugged)]
            pipe = subprocess.PIPE
            started.append(subprocess.Popen(command, env=environment, text=True, stdout=pipe, stderr=pipe))
        said = [process.communicate(timeout=LIMIT_S) for process in started]
    assert [out.split()[:2] for out, _ in said] == [["0", "2"], ["1", "2"]], said


def test_what_jax_does_not_find_is_told_in_one_line() -> None:
    """The variables of a slice, on a machine without a TPU; in a process where JAX has not begun."""
    code = "from scaling import config, parallel\nparallel.initialize(config.Placement().processes)"
    environment = os.environ | {"TPU_WORKER_HOSTNAMES": "a,b"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines()[-1]
    assert re.search(
        r"UserError: .* one of several TPU hosts, .* JAX cannot connect .* JAX_COORDINATOR_ADDRESS", said
    ), said
