"""Every sequence of a small vocabulary and length, listed."""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.core.errors import UserError

__all__ = ["LARGEST", "enumerate_sequences"]

LARGEST = 50_000  # sequences; above this a reference from many draws is cheaper


def enumerate_sequences(vocabulary: int, length: int) -> Tensor:
    """Return all sequences, int64 ``[V^T, T]``, in lexicographic order.

    Raises:
      UserError: There are more than ``LARGEST``.
    """
    if vocabulary**length > LARGEST:
        raise UserError(
            f"{vocabulary}^{length} sequences cannot be enumerated; at most {LARGEST} are"
        )
    axes = [torch.arange(vocabulary)] * length
    return torch.cartesian_prod(*axes).reshape(-1, length)
