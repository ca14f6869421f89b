"""Does maximum likelihood reach the public log's levels? The published protocol, epoch by epoch.

Trains a generator on 10,000 sequences of an oracle (V = 5000, T = 20, batches of 64, Adam .01,
gradients cut at 5) and writes NLL_oracle beside what SeqGAN's public log has for its own oracle:
10.1716 after one epoch, 9.4294 after six (nats per token; uniform tokens 10.310). Another oracle
has another entropy (the published one's is 5.75), so levels compare by their distance from it; with
the published parameters they compare as they are.

    python benchmarks/likelihood_levels.py [--epochs 6] [--oracle-weights PATH] [--out FILE.csv]
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from estbench import tasks
from estbench.core.seeding import stream
from estbench.models.lstm_generator import Generator
from estbench.tasks.oracle import OracleTask
from estbench.training.pretraining import MaximumLikelihood

PUBLISHED = {1: 10.1716, 6: 9.4294, 11: 9.2388, 16: 9.1190, 116: 9.0706}
PUBLISHED_ENTROPY = 5.75


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--oracle-weights", default="")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    task = tasks.make("oracle", 0, 10_000, oracle_weights=given.oracle_weights)
    assert isinstance(task, OracleTask)
    policy = Generator(task.vocabulary, task.length)
    policy.initialise(*task.initialisation, stream("generator", "oracle", 0))
    rows: list[dict[str, float | str]] = []

    def measure(epoch: int) -> None:
        found = task.full_quality(policy, stream("level", epoch))
        published = PUBLISHED.get(epoch)
        row = {
            "epoch": epoch,
            "nll_oracle": round(found["nll_oracle"], 4),
            "minus_entropy": round(found["nll_oracle"] - task.oracle_entropy, 4),
            "nll_gen": round(found["nll_gen"], 4),
            "kl_reverse": round(found["kl_reverse"], 4),
            "kl_forward": round(found["kl_forward"], 4),
            "published_nll_oracle": published or "",
            "published_minus_entropy": round(published - PUBLISHED_ENTROPY, 4) if published else "",
        }
        rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items() if value != ""), flush=True)

    print(f"oracle entropy {task.oracle_entropy:.4f} +- {task.oracle_entropy_error:.4f}")
    measure(0)
    noise = stream("pretraining", "oracle", 0)
    likelihood = MaximumLikelihood(policy, task.train, 64, 1e-2, noise, clip=5.0)
    for epoch in range(given.epochs):
        likelihood.epoch()
        measure(epoch + 1)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with given.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
