"""Per-draw gradient norms of a language model: the meter beside ``torch.func.vmap``, in one run.

    OMP_NUM_THREADS=1 python benchmarks/language_norms.py

A GPT-2 of 7 million parameters with tied embeddings, 64 sequences of 64 tokens, so many at a time.
Prints CPU seconds (the second call's) and the memory that the calls add, each method in a process
of its own. "plain" is one backward pass for the sum alone.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import estbench
from estbench.estimators.base import Surrogate
from estbench.meter.gradients import Tape

SEQUENCES, LENGTH, VOCABULARY = 64, 64, 4096
AT_ONCE = (8, 64)


def model() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=256, n_layer=8, n_head=4, n_positions=128,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def of_the_meter() -> Callable[[Tensor], Tensor]:
    policy = estbench.from_huggingface(model(), [[1]], LENGTH)

    def norms(tokens: Tensor) -> Tensor:
        with Tape(policy) as tape:
            log_probs = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).squeeze(2)
        rewards = torch.zeros(len(tokens), 1)
        draws = Surrogate(log_probs, torch.ones_like(log_probs), tokens.unsqueeze(1), rewards)
        found = tape.differentiate(draws, check=False)
        assert tape.fault == ""
        return found.squared_norms()

    return norms


def of_vmap() -> Callable[[Tensor], Tensor]:
    network = model()
    network.set_attn_implementation("eager")
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    later = ~torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    fixed = {
        "attention_mask": torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(later, -1e9),
        "position_ids": torch.arange(LENGTH).unsqueeze(0),
        "use_cache": False,
    }

    def value(parameters: dict[str, Tensor], tokens: Tensor) -> Tensor:
        ids = torch.cat([torch.ones_like(tokens[:1]), tokens[:-1]]).unsqueeze(0)
        given = {"input_ids": ids, **fixed}
        logits = torch.func.functional_call(network, parameters, (), given).logits[0]
        return logits.log_softmax(dim=-1).gather(1, tokens.unsqueeze(1)).sum()

    each = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0))

    def norms(tokens: Tensor) -> Tensor:
        found = each(parameters, tokens)
        return torch.stack([g.flatten(1).square().sum(dim=1) for g in found.values()]).sum(dim=0)

    return norms


def plain() -> Callable[[Tensor], Tensor]:
    policy = estbench.from_huggingface(model(), [[1]], LENGTH)

    def total(tokens: Tensor) -> Tensor:
        value = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).sum()
        torch.autograd.grad(value, list(policy.parameters()))
        return tokens.new_zeros(len(tokens)).float()

    return total


WAYS = {"plain": plain, "meter": of_the_meter, "vmap": of_vmap}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(way: str, at_once: int) -> tuple[float, float, list[float]]:
    """Return CPU seconds, added memory in MB, and the first norms."""
    rng = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, VOCABULARY, (SEQUENCES, LENGTH), generator=rng)
    norms = WAYS[way]()
    before = peak_mb()
    seconds, found = 0.0, torch.empty(0)
    for _ in range(2):
        started = time.process_time()
        found = torch.cat([norms(part) for part in torch.split(tokens, at_once)])
        seconds = time.process_time() - started
    return seconds, peak_mb() - before, found[:2].tolist()


def main() -> None:
    spawn = multiprocessing.get_context("spawn")
    print("at_once  way    cpu_s  memory_mb  first norms")
    for at_once in AT_ONCE:
        for way in WAYS:
            with spawn.Pool(1) as pool:
                seconds, memory, first = pool.apply(measured, (way, at_once))
            print(f"{at_once:7}  {way:6} {seconds:5.1f} {memory:9.0f}   {first}", flush=True)


if __name__ == "__main__":
    main()
