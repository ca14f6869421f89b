"""Language models of transformers with a few random weights, and prompts for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is downloaded

import torch
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from estbench import from_huggingface
from estbench.models.huggingface import LanguageModel

V, T, END = 12, 4, 0
PROMPTS = [[1, 2, 3, 4], [5], [3, 6]]  # of three lengths

GROUPED = {  # four heads that share the keys and values of two
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "initializer_range": 0.4,
    "bos_token_id": 1,
    "eos_token_id": END,
}
# An answer repeats itself where the embedding is large that is both the first and the last layer.
OF_GEMMA = {**GROUPED, "head_dim": 8, "pad_token_id": 3, "initializer_range": 0.15}
OF_GPT2 = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 16,
    "initializer_range": 0.4,
    "bos_token_id": 1,
    "eos_token_id": END,
}


def gpt2(**settings: Any) -> nn.Module:
    """Return a GPT-2: Conv1D layers, learned positions, tied embeddings, dropout of 0.1."""
    return _random(GPT2LMHeadModel, GPT2Config(**{"vocab_size": V, **OF_GPT2, **settings}))


def llama(**settings: Any) -> nn.Module:
    return _random(LlamaForCausalLM, LlamaConfig(**GROUPED, **settings))


def qwen2(**settings: Any) -> nn.Module:
    """Return a Qwen2: biases in its attention; here with tied embeddings."""
    config = Qwen2Config(**GROUPED, tie_word_embeddings=True, **settings)
    return _random(Qwen2ForCausalLM, config)


def gemma(**settings: Any) -> nn.Module:
    """Return a Gemma: scaled, tied embeddings with a padding token, norms of ``1 + weight``."""
    config = GemmaConfig(**OF_GEMMA, **settings)
    return _random(GemmaForCausalLM, config)


def gemma2(**settings: Any) -> nn.Module:
    """Return a Gemma 2: a window of three tokens in every other layer, capped logits."""
    config = Gemma2Config(**OF_GEMMA, sliding_window=3, **settings)
    return _random(Gemma2ForCausalLM, config)


def qwen3(**settings: Any) -> nn.Module:
    """Return a Qwen3: queries and keys are normalised head by head."""
    return _random(Qwen3ForCausalLM, Qwen3Config(**GROUPED, head_dim=4, **settings))


MODELS: dict[str, Callable[..., nn.Module]] = {
    "gpt2": gpt2,
    "llama": llama,
    "qwen2": qwen2,
    "gemma": gemma,
    "gemma2": gemma2,
    "qwen3": qwen3,
}


def policy(name: str, dtype: torch.dtype = torch.float64, **settings: Any) -> LanguageModel:
    return from_huggingface(MODELS[name]().to(dtype), PROMPTS, T, **settings)


class LowRank(nn.Module):
    """A linear layer and an adapter of low rank beside it, named as peft names them."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + 2.0 * self.lora_B(self.lora_A(x))
        return out


def with_adapters(model: nn.Module) -> nn.Module:
    """Return the model with an adapter at each layer of its attention that makes queries."""
    for part in list(model.modules()):
        if hasattr(part, "q_proj"):
            part.q_proj = LowRank(part.q_proj)
    return model


def _random(kind: Any, config: Any) -> nn.Module:
    before = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        model: nn.Module = kind(config)
    finally:
        torch.set_rng_state(before)
    with torch.no_grad():  # biases and scales are constants at the start
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model
