"""A whole run: what it refuses, what it records, and that its updates are the right ones."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_run import Tiny, quick_jit
from waiting import LIMIT_S, free_ports

from scaling import accounting
from scaling.config import RunConfig, config_hash, load
from scaling.data import Batches
from scaling.errors import UserError
from scaling.metrics import read_metrics
from scaling.models import functional
from scaling.objectives import Batch, NextToken
from scaling.parallel import make_mesh
from scaling.result import read_result
from scaling.tracking import Opening, mirror
from scaling.training import loop, train
from scaling.training.gradients import gradients
from scaling.training.knobs import Knobs, make_knobs, put_knobs
from scaling.training.records import versions
from scaling.training.schedules import make_schedule
from scaling.training.state import TrainState, create_state
from scaling.training.step import compile_step, metric_names, run_layout, run_optimizer, update

pytestmark = pytest.mark.usefixtures("runs_once")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("training"))


def batch_of(config: RunConfig, seed: int = 0) -> Batch:
    """Random tokens whose weights differ from row to row, some of them 0."""
    draw = np.random.default_rng(seed)
    shape = (config.batch_size, config.model.context)
    weights = (
        draw.uniform(0, 1, shape) * draw.uniform(0, 2, (config.batch_size, 1)) * (draw.uniform(0, 1, shape) > 0.3)
    )
    tokens = draw.integers(0, 256, (2, *shape))
    return Batch(jnp.asarray(tokens[0]), jnp.asarray(tokens[1]), jnp.asarray(weights, jnp.float32))


def parts(config: RunConfig) -> tuple[Knobs, TrainState, TrainState]:
    """(knobs, layout, state) of a run on one device."""
    mesh = make_mesh(config.placement.mesh, jax.devices()[:1])
    knobs = put_knobs(make_knobs(config), mesh)
    layout = run_layout(config, mesh)
    return knobs, layout, create_state(config.model, run_optimizer(config, knobs), config.seed, layout)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_gradient_is_that_of_the_weighted_mean_over_all_tokens(tiny: Tiny, accumulate: int) -> None:
    config = tiny.config(model={"z_loss": 1e-2}, placement={"accumulate": accumulate})
    _, _, state = parts(config)
    batch = batch_of(config)

    def reference(params: Any) -> Any:
        logits = functional.bind_run(config, params).logits(batch.tokens_BxL)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets_BxL)
        z = jax.nn.logsumexp(logits, -1) ** 2
        mean = lambda x: (x * batch.weights_BxL).sum() / batch.weights_BxL.sum()  # noqa: E731
        return mean(nll + 1e-2 * z), mean(nll)

    (_, nats), want = quick_jit(jax.value_and_grad(reference, has_aux=True))(state.params)
    got = quick_jit(lambda p, b: gradients(config, p, b, None))(state.params, batch)
    np.testing.assert_allclose(got.means.loss, nats, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(got.grads), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-6)


def test_dropout_differs_from_step_to_step_and_between_microbatches_and_is_the_same_again(tiny: Tiny) -> None:
    config = tiny.config(model={"dropout": 0.5}, optimizer={"learning_rate": 1e-9})
    knobs, _, state = parts(config)
    row = NextToken().batch(jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 33))))
    batch = jax.tree.map(lambda x: jnp.repeat(x, 8, 0), row)  # the same window eight times
    step = quick_jit(lambda s, b: update(config, knobs, s, b)[1][0])
    first, again, later = step(state, batch), step(state, batch), step(state._replace(step=jnp.int32(1)), batch)
    assert first == again
    assert first != later
    halves = config.model_copy(update={"placement": config.placement.model_copy(update={"accumulate": 2})})
    key = jax.random.key(0)
    whole = quick_jit(lambda p, b: gradients(halves, p, b, key).means.loss)(state.params, batch)
    part = quick_jit(lambda p, b, i: gradients(config, p, b, jax.random.fold_in(key, i)).means.loss)
    ones = [part(state.params, jax.tree.map(lambda x: x[:4], batch), i) for i in range(2)]
    assert ones[0] != ones[1]
    assert float(whole) == pytest.approx(float(ones[0] + ones[1]) / 2, rel=1e-5)


def test_step_consumes_its_state_and_measures_the_loss_before_the_update(tiny: Tiny) -> None:
    config = tiny.config()
    knobs, layout, state = parts(config)
    mesh = make_mesh(config.placement.mesh, jax.devices()[:1])
    windows = np.random.default_rng(0).integers(0, 256, (8, 33)).astype(np.uint8)
    expected = quick_jit(lambda p, b: gradients(config, p, b, None))(
        state.params, NextToken().batch(jnp.asarray(windows))
    )
    step = compile_step(config, mesh, layout, windows)
    after, metrics = step(state, knobs, windows)
    values = dict(zip(metric_names(config), np.asarray(metrics).tolist(), strict=True))
    np.testing.assert_allclose(values["loss"], expected.means.loss, rtol=1e-5)
    np.testing.assert_allclose(values["grad_norm"], optax.tree.norm(expected.grads), rtol=1e-4)
    assert values["learning_rate"] == float(make_schedule(config.schedule.name, knobs)(0))
    assert int(after.step) == 1
    assert all(x.is_deleted() for x in jax.tree.leaves(state))


def test_record_says_what_was_run_and_a_second_call_returns_it(tiny: Tiny, tmp_path: Path) -> None:
    more: dict[str, Any] = {"records": {"evaluate_every": 20}}
    config = tiny.config(**more)
    result = train(config, folder=tmp_path, quiet=True)
    assert result.status == "completed" and read_result(tmp_path) == result
    assert config_hash(load(RunConfig, tmp_path / "config.yaml")) == config_hash(config)
    assert result.tokens == result.unique_tokens == config.steps * 8 * 32
    assert 0 < result.epochs < 1
    assert result.flops == result.tokens * accounting.flops_per_token(config.model).exact
    assert set(result.flops_by_convention) == {"exact", "kaplan_6n", "chinchilla_appendix_f", "palm", "deepseek"}
    assert result.loss is not None and 0.5 < result.loss < math.log(256)
    assert result.tokens_per_s is not None and result.tokens_per_s > 0
    assert result.mfu is None  # the peak of this CPU is unknown
    assert {"python", "jax", "jaxlib", "flax", "optax", "scaling"} <= set(result.versions)
    records = read_metrics(tmp_path)
    assert [r["step"] for r in records if "loss" in r] == list(range(5, 41, 5))
    assert [r["step"] for r in records if "eval_loss" in r] == [20, 40]
    assert records[-1]["eval_loss"] == result.loss
    assert records[0]["loss"] > records[-2]["loss"]
    before = (tmp_path / "result.json").stat().st_mtime_ns
    assert train(config, folder=tmp_path, quiet=True) == result
    # on whatever devices, as nothing is computed; but not by a placement that is wrong on all
    assert train(tiny.config(**more, placement={"mesh": {"data": 8}}), folder=tmp_path, quiet=True) == result
    with pytest.raises(UserError, match="batch_size=8 cannot be split into 1 microbatches"):
        train(tiny.config(**more, placement={"mesh": {"fsdp": 3}}), folder=tmp_path, quiet=True)
    with pytest.raises(UserError, match="ulysses divides heads"):
        tiny.config(**more, placement={"mesh": {"context": 4}, "context": "ulysses"})
    assert (tmp_path / "result.json").stat().st_mtime_ns == before


def test_seed_alone_decides_the_numbers(tiny: Tiny, tmp_path: Path) -> None:
    losses = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tiny.config(seed=seed, tokens=10 * 256), folder=tmp_path / name, quiet=True)
        losses[name] = [(r.get("loss"), r.get("eval_loss")) for r in read_metrics(tmp_path / name)]
    assert losses["a"] == losses["b"] != losses["c"]


@pytest.mark.parametrize("rate", [1e6, 1e30])
def test_divergence_is_a_record_with_the_last_good_numbers(tiny: Tiny, tmp_path: Path, rate: float) -> None:
    config = tiny.config(optimizer={"learning_rate": rate, "clip_norm": None}, tokens=100 * 256)
    result = train(config, folder=tmp_path, quiet=True)
    assert result.status == "diverged" and result.reason
    assert result.tokens <= config.tokens
    text = (tmp_path / "result.json").read_text() + (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert train(config, folder=tmp_path, quiet=True) == result  # it would diverge again


def test_failure_is_recorded_and_tried_again(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    config = tiny.config(tokens=10 * 256)
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "windows", broken)
        with pytest.raises(RuntimeError):
            train(config, folder=tmp_path, quiet=True)
    failed = read_result(tmp_path)
    assert failed is not None and failed.status == "failed" and "out of memory" in failed.reason
    assert train(config, folder=tmp_path, quiet=True).status == "completed"


@pytest.mark.parametrize("where", ["start", "log", "finish"])
def test_an_error_of_the_mirror_is_one_warning(
    tiny: Tiny, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Tracker:
        def __init__(self, opening: Opening) -> None:
            if where == "start":
                broken()

        def __getattr__(self, name: str) -> Any:
            return broken if name == where else lambda *_: None

    def broken(*_: Any) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr(mirror, "Tracker", Tracker)
    assert train(tiny.config(tokens=20 * 256), folder=tmp_path, quiet=True).status == "completed"
    assert [record.message.count("no route to host") for record in caplog.records] == [1]


def test_mistakes_are_told_before_anything_is_compiled(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("compiled before the check")

    monkeypatch.setattr(loop, "Loop", never)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text(json.dumps(tiny.config(seed=7).model_dump(mode="json")))
    wrong: list[tuple[dict[str, Any], Path, str]] = [
        ({"tokens": 10**9}, tmp_path / "a", "data.epochs"),
        ({"data": {"corpus": "files:/nowhere/*.txt"}}, tmp_path / "b", "nowhere"),
        ({"placement": {"mesh": {"data": 3}}}, tmp_path / "c", "placement.mesh"),
        ({"model": {"vocab": 5000}}, tmp_path / "d", "model.vocab"),
        ({"model": {"context": 200_000}}, tmp_path / "e", "context"),
        ({}, tmp_path / "other", "another configuration"),
    ]
    for changes, folder, said in wrong:
        with pytest.raises(UserError, match=said) as told:
            train(tiny.config(**changes), folder=folder, quiet=True)
        assert "\n" not in str(told.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=str(tmp_path / "file")):
        train(tiny.config(), folder=tmp_path / "file" / "run", quiet=True)


def test_a_short_run_never_imports_orbax_or_wandb(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny.config(tokens=10 * 256, records={"checkpoint_minutes": 10.0})
    check = "import atexit, sys; atexit.register(lambda: print([m for m in ('orbax', 'wandb') if m in sys.modules]))"
    process = tiny.start(config, tmp_path / "run", prelude=check)
    out, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    assert out.strip() == "[]"


@pytest.mark.slow
def test_two_joined_processes_go_on_with_a_run_of_one(tiny: Tiny, tmp_path: Path) -> None:
    config, folder = tiny.config(records={"checkpoint_steps": 20}), tmp_path / "joined"
    alone = train(config, folder=tmp_path / "alone", quiet=True)
    shutil.copytree(tmp_path / "alone", folder)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "40")
    address = f"localhost:{free_ports(1)[0]}"
    joined = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    both = [tiny.start(config, folder, **joined, JAX_PROCESS_ID=str(i)) for i in range(2)]
    errors = [process.communicate(timeout=LIMIT_S)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert all("continuing from step 20" in text for text in errors)
    result = read_result(folder)
    assert result is not None and result.device.startswith("2 × ")
    assert result.loss == pytest.approx(alone.loss, rel=1e-4)
    steps = [[record["step"] for record in read_metrics(run)] for run in (folder, tmp_path / "alone")]
    assert steps[0] == steps[1]  # one of them writes
    assert (folder / "checkpoints" / "40").is_dir()


def test_a_checkout_that_git_does_not_describe_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it belongs to another user: git says so and prints nothing."""
    (tmp_path / "git").write_text("#!/bin/sh\nexit 128\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert "commit" not in versions.__wrapped__()
