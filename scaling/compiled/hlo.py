"""Parsing a compiled program's text into computations and instructions, as far as its collectives require."""

import re
from dataclasses import dataclass
from math import prod

ARRAY = re.compile(r"\b(pred|token|[a-z]+?(\d+)[a-z0-9]*)\[([\d,]*)\]")
CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
NAME = re.compile(r"%([\w.-]+)")


@dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    """as written, with its layout"""
    opcode: str
    operands: tuple[str, ...]
    rest: str
    """attributes, as written"""
    argument: str
    """the text in the parentheses"""

    @property
    def calls(self) -> list[str]:
        """Names of the computations that it calls, except loop conditions and reductions."""
        if self.opcode in ("all-reduce", "reduce-scatter", "all-reduce-start", "reduce", "scatter", "sort"):
            return []
        found = CALLED.findall(self.rest)
        return found + [name.lstrip("%") for part in BRANCHES.findall(self.rest) for name in part.split(", ")]


@dataclass(frozen=True)
class Program:
    computations: dict[str, dict[str, Instruction]]
    """instructions by name, for each computation"""
    entry: str


def parse(text: str) -> Program:
    """Parse JAX's `compiled.as_text()`, of any platform."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry = ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            name = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
            computations[name] = current = {}
            entry = name if line.startswith("ENTRY") else entry
        elif " = " in line and line.startswith(" "):
            found = _instruction(line.strip().removeprefix("ROOT "))
            current[found.name] = found
    return Program(computations, entry)


def _instruction(line: str) -> Instruction:
    name, _, rest = line.partition(" = ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = _closing(rest, start)
    argument = rest[start + 1 : end]
    return Instruction(
        name.lstrip("%"), shape, rest[:start], tuple(NAME.findall(argument)), rest[end + 1 :], argument
    )


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"no closing parenthesis in {text[:80]}")


def bytes_of(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple."""
    return sum(
        -(-prod(map(int, filter(None, sides.split(",")))) * int(bits or 8) // 8)
        for dtype, bits, sides in ARRAY.findall(shape)
        if dtype != "token"
    )


def constant(instruction: Instruction | None) -> int | None:
    if instruction is None or instruction.opcode != "constant" or not re.fullmatch(r"-?\d+", instruction.argument):
        return None
    return int(instruction.argument)


def trips(program: Program, loop: Instruction, around: dict[str, Instruction]) -> int | None:
    """The trip count of a `while`; None if the program does not state it.

    Taken from XLA's own annotation if there is one, else from a condition `i < constant` on a counter that starts at
    a constant (0 if that is not visible) and increments by 1, as in JAX's loops. around: the loop's computation.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known[1])
    named = re.search(r"\bcondition=%?([\w.-]+)", loop.rest)
    condition = program.computations[named[1]] if named else {}
    compared = next((i for i in condition.values() if i.opcode == "compare" and "direction=LT" in i.rest), None)
    if compared is None:
        return None
    counter, bound = (condition.get(name) for name in compared.operands)
    last = constant(bound)
    if last is None or counter is None:
        return None
    index = re.search(r"\bindex=(\d+)", counter.rest)
    start = around.get(loop.operands[0])
    given = start.operands[int(index[1])] if index and start and start.opcode == "tuple" else ""
    return last - (constant(_origin(around, given)) or 0)


def _origin(computation: dict[str, Instruction], name: str) -> Instruction | None:
    """The instruction whose value this one copies."""
    found = computation.get(name)
    while found is not None and found.opcode in ("copy", "bitcast"):
        found = computation.get(found.operands[0])
    return found
