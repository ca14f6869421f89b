"""How many prompts and draws an interval of the variance needs, on a language model.

    OMP_NUM_THREADS=1 python benchmarks/language_intervals.py

The model is a Qwen2 of two layers with random weights; the reward is 1 where an answer of at most
eight tokens holds the first token of its prompt. Each row is rloo with groups of eight, at five
seeds. `half_width` is what the upper end of the 95 % interval adds to the estimate, in per cent.
"""

from __future__ import annotations

import statistics

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

import estbench

VOCABULARY, LENGTH, GROUP, SEEDS = 13, 8, 8, 5


def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    start = {"initializer_range": 0.1, "eos_token_id": 0}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCABULARY, **size, **heads, **start))


def prompts(count: int) -> list[list[int]]:
    """Return prompts of three to seven tokens."""
    rng = torch.Generator().manual_seed(count)
    lengths = torch.randint(3, 8, (count,), generator=rng).tolist()
    return [torch.randint(1, VOCABULARY, (n,), generator=rng).tolist() for n in lengths]


def half_width(count: int, draws: int, seed: int) -> float:
    """Return the half-width in per cent, for prompts and draws of each."""
    given = prompts(count)
    policy = estbench.from_huggingface(model(), given, LENGTH)
    wanted = torch.tensor([ids[0] for ids in given])

    def reward(tokens: Tensor) -> Tensor:
        return (tokens == wanted[policy.prompt_of(len(tokens))].unsqueeze(1)).any(dim=1)

    # Only the variance is asked for, and a small reference is enough for that.
    row = estbench.measure(
        policy, reward, "rloo", draws=count * draws, reference=32 * count, seed=seed
    ).iloc[0]
    assert row["meter_fault"] == ""
    return 100 * (row["variance_high"] / row["total_variance"] - 1)


def main() -> None:
    print("prompts  draws_each  tokens  half_width: median, largest")
    for count in (8, 16, 32, 64):
        for draws in (2, 4, 8):
            found = [half_width(count, draws, seed) for seed in range(SEEDS)]
            tokens = count * draws * GROUP * LENGTH
            middle = statistics.median(found)
            print(
                f"{count:7} {draws:11} {tokens:7}  {middle:.0f} %, {max(found):.0f} %", flush=True
            )


if __name__ == "__main__":
    main()
