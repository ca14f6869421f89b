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


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
      fault: What is wrong, in words.
      room: The module.
      old: A piece of its text, which stands there exactly once.
      new: What stands there instead.
      estimators: Names of those that it spoils, each of which has to be found.
      rollouts: Rollouts a position that they are made with.
    """

    fault: str
    room: str
    old: str
    new: str
    estimators: tuple[str, ...]
    rollouts: int = 0


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
    return lambda: factory(rollouts=rollouts)


MUTANTS = [
    # REINFORCE and its baselines.
    Mutant(
        "flipped sign of the reward",
        "score_function",
        "weights = returns - baseline\n",
        "weights = baseline - returns\n",
        ("reinforce", "reinforce-critic"),
    ),
    Mutant(
        "baseline subtracted twice from the gradient's tokens of one position",
        "score_function",
        "weights = returns - baseline\n",
        "weights = returns - baseline\n        weights = weights * (1 + (tokens == 0))\n",
        ("reinforce", "reinforce-ema"),
    ),
    Mutant(
        "tokens are redrawn for the score",
        "score_function",
        "        chosen = log_probs.gather(2, tokens.unsqueeze(2)).squeeze(2)\n",
        "        tokens = policy.sample_by(draws, choose_by_uniform(u['tokens'].flip(0)))\n"
        "        chosen = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).squeeze(2)\n",
        ("reinforce",),
    ),
    Mutant(
        "scores of the previous token's position",
        "score_function",
        "        chosen = log_probs.gather(2, tokens.unsqueeze(2)).squeeze(2)\n",
        "        chosen = log_probs.roll(1, 1).gather(2, tokens.unsqueeze(2)).squeeze(2)\n",
        ("reinforce", "reinforce-constant"),
    ),
    Mutant(
        "noise shared across rows",
        "score_function",
        'shapes = {"tokens": (policy.length,), **rollout_noise(policy, self.rollouts)}\n'
        "        u = noise.uniforms(rng, draws, shapes, policy.dtype)\n",
        'shapes = {"tokens": (policy.length,), **rollout_noise(policy, self.rollouts)}\n'
        "        u = noise.uniforms(rng, draws, shapes, policy.dtype)\n"
        '        u["tokens"] = u["tokens"][:1].expand_as(u["tokens"])\n',
        ("reinforce",),
    ),
    Mutant(
        "the constant is tuned on the very draws that it is subtracted from",
        "score_function",
        '            (constant,) = self.coefficients.values(state["coefficients"])\n',
        "            constant = float(returns.mean())\n",
        ("reinforce-constant",),
    ),
    Mutant(
        "the critic sees the token that it is a baseline for",
        "baselines",
        'found: Tensor = mean + deviation * state["network"](features, tokens)',
        'found: Tensor = mean + deviation * state["network"](features.roll(-1, 1), tokens)',
        ("reinforce-critic",),
    ),
    Mutant(
        "the critic is never trained",
        "baselines",
        '            state["optimiser"].step()\n',
        "",
        ("reinforce-critic",),
    ),
    Mutant(
        "the moving average learns the wrong sign",
        "baselines",
        '    return moments["sum"] / moments["weight"] if',
        '    return -moments["sum"] / moments["weight"] if',
        ("reinforce-ema",),
    ),
    # Leave-one-out.
    Mutant(
        "divided by K, not K - 1",
        "score_function",
        "keepdim=True)) / (K - 1)",
        "keepdim=True)) / K",
        ("rloo",),
    ),
    Mutant(
        "mean over all groups",
        "score_function",
        "grouped.mean(dim=1, keepdim=True)",
        "grouped.mean(dim=(0, 1), keepdim=True)",
        ("rloo",),
    ),
    Mutant(
        "rows of other groups",
        "score_function",
        "tokens.reshape(draws, K, T),\n            terminal",
        "tokens.reshape(K, draws, T).transpose(0, 1),\n            terminal",
        ("rloo",),
    ),
    Mutant(
        "weights of other sequences",
        "score_function",
        "weights.reshape(draws, K * T),",
        "weights.flip(1).reshape(draws, K * T),",
        ("rloo",),
    ),
    Mutant(
        "noise shared inside a group",
        "score_function",
        "        u = noise.uniforms(rng, draws * K, shapes, policy.dtype)\n",
        "        u = noise.uniforms(rng, draws * K, shapes, policy.dtype)\n"
        '        u["tokens"] = u["tokens"][::2].repeat_interleave(2, dim=0)\n',
        ("rloo",),
    ),
    # Rollouts.
    Mutant(
        "rollouts reach back by one token",
        "returns",
        'completed = policy.continue_from(tokens, noise["rollouts"])',
        'completed = policy.continue_from(tokens.roll(1, 1), noise["rollouts"])',
        ("seqgan-rollouts", "rebar"),
        rollouts=2,
    ),
    Mutant(
        "values belong to other sequences",
        "returns",
        "values = reward(completed.reshape(-1, T)).reshape(n, T - 1, N).mean(dim=2)",
        "values = reward(completed.reshape(-1, T)).reshape(N, T - 1, n).mean(dim=0).t()",
        ("seqgan-rollouts", "reinforce-ema"),
        rollouts=2,
    ),
    Mutant(
        "values are shifted by a position",
        "returns",
        "return cat([values, terminal.unsqueeze(1)], dim=1), terminal",
        "return cat([terminal.unsqueeze(1), values], dim=1), terminal",
        ("seqgan-rollouts", "rloo"),
        rollouts=2,
    ),
    # What REBAR and RELAX share.
    Mutant(
        "the control variate's score term has the wrong sign",
        "gumbel",
        "return (slope * share).scatter_add(-1, index, -value.unsqueeze(-1))",
        "return (slope * share).scatter_add(-1, index, value.unsqueeze(-1))",
        ("rebar", "rebar-soft", "relax"),
    ),
    Mutant(
        "the pathwise terms have the wrong sign",
        "gumbel",
        "return (slope * share).scatter_add(-1, index, -value.unsqueeze(-1))",
        "return (-slope * share).scatter_add(-1, index, -value.unsqueeze(-1))",
        ("rebar", "rebar-soft", "relax"),
    ),
    Mutant(
        "z~ does not depend on the parameters",
        "gumbel",
        "return (slope * share).scatter_add(-1, index, -value.unsqueeze(-1))",
        "return slope.scatter_add(-1, index, -value.unsqueeze(-1))",
        ("rebar", "relax"),
    ),
    Mutant(
        "the control variate's score is of another token",
        "gumbel",
        "return (slope * share).scatter_add(-1, index, -value.unsqueeze(-1))",
        "return (slope * share).scatter_add(-1, (index + 1) % z.shape[-1], -value.unsqueeze(-1))",
        ("rebar", "rebar-soft", "relax"),
    ),
    Mutant(
        "z~ is conditioned on another token",
        "gumbel",
        "    index = tokens.unsqueeze(-1)\n    log_e_b",
        "    index = (tokens.unsqueeze(-1) + 1) % log_probs.shape[-1]\n    log_e_b",
        ("rebar-independent", "relax-independent"),
    ),
    Mutant(
        "log-probabilities forgotten in z~",
        "gumbel",
        "    others = log_e - log_probs\n",
        "    others = log_e\n",
        ("rebar-independent", "relax-independent"),
    ),
    Mutant(
        "dz~/dl of the chosen token is 1",
        "gumbel",
        "return z, slope.scatter(-1, index, 0.0)",
        "return z, slope.scatter(-1, index, 1.0)",
        ("rebar-independent", "relax-independent"),
    ),
    Mutant(
        "the score term is multiplied by the relaxed token",
        "control",
        "    scores = one_hot(sample.tokens, sample.z.shape[-1], sample.z.dtype)\n",
        "    scores = sample.z.softmax(dim=-1)\n",
        ("rebar", "relax"),
    ),
    Mutant(
        "z without the log-probabilities",
        "control",
        "        z = log_probs.detach() + gumbel\n",
        "        z = log_probs.detach().roll(1, 1) + gumbel\n",
        ("relax-none",),
    ),
    # REBAR alone.
    Mutant(
        "the soft future sees the hard token",
        "futures",
        "fed = torch.cat([hard[:, s - 1 : s], last, relaxed[:, s - 1 : s]], dim=1)",
        "fed = torch.cat([hard[:, s - 1 : s], last, hard[:, s - 1 : s]], dim=1)",
        ("rebar-soft", "rebar-mean-field"),
    ),
    Mutant(
        "the future is the sample's own",
        "futures",
        "    context = torch.where(past, hard.unsqueeze(1), after)\n",
        "    context = hard.unsqueeze(1).expand(n, T, T, V)\n",
        ("rebar-soft", "rebar-uniform"),
    ),
    Mutant(
        "the prefix ends one token late",
        "futures",
        "past = (position.unsqueeze(1) > position).view(1, T, T, 1)",
        "past = (position.unsqueeze(1) + 1 > position).view(1, T, T, 1)\n"
        "    past = past | (position.unsqueeze(1) + 1 == position).view(1, T, T, 1)",
        ("rebar-soft", "rebar-zeros"),
    ),
    Mutant(
        "form B is fed hard tokens",
        "futures",
        "        rows.append(previous)\n",
        "        rows.append(previous)\n"
        "        previous = one_hot(previous.argmax(dim=-1), previous.shape[-1], previous.dtype)\n",
        ("rebar",),
    ),
    Mutant(
        "eta is that of the draws it multiplies",
        "rebar",
        '        coefficients = self.coefficients.values(state["coefficients"])\n'
        "        components",
        "        coefficients = tuple(\n"
        "            float(sample.terminal.mean() / (1 + control.abs().mean()))\n"
        "            for _ in self.coefficients.labels\n"
        "        )\n"
        "        components",
        ("rebar", "rebar-soft"),
    ),
    Mutant(
        "the sibling is the sample itself",
        "rebar",
        'sibling = policy.sample_by(n, choose_by_uniform(sample.uniforms["sibling"]))',
        "sibling = sample.tokens",
        ("rebar-sibling",),
    ),
    # RELAX alone.
    Mutant(
        "phi is never trained",
        "relax",
        "        optimiser.step()\n",
        "",
        ("relax", "relax-rebar"),
    ),
    Mutant(
        "phi is trained up, not down",
        "relax",
        "            parameter.grad = grad\n",
        "            parameter.grad = None if grad is None else -grad\n",
        ("relax",),
    ),
    Mutant(
        "c_phi sees the hard token",
        "relax",
        "            (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)\n",
        "            (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)\n"
        '            value = unit * state["network"](\n'
        "                sample.features, sample.tokens, (1e3 * seen).softmax(dim=-1)\n"
        "            )\n",
        ("relax",),
    ),
    Mutant(
        "the slope is detached from the temperature",
        "relax",
        "            seen = (z / self.temperature).softmax(dim=-1)\n",
        "            seen = (z / self.temperature).softmax(dim=-1).detach() * (1 + 0 * z)\n",
        ("relax",),
    ),
    Mutant(
        "c_phi sees the state that the token led to",
        "relax",
        'value = unit * state["network"](sample.features, sample.tokens, seen)',
        'value = unit * state["network"](sample.features.roll(-1, 1), sample.tokens, seen)',
        ("relax", "relax-independent"),
    ),
    Mutant(
        "c_phi is learned while it draws",
        "relax",
        '        controls = {"factor": learned.detach()}\n',
        '        controls = {"factor": learned.detach()}\n'
        '        update_moments(state["rewards"], sample.terminal)\n',
        ("relax",),
    ),
]
