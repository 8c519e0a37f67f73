"""Reports: figures as PNG, one page with hover, the summary in words, plots for notebooks, and wandb's mirror."""

from scaling.doors import callable_room, offered
from scaling.report.make import live_command, page_of, settle, summary, write, write_fit
from scaling.report.notebook import (
    plot_bootstrap,
    plot_experts,
    plot_forecast,
    plot_frontier,
    plot_group_optima,
    plot_groups,
    plot_isoflop,
    plot_mixture,
    plot_optima,
    plot_profile,
    plot_residuals,
    plot_surface,
)
from scaling.report.wandb.dashboard import Dashboard, publish_dashboard

__all__ = [
    "Dashboard",
    "live_command",
    "page_of",
    "plot_bootstrap",
    "plot_experts",
    "plot_forecast",
    "plot_frontier",
    "plot_group_optima",
    "plot_groups",
    "plot_isoflop",
    "plot_mixture",
    "plot_optima",
    "plot_profile",
    "plot_residuals",
    "plot_surface",
    "publish_dashboard",
    "settle",
    "summary",
    "write",
    "write_fit",
]

offered(globals())
callable_room(globals(), "write")
