"""A small causal transformer that answers prompts: a language model of a few characters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from estbench.models.contexts import Contexts
from estbench.models.policy import Choose, sequence_lengths
from estbench.models.transformer_generator import Block, TransformerGenerator, waves

__all__ = ["PromptedTransformer"]


class PromptedTransformer(TransformerGenerator):
    """``TransformerGenerator`` after a prompt of P tokens; the begin symbol separates the two.

    The state holds each block's keys and values, so that a step computes one position. Where no
    gradient is wanted, each prompt is read once for all of its rows.

    Args:
      vocabulary: Number of tokens V.
      length: Longest answer T, the end token included.
      prompts: What rows are given, int64 ``[M, P + T]``: P tokens of the prompt, then the T tokens
        of the answer that solves it, filled up with the end token.
      end: The token that ends an answer.
      width: Width of the embedding, a multiple of ``heads``.
      blocks: Blocks of attention.
      heads: Heads of each.
      dtype: float32 or float64.
    """

    contexts: Contexts
    end: int

    def __init__(
        self,
        vocabulary: int,
        length: int,
        prompts: Tensor,
        end: int,
        width: int = 64,
        blocks: int = 2,
        heads: int = 4,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(vocabulary, length, width, dtype, end=end, blocks=blocks, heads=heads)
        self.contexts = Contexts(prompts)
        self.contexts.mixed = True
        self.prompt = prompts.shape[1] - length
        self.positions = waves(self.prompt + length, width).to(dtype)

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> PromptedTransformer:  # type: ignore[override]
        """Draw all parameters: embeddings of size 1, outputs of layers no larger; return self.

        Layers that are added to their input are halved, biases are 0.
        """
        for name, parameter in self.named_parameters():
            *_, layer, kind = name.split(".")
            if layer in ("before_attention", "before_layer", "last"):
                parameter.fill_(float(kind == "weight"))
            elif kind == "bias":
                parameter.zero_()
            else:
                fan_in = 1 if layer == "embedding" else parameter.shape[1]
                scale = 0.5 if layer in ("mix", "second") else 1.0
                parameter.normal_(0, scale / math.sqrt(fan_in), generator=rng)
        return self

    def solutions(self, n: int) -> Tensor:
        """Return the answer that solves the prompt of each of n rows, int64 ``[n, T]``."""
        return self.contexts.rows(n)[:, self.prompt :].to(self.device)

    def core_state(self, n: int) -> tuple[Tensor, ...]:
        """Return keys and values of the prompts, block by block, and the position."""
        # With gradients, no row may serve two draws.
        rows = n if torch.is_grad_enabled() else self.contexts.count
        each, x = len(self.contexts.rows(n)) // rows, self._prompted(rows)
        state: list[Tensor] = []
        for block in self.blocks:
            assert isinstance(block, Block)
            x, keys, values = block.extended(x)
            state += [keys.repeat_interleave(each, dim=0), values.repeat_interleave(each, dim=0)]
        position = torch.full((n,), self.prompt, dtype=torch.int64, device=self.device)
        return (*state, position)

    def advance(
        self, embedded: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the output at the new position, and what the next one reads."""
        *kept, position = state
        x, longer = (embedded + self.positions[int(position[0])]).unsqueeze(1), list[Tensor]()
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            x, keys, values = block.extended(x, *kept[2 * index : 2 * index + 2])
            longer += [keys, values]
        return self.last(x)[:, 0], (*longer, position + 1)

    def over(self, embedded: Tensor) -> Tensor:
        """Return the outputs ``[n, T, width]`` on whole answers."""
        n, t, _ = embedded.shape
        answers = embedded + self.positions[self.prompt : self.prompt + t]
        return self._read(torch.cat([self._prompted(n), answers], dim=1))[:, self.prompt :]

    @torch.no_grad()
    def sample_by(self, n: int, choose: Choose) -> Tensor:
        """See ``Policy.sample_by``."""
        tokens = super().sample_by(n, choose)
        self.contexts.generated += int(sequence_lengths(tokens, self.end).sum())
        return tokens

    def greedy(self) -> Tensor:
        """See ``Policy.greedy``."""
        return self.sample_by(self.fewest_rows, lambda t, log_probs: log_probs.argmax(dim=-1))

    @torch.no_grad()
    def continue_from(self, tokens: Tensor, uniforms: Tensor) -> Tensor:
        """See ``Policy.continue_from``."""
        completed = super().continue_from(tokens, uniforms)
        n, prefixes, N, _ = completed.shape
        lengths = sequence_lengths(completed.flatten(0, 2), self.end).view(n, prefixes, N)
        known = torch.arange(1, prefixes + 1, device=tokens.device).view(1, -1, 1)
        self.contexts.generated += int((lengths - known).clamp_min(0).sum())
        return completed

    def _prompted(self, n: int) -> Tensor:
        """Return the embedded prompts of n rows, ``[n, P, width]``."""
        prompts = self.contexts.rows(n)[:, : self.prompt].to(self.device)
        embedded: Tensor = self.embedding(prompts)
        return embedded + self.positions[: self.prompt]
