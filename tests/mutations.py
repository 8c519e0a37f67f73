"""Broken inputs: values, texts and files as a careless hand, another program or a bad disk would leave them."""

import contextlib
import io
import os
import random
import re
import resource
import signal
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from waiting import LIMIT_S

from scaling.cli import main

CASES = int(os.environ.get("SCALING_BROKEN_INPUTS", "2000"))
"""broken inputs of all kinds together, of which each file of tests takes its share"""
SECONDS, BYTES = 2.0, 2**30
"""what a broken input may take, of processors and of memory"""


def _nested(depth: int, inner: Any = 1) -> Any:
    for i in range(depth):
        inner = {"a": inner} if i % 2 else [inner]
    return inner


VALUES: tuple[Any, ...] = (
    "1", "1.5", "-1", "", "x", "—", "nan", "1e400", "0x10", " 7 ", "1_000", "7B", "null", "~/x", "../x", "/dev/zero",
    "/etc/shadow", "/", "preset:", "\x00", "a\nb", "\u2028", "\x1b[2J", "<script>alert(1)</script>", "{}", "%s{0}",
    "x" * 100_000, "9" * 400, None, True, False, 0, -1, 1, 2, 3, 7, 1.5, -0.0, 1e-300, 1e300, 1e12,
    1e18, 10**9, 10**12, 2**31, 2**63, 10**30, 10**400, -(10**400), float("nan"), float("inf"), float("-inf"), 5e-324,
    [], [[]], {}, [1], [None], ["a"], {"a": 1}, {"kind": "x"}, {"kind": 5}, {1: 2}, {"": ""}, {None: None},
    [1, "a", {}], date(2001, 1, 1), datetime(2001, 1, 1, 12), b"\xff\x00", {"extends": "/dev/zero"}, {"extends": []},
    {"extends": 5}, _nested(40), list(range(2000)), [1e300] * 3, [0], [-1], ["1"], [1, 1], [1e11, "x"],
)  # fmt: skip
"""in place of any value of a configuration"""

TOKENS = (
    "2001-13-45", "2001-01-01 25:61:61", "1:2:3", "99999999:59", "!!int x", "!!python/object/apply:os.system [id]",
    "!!binary ////", "!!set {1}", "!!timestamp x", "*a", "&a [*a]", "<<: *a", "%YAML 9", "@", "`", "9" * 5000,
    "[" * 1200, "{a: " * 300, "- " * 500, "\0", "\t", "? [a, b]", "---", "...", "|", ">", "'", '"', ".inf", ".nan",
    "0b2", "0o9", "1e", "1__0", "\ufeff", "\x85", "\ud7ff", "é", "[" * 200_000, "a: &a [x,x,x]\nb: &b [*a,*a,*a]",
)  # fmt: skip
"""in place of a word of a text"""


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every part of a nested value, the whole left out."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        yield (*above, key)
        yield from places(inner, (*above, key))


def replaced(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    """`value` with another value at a place."""
    if not place:
        return by
    first, *rest = place
    if isinstance(value, list):
        return [replaced(inner, tuple(rest), by) if i == first else inner for i, inner in enumerate(value)]
    return {key: replaced(inner, tuple(rest), by) if key == first else inner for key, inner in value.items()}


def mutated(value: Any, draw: random.Random) -> Any:
    """A nested value with one to three of its parts in another's place, gone, renamed or hostile."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        here = list(places(value))
        if not here:
            return value
        place, other = draw.choice(here), draw.choice(here)
        kind = draw.randrange(10)
        above, last = _at(value, place[:-1]), place[-1]
        if kind == 0 and isinstance(above, dict):
            value = replaced(value, place[:-1], {k: v for k, v in above.items() if k != last})
        elif kind == 1 and isinstance(above, dict):
            value = replaced(value, place[:-1], {(_typo(k, draw) if k == last else k): v for k, v in above.items()})
        elif kind == 2:
            value = replaced(value, place, _at(value, other))
        elif kind == 3 and isinstance(_at(value, place), int | float):
            value = replaced(
                value, place, _at(value, place) * draw.choice((-1, 0, 0.5, 2, 1.1, 1e3, 1e6, 1e12, 1e-9))
            )
        elif kind == 4 and isinstance(_at(value, place), int | float):
            value = replaced(value, place, str(_at(value, place)))
        else:
            value = replaced(value, place, draw.choice(VALUES))
    return value


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def _typo(key: Any, draw: random.Random) -> str:
    text = str(key)
    at = draw.randrange(len(text) + 1)
    return draw.choice((text[:at] + text[at + 1 :], text[:at] + "x" + text[at:], text.upper(), f"{text}.{text}", ""))


def damaged(data: bytes, draw: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """The bytes of a file after one accident."""
    at = draw.randrange(len(data) + 1)
    accident = draw.randrange(8)
    if accident == 0:
        return b""
    if accident == 1:
        return data[:at]
    if accident == 2 and data:
        at = draw.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if accident == 3 and others:
        return draw.choice(others)
    if accident == 4:
        return b"[" * 200_000
    if accident == 5:
        return (
            data[:at] + draw.choice((b"\x00" * 100, b"\xff\xfe", b"\r\n", data[:500], draw.randbytes(64))) + data[at:]
        )
    if accident == 6:
        words = list(re.finditer(rb"[\w.+-]+", data)) or [re.match(b"", data)]
        word = draw.choice(words)
        assert word is not None
        by = draw.choice(TOKENS).encode("utf-8", "replace")
        return data[: word.start()] + by + data[word.end() :]
    return draw.randbytes(draw.choice((1, 100, 5000)))


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def refused(self) -> bool:
        return self.code == 2

    def check(self, argv: Sequence[str], seconds: float = SECONDS) -> None:
        """It ended well, or was refused in one line that a person can read."""
        argv = [each[:200] for each in argv]
        assert self.code in (0, 1, 2), (argv, self)
        assert "Traceback" not in self.err and "Traceback" not in self.out, (argv, self.err[-3000:])
        if self.refused:
            assert self.out == "" and re.fullmatch(r"scaling: [^\n]+\n", self.err), (argv, self.out, self.err[:3000])
            assert len(self.err) < 5000 and self.err.rstrip("\n").isprintable(), (argv, self.err[:3000])
        assert self.seconds < seconds, (argv, self)


class TooLong(BaseException):
    """A command took so long that it would not end by itself."""


TIMERS = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}


def call(*argv: object, limit_s: float = 10.0) -> Outcome:
    """`scaling ARGV` in this process; what it raises is its outcome, as a traceback.

    limit_s: seconds of processors, which a crowded machine gives slowly, until it is ended; LIMIT_S of a clock where
    it takes none.
    """
    out, err, began = io.StringIO(), io.StringIO(), time.process_time()

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"more than {limit_s} s of processors, or {LIMIT_S} s")

    def limit(seconds: Mapping[int, float]) -> None:
        for timer in TIMERS:
            signal.setitimer(timer, seconds.get(timer, 0))

    before = {number: signal.signal(number, stop) for number in TIMERS.values()}
    limit({signal.ITIMER_PROF: limit_s, signal.ITIMER_REAL: LIMIT_S})
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _memory_limit():
            code = main([str(each) for each in argv])
    except BaseException:
        limit({})
        err.write(traceback.format_exc(limit=-12))
        code = 1
    finally:
        limit({})
        for number, handler in before.items():
            signal.signal(number, handler)
    return Outcome(code, out.getvalue(), err.getvalue(), time.process_time() - began)


@contextlib.contextmanager
def _memory_limit() -> Iterator[None]:
    """This process may take BYTES more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def files_in(folder: Path) -> Mapping[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
