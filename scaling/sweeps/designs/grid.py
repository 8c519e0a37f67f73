"""The grid design: keys whose values are crossed (axes), and keys whose values vary together (zip)."""

import itertools
from collections.abc import Iterator
from typing import Any

from scaling.config import GridDesign, RunConfig, SweepConfig, check_key, merge, put
from scaling.errors import UserError
from scaling.sweeps.designs.planned import DesignPoint, axis
from scaling.sweeps.designs.sizes import FLOPS_KEY, PARAMS_KEY, sized


def grid_points(sweep: SweepConfig, design: GridDesign) -> Iterator[DesignPoint]:
    """The design's points; the last axis varies fastest, zipped keys faster still."""
    for key in design.keys:
        check_key(
            RunConfig, key, f"sweep {sweep.name}: {axis(design, key)}", also=(PARAMS_KEY, FLOPS_KEY), values=sweep.run
        )
    together = list(zip(*design.zip.values(), strict=True)) or [()]
    for *crossed, zipped in itertools.product(*design.axes.values(), together):
        label = dict(zip(design.keys, (*crossed, *zipped), strict=True))
        values: dict[str, Any] = {}
        for key, value in label.items():
            if key not in (PARAMS_KEY, FLOPS_KEY):
                values = put(values, key, value, f"sweep {sweep.name}: {axis(design, key)}")
        if PARAMS_KEY in label:
            target, where = label[PARAMS_KEY], axis(design, PARAMS_KEY)
            if isinstance(target, bool) or not isinstance(target, int | float) or target < 1:
                raise UserError(f"{where}: {target!r} is not a number of parameters")
            model = sized(sweep, target, f"{where}: {target:g}", values.get("model", {}))
            values = merge(values, {"model": model})
        budget = label.get(FLOPS_KEY)
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int | float) or budget <= 0):
            raise UserError(f"{axis(design, FLOPS_KEY)}: {budget!r} is not a number of FLOPs")
        yield DesignPoint(values, label, budget)
