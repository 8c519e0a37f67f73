"""Broken tables: read as they are meant or refused in one line that says what to mend."""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import CASES, call, damaged

from scaling import laws
from scaling.cli import main
from scaling.errors import UserError

SIZES, TOKENS = [1e6, 3e6, 1e7, 3e7], [1e8, 3e8, 1e9, 3e9]
ROWS = [
    [f"{n:.0f}", f"{d:.0f}", f"{1.7 + 400 / n**0.34 + 410 / d**0.28 + 0.001 * (i % 3):.6f}"]
    for i, (n, d) in enumerate(itertools.product(SIZES, TOKENS))
]
HEADER = ["params", "tokens", "loss"]
CELLS = ("", "x", "nan", "inf", "-inf", "0", "-1", "1e400", "1e300", "1e-300", "7B", "1,234", "1.5.5", "9" * 400,
         "=A1", "9" * 5000, '"', "\x00", "\ufeff", "None", "1e6 ", "0x10", "1_000", "<b>", "x" * 10_000,
         "a\nb", "1;2")  # fmt: skip


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield


@pytest.fixture(scope="module")
def compiled_fit(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the first fit of a process imports and compiles is not the broken table's."""
    file = tmp_path_factory.mktemp("whole") / "whole.csv"
    file.write_text(text_of(HEADER, ROWS))
    assert main(["fit", str(file), "--bootstrap", "0", "--starts", "4", "--json"]) == 0


def text_of(header: list[str], rows: list[list[str]], mark: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=mark, lineterminator="\n").writerows([header, *rows])
    return out.getvalue()


def check_fit(file: Path) -> None:
    """Fitted to the numbers that a person reads in the file, or refused."""
    outcome = call("fit", file, "--bootstrap", "0", "--starts", "4", "--json", "-o", "fit.json", limit_s=60)
    outcome.check(["fit", str(file)], seconds=20)  # another number of rows is compiled anew
    if outcome.code == 0:
        json.loads(outcome.out, parse_constant=pytest.fail)
    Path("fit.json").unlink(missing_ok=True)


def as_read(file: Path) -> list[tuple[float, float, float]] | None:
    """The rows that a fit would be of; None where they are refused."""
    try:
        runs = laws.read_csv(file, trusted=True, duplicates="keep")
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 5000
        return None
    return list(zip(runs.N.tolist(), runs.D.tolist(), runs.loss.tolist(), strict=True))


def as_written(file: Path) -> list[tuple[float, float, float]]:
    """The same by the standard library."""
    rows = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines()))
    at = [rows[0].index(name) for name in HEADER]
    return [tuple(float(row[i]) for i in at) for row in rows[1:] if row]  # type: ignore[misc]


@settings(max_examples=CASES // 4)
@given(seed=st.integers(0, 2**40))
def test_a_damaged_table_gives_the_numbers_that_are_in_it_or_none(seed: int) -> None:
    draw, file = random.Random(seed), Path("case.csv")
    rows = [list(row) for row in ROWS]
    if draw.random() < 0.5:
        for _ in range(draw.choice((1, 1, 2))):
            draw.choice(rows)[draw.randrange(3)] = draw.choice(CELLS)
        file.write_bytes(text_of(HEADER, rows).encode("utf-8", "surrogatepass"))
    else:
        file.write_bytes(damaged(text_of(HEADER, rows).encode(), draw, (b"a,b\n1,2\n",)))
    read = as_read(file)
    if read is not None:
        try:
            written = as_written(file)
        except (ValueError, IndexError, csv.Error):  # what the standard library takes for no number, such as 7B
            return
        assert read == written


@settings(max_examples=max(10, CASES // 100))
@given(seed=st.integers(0, 2**40))
@pytest.mark.usefixtures("compiled_fit")
def test_a_fit_of_a_damaged_table_ends_well_or_is_refused(seed: int) -> None:
    draw, file = random.Random(seed), Path("case.csv")
    rows = [list(row) for row in ROWS]
    draw.choice(rows)[draw.randrange(3)] = draw.choice(CELLS)
    file.write_text(text_of(HEADER, rows), encoding="utf-8", errors="surrogatepass")
    check_fit(file)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_gives_the_same_numbers(mark: str) -> None:
    Path("plain.csv").write_text(text_of(HEADER, ROWS))
    Path("other.csv").write_text(text_of(HEADER, ROWS, mark))
    assert as_read(Path("other.csv")) == as_read(Path("plain.csv"))


def test_decimal_commas_are_read_where_semicolons_divide_and_told_where_commas_do() -> None:
    comma = [[n, d, loss.replace(".", ",")] for n, d, loss in ROWS]
    Path("plain.csv").write_text(text_of(HEADER, ROWS))
    Path("decimal.csv").write_text(text_of(HEADER, comma, ";"))
    Path("bare.csv").write_text("\n".join(",".join(row) for row in [HEADER, *comma]))
    assert as_read(Path("decimal.csv")) == as_read(Path("plain.csv"))
    with pytest.raises(UserError, match=r"more fields than its header.*decimal point"):
        laws.read_csv("bare.csv")


def test_a_comma_that_may_be_a_decimal_point_or_not_is_refused() -> None:
    rows = [[n, d, f"3,{i:03d}"] for i, (n, d, _) in enumerate(ROWS)]
    Path("case.csv").write_text(text_of(HEADER, rows))
    with pytest.raises(UserError, match=r"'loss': 3,000 may be 3\.000 or 3000"):
        laws.read_csv("case.csv")
    rows = [[f"{float(n):,.0f}", d, loss] for n, d, loss in ROWS]
    Path("case.csv").write_text(text_of(HEADER, rows))
    np.testing.assert_array_equal(laws.read_csv("case.csv").N, np.repeat(SIZES, 4))


def test_points_between_thousands_are_told_from_decimals_where_a_comma_is_the_decimal_point() -> None:
    def write(*sizes: float) -> None:
        rows = [
            [f"{n:,.0f}".replace(",", "."), d, loss.replace(".", ",")]
            for n, (_, d, loss) in zip(sizes, ROWS, strict=True)
        ]
        Path("case.csv").write_text(text_of(HEADER, rows, ";"))

    write(*np.repeat(SIZES, 4))
    np.testing.assert_array_equal(laws.read_csv("case.csv").N, np.repeat(SIZES, 4))
    write(*range(22_500, 22_516))
    with pytest.raises(UserError, match=r"'params': 22,500 may be 22\.500 or 22500"):
        laws.read_csv("case.csv", trusted=True)


def test_a_name_of_two_lines_is_asked_for_as_it_is_shown() -> None:
    Path("case.csv").write_text(text_of(["params", "tokens\n(seen)", " loss "], ROWS))
    with pytest.raises(UserError, match=r"did you mean tokens \(seen\)"):
        laws.read_csv("case.csv")
    np.testing.assert_array_equal(laws.read_csv("case.csv", D="tokens (seen)").D, TOKENS * 4)
    Path("case.csv").write_text(
        "\n\n" + text_of(["params", '"tokens\nseen"', "loss", "loss"], [[*r, "1"] for r in ROWS])
    )
    with pytest.raises(UserError, match="two columns are called 'loss'"):
        laws.read_csv("case.csv")


def test_true_is_no_number_and_json_no_table() -> None:
    Path("case.csv").write_text(text_of(HEADER, [[n, d, "True"] for n, d, _ in ROWS]))
    with pytest.raises(UserError, match="'loss', row 0: True is not a number"):
        laws.read_csv("case.csv")
    for text in (json.dumps([dict(zip(HEADER, row, strict=True)) for row in ROWS]), json.dumps({"params": 1}) + "\n"):
        Path("case.csv").write_text(text)
        with pytest.raises(UserError, match="it is JSON"):
            laws.read_csv("case.csv")


@pytest.mark.parametrize(
    "data", [bytes(range(256)) * 20, b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x00", b"\xff\xfe" * 99]
)
def test_a_binary_file_is_refused_and_not_shown(data: bytes) -> None:
    Path("case.csv").write_bytes(data)
    outcome = call("fit", "case.csv")
    outcome.check(["fit"])
    assert outcome.refused and len(outcome.err) < 300


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_a_packed_table_is_read_and_one_that_unpacks_without_end_is_refused(suffix: str, pack) -> None:  # type: ignore[no-untyped-def]
    Path("plain.csv").write_text(text_of(HEADER, ROWS))
    file = Path(f"case.csv{suffix}")
    file.write_bytes(pack(Path("plain.csv").read_bytes()))
    assert as_read(file) == as_read(Path("plain.csv"))
    file.write_bytes(file.read_bytes()[:40])
    assert as_read(file) is None
    file.write_bytes(pack(bytes(2**20)) * 400)  # members one after another are one file to each of these
    outcome = call("fit", file)
    outcome.check(["fit"], seconds=5)
    assert outcome.refused and "unpacked" in outcome.err


def test_a_column_that_is_there_twice_is_refused() -> None:
    Path("case.csv").write_text(text_of([*HEADER, "loss"], [[*row, "9.9"] for row in ROWS]))
    with pytest.raises(UserError, match="two columns are called 'loss'"):
        laws.read_csv("case.csv")


def test_a_device_is_no_table() -> None:
    outcome = call("fit", "/dev/zero")
    outcome.check(["fit"])
    assert outcome.refused
