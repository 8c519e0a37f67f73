"""Training batches as a pure function of (seed, step), and evaluation batches that cover every target once."""

from collections.abc import Sequence
from functools import lru_cache
from typing import overload

import numpy as np

from scaling import accounting
from scaling.config import Records, RunConfig, run_id
from scaling.config.run import LongDocuments
from scaling.data.long_documents import weighted
from scaling.data.permutation import Permutation
from scaling.data.store import Split, TokenStore
from scaling.errors import UserError
from scaling.objectives import Batch, Windows

BLOCK = 8192  # windows whose order is computed at once: about 2 ms, every few hundred steps
VOCAB_MULTIPLE = 128  # an embedding may be padded up to the next multiple, for even sharding


MOST_PASSES = 10  # most epochs to suggest; returns diminish beyond about 4 (Muennighoff et al. 2023, 2305.16264)


class Batches:
    """Training batches. Window w holds targets w·L+1 … w·L+L, so that an epoch covers every target exactly once.

    Two exceptions: a tail of fewer than L tokens that fills no window is never used, and windows of long documents
    occur as often as `long` says. Each epoch has its own order. Row r of step s is window number s·B + r of the
    endless sequence of epochs, so a batch may span the end of an epoch.

    Args:
      split: tokens of the split.
      context: L, targets in a window.
      batch_size: B, windows in a batch, over all devices.
      seed: determines the order; the same seed and step give the same batch on every machine.
      shuffle: if False, windows keep the order of the text in every epoch.
      long: long documents, whose windows occur several times per epoch.
    """

    def __init__(
        self,
        split: Split,
        context: int,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        long: LongDocuments | None = None,
    ) -> None:
        self.context, self.batch_size, self.seed, self.shuffle = context, batch_size, seed, shuffle
        self.n_windows = n_windows(split, context)
        self._again = weighted(split, context, long)[1]
        self.epoch_windows = self.n_windows + len(self._again)
        self._split = split
        covered = split.tokens[: self.n_windows * context + 1]
        self._windows = np.lib.stride_tricks.sliding_window_view(covered, context + 1)[::context]
        self._ones = np.broadcast_to(np.float32(1.0), (batch_size, context))
        self._block = lru_cache(maxsize=4)(self._order)

    def batch(self, step: int) -> Batch:
        """The whole batch of a step (0, 1, …), arrays [B, L]."""
        return self.rows(step, 0, self.batch_size)

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Rows start … stop−1 of the batch of a step, such as one host needs."""
        window_BxL1 = self.windows(step, start, stop)
        tokens_BxL = window_BxL1[:, :-1].astype(np.int32)
        targets_BxL = window_BxL1[:, 1:].astype(np.int32)
        return Batch(tokens_BxL, targets_BxL, self._ones[start:stop])

    def windows(self, step: int, start: int, stop: int) -> np.ndarray:
        """`rows` as one array [stop − start, L + 1] in the store's integer type, the fastest to move to a device.

        Columns 0 … L−1 are the tokens, 1 … L the targets; every target has weight 1.
        """
        return self._split.taken(self._windows, self.window_ids(step, start, stop))

    def unique_tokens(self, n_steps: int) -> int:
        """Number of distinct targets in the first `n_steps` steps."""
        windows = min(n_steps * self.batch_size, self.n_windows)
        if len(self._again):
            windows = self.n_windows if self.epochs(n_steps) >= 1 else len(np.unique(self._first(n_steps)))
        return windows * self.context

    def epochs(self, n_steps: int) -> float:
        """Number of passes over the split in `n_steps` steps."""
        return n_steps * self.batch_size / self.epoch_windows

    def long_share(self, n_steps: int) -> float:
        """Share of targets from long documents in the first `n_steps` steps, or in a whole epoch if there is one."""
        shown = self._first(n_steps) if self.epochs(n_steps) < 1 else self._in_epoch(np.arange(self.epoch_windows))
        return float(np.isin(shown, self._again).mean())

    def _first(self, n_steps: int) -> np.ndarray:
        """The windows of the first `n_steps` steps, within one epoch."""
        count = n_steps * self.batch_size
        return np.concatenate([self._block(0, block) for block in range(-(-count // BLOCK))])[:count]

    def window_ids(self, step: int, start: int, stop: int) -> np.ndarray:
        """int64: the window numbers of rows start … stop−1 of a step."""
        if step < 0 or not 0 <= start <= stop <= self.batch_size:
            raise ValueError(f"step={step}, rows {start}…{stop} of {self.batch_size}")
        number, end = step * self.batch_size + start, step * self.batch_size + stop
        parts: list[np.ndarray] = []
        while number < end or not parts:
            epoch, position = divmod(number, self.epoch_windows)
            block, offset = divmod(position, BLOCK)
            part = self._block(epoch, block)[offset : offset + end - number]
            parts.append(part)
            number += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _order(self, epoch: int, block: int) -> np.ndarray:
        """Windows at positions block·BLOCK … of an epoch. (Cached; the cache is the only state.)"""
        positions = np.arange(block * BLOCK, min((block + 1) * BLOCK, self.epoch_windows))
        number = Permutation(self.epoch_windows, self.seed, epoch)(positions) if self.shuffle else positions
        return self._in_epoch(number)

    def _in_epoch(self, number: np.ndarray) -> np.ndarray:
        """Windows by their number in an unshuffled epoch: all windows, then the repeated ones."""
        if not len(self._again):
            return number
        return np.where(number < self.n_windows, number, self._again[np.maximum(number - self.n_windows, 0)])


def run_batches(run: RunConfig, store: TokenStore) -> Batches:
    """The training batches of a run."""
    return Batches(store.train, run.model.context, run.batch_size, run.seed, long=run.data.long_documents)


def cut(source: Windows, parts: int) -> Windows:
    """Windows of `source`, each cut into `parts` equal consecutive ones; a batch keeps its number of targets."""
    return source if parts == 1 else _Cut(source, parts)


class _Cut:
    def __init__(self, source: Windows, parts: int):
        self.source, self.parts = source, parts
        self.seed, self.batch_size = source.seed, source.batch_size * parts

    def windows(self, step: int, start: int, stop: int) -> np.ndarray:
        """As in the source. Raises ValueError for rows that do not form whole windows of the source."""
        if start % self.parts or stop % self.parts:
            raise ValueError(f"rows {start}…{stop} are not whole windows of {self.parts} parts")
        whole_BxL1 = self.source.windows(step, start // self.parts, stop // self.parts)
        context = (whole_BxL1.shape[1] - 1) // self.parts
        part_BxPxC1 = np.lib.stride_tricks.sliding_window_view(whole_BxL1, context + 1, axis=1)[:, ::context]
        return part_BxPxC1.reshape(-1, context + 1)


def n_windows(split: Split, context: int) -> int:
    """Number of whole windows of `context` targets in a split. Raises UserError if there is none."""
    if split.n_tokens <= context:
        raise UserError(
            f"a split of {split.n_tokens} tokens is too short for a window of model.context={context}, which needs "
            f"{context + 1}; shorten the context or use more text"
        )
    return (split.n_tokens - 1) // context


class EvalBatches(Sequence[Batch]):
    """Batches that cover every target of a split once, built on demand."""

    def __init__(self, split: Split, context: int, batch_size: int, streams: int | None = None) -> None:
        if split.n_tokens < 2:
            raise UserError(f"a held-out split of {split.n_tokens} tokens is too short; it needs 2 or more")
        self._split, self.context, self.batch_size, self.streams = split, context, batch_size, streams
        self.n_targets = split.n_tokens - 1
        self.n_windows = -(-self.n_targets // context)

    def __len__(self) -> int:
        return -(-self.n_windows // (self.streams or self.batch_size))

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"evaluation batch {index} of {len(self)}")
        index, rows = index % len(self), np.arange(self.batch_size)
        if self.streams is None:
            window_B = index * self.batch_size + rows
        else:
            window_B = np.where(rows < self.streams, rows * len(self) + index, self.n_windows)
        target_BxL = window_B[:, None] * self.context + np.arange(self.context)
        there_BxL = target_BxL < self.n_targets
        target_BxL = np.where(there_BxL, target_BxL, 0)
        tokens_BxL, next_BxL = (
            np.where(there_BxL, self._split.taken(self._split.tokens, target_BxL + ahead), 0).astype(np.int32)
            for ahead in (0, 1)
        )
        return Batch(tokens_BxL, next_BxL, there_BxL.astype(np.float32))


def eval_batches(split: Split, context: int, batch_size: int, streams: int | None = None) -> EvalBatches:
    """Evaluation batches of a split: each target with weight 1 exactly once, padding with weight 0.

    streams: number of equal segments of the text to read side by side: row r of each batch continues where row r of
    the previous batch ended, and further rows are padding. If unset, windows are in the order of the text. Carrying
    state between windows is up to the model. Raises UserError for a split with nothing to predict.
    """
    return EvalBatches(split, context, batch_size, streams)


def check_run(run: RunConfig, store: TokenStore) -> None:
    """Raises UserError if a run and its data do not match, before anything is compiled or trained."""
    vocab, rows = store.vocab, run.model.vocab
    if run.data.tokenizer.vocab != vocab:
        raise UserError(
            f"data.tokenizer.vocab={run.data.tokenizer.vocab} but the store {store.folder} was made with {vocab}; "
            f"set data.tokenizer.vocab={vocab} or prepare a store for this tokenizer"
        )
    least = vocab + run.objective.EXTRA_TOKENS
    most = -(-least // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    if not least <= rows <= most:
        extra = f" plus {run.objective.EXTRA_TOKENS} for objective.kind={run.objective.kind}" * (least > vocab)
        raise UserError(
            f"model.vocab={rows} does not fit the store's tokenizer of {vocab} tokens{extra}; allowed: {least} to "
            f"{most} (padding up to the next multiple of {VOCAB_MULTIPLE}); set model.vocab={least}"
        )
    if store.validation.n_tokens < 2:
        raise UserError(
            f"the held-out split has {store.validation.n_tokens} tokens and needs at least 2; raise "
            "data.validation_tokens or data.validation_fraction"
        )
    batches = run_batches(run, store)
    _check_long(run, store, batches)
    _check_amount(run, batches.epoch_windows * run.model.context)


def _check_long(run: RunConfig, store: TokenStore, batches: Batches) -> None:
    """Raises UserError if `data.long_documents` is set and no window is of such a document."""
    long = run.data.long_documents
    if long is not None and batches.epoch_windows == batches.n_windows:
        longest = np.diff(store.train.doc_starts, append=store.train.n_tokens).max()
        raise UserError(
            f"data.long_documents.tokens={long.tokens}: no window of the training split is from a document that "
            f"long; the longest has {longest:,} tokens; set fewer, or leave data.long_documents unset"
        )


def _check_amount(run: RunConfig, available: int) -> None:
    """Raises UserError if a run needs more tokens than its epochs of `available` tokens provide."""
    allowed, needed = run.data.epochs * available, run.steps * run.batch_tokens
    if needed <= allowed * (1 + 1e-9):  # tolerance for rounding, such as 1.1 × 10
        return
    passes = -(-needed * 1000 // available) / 1000
    fits = int(allowed) // run.batch_tokens * run.batch_tokens
    remedies = [f"set data.epochs={passes:.12g} or more"] if passes <= MOST_PASSES else ["use more text"]
    remedies += [f"tokens={fits} or fewer"] if fits else []
    where = ""
    if run.records.sweep != Records().sweep:
        where = f"run {run_id(run)} of sweep {run.records.sweep}: "
        flops = accounting.flops_per_token(run).exact * fits
        cost = f"{flops:.3g} FLOPs for this model; " if fits else ""
        remedies[-1] += f" ({cost}in a sweep's file: run.data.epochs, and run.tokens or the design)"
    raise UserError(
        f"{where}data.epochs={run.data.epochs:g} allows {int(allowed):,} training tokens ({available:,} an epoch) "
        f"but the run needs {needed:,}; {', or '.join(remedies)}"
    )
