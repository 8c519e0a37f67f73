"""Public repositories of training runs as tables for the league; see README.md.

    python experiments/forecasting/more_sets.py DATA --porian CLONE --xlstm CLONE --gemstones CLONE --olmo CLONE

DATA: the folder that gets the tables, as sets.yaml names them. CLONE: of
github.com/formll/resolving-scaling-law-discrepancies (Porian et al. 2024), github.com/NX-AI/xlstm_scaling_laws (Beck
et al. 2025), github.com/mcleish7/gemstone-scaling-laws (McLeish et al. 2025) and github.com/allenai/OLMo-ladder
(Bhagia et al. 2024); one that is not given is left out. The first two hold pickles, of which only the classes that
hold numbers are loaded. Where DATA has lr_batch.csv, the runs of Step Law (Li et al. 2025), the best of each size and
number of tokens become a table too.
"""

import argparse
import lzma
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

PLAIN = ("pandas", "numpy", "_codecs", "datetime")
"""packages whose classes hold data and run nothing"""
BUILTINS = ("slice", "list", "dict", "set", "frozenset", "complex", "bytearray", "range", "object")
TABLES = ("llama_ctx2048", "llama_ctx8192", "llama_ctx16384", "mlstm_ctx16384")
OLMO = {"190M": 190354176, "370M": 371262464, "760M": 758220288, "1B": 1279395840, "3B": 3169537280}
"""parameters without embeddings, as src/scaling/utils.py has them"""


class Record:
    """Stands for a class of theirs: what it holds and nothing that it does."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("mlstm_scaling_laws."):
            return Record
        if module.split(".")[0] in PLAIN or (module == "builtins" and name in BUILTINS):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no table")


def owt2(clone: Path) -> pd.DataFrame:
    """Runs on OpenWebText2, by hyperparameters: final held-out losses as the authors interpolate them."""
    with lzma.open(clone / "data/summary_df_owt2.pickle.xz") as file:
        summary = Reader(file).load()
    rows = []
    for _, setting in summary.iterrows():
        for _, budget in setting["data"].iterrows():
            if not isinstance(budget.orig_n, float):  # a budget without runs
                columns = zip(budget.orig_n, budget.orig_t, budget.orig_loss, strict=True)
                kept = setting[["hparams", "warmup", "decay", "param_count", "val"]].to_dict()
                rows += [{**kept, "flops": budget.flops, "params": n, "tokens": t, "loss": L} for n, t, L in columns]
    return pd.DataFrame(rows)


def xlstm(clone: Path, table: str) -> pd.DataFrame:
    """Finished runs by their last held-out loss, the best learning rate of each size and number of tokens."""
    with (clone / f"data/isoflop_{table}_wandb_data.pkl").open("rb") as file:
        runs = [run for group in Reader(file).load().values() for run in group]
    rows = []
    for run in runs:
        if not {"dataset/", "model/", "val/"} <= run.summary.keys():  # it did not get so far
            continue
        data, loss = run.summary["dataset/"], run.summary["val/"]["dclm_loss"]
        context = int(table.partition("ctx")[2])
        if run.summary["_step"] >= data["num_train_steps"]:
            tokens = data["num_train_steps"] * data["global_batch_size"] * context
            size = run.summary["model/"]["num_params"]
            rows.append({"run": run.name, "params": size, "tokens": tokens, "loss": loss})
    best = pd.DataFrame(rows).sort_values("loss").drop_duplicates(["params", "tokens"])
    return best.sort_values(["tokens", "params"])


def gemstones(clone: Path) -> pd.DataFrame:
    """Branches of 20 shapes, each cooled down at ten lengths of training."""
    table = pd.read_json(clone / "wandb_dfs/wandb_df_for_fitting_cool_end.jsonl", lines=True)
    return table.rename(columns={"params_active_precise": "params", "final_loss": "loss"})


def olmo(clone: Path) -> dict[str, pd.DataFrame]:
    """Five sizes at five lengths by the last held-out loss on C4 and on the Pile; N without embeddings."""
    rows = []
    for path in sorted((clone / "src/scripts/paper/data/ladder-runs").glob("*xC.csv")):
        last = pd.read_csv(path).iloc[-1]
        losses = {text: last[f"eval/{text}-validation/CrossEntropyLoss"] for text in ("c4_en", "pile")}
        rows.append(
            {"params": OLMO[path.stem.partition("-")[0]], "tokens": last["throughput/total_tokens"], **losses}
        )
    table = pd.DataFrame(rows).sort_values(["params", "tokens"])
    return {text: table[["params", "tokens"]].assign(loss=table[text]) for text in ("c4_en", "pile")}


def step_law(data: Path) -> pd.DataFrame:
    """The best of 34 to 120 learning rates and batches at each size, without embeddings, and number of tokens."""
    runs = pd.read_csv(data / "lr_batch.csv")
    least = runs.groupby(["non_embedding_param_size", "data_size"]).lm_loss.min()
    return least.rename_axis(["params", "tokens"]).rename("loss").reset_index()


def tables(data: Path, clones: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    if clones.porian:
        yield "owt2", owt2(clones.porian)
    if clones.xlstm:
        yield from ((f"xlstm_{table}", xlstm(clones.xlstm, table)) for table in TABLES)
    if clones.gemstones:
        yield "gemstones", gemstones(clones.gemstones)
    if clones.olmo:
        yield from ((f"olmo_{text}", table) for text, table in olmo(clones.olmo).items())
    if (data / "lr_batch.csv").exists():
        yield "step_law", step_law(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    for name in ("porian", "xlstm", "gemstones", "olmo"):
        parser.add_argument(f"--{name}", type=Path)
    args = parser.parse_args()
    for name, table in tables(args.data, args):
        table.to_csv(args.data / f"{name}.csv", index=False)
        print(f"{name}.csv: {len(table)} runs")


if __name__ == "__main__":
    main()
