"""`scaling generate` and `scaling evaluate`: their options, and what they print."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.files import path_of
from scaling.numbers import to_seed


def generate_options(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    parser.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", help="text to continue; may be repeated"
    )
    parser.add_argument(
        "--prompt-file",
        action="append",
        default=[],
        type=path_of,
        metavar="FILE",
        help="the text of a file as a prompt",
    )
    parser.add_argument(
        "--tokens", type=int, default=128, metavar="N", help="new tokens for each text (default: 128)"
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="0: always the likeliest token (default: 1)"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="sample only from the K likeliest tokens")
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="sample from the likeliest that together reach this probability"
    )
    parser.add_argument(
        "--min-p", type=float, metavar="P", help="sample from those at least P times as likely as the best"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="a text ends before this; may be repeated"
    )
    parser.add_argument("--seed", type=to_seed, default=0, help="seed of the sampling (default: 0)")


def evaluate_options(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    parser.add_argument(
        "--on",
        default="validation",
        metavar="SPLIT_OR_FILE",
        help="validation (the default) or train, of the run's corpus; the held-out split of another corpus, "
        "DATA.yaml; or a text file (.txt, .jsonl, .parquet)",
    )
    parser.add_argument(
        "--probes",
        action="store_true",
        help="also test whether copied text, copied noise and hidden keys are retrieved",
    )
    parser.add_argument(
        "--short",
        type=int,
        metavar="K",
        help="also the loss of key tokens (LongPPL): those that the whole context predicts much better than the "
        "last K tokens do",
    )
    parser.add_argument(
        "--reference", metavar="RUN", help="with --short: the run that chooses them (default: itself)"
    )


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a run, runs/SWEEP/RUN_ID, or RUN_ID/checkpoints/STEP")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the last one of a run that has ended)")


def generate(args: argparse.Namespace, print_json: Callable[[Any], None]) -> None:
    """One text is shown while it is written; several are printed in order at the end."""
    from scaling.generation import generate

    prompts = [*args.prompt, *map(_text, args.prompt_file)]
    if not prompts:
        raise UserError("no prompt; give --prompt TEXT or --prompt-file FILE (an empty text begins a new one)")
    alone, shown = len(prompts) == 1 and not args.json, list[str]()

    def show(row: int, piece: str) -> None:
        print(piece if shown else prompts[0] + piece, end="", flush=True)
        shown.append(piece)

    found = generate(
        args.run, prompts, tokens=args.tokens, temperature=args.temperature, top_k=args.top_k, top_p=args.top_p,
        min_p=args.min_p, stop=args.stop, seed=args.seed, step=args.step, show=show if alone else None,
    )  # fmt: skip
    if args.json:
        print_json(asdict(found))
    elif alone:
        print("" if shown else prompts[0])
    else:
        for number, (prompt, text, ended) in enumerate(zip(prompts, found.texts, found.ended, strict=True), 1):
            print(f"{number} of {len(prompts)}, {ended.replace('_', ' ')}\n{prompt}{text}\n")
    for note in () if args.json else found.notes:
        print(f"note: {note}", file=sys.stderr)


def evaluate(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """(the value, as JSON has it; the text)."""
    from scaling.evaluation import evaluate, format_evaluated

    found = evaluate(
        args.run, args.on, step=args.step, probes=args.probes, short=args.short, reference=args.reference
    )
    return asdict(found), format_evaluated(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompt-file {path} cannot be read as UTF-8 text: {error}") from None
