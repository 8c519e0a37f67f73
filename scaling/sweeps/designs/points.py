"""The list design: runs one by one."""

from collections.abc import Iterator

from scaling.config import ListDesign, SweepConfig
from scaling.sweeps.designs.planned import DesignPoint
from scaling.sweeps.designs.sizes import sized

LIST_TOLERANCE = 0.1  # a suggested run is about as informative over this range of N; the record has the actual N


def list_points(sweep: SweepConfig, design: ListDesign) -> Iterator[DesignPoint]:
    """The design's points in the order of the list."""
    for i, point in enumerate(design.points):
        where = f"design.points.{i}: {point.params:.4g} parameters"
        model = sized(sweep, point.params, where, tolerance=LIST_TOLERANCE)
        label = {"target_params": round(point.params), "target_tokens": round(point.tokens)}
        yield DesignPoint({"model": model, "tokens": round(point.tokens)}, label, seeds=point.seeds)
