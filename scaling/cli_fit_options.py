"""The options of `scaling fit`, `scaling report` and `scaling predict`."""

import argparse
from collections.abc import Collection

from scaling.errors import UserError
from scaling.files import path_of
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
        type=path_of,
        nargs="*",
        help="or wandb:ENTITY/PROJECT[/SWEEP]; the runs of several sweeps' folders are fitted together",
    )
    add("--list", action="store_true", help="print the known laws, and stop")
    _law_options(parser)
    add(
        "--warmup",
        type=int,
        default=0,
        metavar="STEPS",
        help="CSV of curves that begins after the warmup: length of the warmup",
    )
    add(
        "--tuning",
        action="store_true",
        help="instead of a law: the best learning rate and batch size of runs that tried several, with intervals "
        "(CSV: --column lr=COLUMN, and B=COLUMN for the batch)",
    )
    add("--compare", metavar="LAW,LAW", help="compare with these laws, all by least squares: AIC, BIC, backtests")
    add(
        "--suggest",
        nargs="?",
        const=4,
        type=int,
        metavar="K",
        help="K runs (default: 4) that reduce the forecast's error most; for a sweep also SWEEP_DIR/suggested.yaml",
    )
    add(
        "-o",
        "--output",
        type=path_of,
        help="file of the fit (default: SWEEP_DIR/fit.json, CSV.fit.json, SWEEP.fit.json; none for several sweeps)",
    )
    add("--plot", action="store_true", help="also write a page of figures next to the fit")
    add("--json", action="store_true", help="print JSON")


def report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scaling report`."""
    add = parser.add_argument
    add(
        "runs",
        metavar="SWEEP_DIR_or_CSV",
        type=path_of,
        nargs="+",
        help="folder of a sweep, such as runs/NAME; several are shown side by side, each with its own law (unless "
        "--group and --shared are given)",
    )
    add(
        "-o",
        "--output",
        type=path_of,
        metavar="FILE",
        help="the page (default: SWEEP_DIR/report.html, CSV.report.html; none for several sweeps)",
    )
    _law_options(parser.add_argument_group("of a CSV and of several sweeps, as of `scaling fit`"))
    parser.set_defaults(compare=None)


def _law_options(parser: argparse._ActionsContainer) -> None:
    """Options for reading a table and fitting a law to it."""
    parser.add_argument("--law", default="chinchilla", help="one of --list (default: chinchilla)")
    _columns(parser)
    _rows(parser)
    _search(parser)


def _columns(parser: argparse._ActionsContainer) -> None:
    """Options that name the columns of a table."""
    add = parser.add_argument
    add("--params", metavar="COLUMN", help='CSV: column of N (default: params; "" for none)')
    add("--tokens", metavar="COLUMN", help='CSV: column of D (default: tokens; "" for none)')
    add("--loss", metavar="COLUMN", help="CSV: column of the loss (default: loss)")
    add("--flops", metavar="COLUMN", help="CSV: column of training FLOPs (default: 6·N·D)")
    add("--run", metavar="COLUMN", help="CSV: column that names the training run of a row; runs are resampled whole")
    add("--sigma", metavar="COLUMN", help="CSV: column of the losses' standard errors; weights the rows")
    add(
        "--column",
        action="append",
        default=[],
        metavar="LETTER=COLUMN",
        help="a further column that the law reads; for a sweep, in place of the law's default (see --list)",
    )


def _rows(parser: argparse._ActionsContainer) -> None:
    """Options that select rows and group them."""
    add = parser.add_argument
    add(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help='rows to use, such as "used_in_fit == 1" or "dataset == \'c4\'" or, for a sweep, "optimizer.b2 == 0.9"',
    )
    add(
        "--group",
        metavar="COLUMN",
        help="one law for each of several groups at once; CSV: column of labels; sweep: a key of the configuration "
        'that tells the groups apart, such as model.activation, or "sweep"',
    )
    add("--shared", metavar="NAME,NAME", default="", help="with --group: parameters that the groups share")
    add("--duplicates", choices=("error", "drop", "keep"), help="CSV: rows that occur twice (default: error)")
    add("--missing", choices=("error", "drop"), help="CSV: rows that lack a value (default: error)")
    add(
        "--checkpoints",
        choices=("all", "last"),
        help="CSV: use all rows of a training run, or only the one with most tokens (default: all)",
    )
    add(
        "--trusted",
        action="store_true",
        help="accept FLOPs, sizes, losses and rows as given, without plausibility checks",
    )
    add(
        "--allow",
        action="append",
        default=[],
        metavar="KEY",
        help="sweep: a key of the configuration (or a section) in which the runs may differ, such as optimizer.b2",
    )
    add("--no-priors", action="store_true", help="sweep: ignore forecast.priors of its sweep.yaml")


def _search(parser: argparse._ActionsContainer) -> None:
    """Options for the fit and its intervals."""
    add = parser.add_argument
    add(
        "--objective",
        help="huber:DELTA, l1, l2, quantile:Q or student_t:NU (default: huber:1e-3; for sweeps, as in their launch, "
        "huber:1e-2)",
    )
    add("--residual", choices=("log", "raw", "log1p"), help="what the objective compares: log losses, losses or "
        "log(1 + loss) (default: log, raw where losses may be negative)")  # fmt: skip
    add("--starts", type=int, default=64, help="starts of the search (default: 64)")
    add(
        "--bootstrap",
        type=int,
        metavar="N",
        help="refits for the intervals, 0 for none (default: 4000; for sweeps, as in their launch, 2000; for laws of "
        "whole curves 400)",
    )
    add("--kind", choices=("rows", "runs", "noise"), help="what a refit draws (default: noise for a sweep and "
        "with fewer than ten rows per parameter, runs where --run "
        "is given, else rows)")  # fmt: skip
    add("--seed", type=to_seed, default=0, help="seed of the bootstrap (default: 0)")
    _level(parser)


def predict_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scaling predict`."""
    parser.add_argument("fit", metavar="FIT.json", type=path_of)
    parser.add_argument("--flops", type=to_number, help="training FLOPs, for example 1e24: the best N, D and loss")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=(),
        metavar="LETTER=VALUE",
        help="or the law's columns, for example N=7e9 D=1e12; with --schedule: changes of that run's configuration",
    )
    parser.add_argument(
        "--schedule",
        type=path_of,
        metavar="RUN.yaml",
        help="for a fit of whole curves: the run whose curve is predicted",
    )
    _level(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def require_only(
    args: argparse.Namespace, reads: Collection[str], other: Collection[str], what: str, csv: bool
) -> None:
    """Raises UserError for an option that is given but not used, so that none is silently ignored.

    other: options that apply to a sweep's folder if this is a CSV, and vice versa.
    """
    parser = argparse.ArgumentParser()
    fit_options(parser)
    usual = vars(parser.parse_args([]))
    given = [
        name for name, value in usual.items() if getattr(args, name, value) != value and name not in (*reads, "runs")
    ]
    if given and given[0] in other:
        kinds = ("sweeps", "a CSV") if csv else ("CSVs", "a sweep's folder, whose columns are known")
        raise UserError(f"--{given[0]} applies to {kinds[0]}; {args.runs[0]} is {kinds[1]}")
    if given:
        raise UserError(f"--{given[0]} is not for {what}, which reads {', '.join(f'--{name}' for name in reads)}")


def _level(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--level", type=float, default=0.9, help="coverage of the intervals (default: 0.9)")
