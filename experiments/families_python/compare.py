"""Put ladders of three kinds of models side by side: the best loss of every budget, laws, forecasts and test runs.

python experiments/families_python/compare.py [RUNS]

RUNS holds the folders demo, lstm and masked (default: runs). Prints tables in Markdown and writes figures/ beside
this file.
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
LADDERS = {"transformer": "demo", "LSTM": "lstm", "masked encoder, upper bound": "masked"}
LEVEL = 0.9


def main(folder):
    homes = {kind: folder / name for kind, name in LADDERS.items()}
    found = {kind: laws.isoflop(laws.from_results(scaling.load_runs(home, role="fit")), level=LEVEL)
             for kind, home in homes.items()}  # fmt: skip
    print(minima(found), equal_loss(found, homes), law_table(homes), forecasts(homes), sep="\n\n")
    draw(found, homes)


def frozen(home):
    """The forecast of a ladder, and what came of it."""
    return (json.loads((home / name).read_text()) for name in ("forecast.json", "outcome.json"))


def markdown(head, rows):
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in cells)


def minima(found):
    rows = []
    for kind, analysis in found.items():
        for b in analysis.budgets:
            low, high = b.N_interval
            size = f"{b.N_opt:,.0f} [{low:,.0f}, {high:,.0f}]" if b.counts else b.verdict
            rows.append([kind, f"{b.C:.2g}", len(b.N), size, f"{b.loss_opt:.4f}"])
    return markdown(["ladder", "C", "runs", f"N* [{LEVEL:.0%}]", "L*"], rows)


def equal_loss(found, homes):
    """FLOPs of the transformer for the loss of the LSTM's minima, log-linear between its own minima and test runs."""
    loss, C = zip(*((b.loss_opt, b.C) for b in found["transformer"].budgets), strict=True)
    forecast, outcome = frozen(homes["transformer"])
    loss, C = (*loss, np.mean(list(outcome["losses"].values()))), (*C, forecast["flops"])
    rows = []
    for b in found["LSTM"].budgets:
        needed = np.exp(np.interp(-b.loss_opt, -np.array(loss), np.log(C)))
        rows.append([f"{b.C:.2g}", f"{b.loss_opt:.4f}", f"{needed:.2g}", f"{needed / b.C:.1f}"])
    return markdown(["C of the LSTM", "its L*", "C of the transformer for it", "times"], rows)


def law_table(homes):
    """The laws as frozen with the forecasts: parametric, with the sweep's priors."""
    rows = []
    for kind, home in homes.items():
        forecast = json.loads((home / "forecast.json").read_text())
        values = (f"{forecast['params'][name]:.4g}" for name in ("E", "A", "B", "alpha", "beta"))
        rows.append([kind, *values, f"{forecast['exponent']:.3f}"])
    return markdown(["law of", "E", "A", "B", "α", "β", "a of N* ∝ C^a"], rows)


def forecasts(homes):
    rows = []
    for kind, home in homes.items():
        forecast, outcome = frozen(home)
        losses, inside = outcome["losses"].values(), outcome["inside"].values()
        told = f"{forecast['loss']:.4f} [{forecast['low']:.4f}, {forecast['high']:.4f}]"
        actual = ", ".join(f"{loss:.4f}" for loss in losses)
        error, share = f"{outcome['mean_error']:+.1%}", f"{sum(inside)} of {len(inside)}"
        rows.append([kind, f"{forecast['flops']:.2g}", f"{forecast['N']:,.0f}", told, actual, error, share])
    return markdown(["ladder", "C", "N", f"forecast [{LEVEL:.0%}]", "actual", "error", "inside"], rows)


def draw(found, homes):
    """The best loss at each budget, what was forecast from it, and what came."""
    figure, axis = plt.subplots(figsize=(6, 4.2))
    for color, shift, (kind, analysis) in zip(("C0", "C1", "C2"), (0.97, 1.03, 1), found.items(), strict=True):
        counted = [b for b in analysis.budgets if b.counts]
        axis.plot([b.C for b in counted], [b.loss_opt for b in counted], "o-", color=color, label=kind)
        forecast, outcome = frozen(homes[kind])
        C, loss = shift * forecast["flops"], forecast["loss"]
        ends = [[loss - forecast["low"]], [forecast["high"] - loss]]
        axis.errorbar(C, loss, ends, fmt="s", color=color, capsize=4)
        axis.plot([C] * len(outcome["losses"]), list(outcome["losses"].values()), "x", color="black")
    axis.set(xscale="log", xlabel="training FLOPs, exact count", ylabel="held-out loss, nats per byte")
    axis.legend(frameon=False, loc="center left", title=f"minima; ■ forecast, {LEVEL:.0%}; × test runs")
    figure.tight_layout()
    (HERE / "figures").mkdir(exist_ok=True)
    figure.savefig(HERE / "figures" / "families.png", dpi=130)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
