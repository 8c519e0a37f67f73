"""Several processes as one run: how they find each other, and a watcher of each that reports how it ends.

When a run loses a process, JAX aborts the others from within C++ with a stack trace, where Python cannot intervene;
so the message for the user and the exit code come from a parent process, which does not import JAX.
"""

import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from scaling.errors import Interrupted
from scaling.parent import as_child, end_with_parent

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM_TASKS = "SLURM_STEP_NUM_TASKS"
TPU_HOSTS, TPU_SLICES = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"), "MEGASCALE_NUM_SLICES"
PCI, GOOGLE = Path("/sys/bus/pci/devices"), "0x1ae0"
"""where Linux lists what is plugged in, and the maker of TPUs"""
METADATA_S = 5.0
WATCHED = "SCALING_WATCHED"
"""set in a process that has a watcher"""
ALARM = re.compile(
    rb"[WEF]\d{4} \S+ +\d+ (coordination_service|preemption_sync_manager|client\.h)|terminate called .* 'gloo::"
)
"""first lines by which JAX's services report that a process is gone, and gloo that it received other data than
expected (another survivor has gone on to the next operation). Further lines are theirs, too, or our own"""
ALARMED_S = 60.0  # it takes JAX seconds to end a process
OURS = b"scaling: "
PASSED_ON = (signal.SIGTERM, signal.SIGINT)


class LostProcess(RuntimeError):
    """Another process of the run has ended or no longer responds."""


def several() -> bool:
    """Whether this process is configured to be one of several of a run."""
    if explicit := os.environ.get(EXPLICIT[1]):
        return explicit.isdecimal() and int(explicit) > 1
    return int(os.environ.get(SLURM_TASKS, "1")) > 1 or tpu_hosts() > 1


def tpu_hosts() -> int:
    """Hosts of this machine's TPU slice, times slices: from environment variables (GKE sets them), else, on a machine
    with a TPU, from Compute Engine's metadata server; 1 if neither has it. JAX uses the same sources."""
    hosts = next((value for name in TPU_HOSTS if (value := os.environ.get(name))), "")
    slices = os.environ.get(TPU_SLICES)
    if not hosts and "TPU_SKIP_MDS_QUERY" not in os.environ and _made_by_google():
        hosts = _metadata("worker-network-endpoints")
        found = re.search(rf"^{TPU_SLICES}: *'?(\d+)", _metadata("tpu-env") if slices is None else "", re.MULTILINE)
        slices = found[1] if found else slices
    return (hosts.count(",") + 1) * (int(slices) if slices and slices.isdecimal() else 1)


def _made_by_google() -> bool:
    """Whether a device here is Google's: a TPU, or the network card of a virtual machine (with a metadata server)."""
    for path in PCI.glob("*/vendor"):
        try:
            if path.read_text("utf-8").strip() == GOOGLE:
                return True
        except OSError:
            continue
    return False


def _metadata(key: str) -> str:
    """An attribute of this virtual machine; empty where there is none, or it is not a virtual machine."""
    import urllib.request  # takes .05 s, needed only on such machines

    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
    try:
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=METADATA_S) as answer:
            return str(answer.read().decode())
    except (OSError, ValueError):
        return ""


def unwatched() -> bool:
    """Whether this is one of several processes and has no watcher yet."""
    return several() and not watched()


def watched() -> bool:
    """Whether this process has a watcher, which reports how it ended."""
    return WATCHED in os.environ


def first() -> bool:
    """Whether this process is the only one of its run, or the first of those that EXPLICIT speaks of."""
    return os.environ.get(EXPLICIT[2], "0") == "0"


def watch(arguments: Sequence[str], module: str = "scaling.cli") -> int:
    """Run a module with these arguments in a process of its own; returns its exit code.

    Its output is passed on, and so are SIGTERM and Ctrl-C. If it ends because another process is gone or never
    arrived, one line says so and the code is 1. Raises `Interrupted` where it was told to stop and had nothing to
    save.
    """
    command = [sys.executable, "-m", module, *arguments]
    child = subprocess.Popen(command, env=as_child(**{WATCHED: "1"}), stderr=subprocess.PIPE)
    before = {number: signal.signal(number, lambda n, _: child.send_signal(n)) for number in PASSED_ON}
    try:
        kept = _pass_on(child.stderr)
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    lines = [line for line in kept if line.startswith(OURS)]
    if code == -signal.SIGABRT and kept:
        code, lines = 1, lines or [f"{OURS.decode()}{_reason(b''.join(kept).decode(errors='replace'))}\n".encode()]
    for line in lines or (kept if code else []):
        _write(line)
    if code == -signal.SIGTERM:
        raise Interrupted("")
    return code if code >= 0 else 128 - code


def lost(error: Exception) -> LostProcess | None:
    """The meaning of an error of a collective operation after another process is gone; None for any other error."""
    if re.search(r"gloo|nccl|coordination service|heartbeat", str(error), re.IGNORECASE) is None:
        return None
    return LostProcess(_gone("another process"))


def leave(main: Callable[[], int]) -> NoReturn:
    """End with the exit code of `main`. A failed process among several does not wait for the others, as it would by
    default in JAX, because they wait for it."""
    if not watched():
        sys.exit(main())
    end_with_parent()
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = 1
    if code == 0:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _pass_on(stream: Iterable[bytes] | None) -> list[bytes]:
    """Pass on every line as it comes, up to the first line of an alarm; returns that line and the rest.

    If the process survives because the alarm was false, the withheld lines are passed on late.
    """
    kept: list[bytes] = []
    since = 0.0
    for line in stream or ():
        if kept and time.monotonic() - since > ALARMED_S:
            for late in kept:
                _write(late)
            kept.clear()
        if kept or ALARM.search(line):
            since = since if kept else time.monotonic()
            kept.append(line)
        else:
            _write(line)
    return kept


def _write(line: bytes) -> None:
    sys.stderr.buffer.write(line)
    sys.stderr.flush()


def _reason(text: str) -> str:
    """The reason in JAX's last output, in one line."""
    if "RegisterTask" in text or ("DEADLINE_EXCEEDED" in text and "heartbeat" not in text):
        return (
            "not all processes of this run have connected in time (placement.processes.arrive_s); start as many as "
            f"{EXPLICIT[1]} or the scheduler says, all with the address of process 0"
        )
    found = re.search(r"[Tt]ask (\d+) heartbeat timeout|\(stopped sending heartbeats\):\s*(\d+)", text)
    return _gone(f"process {found[1] or found[2]}" if found else "another process")


def _gone(who: str) -> str:
    return (
        f"{who} of this run has ended or no longer responds, so this one ends too; the same command on all hosts, or "
        "on another number of them, continues from the last checkpoint"
    )
