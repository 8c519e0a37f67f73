"""The collectives of a compiled program: kind, mesh axes, bytes, and number of executions in one run of it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from scaling.accounting.links import sent
from scaling.compiled.hlo import Instruction, Program, bytes_of, parse, trips
from scaling.compiled.replica_groups import axes_of, replica_groups

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "ragged-all-to-all", "collective-permute")
ACROSS = re.compile(r'_xla_megascale_target="\{([\d,:]*)\}x.*_xla_megascale_transfer_type="(\w+)"')
"""in a `send` to other TPU slices: these slices, counted from 1, and the kind of collective"""


@dataclass(frozen=True)
class Collective:
    """One collective instruction, which may combine several arrays."""

    kind: str
    axes: tuple[str, ...]
    """mesh axes along which the devices of a group differ"""
    group: int
    """number of devices in a group"""
    members: tuple[int, ...] = field(repr=False)
    """devices of the first group, by their index in the mesh"""
    shape: str
    """shape of one device's input, as written by XLA"""
    bytes: int
    """the larger of a device's input and output: the output of an all-gather, the input of a reduce-scatter"""
    loops: tuple[int, ...]
    """trip counts of the enclosing loops, outermost first"""
    times: int
    """number of executions in one run of the program"""
    origin: str
    """its origin in the traced program"""

    @property
    def sent(self) -> float:
        """Bytes that a device sends per execution with the best algorithms."""
        return sent(self.kind, self.bytes, self.group)


def collectives(
    text: str, mesh: Mapping[str, int], slices: Sequence[Sequence[int]] | None = None
) -> list[Collective]:
    """The collectives of a compiled program, in program order, without those of a single device.

    text: `compiled.as_text()`, of any platform. mesh: devices along each axis, in the program's flat order. slices:
    indices in that order of the chips of each TPU slice, if there are several: the program is that of the first slice
    alone, which sends to the others.
    A start and its done count once, and so does a chain: the fusions, also in a loop after the start, behind which a
    TPU hides a collective that they advance step by step. An all-reduce that a TPU fuses with the slice that a chip
    keeps counts as a reduce-scatter, since that is what it computes: no chip has the whole sum. Raises ValueError if
    a collective is in a loop whose trip count the program does not state.
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
    """Every collective in a computation and those it calls. seen: chains already started, by channel and number, see
    `collectives`. fused: the computation is that of a fusion."""
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
    """A match if the instruction sends to other slices."""
    return ACROSS.search(instruction.rest) if instruction.opcode == "send" else None


def _slices(text: str) -> list[int]:
    """Indices from 0 of slices written as `1,2` or `1:4`, counted from 1."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition(":")
        found += range(int(first) - 1, int(last or first))
    return found
