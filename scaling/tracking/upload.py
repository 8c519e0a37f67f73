"""Upload of a whole run to wandb at once."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from scaling.errors import UserError
from scaling.tracking.opening import COMMAND, Opening


def upload(opening: Opening, history: Sequence[Mapping[str, Any]]) -> None:
    """Upload a run with `history` as its records, one per step. Raises UserError where wandb fails or takes too
    long."""
    steps = [{"step": step, "metrics": dict(metrics)} for step, metrics in enumerate(history)]
    lines = [asdict(opening), *steps, {"end": None, "exit_code": 0}]
    limit = 2 * opening.finish_seconds
    try:
        done = subprocess.run(
            COMMAND,
            input="".join(json.dumps(line, default=float, allow_nan=False) + "\n" for line in lines),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"wandb did not accept the {opening.name} within {limit:g} s; try again") from None
    if done.returncode or done.stdout.strip():
        message = done.stdout.strip() or f"its process ended with code {done.returncode}"
        raise UserError(f"wandb did not accept the {opening.name}: {message}")
