"""Reading files that a user, a killed process or a bad disk may have damaged: each error is reported in one line."""

import codecs
import contextlib
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scaling.errors import UserError, explain

LARGEST = 64 * 2**20
"""most bytes of a file that is read whole; files that the project writes are a hundredth of it"""
LINES = 2**30
"""most bytes of a file that grows line by line"""
LONGEST_INTEGER = 40
"""most digits of an integer in a record"""
PACKED = {
    b"PK\x03\x04": "a spreadsheet (save it as CSV) or another zip archive",
    b"\x1f\x8b": "packed by gzip (its name should end with .gz)",
    b"PAR1": "a parquet file (its name should end with .parquet)",
}
"""first bytes of other kinds of files that may be mistaken for text"""
SEALS = "seals.json"
"""name of a file with the SHA-256 of each final file beside it"""
SEAL = "seal"
"""the key of a sealed record that holds the SHA-256 of the others"""


def path_of(given: str | Path) -> Path:
    """A path as a user gave it, on the command line, in Python or in a configuration: `~` is the home folder.

    Every path enters here, since only a shell expands `~`, and not in `key=~/x`. Raises UserError where no home
    folder is known.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise UserError(
            f"{given}: the home folder of {Path(given).parts[0]} is not known; give the whole path"
        ) from None


def read_bytes(path: str | Path, most: int = LARGEST) -> bytes:
    """A file's bytes. Raises OSError, and ValueError for a pipe or a device and for more than `most` bytes."""
    with open(
        os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
    ) as file:  # a pipe without end would wait
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is a folder, a pipe or a device, not a file; save it as a file")
        if found.st_size > most:
            raise ValueError(f"it has more than {most / 2**20:g} MiB")
        return file.read(found.st_size)


def read_text(path: str | Path, most: int = LARGEST) -> str:
    """A file as UTF-8. Raises as `read_bytes`."""
    return read_bytes(path, most).decode("utf-8")


def not_text(data: bytes, whole: bool = True) -> str:
    """Why bytes are not UTF-8 text, and what to do; empty where they are. whole: all bytes, not only the first."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it is UTF-16, not UTF-8; convert it, for example by iconv -f UTF-16 -t UTF-8"
    if kind := next((kind for mark, kind in PACKED.items() if data.startswith(mark)), ""):
        return f"it is {kind}, not text in UTF-8"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, whole)
    except UnicodeDecodeError as error:
        return (
            f"byte {error.start} is not UTF-8; convert it, for example by iconv -f LATIN1 -t UTF-8, or leave it out"
        )
    if (nul := data.find(b"\0")) >= 0:  # also of UTF-16, which is valid UTF-8 where it holds English
        return f"byte {nul} is NUL, which is not allowed in text; convert it to UTF-8, or leave it out"
    return ""


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. Raises as `read_bytes` does, and ValueError for invalid JSON."""
    return parse_json(read_text(path))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError."""
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The mappings in a file of JSON lines; empty for a missing file.

    Invalid lines are left out, since a killed process leaves half of one. Raises UserError where the file cannot be
    read.
    """
    found = []
    try:
        with reading(path, "a file of JSON lines", "restore it from a backup"):
            for line in read_bytes(path, LINES).split(b"\n"):
                with contextlib.suppress(ValueError):
                    found.append(parse_json(line))
    except FileNotFoundError:
        return []
    return [line for line in found if isinstance(line, dict)]


@contextmanager
def reading(path: str | Path, what: str, advice: str, *, alone: bool = False) -> Iterator[None]:
    """Report any error that a damaged file causes in the block as a UserError, `PATH is not WHAT (why); ADVICE`.

    A missing file stays a FileNotFoundError, which callers often handle, and a UserError is passed on; but where only
    this file is read (`alone`), a UserError that does not name it counts as an error about its contents.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except UserError as error:
        if not alone or str(path) in str(error):
            raise
        raise UserError(f"{path} is not {what} ({error}); {advice}") from None
    except KeyError as error:
        raise UserError(f"{path} is not {what} (it has no {error}); {advice}") from None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        why = (explain(error) or (None,))[0] if isinstance(error, OSError) else None
        raise UserError(f"{path} is not {what} ({why or _first_line(error)}); {advice}") from None


def _first_line(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip().partition("\n")[0] or type(error).__name__


def digest(values: Any) -> str:
    """SHA-256 of a JSON value, the same after it is written and read back."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its seal, which reveals later changes."""
    return {**values, SEAL: digest(values)}


def opened(values: Any) -> tuple[dict[str, Any], bool]:
    """A record without its seal, and whether it is unchanged; a record of an older version, without a seal, counts as
    unchanged."""
    if not isinstance(values, dict):
        raise TypeError(f"expected a mapping, found {type(values).__name__}")
    inner = {key: value for key, value in values.items() if key != SEAL}
    return inner, SEAL not in values or values[SEAL] == digest(inner)


def require_whole(values: Any) -> dict[str, Any]:
    """A record without its seal. Raises ValueError where it was changed after it was written."""
    inner, whole = opened(values)
    if not whole:
        raise ValueError("it was changed after it was written: its contents do not match its seal")
    return inner


def mappings(values: Any, what: str) -> list[Mapping[str, Any]]:
    """A list of mappings in a record. Raises ValueError for anything else."""
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError(f"its {what} are not a list of mappings")
    return values


def texts(values: Any, what: str, count: int | None = None) -> tuple[str, ...]:
    """A list of texts in a record, of `count` where that is given. Raises ValueError for anything else."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"its {what} are not a list of texts")
    if count is not None and len(values) != count:
        raise ValueError(f"it has {len(values)} {what}, but should have {count}")
    return tuple(values)


def number(value: Any, what: str) -> float:
    """A finite number in a record. Raises ValueError for anything else, booleans among them."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"its {what} is not a number")
    return value


def seals_of(files: Mapping[str, bytes]) -> str:
    """The contents of SEALS for files in its folder, by their names."""
    return json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, indent=1) + "\n"


def was_changed(path: Path, data: bytes | None = None) -> bool:
    """Whether a file differs from the SEALS beside it, or these are damaged; False where they do not name it.

    data: the file's contents, if read already.
    """
    try:
        seals = read_json(path.parent / SEALS)
        seal = seals.get(path.name) if isinstance(seals, dict) else ""
        return (
            seal is not None and seal != hashlib.sha256(read_bytes(path, LINES) if data is None else data).hexdigest()
        )
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
