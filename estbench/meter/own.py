"""A user's own policy and reward: accepted in plain form, and checked before anything is measured.

Mistakes that would otherwise end deep inside the meter, or worse, in wrong numbers, are found on a
few rows and said in a line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from estbench.core.errors import UserError
from estbench.estimators.base import Direct, Draws, Estimator, Learned, Surrogate
from estbench.meter.notices import warn
from estbench.meter.streamed import GivenShapeError, Streamed
from estbench.meter.taps import at_least_float32
from estbench.models.contexts import Contexts
from estbench.models.policy import Choose, Policy, choose_by_uniform, has_ended, keep_ending
from estbench.models.trees import State, flatten_rows, leaves, map_rows
from estbench.models.wrapper import Wrapper

__all__ = [
    "NOTHING",
    "OwnPolicy",
    "OwnReward",
    "adapted",
    "check_policy",
    "check_surrogate",
    "evaluating",
    "layout_fault",
]

ROWS = 3
FASTER = (
    "trace",
    "log_probs",
    "sample_by",
    "sample_from",
    "greedy",
    "continue_from",
    "relaxed_from",
    "embed",
)
"""What a policy of one's own may bring beside ``initial_state`` and ``step``."""
TOLERANCE = 1e-3  # of a sum of probabilities, and between two ways to the same log-probability
ROUNDING = 8  # the same in units of the type's precision, where that is coarser


NOTHING = (math.inf, -math.inf)
"""The range of no reward at all."""


class OwnReward:
    """A user's reward: its numbers become a tensor of the policy's type, and are checked.

    Args:
      function: Maps tokens int64 ``[n, T]`` to n numbers: a tensor, an array or a list.
      relaxed: Maps weights ``[n, T, V]`` to a tensor ``[n]`` that can be differentiated; None if
        there is no such thing. A reward of estbench's brings its own.
      dtype: The policy's.
      samples: Evaluations of each sequence whose mean is its reward; all of them count.

    Attributes:
      is_relaxed: Whether relaxed sequences are accepted.
      hard_evals: Evaluations of sequences of tokens so far.
      relaxed_evals: Relaxed sequences evaluated so far.
      range: The smallest and the largest reward of tokens so far; whoever wants to know those of a
        part of the calls sets it to ``NOTHING`` before.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        relaxed: Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        samples: int = 1,
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
        self.samples = samples
        self.hard_evals = 0
        self.relaxed_evals = 0
        self.range = NOTHING

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Return rewards ``[n]`` of sequences int64 ``[n, T]``, without a graph.

        Raises:
          UserError: What the function returned is not a finite number for each sequence.
        """
        rewards = self._once(tokens)
        if self.samples > 1:
            more = [self._once(tokens) for _ in range(self.samples - 1)]
            rewards = torch.stack([rewards, *more]).mean(dim=0)
        if len(rewards):
            low, high = self.range
            self.range = min(low, float(rewards.min())), max(high, float(rewards.max()))
        return rewards

    def _once(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[0]
        self.hard_evals += n
        found = self.function(tokens)
        if not isinstance(found, Tensor):
            first = found[0] if isinstance(found, list | tuple) and found else found
            if isinstance(first, str):  # NumPy would take "1.0" for a number
                raise UserError(
                    f"the reward returned text ({first[:20]!r}): it must return a number for each "
                    "sequence"
                )
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


class OwnPolicy(Wrapper):
    """A user's policy, completed to a whole ``Policy``.

    Methods of the contract that the user's policy brings are used; the others follow from ``step``.
    Parameters and layers keep the names that they have in the user's policy.

    Where the policy declares ``end``, sequences are filled up here, whether or not its ``step``
    does so. Log-probabilities of half precision (float16, bfloat16) are made float32 and normalised
    again: estimators draw, weigh and add up in float32, while the policy computes as it does.

    Args:
      policy: The user's policy; ``initial_state`` and ``step`` are all that it must have.
    """

    def __init__(self, policy: nn.Module) -> None:
        super().__init__(policy)
        self.own = {name for name in FASTER if brings(policy, name)}

    @property
    def inner_dtype(self) -> torch.dtype:
        """The type of the user's parameters."""
        found = (p.dtype for p in self.parameters() if p.is_floating_point())
        return next(found)

    @property
    def dtype(self) -> torch.dtype:
        """The type that estimators compute in: the parameters', but at least float32."""
        return at_least_float32(self.inner_dtype)

    def initial_state(self, n: int) -> State:
        return self.policy.initial_state(n)

    def step(self, previous: Tensor | None, state: State) -> tuple[Tensor, State]:
        hard = previous is not None and not previous.is_floating_point()
        ended = previous == self.end if hard and self.end is not None else None
        if previous is not None and not hard:
            previous = previous.to(self.inner_dtype)
        log_probs, state = self.policy.step(previous, state)
        return self._completed(log_probs, ended), state

    def trace(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Policy.trace``; a state that grows is padded with zeros.

        A state without any floating-point number counts as one that is always 0.
        """
        if "trace" in self.own:
            log_probs, known = self.policy.trace(tokens)
            log_probs = self._completed(log_probs, self._ended(tokens))
            return log_probs, known.detach().to(log_probs)
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

    def log_probs(self, tokens: Tensor) -> Tensor:
        if "log_probs" in self.own:
            return self._completed(self.policy.log_probs(tokens), self._ended(tokens))
        return super().log_probs(tokens)

    def embed(self, weights: Tensor) -> Tensor | None:
        if "embed" not in self.own:
            return None
        found: Tensor | None = self.policy.embed(weights.to(self.inner_dtype))
        return None if found is None else found.to(self.dtype)

    @torch.no_grad()
    def sample_by(self, n: int, choose: Choose) -> Tensor:
        # In half precision ``choose`` must be given what ``step`` here returns.
        if "sample_by" in self.own and self.dtype == self.inner_dtype:
            return self._filled(self.policy.sample_by(n, choose))
        return super().sample_by(n, choose)

    @torch.no_grad()
    def sample_from(self, uniforms: Tensor) -> Tensor:
        if "sample_from" in self.own:
            return self._filled(self.policy.sample_from(uniforms))
        return super().sample_from(uniforms)

    @torch.no_grad()
    def greedy(self) -> Tensor:
        return self._filled(self.policy.greedy()) if "greedy" in self.own else super().greedy()

    @torch.no_grad()
    def continue_from(self, tokens: Tensor, uniforms: Tensor) -> Tensor:
        if "continue_from" in self.own:
            return self._filled(self.policy.continue_from(tokens, uniforms))
        return super().continue_from(tokens, uniforms)

    def relaxed_from(self, gumbel: Tensor, temperature: float) -> Tensor:
        if "relaxed_from" in self.own:
            found: Tensor = self.policy.relaxed_from(gumbel.to(self.inner_dtype), temperature)
            return found.to(self.dtype)
        return super().relaxed_from(gumbel, temperature)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the user's policy's."""
        yield from self.policy.named_parameters(*args, **kwargs)

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Return the user's policy's."""
        yield from self.policy.named_modules(*args, **kwargs)

    def _completed(self, log_probs: Tensor, ended: Tensor | None) -> Tensor:
        if log_probs.dtype != self.dtype:
            log_probs = log_probs.to(self.dtype).log_softmax(dim=-1)
        if ended is not None and self.end is not None:
            log_probs = keep_ending(log_probs, ended, self.end)
        return log_probs

    def _ended(self, tokens: Tensor) -> Tensor | None:
        return None if self.end is None else has_ended(tokens, self.end)

    def _filled(self, tokens: Tensor) -> Tensor:
        if self.end is None:
            return tokens
        rows = tokens.reshape(-1, tokens.shape[-1])
        return rows.masked_fill(has_ended(rows, self.end), self.end).view(tokens.shape)


def brings(policy: nn.Module, name: str) -> bool:
    """Return whether a user's policy has a method of the contract that is not ``Policy``'s own.

    A plain module's ``embed`` or ``greedy`` may be anything: only a ``Policy`` declares those.
    """
    found = getattr(type(policy), name, None)
    if not isinstance(policy, Policy) and name in ("embed", "greedy"):
        return False
    return callable(found) and found is not getattr(Policy, name)


def adapted(policy: nn.Module) -> OwnPolicy:
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
    _check_declared(policy)
    if brings(policy, "sample") and not (
        brings(policy, "sample_from") or brings(policy, "sample_by")
    ):
        warn(
            f"{kind}.sample is not used: estimators bring the noise, so that draws can share it. "
            "To sample your own way, write sample_from(uniforms [n, T]), one uniform a token, or "
            "sample_by(n, choose)"
        )
    return OwnPolicy(policy)


def _check_declared(policy: nn.Module) -> None:
    kind = type(policy).__name__
    end, V = getattr(policy, "end", None), policy.vocabulary
    if end is not None and not (isinstance(end, int) and 0 <= end < V):  # type: ignore[operator]
        raise UserError(f"{kind}.end is {end!r}: it must be a token, 0 to {V - 1}, or None")  # type: ignore[operator]
    contexts = getattr(policy, "contexts", None)
    if contexts is not None and not isinstance(contexts, Contexts):
        raise UserError(
            f"{kind}.contexts is {type(contexts).__name__}: it must be estbench.Contexts(values), "
            "of a tensor [M, D], whose rows(n) initial_state starts from; or None"
        )
    truncation = getattr(policy, "truncation", 0)
    if not (isinstance(truncation, int) and truncation >= 0):
        raise UserError(f"{kind}.truncation is {truncation!r}: it must be a number of steps, or 0")


def rows_to_check(policy: Policy) -> int:
    """Return the rows of a short batch: three, or as many of each context as that takes."""
    M = policy.fewest_rows
    return M * math.ceil(ROWS / M)


def check_policy(policy: OwnPolicy) -> None:
    """Walk through one short batch of sequences and check all that the user's policy returns.

    Raises:
      UserError: A shape is wrong, log-probabilities are not normalised or do not depend on the
        parameters, or a faster way and ``step`` disagree.
    """
    V, T, n = policy.vocabulary, policy.length, rows_to_check(policy)
    inner = policy.policy
    tokens = (torch.arange(n * T, device=policy.device) % V).reshape(n, T)
    state = inner.initial_state(n)
    _check_state(state, f"initial_state({n})", n)
    previous, rows = None, []
    for t in range(T):
        found = inner.step(previous, state)
        if not isinstance(found, tuple) or len(found) != 2:
            raise UserError(
                f"step returned {type(found).__name__} at position {t}: it must be a tuple of "
                "log-probabilities [n, V] and the state"
            )
        log_probs, state = found
        _check_log_probs(log_probs, n, V, t)
        _check_state(state, f"step at position {t}", n)
        rows.append(log_probs)
        previous = tokens[:, t]
    stepped = torch.stack(rows, dim=1)
    if not stepped.requires_grad:
        raise UserError(
            "step's log-probabilities do not depend on any parameter: is there a detach() or "
            "no_grad() in it?"
        )
    if "trace" in policy.own:
        known = inner.trace(tokens)
        if not isinstance(known, tuple) or len(known) != 2:
            raise UserError(
                f"trace returned {type(known).__name__}: it must be a tuple of log-probabilities "
                "[n, T, V] and what the policy knew, [n, T, F]"
            )
        _check_faster("trace", known[0], stepped, policy, tokens)
    if "log_probs" in policy.own:
        _check_faster("log_probs", inner.log_probs(tokens), stepped, policy, tokens)
    for name in ("sample_from", "sample_by"):
        if name in policy.own:
            u = torch.full((n, T), 0.5, dtype=policy.dtype, device=policy.device)
            given = (u,) if name == "sample_from" else (n, choose_by_uniform(u))
            drawn = getattr(inner, name)(*given)
            shape = tuple(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
            if shape != (n, T):
                raise UserError(f"{name} returned {shape} for {n} rows: it must be tokens {(n, T)}")


def _check_faster(
    name: str, whole: Any, stepped: Tensor, policy: OwnPolicy, tokens: Tensor
) -> None:
    shape = tuple(whole.shape) if isinstance(whole, Tensor) else type(whole).__name__
    if shape != tuple(stepped.shape):
        raise UserError(
            f"{name} returned log-probabilities of shape {shape}: it must be {tuple(stepped.shape)}"
        )
    ended = policy._ended(tokens)
    pair = [policy._completed(part.detach(), ended).exp() for part in (whole, stepped)]
    gap = (pair[0] - pair[1]).abs().amax(dim=(0, 2))
    # Whatever type the log-probabilities have, they were computed in the policy's.
    tolerance = max(map(_tolerance, (whole.dtype, stepped.dtype, policy.inner_dtype)))
    if float(gap.max()) > tolerance:
        at = int((gap > tolerance).nonzero()[0])
        raise UserError(
            f"{name} and step disagree from position {at} on, by up to {float(gap.max()):.3g} in "
            "a probability: position t must be given the tokens before t"
        )


def check_surrogate(
    method: Estimator, policy: Policy, reward: OwnReward, rng: torch.Generator, state: Learned
) -> None:
    """Make a few draws and check that they are laid out as the contract says.

    Raises:
      UserError: They are not, or the policy cannot be fed what the estimator feeds it.
    """
    name, group = method.info.name, method.info.group
    n = rows_to_check(policy)
    try:
        found = method.surrogate(policy, reward, n, rng, state)
    except UserError:
        raise
    except Exception as error:
        if method.info.needs_relaxed_reward and not _takes_relaxed_tokens(policy):
            raise UserError(
                f"{name} feeds relaxed tokens, weights [n, V], to the policy's step, which takes "
                "hard ones only: embed them by weights @ table, or leave it out"
            ) from error
        raise
    if not isinstance(found, Surrogate | Direct):
        raise UserError(
            f"{name}: surrogate returned {type(found).__name__}, not a Surrogate or a Direct"
        )
    if fault := layout_fault(found, policy, group, n):
        raise UserError(f"{name}: {fault}")


def layout_fault(found: Draws, policy: Policy, group: int, n: int) -> str:
    """Return in which way n draws are not laid out as the contract says, or ""."""
    expected = {"tokens": (n, group, policy.length), "rewards": (n, group)}
    if isinstance(found, Surrogate):
        shape = tuple(found.log_probs.shape)
        if len(shape) != 2 or shape[0] != n:
            return (
                f"log_probs of {n} draws have shape {shape}: it must be ({n}, m), all of a draw in "
                "its row"
            )
        expected |= {"weights": shape, "pathwise": (n,)}
    for part, right in expected.items():
        value = getattr(found, part)
        if value is not None and tuple(value.shape) != right:
            return (
                f"{part} of {n} draws of {group} (info.group) have shape {tuple(value.shape)}: it "
                f"must be {right}"
            )
    if isinstance(found, Direct):
        if found.draws != n:
            return f"{n} draws were asked for, and it made {found.draws}"
        trained = [(label, p) for label, p in policy.named_parameters() if p.requires_grad]
        names, parameters = zip(*trained, strict=True)
        try:
            Streamed(found, parameters, names).part(0, n)
        except GivenShapeError as error:
            return str(error)
        return ""
    if found.weights.dtype != found.log_probs.dtype:
        return (
            f"weights are {found.weights.dtype}, log_probs {found.log_probs.dtype}: both must be "
            "the policy's"
        )
    if not found.log_probs.requires_grad:
        return (
            "log_probs do not depend on the policy's parameters: take them from "
            "policy.log_probs(tokens) or policy.trace(tokens), with gradients enabled"
        )
    return ""


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


def _check_state(state: State, where: str, n: int) -> None:
    try:
        map_rows(state, lambda x: x)
    except TypeError as error:
        raise UserError(f"{where} returned a state that is none: {error}") from None
    found = leaves(state)
    if not found:
        raise UserError(f"{where} returned an empty state: return torch.zeros(n, 1) if need be")
    for x in found:
        if x.dim() < 1 or x.shape[0] != n:
            raise UserError(
                f"{where} returned a state with a tensor of shape {tuple(x.shape)} for {n} "
                f"rows: rows come first, ({n}, ...)"
            )


def _check_log_probs(log_probs: Any, n: int, vocabulary: int, position: int) -> None:
    shape = tuple(log_probs.shape) if isinstance(log_probs, Tensor) else type(log_probs).__name__
    if shape != (n, vocabulary):
        raise UserError(
            f"step returned log-probabilities of shape {shape} for {n} rows at position "
            f"{position}: it must be ({n}, {vocabulary})"
        )
    total = log_probs.detach().double().exp().sum(dim=1)
    worst = int((total - 1).abs().nan_to_num(torch.inf).argmax())
    if not abs(float(total[worst]) - 1) <= _tolerance(log_probs.dtype):
        raise UserError(
            f"step returned probabilities that sum to {float(total[worst]):.4g} at position "
            f"{position}: they must be normalised, as by logits.log_softmax(dim=-1)"
        )


def _tolerance(dtype: torch.dtype) -> float:
    return max(TOLERANCE, ROUNDING * torch.finfo(dtype).eps)


@torch.no_grad()
def _takes_relaxed_tokens(policy: Policy) -> bool:
    log_probs, state = policy.step(None, policy.initial_state(rows_to_check(policy)))
    try:
        policy.step(log_probs.exp(), state)
    except Exception:
        return False
    return True
