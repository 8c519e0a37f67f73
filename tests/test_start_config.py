"""Which run another one begins with, what it takes from it, and how that enters its id: nothing is trained here."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config import RUN, refusal

from scaling.config import (
    RunConfig,
    build,
    canonical,
    config_hash,
    differing,
    find_parent,
    load,
    merge,
    resolved,
    run_id,
    saved_steps,
    shape_of,
    shared_steps,
    to_yaml,
)
from scaling.errors import UserError

MODELS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied, with biases": {"tied": False, "bias": True, "norm": "layernorm", "position": "learned"},
    "parallel": {"parallel_block": True, "qk_norm": True},
}


def config(**changes: Any) -> RunConfig:
    return build(RunConfig, merge(RUN, changes), "run.yaml")


def names(model: dict[str, Any]) -> list[str]:
    return [tensor.name for tensor in config(model=model).tensors()]


def glob(pattern: str, name: str) -> bool:
    """`*` for any text, `?` for one letter."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(glob(pattern[1:], name[i:]) for i in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and glob(pattern[1:], name[1:])


@st.composite
def patterns(draw: st.DrawFn, model: dict[str, Any]) -> str:
    """A parameter's name with a few stretches of it replaced by `*` or `?`; some match nothing."""
    letters = list(draw(st.sampled_from(names(model))))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(letters)))
        if draw(st.booleans()):
            letters[start : draw(st.integers(start, len(letters)))] = ["*"]
        else:
            letters[start : start + 1] = draw(st.sampled_from(["?", "z"]))
    return "".join(letters) or "*"


@settings(max_examples=100, deadline=None)
@given(data=st.data(), model=st.sampled_from(list(MODELS.values())))
def test_patterns_mark_the_parameters_that_they_match_and_no_others(
    data: st.DataObject, model: dict[str, Any]
) -> None:
    frozen, new = (data.draw(st.lists(patterns(model), max_size=3)) for _ in range(2))
    whole = names(model)
    kept = {name for name in whole if any(glob(pattern, name) for pattern in frozen)}
    useless = [pattern for pattern in frozen + new if not any(glob(pattern, name) for name in whole)]
    values = merge(RUN, {"model": model, "start": {"run": "x", "frozen": frozen, "new": new}})
    try:
        run = build(RunConfig, values, "run.yaml")
    except UserError as error:
        assert "\n" not in str(error)
        assert any(repr(pattern) in str(error) for pattern in useless) or kept == set(whole)
        return
    assert not useless and kept != set(whole)
    assert {tensor.name for tensor in run.tensors() if tensor.frozen} == kept
    assert run.start is not None
    anew = {tensor.name for tensor in run.tensors() if run.start.is_new(tensor)}
    assert anew == {name for name in whole if any(glob(pattern, name) for pattern in new)}
    plain = [tensor.__dict__ | {"frozen": False} for tensor in run.tensors()]
    assert plain == [tensor.__dict__ for tensor in run.model.tensors()], "nothing else is told of them"


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_order_of_patterns_and_repeats_of_one_change_no_id(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(["embedding", "layers.*", "*.scale"]), min_size=1, max_size=3))
    again = data.draw(st.permutations(chosen)) + data.draw(st.lists(st.sampled_from(chosen), max_size=2))
    known = {"run": "x", "parent": "0" * 16, "step": 3}
    one, two = (config(start=known | {"new": each}) for each in (chosen, again))
    assert run_id(one) == run_id(two) and one == two


def test_a_single_pattern_needs_no_list_and_a_section_that_is_unset_is_not_there() -> None:
    run = config(start={"run": "x", "frozen": "embedding"})
    assert run.start is not None and run.start.frozen == ("embedding",)
    assert "start" not in json.loads(canonical(config())) and config(start=None) == config()
    assert shape_of(config()) == shape_of(config(start={"run": "x", "new": "layers.*", "optimizer": "inherit"}))
    keys = differing(shape_of(config()), shape_of(run))
    assert keys == ["start.frozen"], "what is frozen is another program"
    assert differing(shape_of(config()), shape_of(config(start={"run": "x", "reference": True}))) == [
        "start.reference"
    ]


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ({"frozen": ["hed"]}, r"start.frozen: 'hed' matches no parameter of the model; it has embedding, "),
        ({"new": ["layers.mlp"]}, r"start.new: 'layers.mlp' matches no parameter"),
        ({"frozen": ["emb*", "layers.*", "norm.*"]}, "leaves no parameter to train"),
        ({"frozen": 3}, "`start.frozen` should be a list"),
        ({"step": 0}, "`start.step`"),
        ({"parent": "short"}, "`start.parent` should be like '0123456789abcdef'"),
        ({"optimizer": "old"}, "`start.optimizer` should be 'fresh' or 'inherit'"),
        ({"freeze": ["head"]}, "unknown key `start.freeze`; did you mean `frozen`?"),
    ],
)
def test_a_start_that_is_wrong_by_itself_is_one_line(start: dict[str, Any], says: str) -> None:
    assert says in refusal(values=merge(RUN, {"start": {"run": "x", **start}}))


def leave(folder: Path, run: RunConfig, *steps: int, ended: bool = True) -> Path:
    """What a run leaves in its folder, as far as another one asks for it."""
    for step in steps:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    (folder / "checkpoints" / "broken-7").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(run))
    if ended:
        record = dict.fromkeys(("run_id", "sweep", "device"), "") | {"status": "completed"}
        record |= dict.fromkeys(
            ("params_total", "params_non_embedding", "params_active", "tokens", "unique_tokens", "epochs", "flops",
             "loss", "loss_sem", "bits_per_byte", "learning_rate", "batch_tokens", "context", "seed", "wall_s",
             "tokens_per_s", "mfu"), 1,
        ) | {"flops_by_convention": {}, "versions": {}}  # fmt: skip
        (folder / "result.json").write_text(json.dumps(record))
    return folder


def child(where: Path | str, home: Path, **start: Any) -> RunConfig:
    """A run of the sweep in `home`."""
    records = {"folder": str(home.parent), "sweep": home.name}
    return config(seed=5, records=records, start={"run": str(where), **start})


def test_the_parent_s_hash_and_step_are_in_the_id_and_its_place_is_not(tmp_path: Path) -> None:
    home = tmp_path / "sweep"
    first, second = config(), config(seed=1)
    there = leave(home / run_id(first), first, 10, 20)
    other = leave(home / run_id(second), second, 10, 20)
    ids = {step: run_id(resolved(child(there.name, home, step=step))) for step in (None, 10, 20)}
    assert ids[None] == ids[20] != ids[10], "unset is the last one"
    assert run_id(resolved(child(other.name, home))) not in ids.values()
    run = resolved(child(there.name, home))
    assert run.start is not None and (run.start.parent, run.start.step) == (config_hash(first), 20)
    assert resolved(run) == run and load(RunConfig, written(tmp_path, run)) == run
    moved = tmp_path / "elsewhere" / "any name"
    shutil.copytree(there, moved)
    shutil.rmtree(home)
    assert run_id(resolved(child(moved, home))) == run_id(run), "found elsewhere, it is the same run"
    assert run_id(resolved(run)) == run_id(run), "what is known need not be found"
    with pytest.raises(UserError, match=r"this run's id depends on that run's hash and step"):
        run_id(child(moved, home))


def written(folder: Path, run: RunConfig) -> Path:
    path = folder / "written.yaml"
    path.write_text(to_yaml(run))
    return path


def test_a_grandchild_s_id_depends_on_every_run_before_it(tmp_path: Path) -> None:
    home, ids = tmp_path / "sweep", set()
    for seed in (0, 1):
        first = leave(home / f"first{seed}", config(seed=seed), 4)
        middle = resolved(child(first.name, home))
        leave(home / f"middle{seed}", middle, 4)
        ids |= {run_id(middle), run_id(resolved(child(f"middle{seed}", home)))}
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"start": {"run": "nobody"}}, "no run is in .*/sweep/nobody; give the id of a run in .*/sweep, or the path"),
        ({"start": {"run": "./here"}}, "no run is in here; give the id"),
        ({"start": {"step": 15}}, "has no checkpoint of start.step=15; it has 10, 20"),
        ({"start": {"parent": "0" * 16}}, "holds .* of hash .*, not the run of start.parent=0000000000000000"),
        (
            {"start": {"run": "empty"}},
            r"has no checkpoint \(.*running has one\); delete it and train .* records.checkpoint_steps=1000",
        ),
        ({"start": {"run": "running"}}, "that run has not ended.*set start.step to one of 10"),
        (
            {"model": {"d_ff": 40}},
            r"mlp.up.kernel is \(2, 16, \d+\) there and \(2, 16, 40\) here; .*start.new=\[layers.mlp.up.kernel,",
        ),
        (
            {"model": {"tied": False}},
            r"head is not there and \(16, \d+\) here; to initialise them anew, .*start.new=\[head\]",
        ),
        (
            {"model": {"tied": False}, "start": {"new": ["head"], "reference": True}},
            "start.reference needs a model of the same shape as that run's, but head is",
        ),
        (
            {"optimizer": {"name": "lion"}, "start": {"optimizer": "inherit"}},
            "start.optimizer=inherit continues that run's optimizer, adamw, but optimizer.name=lion",
        ),
    ],
)
def test_a_parent_that_cannot_be_begun_with_is_one_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    home = tmp_path / "sweep"
    leave(home / "parent", config(), 10, 20)
    leave(home / "empty", config())
    leave(home / "running", config(), 10, ended=False)
    run = build(RunConfig, merge(child("parent", home).model_dump(), changes), "run.yaml")
    with pytest.raises(UserError, match=says) as error:
        resolved(run)
    assert "\n" not in str(error.value) and str(error.value).startswith("start.run=")


def test_what_is_new_need_not_fit_and_a_named_step_need_not_be_the_last(tmp_path: Path) -> None:
    home = tmp_path / "sweep"
    leave(home / "running", config(), 10, 20, ended=False)
    start = {"run": "running", "step": 10, "new": ["layers.mlp.*", "head"]}
    run = config(model={"d_ff": 40, "tied": False}, start=start, records={"folder": str(tmp_path), "sweep": "sweep"})
    assert run.start is not None
    found = find_parent(run, run.start)
    assert (found.step, found.run, found.folder) == (10, config(), home / "running")
    assert saved_steps(home / "running") == [10, 20] and saved_steps(home) == []
    failed = leave(home / "failed", config(), 10)
    record = json.loads((failed / "result.json").read_text())
    (failed / "result.json").write_text(json.dumps(record | {"status": "failed"}))
    with pytest.raises(UserError, match="has not ended"):
        resolved(child("failed", home))


def test_branches_of_one_start_share_their_first_steps_wherever_it_lies() -> None:
    wsd = {"schedule": {"name": "wsd", "warmup_tokens": 0, "warmup": 0.0}}
    known = {"parent": "0" * 16, "step": 3}
    one, two = (
        config(**wsd, start=known | {"run": run}, tokens=config().batch_tokens * steps)
        for run, steps in (("x", 40), ("y/x", 80))
    )
    assert shared_steps(one, two) == one.fork_step
    other = two.model_copy(update={"start": two.start and two.start.model_copy(update={"step": 4})})
    with pytest.raises(UserError, match=r"these two differ in start\.step"):
        shared_steps(one, other)
