"""The sweeps that tests are made of hold the records that training writes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import sweep_config, write_runs
from tiny_run import Tiny

from scaling import accounting, load_runs
from scaling.config import RunConfig
from scaling.sweeps import PlannedRun
from scaling.training import train
from scaling.validity import judge

MEASURED = {"loss", "loss_sem", "bits_per_byte", "train_loss", "wall_s", "tokens_per_s", "device", "versions"}
OF_THE_DATA = {"unique_tokens", "epochs", "reason"}
OF_THE_END = {"tokens", "targets", "flops", "flops_by_convention"}
"""a run that diverged counts what it had come to, and a made one has not come anywhere"""


@pytest.mark.parametrize("change", [{}, {"optimizer": {"learning_rate": 1e30}}], ids=["completed", "diverged"])
def test_a_synthetic_record_has_the_keys_of_a_trained_one(tmp_path: Path, change: dict[str, Any]) -> None:
    config = Tiny(tmp_path).config(**change)
    trained = asdict(train(config, folder=tmp_path / "trained", quiet=True))
    made = synthetic(config, tmp_path / "runs" / "synthetic", broken=int(bool(change)))
    assert made["status"] == trained["status"] == ("diverged" if change else "completed")
    assert made.keys() == trained.keys() and made["facts"].keys() == trained["facts"].keys()
    own = {*MEASURED, *OF_THE_DATA, "facts", *(OF_THE_END if change else ())}
    for key in trained.keys() - own:
        assert made[key] == trained[key], key
    assert made["flops_by_convention"].keys() == trained["flops_by_convention"].keys()


def synthetic(config: RunConfig, home: Path, broken: int) -> dict[str, Any]:
    params, flops = accounting.params(config.model).total, accounting.flops_per_token(config.model).exact
    run = PlannedRun(config, {}, params, flops * config.steps * config.batch_tokens)
    (run_id,) = write_runs(sweep_config(), home, runs=(run,), broken=broken, lines=3)
    return dict(json.loads((home / run_id / "result.json").read_text()))


def test_a_table_has_what_validity_is_judged_by(tmp_path: Path) -> None:
    """A name that a record did not have would be judged as unknown, without a word."""
    asked: set[str] = set()

    class Watched(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

    write_runs(sweep_config(), tmp_path / "synthetic", lines=2)
    row = load_runs(tmp_path / "synthetic").to_dict("records")[0]
    assert judge(Watched(row)).validity == "valid"
    assert {"steps", "validation_targets", "epochs"} <= asked <= row.keys()
