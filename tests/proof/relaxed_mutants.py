"""Faults in the relaxed family, in perturbation and in the exact gradient.

A test of bias cannot tell a faulty estimator from a right one where both are biased. What can are
the tests of closed forms, and the rules of conduct; beside each fault stands which of them finds
it. The exact gradient declares itself unbiased and is left to the test of bias.
"""

from __future__ import annotations

from .mutants import OTHER, PREFIX, REDRAWN, SHARED, SIGN, STALE, UNDETACHED, Mutant

__all__ = ["BIAS", "CONDUCT", "FOUND_BY", "family"]

BIAS = "bias"
CONDUCT = "independent draws"

JACOBIAN = "test_a_draw_is_the_papers_jacobian_times_the_slope_at_the_token"
OWN_NOISE = "test_st_gumbels_jacobian_is_that_of_the_softmax_of_its_own_noise"
OBJECTIVE = "test_gumbel_softmax_is_the_gradient_of_its_relaxed_objective"
RAO = "test_gumbel_rao_has_the_mean_of_st_gumbel_and_less_variance"
EXACT = "test_straight_through_is_exact_for_linear_rewards_and_reinmax_for_quadratic_ones"
SEQUENCES = "test_hard_members_draw_the_policys_own_sequences_and_their_rewards"
AFTER = "test_nothing_comes_back_from_after_the_end"
FED = "test_the_gradient_passes_through_what_is_fed_on"
SLOPE = "test_the_mean_is_the_slope_of_the_smoothed_objective"
DIRECTIONS = "test_every_draw_has_a_direction_of_its_own"
SHARED_PAIR = "test_both_sides_of_a_pair_share_their_noise"

MOVED = "    return value + (moved - moved.detach())\n"
SAMPLE = "                sides.append(sample_each(policy, moved, uniforms[start:stop]))\n"
LOG_P = "    return at_tokens(policy.log_probs(sequences), sequences).sum(dim=1)\n"

FOUND_BY: list[tuple[Mutant, str]] = [
    (
        Mutant(
            "flipped sign of the Jacobian",
            SIGN,
            "straight_through",
            MOVED,
            "    return value + (moved.detach() - moved)\n",
            ("straight-through", "reinmax", "gapped-straight-through"),
        ),
        JACOBIAN,
    ),
    (
        Mutant(
            "p p' is missing in the Jacobian",
            OTHER,
            "straight_through",
            "        linear = q * (each - (q * each).sum(dim=-1, keepdim=True))\n",
            "        linear = q * each\n",
            # At q = p it is no fault: the log-probabilities' own Jacobian makes up for it.
            ("decoupled-straight-through", "gapped-straight-through"),
        ),
        JACOBIAN,
    ),
    (
        Mutant(
            "the noise's softmax is left in the straight-through Jacobian",
            OTHER,
            "straight_through",
            "    q = (step.log_probs / temperature).softmax(dim=-1)\n",
            "    q = (step.z / temperature).softmax(dim=-1)\n",
            ("straight-through", "decoupled-straight-through"),
        ),
        JACOBIAN,
    ),
    (
        Mutant(
            "the temperature is forgotten in the slope of a softmax",
            OTHER,
            "straight_through",
            "    return step.hard, [(1 / temperature, (step.z / temperature).softmax(dim=-1))]\n",
            "    return step.hard, [(1.0, (step.z / temperature).softmax(dim=-1))]\n",
            ("st-gumbel",),
        ),
        OWN_NOISE,
    ),
    (
        Mutant(
            "the relaxed token is not differentiated at its own value",
            UNDETACHED,
            "straight_through",
            "    return x, [(1 / temperature, x)]\n",
            "    return x, [(1 / temperature, step.log_probs.exp())]\n",
            ("gumbel-softmax",),
        ),
        OBJECTIVE,
    ),
    (
        Mutant(
            "Gumbel-Rao's noise is given another token",
            REDRAWN,
            "straight_through",
            "    z, _ = conditional(log_probs, step.tokens.unsqueeze(1)",
            "    z, _ = conditional(log_probs, step.tokens.flip(0).unsqueeze(1)",
            ("gumbel-rao",),
        ),
        RAO,
    ),
    (
        Mutant(
            "ReinMax's first-order part has the wrong sign",
            SIGN,
            "straight_through",
            "(-0.5, step.log_probs.exp())]",
            "(0.5, step.log_probs.exp())]",
            ("reinmax",),
        ),
        EXACT,
    ),
    (
        Mutant(
            "the token in front is not raised",
            OTHER,
            "straight_through",
            "    moved = torch.where(step.hard > 0, largest, others)\n",
            "    moved = others\n",
            ("gapped-straight-through",),
        ),
        JACOBIAN,
    ),
    (
        Mutant(
            "tokens of other noise than the relaxed ones",
            REDRAWN,
            "straight_through",
            "            token = z.argmax(dim=-1)\n",
            "            token = (detached + gumbel[:, t].flip(0)).argmax(dim=-1)\n",
            ("straight-through", "st-gumbel", "reinmax"),
        ),
        SEQUENCES,
    ),
    (
        Mutant(
            "the noise of the previous position",
            PREFIX,
            "straight_through",
            "            z = detached + gumbel[:, t]\n",
            "            z = detached + gumbel[:, max(0, t - 1)]\n",
            ("straight-through", "gumbel-rao"),
        ),
        SEQUENCES,
    ),
    (
        Mutant(
            "sequences come from a stale policy",
            STALE,
            "straight_through",
            "            log_probs, memory = policy.step(previous, memory)\n",
            "            from estbench.estimators.wrong import _halved\n"
            "            with _halved(policy):\n"
            "                log_probs, memory = policy.step(previous, memory)\n",
            ("straight-through", "gapped-straight-through"),
        ),
        SEQUENCES,
    ),
    (
        Mutant(
            "sequences go on after their end",
            PREFIX,
            "straight_through",
            "                ended = ended | (token == policy.end)\n",
            "                ended = ended & (token == policy.end)\n",
            ("gumbel-softmax", "reinmax"),
        ),
        AFTER,
    ),
    (
        Mutant(
            "what is fed on is detached",
            UNDETACHED,
            "straight_through",
            "            log_probs, memory = policy.step(previous, memory)\n",
            "            fed = None if previous is None else previous.detach()\n"
            "            log_probs, memory = policy.step(fed, memory)\n",
            ("gumbel-softmax", "straight-through", "reinmax"),
        ),
        FED,
    ),
    (
        Mutant(
            "one Gumbel noise for all rows",
            SHARED,
            "straight_through",
            '        gumbel = noise.gumbel(u["gumbel"])\n',
            '        gumbel = noise.gumbel(u["gumbel"][:1].expand_as(u["gumbel"]))\n',
            ("gumbel-softmax", "straight-through", "reinmax"),
        ),
        CONDUCT,
    ),
    (
        Mutant(
            "both sides of a pair are on the same side",
            SIGN,
            "perturbation",
            "p.unsqueeze(0) + sign * self.scale * e",
            "p.unsqueeze(0) + self.scale * e",
            ("evolution-strategies", "spsa"),
        ),
        SLOPE,
    ),
    (
        Mutant(
            "the slope is over one step, not two",
            OTHER,
            "perturbation",
            "/ (2 * self.scale)\n",
            "/ self.scale\n",
            ("evolution-strategies", "spsa"),
        ),
        SLOPE,
    ),
    (
        Mutant(
            "directions are others when they are drawn again",
            REDRAWN,
            "perturbation",
            "            moves = self._directions(u[start:stop, T:], parameters)\n"
            "            each =",
            "            moves = self._directions(u[start:stop, T:].flip(0), parameters)\n"
            "            each =",
            ("evolution-strategies", "spsa"),
        ),
        SLOPE,
    ),
    (
        Mutant(
            "the sides of a pair draw with different noise",
            REDRAWN,
            "perturbation",
            SAMPLE,
            "                own = uniforms[start:stop]\n"
            "                own = own if sign > 0 else own.flip(0)\n"
            "                sides.append(sample_each(policy, moved, own))\n",
            ("evolution-strategies", "spsa"),
        ),
        SHARED_PAIR,
    ),
    (
        Mutant(
            "one direction for all draws",
            SHARED,
            "perturbation",
            "        uniforms = u[:, :T].to(policy.dtype)\n",
            "        uniforms = u[:, :T].to(policy.dtype)\n        u[:, T:] = u[:1, T:].clone()\n",
            ("evolution-strategies", "spsa"),
        ),
        DIRECTIONS,
    ),
    (
        Mutant(
            "flipped sign of the exact gradient",
            SIGN,
            "exact",
            "weights = (p * (gaps - p @ gaps))",
            "weights = (p * (p @ gaps - gaps))",
            ("exact",),
        ),
        BIAS,
    ),
    (
        Mutant(
            "probabilities of a stale policy",
            STALE,
            "exact",
            "            p = torch.cat([_log_p(policy, part) for part in parts]).double().exp()\n",
            "            from estbench.estimators.wrong import _halved\n"
            "            with _halved(policy):\n"
            "                p = torch.cat([_log_p(policy, x) for x in parts]).double().exp()\n",
            ("exact",),
        ),
        BIAS,
    ),
    (
        Mutant(
            "scores of the previous token's position in the sum",
            PREFIX,
            "exact",
            LOG_P,
            LOG_P.replace("log_probs(sequences)", "log_probs(sequences).roll(1, 1)"),
            ("exact",),
        ),
        BIAS,
    ),
    (
        Mutant(
            "rewards of other sequences",
            REDRAWN,
            "exact",
            "            f = torch.cat([reward(part) for part in parts])\n",
            "            f = torch.cat([reward(part) for part in parts]).flip(0)\n",
            ("exact",),
        ),
        BIAS,
    ),
]


def family(name: str) -> str:
    """Return the family of an estimator."""
    if name == "exact":
        return "exact gradient"
    return "perturbation" if name in ("evolution-strategies", "spsa") else "relaxed"
