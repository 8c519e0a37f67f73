"""Compiled programs: a step's communication, memory and roofline on chips that need not be present."""

from scaling.compiled.collectives import Collective, collectives
from scaling.compiled.planned import as_rows, planned
from scaling.compiled.target import slice_links

__all__ = ["Collective", "as_rows", "collectives", "planned", "slice_links"]
