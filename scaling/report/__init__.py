"""Reports: figures as PNG, one page with hover, the summary in words, and the mirror of runs in wandb."""

from scaling.report.make import summary, write

__all__ = ["summary", "write"]
