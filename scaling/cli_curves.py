"""`scaling fit --law annealing` and `scaling predict --schedule`: laws of whole curves on the command line."""

import argparse
from typing import TYPE_CHECKING, Any

from scaling.errors import UserError
from scaling.names import offered

if TYPE_CHECKING:
    from scaling import laws

OPTIONS = ("law", "where", "objective", "starts", "bootstrap", "seed", "level", "output", "json")
"""options of `scaling fit` that a law of whole curves uses"""
OF_CSV = ("params", "run", "loss", "column", "warmup", "trusted")
"""further options for a CSV"""
OF_SWEEP = ("allow",)
"""further options for a sweep's folder"""


def fit(args: argparse.Namespace, columns: dict[str, str] | None) -> "laws.CurveFit":
    """The fit, with its draws. columns: those of a CSV by letter; None for sweeps' folders."""
    from scaling import laws
    from scaling.sweeps import load_curves

    if columns is None:
        curves = load_curves(args.runs, args.where, args.allow)
    else:
        named = {"run": args.run, "loss": args.loss, "N": args.params} | columns
        given = {name: column for name, column in named.items() if column}
        if unknown := given.keys() - {"run", "step", "rate", "loss", "N", "cluster"}:
            near = offered(min(unknown), ("step", "rate", "cluster"), "the columns of a curve are ")
            raise UserError(f"--column {min(unknown)}=…: {near}")
        curves = laws.read_curves(args.runs[0], args.where, warmup=args.warmup, trusted=args.trusted, **given)
    loss = None if args.objective is None else laws.parse_loss(args.objective)
    fitted = laws.fit_curves(curves, args.law, loss=loss, starts=args.starts)
    if args.bootstrap != 0:
        fitted.bootstrap(**({"n": args.bootstrap} if args.bootstrap else {}), seed=args.seed)
    return fitted


def predict(args: argparse.Namespace) -> tuple[Any, str]:
    """The curve of the run that a configuration describes, for machines and for people."""
    from scaling import accounting, laws
    from scaling.config import RunConfig, load
    from scaling.strict_json import finite
    from scaling.sweeps import learning_rates

    if args.flops is not None:
        raise UserError("--flops and --schedule exclude each other; keep one of them")
    fitted = laws.load_curve_fit(args.fit)
    run = load(RunConfig, args.schedule, args.overrides)
    N = float(accounting.params(run.model).total) if fitted.law.reads_N else None
    table = laws.predicted_curve_table(fitted, fitted.predict(learning_rates(run), N=N, level=args.level))
    return finite(table), laws.format_predicted_curve(table)
