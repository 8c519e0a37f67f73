"""All that is asked of a GPU in eight minutes, each question in a process of its own with a limit of its own.

    python experiments/gpu/run.py --out gpu.json              # the same again goes on with what is not done
    python experiments/gpu/run.py --out gpu.json smoke models # these alone
    python experiments/gpu/run.py --small --out small.json    # small shapes on a CPU, to see that nothing is broken

The file is written anew after every row: a call that is cut off leaves what it has measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LIMITS = {"smoke": 75, "models": 130, "context": 90, "packing": 75, "experts": 60, "compiling": 50}
"""seconds of each question, the most wanted first; together eight minutes"""


def ask(name: str, small: bool, seconds: float, keep: Any) -> str:
    """Put a question; `keep` gets each row as it comes. Returns how it ended: done, its time was up, or its error."""
    command = [sys.executable, str(HERE / "questions.py"), name, *["--small"] * small]
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92", **os.environ, "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment)
        up = threading.Event()  # set by the timer alone: a clock read here may be behind the timer's

        def cut() -> None:
            up.set()
            process.kill()

        timer = threading.Timer(seconds, cut)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                keep(json.loads(line))
        code = process.wait()
        timer.cancel()
        said.seek(0)
        words = said.read().strip().splitlines()
    if code and up.is_set():
        return f"its {seconds:.0f} s were up"
    return "done" if not code else f"exit code {code}: {words[-1] if words else ''}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(LIMITS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=8.0, help="of all questions together")
    args = parser.parse_args()
    if wrong := set(args.questions) - set(LIMITS):
        parser.error(f"unknown: {', '.join(sorted(wrong))}; allowed: {', '.join(LIMITS)}")
    answers: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    end = time.monotonic() + 60 * args.minutes
    failed = False
    for name in args.questions or LIMITS:
        left = end - time.monotonic()
        if answers.get(name, {}).get("ended") == "done" or left < 1:
            continue
        answer = answers[name] = {"small": args.small, "ended": "cut off", "rows": []}

        def keep(row: Any, answer: Any = answer) -> None:
            answer["rows"].append(row)
            write(args.out, answers)
            print(json.dumps(row), flush=True)

        print(f"# {name}", flush=True)
        begun = time.monotonic()
        limit = left if args.small else min(left, LIMITS[name])
        answer["ended"] = ask(name, args.small, limit, keep)
        answer["seconds"] = round(time.monotonic() - begun, 1)
        failed |= answer["ended"].startswith("exit") or any(row.get("ok") is False for row in answer["rows"])
        write(args.out, answers)
        print(f"# {name}: {answer['ended']}, {answer['seconds']} s", flush=True)
    return int(failed)


def write(path: Path, answers: Any) -> None:
    half = path.with_name(f".{path.name}")
    half.write_text(json.dumps(answers, indent=1) + "\n")
    half.replace(path)


if __name__ == "__main__":
    sys.exit(main())
