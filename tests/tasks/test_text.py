"""The task text: its metrics are what their names say, on real tokens only."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from estbench import tasks
from estbench.core.errors import UserError
from estbench.models.lstm_generator import Generator
from estbench.models.policy import Policy
from estbench.tasks import text
from estbench.tasks.declaring import Size
from estbench.tasks.text import Bleu, TextTask, distinct_ngrams

bleu_score = pytest.importorskip("nltk.translate.bleu_score", reason="nltk is missing")

ANIMALS = ["cat", "dog", "cow", "hen", "pig", "rat", "bat", "fox", "owl", "elk"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def small(tmp_path: Path) -> TextTask:
    """Lines of 3 to 5 words: the end symbol of the longest ones is not written."""
    path = tmp_path / "small.txt"
    lines = [f"the {a} saw{' the' * (i % 2)} {b}" for a in ANIMALS for i, b in enumerate(ANIMALS)]
    lines += [f"a {a} sat" for a in ANIMALS]
    path.write_text("\n".join(lines))
    return made(data=str(path))


def made(**options: object) -> TextTask:
    task = tasks.make("text", 0, 10_000, **options)
    assert isinstance(task, TextTask)
    return task


class Uniform(Policy):
    """Every token with probability 1 / V at every position, whatever came before."""

    def __init__(self, vocabulary: int, length: int) -> None:
        super().__init__()
        self.vocabulary, self.length = vocabulary, length
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def initial_state(self, n: int) -> Tensor:
        return torch.zeros(n, 1)

    def step(self, previous: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(state), self.vocabulary), -math.log(self.vocabulary)), state


class Says(Uniform):
    """Uniform, but its samples are given sequences, over and over."""

    def __init__(self, task: TextTask, sequences: Tensor) -> None:
        super().__init__(task.vocabulary, task.length)
        self.sequences = sequences

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        return self.sequences[torch.arange(n) % len(self.sequences)]


class TestTheTask:
    def test_it_measures_exactly_the_metrics_it_declares(self, small: TextTask) -> None:
        policy = Generator(small.vocabulary, small.length, end=small.end)
        policy.initialise(*small.initialisation, rng())
        light = small.quality(policy, policy.sample(32, rng()), rng())
        full = small.full_quality(policy, rng())
        assert set(light | full) == set(tasks.info("text").metrics)
        assert all(isinstance(value, float) for value in (light | full).values())
        assert all(math.isfinite(value) for value in (light | full).values())
        # What depends on the size of the sample is not measured on two sizes under one name.
        assert set(light) & set(full) == {"entropy", "mean_length"}

    def test_sizes_come_from_the_text(self, small: TextTask) -> None:
        assert small.vocabulary == len(small.tokens) == 15
        assert small.length == small.info.length == 5
        assert small.info.vocabulary == 15
        assert small.end == 14
        assert TextTask.size(data=small.corpus.source) == Size(15, 5, 14)
        assert small.train.shape == (99, 5)
        assert small.heldout.shape == (11, 5)
        assert small.train.dtype == small.heldout.dtype == torch.int64

    def test_seeds_hold_out_other_lines(self, small: TextTask) -> None:
        again, other = (tasks.make("text", s, 50, data=small.corpus.source) for s in (0, 1))
        assert torch.equal(again.train, small.train[:50])
        assert torch.equal(again.heldout, small.heldout)
        assert set(other.format(other.heldout)) != set(small.format(small.heldout))

    def test_text_ends_at_the_end_symbol(self, small: TextTask) -> None:
        words = [small.tokens.index(word) for word in ("the", "fox", "saw")]
        rows = torch.tensor([[*words, 14, 14], [*words, 0, 0], [words[1], 14, *words], [14] * 5])
        the = small.tokens[0]
        assert small.format(rows) == ["the fox saw", f"the fox saw {the} {the}", "fox", ""]

    def test_characters_are_joined_without_a_space(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("\n".join(f"{a} x" for a in ANIMALS))
        task = made(data=str(path), level="characters")
        assert sorted(task.format(torch.cat([task.train, task.heldout]))) == sorted(
            f"{a} x" for a in ANIMALS
        )
        assert task.separator == ""

    def test_its_mistakes_are_the_users(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UserError, match="no such file"):
            TextTask.check(tasks.info("text"), data="none.txt", quality_sequences=3)
        with pytest.raises(UserError, match="quality_sequences = 1: a text's must be at least 2"):
            TextTask.check(tasks.info("text"), data="none.txt", quality_sequences=1)
        with pytest.raises(UserError, match="no text: give your own"):
            made()
        TextTask.check(tasks.info("text"), data="pydoc")
        monkeypatch.setitem(sys.modules, "nltk", None)
        for attempt in (made, lambda **given: TextTask.check(tasks.info("text"), **given)):
            with pytest.raises(UserError, match=r"needs nltk: pip install 'estbench\[text\]'"):
                attempt(data="pydoc")

    def test_its_fingerprint_is_the_texts(self, small: TextTask) -> None:
        found = TextTask.fingerprint(data=small.corpus.source, level="words")
        Path(small.corpus.source).write_text("another\ntext")
        assert TextTask.fingerprint(data=small.corpus.source, level="words") != found


class TestMetricsByHand:
    def test_a_uniform_policys_nll_and_entropy_are_log_v_per_real_token(
        self, small: TextTask
    ) -> None:
        policy = Uniform(15, 5)
        full = small.full_quality(policy, rng())
        light = small.quality(policy, policy.sample(64, rng()), rng())
        for value in (full["nll_gen"], full["entropy"], light["entropy"]):
            assert value == pytest.approx(math.log(15))

    def test_a_uniform_policys_mean_length(self, small: TextTask) -> None:
        tokens = Uniform(15, 5).sample(20_000, rng())
        alive = 14 / 15
        expected = sum(alive**n for n in range(1, 6))
        light = small.quality(Uniform(15, 5), tokens, rng())
        assert light["mean_length"] == pytest.approx(expected, abs=0.03)

    def test_the_end_counts_once_and_padding_never(self, small: TextTask) -> None:
        # log q is -1 for the end and -2 for other tokens, whatever the normalisation.
        class Charges(Uniform):
            def log_probs(self, tokens: Tensor) -> Tensor:
                return torch.where(torch.arange(15) == 14, -1.0, -2.0).expand(*tokens.shape, 15)

        rows = torch.tensor([[1, 2, 14, 14, 14], [1, 2, 3, 4, 5], [14, 14, 14, 14, 14]])
        nats, real = (2 + 2 + 1) + 5 * 2 + 1, 3 + 5 + 1
        assert text._nll(Charges(15, 5), rows, 14) == pytest.approx(nats / real)

    def test_what_a_policy_rules_out_adds_no_entropy(self) -> None:
        class Half(Uniform):
            def log_probs(self, tokens: Tensor) -> Tensor:
                row = torch.tensor([math.log(0.5), math.log(0.5), -math.inf])
                return row.expand(*tokens.shape, 3)

        assert text._entropy(Half(3, 2), torch.zeros(4, 2).long(), 2) == pytest.approx(math.log(2))

    def test_nll_and_entropy_equal_the_generators_own_log_probs(self, small: TextTask) -> None:
        policy = Generator(15, 5, dtype=torch.float64, end=14).initialise("normal", 0.5, rng())
        tokens = policy.sample(200, rng())
        log_q = policy.log_probs(tokens).detach()
        real = 0
        nats = entropy = 0.0
        for row, conditionals in zip(tokens.tolist(), log_q, strict=True):
            for token, conditional in zip(row, conditionals, strict=True):
                real += 1
                nats -= conditional[token].item()
                entropy -= (conditional.exp() * conditional).sum().item()
                if token == 14:
                    break
        assert text._nll(policy, tokens, 14) == pytest.approx(nats / real)
        assert text._entropy(policy, tokens, 14) == pytest.approx(entropy / real)

    @pytest.mark.parametrize("chunk", [1, 300, 10**9])
    def test_chunks_make_no_difference(
        self, small: TextTask, chunk: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy = Generator(15, 5, end=14).initialise("normal", 0.5, rng())
        tokens = policy.sample(100, rng())
        expected = text._nll(policy, tokens, 14), text._entropy(policy, tokens, 14)
        monkeypatch.setattr(text, "CHUNK", chunk)
        found = text._nll(policy, tokens, 14), text._entropy(policy, tokens, 14)
        assert found == pytest.approx(expected)

    def test_distinct_sequences_and_ngrams_ignore_what_follows_the_end(
        self, small: TextTask
    ) -> None:
        rows = torch.tensor([[1, 2, 14, 3, 4], [1, 2, 14, 14, 14], [1, 2, 1, 2, 1], [14] * 5])
        light = small.quality(Uniform(15, 5), rows, rng())
        assert light["distinct"] == 3 / 4
        assert light["distinct_2"] == 2 / (1 + 1 + 4)
        assert light["mean_length"] == (2 + 2 + 5 + 0) / 4

    def test_distinct_n_of_sentences_shorter_than_n_is_0(self) -> None:
        assert distinct_ngrams([(1, 2), (), (3,)], 3) == 0
        assert distinct_ngrams([(1, 2, 3), (1, 2, 3, 4)], 3) == 2 / 3

    def test_copies_and_repetitions_are_counted(self, small: TextTask) -> None:
        new = torch.full((1, 5), small.tokens.index("saw"))
        copies = Says(small, torch.cat([small.train[:3], new, new]))
        full = small.full_quality(copies, rng())
        assert full["copied"] == 3 / 5
        assert full["unique"] == 4 / 500
        assert small.full_quality(Says(small, small.heldout), rng())["copied"] == 0

    def test_bleu_of_the_references_themselves_is_1(self, tmp_path: Path) -> None:
        path = tmp_path / "long.txt"
        path.write_text("\n".join(f"{a} and {b} and {a} or {b}" for a in "abcd" for b in "efgh"))
        task = made(data=str(path))
        full = task.full_quality(Says(task, task.heldout), rng())
        assert [full[f"bleu_{n}"] for n in (2, 3, 4, 5)] == pytest.approx([1] * 4)

    def test_self_bleu_of_identical_sentences_is_1(self, small: TextTask) -> None:
        one = Says(small, torch.tensor([[0, 1, 2, 3, 4]]))
        full = small.full_quality(one, rng())
        assert [full[f"self_bleu_{n}"] for n in (2, 3, 4, 5)] == pytest.approx([1] * 4)
        assert full["unique"] == 1 / 500

    def test_nothing_but_ends_is_scored_too(self, small: TextTask) -> None:
        full = small.full_quality(Says(small, torch.full((1, 5), 14)), rng())
        assert full["bleu_2"] == full["self_bleu_5"] == full["mean_length"] == 0

    def test_the_number_of_sequences_can_be_chosen(self, small: TextTask) -> None:
        few = made(data=small.corpus.source, quality_sequences=2)
        assert few.full_quality(Says(small, small.heldout), rng())["unique"] in (0.5, 1)
        many = made(data=small.corpus.source, quality_sequences=44)
        assert many.full_quality(Says(small, small.heldout), rng())["unique"] == 1 / 4


def random_sentences(source: random.Random, number: int, kinds: int) -> list[tuple[int, ...]]:
    return [
        tuple(source.randrange(kinds) for _ in range(source.randrange(0, 12)))
        for _ in range(number)
    ]


def nltks(references: list[tuple[int, ...]], sentence: tuple[int, ...]) -> list[float]:
    smoothing = bleu_score.SmoothingFunction().method1
    return [
        bleu_score.sentence_bleu(references, sentence, (1 / n,) * n, smoothing)
        for n in (2, 3, 4, 5)
    ]


class TestBleu:
    @pytest.mark.parametrize("kinds", [1, 2, 4, 30])
    @pytest.mark.parametrize("number", [1, 2, 7, 40])
    def test_it_equals_nltks(self, number: int, kinds: int) -> None:
        source = random.Random(number * 100 + kinds)
        references = random_sentences(source, number, kinds)
        bleu = Bleu(references)
        for sentence in random_sentences(source, 30, kinds + 1):
            assert bleu.score(sentence) == pytest.approx(
                nltks(references, sentence), rel=0, abs=1e-12
            )

    @pytest.mark.parametrize("kinds", [1, 2, 4, 30])
    @pytest.mark.parametrize("number", [2, 3, 7, 40])
    def test_self_bleu_equals_nltks_against_the_others(self, number: int, kinds: int) -> None:
        source = random.Random(number * 100 + kinds)
        sentences = random_sentences(source, number, kinds)
        sentences += sentences[:2]  # copies tie for the largest count
        bleu = Bleu(sentences)
        for i, sentence in enumerate(sentences):
            others = sentences[:i] + sentences[i + 1 :]
            assert bleu.score(sentence, leave_out=i) == pytest.approx(
                nltks(others, sentence), rel=0, abs=1e-12
            )

    def test_a_full_evaluations_bleu_takes_a_fraction_of_a_second(self) -> None:
        source = random.Random(0)
        references = [tuple(source.choices(range(2000), k=20)) for _ in range(500)]
        sentences = [tuple(source.choices(range(2000), k=20)) for _ in range(200)]
        Bleu(references).score(sentences[0])  # imports nltk
        before = time.process_time()
        bleu, own = Bleu(references), Bleu(sentences)
        for i, sentence in enumerate(sentences):
            bleu.score(sentence)
            own.score(sentence, leave_out=i)
        assert time.process_time() - before < 2


def test_memory_stays_small_at_seqgans_size() -> None:
    # 512 sequences of 20 tokens out of 5,000 are 205 MB of log-probabilities, and several copies.
    class Watched(Uniform):
        largest = 0

        def log_probs(self, tokens: Tensor) -> Tensor:
            found = super().log_probs(tokens)
            self.largest = max(self.largest, found.nbytes)
            return found

    policy = Watched(5_000, 20)
    tokens = torch.randint(4_999, (512, 20), generator=rng())
    measures: list[Callable[[Policy, Tensor, int], float]] = [text._nll, text._entropy]
    for measure in measures:
        assert measure(policy, tokens, 4_999) == pytest.approx(math.log(5_000), rel=1e-5)
    assert policy.largest < 20e6
