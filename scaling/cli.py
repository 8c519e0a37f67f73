"""The command line: every command reads its arguments, calls one public function and prints what it returns."""

import argparse
import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

import scaling
from scaling import cli_fit_options, cli_generation, cli_laws
from scaling.distribution import DISTRIBUTION, MEND, others
from scaling.errors import Interrupted, UserError, explain
from scaling.extensions import load_extensions
from scaling.files import path_of
from scaling.names import meant
from scaling.numbers import to_number
from scaling.processes import LostProcess, leave, unwatched, watch, watched
from scaling.stopping import closed_terminal_stops, ctrl_c_stops, end_on_sigterm
from scaling.text import folded

EXIT_CODES = (
    "exit codes: 0 done; 1 a run failed (of `train`: or diverged), or the disk is full; 2 a mistake in usage, "
    "configuration or folder, which the same command would repeat; 75 told to stop (SIGTERM, a closed terminal): "
    "the same command continues; 130 Ctrl-C, likewise"
)
STOPPED = "stopped; no file is half-written, and the same command starts again"
NEGATIVE = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)
EXPECTED = {
    "to_number": "a number, such as 1e12 or 300B",
    "int": "a whole number",
    "to_seed": "a whole number, 0 or more",
    "float": "a number, such as 0.5",
    "path_of": "a path, or one in a known home folder",
}
"""what reads an option's number, and what it takes"""
KEPT = {
    "train": "stopped; the same command continues from the last checkpoint, or starts again if there is none",
    "prepare": "stopped; what is tokenised is kept, and the same command continues from there",
}
"""what a command says that was told to stop where it had nothing better to say"""


class _Version(argparse.Action):
    """Looked up only when it is asked for."""

    def __call__(self, *_: Any) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        try:
            jax = version("jax")
        except PackageNotFoundError:
            jax = "not installed"
        print(f"scaling {scaling.__version__}, jax {jax}")
        if also := others():
            print(f"scaling: {' and '.join(also)} is installed into the same folder: {MEND}", file=sys.stderr)
        sys.exit(0)


class _Parser(argparse.ArgumentParser):
    """Bad usage is one line and exit code 2."""

    def __init__(self, *args: Any, **named: Any):
        super().__init__(*args, **named)
        self._negative_number_matcher = NEGATIVE  # argparse's own takes -1e20, which has a letter, for an option

    def error(self, message: str) -> NoReturn:
        # argparse names what reads a number, and every choice, but not the one that was meant
        for reader, told in EXPECTED.items():
            message = re.sub(rf"invalid {reader} value: ('.*')", rf"expected {told}, got \1", message)
        wrong = re.match(r".*invalid choice: '([^']*)' \(choose from (.*)\)$", message)
        stray = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        hint = meant(wrong[1], re.findall(r"[\w-]+", wrong[2]), 1) if wrong else ""
        if stray:
            known = _options(self)
            hint = "an option of other commands" if stray[1] in known else meant(stray[1], sorted(known), 1)
        raise UserError(f"{message}{'; ' * bool(hint)}{hint} (see `{self.prog} --help`)")


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """Of a command and of those below it."""
    found = {option for action in parser._actions for option in action.option_strings}
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return found.union(*(_options(each) for action in below for each in action.choices.values()))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 success, 1 a failed run or a full disk, 2 bad usage, configuration or folder, 130 Ctrl-C.

    Raises `Interrupted` (a SystemExit of code 75) where SIGTERM told it to stop.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of another encoding shows ? for what it has not
            stream.reconfigure(errors="replace")
    args = argparse.Namespace(stopped=STOPPED)
    try:
        if not hasattr(scaling, "__version__"):  # the __init__.py is another project's, or gone with it
            raise UserError(f"another distribution has written over files of {DISTRIBUTION}: {MEND}")
        args = _parse(argv)
        stopping = nullcontext() if watched() else end_on_sigterm(args.stopped)  # else the watcher tells
        with warnings.catch_warnings(), stopping, ctrl_c_stops(), closed_terminal_stops():
            warnings.simplefilter("ignore", RuntimeWarning)  # what overflows is dealt with where it arises
            load_extensions()
            return args.call(args)
    except UserError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 2
    except LostProcess as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 1
    except (Interrupted, KeyboardInterrupt) as told:
        print(f"scaling: {str(told) or args.stopped}", file=sys.stderr)
        if isinstance(told, Interrupted):
            raise
        return 130
    except MemoryError:
        print("scaling: out of memory on this machine, or over its limit (ulimit -v)", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        sys.stderr.close()
        return 0
    except OSError as error:
        refused = explain(error)
        if refused is None:
            raise
        print(f"scaling: {refused[0]}", file=sys.stderr)
        return refused[1]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments in any order: overrides may also come after options."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    overrides = [a for a in rest if "=" in a and not a.startswith("-")]
    if len(overrides) < len(rest) or (rest and "overrides" not in args):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *overrides]
    return args


def _parser() -> argparse.ArgumentParser:
    about = __doc__.partition(":")[0] + " of scaling-law experiments."
    parser = _Parser(prog="scaling", description=about, epilog=EXIT_CODES)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the versions of scaling and jax")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for add in (_add_runs, _add_sweeps, _add_data, _add_laws, _add_models, _add_pages, _add_files):
        add(commands)
    return parser


def _command(commands: Any, name: str, call: Callable[[Any], int], help: str) -> argparse.ArgumentParser:
    """The parser of a new command among `commands`."""
    sub: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    sub.set_defaults(call=call, stopped=KEPT.get(name, STOPPED))
    return sub


def _add_runs(commands: Any) -> None:
    train = _command(commands, "train", _train, "Train one run and record it.")
    train.add_argument("run", metavar="RUN.yaml", help="configuration of a run, or the name of a shipped one")
    _overrides(train)
    train.add_argument("--profile", action="store_true", help="trace five updates into the run's folder")

    plan = _command(
        commands, "plan", _plan, "Parameters, FLOPs, memory and time of a model or run; nothing is trained."
    )
    plan.add_argument(
        "config", metavar="MODEL_OR_RUN.yaml", help="configuration of a model or a run, or a preset's name"
    )
    where = plan.add_mutually_exclusive_group()
    where.add_argument("--topology", metavar="KIND:SHAPE", help="devices, for example v5e:4x4 or h100:8")
    where.add_argument(
        "--fit", metavar="DEVICES", help="list the placements that fit on 64xh100 or v5e:8x8, the fastest first"
    )
    plan.add_argument(
        "--compile", action="store_true", help="compile the run's step for a TPU topology; needs no TPU, but tpu-plan"
    )
    plan.add_argument("--tokens", type=to_number, help="tokens to train on, in place of the run's")
    plan.add_argument("--mfu", type=float, help="share of the peak, in place of the roofline's estimate")
    plan.add_argument("--price", type=float, metavar="DOLLARS", help="price of a chip for an hour")
    _json(plan)
    _overrides(plan)


def _add_sweeps(commands: Any) -> None:
    sweep = _command(
        commands,
        "sweep",
        _sweep,
        "Train a sweep; with a forecast, fit, freeze and test it. Continues an earlier launch.",
    )
    sweep.add_argument("sweep", metavar="SWEEP.yaml", help="configuration of a sweep, or the name of a shipped one")
    sweep.add_argument(
        "--executor", metavar="NAME", help="where runs run: local, slurm or ray (default: executor.kind of the sweep)"
    )
    sweep.add_argument(
        "--folder", metavar="FOLDER", help="where the sweep's folder is created (default: run.records.folder)"
    )
    sweep.add_argument("--dry-run", action="store_true", help="print every run with its cost and stop")
    _json(sweep)
    _overrides(sweep)

    status = _command(commands, "status", _status, "The state of every run of a sweep.")
    _sweep_dir(status, "folder of a sweep, such as runs/NAME, or of one of its runs")
    either = status.add_mutually_exclusive_group()
    _json(either)
    either.add_argument("--watch", action="store_true", help="show it as it changes, until nothing is left to run")


def _add_data(commands: Any) -> None:
    data = _command(commands, "data", _data, "Token stores.")
    stores = data.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    prepare = _command(stores, "prepare", _prepare, "Tokenise a corpus once; an interrupted preparation continues.")
    prepare.add_argument("data", metavar="DATA.yaml", help="configuration of a corpus, or the name of a shipped one")
    prepare.add_argument("--store", default=None, metavar="FOLDER", help="where token stores are kept")
    _overrides(prepare)


def _add_laws(commands: Any) -> None:
    cli_fit_options.fit_options(
        _command(commands, "fit", _fit, "Fit a law to a sweep or to a CSV; --list shows the laws.")
    )
    cli_fit_options.predict_options(
        _command(
            commands, "predict", _predict, "Predict with a saved fit: best N, D and loss for a budget, or a loss."
        )
    )


def _add_models(commands: Any) -> None:
    generate = _command(commands, "generate", _generate, "Continue texts with the model of a run.")
    cli_generation.generate_options(generate)
    _json(generate)

    evaluate = _command(
        commands, "evaluate", _evaluate, "The held-out loss of a run's checkpoint, whole and by position."
    )
    cli_generation.evaluate_options(evaluate)
    _json(evaluate)


def _add_pages(commands: Any) -> None:
    about = "Plots and one self-contained html page of a sweep, of several side by side, or of a CSV of runs."
    cli_fit_options.report_options(_command(commands, "report", _report, about))

    dashboard = _command(
        commands,
        "dashboard",
        _dashboard,
        "Show a sweep in wandb, as a workspace and a report; without a key, write the page.",
    )
    _sweep_dir(dashboard)


def _add_files(commands: Any) -> None:
    init = _command(commands, "init", _init, "Write a commented sweep that fits a text, a time and this machine.")
    init.add_argument("file", type=path_of, metavar="SWEEP.yaml", help="the file to write")
    init.add_argument("--corpus", metavar="GLOB", help="text files, quoted (default: the Python standard library)")
    init.add_argument(
        "--text-field", metavar="NAME", help="field of a .jsonl or .parquet that holds the text (default: text)"
    )
    init.add_argument("--minutes", type=float, default=10.0, help="time that the sweep may take (default: 10)")

    _json(
        _command(
            commands,
            "presets",
            _presets,
            "List the shipped models, runs, sweeps and corpora, which can be used by name.",
        )
    )

    schema = _command(commands, "schema", _schema, "Write the JSON schemas of all configuration files, for editors.")
    schema.add_argument("folder", type=path_of, metavar="FOLDER", help="where they are written, as NAME.schema.json")


def _overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", default=(), metavar="key=value", help="dotted keys, for example model.layers=4"
    )


def _sweep_dir(parser: argparse.ArgumentParser, help: str = "folder of a sweep, such as runs/NAME") -> None:
    parser.add_argument("sweep_dir", metavar="SWEEP_DIR", type=path_of, help=help)


def _json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for machines, in place of text")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def _train(args: argparse.Namespace) -> int:
    from scaling.config import RunConfig, load, locate, resolved
    from scaling.cores import keep_memory
    from scaling.sweeps.executors import find_devices

    overrides = [*args.overrides, *["records.profile=true"] * args.profile]
    config = resolved(load(RunConfig, locate(args.run, ["runs"]), overrides))
    if unwatched():
        return watch(["train", args.run, *overrides])
    if find_devices().platform == "cpu":
        keep_memory()
    return 0 if scaling.train(config).status == "completed" else 1


def _plan(args: argparse.Namespace) -> int:
    from scaling.plan import format_plan, load_plannable, plan

    result = plan(
        load_plannable(args.config, args.overrides),
        topology=args.topology,
        compile=args.compile,
        fit=args.fit,
        tokens=args.tokens,
        mfu=args.mfu,
        price=args.price,
    )
    _print_json(result) if args.json else print(format_plan(result))
    return 0


def _sweep(args: argparse.Namespace) -> int:
    from scaling.config import SweepConfig, load, locate
    from scaling.sweeps import describe_sweep, format_sweep

    kind = [f"executor.kind={args.executor}"] if args.executor else []
    config = load(SweepConfig, locate(args.sweep, ["sweeps"]), [*args.overrides, *kind])
    if args.dry_run:
        described = describe_sweep(config, folder=args.folder)
        _print_json(described) if args.json else print(folded(format_sweep(described)))
        return 0
    outcome = scaling.sweep(config, folder=args.folder)
    _print_json(outcome.as_dict()) if args.json else print(folded(outcome.summary))
    return 0 if outcome.ok else 1


def _status(args: argparse.Namespace) -> int:
    from scaling.sweeps import format_status, status, watch

    if args.watch:
        watch(args.sweep_dir)
        return 0
    found = status(args.sweep_dir)
    _print_json(found) if args.json else print(format_status(found))
    return 0


def _data(args: argparse.Namespace) -> int:
    raise UserError("`scaling data` needs a command: scaling data prepare DATA.yaml")


def _prepare(args: argparse.Namespace) -> int:
    from scaling.config import DataConfig, Records, load, locate
    from scaling.data import describe, prepare

    config = load(DataConfig, locate(args.data, ["data"]), args.overrides)
    print(describe(prepare(config, args.store or Records().store_folder)))
    return 0


def _fit(args: argparse.Namespace) -> int:
    value, text = cli_laws.fit(args)
    _print_json(value) if args.json else print(folded(text))
    return 0


def _predict(args: argparse.Namespace) -> int:
    value, text = cli_laws.predict(args)
    _print_json(value) if args.json else print(folded(text))
    return 0


def _generate(args: argparse.Namespace) -> int:
    cli_generation.generate(args, _print_json)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    value, text = cli_generation.evaluate(args)
    _print_json(value) if args.json else print(text)
    return 0


def _report(args: argparse.Namespace) -> int:
    print(cli_laws.report(args))
    return 0


def _dashboard(args: argparse.Namespace) -> int:
    from scaling.report import publish_dashboard

    print(publish_dashboard(args.sweep_dir))
    return 0


def _init(args: argparse.Namespace) -> int:
    from scaling.starter import format_starter, write_starter

    found = write_starter(args.file, args.corpus, args.minutes, args.text_field)
    print(folded(format_starter(args.file, found)))
    return 0


def _presets(args: argparse.Namespace) -> int:
    from scaling.presets import format_presets, presets

    found = presets()
    _print_json(found) if args.json else print(format_presets(found))
    return 0


def _schema(args: argparse.Namespace) -> int:
    from scaling.config import Config, DataConfig, ModelConfig, RunConfig, SweepConfig, json_schema
    from scaling.result import write_text_atomically

    classes: dict[str, type[Config]] = {
        "model": ModelConfig,
        "data": DataConfig,
        "run": RunConfig,
        "sweep": SweepConfig,
    }
    for name, cls in classes.items():
        path = args.folder / f"{name}.schema.json"
        write_text_atomically(path, json.dumps(json_schema(cls), indent=1) + "\n")
        print(path)
    return 0


if __name__ == "__main__":
    leave(main)
