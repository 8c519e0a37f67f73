"""The command line: exit codes, one-line errors, what gets imported, and the commands end to end on tiny input."""

import argparse
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
from synthetic_sweep import sweep_config, write_runs

from scaling.cli import _parser, main
from scaling.config.yaml_text import parse_yaml
from scaling.distribution import DISTRIBUTION
from scaling.errors import explain
from scaling.numbers import to_number, to_seed
from scaling.result import naming

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "configs" / "models" / "gpt2-small.yaml"


def scaling(*args: object) -> int:
    return main([str(a) for a in args])


def error_of(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The one line that a wrong call prints."""
    assert scaling(*args) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("scaling: ") and err.count("\n") == 1
    return err


def test_importing_the_package_and_asking_for_help_load_nothing_heavy() -> None:
    heavy = ("jax", "pandas", "pydantic", "wandb")
    code = f"import scaling, scaling.cli, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_fit_of_a_table_loads_no_configurations(tmp_path: Path) -> None:
    """They take a tenth of its time; the fit itself imports what it uses when it is made."""
    of_records = ("pydantic", "scaling.config", "scaling.accounting", "scaling.sweeps")
    table = tmp_path / "runs.csv"
    rows = [(n, d, 1.7 + 400 / n**0.34 + 410 / d**0.28) for n in (1e7, 1e8, 1e9) for d in (1e9, 1e10, 1e11)]
    table.write_text("params,tokens,loss\n" + "\n".join(",".join(map(str, row)) for row in rows))
    fit = ["fit", str(table), "--bootstrap", "20", "--starts", "2"]
    code = f"import scaling.cli, sys; scaling.cli.main({fit}); print([m for m in {of_records} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "code, most", [("import scaling; dir(scaling)", 0.1), ("import scaling.cli as c; c.main(['-h'])", 0.3)]
)
def test_importing_and_asking_for_help_take_little_of_a_processor(code: str, most: float) -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) <= most


def test_a_negative_number_is_a_number_of_every_option_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    (commands,) = (a.choices for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    asked = [
        (name, option.option_strings[-1], option.type)
        for name, command in commands.items()
        for option in command._actions
        if option.type in (int, float, to_number, to_seed)
    ]
    assert len(asked) > 20
    for name, option, kind in asked:
        for value in ("-1e20", "-3B", "-.5e3"):
            main([name, "nothing-there", option, value])
            told = capsys.readouterr().err
            assert "expected one argument" not in told and "unrecognized" not in told, (name, option, value)
            assert told.count("\n") == 1
            if kind in (int, to_seed):
                assert f"argument {option}: expected a whole number" in told and value in told
    assert main(["predict", "none.json", "--flops", "-1e20"]) == 2
    assert capsys.readouterr().err == "scaling: --flops: expected a number above 0, got -1e+20\n"
    assert main(["fit", "none.csv", "--seed", "-1"]) == 2
    assert "argument --seed: expected a whole number, 0 or more, got '-1'" in capsys.readouterr().err


@pytest.mark.parametrize("args", [(), ("fly",), ("plan",), ("predict", "fit.json"), ("data",), ("sweep", "--folder")])
def test_bad_usage_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str], args: tuple[str, ...]) -> None:
    assert "--help" in error_of(capsys, *args)


def test_help_says_what_every_argument_is_and_what_the_exit_codes_mean(capsys: pytest.CaptureFixture[str]) -> None:
    from scaling.cli import _parser

    commands = next(a for a in _parser()._actions if isinstance(a.choices, dict)).choices
    for name in set(commands) - {"fit", "predict"}:
        assert all(action.help for action in commands[name]._actions if action.dest != "==SUPPRESS=="), name
    with pytest.raises(SystemExit) as ended:
        scaling("--help")
    out = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and all(
        f" {code} " in out.partition("exit codes:")[2] for code in (0, 1, 2, 75, 130)
    )


def test_the_version_names_jax_without_importing_it() -> None:
    code = "import scaling.cli, sys\ntry: scaling.cli.main(['--version'])\nfinally: assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"scaling {version(DISTRIBUTION)}, jax {version('jax')}\n"


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.yaml" in error_of(capsys, "train", "nowhere.yaml")


def test_a_misspelt_override_offers_the_nearest_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean `d_model`?" in error_of(capsys, "plan", MODEL, "d_modle=64")


def test_an_override_without_value_says_how_one_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert "key=value" in error_of(capsys, "plan", MODEL, "d_model")


def test_overrides_may_come_before_and_after_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling("plan", MODEL, "layers=3", "--json", "vocab=100") == 0
    shape = json.loads(capsys.readouterr().out)["shape"]
    assert (shape["layers"], shape["vocab"]) == (3, 100)
    assert "--fast" in error_of(capsys, "plan", MODEL, "--fast")


def test_plan_json_has_the_published_count_and_every_convention(capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling("plan", MODEL, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["params"]["total"] == 124_439_808
    assert set(plan["flops_per_token"]) >= {"exact", "kaplan_6n", "chinchilla_appendix_f", "palm", "deepseek"}


def test_schemas_are_written_for_every_kind_of_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling("schema", tmp_path) == 0
    written = {p.name: json.loads(p.read_text()) for p in tmp_path.iterdir()}
    assert set(written) == {f"{kind}.schema.json" for kind in ("model", "data", "run", "sweep")}
    of_a_model = json.dumps(written["model.schema.json"])
    assert '"n_heads"' in of_a_model and '"d_hidden"' in of_a_model, "keys of every family"


def test_an_editor_with_the_schemas_accepts_every_shipped_file_and_marks_a_misspelt_key(tmp_path: Path) -> None:
    assert scaling("schema", tmp_path) == 0
    for kind in ("model", "data", "run", "sweep"):
        schema = json.loads((tmp_path / f"{kind}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        check = jsonschema.Draft202012Validator(schema)
        files = sorted((ROOT / "configs" / f"{kind}s".replace("datas", "data")).glob("*.yaml"))
        assert files
        for path in files:
            values = parse_yaml(path.read_text(), path.name)
            assert [error.message for error in check.iter_errors(values)] == [], path
            assert not check.is_valid({**values, "nmae": 1})


def test_fit_and_predict_work_on_a_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Losses of a known law: the fit gives it back, and the prediction is its closed form."""
    n_a, b, d_b, beta, floor = 400.0, 0.35, 2000.0, 0.37, 1.8
    rows = ["N,D,L"]
    for n in (1e8, 3e8, 1e9, 3e9, 1e10):
        rows += [f"{n},{d},{floor + n_a / n**b + d_b / d**beta}" for d in (2e9, 1e10, 5e10, 2e11)]
    csv = tmp_path / "runs.csv"
    csv.write_text("\n".join(rows))
    assert scaling("fit", csv, "--params", "N", "--tokens", "D", "--loss", "L", "-o", tmp_path / "fit.json") == 0
    capsys.readouterr()
    assert scaling("predict", tmp_path / "fit.json", "--flops", 1e22, "--json") == 0
    best = json.loads(capsys.readouterr().out)
    g = (b * n_a / (beta * d_b)) ** (1 / (b + beta))
    assert best["N"] == pytest.approx(g * (1e22 / 6) ** (beta / (b + beta)), rel=1e-3)


def test_fit_names_a_missing_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv = tmp_path / "runs.csv"
    csv.write_text("params,tokens,nats\n1e8,1e9,3.0\n")
    assert "loss" in error_of(capsys, "fit", csv)


@pytest.mark.parametrize("command", ["status", "fit", "report"])
def test_a_folder_that_is_no_sweep_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert str(tmp_path) in error_of(capsys, command, tmp_path / "none")


SHIPPED = {
    "configs/sweeps/demo.yaml": "describes a sweep; use `scaling sweep configs/sweeps/demo.yaml`",
    "configs/runs/tiny.yaml": "describes a run; use `scaling train configs/runs/tiny.yaml`",
    "configs/data/c4.yaml": "describes a corpus; use `scaling data prepare configs/data/c4.yaml`",
    "configs/models/gpt2-small.yaml": "describes a model; use `scaling plan configs/models/gpt2-small.yaml`",
}


@pytest.mark.parametrize("file", SHIPPED)
@pytest.mark.parametrize("command", [("sweep",), ("train",), ("data", "prepare")])
def test_a_file_of_another_kind_is_told_which_command_takes_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: str, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(ROOT)
    if f"`scaling {' '.join(command)} " not in SHIPPED[file]:
        assert SHIPPED[file] in error_of(capsys, *command, file)


@pytest.mark.parametrize("command", ["status", "fit", "report", "dashboard"])
def test_a_sweeps_file_in_place_of_its_folder_is_told(capsys: pytest.CaptureFixture[str], command: str) -> None:
    told = error_of(capsys, command, ROOT / "configs" / "sweeps" / "demo.yaml")
    assert "a sweep's folder" in told and "runs/NAME" in told and "did you mean" not in told


def test_a_sweep_with_an_unknown_executor_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ROOT / "configs" / "sweeps" / "demo.yaml"
    assert "cloud" in error_of(capsys, "sweep", sweep, "--executor", "cloud", "--folder", tmp_path)


def test_dry_run_lists_every_run_and_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ROOT / "configs" / "sweeps" / "demo.yaml"
    assert scaling("sweep", sweep, "--dry-run", "--json", "--folder", tmp_path) == 0
    described = json.loads(capsys.readouterr().out)
    assert len(described["runs"]) >= 15
    assert list(tmp_path.iterdir()) == []


SWEEP = """
name: s
run:
  model: { vocab: 256, context: 64, activation: relu2 }
  data: { corpus: "files:FOLDER/text/*.txt", validation_fraction: 0.5, validation_tokens: 5000 }
  batch_size: 4
  records: { folder: FOLDER/runs, store_folder: FOLDER/store, wandb: disabled }
ladder: { aspect: 16, d_head: 16, width_multiple: 8, ff_multiple: 1 }
learning_rate: { kind: width, width: 16, learning_rate: 0.02, exponent: -0.9 }
design: { kind: isoflop, budgets: [1e8], sizes: 3, center_flops: 1e8, center_params: 16e3 }
"""
RUN = """
model: { vocab: 256, context: 32, layers: 1, d_model: 16, n_heads: 2, d_ff: 32 }
data: { corpus: "files:FOLDER/text/*.txt", validation_fraction: 0.5, validation_tokens: 5000 }
optimizer: { learning_rate: 0.01 }
batch_size: 4
tokens: 1280
records: { folder: FOLDER/runs, store_folder: FOLDER/store, wandb: disabled }
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with text, a run, a sweep, a table of runs and a finished sweep's folder."""
    (tmp_path / "text").mkdir()
    for i in range(8):
        (tmp_path / "text" / f"{i}.txt").write_text("some words that say little\n" * 400)
    for name, text in {"run": RUN, "sweep": SWEEP}.items():
        (tmp_path / f"{name}.yaml").write_text(text.replace("FOLDER", str(tmp_path)))
    (tmp_path / "data.yaml").write_text(f'corpus: "files:{tmp_path}/text/*.txt"\nvalidation_fraction: 0.5\n')
    rows = [f"{n},{d},{1.8 + 400 / n**0.35 + 2000 / d**0.37}" for n in (1e8, 1e9, 1e10) for d in (2e9, 1e10, 5e10)]
    (tmp_path / "runs.csv").write_text("\n".join(["params,tokens,loss", *rows]))
    config = sweep_config("done")
    write_runs(config, tmp_path / "done", lines=3)
    return tmp_path


WRITING = {
    "train": ("train", "run.yaml"),
    "sweep": ("sweep", "sweep.yaml"),
    "fit": ("fit", "runs.csv"),
    "report": ("report", "done"),
    "prepare": ("data", "prepare", "data.yaml", "--store", "store"),
}


@pytest.mark.parametrize("command", WRITING)
def test_a_full_disk_is_one_line_that_names_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(home)
    monkeypatch.setattr(os, "fsync", full)
    assert scaling(*WRITING[command]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("scaling: cannot write ") and "no space left on device; free some space" in last
    named = Path(last.split()[3].rstrip(":"))
    assert named.parent.is_dir() and named.suffix  # a file that was to be written, not its temporary name
    assert not list(home.rglob(f".{named.name}.*"))


@pytest.mark.parametrize("command", WRITING)
def test_a_folder_that_cannot_be_written_is_one_line_and_code_2(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A file stands where the folder should be: that stops root, too, which a folder without permissions does not."""
    monkeypatch.chdir(home)
    for name in ("runs", "store", "taken"):
        (home / name).touch()
    output = ("-o", "taken/out.html") if command in ("fit", "report") else ()
    assert scaling(*WRITING[command], *output) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("scaling: cannot use ")
    assert "it is a file, not a folder; " in last or "not a directory; " in last
    assert any(f"/{name}" in last or f" {name}" in last for name in ("runs", "store", "taken"))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("sweep", "sweep.yaml", "--folder", "/proc/foo"), "cannot use /proc/foo: no such file or directory"),
        (("schema", "/proc/foo"), "cannot use /proc/foo: no such file or directory"),
        (("sweep", "sweep.yaml", "--folder", "link"), "cannot use link: it is a link to gone, which does not exist"),
    ],
)
def test_a_folder_that_cannot_be_made_is_one_line_and_code_2(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str], says: str
) -> None:
    monkeypatch.chdir(home)
    (home / "link").symlink_to("gone")
    assert scaling(*command) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == f"scaling: {says}; correct that, or choose another folder or file"


def test_an_error_names_the_file_that_was_to_be_written_and_no_other(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, naming(tmp_path):
        raise OSError(errno.ENOSPC, "No space", "temporary", None, "there")
    assert str(caught.value) == f"[Errno {errno.ENOSPC}] No space: {str(tmp_path)!r}"


def test_no_other_error_is_taken_for_the_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr("scaling.plan.load_plannable", fails)
    with pytest.raises(ConnectionResetError):
        scaling("plan", MODEL)
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs/s")
    assert explain(refused) == (
        "cannot use runs/s: permission denied; correct that, or choose another folder or file",
        2,
    )
    assert explain(OSError(errno.EROFS, os.strerror(errno.EROFS), "runs/s"))[1] == 2  # type: ignore[index]


def test_another_distribution_in_the_same_folder_is_told_in_one_line(tmp_path: Path) -> None:
    """The package index has another project called `scaling`: beside this one, and with its files over this one's."""
    facts = tmp_path / "scaling-0.2.3.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: scaling\nVersion: 0.2.3\n")
    (facts / "top_level.txt").write_text("scaling\n")
    done = run_beside(tmp_path, "--version")
    assert done.returncode == 0 and "scaling 0.2.3 is installed into the same folder: pip uninstall" in done.stderr
    assert done.stderr.count("\n") == 1
    shutil.copytree(ROOT / "scaling", tmp_path / "scaling")
    assert run_beside(tmp_path, "presets").returncode == 0
    (tmp_path / "scaling" / "__init__.py").write_text("VALUE = 1\n")
    done = run_beside(tmp_path, "presets")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "has written over files of scaling-ladder: pip uninstall scaling" in done.stderr


def run_beside(site: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command where the folder `site` comes before the packages that are installed."""
    code = f"import sys; from scaling.cli import main; sys.exit(main({list(words)!r}))"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, "-c", code], cwd=site, env=environment, capture_output=True, text=True)
