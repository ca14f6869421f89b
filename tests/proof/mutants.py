"""Faults, one at a time, in copies of the estimators: what the check has to find.

A mutant is a module of the package with a piece of its text exchanged. It is executed beside the
real one, and whoever uses a function or class of the real one gets the mutant's for a while.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from estbench.estimators import base
from estbench.estimators.base import Estimator
from estbench.estimators.futures import FUTURES

SIGN = "a flipped sign"
UNDETACHED = "an un-detached term"
SHARED = "noise shared across rows"
REDRAWN = "b redrawn"
STALE = "a stale policy"
PREFIX = "off by one in the prefix"
OTHER = "another"
KINDS = (SIGN, UNDETACHED, SHARED, REDRAWN, STALE, PREFIX)
"""Kinds of faults that every family is tried with."""


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
      fault: What is wrong, in words.
      kind: One of ``KINDS``, or another.
      room: The module.
      old: A piece of its text, which stands there exactly once.
      new: What stands there instead.
      estimators: Names of those that it spoils, each of which has to be found.
      rollouts: Rollouts a position that they are made with.
      unseen: Whether the mean stays right, so that no test of bias can see it.
    """

    fault: str
    kind: str
    room: str
    old: str
    new: str
    estimators: tuple[str, ...]
    rollouts: int = 0
    unseen: bool = False


def family(name: str) -> str:
    """Return the family of an estimator."""
    first, _, rest = name.partition("-")
    if first == "rebar":
        return f"REBAR, form {'A' if rest in FUTURES else 'B'}"
    if first == "reinforce" and rest:
        return "baselines and critics"
    if first in ("all", "sum", "last"):
        return "sums over actions"
    if first in ("opo", "token", "single", "importance", "kl") or name == "rloo-shrunk":
        return "trainers"
    if first in ("unordered", "without"):
        return "sets"
    if first in ("arm", "arsm", "disarm", "carms"):
        return "coupled tokens"
    if first in ("rodeo", "double"):
        return "Stein operators and slopes"
    known = {"reinforce": "score function", "rloo": "RLOO", "relax": "RELAX", "muprop": "MuProp"}
    return known.get(first, "rollouts")


def spoiled(mutant: Mutant, patch: pytest.MonkeyPatch) -> dict[str, Callable[[], Estimator]]:
    """Put a mutant in place; return what makes the estimators that it spoils."""
    name = f"estbench.estimators.{mutant.room}"
    real = importlib.import_module(name)
    text = Path(str(real.__file__)).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.room}: {text.count(mutant.old)} of {mutant.old!r}"
    made: dict[str, Callable[..., Estimator]] = {}

    def register(factory: Callable[..., Estimator]) -> Callable[..., Estimator]:
        made[factory().info.name] = factory
        return factory

    copy = types.ModuleType(name)
    copy.__file__ = real.__file__
    with pytest.MonkeyPatch.context() as importing:
        importing.setattr(base, "register", register)
        # Dataclasses look their module up by its name.
        importing.setitem(sys.modules, name, copy)
        exec(compile(text.replace(mutant.old, mutant.new), f"{name} (mutant)", "exec"), vars(copy))
    own = {
        id(value): vars(copy)[key]
        for key, value in vars(real).items()
        if getattr(value, "__module__", "") == name and key in vars(copy)
    }
    for module in [m for key, m in sys.modules.items() if key.startswith("estbench.")]:
        for key, value in list(vars(module).items()):
            if id(value) in own:
                patch.setattr(module, key, own[id(value)])
    if mutant.rollouts:
        return {e: _maker(made.get(e), e, mutant.rollouts) for e in mutant.estimators}
    return {e: _maker(made.get(e), e, 0) for e in mutant.estimators}


def _maker(
    factory: Callable[..., Estimator] | None, name: str, rollouts: int
) -> Callable[[], Estimator]:
    if factory is None:
        return lambda: base.make(name, rollouts=rollouts)
    return (lambda: factory(rollouts=rollouts)) if rollouts else factory


HALVED = "        from estbench.estimators.wrong import _halved\n        with _halved(policy):\n"
"""What puts a stale policy, its output layer halved, in the current one's place."""

REINFORCE_DRAW = """\
        tokens, returns, terminal = draw(
            policy, reward, draws, rng, self.rollouts, state.get("lagged")
        )
"""
GROUP_DRAW = (
    "        tokens, returns, terminal = draw(policy, reward, draws * K, rng, self.rollouts)\n"
)
MUPROP_DRAW = (
    "        tokens, returns, terminal = draw(policy, reward, draws, rng, self.rollouts)\n"
)


def drawn(sampling: str, count: str = "draws", follow: str = "policy") -> str:
    """Return the lines of ``returns.draw``, with other lines that sample the tokens."""
    return (
        "        from estbench.core import noise\n"
        "        from estbench.estimators.returns import rollout_noise, token_returns\n"
        '        shapes = {"tokens": (policy.length,), **rollout_noise(policy, self.rollouts)}\n'
        f"        u = noise.uniforms(rng, {count}, shapes, policy.dtype)\n"
        f"{sampling}"
        f"        returns, terminal = token_returns({follow}, reward, tokens, u)\n"
    )


MUTANTS = [
    # REINFORCE and its baselines.
    Mutant(
        "flipped sign of the reward",
        SIGN,
        "score_function",
        "weights = returns - baseline\n",
        "weights = baseline - returns\n",
        ("reinforce", "reinforce-critic", "seqgan-rollouts"),
    ),
    Mutant(
        "baseline subtracted twice from the gradient's tokens of one position",
        OTHER,
        "score_function",
        "weights = returns - baseline\n",
        "weights = returns - baseline\n        weights = weights * (1 + (tokens == 0))\n",
        ("reinforce", "reinforce-ema"),
    ),
    Mutant(
        "tokens are redrawn for the score",
        REDRAWN,
        "score_function",
        "        chosen = at_tokens(log_probs, tokens)\n",
        "        tokens = tokens.flip(0)\n"
        "        chosen = at_tokens(policy.log_probs(tokens), tokens)\n",
        ("reinforce", "reinforce-ema", "seqgan-rollouts"),
    ),
    Mutant(
        "scores of the previous token's position",
        PREFIX,
        "score_function",
        "        chosen = at_tokens(log_probs, tokens)\n",
        "        chosen = at_tokens(log_probs.roll(1, 1), tokens)\n",
        ("reinforce", "reinforce-constant"),
    ),
    Mutant(
        "noise shared across rows",
        SHARED,
        "score_function",
        REINFORCE_DRAW,
        drawn(
            '        tokens = policy.sample_from(u["tokens"][:1].expand_as(u["tokens"]))\n',
            follow='state.get("lagged", policy)',
        ),
        ("reinforce", "reinforce-constant"),
        unseen=True,
    ),
    Mutant(
        "tokens come from a stale policy",
        STALE,
        "score_function",
        REINFORCE_DRAW,
        drawn(
            HALVED + '            tokens = policy.sample_from(u["tokens"])\n',
            follow='state.get("lagged", policy)',
        ),
        ("reinforce", "reinforce-critic"),
    ),
    Mutant(
        "a baseline is not detached, and log p grad B stays",
        UNDETACHED,
        "score_function",
        "            components=components,\n",
        "            components=components,\n"
        "            pathwise=(chosen.detach() * (log_probs.exp() * log_probs).sum(2)).sum(1),\n",
        ("reinforce", "reinforce-critic", "seqgan-rollouts"),
    ),
    Mutant(
        "the constant is tuned on the very draws that it is subtracted from",
        OTHER,
        "score_function",
        '            constant = self.coefficients.values(state["coefficients"])["constant"]\n',
        "            constant = float(returns.mean())\n",
        ("reinforce-constant",),
        unseen=True,
    ),
    Mutant(
        "the critic sees the token that it is a baseline for",
        PREFIX,
        "baselines",
        'found: Tensor = mean + deviation * state["network"](features, tokens)',
        'found: Tensor = mean + deviation * state["network"](features.roll(-1, 1), tokens)',
        ("reinforce-critic",),
    ),
    Mutant(
        "the critic is never trained",
        OTHER,
        "baselines",
        '            state["optimiser"].step()\n',
        "",
        ("reinforce-critic",),
        unseen=True,
    ),
    Mutant(
        "the moving average learns the wrong sign",
        SIGN,
        "baselines",
        '    return moments["sum"] / moments["weight"] if',
        '    return -moments["sum"] / moments["weight"] if',
        ("reinforce-ema",),
        unseen=True,
    ),
    # Leave-one-out.
    Mutant(
        "divided by K, not K - 1",
        OTHER,
        "score_function",
        "keepdim=True)) / (K - 1)",
        "keepdim=True)) / K",
        ("rloo",),
    ),
    Mutant(
        "mean over all groups",
        OTHER,
        "score_function",
        "grouped.mean(dim=1, keepdim=True)",
        "grouped.mean(dim=(0, 1), keepdim=True)",
        ("rloo",),
    ),
    Mutant(
        "rows of other groups",
        OTHER,
        "score_function",
        "weights, tokens, terminal, K, info=info)",
        "weights, tokens.reshape(K, draws, T).transpose(0, 1).flatten(0, 1), terminal, K)",
        ("rloo",),
    ),
    Mutant(
        "weights of other sequences",
        OTHER,
        "score_function",
        "of(chosen, weights, tokens",
        "of(chosen, weights.flip(1), tokens",
        ("rloo",),
    ),
    Mutant(
        "noise shared inside a group",
        SHARED,
        "score_function",
        GROUP_DRAW,
        drawn(
            '        tokens = policy.sample_from(u["tokens"][::2].repeat_interleave(2, dim=0))\n',
            "draws * K",
        ),
        ("rloo",),
    ),
    Mutant(
        "flipped sign of the leave-one-out weights",
        SIGN,
        "score_function",
        "return (grouped - grouped.mean(dim=1, keepdim=True))",
        "return (grouped.mean(dim=1, keepdim=True) - grouped)",
        ("rloo",),
    ),
    Mutant(
        "a group is redrawn for the score",
        REDRAWN,
        "score_function",
        "        chosen = at_tokens(policy.log_probs(tokens), tokens)\n",
        "        tokens = tokens.flip(0)\n"
        "        chosen = at_tokens(policy.log_probs(tokens), tokens)\n",
        ("rloo",),
    ),
    Mutant(
        "a group comes from a stale policy",
        STALE,
        "score_function",
        GROUP_DRAW,
        drawn(HALVED + '            tokens = policy.sample_from(u["tokens"])\n', "draws * K"),
        ("rloo",),
    ),
    Mutant(
        "a group's scores are of the previous token's position",
        PREFIX,
        "score_function",
        "        chosen = at_tokens(policy.log_probs(tokens), tokens)\n",
        "        chosen = at_tokens(policy.log_probs(tokens).roll(1, 1), tokens)\n",
        ("rloo",),
    ),
    Mutant(
        "p itself is a weight, and is not detached",
        UNDETACHED,
        "score_function",
        "terminal, K, info=info)",
        "terminal, K,\n"
        "            pathwise=(chosen.detach() * chosen.exp()).reshape(draws, -1).sum(1) / K)",
        ("rloo",),
    ),
    # Rollouts.
    Mutant(
        "rollouts reach back by one token",
        PREFIX,
        "returns",
        'completed = policy.continue_from(tokens, uniforms["rollouts"])',
        'completed = policy.continue_from(tokens.roll(1, 1), uniforms["rollouts"])',
        ("seqgan-rollouts", "rebar"),
        rollouts=2,
    ),
    Mutant(
        "values belong to other sequences",
        OTHER,
        "returns",
        "values = rollout_rewards(reward, tokens, completed).mean(dim=2)",
        "values = rollout_rewards(reward, tokens, completed).mean(dim=2).roll(1, 0)",
        ("seqgan-rollouts", "reinforce-ema"),
        rollouts=2,
    ),
    Mutant(
        "values are shifted by a position",
        PREFIX,
        "returns",
        "cat([values, terminal.unsqueeze(1)], dim=1), terminal",
        "cat([terminal.unsqueeze(1), values], dim=1), terminal",
        ("seqgan-rollouts", "rloo"),
        rollouts=2,
    ),
    Mutant(
        "all sequences are completed with the same noise",
        SHARED,
        "returns",
        'continue_from(tokens, uniforms["rollouts"])',
        'continue_from(tokens, uniforms["rollouts"][:1].expand_as(uniforms["rollouts"]))',
        ("seqgan-rollouts",),
        rollouts=2,
    ),
    Mutant(
        "rollouts continue other sequences",
        REDRAWN,
        "returns",
        'continue_from(tokens, uniforms["rollouts"])',
        'continue_from(tokens.roll(1, 0), uniforms["rollouts"])',
        ("seqgan-rollouts",),
        rollouts=2,
    ),
    Mutant(
        "rollouts follow a stale policy",
        STALE,
        "returns",
        '    completed = policy.continue_from(tokens, uniforms["rollouts"])\n',
        HALVED.replace("        ", "    ")
        + '        completed = policy.continue_from(tokens, uniforms["rollouts"])\n',
        ("seqgan-rollouts",),
        rollouts=2,
    ),
    # Baselines a step.
    Mutant(
        "flipped sign beside a baseline that is computed",
        SIGN,
        "step_baselines",
        "            returns - baseline,\n",
        "            baseline - returns,\n",
        ("reinforce-greedy", "reinforce-step-constants"),
    ),
    Mutant(
        "the constants of steps are tuned on the very draws that they are subtracted from",
        OTHER,
        "step_baselines",
        "        baseline = self.baseline(policy, reward, draws, state)\n",
        "        baseline = returns.mean(dim=0, keepdim=True)\n",
        ("reinforce-step-constants",),
        unseen=True,
    ),
    Mutant(
        "the constants of steps are learned with the wrong sign",
        SIGN,
        "step_baselines",
        "        return common + (earned",
        "        return -common - (earned",
        ("reinforce-step-constants",),
        unseen=True,
    ),
    Mutant(
        "values are those of the state that the token led to",
        PREFIX,
        "step_baselines",
        "values = torch.cat([start, returns[:, :-1]], dim=1)",
        "values = torch.cat([returns[:, 1:], start], dim=1)",
        ("vine",),
    ),
    Mutant(
        "the start's value is the sequence's own reward",
        REDRAWN,
        "step_baselines",
        "        values = torch.cat([start, ",
        "        start = terminal.unsqueeze(1)\n        values = torch.cat([start, ",
        ("vine",),
    ),
    Mutant(
        "all draws share the noise of their rollouts",
        SHARED,
        "step_baselines",
        "        returns, terminal = token_returns(policy, reward, tokens, u)\n        whole",
        '        u["rollouts"] = u["rollouts"][:1].expand_as(u["rollouts"])\n'
        "        returns, terminal = token_returns(policy, reward, tokens, u)\n        whole",
        ("vine",),
        unseen=True,
    ),
    # Sums over actions.
    Mutant(
        "flipped sign of the sequence's own action",
        SIGN,
        "all_actions",
        "return values.scatter(2, tokens.unsqueeze(2), own)",
        "return values.scatter(2, tokens.unsqueeze(2), -own)",
        ("all-actions", "sum-and-sample"),
    ),
    Mutant(
        "the other token comes from all tokens",
        REDRAWN,
        "all_actions",
        "other = inverse_cdf(rest.flatten(0, 1)",
        "other = inverse_cdf(p.flatten(0, 1)",
        ("sum-and-sample", "sum-and-sample-ema"),
    ),
    Mutant(
        "branches follow a stale policy",
        STALE,
        "all_actions",
        "    completed = branch(policy, tokens, branched, uniforms)\n",
        HALVED.replace("        ", "    ")
        + "        completed = branch(policy, tokens, branched, uniforms)\n",
        ("all-actions",),
    ),
    Mutant(
        "all draws share the noise of their branches",
        SHARED,
        "all_actions",
        "branch(policy, tokens, branched, uniforms)",
        "branch(policy, tokens, branched, uniforms[:1].expand_as(uniforms))",
        ("all-actions",),
        unseen=True,
    ),
    Mutant(
        "a branch goes on from the next position's alternative",
        PREFIX,
        "per_step",
        "rolled, alternatives[:, s - 1]], dim=1)",
        "rolled, alternatives[:, s]], dim=1)",
        ("all-actions", "sum-and-sample"),
    ),
    Mutant(
        "the policy's entropy is left in",
        UNDETACHED,
        "all_actions",
        "log_probs.detach().exp() * values, tokens, terminal)",
        "log_probs.detach().exp() * values, tokens, terminal,\n"
        "            pathwise=(values * log_probs.exp() * log_probs).sum(dim=(1, 2)))",
        ("all-actions",),
    ),
    Mutant(
        "the sampled token counts for its own probability only",
        OTHER,
        "all_actions",
        "scatter_add(2, sampled, rest.sum(dim=2, keepdim=True))",
        "scatter_add(2, sampled, p.gather(2, sampled))",
        ("sum-and-sample",),
    ),
    # Sets without replacement.
    Mutant(
        "flipped sign of what a set's sequences earn",
        SIGN,
        "sets",
        "        return first.unsqueeze(2) * returns\n",
        "        return -first.unsqueeze(2) * returns\n",
        ("unordered-set-2", "unordered-set-4-none"),
    ),
    Mutant(
        "flipped sign of the baseline of importance weights",
        SIGN,
        "sets",
        "returns = returns * (1 - p + ratio) - (ratio",
        "returns = returns * (1 - p + ratio) + (ratio",
        ("without-replacement-8",),
    ),
    Mutant(
        "a sequence's own reward stays in its baseline",
        OTHER,
        "sets",
        "returns = returns * (1 - p + ratio) - (ratio",
        "returns = returns - (ratio",
        ("without-replacement-8",),
    ),
    Mutant(
        "no importance weights",
        OTHER,
        "sets",
        "        return ratio * returns\n",
        "        return returns / ratio.shape[1]\n",
        ("without-replacement-8-none",),
    ),
    Mutant(
        "weights of other sequences of a set",
        REDRAWN,
        "sets",
        "tokens = beams.tokens[:, :K].reshape(draws * K, T)",
        "tokens = beams.tokens[:, :K].flip(1).reshape(draws * K, T)",
        ("unordered-set-4", "without-replacement-8"),
    ),
    Mutant(
        "a stale policy's beams",
        STALE,
        "sets",
        "        beams = beam_search(policy, u, self.beams)\n",
        HALVED + "            beams = beam_search(policy, u, self.beams)\n",
        ("unordered-set-4", "without-replacement-8"),
    ),
    Mutant(
        "a set's scores are of the previous token's position",
        PREFIX,
        "sets",
        "chosen = at_tokens(policy.log_probs(tokens), tokens)",
        "chosen = at_tokens(policy.log_probs(tokens).roll(1, 1), tokens)",
        ("unordered-set-2", "without-replacement-8-none"),
    ),
    Mutant(
        "all draws share the noise of their beams",
        SHARED,
        "sets",
        '    race = noise.exponential(uniforms["beams"]).log()\n',
        '    race = noise.exponential(uniforms["beams"]).log()\n'
        "    race = race[:1].expand_as(race)\n",
        ("unordered-set-4", "without-replacement-8"),
        unseen=True,
    ),
    Mutant(
        "a set's weights are not detached",
        UNDETACHED,
        "sets",
        "terminal, K, info=info)",
        "terminal, K,\n"
        "            pathwise=(chosen.detach() * chosen.exp()).reshape(draws, -1).sum(1))",
        ("unordered-set-4", "without-replacement-8"),
    ),
    Mutant(
        "every continuation arrives after its prefix, the first one too",
        OTHER,
        "sets",
        "    behind = alone + _log1mexp(alone - alone.amin(dim=2, keepdim=True))\n",
        "    behind = alone\n",
        ("unordered-set-2", "without-replacement-8"),
    ),
    Mutant(
        "what is left once a sequence is drawn is forgotten",
        OTHER,
        "sets",
        "orders[:, following].sum(dim=2) / left[:, subsets]",
        "orders[:, following].sum(dim=2)",
        ("unordered-set-2", "unordered-set-4"),
    ),
    # MuProp.
    Mutant(
        "the tangent's score term has the wrong sign",
        SIGN,
        "muprop",
        "control = slope * probs - ahead * scores",
        "control = slope * probs + ahead * scores",
        ("muprop",),
    ),
    Mutant(
        "the mean field stands in the hard prefix's place",
        OTHER,
        "muprop",
        "probs = log_probs.detach().exp()",
        "probs = tangent(policy, reward)[0].expand_as(log_probs)",
        ("muprop",),
    ),
    Mutant(
        "MuProp's tokens come from a stale policy",
        STALE,
        "muprop",
        MUPROP_DRAW,
        drawn(HALVED + '            tokens = policy.sample_from(u["tokens"])\n'),
        ("muprop",),
    ),
    Mutant(
        "MuProp's tokens are redrawn for the score",
        REDRAWN,
        "muprop",
        "        log_probs = policy.log_probs(tokens)\n",
        "        tokens = tokens.flip(0)\n        log_probs = policy.log_probs(tokens)\n",
        ("muprop",),
    ),
    Mutant(
        "MuProp's scores are of the previous token's position",
        PREFIX,
        "muprop",
        "        log_probs = policy.log_probs(tokens)\n",
        "        log_probs = policy.log_probs(tokens).roll(1, 1)\n",
        ("muprop",),
    ),
    Mutant(
        "MuProp's draws share their noise",
        SHARED,
        "muprop",
        MUPROP_DRAW,
        drawn('        tokens = policy.sample_from(u["tokens"][:1].expand_as(u["tokens"]))\n'),
        ("muprop",),
        unseen=True,
    ),
    Mutant(
        "the tangent is not detached from p, and p log p stays",
        UNDETACHED,
        "muprop",
        "components=components, info",
        "pathwise=(slope * log_probs.exp()).sum(dim=(1, 2)),\n"
        "            components=components, info",
        ("muprop",),
    ),
    # What REBAR and RELAX share.
    Mutant(
        "the control variate's score term has the wrong sign",
        SIGN,
        "gumbel",
        "return (slope * share).scatter_add(-1, index, -value.unsqueeze(-1))",
        "return (slope * share).scatter_add(-1, index, value.unsqueeze(-1))",
        ("rebar", "rebar-soft", "relax"),
    ),
    Mutant(
        "the pathwise terms have the wrong sign",
        SIGN,
        "gumbel",
        "return (slope * share).scatter_add(-1, index, -value.unsqueeze(-1))",
        "return (-slope * share).scatter_add(-1, index, -value.unsqueeze(-1))",
        ("rebar", "rebar-soft", "relax"),
    ),
    Mutant(
        "z~ does not depend on the parameters",
        OTHER,
        "gumbel",
        "return (slope * share).scatter_add(-1, index, -value.unsqueeze(-1))",
        "return slope.scatter_add(-1, index, -value.unsqueeze(-1))",
        ("rebar", "relax"),
    ),
    Mutant(
        "the control variate's score is of another token",
        OTHER,
        "gumbel",
        "return (slope * share).scatter_add(-1, index, -value.unsqueeze(-1))",
        "return (slope * share).scatter_add(-1, (index + 1) % z.shape[-1], -value.unsqueeze(-1))",
        ("rebar", "rebar-soft", "relax"),
    ),
    Mutant(
        "z~ is conditioned on another token",
        REDRAWN,
        "gumbel",
        "    index = tokens.unsqueeze(-1)\n    log_e_b",
        "    index = (tokens.unsqueeze(-1) + 1) % log_probs.shape[-1]\n    log_e_b",
        ("rebar-independent", "relax-independent"),
    ),
    Mutant(
        "log-probabilities forgotten in z~",
        OTHER,
        "gumbel",
        "    others = log_e - log_probs\n",
        "    others = log_e\n",
        ("rebar-independent", "relax-independent"),
    ),
    Mutant(
        "dz~/dl of the chosen token is 1",
        OTHER,
        "gumbel",
        "return z, slope.scatter(-1, index, 0.0)",
        "return z, slope.scatter(-1, index, 1.0)",
        ("rebar-independent", "relax-independent"),
    ),
    Mutant(
        "the score term is multiplied by the relaxed token",
        OTHER,
        "control_weights",
        "    scores = one_hot(sample.tokens, sample.z.shape[-1], sample.z.dtype)\n",
        "    scores = sample.z.softmax(dim=-1)\n",
        ("rebar", "relax"),
    ),
    Mutant(
        "z of the log-probabilities one position back",
        PREFIX,
        "control_weights",
        "        z = log_probs.detach() + gumbel\n",
        "        z = log_probs.detach().roll(1, 1) + gumbel\n",
        ("rebar", "relax-none"),
    ),
    Mutant(
        "z is of noise that did not draw b",
        REDRAWN,
        "control_weights",
        "        z = log_probs.detach() + gumbel\n",
        "        z = log_probs.detach() + gumbel.flip(0)\n",
        ("rebar", "rebar-uniform", "relax"),
    ),
    Mutant(
        "b comes from a stale policy",
        STALE,
        "control_weights",
        "        tokens = policy.sample_by(draws, choose_by_gumbel(gumbel))\n",
        HALVED + "            tokens = policy.sample_by(draws, choose_by_gumbel(gumbel))\n",
        ("rebar", "rebar-uniform", "relax"),
    ),
    Mutant(
        "one Gumbel noise for all rows",
        SHARED,
        "control_weights",
        '        gumbel = noise.gumbel(u["gumbel"])\n',
        '        gumbel = noise.gumbel(u["gumbel"][:1].expand_as(u["gumbel"]))\n',
        ("rebar", "rebar-zeros", "relax"),
        unseen=True,
    ),
    Mutant(
        "c(z~) is not detached in the score term, and -log p grad c(z~) stays",
        UNDETACHED,
        "control_weights",
        "        return coupled_weights(value, slope, sample.z, tokens)\n",
        "        index = tokens.unsqueeze(-1)\n"
        "        share = (sample.z - sample.z.gather(-1, index)).clamp_max(0).exp()\n"
        "        log_p = sample.log_probs.detach().gather(-1, index)\n"
        "        weights = coupled_weights(value, slope, sample.z, tokens)\n"
        "        return weights - log_p * slope * (1 - share)\n",
        ("rebar", "rebar-uniform", "relax"),
    ),
    # REBAR alone.
    Mutant(
        "the soft future sees the hard token",
        OTHER,
        "futures",
        "fed = torch.cat([hard[:, s - 1 : s], last, relaxed[:, s - 1 : s]], dim=1)",
        "fed = torch.cat([hard[:, s - 1 : s], last, hard[:, s - 1 : s]], dim=1)",
        ("rebar-soft", "rebar-mean-field"),
    ),
    Mutant(
        "the future is the sample's own",
        OTHER,
        "futures",
        "    context = torch.where(past, hard.unsqueeze(1), after)\n",
        "    context = hard.unsqueeze(1).expand_as(after)\n",
        ("rebar-soft", "rebar-uniform"),
    ),
    Mutant(
        "the prefix ends one token late",
        PREFIX,
        "futures",
        "past = (position.unsqueeze(1) > position).view(1, T, T, 1)",
        "past = (position.unsqueeze(1) + 1 > position).view(1, T, T, 1)\n"
        "    past = past | (position.unsqueeze(1) + 1 == position).view(1, T, T, 1)",
        ("rebar-soft", "rebar-zeros"),
    ),
    Mutant(
        "form B is fed hard tokens",
        OTHER,
        "rebar",
        "policy.relaxed_from(gumbel, temperature)",
        "(\n"
        "                    (policy.log_probs(sample.tokens) + gumbel) / temperature\n"
        "                ).softmax(dim=-1)",
        ("rebar",),
    ),
    Mutant(
        "eta is that of the draws it multiplies",
        OTHER,
        "rebar",
        '        coefficients = self.coefficients.values(state["coefficients"])\n'
        "        components",
        "        coefficients = tuple(\n"
        "            float(sample.terminal.mean() / (1 + control.abs().mean()))\n"
        "            for _ in self.coefficients.labels\n"
        "        )\n"
        "        components",
        ("rebar", "rebar-soft"),
        unseen=True,
    ),
    Mutant(
        "the sibling is the sample itself",
        OTHER,
        "rebar",
        'sibling = policy.sample_from(sample.uniforms["sibling"])',
        "sibling = sample.tokens",
        ("rebar-sibling",),
    ),
    Mutant(
        "the soft future's noise is not detached from z",
        UNDETACHED,
        "rebar",
        "relaxed, self.future, sample.gumbel, temperature",
        "relaxed, self.future, z - sample.log_probs.detach(), temperature",
        ("rebar-soft",),
    ),
    # RELAX alone.
    Mutant(
        "phi is never trained",
        OTHER,
        "relax",
        '        learn(state["network"], state["optimiser"], loss)\n',
        "",
        ("relax", "relax-rebar"),
        unseen=True,
    ),
    Mutant(
        "phi is trained up, not down",
        SIGN,
        "relax",
        'learn(state["network"], state["optimiser"], loss)',
        'learn(state["network"], state["optimiser"], 1 / loss)',
        ("relax",),
        unseen=True,
    ),
    Mutant(
        "c_phi sees the hard token",
        OTHER,
        "relax",
        "            (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)\n",
        "            (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)\n"
        '            value = state["network"](\n'
        "                sample.features, sample.tokens, (1e3 * seen).softmax(dim=-1)\n"
        "            )\n",
        ("relax",),
    ),
    Mutant(
        "the slope is detached from the temperature",
        OTHER,
        "relax",
        "            seen = (z / self.temperature).softmax(dim=-1)\n",
        "            seen = (z / self.temperature).softmax(dim=-1).detach() * (1 + 0 * z)\n",
        ("relax",),
    ),
    Mutant(
        "c_phi sees the state that the token led to",
        PREFIX,
        "relax",
        'state["network"](sample.features, sample.tokens, seen',
        'state["network"](sample.features.roll(-1, 1), sample.tokens, seen',
        ("relax", "relax-independent"),
    ),
    Mutant(
        "phi is trained through the value of c_phi alone",
        OTHER,
        "relax",
        "        return value, slope\n",
        "        return value, slope.detach()\n",
        ("relax", "relax-independent"),
        unseen=True,
    ),
    Mutant(
        "the loss is a number",
        OTHER,
        "relax",
        "loss = gradients.mean_squared_norm(surrogate, weights, None)\n",
        "loss = gradients.mean_squared_norm(surrogate, weights, None)\n"
        "        loss = loss.detach().requires_grad_()\n",
        ("relax",),
        unseen=True,
    ),
    Mutant(
        "c_phi is learned while it draws",
        OTHER,
        "relax",
        '        controls = {"factor": learned.detach()}\n',
        '        controls = {"factor": learned.detach()}\n'
        '        update_moments(state["rewards"], sample.terminal)\n',
        ("relax",),
        unseen=True,
    ),
]
