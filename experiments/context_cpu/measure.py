"""What the runs left behind, as the small tables that study.py and the notebook read.

    python experiments/context_cpu/measure.py runs              # runs.csv, from the records alone
    python experiments/context_cpu/measure.py runs --models     # and blocks.csv, positions.csv, from the checkpoints

blocks.csv has the loss of the same held-out targets for every run, in blocks of 8,192: differences between runs are
paired by them. A run of 4,096 tokens of context is there a second time for every shorter window that it reads.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import scaling
from scaling.data import open_store
from scaling.evaluation.text_losses import TextLosses
from scaling.training.trained import load_trained

HERE = Path(__file__).parent
BLOCK, READ_BY, READ = 8192, 4096, [2**k for k in range(4, 12)]
KEPT = [
    *("sweep", "run_id", "d_model", "context", "seed", "params_total", "tokens", "flops", "loss", "loss_sem"),
    *("start_run", "learning_rate", "wall_s", "status", "versions_commit"),
]


def table(folder: Path) -> pd.DataFrame:
    """The records of all sweeps of the study."""
    sweeps = sorted(path for path in folder.glob("context-*") if any(path.glob("*/result.json")))
    runs = pd.concat([scaling.load_runs(path).reindex(columns=KEPT) for path in sweeps], ignore_index=True)
    return runs.sort_values(["sweep", "d_model", "tokens", "context", "seed"], ignore_index=True)


def measured(runs: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(losses of blocks, losses by position) of each run's last checkpoint."""
    blocks, positions = [], []
    for run in runs.itertuples():
        trained = load_trained(folder / run.sweep / run.run_id)
        tokens = open_store(trained.run.data, trained.run.records.store_folder).validation.tokens
        tokens = tokens[: len(tokens) // BLOCK * BLOCK - BLOCK + 1]
        losses = TextLosses(trained)
        for read in [*(READ if run.context == READ_BY else []), run.context]:
            nats = losses.windows(tokens, read, read).astype(np.float64)
            blocks.append([run.sweep, run.run_id, read, *nats.reshape(-1, BLOCK).mean(1).round(5)])
        for first in 2 ** np.arange(int(np.log2(run.context)) + 1) - 1:
            own = nats[:, first : 2 * first + 1]
            sem = own.mean(1).std(ddof=1) / len(own) ** 0.5
            positions.append([run.sweep, run.run_id, first + 1, round(own.mean(), 5), round(sem, 5)])
        print(f"{run.sweep} {run.run_id} {nats.mean():.4f} (its record: {run.loss:.4f})", flush=True)
    keys = ["sweep", "run_id"]
    count = len(blocks[0]) - 3
    return (
        pd.DataFrame(blocks, columns=[*keys, "read", *map(str, range(count))]),
        pd.DataFrame(positions, columns=[*keys, "first", "loss", "loss_sem"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", action="store_true")
    args = parser.parse_args()
    runs = table(args.folder)
    runs.to_csv(HERE / "runs.csv", index=False)
    if args.models:
        for name, made in zip(("blocks", "positions"), measured(runs, args.folder), strict=True):
            made.to_csv(HERE / f"{name}.csv", index=False)


if __name__ == "__main__":
    main()
