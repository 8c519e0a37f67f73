"""What a compiled program sends between devices: kind, mesh axes, bytes, and how often in one run of it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from scaling.accounting.links import sent
from scaling.compiled.hlo import Instruction, Program, bytes_of, parse, trips
from scaling.compiled.replica_groups import axes_of, replica_groups

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "ragged-all-to-all", "collective-permute")


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


def collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """Those of a compiled program, in its order; those of one device alone left out.

    text: `compiled.as_text()`, of any platform. mesh: devices along each axis, whose flat order is the program's.
    A start and its end are one, and so are those of a chain, the fusions that a TPU hides one behind. Raises
    ValueError where one is in a loop of which the program does not say how often it runs.
    """
    program = parse(text)
    devices = 1
    for size in mesh.values():
        devices *= size
    found = (_collective(*place, mesh, devices) for place in _walk(program, program.entry, (), set()))
    return [collective for collective in found if collective.group > 1]


Place = tuple[Instruction, dict[str, Instruction], tuple[int | None, ...]]


def _walk(program: Program, name: str, loops: tuple[int | None, ...], seen: set[str]) -> Iterator[Place]:
    """Every collective below a computation. seen: chains of the loop body that it is in, see `collectives`."""
    computation = program.computations[name]
    for instruction in computation.values():
        if instruction.opcode.removesuffix("-start") in KINDS:
            chain = re.search(r'\bchain_id="(\d+)"', instruction.rest)
            if chain is None or chain[1] not in seen:
                yield instruction, computation, loops
            seen |= {chain[1]} if chain else set()
        elif instruction.opcode == "while":
            inner = (*loops, trips(program, instruction, computation))
            for called in instruction.calls:
                yield from _walk(program, called, inner, set())
        elif not instruction.opcode.endswith(("-update", "-done")):
            for called in instruction.calls:
                yield from _walk(program, called, loops, seen)


def _collective(
    instruction: Instruction,
    around: dict[str, Instruction],
    loops: tuple[int | None, ...],
    mesh: Mapping[str, int],
    devices: int,
) -> Collective:
    kind = instruction.opcode.removesuffix("-start")
    named = re.search(r"\b(?:replica_groups|source_target_pairs)=(.*)", instruction.rest)
    groups = replica_groups(named[1] if named else "{}", devices)
    shapes = [around[name].shape for name in instruction.operands]
    size, group = sum(map(bytes_of, shapes)), len(groups[0])
    origin = re.search(r'op_name="([^"]*)"', instruction.rest)
    counts = [count for count in loops if count is not None]
    if len(counts) < len(loops):
        raise ValueError(f"{instruction.name} is in a loop whose number of steps the program does not say")
    times = 1
    for count in counts:
        times *= count
    return Collective(
        kind,
        axes_of(groups, mesh),
        group,
        tuple(groups[0]),
        " ".join(re.sub(r"\{[^}]*\}", "", shape) for shape in shapes),
        size * group if kind == "all-gather" else size,
        tuple(counts),
        times,
        origin[1] if origin else "",
    )
