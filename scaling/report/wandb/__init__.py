"""A sweep in wandb: its dashboard, and its law as a run of its own."""

from scaling.report.wandb.dashboard import Dashboard, publish_dashboard

__all__ = ["Dashboard", "publish_dashboard"]
