"""Text generation with a run's model: prefill of prompts in chunks, then sampling token by token."""

from scaling.generation.generated import Generated, generate
from scaling.generation.sampling import Sampling

__all__ = ["Generated", "Sampling", "generate"]
