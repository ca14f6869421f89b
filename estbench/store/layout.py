"""The layout of the files of a result set, as types: the fields that are read.

A file may come from elsewhere. Whatever is in it, ``typed`` returns an object whose fields hold
what they declare, or raises a ``ValueError`` whose text is a line: "snapshots[3].mse: expected a
number >= 0.0". Other fields may be there; all numbers are of a size that can be computed with.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from estbench.config.validation import MAX_SEED, MAX_SEEDS, MOST_LETTERS, is_name, shown

__all__ = [
    "LARGEST",
    "RECORD",
    "AnyRecord",
    "CurveFields",
    "EndedFields",
    "JobRecord",
    "Label",
    "ManifestFields",
    "Name",
    "ProgressFields",
    "ProofFields",
    "ReferenceRecord",
    "RunRecord",
    "SnapshotFields",
    "SnapshotsRecord",
    "StepFields",
    "TimedFields",
    "TimingRecord",
    "distinct",
    "typed",
]

LARGEST = 1e150
"""Magnitude of a number: its square is a number too, which means and variances rely on."""

LARGEST_WHOLE = 2**53
"""Magnitude of a whole number: up to here a float holds each of them."""

MOST_RUNS = 1_000_000
"""Runs that a manifest may ask for: each is a row of the report, whether it is there or not."""


class Name(str):
    """The name of a task or an estimator, and of its folder."""

    def __new__(cls, value: Any) -> Name:
        if not is_name(value):
            raise ValueError(f"{shown(value)} cannot name a task or an estimator")
        return super().__new__(cls, value)


class Label(str):
    """A line of text that names something which has no folder, such as a metric."""

    def __new__(cls, value: Any) -> Label:
        if not (isinstance(value, str) and value.strip() and value.isprintable()):
            raise ValueError(f"{shown(value)} cannot be a name")
        if len(value) > MOST_LETTERS:
            raise ValueError(f"{shown(value)} is a name of more than {MOST_LETTERS} letters")
        return super().__new__(cls, value)


Count = Annotated[int, Meta(ge=0, le=LARGEST_WHOLE)]
Positive = Annotated[int, Meta(ge=1, le=LARGEST_WHOLE)]
Index = Annotated[int, Meta(ge=0, le=10**6)]
Seed = Annotated[int, Meta(ge=0, le=MAX_SEED)]
Size = Annotated[float, Meta(ge=0)] | None
Measure = float | None
Column = list[float | None]
Values = Annotated[dict[str, float | None], Meta(max_length=1_000)]
Names = Annotated[list[Name], Meta(max_length=10_000)]


class Fields(msgspec.Struct):
    """A table of named fields; others may be there."""


class CostFields(Fields):
    """What a job took: seconds, and the resident peak of its process in MiB."""

    wall_s: Annotated[float, Meta(ge=0)]
    cpu_s: Annotated[float, Meta(ge=0)]
    peak_mb: Size = None


class ErrorFields(Fields):
    """How a job failed."""

    type: str
    message: str
    traceback: str | None = None


class EndedFields(Fields, kw_only=True):
    """How something ended."""

    status: Literal["ok", "failed"] = "ok"
    error: ErrorFields | None = None

    def __post_init__(self) -> None:
        if self.failed != (self.error is not None):
            raise ValueError("status and error do not agree")

    @property
    def failed(self) -> bool:
        """Whether it failed."""
        return self.status == "failed"


class AnyRecord(EndedFields, kw_only=True, tag_field="kind"):
    """What every record has: see ``estbench.store.schema``."""

    schema: Count
    key: str
    status: Literal["ok", "failed"]
    error: ErrorFields | None
    timing: CostFields


class JobRecord(AnyRecord, kw_only=True):
    """A record of one task, estimator and seed."""

    task: Name
    estimator: Name
    seed: Seed


NEVER_NEGATIVE = frozenset({"total_variance", "mean_norm2", "bias_element_variance"})


class CurveFields(Fields):
    """Metrics by batch, None where a metric is unknown."""

    step: list[int]
    reward_evals: list[float]
    seconds: list[float]
    metrics: Annotated[dict[str, Column], Meta(max_length=1_000)]

    def __post_init__(self) -> None:
        if sorted(set(self.step)) != self.step or min(self.step, default=0) < 0:
            raise ValueError("step does not rise from 0 or more")
        own: dict[str, Any] = {"reward_evals": self.reward_evals, "seconds": self.seconds}
        for name, values in own.items():
            if values and (values[0] < 0 or values != sorted(values)):
                raise ValueError(f"{name} is negative, or falls")
        columns = own | self.metrics
        for name in NEVER_NEGATIVE & columns.keys():
            if min(filter(None, columns[name]), default=0) < 0:
                raise ValueError(f"metrics.{name} is negative")
        taken = {"task", "estimator", "seed", "step", *own} & self.metrics.keys()
        if taken:
            raise ValueError(f"metrics: {taken.pop()} cannot name a metric")
        for name, values in columns.items():
            if len(values) != len(self.step):
                raise ValueError(f"{name} has {len(values)} values for {len(self.step)} steps")


class RunRecord(JobRecord, tag="run"):
    """A training run."""

    steps: Count | None = None
    curves: CurveFields | None = None
    start: Values | None = None
    final: Values | None = None
    temperatures: list[Values] | None = None
    samples: list[str] | None = None
    state_sha256: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        temperatures = [entry.get("temperature") for entry in self.temperatures or ()]
        if None in temperatures:
            raise ValueError("temperatures: one has no temperature")
        distinct("temperatures", temperatures)


class ReferenceRecord(RunRecord, tag="reference"):
    """A training run whose snapshots are kept."""


class ProgressFields(Fields, kw_only=True):
    """What optimiser steps gain: see ``estbench.meter.progress``."""

    optimiser: Literal["sgd", "adam"]
    rate_factor: Measure = None
    batch: Positive
    steps: Positive
    replicates: Count | None = None
    gain: Measure = None
    gain_exact: Measure = None
    ratio: Measure = None
    low: Measure = None
    high: Measure = None
    gain_momentum: Measure = None
    added: Measure = None
    added_low: Measure = None
    added_high: Measure = None
    learning_rate: Measure = None
    useful_share: Measure = None


class StepFields(Fields):
    """Parts of the total variance by the step of the sequence."""

    parts: Column = []
    path: Measure = None
    total: Measure = None


class SnapshotFields(Fields):
    """What was measured at a snapshot. Older records lack some of it."""

    snapshot: Index
    draws: Count | None = None
    sequences_per_draw: Count | None = None
    total_variance: Size = None
    variance_low: Size = None
    variance_high: Size = None
    kurtosis: Size = None
    relative_bias: Size = None
    bias_low: Size = None
    bias_high: Size = None
    snr: Size = None
    cosine: Measure = None
    mse: Size = None
    hard_evals_per_draw: Size = None
    relaxed_evals_per_draw: Size = None
    adapt_evals: Size = None
    policy_steps_per_draw: Size = None
    seconds_per_draw: Size = None
    step: Count | None = None
    fraction: Size = None
    gradient_norm: Size = None
    untrained_variance: Size = None
    reward_std: Size = None
    reward_scale: Size = None
    adam_variance: Size = None
    adam_gradient_norm: Size = None
    tail_index: Size = None
    between_variance: Size = None
    evaluations_at_one: Size = None
    evaluations_at_batch: Size = None
    evaluations_in_limit: Size = None
    relative_bias_squared: Measure = None
    tokens_per_draw: Size = None
    equal_groups: Size = None
    effective_sample_share: Size = None
    by_tensor: Values | None = None
    by_step: StepFields | None = None
    progress: list[ProgressFields] | None = None

    def __post_init__(self) -> None:
        cells = ((p.optimiser, p.rate_factor, p.batch, p.steps) for p in self.progress or ())
        distinct("progress", cells)


class SnapshotsRecord(JobRecord, tag="snapshots"):
    """An estimator's measurements at the snapshots of a trajectory."""

    snapshots: Annotated[list[SnapshotFields], Meta(max_length=100_000)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct("snapshots", (entry.snapshot for entry in self.snapshots or ()))


class TimedFields(EndedFields, kw_only=True):
    """A step of an estimator, timed; or how that failed."""

    task: Name
    estimator: Name
    seconds_per_step: Size = None
    phases: Annotated[dict[str, Size], Meta(max_length=1_000)] | None = None


class TimingRecord(AnyRecord, kw_only=True, tag="timing"):
    """A round of the timing pass."""

    round: Index
    rows: Annotated[list[TimedFields], Meta(max_length=100_000)] | None = None
    tasks: Names = []
    estimators: Names = []

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct("rows", ((row.task, row.estimator) for row in self.rows or ()))
        for name in ("tasks", "estimators"):
            distinct(name, getattr(self, name))


class TrainingFields(Fields):
    """Settings of training that are read of a manifest."""

    truncation: Count = 0


class ExperimentFields(Fields):
    """The experiment that a manifest asks for, as far as it is read."""

    tasks: Names
    estimators: Names
    seeds: Annotated[list[Seed], Meta(max_length=MAX_SEEDS)]
    also_measured: Names = []
    name: str = ""
    description: str = ""
    training: TrainingFields = msgspec.field(default_factory=TrainingFields)
    per_task: dict[str, TrainingFields] = {}

    def __post_init__(self) -> None:
        for name in ("tasks", "estimators", "also_measured", "seeds"):
            distinct(name, getattr(self, name))
        for task in self.per_task:
            Name(task)
        columns = len(self.estimators) + len(self.also_measured)
        if len(self.tasks) * len(self.seeds) * columns > MOST_RUNS:
            raise ValueError(f"it asks for more than {MOST_RUNS:,} runs")


class EnvironmentFields(Fields):
    """Where a result set was made."""

    cpu: dict[str, Any] | None = None
    git: dict[str, Any] | None = None


class ManifestFields(Fields):
    """What a result set is to hold."""

    schema: Count
    experiment: ExperimentFields
    refused: dict[str, dict[str, str]] | None = None
    environment: EnvironmentFields | None = None

    def __post_init__(self) -> None:
        refused = self.refused or {}
        for name in (*refused, *(name for reasons in refused.values() for name in reasons)):
            Name(name)


class ConfigurationFields(Fields):
    """What a verdict is on, as far as it is read."""

    estimator: Name


class ProofFields(Fields):
    """A verdict on an estimator."""

    configuration: ConfigurationFields
    verdict: Literal["unbiased", "biased", "undecided", "declared biased", "not proven"]
    detail: str
    reach: str = ""


WORDS = {"float": "a number", "int": "a whole number", "str": "text", "object": "a table"}
WORDS |= {"dict": "a table", "array": "a list", "list": "a list", "Object": "a table"}
RECORD: Any = RunRecord | ReferenceRecord | SnapshotsRecord | TimingRecord


def typed(document: Any, kind: Any) -> Any:
    """Return a JSON document as an object of a type.

    Raises:
      ValueError: It is not one; the text names the place.
    """
    fault = _fault(document)
    if fault:
        raise ValueError(fault.lstrip(".") if fault[0] != ":" else f"it{fault}")
    try:
        return msgspec.convert(document, kind, dec_hook=lambda text, value: text(value))
    except msgspec.ValidationError as error:
        what, _, place = str(error).replace("`", "").partition(" - at ")
        what = re.sub("|".join(WORDS), lambda name: WORDS[name[0]], what).replace(" | ", " or ")
        place = place.replace("$.", "").replace("$", "it") or "it"
        raise ValueError(f"{place}: {what[:1].lower()}{what[1:120]}") from None


def distinct(name: str, entries: Iterable[Hashable]) -> None:
    """Check that no entry is repeated.

    Raises:
      ValueError: One is; the text names its place in the list of that name.
    """
    seen = set()
    for index, entry in enumerate(entries):
        if entry in seen:
            raise ValueError(f"{name}[{index}] is there twice")
        seen.add(entry)


def _fault(value: Any) -> str:
    """Return the place of a key or a number that cannot be, and why, anywhere in a document."""
    if type(value) is dict:
        for name, entry in value.items():
            try:
                Label(name)
            except ValueError as error:
                return f": {error}"
            fault = _fault(entry)
            if fault:
                return f".{name}{fault}"
    elif type(value) is list:
        if set(map(type, value)) <= {int, float}:  # curves are long
            value = [min(value, default=0), max(value, default=0)]
        for index, entry in enumerate(value):
            fault = _fault(entry)
            if fault:
                return f"[{index}]{fault}"
    elif type(value) in (int, float) and not -LARGEST <= value <= LARGEST:
        return f": {shown(value)} is no number that can be computed with"
    return ""
