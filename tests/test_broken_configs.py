"""Broken configurations and overrides: used rightly or refused in one line, in seconds and in little memory."""

import json
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import CASES, TOKENS, VALUES, Outcome, call, damaged, mutated, places

SEEDS = st.integers(0, 2**40)
MODEL: dict[str, Any] = {"vocab": 256, "context": 64, "layers": 2, "d_model": 32, "n_heads": 2}
MOE = {"kind": "moe", "experts": 4, "top_k": 2, "granularity": 2}
MODELS: list[dict[str, Any]] = [
    MODEL,
    MODEL | {"n_kv_heads": 1, "d_head": 16, "d_ff": 64, "sliding_window": [8, None], "attention_chunk": 16, "mup":
             {"width": 16}, "rope": {"scaling": {"kind": "yarn", "factor": 2.0, "original_context": 32}}},
    MODEL | {"feed_forward": [{"kind": "mlp"}, MOE], "first_dense": 1, "layer_sharing": 1, "position": "learned"},
    MODEL | {"mixer": {"kind": "mla", "kv_rank": 8, "nope": 8, "rope": 4, "v": 8}, "global_tokens": 4},
    {"kind": "lstm", "vocab": 256, "context": 64, "layers": 1, "d_model": 32, "d_hidden": 64, "projection": True},
]  # fmt: skip
RUN: dict[str, Any] = {
    "data": {"corpus": "files:nothing/*.txt", "curriculum": [{"context": 16, "until": 0.5}]},
    "optimizer": {"learning_rate": 0.01, "b2": 0.95},
    "schedule": {"name": "wsd", "warmup_tokens": 256, "cooldown": 0.3},
    "batch_size": 4, "tokens": 100_000, "seed": 1,
    "placement": {"mesh": {"data": 1}, "accumulate": 2, "remat": "full"},
    "records": {"folder": "runs", "log_every": 5, "checkpoint_at": [3, 5]},
}  # fmt: skip
SHARED = {"data": {"corpus": "files:nothing/*.txt"}, "optimizer": {"eps": 1e-8}, "batch_size": 4, "records":
          {"folder": "runs"}, "model": {"vocab": 256, "context": 64}}  # fmt: skip
DESIGNS: list[dict[str, Any]] = [
    {"kind": "isoflop", "budgets": [1e10, 3e10], "sizes": 3, "center_flops": 1e10, "center_params": 2e4},
    {"kind": "branches", "params": [2e4, 3e4, 4e4], "tokens": [1e5, 2e5], "cooldown": 0.2},
    {"kind": "branches", "center_params": 2e4, "sizes": 3, "tokens_per_param": [5, 10]},
    {
        "kind": "grid",
        "axes": {"model.params": [2e4, 4e4], "optimizer.b2": [0.9, 0.99]},
        "zip": {"tokens": [1e5, 2e5]},
    },
    {
        "kind": "list",
        "points": [{"params": n, "tokens": d, "seeds": [0, 1]} for n in (2e4, 4e4) for d in (1e5, 2e5)],
    },
]
SWEEPS: list[dict[str, Any]] = [
    {
        "name": "broken", "run": SHARED, "design": design, "learning_rate": {"kind": "fixed", "learning_rate": 0.01},
        "ladder": {"aspect": 16, "d_head": 16, "width_multiple": 8, "ff_multiple": 1}, "seeds": [0],
        "forecast": {"flops": 1e12, "level": 0.9, "seeds": [0], "priors": {"alpha": [0.4, 0.1]}},
        "executor": {"kind": "local", "slurm": {"time_minutes": 10}},
    }
    for design in DESIGNS
]  # fmt: skip
TOPOLOGIES = ("", "h100:8", "v5e:4x4", "cpu", "h100:" + "9" * 400, "v5e:4x", "x:1", "h100:1e3", ":" * 100, "h100:0")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield


def command(file: Path, config: Any) -> list[str]:
    """What a configuration is for."""
    sweep = isinstance(config, dict) and "design" in config
    return ["sweep", str(file), "--dry-run", "--json"] if sweep else ["plan", str(file), "--json"]


def check(outcome: Outcome, argv: list[str]) -> None:
    """As `Outcome.check`; what is printed holds numbers only that are some."""
    outcome.check(argv)
    if outcome.code == 0:
        told = json.loads(outcome.out, parse_constant=pytest.fail)
        assert all(not isinstance(value, float) or math.isfinite(value) for _, value in leaves(told))


def leaves(value: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for place in places(value):
        inner = value
        for key in place:
            inner = inner[key]
        yield place, inner


def any_config(draw: random.Random) -> dict[str, Any]:
    kind = draw.randrange(3)
    model = draw.choice(MODELS)
    return model if kind == 0 else {**RUN, "model": model} if kind == 1 else draw.choice(SWEEPS)


@pytest.mark.parametrize("config", [*MODELS, *({**RUN, "model": model} for model in MODELS[:1]), *SWEEPS])
def test_the_configurations_that_are_to_be_broken_are_whole(config: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "whole.yaml"
    file.write_text(yaml.safe_dump(config))
    assert call(*command(file, config)).code == 0


@settings(max_examples=CASES // 4)
@given(seed=SEEDS)
def test_a_configuration_with_other_values_is_planned_or_refused(seed: int) -> None:
    draw, file = random.Random(seed), Path("case.yaml")
    config = mutated(any_config(draw), draw)
    file.write_text(yaml.safe_dump(config))
    topology = draw.choice(TOPOLOGIES)
    argv = command(file, config)
    check(call(*argv, *(["--topology", topology] if argv[0] == "plan" and topology else [])), argv)


@settings(max_examples=3 * CASES // 20)
@given(seed=SEEDS)
def test_a_damaged_file_is_planned_or_refused(seed: int) -> None:
    draw, file = random.Random(seed), Path("case.yaml")
    config = any_config(draw)
    other = yaml.safe_dump(any_config(draw)).encode()
    file.write_bytes(damaged(yaml.safe_dump(config).encode(), draw, (other,)))
    check(call(*command(file, config)), command(file, config))


@settings(max_examples=CASES // 5)
@given(seed=SEEDS)
def test_any_override_is_used_or_refused(seed: int) -> None:
    draw, file = random.Random(seed), Path("case.yaml")
    config = any_config(draw)
    file.write_text(yaml.safe_dump(config))
    key = ".".join(map(str, draw.choice(list(places(config)))))
    key = draw.choice((key, key, key, f"{key}.x", "", ".", "extends", "a" * 1000, ".".join("a" * 500)))
    value = draw.choice(VALUES)
    text = draw.choice((value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True), "",
                        draw.choice(TOKENS)[:100_000])).removesuffix("\n...\n")  # fmt: skip
    argv = [*command(file, config), f"{key}={text}"]
    check(call(*argv), argv)


KINDS: dict[str, str] = {
    "a date that is none": "vocab: 2001-13-45",
    "an integer of 5,000 digits": f"vocab: {'9' * 5000}",
    "1,200 nested lists": f"a: {'[' * 1200}{']' * 1200}",
    "1,200 nested maps": "".join(f"{' ' * i}a:\n" for i in range(1200)),
    "200,000 brackets": "[" * 200_000,
    "a billion laughs": "a0: &a0 [x]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)),
    "aliases that nest": "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 300)),
    "itself": "a: &a [*a]",
    "a device": "extends: /dev/zero",
    "its folder": "extends: .",
    "a name of 100,000 characters": f"{'x' * 100_000}: 1",
    "a value of 100,000 characters": f"vocab: {'x' * 100_000}",
    "a line's end and an escape in a value": 'kind: "a\\nb\\e[2J"',
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_a_kind_that_no_person_writes_is_refused(kind: str) -> None:
    Path("case.yaml").write_text(KINDS[kind])
    for argv in (["plan", "case.yaml"], ["sweep", "case.yaml", "--dry-run"], ["data", "prepare", "case.yaml"]):
        outcome = call(*argv)
        outcome.check(argv)
        assert outcome.refused


def test_a_pipe_that_nobody_writes_to_is_refused() -> None:
    os.mkfifo("case.yaml")
    outcome = call("plan", "case.yaml")
    outcome.check(["plan"])
    assert outcome.refused and "pipe" in outcome.err


def test_files_that_extend_each_other_many_times_over_are_refused() -> None:
    for i in range(12):
        Path(f"{i}.yaml").write_text(f"extends: [{', '.join([f'{i + 1}.yaml'] * 9)}]\n")
    Path("12.yaml").write_text("vocab: 256\n")
    outcome = call("plan", "0.yaml")
    outcome.check(["plan"])
    assert outcome.refused and "extends" in outcome.err


DESIGNS_BEYOND = {
    "run.records=0.1": "records should be `key: value` lines",
    "run.model=[1]": "model should be `key: value` lines",
    "run.records.folder=5": "run.records.folder",
    "design.budgets=[1e300]": "budgets should be between",
    "design.sizes=100000": "design.sizes",
    "design.spacing=1e29": "design.spacing",
    "design.center_params=1e29": "ladder",
    "ladder.aspect=1e-20": "ladder.aspect",
    "ladder.width_multiple=1000000000000": "ladder.width_multiple",
    f"seeds={list(range(40_000))}": "seeds",
}


@pytest.mark.parametrize("override", DESIGNS_BEYOND)
def test_a_design_beyond_all_plausible_ones_is_refused_at_once(override: str) -> None:
    Path("case.yaml").write_text(yaml.safe_dump(SWEEPS[0]))
    outcome = call("sweep", "case.yaml", "--dry-run", override)
    outcome.check(["sweep", override[:100]])
    assert outcome.refused and DESIGNS_BEYOND[override] in outcome.err


@pytest.mark.parametrize("key", ["n_heads", "layers", "d_model", "vocab"])
def test_a_number_in_quotes_is_that_number(key: str) -> None:
    Path("plain.yaml").write_text(yaml.safe_dump(MODEL))
    Path("quoted.yaml").write_text(yaml.safe_dump(MODEL | {key: str(MODEL[key])}))
    assert call("plan", "quoted.yaml").out == call("plan", "plain.yaml").out != ""


ODD_ARGUMENTS: tuple[list[str], ...] = (
    *([*command, "x" * 5000] for command in (["plan"], ["sweep"], ["status"], ["fit"], ["report"], ["schema"])),
    ["schema", "a\nfile/x"],
    ["plan", "gpt2-small", "--fit", ""],
    ["plan", "gpt2-small", "--topology", ""],
    ["plan", "gpt2-small", "--tokens", "1e300"],
    ["init", "\n"],
    ["init", "s.yaml", "--corpus", "a\nb/*.txt"],
)


@pytest.mark.parametrize("argv", ODD_ARGUMENTS, ids=lambda argv: " ".join(argv)[:30].replace("\n", "-"))
def test_an_odd_argument_is_refused_in_one_line(argv: list[str]) -> None:
    Path("a\nfile").write_text("")
    outcome = call(*argv)
    outcome.check(argv)
    assert outcome.refused


CASES_ON_FILE = Path(__file__).parents[2] / "shared" / "cases" / "configs"


@pytest.mark.skipif(not CASES_ON_FILE.is_dir(), reason="the collection of broken configurations is not here")
@pytest.mark.parametrize("file", sorted(CASES_ON_FILE.glob("*.yaml")), ids=lambda file: file.stem)
def test_what_once_ended_in_a_traceback_is_planned_or_refused(file: Path) -> None:
    argv = command(file, {"design": 1} if "design" in file.read_text() else {})
    check(call(*argv), argv)
