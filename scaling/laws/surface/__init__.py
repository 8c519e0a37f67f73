"""Response surfaces: the loss about the best learning rate and batch, and where that best lies."""

from scaling.laws.surface.surface import BestSetting, ResponseSurface, TunedPoint, response_surface

__all__ = ["BestSetting", "ResponseSurface", "TunedPoint", "response_surface"]
