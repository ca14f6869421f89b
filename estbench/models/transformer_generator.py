"""A small causal transformer as the generator (Vaswani et al. 2017, layer norms first)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from estbench.core.errors import UserError
from estbench.core.registry import Declared, register
from estbench.models.network import NetworkPolicy

__all__ = ["Block", "TransformerGenerator", "waves"]


def waves(length: int, width: int) -> Tensor:
    """Return sinusoidal positions, ``[length, width]``."""
    angles = torch.arange(length).unsqueeze(1) / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each added to its input."""

    def __init__(self, width: int, heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width, dtype=dtype)
        self.queries_keys_values = nn.Linear(width, 3 * width, dtype=dtype)
        self.mix = nn.Linear(width, width, dtype=dtype)
        self.before_layer = nn.LayerNorm(width, dtype=dtype)
        self.first = nn.Linear(width, 2 * width, dtype=dtype)
        self.second = nn.Linear(2 * width, width, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[n, t, width]``; position s sees positions up to s."""
        n, t, width = x.shape
        parts = self.queries_keys_values(self.before_attention(x))
        q, k, v = parts.view(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        later = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
        read = scores.masked_fill(later, -math.inf).softmax(dim=-1) @ v
        x = x + self.mix(read.transpose(1, 2).reshape(n, t, width))
        out: Tensor = x + self.second(self.first(self.before_layer(x)).relu())
        return out

    def extended(
        self, x: Tensor, keys: Tensor | None = None, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output at new positions ``[n, t, width]``, and all keys and values.

        Args:
          x: The new positions: several at the start, one later.
          keys: Of the positions before, ``[n, heads, s, width / heads]``; None at the start.
          values: Likewise.
        """
        n, t, width = x.shape
        parts = self.queries_keys_values(self.before_attention(x))
        q, k, v = parts.view(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if keys is not None and values is not None:
            k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        if t > 1:
            later = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        x = x + self.mix((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(n, t, width))
        out: Tensor = x + self.second(self.first(self.before_layer(x)).relu())
        return out, k, v


@register
class TransformerGenerator(NetworkPolicy):
    """Embedding with sinusoidal positions, causal blocks, softmax output.

    The state is the embedded prefix, ``[n, T, width]`` with zeros after it, and the position, int64
    ``[n]``. Every step reads the whole prefix again: it is meant for short sequences.

    Args:
      vocabulary: Number of tokens V.
      length: Sequence length T.
      width: Width of the embedding, a multiple of ``heads``.
      dtype: float32 or float64.
      truncation: Must be 0: there is no recurrence to cut.
      end: The token that ends a sequence and fills it up; None where all have length T.
      blocks: Blocks of attention.
      heads: Heads of each.

    Raises:
      UserError: ``truncation`` is not 0.
    """

    info = Declared("transformer", "two causal blocks of width 32", "Vaswani et al. 2017")

    positions: Tensor

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int = 32,
        dtype: torch.dtype = torch.float32,
        truncation: int = 0,
        end: int | None = None,
        blocks: int = 2,
        heads: int = 2,
    ) -> None:
        if truncation:
            raise UserError(
                f'truncation = {truncation}: the generator "transformer" has no recurrence to cut; '
                "set truncation = 0"
            )
        super().__init__(vocabulary, length, width, dtype, end=end)
        self.blocks = nn.ModuleList(Block(width, heads, dtype) for _ in range(blocks))
        self.last = nn.LayerNorm(width, dtype=dtype)
        self.register_buffer("positions", waves(length, width).to(dtype), persistent=False)

    def core_state(self, n: int) -> tuple[Tensor, ...]:
        """Return an empty prefix."""
        prefix = torch.zeros(n, self.length, self.width, dtype=self.dtype, device=self.device)
        return prefix, torch.zeros(n, dtype=torch.int64, device=self.device)

    def advance(
        self, embedded: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the output at the new position, and the longer prefix."""
        prefix, count = state
        t = int(count[0])
        new = (embedded + self.positions[t]).unsqueeze(1)
        prefix = torch.cat([prefix[:, :t], new, prefix[:, t + 1 :]], dim=1)
        return self._read(prefix[:, : t + 1])[:, -1], (prefix, count + 1)

    def over(self, embedded: Tensor) -> Tensor:
        """Return the outputs ``[n, T, width]`` on whole sequences."""
        return self._read(embedded + self.positions[: embedded.shape[1]])

    def _read(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.last(x)
        return out
