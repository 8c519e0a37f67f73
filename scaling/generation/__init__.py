"""Writing text with a run's model: prompts are read in chunks, then tokens are drawn one by one."""

from scaling.doors import offered
from scaling.generation.generated import Generated, generate
from scaling.generation.sampling import Sampling

__all__ = ["Generated", "Sampling", "generate"]

offered(globals())
