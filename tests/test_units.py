"""Numbers as tables, reports and run ids show them."""

import pytest

from scaling.units import duration, si, si_bytes, write_number


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (7, "7"), (999, "999"), (999.6, "1k"), (5120, "5.12k"), (999_499, "999k"), (999_500, "1M"),
        (999_936, "1M"), (124_439_808, "124M"), (999_936_000, "1B"), (7e9, "7B"), (1.5e12, "1.5T"), (-2e6, "-2M"),
    ],
)  # fmt: skip
def test_a_count_has_three_digits_and_never_a_thousand_of_a_unit(count: float, text: str) -> None:
    assert si(count) == text == write_number(count, "si")


def test_bytes_are_counted_in_powers_of_a_thousand() -> None:
    assert [si_bytes(n) for n in (1.8, 12, 999_936, 80e9)] == ["1.8 bytes", "12 bytes", "1MB", "80GB"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (3600, "1 h 0 min"), (86_399, "23 h 59 min"),
        (86_400, "1 d 0 h"), (90_740 * 3600 + 57 * 60, "3780 d 20 h"),
    ],
)  # fmt: skip
def test_a_long_time_is_told_in_days(seconds: float, text: str) -> None:
    assert duration(seconds) == text
