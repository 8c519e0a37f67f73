"""What was meant by a name that is not known, wherever one is refused."""

import ast
from pathlib import Path

import pytest

import scaling
from scaling import accounting, laws
from scaling.cli import main
from scaling.config import TransformerConfig, build
from scaling.errors import UserError
from scaling.laws.forms import get_form
from scaling.names import meant, near_file, nearest, offered

TINY = {"vocab": 64, "context": 32, "layers": 2, "d_model": 32, "n_heads": 2}


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("chinchila", ["chinchilla", "kaplan_N"], "chinchilla"),
        ("tie_embeddings", {"tied": "one matrix serves as embedding and as head", "layers": ""}, "tied"),
        ("embedding_size", {"tied": "one matrix serves as embedding and as head", "d_model": ""}, None),
        ("hoffmann", {"chinchilla": "Hoffmann et al. 2022, eq. 10", "gadre": "Gadre et al. 2024"}, "chinchilla"),
        ("lr", ["rate_limit", "learning_rate", "weight_decay"], "learning_rate"),
        ("n_head", ["n_heads", "d_head"], "n_heads"),
        ("H1OO", ["h100", "v5e"], "h100"),
        ("numHeads", ["n_heads", "layers"], "n_heads"),
        ("xyz", ["layers", "tied"], None),
        ("", ["layers"], None),
    ],
)
def test_the_nearest_name(name: str, known: object, found: str | None) -> None:
    assert next(iter(nearest(name, known)), None) == found  # type: ignore[arg-type]


def test_what_is_said() -> None:
    assert meant("kaplan", ["kaplan_N", "kaplan_D", "gadre"]) == "did you mean kaplan_N or kaplan_D?"
    assert meant("xyz", ["layers"]) == ""
    assert offered("layer", ["layers", "tied"]) == "allowed: layers, tied; did you mean layers?"
    assert offered("xyz", ["layers", "tied"], "there are ") == "there are layers, tied"


def refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as error:
        main_or_raise(*arguments)
    return str(error.value)


def main_or_raise(*arguments: str) -> None:
    from scaling.cli import _parse

    args = _parse(arguments)
    args.call(args)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan", "gpt2-small", "tie_embeddings=true"), "unknown key `tie_embeddings`; did you mean `tied`?"),
        (("plan", "gpt2-smal"), "did you mean gpt2-small"),
        (("plan", "gpt2-small", "feed_forward.kind=mo"), "got 'mo'; did you mean moe?"),
        (("plan", "gpt2-small", "--fit", "8xmi300"), "did you mean mi300x?"),
        (("plan", "gpt2-small", "--topology", "v5ee:4x4"), "did you mean v5e?"),
        (("train", "tiny", "optimizer.lr=3"), "did you mean `learning_rate`?"),
        (("train", "tiny", "optimizer.name=adam"), "did you mean adamw?"),
        (("swep", "demo"), "did you mean sweep?"),
        (("sweep", "demo", "--dryrun"), "did you mean --dry-run?"),
        (("train", "tiny", "--json"), "--json; an option of other commands (see"),
    ],
)
def test_every_refusal_of_the_command_line_names_what_was_meant(arguments: tuple[str, ...], said: str) -> None:
    told = refusal(*arguments)
    assert said in told and "\n" not in told


def test_laws_quantities_columns_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"no law 'hoffmann'; did you mean chinchilla"):
        get_form("hoffmann")
    table = tmp_path / "runs.csv"
    table.write_text("params,tokens,los\n1e6,1e8,3.1\n")
    assert main(["fit", str(table), "--loss", "loss"]) == 2
    assert "did you mean los?" in capsys.readouterr().err
    assert main(["fit", str(tmp_path / "run.csv")]) == 2
    assert f"did you mean {table}?" in capsys.readouterr().err
    (tmp_path / "model.yaml").write_text("{}")
    assert main(["plan", str(tmp_path / "modle.yaml")]) == 2
    assert f"did you mean {tmp_path / 'model.yaml'}?" in capsys.readouterr().err
    assert near_file(tmp_path / "nowhere" / "x.yaml") == ""
    with pytest.raises(UserError, match=r"unknown device 'h10'; allowed: .*did you mean h100"):
        laws.chip_hours(1e21, "h10")
    with pytest.raises(UserError, match="unknown key `layer`; did you mean `layers`"):
        build(TransformerConfig, TINY | {"layer": 3}, "test")
    assert accounting.device("h10") is None


def test_there_is_one_mechanism() -> None:
    """No other file looks for near names by itself."""
    root = Path(scaling.__file__).parent
    users = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom | ast.Import)
        and "difflib" in (getattr(node, "module", None) or "", *(alias.name for alias in node.names))
    ]
    assert users == ["names.py"]
