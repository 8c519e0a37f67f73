"""Windows that grow: the same text in the same order, cut; FLOPs, targets and records stage by stage."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import Tiny

from scaling import accounting
from scaling.config import RunConfig, shape_of
from scaling.data import cut, documents, run_batches
from scaling.errors import UserError
from scaling.metrics import read_metrics
from scaling.objectives import OBJECTIVES
from scaling.parallel import make_mesh, placed
from scaling.training import train
from scaling.training.flops import MeasuredFlops, flops_of
from scaling.training.knobs import make_knobs
from scaling.training.state import create_state
from scaling.training.step import metric_names, run_layout, run_optimizer, update

STAGES = [{"context": 8, "until": 0.25}, {"context": 16, "until": 0.5}]
STEPS = 12
CHOOSING = {"feed_forward": {"kind": "moe", "experts": 16, "routing": "expert_choice"}}
APART = {"kind": "next_token", "documents": "mask"}
CONTEXTS = [8] * 3 + [16] * 3 + [32] * 6


def grown(tiny: Tiny, **changes: object) -> RunConfig:
    return tiny.config(**{"data": {"curriculum": STAGES}, "tokens": STEPS * 8 * 32, **changes})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("curriculum"))


@pytest.fixture(scope="module")
def trained(tiny: Tiny, runs_once: None) -> Path:
    folder = tiny.folder / "whole"
    train(grown(tiny, records={"checkpoint_steps": 2, "log_every": 1}), folder=folder, quiet=True)
    return folder


class Text:
    """Windows of a text that counts up."""

    def __init__(self, context: int, batch_size: int):
        self.seed, self.batch_size, self.context = 0, batch_size, context

    def windows(self, step: int, start: int, stop: int) -> np.ndarray:
        first_B = (step * self.batch_size + np.arange(start, stop)) * self.context
        return first_B[:, None] + np.arange(self.context + 1)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.data())
def test_cut_windows_are_those_of_a_shorter_context(
    context: int, parts: int, rows: int, step: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    short, whole = Text(context, rows * parts), cut(Text(context * parts, rows), parts)
    assert whole.batch_size == short.batch_size
    np.testing.assert_array_equal(
        whole.windows(step, start * parts, stop * parts), short.windows(step, start * parts, stop * parts)
    )


def test_rows_that_are_no_whole_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="not whole windows of 2 parts"):
        cut(Text(4, 4), 2).windows(0, 1, 2)


@given(st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True), st.integers(1, 300), st.integers(0, 400))
def test_every_step_is_of_one_stage(shares: list[int], steps: int, first: int) -> None:
    stages = [{"context": 2**i, "until": share / 100} for i, share in enumerate(sorted(shares))]
    run = RunConfig.model_validate(
        {
            "model": {"vocab": 256, "context": 32, "layers": 1, "d_model": 8, "n_heads": 1},
            "data": {"corpus": "python_stdlib", "curriculum": stages},
            "optimizer": {"learning_rate": 0.1},
            "batch_size": 1,
            "tokens": 32 * steps,
        }
    )
    assert run.context_at(steps - 1) == 32, "however short the run, it ends at its context"
    contexts = [context for context, count in run.contexts(first) for _ in range(count)]
    assert contexts == [run.context_at(step) for step in range(first)] == sorted(contexts)
    for stage in stages:
        assert contexts.count(stage["context"]) <= len(contexts)
        ends = min(round(stage["until"] * steps), steps - 1)
        assert all(context <= stage["context"] for context in contexts[:ends])
        assert all(context > stage["context"] for context in contexts[ends:steps])


def test_a_run_is_updates_on_windows_of_each_stage_in_turn(tiny: Tiny, trained: Path) -> None:
    """Against a loop that cuts the windows itself."""
    run = grown(tiny)
    mesh = make_mesh(run.placement.mesh, jax.devices()[:1])
    run = placed(run, mesh)
    state = create_state(run.model, run_optimizer(run, make_knobs(run)), run.seed, run_layout(run, mesh))
    step = jax.jit(lambda state, rows: update(run, make_knobs(run), state, run.objective.batch(rows)))
    batches = run_batches(run, tiny.open())
    recorded = {record["step"]: record for record in read_metrics(trained) if "grad_norm" in record}
    assert len(recorded) == STEPS
    for number, context in enumerate(CONTEXTS):
        whole_BxL1 = batches.windows(number, 0, 8)
        rows = np.concatenate([whole_BxL1[:, i : i + context + 1] for i in range(0, 32, context)])
        state, metrics = step(state, rows)
        told = dict(zip(metric_names(run), np.asarray(metrics).tolist(), strict=True))
        assert told["loss"] == pytest.approx(recorded[number + 1]["loss"], rel=1e-5), number
        assert told["grad_norm"] == pytest.approx(recorded[number + 1]["grad_norm"], rel=1e-4), number


def test_a_run_goes_on_in_the_stage_in_which_it_was_interrupted(tiny: Tiny, trained: Path) -> None:
    folder = tiny.folder / "again"
    shutil.copytree(trained, folder)
    (folder / "result.json").unlink()
    for checkpoint in (folder / "checkpoints").iterdir():
        if checkpoint.name.isdecimal() and int(checkpoint.name) > 4:
            shutil.rmtree(checkpoint)
    result = train(grown(tiny, records={"checkpoint_steps": 2, "log_every": 1}), folder=folder, quiet=True)
    assert "continued from step 4" in result.reason
    told = [[(r["step"], r.get("loss"), r["flops"]) for r in read_metrics(f)] for f in (folder, trained)]
    assert told[0] == told[1]


def test_flops_are_those_of_each_stage(tiny: Tiny, trained: Path) -> None:
    run = grown(tiny)
    per_step = [
        8 * 32 * accounting.flops_per_token(tiny.config(model={"context": context})).exact for context in CONTEXTS
    ]
    for record in read_metrics(trained):
        assert record["flops"] == pytest.approx(sum(per_step[: record["step"]]), rel=1e-12)
    exact = accounting.flops_per_token(run)
    assert exact.exact * STEPS * 8 * 32 == pytest.approx(sum(per_step), rel=1e-12)
    plain = accounting.flops_per_token(tiny.config())
    assert exact.kaplan_6n == plain.kaplan_6n and exact.palm < plain.palm and exact.exact < plain.exact


def test_of_documents_the_keys_are_those_of_each_stage(tiny: Tiny) -> None:
    store = tiny.open()
    parts = [flops_of(tiny.config(model={"context": context}, objective=APART), store).exact for context in CONTEXTS]
    left_out = 1e-7  # the parts of a last window that is not whole
    assert flops_of(grown(tiny, objective=APART), store).exact == pytest.approx(np.mean(parts), rel=left_out)


def test_a_text_is_measured_once_however_often_a_run_asks(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    within = documents.visible_keys_within
    monkeypatch.setattr(documents, "visible_keys_within", lambda *args: asked.append(1) or within(*args))
    for run, contexts in ((tiny.config(objective=APART), 1), (grown(tiny, objective=APART), 3)):
        asked.clear()
        flops = MeasuredFlops(run, tiny.open())
        assert len({flops.of(step).exact for step in range(1, STEPS + 1)}) >= contexts and len(asked) == contexts


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_makes_batches_of_each_stage(kind: str, tiny: Tiny) -> None:
    extra = {"model": {"vocab": 257}} if kind == "masked" else {}
    run = grown(tiny, objective={"kind": kind}, **extra)
    batches = run_batches(run, tiny.open())
    for number, context in enumerate(CONTEXTS):
        parts = 32 // context
        rows = run.objective.rows(cut(batches, parts), run.model, number, 0, 8 * parts)
        batch = run.objective.batch(rows)
        assert np.shape(batch.tokens_BxL) == np.shape(batch.targets_BxL) == (8 * parts, context)


def test_a_run_whose_windows_grow_trains_alone(tiny: Tiny) -> None:
    one, two = grown(tiny), grown(tiny, seed=1)
    assert shape_of(one) != shape_of(two) and shape_of(tiny.config()) == shape_of(tiny.config(seed=1))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data": {"curriculum": [{"context": 12, "until": 0.5}]}}, r"context=12; allowed: .*nearest: 8, 16"),
        (
            {"data": {"curriculum": [{"context": 32, "until": 0.5}]}},
            r"context=32; allowed: a divisor of model.context=32 that is less",
        ),
        ({"data": {"curriculum": [STAGES[1], STAGES[0]]}}, r"until=0.25 follows one with until=0.5"),
        ({"data": {"curriculum": []}}, "at least 1"),
        (
            {"data": {"curriculum": STAGES}, "placement": {"mesh": {"context": 16}}},
            r"context=8; allowed: .*and a multiple of placement.mesh.context=16; nearest: 16",
        ),
        (
            {"data": {"curriculum": STAGES}, "schedule": {"name": "wsd"}, "records": {"trunk": "L1-a"}},
            "cannot branch off one trunk",
        ),
        (
            {"data": {"curriculum": STAGES}, "objective": {"kind": "masked"}, "model": {"vocab": 257} | CHOOSING},
            "curriculum: context=8: feed_forward: no expert would get .* experts to 8 or fewer, or top_k to 2 or",
        ),
    ],
)
def test_stages_that_cannot_be_are_refused(changes: dict[str, object], message: str, tiny: Tiny) -> None:
    with pytest.raises(UserError, match=message):
        tiny.config(**changes)
