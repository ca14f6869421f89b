"""What the discriminator's training buys at SeqGAN's published sizes: a table of docs/seqgan.md.

``python benchmarks/discriminator_budget.py [--oracle-weights PATH] [--out FOLDER]`` repeats one run
of ``seqgan-medium`` (``seqgan-rollouts-lagged@16``, seed 0) with the discriminator trained more or
less, on fresher generated sequences, or not asked at all. It prints a row for each: accuracy over
the last quarter of the batches, and what the generator gained from the start to the end, in nats
per token. On one core the rows take from a quarter of an hour to hours; the run resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from repeating import repeat

CHANGES: Mapping[str, Mapping[str, int | str]] = {
    "80 updates a batch": {},
    "constant reward": {"reward": "constant"},
    "random reward": {"reward": "random"},
    "320 updates a batch": {"discriminator_updates": 320},
    "320, 4 pools": {"discriminator_updates": 320, "discriminator_rounds": 4},
    "1,280 updates a batch": {"discriminator_updates": 1280},
}
METRICS = ("nll_oracle", "kl_reverse", "kl_forward")


def experiment(change: Mapping[str, int | str], oracle: str) -> str:
    """Return the TOML of the run with a change."""
    training = {**change, **({"oracle_weights": oracle} if oracle else {})}
    lines = [
        'preset = "seqgan-medium"',
        'estimators = ["seqgan-rollouts-lagged@16"]',
        "also_measured = []",
        "seeds = 1",
        "[training]",
        *(f"{key} = {value!r}".replace("'", '"') for key, value in training.items()),
        "[snapshots]",
        "sequences = 128",
        "reference_sequences = 128",
        "[timing]",
        "rounds = 0",
    ]
    return "\n".join(lines) + "\n"


def row(name: str, folder: Path) -> str:
    """Return the line of the table that a change fills."""
    tables = folder / "tables"
    (run,) = pd.read_parquet(tables / "runs.parquet").to_dict("records")
    starts = pd.read_parquet(tables / "starts.parquet").set_index("metric")["value"]
    curves = pd.read_parquet(tables / "curves.parquet")
    accuracy = curves[curves["metric"] == "discriminator_accuracy"].sort_values("step")["value"]
    cells = [name, f"{accuracy.tail(len(accuracy) // 4).mean():.2f}"]
    cells += [f"{starts[metric]:.2f} to {run[metric]:.2f}" for metric in METRICS]
    return "| " + " | ".join([*cells, f"{run['cpu_s'] / 60:.0f}"]) + " |"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--oracle-weights", default="")
    parser.add_argument("--out", type=Path, default=Path("results/discriminator-budget"))
    given = parser.parse_args()
    heads = ("NLL_oracle", "KL(generator, oracle)", "KL(oracle, generator)", "CPU minutes")
    print("| | accuracy | " + " | ".join(heads) + " |")
    print("|---" * (2 + len(heads)) + "|")
    repeat(CHANGES, lambda name: experiment(CHANGES[name], given.oracle_weights), row, given.out)


if __name__ == "__main__":
    main()
