"""Is the world what a measurement takes it for? The reward is a function, the sampler the policy's.

A noisy reward looks like a bias of every estimator, for the gradient that they are compared with
contains other noise. A reward that is whitened within its batch changes with the number of draws.
A sampler at another temperature biases estimators and reference alike, so that nothing shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from estbench.core import noise
from estbench.core.errors import UserError
from estbench.meter.cost import sequences_at_once
from estbench.models.policy import Policy, at_tokens, choose_by_uniform, has_ended
from estbench.models.wrapper import Wrapper

__all__ = ["check_world", "reward_fault", "sampler_fault"]

ASKED = 64  # sequences that the reward is asked about
ALONE = 4  # of them, asked about one by one
REPEATS = 8  # evaluations of each where the reward may be noisy
NOISE = 1e-3  # of the rewards' deviation: what may differ when the same batch is asked again
COMPANY = 0.02  # the same in another batch: in bfloat16 a network rounds that much otherwise
ERRORS = 8.0  # standard errors that are taken for noise

TOKENS = 4096  # that a sampler is judged by
DRAWN = 2048  # sequences of them, at most
BINS = 16
FEWEST = 5 * BINS  # tokens, or there is no test
TEMPERATURES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0, 3.0)
LEVEL = 3e-4  # of each of the three tests
REMEDY = ". Make temperature, top-k and top-p a part of the log-probabilities that step returns"
IMPOSSIBLE = -70.0  # log-probability, e^-70 = 4e-31, below which a token cannot have been drawn

Reward = Callable[[Tensor], Tensor]


def check_world(policy: Policy, reward: Reward, rng: torch.Generator, noisy: bool = False) -> None:
    """Check that rewards depend on their sequences alone, and tokens on the log-probabilities.

    A right reward is never refused, a right policy with a probability below 0.001 for each of its
    ways to sample. It takes some 200 evaluations of the reward, and sequences of 4,096 tokens.

    Args:
      policy: The policy, in evaluation mode.
      reward: Rewards ``[n]`` of sequences int64 ``[n, T]``.
      rng: Noise.
      noisy: Whether the reward is known to be noisy; each question is then asked eight times.

    Raises:
      UserError: One is not as it should be; the text says what was found, and the remedy.
    """
    subject = type(policy.policy if isinstance(policy, Wrapper) else policy).__name__
    for name, (tokens, drawn) in _samples(policy, rng).items():
        fault = sampler_fault(policy, tokens, rng, drawn)
        if fault:
            raise UserError(f"{subject}.{name} {fault}")
    fault = reward_fault(policy, reward, rng, noisy)
    if fault:
        raise UserError(fault)


@torch.no_grad()
def reward_fault(policy: Policy, reward: Reward, rng: torch.Generator, noisy: bool = False) -> str:
    """Return why a reward is not a function of the sequence, or "".

    The reward is asked twice about 64 sequences, then about half of them in a batch with 32 others,
    then about a few alone. With contexts, every batch has the same number of rows of each, and a
    batch of one row of each takes the place of a sequence alone. Differences that rounding may
    explain pass: 0.1 % of the rewards' standard deviation in the same batch, 2 % in another.

    Args:
      policy: Where the sequences come from, with its contexts.
      reward: Rewards ``[n]`` of sequences int64 ``[n, T]``.
      rng: Noise of the sequences.
      noisy: Whether the reward is known to be noisy. Every batch is then asked about eight times,
        and what means differ by because of noise (eight standard errors) passes.
    """
    M, T = policy.fewest_rows, policy.length
    each = max(2, ASKED // M)
    tokens, others = (policy.sample(M * each, rng).view(M, each, T) for _ in range(2))
    asked = _Asked(reward, REPEATS if noisy else 1)
    first = asked(tokens)
    deviation, rounding = float(first.mean.std()), 1e-5 * float(first.mean.abs().max())
    if not noisy and (found := first.differs(asked(tokens), NOISE * deviation + rounding)):
        row, before, after = found
        return (
            f"the reward is noisy: tokens {tokens.flatten(0, 1)[row].tolist()} got {before:.4g}, "
            f"then {after:.4g}. Give its noise a seed that depends on the tokens alone, or set "
            "reward_samples=k: the mean of k evaluations a sequence, which are counted as k"
        )
    half = (each + 1) // 2
    batches = [(slice(half), torch.cat([tokens[:, :half], others[:, half:]], dim=1))]
    batches += [(slice(i, i + 1), tokens[:, i : i + 1]) for i in range(min(ALONE, each))]
    for rows, batch in batches:
        known = first.part(rows)
        try:
            again = asked(batch).part(slice(known.mean.shape[1]))
        except UserError as error:
            return f"the reward fails for some of the sequences of a batch alone: {error}"
        if found := known.differs(again, COMPANY * deviation + rounding):
            _, before, after = found
            return (
                "the reward of a sequence depends on the others in its batch: the same tokens got "
                f"{before:.4g}, and {after:.4g} in another batch. Compute it from the sequence "
                "alone, without whitening, normalising or ranking within the batch"
            )
    return ""


@dataclass(frozen=True)
class _Answers:
    """Rewards ``[M, n]`` of n sequences of each context, means over some evaluations."""

    mean: Tensor
    error: Tensor  # standard errors of the means

    def part(self, rows: slice) -> _Answers:
        return _Answers(self.mean[:, rows], self.error[:, rows])

    def differs(self, other: _Answers, tolerance: float) -> tuple[int, float, float] | None:
        """Return the row whose rewards differ most beyond the tolerance, and both of them."""
        pooled = (self.error.square().mean() + other.error.square().mean()).sqrt()
        error = torch.hypot(self.error, other.error).clamp_min(float(pooled))
        excess = ((self.mean - other.mean).abs() - tolerance - ERRORS * error).flatten()
        row = int(excess.argmax())
        if excess[row] <= 0:
            return None
        return row, float(self.mean.flatten()[row]), float(other.mean.flatten()[row])


@dataclass(frozen=True)
class _Asked:
    """A reward that is asked several times at once."""

    reward: Reward
    repeats: int

    def __call__(self, tokens: Tensor) -> _Answers:
        """Return the answers about tokens ``[M, n, T]``."""
        rows = tokens.flatten(0, 1)
        found = torch.stack([self.reward(rows).double().cpu() for _ in range(self.repeats)])
        found = found.view(self.repeats, *tokens.shape[:2])
        error = torch.zeros_like(found[0])
        if self.repeats > 1:
            error = found.std(dim=0) / math.sqrt(self.repeats)
        return _Answers(found.mean(dim=0), error)


@torch.no_grad()
def _samples(policy: Policy, rng: torch.Generator) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return tokens from each way to sample that a policy has, and which of them were drawn."""
    T, M = policy.length, policy.fewest_rows
    n = M * math.ceil(min(DRAWN, math.ceil(TOKENS / T)) / M)
    own: set[str] = getattr(policy, "own", set())
    by = next((name for name in ("sample_from", "sample_by") if name in own), "sample")
    found: dict[str, tuple[Tensor, Tensor | None]] = {by: (policy.sample(n, rng), None)}
    if {"sample_from", "sample_by"} <= own:
        u = noise.uniform(rng, (n, T), policy.dtype)
        found["sample_by"] = policy.sample_by(n, choose_by_uniform(u)), None
    if "continue_from" in own and T > 1:
        n = M * math.ceil(n / (T - 1) / M)
        u = noise.uniform(rng, (n, 1, T - 1, T), policy.dtype)
        tokens = policy.continue_from(policy.sample(n, rng), u).view(n * (T - 1), T)
        prefix = torch.arange(1, T).repeat(n).unsqueeze(1)
        found["continue_from"] = tokens, torch.arange(T) >= prefix
    return found


@torch.no_grad()
def sampler_fault(
    policy: Policy,
    tokens: Tensor,
    rng: torch.Generator,
    drawn: Tensor | None = None,
    remedy: str = REMEDY,
) -> str:
    """Return how tokens differ from draws of the policy's log-probabilities, or "".

    With the tokens of the vocabulary in some order, each drawn one becomes a number: the
    probability of all before it, plus a random part of its own. Given the prefix that number is
    uniform, exactly, if the token was drawn from the log-probabilities (Smith 1985). Two tests are
    chi-square of these numbers in 16 bins, in the order of probability and in that of the indices.
    The third is the likelihood ratio of other temperatures, averaged over some: its expectation is
    1, and so it exceeds 1 / a with probability a at most (Ville 1939). One of the three rejects
    right tokens with probability 0.0009 at most.

    Args:
      policy: The policy, with its contexts.
      tokens: Sequences int64 ``[n, T]``; rows of a context together.
      rng: Noise of the random parts.
      drawn: Which tokens were drawn, bool ``[n, T]``; all if None. Those after the end never are.
      remedy: What is said to whoever draws from something else.

    Returns:
      A sentence without its subject: "returned token 3 ...", "does not draw from ...".
    """
    V = policy.vocabulary
    outside = (tokens < 0) | (tokens >= V)
    if bool(outside.any()):
        return f"returned token {int(tokens[outside][0])}: tokens are 0 to {V - 1}"
    by_probability, by_index = [], []
    ratios = torch.zeros(len(TEMPERATURES), dtype=torch.float64)  # logs
    for rows, log_probs, kept in _parts(policy, tokens, drawn):
        own = at_tokens(log_probs, rows)
        impossible = kept & (own < IMPOSSIBLE)
        if bool(impossible.any()):
            row, t = impossible.nonzero()[0].tolist()
            return (
                f"returned token {int(rows[row, t])} at position {t} after "
                f"{rows[row, :t].tolist()}, where its probability is 0: a sampler must not do that"
            )
        p = log_probs.exp()
        earlier = torch.arange(V, device=p.device) < rows.unsqueeze(2)
        level = own.unsqueeze(2)
        likelier = (log_probs > level) | ((log_probs == level) & earlier)
        part = noise.uniform(rng, tuple(rows.shape), torch.float64) * own.exp()
        by_probability.append(((p * likelier).sum(dim=2) + part)[kept].cpu())
        by_index.append(((p * earlier).sum(dim=2) + part)[kept].cpu())
        for i, tau in enumerate(TEMPERATURES):
            tempered = own / tau - (log_probs / tau).logsumexp(dim=2)
            ratios[i] += float((tempered - own)[kept].sum())
    numbers = torch.cat(by_probability)
    if len(numbers) < FEWEST:
        return ""
    found = [_chi_square(each) for each in (numbers, torch.cat(by_index))]
    p_value = min(*found, float((-ratios.logsumexp(dim=0)).exp()) * len(ratios))
    if p_value >= LEVEL:
        return ""
    likeness = _likeness(policy, tokens, drawn, ratios)
    return (
        f"does not draw from the policy's log-probabilities (p = {p_value:.1g}{likeness}){remedy}"
    )


def _parts(
    policy: Policy, tokens: Tensor, drawn: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield sequences ``[m, T]``, their log-probabilities ``[m, T, V]``, and what was drawn."""
    kept = torch.ones_like(tokens, dtype=torch.bool) if drawn is None else drawn.to(tokens.device)
    if policy.end is not None:
        kept = kept & ~has_ended(tokens, policy.end)
    n = len(tokens)
    size = sequences_at_once(policy, n) if policy.fewest_rows == 1 else n
    for rows, mask in zip(torch.split(tokens, size), torch.split(kept, size), strict=True):
        yield rows, policy.log_probs(rows).double(), mask


def _chi_square(numbers: Tensor) -> float:
    """Return the p-value of numbers that should be uniform, in equal bins."""
    from scipy.stats import chi2

    expected = len(numbers) / BINS
    counts = torch.histc(numbers.clamp(0.0, 1.0), BINS, 0.0, 1.0)
    return float(chi2.sf(float((counts - expected).square().sum()) / expected, BINS - 1))


def _likeness(policy: Policy, tokens: Tensor, drawn: Tensor | None, tempered: Tensor) -> str:
    """Return what a wrong sampler looks like, after a colon; "" where nothing known fits.

    Of temperature, top-k and top-p, it is the one under which the tokens are the most probable.

    Args:
      policy: The policy.
      tokens: See ``sampler_fault``.
      drawn: See ``sampler_fault``.
      tempered: Log likelihood ratios of the temperatures to the policy.
    """
    most, mass = 0, 0.0  # ranks, and the probability of all likelier tokens, that tokens come from
    for rows, log_probs, kept in _parts(policy, tokens, drawn):
        p, order = log_probs[kept].exp().sort(dim=1, descending=True, stable=True)
        rank = (order == rows[kept].unsqueeze(1)).int().argmax(dim=1, keepdim=True)
        most = max(most, int(rank.max()) + 1)
        mass = max(mass, float((p.cumsum(dim=1) - p).gather(1, rank).max()))
    top_k = top_p = 0.0
    for _, log_probs, kept in _parts(policy, tokens, drawn):
        p = log_probs[kept].exp().sort(dim=1, descending=True).values
        top_k -= float(p[:, :most].sum(dim=1).log().sum())
        top_p -= float((p * (p.cumsum(dim=1) - p <= mass)).sum(dim=1).log().sum())
    few = "the likeliest token comes" if most == 1 else f"the {most} likeliest tokens come"
    found = {
        f"as in top-k sampling, only {few}": top_k,
        f"as in top-p sampling, the least likely {100 * (1 - mass):.0f} % never come": top_p,
        f"as at a temperature of {TEMPERATURES[int(tempered.argmax())]}": float(tempered.max()),
    }
    best = max(found, key=lambda name: round(found[name], 3))
    return f": {best}" if found[best] > -math.log(LEVEL) else ""
