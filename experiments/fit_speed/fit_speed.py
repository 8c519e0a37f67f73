"""Time fits and bootstraps of `scaling.laws` beside a plain SciPy re-implementation, and check what they find.

taskset -c 0 python experiments/fit_speed/fit_speed.py [TABLE.csv]

TABLE.csv has columns params, tokens, loss and, optionally, used_in_fit. Without it: 240 synthetic runs of the same
kind. Prints a table in Markdown.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
from scipy import optimize

DELTA = 1e-3
RESAMPLES = 4000
TIGHT = {"ftol": 1e-15, "gtol": 1e-12, "maxiter": 3000, "maxfun": 30_000}
"""SciPy's settings beside its default ones"""
# Hoffmann et al. 2022, appendix D.3: log E, log A, log B, α, β
GRID = [np.linspace(-1, 1, 5), np.arange(0, 30, 5.0), np.arange(0, 30, 5.0), *[np.linspace(0, 2, 5)] * 2]


def table(path):
    """The runs as a DataFrame."""
    if path is not None:
        df = pd.read_csv(path)
        return df[df.used_in_fit == 1] if "used_in_fit" in df else df
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(np.log(5e7), np.log(1.5e10), 240)), np.exp(rng.uniform(np.log(5e8), np.log(3e11), 240))
    loss = (1.82 + 480 / n**0.347 + 2100 / d**0.366) * np.exp(0.006 * rng.standard_t(2.5, 240))
    return pd.DataFrame({"params": n, "tokens": d, "loss": loss})


def objective(theta, log_n, log_d, log_loss, counts):
    """Huber's loss of log-sum-exp residuals and its gradient: what Hoffmann et al. and Besiroglu et al. minimise."""
    e, a, b, alpha, beta = theta
    terms = np.stack([np.full_like(log_n, e), a - alpha * log_n, b - beta * log_d])
    top = terms.max(0)
    parts = np.exp(terms - top)
    total = parts.sum(0)
    r = top + np.log(total) - log_loss
    size = np.abs(r)
    value = counts @ np.where(size < DELTA, 0.5 * r**2, DELTA * (size - 0.5 * DELTA))
    pull = counts * np.clip(r, -DELTA, DELTA) * parts / total
    return value, np.array([pull[0].sum(), pull[1].sum(), pull[2].sum(), -pull[1] @ log_n, -pull[2] @ log_d])


def scipy_fit(start, data, counts, **options):
    """One descent by L-BFGS-B with the analytic gradient."""
    found = optimize.minimize(objective, start, (*data, counts), jac=True, method="L-BFGS-B", options=options)
    return found.fun, found.x


def fresh_process(path):
    """Seconds of one fit and one bootstrap where nothing is imported or compiled yet (child process)."""
    clock = [time.perf_counter()]
    from scaling import laws  # the first of these seconds

    _ = laws.fit
    import jax  # noqa: F401

    clock.append(time.perf_counter())
    runs = laws.Runs(table(path))
    clock.append(time.perf_counter())
    fit = laws.fit(runs, "chinchilla", loss=laws.huber(DELTA))
    clock.append(time.perf_counter())
    fit.bootstrap(RESAMPLES)
    clock.append(time.perf_counter())
    steps = dict(zip(("import", "table", "fit", "bootstrap"), np.diff(clock), strict=True))
    print(json.dumps(steps))


def cold(path, repeats):
    """The least of several fresh processes, for each step."""
    command = [sys.executable, __file__, *([path] if path else []), "--fresh"]
    told = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(repeats)
    ]
    return {step: min(times[step] for times in told) for step in told[0]}


def least(function, repeats):
    """(seconds of the quickest call, what the last one gave)."""
    seconds, value = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        value = function()
        seconds.append(time.perf_counter() - start)
    return min(seconds), value


def excess(fit, counts, data, sample):
    """Relative excess of each bootstrap objective over the best that long searches find [resamples].

    All resamples: 16 starts each, spread around the optimum, to a tolerance of 1e-15. The first `sample`: SciPy too.
    """
    from scaling.laws.solve.solver import solve

    rng = np.random.default_rng(1)
    best = fit.draws.objectives.copy()
    for _ in range(16):
        starts = fit.theta + np.array([0.3, 0.3, 0.3, 0.15, 0.15]) * rng.standard_normal((len(counts), 5))
        best = np.minimum(best, solve(fit.problem, starts, weights=counts, tolerance=1e-15).total)
    p = fit.params
    at = np.array([*np.log([p["E"], p["A"], p["B"]]), p["alpha"], p["beta"]])
    for i in range(sample):
        for start in at + np.array([0.1, 1, 1, 0.05, 0.05]) * rng.standard_normal((4, 5)):
            best[i] = min(best[i], scipy_fit(start, data, counts[i], **TIGHT)[0])
    return fit.draws.objectives / best - 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?")
    parser.add_argument("--repeats", type=int, default=5, help="of what takes seconds; the least counts")
    parser.add_argument("--sample", type=int, default=100, help="resamples that SciPy fits")
    parser.add_argument("--fresh", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fresh:
        return fresh_process(options.table)

    from scaling import laws
    from scaling.laws.intervals.bootstrap import resample_counts

    runs = laws.Runs(table(options.table))
    first = cold(options.table, options.repeats)
    warm, fit = least(lambda: laws.fit(runs, "chinchilla", loss=laws.huber(DELTA)), options.repeats)
    warm_bootstrap, _ = least(lambda: fit.bootstrap(RESAMPLES), options.repeats)

    ordered = fit.runs
    data = (np.log(ordered.N), np.log(ordered.D), np.log(ordered.loss))
    ones = np.ones(len(ordered))
    grid_seconds, found = least(lambda: [scipy_fit(s, data, ones) for s in itertools.product(*GRID)], 1)
    values = np.array([value for value, _ in found])
    optimum = found[int(values.argmin())][1]
    counts = resample_counts(np.arange(len(ordered)), RESAMPLES, 6, np.random.default_rng(0))
    sample = counts[: options.sample]
    scipy_seconds, scipy_values = [], []
    for tight in ({}, TIGHT):
        seconds, refits = least(lambda t=tight: [scipy_fit(optimum, data, own, **t) for own in sample], 1)
        scipy_seconds.append(f"{seconds / len(sample) * RESAMPLES:.0f} s")
        scipy_values.append(np.array([value for value, _ in refits]))
    over = excess(fit, counts, data, options.sample)
    best = (fit.draws.objectives / (1 + over))[: options.sample]
    scipy_over = [
        f"{np.mean(values / best - 1 <= 1e-6):.0%}, worst {(values / best - 1).max():.0e}" for values in scipy_values
    ]

    rows = [
        ("import scaling.laws and jax", f"{first['import']:.2f} s", "", ""),
        ("fit, 64 starts, fresh process, imports not counted", f"{first['fit']:.2f} s", "≤ 2 s", ""),
        ("the same with imports", f"{first['import'] + first['fit']:.2f} s", "≤ 2 s", ""),
        ("fit, 64 starts, warm", f"{warm:.3f} s", "≤ 0.2 s", f"{grid_seconds:.0f} s (4,500 starts, default)"),
        (
            f"{RESAMPLES:,} resamples, fresh process, with the fit's compilation",
            f"{first['fit'] + first['bootstrap']:.2f} s",
            "≤ 5 s",
            f"{'; '.join(scipy_seconds)} (from {options.sample})",
        ),
        (f"{RESAMPLES:,} resamples, warm", f"{warm_bootstrap:.2f} s", "", ""),
        (
            "starts within 1e-6 of the optimum",
            f"{fit.diagnostics.starts_at_optimum:.1%}",
            "",
            f"{np.mean(values <= fit.objective * (1 + 1e-6)):.1%}",
        ),
        ("objective", f"{fit.objective:.12g}", "", f"{values.min():.12g}"),
        (
            "resamples with an excess ≤ 1e-6",
            f"{np.mean(over <= 1e-6):.2%}, worst {over.max():.1e}",
            "≥ 99.9 %",
            "; ".join(scipy_over),
        ),
    ]
    print("| | scaling.laws | target | SciPy L-BFGS-B (default; tight) |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
