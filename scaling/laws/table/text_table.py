"""Reading a table from a text file: compression, separator, and the meaning of a comma in its numbers."""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from scaling.errors import UserError, shown
from scaling.files import not_text, path_of, read_bytes, reading

if TYPE_CHECKING:
    import pandas as pd

MARKS = ",;\t|"
"""possible separators of columns"""
MOST = 2**28
"""largest size of a table in bytes"""
COMPRESSED: dict[str, Callable[..., IO[bytes]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}  # type: ignore[dict-item]
JSON = re.compile(rb'\s*(\[\s*)?\{\s*"')
GROUPED = re.compile(r"\s*[-+]?\d{1,3}(\.\d{3})+(,\d+)?\s*")
"""a number with points between thousands, as in tables with decimal commas"""
DECIMAL_COMMA = re.compile(rb"(^|;) *[-+]?\d+,\d+ *(;|\r?$)", re.MULTILINE)
EXCEL = re.compile(rb"(\xef\xbb\xbf)?sep=([,;\t|])\r?\n")
"""the first line by which Excel is told the separator"""
BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def read_table(path: str | Path) -> "pd.DataFrame":
    """Read a CSV file with a header, keeping every digit. Raises UserError for a missing file, or one that is no
    table.

    The separator is the comma, semicolon, tab or bar, whichever the header has most of; with semicolons a comma is
    the decimal point.
    """
    path = path_of(path)
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"{path} is a configuration; expected a CSV table, or a sweep's folder such as runs/NAME")
    try:
        with reading(path, "a CSV table", "save it as text with a header, separated by commas, tabs or semicolons"):
            return _table(_uncompressed(path))
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None


def _uncompressed(path: Path) -> bytes:
    """The file's bytes, decompressed. Raises ValueError for a file that is too large, compressed or not."""
    data, unpack = read_bytes(path, MOST), COMPRESSED.get(path.suffix)
    if unpack is None:
        return data
    try:
        with unpack(io.BytesIO(data)) as file:
            data = file.read(MOST + 1)
    except (EOFError, lzma.LZMAError) as error:
        raise ValueError(str(error)) from None
    if len(data) > MOST:
        raise ValueError(f"it has more than {MOST / 2**20:g} MiB when unpacked")
    return data


def _table(data: bytes) -> "pd.DataFrame":
    import pandas as pd

    if data.startswith(b"PAR1"):
        raise ValueError("it is parquet; in Python, laws.fit takes what pandas.read_parquet makes of it")
    if why := not_text(data):
        raise ValueError(why)
    data = data[found.end() :] if (found := EXCEL.match(data)) else data
    if data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"#"):
        raise ValueError("its first line starts with #, a comment; delete such lines, and the # before a header")
    if BINARY.search(data):
        raise ValueError("it is a binary file, or text that is not UTF-8")
    if JSON.match(data):
        raise ValueError("it is JSON; in Python, laws.fit takes what pandas.read_json makes of it")
    mark = _mark(data)
    # Losses keep every digit: pandas before 3.1, which drops this option, was off by an ulp or so by default.
    rounds = tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1)
    options: dict[str, Any] = {"sep": mark, "decimal": "," if mark == ";" else "."}
    options |= {"float_precision": "round_trip"} if rounds else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return _plain(pd.read_csv(io.BytesIO(data), index_col=False, **options), data, mark)
    except pd.errors.ParserWarning:
        table = pd.read_csv(io.BytesIO(data), **options)
    if pd.api.types.is_numeric_dtype(table.index.dtype):  # else the first column has row names, as R writes them
        raise ValueError(f"its rows have more fields than its header, split at {mark!r}; is that a decimal point?")
    return _plain(table, data, mark)


def _plain(table: "pd.DataFrame", data: bytes, mark: str) -> "pd.DataFrame":
    """Column names on a single line, and numbers such as 22.500 in a table with decimal commas as 22,500."""
    table.columns = [" ".join(name.split()) for name in table.columns]
    if mark == ";" and DECIMAL_COMMA.search(data):
        for name in table.columns[[kind.kind not in "fiub" for kind in table.dtypes]]:
            table[name] = table[name].map(_commas)
    return table


def _commas(value: Any) -> Any:
    return value.translate({46: ",", 44: "."}) if isinstance(value, str) and GROUPED.fullmatch(value) else value


def _mark(data: bytes) -> str:
    """The separator of columns. Raises ValueError for a header that names a column twice."""
    text = data[:200_000].decode("utf-8-sig", "replace").lstrip("\r\n")
    line = re.match(r'("[^"]*"|[^"\r\n])*', text)[0]  # type: ignore[index]
    bare = re.sub(r'"[^"]*"', "", line)
    mark = max(MARKS, key=bare.count)
    if mark not in bare and len(bare.split()) > 2:
        raise ValueError(f"its header has no separator but spaces: {shown(line)}")
    try:
        found = next(csv.reader(io.StringIO(line, newline=""), delimiter=mark), [])
        names = [name for name in (" ".join(name.split()) for name in found) if name]
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two columns are called {shown(twice)}")
    return mark
