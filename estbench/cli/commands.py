"""What the verbs of the command line do, once the words have been read."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench.config import presets
from estbench.config.experiment import Experiment
from estbench.config.validation import parse_seeds
from estbench.core.errors import UserError
from estbench.core.processes import Terminated, stop_workers
from estbench.core.terminal import console, say, show, show_json
from estbench.tasks.fit import check_fit, check_names, refusals

if TYPE_CHECKING:
    from estbench.runner import Summary

__all__ = [
    "experiment",
    "load_plugin",
    "report",
    "run",
    "show_digest",
    "show_environment",
    "split_names",
]

COMPANION = "reinforce-ema"
SHOWN_FAILURES = 20


def experiment(
    *,
    file: Path | None = None,
    preset: str | None = None,
    tasks: str | None = None,
    estimators: str | None = None,
    seeds: str | None = None,
    device: str | None = None,
    tables: Mapping[str, Mapping[str, Any]] | None = None,
) -> Experiment:
    """Return the experiment that was asked for; what was typed wins over the file or preset.

    ``tables`` are settings by the experiment's tables; a setting of None was not typed.

    Estimators that were typed are all that is measured, but for one: ``reinforce`` without a
    baseline brings ``reinforce-ema``, without which no ratio to it means anything.

    Raises:
      UserError: Something does not exist, or is malformed.
    """
    changes: dict[str, Any] = {}
    if seeds is not None:
        changes["seeds"] = parse_seeds(seeds, "--seeds")
    if tasks is not None:
        changes["tasks"] = split_names("--tasks", tasks)
    if estimators is not None:
        changes["estimators"] = split_names("--estimators", estimators)
        changes["also_measured"] = []
    if device is not None:
        changes["device"] = device
    for table, values in (tables or {}).items():
        if typed := {key: value for key, value in values.items() if value is not None}:
            changes[table] = typed
    if file is not None and preset is not None:
        raise UserError(
            f'give --preset or {file}, not both; the file may begin with preset = "{preset}"'
        )
    if file is not None:
        if not file.exists() and str(file) in presets.names():
            raise UserError(f"no such file: {file}; did you mean --preset {file}?")
        wanted = presets.read(file, changes)
    else:
        wanted = presets.preset(preset or presets.DEFAULT, changes)
    check_names(wanted)
    _check_taken(wanted, changes.get("training", {}))
    check_fit(wanted)
    if "reinforce" in wanted.estimators and COMPANION not in wanted.measured:
        wanted = dataclasses.replace(wanted, also_measured=(*wanted.also_measured, COMPANION))
    return wanted


def _check_taken(wanted: Experiment, given: Mapping[str, Any]) -> None:
    """Raise for a typed option that no task of the experiment takes, or that one overrides."""
    from estbench import tasks

    for key in given:
        option = "--" + key.replace("_", "-")
        if not any(key in tasks.info(name).options for name in wanted.tasks):
            takers = [name for name in tasks.names() if key in tasks.info(name).options]
            raise UserError(
                f"{option} is of no use to {', '.join(wanted.tasks)}; it is for --tasks "
                + " or ".join(takers)
            )
        for name, own in wanted.per_task.items():
            if key in own and name in wanted.tasks and own[key] != given[key]:
                raise UserError(
                    f"{option}: [per_task.{name}] sets {key} = {own[key]!r} itself; change it there"
                )


def run(
    wanted: Experiment,
    *,
    out: Path | None,
    retry_failed: bool = False,
    renew: bool = False,
    gate: bool = True,
    live: bool = True,
    tensorboard: bool = False,
) -> int:
    """Run an experiment, report on it, and say what became of it; return the exit code.

    Nothing is run unless every estimator that declares itself unbiased is proven to be, or ``gate``
    is False; then the report marks those that are not. With ``live`` the report is made anew while
    runs end; with ``tensorboard`` they also write event files.
    """
    from estbench import runner, tasks
    from estbench.report.freshness import is_current
    from estbench.runner.backends import BackendLostError, check_backend
    from estbench.runner.environment import check_device, worker_count
    from estbench.store import SetGoneError, StorageError

    if out is None and wanted.name == "reference":
        raise UserError("results/reference/ is for committed sets: give --out another folder")
    directory = out or Path("results") / wanted.name
    if wanted.execution.backend == "local":  # other machines have devices of their own
        for device in wanted.devices:
            check_device(device)
    check_backend(wanted.execution)
    here = wanted.execution.jobs if wanted.execution.backend != "slurm" else 0
    workers = here or max(1, worker_count() // wanted.execution.threads)
    for task in wanted.tasks:
        described = tasks.describe(task, wanted.training_for(task))
        if described:
            say(described)
    for task, reasons in refusals(wanted).items():
        for name, reason in reasons.items():
            say(f"left out: {name} does not fit {task}: {reason}")
    summary = runner.Summary()
    try:
        runner.run_experiment(
            wanted,
            directory,
            workers=workers,
            command=command_line(),
            display=runner.display_for(),
            summary=summary,
            retry_failed=retry_failed,
            renew=renew,
            prove=partial(_proofs, wanted, workers, gate),
            live=live,
            tensorboard=tensorboard,
        )
        if not summary.made:
            say(f"nothing to do: {directory} holds all of this already")
        if not summary.made and is_current(directory):
            again = shlex.join(["estbench", "report", str(directory)])
            say(f"{directory / 'report.html'} is up to date; {again} makes it anew")
            _say_page(directory)
        else:
            say(f"writing tables, figures and report.html to {directory}")
            _report(directory)
    except Terminated as stop:
        done = summary.made + summary.found
        kept = f"the {done} records that were finished are kept in {directory}"
        if not done:
            kept = "no record was finished; what was proven is kept"
        with suppress(OSError):  # the terminal may be gone
            say(f"interrupted; {kept}; go on with: {command_line()}")
        return stop.code
    except _NotProvenError as error:
        for line in str(error).splitlines():
            say(line)
        say("nothing was run; leave it out, or add --no-gate: then it is run, marked, not ranked")
        return 1
    except BackendLostError as error:
        say(f"estbench: {error}; the {summary.made + summary.found} finished records are kept")
        say(f"go on with: {command_line()}")
        return 3
    except SetGoneError as error:
        say(f"estbench: {error}; to make all of it again, run the same again")
        return 3
    except StorageError as error:
        say(f"estbench: {error}; make room or give --out another folder, then run the same again")
        return 3
    return _say_failures(summary)


class _NotProvenError(Exception):
    """An estimator declares itself unbiased and is not proven to be: a line for each."""


def _proofs(wanted: Experiment, workers: int, gate: bool) -> list[dict[str, Any]]:
    """Return the verdicts on all that is to be run; raises where one of them forbids it."""
    from estbench.proof.gate import Proof, assumed, configurations, proven
    from estbench.store.private import distrusted

    given = configurations(wanted)
    if why := distrusted():
        say(why)
    if not gate:
        return [proof.as_dict() for proof in assumed(given)]

    def tell(proof: Proof, done: int, total: int) -> None:
        say(f"[proving {done}/{total}] {proof.configuration.label}: {proof.verdict}")

    try:
        proofs = proven(given, workers=workers, tell=tell, note=say)
    finally:
        stop_workers()  # a run's memory is measured in a worker that has done nothing else
    failing = [
        f"estbench: {proof.configuration.label} is {proof.verdict}: {proof.detail}"
        for proof in proofs
        if not proof.passes
    ]
    if failing:
        raise _NotProvenError("\n".join(failing))
    return [proof.as_dict() for proof in proofs]


def report(directory: Path, *, latex: bool = False, tensorboard: bool = False) -> int:
    """Report on a result set; return the exit code.

    Raises:
      StorageError: The disk refused a file.
      UserError: There is nothing to report, or a file is damaged.
    """
    if tensorboard:
        from estbench.runner.events import export

        count = export(directory)
        say(f"wrote event files of {count} runs to {directory / 'tensorboard'}")
    _report(directory, latex=latex)
    return 0


def load_plugin(path: Path | None) -> list[str]:
    """Load a user's file of estimators, if one is given; return the names it registers.

    Raises:
      UserError: Something is wrong with it; names file and line.
    """
    if path is None:
        return []
    from estbench.core import plugins

    return plugins.load(path)


def show_environment(*, as_json: bool) -> int:
    """Print versions and machine; return the exit code."""
    from estbench.runner.environment import devices, environment

    found = environment() | {"devices": devices()}
    if as_json:
        show_json(found)
        return 0
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items())
        elif isinstance(value, list):
            value = ", ".join(value)
        show(f"{name.replace('_', ' ')}: {value}")
    return 0


def show_digest(directory: Path, *, as_json: bool) -> int:
    """Print the hash of a result set's numbers; return the exit code.

    Raises:
      UserError: There is no hash of the whole. With JSON its parts have been printed.
    """
    from estbench.store.digest import digest

    found = digest(directory)
    if as_json:
        show_json(found.as_dict())
    if found.sha256 is None:
        more = "" if as_json else "; --json has hashes of the records that are there"
        raise UserError(found.absent + more)
    if not as_json:
        show(found.sha256)
    return 0


def command_line() -> str:
    """Return the command as it could be typed again."""
    module = Path(sys.argv[0]).name == "__main__.py"
    return shlex.join([*(("python", "-m", "estbench") if module else ("estbench",)), *sys.argv[1:]])


def _report(directory: Path, *, latex: bool = False) -> None:
    from estbench import report
    from estbench.store.atomic import storing

    with storing(directory):
        paths = report.build(directory, latex=latex, console=console())
    for path in paths.latex:
        say(f"wrote {path}")
    _say_page(directory)


def _say_page(directory: Path) -> None:
    say(f"open the report: {(directory / 'report.html').resolve().as_uri()}")


def _say_failures(summary: Summary) -> int:
    """Say what failed and where; return the exit code."""
    failures = summary.failures
    if not failures:
        return 0
    say(f"{len(failures)} of {summary.made + summary.found} failed:")
    for failure in failures[:SHOWN_FAILURES]:
        say(f"  {failure.label}: {failure.error} ({failure.path})")
    if len(failures) > SHOWN_FAILURES:
        say(f"  and {len(failures) - SHOWN_FAILURES} more, in tables/runs.csv and report.html")
    say("the files hold the tracebacks; --retry-failed runs them again")
    return 1


def split_names(option: str, text: str) -> list[str]:
    """Return the names of a comma-separated list.

    Raises:
      UserError: One of them is empty.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"{option} {text!r}: give names separated by commas, such as a,b")
    return names
