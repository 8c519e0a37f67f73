"""What FLOPs cost in chips and hours."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

import scaling
from scaling.errors import UserError

if TYPE_CHECKING:
    import scaling.accounting

DTYPES = {"bf16": "bfloat16", "bfloat16": "bfloat16", "fp32": "float32", "f32": "float32", "float32": "float32"}


def chip_hours(flops: ArrayLike, device: str = "h100", mfu: float = 0.4, dtype: str = "bf16") -> Any:
    """Hours of one chip that `flops` take: flops / (peak · mfu · 3600).

    flops: training or inference FLOPs, a number or an array. Note that MFU counts a model's own FLOPs, without those
    of recomputation.
    device: a short name of `scaling.accounting` (h100, v5e, …); of a chip with two JAX devices (v2, v3, v7x) the
    whole chip.
    mfu: share of the peak of dense products that is reached; 0.3 to 0.5 is what good large runs report.
    dtype: bf16 or fp32 (float32 arrays at JAX's default precision).

    Raises UserError for an unknown device or dtype, a device without a peak, an mfu outside (0, 1].
    """
    if dtype not in DTYPES:
        raise UserError(f"chip_hours: no dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    if not 0 < mfu <= 1:
        raise UserError(f"chip_hours: mfu is a share of the peak, above 0 and at most 1, such as 0.4; got {mfu!r}")
    count = np.asarray(flops, np.float64)
    if not (np.isfinite(count) & (count >= 0)).all():
        raise UserError(f"chip_hours: flops must be finite and not negative; got {flops!r}")
    found = next((known for known in scaling.accounting.DEVICES if known.name == device.strip().lower()), None)
    with_peak = [known for known in scaling.accounting.DEVICES if getattr(known, DTYPES[dtype]) is not None]
    if found is None:
        raise UserError(f"chip_hours: {scaling.accounting.unknown_device(device, with_peak)}")
    if found not in with_peak:
        names = ", ".join(known.name for known in with_peak)
        raise UserError(f"chip_hours: no {dtype} peak is known of {device!r}; allowed: {names}")
    peak = scaling.accounting.peak_flops(found.name, DTYPES[dtype])
    assert peak is not None
    hours = count / (peak * found.per_chip * mfu * 3600.0)
    return float(hours) if hours.ndim == 0 else hours
