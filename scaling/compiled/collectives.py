"""What a compiled program sends between devices: kind, mesh axes, bytes, and how often in one run of it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from scaling.accounting.links import sent
from scaling.compiled.hlo import Instruction, Program, bytes_of, parse, trips
from scaling.compiled.replica_groups import axes_of, replica_groups

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "ragged-all-to-all", "collective-permute")
ACROSS = re.compile(r'_xla_megascale_target="\{([\d,:]*)\}x.*_xla_megascale_transfer_type="(\w+)"')
"""of a `send` to other TPU slices: these slices, counted from 1, and the kind of what its chips do with theirs"""


@dataclass(frozen=True)
class Collective:
    """One instruction; combined ones, of several arrays, are one."""

    kind: str
    axes: tuple[str, ...]
    """of the mesh, along which the devices differ that send to each other"""
    group: int
    """devices that send to each other"""
    members: tuple[int, ...] = field(repr=False)
    """those of the first group, by their place in the mesh"""
    shape: str
    """of what one device gives, as XLA writes it"""
    bytes: int
    """of the whole array where it is widest on one device: what an all-gather makes, what a reduce-scatter takes"""
    loops: tuple[int, ...]
    """how often each loop that it is in runs, the outermost first"""
    times: int
    """in one run of the program"""
    origin: str
    """where in the traced program it comes from"""

    @property
    def sent(self) -> float:
        """Bytes that a device sends each time by the best algorithms."""
        return sent(self.kind, self.bytes, self.group)


def collectives(
    text: str, mesh: Mapping[str, int], slices: Sequence[Sequence[int]] | None = None
) -> list[Collective]:
    """Those of a compiled program, in its order; those of one device alone left out.

    text: `compiled.as_text()`, of any platform. mesh: devices along each axis, whose flat order is the program's.
    slices: places in that order of the chips of each TPU slice, where there are several: the program is that of the
    first one alone, and sends to the others.
    A start and its end are one, and so are those of a chain, the fusions that a TPU hides one behind, also in a loop
    behind the start: each step brings it further. An all-reduce that a TPU fuses with the slice of it that a chip
    keeps is a reduce-scatter: it makes them so, and no chip has the whole sum. Raises ValueError where one is in a
    loop of which the program does not say how often it runs.
    """
    program = parse(text)
    slices = slices or [range(prod(mesh.values()))]
    found = (_collective(*place, mesh, slices) for place in _walk(program, program.entry, (), set()))
    return [collective for collective in found if collective.group > 1]


Place = tuple[Instruction, dict[str, Instruction], tuple[int | None, ...]]


def _walk(
    program: Program,
    name: str,
    loops: tuple[int | None, ...],
    seen: set[tuple[str, ...]],
    fused: bool = False,
) -> Iterator[Place]:
    """Every collective below a computation. seen: chains that have begun, by channel and
    number, see `collectives`. fused: it is that of a fusion."""
    computation = program.computations[name]
    sliced = {x for i in computation.values() if fused and i.opcode == "dynamic-slice" for x in i.operands[:1]}
    for instruction in computation.values():
        if instruction.opcode == "all-reduce" and instruction.name in sliced:
            instruction = replace(instruction, opcode="reduce-scatter")
        if instruction.opcode.removesuffix("-start") in KINDS or _across(instruction):
            chain = re.search(r'\bchannel_id=(\d+).*\bchain_id="(\d+)"', instruction.rest)
            if chain is None or chain.groups() not in seen:
                yield instruction, computation, loops
            seen |= {chain.groups()} if chain else set()
        elif instruction.opcode == "while":
            inner = (*loops, trips(program, instruction, computation))
            for called in instruction.calls:
                yield from _walk(program, called, inner, seen)
        elif not instruction.opcode.endswith(("-update", "-done")):
            for called in instruction.calls:
                yield from _walk(program, called, loops, seen, instruction.opcode == "fusion")


def _collective(
    instruction: Instruction,
    around: dict[str, Instruction],
    loops: tuple[int | None, ...],
    mesh: Mapping[str, int],
    slices: Sequence[Sequence[int]],
) -> Collective:
    kind, across = instruction.opcode.removesuffix("-start"), _across(instruction)
    if across:
        kind, groups = across[2].lower().replace("_", "-"), [[slices[i][0] for i in _slices(across[1])]]
    else:
        named = re.search(r"\b(?:replica_groups|source_target_pairs)=(.*)", instruction.rest)
        local = replica_groups(named[1] if named else "{}", len(slices[0]))
        groups = [[slices[0][i] for i in group] for group in local]
    shapes = [around[name].shape for name in instruction.operands]
    size, group = sum(map(bytes_of, shapes)), len(groups[0])
    origin = re.search(r'op_name="([^"]*)"', instruction.rest)
    counts = [count for count in loops if count is not None]
    if len(counts) < len(loops):
        raise ValueError(f"{instruction.name} is in a loop whose number of steps the program does not say")
    return Collective(
        kind,
        axes_of(groups, mesh),
        group,
        tuple(groups[0]),
        " ".join(re.sub(r"\{[^}]*\}", "", shape) for shape in shapes),
        size * group if kind == "all-gather" else size,
        tuple(counts),
        prod(counts),
        origin[1] if origin else "",
    )


def _across(instruction: Instruction) -> re.Match[str] | None:
    """Whether it sends to other slices."""
    return ACROSS.search(instruction.rest) if instruction.opcode == "send" else None


def _slices(text: str) -> list[int]:
    """`1,2` or `1:4`, counted from 0."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition(":")
        found += range(int(first) - 1, int(last or first))
    return found
