"""Faults in copies of what trainers use: samplers that are older, baselines by length and token."""

from __future__ import annotations

from .mutants import (
    HALVED,
    OTHER,
    PREFIX,
    REDRAWN,
    SHARED,
    SIGN,
    STALE,
    UNDETACHED,
    Mutant,
)

__all__ = ["TRAINERS"]

OLDER = ("importance-sequence",)
LAST = ("last-token",)

TRAINERS = [
    # An older sampler.
    Mutant(
        "the ratio is upside down",
        OTHER,
        "off_policy",
        "log_ratio = (chosen.detach() - old)",
        "log_ratio = (old - chosen.detach())",
        OLDER,
    ),
    Mutant(
        "the ratio is left out",
        OTHER,
        "off_policy",
        "return log_ratio.sum(dim=2, keepdim=True).exp() * advantages\n\n\ndef _token(",
        "return advantages\n\n\ndef _token(",
        OLDER,
    ),
    Mutant(
        "weights by decision, cut at the token, for a reward at the end",
        OTHER,
        "off_policy",
        "return log_ratio.sum(dim=2, keepdim=True).exp() * advantages\n\n\ndef _token(",
        "return log_ratio.cumsum(dim=2).exp() * advantages\n\n\ndef _token(",
        OLDER,
    ),
    Mutant(
        "flipped sign of an older sampler's weights",
        SIGN,
        "off_policy",
        "of(chosen, weights, tokens",
        "of(chosen, -weights, tokens",
        OLDER,
    ),
    Mutant(
        "weights of an older sampler's other sequences",
        OTHER,
        "off_policy",
        "of(chosen, weights, tokens",
        "of(chosen, weights.flip(1), tokens",
        OLDER,
    ),
    Mutant(
        "the ratio is of the previous token's position",
        PREFIX,
        "off_policy",
        "            old = at_tokens(sampler.log_probs(tokens), tokens)",
        "            old = at_tokens(sampler.log_probs(tokens).roll(1, 1), tokens)",
        OLDER,
    ),
    Mutant(
        "an older sampler's sequences are drawn again for the score",
        REDRAWN,
        "off_policy",
        "        chosen = at_tokens(policy.log_probs(tokens), tokens)",
        "        tokens = sampler.sample_from(uniforms['tokens'].flip(0))\n"
        "        chosen = at_tokens(policy.log_probs(tokens), tokens)",
        OLDER,
    ),
    Mutant(
        "the ratio is of a policy that is still older than the sampler",
        STALE,
        "off_policy",
        "        with torch.no_grad():\n            old = at_tokens(sampler",
        HALVED.replace("policy", "sampler") + "            old = at_tokens(sampler",
        OLDER,
    ),
    Mutant(
        "noise shared inside an older sampler's group",
        SHARED,
        "off_policy",
        "        tokens = sampler.sample_from(",
        "        halves = uniforms['tokens'][::2].repeat_interleave(2, dim=0)\n"
        "        uniforms = {'tokens': halves}\n"
        "        tokens = sampler.sample_from(",
        OLDER,
    ),
    Mutant(
        "the ratio is differentiated, too",
        UNDETACHED,
        "off_policy",
        "terminal, K, info=info)",
        "terminal, K, info=info,\n"
        "            pathwise=(weights.detach().reshape(draws, -1)\n"
        "                      * chosen.reshape(draws, -1)).sum(dim=1))",
        OLDER,
    ),
    # Baselines of groups.
    Mutant(
        "the own reward is in the baseline by length",
        OTHER,
        "trainers",
        "weighted_mean(grouped, lengths, self.own)",
        "weighted_mean(grouped, lengths, True)",
        ("opo",),
    ),
    Mutant(
        "the own reward is in the baseline by token",
        OTHER,
        "trainers",
        "weighted_mean(rewards, energy, self.own)",
        "weighted_mean(rewards, energy, True)",
        ("token-baseline",),
    ),
    Mutant(
        "flipped sign of what is left over a baseline by token",
        SIGN,
        "trainers",
        "weights=found.weights - baseline.flatten(1) / K)",
        "weights=baseline.flatten(1) / K - found.weights)",
        ("token-baseline",),
    ),
    Mutant(
        "the shares of both baselines do not add up",
        OTHER,
        "trainers",
        "weights = (1 - shrink) * found.weights",
        "weights = found.weights",
        ("rloo-shrunk",),
    ),
    Mutant(
        "what is shrunk to is the mean of this batch",
        OTHER,
        "trainers",
        'to_past = ((found.rewards - moving_mean(state["past"])) / K)',
        "to_past = ((found.rewards - found.rewards.mean()) / K)",
        ("rloo-shrunk",),
        unseen=True,
    ),
    Mutant(
        "a prompt's value knows the rewards of this batch",
        OTHER,
        "step_baselines",
        "        baseline = self.baseline(policy, reward, draws, state)\n",
        "        baseline = self.baseline(policy, reward, draws, state) + terminal.mean()\n",
        ("reinforce-greedy",),
        unseen=True,
    ),
    # A sum over the last token.
    Mutant(
        "flipped sign of the sum over the last token",
        SIGN,
        "all_actions",
        "torch.cat([shares.sum(dim=1, keepdim=True).expand_as(chosen), shares], dim=1)",
        "torch.cat([shares.sum(dim=1, keepdim=True).expand_as(chosen), -shares], dim=1)",
        LAST,
    ),
    Mutant(
        "the last token's own probability is left out",
        OTHER,
        "all_actions",
        "shares = log_probs[:, -1].detach().exp() * (rewards - baseline)",
        "shares = (rewards - baseline) / V",
        LAST,
    ),
    Mutant(
        "the tokens before the last are scored a position too late",
        PREFIX,
        "all_actions",
        "chosen = at_tokens(log_probs[:, :-1], tokens[:, :-1])",
        "chosen = at_tokens(log_probs[:, 1:], tokens[:, :-1])",
        LAST,
    ),
    Mutant(
        "other sequences are completed by the last token",
        OTHER,
        "all_actions",
        "each = tokens.repeat_interleave(V, dim=0)",
        "each = tokens.flip(0).repeat_interleave(V, dim=0)",
        LAST,
    ),
    # The KL as a loss.
    Mutant(
        "the KL is made larger",
        SIGN,
        "kl_losses",
        "+ advantages - losses,",
        "+ advantages + losses,",
        ("kl-k2",),
    ),
    Mutant(
        "the log-ratio of the prefix up to the token alone",
        PREFIX,
        "kl_losses",
        "ratios.sum(dim=1, keepdim=True).expand_as(ratios)",
        "ratios.cumsum(dim=1)",
        ("kl-k2",),
    ),
    Mutant(
        "the penalty stays in the reward, beside the loss",
        OTHER,
        "kl_losses",
        "weights=made.weights + advantages - losses,",
        "weights=made.weights - losses,",
        ("kl-k2",),
    ),
    Mutant(
        "log-ratios of other sequences of the group",
        OTHER,
        "kl_losses",
        "self.slope(ratios).reshape(made.weights.shape)",
        "self.slope(ratios).flip(0).reshape(made.weights.shape)",
        ("kl-k2",),
    ),
]
