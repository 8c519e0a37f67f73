"""The files that a glob finds, also where links lead in circles."""

import glob
import os
from collections.abc import Iterator


def files_matching(pattern: str) -> set[str]:
    """As `glob.glob(pattern, recursive=True)`, files alone; a folder is not gone into below itself, so that a link to
    one above it brings nothing again. pattern: an absolute path."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        return {path for path in glob.iglob(pattern) if os.path.isfile(path)}
    deep = parts.index("**")
    head, tail = os.sep.join(parts[:deep]) or os.sep, parts[deep + 1 :] or ["*"]
    folders = (folder for base in glob.iglob(head) for folder in _below(base, frozenset()))
    return set().union(*(files_matching(os.path.join(glob.escape(folder), *tail)) for folder in folders))


def _below(folder: str, above: frozenset[str]) -> Iterator[str]:
    """A folder and all below it but hidden ones. above: the real paths of those that it lies in."""
    real = os.path.realpath(folder)
    if real in above or not os.path.isdir(folder):
        return
    yield folder
    try:
        names = os.listdir(folder)
    except OSError:  # one that may not be read has no files, as for glob
        return
    for name in names:
        if not name.startswith("."):
            yield from _below(os.path.join(folder, name), above | {real})
