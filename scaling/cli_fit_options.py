"""The options of `scaling fit`, `scaling report` and `scaling predict`."""

import argparse
from collections.abc import Collection
from pathlib import Path

from scaling.errors import UserError
from scaling.numbers import to_number, to_seed

NAMED = {"params": "N", "tokens": "D", "loss": "loss", "flops": "C", "run": "run", "sigma": "sigma"}
"""options that name a column of a CSV, and what `laws.Runs` calls it"""
RULES = ("duplicates", "missing", "checkpoints")
"""options that say which rows of a CSV count"""
DEFAULTS = {"params": "params", "tokens": "tokens", "loss": "loss"}
DRAWS = 4000
"""refits for intervals, of a CSV"""


def fit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scaling fit`."""
    add = parser.add_argument
    add(
        "runs",
        metavar="SWEEP_DIR_or_CSV",
        type=Path,
        nargs="*",
        help="or wandb:ENTITY/PROJECT[/SWEEP]; of several sweeps' folders all runs are fitted together",
    )
    add("--list", action="store_true", help="print the laws that there are, and stop")
    _law_options(parser)
    add(
        "--warmup", type=int, default=0, metavar="STEPS", help="CSV of curves that begins after the warmup: its steps"
    )
    add(
        "--tuning",
        action="store_true",
        help="in place of a law: the best learning rate and batch by the runs that tried several, with intervals "
        "(CSV: --column lr=COLUMN, and B=COLUMN for the batch)",
    )
    add("--compare", metavar="LAW,LAW", help="hold these laws beside it, all by least squares: AIC, BIC, backtests")
    add(
        "--suggest",
        nargs="?",
        const=4,
        type=int,
        metavar="K",
        help="the K runs (default: 4) that make the forecast surer; of a sweep also as SWEEP_DIR/suggested.yaml",
    )
    add(
        "-o",
        "--output",
        type=Path,
        help="file of the fit (default: SWEEP_DIR/fit.json, CSV.fit.json, SWEEP.fit.json; none for several sweeps)",
    )
    add("--plot", action="store_true", help="also write a page of figures beside the file of the fit")
    add("--json", action="store_true", help="for machines")


def report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scaling report`."""
    add = parser.add_argument
    add(
        "runs",
        metavar="SWEEP_DIR_or_CSV",
        type=Path,
        nargs="+",
        help="folder of a sweep, such as runs/NAME; several are shown side by side, each with its own law (--group "
        "and --shared say otherwise)",
    )
    add(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the page (default: SWEEP_DIR/report.html, CSV.report.html; none for several sweeps)",
    )
    _law_options(parser.add_argument_group("of a CSV and of several sweeps, as of `scaling fit`"))
    parser.set_defaults(compare=None)


def _law_options(parser: argparse._ActionsContainer) -> None:
    """Those by which a table is read and a law fitted to it."""
    parser.add_argument("--law", default="chinchilla", help="one of --list (default: chinchilla)")
    _columns(parser)
    _rows(parser)
    _search(parser)


def _columns(parser: argparse._ActionsContainer) -> None:
    """Which column of a table is what."""
    add = parser.add_argument
    add("--params", metavar="COLUMN", help='CSV: column of N (default: params; "" for none)')
    add("--tokens", metavar="COLUMN", help='CSV: column of D (default: tokens; "" for none)')
    add("--loss", metavar="COLUMN", help="CSV: column of the loss (default: loss)")
    add("--flops", metavar="COLUMN", help="CSV: column of training FLOPs (default: 6·N·D)")
    add("--run", metavar="COLUMN", help="CSV: column that says which training run a row is of; resampled whole")
    add("--sigma", metavar="COLUMN", help="CSV: column of each loss' standard error; weighs the rows")
    add(
        "--column",
        action="append",
        default=[],
        metavar="LETTER=COLUMN",
        help="a further column that the law reads; of a sweep, another than the law says (see --list)",
    )


def _rows(parser: argparse._ActionsContainer) -> None:
    """Which rows count, and how they are sorted into groups."""
    add = parser.add_argument
    add(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help='rows to use, as "used_in_fit == 1" or "dataset == \'c4\'" or, of a sweep, "optimizer.b2 == 0.9"',
    )
    add(
        "--group",
        metavar="COLUMN",
        help="one law for each of several groups at once; CSV: column of labels; sweep: a key of the configuration "
        'that tells the groups apart, as model.activation, or "sweep"',
    )
    add("--shared", metavar="NAME,NAME", default="", help="with --group: parameters that the groups have in common")
    add("--duplicates", choices=("error", "drop", "keep"), help="CSV: rows that are there twice (default: error)")
    add("--missing", choices=("error", "drop"), help="CSV: rows that lack a value (default: error)")
    add(
        "--checkpoints",
        choices=("all", "last"),
        help="CSV: whether rows of one training run all count, or the one with most tokens alone (default: all)",
    )
    add("--trusted", action="store_true", help="take FLOPs, sizes, losses and rows for what they are said to be")
    add(
        "--allow",
        action="append",
        default=[],
        metavar="KEY",
        help="sweep: a key of the configuration (or a section) in which the runs may differ, as optimizer.b2",
    )
    add("--no-priors", action="store_true", help="sweep: without forecast.priors of its sweep.yaml")


def _search(parser: argparse._ActionsContainer) -> None:
    """How the law is fitted, and its intervals found."""
    add = parser.add_argument
    add(
        "--objective",
        help="huber:DELTA, l1, l2, quantile:Q or student_t:NU (default: huber:1e-3; of sweeps, as their launch, "
        "huber:1e-2)",
    )
    add("--residual", help="log, raw or log1p: what the objective compares (default: log, raw where losses may be "
        "negative)")  # fmt: skip
    add("--starts", type=int, default=64, help="starts of the search (default: 64)")
    add(
        "--bootstrap",
        type=int,
        metavar="N",
        help="refits for the intervals, 0 for none (default: 4000; of sweeps, as their launch, 2000; of laws of "
        "whole curves 400)",
    )
    add("--kind", choices=("rows", "runs", "noise"), help="what a refit draws (default: noise for a sweep and "
        "with fewer than ten rows a parameter, of unequal --sigma three, runs where --run "
        "is given, else rows)")  # fmt: skip
    add("--seed", type=to_seed, default=0, help="of the bootstrap (default: 0)")
    _level(parser)


def predict_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scaling predict`."""
    parser.add_argument("fit", metavar="FIT.json", type=Path)
    parser.add_argument("--flops", type=to_number, help="training FLOPs, for example 1e24: the best N, D and loss")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=(),
        metavar="LETTER=VALUE",
        help="or the law's columns, for example N=7e9 D=1e12; with --schedule: changes of that run's configuration",
    )
    parser.add_argument(
        "--schedule", type=Path, metavar="RUN.yaml", help="of a fit of whole curves: the run whose curve is foretold"
    )
    _level(parser)
    parser.add_argument("--json", action="store_true", help="for machines")


def require_only(
    args: argparse.Namespace, reads: Collection[str], other: Collection[str], what: str, csv: bool
) -> None:
    """Raises UserError for an option that is given and not read, so that none is passed over without a word.

    other: options that are read of a sweep's folder where this is a CSV, and the other way round.
    """
    parser = argparse.ArgumentParser()
    fit_options(parser)
    usual = vars(parser.parse_args([]))
    given = [
        name for name, value in usual.items() if getattr(args, name, value) != value and name not in (*reads, "runs")
    ]
    if given and given[0] in other:
        kinds = ("a sweep", "a CSV") if csv else ("a CSV", "a sweep's folder, whose records say what is what")
        raise UserError(f"--{given[0]} is about {kinds[0]}; {args.runs[0]} is {kinds[1]}")
    if given:
        raise UserError(f"--{given[0]} is not for {what}; it reads {', '.join(f'--{name}' for name in reads)}")


def _level(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--level", type=float, default=0.9, help="coverage of the intervals (default: 0.9)")
