"""Observational laws: what benchmarks of many published models have in common, against compute by family.

Ruan et al. 2024 (2405.10938), from secondary sources: scores of models [M, T] have a few principal components, the
capabilities S; within a family S is linear in log C, with the family's own line; and a score of interest is a sigmoid
of S. Missing scores are imputed by the components themselves (the same source).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.intervals.interval import interval
from scaling.laws.table.reading import number_column
from scaling.names import offered, several

if TYPE_CHECKING:
    import pandas as pd

IMPUTATIONS, SETTLED = 200, 1e-8
FEWEST = 3
"""fewest models of a family with a line of its own"""
EDGE = 0.01
"""scores are clipped to this distance from 0 and 1 before a logit"""


@dataclass(frozen=True, eq=False)
class Capabilities:
    """Principal components of standardised scores, and the line of the first in log10 C of each family."""

    names: tuple[str, ...]
    """the benchmarks"""
    loadings: Array
    """[components, benchmarks], of standardised scores"""
    explained: Array
    """[components]: share of the variance"""
    components: Array
    """[models, components]; the first rises with the scores"""
    log_flops: Array
    """[models]: log10 C"""
    families: NDArray[np.str_]
    """[models]"""
    scores: Array
    """[models, benchmarks], imputed where they were missing"""
    level: float
    seed: int

    def family_laws(self) -> "pd.DataFrame":
        """S = intercept + slope·log10 C of each family of three models or more, one row each; slopes have
        intervals."""
        import pandas as pd

        rows = {}
        for family in np.unique(self.families):
            own = self.families == family
            if own.sum() >= FEWEST and np.ptp(self.log_flops[own]) > 0:
                intercept, slope, sd, draws = self._line(str(family), 4000)
                low, high = interval(draws[:, 1], self.level)
                rows[family] = {"models": int(own.sum()), "intercept": intercept, "slope": slope}
                rows[family] |= {"low": low, "high": high, "sd": sd}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("family")

    def predict(self, family: str, C: float, benchmark: str, n: int = 4000) -> dict[str, float]:
        """A benchmark's score for a model of that family trained with C FLOPs: score, low, high of a single model.

        The score is a logistic regression on the first component, over all families; the interval includes the
        uncertainty of the family's line and of the regression, and the scatter about both.
        Raises UserError for a family without a line, and an unknown benchmark.
        """
        if benchmark not in self.names:
            raise UserError(f"no benchmark {benchmark!r}; {offered(benchmark, self.names, 'there are ')}")
        intercept, slope, sd, drawn = self._line(family, n)
        at = np.log10(C)
        from scipy.special import expit, logit

        rng = np.random.default_rng(self.seed + 1)
        own = self.families == family
        ability = drawn[:, 0] + drawn[:, 1] * at + sd * rng.standard_t(own.sum() - 2, n)
        share = np.clip(self.scores[:, self.names.index(benchmark)], EDGE, 1 - EDGE)
        line, spread, of_score = _least_squares(self.components[:, 0], logit(share), n, rng)
        log_odds = of_score[:, 0] + of_score[:, 1] * ability + spread * rng.standard_t(len(share) - 2, n)
        low, high = interval(expit(log_odds), self.level)
        best = expit(line[0] + line[1] * (intercept + slope * at))
        return {"score": float(best), "low": low, "high": high}

    def _line(self, family: str, n: int) -> tuple[float, float, float, Array]:
        own = self.families == family
        if own.sum() < FEWEST or np.ptp(self.log_flops[own]) == 0:
            raise UserError(f"family {family!r} has {own.sum()} models of this table; a line needs {FEWEST}")
        rng = np.random.default_rng(self.seed)
        line, sd, draws = _least_squares(self.log_flops[own], self.components[own, 0], n, rng)
        return float(line[0]), float(line[1]), sd, draws


def capabilities(
    table: "pd.DataFrame",
    scores: Sequence[str],
    *,
    family: str = "family",
    C: str = "flops",
    components: int = 3,
    level: float = 0.9,
    seed: int = 0,
) -> Capabilities:
    """Principal components of benchmark scores; each row of the table is a model.

    scores: columns of scores, shares between 0 and 1; a missing one is imputed.
    family: column of labels. C: column of training FLOPs. components: at most this many.

    Raises UserError for fewer than two benchmarks, an invalid score, and a benchmark that does not vary.
    """
    scores = several(scores)
    if len(scores) < 2:
        raise UserError(f"capabilities needs two benchmarks or more; got {', '.join(scores) or 'none'}")
    rows = tuple(str(label) for label in table.index)
    given = np.stack([number_column(table[name], name, rows) for name in scores], 1)
    flops = number_column(table[C], C, rows)
    if not (flops > 0).all():
        raise UserError(f"column {C!r} must hold training FLOPs above 0")
    by_name = list(zip(scores, given.T, strict=True))
    if bad := [name for name, column in by_name if (column < 0).any() or (column > 1).any()]:
        raise UserError(f"column {bad[0]!r} must hold shares between 0 and 1 (divide percentages by 100)")
    if flat := [name for name, column in by_name if not np.nanstd(column) > 0]:
        raise UserError(f"column {flat[0]!r} does not vary and tells nothing of models")
    if not 1 <= components <= len(scores):
        raise UserError(f"components must be between 1 and the {len(scores)} benchmarks; got {components}")
    mean, sd = np.nanmean(given, 0), np.nanstd(given, 0)
    z, loadings, explained = _components((given - mean) / sd, components)
    return Capabilities(
        tuple(scores),
        loadings,
        explained,
        np.asarray(z @ loadings.T),
        np.log10(flops),
        np.asarray(table[family]).astype(str),
        np.asarray(z * sd + mean),
        level,
        seed,
    )


def _components(z: Array, count: int) -> tuple[Array, Array, Array]:
    """Standardised scores with missing ones imputed by the components, loadings, share of the variance."""
    missing = np.isnan(z)
    full = np.where(missing, 0.0, z)
    for _ in range(IMPUTATIONS):
        _, singular, directions = np.linalg.svd(full, full_matrices=False)
        kept = directions[:count]
        filled = np.where(missing, full @ kept.T @ kept, z)
        if np.abs(filled - full).max() < SETTLED:
            break
        full = filled
    sign = np.where(kept.sum(1) < 0, -1.0, 1.0)
    return filled, kept * sign[:, None], singular[:count] ** 2 / np.sum(singular**2)


def _least_squares(x: Array, y: Array, n: int, rng: Any) -> tuple[Array, float, Array]:
    """Intercept and slope, the residuals' standard deviation, draws [n, 2] of Student's t."""
    basis = np.stack([np.ones_like(x), x], 1)
    inverse = np.linalg.inv(basis.T @ basis)
    line = inverse @ basis.T @ y
    freedom = len(y) - 2
    sd = float(np.sqrt(np.sum((y - basis @ line) ** 2) / freedom))
    wide = np.sqrt(freedom / rng.chisquare(freedom, n))[:, None]
    drawn = line + sd * wide * (rng.standard_normal((n, 2)) @ np.linalg.cholesky(inverse).T)
    return np.asarray(line), sd, np.asarray(drawn)
