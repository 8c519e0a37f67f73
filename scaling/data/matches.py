"""The files that match a glob, safe against cycles of symbolic links."""

import glob
import os
from collections.abc import Iterator


def files_matching(pattern: str) -> set[str]:
    """As `glob.glob(pattern, recursive=True)`, but only files, and without following links to a parent folder, so
    that nothing is found twice. pattern: an absolute path."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        return {path for path in glob.iglob(pattern) if os.path.isfile(path)}
    deep = parts.index("**")
    head, tail = os.sep.join(parts[:deep]) or os.sep, parts[deep + 1 :] or ["*"]
    folders = (folder for base in glob.iglob(head) for folder in _below(base, frozenset()))
    return set().union(*(files_matching(os.path.join(glob.escape(folder), *tail)) for folder in folders))


def _below(folder: str, above: frozenset[str]) -> Iterator[str]:
    """A folder and all non-hidden folders below it. above: the real paths of its parents."""
    real = os.path.realpath(folder)
    if real in above or not os.path.isdir(folder):
        return
    yield folder
    try:
        names = os.listdir(folder)
    except OSError:  # an unreadable folder has no files, as for glob
        return
    for name in names:
        if not name.startswith("."):
            yield from _below(os.path.join(folder, name), above | {real})
