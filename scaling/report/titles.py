"""What quantities are called on axes and in captions, by the conventions that a table of runs carries."""

from collections.abc import Mapping

from scaling import laws
from scaling.report.data import Titles

QUANTITIES = {
    "C": "training FLOPs C",
    "N": "parameters N",
    "D": "training tokens D",
    "M": "tokens per parameter D/N",
    "loss": "loss",
}
DERIVED = {"a": "a, N* ∝ C^a", "b": "b, D* ∝ C^b", "D*/N*": "D*/N*, tokens per parameter"}


def titles_of(runs: laws.Runs) -> Titles:
    """Titles of axes and the end of captions, from the conventions that the table carries."""
    meanings = dict(runs.conventions)
    shared = [f"{key} {value}" for key, value in meanings.items() if key not in (*QUANTITIES, "run", "sigma")]
    left_out = f", {len(runs.exclusions)} left out with a reason" if runs.exclusions else ""
    parts = [f"{len(runs)} runs{left_out}, data {runs.hash}", *shared]
    return Titles(
        flops=title(runs, "C"),
        params=title(runs, "N"),
        tokens=title(runs, "D"),
        loss=title(runs, "loss"),
        conventions="; ".join(parts) + ".",
    )


def title(runs: laws.Runs, letter: str) -> str:
    """What a quantity is, and by which column or convention."""
    return title_by(runs.conventions, letter)


def title_by(conventions: Mapping[str, str], letter: str) -> str:
    """The same from the conventions alone."""
    name, meaning = QUANTITIES.get(letter, letter), conventions.get(letter, "")
    if not meaning or meaning in (letter, name):
        return name
    if letter == "loss":
        return f"loss ({meaning})" if meaning.lower() != "loss" else "loss"
    return f"{name} ({meaning})"


def derived_title(conventions: Mapping[str, str], name: str) -> str:
    """What a parameter or derived quantity is, and its unit where it has one."""
    if name in DERIVED:
        return DERIVED[name]
    letter = {"L*": "loss", "N*": "N", "D*": "D"}.get(name)
    return name if letter is None else f"{name}, {title_by(conventions, letter)}"
