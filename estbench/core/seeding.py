"""Streams of random numbers: one generator a purpose, derived from what the purpose is called.

Data, initialisation and evaluation are keyed by (task, seed) alone, so that estimators are paired
within a seed; an estimator's own noise is keyed by its name as well. A stream never depends on
which other streams exist, on their order, or on the process that asks.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

__all__ = ["numpy_stream", "seed_sequence", "stream"]


def seed_sequence(*key: str | int) -> np.random.SeedSequence:
    """Return the seed sequence of a key, such as ("data", "expressions-3", 4)."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in key).encode()).digest()
    return np.random.SeedSequence(np.frombuffer(digest, dtype=np.uint32).tolist())


def stream(*key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh torch generator for a key; equal keys give equal streams."""
    generator = torch.Generator(device=device)
    generator.manual_seed(int(seed_sequence(*key).generate_state(1, np.uint64)[0] >> np.uint64(1)))
    return generator


def numpy_stream(*key: str | int) -> np.random.Generator:
    """Return a fresh NumPy generator for a key; equal keys give equal streams."""
    return np.random.default_rng(seed_sequence(*key))
