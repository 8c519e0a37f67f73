"""Which parameters, and whether the exponent a, the data determine, by profiles; which runs would determine the
rest."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from weakref import WeakKeyDictionary

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.intervals.coordinate import coordinate
from scaling.laws.intervals.covariance import curvature, inverted
from scaling.laws.intervals.profile import Profile, profile
from scaling.laws.quantities import derived, quantity
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.linear import jacobian
from scaling.laws.solve.noise import noise_of, slope_of
from scaling.text import percent

DECADE = 10.0
FACTOR = 10.0
"""how much larger or smaller the proposed runs are"""
CLEAR = 0.5
"""share of the way to being unidentified up to which the linearised interval of a parameter needs no profile"""
_KEPT: WeakKeyDictionary[FittedLaw, dict[tuple[str, float], tuple["Identification", Profile]]] = WeakKeyDictionary()
"""cached results by fit, name and level"""
_LEAST = -20.0
"""log of a positive parameter in units of the data below which its derivative would be lost to rounding"""


@dataclass(frozen=True)
class Identification:
    """Whether the data determine one parameter, or a."""

    name: str
    interval: tuple[float, float]
    """by the profile likelihood; 0 or infinite where it does not close"""
    identified: bool
    why: str
    """the extent of the interval where it is not identified, else empty"""
    remedy: str
    """the runs that would identify it"""

    def __str__(self) -> str:
        if self.identified:
            return f"{self.name} {self.interval[0]:.4g} … {self.interval[1]:.4g}"
        return f"{self.name} is not identified: {self.why}; {self.remedy}"


def identify(fit: FittedLaw, level: float = 0.9) -> dict[str, Identification]:
    """See `Fit.identified`."""
    names = (*fit.problem.free, *(("a",) if _exponents(fit) else ()))
    return {name: _identified(fit, name, level)[0] for name in names}


def unidentified(fit: FittedLaw, level: float = 0.9) -> dict[str, Identification]:
    """The unidentified ones of `identify`; a is profiled only where the exponents' intervals do not decide."""
    known = {name: _identified(fit, name, level)[0] for name in fit.problem.free}
    if (exponents := _exponents(fit)) and not _enclosed(fit, [known[name] for name in exponents]):
        known["a"] = _identified(fit, "a", level)[0]
    return {name: found for name, found in known.items() if not found.identified}


def open_profiles(fit: FittedLaw, level: float = 0.9) -> dict[str, Profile]:
    """The profiles of the fitted parameters that `identify` calls unidentified.

    None is made where the linearised law leaves no doubt: profiles take as long as a thousand draws.
    """
    if _clear(fit, level):
        return {}
    found = {name: _identified(fit, name, level) for name in fit.problem.free}
    return {name: along for name, (known, along) in found.items() if not known.identified}


def _clear(fit: FittedLaw, level: float) -> bool:
    """Whether all linearised intervals are far from what `_why` calls unidentified."""
    from scipy.special import stdtrit

    kinds = {p.name: p.kind for p in fit.form.parameters}
    real = np.array([kinds[name] == "real" for name in fit.problem.free])
    room = np.where(real, np.abs(fit.theta), np.log(DECADE) / 2)
    with np.errstate(all="ignore"):  # a parameter without effect has no finite variance
        covariance = noise_of(fit.residuals, fit.problem) * inverted(curvature(fit.problem, fit.theta)[0])
        half = float(stdtrit(max(fit.freedom, 1), (1 + level) / 2)) * np.sqrt(np.diag(covariance))
    return bool((half < CLEAR * room).all())


def _identified(fit: FittedLaw, name: str, level: float) -> tuple[Identification, Profile]:
    """The cached result: profiles take most of a summary's time."""
    kept = _KEPT.setdefault(fit, {})
    if (name, level) not in kept:
        found = profile(fit, name, points=21, level=level)
        why = _why(fit, found)
        known = Identification(name, found.interval, not why, why, remedy(fit, name) if why else "")
        kept[name, level] = known, found
    return kept[name, level]


def _exponents(fit: FittedLaw) -> list[str]:
    """The fitted parameters that a of the law's compute-optimal N* ∝ C^a depends on; none where it has no such a."""
    if "a" not in derived(fit.form):
        return []
    own = quantity(fit.form, fit.natural, "a")
    changed = quantity(fit.form, fit.problem.natural(fit.theta + 1e-3 * np.eye(len(fit.theta))), "a")
    return [name for name, a in zip(fit.problem.free, changed, strict=True) if 0 < own < 1 and abs(a - own) > 1e-9]


def _enclosed(fit: FittedLaw, exponents: list[Identification]) -> bool:
    """Whether a is identified because the exponents that it depends on are.

    Every set of parameters that fits as well as the cut lies within the profile intervals of all of them; since a is
    monotonic in each, it lies between its values at the corners of these intervals.
    """
    corners = np.array(list(product(*(found.interval for found in exponents))))
    natural = np.repeat(fit.natural[None], len(corners), 0)
    natural[:, [fit.form.params.index(found.name) for found in exponents]] = corners
    with np.errstate(all="ignore"):
        a = quantity(fit.form, natural, "a")
    return all(found.identified for found in exponents) and bool(a.min() > 0 and a.max() < min(1, DECADE * a.min()))


def _why(fit: FittedLaw, found: Profile) -> str:
    """Why the parameter, or a, is not identified; empty where it is."""
    low, high = found.interval
    kinds = {p.name: p.kind for p in fit.form.parameters}
    kind, share = kinds.get(found.name, "positive"), f"{percent(found.level)}"
    if not all(found.closed):
        sides = {(False, False): "either side", (True, False): "the upper side", (False, True): "the lower side"}
        return f"its {share} profile interval {low:.4g} … {high:.4g} does not close on {sides[found.closed]}"
    if kind == "positive" and high > DECADE * low:
        return f"its {share} profile interval {low:.4g} … {high:.4g} spans more than a decade"
    exponents = {power.exponent for p in fit.form.parameters for power in p.powers}
    if kind == "real" and found.name in exponents and low <= 0 <= high:
        return f"its {share} profile interval {low:.4g} … {high:.4g} includes 0, where its term is a constant"
    return ""


def remedy(fit: FittedLaw, name: str) -> str:
    """A sentence with the runs, larger or smaller copies of the present ones, most informative about a parameter or
    a.

    Information is 1 over the variance by the linearised law. Each candidate repeats every run with some of the
    columns multiplied or divided by 10; the Jacobian at the fit gives the information that its runs add.
    """
    problem = fit.problem
    kinds = {p.name: p.kind for p in fit.form.parameters}
    least = np.array([_LEAST if kinds[free] == "positive" else -np.inf for free in problem.free])
    theta = np.maximum(fit.theta, least)
    matrix = curvature(problem, theta)[0]
    direction = coordinate(fit, name, None, None).slope(theta)
    slope = slope_of(problem, problem.residuals(theta))

    def information(extra: Array) -> float:
        variance = float(direction @ inverted(matrix + extra) @ direction)
        return 1.0 / min(max(variance, 1e-300), 1e300)  # practically infinite without any information

    before = information(np.zeros_like(matrix))
    gains = {}
    for label, shift in _candidates(fit.form.columns):
        J = jacobian(problem, theta, problem.x + shift[:, None])
        gains[label] = information(slope * (J.T * problem.weights) @ J) / before
    best = max(gains, key=lambda label: gains[label])
    # Repeating the present runs would double the information.
    if not gains[best] > 2.0:
        return "more runs like these would help as much as larger or smaller ones"
    return f"it needs runs at {best}, which would make its standard error {gains[best] ** 0.5:.2g} times smaller"


def _candidates(columns: tuple[str, ...]) -> Iterator[tuple[str, Array]]:
    """Directions in log columns: each column alone, all together, and N and D in opposite directions."""
    for signs in product((0, 1, -1), repeat=len(columns)):
        moved = [(name, sign) for name, sign in zip(columns, signs, strict=True) if sign]
        if len(moved) not in (1, 2) or (len(moved) == 2 and {name for name, _ in moved} != {"N", "D"}):
            continue
        parts = [f"{FACTOR:g} times {'larger' if sign > 0 else 'smaller'} {name}" for name, sign in moved]
        label = " and ".join(parts)
        if len(moved) == 2:
            same, up = moved[0][1] == moved[1][1], moved[0][1] > 0
            n_up = dict(moved)["N"] > 0
            label += (" (larger C)" if up else " (smaller C)") if same else (
                " (fewer tokens per parameter)" if n_up else " (more tokens per parameter)"
            )  # fmt: skip
        yield label, np.log(FACTOR) * np.array(signs, np.float64)
