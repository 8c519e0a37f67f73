"""A run that begins with another's parameters: what it has from there, what is its own, and what its record says."""

import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from started import BATCH, begun, child, config, folder_of, named, saved, train_parent
from test_resume import assert_same, hold, numbers, stop_at
from tiny_run import Tiny
from waiting import LIMIT_S

import scaling
from scaling import accounting
from scaling.cli import main
from scaling.config import Parent, RunConfig, SweepConfig, build, config_hash, load, run_id, to_yaml
from scaling.data import Batches
from scaling.errors import UserError
from scaling.metrics import read_metrics
from scaling.models import functional
from scaling.result import read_result
from scaling.sweeps import describe_sweep, make_runs, run_sweep
from scaling.training import loop, train, train_pack
from scaling.training.flops import flops_of
from scaling.training.start import inherited_facts, new_books

pytestmark = pytest.mark.usefixtures("runs_once")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def parent(tiny: Tiny) -> Path:
    return train_parent(tiny)


def test_the_first_state_has_the_parent_s_parameters_and_nothing_else_of_it(tiny: Tiny, parent: Path) -> None:
    for step, said in ((16, None), (8, 8)):
        found, theirs = begun(child(tiny, parent, start={"step": said}), parent), saved(parent, step)
        for name, array in found.items():
            if name.startswith("params."):
                np.testing.assert_array_equal(array, theirs[name], name)
            else:
                assert not array.any(), f"{name} is fresh"
    drawn = named({"params": functional.init(config(tiny).model, jax.random.key(7))})
    found = begun(child(tiny, parent, start={"new": ["head", "layers.mlp.*"]}), parent)
    for name in drawn:
        wanted = drawn if name == "params.head" or ".mlp." in name else saved(parent, 16)
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-6, err_msg=name)


def test_an_inherited_optimizer_goes_on_with_its_moments_and_the_schedule_begins_anew(
    tiny: Tiny, parent: Path
) -> None:
    start = {"optimizer": "inherit", "new": ["head"], "frozen": ["layers.mlp.up.*"]}
    found, theirs = begun(child(tiny, parent, start=start), parent), saved(parent, 16)
    counts = {name: int(array) for name, array in found.items() if name.endswith("count")}
    assert sorted(counts.values()) == [0, 16] and all(theirs[name] == 16 for name in counts)
    moments = [name for name in theirs if ".mu." in name or ".nu." in name]
    assert len(moments) == 2 * len(list(config(tiny).tensors()))
    for name in moments:
        if "mlp.up" in name:
            assert name not in found
        elif name.endswith(".head"):
            assert not found[name].any() and theirs[name].any()
        else:
            np.testing.assert_array_equal(found[name], theirs[name], name)


def test_the_first_update_is_adamw_by_hand(tiny: Tiny, parent: Path) -> None:
    """From the parent's moments, with the child's own rate, on the first batch of its own data."""
    run = child(tiny, parent, start={"optimizer": "inherit"}, optimizer={"clip_norm": None})
    run = run.model_copy(update={"records": run.records.model_copy(update={"checkpoint_at": (1,)})})
    result = train(run, quiet=True)
    before, after = saved(parent, 16), saved(folder_of(tiny, result), 1)
    rows = Batches(tiny.open().train, 32, 8, 7).windows(0, 0, 8).astype(np.int32)
    shapes = functional.abstract(run.model)
    params = jax.tree.unflatten(
        jax.tree.structure(shapes), [before[f"params.{name}"] for name in named(jax.tree.map(lambda _: 0, shapes))]
    )

    def loss(params: Any) -> jax.Array:
        logits = functional.bind_run(run, params).logits(rows[:, :-1])
        logs = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(logs, rows[:, 1:, None], -1))

    value, grads = jax.value_and_grad(loss)(params)
    assert read_metrics(folder_of(tiny, result))[0]["loss"] == pytest.approx(float(value), rel=1e-5)
    b1, b2, count, rate = 0.9, 0.95, 17, 0.01
    decayed = {tensor.name for tensor in run.tensors() if tensor.decay}
    mu, nu = ({n.rpartition(f".{m}.")[2]: a for n, a in before.items() if f".{m}." in n} for m in ("mu", "nu"))
    for name, gradient in named(grads).items():
        m, v = b1 * mu[name] + (1 - b1) * gradient, b2 * nu[name] + (1 - b2) * gradient**2
        step = m / (1 - b1**count) / (np.sqrt(v / (1 - b2**count)) + 1e-8)
        w = before[f"params.{name}"]
        wanted = w - rate * (step + (0.1 * w if name in decayed else 0))
        np.testing.assert_allclose(after[f"params.{name}"], wanted, rtol=2e-4, atol=2e-6, err_msg=name)


def test_frozen_parameters_end_as_they_began_and_have_no_moments(tiny: Tiny, parent: Path) -> None:
    run = child(tiny, parent, start={"frozen": ["embedding", "layers.attention.*"]}, placement={"accumulate": 2})
    result = train(run, quiet=True)
    kept = {tensor.name for tensor in run.tensors() if tensor.frozen}
    assert len(kept) == 5 and result.facts["params_frozen"] == 256 * 16 + 4 * 16 * 16
    after, theirs = saved(folder_of(tiny, result), 10), saved(parent, 16)
    for tensor in run.tensors():
        same = np.array_equal(after[f"params.{tensor.name}"], theirs[f"params.{tensor.name}"])
        assert same == (tensor.name in kept), tensor.name
    moments = {name.rpartition(f".{m}.")[2] for name in after for m in ("mu", "nu") if f".{m}." in name}
    assert moments == {tensor.name for tensor in run.tensors()} - kept


def test_the_record_tells_own_and_inherited_apart(tiny: Tiny, parent: Path) -> None:
    first = read_result(parent)
    assert first is not None and "start" not in first.facts and "tokens_inherited" not in first.facts
    middle = train(child(tiny, parent, start={"step": 8}), quiet=True)
    last = train(child(tiny, folder_of(tiny, middle), seed=8, start={"frozen": ["layers.*"]}), quiet=True)
    per_token = accounting.flops_per_token(config(tiny)).exact
    begun = (parent, 8, 8 * BATCH), (folder_of(tiny, middle), 10, 18 * BATCH)
    for result, (begins, step, tokens) in zip((middle, last), begun, strict=True):
        known = {"run": begins.name, "parent": config_hash(load(RunConfig, begins / "config.yaml")), "step": step}
        assert result.facts["start"] == known and result.status == "completed" and result.reason == ""
        assert result.facts["tokens_inherited"] == tokens
        assert result.facts["flops_inherited"] == pytest.approx(per_token * tokens)
        assert result.tokens == 10 * BATCH == result.unique_tokens
        assert result.flops == result.flops_spent and result.wall_s == result.wall_s_spent
    assert middle.flops == pytest.approx(per_token * 10 * BATCH) and last.flops < 0.9 * middle.flops
    table = scaling.load_runs(parent.parent).set_index("run_id")
    assert table.loc[last.run_id, "start_run"] == middle.run_id and table.loc[last.run_id, "validity"] == "valid"
    assert table.loc[last.run_id, "tokens_inherited"] == 18 * BATCH and table.loc[last.run_id, "tokens"] == 10 * BATCH


def test_flops_of_a_parent_are_those_of_its_documents(tiny: Tiny, tmp_path: Path) -> None:
    """As in the parent's own record, where keys are measured in the text; without it they are counted as in a plan,
    which is said."""
    run = config(tiny, objective={"documents": "mask"}, model={"context": 256}, batch_size=1)
    books = replace(new_books(run), step=16, tokens=16 * BATCH)
    measured, planned = (flops_of(run, store).exact * 16 * BATCH for store in (tiny.open(), None))
    assert measured < 0.999 * planned
    lost = run.model_copy(update={"records": run.records.model_copy(update={"store_folder": str(tmp_path)})})
    for parent, wanted, said in ((run, measured, 0), (lost, planned, 1)):
        notes = list[str]()
        found = inherited_facts(config(tiny), Parent(tmp_path, parent, 16), books, notes)
        assert found["flops_inherited"] == pytest.approx(wanted, rel=1e-12) and len(notes) == said
    assert "as if they filled windows: no token store" in notes[0]


def test_a_parent_is_left_as_it_is_and_its_child_needs_it_no_longer(tiny: Tiny, parent: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(parent.rglob("*")) if path.is_file()}
    home = tmp_path / "sweep"
    shutil.copytree(parent, home / parent.name)
    run = child(tiny, parent, {"checkpoint_steps": 5})
    whole = train(run, folder=home / "child", quiet=True)
    assert before == {path: path.read_bytes() for path in sorted(parent.rglob("*")) if path.is_file()}
    shutil.rmtree(home / parent.name)
    shutil.copytree(home / "child", tmp_path / "elsewhere" / "again")
    for gone in ("result.json", "checkpoints/10"):
        path = tmp_path / "elsewhere" / "again" / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    alone = load(RunConfig, tmp_path / "elsewhere" / "again" / "config.yaml")
    assert run_id(alone) == whole.run_id
    resumed = train(alone, folder=tmp_path / "elsewhere" / "again", quiet=True)
    assert "continued from step 5" in resumed.reason and resumed.facts["start"] == whole.facts["start"]
    assert_same(tmp_path / "elsewhere" / "again", home / "child")


@pytest.mark.slow
def test_a_started_run_that_is_killed_goes_on_to_the_same_numbers(tiny: Tiny, parent: Path, tmp_path: Path) -> None:
    start = {"run": str(parent), "frozen": ["embedding"], "optimizer": "inherit", "reference": True}
    run = child(tiny, parent, {"checkpoint_minutes": 0.0}, start=start, model={"tied": False, "dropout": 0.1})
    # dropout is not the parent's: what trains the run is its own
    train(run, folder=tmp_path / "whole", quiet=True)
    process = tiny.start(run, tmp_path / "killed", prelude=hold(7))
    stop_at(process, tmp_path / "killed", 4, signal.SIGKILL, within=0.05)
    assert process.returncode == -signal.SIGKILL and read_result(tmp_path / "killed") is None
    errors = tiny.start(run, tmp_path / "killed").communicate(timeout=LIMIT_S)[1]
    assert re.search(r"continuing from step [1-9] of 10", errors) and "starts from" not in errors
    assert_same(tmp_path / "killed", tmp_path / "whole")
    assert {"reference.embedding", "params.embedding"} <= saved(tmp_path / "killed", 10).keys()


def test_runs_from_different_parents_train_side_by_side(tiny: Tiny, parent: Path, tmp_path: Path) -> None:
    second = folder_of(tiny, train(config(tiny, seed=1), quiet=True))
    frozen = ["layers.attention.*"]
    runs = [
        child(tiny, parent, start={"run": str(parent), "frozen": frozen}),
        child(tiny, parent, start={"run": str(parent), "frozen": ["layers.attention.?.kernel"], "step": 8}, seed=9),
        child(tiny, parent, start={"run": str(second), "frozen": frozen, "new": "head", "optimizer": "inherit"}),
    ]
    alone = [train(run, quiet=True) for run in runs]
    homes = [tmp_path / f"pack{i}" for i in range(3)]
    packed = train_pack(runs, homes, quiet=True)
    assert len({result.run_id for result in packed}) == 3
    for one, other, home in zip(alone, packed, homes, strict=True):
        assert one.run_id == other.run_id and other.facts["pack"] == 3
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.facts["start"] == other.facts["start"]
        for a, b in zip(numbers(folder_of(tiny, one)), numbers(home), strict=True):
            assert a == pytest.approx(b, rel=1e-4)
    other = child(tiny, parent, start={"run": str(parent), "frozen": ["embedding"]})
    with pytest.raises(UserError, match=r"cannot train side by side: they differ in start\.frozen; such"):
        train_pack([runs[0], other], [tmp_path / "a", tmp_path / "b"], quiet=True)


def write(tiny: Tiny, parent: Path, tmp_path: Path, **start: Any) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(child(tiny, parent, start=start)))
    return path


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("start.run=L1-d16-4.1k-00000000", "no run is in"),
        ("start.step=11", "has no checkpoint of start.step=11; it has 8, 16"),
        ("start.new=[hed]", "start.new: 'hed' matches no parameter"),
        ("model.d_ff=40", "layers.mlp.up.kernel is (1, 16, 32) there and (1, 16, 40) here"),
        ("start.parent=0123456789abcdef", "not the run of start.parent=0123456789abcdef"),
    ],
)
def test_a_wrong_start_ends_the_command_before_anything_is_made(
    tiny: Tiny,
    parent: Path,
    tmp_path: Path,
    override: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loop, "compile_step", None)
    before = sorted(parent.parent.iterdir())
    assert main(["train", str(write(tiny, parent, tmp_path)), override]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert sorted(parent.parent.iterdir()) == before


def test_a_parent_lost_since_or_broken_is_told_before_anything_is_compiled(
    tiny: Tiny, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "compile_step", None)
    home = tmp_path / "sweep"
    shutil.copytree(parent, home / parent.name)
    index = home / parent.name / "checkpoints" / "16" / "state" / "manifest.ocdbt"
    index.write_bytes(index.read_bytes()[:-20])
    said = r"its checkpoint of step 16 cannot be read: checkpoint 16 of .* is broken"
    with pytest.raises(UserError, match=said) as error:
        train(child(tiny, parent), folder=home / "child", quiet=True)
    assert "\n" not in str(error.value) and "set start.step to another" in str(error.value)
    known = load(RunConfig, home / "child" / "config.yaml")
    assert known.start is not None and known.start.known
    shutil.rmtree(home / parent.name)
    with pytest.raises(UserError, match="no run is in"):
        train(known, folder=home / "child", quiet=True)


def test_what_has_no_place_in_the_child_is_told(tiny: Tiny, parent: Path) -> None:
    result = train(child(tiny, parent, model={"tied": True}), quiet=True)
    differs = f"the model differs from that of {parent.name} in model.tied"
    assert result.reason == f"{differs}; parameters of {parent.name} that this model does not have: head"


@pytest.mark.slow
def test_branches_of_a_started_run_are_that_run(tiny: Tiny, parent: Path, tmp_path: Path) -> None:
    """A branch takes the first updates of its trunk, which began with the parent; its record says both."""
    wsd = {"name": "wsd", "warmup_tokens": 2 * BATCH, "cooldown": 0.25, "warmup": 0.0}
    home = tmp_path / "sweep"
    shutil.copytree(parent, home / parent.name)
    short = child(tiny, parent, {"checkpoint_steps": 10}, schedule=wsd, start={"reference": True})
    alone = train(short, folder=home / "alone", quiet=True)
    fork = short.fork_step
    long = child(tiny, parent, {"checkpoint_at": (fork,)}, schedule=wsd, start={"reference": True}, tokens=16 * BATCH)
    trunk = home / train(long, folder=home / "trunk", quiet=True).run_id
    (home / "trunk").rename(trunk)
    records = short.records.model_copy(update={"trunk": trunk.name})
    branch = train(short.model_copy(update={"records": records}), folder=home / "branch", quiet=True)
    assert_same(home / "branch", home / "alone")
    assert branch.facts["branch"]["step"] == fork and branch.facts["start"] == alone.facts["start"]
    assert branch.flops_spent == pytest.approx(branch.flops * (1 - fork / 10))


def sweep_of(tiny: Tiny, parent: Path, **start: Any) -> SweepConfig:
    """Two learning rates from one parent elsewhere."""
    run = child(tiny, parent, start={"run": str(parent), **start}).model_dump(mode="json")
    del run["seed"], run["records"]["sweep"], run["records"]["role"], run["optimizer"]["learning_rate"]
    design = {"kind": "grid", "axes": {"optimizer.learning_rate": [0.005, 0.01]}}
    return build(SweepConfig, {"name": "further", "run": run, "design": design}, "sweep.yaml")


def test_a_plan_of_started_runs_counts_their_own_flops(tiny: Tiny, parent: Path, tmp_path: Path) -> None:
    sweep = sweep_of(tiny, parent, frozen="layers.*")
    runs = make_runs(sweep, str(tmp_path))
    assert len({run.id for run in runs} | {run.id for run in make_runs(sweep_of(tiny, parent, step=8))}) == 4
    plan = describe_sweep(sweep, tmp_path)
    own = accounting.flops_per_token(runs[0].config).exact * 10 * BATCH
    assert [row["flops"] for row in plan["runs"]] == [row["flops_spent"] for row in plan["runs"]] == [own, own]
    assert own < accounting.flops_per_token(config(tiny)).exact * 10 * BATCH
    assert [row["tokens"] for row in plan["runs"]] == [10 * BATCH] * 2
    with pytest.raises(UserError, match=r"start\.run=.*/lost: no run is in .*/lost"):
        describe_sweep(sweep_of(tiny, parent, run=str(tmp_path / "lost")), tmp_path)


@pytest.mark.slow
def test_a_sweep_trains_runs_that_begin_with_another_s(tiny: Tiny, parent: Path, tmp_path: Path) -> None:
    begins = tmp_path / "begins"
    shutil.copytree(parent, begins)
    outcome = run_sweep(sweep_of(tiny, begins), folder=tmp_path)
    assert outcome.ok
    table = scaling.load_runs(tmp_path / "further")
    assert list(table["start_run"]) == [parent.name] * 2 and list(table["status"]) == ["completed"] * 2
    assert list(table["tokens_inherited"]) == [16 * BATCH] * 2 and list(table["flops_spent"]) == list(table["flops"])


def test_the_example_trains_tiny_further(tiny: Tiny, tmp_path: Path) -> None:
    """As its comment says, here with smaller models on other text."""
    runs = Path(__file__).parents[1] / "configs" / "runs"
    example = load(RunConfig, runs / "finetune-tiny.yaml")
    assert example.start is not None and example.start.run == run_id(load(RunConfig, runs / "tiny.yaml"))
    small = ["model.layers=1", "model.d_model=16", "model.d_ff=32", "model.context=32", "tokens=4096"]
    small += [f"data.corpus={tiny.corpus}", f"records.store_folder={tiny.store}", "records.wandb=disabled"]
    small += [f"records.folder={tmp_path}"]
    assert main(["train", str(runs / "tiny.yaml"), *small]) == 0
    (first,) = (tmp_path / "single").iterdir()
    assert main(["train", str(runs / "finetune-tiny.yaml"), *small, f"start.run={first.name}", "seed=1"]) == 0
    (second,) = (folder for folder in (tmp_path / "single").iterdir() if folder != first)
    result = read_result(second)
    assert result is not None and result.facts["start"]["run"] == first.name and result.facts["params_frozen"] == 4096


def test_a_context_is_extended_from_where_the_shorter_one_ended(tiny: Tiny, parent: Path) -> None:
    """At a factor of 1 the longer model says of short windows what the shorter one says, at 4 it does not; and the
    mix of documents is on record."""
    rope = {"scaling": {"kind": "linear", "factor": 1}}
    longer = {"model": {"tied": False, "context": 128, "rope": rope}, "batch_size": 2, "tokens": 4 * BATCH}
    extended = child(tiny, parent, data={"long_documents": {"tokens": 1700, "times": 3}}, **longer)
    params = jax.tree.map(jnp.asarray, nested_params(begun(extended, parent)))
    tokens = np.random.default_rng(0).integers(0, 256, (2, 32))

    def logits(run: RunConfig) -> np.ndarray:
        return np.asarray(jax.jit(lambda p: functional.bind_run(run, p).logits(jnp.asarray(tokens)))(params))

    short = logits(config(tiny))
    np.testing.assert_allclose(logits(extended), short, atol=1e-6)
    rope["scaling"]["factor"] = 4
    assert np.abs(logits(child(tiny, parent, **longer)) - short).max() > 1e-3
    result = train(extended, quiet=True)
    assert result.status == "completed" and result.context == 128 and result.facts["tokens_inherited"] == 16 * BATCH
    assert result.reason == f"the model differs from that of {parent.name} in model.rope"
    assert 0 < result.facts["long_share"] <= 1 and result.config["data"]["long_documents"]["times"] == 3


def nested_params(named_arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name in (name for name in named_arrays if name.startswith("params.")):
        _, *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = named_arrays[name]
    return tree
