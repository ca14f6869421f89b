"""A generator with gated recurrent units (Cho et al. 2014)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from estbench.core.registry import Declared, register
from estbench.models.network import NetworkPolicy

__all__ = ["GRUGenerator"]


@register
class GRUGenerator(NetworkPolicy):
    """Embedding, one GRU layer, softmax output; begins with a begin symbol of its own.

    See ``NetworkPolicy`` for its arguments. The state is the hidden state ``[n, width]``, and with
    truncation the position, int64 ``[n]``.
    """

    info = Declared("gru", "an embedding and one GRU layer, 32 units", "Cho et al. 2014")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gru = nn.GRU(self.width, self.width, batch_first=True, dtype=self.dtype)

    def core_state(self, n: int) -> tuple[Tensor, ...]:
        """Return zeros, and with truncation the position 0."""
        zeros = torch.zeros(n, self.width, dtype=self.dtype, device=self.device)
        if not self.truncation:
            return (zeros,)
        return zeros, torch.zeros(n, dtype=torch.int64, device=self.device)

    def advance(
        self, embedded: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the hidden state after one more token, twice."""
        hidden, *position = state
        if position:
            cut = ((position[0] > 0) & (position[0] % self.truncation == 0)).unsqueeze(1)
            hidden = torch.where(cut, hidden.detach(), hidden)
        hidden = self._run(embedded.unsqueeze(1), hidden)[:, -1]
        return hidden, (hidden, *(count + 1 for count in position))

    def over(self, embedded: Tensor) -> Tensor:
        """Return the hidden states ``[n, T, width]``."""
        return self._run(embedded, embedded.new_zeros(len(embedded), self.width))

    def _run(self, embedded: Tensor, hidden: Tensor) -> Tensor:
        # cuDNN has no double backward, which learned control variates need.
        with torch.backends.cudnn.flags(enabled=not torch.is_grad_enabled()):
            out: Tensor = self.gru(embedded, hidden.unsqueeze(0).contiguous())[0]
        return out
