"""The best size at each budget, estimated from the runs near it, and how it grows with compute."""

from scaling.laws.isoflop.analysis import isoflop, try_isoflop
from scaling.laws.isoflop.envelope import Envelope, envelope
from scaling.laws.isoflop.minima import Isoflop, IsoflopBudget, MinimumMethod
from scaling.laws.isoflop.power_law import FittedPowerLaw

__all__ = [
    "Envelope",
    "FittedPowerLaw",
    "Isoflop",
    "IsoflopBudget",
    "MinimumMethod",
    "envelope",
    "isoflop",
    "try_isoflop",
]
