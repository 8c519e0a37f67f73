"""Tokens per second of `scaling train`, data and metrics included, beside other training steps of the same shape.

    python experiments/throughput/throughput.py [YARDSTICK.py ...] [--rounds 3] [--seconds 6]

A yardstick is a script that is called as `python YARDSTICK.py SHAPE SECONDS`, SHAPE being
`d_model,n_heads,length,layers,vocab,d_ff,batch`, and prints `...: 12,345 tokens/s, ...`. All programs take turns, so
that a drift of the machine's speed meets all of them; a ratio is taken within a round, and the median is reported.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SHAPES = ("32,2,128,2,256,128,16", "64,4,128,4,256,256,16", "128,4,256,6,256,512,16")


def ours(shape: str, seconds: float, guess: float) -> float:
    """tokens/s of a run of about `seconds` at `guess` tokens/s, as its record states it."""
    d_model, n_heads, length, layers, vocab, d_ff, batch = (int(x) for x in shape.split(","))
    sizes = {
        "d_model": d_model,
        "n_heads": n_heads,
        "context": length,
        "layers": layers,
        "vocab": vocab,
        "d_ff": d_ff,
    }
    tokens = max(int(seconds * guess), 64 * batch * length)
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"model.{key}={value}" for key, value in sizes.items()]
        overrides += [f"batch_size={batch}", f"tokens={tokens}", f"records.folder={folder}"]
        command = [sys.executable, "-m", "scaling.cli", "train", str(HERE / "run.yaml"), *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (record,) = Path(folder).glob("*/*/result.json")
        return json.loads(record.read_text())["tokens_per_s"]


def yardstick(script: str, shape: str, seconds: float) -> float:
    """tokens/s that a yardstick prints."""
    done = subprocess.run([sys.executable, script, shape, str(seconds)], check=True, capture_output=True, text=True)
    found = re.search(r"([\d,]+) tokens/s", done.stdout)
    if not found:
        raise SystemExit(f"{script} printed no `... tokens/s`: {done.stdout!r}")
    return float(found[1].replace(",", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("yardsticks", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    args = parser.parse_args()
    print(f"{'shape':<24} {'program':<22} {'tokens/s':>10}   ours / it (median of rounds, min–max)")
    for shape in SHAPES:
        speeds: dict[str, list[float]] = {"ours": []}
        for _ in range(args.rounds):
            speeds["ours"].append(ours(shape, args.seconds, guess=speeds["ours"][-1] if speeds["ours"] else 20_000))
            for script in args.yardsticks:
                speeds.setdefault(Path(script).stem, []).append(yardstick(script, shape, args.seconds))
        for program, values in speeds.items():
            ratios = sorted(a / b for a, b in zip(speeds["ours"], values, strict=True))
            ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})" if program != "ours" else ""
            print(f"{shape:<24} {program:<22} {statistics.median(values):>10,.0f}   {ratio}", flush=True)


if __name__ == "__main__":
    main()
