"""Response surfaces: the loss around the best learning rate and batch size, and where this optimum lies."""

from scaling.laws.surface.surface import BestSetting, ResponseSurface, TunedPoint, response_surface

__all__ = ["BestSetting", "ResponseSurface", "TunedPoint", "response_surface"]
