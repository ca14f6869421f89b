"""What the discriminator's training buys at SeqGAN's published sizes: tables of docs/seqgan.md.

``python benchmarks/discriminator_budget.py [--oracle-weights PATH] [--out FOLDER] [--only ROW]``

A row repeats runs of ``seqgan-medium`` by the published estimator and by ``rloo``. It trains the
discriminator more, gives it each generated sequence four times in place of once (both with the
published estimator alone), or does not ask it at all. Each estimator has a line: changes from the
start to the end, in nats per token (the mean over seeds and a 95 % t interval), the accuracy in
training over the last quarter of the batches, and the chance that the discriminator, after the last
batch, ranks a sequence of the oracle above a generated one: one that it was trained on, or another.
Last comes the generator of the start, sampled at the temperature that gives the published
estimator's last NLL_oracle (seed 0). On one core a run takes from ten minutes to two and a half
hours; ``--jobs 2`` makes two at a time, and a run that was stopped goes on from its last
checkpoint.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import torch
from repeating import file_stem
from scipy import stats
from scipy.optimize import brentq
from torch import Tensor

from estbench.config.experiment import Experiment
from estbench.config.presets import preset
from estbench.report.data.formatting import with_interval
from estbench.report.data.statistics import mean_interval
from estbench.store.atomic import write_bytes
from estbench.store.checkpoints import remove_checkpoint, source_digest
from estbench.training.loop import train
from estbench.training.resume import Checkpoint
from estbench.training.seqgan import AdversarialSession
from estbench.training.session import Session, make_session
from estbench.training.state_dict import Stateful

PUBLISHED = "seqgan-rollouts-lagged@16"
NOT_ASKED = {"discriminator_pretrain_updates": 0, "discriminator_updates": 0}
CHANGES: Mapping[str, Mapping[str, int | str]] = {
    "80 updates a batch": {},
    "80, each sequence four times": {"discriminator_epochs": 4},
    "320 updates a batch": {"discriminator_updates": 320},
    "1,280 updates a batch": {"discriminator_updates": 1280},
    "random reward": {"reward": "random", **NOT_ASKED},
    "constant reward": {"reward": "constant", **NOT_ASKED},
    "random, published start": {
        "reward": "random",
        "pretrain_epochs": 115,
        "batches": 100,
        **NOT_ASKED,
    },
}
SEEDS = {"80 updates a batch": 3, "random reward": 3, "constant reward": 3}  # of the others one
PUBLISHED_ALONE = [name for name in CHANGES if name.startswith(("80,", "320", "1,280"))]
METRICS = {
    "nll_oracle": "NLL_oracle",
    "kl_reverse": "KL(generator, oracle)",
    "kl_forward": "KL(oracle, generator)",
    "entropy": "entropy",
}
HEADS = [
    "",
    "",
    "seeds",
    "NLL_oracle",
    "its lowest",
    *list(METRICS.values())[1:],
    "accuracy",
    "ranks those seen",
    "others",
    "CPU minutes",
]
SEQUENCES = 4096
WHOM = ("seen", "unseen")


class Watch(Stateful):
    """What a run is asked besides its record.

    Attributes:
      start: The networks before the first batch.
      chances: After the last one, the chances that the discriminator ranks a sequence of the oracle
        above a generated one: ``seen`` in training, and ``unseen``.
    """

    changing = ("start", "chances")

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.start: dict[str, Any] = {}
        self.chances: dict[str, float] = {}

    def __call__(self, done: int, session: Session) -> None:
        """Look at a run after a batch."""
        assert isinstance(session, AdversarialSession)
        if done == 0:
            self.start = session.stage.snapshot()
        if done == self.batches and session.settings.discriminator_updates:
            self.chances = ranking(session)


@dataclass(frozen=True)
class Run:
    """One training run with a change."""

    change: str
    estimator: str
    seed: int
    oracle: str
    folder: Path

    @property
    def experiment(self) -> Experiment:
        """Its settings."""
        oracle = {"oracle_weights": self.oracle} if self.oracle else {}
        return preset("seqgan-medium", {"training": {**CHANGES[self.change], **oracle}})

    def found(self) -> dict[str, Any]:
        """Return its record, made now if there is none."""
        stem = file_stem(f"{self.change} {self.estimator} {self.seed}")
        record, state = self.folder / f"{stem}.json", self.folder / f"{stem}.pt"
        if not record.exists():
            write_bytes(record, json.dumps(self.made(state)).encode())
            remove_checkpoint(state)  # last: until then a kill loses nothing
        return dict(json.loads(record.read_bytes()))

    def made(self, path: Path) -> dict[str, Any]:
        """Train, or go on from the checkpoint at ``path``, and return the record."""
        torch.set_num_threads(1)
        watch = Watch(self.experiment.training_for("oracle").batches)
        head = {"key": repr(self.experiment), "estbench": source_digest()}
        checkpoint = Checkpoint(path, head)
        began = time.process_time()
        identity = (self.experiment, "oracle", self.estimator, self.seed)
        record = train(*identity, watch, checkpoint)
        cpu_s = checkpoint.cpu_s + time.process_time() - began
        cold = self.cooled(watch.start, record) if self.estimator == PUBLISHED else {}
        return record | watch.chances | {"cpu_s": cpu_s, "cooled": cold}

    @torch.no_grad()
    def cooled(self, start: dict[str, Any], record: Mapping[str, Any]) -> dict[str, float]:
        """Return at which temperature the start has the run's last NLL_oracle, and its metrics."""
        session = make_session(self.experiment, "oracle", self.seed)
        assert isinstance(session, AdversarialSession)
        session.stage.load(start)

        def there(temperature: float) -> dict[str, float]:
            return session.quality_at(temperature, torch.Generator().manual_seed(0))

        def gap(temperature: float) -> float:
            return there(temperature)["nll_oracle"] - float(record["final"]["nll_oracle"])

        temperature = float(brentq(gap, 0.5, 2.0, xtol=1e-3))
        return {"temperature": temperature, **there(temperature)}


@torch.no_grad()
def ranking(session: AdversarialSession) -> dict[str, float]:
    """Return the chances of ``Watch``."""
    generated = session.policy.sample(SEQUENCES, torch.Generator().manual_seed(0))
    logits = session.discriminator(generated)
    pools = {"seen": session.task.train, "unseen": session.task.heldout}
    return {
        name: above(session.discriminator(pool[:SEQUENCES]), logits) for name, pool in pools.items()
    }


def above(real: Tensor, generated: Tensor) -> float:
    """Return the chance that a logit of the first is above one of the second (the AUC)."""
    won = stats.mannwhitneyu(real.numpy(), generated.numpy()).statistic
    return float(won / (len(real) * len(generated)))


def accuracy(record: Mapping[str, Any]) -> float:
    """Return the discriminator's accuracy in training, over the last quarter of the batches."""
    values = record["curves"]["metrics"]["discriminator_accuracy"]
    return statistics.fmean(values[-(len(values) // 4) :])


def lowest(record: Mapping[str, Any]) -> float:
    """Return by how much the lowest mean of NLL_oracle over five batches is above the start."""
    values = record["curves"]["metrics"]["nll_oracle"]
    means = [statistics.fmean(values[i : i + 5]) for i in range(len(values) - 4)]
    return min(means) - float(record["start"]["nll_oracle"])


def line(cells: Iterable[str]) -> str:
    """Return a line of the table."""
    return "| " + " | ".join(cells) + " |"


def lines(change: str, runs: Sequence[Run]) -> Iterator[str]:
    """Yield the lines of the table that a change fills: its estimators, and the start, cooled."""
    for estimator in dict.fromkeys(run.estimator for run in runs):
        records = [run.found() for run in runs if run.estimator == estimator]
        changes = [
            mean_interval([r["final"][metric] - r["start"][metric] for r in records])
            for metric in METRICS
        ]
        asked = "seen" in records[0]
        judged = [statistics.fmean(r[name] for r in records) for name in WHOM] if asked else []
        cells = [change, f"`{estimator}`", f"{len(records)}"]
        cells += [with_interval(found, "number") for found in changes]
        cells.insert(4, with_interval(mean_interval([lowest(r) for r in records]), "number"))
        cells += [f"{statistics.fmean(map(accuracy, records)):.2f}" if asked else ""]
        cells += [f"{chance:.2f}" for chance in judged] or ["", ""]
        yield line([*cells, f"{statistics.fmean(r['cpu_s'] for r in records) / 60:.0f}"])
    first = next(run for run in runs if run.estimator == PUBLISHED).found()
    cold = first["cooled"]
    cells = [change, f"the start at temperature {cold['temperature']:.2f}", "1"]
    cells += [f"{cold[metric] - first['start'][metric]:.2f}" for metric in METRICS]
    yield line([*cells[:4], "", *cells[4:], "", "", "", ""])


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--oracle-weights", default="")
    parser.add_argument("--out", type=Path, default=Path("results/discriminator-budget"))
    parser.add_argument("--only", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    runs = {
        change: [
            Run(change, estimator, seed, given.oracle_weights, given.out)
            for estimator in ((PUBLISHED,) if change in PUBLISHED_ALONE else (PUBLISHED, "rloo"))
            for seed in range(SEEDS.get(change, 1))
        ]
        for change in given.only
    }
    joblib.Parallel(given.jobs)(joblib.delayed(run.found)() for own in runs.values() for run in own)
    print(line(HEADS), line(["---"] * len(HEADS)), sep="\n")
    for change, own in runs.items():
        print(*lines(change, own), sep="\n")


if __name__ == "__main__":
    main()
