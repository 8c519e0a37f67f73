"""The list of shipped configurations: description, size, and source of the numbers."""

import re
import textwrap
from typing import Any

from scaling import accounting
from scaling.config import ModelConfig, load
from scaling.config.presets import kinds, names, preset
from scaling.text import align
from scaling.units import si

WIDTH = 80
CONVENTIONS = (
    "N: all parameters; active: those that a token meets; FLOPs: of training, exact, a token at the model's context."
)
SENTENCE = re.compile(r"(?<!\bet al)\. ")
USE = "`scaling plan NAME`, `scaling train NAME` and so on; in a file `extends: preset:models/NAME`."


def presets() -> dict[str, list[dict[str, Any]]]:
    """The presets of every kind: `name` and `about`, and for a model also N (`params`, `params_active`: those that a
    token uses), `flops_per_token` (training, exact, at `context`) and `source`."""
    return {
        kind: [_model(name) if kind == "models" else _about_preset(kind, name) for name in names(kind)]
        for kind in kinds()
    }


def format_presets(found: dict[str, list[dict[str, Any]]]) -> str:
    """The text of `presets`: a table of models, and a line for each other preset, in 80 columns."""
    rows = [["model", "N", "active", "context", "FLOPs/token"]]
    rows += [
        [m["name"], si(m["params"]), si(m["params_active"]), f"{m['context']:,}", f"{m['flops_per_token']:.2e}"]
        for m in found["models"]
    ]
    lines = align(rows)
    margin = max(map(len, lines)) + 2
    text = [f"{lines[0].ljust(margin)}from"]
    for line, model in zip(lines[1:], found["models"], strict=True):
        first, *rest = textwrap.wrap(_short(model["source"]), WIDTH - margin)
        text += [f"{line.ljust(margin)}{first}", *(" " * margin + part for part in rest)]
    for kind in (kind for kind in found if kind != "models"):
        text += ["", kind]
        width = max(len(each["name"]) for each in found[kind]) + 2
        for each in found[kind]:
            first, *rest = textwrap.wrap(each["about"], WIDTH - width)
            text += [f"{each['name'].ljust(width)}{first}", *(" " * width + part for part in rest)]
    return "\n".join([*text, "", *textwrap.wrap(CONVENTIONS, WIDTH), *textwrap.wrap(USE, WIDTH)])


def _about_preset(kind: str, name: str) -> dict[str, Any]:
    return {"name": name, "about": SENTENCE.split(_about(kind, name))[0].rstrip(".")}


def _model(name: str) -> dict[str, Any]:
    model, about = load(ModelConfig, preset(f"models/{name}")), _about("models", name)
    count = accounting.params(model)
    source = re.search(r"\(([^()]*\b(?:19|20)\d\d\b[^()]*)\)", about)
    return {
        "name": name,
        "about": about,
        "params": count.total,
        "params_active": count.active,
        "context": model.context,
        "flops_per_token": accounting.flops_per_token(model).exact,
        "source": source[1] if source else "",
    }


def _short(source: str) -> str:
    """Author and paper, without the table."""
    return ", ".join(source.split(", ")[:2]) or "—"


def _about(kind: str, name: str) -> str:
    """The comment at the head of a file."""
    comment = []
    for line in preset(f"{kind}/{name}").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment)
