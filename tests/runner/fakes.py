"""Jobs that compute nothing, quickly and always the same; files in a folder make them misbehave.

The folder is named by the environment, which worker processes inherit. A file MISCHIEF@LABEL in it
(``raise@expressions-3 relax seed 1``) holds how often that job is to misbehave.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from estbench.config.experiment import Experiment

FOLDER = "ESTBENCH_TEST_FOLDER"
PACE = "ESTBENCH_TEST_PACE"  # seconds that every job takes
WARM = "ESTBENCH_TEST_WARM"  # not empty: workers import torch before the clock starts
CLOCK = "ESTBENCH_TEST_CLOCK"  # not empty: the time of day jumps by years


def folder() -> Path:
    """Where mischief is read from and calls are logged to."""
    return Path(os.environ[FOLDER])


def calls() -> list[str]:
    """What has been computed since ``forget``, in no particular order."""
    path = folder() / "calls.log"
    return sorted(path.read_text().splitlines()) if path.exists() else []


def forget() -> None:
    """Forget the calls."""
    (folder() / "calls.log").unlink(missing_ok=True)


def plan_mischief(kind: str, label: str, times: int = 1) -> None:
    """Make the job of that label misbehave ``times`` times.

    raise: an error. exit, interrupt, close, own: what is no Exception. nan: a number that is none.
    kill: SIGKILL. halfway: SIGKILL when its file is written and not yet in its place. sleep, loop:
    a minute, in one call or in many. memory: more of it than any machine has.
    """
    (folder() / f"{kind}@{label}").write_text(str(times))


def log(*labels: str) -> None:
    """Note that these were computed."""
    with (folder() / "calls.log").open("a") as file:
        file.writelines(f"{label}\n" for label in labels)


def _mischief(kind: str, label: str) -> bool:
    path = folder() / f"{kind}@{label}"
    left = int(path.read_text()) if path.exists() else 0
    if left:
        path.write_text(str(left - 1))
    return left > 0


class OwnError(BaseException):
    """An estimator's own, whose message ends the process."""

    def __str__(self) -> str:
        sys.exit(0)


ERRORS = {
    "raise": FloatingPointError("loss is nan\nat batch 17"),
    "exit": SystemExit(0),
    "interrupt": KeyboardInterrupt(),
    "close": GeneratorExit(),
    "own": OwnError(),
}


def _begin(label: str) -> np.random.Generator:
    log(label)
    for kind, error in ERRORS.items():
        if _mischief(kind, label):
            raise error
    if _mischief("kill", label):
        os.kill(os.getpid(), signal.SIGKILL)
    if _mischief("sleep", label):
        time.sleep(60.0)
    if _mischief("loop", label):
        for _ in range(6000):
            time.sleep(0.01)
    if _mischief("memory", label):
        np.ones(2**40)
    if _mischief("halfway", label):
        os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get(PACE):
        time.sleep(float(os.environ[PACE]))
    if os.environ.get(CLOCK):
        _let_the_clock_jump()
    return np.random.default_rng(int(hashlib.sha256(label.encode()).hexdigest()[:8], 16))


def _let_the_clock_jump() -> None:
    """Set this process's time of day years ahead or back at every look; stop watches go on."""
    if time.time.__name__ != "jumping":
        jumps, right = np.random.default_rng(0), time.time

        def jumping() -> float:
            return right() + float(jumps.uniform(-3e8, 3e8))

        time.time = jumping


def train(
    experiment: Experiment, task: str, estimator: str, seed: int, phases: object = None
) -> dict[str, Any]:
    """A run's payload."""
    label = f"{task} {estimator} seed {seed}"
    rng = _begin(label)
    batches = experiment.training_for(task).batches
    goodness = rng.random(batches).tolist()
    curves = {
        "step": list(range(batches)),
        "reward_evals": list(range(batches)),
        "seconds": [time.perf_counter()] * batches,
        "metrics": {"goodness": goodness, "log_variance": [float("-inf")] * batches},
    }
    final = {"goodness": float("nan") if _mischief("nan", label) else goodness[-1]}
    # torch takes a second and a half to import, which most of these jobs need not spend
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 1
    info = {"threads": threads, "omp": os.environ["OMP_NUM_THREADS"]}
    return {"steps": batches, "curves": curves, "final": final, "info": info}


def reference(
    experiment: Experiment, task: str, seed: int, phases: object = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's payload and its states."""
    import torch

    payload = train(experiment, task, "reference (rloo)", seed)
    state = {"snapshots": [{"policy": {"w": torch.full((2,), seed + 0.5)}} for _ in range(5)]}
    return payload | {"snapshot_steps": [0, 1, 2, 4, 8]}, state


def measure(
    experiment: Experiment, task: str, estimator: str, seed: int, state: dict[str, Any]
) -> dict[str, Any]:
    """A measurement's payload; the state must be this seed's."""
    rng = _begin(f"measure {task} {estimator} seed {seed}")
    weights = state["snapshots"][0]["policy"]["w"]
    assert weights.tolist() == [seed + 0.5] * 2
    rows = [{"snapshot": i, "total_variance": float(rng.random())} for i in range(5)]
    return {"snapshots": rows}


def time_step(
    experiment: Experiment, task: str, estimator: str, state: dict[str, Any]
) -> dict[str, Any]:
    """The row of an estimator in a timing round."""
    _begin(f"timing {task} {estimator}")
    return {"seconds_per_step": 1e-3}


def warm_up(plugins: object = (), modules: object = ()) -> None:
    """Nothing, unless what is imported once is to be no job's time."""
    if os.environ.get(WARM):
        import torch  # noqa: F401


def install() -> None:
    """Put the fakes in the place of the real jobs, in this process; workers follow."""
    from estbench.runner import jobs

    jobs.train, jobs.reference, jobs.measure = train, reference, measure
    jobs.time_step, jobs.warm_up = time_step, warm_up
    if os.environ.get(CLOCK):
        _let_the_clock_jump()
