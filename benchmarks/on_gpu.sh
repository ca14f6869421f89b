#!/usr/bin/env bash
# What one card does, in at most eight minutes: tests against the processor, the table of speeds, how
# far two runs differ, a whole run of seqgan-medium, several runs a card.
#
# Usage: bash benchmarks/on_gpu.sh [FOLDER]    results and log are left in FOLDER (on-gpu)
# DEVICE=cpu tries the script where there is no card; PYTHON names another interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-on-gpu} device=${DEVICE:-cuda} python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
exec > >(tee "$out/log.txt") 2>&1

step() { # SECONDS TITLE COMMAND...: one that runs out of time does not take the others' with it
  local seconds=$1 title=$2 start=$SECONDS
  shift 2
  echo "== $title"
  timeout --signal=INT "$seconds" "$@" || echo "-- ended with exit code $?"
  echo "-- $((SECONDS - start)) s"
}
run=("$python" -m estbench run --no-live --device)

if [ "$device" = cuda ]; then
  nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv || exit 3
fi
"$python" -c 'import torch; print("torch", torch.__version__, torch.version.cuda)'

step 50 'tests of the card' "$python" -m pytest -q tests/meter/test_devices.py -k "$device"
step 90 'speeds at full size' "$python" -m pytest -q benchmarks/test_full_size.py \
  --benchmark-enable --benchmark-quiet -k 'not growth and not rewards_of_a_step'

# The same run twice, and once on the processor.
for name in first second cpu; do
  on=$device
  [ $name = cpu ] && on=cpu
  step 35 "seqgan-small, rloo, one seed: $name" "${run[@]}" $on --preset seqgan-small \
    --estimators rloo --seeds 1 --jobs 1 --out "$out/$name"
done
step 15 'how far they differ' "$python" - "$out" <<'END'
import sys
from pathlib import Path

import pandas as pd

folder = Path(sys.argv[1])
keys = ["estimator", "seed", "metric", "step"]
tables = {
    name: pd.read_csv(folder / name / "tables" / "curves.csv").set_index(keys)["value"]
    for name in ("first", "second", "cpu")
}
for name in ("second", "cpu"):
    found = pd.DataFrame({"first": tables["first"], name: tables[name]}).dropna()
    gap = (found["first"] - found[name]).abs() / found["first"].abs().clip(lower=1e-12)
    by_step = gap.groupby(level="step").max()
    print(f"first against {name}: equal {(gap == 0).mean():.0%},", end=" ")
    print("largest relative difference by batch:", by_step.iloc[[0, -1]].to_dict())
END

step 120 'a whole run of seqgan-medium' "${run[@]}" "$device" --preset seqgan-medium \
  --estimators seqgan-rollouts-lagged@16 --seeds 1 --out "$out/medium"
for jobs in 1 4 8; do
  step 30 "eight runs of seqgan-small, $jobs at a time" "${run[@]}" "$device" \
    --preset seqgan-small --estimators rloo --seeds 8 --jobs $jobs --out "$out/$jobs-a-card"
done
