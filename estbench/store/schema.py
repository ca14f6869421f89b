"""What stands in a record, and which of it must be the same on every machine.

A record is one JSON file: the envelope below, and beside its keys those of the payload that a job
returned. A number that is not finite is stored as null.

    kind        "run", "reference", "snapshots" or "timing"
    schema      version of this layout
    key         hash of all that determines the numbers (``estbench.store.keys``)
    task, estimator, seed   null in a timing record
    status      "ok" or "failed"
    error       null, or {"type", "message", "traceback"}; a traceback may be null
    timing      {"wall_s", "cpu_s", "peak_mb"}: seconds of the job; peak_mb is the resident peak of
                its worker process in MiB since that *worker* began, so it also holds what the
                worker did before
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from estbench.config.validation import MAX_SEED, MAX_SEEDS, shown
from estbench.core.errors import UserError
from estbench.store.shapes import (
    LARGEST,
    Shape,
    between,
    column,
    distinct,
    each,
    fields,
    maybe,
    name,
    named,
    number,
    numbers_only,
    one_of,
    text,
    whole,
)

__all__ = [
    "SCHEMA",
    "VOLATILE",
    "Record",
    "check_manifest",
    "check_payload",
    "check_proofs",
    "check_record",
    "check_schema",
    "envelope",
    "finite",
    "numbers",
]

SCHEMA = 1

OLDEST = 1
"""The oldest schema whose records mean what today's mean; settings added since have defaults."""

Record = dict[str, Any]

VOLATILE = frozenset(
    {
        "cpu_s",
        "peak_mb",
        "seconds",
        "seconds_per_draw",
        "seconds_per_step",
        "timing",
        "traceback",
        "wall_s",
    }
)
"""Keys and columns of time and memory: they change from run to run and are left out of hashes."""


def envelope(
    kind: str,
    key: str,
    task: str | None = None,
    estimator: str | None = None,
    seed: int | None = None,
    *,
    error: Mapping[str, str | None] | None = None,
    timing: Mapping[str, float] | None = None,
) -> Record:
    """Return a record without a payload; with an error it is a failed one."""
    return {
        "kind": kind,
        "schema": SCHEMA,
        "key": key,
        "task": task,
        "estimator": estimator,
        "seed": seed,
        "status": "ok" if error is None else "failed",
        "error": None if error is None else dict(error),
        "timing": dict(timing or {"wall_s": 0.0, "cpu_s": 0.0, "peak_mb": 0.0}),
    }


def check_schema(document: Any, path: Path) -> None:
    """Check that a record or a manifest is of a version that can be read, before all else of it.

    Raises:
      UserError: It is of another version; says what to do.
    """
    table = document if isinstance(document, dict) else {}
    schema, environment = table.get("schema"), table.get("environment")
    if type(schema) is not int or OLDEST <= schema <= SCHEMA:
        return  # what is no number is damage, which is said of everything else too
    version = environment.get("estbench") if isinstance(environment, dict) else None
    maker = (f"estbench {str(version)[:40]}, " if version else "") + f"schema {shown(schema)}"
    if schema > SCHEMA:
        raise UserError(
            f"{path} was made by a newer version ({maker}; this one reads up to "
            f"{SCHEMA}): update estbench"
        )
    raise UserError(
        f"{path} was made by an older version ({maker}; this one reads from "
        f"{OLDEST}): its numbers mean something else; make it again with estbench run --out, or "
        "use the version that made it"
    )


def check_record(document: Any) -> None:
    """Check that a JSON document is a whole record: its envelope, and what is read of its payload.

    Raises:
      ValueError: It is none; the text names the place.
    """
    kind = document.get("kind") if isinstance(document, dict) else None
    _KIND(kind, "kind")
    _RECORDS[str(kind)](document, "")
    if (document["status"] == "failed") != (document["error"] is not None):
        raise ValueError("status and error do not agree")
    _check_curves(document)


def check_payload(kind: str, payload: Any) -> None:
    """Check what a job of a kind returned, as far as it is read.

    Raises:
      ValueError: It could not be read; the text names the place.
    """
    fields({}, _PAYLOADS[kind])(payload, "")
    _check_curves(payload)


def check_manifest(document: Any) -> None:
    """Check what is read of a manifest, whoever's settings it holds.

    Raises:
      ValueError: It is none; the text names the place.
    """
    _MANIFEST(document, "")
    experiment = document["experiment"]
    grid = len(experiment["tasks"]) * len(experiment["seeds"])
    grid *= len(experiment["estimators"]) + len(experiment.get("also_measured") or ())
    if grid > MOST_RUNS:
        raise ValueError(f"experiment asks for more than {MOST_RUNS:,} runs")


def check_proofs(document: Any) -> None:
    """Check a list of verdicts on estimators, as ``estbench.proof.gate`` writes them.

    Raises:
      ValueError: It is none; the text names the place.
    """
    _PROOFS(document, "it")


def finite(value: Any) -> Any:
    """Return a payload with None for every number that is not finite or far too large."""
    if isinstance(value, float):
        return value if -LARGEST <= value <= LARGEST else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value


def numbers(value: Any) -> Any:
    """Return what of a record is determined by its key: all but time and memory."""
    if isinstance(value, Mapping):
        return {key: numbers(entry) for key, entry in value.items() if key not in VOLATILE}
    if isinstance(value, (list, tuple)):
        return [numbers(entry) for entry in value]
    return value


MOST_METRICS = 1_000  # of a run, or at a snapshot

MOST_RUNS = 1_000_000
"""Runs that a manifest may ask for: each is a row of the report, whether it is there or not."""

_MEASURE = maybe(number)
_SIZE = between(0, LARGEST)
_VALUES = named(_MEASURE, most=MOST_METRICS)
_SEED = whole(0, MAX_SEED)
_NAMES = distinct(each(name, 10_000))


def _rows(value: Any, where: str) -> None:
    """Take values by name, one of which says at which temperature."""
    _VALUES(value, where)
    number(value.get("temperature"), f"{where}.temperature")


_KIND: Shape = one_of("run", "reference", "snapshots", "timing")
_ENVELOPE: Mapping[str, Shape] = {
    "kind": _KIND,
    "schema": whole(),
    "key": text,
    "status": one_of("ok", "failed"),
    "timing": fields({"wall_s": _SIZE, "cpu_s": _SIZE}, {"peak_mb": maybe(_SIZE)}),
    "error": maybe(fields({"type": text, "message": text}, {"traceback": maybe(text)})),
}
_IDENTITY: Mapping[str, Shape] = {"task": name, "estimator": name, "seed": _SEED}
_ROUND: Mapping[str, Shape] = {"round": whole(0, 10**6)}

_CURVES: Shape = fields(
    {"step": numbers_only, "reward_evals": numbers_only, "seconds": numbers_only}
    | {"metrics": named(column, most=MOST_METRICS)}
)
_RUN: Mapping[str, Shape] = {
    "steps": maybe(whole()),
    "curves": maybe(_CURVES),
    "start": maybe(_VALUES),
    "final": maybe(_VALUES),
    "temperatures": maybe(distinct(each(_rows), "temperature")),
    "samples": maybe(each(text)),
    "state_sha256": text,
}
_COUNTS = ("step", "draws", "sequences_per_draw")
_MEASURES = ("relative_bias_squared", "cosine")  # of any sign
_SIZES = (
    *("fraction", "total_variance", "variance_low", "variance_high", "kurtosis"),
    *("relative_bias", "bias_low", "bias_high", "snr", "mse"),
    *("hard_evals_per_draw", "relaxed_evals_per_draw", "adapt_evals", "policy_steps_per_draw"),
    *("seconds_per_draw", "gradient_norm", "untrained_variance"),
    *("reward_std", "reward_scale", "adam_variance", "adam_gradient_norm", "tail_index"),
    *("between_variance", "evaluations_at_one", "evaluations_at_batch", "evaluations_in_limit"),
)
_STEPS = ("optimiser", "rate_factor", "batch", "steps")  # what tells rows of progress apart
_PROGRESS: Shape = fields(
    {"optimiser": one_of("sgd", "adam"), "batch": whole(1), "steps": whole(1)},
    {
        "replicates": maybe(whole()),
        **dict.fromkeys(("rate_factor", "gain", "gain_exact", "ratio", "low", "high"), _MEASURE),
        **dict.fromkeys(("gain_momentum", "added", "added_low", "added_high"), _MEASURE),
        **dict.fromkeys(("learning_rate", "useful_share"), _MEASURE),
    },
)
_SNAPSHOT: Shape = fields(
    {"snapshot": whole(0, 10**6)},
    {
        **dict.fromkeys(_COUNTS, maybe(whole())),
        **dict.fromkeys(_MEASURES, _MEASURE),
        **dict.fromkeys(_SIZES, maybe(_SIZE)),
        "by_tensor": maybe(_VALUES),
        "by_step": maybe(fields({}, {"parts": column, "path": _MEASURE, "total": _MEASURE})),
        "progress": maybe(distinct(each(_PROGRESS), *_STEPS)),
    },
)
_TIMED: Shape = fields(
    {"task": name, "estimator": name},
    {"seconds_per_step": maybe(_SIZE), "phases": maybe(named(maybe(_SIZE), most=MOST_METRICS))},
)
_PAYLOADS: Mapping[str, Mapping[str, Shape]] = {
    "run": _RUN,
    "reference": _RUN,
    "snapshots": {"snapshots": maybe(distinct(each(_SNAPSHOT), "snapshot"))},
    "timing": {
        "rows": maybe(distinct(each(_TIMED), "task", "estimator")),
        "tasks": _NAMES,
        "estimators": _NAMES,
    },
}
_RECORDS: Mapping[str, Shape] = {
    kind: fields({**_ENVELOPE, **(_ROUND if kind == "timing" else _IDENTITY)}, payload)
    for kind, payload in _PAYLOADS.items()
}

_SETTINGS: Shape = fields({}, {"truncation": whole()})
_MANIFEST: Shape = fields(
    {
        "schema": whole(),
        "experiment": fields(
            {"tasks": _NAMES, "estimators": _NAMES, "seeds": distinct(each(_SEED, MAX_SEEDS))},
            {
                "name": text,
                "description": text,
                "also_measured": _NAMES,
                "training": _SETTINGS,
                "per_task": named(_SETTINGS, name),
            },
        ),
    },
    {
        "refused": maybe(named(named(text, name), name)),
        "environment": maybe(fields({}, {"cpu": maybe(fields({})), "git": maybe(fields({}))})),
    },
)
_PROOFS: Shape = distinct(
    each(
        fields(
            {
                "configuration": fields({"estimator": name}),
                "verdict": one_of(
                    "unbiased", "biased", "undecided", "declared biased", "not proven"
                ),
                "detail": text,
            },
            optional={"reach": text},
        )
    ),
    "configuration",
)


_NEVER_NEGATIVE = frozenset({"total_variance", "mean_norm2", "bias_element_variance"})


def _check_curves(payload: Mapping[str, Any]) -> None:
    """Check that curves have a value, known or not, for each of their steps, which rise.

    What is counted or timed never falls, and a variance is never below nothing.
    """
    curves = payload.get("curves")
    if not curves:
        return
    steps = curves["step"]
    if any(type(step) is not int for step in steps) or sorted(set(steps)) != steps:
        raise ValueError("curves.step does not rise, by whole numbers")
    if steps and steps[0] < 0:
        raise ValueError("curves.step is negative")
    own = {held: curves[held] for held in ("reward_evals", "seconds")}
    for held, values in own.items():
        if values and (values[0] < 0 or values != sorted(values)):
            raise ValueError(f"curves.{held} is negative, or falls")
    for held in _NEVER_NEGATIVE & curves["metrics"].keys():
        if min(filter(None, curves["metrics"][held]), default=0) < 0:
            raise ValueError(f"curves.metrics.{held} is negative")
    taken = {"task", "estimator", "seed", "step", *own} & curves["metrics"].keys()
    if taken:
        raise ValueError(f"curves.metrics: {taken.pop()} is no name of a metric")
    for held, values in {**own, **curves["metrics"]}.items():
        if len(values) != len(steps):
            raise ValueError(f"curves: {held} has {len(values)} values for {len(steps)} steps")
