"""A causal language model of Hugging Face's transformers as a policy that answers prompts.

The prompts are the policy's contexts, an answer is a sequence, and the model's end token ends it.
Nothing of transformers is imported here: the model is called as its classes are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from estbench.core.errors import UserError
from estbench.models.contexts import Contexts
from estbench.models.policy import (
    IMPOSSIBLE,
    Choose,
    Policy,
    choose_by_uniform,
    has_ended,
    keep_ending,
)
from estbench.models.trees import State

__all__ = ["LanguageModel", "from_huggingface"]

MARGIN = 1e-4
"""By how much logits and probabilities of two passes in float32 may differ."""


def from_huggingface(
    model: nn.Module,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    max_new_tokens: int,
    tokenizer: Any = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    adapter_only: bool = False,
) -> LanguageModel:
    """Return a policy that answers prompts with a causal language model.

    The parameters that require gradients are the ones that are differentiated: a frozen layer
    stays frozen.

    Args:
      model: A causal language model of transformers (``AutoModelForCausalLM`` and its like), with
        its weights loaded, on one device. It is used as it is, not copied.
      prompts: M texts, for which a tokenizer is needed, or M lists of token ids. Their lengths may
        differ.
      max_new_tokens: The longest answer T, its end token included. An answer that does not end
        within T tokens is cut off there.
      tokenizer: The model's. Its end token ends an answer; without one, the model's own does.
      temperature: What logits are divided by, above 0.
      top_k: Only the k likeliest tokens can come; 0 for all.
      top_p: Only the likeliest tokens can come whose probabilities first add up to this; 1 for all.
        Temperature, top-k and top-p, in this order, are part of the policy: its log-probabilities
        are renormalised, and what is differentiated is what is sampled.
      adapter_only: Freeze all parameters of the model but those with "lora" in their names, as
        peft calls them. They stay frozen.

    Raises:
      UserError: Something does not fit; the text says what, and the remedy.
    """
    _check_settings(max_new_tokens, temperature, top_k, top_p)
    config = _config(model)
    end = _end(model, config, tokenizer)
    ids, texts = _tokens(prompts, tokenizer)
    _check_tokens(ids, end, config.vocab_size)
    room = getattr(config, "max_position_embeddings", None)
    longest = max(range(len(ids)), key=lambda i: len(ids[i]))
    if room is not None and len(ids[longest]) + max_new_tokens > room:
        raise UserError(
            f"prompt {longest} has {len(ids[longest])} tokens, and {max_new_tokens} new ones do "
            f"not fit into the model's {room} positions: give shorter prompts, or "
            f"max_new_tokens={max(0, room - len(ids[longest]))} at most"
        )
    eager = getattr(config, "_attn_implementation", None) == "eager"
    if eager and len({len(row) for row in ids}) > 1 and next(model.parameters()).dtype.itemsize > 4:
        raise UserError(
            "in float64, the eager attention of transformers makes NaN of prompts of different "
            "lengths: give prompts of one length, or use model.float()"
        )
    if adapter_only:
        _freeze_all_but_adapters(model)
    if (top_k or top_p < 1) and _half(model):
        raise UserError(
            "top_k and top_p need a model in float32: in half precision, sampling and "
            "log-probabilities round differently, and do not agree on which tokens are left out. "
            "Use model.float()"
        )
    narrowing = Narrowing(temperature, top_k, top_p)
    return LanguageModel(model, ids, max_new_tokens, end, narrowing, tokenizer, texts)


@dataclass(frozen=True)
class Narrowing:
    """How logits become the policy's; arguments as in ``from_huggingface``."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def log_probs(self, logits: Tensor, margin: float = 0.0) -> Tensor:
        """Return normalised log-probabilities ``[..., V]``; IMPOSSIBLE for what is left out.

        With a margin, tokens are left out as well that are so near to the edge, in a logit or in
        a probability, that rounding could put them on its other side.
        """
        # Half precision would make the probabilities' sum wrong by more than it may be.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature
        outside = self._outside(logits.detach(), margin)
        if outside is None:
            return logits.log_softmax(dim=-1)
        inside = logits.masked_fill(outside, -torch.inf)
        return inside.log_softmax(dim=-1).masked_fill(outside, IMPOSSIBLE)

    def _outside(self, logits: Tensor, margin: float) -> Tensor | None:
        """Return which tokens cannot come, bool ``[..., V]``; None if all can."""
        outside: Tensor | None = None
        if 0 < self.top_k < logits.shape[-1]:
            likeliest = logits.topk(self.top_k + 1, dim=-1)
            near = likeliest.values[..., :-1] < likeliest.values[..., -1:] + margin
            near[..., 0] = False
            near &= margin > 0  # without a margin, one of two that are equal stays
            outside = torch.ones_like(logits, dtype=torch.bool)
            outside.scatter_(-1, likeliest.indices[..., :-1], near)
            logits = logits.masked_fill(outside, -torch.inf)
        if self.top_p < 1:
            p, order = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
            beyond = p.cumsum(dim=-1) - p >= self.top_p - margin
            edge = p.masked_fill(~beyond, 0.0).amax(dim=-1, keepdim=True)
            beyond |= p < edge * (1 + margin)  # which could change places with the edge
            beyond[..., 0] = False  # the likeliest token always can come
            beyond = torch.zeros_like(beyond).scatter_(-1, order, beyond)
            outside = beyond if outside is None else outside | beyond
        return outside


class LanguageModel(Policy):
    """Answers of a causal language model to M prompts; made by ``from_huggingface``.

    Rows are draw-major (see ``Contexts``): of n rows the first n / M answer prompt 0, and so on.
    Prompts of different lengths are padded on the left. The padding is masked, and every row has
    its own positions, so that a row is computed from itself alone.

    Attributes:
      model: The language model. It is called in evaluation mode: dropout is off.
      tokenizer: What texts were turned into tokens with, or None.
      texts: The prompts' texts, or None where they were given as tokens.
      prompts: The prompts' tokens int64 ``[M, P]``, padded on the left.
      masks: 1 for a prompt's token, 0 for padding, int64 ``[M, P]``.
      contexts: The prompts' indices, ``[M, 1]``.
    """

    end: int
    contexts: Contexts
    prompts: Tensor
    masks: Tensor

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        length: int,
        end: int,
        narrowing: Narrowing,
        tokenizer: Any,
        texts: Sequence[str] | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = model.config.get_text_config().vocab_size
        self.length = length
        self.end = end
        self.narrowing = narrowing
        self.tokenizer = tokenizer
        self.texts = texts
        P = max(len(ids) for ids in prompts)
        rows = [[end] * (P - len(ids)) + list(ids) for ids in prompts]
        masks = [[0] * (P - len(ids)) + [1] * len(ids) for ids in prompts]
        device = next(model.parameters()).device
        self.register_buffer("prompts", torch.tensor(rows, device=device), persistent=False)
        self.register_buffer("masks", torch.tensor(masks, device=device), persistent=False)
        self.contexts = Contexts(torch.arange(len(prompts)).unsqueeze(1))
        accepted = inspect.signature(model.forward).parameters
        self.accepted = set(accepted)
        self.cache = "cache" if "cache" in accepted else "past_key_values"

    @property
    def dtype(self) -> torch.dtype:
        """The type of the log-probabilities: the parameters', but at least float32."""
        return torch.promote_types(super().dtype, torch.float32)

    @property
    def hidden_numbers(self) -> int:
        """The outputs of all layers for one row: passes are made smaller where they are many."""
        config = self.model.config.get_text_config()
        positions = self.prompts.shape[1] + self.length
        return int(positions * config.hidden_size * config.num_hidden_layers)

    def prompt_of(self, n: int) -> Tensor:
        """Return the index of the prompt that each of n rows answers, int64 ``[n]``."""
        return self.contexts.rows(n)[:, 0].to(self.device)

    def initial_state(self, n: int) -> State:
        """See ``Policy.initial_state``: the prompt of each row, its answer, and how much is known.

        It is of one size at every step.
        """
        prompt = self.prompt_of(n)
        answer = torch.full((n, self.length), self.end, device=prompt.device)
        return {"prompt": prompt, "answer": answer, "known": torch.zeros_like(prompt)}

    def step(self, previous: Tensor | None, state: State) -> tuple[Tensor, State]:
        """See ``Policy.step``. Everything before is computed again; ``sample_by`` is the fast way.

        Raises:
          UserError: The token is a relaxed one.
        """
        prompt, answer, known = state["prompt"], state["answer"], state["known"]
        if previous is not None:
            if previous.is_floating_point():
                raise UserError(
                    "a language model takes tokens, not relaxed ones: leave out the estimators "
                    "that relax them, such as rebar and relax"
                )
            answer = answer.scatter(1, known.unsqueeze(1), previous.unsqueeze(1))
            known = known + 1
        tokens = answer[:, : int(known[0])]
        logits = self._called(prompt, tokens, positions=1).logits[:, -1]
        log_probs = self.narrowing.log_probs(logits)
        ended = (tokens == self.end).any(dim=1)
        state = {"prompt": prompt, "answer": answer, "known": known}
        return keep_ending(log_probs, ended, self.end), state

    def log_probs(self, tokens: Tensor) -> Tensor:
        """See ``Policy.log_probs``: one pass over prompts and answers."""
        return self._along(tokens)[0]

    def trace(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Policy.trace``: what the policy knew is the last layer's output."""
        log_probs, out = self._along(tokens, output_hidden_states=True)
        return log_probs, out.hidden_states[-1][:, -tokens.shape[1] :].detach().to(log_probs)

    def _along(self, tokens: Tensor, **wanted: Any) -> tuple[Tensor, Any]:
        n, T = tokens.shape
        out = self._called(self.prompt_of(n), tokens[:, :-1], positions=T, **wanted)
        log_probs = self.narrowing.log_probs(out.logits[:, -T:])
        return keep_ending(log_probs, has_ended(tokens, self.end), self.end), out

    def sample_from(self, uniforms: Tensor) -> Tensor:
        """See ``Policy.sample_from``."""
        return self.sample_by(len(uniforms), choose_by_uniform(uniforms))

    def greedy(self) -> Tensor:
        """See ``Policy.greedy``."""
        return self.sample_by(self.fewest_rows, lambda t, log_probs: log_probs.argmax(dim=-1))

    @torch.no_grad()
    def sample_by(self, n: int, choose: Choose) -> Tensor:
        """See ``Policy.sample_by``: each prompt is read once, then all rows grow together.

        Keys and values of what has been read are kept, so that a step computes one position.
        """
        each = len(self.prompt_of(n)) // self.contexts.count
        out = self._called(self.contexts.values[:, 0].to(self.device), None, positions=1, cached={})
        cache = out[self.cache]
        cache.batch_repeat_interleave(each)
        logits = out.logits[:, -1].repeat_interleave(each, dim=0)
        mask = self.masks.to(self.device)[self.prompt_of(n)]
        # What is drawn here must be possible in a pass over the whole, which rounds otherwise.
        margin = MARGIN if logits.dtype == torch.float32 else 0.0
        tokens = torch.full((n, self.length), self.end, device=self.device)
        ended = torch.zeros(n, dtype=torch.bool, device=self.device)
        for t in range(self.length):
            log_probs = keep_ending(self.narrowing.log_probs(logits, margin), ended, self.end)
            tokens[:, t] = choose(t, log_probs)
            ended |= tokens[:, t] == self.end
            if t == self.length - 1 or bool(ended.all()):
                break
            mask = nn.functional.pad(mask, (0, 1), value=1)
            cached = {self.cache: cache}
            logits = self._run(tokens[:, t : t + 1], mask, 1, cached).logits[:, -1]
        return tokens

    def text_reward(self, function: Callable[[list[str], list[str]], Any]) -> TextReward:
        """Return a reward of tokens that gives a function their texts.

        Args:
          function: Maps n answers and the n prompts that they answer, as texts, to n numbers. An
            answer is decoded up to its end token, which is left out.

        Raises:
          UserError: There is no tokenizer.
        """
        if self.tokenizer is None:
            raise UserError(
                "a reward of texts needs the tokenizer: from_huggingface(..., tokenizer=tokenizer)"
            )
        return TextReward(self, function)

    def _called(
        self,
        prompt: Tensor,
        tokens: Tensor | None,
        positions: int,
        cached: dict[str, Any] | None = None,
        **wanted: Any,
    ) -> Any:
        """Return the model's output for prompts ``[n]`` (indices) and answers ``[n, t]``."""
        # The model may have been moved since, past this policy.
        ids, mask = (each.to(prompt.device)[prompt] for each in (self.prompts, self.masks))
        if tokens is not None:
            ids = torch.cat([ids, tokens], dim=1)
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        return self._run(ids, mask, positions, cached, **wanted)

    def _run(
        self,
        ids: Tensor,
        mask: Tensor,
        positions: int,
        cached: dict[str, Any] | None,
        **wanted: Any,
    ) -> Any:
        """Call the model.

        Args:
          ids: The tokens ``[n, t]`` that are read now.
          mask: Of all that has been read, ``[n, before + t]``.
          positions: Logits are wanted of so many, the last ones.
          cached: What holds the keys and values from before, {} where there are none, None where
            none are kept.
          wanted: More arguments.
        """
        place = (mask.cumsum(dim=1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        optional = {"position_ids": place, "logits_to_keep": positions}
        given = {key: value for key, value in optional.items() if key in self.accepted}
        with _evaluating(self.model):
            return self.model(
                input_ids=ids,
                attention_mask=mask,
                use_cache=cached is not None,
                return_dict=True,
                **(cached or {}),
                **given,
                **wanted,
            )


@dataclass(frozen=True)
class TextReward:
    """The reward of a ``LanguageModel``'s tokens that a function of their texts makes.

    Attributes:
      policy: The policy, whose prompts the rows answer.
      function: See ``LanguageModel.text_reward``.
    """

    policy: LanguageModel
    function: Callable[[list[str], list[str]], Any]

    def __call__(self, tokens: Tensor) -> Any:
        """Return what the function makes of answers int64 ``[n, T]``."""
        policy = self.policy
        answers = [self._text(row) for row in tokens.tolist()]
        prompts = [self._prompt(i) for i in policy.prompt_of(len(answers)).tolist()]
        return self.function(answers, prompts)

    def _text(self, ids: list[int]) -> str:
        end = self.policy.end
        text: str = self.policy.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)
        return text

    def _prompt(self, index: int) -> str:
        policy = self.policy
        if policy.texts is not None:
            return policy.texts[index]
        text: str = policy.tokenizer.decode(policy.prompts[index][policy.masks[index] > 0].tolist())
        return text


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside: with dropout, the model would be another policy at every call."""
    training = [part for part in model.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _check_settings(max_new_tokens: Any, temperature: Any, top_k: Any, top_p: Any) -> None:
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens!r}: it must be a number of tokens")
    if not isinstance(temperature, int | float) or not temperature > 0:
        raise UserError(
            f"temperature is {temperature!r}: it must be above 0 (for the likeliest token alone "
            "there is no gradient)"
        )
    if not isinstance(top_k, int) or top_k < 0:
        raise UserError(f"top_k is {top_k!r}: it must be a number of tokens, or 0 for all")
    if not isinstance(top_p, int | float) or not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p!r}: it must be above 0 and at most 1")


def _config(model: Any) -> Any:
    """Return a model's settings of its text part, checked as far as they matter here."""
    config: Any = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not hasattr(config, "get_text_config"):
        raise UserError(
            f"the model is {type(model).__name__}: give a causal language model of transformers, "
            "such as transformers.AutoModelForCausalLM.from_pretrained(name)"
        )
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if getattr(config, "is_encoder_decoder", False) or output is None:
        raise UserError(
            f"{type(model).__name__} is no causal language model: load it with "
            "transformers.AutoModelForCausalLM"
        )
    devices = sorted({str(p.device) for p in model.parameters()})
    if len(devices) > 1:
        raise UserError(
            f"the model's parameters are on several devices ({', '.join(devices)}): move them to "
            f"one, model.to({devices[-1]!r})"
        )
    if devices == ["meta"]:
        raise UserError("the model is on the meta device, without weights: load them first")
    return config.get_text_config()


def _half(model: nn.Module) -> bool:
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return any(torch.finfo(each).eps > torch.finfo(torch.float32).eps for each in types)


def _end(model: Any, config: Any, tokenizer: Any) -> int:
    if tokenizer is not None:
        if getattr(tokenizer, "eos_token_id", None) is None:
            raise UserError(
                "the tokenizer has no end token, so that no answer would end: set "
                "tokenizer.eos_token to the one that the model was trained with"
            )
        return int(tokenizer.eos_token_id)
    generation = getattr(model, "generation_config", None)
    end = getattr(generation, "eos_token_id", None)
    end = config.eos_token_id if end is None else end
    if isinstance(end, list | tuple) and len(end) == 1:
        end = end[0]
    if isinstance(end, list | tuple) and end:
        raise UserError(
            f"the model has {len(end)} end tokens, {list(end)}, and an answer can have one: give "
            "tokenizer=, whose end token is taken, or set model.generation_config.eos_token_id"
        )
    if not isinstance(end, int):
        raise UserError(
            "the model has no end token, so that no answer would end: set "
            "model.generation_config.eos_token_id, or give tokenizer="
        )
    return end


def _tokens(prompts: Any, tokenizer: Any) -> tuple[list[list[int]], list[str] | None]:
    """Return the prompts' tokens, and their texts where they were given as such."""
    if isinstance(prompts, str):
        raise UserError(f"prompts is one text: give a list of them, [{prompts[:20]!r}]")
    found = list(prompts)
    if not found:
        raise UserError("there are no prompts: give at least one")
    if all(isinstance(each, str) for each in found):
        if tokenizer is None:
            raise UserError("the prompts are texts: give tokenizer=, or lists of token ids")
        return [list(tokenizer(text)["input_ids"]) for text in found], found
    ids = [each.tolist() if isinstance(each, Tensor) else each for each in found]
    for i, row in enumerate(ids):
        if not isinstance(row, list | tuple) or not all(isinstance(token, int) for token in row):
            raise UserError(
                f"prompt {i} is {type(row).__name__}: prompts must be texts, or lists of token ids"
            )
    return [list(row) for row in ids], None


def _check_tokens(prompts: list[list[int]], end: int, vocabulary: int) -> None:
    if not 0 <= end < vocabulary:
        raise UserError(
            f"the end token is {end}, and the model's tokens are 0 to {vocabulary - 1}: resize its "
            "embeddings, or set model.generation_config.eos_token_id"
        )
    for i, ids in enumerate(prompts):
        if not ids:
            raise UserError(
                f"prompt {i} is empty: a model needs a token to begin with, such as its begin token"
            )
        outside = [token for token in ids if not 0 <= token < vocabulary]
        if outside:
            raise UserError(
                f"prompt {i} has token {outside[0]}, and the model's are 0 to {vocabulary - 1}: is "
                "it another model's tokenizer?"
            )


def _freeze_all_but_adapters(model: nn.Module) -> None:
    named = list(model.named_parameters())
    if not any("lora" in name.lower() for name, _ in named):
        raise UserError(
            "adapter_only=True, and no parameter's name contains 'lora': add adapters first, as "
            "peft.get_peft_model does, or freeze by hand with requires_grad_(False)"
        )
    for name, parameter in named:
        parameter.requires_grad_("lora" in name.lower())
