"""Policies whose tokens are independent given a context: no recurrence, all positions at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from estbench.models.contexts import Contexts
from estbench.models.policy import Choose, Policy, inverse_cdf

__all__ = ["FactorisedPolicy"]


class FactorisedPolicy(Policy):
    """q(b | x) = prod_t q(b_t | x), logits linear in the context x.

    Earlier tokens are ignored, so that relaxing all positions together is right: form B of REBAR is
    then the estimator that Tucker et al. (2017) published for such models. At V = 2 a position has
    one logit, of token 1.

    Args:
      vocabulary: Number of tokens V.
      length: Number of positions T.
      width: Width D of a context.
      contexts: What rows are given, ``[M, D]``; None for a policy that is conditioned on nothing,
        whose layer sees a one.
      bias: Whether logits have a bias.
      dtype: float32 or float64.

    Attributes:
      contexts: What rows are given, or None.
      logits: The layer.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int = 1,
        contexts: Tensor | None = None,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.length = length
        self.contexts = None if contexts is None else Contexts(contexts)
        outputs = length * (1 if vocabulary == 2 else vocabulary)
        self.logits = nn.Linear(width, outputs, bias=bias, dtype=dtype)

    @torch.no_grad()
    def initialise(self, scale: float, rng: torch.Generator) -> FactorisedPolicy:
        """Draw the weights from uniform(-scale, scale), set the bias to 0; return self."""
        self.logits.weight.uniform_(-scale, scale, generator=rng)
        if self.logits.bias is not None:
            self.logits.bias.zero_()
        return self

    def inputs(self, n: int) -> Tensor:
        """Return what the layer sees of the contexts of n rows, ``[n, D]``."""
        if self.contexts is None:
            return torch.ones(n, self.logits.in_features, dtype=self.dtype, device=self.device)
        rows: Tensor = self.contexts.rows(n).to(self.logits.weight)
        return rows

    def table(self, n: int) -> Tensor:
        """Return log-probabilities ``[n, T, V]`` of n rows, whatever their tokens.

        A row of the layer belongs to one row, also where several have the same context: the meter
        takes no row that serves two draws.
        """
        logits: Tensor = self.logits(self.inputs(n)).view(n, self.length, -1)
        if self.vocabulary == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=2)
        return logits.log_softmax(dim=2)

    def initial_state(self, n: int) -> tuple[Tensor, Tensor]:
        """Return all log-probabilities ``[n, T, V]`` and the position, int64 ``[n]``."""
        return self.table(n), torch.zeros(n, dtype=torch.int64, device=self.device)

    def step(
        self, previous: Tensor | None, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        table, position = state
        index = position.view(-1, 1, 1).expand(-1, 1, self.vocabulary)
        return table.gather(1, index).squeeze(1), (table, position + 1)

    def trace(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Policy.trace``; the state is the context, the same at every position."""
        n, T = tokens.shape
        features = self.inputs(n).unsqueeze(1).expand(n, T, -1)
        return self.table(n)[:, :T], features

    @torch.no_grad()
    def sample_by(self, n: int, choose: Choose) -> Tensor:
        """See ``Policy.sample_by``; all positions at once where ``choose`` can."""
        table = self.table(n)
        at_once = getattr(choose, "at_once", None)
        if at_once is not None:
            tokens: Tensor = at_once(table)
            return tokens
        return torch.stack([choose(t, table[:, t]) for t in range(self.length)], dim=1)

    def relaxed_from(self, gumbel: Tensor, temperature: float) -> Tensor:
        """See ``Policy.relaxed_from``; all positions at once."""
        n, T, _ = gumbel.shape
        return ((self.table(n)[:, :T] + gumbel) / temperature).softmax(dim=-1)

    @torch.no_grad()
    def continue_from(self, tokens: Tensor, uniforms: Tensor) -> Tensor:
        """See ``Policy.continue_from``; what follows a prefix does not depend on it."""
        n, N, _, T = uniforms.shape
        probs = self.table(n).exp().view(n, 1, 1, T, -1).expand(n, T - 1, N, T, -1)
        u = uniforms.transpose(1, 2).reshape(-1)
        drawn = inverse_cdf(probs.reshape(-1, self.vocabulary), u).view(n, T - 1, N, T)
        position = torch.arange(T, device=tokens.device)
        prefix = (position <= position[:-1].unsqueeze(1)).view(1, T - 1, 1, T)
        return torch.where(prefix, tokens[:, None, None, :], drawn)
