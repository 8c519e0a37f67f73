"""docs/troubleshooting.md: each message that is explained is one that the program prints."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_sweep import Law, write_runs

from scaling import laws
from scaling.cli import main
from scaling.config import SweepConfig, load, locate
from scaling.errors import UserError
from scaling.sweeps.forecast import frozen_forecast

ROOT = Path(__file__).parents[1]
EXPLAINED = re.findall(r"^### `(.*)`$", (ROOT / "docs" / "troubleshooting.md").read_text("utf-8"), re.M)
CAUSED = {  # a command, and how the explained message that it prints begins
    "train tiny model.n_head=3": "unknown key",
    "train tiny model.kind=lstm": "unknown key",
    "plan llama-9": "… is neither a file",
    "train tiny model.layers": "override …: expected",
    "train tiny model.feed_forward={kind:": "override … not YAML",
    "train round.yaml": "extends goes in a circle",
    "train tiny data.corpus=files:nothing/**/*.txt records.store_folder=stores": "data.corpus=… matches no file",
    "init new.yaml --corpus field.jsonl": "… data.text_field=…",
    "data prepare data/python_stdlib corpus=files:one.txt --store stores": "… each .txt file is one document",
    "data prepare data/python_stdlib corpus=files:few.jsonl --store stores": "… documents, none of which",
    "plan llama-1b --topology q100:8": "unknown device",
    "sweep demo forecast.flops=1e12 --dry-run": "forecast.flops=…",
    "fit runs.csv --params size": "no column …",
    "fit few.csv": "… has … parameters and needs",
    "fit runs.csv --law nonesuch": "no law …",
    "fit flops.csv --flops flops": "C is more than",
    "fit perplexities.csv": "… perplexities",
    "predict edited.json --flops 1e21": "… was edited",
    "generate nothing --prompt text": "no run is in",
}
ELSEWHERE = {  # what takes a trained run, a store, a device or a cluster: the test that prints it, and words there
    "… training tokens": ("test_batches.py", "training tokens"),
    "no token store": ("test_store.py", "no token store"),
    "data.corpus=… changed since": ("test_prepare.py", "since it was tokenised"),
    "the bytes of …": ("test_broken_stores.py", "do not match its manifest"),
    "… was changed while it was in use": ("test_broken_stores.py", "was changed while it was in use"),
    "… MiB uncompressed": ("test_corpora.py", "MiB uncompressed"),
    "… changed while it was read": ("test_prepare.py", "changed while it was read"),
    "a step takes": ("test_plan_fit.py", "a step takes"),
    "compiling for a TPU": ("test_plan.py", "(not a TPU)"),
    "… holds another sweep": ("test_sweep.py", "of its runs are not in this one"),
    "… is frozen and": ("test_sweep.py", "is frozen and"),
    "… is being launched": ("test_sweep_continued.py", "being launched by another process"),
    "… do not determine an optimum": ("test_troubleshooting.py", "do not determine an optimum"),
    "every run diverged": ("test_sweep.py", "every run diverged"),
    "… does not answer": ("test_tracking.py", "recorded offline"),
    "no report": ("test_upkeep.py", "no report"),
    "no interval yet": ("test_troubleshooting.py", "no interval yet"),
    "… has no checkpoint": ("test_generate.py", "; delete it and train that run again with"),
    "another distribution": ("test_cli.py", "has written over files of"),
}


def words_of(message: str) -> str:
    """A pattern that finds an explained message in what is printed: `…` is anything."""
    return ".*".join(re.escape(part.strip()) for part in message.split("…"))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
    runs = pd.DataFrame({"params": N, "tokens": D, "loss": 1.7 + 400 / N**0.34 + 410 / D**0.28, "flops": N * D})
    runs.to_csv("runs.csv", index=False)
    runs.head(3).to_csv("few.csv", index=False)
    runs.assign(flops=runs.flops / 1e12).to_csv("flops.csv", index=False)
    runs.assign(loss=np.exp(runs.loss + 1)).to_csv("perplexities.csv", index=False)
    (tmp_path / "round.yaml").write_text("extends: round.yaml\n")
    (tmp_path / "one.txt").write_text("all work and no play\n" * 1000)
    (tmp_path / "few.jsonl").write_text('{"text": "all work"}\n' * 3)
    (tmp_path / "field.jsonl").write_text('{"body": "all work"}\n' * 3)


def test_every_message_that_is_explained_is_caused_here_or_in_a_test_that_has_it() -> None:
    assert len(EXPLAINED) > 30
    for message in EXPLAINED:
        known = [begin for begin in (*CAUSED.values(), *ELSEWHERE) if message.startswith(begin)]
        assert known, message
    for begin, (file, words) in ELSEWHERE.items():
        (message,) = (message for message in EXPLAINED if message.startswith(begin))
        assert words in " ".join((ROOT / "tests" / file).read_text("utf-8").replace("\\", "").split()), (file, words)
        assert any(words in part or part in words for part in message.split("…") if len(part) > 6), message


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("command", CAUSED)
def test_a_message_that_is_explained_is_printed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    (message,) = (message for message in EXPLAINED if message.startswith(CAUSED[command]))
    if "edited" in command:
        laws.fit(laws.read_csv("runs.csv"), starts=4).save("edited.json")
        saved = Path("edited.json")
        saved.write_text(re.sub(r'("alpha": )0\.3', r"\g<1>0.2", saved.read_text("utf-8"), count=1))

    assert main(command.split()) == 2
    printed = capsys.readouterr().err
    assert re.search(words_of(message), printed.strip().splitlines()[-1]), printed


@pytest.mark.usefixtures("files")
def test_a_fit_without_draws_says_how_to_get_intervals() -> None:
    (message,) = (message for message in EXPLAINED if message.startswith("no interval yet"))
    with pytest.raises(UserError, match=words_of(message)):
        laws.fit(laws.read_csv("runs.csv"), starts=4).interval("alpha")


@pytest.mark.usefixtures("files")
def test_runs_of_which_the_smallest_is_always_best_do_not_determine_an_optimum() -> None:
    (message,) = (message for message in EXPLAINED if message.startswith("… do not determine an optimum"))
    sweep, home = load(SweepConfig, locate("demo", ["sweeps"])), Path("runs/demo")
    write_runs(sweep, home, Law(A=1e-3, noise=0.001), lines=2)
    with pytest.raises(UserError, match=words_of(message)):
        frozen_forecast(sweep, home, "runs")
