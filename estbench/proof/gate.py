"""No estimator is ranked before it is proven: verdicts on configurations, kept for next time.

What is proven is a configuration: the estimator with its rollouts and the reward's transform,
in float32 and drawn as a run draws. The verdict stands until the code it depends on changes, or
torch's version; it is kept in the user's cache and copied into the result set.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import estbench
from estbench import plugins
from estbench.estimators import info, make
from estbench.experiment import Experiment
from estbench.fit import refusals
from estbench.meter.bias import Plan
from estbench.processes import described, is_stop, surviving
from estbench.proof.judging import ALPHA, FIRST, GROWTH, MARGIN, PILOT, BiasFinding, judge
from estbench.proof.problems import SIZES, binary, expressions, tiny
from estbench.store.atomic import StorageError, write_json
from estbench.store.reading import read_document
from estbench.store.schema import check_proofs

__all__ = [
    "Configuration",
    "Proof",
    "assumed",
    "cached",
    "code_key",
    "configurations",
    "key_of",
    "prove",
    "proven",
    "remember",
    "remembered",
]

SCHEMA = 1
CHUNK = 512  # sequences a call; a run's batches are drawn by the same path
ROOMS = ("estimators", "meter", "models", "proof")


@dataclass(frozen=True)
class Configuration:
    """What a verdict is about.

    Attributes:
      estimator: Name.
      reward: Transform of the discriminator's logit.
      rollouts: Rollouts a position.
      truncation: Steps of backpropagation through time; 0 for all.
    """

    estimator: str
    reward: str
    rollouts: int
    truncation: int

    @property
    def label(self) -> str:
        """What it is called in lines for people."""
        parts = [f"reward {self.reward}"]
        if self.rollouts:
            parts.append(f"{self.rollouts} rollouts")
        if self.truncation:
            parts.append(f"truncation {self.truncation}")
        return f"{self.estimator} ({', '.join(parts)})"


@dataclass(frozen=True)
class Proof:
    """A verdict on a configuration.

    Attributes:
      configuration: What it is about.
      verdict: "unbiased", "biased", "undecided", "declared biased" or "not proven" (not tried, or
        nothing came of it).
      detail: The numbers, a line.
      key: Hash of the code, torch's version and the configuration.
    """

    configuration: Configuration
    verdict: str
    detail: str
    key: str

    @property
    def ranked(self) -> bool:
        """Whether it may be ranked."""
        return self.verdict == "unbiased"

    @property
    def passes(self) -> bool:
        """Whether a run may go ahead with it: nothing it declares is in doubt."""
        return self.verdict in ("unbiased", "declared biased")

    def as_dict(self) -> dict[str, Any]:
        """Return the proof as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Proof:
        """Return the proof of a document.

        Raises:
          KeyError, TypeError: It is none.
        """
        fields = dict(document)
        fields["configuration"] = Configuration(**fields["configuration"])
        return cls(**fields)


def configurations(experiment: Experiment) -> list[Configuration]:
    """Return every configuration that an experiment measures or trains, once."""
    found: dict[Configuration, None] = {}
    unfit = refusals(experiment)
    for task in experiment.tasks:
        settings = experiment.training_for(task)
        for name in experiment.measured:
            if name in unfit.get(task, {}):
                continue
            own = Configuration(name, settings.reward, settings.rollouts, settings.truncation)
            found[own] = None
    return list(found)


def prove(configuration: Configuration) -> Proof:
    """Return the verdict on a configuration; declared bias is not tried, it is believed."""
    given = configuration
    key = key_of(given)
    declared = info(given.estimator, given.truncation)
    if not declared.unbiased:
        return Proof(given, "declared biased", declared.why_biased, key)
    maker = partial(make, given.estimator, rollouts=given.rollouts)
    how = "trained" if declared.learned else "fresh"
    tests: dict[str, Callable[[Plan], BiasFinding]] = {
        "autoregressive": partial(
            judge, maker, tiny(torch.float32), "arbitrary" if declared.learned else "fresh"
        ),
        "expressions-3": partial(judge, maker, expressions(torch.float32, given.reward), how),
    }
    if maker().refusal(*SIZES["autoregressive"]):
        tests["autoregressive-binary"] = partial(
            judge, maker, binary(torch.float32), "arbitrary" if declared.learned else "fresh"
        )
    unfit = {name: maker().refusal(*SIZES[name]) for name in tests}
    tests = {name: test for name, test in tests.items() if not unfit[name]}
    if not tests:
        detail = "; ".join(f"{name}: {reason}" for name, reason in unfit.items())
        return Proof(given, "undecided", f"it fits no problem of the gate ({detail})", key)
    plan = Plan(
        first=FIRST,
        growth=GROWTH,
        looks=3,
        pilot=PILOT,
        margin=MARGIN,
        alpha=ALPHA / 2,
        chunk=CHUNK,
    )
    sizes = []
    for name, test in tests.items():
        found = test(plan)
        if found.result is None:
            return Proof(given, "undecided", f"{name}: {found.error}", key)
        look = found.result.last
        if found.result.verdict != "unbiased":
            suspect = f"; {found.suspect}" if found.suspect else ""
            return Proof(given, found.result.verdict, f"{name}: {found.result}{suspect}", key)
        sizes.append(f"{name} < {look.upper:.2%} ({look.draws} draws)")
    return Proof(given, "unbiased", ", ".join(sizes), key)


def remembered(configuration: Configuration) -> Proof | None:
    """Return the verdict that the cache holds, if it still stands."""
    try:
        document = read_document(_path(configuration))
        check_proofs([document])
        found = Proof.from_dict(document)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a damaged file is as good as none: proving again is cheap
    stands = found.configuration == configuration and found.key == key_of(configuration)
    return found if stands else None


def remember(proof: Proof) -> None:
    """Keep a verdict for next time; a cache that cannot be written is no error."""
    try:
        write_json(_path(proof.configuration), proof.as_dict())
    except StorageError:
        return


def proven(
    wanted: Sequence[Configuration],
    *,
    workers: int,
    tell: Callable[[Proof, int, int], None],
    note: Callable[[str], None] = lambda text: None,
) -> list[Proof]:
    """Return a verdict for each configuration: remembered, or else proven now.

    Args:
      wanted: The configurations.
      workers: Processes; no estimator draws in this one.
      tell: Told of each one that is proven now: (proof, done, of how many).
      note: Told in a line when a worker process dies. What kills its worker twice is not proven.
    """
    known = {given: remembered(given) for given in wanted}
    missing = [given for given, proof in known.items() if proof is None]
    for done, proof in enumerate(_prove_all(missing, workers, note), start=1):
        if proof.verdict != "not proven":
            remember(proof)
        known[proof.configuration] = proof
        tell(proof, done, len(missing))
    return [proof for proof in known.values() if proof is not None]


def _prove_all(
    wanted: Sequence[Configuration], workers: int, note: Callable[[str], None]
) -> Iterable[Proof]:
    drawn = []
    for given in wanted:
        if info(given.estimator, given.truncation).unbiased:
            drawn.append(given)
        else:
            yield prove(given)  # declared bias needs no draws
    endings = surviving(
        drawn,
        lambda given: partial(_in_worker, given, plugins.loaded()),
        workers,
        label=lambda given: given.label,
        note=note,
    )
    for given, found in endings:
        if isinstance(found, Proof):
            yield found
        else:
            yield Proof(given, "not proven", str(found), key_of(given))


def _in_worker(configuration: Configuration, paths: Sequence[str]) -> Proof | str:
    """Return the verdict, or in a line why there is none."""
    torch.set_num_threads(1)
    plugins.ensure(paths)
    try:
        return prove(configuration)
    except BaseException as error:
        if is_stop(error):
            raise
        return described(error)


def key_of(configuration: Configuration) -> str:
    """Return the hash of all that a verdict depends on."""
    return code_key(configuration.estimator, asdict(configuration))


def code_key(estimator: str, given: Mapping[str, Any]) -> str:
    """Return the hash of the code that a verdict on an estimator depends on, and of ``given``."""
    parts = {
        "schema": SCHEMA,
        "code": _code(),
        "own": plugins.source_hash(estimator),
        "torch": torch.__version__,
        **given,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def _code() -> str:
    """Return the hash of the source of everything that draws, differentiates or judges."""
    root = Path(estbench.__file__).parent
    digest = hashlib.sha256()
    files = [path for room in ROOMS for path in (root / room).rglob("*.py")]
    for path in sorted([*files, root / "noise.py", root / "seeding.py"]):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _path(configuration: Configuration) -> Path:
    return cached("proofs", configuration.estimator, asdict(configuration))


def cached(kind: str, estimator: str, given: Mapping[str, Any]) -> Path:
    """Return where the user's cache keeps what was found out about an estimator."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
    return Path(base) / "estbench" / kind / f"{estimator}-{name[:16]}.json"


def assumed(wanted: Iterable[Configuration]) -> list[Proof]:
    """Return a verdict for each configuration without proving any: remembered, or "not proven"."""
    found = []
    for given in wanted:
        proof = remembered(given)
        if proof is None and not info(given.estimator, given.truncation).unbiased:
            proof = prove(given)
        found.append(proof or Proof(given, "not proven", "the gate was left open", key_of(given)))
    return found
