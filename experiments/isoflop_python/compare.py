"""Put the two ladders side by side: losses run by run, minima, laws, forecasts, FLOPs spent.

python experiments/isoflop_python/compare.py [RUNS]

RUNS holds the folders isoflop-cosine and isoflop-branches (default: runs). Prints tables in Markdown and writes
figures/ beside this file.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

import scaling
from scaling import laws

HERE = Path(__file__).parent
LADDERS = {"cosine": "isoflop-cosine", "branches": "isoflop-branches"}
COLORS = plt.get_cmap("viridis")(np.linspace(0, 0.85, 5))
LEVEL = 0.9


def main(folder):
    homes = {kind: folder / name for kind, name in LADDERS.items()}
    tables = {kind: scaling.load_runs(home, role="fit") for kind, home in homes.items()}
    pairs = paired(tables)
    print(spent(tables, homes), same_runs(pairs), minima(tables), law_table(homes), forecasts(homes), sep="\n\n")
    (HERE / "figures").mkdir(exist_ok=True)
    draw_isoflop(tables)
    draw_difference(pairs)
    draw_forecasts(tables, homes)


def paired(tables):
    """One row for each (N, D, seed) that both ladders trained."""
    columns = ["params_total", "tokens", "seed", "budget", "loss"]
    cosine, branches = (tables[kind][columns] for kind in LADDERS)
    keys = ["params_total", "tokens", "seed"]
    pairs = cosine.merge(branches.drop(columns="budget"), on=keys, suffixes=("", "_branches"))
    assert len(pairs) == len(cosine) == len(branches), "the ladders are not the same grid"
    pairs["gain"] = pairs.loss_branches / pairs.loss - 1
    return pairs


def markdown(head, rows):
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in cells)


def spent(tables, homes):
    rows = []
    for kind, table in tables.items():
        own = table.flops_spent.sum()
        tests = scaling.load_runs(homes[kind], role="test").flops.sum()
        less = f"{1 - own / table.flops.sum():.0%}"
        rows.append([kind, len(table), f"{table.flops.sum():.3g}", f"{own:.3g}", less, f"{tests:.3g}"])
    head = ["ladder", "runs", "FLOPs as whole runs", "FLOPs spent", "less", "FLOPs of the test runs"]
    return markdown(head, rows)


def same_runs(pairs):
    """What a branch ends at beside the cosine run of the same N, D and seed; and what a seed does."""
    seeds = pairs.pivot_table(index=["params_total", "tokens"], columns="seed", values=["loss", "loss_branches"])
    scatter = [seed_scatter(np.log(seeds[column])) for column in ("loss", "loss_branches")]
    told = [f"{sd:.2%} ({share:.0%} of the variance common to the runs of a size)" for sd, share in scatter]
    groups = [*((f"{budget:.2g}", gain) for budget, gain in pairs.groupby("budget").gain), ("all", pairs.gain)]
    rows = [[name, f"{g.mean():+.2%}", f"{g.std():.2%}", f"{g.min():+.2%}", f"{g.max():+.2%}"] for name, g in groups]
    return (
        markdown(["budget", "branches' loss against cosine's, mean", "sd", "least", "most"], rows)
        + f"\n\nScatter of the seed, one standard deviation: cosine {told[0]}, branches {told[1]}."
    )


def seed_scatter(log_losses):
    """Standard deviation of log loss from seed to seed, and the share of its variance that the runs of one size have
    in common: by analysis of variance of the differences between the two seeds, one class for each size."""
    difference = (log_losses[1] - log_losses[0]) / np.sqrt(2)
    classes = [group.to_numpy() for _, group in difference.groupby("params_total")]
    count, sizes = len(difference), np.array([len(group) for group in classes])
    within = sum(np.sum((group - group.mean()) ** 2) for group in classes) / (count - len(classes))
    means = np.array([group.mean() for group in classes])
    between = np.sum(sizes * (means - difference.mean()) ** 2) / (len(classes) - 1)
    common = max(between - within, 0.0) * (len(classes) - 1) / (count - np.sum(sizes**2) / count)
    return np.sqrt(np.mean(difference**2)), common / (common + within)


def minima(tables):
    rows = []
    found = {kind: laws.isoflop(laws.from_results(table), level=LEVEL) for kind, table in tables.items()}
    for budgets in zip(*(analysis.budgets for analysis in found.values()), strict=True):
        row = [f"{budgets[0].C:.2g}"]
        for b in budgets:
            low, high = b.N_interval
            row += [f"{b.N_opt:,.0f} [{low:,.0f}, {high:,.0f}]" if b.counts else b.verdict, f"{b.loss_opt:.4f}"]
        rows.append(row)
    for name, law in (("a", "N_law"), ("b", "D_law")):
        row = [f"exponent {name}"]
        for analysis in found.values():
            fitted = getattr(analysis, law)
            low, high = fitted.exponent_interval
            row += [f"{fitted.exponent:.3f} [{low:.3f}, {high:.3f}]", ""]
        rows.append(row)
    return markdown(["C", *(f"{what}, {kind}" for kind in found for what in ("N*", "L*"))], rows)


def law_table(homes):
    """The laws as frozen with the forecasts: parametric, with the sweep's priors."""
    rows = []
    for kind, home in homes.items():
        saved = json.loads((home / "fit.json").read_text())
        rows.append([kind, *(f"{saved['params'][name]:.4g}" for name in ("E", "A", "B", "alpha", "beta"))])
    return markdown(["law of", "E", "A", "B", "α", "β"], rows)


def forecasts(homes):
    rows = []
    for kind, home in homes.items():
        forecast, outcome = (json.loads((home / name).read_text()) for name in ("forecast.json", "outcome.json"))
        tests = scaling.load_runs(home, role="test")
        inside = sum(forecast["low"] <= loss <= forecast["high"] for loss in tests.loss)
        rows.append(
            [
                kind,
                f"{forecast['N']:,.0f}",
                f"{forecast['D']:,.0f}",
                f"{forecast['loss']:.4f} [{forecast['low']:.4f}, {forecast['high']:.4f}]",
                ", ".join(f"{loss:.4f}" for loss in tests.loss),
                f"{outcome['mean_error']:+.1%}",
                f"{inside} of {len(tests)}",
            ]
        )
    head = ["ladder", "N", "D", f"forecast [{LEVEL:.0%}]", "actual", "error", "inside"]
    return markdown(head, rows)


def draw_isoflop(tables):
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharex=True, sharey=True)
    for axis, (kind, table) in zip(axes, tables.items(), strict=True):
        for color, budget in zip(COLORS, laws.isoflop(laws.from_results(table), level=LEVEL).budgets, strict=True):
            axis.plot(budget.N, budget.loss, "o", color=color, markersize=4)
            sizes = np.geomspace(budget.N[0], budget.N[-1], 60)
            axis.plot(sizes, budget.curve(sizes), color=color, label=f"{budget.C:.2g} FLOPs")
            if budget.counts:
                axis.plot(budget.N_opt, budget.loss_opt, "D", color=color, markeredgecolor="black")
        axis.set(xscale="log", title=kind, xlabel="parameters N, all counted")
    axes[0].set_ylabel("held-out loss, nats per byte")
    axes[1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(HERE / "figures" / "isoflop.png", dpi=130)


def draw_difference(pairs):
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for color, (budget, group) in zip(COLORS, pairs.groupby("budget"), strict=True):
        axis.plot(group.params_total, 100 * group.gain, "o", color=color, label=f"{budget:.2g} FLOPs")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(xscale="log", xlabel="parameters N, all counted", ylabel="branch against cosine run, % of the loss")
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(HERE / "figures" / "difference.png", dpi=130)


def draw_forecasts(tables, homes):
    """The best loss at each budget, what was forecast from it, and what came."""
    figure, axis = plt.subplots(figsize=(5.5, 4.2))
    for (kind, table), color, shift in zip(tables.items(), ("C0", "C1"), (0.97, 1.03), strict=True):
        counted = [b for b in laws.isoflop(laws.from_results(table), level=LEVEL).budgets if b.counts]
        axis.plot([b.C for b in counted], [b.loss_opt for b in counted], "o-", color=color, label=f"{kind}: minima")
        forecast = json.loads((homes[kind] / "forecast.json").read_text())
        C, loss = shift * forecast["flops"], forecast["loss"]
        ends = [[loss - forecast["low"]], [forecast["high"] - loss]]
        axis.errorbar(C, loss, ends, fmt="s", color=color, capsize=4, label=f"{kind}: forecast, {LEVEL:.0%}")
        tests = scaling.load_runs(homes[kind], role="test")
        axis.plot([C] * len(tests), tests.loss, "x", color="black", label="test runs" if kind == "branches" else None)
    axis.set(xscale="log", xlabel="training FLOPs, exact count", ylabel="held-out loss, nats per byte")
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(HERE / "figures" / "forecasts.png", dpi=130)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
