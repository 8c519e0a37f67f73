"""Configurations: what is refused and how, how files build on each other, and what names a run."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.config import (
    GridDesign,
    OptimizerConfig,
    RunConfig,
    SweepConfig,
    apply_overrides,
    build,
    canonical,
    config_hash,
    read_mapping,
    run_id,
    to_yaml,
)
from scaling.errors import UserError

RUN: dict[str, Any] = {
    "model": {"vocab": 256, "context": 8, "layers": 2, "d_model": 16, "n_heads": 2},
    "data": {"corpus": "python_stdlib"},
    "optimizer": {"learning_rate": 0.01},
    "batch_size": 4,
    "tokens": 100_000,
}
SWEEP = {"name": "s", "run": {}, "design": {"kind": "grid", "axes": {"seed": [0, 1]}}}


def run(*overrides: str) -> RunConfig:
    return build(RunConfig, apply_overrides(RUN, overrides), "run.yaml")


def refusal(*overrides: str, cls: Any = RunConfig, values: dict[str, Any] = RUN) -> str:
    with pytest.raises(UserError) as error:
        build(cls, apply_overrides(values, overrides), "run.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("model.layer=2", "model.layer", "layers"),
        ("optimiser.name=lion", "optimiser", "optimizer"),
        ("data.tokenizer.kin=bpe", "data.tokenizer.kin", "kind"),
        ("placement.mesh.tensr=2", "placement.mesh.tensr", "tensor"),
        ("model.mixer=[{kind: attention}, {kind: mla, kv_rnk: 8}]", "model.mixer.1.kv_rnk", "kv_rank"),
        ("model.mixer=[{kind: mla, kv_rank: 8, nope: 8, v: 8, roep: 8}]", "model.mixer.0.roep", "rope"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_and_all_allowed(override: str, key: str, nearest: str) -> None:
    message = refusal(override)
    assert f"unknown key `{key}`; did you mean `{nearest}`? allowed: " in message
    assert message.startswith("run.yaml: ")


def test_a_misspelt_key_is_reported_before_the_key_that_it_leaves_missing() -> None:
    values = {**RUN, "batchsize": 4}
    del values["batch_size"]
    assert "unknown key `batchsize`; did you mean `batch_size`?" in refusal(values=values)


PATTERN = "model.feed_forward=[{kind: mlp}, {kind: moe, experts: 8}]"


@pytest.mark.parametrize("key", ["sparsity", "kind", "1.experts"])
def test_a_key_that_goes_into_a_list_is_told_that_it_does(key: str) -> None:
    """Such a key took the place of the whole pattern."""
    said = refusal(PATTERN, f"model.feed_forward.{key}=0.5")
    assert (
        f"override 'model.feed_forward.{key}=0.5': `model.feed_forward.{key}` is inside `model.feed_forward`" in said
    )
    assert (
        "[{'kind': 'mlp'}, {'kind': 'moe', 'experts': 8}]" in said and "set `model.feed_forward` as a whole" in said
    )
    assert run(PATTERN, "model.feed_forward=[{kind: moe, experts: 4}]").model.feed_forward is not None


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.d_model=abc", "`model.d_model` should be a valid integer"),
        ("model.d_model=abc", "got 'abc'"),
        ("tokens=1.5", "`tokens` should be a valid integer"),
        ("model.layers=0", "`model.layers` should be greater than or equal to 1, got 0"),
        ("model.layers=true", "layers should be a number, got true"),
        ("records.evaluate_every=true", "evaluate_every should be a number, got true"),
        ("optimizer.learning_rate=0", "`optimizer.learning_rate` should be greater than 0, got 0"),
        ("optimizer.learning_rate=.inf", "`optimizer.learning_rate` should be a finite number, got inf"),
        ("optimizer.learning_rate=.nan", "`optimizer.learning_rate` should be a finite number, got nan"),
        ("model.d_model=.inf", "`model.d_model` should be a finite number, got inf"),
        ("model=7", "`model` should be `key: value` lines, got 7"),
        ("optimizer.name=adamv", "`optimizer.name` should be 'adamw', 'adafactor', 'muon' or 'lion', got 'adamv'"),
        ("optimizer.name=adamv", "did you mean adamw?"),
        ("seed=-1", "`seed` should be greater than or equal to 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(override: str, says: str) -> None:
    assert says in refusal(override)


def test_of_several_wrong_numbers_the_first_is_named() -> None:
    """In every process the same, so not in the order of a set."""
    wrong = dict.fromkeys(("b2", "eps", "b1", "clip_norm", "weight_decay", "learning_rate"), True)
    with pytest.raises(UserError, match="b2 should be a number, got true"):
        build(OptimizerConfig, wrong, "optimizer")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.n_heads=3", "d_model=16 is not divisible by n_heads=3; nearest that are: 15, 18"),
        ("model.n_kv_heads=3", "n_heads=2 is not divisible by n_kv_heads=3; allowed: [1, 2]"),
        ("model={parallel_block: two_norms, norm_position: post}", "norm_position=post has not; set parallel"),
        ("model.layer_sharing=3", "layers=2 is not divisible by layer_sharing=3; allowed: [1, 2]"),
        ("model.d_head=3", "d_head must be even, got 3"),
        ("model.sliding_window=[4, 0]", "a window is 1 key or more"),
        ("model.vocab=255", "data.tokenizer.vocab=256 is more than model.vocab=255"),
        ("data.tokenizer.vocab=300", "kind=bytes needs vocab=256"),
        ("placement.accumulate=3", "batch_size=4 is not divisible by placement.accumulate=3"),
        (
            "schedule={name: wsd, warmup: 0.6, cooldown: 0.5}",
            "warmup=0.6 and cooldown=0.5 are together longer than the run",
        ),
    ],
)
def test_an_impossible_combination_says_what_would_be_possible(override: str, says: str) -> None:
    assert says in refusal(override)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seeds=[]", "`seeds` should have at least 1 value, got []"),
        ("seeds=0", "`seeds` should be a list, such as [1, 2], got 0"),
        (
            "executor.ray.address=somewhere",
            "`executor.ray.address` should be like 'auto' or 'host:6379', got 'somewhere'",
        ),
        ("name=a b", "`name` should be like 'my-sweep' or 'tinystories.2', got 'a b'"),
        ("design.axes=[]", "`design.axes` should be `key: value` lines, got []"),
        (
            "forecast={flops: 1, priors: {E: [1, 2, 3]}}",
            "`forecast.priors.E` should have at most 2 values, got [1, 2, 3]",
        ),
    ],
)
def test_a_wrong_value_is_told_in_words_for_who_writes_the_file(override: str, says: str) -> None:
    assert refusal(override, cls=SweepConfig, values=SWEEP).endswith(says)


def test_a_missing_mapping_is_named_with_what_it_takes() -> None:
    values = {key: value for key, value in RUN.items() if key != "optimizer"}
    assert refusal(values=values).endswith("`optimizer` is missing; it needs at least optimizer.learning_rate")


def test_a_missing_key_is_named() -> None:
    assert refusal(values={k: v for k, v in RUN.items() if k != "tokens"}).endswith("`tokens` is missing")


@pytest.mark.parametrize(
    ("design", "says"),
    [
        ({}, "`design.kind` should be 'isoflop' or 'branches' or 'grid' or 'list'"),
        ({"kind": "grd"}, "`design.kind` should be 'isoflop' or 'branches' or 'grid' or 'list', got 'grd'"),
        ({"kind": "grid", "axe": {}}, "unknown key `design.axe`; did you mean `axes`? allowed: kind, axes, zip"),
        ({"kind": "grid", "axes": {"seed": []}}, "`design`: axes or zip need at least one key"),
        (
            {"kind": "grid", "zip": {"a": [1, 2], "b": [1]}},
            "`design`: zip needs the same number of values for each key, got a 2, b 1",
        ),
        ({"kind": "grid", "zip": {"a": [1]}, "axes": {"a": [2]}}, "`design`: axes and zip both vary a; keep one"),
        ({"kind": "branches", "params": [1e3]}, "give exactly one of tokens, tokens_per_param and budgets, got none"),
        (
            {"kind": "branches", "params": [1e3], "tokens": [1e5], "budgets": [1e9]},
            "give exactly one of tokens, tokens_per_param and budgets, got tokens and budgets",
        ),
        ({"kind": "branches", "tokens": [1e5]}, "give either params or center_params, got neither"),
        (
            {"kind": "branches", "center_params": 1e3, "budgets": [1e9]},
            "is needed with budgets and center_params",
        ),
        (
            {"kind": "isoflop", "budgets": ["a"], "center_flops": 1, "center_params": 1},
            "`design.budgets.0` should be a",
        ),
    ],
)
def test_errors_in_a_design_name_the_keys_of_the_file(design: dict[str, Any], says: str) -> None:
    assert says in refusal(cls=SweepConfig, values={**SWEEP, "design": design})


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        run().model.layers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e11", 1e11),
        ("1E11", 1e11),
        ("-2e-3", -2e-3),
        ("1.5e9", 1.5e9),
        ("+1e+3", 1e3),
        (".5e6", 5e5),
        ("1_000e3", 1e6),
    ],
)
def test_numbers_with_an_exponent_are_numbers(text: str, value: float) -> None:
    found = apply_overrides({}, [f"x={text}"])["x"]
    assert isinstance(found, float) and found == value


@pytest.mark.parametrize("text", ["e11", "1e", "1e5x", "0x1e5z", "v1e5"])
def test_words_that_look_like_numbers_stay_words(text: str) -> None:
    assert apply_overrides({}, [f"x={text}"]) == {"x": text}


def test_whole_numbers_may_be_written_with_an_exponent() -> None:
    assert run("tokens=1e9").tokens == 10**9
    assert isinstance(run("tokens=1e9").tokens, int)


def test_overrides_reach_any_depth_and_keep_their_neighbours() -> None:
    config = run("model.layers=4", "data.tokenizer.kind=bpe", "placement.mesh.tensor=2", "model.n_kv_heads=1")
    assert (config.model.layers, config.model.d_model) == (4, 16)
    assert (config.data.tokenizer.kind, config.data.corpus) == ("bpe", "python_stdlib")
    assert (config.placement.mesh.tensor, config.placement.mesh.fsdp) == (2, 1)
    assert RUN["model"]["layers"] == 2, "what is overridden stays as it was"


def test_override_values_are_yaml() -> None:
    found = apply_overrides({}, ["a=[1, null]", "b={c: true}", "d=", "e=x=y"])
    assert found == {"a": [1, None], "b": {"c": True}, "d": None, "e": "x=y"}


@pytest.mark.parametrize("override", ["model.layers", "=3", "model..layers=3", ".x=1"])
def test_an_override_that_is_none_says_how_one_looks(override: str) -> None:
    with pytest.raises(UserError, match="expected key=value, for example"):
        apply_overrides({}, [override])


def test_an_override_that_is_not_yaml_is_named() -> None:
    with pytest.raises(UserError, match=r"override 'model.layers=\[1'.*not YAML"):
        apply_overrides({}, ["model.layers=[1"])


def test_an_override_that_the_shell_has_cut_at_a_space_says_to_quote_it() -> None:
    cut = shlex.split("model.feed_forward={kind: moe, experts: 8}")
    with pytest.raises(UserError, match=r"not YAML: .*; quote a value that has spaces$"):
        apply_overrides({}, cut)
    with pytest.raises(UserError, match=r"not YAML: [^;]*$"):
        apply_overrides({}, ["model.layers=@"])


def test_extends_chains_merge_key_by_key_relative_to_each_file(tmp_path: Path) -> None:
    write(tmp_path, "base/grand.yaml", "a: 1\nb: {x: 1, y: 1, z: [1, 2]}\n")
    write(tmp_path, "base/parent.yaml", "extends: grand.yaml\nb: {y: 2}\n")
    child = write(tmp_path, "child.yaml", "extends: base/parent.yaml\nb: {z: [3]}\nc: 3\n")
    assert read_mapping(child) == {"a": 1, "b": {"x": 1, "y": 2, "z": [3]}, "c": 3}


def test_of_several_extended_files_the_later_wins_and_the_file_itself_wins_over_all(tmp_path: Path) -> None:
    write(tmp_path, "one.yaml", "a: 1\nb: 1\nc: 1\n")
    write(tmp_path, "two.yaml", "b: 2\nc: 2\n")
    child = write(tmp_path, "child.yaml", "c: 3\nextends: [one.yaml, two.yaml]\n")
    assert read_mapping(child) == {"a": 1, "b": 2, "c": 3}


def test_extends_works_inside_a_mapping(tmp_path: Path) -> None:
    write(tmp_path, "model.yaml", "layers: 2\nd_model: 8\n")
    child = write(tmp_path, "run.yaml", "model: {extends: model.yaml, layers: 3}\n")
    assert read_mapping(child) == {"model": {"layers": 3, "d_model": 8}}


def test_a_file_may_be_extended_twice_without_being_a_circle(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "a: 1\n")
    child = write(tmp_path, "child.yaml", "x: {extends: base.yaml}\ny: {extends: base.yaml}\n")
    assert read_mapping(child) == {"x": {"a": 1}, "y": {"a": 1}}


def test_a_circle_is_refused_with_its_way_round(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    write(tmp_path, "b.yaml", "x: {extends: c.yaml}\n")
    write(tmp_path, "c.yaml", "extends: a.yaml\n")
    with pytest.raises(UserError, match=r"circle: a.yaml → b.yaml → c.yaml → a.yaml"):
        read_mapping(tmp_path / "a.yaml")
    own = write(tmp_path, "own.yaml", "extends: own.yaml\n")
    with pytest.raises(UserError, match=r"circle: own.yaml → own.yaml"):
        read_mapping(own)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("extends: nowhere.yaml\n", r"cannot read .*nowhere.yaml \(extended by file.yaml\)"),
        ("extends:\n", "extends must be a file or a list of files, found None"),
        ("extends: [1]\n", "extends must be a file or a list of files, found 1"),
        ("", "expected `key: value` lines, found NoneType"),
        ("- 1\n", "expected `key: value` lines, found list"),
        ("a: [1\n", "file.yaml line 2, column 1: not YAML"),
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: not YAML: `a` is written twice"),
        ("a: \x01\n", "not YAML: unacceptable character"),
        ("? [1]\n: 2\n", "not YAML: found unhashable key"),
        ("&a {x: *a}\n", "a value contains itself"),
        ("a: !!python/object/apply:os.getcwd []\n", "not YAML: could not determine a constructor"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        read_mapping(write(tmp_path, "file.yaml", text))
    assert "\n" not in str(error.value)


def test_a_folder_or_a_binary_file_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    for path in (tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(UserError, match="cannot read"):
            read_mapping(path)


def test_what_is_unset_follows_from_the_rest() -> None:
    model = run("model.d_model=100", "model.n_heads=5").model
    assert (model.n_kv_heads, model.d_head, model.d_ff) == (5, 20, 272)  # 8/3 · 100 = 266.7, up to a multiple of 8
    assert run("model.activation=gelu").model.d_ff == 64
    assert run("model.d_ff=null", "model.d_head=6").model.d_head == 6
    assert run("tokens=1000", "batch_size=4").steps == 31  # 1000 / 32, rounded
    assert run("tokens=1").steps == 1


identities = st.fixed_dictionaries(
    {
        "layers": st.sampled_from([1, 2, 4]),
        "activation": st.sampled_from(["gelu", "swiglu", "relu2"]),
        "norm_eps": st.floats(1e-8, 1e-3),
        "sliding_window": st.lists(st.none() | st.integers(1, 64), max_size=3),
        "learning_rate": st.floats(1e-6, 1.0),
        "optimizer": st.sampled_from(["adamw", "lion", "muon", "adafactor"]),
        "schedule": st.sampled_from(["cosine", "wsd", "linear"]),
        "tokens": st.integers(1, 10**12),
        "seed": st.integers(0, 2**31 - 1),
    }
)


def values_of(drawn: dict[str, Any]) -> dict[str, Any]:
    model = {k: drawn[k] for k in ("layers", "activation", "norm_eps", "sliding_window")}
    return {
        **RUN,
        "model": {**RUN["model"], **model},
        "optimizer": {"name": drawn["optimizer"], "learning_rate": drawn["learning_rate"]},
        "schedule": {"name": drawn["schedule"]},
        "tokens": drawn["tokens"],
        "seed": drawn["seed"],
    }


def backwards(value: Any) -> Any:
    """The same mapping with the keys of every level in the opposite order."""
    return {k: backwards(v) for k, v in reversed(value.items())} if isinstance(value, dict) else value


@settings(max_examples=60)
@given(drawn=identities, accumulate=st.sampled_from([1, 2, 4]), fsdp=st.integers(1, 512), log=st.integers(1, 99))
def test_the_hash_depends_on_what_is_run_and_on_nothing_else(
    drawn: dict[str, Any], accumulate: int, fsdp: int, log: int
) -> None:
    values = values_of(drawn)
    config = build(RunConfig, values, "run")
    placement = {"mesh": {"fsdp": fsdp}, "accumulate": accumulate, "remat": "full", "attention": "reference"}
    elsewhere = {
        **values,
        "placement": placement,
        "records": {"log_every": log, "sweep": "other", "wandb": "disabled"},
    }
    same = {
        "placed and recorded elsewhere": build(RunConfig, elsewhere, "run"),
        "keys in another order": build(RunConfig, backwards(values), "run"),
        "defaults written out": build(RunConfig, config.model_dump(), "run"),
        "through YAML": build(RunConfig, yaml.safe_load(to_yaml(config)), "run"),
        "through JSON": build(RunConfig, json.loads(config.model_dump_json()), "run"),
        "whole numbers as floats": build(RunConfig, {**values, "batch_size": 4.0}, "run"),
    }
    for how, other in same.items():
        assert config_hash(other) == config_hash(config), how
        assert run_id(other) == run_id(config), how
    assert same["through YAML"] == config


@settings(max_examples=60)
@given(one=identities, two=identities)
def test_runs_that_differ_have_different_hashes(one: dict[str, Any], two: dict[str, Any]) -> None:
    a, b = (build(RunConfig, values_of(drawn), "run") for drawn in (one, two))
    assert (config_hash(a) == config_hash(b)) == (a == b)


@pytest.mark.parametrize(
    "override",
    [
        "model.layers=4",
        "data.corpus=x",
        "optimizer.b2=0.99",
        "schedule.final=0",
        "batch_size=8",
        "tokens=5",
        "seed=1",
    ],
)
def test_every_part_of_a_run_counts(override: str) -> None:
    assert config_hash(run(override)) != config_hash(run())


def test_the_identity_is_json_with_sorted_keys_and_nothing_about_the_place() -> None:
    text = canonical(run("placement.mesh.fsdp=2", "records.sweep=other"))
    assert "null" not in text  # an option that is off names no run: later ones rename none
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text
    assert set(json.loads(text)) == {"model", "data", "optimizer", "schedule", "batch_size", "tokens", "seed"}


@pytest.mark.parametrize(
    ("tokens", "name"), [(999, "999"), (999_400, "999k"), (999_999, "1M"), (1_234_567, "1.23M"), (10**12, "1T")]
)
def test_a_run_is_named_by_its_size_and_hash(tokens: int, name: str) -> None:
    config = run(f"tokens={tokens}")
    assert run_id(config) == f"L2-d16-{name}-{config_hash(config)[:8]}"


def test_a_grid_keeps_the_values_of_its_axes_as_written() -> None:
    grid = build(GridDesign, {"kind": "grid", "axes": {"model.bias": [True, False], "seed": [1]}}, "grid")
    assert grid.axes == {"model.bias": (True, False), "seed": (1,)}
