"""`scaling fit`, `scaling report` and `scaling predict`: what they return for machines and for people."""

import argparse
import errno
import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.cli_fit_options import DEFAULTS, DRAWS, NAMED, RULES, require_only
from scaling.errors import UserError
from scaling.files import read_json
from scaling.names import near_file
from scaling.numbers import to_number
from scaling.text import percent

if TYPE_CHECKING:
    from scaling import laws


PAGE = "report.html"
EITHER = "give either --flops or the law's columns, such as N=7e9 D=1e12 (see `scaling predict --help`)"


@contextmanager
def _rarely_collected() -> Iterator[None]:
    """Reduce garbage collection: during imports and tracing it takes a tenth of the time of a fit."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@_rarely_collected()
def fit(args: argparse.Namespace) -> tuple[Any, str]:
    """Fit and save. Returns the table for machines and the text for people."""
    from scaling.laws.table.words import command_line

    with command_line(NAMED):
        return _fit(args)


def _fit(args: argparse.Namespace) -> tuple[Any, str]:
    from scaling import laws
    from scaling.strict_json import finite

    if args.list:
        listed = laws.laws_table() + laws.curve_laws_table()
        return listed, laws.format_laws(listed)
    if not args.runs:
        raise UserError("give a sweep folder or a CSV to fit, or --list (see `scaling fit --help`)")
    if (args.bootstrap or 0) < 0:
        raise UserError(f"--bootstrap must be 0 or more; got {args.bootstrap}")
    if args.law in laws.CURVE_LAWS:
        return _fit_curves(args)
    csv = len(args.runs) == 1 and args.runs[0].is_file()
    if args.tuning:
        surface = _surface(args, csv)
        return finite(surface.to_dict()), surface.summary()
    if args.warmup:
        raise UserError(f"--warmup is for a law of whole curves ({', '.join(laws.CURVE_LAWS)}), not for {args.law}")
    output = _writable(_output(args.runs) if args.output is None else args.output)
    before = _fit_in(output)
    _require_one_law(args)
    fitted = _fitted(args, csv)
    one_curve = not args.group and (csv or fitted.form.of_sizes)
    approach2 = laws.try_isoflop(fitted.runs, args.level, designed=not csv) if one_curve else None
    table = laws.fit_table(fitted, args.level, approach2)
    replaced = _replaced(output, before, fitted)
    fitted.save(output)
    table["overwritten"] = replaced
    text = "\n".join([laws.format_table(table), *([f"note: {replaced}"] if replaced else []), f"saved as {output}"])
    if args.plot:
        table["page"] = str(_page(fitted, output.with_suffix(".html"), args))
        text += f"\npage {table['page']}"
    if args.compare:
        comparison = laws.compare(fitted.runs, _laws(args), residual=fitted.residual)
        table["compare"] = comparison.to_dict()
        text += f"\n\n{comparison.summary()}"
    if args.suggest is not None:
        suggestion, path = _suggestion(fitted, args)
        table["suggest"] = suggestion.to_dict() | {"sweep": path and str(path)}
        text += f"\n\n{suggestion.summary()}{_next(args.runs[0], path) if path else ''}"
    return finite(table), text


def _fitted(args: argparse.Namespace, csv: bool) -> "laws.Fit":
    """The law that the options request, fitted to the runs that they name, with its intervals."""
    from scaling import laws

    runs = _read_csv(args) if csv else _read_sweep(args)
    shared = [name for name in args.shared.split(",") if name]
    options = {"residual": args.residual, "starts": args.starts, "group": args.group, "shared": shared}
    loss = None if args.objective is None else laws.parse_loss(args.objective)
    draws = {} if args.bootstrap is None else {"n": args.bootstrap}
    if not csv:
        from scaling.sweeps import priors_of  # a tenth of the time of a table's fit, which has none

        draws |= {"kind": args.kind} if args.kind else {}
        priors = {} if args.no_priors or args.group else priors_of(args.runs, args.law)
        return laws.fit_design(runs, args.law, loss=loss, priors=priors, seed=args.seed, **draws, **options)
    fitted = laws.fit(runs, args.law, loss=loss, **options)
    if refits := draws.get("n", DRAWS):
        fitted.bootstrap(refits, seed=args.seed, kind=args.kind)
    return fitted


@_rarely_collected()
def report(args: argparse.Namespace) -> Path:
    """The page of a sweep, of several sweeps side by side, or of a CSV of runs."""
    from scaling import laws
    from scaling.laws.table.words import command_line
    from scaling.report import write

    csv, several = len(args.runs) == 1 and args.runs[0].is_file(), len(args.runs) > 1
    if not (csv or several or _wandb(args.runs[0])):
        require_only(args, ["output"], (), "the report of one sweep, which shows the law of its fit.json", csv)
        if args.runs[0].is_dir():
            _writable(args.output or _output(args.runs, PAGE), PAGE)  # refused before the work
        return write(args.runs[0], args.output)
    if args.law in laws.CURVE_LAWS:
        raise UserError(
            f"--law {args.law} is a law of whole curves: `scaling fit SWEEP_DIR --law {args.law}` fits it, and "
            "`scaling report SWEEP_DIR` shows it"
        )
    if several and args.output is None:
        raise UserError("a page of several sweeps has no default place: give one with -o PAGE.html")
    page = _writable(args.output or _output(args.runs, PAGE), PAGE)
    args.group = args.group or ("sweep" if several else None)
    with command_line(NAMED):
        return _page(_fitted(args, csv), page, args)


def _page(fitted: "laws.Fit", page: Path, args: argparse.Namespace) -> Path:
    from scaling.report import write_fit

    sources = [path for path in args.runs if path.exists()]
    return write_fit(fitted, page, sources=sources, level=args.level)


def _fit_curves(args: argparse.Namespace) -> tuple[Any, str]:
    """The same for a law of whole curves."""
    from scaling import cli_curves
    from scaling.strict_json import finite

    csv = len(args.runs) == 1 and args.runs[0].is_file()
    of_kind = {True: cli_curves.OF_CSV, False: cli_curves.OF_SWEEP}
    require_only(args, [*cli_curves.OPTIONS, *of_kind[csv]], of_kind[not csv], f"--law {args.law}", csv)
    output = _writable(_output(args.runs, "curves.fit.json") if args.output is None else args.output)
    before = _fit_in(output)
    if not csv:
        _require_folders(args.runs)
    fitted = cli_curves.fit(args, _columns(args) if csv else None)
    replaced = _replaced(output, before, fitted.fit)
    fitted.save(output)
    notes = [f"note: {replaced}"] if replaced else []
    text = "\n".join([fitted.summary(args.level), *notes, f"saved as {output}"])
    return finite(fitted.table(args.level) | {"overwritten": replaced}), text


def _replaced(output: Path, before: dict[str, str] | None, fitted: "laws.Fit") -> str | None:
    """The note where a fit of other data, or with another objective, was replaced."""
    if before is None:
        return None
    if before["hash"] != fitted.runs.hash:
        return f"{output} was overwritten; it held {before['law']} fitted to other data ({before['hash']})"
    if before["objective"] == (now := _objective(fitted.loss.to_dict())):
        return None
    return (
        f"{output} was overwritten; it held {before['law']} fitted to the same runs by {before['objective']}, now by "
        f"{now}"
    )


def _objective(objective: Mapping[str, Any]) -> str:
    """The objective of a saved fit as text, such as huber δ=0.01."""
    return f"{objective['kind']}" + (f" δ={objective['delta']:g}" if objective["delta"] is not None else "")


def predict(args: argparse.Namespace) -> tuple[Any, str]:
    """The prediction for machines and for people."""
    from scaling import cli_curves, laws
    from scaling.strict_json import finite

    if args.schedule is not None:
        return cli_curves.predict(args)
    if args.flops is None and not args.overrides:
        raise UserError(EITHER)
    if args.flops is not None and not args.flops > 0:
        raise UserError(f"--flops: expected a number above 0, got {args.flops:g}")
    fitted, at = _of_group(laws.load(args.fit), args.overrides)
    if (args.flops is None) == (not at):
        raise UserError(EITHER)
    if args.flops is not None and fitted.form.columns != ("C",):
        best = laws.predict_table(fitted, args.flops, args.level)
        forecast, text = _forecast(fitted, args.level, args.flops)
        return finite(best | forecast), laws.format_prediction(best) + text
    columns = _numbers(at) if args.flops is None else {"C": args.flops}
    table = laws.loss_table(fitted, columns, args.level)
    forecast, text = _forecast(fitted, args.level, None, **columns)
    return finite(table | forecast), laws.format_loss(table) + text


def _of_group(fitted: "laws.Fit", texts: list[str]) -> tuple["laws.Fit", list[str]]:
    """For a law of several groups, the law of the group named by group=NAME, and the other texts."""
    if fitted.form.pooling is None:
        return fitted, texts
    names = [text.partition("=")[2] for text in texts if text.partition("=")[0] == "group"]
    if len(names) != 1:
        groups = fitted.groups
        raise UserError(f"{fitted.form.name}: name the group, group={groups[0]}; there are {', '.join(groups)}")
    return fitted[names[0]], [text for text in texts if text.partition("=")[0] != "group"]


def _forecast(fitted: "laws.Fit", level: float, flops: float | None, **at: float) -> tuple[dict[str, Any], str]:
    """The forecast of a run at N and D, or of the best run with these FLOPs, for machines and for people.

    Empty for a fit of other columns; where its runs are not enough for a forecast, the reason.
    """
    from scaling import laws
    from scaling.text import by_width

    if {*fitted.form.columns} != {"N", "D"} or fitted.form.pooling or not fitted.form.predicts.in_unit:
        return {}, ""
    try:
        maker = laws.Forecaster(fitted.runs, level=level)
        N, D = maker.size(flops) if flops is not None else (at["N"], at["D"])
        made = maker.forecast(N, D, float(fitted.runs.per_token(N)) * D if flops is None else flops)
    except UserError as error:
        return {"forecast": None, "no_forecast": str(error)}, f"\nno forecast for a single run: {error}"
    keys = ("flops", "N", "D", "loss", "low", "high", "level", "doubt", "notes")
    loss, interval = by_width(made.loss, (made.low, made.high))
    doubt = f"\nnote: {made.doubt}" if made.doubt else ""
    return {"forecast": {name: getattr(made, name) for name in keys}}, (
        f"\nforecast for a run with N {made.N:.4g}, D {made.D:.4g}: loss {loss}, {percent(made.level)} interval "
        f"{interval}\n"
        "by the law of the runs near the optimum; the interval includes past errors of such laws (docs: Forecasting)"
        f"{doubt}"
    )


def _surface(args: argparse.Namespace, csv: bool) -> "laws.ResponseSurface":
    from scaling import laws
    from scaling.sweeps import load_runs

    of_csv = [*NAMED, "column", *RULES, "trusted"]
    of_kind = {True: of_csv, False: ["allow"]}
    reads = ["tuning", "where", "bootstrap", "seed", "level", "json", *of_kind[csv]]
    require_only(args, reads, of_kind[not csv], "--tuning", csv)
    if args.bootstrap == 0:
        raise UserError("--bootstrap 0: --tuning needs draws for its intervals; leave it out, or give 100 or more")
    options: dict[str, Any] = {"level": args.level, "seed": args.seed, "n": args.bootstrap or DRAWS}
    if csv:
        return laws.response_surface(_read_csv(args), **options)
    _require_folders(args.runs)
    return laws.response_surface(load_runs(args.runs), where=args.where, allow=args.allow, **options)


def _require_one_law(args: argparse.Namespace) -> None:
    if args.group and (args.compare or args.suggest is not None):
        raise UserError("--group fits one law of several groups: leave --compare and --suggest out")


def _suggestion(fitted: "laws.Fit", args: argparse.Namespace) -> tuple["laws.Suggestion", Path | None]:
    from scaling import laws, sweeps

    if len(args.runs) > 1 or not args.runs[0].is_dir():  # a table does not say how its runs were trained
        return laws.suggest(fitted, k=args.suggest), None
    return sweeps.write_suggestion(fitted, args.runs[0], args.suggest)


def _next(home: Path, path: Path) -> str:
    """How the runs of the suggested sweep in the file `path` are trained and join those in `home`."""
    from scaling.config import read_mapping

    joined = home.parent / read_mapping(path)["name"]
    return (
        f"\nto train them: scaling sweep {path}\nto fit all: scaling fit {home} {joined} -o {home / 'joint.fit.json'}"
    )


def _laws(args: argparse.Namespace) -> list[str]:
    """The law to fit, and those to compare it with."""
    return [args.law, *(args.compare.split(",") if args.compare else ())]


def _read_csv(args: argparse.Namespace) -> "laws.Runs":
    from scaling import laws

    given = {option: getattr(args, option) for option in NAMED}
    names = {option: DEFAULTS.get(option) if name is None else name or None for option, name in given.items()}
    names["loss"] = names["loss"] or "loss"
    if args.no_priors:
        raise UserError(f"--no-priors applies to sweeps; {args.runs[0]} is a CSV, which has none")
    if args.allow:
        raise UserError(f"--allow {args.allow[0]} applies to sweeps; {args.runs[0]} has no configuration")
    others = _columns(args)
    letters = [letter for letter in others if letter in NAMED.values()]
    if letters:
        option = next(option for option, letter in NAMED.items() if letter == letters[0])
        raise UserError(f"--column {letters[0]}={others[letters[0]]}: name {letters[0]} with --{option}")
    named = {NAMED[option]: name for option, name in names.items()}
    rules = {name: getattr(args, name) for name in RULES if getattr(args, name)}
    reads = [letter for law in _laws(args) for letter in laws.get_form(law).columns]
    how = {"signed": laws.get_form(args.law).signed, "trusted": args.trusted, "reads": reads, "groups": args.group}
    return laws.read_csv(args.runs[0], args.where, **named, **others, **rules, **how)


def _read_sweep(args: argparse.Namespace) -> "laws.Runs":
    from scaling import laws
    from scaling.sweeps import law_runs, load_wandb

    given = [option for option in (*NAMED, *RULES) if getattr(args, option)]
    first, project = args.runs[0], _wandb(args.runs[0])
    if not project:
        _require_folders(args.runs)
    if given:
        what = "a wandb project" if project else "a sweep's folder"
        raise UserError(f"--{given[0]} applies to CSVs; {first} is {what}, whose columns are known")
    if project and len(args.runs) > 1:
        raise UserError(f"{first} and {args.runs[1]}: only sweeps' folders can be fitted together")
    named = {"where": args.where, "allow": args.allow, "columns": _columns(args)}
    named |= {"group": args.group, "trusted": args.trusted}
    if project:
        return laws.from_results(load_wandb(*project), law=_laws(args), **named)
    return law_runs(args.runs, _laws(args), **named)


def _columns(args: argparse.Namespace) -> dict[str, str]:
    """The columns named by letter."""
    pairs = [_pair(text, "--column", "E=experts") for text in args.column]
    letters = [letter for letter, _ in pairs]
    if twice := next((letter for letter in letters if letters.count(letter) > 1), None):
        raise UserError(f"--column {twice} is given twice")
    return dict(pairs)


def _require_folders(paths: list[Path]) -> None:
    for path in paths:
        if path.is_file():
            raise UserError(f"{path} is a file: one CSV can be fitted, or several sweeps' folders, not both together")
        if not path.is_dir():
            raise UserError(
                f"{path}: no such file or folder; expected a CSV, a sweep's folder such as runs/NAME, or "
                f"wandb:ENTITY/PROJECT[/SWEEP]{near_file(path)}"
            )


def _wandb(runs: Path) -> tuple[str, str | None] | None:
    """Project and sweep of wandb:ENTITY/PROJECT[/SWEEP]; None for a path. Raises UserError for an incomplete name."""
    kind, colon, name = str(runs).partition(":")
    if kind != "wandb" or not colon:
        return None
    parts = name.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise UserError(f"{runs} is not wandb:ENTITY/PROJECT or wandb:ENTITY/PROJECT/SWEEP")
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None


def _output(paths: list[Path], name: str = "fit.json") -> Path:
    """Where a fit is saved by default: in the sweep's folder, beside the CSV, or in the current folder.

    Raises UserError for several sweeps, since the fit does not belong to a single one.
    """
    if len(paths) > 1:
        raise UserError("a fit of several sweeps has no default place: give one with -o FIT.json")
    runs = paths[0]
    project = _wandb(runs)
    if project is not None:
        return Path(f"{runs.name}.{name}")
    return runs.with_suffix(f".{name}") if runs.is_file() else runs / name


def _writable(path: Path, name: str = "fit.json") -> Path:
    """The path of a file to be written. Raises UserError or OSError where it cannot be, before the work.

    name: an example of a file's name.
    """
    if str(path) in ("", "."):
        raise UserError(f"-o is empty; name a file, for example -o {name}")
    if path.is_dir():
        raise UserError(f"-o {path} is a folder; name a file in it, for example -o {path / name}")
    parent = next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))
    if not parent.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(parent))
    if not os.access(parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        where = path if path.exists() else parent
        raise UserError(f"-o {path} cannot be written: no permission to write {where}; name another file with -o")
    return path


def _fit_in(path: Path) -> dict[str, str] | None:
    """Law, hash of the data and objective of the fit in the file `path`, None where there is no file.

    Raises UserError where the file is not a fit, so that it is not overwritten.
    """
    if not path.exists():
        return None
    try:
        there = read_json(path)
        objective = _objective(there["objective"])
        return {"law": str(there["law"]), "hash": str(there["data"]["hash"]), "objective": objective}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"-o {path} exists and is not a fit; delete it or name another file") from None


def _numbers(texts: list[str]) -> dict[str, float]:
    """Columns by letter. Raises UserError for values that are not numbers."""
    pairs = [_pair(text, "predict", "N=7e9") for text in texts]
    values: dict[str, float] = {}
    for letter, text in pairs:
        if letter in values:
            raise UserError(f"{letter} is given twice")
        try:
            values[letter] = to_number(text)
        except ValueError:
            raise UserError(f"{letter}={text}: {text!r} is not a number") from None
    return values


def _pair(text: str, where: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UserError(f"{where}: {text!r} is not LETTER=VALUE, for example {example}")
    return name, value
