"""Compiled programs: what a step sends between devices, and what it takes on chips that need not be there."""

from scaling.compiled.collectives import Collective, collectives

__all__ = ["Collective", "collectives"]
