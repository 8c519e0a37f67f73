"""Imports run one way: no circle of modules, none of rooms, and the lower floors know nothing of those above."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

import scaling

Graph = dict[str, set[str]]
ABOVE = {room: {"models", "training"} for room in ("accounting", "config", "families", "ladder", "laws")}
ABOVE["laws"] |= {"report", "sweeps"}
ABOVE |= {"data": {"models", "training", "tracking", "sweeps", "laws", "report"}, "sweeps": {"report"}}
ABOVE |= {"tracking": {"models", "training", "sweeps", "laws", "report"}, "training": {"sweeps", "laws", "report"}}
ABOVE |= {room: {"sweeps", "laws", "report"} for room in ("evaluation", "generation")}
ABOVE["training"] |= {"evaluation", "generation"}
"""what a room imports nothing of"""
ROOMS = {"data", "evaluation", "generation", "laws", "report", "sweeps", "tracking", "training"}
"""whose `__init__` holds no logic"""


def sources() -> dict[str, str]:
    """The text of every module of the package by its name; a package has that of its `__init__.py`."""
    root = Path(scaling.__file__).parent
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(texts: Mapping[str, str]) -> Graph:
    """Which of these modules each imports, anywhere in its file: at the top, in functions, for type checkers."""
    graph: Graph = {}
    for name, text in texts.items():
        package = name if any(other.startswith(f"{name}.") for other in texts) else name.rpartition(".")[0]
        named: set[str] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names} - {"scaling"}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "scaling":
                named.add(f"scaling.{node.attr}")  # `import scaling` alone loads nothing: its rooms load when named
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: 1 - node.level or None] if node.level else []
                module = ".".join([*above, *filter(None, [node.module])])
                # what is imported from a package is a module of it, or else a name in its __init__
                named |= {full if (full := f"{module}.{alias.name}") in texts else module for alias in node.names}
        graph[name] = {other for other in named if other in texts and other != name}
    return graph


def rooms(graph: Graph) -> dict[str, Graph]:
    """For each package which of its files and rooms import which others of them, by whatever is inside."""
    found: dict[str, Graph] = {}
    for name, others in graph.items():
        for other in others:
            ours, theirs = name.split("."), other.split(".")
            shared = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            if shared is not None:
                children = found.setdefault(".".join(ours[:shared]), {})
                children.setdefault(ours[shared], set()).add(theirs[shared])
    return found


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The groups of two and more that import one another (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph.get(name, ()):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def test_no_modules_import_one_another():
    assert circles(imports(sources())) == []


def test_no_rooms_import_one_another():
    """Of every package: `laws/solve` and `laws/fit.py`, as well as `report` and `sweeps`."""
    found = {package: circles(children) for package, children in rooms(imports(sources())).items()}
    assert {package: groups for package, groups in found.items() if groups} == {}


def test_lower_floors_import_nothing_of_those_above():
    wrong = {
        room: sorted(children & ABOVE[room])
        for room, children in rooms(imports(sources()))["scaling"].items()
        if room in ABOVE and children & ABOVE[room]
    }
    assert wrong == {}


def test_a_rooms_init_holds_no_logic():
    """A docstring, imports and `__all__`, which names just what is imported, and what makes doors of these."""
    for name, text in sources().items():
        if not ROOMS.intersection(name.split(".")[1:2]) or "\n__all__ = " not in text:
            continue
        first, *body = ast.parse(text).body
        calls = [ast.unparse(node) for node in body if isinstance(node, ast.Expr)]
        named = [node for node in body if not isinstance(node, ast.Expr)]
        *imported, last = (node for node in named if getattr(node, "module", "") != "scaling.doors")
        assert isinstance(first, ast.Expr), name
        assert all(isinstance(node, ast.ImportFrom) for node in imported), name
        assert isinstance(last, ast.Assign), name
        assert all(call.startswith(("offered(globals()", "callable_room(globals()")) for call in calls), name
        names = [alias.asname or alias.name for node in imported for alias in node.names]  # type: ignore[attr-defined]
        assert sorted(names) == sorted(ast.literal_eval(last.value)), name


@pytest.mark.parametrize(
    "text",
    [
        "import p.b",
        "from p.b import x",
        "from p import b",
        "from .b import x",
        "from . import b",
        "def f():\n    from p.b import x",
        "if TYPE_CHECKING:\n    from p.b import x",
    ],
)
def test_every_kind_of_import_closes_a_circle(text):
    texts = {"p": "", "p.a": text, "p.b": "from p.c import y", "p.c": "from p.a import z", "p.d": "import p.a"}
    assert circles(imports(texts)) == [["p.a", "p.b", "p.c"]]


def test_a_circle_of_rooms_is_one_without_a_circle_of_modules():
    texts = {
        "p": "",
        "p.a": "",
        "p.a.x": "import p.b.x",
        "p.a.y": "",
        "p.b": "",
        "p.b.x": "",
        "p.b.y": "import p.a.y",
    }
    graph = imports(texts)
    assert circles(graph) == [] and circles(rooms(graph)["p"]) == [["a", "b"]]
