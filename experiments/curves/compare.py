"""Forecasts of curves that were not fitted: python experiments/curves/compare.py [MULTI_POWER_LAW_CLONE]

Without the clone (git clone https://github.com/thu-yao-01-luo/MultiPowerLaw, MIT licence; its curves are not copied
here) the runs of curves.yaml alone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from scaling import laws, load_runs, sweeps

HOME = Path(__file__).parent
LAWS = ("annealing", "multi_power")
SIZES = (25, 100, 400)
FITTED = ("cosine_24000", "constant_24000", "wsdcon_9")
"""of the published curves, the authors' own choice"""
HELD_OUT = ("constant_72000", "cosine_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3", "wsdcon_18")
WARMUP, FALL = 2160, 8000
"""steps of all their schedules, and the one at which `wsdcon` falls (their src/data_loader.py)"""
DRAWS = 200


def ours() -> dict[tuple[str, int], list[laws.LossCurve]]:
    """The runs of the sweep by schedule and steps."""
    table = load_runs("runs/curves").set_index("run_id")
    found: dict[tuple[str, int], list[laws.LossCurve]] = {}
    for curve in sweeps.load_curves("runs/curves"):
        found.setdefault((table.loc[curve.run, "schedule.name"], len(curve.rates)), []).append(curve)
    return found


def published(clone: Path, size: int) -> dict[str, laws.LossCurve]:
    """The curves of one size by file."""
    found = {}
    for name in (*FITTED, *HELD_OUT):
        table = pd.read_csv(clone / f"loss_curve_repo/csv_{size}/{name}.csv")
        if name.startswith("wsdcon"):  # the rate falls at once, between two of its rows
            ends = table["lr"].iloc[[0, -1]].to_numpy()
            table = pd.concat([table, pd.DataFrame({"step": [FALL, FALL + 1], "lr": ends})])
        (found[name],) = laws.read_curves(table.assign(run=name), rate="lr", warmup=WARMUP)
    return found


def report(
    title: str, fitted: Sequence[laws.LossCurve], held: dict[str, list[laws.LossCurve]]
) -> dict[str, laws.CurveFit]:
    """Print a table of forecasts; the fits by law."""
    fits = {}
    print(f"\n{title}\n\n| law | {' | '.join(held)} | mean, last | mean, all steps | inside 90 % | median width |")
    print("|---" * (len(held) + 5) + "|")
    for law in LAWS:
        fits[law] = laws.fit_curves(fitted, law)
        fits[law].bootstrap(DRAWS)
        parts = {name: laws.hold_out_curves(curves, fits[law]) for name, curves in held.items()}
        every = [each for part in parts.values() for each in part]
        cells = [" ".join(f"{100 * each.error:+.2f}" for each in part) for part in parts.values()]
        last, mean = (100 * np.mean([abs(getattr(e, name)) for e in every]) for name in ("error", "mean_error"))
        width = 100 * np.median([each.width for each in every])
        inside = f"{sum(bool(e.inside) for e in every)} of {len(every)}"
        print(f"| {law} | {' | '.join(cells)} | {last:.2f} % | {mean:.2f} % | {inside} | {width:.2f} % |", flush=True)
    for law, fit in fits.items():
        told = ", ".join(f"{name} {value:.3g}" for name, value in fit.params.items())
        rms = 100 * np.sqrt(np.mean(fit.fit.residuals**2))
        print(f"\n{law}: {told}; residuals {rms:.2f} %")
    return fits


def draw(path: Path, fits: dict[str, laws.CurveFit], curves: dict[str, laws.LossCurve]) -> None:
    """Outcomes as dots, forecasts as lines, a panel for each curve."""
    figure, axes = plt.subplots(1, len(curves), figsize=(3.2 * len(curves), 3), sharey=True, layout="constrained")
    for axis, (name, curve) in zip(axes, curves.items(), strict=True):
        axis.plot(curve.steps, curve.loss, "k.", markersize=3, label="outcome")
        for law, fit in fits.items():
            told = fit.predict(curve.rates)
            (line,) = axis.plot(told.steps, told.loss, label=law)
            axis.fill_between(told.steps, told.low, told.high, color=line.get_color(), alpha=0.2, linewidth=0)
        axis.set(title=name, xlabel="step")
    low = min(curve.loss.min() for curve in curves.values())
    axes[0].set(ylabel="held-out loss", ylim=(0.95 * low, 1.45 * low))
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    runs = ours()
    names = {kind: f"{kind[0]}, {kind[1]:,} steps" for kind in runs}
    for fitted in (("constant", "cosine"), ("constant", "wsd"), ("constant", "cosine", "wsd")):
        used = {(name, 3072) for name in fitted}
        held = {names[kind]: curves for kind, curves in runs.items() if kind not in used}
        fits = report(
            f"Fitted to {', '.join(fitted)} of 3,072 steps", [c for kind in sorted(used) for c in runs[kind]], held
        )
        draw(HOME / f"figures/{'_'.join(fitted)}.png", fits, {name: curves[0] for name, curves in held.items()})
    for clone in map(Path, sys.argv[1:]):
        for size in SIZES:
            curves = published(clone, size)
            held = {name: [curves[name].after(curves[name].warmup + 1)] for name in HELD_OUT}
            report(f"Published, {size}M", [curves[name] for name in FITTED], held)


if __name__ == "__main__":
    main()
