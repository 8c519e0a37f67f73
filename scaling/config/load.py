"""Reading configurations: YAML with `extends`, dotted overrides, one-line errors, the hash that names a run."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from scaling.config.presets import PREFIX, preset
from scaling.config.run import RunConfig
from scaling.config.yaml_text import DEEPEST, parse_yaml
from scaling.errors import UserError, shown
from scaling.families import FAMILIES, AnyModel, ByKind, ModelConfig
from scaling.families.by_kind import UNKNOWN_KIND
from scaling.files import path_of, read_text
from scaling.frozen import Config, written_of
from scaling.names import meant, near_file
from scaling.units import si

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

C = TypeVar("C", bound=BaseModel)

LARGEST, FILES = 2**20, 1000
"""limits: bytes of a file, and files that one extends"""
NOT_IDENTITY = {"placement", "records"}  # where a run computes and what it records are not its identity

OF_KIND = {
    "design": ("sweep", "scaling sweep"),
    "optimizer": ("run", "scaling train"),
    "corpus": ("corpus", "scaling data prepare"),
    "d_model": ("model", "scaling plan"),
}
"""for each kind of file, top-level keys that no other kind has"""
QUOTED = r"'([^']+)'"


def merge(base: Any, top: Any) -> Any:
    """`top` over `base`: mappings merge key by key, everything else is replaced."""
    if not (isinstance(base, Mapping) and isinstance(top, Mapping)):
        return top
    return {**base, **{k: merge(base[k], v) if k in base else v for k, v in top.items()}}


def read_mapping(path: str | Path) -> dict[str, Any]:
    """A YAML file as a mapping, with every `extends: FILE` (or list of files) in it resolved.

    Paths in `extends` are relative to the file that names them; `preset:models/NAME` is a shipped one. Raises
    UserError for a missing file, a cycle, or a file that is not a mapping.
    """
    return _read(path_of(path), (), [])


def _read(path: Path, above: tuple[Path, ...], all_read: list[Path]) -> dict[str, Any]:
    path = path.resolve() if above else path
    all_read.append(path)
    if len(all_read) > FILES or len(above) > DEEPEST:
        raise UserError(f"{above[0]}: extends reads more than {FILES} files, or a chain of more than {DEEPEST}")
    try:
        text = read_text(path, LARGEST)
    except (OSError, ValueError) as error:
        by = f" (extended by {above[-1].name})" if above else ""
        near = near_file(path) if isinstance(error, FileNotFoundError) else ""
        raise UserError(f"cannot read {path}{by}: {getattr(error, 'strerror', None) or error}{near}") from None
    if path.resolve() in above:
        raise UserError(f"{path}: extends goes in a circle: {' → '.join(p.name for p in (*above, path))}")
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected `key: value` lines, found {type(value).__name__}")
    return _resolve(value, path, (*above, path.resolve()), all_read)


def _resolve(value: Any, path: Path, above: tuple[Path, ...], all_read: list[Path]) -> Any:
    if not isinstance(value, dict):
        return value
    own = {str(k): _resolve(v, path, above, all_read) for k, v in value.items() if k != "extends"}
    files = value.get("extends", [])
    base: Any = {}
    for file in files if isinstance(files, list) else [files]:
        if not isinstance(file, str):
            raise UserError(f"{path}: extends must be a file or a list of files, found {shown(file)}")
        there = preset(file.removeprefix(PREFIX)) if file.startswith(PREFIX) else path.parent / path_of(file)
        base = merge(base, _read(there, above, all_read))
    return merge(base, own)


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with each `dotted.key=value` set; a value is read as YAML (`[1, 2]`, `1e9`, `null`)."""
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts) or len(parts) > DEEPEST:
            raise UserError(f"override {shown(override)}: expected key=value, for example model.layers=4")
        where = f"override {shown(override)}"
        values = put(values, ".".join(parts), _value(text, where), where)
    return values


def _value(text: str, where: str) -> Any:
    """The value of an override. Raises UserError, for one that the shell has cut at a space with what to do."""
    try:
        return parse_yaml(text, where)
    except UserError as error:
        cut = any(text.count(opened) > text.count(closed) for opened, closed in ("{}", "[]"))
        raise UserError(f"{error}{'; quote a value that has spaces' * cut}") from None


def put(values: dict[str, Any], key: str, value: Any, where: str) -> dict[str, Any]:
    """`values` with a dotted key set. Raises UserError, starting with `where`, for a key inside a list."""
    refuse_into_list(values, key, where)
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(merge(values, value))


def refuse_into_list(values: Any, key: str, where: str) -> None:
    """Raises UserError where a dotted key leads into a list in `values`, which it would replace by a mapping."""
    parts = key.split(".")
    for i, part in enumerate(parts[:-1]):
        values = values.get(part) if isinstance(values, Mapping) else None
        if isinstance(values, list | tuple):
            above = ".".join(parts[: i + 1])
            raise UserError(
                f"{where}: `{key}` is inside `{above}`, which is a list, {shown(values)}; a key cannot point into a "
                f"list: set `{above}` as a whole (in an axis of a sweep, each value is then a whole list)"
            )


def build(cls: type[C], values: Any, source: str, named: Callable[[str], str] = str) -> C:
    """`values` as a `cls`; raises UserError with one line for the first mistake.

    cls: a class of configurations; `ModelConfig` for a model of the family that `kind` names.
    named: maps a dotted key of `values` (empty: the whole mapping) to its name in the user's file.
    """
    if cls is ModelConfig:
        cls = cast(type[C], family_of(values, source, named))
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_one_line(cls, values, error, named)}") from None


def family_of(values: Any, source: str, named: Callable[[str], str] = str) -> type[ModelConfig]:
    """The class of the model that a mapping describes by its `kind`. Raises UserError for an unknown one."""
    models = ByKind(FAMILIES, unset="transformer")
    found = models.choose(values if isinstance(values, Mapping) else {})
    if found is None or not issubclass(found, ModelConfig):
        raise UserError(
            f"{source}: `{named('kind')}` should be {models.kinds()}, got {_kind(values['kind'], FAMILIES)}"
        )
    return found


def check_key(cls: type[BaseModel], key: str, source: str, also: Iterable[str] = (), values: Any = None) -> None:
    """Raises UserError where neither `cls` nor `also` has this dotted key; mappings with free keys allow all.

    values: a file's values for `cls`, which decide the keys of a part that has several kinds.
    """
    refuse_into_list(values, key, source)
    above: list[str] = []
    for part in key.split("."):
        more = dict.fromkeys((k.rpartition(".")[2] for k in also if k.split(".")[:-1] == above), "")
        above.append(part)
        if part not in cls.model_fields and part not in more:
            raise UserError(f"{source}: {_unknown('.'.join(above), part, written_of(cls) | more)}")
        values = values.get(part) if isinstance(values, Mapping) else None
        inner = _models(cls.model_fields[part], values) if part in cls.model_fields else []
        if len(inner) != 1:
            return
        cls = inner[0]


def load(cls: type[C], path: str | Path, overrides: Iterable[str] = ()) -> C:
    """A configuration file as a `cls`, overrides applied. Raises UserError."""
    values = read_mapping(path)
    needed = {name for name, field in cls.model_fields.items() if field.is_required()}
    if needed and not needed & values.keys():  # apparently it is none of these kinds
        for key, (what, command) in OF_KIND.items():
            if key in values and key not in cls.model_fields:
                raise UserError(f"{path} describes a {what}; use `{command} {path}`")
    return build(cls, apply_overrides(values, overrides), str(path))


def to_yaml(config: Config) -> str:
    """The whole configuration, defaults written out; `load` gives it back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def canonical(config: RunConfig) -> str:
    """The part of a run that is its identity, as JSON with sorted keys and every default written out.

    Unset (null) keys, and sections with only such keys, are left out: so a new option that is off by default renames
    no run. A run that starts from another one contains that one's hash and step, not its path. Raises UserError where
    these are not known yet, see `resolved`.
    """
    if config.start is not None and not config.start.known:
        raise UserError(
            f"start.run={config.start.run}: this run's id depends on that run's hash and step, which are not known "
            "yet; `scaling.config.resolved` reads them from that run's folder"
        )
    values = identity(config, exclude_none=True)
    return json.dumps(_without_empty(values), sort_keys=True, separators=(",", ":"))


def identity(config: RunConfig, *, exclude_none: bool = False) -> dict[str, Any]:
    """The keys of a run that are its identity."""
    outside: dict[str, Any] = {**dict.fromkeys(NOT_IDENTITY, True), "start": {"run"}}
    return config.model_dump(mode="json", exclude=outside, exclude_none=exclude_none)


def _without_empty(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: inner for key, v in value.items() if (inner := _without_empty(v)) != {}}


def config_hash(config: RunConfig) -> str:
    """16 hex digits of SHA-256 over `canonical`: the same run on other devices has the same hash."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:16]


def run_id(config: RunConfig) -> str:
    """Name of a run and of its folder: the model's sizes, tokens and the first half of the hash."""
    return f"{config.model.label}-{si(config.tokens)}-{config_hash(config)[:8]}"


def differing(old: Any, new: Any, key: str = "") -> list[str]:
    """Dotted keys in which two nested mappings differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(k for k in new if k not in old)]
        return [d for k in keys for d in differing(old.get(k), new.get(k), f"{key}.{k}".lstrip("."))]
    return [] if old == new else [key]


def json_schema(cls: type[BaseModel]) -> dict[str, Any]:
    """JSON schema for editors; `extends` is allowed in every mapping."""
    schema = TypeAdapter(AnyModel if cls is ModelConfig else cls).json_schema()
    extends = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
               "description": "files this mapping builds on, relative to this one"}  # fmt: skip
    for part in _mappings(schema):
        part["properties"]["extends"] = extends
        part.pop("required", None)  # a key that a file leaves out may come from a file it extends
    return schema


def _mappings(schema: Any) -> list[dict[str, Any]]:
    """The parts of a schema that describe a mapping of known keys."""
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    own = [schema] if isinstance(schema, dict) and schema.get("additionalProperties") is False else []
    return [*own, *(part for value in inner for part in _mappings(value))]


def _one_line(cls: type[BaseModel], values: Any, error: ValidationError, named: Callable[[str], str]) -> str:
    """The first problem as `key: what is wrong, what was given, what is allowed`."""
    problem = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]  # a misspelt key causes others
    parts = [str(part) for part in problem["loc"] if not str(part).startswith("function-")]
    at, keys = _locate(cls, parts, values)
    key, field = named(".".join(keys)) or "(top level)", at.model_fields.get(keys[-1]) if keys else None
    if problem["type"] == "extra_forbidden":
        return _unknown(key, keys[-1], written_of(at))
    if problem["type"].startswith("union_tag"):
        tag, kinds = problem["ctx"]["discriminator"].strip("'"), " or ".join(_kinds(at, keys[-1]))
        found = f", got {_kind(problem['ctx']['tag'], re.findall(QUOTED, kinds))}" if "tag" in problem["ctx"] else ""
        return f"`{key}.{tag}` should be {kinds}{found}"
    if problem["type"] == UNKNOWN_KIND:
        allowed, kind = problem["ctx"]["allowed"], problem["ctx"]["kind"]
        found = "" if kind is None else f", got {_kind(kind, re.findall(QUOTED, allowed))}"
        return f"`{key}.kind` should be {allowed}{found}"
    if problem["type"] == "missing":
        inside = _models(field, None) if field else []
        needed = [name for name, f in inside[0].model_fields.items() if f.is_required()] if len(inside) == 1 else []
        return f"`{key}` is missing" + (
            f"; it needs at least {', '.join(f'{key}.{n}' for n in needed)}" * bool(needed)
        )
    if problem["type"] == "value_error":
        return f"`{key}`: {problem['msg'].removeprefix('Value error, ')}"
    message = _wording(problem, field)
    hint = meant(shown(problem["input"]).strip("'"), re.findall(QUOTED, message), most=1)
    return f"`{key}` {message}, got {shown(problem['input'])}{'; ' * bool(hint)}{hint}"


def _unknown(key: str, last: str, allowed: Mapping[str, str]) -> str:
    """The message for an unknown key; allowed: keys and their descriptions."""
    hint = meant(last, allowed, most=1, quote="`")
    return f"unknown key `{key}`; {hint}{' ' * bool(hint)}allowed: {', '.join(allowed)}"


def _kind(given: Any, known: Iterable[str]) -> str:
    """The value given as a kind, and which kind may have been meant."""
    hint = meant(shown(given).strip("'"), list(known), most=1)
    return f"{shown(given)}{'; ' * bool(hint)}{hint}"


def _wording(problem: "ErrorDetails", field: FieldInfo | None) -> str:
    """What a value should be, in words for the author of a file rather than of the classes."""
    kind, limits = problem["type"], problem.get("ctx", {})
    if kind == "too_short":
        return f"should have at least {limits['min_length']} value{'s' * (limits['min_length'] > 1)}"
    if kind == "too_long":
        return f"should have at most {limits['max_length']} value{'s' * (limits['max_length'] > 1)}"
    if kind == "tuple_type":
        return "should be a list, such as [1, 2]"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return "should be `key: value` lines"
    if kind == "string_pattern_mismatch" and field is not None and field.examples:
        return f"should be like {' or '.join(map(repr, field.examples))}"
    return problem["msg"].removeprefix("Input ")


def _locate(cls: type[BaseModel], parts: list[str], values: Any) -> tuple[type[BaseModel], list[str]]:
    """(class that the last key belongs to, keys as the file has them) of an error's location in `cls`.

    values: what was read as a `cls`.
    """
    keys: list[str] = []
    at, inner, tags = cls, cls, dict[str, type[BaseModel]]()
    field: FieldInfo | None = None
    for part in parts:
        if part in tags:  # pydantic names the chosen member of a union; the file does not
            inner, tags = tags[part], {}
            continue
        keys.append(part)
        listed = isinstance(values, list | tuple)  # then the part is an item's place, and the field that of the list
        values = _inside(values, part)
        at, tags = inner, {}
        field = field if listed else at.model_fields.get(part)
        options = _models(field, values) if field else []
        if field and field.discriminator:
            tags = {kind: option for option in options for kind in get_args(option.model_fields["kind"].annotation)}
        elif options:
            inner = options[0]
    return at, keys


def _inside(values: Any, part: str) -> Any:
    if isinstance(values, Mapping):
        return values.get(part)
    if isinstance(values, list | tuple) and part.isdecimal() and int(part) < len(values):
        return values[int(part)]
    return None


def _kinds(cls: type[BaseModel], key: str) -> list[str]:
    options = _models(cls.model_fields[key], None)
    return [repr(kind) for option in options for kind in get_args(option.model_fields["kind"].annotation)]


def _models(field: FieldInfo, values: Any) -> list[type[BaseModel]]:
    """The configuration classes that a field may hold; of one with a registry that of the `kind` in `values`."""
    registry = _registry(field)
    if registry is None:
        return classes_of(field)
    one = values[0] if isinstance(values, list | tuple) and values else values
    chosen = registry.choose({} if one is None else one)
    return [] if chosen is None else [chosen]


def classes_of(field: FieldInfo) -> list[type[BaseModel]]:
    """The configuration classes that a field may hold, those of a registry in its order."""
    registry = _registry(field)
    if registry is not None:
        return list(registry.registry.values())
    return [a for a in _inner(field.annotation) if isinstance(a, type) and issubclass(a, BaseModel)]


def _registry(field: FieldInfo) -> ByKind | None:
    extras = [extra for part in _inner(field.annotation) for extra in getattr(part, "__metadata__", ())]
    return next((extra for extra in (*field.metadata, *extras) if isinstance(extra, ByKind)), None)


def _inner(annotation: Any) -> list[Any]:
    """An annotation and all inside it."""
    return [annotation, *(part for inner in get_args(annotation) for part in _inner(inner))]
