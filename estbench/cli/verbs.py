"""The verbs of the command line: parse, call, print. Nothing heavy is imported before it is used.

``EXIT_CODES`` says what the exit codes mean, of every verb.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError, UnknownOptionError

from estbench import __version__
from estbench.config.experiment import TABLES
from estbench.config.validation import MAX_JOBS
from estbench.core.errors import MACHINE, UserError, unknown_name
from estbench.core.processes import Terminated, described, terminable
from estbench.core.terminal import encode_anything, say, show

__all__ = ["app", "main"]

EXIT_CODES = (
    "Exit codes: 0 done; 1 something failed, is not proven or is worse; 2 what was typed or given "
    "is wrong; 3 the machine failed (disk, memory, a lost backend); 128 + n stopped by signal n "
    "(130: Ctrl-C)."
)

app = App(
    name="estbench",
    version=__version__,
    help="Prove, measure and compare gradient estimators for discrete sequence models.",
    help_epilogue=EXIT_CODES,
    suppress_keyboard_interrupt=False,
)

JSON = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


FLAGS = {
    table: {settings.flag(name): name for name in settings.flags()}
    for table, settings in TABLES.items()
}
"""For each table of an experiment the flags of ``run`` that set something in it."""

if TYPE_CHECKING:
    RunSettings = Any
else:
    RunSettings = make_dataclass(
        "RunSettings",
        [
            (flag, Annotated[settings.kind(name), Parameter(help=settings.meaning(name))], None)
            for table, settings in TABLES.items()
            for flag, name in FLAGS[table].items()
        ],
        namespace={"__module__": __name__},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code.

    ``--traceback``, anywhere, shows beside an error's line where in a user's file it came from.
    """
    if argv is None:
        _import_nothing_from_here()
    encode_anything()
    given = list(sys.argv[1:] if argv is None else argv)
    whole = "--traceback" in given
    given = [word for word in given if word != "--traceback"]
    heard: list[int] = []
    try:
        with terminable() as heard:
            code = app(given, exit_on_error=False, print_error=False, result_action="return_value")
            sys.stdout.flush()
    except CycloptsError as error:
        verb = next((word for word in given if word in app and not word.startswith("-")), "")
        return _fail(_mistake(error, f"(see: {' '.join(('estbench', verb)).strip()} --help)"), 2)
    except BrokenPipeError:  # "estbench list tasks | head"
        _drop_output()
        return 0
    except BaseException as error:
        if heard:  # a library may have turned the stop into another error
            return _fail("interrupted", Terminated(heard[0]).code)
        return _ended_by(error, whole)
    return code if isinstance(code, int) else 0


def _ended_by(error: BaseException, whole: bool) -> int:
    """Say in a line what ended the command, and return the exit code.

    Raises:
      Exception: It is a fault of estbench's own.
    """
    if isinstance(error, UserError):
        if whole and error.__cause__ is not None:
            _say_traceback(error.__cause__)
        return _fail(str(error), 2)
    from estbench.core import plugins
    from estbench.store import StorageError

    if isinstance(error, StorageError):
        return _fail(str(error), 3)
    if isinstance(error, MemoryError):
        return _fail(f"no memory left ({error})" if str(error) else "no memory left", 3)
    if isinstance(error, OSError) and error.errno in MACHINE:
        if error.filename is None:
            _drop_output()
        return _fail(f"{error.filename or 'the output'}: {error.strerror}", 3)
    if isinstance(error, PermissionError) and error.filename:
        return _fail(f"{error.filename}: {error.strerror}", 2)
    place = plugins.place(error)
    if place:
        if whole:
            _say_traceback(error)
        return _fail(f"{place}: {described(error)} {plugins.MORE}", 2)
    if isinstance(error, Exception):
        raise error
    return _fail(described(error), 1)


def _say_traceback(error: BaseException) -> None:
    for line in "".join(traceback.format_exception(error)).splitlines():
        say(line)


def _drop_output() -> None:
    """Let what is still to be printed go nowhere: nobody takes it, also when Python ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_jobs(jobs: int | None) -> None:
    if jobs is not None and not 1 <= jobs <= MAX_JOBS:
        raise UserError(f"--jobs {jobs}: must be from 1 to {MAX_JOBS}")


def _import_nothing_from_here() -> None:
    """Keep the processes that this one starts from importing what lies in the working folder.

    It may be a result set that a stranger made. ``python -m``, by which workers start, would look
    there first; ``python -m estbench`` itself does, as Python always does, and so do its workers.
    """
    with suppress(OSError):  # the folder is gone
        if not {"", os.getcwd()} & set(sys.path):
            os.environ["PYTHONSAFEPATH"] = "1"


def _mistake(error: CycloptsError, hint: str) -> str:
    """Return what is wrong with the words typed, in a line."""
    if isinstance(error, UnknownOptionError):
        typed = (error.token.keyword or error.token.value).partition("=")[0]
        names = (name for argument in error.argument_collection for name in argument.names)
        options = [name for name in names if name.startswith("-")]
        return str(unknown_name("option", typed, options, hint))
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        verbs = [name for name in app if not name.startswith("-")]
        return str(unknown_name("command", error.unused_tokens[0], verbs, hint))
    error.verbose = False
    return f"{error} {hint}"


def _fail(text: str, code: int) -> int:
    with suppress(OSError):  # the terminal may be gone
        say(f"estbench: {' '.join(text.split())}")
    return code


@app.command
def run(
    file: Path | None = None,
    /,
    *,
    preset: str | None = None,
    tasks: str | None = None,
    estimators: str | None = None,
    seeds: str | None = None,
    device: str | None = None,
    out: Path | None = None,
    settings: Annotated[RunSettings | None, Parameter(name="*")] = None,
    retry_failed: Annotated[bool, Parameter(negative="")] = False,
    renew: Annotated[bool, Parameter(negative="")] = False,
    plugin: Path | None = None,
    gate: bool = True,
    live: bool = True,
    tensorboard: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run an experiment: train, measure, time, report. Does only what is missing in its folder.

    Parameters
    ----------
    file
        A TOML file with the experiment; it may start from a preset (preset = "bench").
    preset
        A preset, such as bench (the default), paper or seqgan-small; see: estbench list presets.
    tasks
        Tasks, separated by commas.
    estimators
        Estimators to train and measure, separated by commas.
    seeds
        A count (10: seeds 0 to 9), or seeds and ranges (0-4,7).
    device
        cpu, cuda or cuda:N; or several cards, cuda:0,cuda:1, among which the runs are shared out.
    out
        Folder of the result set: a new or empty one, or one to go on with; by default results/NAME,
        with the name of the preset or the file.
    retry_failed
        Run again what failed before.
    renew
        Set aside, in OUT/stale, what another version of estbench made, and make it again.
    plugin
        A Python file that registers estimators, tasks, generators or discriminators of your own.
    gate
        Prove, before anything is run, every estimator that declares itself unbiased; verdicts are
        kept. With --no-gate it is run all the same, and marked as not proven.
    live
        Make the report anew now and then while runs end, so that it can be watched; it takes a
        small share of one core. With --no-live it is made once, at the end.
    tensorboard
        Write event files for TensorBoard while runs train: OUT/tensorboard/TASK/ESTIMATOR/seed-000.
    """
    from estbench.cli import commands

    typed: dict[str, Any] = {} if settings is None else asdict(settings)
    _check_jobs(typed.get("jobs"))
    if tensorboard:
        from estbench.runner.events import check_installed

        check_installed()
    commands.load_plugin(plugin)
    experiment = commands.experiment(
        file=file,
        preset=preset,
        tasks=tasks,
        estimators=estimators,
        seeds=seeds,
        device=device,
        tables={table: {k: typed.get(f) for f, k in kept.items()} for table, kept in FLAGS.items()},
    )
    return commands.run(
        experiment,
        out=out,
        retry_failed=retry_failed,
        renew=renew,
        gate=gate,
        live=live,
        tensorboard=tensorboard,
    )


@app.command
def check(
    *names: str,
    estimators: str | None = None,
    plugin: Path | None = None,
    margin: float | None = None,
    seed: int | None = None,
    jobs: int | None = None,
    out: Path | None = None,
    as_json: JSON = False,
) -> int:
    """Prove estimators: are they unbiased, do they behave, do they cost what they say?

    Exit code 0 if everything that they declare holds, 1 if something does not or stays undecided.

    Parameters
    ----------
    names
        Estimators; the whole catalogue if none is named.
    estimators
        The same, separated by commas.
    plugin
        A Python file that registers estimators of your own; they are what is checked. (With
        --traceback an error in it is shown whole.)
    margin
        Relative bias from which on one is found or excluded (a smaller one may pass); .02 unless
        given. Draws grow as 1 / margin^2.
    seed
        Of the problem that is drawn at random, to repeat a verdict; by default a new one.
    jobs
        Worker processes, one thread each; by default as many as there are physical cores, and
        never more than there is work.
    out
        Folder for check.csv, check.json and the figure; by default results/check.
    """
    from estbench.cli import checks, commands

    _check_jobs(jobs)
    wanted = [*names, *(commands.split_names("--estimators", estimators) if estimators else ())]
    return checks.check(
        wanted, plugin=plugin, margin=margin, seed=seed, workers=jobs, out=out, as_json=as_json
    )


@app.command
def report(
    directory: Annotated[Path, Parameter(name="DIR")],
    /,
    *,
    latex: Annotated[bool, Parameter(negative="")] = False,
    tensorboard: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write the tables, figures and report.html of a result set anew, and print its summary.

    Parameters
    ----------
    directory
        A result set, such as results/bench.
    latex
        Write the main tables as LaTeX too, DIR/tables/*.tex, to be included in a paper.
    tensorboard
        Write event files for TensorBoard, DIR/tensorboard, of every finished run.
    """
    from estbench.cli import commands

    return commands.report(directory, latex=latex, tensorboard=tensorboard)


@app.command
def compare(
    a: Annotated[Path, Parameter(name="A")],
    b: Annotated[Path, Parameter(name="B")],
    /,
    *,
    fail_on_worse: Annotated[bool, Parameter(negative="")] = False,
    margin: float | None = None,
    out: Path | None = None,
    as_json: JSON = False,
) -> int:
    """Compare two result sets: what differs in settings, machine, variance, quality and time.

    Parameters
    ----------
    a
        The result set that is compared to, such as one of the commit before.
    b
        The result set that is compared.
    fail_on_worse
        Exit with code 1 if anything is worse in B after Holm's correction, such as in CI.
    margin
        Ratio up to which more time or memory is no worse, for machines are noisy; 1.1 unless given.
        Sets of different machines are judged by time and memory only if it is given.
    out
        Folder for compare.csv, compare.json and compare.md (for a pull request); none by default.
    """
    from estbench.cli import comparing

    return comparing.compare(
        a, b, fail_on_worse=fail_on_worse, as_json=as_json, out=out, margin=margin
    )


@app.command(name="list")
def list_(
    what: Literal["estimators", "tasks", "presets"] | None = None,
    /,
    *,
    plugin: Path | None = None,
    as_json: JSON = False,
) -> int:
    """List what there is: estimators, tasks or presets.

    Parameters
    ----------
    what
        What to list; all three if nothing is named. (As JSON all three are an object of arrays.)
    plugin
        A Python file that registers estimators of your own.
    """
    from estbench.cli import commands
    from estbench.cli.listing import listing

    commands.load_plugin(plugin)
    return listing(what, as_json=as_json)


@app.command
def env(
    *,
    hash_: Annotated[Path | None, Parameter(name="--hash", negative="")] = None,
    as_json: JSON = False,
) -> int:
    """Show versions and machine, what a result may depend on; or hash the numbers of a result set.

    Parameters
    ----------
    hash_
        A result set, such as results/bench: print one SHA-256 of all its numbers, time and memory
        left out. Jobs, order, backend and interruptions make no difference to it. With --json also
        of each kind of record, task and estimator, to see where two sets differ.
    """
    from estbench.cli import commands

    if hash_ is not None:
        return commands.show_digest(hash_, as_json=as_json)
    return commands.show_environment(as_json=as_json)


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the script that makes a shell complete the words of estbench.

    Parameters
    ----------
    shell
        The shell. README.md says where it looks for the script.
    """
    from estbench import estimators, tasks
    from estbench.cli.completion import script
    from estbench.config import presets

    proven = estimators.names()
    names = {"estimators": proven, "names": proven, "tasks": tasks.names()}
    for line in script(app, shell, names | {"preset": presets.names()}).splitlines():
        show(line)
    return 0
