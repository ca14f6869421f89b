"""A user's own policy and reward: accepted in plain form, and checked before anything is measured.

Mistakes that would otherwise end deep inside the meter, or worse, in wrong numbers, are found on a
few rows and said in a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from estbench.errors import UserError
from estbench.estimators.base import Direct, Estimator, Surrogate
from estbench.models.policy import Policy
from estbench.models.trees import State, flatten_rows, leaves, map_rows

__all__ = [
    "OwnPolicy",
    "OwnReward",
    "adapted",
    "check_policy",
    "check_surrogate",
    "evaluating",
]

ROWS = 3
FASTER = ("trace", "log_probs", "sample_by", "sample", "continue_from", "relaxed_from")
"""What a policy of one's own may override because it knows a faster way."""
TOLERANCE = 1e-3  # of a sum of probabilities, and between two ways to the same log-probability


class OwnReward:
    """A user's reward: its numbers become a tensor of the policy's type, and are checked.

    Args:
      function: Maps tokens int64 ``[n, T]`` to n numbers: a tensor, an array or a list.
      relaxed: Maps weights ``[n, T, V]`` to a tensor ``[n]`` that can be differentiated; None if
        there is no such thing. A reward of estbench's brings its own.
      dtype: The policy's.

    Attributes:
      is_relaxed: Whether relaxed sequences are accepted.
      hard_evals: Sequences of tokens evaluated so far.
      relaxed_evals: Relaxed sequences evaluated so far.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        relaxed: Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not callable(function):
            raise UserError(
                f"the reward must be a function of tokens [n, T], not {type(function).__name__}"
            )
        if relaxed is None and getattr(function, "is_relaxed", hasattr(function, "relaxed")):
            relaxed = function.relaxed  # type: ignore[attr-defined]
        self.function = function
        self.relaxed_function = relaxed
        self.is_relaxed = relaxed is not None
        self.dtype = dtype
        self.hard_evals = 0
        self.relaxed_evals = 0

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Return rewards ``[n]`` of sequences int64 ``[n, T]``, without a graph.

        Raises:
          UserError: What the function returned is not a finite number for each sequence.
        """
        n = tokens.shape[0]
        self.hard_evals += n
        found = self.function(tokens)
        if not isinstance(found, Tensor):
            try:
                if found is None:
                    raise TypeError
                found = torch.from_numpy(np.asarray(found, dtype=np.float64))
            except (TypeError, ValueError):
                raise UserError(
                    f"the reward returned {type(found).__name__}, which is not {n} numbers"
                ) from None
        if found.shape != (n,):
            raise UserError(
                f"the reward returned shape {tuple(found.shape)} for {n} sequences: it must be "
                f"({n},), one number each"
            )
        rewards = found.to(tokens.device, self.dtype)
        bad = ~rewards.isfinite()
        if bool(bad.any()):
            first = int(bad.nonzero()[0])
            raise UserError(
                f"the reward returned {float(rewards[first])} for tokens {tokens[first].tolist()}"
            )
        return rewards

    def relaxed(self, weights: Tensor) -> Tensor:
        """Return rewards ``[n]`` of relaxed sequences ``[n, T, V]``, differentiable in them.

        Raises:
          UserError: There is no relaxed reward, or it is none that can be differentiated.
        """
        if self.relaxed_function is None:
            raise UserError(
                "this reward takes tokens only: give relaxed=, a function of weights [n, T, V]"
            )
        n = weights.shape[0]
        self.relaxed_evals += n
        found = self.relaxed_function(weights)
        if not isinstance(found, Tensor) or found.shape != (n,):
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(
                f"the relaxed reward returned {what} for {n} sequences: it must be a tensor ({n},)"
            )
        wanted = weights.requires_grad and torch.is_grad_enabled()
        if wanted and not found.requires_grad:
            raise UserError(
                "the relaxed reward cannot be differentiated: compute it with torch, from the "
                "weights, without detach() or NumPy"
            )
        return found.to(self.dtype)


class OwnPolicy(Policy):
    """Lends what ``Policy`` offers to a module that has ``initial_state`` and ``step``.

    Parameters and layers keep the names that they have in the module, and ``truncation`` is the
    module's.

    Args:
      module: The policy; ``vocabulary``, ``length``, ``initial_state`` and ``step`` are used.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.vocabulary = module.vocabulary  # type: ignore[assignment]
        self.length = module.length  # type: ignore[assignment]

    @property
    def truncation(self) -> int:
        """See ``Policy``; 0 where the module does not know the word."""
        return getattr(self.module, "truncation", 0)

    @truncation.setter
    def truncation(self, steps: int) -> None:
        self.module.truncation = steps  # type: ignore[assignment]

    def initial_state(self, n: int) -> State:
        """See ``Policy.initial_state``."""
        return self.module.initial_state(n)  # type: ignore[operator]

    def step(self, previous: Tensor | None, state: State) -> tuple[Tensor, State]:
        """See ``Policy.step``."""
        found: tuple[Tensor, State] = self.module.step(previous, state)  # type: ignore[operator]
        return found

    def trace(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Policy.trace``; a state that grows is padded with zeros.

        A state without any floating-point number counts as one that is always 0.
        """
        state = self.initial_state(tokens.shape[0])
        previous, rows, features = None, [], []
        for t in range(tokens.shape[1]):
            log_probs, state = self.step(previous, state)
            rows.append(log_probs)
            features.append(flatten_rows(state).detach().to(log_probs))
            previous = tokens[:, t]
        widest = max(1, *(f.shape[1] for f in features))
        padded = [nn.functional.pad(f, (0, widest - f.shape[1])) for f in features]
        return torch.stack(rows, dim=1), torch.stack(padded, dim=1)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the module's."""
        yield from self.module.named_parameters(*args, **kwargs)

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Return the module's."""
        yield from self.module.named_modules(*args, **kwargs)


def adapted(policy: nn.Module) -> Policy:
    """Return a policy of whatever has a policy's methods.

    Raises:
      UserError: Something is missing; the text says what.
    """
    if not isinstance(policy, nn.Module):
        raise UserError(
            f"the policy must be a torch.nn.Module with initial_state, step, vocabulary and "
            f"length, not {type(policy).__name__}"
        )
    kind = type(policy).__name__
    for name, what in (
        ("vocabulary", "the number of tokens V"),
        ("length", "the number of positions T"),
        ("initial_state", "initial_state(n), the state of n rows before the first token"),
        ("step", "step(previous, state), which returns log-probabilities [n, V] and a state"),
    ):
        found = getattr(policy, name, None)
        if found is None:
            raise UserError(f"{kind} has no {name}: {what}")
        if name in ("vocabulary", "length") and not (isinstance(found, int) and found >= 1):
            raise UserError(f"{kind}.{name} is {found!r}: it must be {what}")
    if not any(p.requires_grad for p in policy.parameters()):
        raise UserError(f"{kind} has no parameters that require gradients: nothing to measure")
    if isinstance(policy, Policy) and any(
        getattr(type(policy), name) is not getattr(Policy, name) for name in FASTER
    ):
        return policy
    return OwnPolicy(policy)


def check_policy(policy: Policy) -> None:
    """Walk through one short batch of sequences and check all that the policy returns.

    Raises:
      UserError: A shape is wrong, log-probabilities are not normalised or do not depend on the
        parameters, or ``trace`` and ``step`` disagree.
    """
    V, T = policy.vocabulary, policy.length
    tokens = (torch.arange(ROWS * T, device=policy.device) % V).reshape(ROWS, T)
    state = policy.initial_state(ROWS)
    _check_state(state, f"initial_state({ROWS})")
    previous, rows, widths = None, [], set()
    for t in range(T):
        found = policy.step(previous, state)
        if not isinstance(found, tuple) or len(found) != 2:
            raise UserError(
                f"step returned {type(found).__name__} at position {t}: it must be a tuple of "
                "log-probabilities [n, V] and the state"
            )
        log_probs, state = found
        _check_log_probs(log_probs, V, t)
        _check_state(state, f"step at position {t}")
        rows.append(log_probs)
        widths.add(flatten_rows(state).shape[1])
        previous = tokens[:, t]
    stepped = torch.stack(rows, dim=1)
    if not stepped.requires_grad:
        raise UserError(
            "step's log-probabilities do not depend on any parameter: is there a detach() or "
            "no_grad() in it?"
        )
    kind = type(policy)
    own = kind.trace not in (Policy.trace, OwnPolicy.trace)
    if kind.trace is Policy.trace and len(widths) > 1:
        raise UserError(
            f"{kind.__name__}'s state grows from step to step: keep it of one size, such as a "
            "cache with a place for each of the T positions, or write trace as well"
        )
    if not (own or kind.log_probs is not Policy.log_probs):
        return
    whole = policy.log_probs(tokens)
    if whole.shape != stepped.shape:
        raise UserError(
            f"trace returned log-probabilities of shape {tuple(whole.shape)}: it must be "
            f"{tuple(stepped.shape)}"
        )
    gap = (whole.exp() - stepped.exp()).detach().abs().amax(dim=(0, 2))
    if float(gap.max()) > TOLERANCE:
        at = int((gap > TOLERANCE).nonzero()[0])
        raise UserError(
            f"trace and step disagree from position {at} on, by up to {float(gap.max()):.3g} in "
            "a probability: position t must be given the tokens before t"
        )


def check_surrogate(
    method: Estimator,
    policy: Policy,
    reward: OwnReward,
    rng: torch.Generator,
    state: dict[str, Any],
) -> None:
    """Make a few draws and check that they are laid out as the contract says.

    Raises:
      UserError: They are not, or the policy cannot be fed what the estimator feeds it.
    """
    name, group = method.info.name, method.info.group
    try:
        found = method.surrogate(policy, reward, ROWS, rng, state)
    except UserError:
        raise
    except Exception as error:
        if method.info.needs_relaxed_reward and not _takes_relaxed_tokens(policy):
            raise UserError(
                f"{name} feeds relaxed tokens, weights [n, V], to the policy's step, which takes "
                "hard ones only: embed them by weights @ table, or leave it out"
            ) from error
        raise
    if isinstance(found, Direct):
        _check_direct(name, found, policy, group)
        return
    if not isinstance(found, Surrogate):
        raise UserError(
            f"{name}: surrogate returned {type(found).__name__}, not a Surrogate or a Direct"
        )
    shape = tuple(found.log_probs.shape)
    if len(shape) != 2 or shape[0] != ROWS:
        raise UserError(
            f"{name}: log_probs of {ROWS} draws have shape {shape}: it must be ({ROWS}, m), all of "
            "a draw in its row"
        )
    expected = {
        "weights": shape,
        "tokens": (ROWS, group, policy.length),
        "rewards": (ROWS, group),
        "pathwise": (ROWS,),
    }
    for part, right in expected.items():
        value = getattr(found, part)
        if value is not None and tuple(value.shape) != right:
            raise UserError(
                f"{name}: {part} of {ROWS} draws of {group} (info.group) have shape "
                f"{tuple(value.shape)}: it must be {right}"
            )
    if found.weights.dtype != found.log_probs.dtype:
        raise UserError(
            f"{name}: weights are {found.weights.dtype}, log_probs {found.log_probs.dtype}: both "
            "must be the policy's"
        )
    if not found.log_probs.requires_grad:
        raise UserError(
            f"{name}: log_probs do not depend on the policy's parameters: take them from "
            "policy.log_probs(tokens) or policy.trace(tokens), with gradients enabled"
        )


def _check_direct(name: str, found: Direct, policy: Policy, group: int) -> None:
    expected = {"tokens": (ROWS, group, policy.length), "rewards": (ROWS, group)}
    for part, right in expected.items():
        shape = tuple(getattr(found, part).shape)
        if shape != right:
            raise UserError(
                f"{name}: {part} of {ROWS} draws of {group} (info.group) have shape {shape}: it "
                f"must be {right}"
            )
    parameters = [(n, p) for n, p in policy.named_parameters() if p.requires_grad]
    given = list(found.gradients(0, ROWS))
    if found.draws != ROWS or len(given) != len(parameters):
        raise UserError(
            f"{name}: {found.draws} draws with gradients of {len(given)} tensors: it must be "
            f"{ROWS} draws, and {len(parameters)} tensors as the policy has"
        )
    for (label, parameter), gradient in zip(parameters, given, strict=True):
        shape, right = tuple(gradient.shape), (ROWS, *parameter.shape)
        if shape != right:
            raise UserError(f"{name}: gradients of {label} have shape {shape}: it must be {right}")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each part's own mode afterwards.

    With dropout a policy would be another distribution at every call.
    """
    modes = [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _check_state(state: State, where: str) -> None:
    try:
        map_rows(state, lambda x: x)
    except TypeError as error:
        raise UserError(f"{where} returned a state that is none: {error}") from None
    found = leaves(state)
    if not found:
        raise UserError(f"{where} returned an empty state: return torch.zeros(n, 1) if need be")
    for x in found:
        if x.dim() < 1 or x.shape[0] != ROWS:
            raise UserError(
                f"{where} returned a state with a tensor of shape {tuple(x.shape)} for {ROWS} "
                f"rows: rows come first, ({ROWS}, ...)"
            )


def _check_log_probs(log_probs: Any, vocabulary: int, position: int) -> None:
    shape = tuple(log_probs.shape) if isinstance(log_probs, Tensor) else type(log_probs).__name__
    if shape != (ROWS, vocabulary):
        raise UserError(
            f"step returned log-probabilities of shape {shape} for {ROWS} rows at position "
            f"{position}: it must be ({ROWS}, {vocabulary})"
        )
    total = log_probs.detach().double().exp().sum(dim=1)
    worst = int((total - 1).abs().nan_to_num(torch.inf).argmax())
    if not abs(float(total[worst]) - 1) <= TOLERANCE:
        raise UserError(
            f"step returned probabilities that sum to {float(total[worst]):.4g} at position "
            f"{position}: they must be normalised, as by logits.log_softmax(dim=-1)"
        )


@torch.no_grad()
def _takes_relaxed_tokens(policy: Policy) -> bool:
    log_probs, state = policy.step(None, policy.initial_state(ROWS))
    try:
        policy.step(log_probs.exp(), state)
    except Exception:
        return False
    return True
