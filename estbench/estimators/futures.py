"""What a relaxed reward sees: one relaxed token in a hard prefix, or a sequence relaxed throughout.

Form A relaxes position t alone, after the sample's own hard prefix; what follows must not depend
on b_t, or the estimator is biased. The futures that are offered:

- ``soft``: the policy is fed the relaxed token and goes on relaxed, with the noise of the sample's
  own later tokens, which is independent of b_t;
- ``mean-field``: the policy is fed the relaxed token and goes on with its probabilities;
- ``sibling``: the tokens of another, independent sequence;
- ``uniform``: 1/V everywhere;
- ``zeros``: nothing, the padded partial sequence.

Form B (``Policy.relaxed_from``) feeds the policy its own relaxed tokens from the start and never
sees b.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from estbench.estimators.gumbel import one_hot
from estbench.models.policy import Policy
from estbench.models.trees import insert_rows, map_rows

__all__ = ["FUTURES", "after_prefixes", "frozen", "with_futures"]

FUTURES = ("soft", "mean-field", "sibling", "uniform", "zeros")


@contextmanager
def frozen(policy: Policy) -> Iterator[None]:
    """Make the policy's parameters constants for a while: only its inputs are differentiated."""
    parameters = [p for p in policy.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def with_futures(
    policy: Policy,
    tokens: Tensor,
    relaxed: Tensor,
    future: str,
    gumbel: Tensor,
    temperature: float,
    sibling: Tensor | None = None,
) -> Tensor:
    """Return, for every position t, the sequence b_{<t}, x_t, X_{>t}: ``[n, T, T, V]``.

    Args:
      policy: The policy, frozen.
      tokens: b, int64 ``[n, T]``.
      relaxed: x_t = softmax(z_t / temperature), ``[n, T, V]``, with its graph.
      future: One of ``FUTURES``.
      gumbel: Noise of the soft futures ``[n, T, V]``.
      temperature: Of the soft futures.
      sibling: Independent sequences int64 ``[n, T]`` for the sibling future.
    """
    n, T, V = relaxed.shape
    hard = one_hot(tokens, V, relaxed.dtype)
    if future in ("soft", "mean-field"):
        after = _fed_on(policy, hard, relaxed, gumbel, temperature, noisy=future == "soft")
    elif future == "sibling":
        assert sibling is not None
        after = one_hot(sibling, V, relaxed.dtype).unsqueeze(1).expand(n, T, T, V)
    else:
        after = relaxed.new_full((1, 1, 1, 1), 1 / V if future == "uniform" else 0.0)
        after = after.expand(n, T, T, V)
    return after_prefixes(hard, relaxed, after)


def after_prefixes(hard: Tensor, relaxed: Tensor, after: Tensor) -> Tensor:
    """Return for every t rows ``[n, T, T, V]`` of hard before t, relaxed at t, ``after[:, t]``."""
    T = relaxed.shape[1]
    position = torch.arange(T, device=relaxed.device)
    now = (position.unsqueeze(1) == position).view(1, T, T, 1)
    past = (position.unsqueeze(1) > position).view(1, T, T, 1)
    context = torch.where(past, hard.unsqueeze(1), after)
    return torch.where(now, relaxed.unsqueeze(1), context)


def _fed_on(
    policy: Policy, hard: Tensor, relaxed: Tensor, gumbel: Tensor, temperature: float, noisy: bool
) -> Tensor:
    """Return the futures ``[n, T, T, V]`` of every relaxed token, all advancing together."""
    n, T, V = relaxed.shape
    _, state = policy.step(None, policy.initial_state(n))
    columns = [relaxed.new_zeros(n, T, V)]
    last = relaxed.new_zeros(n, 0, V)
    for s in range(1, T):
        own = map_rows(state, lambda x: x.reshape(n, -1, *x.shape[1:])[:, 0])
        state = insert_rows([state, own], n)
        fed = torch.cat([hard[:, s - 1 : s], last, relaxed[:, s - 1 : s]], dim=1)
        log_probs, state = policy.step(fed.reshape(-1, V), state)
        ahead = log_probs.reshape(n, s + 1, V)[:, 1:]
        if noisy:
            last = ((ahead + gumbel[:, s : s + 1]) / temperature).softmax(dim=-1)
        else:
            last = ahead.exp()
        columns.append(torch.nn.functional.pad(last, (0, 0, 0, T - s)))
    return torch.stack(columns, dim=2)
