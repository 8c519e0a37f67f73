"""Cutting a long text into documents at ends of paragraphs, or else of lines, identically on every machine."""

import io
import re
from collections.abc import Iterator

PARAGRAPH = re.compile(rb"\n[ \t\r]*\n")
BLOCK = 2**20


def text_cut(file: io.BufferedIOBase, size: int) -> Iterator[bytes]:
    """The pieces of a file, which together are all of it. A piece ends at the first end of a paragraph after `size`
    bytes, else at the first end of a line, else at a character boundary, in each case before twice `size`; a last
    piece of at most twice `size` stays whole. The pieces depend only on the bytes of the file and on `size`.
    """
    rest = b""
    while block := file.read(BLOCK):
        rest += block
        at = 0
        while len(rest) - at > 2 * size + 4:  # a character has at most four bytes
            end = at + _end(rest[at : at + 2 * size + 4], size)
            yield rest[at:end]
            at = end
        rest = rest[at:]
    while rest:
        end = _end(rest, size) if len(rest) > 2 * size else len(rest)
        yield rest[:end]
        rest = rest[end:]


def _end(text: bytes, size: int) -> int:
    """The end of the first piece of a text that has more than twice `size` bytes."""
    if found := PARAGRAPH.search(text, size, 2 * size):
        return found.end()
    if (line := text.find(b"\n", size, 2 * size)) >= 0:
        return line + 1
    end = 2 * size
    while end > size and text[end] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return end
