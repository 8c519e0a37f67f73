"""How messages name the options of a table: as Python arguments, or as command-line options."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_OPTIONS: ContextVar[Mapping[str, str] | None] = ContextVar("options", default=None)


@contextmanager
def command_line(options: Mapping[str, str]) -> Iterator[None]:
    """A context in which messages name command-line options. options: the letters of columns, by option."""
    token = _OPTIONS.set({letter: option for option, letter in options.items()})
    try:
        yield
    finally:
        _OPTIONS.reset(token)


def choice(name: str, value: str) -> str:
    """Text that sets `name` to `value`: N='params', or --params params; a further column is --column E=experts."""
    options = _OPTIONS.get()
    if options is None:
        return f"{name}={value!r}"
    if name in options:
        return f"--{options[name]} {value}"
    return f"--{name} {value}" if len(name) > 1 and name.islower() else f"--column {name}={value}"


def recorded(letter: str, column: str) -> str:
    """Text that names a letter's column of records: columns={'N': 'params_active'}, or --column N=params_active."""
    return f"columns={{{letter!r}: {column!r}}}" if _OPTIONS.get() is None else f"--column {letter}={column}"


def records() -> str:
    """Text that reads a sweep's records, whose columns are known."""
    python = "read the framework's records with laws.from_results(df, law=…)"
    return python if _OPTIONS.get() is None else "fit the sweep's folder, whose columns are known"


def named(columns: str) -> str:
    """Text that names columns, from that of each (`choice`)."""
    return f"laws.Runs(table, {columns})" if _OPTIONS.get() is None else columns


def leave(name: str) -> str:
    """Text that switches `name` on."""
    return f"{name}=True" if _OPTIONS.get() is None else f"--{name}"


def condition(column: str, value: str) -> str:
    """Text that selects the rows with a value in a column, quoted for a shell on the command line."""
    if _OPTIONS.get() is not None:
        return f"--where {_quoted(f'{column} == {value}')}"
    text = f"{column if column.isidentifier() else f'`{column}`'} == {value}"
    return f"df.query({text!r})"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`") + '"'
