"""What is decided by lists of keys, against all keys that a configuration has: one that is added is not forgotten."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from config_leaves import changed, leaves
from test_recipe import RUN, SIZES

from scaling.config import (
    Rule,
    RunConfig,
    SweepConfig,
    config_hash,
    default_columns,
    flat,
    is_recipe,
    merge,
    recipe_keys,
    recipe_of,
    shape_of,
    shared_steps,
)
from scaling.config.load import classes_of
from scaling.data.store import store_folder_of
from scaling.errors import UserError
from scaling.families import FAMILIES
from scaling.ladder import size_keys
from scaling.training.knobs import make_knobs

LEAVES = dict(leaves())
IDENTITY = {key: kind for key, kind in LEAVES.items() if not key.startswith(("placement.", "records."))}
SHAPE: dict[str, Any] = {"layers": 2, "d_model": 32, "n_heads": 2, "n_kv_heads": 1, "d_head": 16, "d_ff": 64}
WSD: dict[str, Any] = {"name": "wsd", "warmup": 0.1, "cooldown": 0.2}
REMAT: dict[str, Any] = {"remat": "dots"}  # of which something can be on the host
CONFIG = RunConfig.model_validate(
    merge(RUN, {"model": SHAPE, "schedule": WSD, "tokens": 100 * 4 * 32, "placement": REMAT})
)


def other(key: str, config: RunConfig = CONFIG) -> RunConfig:
    if key == "schedule.warmup_tokens":
        config = config.model_copy(update={"schedule": config.schedule.model_copy(update={"warmup": 0.0})})
    return changed(config, key, LEAVES[key])


@pytest.mark.parametrize("key", IDENTITY)
def test_a_key_that_names_a_run_is_in_its_hash_and_in_its_recipe(key: str) -> None:
    one, two = CONFIG, other(key)
    assert config_hash(one) != config_hash(two)
    assert flat(recipe_of(one)).get(key) != flat(recipe_of(two)).get(key)
    assert key in recipe_keys() and is_recipe(key if "." in key else f"run.{key}")


def test_defaults_are_those_of_a_configuration_that_says_the_least() -> None:
    least = {"model": {"vocab": 256, "context": 8, "layers": 1, "d_model": 8, "n_heads": 1}, "batch_size": 1}
    least |= {"data": {"corpus": "x"}, "optimizer": {"learning_rate": 1.0}, "tokens": 8}
    whole = flat(recipe_of(RunConfig.model_validate(least)))
    said = {*flat(least), *SIZES}
    wanted = {key if "." in key else f"run.{key}": value for key, value in whole.items() if key not in said}
    assert {key: value for key, value in default_columns().items() if not key.startswith("model.mup")} == wanted


@pytest.mark.parametrize("key", [key for key in LEAVES if not key.startswith("records.")])
def test_a_pack_is_of_one_program_and_gives_it_every_number_that_differs(key: str) -> None:
    one, two = CONFIG, other(key)
    if key == "schedule.warmup_tokens":
        assert two.warmup_steps != one.warmup_steps
    assert shape_of(one) != shape_of(two) or not np.array_equal(make_knobs(one), make_knobs(two)), key


@pytest.mark.parametrize("key", IDENTITY)
def test_a_branch_shares_steps_only_with_a_run_that_begins_alike(key: str) -> None:
    alike = {"schedule": WSD | {"warmup": 0.0, "warmup_tokens": 1280}}  # of runs of any length
    one = CONFIG if "warmup" in key else RunConfig.model_validate(merge(CONFIG.model_dump(), alike))
    if key in ("tokens", "schedule.cooldown", "schedule.final"):
        assert shared_steps(one, other(key, one)) > 0
    else:
        with pytest.raises(
            UserError, match=r"^a run that begins at another's checkpoint may differ from it only in tokens"
        ):
            shared_steps(one, other(key, one))


@pytest.mark.parametrize("key", [key for key in LEAVES if key.startswith("data.")])
def test_text_that_is_tokenised_otherwise_is_another_store(key: str, tmp_path: Path) -> None:
    folders = {store_folder_of(config.data, tmp_path) for config in (CONFIG, other(key))}
    cuts = {"data.train_tokens", "data.validation_tokens", "data.epochs"}  # of a store that is whole
    met = key.startswith(("data.long_documents", "data.curriculum"))
    assert len(folders) == (1 if key in cuts or met else 2)


def test_every_rule_of_a_sweep_says_which_key_it_sets_and_a_run_has_it() -> None:
    fields = {name: classes_of(field) for name, field in SweepConfig.model_fields.items()}
    rules = {name: kinds for name, kinds in fields.items() if any(issubclass(kind, Rule) for kind in kinds)}
    assert set(rules) == {"learning_rate", "batch_size", "weight_decay"}
    for name, kinds in rules.items():
        (key,) = {kind.sets for kind in kinds if issubclass(kind, Rule)}
        assert key in IDENTITY
        for kind in kinds:
            least = {key: 1 for key, field in kind.model_fields.items() if field.is_required()}
            rule = least | {"kind": kind.model_fields["kind"].annotation.__args__[0]}  # type: ignore[union-attr]
            sweep = SweepConfig.model_validate(
                {"name": "s", "run": {}, "design": {"kind": "grid", "axes": {"tokens": [1]}}, name: rule}
            )
            assert sweep.rules.keys() == {name} and sweep.by_rule == {key: sweep.rules[name].told()}


def test_what_the_ladder_sets_are_sizes_of_a_model() -> None:
    assert set(size_keys()) >= SIZES <= IDENTITY.keys()
    assert set(size_keys()) == {f"model.{key}" for family in FAMILIES.values() for key in family.SIZES}
    assert all(key in family.model_fields for family in FAMILIES.values() for key in family.SIZES)
