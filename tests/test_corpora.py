"""Corpora: which documents there are, in which order, which are held out, and what is refused."""

import glob
import gzip
import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from mutations import call
from waiting import LIMIT_S

from scaling.config import DataConfig
from scaling.data import prepare
from scaling.data.corpora import open_corpus, source_identity
from scaling.data.corpus import held_out
from scaling.data.matches import files_matching
from scaling.errors import UserError

SPLITS = ("train", "validation")


def files(pattern: Path | str, fraction: float = 0.3, field: str = "text") -> DataConfig:
    return DataConfig(corpus=f"files:{pattern}", validation_fraction=fraction, text_field=field)


def texts(data: DataConfig, split: str, store: Path | str = "store") -> list[str]:
    return [text for _, text in open_corpus(data, store).documents(split)]


def write_jsonl(path: Path, values: list[str], field: str = "text") -> None:
    lines = "".join(json.dumps({"id": i, field: value}) + "\n" for i, value in enumerate(values))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())


@pytest.fixture
def folder(tmp_path):
    """Documents d0 … d59 over every kind of file, in the order of the files' paths."""
    import pyarrow
    import pyarrow.parquet

    documents = [f"d{i} é漢\r\n" for i in range(60)]
    write_jsonl(tmp_path / "a.jsonl", documents[:20])
    (tmp_path / "b.txt").write_bytes(documents[20].encode())
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(documents[21].encode()))
    write_jsonl(tmp_path / "deep/er/d.jsonl.gz", documents[22:40])
    pyarrow.parquet.write_table(pyarrow.table({"text": documents[40:]}), tmp_path / "e.parquet", row_group_size=7)
    return tmp_path, documents


def test_every_kind_of_file_is_read_in_order(folder):
    path, documents = folder
    train, validation = (texts(files(path / "**/*.*"), split) for split in SPLITS)
    assert sorted(train + validation, key=documents.index) == documents
    assert train == [d for d in documents if d in train] and validation == [d for d in documents if d in validation]
    assert not set(train) & set(validation)
    assert 5 < len(validation) < 35


def test_any_place_can_be_gone_on_from(folder):
    path, _ = folder
    corpus = open_corpus(files(path / "**/*.*"), "store")
    for split in SPLITS:
        whole = list(corpus.documents(split))
        for i, (position, _) in enumerate(whole):
            assert list(corpus.documents(split, position)) == whole[i + 1 :]


def test_held_out_documents_stay_so_in_another_folder_and_beside_new_files(folder, tmp_path_factory):
    path, _ = folder
    before = texts(files(path / "**/*.jsonl*"), "validation")
    moved = tmp_path_factory.mktemp("moved") / "data"
    path.rename(moved)
    write_jsonl(moved / "aa.jsonl", ["new"] * 50)
    after = texts(files(moved / "**/*.jsonl*"), "validation")
    assert [text for text in after if text != "new"] == before


def test_the_held_out_share_is_the_one_asked_for():
    shares = {f: sum(held_out(f"x:{i}", f) for i in range(20_000)) / 20_000 for f in (0.01, 0.2, 0.7)}
    assert all(abs(share - f) < 0.015 for f, share in shares.items())


def test_empty_documents_and_blank_lines_are_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n\n  \n{"text": "x"}\n{"text": "y"}\n')
    (tmp_path / "b.txt").write_text("")
    assert sorted(texts(files(tmp_path / "*"), "train") + texts(files(tmp_path / "*"), "validation")) == ["x", "y"]


def test_another_field_can_be_named(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ["one", "two"], field="body")
    data = files(tmp_path / "a.jsonl", field="body")
    assert sorted(texts(data, "train") + texts(data, "validation")) == ["one", "two"]


def bad_files(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    import pyarrow
    import pyarrow.parquet

    write_jsonl(tmp_path / "field.jsonl", ["x"] * 3, field="body")
    (tmp_path / "type.jsonl").write_text('{"text": 5}\n')
    (tmp_path / "list.jsonl").write_text("[1, 2]\n")
    (tmp_path / "json.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "latin.jsonl").write_bytes('{"text": "café"}'.encode("latin-1"))
    (tmp_path / "broken.txt.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    (tmp_path / "plain.txt.gz").write_bytes(b"no gzip at all")
    (tmp_path / "fake.parquet").write_bytes(b"no parquet at all")
    packed = bytearray(gzip.compress("".join(map(chr, range(32, 400))).encode()))
    packed[12:22] = b"\xff" * 10
    (tmp_path / "flipped.jsonl.gz").write_bytes(packed)
    (tmp_path / "utf16.txt").write_text("plain English", encoding="utf-16-le")
    (tmp_path / "photo.txt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    (tmp_path / "utf16.jsonl").write_text('{"text": "a"}\n' * 2, encoding="utf-16")
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    (tmp_path / "line.jsonl").write_text('{"text": "%s"}' % ("x" * 200_000))
    (tmp_path / "long.txt").write_text("x" * 200_001)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(bytes(2**20)))
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(bytes(2**20)))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x" * 1000] * 9}), tmp_path / "cut.parquet")
    pages = bytearray((tmp_path / "cut.parquet").read_bytes())
    pages[4:60] = b"\xff" * 56
    (tmp_path / "pages.parquet").write_bytes(pages)
    (tmp_path / "cut.parquet").write_bytes(pages[:-100])
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "field.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": [1]}), tmp_path / "type.parquet")
    messages = {
        "field.jsonl": r"line 1 has no field data.text_field='text'; it has: body, id",
        "type.jsonl": r"line 1: field 'text' is int, expected text",
        "list.jsonl": r"line 1 has no field .* no fields",
        "json.jsonl": r"line 2 is not JSON",
        "latin.txt": r"byte 3 is not UTF-8",
        "latin.jsonl": r"line 1 is not UTF-8",
        "broken.txt.gz": r"cannot read .*broken.txt.gz",
        "plain.txt.gz": r"cannot read .*plain.txt.gz",
        "flipped.jsonl.gz": r"cannot read .*flipped.jsonl.gz",
        "utf16.txt": r"byte 1 is NUL, which is not allowed in text",
        "photo.txt": r"byte \d+ is (NUL|not UTF-8)",
        "utf16.jsonl": r"line 1 is not UTF-8",
        "deep.jsonl": r"line 1 is nested too deep",
        "line.jsonl": r"line 1 has more than .* MiB uncompressed",
        "long.txt": r"long.txt has more than .* MiB uncompressed",
        "bomb.txt.gz": r"bomb.txt.gz has more than .* MiB uncompressed",
        "bomb.jsonl.gz": r"line 1 has more than .* MiB uncompressed",
        "fake.parquet": r"is not a parquet file",
        "cut.parquet": r"is not a parquet file",
        "pages.parquet": r"pages.parquet",
        "field.parquet": r"has no column data.text_field='text'; it has: body",
        "type.parquet": r"row 1: field 'text' is int",
    }
    return {name: (tmp_path / name, message) for name, message in messages.items()}


def test_unreadable_files_are_named_with_the_place(tmp_path, monkeypatch):
    monkeypatch.setattr("scaling.data.files_corpus.LONGEST", 200_000)
    for name, (path, message) in bad_files(tmp_path).items():
        with pytest.raises(UserError, match=message) as caught:
            for split in SPLITS:
                texts(files(path), split)
        assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["another", "gone"])
def test_a_file_that_changes_while_it_is_read_is_told(tmp_path, change):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, ["x" * 1000] * 500)
    documents = open_corpus(files(path), "store").documents("train")
    next(documents)
    path.write_bytes(path.read_bytes().replace(b"xx", b"yy")) if change == "another" else path.unlink()
    with pytest.raises(UserError, match=rf"{path} changed while it was read|cannot read {path}: No such file"):
        list(documents)


def test_without_a_network_a_download_is_refused_in_one_line_and_in_seconds(tmp_path, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    slept: list[float] = []
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    (tmp_path / "data.yaml").write_text("{corpus: tfds:ag_news_subset, text_field: description}")
    outcome = call("data", "prepare", tmp_path / "data.yaml", "--store", tmp_path / "store")
    said = outcome.err.splitlines()
    assert outcome.refused and said[-1].startswith(
        "scaling: tensorflow-datasets cannot prepare ag_news_subset: Connec"
    )
    assert sum(line.startswith("scaling:") for line in said) == 1 and "Retrying" not in outcome.err
    assert 0 < sum(slept) < 20


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz"])
def test_what_unpacks_without_end_is_refused_in_little_memory(tmp_path, name):
    for number in range(100):  # of which some are held out
        (tmp_path / f"z{number}.txt.gz").write_bytes(gzip.compress(b"x"))
    (tmp_path / name).write_bytes(gzip.compress(b"x" * 2**20) * 400)
    (tmp_path / "data.yaml").write_text(f"corpus: files:{tmp_path}/*.gz\n")
    outcome = call("data", "prepare", tmp_path / "data.yaml", "--store", tmp_path / "store")
    outcome.check(["data", "prepare"])
    assert outcome.refused and "uncompressed" in outcome.err


def test_a_glob_that_matches_nothing_or_what_is_not_text_is_refused(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match=r"matches no file"):
        open_corpus(files(tmp_path / "*.txt"), "store")
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"x.zip is not a supported kind of file; allowed: .txt"):
        open_corpus(files(tmp_path / "*.zip"), "store")


def test_a_link_to_a_folder_above_does_not_bring_the_same_files_again(tmp_path):
    for number in range(30):
        (tmp_path / "texts/in").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"texts/in/{number}.txt").write_text(f"text {number}")
    (tmp_path / "texts/in/above").symlink_to("..")
    (tmp_path / "other").symlink_to("texts/in")  # one that leads nowhere back is followed
    (tmp_path / "texts/in/again").symlink_to("../in")
    (tmp_path / "texts/round").mkdir()  # with so many, a walk that forgets where it has been does not end
    (tmp_path / "texts/round/in").symlink_to("../in")
    (tmp_path / "texts/in/round").symlink_to("../round")
    found = [text for split in SPLITS for text in texts(files(tmp_path / "texts/in/**/*.txt"), split)]
    assert sorted(found) == sorted(f"text {number}" for number in range(30))
    assert len(open_corpus(files(tmp_path / "other/*.txt"), "store").files) == 30


@pytest.mark.parametrize(
    "pattern",
    ["**/*.txt", "a/**/*.txt", "**", "*/**/*.md", "[ab]/**/?.txt", "**/c/**/*", "a/b/*.txt", "**.txt", "no/**"],
)
def test_a_tree_without_circles_is_matched_as_glob_does(tmp_path, pattern):
    for name in (
        "1.txt",
        "a/2.txt",
        "a/b/3.txt",
        "a/b/c/4.md",
        "a/c/5.txt",
        "b/.hidden/6.txt",
        "b/.7.txt",
        "[x]/8.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "b/link").symlink_to("../a")
    (tmp_path / "b/gone").symlink_to("nowhere")
    path = f"{tmp_path}/{pattern}"
    assert files_matching(path) == {found for found in glob.glob(path, recursive=True) if os.path.isfile(found)}


@pytest.mark.parametrize("fraction, said", [(0.05, "none is"), (0.999, "all are")])
def test_a_text_that_is_one_document_is_refused_before_it_is_read(tmp_path, fraction, said):
    (tmp_path / "all.txt").write_text("all of it")
    with pytest.raises(UserError, match=rf"each \.txt file is one document, and of 1 {said} .*document_bytes=1024"):
        prepare(files(tmp_path / "*.txt", fraction), tmp_path / "store", progress=False)
    write_jsonl(tmp_path / "lines.jsonl", ["a"])
    open_corpus(files(tmp_path / "*.*", fraction), "store").require_usable()  # lines are not known unread


@pytest.mark.parametrize("name", ["python_stdlibs", "tfds:", "files:", "http://x", "lm1b"])
def test_an_unknown_corpus_lists_what_is_allowed(name):
    with pytest.raises(UserError, match=r"allowed: python_stdlib, tfds:NAME .*, files:GLOB"):
        open_corpus(DataConfig(corpus=name), "store")


def test_a_relative_glob_and_an_absolute_one_are_the_same_corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source_identity(files("x/*.txt")) == source_identity(files(tmp_path / "x/*.txt"))
    assert source_identity(files("x/*.txt")) != source_identity(files("y/*.txt"))


MAKE_TFDS = """
import sys
from pathlib import Path
import tensorflow_datasets as tfds

class Builder:
    VERSION = tfds.core.Version("1.2.3")
    code_path = Path(__file__)
    def _info(self):
        features = tfds.features.FeaturesDict({"title": tfds.features.Text(), "text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)
    def _split_generators(self, manager):
        return {split: self._generate_examples(split) for split in self.SPLITS}
    def _generate_examples(self, split):
        for i in range(300):
            yield f"{split}{i}", {"title": f"t{i}", "text": f"{split} {i} é" if i else ""}

for name, splits in {"With": ("train", "validation"), "Without": ("train", "test"), "Odd": ("test",)}.items():
    cls = type(f"Tiny{name}", (Builder, tfds.core.GeneratorBasedBuilder), {"SPLITS": splits, "__module__": __name__})
    cls(data_dir=sys.argv[1]).download_and_prepare(file_format="array_record")
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """Datasets prepared by code that this process does not have, as on a cluster."""
    folder = tmp_path_factory.mktemp("tfds")
    (folder / "make.py").write_text(MAKE_TFDS)
    subprocess.run([sys.executable, folder / "make.py", folder / "data"], check=True, timeout=LIMIT_S)
    return folder / "data"


@pytest.fixture
def tfds_data(tfds_folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_folder))


def test_tfds_splits_of_its_own_are_used(tfds_data):
    data = DataConfig(corpus="tfds:tiny_with")
    assert sorted(texts(data, "train")) == sorted(f"train {i} é" for i in range(1, 300))
    assert sorted(texts(data, "validation")) == sorted(f"validation {i} é" for i in range(1, 300))
    corpus = open_corpus(data, "store")
    assert corpus.facts["dataset"] == "tiny_with/1.2.3" and corpus.size("train") == 300


def test_tfds_without_a_validation_split_holds_out_some_of_train(tfds_data):
    data = DataConfig(corpus="tfds:tiny_without:1.2.3", validation_fraction=0.2)
    train, validation = texts(data, "train"), texts(data, "validation")
    assert sorted(train + validation) == sorted(f"train {i} é" for i in range(1, 300))
    assert 30 < len(validation) < 90
    assert texts(data, "train") == train


def test_tfds_can_go_on_from_any_place(tfds_data):
    corpus = open_corpus(DataConfig(corpus="tfds:tiny_without", validation_fraction=0.2), "store")
    for split in SPLITS:
        whole = list(corpus.documents(split))
        for i in range(0, len(whole), 17):
            assert list(corpus.documents(split, whole[i][0])) == whole[i + 1 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_field": "body"}, r"tiny_with/1.2.3 has no field data.text_field='body'; it has: text, title"),
        ({"corpus": "tfds:tiny_odd"}, r"tiny_odd/1.2.3 has no train split; it has: test"),
        ({"corpus": "tfds:lm1bb"}, r"tfds:lm1bb is not a dataset of tensorflow-datasets \(nearest names: lm1b"),
        ({"corpus": "tfds:tiny_with:9.9.9"}, r"tfds:tiny_with:9.9.9 is not a dataset"),
    ],
)
def test_tfds_mistakes_are_named(tfds_data, change, message):
    with pytest.raises(UserError, match=message):
        open_corpus(DataConfig(**{"corpus": "tfds:tiny_with", **change}), "store")


def test_tfds_that_cannot_be_prepared_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    tfds = pytest.importorskip("tensorflow_datasets")

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", offline)
    with pytest.raises(UserError, match=r"cannot prepare lm1b: OSError: no network; .*TFDS_DATA_DIR"):
        open_corpus(DataConfig(corpus="tfds:lm1b"), "store")


@pytest.fixture
def small_library(tmp_path, monkeypatch):
    """A standard library of a few files instead of the real one, whose 31 MB take seconds."""
    root = tmp_path / "lib"
    for i in range(80):
        path = root / ("test" if i % 2 else ".") / f"m{i}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# module {i}\nx = 'é'\n", encoding="utf-8")
    (root / "latin.py").write_bytes("# café".encode("latin-1"))
    (root / "notes.txt").write_text("not a source")
    for name in ("site-packages", "dist-packages"):
        (root / name).mkdir()
        (root / name / "installed.py").write_text("# not of the library")
    real = sysconfig.get_path
    monkeypatch.setattr(sysconfig, "get_path", lambda name, *a, **k: str(root) if name == "stdlib" else real(name))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    return root


def test_python_stdlib_is_a_tfds_dataset_split_by_file(small_library, tmp_path):
    corpus = open_corpus(DataConfig(corpus="python_stdlib"), tmp_path / "store")
    train, validation = ([text for _, text in corpus.documents(split)] for split in SPLITS)
    assert sorted(train + validation) == sorted(f"# module {i}\nx = 'é'\n" for i in range(80))
    assert 1 <= len(validation) <= 12
    version = "cpython-" + ".".join(map(str, sys.version_info[:3]))
    assert corpus.facts["python"] == version
    assert (tmp_path / "store/tfds/python_stdlib" / version / "1.0.0/dataset_info.json").exists()

    import tensorflow_datasets as tfds

    builder = tfds.builder("python_stdlib", data_dir=tmp_path / "store/tfds")
    assert isinstance(builder, tfds.core.GeneratorBasedBuilder)
    held = {example["path"].decode() for example in builder.as_data_source(split="validation")}
    assert held == {p for p in os_paths(small_library) if held_out(p, 0.05) and not p.startswith("latin")}


def os_paths(root: Path) -> set[str]:
    found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names if name.endswith(".py"))
    return {path.relative_to(root).as_posix() for path in found if "packages" not in str(path.relative_to(root))}


def test_reading_tfds_needs_no_tensorflow(tfds_data):
    code = (
        "import sys\n"
        "from scaling.config import DataConfig; from scaling.data.corpora import open_corpus\n"
        "print(len(list(open_corpus(DataConfig(corpus='tfds:tiny_with'), 'store').documents('train'))))\n"
        "print([m for m in ('tensorflow', 'torch', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LIMIT_S)
    assert done.stdout.split() == ["299", "[]"]


def test_importing_the_data_package_imports_nothing_heavy():
    code = (
        "import sys, scaling.data\n"
        "print([m for m in ('tensorflow_datasets', 'tokenizers', 'pyarrow', 'jax', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LIMIT_S)
    assert done.stdout.strip() == "[]"
