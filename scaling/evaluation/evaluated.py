"""The held-out loss of a run's checkpoint, on its own or another split, overall and by position."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.config import DataConfig, RunConfig, load
from scaling.data import Split, TokenStore, open_store, run_tokenizer
from scaling.data.files_corpus import FILE_KINDS, texts_of
from scaling.data.store import token_dtype
from scaling.data.tokenizer import digest
from scaling.errors import UserError
from scaling.evaluation.key_tokens import KeyTokens, key_tokens
from scaling.evaluation.probes import PROBES, Probe, probe
from scaling.files import path_of
from scaling.names import meant, near_file
from scaling.text import align
from scaling.tokens import EOD
from scaling.training.evaluate import Evaluator
from scaling.training.trained import Trained, load_trained

SPLITS = ("validation", "train")
TEXT = "text"
"""name of a text file in place of a split"""


@dataclass(frozen=True)
class PositionLoss:
    """The loss of targets by how much of their window the model has read."""

    first: int
    """least number of tokens of the window read before the target: 1 for its first target"""
    last: int
    """largest such number"""
    loss: float
    """mean over these targets, in the objective's unit"""
    loss_sem: float | None
    """standard error, treating windows as independent"""
    tokens: int
    """number of targets"""


@dataclass(frozen=True)
class Evaluated:
    """The loss of a checkpoint on a split of text."""

    run: str
    """folder of the run"""
    step: int
    """of its checkpoint"""
    corpus: str
    """the corpus, or the text file"""
    split: str
    """TEXT for a text file"""
    unit: str
    """of the losses"""
    loss: float
    """mean over all targets of the split, as in the record of a run"""
    loss_sem: float | None
    bits_per_byte: float | None
    """None if the objective's loss is not a likelihood"""
    tokens: int
    windows: int
    by_position: tuple[PositionLoss, ...]
    """for 1, 2 to 3, 4 to 7, … tokens read, up to the context; ranges without targets are omitted"""
    probes: tuple[Probe, ...] = ()
    """if requested"""
    key_tokens: KeyTokens | None = None
    """if requested"""


def evaluate(
    run: str | Path,
    on: str | Path = "validation",
    *,
    step: int | None = None,
    probes: bool = False,
    short: int | None = None,
    reference: str | Path | None = None,
) -> Evaluated:
    """The loss of a run's checkpoint by its objective's held-out measure, in windows of its context.

    run: folder of a run, or of one of its checkpoints, see `training.trained.load_trained`.
    on: `validation`, the run's held-out split, for which the loss equals that of its record; `train`; the file of a
    corpus (DATA.yaml) with a prepared store, whose held-out split is used; or a text file of a kind in
    `files_corpus.FILE_KINDS`, which is read completely and tokenised with the run's tokenizer.
    step: of the checkpoint; default: the last one of a run that has ended.
    probes: also run the probes of `evaluation.probes` on text of the split.
    short: also report the loss of tokens that need more than this many tokens of context, see
    `evaluation.key_tokens`. They are chosen by the run in the folder `reference`; default: the run itself.

    Raises UserError for a run, a store or a text that cannot be read, and for a store of another tokenizer.
    """
    reference = None if reference is None else path_of(reference)
    if reference is not None and short is None:
        raise UserError(
            f"reference={reference} chooses key tokens, which also needs a short context, such as short=128"
        )
    trained = load_trained(run, step)
    on = on if on in SPLITS else str(path_of(on))
    data, name, split = _split(trained.run, on)
    evaluator, model = Evaluator(trained.run, trained.mesh, split), trained.run.model
    whole = evaluator(trained.params)
    first = [2**k - 1 for k in range(model.context.bit_length())]
    parts = zip(first, [*first[1:], model.context], evaluator.by_position(trained.params, first), strict=True)
    probed = probe(trained, run_tokenizer(data, trained.run.records.store_folder), split.tokens) if probes else ()
    keys = None
    if short is not None:
        keys = key_tokens(trained, split.tokens, short=short, reference=_chooser(trained, reference))
    split.check()
    return Evaluated(
        run=str(trained.folder),
        step=trained.step,
        corpus=on if name == TEXT else data.corpus,
        split=name,
        unit=trained.run.objective.UNIT,
        loss=whole.loss,
        loss_sem=whole.loss_sem,
        bits_per_byte=whole.bits_per_byte,
        tokens=whole.tokens,
        windows=whole.windows,
        by_position=tuple(
            PositionLoss(start + 1, stop, part.loss, part.loss_sem, part.tokens)
            for start, stop, part in parts
            if part is not None
        ),
        probes=tuple(probed),
        key_tokens=keys,
    )


def _chooser(trained: Trained, reference: str | Path | None) -> Trained | None:
    """The reference run that chooses key tokens, if any."""
    if reference is None:
        return None
    chooser = load_trained(reference)
    own, other = (open_store(each.run.data, each.run.records.store_folder) for each in (trained, chooser))
    if _tokenizer(own) != _tokenizer(other):
        raise UserError(f"reference={reference}: it has another tokenizer than the run")
    return chooser


def _split(run: RunConfig, on: str) -> tuple[DataConfig, str, Split]:
    """(corpus, name, tokens) to evaluate on."""
    if on in SPLITS:
        return run.data, on, getattr(open_store(run.data, run.records.store_folder), on)
    if not Path(on).is_file():
        split = meant(on, SPLITS, most=1)
        hint = f"; {split}" if split else near_file(on)
        raise UserError(
            f"on={on}: no such file; give {' or '.join(SPLITS)}, a corpus (DATA.yaml) or a text file{hint}"
        )
    if on.endswith(FILE_KINDS):
        return run.data, TEXT, _text(run, on)
    data = load(DataConfig, on)
    own, other = (open_store(corpus, run.records.store_folder) for corpus in (run.data, data))
    if _tokenizer(own) != _tokenizer(other):
        raise UserError(
            f"on={on}: the store {other.folder} has another tokenizer than the run's, {own.folder}; give a file of "
            f"its text ({', '.join(FILE_KINDS)}), which is tokenised as the run's text"
        )
    return data, "validation", other.validation


def _text(run: RunConfig, path: str) -> Split:
    """All documents of a file, tokenised as in the run's store."""
    tokenizer = run_tokenizer(run.data, run.records.store_folder)
    documents = [np.append(tokens, EOD) for tokens in tokenizer.encode(list(texts_of(path, run.data.text_field)))]
    if not documents:
        raise UserError(f"on={path}: has no text")
    tokens = np.concatenate(documents).astype(token_dtype(tokenizer.vocab))
    ends = np.cumsum([len(document) for document in documents])
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    return Split(tokens, starts, int(tokenizer.text_bytes()[tokens].sum()))


def _tokenizer(store: TokenStore) -> str:
    return digest(store.manifest["tokenizer"]["kind"], store.folder)


def format_evaluated(found: Evaluated) -> str:
    """The evaluation as text, with a line for each range of positions."""
    bits = "" if found.bits_per_byte is None else f", {found.bits_per_byte:.4f} bits per byte"
    split = found.split if found.split == TEXT else f"{found.split} split"
    head = f"{found.run} at step {found.step}, {split} of {found.corpus}: {found.tokens:,} targets"
    rows = [("tokens read", "targets", "loss", "error")]
    for part in found.by_position:
        read = f"{part.first}" if part.first == part.last else f"{part.first} to {part.last}"
        rows.append((read, f"{part.tokens:,}", f"{part.loss:.4f}", _error(part.loss_sem)))
    lines = [head, f"loss {found.loss:.4f}{_error(found.loss_sem)} {found.unit}{bits}", "", *align(rows)]
    if found.probes:
        cells = [("probe", "length", "depth", "loss", "untold", "gain", "error", "accuracy")]
        for own in found.probes:
            depth = "" if own.depth is None else f"{own.depth:g}"
            loss, untold, gain = (f"{x:.3f}" for x in (own.loss, own.untold, own.gain))
            right = "" if own.accuracy is None else f"{own.accuracy:.0%}"
            cells.append((own.name, f"{own.length}", depth, loss, untold, gain, f"± {own.gain_sem:.3f}", right))
        lines += ["", *align(cells)]
        if missing := [name for name in PROBES if name not in {own.name for own in found.probes}]:
            lines.append(f"{' and '.join(missing)} left out: the run's context is too short for them")
    if found.key_tokens is not None:
        lines += ["", *_key_lines(found.key_tokens)]
    return "\n".join(lines)


def _key_lines(keys: KeyTokens) -> list[str]:
    chosen = f"{keys.tokens:,} of {keys.targets:,} targets ({keys.share:.2%}), chosen by {keys.reference}"
    head = f"key tokens, which need more than {keys.short} tokens of context: {chosen}"
    other = "" if keys.other_loss is None else f"; {keys.other_loss:.4f} on the other targets"
    if keys.loss is None:
        return [head + other]
    read = f"loss {keys.loss:.4f}{_error(keys.loss_sem)} on them, LongPPL {keys.perplexity:.4g}"
    return [head, f"{read}; {keys.short_loss:.4f} with only {keys.short} tokens of context{other}"]


def _error(sem: float | None) -> str:
    return "" if sem is None else f" ± {sem:.4f}"
