"""A trainer's loss or advantages, as a function of one's own: an estimator made of a few lines.

Trainers for language models do not write estimators. They write a loss over the log-probabilities
of sampled tokens, or the advantages that such a loss multiplies. Both are turned into draws here: a
draw is one batch of theirs, a group of K sequences (or P prompts with K sequences each).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from estbench.core import noise
from estbench.core.errors import UserError
from estbench.core.processes import described
from estbench.core.registry import SAFE_NAME
from estbench.estimators.base import Estimator, EstimatorInfo, Learned, Reward, Surrogate
from estbench.models.policy import Policy, at_tokens, has_ended

__all__ = ["ARGUMENTS", "STEP", "Recipe"]

Advantages = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

STEP = 0.05
"""How far one optimiser step moves a parameter, times a standard normal number."""

ARGUMENTS = ("log_probs", "old_log_probs", "rewards", "mask")


class Recipe(Estimator):
    """The gradient that a trainer's loss, or its advantages, would step along.

    ``advantages`` maps the rewards of a group to an advantage for each sequence. The estimate is
    the mean over the group of advantage times score, 1/K sum_i A_i grad log p(x_i), over all tokens
    up to and including the end token.

    ``loss`` maps log_probs, old_log_probs, rewards and mask to a number that a trainer minimises;
    the estimate is its negative gradient. With B sequences in a group (prompt by prompt) of at most
    T tokens these are, all in the policy's floating-point type:

    - ``log_probs`` ``[B, T]``: of the tokens, by the policy; the loss is differentiated in them.
      After the end token they are what a forward pass over padding gives: numbers that mean
      nothing, but have a gradient.
    - ``old_log_probs`` ``[B, T]``: the same by the sampler, without a gradient.
    - ``rewards`` ``[B]``.
    - ``mask`` ``[B, T]``: 1 up to and including the end token, 0 after it.

    Either must be a function of its arguments alone.

    Args:
      advantages: Maps rewards ``[K]`` to advantages ``[K]``, or ``[P, K]`` to ``[P, K]``.
      loss: See above. One of the two must be given.
      group: Sequences in a call: K of one prompt, or (P, K) for K of each of P prompts.
      staleness: Optimiser steps between the sampler and the policy; 0 is on policy. The sampler's
        parameters are the policy's plus ``staleness * STEP * N(0, 1)``, drawn once.
      name: Its name in tables; the function's own if None.

    Raises:
      UserError: An argument makes no sense, or the function fails on a group that is made up; the
        text says why.
    """

    def __init__(
        self,
        *,
        advantages: Advantages | None = None,
        loss: Loss | None = None,
        group: int | tuple[int, int] = 8,
        staleness: int = 0,
        name: str | None = None,
    ) -> None:
        if (advantages is None) == (loss is None):
            raise UserError("give either advantages= or loss=, a function")
        self.kind = "loss" if advantages is None else "advantages"
        self.function: Callable[..., Any] = loss or advantages  # type: ignore[assignment]
        if not callable(self.function):
            takes = ", ".join(ARGUMENTS) if loss is not None else "rewards"
            raise UserError(
                f"{self.kind} must be a function of {takes}, not {type(self.function).__name__}"
            )
        self.prompts, self.each = _sizes(group)
        self.staleness = staleness
        if not (_whole(staleness) and staleness >= 0):
            raise UserError(f"staleness = {staleness!r}: must be a whole number, at least 0")
        own = getattr(self.function, "__name__", "")
        K = self.prompts * self.each
        self.info = EstimatorInfo(
            name=name or (own if SAFE_NAME.fullmatch(own) else self.kind),
            summary=f"{self.kind} of one's own, {self.conditions}",
            source="one's own",
            baseline="its own",
            group=K,
            hard_evals=f"{K}",
            sampler="an older policy" if staleness else "policy",
        )
        self._at_once = True
        self._try()

    @property
    def conditions(self) -> str:
        """What a draw is: the size of the group, and how stale the sampler is."""
        group = f"groups of {self.each}"
        if self.prompts > 1:
            group = f"{self.prompts} prompts with {self.each} sequences each"
        steps = f"{self.staleness} step{'s' if self.staleness > 1 else ''}"
        return f"{group}, " + (f"the sampler {steps} behind" if self.staleness else "on policy")

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        """See ``Estimator.initial_state``: what the sampler differs by from the policy."""
        if not self.staleness:
            return {}
        size = self.staleness * STEP
        gaps = [
            size * torch.randn(p.shape, generator=rng, dtype=p.dtype, device=rng.device).to(p)
            for p in policy.parameters()
        ]
        return {"sampler": copy.deepcopy(policy).requires_grad_(False), "gaps": gaps}

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one call of the function."""
        B, T = self.info.group, policy.length
        sampler = policy
        if self.staleness:
            sampler = state["sampler"]
            _follow(sampler, policy, state["gaps"])
        with self._prompted(policy, draws):
            u = noise.uniforms(rng, draws * B, {"tokens": (T,)}, policy.dtype)["tokens"]
            tokens = sampler.sample_from(u)
            rewards = reward(tokens).to(policy.dtype)
            mask = torch.ones_like(u)
            if policy.end is not None:
                mask = mask.masked_fill(has_ended(tokens, policy.end), 0)
            chosen = _scores(policy, tokens)
            old = chosen.detach()
            if self.staleness:
                with torch.no_grad():
                    old = _scores(sampler, tokens)
        scores, past, scored = (x.detach().reshape(draws, B, T) for x in (chosen, old, mask))
        weights = self._weights(scores, past, scored, rewards.reshape(draws, B))
        info = {"baseline": float(rewards.mean())}
        return Surrogate.of(chosen, weights, tokens, rewards, B, info=info)

    @contextmanager
    def _prompted(self, policy: Policy, draws: int) -> Iterator[None]:
        """Give each draw P contexts, one after the other, where the function takes several."""
        contexts = policy.contexts
        if contexts is None or self.prompts == 1:
            yield
            return
        index = torch.arange(draws * self.prompts, device=contexts.values.device)
        with contexts.given(contexts.values[index % contexts.count]):
            yield

    def _weights(self, log_probs: Tensor, old: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
        """Return what multiplies the log-probabilities of every draw, ``[n, B, T]``."""
        if self.kind == "loss":
            return self._for_each(self._slopes, self._slope, (log_probs, old, rewards, mask))
        shaped = rewards.reshape(-1, *self._shape)
        found = self._for_each(self.function, self._advantages, (shaped,))
        return found.to(mask).reshape(*rewards.shape, 1) * mask / rewards.shape[1]

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self.prompts, self.each) if self.prompts > 1 else (self.each,)

    def _for_each(
        self,
        batched: Callable[..., Tensor],
        single: Callable[..., Tensor],
        arguments: tuple[Tensor, ...],
    ) -> Tensor:
        """Return what ``single`` makes of each draw's arguments.

        All draws go through ``vmap`` together where the function can take that, which is a hundred
        times as fast; the first draw is compared.
        """
        first = single(*(x[0] for x in arguments))
        if self._at_once:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that some operation is slow in it
                    found = torch.func.vmap(batched)(*arguments)
                if found[0].shape == first.shape and torch.allclose(found[0].to(first), first):
                    self._check_finite(found, arguments)
                    return found
            except UserError:
                raise
            except Exception:  # one by one it works, or has an error that means something
                pass
            self._at_once = False
        rest = [single(*each) for each in zip(*(x[1:] for x in arguments), strict=True)]
        return torch.stack([first, *rest])

    def _check_finite(self, found: Tensor, arguments: tuple[Tensor, ...]) -> None:
        """Let the draw that has no finite numbers name the fault by itself."""
        bad = (~found.isfinite()).flatten(1).any(dim=1)
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            rewards = arguments[2 if self.kind == "loss" else 0][i]
            raise self._not_finite(rewards)

    def _not_finite(self, rewards: Tensor) -> UserError:
        what = "the gradient of the loss" if self.kind == "loss" else "an advantage"
        shown = [float(f"{x:.4g}") for x in rewards.flatten()[:8].tolist()]
        more = ", ..." if rewards.numel() > len(shown) else ""
        hint = ": is a deviation of 0 divided by?" if len(set(shown)) == 1 else ""
        return UserError(
            f"{self.info.name}: {what} is not a finite number for the rewards "
            f"{', '.join(map(str, shown))}{more}{hint}"
        )

    @property
    def _slopes(self) -> Callable[..., Tensor]:
        slopes: Callable[..., Tensor] = torch.func.grad(lambda *given: -self.function(*given))
        return slopes

    def _slope(self, log_probs: Tensor, old: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
        """Return the negative gradient ``[B, T]`` of the loss in the log-probabilities."""
        with torch.enable_grad():
            leaf = log_probs.clone().requires_grad_()
            # A copy, since torch has its own words for a leaf that is changed in place.
            found = self._called((leaf.clone(), old, rewards, mask))
            if not isinstance(found, Tensor):
                raise self._error(
                    f"returned {type(found).__name__}, not a tensor: it must be differentiable, "
                    "without item() or float()"
                )
            if found.numel() != 1:
                raise self._error(
                    f"returned a tensor of shape {tuple(found.shape)}, not one number: return "
                    "its mean or its sum, whichever the trainer minimises"
                )
            gradient = None
            if found.requires_grad:
                (gradient,) = torch.autograd.grad(found.sum(), leaf, allow_unused=True)
        if gradient is None:
            raise self._error(
                "does not depend on log_probs: compute it from them, without detach() or no_grad()"
            )
        if not bool(gradient.isfinite().all()):
            raise self._not_finite(rewards)
        return -gradient

    def _advantages(self, rewards: Tensor) -> Tensor:
        """Return the advantages of one draw, in the shape of its rewards."""
        found = self._called((rewards,))
        try:
            found = torch.as_tensor(found).detach()
        except (TypeError, ValueError, RuntimeError):
            raise self._error(f"returned {type(found).__name__}, not a tensor") from None
        if found.shape != rewards.shape:
            raise self._error(
                f"returned shape {tuple(found.shape)} for rewards {tuple(rewards.shape)}: it must "
                "be one advantage for each sequence"
            )
        if not bool(found.isfinite().all()):
            raise self._not_finite(rewards)
        return found

    def _called(self, arguments: tuple[Tensor, ...]) -> Any:
        """Return what the function returns; its arguments are copies, and must stay as they are."""
        given = [arguments[0] if x.requires_grad else x.clone() for x in arguments]
        versions = [x._version for x in given]
        try:
            found = self.function(*given)
        except Exception as error:
            raise self._error(f"failed with {described(error)}") from error
        names = ARGUMENTS if self.kind == "loss" else ("rewards",)
        for name, x, version in zip(names, given, versions, strict=True):
            if x._version != version:
                raise self._error(
                    f"changes {name} in place: write {name} = {name} - ..., not {name} -= ..."
                )
        return found

    def _try(self) -> None:
        """Call the function on two groups that are made up, one of them with equal rewards.

        Raises:
          UserError: What it returned cannot be used, or differs when it is called again.
        """
        rng = torch.Generator().manual_seed(0)
        B, T = self.info.group, 4
        log_probs, old = (torch.rand(1, B, T, generator=rng).log() for _ in range(2))
        lengths = 1 + torch.arange(B) % T
        mask = (torch.arange(T) < lengths.unsqueeze(1)).to(log_probs).unsqueeze(0)
        for rewards in (torch.rand(1, B, generator=rng), torch.ones(1, B)):
            one, other = (self._weights(log_probs, old, mask, rewards) for _ in range(2))
            if not torch.allclose(one, other):
                raise self._error(
                    "returns something else when it is called again with the same arguments: what "
                    "draws noise, or learns from past batches, must be an estbench.Estimator"
                )

    def _error(self, text: str) -> UserError:
        return UserError(f"the {self.kind} function {self.info.name} {text}")


def _sizes(group: Any) -> tuple[int, int]:
    """Return prompts P and sequences K of a group.

    Raises:
      UserError: It is neither a number nor two.
    """
    pair = (
        tuple(group) if isinstance(group, Sequence) and not isinstance(group, str) else (1, group)
    )
    if len(pair) != 2 or not all(_whole(x) and x >= 1 for x in pair):
        raise UserError(
            f"group = {group!r}: must be a number of sequences, such as 8, or (prompts, sequences "
            "of each), such as (4, 8)"
        )
    return pair


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@torch.no_grad()
def _follow(sampler: Policy, policy: Policy, gaps: Sequence[Tensor]) -> None:
    """Give the sampler the policy's parameters plus the gaps: it stays as far behind as it was."""
    for mine, theirs, gap in zip(sampler.parameters(), policy.parameters(), gaps, strict=True):
        mine.copy_(theirs + gap)


def _scores(policy: Policy, tokens: Tensor) -> Tensor:
    """Return the log-probabilities ``[n, T]`` of tokens, padding included, as a trainer has them.

    A trainer's forward pass does not know where a sequence ends: it gives padding a log-probability
    as well, with a gradient, and leaves it to the mask. Of a user's policy that cannot be asked
    without its end token, those of padding are 0.
    """
    try:
        with _endless(policy):
            found = policy.log_probs(tokens)
    except Exception:
        if policy.end is None:
            raise
        found = policy.log_probs(tokens)
    return at_tokens(found, tokens)


@contextmanager
def _endless(policy: Policy) -> Iterator[None]:
    end = policy.end
    if end is None:
        yield
        return
    policy.end = None
    try:
        yield
    finally:
        policy.end = end
