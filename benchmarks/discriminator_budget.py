"""What the discriminator's training buys at SeqGAN's published sizes: tables of docs/seqgan.md.

``python benchmarks/discriminator_budget.py [--oracle-weights PATH] [--out FOLDER] [--only ROW]``

A row repeats runs of ``seqgan-medium``, ``rloo`` and the published estimator, and trains the
discriminator more or less, on fresher generated sequences, or does not ask it at all; the latter
takes minutes, and has three seeds, but for one run from as long a pre-training as the published. It
has a line for each estimator: changes from the start to the end, in nats per token, the mean over
seeds and a 95 % t interval; and one for the generator of the start, sampled at the temperature that
gives the published estimator's last NLL_oracle (seed 0). Of the discriminator it says the accuracy
in training, over the last quarter of the batches, and, after ``rloo``'s last batch, the chance that
it ranks an oracle's sequence above a generated one: one that it was trained on, or another one. On
one core a row takes from 20 minutes to three hours; the runs resume.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import torch
from repeating import repeat
from scipy import stats
from scipy.optimize import brentq
from torch import Tensor

from estbench.report.data.formatting import with_interval
from estbench.report.data.statistics import mean_interval
from estbench.runner.manifest import held
from estbench.store import ResultSet
from estbench.store.states import load_states
from estbench.training.seqgan import AdversarialSession
from estbench.training.session import make_session

ESTIMATORS = ("rloo", "seqgan-rollouts-lagged@16")
NOT_ASKED = {"discriminator_pretrain_updates": 0, "discriminator_updates": 0}
CHANGES: Mapping[str, Mapping[str, int | str]] = {
    "80 updates a batch": {},
    "random reward": {"reward": "random", **NOT_ASKED},
    "constant reward": {"reward": "constant", **NOT_ASKED},
    "random, published start": {
        "reward": "random",
        "pretrain_epochs": 115,
        "batches": 100,
        **NOT_ASKED,
    },
    "320 updates a batch": {"discriminator_updates": 320},
    "320, 4 pools": {"discriminator_updates": 320, "discriminator_rounds": 4},
    "1,280 updates a batch": {"discriminator_updates": 1280},
}
SEEDS = {"random reward": 3, "constant reward": 3}  # one for the others: they take far longer
METRICS = {
    "nll_oracle": "NLL_oracle",
    "kl_reverse": "KL(generator, oracle)",
    "kl_forward": "KL(oracle, generator)",
    "entropy": "entropy",
}
SEQUENCES = 4096


def experiment(name: str, oracle: str) -> str:
    """Return the TOML of the runs with a change."""
    training = {**CHANGES[name], **({"oracle_weights": oracle} if oracle else {})}
    lines = [
        'preset = "seqgan-medium"',
        f"estimators = {list(ESTIMATORS)}",
        "also_measured = []",
        f"seeds = {SEEDS.get(name, 1)}",
        "[training]",
        *(f"{key} = {value!r}" for key, value in training.items()),
        "[snapshots]",
        "sequences = 128",
        "reference_sequences = 128",
        "[timing]",
        "rounds = 0",
    ]
    return "\n".join(lines).replace("'", '"') + "\n"


def above(real: Tensor, generated: Tensor) -> float:
    """Return the chance that a logit of the first is above one of the second (the AUC)."""
    won = stats.mannwhitneyu(real.numpy(), generated.numpy()).statistic
    return float(won / (len(real) * len(generated)))


def at(folder: Path, snapshot: int) -> AdversarialSession:
    """Return ``rloo``'s run as it was at a snapshot."""
    found = held(ResultSet(folder))
    assert found is not None
    session = make_session(found, "oracle", 0)
    assert isinstance(session, AdversarialSession)
    states = load_states((folder / "reference" / "oracle" / "seed-000.pt").read_bytes())
    session.stage.load(states.get("state", states)["snapshots"][snapshot])
    return session


@torch.no_grad()
def ranking(folder: Path) -> tuple[float, float]:
    """Return ``above`` at the end of ``rloo``'s run: sequences trained on, and held out."""
    session = at(folder, -1)
    generated = session.policy.sample(SEQUENCES, torch.Generator().manual_seed(0))
    logits = session.discriminator(generated)
    pools = session.task.train[:SEQUENCES], session.task.heldout[:SEQUENCES]
    seen, unseen = (above(session.discriminator(pool), logits) for pool in pools)
    return seen, unseen


@torch.no_grad()
def cooled(folder: Path, nll_oracle: float) -> tuple[float, dict[str, float]]:
    """Return the temperature at which the start has an NLL_oracle, and its metrics there."""
    session = at(folder, 0)

    def there(temperature: float) -> dict[str, float]:
        return session.quality_at(temperature, torch.Generator().manual_seed(0))

    def gap(temperature: float) -> float:
        return there(temperature)["nll_oracle"] - nll_oracle

    temperature = float(brentq(gap, 0.5, 2.0, xtol=1e-3))
    return temperature, there(temperature)


def lines(name: str, folder: Path) -> Iterator[str]:
    """Yield the lines of the table that a change fills: its estimators, and the start, cooled."""
    tables, metrics = folder / "tables", list(METRICS)
    keys = ["estimator", "seed"]
    runs = pd.read_parquet(tables / "runs.parquet").set_index(keys).sort_index()
    starts = pd.read_parquet(tables / "starts.parquet").pivot_table("value", keys, "metric")
    changes = runs[metrics] - starts[metrics]
    curves = pd.read_parquet(tables / "curves.parquet")
    of_it = curves[curves["metric"] == "discriminator_accuracy"].dropna(subset="value")
    for estimator in ESTIMATORS:
        found = changes.loc[estimator]
        cells = [name, f"`{estimator}`", f"{len(found)}"]
        cells += [with_interval(mean_interval(found[metric]), "number") for metric in metrics]
        accuracy = of_it[of_it["estimator"] == estimator].sort_values("step")["value"]
        cells += [f"{accuracy.tail(len(accuracy) // 4).mean():.2f}" if len(accuracy) else ""]
        ranked = ranking(folder) if len(accuracy) and estimator == "rloo" else ()
        cells += [f"{chance:.2f}" for chance in ranked] or ["", ""]
        cells += [f"{runs.loc[estimator, 'cpu_s'].mean() / 60:.0f}"]
        yield "| " + " | ".join(cells) + " |"
    run = ESTIMATORS[-1], 0
    temperature, there = cooled(folder, float(runs.loc[run, "nll_oracle"]))
    cells = [name, f"the start at temperature {temperature:.2f}", "1"]
    cells += [f"{there[metric] - starts.loc[run, metric]:.2f}" for metric in metrics]
    yield "| " + " | ".join([*cells, "", "", "", ""]) + " |"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--oracle-weights", default="")
    parser.add_argument("--out", type=Path, default=Path("results/discriminator-budget"))
    parser.add_argument("--only", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    given = parser.parse_args()
    heads = [
        "",
        "",
        "seeds",
        *METRICS.values(),
        "accuracy",
        "ranks those seen",
        "others",
        "CPU minutes",
    ]
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    repeat(
        given.only,
        lambda name: experiment(name, given.oracle_weights),
        lambda name, folder: "\n".join(lines(name, folder)),
        given.out,
    )


if __name__ == "__main__":
    main()
