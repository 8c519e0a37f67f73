"""A first sweep: a ladder, a law and a tested forecast, sized for a text, a time limit and this machine."""

import json
import math
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scaling.config import DataConfig, SweepConfig, build
from scaling.errors import UserError
from scaling.files import path_of
from scaling.result import write_text_atomically
from scaling.sweeps import describe_sweep
from scaling.sweeps.executors import find_devices
from scaling.text import align
from scaling.units import duration, si, si_bytes

STDLIB = "python_stdlib"
LEAST = 3e10
"""FLOPs of the smallest budget. Below it losses fall at an increasing rate with FLOPs, which no law describes, and
forecasts are 6 % too high: for Python sources the power is .07 from 7e9 to 2e10, .11 up to 3e11, .10 and .08
beyond"""
LADDERS = (
    {"sizes": 5, "spacing": 1.35, "recenter": 1, "budgets": (1, 3, 10)},
    {"sizes": 3, "spacing": 1.6, "recenter": 0, "budgets": (1, 2, 4)},
)
"""candidate designs, of which the first that time and text allow is used; budgets are in units of the smallest. Three
sizes do not find the best one, since seeds differ by 1 %: such a design adds no further sizes, and spaces them
wider"""
AHEAD = 4
"""multiple of the largest budget at which the forecast is tested"""
GROWTH = 1.6
"""power of tokens with which FLOPs may grow: less than 1/.52, where .52 is the exponent of tokens here, so that
budgets grow up to what the text allows, and a plan rarely needs more than a prepared store of it"""
NEAR = 0.05
TRAINING_SHARE, HELD_OUT_SHARE = 0.9, 0.05
"""shares of the bytes of a text, with a margin for the held-out split: whole documents, on average 5 % of them"""
MEASURED, ENOUGH = 262_144, 3
"""held-out tokens that each run is evaluated on, if the text has on average ENOUGH times as many: the held-out
documents are random, and a run that requests more than there are is refused"""
TEXT = """\
# A ladder of byte-level transformers on {corpus_said}, a law, and a forecast that is tested.
{commands}
# About {time} on {slots} {device} at {speed:.2g} FLOP/s of each ({source}); a launch learns how fast it is.
name: {name}
run:
  model: {{ vocab: 256, context: {context}, activation: relu2, norm: rmsnorm, position: rope, qk_norm: true }}
  data: {{ corpus: "{corpus}"{field}{cut}, tokenizer: {{ kind: bytes }}{measured} }}
  optimizer: {{ name: adamw, b2: 0.95, weight_decay: 0.1 }}
  schedule: {{ name: cosine, warmup: 0.1, final: 0.1 }}
  batch_size: {batch}   # windows of `context` tokens
  records: {{ checkpoint_minutes: {checkpoints}, log_every: 50 }}
# tried for source code at widths 16 to 96; `tuning: {{ learning_rate: [0.5, 1, 2] }}` tries three rates for your text
learning_rate: {{ kind: width, width: 16, learning_rate: 0.02, exponent: -0.9 }}
ladder: {{ aspect: 12, d_head: 8, width_multiple: 4, ff_multiple: 1 }}   # depth for a width, and steps of sizes
design:
  kind: isoflop              # at each budget, several sizes around the expected best one
  budgets: [{budgets}]   # exact training FLOPs of one run
  sizes: {sizes}
  spacing: {spacing}
  recenter: {recenter}                # how often a budget gets more sizes if its best one is outside
  center_flops: 3e11         # a budget and its best size, measured for source code, and how it grows
  center_params: 32e3
  center_exponent: 0.48
forecast:
  flops: {test:.3g}            # {ahead} times the largest budget: frozen before it is trained
  level: 0.9
  seeds: [0]
"""


def write_starter(
    path: str | Path, corpus: str | None = None, minutes: float = 10.0, text_field: str | None = None
) -> dict[str, Any]:
    """Write a commented sweep. Nothing is trained.

    corpus: a glob of text files (.txt, .jsonl, .parquet, .gz of the first two); None: the Python standard library.
    minutes: time for the whole sweep here, by the assumed speed of the machine.
    text_field: the field of a record that holds the text (.jsonl, .parquet); None: `text`.
    returns: `described`, as from `describe_sweep`, and `short`: whether the text, not the time, limits the budgets.
    Raises UserError for an existing file, a glob that matches nothing, and too little time or text.
    """
    path = path_of(path)
    if not str(path).isprintable() or not (corpus or "x").isprintable():
        raise UserError(f"{path}, --corpus {corpus}: a name may not have a line's end or another unprintable sign")
    if path.exists():
        raise UserError(f"{path} exists; choose another name, or delete it")
    if not minutes > 0 or not math.isfinite(minutes):
        raise UserError(f"--minutes {minutes:g}: must be above 0")
    sweeps = _sweeps(path, corpus, text_field)
    for sweep in sweeps:
        least, found, short = _largest(sweep, 60 * minutes)
        if least >= LEAST:
            break
    else:
        what = f"{si_bytes(sweeps[-1].tokens)} of training text are" if short else f"--minutes {minutes:g} is"
        raise UserError(f"{what} too little for a ladder of models; on two CPUs, 2 MB and two minutes are enough")
    write_text_atomically(path, sweep.text(least, found))
    return {"described": found, "short": short}


def format_starter(path: Path, found: dict[str, Any]) -> str:
    """A short description of the written sweep, and its possible problems."""
    plan = found["described"]
    rows = [*plan["runs"], *plan["forecast"]["runs"]]
    limit = "limited by the amount of text" if found["short"] else "within --minutes"
    sizes = f"{si(min(r['params'] for r in rows))} to {si(max(r['params'] for r in rows))} parameters"
    lines = [
        f"{path}: {len(rows)} runs of {sizes}, about {duration(plan['left']['seconds'])}; {limit}",
        *(f"note: {note}" for note in plan["notes"]),
        f"next: scaling sweep {path} --dry-run",
    ]
    return "\n".join(lines)


def _tokens(corpus: str | None, text_field: str | None) -> tuple[float, int | None]:
    """Bytes of text to train on (of a parquet file, its size on disk), and `data.document_bytes`: None where there
    are enough files to serve as documents."""
    from scaling.data.files_corpus import FilesCorpus, document_bytes, from_root, no_match, text_bytes
    from scaling.data.matches import files_matching
    from scaling.data.python_stdlib import source_files

    cut = None
    if corpus is None:
        files = [str(path) for path in source_files(Path(sysconfig.get_path("stdlib")))]
    else:
        if not files_matching(from_root(corpus)):
            raise UserError(f"--corpus {corpus}: {no_match(corpus)}")
        data = DataConfig(corpus=f"files:{corpus}", **_field(text_field))
        found = FilesCorpus(corpus, data)  # refuses what a launch would
        cut = document_bytes(found.facts["file_bytes"]) if found.lone_split() else None
        FilesCorpus(corpus, data.model_copy(update={"document_bytes": cut})).require_usable()
        files = found.files
    return TRAINING_SHARE * text_bytes(files), cut


def _field(text_field: str | None) -> dict[str, str]:
    """The key of `data` for it."""
    return {} if text_field is None else {"text_field": text_field}


@dataclass(frozen=True)
class _Sweep:
    """The sweep to be written, except for its size."""

    path: Path
    corpus: str | None
    tokens: float
    """tokens of the text to train on"""
    cut: int | None
    """`data.document_bytes`"""
    text_field: str | None
    """`data.text_field`; None: its default"""
    small: bool
    """for CPUs"""
    ladder: dict[str, Any]
    """one of `LADDERS`"""

    def text(self, least: float, found: dict[str, Any] | None = None) -> str:
        """The text of the file. found: its plan, which comments report; None to compute it."""
        speed = found["speed"] if found else {"slots": 1, "device": "cpu", "flops_per_s": 0.0, "source": ""}
        corpus = f"files:{self.corpus}" if self.corpus else STDLIB
        many = self.tokens / TRAINING_SHARE * HELD_OUT_SHARE > ENOUGH * MEASURED
        name = re.sub(r"[^A-Za-z0-9._-]", "-", self.path.stem).lstrip("._-") or "sweep"
        commands = [
            [f"#   scaling sweep {self.path} --dry-run", "  # every run with its size, tokens and time"],
            [f"#   scaling sweep {self.path}", "  # train, fit, freeze the forecast, test it; run again to continue"],
            [f"#   scaling report runs/{name}", "  # the figures"],
        ]
        return TEXT.format(
            commands="\n".join(align(commands, left=2)),
            measured=f", validation_tokens: {MEASURED}" if many else "",
            field="".join(f", {key}: {json.dumps(name)}" for key, name in _field(self.text_field).items()),
            cut=f", document_bytes: {self.cut}" if self.cut else "",
            corpus_said=self.corpus or "the Python standard library",
            name=name,
            corpus=corpus.replace("\\", "\\\\").replace('"', '\\"'),
            ahead=AHEAD,
            test=AHEAD * self.ladder["budgets"][-1] * least,
            context=128 if self.small else 512,
            batch=4 if self.small else 64,
            checkpoints="null" if self.small else 10,
            time=duration(found["left"]["seconds"]) if found else "",
            speed=speed["flops_per_s"],
            **{key: speed[key] for key in ("slots", "device", "source")},
            **self.ladder | {"budgets": ", ".join(f"{least * times:.3g}" for times in self.ladder["budgets"])},
        )


def _sweeps(path: Path, corpus: str | None, text_field: str | None) -> list[_Sweep]:
    (tokens, cut), small = _tokens(corpus, text_field), find_devices().platform == "cpu"
    return [_Sweep(path, corpus, tokens, cut, text_field, small, ladder) for ladder in LADDERS]


def _largest(sweep: _Sweep, seconds: float) -> tuple[float, dict[str, Any], bool]:
    """The largest first budget that time and text allow, the plan of that sweep, and whether the text is the limit;
    returns early for a budget below `LEAST`."""
    least, best = LEAST, None
    while True:
        found = describe_sweep(build(SweepConfig, yaml.safe_load(sweep.text(least)), str(sweep.path)))
        needed = max(row["tokens"] or 0 for row in [*found["runs"], *found["forecast"]["runs"]])
        by_time, by_text = seconds / found["left"]["seconds"], (sweep.tokens / needed) ** GROWTH
        change, short = min(by_time, by_text), by_text < by_time
        if change >= 1:
            best = least, found, short
        if change < 1 + NEAR:
            return best or (least * change, found, short)
        least = float(f"{least * change:.3g}")
