"""Pages that are lists of what the code has: configuration, commands, laws, presets and the API."""

import argparse
import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

import scaling
from scaling import laws
from scaling.cli import _parser
from scaling.config import DataConfig, RunConfig, SweepConfig
from scaling.config.load import classes_of
from scaling.presets import presets

FILES = {"sweep": SweepConfig, "run": RunConfig, "data": DataConfig}
"""what a file may be; of a model's files there is one class for each family, and `run` leads to them"""
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def pages() -> Iterator[tuple[str, str]]:
    """(place, Markdown) of each."""
    yield "reference/configuration.md", configuration()
    yield "reference/commands.md", commands()
    yield "reference/laws.md", law_page()
    yield "reference/presets.md", preset_page()
    yield from ((f"api/{name}.md", f"# {name}\n\n{text}\n") for name, text in api())


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(headings)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |" for row in lines
    )


def configuration() -> str:
    """Every key of every configuration class that a file may lead to."""
    intro = (
        "# Configuration\n\nEvery key, made from the classes that read the files. A key without a default must be "
        "given. `null` stands for unset. How files are written, extended and overridden: "
        "[Runs](../runs.md#configuration-files).\n"
    )
    return "\n".join([intro, *(_section(cls) for cls in reachable())])


def reachable() -> list[type[BaseModel]]:
    """The classes of all mappings in configuration files, each after the one that first leads to it."""
    found: dict[type[BaseModel], None] = {}
    left: list[type[BaseModel]] = list(FILES.values())
    while left:
        cls = left.pop(0)
        if cls not in found:
            found[cls] = None
            inner = [part for field in cls.model_fields.values() for part in classes_of(field)]
            left = [*inner, *left] if cls is not SweepConfig else [*left, *inner]
    return list(found)


def _section(cls: type[BaseModel]) -> str:
    file = next((f" (a {name}'s file)" for name, file in FILES.items() if file is cls), "")
    properties = cls.model_json_schema()["properties"]
    heading = f"{cls.__name__}{file}"
    rows = [_row(cls, name, entry) for name, entry in properties.items()]
    about = " ".join((cls.__doc__ or "").split())
    chosen = f"`kind: {_kind(cls)}`. " if _kind(cls) else ""
    return (
        f"## {heading} {{ #{cls.__name__} }}\n\n{chosen}{about}\n\n{table(('key', 'value', 'default', ''), rows)}\n"
    )


def _kind(cls: type[BaseModel]) -> str:
    """The value of `kind` that chooses a class among others; nothing where it is not chosen by one."""
    field = cls.model_fields.get("kind")
    allowed = [value for value in literals(field.annotation) if value is not None] if field else []
    return str(allowed[0]) if len(allowed) == 1 else ""


def literals(annotation: Any) -> Iterator[Any]:
    """The values of every `Literal` inside an annotation."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for inner in get_args(annotation):
            yield from literals(inner)


def _row(cls: type[BaseModel], name: str, entry: dict[str, Any]) -> tuple[str, str, str, str]:
    field = cls.model_fields[name]
    inside = classes_of(field)
    value = _links(inside, str(field.annotation)) if inside else words(entry)
    default = "" if field.is_required() else _default(field.get_default(call_default_factory=True))
    return f"`{name}`", value, default, described(cls, name, entry)


def described(cls: type[BaseModel], name: str, entry: dict[str, Any]) -> str:
    """What is written below a field; where nothing is, what its class says, or is to be chosen."""
    inside = classes_of(cls.model_fields[name])
    about = " ".join((inside[0].__doc__ or "").split()) if len(inside) == 1 else ""
    return entry.get("description", about) or ("the `kind` of this mapping" if name == "kind" else "")


def _links(inside: list[type[BaseModel]], annotation: str) -> str:
    told = " or ".join(f"[{_kind(cls) or cls.__name__}](#{cls.__name__})" for cls in inside)
    return f"list of {told}" if "tuple[" in annotation else told


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{json.dumps(to_jsonable_python(value), ensure_ascii=False)}`"


def words(entry: dict[str, Any]) -> str:
    """What a JSON schema allows."""
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(words(option) for option in entry["anyOf"]))
    if "enum" in entry or "const" in entry:
        return " or ".join(f"`{value}`" for value in entry.get("enum", [entry.get("const")]))
    limits = ", ".join(f"{sign} {entry[key]:g}" for key, sign in LIMITS.items() if key in entry)
    match entry.get("type", "any"):
        case "array" if "prefixItems" in entry:
            return f"list of {' and '.join(map(words, entry['prefixItems']))}"
        case "array":
            least = f", at least {entry['minItems']}" if entry.get("minItems") else ""
            return f"list of {words(entry['items'])}{least}"
        case "object":
            values = entry.get("additionalProperties")
            return f"mapping to {words(values)}" if isinstance(values, dict) else "mapping"
        case kind:
            return f"{kind} {limits}".rstrip()


def commands() -> str:
    """`--help` of every command."""
    parser = _parser()
    parts = ["# Commands\n\nWhat `scaling COMMAND --help` says.\n", f"```text\n{parser.format_help()}```\n"]
    parts += [f"## scaling {name}\n\n```text\n{sub.format_help()}```\n" for name, sub in _subcommands(parser, "")]
    return "\n".join(parts)


def _subcommands(parser: argparse.ArgumentParser, prefix: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        for name, sub in action.choices.items() if isinstance(action, argparse._SubParsersAction) else ():
            yield f"{prefix}{name}", sub
            yield from _subcommands(sub, f"{prefix}{name} ")


def law_page() -> str:
    intro = (
        "# Laws\n\nWhat `scaling fit --law NAME` and `laws.fit(runs, NAME)` know, and `scaling fit --list` prints.\n"
    )
    parts = [intro]
    for heading, found in (("Of runs", laws.laws_table()), ("Of whole loss curves", laws.curve_laws_table())):
        rows = [(f"`{law['law']}`", " ".join(law["columns"]), f"`{law['formula']}`", law["source"]) for law in found]
        parts.append(f"## {heading}\n\n{table(('law', 'reads', 'formula', 'source'), rows)}\n")
    return "\n".join(parts)


def preset_page() -> str:
    intro = (
        "# Presets\n\nWhat ships with the package and `scaling presets` lists, found by name on the command line and "
        "by `extends: preset:models/NAME` in a file.\n"
    )
    parts = [intro]
    for kind, found in presets().items():
        numbers = ("N", "active", "training FLOPs a token") if "params" in found[0] else ()
        rows = [(f"`{preset['name']}`", *(_counts(preset) if numbers else ()), preset["about"]) for preset in found]
        parts.append(f"## {kind}\n\n{table(('name', *numbers, ''), rows)}\n")
    return "\n".join(parts)


def _counts(model: dict[str, Any]) -> tuple[str, str, str]:
    return f"{model['params']:,}", f"{model['params_active']:,}", f"{model['flops_per_token']:.3g}"


def api() -> Iterator[tuple[str, str]]:
    """(package, Markdown for mkdocstrings) of the package and each part of it that is public."""
    told: dict[str, str] = {}
    for package in ["scaling", *_parts()]:
        module = importlib.import_module(package)
        names = getattr(module, "__all__", None) or [n for n, f in vars(module).items() if _is_own(module, n, f)]
        about = module.__doc__ or ""
        about = f"```text\n{about}\n```" if "\n    " in about else about
        yield package, "\n\n".join([about, *(_member(package, name, getattr(module, name), told) for name in names)])


def _parts() -> list[str]:
    """Every package below the package, and modules that it names itself."""
    parts = pkgutil.iter_modules([str(Path(scaling.__file__).parent)])
    return [f"scaling.{part.name}" for part in parts if part.ispkg or part.name in scaling.__all__]


def _is_own(module: Any, name: str, value: Any) -> bool:
    """Whether a public function or class is written in that module."""
    written = inspect.isfunction(value) or inspect.isclass(value)
    return written and not name.startswith("_") and value.__module__ == module.__name__


def _member(package: str, name: str, value: Any, told: dict[str, str]) -> str:
    """What mkdocstrings is to show: a thing by where it is written, since a function may be called as its file.

    told: where each was shown before, which is linked to.
    """
    if inspect.ismodule(value):
        return f"## {name}\n\n[{value.__name__}]({value.__name__}.md)"
    made = inspect.isclass(value) or inspect.isfunction(value)
    path = f"{value.__module__}.{value.__name__}" if made else f"{package}.{name}"
    if path in told:
        return f"## {name}\n\n[{told[path]}.{name}]({told[path]}.md#{path})"
    told[path] = package
    return f"::: {path}" + f"\n    options: {{heading: {name}, toc_label: {name}}}" * (not path.endswith(f".{name}"))
