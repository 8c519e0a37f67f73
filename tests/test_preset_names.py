"""Configurations that ship with the package: found by name, listed, and in the wheel."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from scaling.cli import main
from scaling.config import DataConfig, ModelConfig, RunConfig, SweepConfig, load, locate
from scaling.config.presets import ROOT, kinds, names
from scaling.data.python_stdlib import source_files
from scaling.errors import UserError
from scaling.plan import load_plannable, plan
from scaling.presets import WIDTH, presets

REPOSITORY = Path(__file__).parents[1]
KINDS = {"models": ModelConfig, "data": DataConfig, "runs": RunConfig, "sweeps": SweepConfig}


def test_the_packages_files_are_those_that_people_edit() -> None:
    assert ROOT.resolve() == REPOSITORY / "configs"
    assert set(kinds()) == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_shipped_file_is_found_by_its_name(kind: str) -> None:
    for name in names(kind):
        path = REPOSITORY / "configs" / kind / f"{name}.yaml"
        for said in (name, f"{kind}/{name}", f"preset:{kind}/{name}"):
            assert locate(said, [kind]).resolve() == path
    assert names(kind)


def test_a_file_comes_before_a_preset_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("tiny", ["models", "runs"]) == ROOT / "models" / "tiny.yaml"
    assert locate("tiny", ["runs"]) == ROOT / "runs" / "tiny.yaml"
    Path("tiny").write_text("{}")
    assert locate("tiny", ["runs"]) == Path("tiny")


def test_a_model_of_ones_own_extends_a_shipped_one(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("extends: preset:models/gpt2-small\nlayers: 13\n")
    shipped = load(ModelConfig, locate("gpt2-small", ["models"]))
    assert load(ModelConfig, own) == shipped.model_copy(update={"layers": 13})
    own.write_text("extends: preset:models/gpt2-smal\n")
    with pytest.raises(UserError, match=r"no preset 'models/gpt2-smal'; did you mean models/gpt2-small or "):
        load(ModelConfig, own)


@pytest.mark.parametrize(
    "command, said",
    [
        (["plan", "lama-3-8b"], "a preset of models or runs; did you mean llama-3-8b"),
        (["train", "gpt2-small.yaml"], "cannot read gpt2-small.yaml"),
        (["train", "demo"], "a preset of runs"),
        (["sweep", "sweeps/dem"], "did you mean sweeps/demo"),
        (["data", "prepare", "nowhere/c4"], "cannot read nowhere/c4"),
        (["plan", "runs/x"], "runs/x is a folder; expected a file, or a preset of models or runs; name a file in it"),
        (["plan", "s.yaml"], "s.yaml describes a sweep; plan it with `scaling sweep s.yaml --dry-run`"),
    ],
)
def test_a_name_that_is_none_is_told_in_one_line(
    command: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/x").mkdir(parents=True)
    (tmp_path / "runs/x/config.yaml").touch()
    (tmp_path / "s.yaml").write_text("{name: s, run: {}, design: {}}")
    assert main(command) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_list_has_every_preset_and_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    told = [line.split(" ")[0] for line in lines]
    assert all(name in told for kind in KINDS for name in names(kind))
    assert main(["presets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == presets()


def test_what_a_preset_is_ends_with_its_sentence() -> None:
    (c4,) = (corpus for corpus in presets()["data"] if corpus["name"] == "c4")
    assert "(Raffel et al. 2020, 1910.10683): web text" in c4["about"]


def test_of_a_model_the_list_has_the_plans_numbers_and_where_they_are_from() -> None:
    for model in presets()["models"]:
        found = plan(load_plannable(locate(model["name"], ["models"])))
        assert model["params"] == found["params"]["total"] and model["params_active"] == found["params"]["active"]
        assert model["flops_per_token"] == found["flops_per_token"]["exact"]
        assert model["about"]
    (llama,) = (model for model in presets()["models"] if model["name"] == "llama-3-8b")
    assert llama["source"].startswith("Grattafiori et al. 2024, 2407.21783")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, unpacked where nothing else is."""
    there, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source")
    for folder in ("scaling", "configs"):
        shutil.copytree(REPOSITORY / folder, source / folder, symlinks=True)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / file, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    install = [*pip, "install", "--no-deps", "--target", str(there), str(source)]
    done = subprocess.run(install, text=True, capture_output=True, check=False)
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("the package index cannot be reached, from which building takes setuptools")
    assert done.returncode == 0, done.stderr
    return there


@pytest.mark.slow
def test_in_an_empty_folder_three_commands_lead_from_a_text_to_a_tested_forecast(
    installed: Path, tmp_path: Path
) -> None:
    """As `docs/own-text.md` says it, with fewer sizes and smaller budgets than `init` has chosen, which are planned
    alone; of so small a text all that is held out is measured."""
    size = 0
    (tmp_path / "texts").mkdir()
    for number, source in enumerate(source_files(Path(sysconfig.get_path("stdlib")))):
        if size < 4_000_000:
            shutil.copy(source, tmp_path / "texts" / f"{number}.txt")
            size += source.stat().st_size

    def said(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(installed), "HOME": str(tmp_path), "WANDB_MODE": "disabled"}
        command = [sys.executable, "-m", "scaling.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "next: scaling sweep own.yaml" in said("init", "own.yaml", "--corpus", "texts/*.txt", "--minutes", "2")
    assert re.search(r"(10|16) runs \(\1 planned\)", said("sweep", "own.yaml", "--dry-run"))
    smaller = ["design.sizes=3", "design.recenter=0", "design.budgets=[7e9, 1.4e10, 2.8e10]", "forecast.flops=5.6e10"]
    told = said("sweep", "own.yaml", *smaller, "run.records.wandb=disabled")
    home = tmp_path / "runs" / "own"
    forecast = json.loads((home / "forecast.json").read_text())
    (outcome,) = json.loads((home / "outcome.json").read_text())["losses"].values()
    inside = "inside" if forecast["low"] <= outcome <= forecast["high"] else "outside"
    off = abs(forecast["loss"] / outcome - 1)
    assert f"off by {100 * off:.2f} %" in told and f"the test run is {inside} its 90%" in told
    assert 0 < forecast["low"] < outcome * 1.2 and off < 0.15
    before = (home / "forecast.json").read_bytes()
    said("report", "runs/own")
    assert (home / "report.html").stat().st_size < 2_000_000 and (home / "forecast.json").read_bytes() == before


@pytest.mark.slow
def test_an_installed_package_has_them(installed: Path, tmp_path: Path) -> None:
    there, empty = installed, tmp_path
    assert [path.name.partition("-")[0] for path in there.glob("*.dist-info")] == ["scaling_ladder"]

    def said(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=empty, env={**os.environ, "PYTHONPATH": str(there)},
            text=True, capture_output=True, check=True,
        )  # fmt: skip
        return done.stdout

    assert said("import scaling; print(scaling.__file__)").startswith(str(there))
    listed = json.loads(said("from scaling.cli import main; main(['presets', '--json'])"))
    assert listed == presets()
    assert "124" in said("from scaling.cli import main; main(['plan', 'gpt2-small'])")
