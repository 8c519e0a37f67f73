"""Names that a user gives: one or several, and suggestions for an unknown one by spelling, by its words, and by the
descriptions of known names."""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

CLOSE, FAR = 0.6, 0.5  # difflib's ratio of a misspelt name, and where nothing else is found
STEM = 3  # letters that two words share at least where one begins with the other


def meant(name: str, known: Iterable[str] | Mapping[str, str], most: int = 3, quote: str = "") -> str:
    """`did you mean a or b?`, empty where nothing is similar. known: names, or names with descriptions.

    most: largest number of names. quote: around each.
    """
    near = nearest(name, known, most)
    return f"did you mean {' or '.join(f'{quote}{each}{quote}' for each in near)}?" if near else ""


def offered(name: str, known: Iterable[str] | Mapping[str, str], say: str = "allowed: ") -> str:
    """`allowed: a, b, c; did you mean a?`, for the end of an error message. say: text before the names."""
    descriptions = dict(known) if isinstance(known, Mapping) else dict.fromkeys(known, "")
    hint = meant(name, descriptions, most=1)
    return f"{say}{', '.join(descriptions)}{'; ' * bool(hint)}{hint}"


def nearest(name: str, known: Iterable[str] | Mapping[str, str], most: int = 3) -> list[str]:
    """The known names that `name` may mean, the likeliest first.

    In this order: those that begin with it; those spelt alike; those whose words begin alike (`tie_embeddings` and
    `tied`), whose initials it is (`lr`), or of which its words are written (`hoffmann` of a law by Hoffmann et al.);
    and those spelt somewhat alike.
    """
    descriptions = known if isinstance(known, Mapping) else dict.fromkeys(known, "")
    asked, lower = name.lower(), {each.lower(): each for each in descriptions}
    begun = [each for key, each in lower.items() if len(asked) >= STEM and key.startswith(asked)]
    alike = dict.fromkeys([*begun, *_spelt(asked, lower, most, CLOSE)])
    return [*(alike or _by_words(name, descriptions) or _spelt(asked, lower, most, FAR))][:most]


def several(names: Any) -> tuple[Any, ...]:
    """One name, or several, as a tuple: a text is one, not one for each letter."""
    return tuple(names) if isinstance(names, Iterable) and not isinstance(names, str) else (names,)


def near_file(path: str | Path) -> str:
    """`; did you mean runs/demo?` for a path that is not there, by what lies beside it; empty if nothing is near."""
    path = Path(path)
    try:
        there = {each.name: "" for each in path.parent.iterdir() if not each.name.startswith(".")}
    except OSError:
        return ""
    near = nearest(path.name, there, 1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _spelt(name: str, lower: Mapping[str, str], most: int, cutoff: float) -> list[str]:
    return [lower[key] for key in get_close_matches(name, lower, n=most, cutoff=cutoff)]


def _by_words(name: str, descriptions: Mapping[str, str]) -> list[str]:
    """By score. A word of the name itself counts twice one of what is written; the latter alone must be all of it."""
    words = list(_words(name))
    scores: dict[str, int] = {}
    for each, written in descriptions.items():
        own, text = list(_words(each)), set(_words(written))
        inside = [word for word in words if any(_alike(word, one) for one in own)]
        about = [word for word in words if any(_alike(word, one, STEM + 1) for one in text)]
        initials = len(own) > 1 and name.lower() == "".join(word[0] for word in own)
        if inside or initials or (words and len(about) == len(words)):
            scores[each] = 2 * len(inside) + len(about) + 3 * initials
    best = max(scores.values(), default=0)
    return [each for each, score in scores.items() if score == best]


def _words(text: str) -> Iterator[str]:
    return (word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", text))


def _alike(one: str, other: str, least: int = STEM) -> bool:
    short, long = sorted((one, other), key=len)
    return len(short) >= least and long.startswith(short)
