"""No estimator is ranked before it is proven: verdicts on configurations, kept for next time.

What is proven is a configuration: the estimator with its rollouts and the reward's transform,
in float32 and drawn as a run draws, on problems of a few tokens (see ``Proof.reach``). The verdict
stands until the code it depends on changes, or torch's version; it is kept in the user's cache and
copied into the result set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import estbench
from estbench.config.experiment import Experiment
from estbench.core import plugins
from estbench.core.processes import surviving
from estbench.estimators import info, make
from estbench.meter.bias import Plan
from estbench.models.reward import CONTROLS
from estbench.proof.findings import read_bias, went_wrong, written
from estbench.proof.judging import ALPHA, FIRST, GROWTH, LOOKS, MARGIN, PILOT, BiasFinding, judge
from estbench.proof.problems import SIZES, SMALL, Problem, binary, expressions, named, tiny
from estbench.proof.setting import attempt
from estbench.store.atomic import StorageError
from estbench.store.private import cache as cache_folder
from estbench.store.private import read_own, write_own
from estbench.tasks.fit import refusals

__all__ = [
    "Configuration",
    "Proof",
    "assumed",
    "cached",
    "code_key",
    "configurations",
    "key_of",
    "plan_of",
    "prove",
    "proven",
    "remember",
    "remembered",
]

SCHEMA = 2
CHUNK = 512  # sequences a call; a run's batches are drawn by the same path
ROOMS = ("estimators", "meter", "models", "proof")
PLAN = Plan(FIRST, GROWTH, LOOKS, PILOT, margin=MARGIN, alpha=ALPHA, chunk=CHUNK)
"""The plan of one test where there is no other; see ``plan_of``."""


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
      reach: What it was proven for: V, T, end tokens, contexts; "" where nothing was proven.
      findings: What was found on each problem; empty where nothing was drawn.
    """

    configuration: Configuration
    verdict: str
    detail: str
    key: str
    reach: str = ""
    findings: Mapping[str, BiasFinding] = field(default_factory=dict, compare=False, repr=False)

    @property
    def ranked(self) -> bool:
        """Whether it may be ranked."""
        return self.verdict == "unbiased"

    @property
    def passes(self) -> bool:
        """Whether a run may go ahead with it: nothing it declares is in doubt."""
        return self.verdict in ("unbiased", "declared biased")

    def as_dict(self) -> dict[str, Any]:
        """Return the proof as ``proofs.json`` holds it: without what was found."""
        return {name: value for name, value in asdict(self).items() if name != "findings"}


def configurations(experiment: Experiment) -> list[Configuration]:
    """Return every configuration that an experiment measures or trains, once."""
    found: dict[Configuration, None] = {}
    unfit = refusals(experiment)
    for task in experiment.tasks:
        settings = experiment.training_for(task)
        for name in experiment.measured:
            if name in unfit.get(task, {}):
                continue
            # With a reward that knows nothing there is no gradient to be compared with.
            reward = "p" if settings.reward in CONTROLS else settings.reward
            own = Configuration(name, reward, settings.rollouts, settings.truncation)
            found[own] = None
    return list(found)


def prove(configuration: Configuration) -> Proof:
    """Return the verdict on a configuration; declared bias is not tried, it is believed."""
    given, declared = configuration, _declared(configuration)
    if declared is not None:
        return declared
    cases = _cases(given)
    if not cases:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in _unfit(given).items())
        detail = f"it fits no problem of the gate ({reasons})"
        return Proof(given, "undecided", detail, key_of(given))
    maker = partial(make, given.estimator, rollouts=given.rollouts)
    findings: dict[str, BiasFinding] = {}
    for name, (problem, how) in cases.items():
        found = findings[name] = judge(maker, problem(), how, plan_of(given, name), name)
        if found.result is None or found.result.verdict != "unbiased":
            break
    return _concluded(given, findings)


def plan_of(given: Configuration, problem: str) -> Plan:
    """Return the plan of the test on a problem: all that are tried share the error rate."""
    chunk = Plan.chunk if problem in SMALL else CHUNK
    return replace(PLAN, alpha=ALPHA / len(_cases(given)), chunk=chunk)


def _declared(given: Configuration) -> Proof | None:
    """Return the verdict on what declares itself biased; None elsewhere."""
    declared = info(given.estimator, given.truncation)
    if declared.unbiased:
        return None
    return Proof(given, "declared biased", declared.why_biased, key_of(given))


def _cases(given: Configuration) -> Mapping[str, tuple[Callable[[], Problem], str]]:
    """Return the problems that an estimator fits, each with the state of what is learned.

    Independent tokens alone are no proof for sequences.
    """
    learns = info(given.estimator, given.truncation).learned
    small, trained = ("arbitrary", "trained") if learns else ("fresh", "fresh")
    cases = {
        "autoregressive": (partial(tiny, torch.float32), small),
        "expressions-3": (partial(expressions, torch.float32, given.reward), trained),
        "autoregressive-binary": (partial(binary, torch.float32), small),
    }
    unfit = _unfit(given)
    if "autoregressive" not in unfit:  # the binary one is in its place
        del cases["autoregressive-binary"]
    cases = {name: case for name, case in cases.items() if name not in unfit}
    if not cases:
        return {}
    others = {name: (partial(named, name), trained) for name in SMALL if name not in unfit}
    return cases | others


def _unfit(given: Configuration) -> dict[str, str]:
    """Return the problems of the gate that an estimator does not fit, each with the reason."""
    method = make(given.estimator, rollouts=given.rollouts)
    names = ("autoregressive", "expressions-3", "autoregressive-binary", *SMALL)
    reasons = {name: method.refusal(*SIZES[name]) for name in names}
    return {name: reason for name, reason in reasons.items() if reason}


def _concluded(given: Configuration, findings: Mapping[str, BiasFinding]) -> Proof:
    """Return the verdict that findings add up to.

    Raises:
      KeyError: One that it takes is missing.
    """
    conclude = partial(Proof, given, key=key_of(given), findings=findings)
    limits = {}
    for name in _cases(given):
        found = findings[name]
        if found.result is None:
            return conclude("undecided", f"{name}: {found.error}")
        if found.result.verdict != "unbiased":
            suspect = f"; {found.suspect}" if found.suspect else ""
            return conclude(found.result.verdict, f"{name}: {found.result}{suspect}")
        limits[name] = found.result.last.upper
    small = [limits.pop(name) for name in SMALL if name in limits]
    said = [f"{name} < {upper:.2%}" for name, upper in limits.items()]
    if small:
        said.append(f"{len(small)} of independent tokens < {max(small):.2%}")
    V, T = (max(SIZES[name][k] for name in limits) for k in (0, 1))
    reach = f"V up to {V}, T up to {T}, without end token or prompts"
    return conclude("unbiased", ", ".join(said), reach=reach)


def remembered(configuration: Configuration) -> Proof | None:
    """Return the verdict on a configuration, if it takes no draws or is in the cache.

    The cache holds what was found. The verdict is concluded from that again.
    """
    declared = _declared(configuration)
    if declared is not None:
        return declared
    try:
        document = read_own(_path(configuration))
        if document["key"] != key_of(configuration):
            return None
        findings = {
            name: read_bias(found, PLAN.margin, plan_of(configuration, name).alpha)
            for name, found in document["findings"].items()
        }
        return _concluded(configuration, findings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a damaged file is as good as none: proving again is cheap


def remember(proof: Proof) -> None:
    """Keep what a verdict was concluded from for next time, unless something went wrong.

    A cache that cannot be written is no error.
    """
    if not proof.findings or any(map(went_wrong, proof.findings.values())):
        return
    findings = {name: written(found)["content"] for name, found in proof.findings.items()}
    try:
        write_own(_path(proof.configuration), {"key": proof.key, "findings": findings})
    except (OSError, StorageError):
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
        remember(proof)
        known[proof.configuration] = proof
        tell(proof, done, len(missing))
    return [proof for proof in known.values() if proof is not None]


def _prove_all(
    wanted: Sequence[Configuration], workers: int, note: Callable[[str], None]
) -> Iterable[Proof]:
    endings = surviving(
        wanted,
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
    return attempt(lambda: prove(configuration), lambda why: why)


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
    for path in sorted([*files, root / "core/noise.py", root / "core/seeding.py"]):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _path(configuration: Configuration) -> Path:
    return cached("proofs", configuration.estimator, asdict(configuration))


def cached(kind: str, estimator: str, given: Mapping[str, Any]) -> Path:
    """Return where the user's cache keeps what was found out about an estimator.

    Raises:
      OSError: The user has no home.
    """
    name = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
    return cache_folder() / kind / f"{estimator}-{name[:16]}.json"


def assumed(wanted: Iterable[Configuration]) -> list[Proof]:
    """Return a verdict for each configuration without proving any: remembered, or "not proven"."""
    return [
        remembered(given) or Proof(given, "not proven", "the gate was left open", key_of(given))
        for given in wanted
    ]
