"""Prints how the verdicts of the committed sets change under a referee's objections.

``python benchmarks/referee.py [SET ...]`` reads result sets (by default all of results/reference
that have snapshots) and prints the numbers of docs/referee.md. Nothing is measured anew. A verdict
is lower, higher or no difference found, for one estimator against its partner or `reinforce-ema`,
on one task, for one cost.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

from estbench.config.experiment import Experiment
from estbench.meter.exact import enumerable, exact
from estbench.report.building import load_comparisons
from estbench.report.data import ratios, trajectory
from estbench.report.data.comparisons import BASELINED, Comparisons
from estbench.report.data.ratios import ALPHA, EMA, HIGHER, LOWER, PARTNER, Bounded
from estbench.report.data.statistics import corrected, logs, mean_interval
from estbench.report.data.tails import heavy
from estbench.report.data.trajectory import LEAST_GRADIENT, LEAST_SPREAD
from estbench.store.results import ResultSet
from estbench.tasks.stage import make_stage

COSTS = ("sequence", "evaluation", "second")
FIRM = (LOWER, HIGHER)
KNOWN = ("reinforce", "rloo-2", "rloo-4", "rloo", "rloo-16")  # whose variance has a formula
Pair = tuple[str, str, str, str]  # task, cost, estimator, against


def verdicts(directory: Path) -> dict[Pair, tuple[str, bool]]:
    """Return each verdict, and whether it survives leaving out any one snapshot."""
    found = load_comparisons(directory)
    return {
        (task, cost, *pair): (ratio.verdict, ratio.survives)
        for task in found.results.tasks
        for cost in COSTS
        for pair, ratio in found.ratios(task, cost).items()
        if ratio.verdict
    }


def change(usual: dict[Pair, tuple[str, bool]], other: dict[Pair, tuple[str, bool]]) -> str:
    """Return how many verdicts differ, and how many of them are opposite."""
    both = [(usual[pair][0], other[pair][0]) for pair in usual]
    differ = [pair for pair in both if pair[0] != pair[1]]
    opposite = sum(set(pair) == set(FIRM) for pair in differ)
    return f"{len(differ)} of {len(both)} verdicts change, {opposite} to the opposite"


def heavier_than(share: float) -> Callable[[pd.DataFrame], np.ndarray]:
    """Return a rule: a measurement is heavy where it is as if one draw held that share."""

    def rule(rows: pd.DataFrame) -> np.ndarray:
        return rows["kurtosis"].to_numpy(float) > rows["draws"].to_numpy(float) * share**2

    return rule


def thresholds(directory: Path) -> Iterator[str]:
    """Move the thresholds of informative snapshots and of heavy tails."""
    usual = verdicts(directory)
    for factor in (1 / 10, 1 / 3, 3.0, 5.0):
        moved = (LEAST_SPREAD * factor, LEAST_GRADIENT * factor)
        with patch.object(trajectory.informative_snapshots, "__defaults__", moved):
            yield f"informative from {moved[0]:.2g}: {change(usual, verdicts(directory))}"
    for share in (1 / 12, 1 / 4, 3 / 4, math.inf):
        with patch.object(trajectory, "heavy", heavier_than(share)):
            yield f"heavy if one draw holds {share:.2g}: {change(usual, verdicts(directory))}"
    for factor in (1 / 3, 3.0):
        with patch.object(ratios, "HEAVY_PART", ratios.HEAVY_PART * factor):
            text = change(usual, verdicts(directory))
        yield f"a bound from {ratios.HEAVY_PART * factor:.2g} of the noise on: {text}"


def omissions(directory: Path) -> Iterator[str]:
    """Count the verdicts that one snapshot turns over."""
    for cost in COSTS:
        own = [v for pair, v in verdicts(directory).items() if pair[1] == cost]
        firm = [survives for verdict, survives in own if verdict in FIRM]
        yield f"per {cost}: {firm.count(False)} of {len(firm)} differences do not survive"


def families(found: Comparisons) -> Iterator[tuple[str, dict[tuple[str, str], str]]]:
    """Yield each task with its verdicts per evaluation."""
    for task in found.results.tasks:
        own = found.ratios(task, "evaluation").items()
        yield task, {pair: ratio.verdict for pair, ratio in own if ratio.verdict}


def judged(values: np.ndarray, found: Comparisons, task: str, bounded: bool = True) -> list[str]:
    """Return verdicts per evaluation from log noise [estimators, seeds], Holm-corrected."""
    family = dict(families(found))[task]
    places = found.at(task).places
    estimates = [mean_interval(values[places[a]] - values[places[b]]) for a, b in family]
    whole = found.ratios(task, "evaluation")
    bounds = [whole[pair].bound if bounded else "" for pair in family]
    return [
        Bounded(estimate.exp(), bound).verdict
        for estimate, bound in zip(corrected(estimates), bounds, strict=True)
    ]


def listed(found: Comparisons, task: str, other: list[str]) -> str:
    """Return the verdicts that differ from the report's, in words."""
    family = dict(families(found))[task]
    said = [
        f"{a} / {b}: {usual} -> {new}"
        for ((a, b), usual), new in zip(family.items(), other, strict=True)
        if usual != new
    ]
    return f"{len(said)} of {len(family)} change. {'; '.join(said)}"


def tailed(directory: Path) -> Iterator[str]:
    """Count the heavy-tailed measurements."""
    table = pd.read_parquet(directory / "tables" / "variance.parquet")
    table = table[table["status"] == "ok"]
    found = heavy(table)
    for task, rows in table.assign(heavy=found).groupby("task"):
        yield f"{task}: {rows['heavy'].sum()} of {len(rows)} measurements are heavy-tailed"


def enumerated(directory: Path) -> Iterator[str]:
    """Compare measured variances with exact ones, where sequences can be listed.

    Needs the snapshots' states, which the committed sets are too large to hold.
    """
    results = ResultSet(directory)
    if not (directory / "reference").is_dir():
        return
    table = pd.read_parquet(directory / "tables" / "variance.parquet")
    table["heavy"] = heavy(table)
    table = table.set_index(["task", "estimator", "seed", "snapshot"]).sort_index()
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    experiment = Experiment.from_dict(manifest["experiment"])
    for task in experiment.tasks:
        stage = make_stage(experiment, task, experiment.seeds[0])
        if stage.conditional or not enumerable(stage.policy):
            continue
        rows = []
        for seed in experiment.seeds:
            stage = make_stage(experiment, task, seed)
            for snapshot in results.states(task, seed)["snapshots"]:
                stage.load(snapshot)
                known = exact(stage.policy, stage.reward)
                for name in KNOWN:
                    row = table.loc[(task, name, seed, snapshot["snapshot"])]
                    group = int(row["sequences_per_draw"])
                    truth = known.reinforce_variance()
                    if group > 1:
                        truth = known.leave_one_out_variance(group)
                    rows.append((bool(row["heavy"]), math.log(row["total_variance"] / truth)))
        for is_heavy in (False, True):
            own = np.array([gap for tail, gap in rows if tail == is_heavy])
            yield (
                f"{task}, {'heavy' if is_heavy else 'not heavy'}: {len(own)} measurements over the "
                f"exact variance: mean {np.exp(own).mean():.3f}, standard deviation of the "
                f"logarithm {own.std():.2f}"
            )


def estimand(directory: Path) -> Iterator[str]:
    """Compare with the geometric mean over the snapshots of version 0.1, tails left aside."""
    found = load_comparisons(directory)
    for task in found.results.tasks:
        at = found.at(task)
        now = judged(logs(at.noise("evaluation")), found, task, bounded=False)
        mean = judged(logs(at.values["evaluation"]).mean(axis=2), found, task, bounded=False)
        differ = [pair for pair in zip(now, mean, strict=True) if pair[0] != pair[1]]
        opposite = sum(set(pair) == set(FIRM) for pair in differ)
        yield f"{task}: geometric mean: {len(differ)} of {len(now)} change, {opposite} opposite"


def halves(directory: Path) -> Iterator[str]:
    """Make the verdicts from one half of the seeds, and from the other."""
    found = load_comparisons(directory)
    for task in found.results.tasks:
        whole = logs(found.at(task).noise("evaluation"))
        half = whole.shape[1] // 2
        first, second = (
            judged(part, found, task) for part in (whole[:, :half], whole[:, half : 2 * half])
        )
        pairs = list(zip(first, second, strict=True))
        both = sum(set(pair) <= set(FIRM) for pair in pairs)
        opposite = sum(set(pair) == set(FIRM) for pair in pairs)
        yield f"{task}: {both} of {len(pairs)} decided by both halves, {opposite} oppositely"


def multiplicity(directory: Path) -> Iterator[str]:
    """Count differences without a correction, with the report's, and with a stricter one."""
    found = load_comparisons(directory)
    tests = [
        ratio
        for task in found.results.tasks
        for cost in COSTS
        for ratio in found.ratios(task, cost).values()
        if ratio.verdict
    ]
    raw = sum(ratio.estimate.p_value < ALPHA for ratio in tests)
    corrected = sum(ratio.p_holm < ALPHA for ratio in tests)
    strict = sum(ratio.estimate.p_value * len(tests) < ALPHA for ratio in tests)
    yield (
        f"{len(tests)} tests: {raw} below {ALPHA} uncorrected, {corrected} by Holm for a task and "
        f"cost, {strict} by Bonferroni over all"
    )


def baselines(directory: Path) -> Iterator[str]:
    """Compare verdicts against the partner with those against the moving average."""
    found = load_comparisons(directory)
    for cost in COSTS:
        pairs = []
        for task in found.results.tasks:
            family = found.ratios(task, cost).values()
            ema = {r.estimator: r.verdict for r in family if r.role == EMA}
            own = [r for r in family if r.role == PARTNER and r.against != BASELINED and r.verdict]
            pairs += [(r.verdict, ema[r.estimator]) for r in own if r.estimator in ema]
        differ = sum(a != b for a, b in pairs)
        opposite = sum({*pair} == set(FIRM) for pair in pairs)
        yield f"per {cost}: {differ} of {len(pairs)} differ, {opposite} of them opposite"


def batches(directory: Path) -> Iterator[str]:
    """Give the part of a step that is noise, by batch size, over the informative snapshots."""
    table = pd.read_parquet(directory / "tables" / "variance.parquet")
    found = load_comparisons(directory)
    for task in found.results.tasks:
        at = found.at(task)
        kept = [s for s, told in zip(at.snapshots, at.informative, strict=True) if told]
        for name in (BASELINED, "rebar", "muprop"):
            own = table[(table["task"] == task) & (table["estimator"] == name)]
            own = own[own["snapshot"].isin(kept)]
            if own.empty:
                continue
            square = own["gradient_norm"] ** 2
            scale = own["total_variance"] * own["sequences_per_draw"] / square
            median = scale.groupby(own["snapshot"]).median()
            parts = []
            for batch in (8, 32, 128, 512):
                noise = 100.0 * median / (median + batch)
                parts.append(f"{batch}: {noise.min():.0f} to {noise.max():.0f} %")
            yield f"{task}, {name}: {', '.join(parts)}"


def own_trajectories(directory: Path) -> Iterator[str]:
    """Compare ratios along each run's own trajectory with those at the shared snapshots."""
    curves = pd.read_parquet(directory / "tables" / "curves.parquet")
    curves = curves[curves["metric"] == "total_variance"]
    found = load_comparisons(directory)
    for task, rows in curves.groupby("task"):
        means = rows.groupby(["estimator", "seed"])["value"].mean().unstack("estimator")
        at = found.at(str(task))
        if "reinforce" not in means:
            continue
        shared = logs(at.noise("sequence"))
        for name in means.columns.drop("reinforce"):
            own = mean_interval(np.log(means[name] / means["reinforce"]).to_numpy()).exp()
            there = mean_interval(shared[at.places[name]] - shared[at.places["reinforce"]]).exp()
            yield (
                f"{task}, {name} / reinforce: own {own.value:.3f} [{own.low:.3f}, {own.high:.3f}], "
                f"shared {there.value:.3f} [{there.low:.3f}, {there.high:.3f}]"
            )


SETS = ("catalogue", "paper", "seqgan-small")
OBJECTIONS = {
    "estimand": estimand,
    "one snapshot": omissions,
    "thresholds, tails": thresholds,
    "baseline": baselines,
    "tails": tailed,
    "exact variance": enumerated,
    "batch": batches,
    "seeds": halves,
    "multiplicity": multiplicity,
    "own trajectories": own_trajectories,
}

if __name__ == "__main__":
    sets = sys.argv[1:] or [f"results/reference/{name}" for name in SETS]
    for directory in map(Path, sets):
        print(directory)
        for objection, answer in OBJECTIONS.items():
            for line in answer(directory):
                print(f"  {objection}: {line}")
