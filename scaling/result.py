"""The record of a finished run: `result.json`, written atomically and last."""

import contextlib
import fcntl
import functools
import glob
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scaling.errors import shown
from scaling.files import SEALS, parse_json, path_of, read_bytes, reading, seals_of, was_changed

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Status = Literal["completed", "diverged", "failed"]

ALTERED = "altered"
"""the fact that a record was changed after it was written"""
KEPT = ("config.yaml", "metrics.jsonl")
"""other files of a run's folder that numbers are read from once it has ended"""
UNIT = "nats per token"
"""default unit of a record's loss"""


@dataclass(frozen=True)
class Result:
    """The definition of one run and its results. `None`: not measured (a failed run has no loss)."""

    run_id: str
    sweep: str
    status: Status
    params_total: int
    params_non_embedding: int
    params_active: int
    tokens: int
    """tokens seen in training, repeats included"""
    unique_tokens: int
    """number of distinct training tokens among them"""
    epochs: float
    flops: float
    """training FLOPs by the exact count"""
    flops_by_convention: dict[str, float]
    """training FLOPs, exact and under every named convention"""
    loss: float | None
    """in `unit`, mean over the held-out split"""
    loss_sem: float | None
    """standard error of `loss`, windows treated as independent"""
    bits_per_byte: float | None
    """an upper bound where the objective's loss is an upper bound of −log p of the text; None where it is no bound"""
    learning_rate: float
    batch_tokens: int
    context: int
    seed: int
    wall_s: float
    """seconds of training, including compilation but not evaluation; for a branch including its trunk's before it"""
    tokens_per_s: float | None
    """median over steps after compilation"""
    mfu: float | None
    """exact FLOPs per second over the device's peak at the compute precision; None where the peak is unknown"""
    device: str
    versions: dict[str, str]
    experts: int = 1
    train_loss: float | None = None
    """mean over the last tenth of the steps"""
    reason: str = ""
    """why a run is not `completed`, or a remark about one that is"""
    facts: dict[str, Any] = field(default_factory=dict)
    """further facts: d_model, layers, corpus, tokenizer, schedule, tuning state"""
    config: dict[str, Any] = field(default_factory=dict)
    """the canonical configuration, which is the run's identity; empty in records of older versions"""
    by_rule: dict[str, str] = field(default_factory=dict)
    """dotted keys of it that a sweep set for each run, and the rule"""
    objective: str = "next_token"
    unit: str = UNIT
    """unit of every loss of the run"""
    targets: int | None = None
    """number of `tokens` that were predicted; None in records of older versions"""

    @property
    def flops_spent(self) -> float:
        """`flops` that this run spent itself: a branch takes the first ones from its trunk."""
        return self.flops - self._branch.get("flops_shared", 0.0)

    @property
    def wall_s_spent(self) -> float:
        """Seconds of `wall_s` that this run took itself."""
        branch = self._branch
        if "flops_shared" in branch and "wall_s_shared" not in branch:  # a record of an older version
            return self.wall_s * self.flops_spent / self.flops
        return self.wall_s - branch.get("wall_s_shared", 0.0)

    @property
    def _branch(self) -> Mapping[str, float]:
        """What a branch takes over from its trunk, see `training.checkpoint.Books.branch`; empty for other runs."""
        return self.facts.get("branch") or {}


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """A context whose OSErrors name `path`; for a failed write the system does not say which file it was."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        del error.filename2  # set to None it would be told, as "-> None"
        raise


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """An empty file to write that atomically replaces `path`, even if the machine stops meanwhile.

    Leftovers of killed processes are removed: a live writer holds a lock on its file.
    """
    path = path_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        for left in path.parent.glob(f".{glob.escape(path.name)}.????????"):
            with contextlib.suppress(OSError), left.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
        handle, temporary = _locked(path)
        try:
            yield Path(temporary)
            os.fsync(handle)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


def _locked(path: Path) -> tuple[int, str]:
    """A new file beside `path`, open and locked, and its name. Retries if another process removed it as a leftover
    before it was locked."""
    while True:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(temporary):
            return handle, temporary
        os.close(handle)


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write `text` to `path`, as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_result(folder: str | Path, result: Result) -> Path:
    """Write `folder/result.json`, after `folder/seals.json`, which reveals later changes to the run's records."""
    folder, path = path_of(folder), path_of(folder) / "result.json"
    text = json.dumps(asdict(result), indent=1) + "\n"
    left = {name: (folder / name).read_bytes() for name in KEPT if (folder / name).is_file()}
    write_text_atomically(folder / SEALS, seals_of({**left, path.name: text.encode()}))
    write_text_atomically(path, text)
    return path


def read_result(folder: str | Path) -> Result | None:
    """Read the record in `folder`; None where the run has not finished. Raises UserError for an invalid file.

    The `facts` of a record that was changed after it was written contain ALTERED.
    """
    path = path_of(folder) / "result.json"
    try:
        with reading(path, "a run's record", "delete it to run again"):
            data, changed = _read_beside_seal(path)
            result = _checked(parse_json(data))
    except FileNotFoundError:
        return None
    return replace(result, facts={**result.facts, ALTERED: True}) if changed else result


def _read_beside_seal(path: Path) -> tuple[bytes, bool]:
    """A record, and whether it differs from its seal; both from the same attempt, even if the next one ends
    meanwhile."""
    data = read_bytes(path)
    while was_changed(path, data):
        before, data = data, read_bytes(path)
        if data == before:
            return data, True
    return data, False


def _checked(values: Any) -> Result:
    """The record of JSON values. Raises ValueError for a missing value, or one of another type."""
    from pydantic import ValidationError

    try:
        result = _adapter().validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {shown(first['input'])}") from None
    branch = result._branch
    if not (isinstance(branch, Mapping) and all(isinstance(value, int | float | str) for value in branch.values())):
        raise ValueError(f"facts.branch: {shown(branch)}")
    return result


@functools.cache
def _adapter() -> "TypeAdapter[Result]":
    """Created on use, so that the command line can show its help without pydantic."""
    from pydantic import TypeAdapter

    return TypeAdapter(Result)
