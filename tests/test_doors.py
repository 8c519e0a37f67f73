"""What the package offers takes what its siblings take, and answers a wrong kind of argument in one line."""

import importlib
import inspect
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import scaling
from scaling import accounting, config, laws, plan, sweeps
from scaling.config import ModelConfig, SweepConfig, load, locate
from scaling.doors import door
from scaling.errors import UserError
from scaling.kinds import is_of, kind_of

WRONG: dict[str, Any] = {
    "none": None,
    "number": 3,
    "text": "nothing",
    "file": "x.yaml",
    "path": Path("no/where"),
    "mapping": {},
    "table": pd.DataFrame({"a": [1.0]}),
    "object": object(),
}
ROOMS = ("", ".laws", ".sweeps", ".plan", ".report", ".evaluation", ".generation", ".accounting", ".presets")
OUTSIDE = {"load_wandb", "publish_dashboard", "watch"}
"""what asks another machine, or waits"""


def functions() -> Iterator[Any]:
    for room in (importlib.import_module(f"scaling{room}") for room in ROOMS):
        for name in getattr(room, "__all__", ["format_presets"]):
            function = getattr(room, name)
            if inspect.isfunction(function) and name not in OUTSIDE and inspect.signature(function).parameters:
                yield pytest.param(function, id=f"{room.__name__}.{name}")


def called(function: Callable[..., Any], value: Any) -> None:
    """A function with one value for each argument that it must have, or for its first."""
    parameters = inspect.signature(function).parameters.values()
    single = [each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    wanted = [each for each in single if each.default is each.empty] or single[:1]
    args = [value for each in wanted if each.kind is not each.KEYWORD_ONLY]
    function(*args, **{each.name: value for each in wanted if each.kind is each.KEYWORD_ONLY})


@pytest.mark.parametrize("function", functions())
def test_a_wrong_kind_of_argument_is_one_line(
    function: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in WRONG.values():
        try:
            called(function, value)
        except UserError as told:
            assert str(told)


def test_every_annotation_that_a_door_reads_can_be_read() -> None:
    for function in (param.values[0] for param in functions()):
        inner = inspect.unwrap(function)
        for parameter in inspect.signature(inner).parameters.values():
            is_of(None, kind_of(parameter.annotation, inner.__globals__))


@pytest.mark.parametrize(
    "call, line",
    [
        (lambda: laws.isoflop("runs.csv"), r"isoflop: runs should be Runs, got 'runs.csv'; laws.read_csv\(FILE\)"),
        (lambda: laws.Forecaster(WRONG["table"]), "Forecaster: runs should be Runs, got a DataFrame; laws.read_csv"),
        (lambda: laws.huber("big"), "huber: delta should be a number, got 'big'"),
        (lambda: laws.format_table({}), "format_table: table has no 'law'"),
        (lambda: scaling.fit(3), "path should be a path or several, each a path, got 3"),
        (lambda: scaling.status(None), "status: path should be a path, got None"),
        (lambda: scaling.sweep(3), "expected a file, the name of a preset of sweeps, a mapping .*, got 3"),
        (lambda: scaling.plan("nothing-such"), "nothing-such is no file here and no preset of models or runs"),
    ],
)
def test_a_line_says_what_is_allowed_what_came_and_how_to_come_by_it(call: Callable[[], Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        call()


def test_a_file_a_name_a_mapping_and_a_value_do_in_every_function_that_takes_a_configuration() -> None:
    demo, gpt2 = load(SweepConfig, locate("demo", ["sweeps"])), load(ModelConfig, locate("gpt2-small", ["models"]))
    for sweep in ("demo", locate("demo", ["sweeps"]), demo.model_dump(mode="json"), demo):
        assert sweeps.make_runs(sweep) == sweeps.make_runs(demo)
    assert scaling.describe_sweep("demo")["total"] == sweeps.describe_sweep(demo)["total"]
    total = accounting.params(gpt2).total
    for model in ("gpt2-small", locate("gpt2-small", ["models"]), gpt2.model_dump(mode="json"), gpt2):
        assert scaling.plan(model)["params"]["total"] == plan.plan(model)["params"]["total"] == total
    tiny = config.read(config.RunConfig, "tiny", "runs")
    assert np.array_equal(sweeps.learning_rates("tiny"), sweeps.learning_rates(tiny))
    assert scaling.presets() == scaling.presets.presets()


def test_a_law_is_fitted_to_a_file_as_to_its_table(tmp_path: Path) -> None:
    N, D = (axis.ravel() for axis in np.meshgrid([1e6, 3e6, 1e7], [1e8, 3e8, 1e9]))
    table = pd.DataFrame({"N": N, "tokens": D, "loss": 1.7 + 400 / N**0.34 + 400 / D**0.28})
    table.to_csv(tmp_path / "runs.csv", index=False)
    of_file = laws.fit(tmp_path / "runs.csv", N="N", starts=4)
    assert of_file.params == laws.fit(pd.read_csv(tmp_path / "runs.csv"), N="N", starts=4).params


def test_a_failure_with_arguments_of_the_right_kinds_stays_what_it_is() -> None:
    @door
    def fails(count: int, names: dict[str, int], why: type[Exception]) -> None:
        raise why

    for why in (TypeError, AttributeError, KeyError, ValueError):
        with pytest.raises(why) as told:
            fails(np.int64(3), {"a": 1}, why)  # type: ignore[arg-type]
        assert type(told.value) is why
    with pytest.raises(TypeError, match="missing 2 required"):
        fails(3)  # type: ignore[call-arg]
    assert pickle.loads(pickle.dumps(laws.fit)) is laws.fit
