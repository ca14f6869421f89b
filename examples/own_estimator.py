"""An estimator of one's own: REINFORCE with a baseline for each first token.

What follows the first token b_1 is judged against the mean past reward of sequences that began with
b_1 too; b_1 itself against the mean of all. Both are independent of the token that they judge,
given what came before it, and so the estimator is unbiased.

    estbench check --plugin examples/own_estimator.py
"""

import torch

import estbench


@estbench.register
class FirstToken(estbench.Estimator):
    info = estbench.EstimatorInfo(
        name="first-token",
        summary="REINFORCE minus the mean past reward of the same first token",
        source="examples/own_estimator.py",
        baseline="moving average",
        learned=("baseline",),
    )

    def initial_state(self, policy, rng):
        zeros = torch.zeros(policy.vocabulary, dtype=policy.dtype, device=policy.device)
        return {"rewards": zeros, "counts": zeros.clone()}

    def surrogate(self, policy, reward, draws, rng, state):
        tokens = policy.sample(draws, rng)  # [draws, T]
        rewards = reward(tokens)  # [draws]
        log_probs = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).squeeze(2)
        of_all = state["rewards"].sum() / state["counts"].sum().clamp_min(1)
        of_first = state["rewards"] / state["counts"].clamp_min(1)
        baseline = of_first[tokens[:, :1]].repeat(1, policy.length)
        baseline[:, 0] = of_all
        weights = rewards.unsqueeze(1) - baseline
        return estbench.Surrogate(log_probs, weights, tokens.unsqueeze(1), rewards.unsqueeze(1))

    def adapt(self, policy, surrogate, gradients, state):
        first, rewards = surrogate.tokens[:, 0, 0], surrogate.rewards[:, 0].to(policy.dtype)
        for name, values in (("rewards", rewards), ("counts", torch.ones_like(rewards))):
            state[name] = 0.9 * state[name].index_add(0, first, values)  # the policy moves: forget
