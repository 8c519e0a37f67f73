"""What is context worth? Laws, the forecast that is frozen before its test is trained, tables and figures.

    python experiments/context_cpu/measure.py runs     # with --models for what models make of other windows, too
    python experiments/context_cpu/study.py            # freezes forecast.json where there is none
    scaling sweep experiments/context_cpu/test.yaml

It reads the small tables beside it, never the runs. Contexts and windows are in tokens, here bytes; losses in nats
per byte on held-out text; N counts all parameters.
"""

import datetime
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scaling import laws

HERE = Path(__file__).parent
TWICE, LEVEL, DRAWS = 8192, 0.9, 1000
"""the context of the test, twice the longest; of intervals; of bootstraps"""
COLUMNS = {"N": "params_total", "D": "tokens", "T": "context"}


def read(name: str) -> pd.DataFrame:
    table = pd.read_csv(HERE / f"{name}.csv")
    return table.assign(set=table["sweep"].str.removeprefix("context-"))


def of_one_size(runs: pd.DataFrame) -> pd.DataFrame:
    """Nine contexts at 4 million tokens, 33 thousand parameters."""
    fixed = runs["set"].isin(["tokens", "between"]) & (runs["d_model"] == 32)
    return runs[fixed].sort_values("context")


def of_all_sizes(runs: pd.DataFrame) -> pd.DataFrame:
    """Three sizes at 4 million tokens, one of them at 1, 2 and 8, too."""
    return runs[runs["set"].isin(["tokens", "between", "data"])]


def fitted(runs: pd.DataFrame, law: str | laws.Form) -> laws.Fit:
    form = laws.get_form(law) if isinstance(law, str) else law
    columns = {letter: name if letter in form.columns else None for letter, name in COLUMNS.items()}
    table = laws.Runs(runs, trusted=True, loss="loss", C=None, **columns)
    fit = laws.fit(table, form, loss=laws.huber(1e-2), starts=64)
    fit.bootstrap(DRAWS, kind="noise")
    return fit


def of_flops(runs: pd.DataFrame) -> laws.Fit:
    """A law of context for each size at 8e11 FLOPs: what a longer context tells falls alike in all, and what it costs
    rises by the same power."""
    own = runs[runs["set"] == "flops"].sort_values(["params_total", "context"])
    table = laws.Runs(own, N=None, D=None, T="context", loss="loss", trusted=True, duplicates="keep")
    names = [f"{size / 1e3:.0f}k" for size in own["params_total"]]
    fit = laws.fit(
        table, "context_optimum", group=names, shared=("K", "gamma", "delta"), loss=laws.huber(1e-2), starts=32
    )
    fit.bootstrap(DRAWS, kind="noise")
    return fit


def freeze(runs: pd.DataFrame) -> list[dict[str, object]]:
    """What the run of twice the longest context will reach, first by the law of its size, then by that of all."""
    own = of_one_size(runs)
    columns = {"N": own["params_total"].iloc[0], "D": own["tokens"].iloc[-1], "T": TWICE}
    frozen = []
    for law, table in (("context_optimum", own), ("chinchilla_context_optimum", of_all_sizes(runs))):
        fit = fitted(table, law)
        told = fit.predict(level=LEVEL, **{letter: float(columns[letter]) for letter in fit.form.columns})
        frozen.append(
            {"law": law, "runs": len(table), "date": datetime.date.today().isoformat(), "level": LEVEL}
            | {key: int(value) for key, value in columns.items()}
            | {"loss": float(told.loss), "low": float(told.run_low), "high": float(told.run_high)}
        )
    return frozen


def reading(blocks: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Losses of the models of 4,096 tokens that read windows of less, a row for each of both: three sizes that
    were trained from scratch, and one that is extended."""
    own = runs[(runs["context"] == 4096) & runs["set"].isin(["tokens", "extend"])]
    own = own.drop_duplicates(["set", "d_model"])[["sweep", "run_id", "set", "params_total"]]
    table = own.merge(blocks.drop(columns="set"), on=["sweep", "run_id"]).rename(columns={"read": "context"})
    model = (table["params_total"] / 1e3).round().astype(int).astype(str) + "k"
    table["model"] = model.where(table["set"] == "tokens", model + ", extended")
    return table.assign(loss=table[block_names(blocks)].mean(axis=1)).sort_values(["model", "context"])


def block_names(blocks: pd.DataFrame) -> list[str]:
    return [name for name in blocks if name.isdigit()]


def block_losses(blocks: pd.DataFrame, run: pd.Series, read: int | None = None) -> np.ndarray:
    """Of a run that reads its own context, or less."""
    read = read or int(run["context"])
    found = blocks[(blocks["sweep"] == run["sweep"]) & (blocks["run_id"] == run["run_id"]) & (blocks["read"] == read)]
    return found[block_names(blocks)].to_numpy()[0]


def pick(runs: pd.DataFrame, name: str, context: int, tokens: float = 4e6, seed: int = 0) -> pd.Series:
    """The run of 33 thousand parameters."""
    near = (runs["tokens"] / tokens - 1).abs() < 0.05
    same = (runs["d_model"] == 32) & (runs["context"] == context) & (runs["seed"] == seed)
    return runs[(runs["set"] == name) & near & same].iloc[0]


def paired(blocks: pd.DataFrame, one: pd.Series, other: pd.Series) -> tuple[float, float]:
    """(loss of one − loss of the other on the same targets, its standard error over blocks)."""
    gap = block_losses(blocks, one) - block_losses(blocks, other)
    return float(gap.mean()), float(gap.std(ddof=1) / len(gap) ** 0.5)


def comparisons(blocks: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Differences of pairs of runs, each of one seed."""
    rows = []
    for context in (256, 1024, 4096):
        full = pick(runs, "tokens", context)
        rows.append(("all layers see 64 tokens", context, *paired(blocks, pick(runs, "sight", context), full)))
        rows.append(("documents kept apart", context, *paired(blocks, pick(runs, "documents", context), full)))
    scratch = [pick(runs, "tokens", 4096), pick(runs, "seeds", 4096, seed=1)]
    rows += [("another seed", 4096, *paired(blocks, scratch[1], scratch[0]))]
    seeds = runs.set_index("run_id")["seed"]
    for _, extended in runs[runs["set"] == "extend"].iterrows():
        long = scratch[seeds[extended["start_run"]]]  # of the seed of what is extended
        rows.append(("short, then extended", 4096, *paired(blocks, extended, long)))
    return pd.DataFrame(rows, columns=["what", "context", "difference", "error"])


def per_token(runs: pd.DataFrame, d_model: int, context: np.ndarray) -> np.ndarray:
    """Training FLOPs per token of a size at any context, between those that were trained."""
    own = runs[(runs["set"] == "tokens") & (runs["d_model"] == d_model)].sort_values("context")
    return np.interp(context, own["context"], own["flops"] / own["tokens"])


def axes(title: str, columns: int = 1) -> tuple[Figure, list[plt.Axes]]:
    figure, made = plt.subplots(1, columns, figsize=(6.4 * columns, 4.4), squeeze=False, layout="constrained")
    for one in made[0]:
        one.set_xscale("log", base=2)
        one.set(xlabel="context, tokens (bytes)", ylabel="held-out loss, nats per byte")
    made[0][0].set_title(title)
    return figure, list(made[0])


GRID = np.geomspace(16, 8192, 200)


def figure_sizes(runs: pd.DataFrame, joint: laws.Fit, one: laws.Fit, told: dict[str, float]) -> Figure:
    figure, (ax,) = axes("4 million tokens, three sizes")
    for i, (size, own) in enumerate(runs[runs["set"].isin(["tokens", "between"])].groupby("params_total")):
        ax.plot(own["context"], own["loss"], "o", color=f"C{i}", label=f"{size / 1e3:.0f}k parameters")
        ax.plot(GRID, joint.predict(N=float(size), D=4e6, T=GRID).loss, color=f"C{i}", lw=1)
    ax.plot(GRID, one.predict(T=GRID).loss, "--", color="C1", lw=1, label="law of one size")
    ends = [[told["loss"] - told["low"]], [told["high"] - told["loss"]]]
    ax.errorbar(told["T"], told["loss"], ends, fmt="_", color="black", capsize=4, label="forecast, 90 %")
    test = runs[runs["set"] == "test"]
    ax.plot(test["context"], test["loss"], "*", ms=11, color="C3", label="came")
    ax.legend(fontsize=8)
    return figure


def figure_data(runs: pd.DataFrame, joint: laws.Fit) -> Figure:
    figure, (ax,) = axes("33k parameters, four numbers of tokens")
    own = of_all_sizes(runs)
    for i, (tokens, part) in enumerate(own[own["d_model"] == 32].groupby(own["tokens"].round(-5))):
        part = part.sort_values("context")
        ax.plot(part["context"], part["loss"], "o", color=f"C{i}", label=f"{tokens / 1e6:.0f} million tokens")
        loss = joint.predict(N=float(part["params_total"].iloc[0]), D=float(tokens), T=GRID).loss
        ax.plot(GRID, loss, color=f"C{i}", lw=1)
        best = laws.best_context(joint, D=float(tokens))
        ax.plot(best.T, np.interp(best.T, GRID, loss), "v", color=f"C{i}")
        ax.plot(best.interval, [np.interp(best.T, GRID, loss)] * 2, color=f"C{i}", lw=3, alpha=0.4)
    ax.plot([], [], "v", color="grey", label="best context by the law, 90 %")
    ax.legend(fontsize=8)
    return figure


def figure_flops(runs: pd.DataFrame, joint: laws.Fit, own_laws: laws.Fit) -> Figure:
    """The joint law is not fitted to these runs; their own laws are."""
    figure, (ax,) = axes("8e11 FLOPs: laws of these runs, and (dashed) the law of fixed tokens")
    for i, (width, own) in enumerate(runs[runs["set"] == "flops"].groupby("d_model")):
        size = float(own["params_total"].iloc[0])
        ax.plot(own["context"], own["loss"], "o", color=f"C{i}", label=f"{size / 1e3:.0f}k parameters")
        grid = GRID[GRID <= 4096]
        foretold = joint.predict(N=size, D=8e11 / per_token(runs, width, grid), T=grid).loss
        ax.plot(grid, foretold, "--", color=f"C{i}", lw=1)
        law = own_laws[f"{size / 1e3:.0f}k"]
        ax.plot(grid, law.form.loss(law.natural, [grid]), color=f"C{i}", lw=1)
    ax.legend(fontsize=8)
    return figure


def figure_reading(table: pd.DataFrame, fits: dict[str, laws.Fit]) -> Figure:
    figure, (ax, left) = axes("models of 4,096 tokens that read windows of less", 2)
    for i, (model, own) in enumerate(table.groupby("model")):
        fit = fits[model]
        named = f"{model}: β {fit.params['beta']:.2f}"
        ax.plot(own["context"], own["loss"], "o", color=f"C{i}")
        ax.plot(GRID, fit.predict(T=GRID).loss, color=f"C{i}", lw=1, label=named)
        left.plot(own["context"], own["loss"] - fit.params["gamma"], "o", color=f"C{i}")
        left.plot(GRID, fit.predict(T=GRID).loss - fit.params["gamma"], color=f"C{i}", lw=1)
    left.set(yscale="log", ylabel="loss above γ, nats per byte")
    ax.legend(fontsize=8)
    return figure


def figure_positions(positions: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    figure, (ax,) = axes("33k parameters, 4 million tokens: loss by place in the window")
    for context in (64, 256, 1024, 4096):
        own = positions[positions["run_id"] == pick(runs, "tokens", context)["run_id"]]
        own = own[(own["first"] > 2) & (own["first"] < context)]
        ax.errorbar(own["first"], own["loss"], own["loss_sem"], fmt="o-", ms=3, lw=1, label=f"context {context:,}")
    ax.set(xlabel="tokens read of the window (from, to twice as many)")
    ax.legend(fontsize=8)
    return figure


def figure_pairs(table: pd.DataFrame) -> Figure:
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    names = [f"{row.what}, {row.context:,}" for row in table.itertuples()]
    ax.errorbar(table["difference"], np.arange(len(table)), xerr=1.645 * table["error"], fmt="o", capsize=3)
    ax.axvline(0, color="grey", lw=1)
    ax.set_yticks(np.arange(len(table)), names, fontsize=8)
    ax.set(xlabel="loss above its pair on the same targets, nats per byte\n(90 % over the text, not over seeds)")
    ax.invert_yaxis()
    return figure


def worth(fit: laws.Fit, contexts: list[int], D: float, N: float = 32992.0) -> pd.DataFrame:
    """How many times the parameters a context of twice as many tokens is worth."""
    rows = []
    for context in contexts:
        found = laws.context_worth(fit, N=N, T=context, **({"D": D} if "D" in fit.form.columns else {}))
        rows.append((context, found.times, *found.interval))
    return pd.DataFrame(rows, columns=["context", "times", "low", "high"])


def figure_worth(tables: dict[str, pd.DataFrame]) -> Figure:
    figure, (ax,) = axes("what twice the context is worth")
    for name, table in tables.items():
        (line,) = ax.plot(table["context"], table["times"], "o-", lw=1, label=name)
        ax.fill_between(table["context"], table["low"], table["high"], color=line.get_color(), alpha=0.15, lw=0)
    ax.axhline(1, color="grey", lw=1)
    ax.set(xlabel="context that is doubled, tokens (bytes)", ylabel="as good as so many times the parameters")
    ax.legend(fontsize=8)
    return figure


def law_of_reading(table: pd.DataFrame) -> laws.Fit:
    """Of models of several sizes that read windows of several lengths, all trained alike."""
    form = laws.form(
        "size_and_reading",
        lambda N, T, E, A, alpha, K, gamma: E + A / N**alpha + K / T**gamma,
        columns=["N", "T"],
        params={"E": (0.3, 1.5), "A": (1, 1e3), "alpha": (0.1, 0.9), "K": (0.3, 30), "gamma": (0.3, 1.5)},
    )
    return fitted(table[table["set"] == "tokens"], form)


def main() -> None:
    runs = read("runs")
    path = HERE / "forecast.json"
    if not path.exists():
        path.write_text(json.dumps(freeze(runs), indent=1) + "\n")
    told = json.loads(path.read_text())
    pd.set_option("display.width", 140, "display.precision", 4)
    print(runs.pivot_table("loss", ["set", "d_model", "tokens", "seed"], "context").to_string())
    one, joint = (
        fitted(of_one_size(runs), "context_optimum"),
        fitted(of_all_sizes(runs), "chinchilla_context_optimum"),
    )
    plain = fitted(of_all_sizes(runs), "chinchilla_context")
    falling = fitted(of_all_sizes(runs)[of_all_sizes(runs)["context"] <= 64], "chinchilla_context")
    for fit in (one, joint, plain, falling):
        print("\n", fit.summary(), sep="")
    print("\nbest context by the law of one size:", laws.best_context(one))
    for tokens in (1e6, 2e6, 4e6, 8e6):
        print(f"by the law of all at {tokens:.0g} tokens:", laws.best_context(joint, D=tokens))
    at_flops = of_flops(runs)
    print("\n", at_flops.summary(), sep="")
    for size in at_flops.form.pooling.groups:
        print(f"best context of {size} at 8e11 FLOPs:", laws.best_context(at_flops[size]))
    for forecast in told:
        came = runs[runs["set"] == "test"]["loss"].map("{:.4f}".format)
        said = f"{forecast['loss']:.4f} [{forecast['low']:.4f}, {forecast['high']:.4f}] at {forecast['level']:.0%}"
        print(f"{forecast['law']}, {forecast['T']:,} tokens of context: {said}; came {', '.join(came)}")
    blocks = read("blocks")
    table = reading(blocks, runs)
    fits = {model: fitted(own, "context") for model, own in table.groupby("model")}
    for model, fit in fits.items():
        print(f"{model}: {fit.params}, β in {fit.interval('beta', LEVEL)}")
    pairs = comparisons(blocks, runs)
    print("\n", pairs.to_string(), sep="")
    together = law_of_reading(table)
    tables = {
        "trained in longer windows, 4 million tokens": worth(joint, [16, 32, 64, 128, 256], 4e6),
        "trained in longer windows, 8 million tokens": worth(joint, [16, 32, 64, 128, 256], 8e6),
        "reading longer windows (trained in 4,096)": worth(together, [16, 32, 64, 128, 256, 512, 1024], 4e6),
    }
    for name, found in tables.items():
        print("\n", name, "\n", found.to_string(), sep="")
    print(worth(falling, [16, 32], 4e6))
    figures = {
        "sizes": figure_sizes(runs, joint, one, told[0]),
        "data": figure_data(runs, joint),
        "flops": figure_flops(runs, joint, at_flops),
        "reading": figure_reading(table, fits),
        "positions": figure_positions(read("positions"), runs),
        "pairs": figure_pairs(pairs),
        "worth": figure_worth(tables),
    }
    (HERE / "figures").mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(HERE / "figures" / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
