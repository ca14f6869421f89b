"""The same work by us and by others: ``torch.func.vmap``, opacus and storchastic (extra ``bench``).

Each is written as its documentation does it. Models have the generator's sizes; vmap's LSTM is a
loop of cells, because vmap has no rule for torch's fused one, and opacus has an LSTM of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from estbench.estimators.base import Surrogate
from estbench.meter.gradients import Tape
from estbench.models.policy import Policy, at_tokens

__all__ = ["Norms", "norms_by_others", "norms_by_tape", "step_by_storchastic"]

H = 32
Norms = Callable[[Tensor, Tensor], Tensor]
"""(tokens int64 [n, T], weights [n, T]) -> squared norms [n] of sum_t w_t grad log p(token t)."""


def _shifted(tokens: Tensor, vocabulary: int) -> Tensor:
    """Return the tokens before each position; the first is the begin symbol, number V."""
    begin = tokens.new_full((*tokens.shape[:-1], 1), vocabulary)
    return torch.cat([begin, tokens[..., :-1]], dim=-1)


class _Cells(nn.Module):
    """An LSTM generator as a loop of cells, for one sequence."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary + 1, H)
        self.input, self.hidden = nn.Linear(H, 4 * H), nn.Linear(H, 4 * H)
        self.output = nn.Linear(H, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return log-probabilities ``[T]`` of tokens int64 ``[T]``."""
        gates = self.input(self.embedding(_shifted(tokens, self.vocabulary)))
        h = c = gates.new_zeros(H)
        found = []
        for gate in gates:
            i, f, g, o = (gate + self.hidden(h)).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            found.append(h)
        log_probs = self.output(torch.stack(found)).log_softmax(dim=1)
        return log_probs.gather(1, tokens.unsqueeze(1)).squeeze(1)


def norms_by_tape(policy: Policy) -> Norms:
    """Return norms by our meter."""

    def norms(tokens: Tensor, weights: Tensor) -> Tensor:
        with Tape(policy) as tape:
            chosen = at_tokens(policy.log_probs(tokens), tokens)
            made = Surrogate(chosen, weights, tokens.unsqueeze(1), weights[:, :1])
        return tape.differentiate(made, check=False).squared_norms()

    return norms


def norms_by_others(policy: Policy) -> dict[str, Norms]:
    """Return what finds the norms of a policy of the generator's sizes, by name."""
    V, device = policy.vocabulary, policy.device
    return {
        "torch.func.vmap": norms_by_vmap(V, device),
        "opacus": norms_by_opacus(V, device, ghost=False),
        "opacus, ghost norms": norms_by_opacus(V, device, ghost=True),
        "one draw after another": norms_one_by_one(policy),
    }


def norms_one_by_one(policy: Policy) -> Norms:
    """Return norms by autograd, a forward and a backward pass for each draw.

    A shared forward pass would cost every backward pass the whole batch.
    """
    parameters = list(policy.parameters())

    def norm(tokens: Tensor, weights: Tensor) -> Tensor:
        chosen = at_tokens(policy.log_probs(tokens), tokens)
        grads = torch.autograd.grad((chosen * weights).sum(), parameters)
        return torch.stack([g.square().sum() for g in grads]).sum()

    def norms(tokens: Tensor, weights: Tensor) -> Tensor:
        ones = zip(tokens.split(1), weights.split(1), strict=True)
        return torch.stack([norm(*one) for one in ones])

    return norms


def norms_by_vmap(vocabulary: int, device: torch.device) -> Norms:
    """Return norms by ``vmap(grad)``: every draw's gradient is formed."""
    model = _Cells(vocabulary).to(device)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def value(given: dict[str, Tensor], tokens: Tensor, weights: Tensor) -> Tensor:
        return (torch.func.functional_call(model, given, (tokens,)) * weights).sum()

    gradients = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0, 0))

    def norms(tokens: Tensor, weights: Tensor) -> Tensor:
        found = gradients(parameters, tokens, weights).values()
        return torch.stack([g.flatten(1).square().sum(dim=1) for g in found]).sum(dim=0)

    return norms


class _Batched(nn.Module):
    """The same generator with opacus' LSTM, for a batch."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        from opacus.layers import DPLSTM

        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary + 1, H)
        self.lstm = DPLSTM(H, H, batch_first=True)
        self.output = nn.Linear(H, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return log-probabilities ``[n, T]`` of tokens int64 ``[n, T]``."""
        hidden, _ = self.lstm(self.embedding(_shifted(tokens, self.vocabulary)))
        log_probs = self.output(hidden).log_softmax(dim=2)
        return log_probs.gather(2, tokens.unsqueeze(2)).squeeze(2)


def norms_by_opacus(vocabulary: int, device: torch.device, ghost: bool) -> Norms:
    """Return norms from opacus' per-sample gradients, or from its ghost norms, which form none."""
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
        GradSampleModuleFastGradientClipping,
    )

    model: Any = _Batched(vocabulary).to(device)
    options: dict[str, Any] = {"batch_first": True, "loss_reduction": "sum"}
    if ghost:
        model = GradSampleModuleFastGradientClipping(model, max_grad_norm=1.0, **options)
    else:
        model = GradSampleModule(model, **options)

    def norms(tokens: Tensor, weights: Tensor) -> Tensor:
        model.zero_grad()
        (model(tokens) * weights).sum().backward()
        if ghost:
            found: Tensor = model.get_norm_sample().square()
        else:
            grads = [p.grad_sample for p in model.parameters()]
            found = torch.stack([g.flatten(1).square().sum(dim=1) for g in grads]).sum(dim=0)
        for p in model.parameters():
            p.grad_sample = None
        return found

    return norms


def step_by_storchastic(name: str, draws: int, target: float) -> Callable[[], None]:
    """Return a step on the Bernoulli toy, E (b - target)^2: cost, backward, learned parts, Adam.

    The Bernoulli is a one-hot choice of two: REBAR and RELAX fail on storchastic's own.
    """
    import storch

    logits = nn.Parameter(torch.zeros(1, 2))
    methods = {
        "reinforce": lambda: storch.method.ScoreFunction("b", n_samples=draws),
        "rebar": lambda: storch.method.REBAR("b", n_samples=draws),
        "relax": lambda: storch.method.RELAX("b", n_samples=draws, in_dim=[2]),
    }
    method: Any = methods[name]()
    optimiser = torch.optim.Adam([logits, *method.parameters()], lr=1e-2, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        storch.reset()
        b = method(torch.distributions.OneHotCategorical(probs=logits.softmax(dim=1)))
        storch.add_cost((b[..., 1] - target) ** 2, "loss")
        storch.backward()
        optimiser.step()

    return step
