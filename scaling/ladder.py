"""The ladder: one smooth series of shapes, and its member for a target number of parameters or FLOPs.

It is a staircase of (layers, d_model) pairs that climbs along the target aspect ratio one step at a time; d_ff (the
inner width in other families) fills the gap between two stairs. So layers and d_model do not decrease with the
target, and d_ff / d_model stays near the target ratio. Only where a stair is too high for d_ff to fill (a doubling of
layers at the bottom, coarse width steps), a pair beside the staircase is used.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, floor, lcm, log
from typing import Any

from scaling import accounting
from scaling.config import build, family_of
from scaling.errors import UserError
from scaling.families import FAMILIES, LadderConfig, ModelConfig
from scaling.frozen import LAYERS

TOLERANCE = 0.01
FF_RANGE = (0.5, 1.6)  # factors by which d_ff may differ from the target ratio: enough to bridge 1 and 2 layers
STAIRS = 2**16
"""most shapes of a ladder that are considered"""
ASPECT_RANGE = 4.0  # and this factor for the aspect ratio, where the staircase has no fit
LEAST_VOCABULARY = 256  # tokens of the smallest tokenizer, one a byte
MOST_VOCABULARY = 0.5  # share of all parameters from which a note is made: N then says little about the layers
SIZE_KEY = "model.params"
"""not a key of a run: it requests a size from the ladder"""

Measure = Callable[[ModelConfig], float]
Pair = tuple[int, int]


def model_for_params(
    n: float, ladder: LadderConfig, base: Mapping[str, Any], tolerance: float = TOLERANCE, asked_by: str = ""
) -> ModelConfig:
    """The ladder's model of `n` parameters (which ones: `ladder.count`).

    base: a model's values other than its sizes (vocabulary, context, activation ...); sizes in it are replaced.
    tolerance: largest relative deviation.
    asked_by: keys with which n rises, for the error where n itself is no key.
    Raises UserError where `ladder` has nothing this near, naming the nearest.
    """
    return _Search(ladder, base, _count(ladder), f"{ladder.count} parameters", asked_by).nearest(n, tolerance)


def size_keys() -> tuple[str, ...]:
    """The keys of a run that set the size of its model, which a ladder determines."""
    return tuple(dict.fromkeys(f"model.{key}" for family in FAMILIES.values() for key in family.SIZES))


def finer(ladder: LadderConfig) -> list[str]:
    """Advice on how to put more shapes on the ladder; empty where it has them all."""
    steps = {"ladder.ff_multiple": ladder.ff_multiple, "ladder.width_multiple": ladder.width_multiple}
    return [f"lower {key} ({value})" for key, value in steps.items() if value > 1]


def model_for_flops(
    c: float, tokens_per_param: float, ladder: LadderConfig, base: Mapping[str, Any], tolerance: float = TOLERANCE
) -> ModelConfig:
    """The ladder's model that `c` exact training FLOPs train on `tokens_per_param` tokens per parameter.

    Parameters are counted as `ladder.count` says; `base`, `tolerance` and errors as in `model_for_params`.
    """
    count = _count(ladder)

    def flops(model: ModelConfig) -> float:
        return accounting.flops_per_token(model).exact * tokens_per_param * count(model)

    what = f"training FLOPs at {tokens_per_param:g} tokens per parameter"
    return _Search(ladder, base, flops, what).nearest(c, tolerance)


def _named(key: str) -> str:
    """The name in a sweep's file of a key of a base."""
    return f"run.model.{key}" if key else "run.model"


def _count(ladder: LadderConfig) -> Measure:
    return lambda model: getattr(accounting.params(model), ladder.count)


@dataclass(frozen=True)
class _Fit:
    """A shape and how well it fits."""

    model: ModelConfig
    value: float
    miss: float
    """relative distance from the target"""


def vocabulary_share(model: ModelConfig) -> float:
    """Share of the embedding and the head (rows of the vocabulary) in all parameters."""
    counts = accounting.params(model)
    return (counts.items.get("embedding", 0) + counts.items.get("head", 0)) / counts.total


class _Search:
    """The shapes that a ladder allows over a base, and one measure of them that grows with each of their sizes."""

    def __init__(
        self, ladder: LadderConfig, base: Mapping[str, Any], measure: Measure, what: str, asked_by: str = ""
    ):
        self.ladder, self.measure, self.what, self.asked_by = ladder, measure, what, asked_by
        self.base, self.family = base, family_of(base, "the model to be sized", _named)
        self.step = self.family.step_of_layers(base)
        self.least = self.family.least_layers(base)
        self.multiple = lcm(ladder.ff_multiple, self.family.step_of_inner(base))
        rest = {key: value for key, value in base.items() if key not in self.family.SIZES}
        first = (self.least, ladder.width_multiple)
        self.template = build(self.family, rest | self._sizes(first, self.multiple), "the model to be sized", _named)

    def nearest(self, target: float, tolerance: float) -> ModelConfig:
        if not target > 0:
            raise UserError(f"a ladder needs a positive target, got {target} {self.what}")
        on = [self._fit(pair, target) for pair in self._stairs(target)]
        fits = [fit for fit in on if fit.miss <= tolerance]
        if fits:  # of the stairs below and above, the one whose d_ff is nearer to the wanted
            return min(fits, key=lambda fit: abs(log(self._ff_ratio(fit.model)))).model
        beside = [self._fit(pair, target) for pair in self._beside(target, tolerance)]
        fits = [fit for fit in beside if fit.miss <= tolerance]
        if fits:
            return min(fits, key=lambda fit: self._cost(fit.model)).model
        best = min([*on, *beside], key=lambda fit: fit.miss)
        nearer = [self._fit(pair, target) for pair in self._beside(target, best.miss)]
        raise UserError(self._too_far(target, tolerance, min([best, *nearer], key=lambda fit: fit.miss)))

    def _too_far(self, target: float, tolerance: float, best: _Fit) -> str:
        m = best.model
        other = f"{'raise' if best.value > target else 'lower'} {self.asked_by}" if self.asked_by else "use that size"
        share = vocabulary_share(m)
        counted = m.vocab > LEAST_VOCABULARY and "non_embedding" not in self.ladder.count
        if counted and best.value > target and share > MOST_VOCABULARY:
            rows = f"{share:.0%} of its parameters are the {m.vocab:,} rows of the vocabulary"
            other = f"{rows}: use a smaller one (model.vocab, data.tokenizer.vocab), or {other}"
        return (
            f"no shape of the ladder has {target:.6g} {self.what} within {tolerance:.2%}; nearest: {best.value:.6g} "
            f"({best.miss:.1%} off) with layers={m.layers}, d_model={m.d_model}, {m.INNER}={m.inner}; "
            + ", or ".join([other, *finer(self.ladder)])
        )

    def _stairs(self, target: float) -> list[Pair]:
        """The last stair that is smaller than the target with the wanted d_ff, and the one above it."""
        pairs: list[Pair] = []
        for pair in self._climb():
            pairs.append(pair)
            if len(pairs).bit_count() == 1 and self._at_ratio(pair, 1.0) >= target:
                break
            if len(pairs) == STAIRS or pair[0] > LAYERS:
                raise UserError(
                    f"{target:.4g} {self.what} are beyond the ladder's {len(pairs):,} shapes, which end with "
                    f"layers={pair[0]}, d_model={pair[1]}; raise ladder.width_multiple "
                    f"({self.ladder.width_multiple}) or ladder.aspect ({self.ladder.aspect:g}), or use less"
                )
        above = bisect_left(pairs, target, key=lambda pair: self._at_ratio(pair, 1.0))
        return pairs[max(0, above - 1) : above + 1]

    def _climb(self) -> Iterator[Pair]:
        aspect, width = self.ladder.aspect, self.ladder.width_multiple
        layers, d_model = self.least, width
        while True:
            yield layers, d_model
            deeper = abs(log(d_model / ((layers + self.step) * aspect)))
            wider = abs(log((d_model + width) / (layers * aspect)))
            if deeper < wider:
                layers += self.step
            else:
                d_model += width

    def _beside(self, target: float, tolerance: float) -> Iterator[Pair]:
        """Every pair of an aspect ratio near the wanted that some d_ff may bring to the target."""
        aspect, width = self.ladder.aspect, self.ladder.width_multiple
        low, high = target * (1 - tolerance), target * (1 + tolerance)
        d_model = width
        while True:
            least = max(self.least // self.step, ceil(d_model / (aspect * ASPECT_RANGE * self.step)))
            most = max(least, floor(d_model * ASPECT_RANGE / (aspect * self.step)))
            depths = [n * self.step for n in range(least, most + 1)]
            if self._at_ratio((depths[0], d_model), FF_RANGE[0]) > high:
                return
            first = bisect_left(depths, low, key=lambda n: self._at_ratio((n, d_model), FF_RANGE[1]))
            for layers in depths[first:]:
                if self._at_ratio((layers, d_model), FF_RANGE[0]) > high:
                    break
                yield layers, d_model
            d_model += width

    def _fit(self, pair: Pair, target: float) -> _Fit:
        """The pair with the d_ff that brings it nearest to the target."""
        multiple = self.multiple
        smallest, largest = (self._ff(pair[1], factor) // multiple for factor in FF_RANGE)
        steps = range(smallest, largest + 1)
        above = bisect_left(steps, target, key=lambda k: self.measure(self._model(pair, k * multiple)))
        models = [self._model(pair, k * multiple) for k in steps[max(0, above - 1) : above + 1]]
        fits = [_Fit(model, value, abs(value / target - 1)) for model in models for value in [self.measure(model)]]
        return min(fits, key=lambda fit: fit.miss)

    def _at_ratio(self, pair: Pair, factor: float) -> float:
        return self.measure(self._model(pair, self._ff(pair[1], factor)))

    def _ff(self, d_model: int, factor: float) -> int:
        """The multiple nearest to `factor` times the wanted d_ff, rounded into FF_RANGE where there is room."""
        exact = factor * self.ladder.ff_ratio * d_model / self.multiple
        rounded = ceil(exact) if factor < 1 else floor(exact) if factor > 1 else round(exact)
        return max(1, rounded) * self.multiple

    def _model(self, pair: Pair, d_ff: int) -> ModelConfig:
        return self.template.model_copy(update=self._sizes(pair, d_ff))

    def _sizes(self, pair: Pair, inner: int) -> dict[str, int]:
        return self.family.sized(self.ladder, self.base, pair, inner)

    def _ff_ratio(self, model: ModelConfig) -> float:
        """The inner width over d_model, over the wanted."""
        return model.inner / (model.d_model * self.ladder.ff_ratio)

    def _cost(self, model: ModelConfig) -> float:
        aspect = model.d_model / (model.layers * self.ladder.aspect)
        return log(aspect) ** 2 + log(self._ff_ratio(model)) ** 2
