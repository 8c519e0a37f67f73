"""The process that talks to wandb: reads a run's records from its standard input, one JSON value a line.

The first line is an `Opening`, every further one is `{"step", "metrics"}`, the last one `{"end": result or null}`,
with an `exit_code` where none follows from a result.
Errors are reported as one line on standard output. Where the server does not answer, the run is recorded offline.
wandb runs in a separate process because its import and start take two seconds, it prints, installs exit hooks, and
waits for the network; a process can be given a time limit and ended.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from typing import Any, TextIO

from scaling.tracking.key import unreachable
from scaling.tracking.opening import Opening

HEADLINE = (
    *("status", "params_total", "params_non_embedding", "loss", "loss_sem", "bits_per_byte", "tokens", "flops"),
    *("learning_rate", "tokens_per_s", "mfu"),
)
"""facts of a result that become columns of a table of runs in wandb, and axes of its scatter plots"""


def relay(records: TextIO) -> str:
    """Send every record to wandb; returns why they are recorded offline where that was not requested, and raises
    whatever wandb raises."""
    opening = Opening(**json.loads(records.readline()))
    why = unreachable() if opening.mode == "online" else ""
    run = _open(replace(opening, mode="offline") if why else opening)
    result, code = None, 1
    for line in records:
        record = json.loads(line)
        if "end" in record:
            result = record["end"]
            code = record.get("exit_code", 0 if result and result["status"] == "completed" else 1)
            break
        run.log(record["metrics"], step=record["step"])
    signal.alarm(int(opening.finish_seconds) + 1)  # a run that is killed must not leave this process behind
    if result is not None:
        run.summary.update({f"final/{name}": result[name] for name in HEADLINE} | {"result": result})
    run.finish(exit_code=code)
    return f"{why}, so the run was recorded offline; `wandb sync` uploads it" if why else ""


def _open(opening: Opening) -> Any:
    import wandb

    values: dict[str, Any] = {"console": "off", "silent": True, "init_timeout": 60.0}
    if "finish_timeout" in getattr(wandb.Settings, "model_fields", ()):  # wandb 0.22 and later
        values["finish_timeout"] = opening.finish_seconds
    run = wandb.init(
        project=opening.project,
        group=opening.group,
        id=opening.id,
        name=opening.name,
        job_type=opening.job_type,
        resume=opening.resume,
        mode=opening.mode,
        dir=opening.folder,
        config=dict(opening.config),
        settings=wandb.Settings(**values),
    )
    run.define_metric("tokens")
    run.define_metric("flops", step_metric="tokens")
    run.define_metric("*", step_metric="tokens")
    return run


def main() -> int:
    """Mirror standard input; 1 and one line on standard output where wandb is missing or fails."""
    answer = os.fdopen(os.dup(1), "w")  # wandb and its service print to nowhere
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.environ.pop("WANDB_SERVICE", None)  # of the parent's own wandb, where a killed run's id stays taken
    try:
        answer.write(relay(sys.stdin))
    except ImportError as error:
        answer.write(f"{error} (pip install wandb, or set records.wandb=disabled)")
    except BaseException as error:  # wandb may raise anything here, SystemExit included
        answer.write(" ".join(f"{type(error).__name__}: {error}".split()))
    else:
        return 0
    finally:
        answer.flush()
    return 1


if __name__ == "__main__":
    sys.exit(main())
