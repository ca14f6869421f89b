"""A language model of Hugging Face's is a policy: one distribution, however it is computed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import estbench
from estbench.meter.cost import sequences_at_once
from estbench.meter.own import OwnReward, adapted, check_policy
from estbench.meter.truth import true_gradient
from estbench.models.huggingface import MARGIN, LanguageModel, Narrowing
from estbench.models.policy import IMPOSSIBLE, Policy, choose_by_uniform, has_ended
from estbench.proof.rewards import rng

from .tiny_language_models import (
    END,
    MODELS,
    PROMPTS,
    T,
    V,
    gemma2,
    gpt2,
    llama,
    policy,
    with_adapters,
)

NARROW = {"temperature": 0.7, "top_k": 5, "top_p": 0.9}
EVERY = pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in MODELS),
        *((name, torch.float64) for name in MODELS if name != "gemma2"),
    ],
)


def uniforms(rows: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(rows, T, generator=rng(1), dtype=torch.float64).to(dtype)


def close(a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)


class TestOneDistribution:
    @EVERY
    def test_kept_keys_and_values_pick_the_tokens_of_the_plain_path(
        self, name: str, dtype: torch.dtype
    ) -> None:
        for narrow in ({}, NARROW):
            made = policy(name, dtype, **narrow)
            u = uniforms(60, dtype)
            plain = Policy.sample_by(made, 60, choose_by_uniform(u))
            assert torch.equal(made.sample_from(u), plain)
            lengths = (~has_ended(plain, END)).sum(dim=1)
            assert 1 < lengths.double().mean() < T

    @EVERY
    def test_one_pass_gives_the_log_probabilities_of_the_steps(
        self, name: str, dtype: torch.dtype
    ) -> None:
        made = policy(name, dtype, **NARROW)
        tokens = made.sample_from(uniforms(30, dtype))
        stepped = Policy.trace(made, tokens)[0]
        close(made.log_probs(tokens), stepped, dtype)
        log_probs, known = made.trace(tokens)
        close(log_probs, stepped, dtype)
        assert known.shape == (30, T, 16)
        assert not known.requires_grad
        close(log_probs.exp().sum(dim=2), torch.ones(30, T, dtype=dtype), dtype)

    @EVERY
    def test_padding_changes_nothing(self, name: str, dtype: torch.dtype) -> None:
        model = MODELS[name]().to(dtype)
        together = estbench.from_huggingface(model, PROMPTS, T)
        tokens = torch.randint(1, V, (3, T), generator=rng(2))
        found = together.log_probs(tokens)
        for i, prompt in enumerate(PROMPTS):
            ids = torch.tensor([[*prompt, *tokens[i, :-1].tolist()]])
            model.eval()
            alone = model(ids).logits[:, -T:].log_softmax(dim=-1)
            close(found[i : i + 1], alone, dtype)

    def test_rollouts_keep_their_prefix_and_go_on_as_the_policy_does(self) -> None:
        made = policy("gpt2")
        tokens = made.sample_from(uniforms(3))
        u = torch.rand(3, 2, T - 1, T, generator=rng(3), dtype=torch.float64)
        found = made.continue_from(tokens, u)
        for t in range(T - 1):
            rows = found[:, t].reshape(-1, T)
            assert torch.equal(rows[:, : t + 1], tokens[:, : t + 1].repeat_interleave(2, dim=0))
            log_probs = made.log_probs(rows)
            choose = choose_by_uniform(u[:, :, t].reshape(-1, T))
            for s in range(t + 1, T):
                assert torch.equal(rows[:, s], choose(s, log_probs[:, s]))

    def test_the_greedy_answers_are_the_likeliest_tokens(self) -> None:
        made = policy("qwen2")
        answers = made.greedy()
        likeliest = made.log_probs(answers).argmax(dim=2)
        assert torch.equal(answers, likeliest)

    def test_an_answer_that_has_ended_goes_on_with_its_end(self) -> None:
        made = policy("llama")
        tokens = torch.tensor([[2, END, END, END]] * 3)
        log_probs = made.log_probs(tokens)
        assert torch.equal(log_probs[:, 2:, END], torch.zeros(3, 2, dtype=torch.float64))
        assert log_probs[:, 2:, 1:].max().item() == IMPOSSIBLE

    def test_in_half_precision_probabilities_are_float32(self) -> None:
        made = policy("llama", torch.bfloat16)
        assert made.dtype == torch.float32
        tokens = made.sample(30, rng(1))
        total = made.log_probs(tokens).exp().sum(dim=2)
        torch.testing.assert_close(total, torch.ones(30, T), rtol=0, atol=1e-6)

    def test_in_half_precision_two_ways_to_the_same_may_round_differently(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exact = LanguageModel.log_probs
        monkeypatch.setattr(
            LanguageModel,
            "log_probs",
            lambda self, tokens: (1.02 * exact(self, tokens)).log_softmax(2),
        )
        check_policy(adapted(policy("llama", torch.bfloat16)))
        with pytest.raises(estbench.UserError, match="log_probs and step disagree"):
            check_policy(adapted(policy("llama", torch.float32)))


class TestNarrowing:
    @pytest.mark.parametrize(
        ("settings", "warpers"),
        [
            ({"temperature": 0.6}, [TemperatureLogitsWarper(0.6)]),
            ({"top_k": 3}, [TopKLogitsWarper(3)]),
            ({"top_p": 0.8}, [TopPLogitsWarper(0.8)]),
            (
                {"temperature": 1.5, "top_k": 6, "top_p": 0.7},
                [TemperatureLogitsWarper(1.5), TopKLogitsWarper(6), TopPLogitsWarper(0.7)],
            ),
        ],
        ids=["temperature", "top-k", "top-p", "all"],
    )
    def test_it_is_that_of_transformers_generate(
        self, settings: dict[str, Any], warpers: list[Any]
    ) -> None:
        logits = 2 * torch.randn(50, V, generator=rng(4), dtype=torch.float64)
        wanted = logits
        for warper in warpers:
            wanted = warper(None, wanted)
        found = Narrowing(**settings).log_probs(logits)
        torch.testing.assert_close(found.exp(), wanted.softmax(dim=-1), rtol=0, atol=1e-14)
        assert bool((found[wanted == -torch.inf] == IMPOSSIBLE).all())

    def test_a_tiny_top_p_leaves_the_likeliest_token(self) -> None:
        logits = torch.randn(20, V, generator=rng(4))
        found = Narrowing(top_p=1e-9).log_probs(logits)
        assert torch.equal(found.exp().argmax(dim=1), logits.argmax(dim=1))
        assert torch.equal(found.exp().sum(dim=1), torch.ones(20))

    @pytest.mark.parametrize("settings", [{"top_k": 4}, {"top_p": 0.8}])
    def test_what_is_drawn_is_possible_where_another_pass_rounds_otherwise(
        self, settings: dict[str, Any]
    ) -> None:
        logits = torch.randn(100_000, V, generator=rng(4))
        rounded = logits + 2e-5 * torch.randn(logits.shape, generator=rng(5))
        narrow = Narrowing(**settings)

        def drawn_but_impossible(margin: float) -> int:
            drawn = narrow.log_probs(logits, margin) > IMPOSSIBLE
            return int((drawn & (narrow.log_probs(rounded) == IMPOSSIBLE)).sum())

        assert drawn_but_impossible(0.0) > 0
        assert drawn_but_impossible(MARGIN) == 0

    def test_the_gradient_is_that_of_the_renormalised_probabilities(self) -> None:
        logits = torch.randn(5, V, generator=rng(4), dtype=torch.float64, requires_grad=True)
        narrow = Narrowing(0.7, top_k=4, top_p=0.95)
        assert torch.autograd.gradcheck(lambda x: narrow.log_probs(x).exp(), logits)
        (slope,) = torch.autograd.grad(narrow.log_probs(logits).sum(), logits)
        outside = narrow.log_probs(logits) == IMPOSSIBLE
        assert bool(outside.any())
        assert float(slope[outside].abs().max()) == 0


class TestTheModelIsLeftAlone:
    def test_dropout_is_off_while_it_is_called_and_its_mode_is_kept(self) -> None:
        made = policy("gpt2")
        made.model.train()
        made.model.transformer.h[0].eval()
        modes = [part.training for part in made.model.modules()]
        tokens = made.sample(6, rng(1))
        assert torch.equal(made.log_probs(tokens), made.log_probs(tokens))
        assert [part.training for part in made.model.modules()] == modes

    def test_frozen_parameters_stay_frozen(self) -> None:
        model = gpt2()
        model.transformer.wpe.weight.requires_grad_(False)
        made = estbench.from_huggingface(model, PROMPTS, T)
        trained = {name for name, p in made.named_parameters() if p.requires_grad}
        assert trained == {name for name, _ in made.named_parameters()} - {
            "model.transformer.wpe.weight"
        }

    def test_only_adapters_are_trained_where_that_is_asked_for(self) -> None:
        model = with_adapters(llama())
        made = estbench.from_huggingface(model, PROMPTS, T, adapter_only=True)
        trained = [name for name, p in made.named_parameters() if p.requires_grad]
        assert len(trained) == 4
        assert all("lora" in name for name in trained)

    @pytest.mark.slow
    def test_importing_estbench_does_not_import_transformers(self) -> None:
        code = (
            "import sys, estbench; estbench.from_huggingface; import estbench.meter.gradients; "
            "assert 'transformers' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class Letters:
    """A tokenizer as far as one is needed: a token a letter, "." is the end."""

    ALPHABET = ".abcdefghijk"
    eos_token_id: int | None = END

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [self.ALPHABET.index(letter) for letter in text]}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.ALPHABET[i] for i in ids)


class TestTexts:
    def test_a_reward_of_texts_is_given_answers_without_their_end_and_prompts(self) -> None:
        made = estbench.from_huggingface(gpt2(), ["ab", "c"], T, tokenizer=Letters())
        seen: list[Any] = []
        reward = made.text_reward(lambda *texts: seen.append(texts) or [0.0] * 4)
        tokens = torch.tensor([[1, 2, END, END], [END] * 4, [3, 4, 5, 6], [2, 2, 2, END]])
        assert reward(tokens) == [0.0] * 4
        assert seen == [(["ab", "", "cdef", "bbb"], ["ab", "ab", "c", "c"])]

    def test_prompts_given_as_tokens_are_decoded_without_their_padding(self) -> None:
        made = estbench.from_huggingface(gpt2(), [[1, 2, 3], [4]], T, tokenizer=Letters())
        reward = made.text_reward(lambda answers, prompts: prompts)
        assert reward(torch.zeros(2, T, dtype=torch.int64)) == ["abc", "d"]

    def test_rows_say_which_prompt_they_answer(self) -> None:
        made = policy("gpt2")
        assert made.prompt_of(6).tolist() == [0, 0, 1, 1, 2, 2]
        with made.contexts.given(made.contexts.values[1:]):
            assert made.prompt_of(4).tolist() == [1, 1, 2, 2]

    def test_a_reward_of_texts_needs_a_tokenizer(self) -> None:
        with pytest.raises(estbench.UserError, match=r"tokenizer=tokenizer"):
            policy("gpt2").text_reward(lambda answers, prompts: [0.0])

    @pytest.mark.parametrize("found", [["no", "yes"], "yes", ["1.0", "2.0"]])
    def test_a_reward_that_returns_text_is_refused(self, found: Any) -> None:
        with pytest.raises(estbench.UserError, match=r"returned text .*: .* a number for each"):
            estbench.measure(policy("gpt2"), lambda tokens: found, "rloo", draws=6)


SMALL = {"vocab_size": 4, "n_embd": 8, "initializer_range": 0.3}


def small(prompts: list[list[int]], **more: Any) -> LanguageModel:
    """Return a policy of four tokens and three positions, whose 64 answers can be listed."""
    return estbench.from_huggingface(gpt2(**SMALL), prompts, 3, **more)


def ones_less_twos(tokens: Tensor) -> Tensor:
    return (tokens == 1).sum(dim=1) - 0.5 * (tokens == 2).sum(dim=1)


class TestMeasured:
    def test_rloo_is_unbiased_over_two_prompts_and_grpo_is_not(self) -> None:
        made = small([[1, 2], [3]])
        table = estbench.measure(made, ones_less_twos, ["rloo", "grpo-published"], draws=400)
        assert list(table["bias_against"]) == ["exact gradient"] * 2
        assert list(table["meter_fault"]) == ["", ""]
        rloo, grpo = table.to_dict("records")
        assert rloo["bias_low"] == 0
        assert rloo["bias_high"] < 0.3
        assert grpo["bias_low"] > 0.3

    def test_the_exact_gradient_is_that_of_the_sum_over_all_answers(self) -> None:
        made = small([[1, 2], [3]])
        every = torch.cartesian_prod(*[torch.arange(4)] * 3)
        # An answer that has ended is listed once, filled up with its end.
        every = every[(~has_ended(every, END) | (every == END)).all(dim=1)]
        total = torch.zeros(())
        for i in range(2):
            with made.contexts.given(torch.tensor([[i]])):
                log_p = made.log_probs(every).gather(2, every.unsqueeze(2)).sum(dim=(1, 2))
            total = total + (log_p.exp() * ones_less_twos(every)).sum() / 2
        wanted = torch.autograd.grad(total, list(made.parameters()))
        reward = OwnReward(ones_less_twos)
        found = true_gradient(adapted(made), reward, 2, rng()).gradient
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a.float(), b, rtol=1e-4, atol=1e-6)

    def test_a_reward_of_texts_and_adapters_alone_are_measured(self) -> None:
        model = with_adapters(llama())
        made = estbench.from_huggingface(
            model, ["ab", "c"], 5, tokenizer=Letters(), top_k=6, adapter_only=True
        )
        reward = made.text_reward(
            lambda answers, prompts: [a.count(p[0]) for a, p in zip(answers, prompts, strict=True)]
        )
        row = estbench.measure(made, reward, "rloo", draws=60, reference=480).iloc[0]
        assert row["meter_fault"] == ""
        assert row["total_variance"] > 0

    def test_draws_in_several_passes_are_those_of_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = small([[1, 2]])
        whole = estbench.measure(made, ones_less_twos, "rloo", draws=64).iloc[0]
        monkeypatch.setattr("estbench.meter.measuring.CHUNK", 40)  # five draws of eight
        parts = estbench.measure(made, ones_less_twos, "rloo", draws=64).iloc[0]
        for column in ("total_variance", "relative_bias", "kurtosis", "mse"):
            assert parts[column] == pytest.approx(whole[column], rel=1e-4), column

    def test_what_is_differentiated_twice_needs_eager_attention(self) -> None:
        made = small([[1, 2], [3]])
        given = {"draws": 16, "adapt": 16}
        with pytest.raises(estbench.UserError, match=r"relax .* twice.*'eager'"):
            estbench.measure(made, ones_less_twos, "relax", **given)
        made.model.set_attn_implementation("eager")
        row = estbench.measure(made, ones_less_twos, "relax", **given).iloc[0]
        assert row["meter_fault"] == ""

    def test_passes_are_smaller_for_long_prompts(self) -> None:
        short, long = (adapted(small([[1] * length])) for length in (1, 12))
        assert long.hidden_numbers == (12 + 3) * 8 * 2
        most = 1 << 20
        assert sequences_at_once(long, most) < sequences_at_once(short, most) / 2

    def test_another_sampler_is_refused_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = small([[1, 2], [3]])
        other = small([[1, 2], [3]], top_k=2)
        monkeypatch.setattr(
            LanguageModel,
            "sample_from",
            lambda self, u: other.sample_by(len(u), choose_by_uniform(u)),
        )
        with pytest.raises(estbench.UserError, match=r"as in top-k sampling, only the 2 likeliest"):
            estbench.measure(made, ones_less_twos, "rloo", draws=60)


def without_end(model: nn.Module) -> nn.Module:
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    return model


def two_ends(model: nn.Module) -> nn.Module:
    model.generation_config.eos_token_id = [0, 3]
    return model


def on_two_devices(model: nn.Module) -> nn.Module:
    model.lm_head = nn.Linear(16, V, device="meta")
    return model


class Endless(Letters):
    eos_token_id = None


REFUSED: dict[str, tuple[Callable[[], LanguageModel], str]] = {
    "a name": (lambda: made("gpt2"), r"the model is str: .*from_pretrained"),
    "no language model": (lambda: made(nn.Linear(2, 2)), r"the model is Linear"),
    "a headless model": (lambda: made(gpt2().transformer), r"no causal language model"),
    "no end token": (lambda: made(without_end(gpt2())), r"no end token.*eos_token_id"),
    "two end tokens": (lambda: made(two_ends(gpt2())), r"2 end tokens, \[0, 3\].*tokenizer="),
    "an endless tokenizer": (
        lambda: made(gpt2(), ["a"], tokenizer=Endless()),
        r"the tokenizer has no end token.*tokenizer\.eos_token",
    ),
    "an end outside": (lambda: made(gpt2(eos_token_id=50)), r"end token is 50.*0 to 11"),
    "a long prompt": (
        lambda: made(gpt2(), [[1], [2] * 14]),
        r"prompt 1 has 14 tokens.*16 positions.*max_new_tokens=2 at most",
    ),
    "an empty prompt": (lambda: made(gpt2(), [[1], []]), r"prompt 1 is empty"),
    "no prompts": (lambda: made(gpt2(), []), r"no prompts"),
    "one text": (lambda: made(gpt2(), "abc"), r"one text: .*\['abc'\]"),
    "texts alone": (lambda: made(gpt2(), ["abc"]), r"texts: give tokenizer="),
    "numbers": (lambda: made(gpt2(), [1, 2]), r"prompt 0 is int"),
    "tokens outside": (lambda: made(gpt2(), [[1, 12]]), r"prompt 0 has token 12.*0 to 11"),
    "two devices": (lambda: made(on_two_devices(gpt2())), r"several devices \(cpu, meta\)"),
    "no weights": (lambda: made(gpt2().to("meta")), r"meta device, without weights"),
    "no adapters": (lambda: made(gpt2(), adapter_only=True), r"no parameter's name contains"),
    "no temperature": (lambda: made(gpt2(), temperature=0), r"temperature is 0: .*above 0"),
    "a negative k": (lambda: made(gpt2(), top_k=-1), r"top_k is -1"),
    "a large p": (lambda: made(gpt2(), top_p=2), r"top_p is 2"),
    "padding in float64": (
        lambda: made(gemma2().double()),
        r"in float64, the eager attention .* one length",
    ),
    "no tokens": (lambda: made(gpt2(), max_new_tokens=0), r"max_new_tokens is 0"),
    "top-k in half": (lambda: made(gpt2().bfloat16(), top_k=3), r"need a model in float32"),
}


def made(model: Any, prompts: Any = PROMPTS, max_new_tokens: int = T, **more: Any) -> LanguageModel:
    return estbench.from_huggingface(model, prompts, max_new_tokens, **more)


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_said_in_a_line(case: str) -> None:
    build, text = REFUSED[case]
    with pytest.raises(estbench.UserError, match=text) as error:
        build()
    assert "\n" not in str(error.value)


def test_relaxed_tokens_are_refused() -> None:
    made = policy("gpt2")
    with pytest.raises(estbench.UserError, match="not relaxed ones"):
        made.step(torch.full((3, V), 1 / V, dtype=torch.float64), made.initial_state(3))
