"""YAML as plain values, with floats as in YAML 1.2, and limited to the size of a file that a person would write."""

import re
from typing import Any

import yaml

from scaling.errors import UserError

DEEPEST = 50
"""levels of a nested value"""
PARTS = 50_000
"""keys and values of a text, counting those that aliases repeat"""
LONGEST_INTEGER = 400
TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """YAML with the floats of version 1.2 (1e11 is a number; 1.1 requires 1.0e+11), no dates, and an error for a
    repeated key, for a value that contains itself, and for one that aliases expand beyond the limits."""

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._below = self._parts = 0
        self._sizes: dict[int, tuple[int, int]] = {}
        """(parts, levels) of every completed value, by its identity"""

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark, alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        parts, beside = self._parts, self._below
        self._depth, self._below = self._depth + 1, 0
        node = None if self._depth > DEEPEST else super().compose_node(parent, index)
        if alias and id(node) not in self._sizes:
            raise _refused("a value contains itself; an alias (*name) may not be used inside its anchor", mark)
        parts, below = self._sizes[id(node)] if alias else (self._parts - parts + 1, self._below + 1)
        self._depth, self._below = self._depth - 1, max(beside, below)
        if self._depth + below > DEEPEST:
            raise _refused(f"nested more than {DEEPEST} levels deep", mark)
        self._parts += parts if alias else 1
        self._sizes[id(node)] = parts, below
        if self._parts > PARTS:
            raise _refused(f"more than {PARTS:,} keys and values, counting those repeated by aliases", mark)
        return node

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > LONGEST_INTEGER:
            raise _refused(f"a whole number of {len(node.value):,} digits", node.start_mark)
        return int(super().construct_yaml_int(node))

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _refused(f"`{key.value}` is written twice", key.start_mark)
                seen.add(key.value)
        return node


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, problem, mark)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text; `source` names it in errors. Raises UserError."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain values only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{source}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, AttributeError) as error:  # an invalid number or date, by its tag or its digits
        raise UserError(f"{source}: not YAML: {error}") from None
