"""Measures how far the comparison at equal baseline depends on settings that it was not about.

``python benchmarks/settings.py [--out FOLDER]`` repeats a short experiment with one thing changed
at a time (the reward, the discriminator, the batch, what is adapted, the learning rate).
It prints a row of docs/referee.md for each: noise of the trajectory per sequence, as a ratio to the
partner with the same baseline. It takes about half an hour on two cores, and resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from repeating import repeat

TASKS = ("expressions-3", "oracle-small")
SEEDS = 5
PAIRS = {  # estimator: its partner
    "reinforce-constant": "reinforce-ema",
    "rebar": "reinforce-constant",
    "rebar-ema": "reinforce-ema",
    "relax": "reinforce-constant",
    "relax-ema": "reinforce-ema",
    "muprop": "reinforce-constant",
}
USUAL = {"training": {"batches": 64}, "snapshots": {"sequences": 1024, "adaptation_batches": 16}}
CHANGES: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "none": {},
    "reward: logit": {"training": {"reward": "logit"}},
    "reward: log p": {"training": {"reward": "log_p"}},
    "discriminator: TextCNN": {"training": {"discriminator": "cnn"}},
    "batch of 32": {"training": {"batch_size": 32}},
    "batch of 512": {"training": {"batch_size": 512}},
    "adaptation: 4 batches": {"snapshots": {"adaptation_batches": 4}},
    "adaptation: 64 batches": {"snapshots": {"adaptation_batches": 64}},
    "learning rate x 1/4": {"training": {"generator_learning_rate": 1.25e-3}},
}


def experiment(change: Mapping[str, Mapping[str, object]]) -> str:
    """Return the TOML of the short experiment with a change laid over it."""
    measured = sorted({*PAIRS, *PAIRS.values()})
    lines = [
        'preset = "bench"',
        f"tasks = {list(TASKS)!r}",
        'estimators = ["rloo"]',
        f"also_measured = {measured!r}",
        f"seeds = {SEEDS}",
    ]
    for section in ("training", "snapshots", "timing"):
        own = {**USUAL.get(section, {}), **change.get(section, {})}
        own |= {"rounds": 0} if section == "timing" else {}
        lines += [f"[{section}]", *(f"{key} = {value!r}" for key, value in own.items())]
    return "\n".join(lines).replace("'", '"') + "\n"


def rows(name: str, folder: Path) -> str:
    """Return the lines of the table that a change fills, one a task."""
    ratios = pd.read_csv(folder / "tables" / "ratios.csv", keep_default_na=False)
    ratios = ratios[(ratios["cost"] == "sequence") & (ratios["scope"] == "trajectory")]
    lines = []
    for task in TASKS:
        cells = [name, f"`{task}`"]
        for estimator, partner in PAIRS.items():
            where = (ratios["task"] == task) & (ratios["estimator"] == estimator)
            found = ratios[where & (ratios["against"] == partner)].iloc[0]
            low, high = float(found["low"]), float(found["high"])
            cells.append(
                {
                    "": f"{float(found['estimate']):.2f} [{low:.2f}, {high:.2f}]",
                    "lower": f"at least {low:.2f}",
                    "upper": f"at most {high:.2f}",
                    "none": "no statement",
                }[found["bound"]]
                + ("" if found["survives"] == "True" else " ?")
            )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/settings"))
    out = parser.parse_args().out
    print("| changed | task | " + " | ".join(f"`{name}`" for name in PAIRS) + " |")
    print("|---" * (2 + len(PAIRS)) + "|")
    repeat(CHANGES, lambda name: experiment(CHANGES[name]), rows, out)


if __name__ == "__main__":
    main()
