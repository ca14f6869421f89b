"""A made-up result set with the layout and the rough numbers of a real one.

Every number is invented (smooth trends plus noise), so tests can know the truth behind them: the
variance of an estimator is that of `reinforce-ema` times `RATIO`, at every snapshot.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TASKS = ("expressions-3", "expressions-15", "oracle-small")
TRAINED = ("reinforce", "rloo", "rebar", "relax")
ALSO_MEASURED = ("reinforce-constant", "reinforce-ema", "reinforce-critic", "seqgan-rollouts")

# Variance per sequence over that of reinforce-ema: the truth that the report has to find.
RATIO = {
    "reinforce": 22.0,
    "reinforce-constant": 0.93,
    "reinforce-ema": 1.0,
    "reinforce-critic": 0.81,
    "rloo": 0.98,
    "seqgan-rollouts": 0.55,
    "rebar": 0.50,
    "relax": 0.52,
}
EVALS = {"seqgan-rollouts": (50.0, 0.0), "rebar": (1.0, 2.0), "relax": (1.0, 0.0)}
STEP_MS = {"reinforce": 6.0, "seqgan-rollouts": 31.0, "rebar": 24.0, "relax": 41.0}
GOODNESS = {"expressions-3": (0.49, 0.97), "expressions-15": (10.76, 12.4)}
SPEED = {"reinforce": 0.5, "rloo": 1.0, "rebar": 1.1, "relax": 1.0}


def _rng(*key: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(map(str, key)).encode()))


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def envelope(
    kind: str, task: str | None, estimator: str | None, seed: int | None, error: str | None = None
) -> dict[str, Any]:
    """The keys that every record has, whatever its kind."""
    failure = error and {
        "type": "FloatingPointError",
        "message": error,
        "traceback": f"Traceback (most recent call last):\n  ...\nFloatingPointError: {error}",
    }
    return {
        "kind": kind,
        "schema": 1,
        "key": "0" * 64,
        "task": task,
        "estimator": estimator,
        "seed": seed,
        "status": "failed" if error else "ok",
        "error": failure or None,
        "timing": {"wall_s": 12.5, "cpu_s": 12.25, "peak_mb": 412.0},
    }


def run_payload(task: str, estimator: str, seed: int, batches: int) -> dict[str, Any]:
    """A training run: curves that fall (variance) and rise (quality) as real ones do."""
    rng, shared = _rng("run", task, estimator, seed), _rng("run", task, seed)
    at = np.arange(batches)
    progress = 1.0 - np.exp(-3.0 * SPEED.get(estimator, 1.0) * at / batches)
    offset = shared.normal(0, 0.15)
    log_variance = math.log(0.08 * RATIO.get(estimator, 1.0)) - 1.4 * progress + offset
    log_variance = log_variance + rng.normal(0, 0.12) + rng.normal(0, 0.22, batches)
    metrics: dict[str, list[float | None]] = {
        "total_variance": np.exp(log_variance).tolist(),
        "log_variance": log_variance.tolist(),
        "mean_norm2": (0.01 * np.exp(-progress)).tolist(),
        "reward_mean": (0.5 - 0.1 * progress).tolist(),
        "discriminator_loss": (0.69 - 0.2 * progress).tolist(),
        "discriminator_accuracy": (0.5 + 0.2 * progress).tolist(),
    }
    if task in GOODNESS:
        start, end = GOODNESS[task]
        goodness = start + (end - start) * progress * (0.85 + 0.1 * shared.random())
        noise = rng.normal(0, 0.03 * (end - start), batches)
        element = log_variance + 0.8 + rng.normal(0, 0.3, batches)
        metrics["goodness"] = (goodness + noise).tolist()
        metrics["p_valid"] = (0.2 + 0.6 * progress).tolist()
        metrics["distinct"] = (0.95 - 0.3 * progress + rng.normal(0, 0.02, batches)).tolist()
        metrics["entropy"] = (1.1 - 0.45 * progress + rng.normal(0, 0.01, batches)).tolist()
        metrics["bias_element_variance"] = np.exp(element).tolist()
        metrics["log_bias_element_variance"] = element.tolist()
        metrics["tv"] = [None if i % 8 and i != batches - 1 else 0.5 for i in range(batches)]
    else:
        nll = 3.2 - 0.4 * progress + rng.normal(0, 0.02, batches) + 0.1 * offset
        metrics["nll_oracle"] = nll.tolist()
        metrics["nll_gen"] = (2.6 + 0.1 * progress + rng.normal(0, 0.01, batches)).tolist()
        metrics["distinct"] = (0.99 - 0.05 * progress).tolist()
        metrics["entropy"] = (2.9 - 0.5 * progress).tolist()
    started: dict[str, Any] = {}
    if task not in GOODNESS:
        metrics["kl_forward"] = [0.4 + 0.1 * float(p) + 0.05 * shared.random() for p in progress]
        # Pre-trained: worse on the oracle's side, better on the data's.
        started = {
            "start": {"nll_oracle": 3.2 + 0.1 * offset, "nll_gen": 2.6, "kl_forward": 0.4},
            "temperatures": [
                {"temperature": t, "nll_oracle": 2.8 + math.log(t), "nll_gen": 2.7 + (t - 1) ** 2}
                for t in (0.5, 1.0, 2.0)
            ],
            "samples": ["1 2 3", "4 5 6"],
        }
    last = {k: next(x for x in reversed(v) if x is not None) for k, v in metrics.items()}
    quality = ("goodness", "p_valid", "tv", "distinct", "entropy", "nll_oracle", "nll_gen")
    quality += ("kl_forward",)
    return {
        **started,
        "steps": batches,
        "curves": {
            "step": at.tolist(),
            "reward_evals": (128 * (at + 1)).tolist(),
            "seconds": (0.05 * (at + 1)).tolist(),
            "metrics": metrics,
        },
        "final": {name: last[name] for name in quality if name in last},
        "info": {"reward": "p"},
    }


def snapshot_payload(task: str, estimator: str, seed: int, batches: int) -> dict[str, Any]:
    """Five snapshots, whose variance is the task's own times `RATIO` times the seed's noise."""
    rows = []
    for index, fraction in enumerate((0.0, 0.125, 0.25, 0.5, 1.0)):
        shared = _rng("snapshot", task, seed, index)
        rng = _rng("snapshot", task, estimator, seed, index)
        base = math.log({"expressions-3": 0.02, "expressions-15": 0.3}.get(task, 0.9)) - fraction
        log_variance = base + shared.normal(0, 0.3) + rng.normal(0, 0.06)
        per_sequence = RATIO.get(estimator, 0.9) * math.exp(log_variance)
        group = 8 if estimator == "rloo" else 1
        hard, relaxed = EVALS.get(estimator, (1.0, 0.0))
        bias = 0.11 if estimator == "reinforce-constant" and task == "expressions-3" else 0.0
        squared = bias**2 + rng.normal(0, 1e-5 + 0.01 * bias)
        relative_bias = math.sqrt(max(squared, 0.0))
        total = per_sequence / group
        rows.append(
            {
                "snapshot": index,
                "step": round(fraction * batches),
                "fraction": fraction,
                "draws": 4096 // group,
                "sequences_per_draw": group,
                "total_variance": total,
                "variance_low": total * 0.94,
                "variance_high": total * 1.07,
                "kurtosis": 6.0 + rng.random(),
                "relative_bias": relative_bias,
                "relative_bias_squared": squared,
                "bias_low": max(relative_bias - 0.008, 0.0),
                "bias_high": relative_bias + 0.008,
                "snr": 0.1,
                "cosine": 0.99,
                "mse": total,
                "hard_evals_per_draw": hard * group,
                "relaxed_evals_per_draw": relaxed * group,
                "adapt_evals": 1280.0,
                "policy_steps_per_draw": 15.0 * group,
                "seconds_per_draw": 1e-4 * group,
                "gradient_norm": 0.2,
                "reward_std": 0.1,
                "reward_scale": 0.2,
                "adam_variance": total * 3.0 if index else None,
                "adam_gradient_norm": 0.3 if index else None,
                "tail_index": 4.0,
                "untrained_variance": total * 1.6 if estimator in ("rebar", "relax") else None,
                "by_tensor": {"embedding": total / 2, "output": total / 2},
                "info": {},
            }
        )
    return {"snapshots": rows}


def write_measurements(
    directory: Path,
    variances: Mapping[str, Sequence[Sequence[float]]],
    *,
    steps: Sequence[int],
    task: str = "expressions-3",
    batch_size: int = 128,
    **columns: Sequence[float] | float,
) -> Path:
    """Write measurements alone, with variances that a test can integrate by hand.

    Args:
      variances: Estimator -> seed -> variance per sequence at each snapshot.
      steps: Batches before each snapshot.
      columns: Other columns of a measurement: one value, or one a snapshot.
    """
    for estimator, seeds in variances.items():
        for seed, values in enumerate(seeds):
            record = envelope("snapshots", task, estimator, seed)
            record |= snapshot_payload(task, estimator, seed, max(steps))
            rows = []
            for index, value in enumerate(values):
                row = dict(record["snapshots"][0]) | {"snapshot": index, "step": steps[index]}
                row |= {"fraction": steps[index] / max(steps), "sequences_per_draw": 1}
                row |= {"hard_evals_per_draw": 1.0, "relaxed_evals_per_draw": 0.0}
                row |= {"total_variance": value, "variance_low": value, "variance_high": value}
                row |= {"adam_variance": None, "untrained_variance": None}
                for name, given in columns.items():
                    row[name] = given if isinstance(given, (int, float)) else given[index]
                rows.append(row)
            record["snapshots"] = rows
            _write(directory / "snapshots" / task / estimator / f"seed-{seed:03d}.json", record)
    training = {"batches": max(steps), "batch_size": batch_size}
    experiment = {"tasks": [task], "estimators": [], "seeds": [], "training": training}
    _write(directory / "manifest.json", {"schema": 1, "experiment": experiment})
    return directory


def write_result_set(
    directory: Path,
    *,
    tasks: tuple[str, ...] = TASKS,
    trained: tuple[str, ...] = TRAINED,
    also_measured: tuple[str, ...] = ALSO_MEASURED,
    seeds: int = 10,
    batches: int = 60,
    rounds: int = 8,
    failed: dict[tuple[str, str, int], str] | None = None,
    missing: tuple[tuple[str, str, int], ...] = (),
) -> Path:
    """Write a whole result set; `failed` and `missing` name training runs by their key."""
    failed = failed or {}
    for task in tasks:
        for seed in range(seeds):
            name = f"seed-{seed:03d}.json"
            for estimator in trained:
                if (task, estimator, seed) in missing:
                    continue
                error = failed.get((task, estimator, seed))
                record = envelope("run", task, estimator, seed, error)
                if not error:
                    record |= run_payload(task, estimator, seed, batches)
                _write(directory / "runs" / task / estimator / name, record)
            for estimator in trained + also_measured:
                record = envelope("snapshots", task, estimator, seed)
                record |= snapshot_payload(task, estimator, seed, batches)
                _write(directory / "snapshots" / task / estimator / name, record)
    for index in range(rounds):
        rows = []
        for task in tasks:
            for estimator in trained + also_measured:
                rng = _rng("timing", task, estimator, index)
                size = 3.0 if task.endswith("15") else 1.0
                milliseconds = size * STEP_MS.get(estimator, 7.0) * math.exp(rng.normal(0, 0.03))
                rows.append(
                    {
                        "task": task,
                        "estimator": estimator,
                        "seconds_per_step": 1e-3 * milliseconds,
                    }
                )
        record = envelope("timing", None, None, None) | {"round": index, "rows": rows}
        _write(directory / "timing" / f"{index:03d}.json", record)
    manifest = {
        "schema": 1,
        "command": "estbench run --preset bench",
        "environment": {
            "python": "3.12.3",
            "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
            "cpu": {"model": "a made-up processor", "cores": 2},
        },
        "experiment": {
            "name": "bench",
            "tasks": list(tasks),
            "estimators": list(trained),
            "also_measured": list(also_measured),
            "seeds": list(range(seeds)),
            "training": {"batches": batches, "batch_size": 128, "reward": "p"},
        },
    }
    _write(directory / "manifest.json", manifest)
    return directory
