"""A policy and a reward of one's own: a small transformer that writes text, and a pattern in it.

The transformer is a plain ``nn.Module``. It keeps what each of its blocks has seen, so that a step
computes the new position alone. The reward is any function of the text. The table says how noisy
each estimator is here, and that none is biased: the gradient is enumerated.

    python examples/own_policy.py
"""

import re
from pathlib import Path

import torch
from torch import nn

import estbench

ALPHABET = "ab. "


class Block(nn.Module):
    """Attention and a small network, each after a normalisation."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.network = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x, seen):
        """Take the new position [n, 1, width] and those before it [n, t, width], normalised."""
        seen = torch.cat([seen, self.norm(x)], dim=1)
        x = x + self.attention(seen[:, -1:], seen, seen, need_weights=False)[0]
        return x + self.network(x), seen


class Transformer(nn.Module):
    """A causal transformer, as the four things that make a policy."""

    def __init__(self, vocabulary, length, width=16, heads=2, blocks=2):
        super().__init__()
        self.vocabulary, self.length, self.width = vocabulary, length, width
        self.table = nn.Embedding(vocabulary + 1, width)  # the last row begins a sequence
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.output = nn.Linear(width, vocabulary)

    def initial_state(self, n):
        # Rows first, and of one size at every step: a place for each position.
        seen = torch.zeros(n, len(self.blocks), self.length, self.width)
        return {"seen": seen, "position": torch.zeros(n, dtype=torch.int64)}

    def step(self, previous, state):
        seen, position = state["seen"], state["position"]
        t = int(position[0])
        if previous is None:
            previous = torch.full_like(position, self.vocabulary)
        # Positions are looked up for each row: what rows share cannot be measured row by row.
        x = (self.table(previous) + self.positions(position)).unsqueeze(1)
        after = []
        for block, before in zip(self.blocks, seen.unbind(1), strict=True):
            x, now = block(x, before[:, :t])
            after.append(torch.cat([now, before[:, t + 1 :]], dim=1))
        state = {"seen": torch.stack(after, dim=1), "position": position + 1}
        return self.output(x[:, 0]).log_softmax(dim=-1), state


def reward(tokens):
    """The part of the text that its longest "ab", "abab", ... takes up."""
    texts = ["".join(ALPHABET[token] for token in row) for row in tokens.tolist()]
    longest = [max(map(len, re.findall(r"(?:ab)+", text)), default=0) for text in texts]
    return [length / len(text) for length, text in zip(longest, texts, strict=True)]


def main():
    torch.manual_seed(0)
    table = estbench.measure(
        Transformer(len(ALPHABET), length=6),
        reward,
        ["reinforce", "rloo", "first-token"],
        draws=1024,
        plugin=Path(__file__).with_name("own_estimator.py"),
    )
    columns = ["estimator", "variance_per_sequence", "ratio", "ratio_low", "ratio_high"]
    columns += ["relative_bias", "bias_low", "bias_high", "bias_against", "meter_fault"]
    print(table[columns].to_string(index=False, float_format="{:.3g}".format))
    return table


if __name__ == "__main__":
    main()
