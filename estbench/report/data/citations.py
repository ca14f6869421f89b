"""How to cite: BibTeX of this software, of the paper that is redone, and of what was compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from estbench import __version__

__all__ = ["PAPER", "Citations", "Entry", "citations", "entries", "sources_of"]

PAPER = "balagopalan2018"
"""The comparison that this project redoes."""


@dataclass(frozen=True)
class Entry:
    """A BibTeX entry.

    Attributes:
      key: Its citation key.
      surnames: Of the authors, in order; "others" where the entry leaves some out.
      year: As text.
      eprint: The arXiv number, or "".
      text: The entry itself.
    """

    key: str
    surnames: tuple[str, ...]
    year: str
    eprint: str
    text: str

    def is_meant(self, source: str) -> bool:
        """Whether a source such as "Tucker et al. 2017, equation 5; Mnih 2016" names it."""
        if self.eprint and self.eprint in source:
            return True
        named = rf"\b{re.escape(self.surnames[0])}\b[^;\d]*\b{self.year}\b"
        return re.search(named, source) is not None


@dataclass(frozen=True)
class Citations:
    """What the page prints.

    Attributes:
      software: BibTeX of this software.
      paper: BibTeX of the paper that is redone.
      compared: The estimators shown -> the keys of their sources.
      others: BibTeX of those sources.
      unknown: Estimators whose source is in no entry -> the source in words.
    """

    software: str
    paper: str
    compared: Mapping[str, tuple[str, ...]]
    others: tuple[str, ...]
    unknown: Mapping[str, str]


def citations(estimators: Iterable[str], environment: Mapping[str, Any]) -> Citations:
    """Return what to cite for a report on `estimators`.

    Args:
      environment: Of the manifest; names the version that made the records.
    """
    compared, unknown, used = {}, {}, dict[str, Entry]()
    for name in estimators:
        source = _source(name)
        meant = sources_of(source)
        if meant:
            compared[name] = tuple(entry.key for entry in meant)
            used |= {entry.key: entry for entry in meant}
        elif source:
            unknown[name] = source
    others = tuple(entry.text for key, entry in sorted(used.items()) if key != PAPER)
    version = str(environment.get("estbench") or __version__)
    return Citations(_software(version), entries()[PAPER].text, compared, others, unknown)


def sources_of(source: str) -> list[Entry]:
    """Return the entries that an estimator's source names.

    Where first author and year fit several, the other names in it decide; "et al." stands for
    three authors or more.
    """
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries().values():
        if entry.is_meant(source):
            found.setdefault((entry.surnames[0], entry.year), []).append(entry)
    chosen = []
    for (surname, _), fitting in found.items():
        if len(fitting) > 1:
            named = re.search(rf"\b{re.escape(surname)}\b[^;\d]*", source)
            names = named.group() if named else ""
            many = "et al" in names
            fitting = [
                entry
                for entry in fitting
                if (len(entry.surnames) > 2 if many else set(entry.surnames) == _words(names))
            ] or fitting
        chosen += fitting
    return chosen


@cache
def entries() -> dict[str, Entry]:
    """Return key -> entry of references.bib."""
    text = resources.files("estbench.report.data").joinpath("references.bib").read_text("utf-8")
    found = {}
    for part in re.split(r"\n(?=@)", text):
        key = part.partition("{")[2].partition(",")[0]
        authors = _field(part, "author").split(" and ")
        surnames = tuple(author.partition(",")[0] for author in authors)
        found[key] = Entry(
            key, surnames, _field(part, "year"), _field(part, "eprint"), part.strip()
        )
    return found


def _words(text: str) -> set[str]:
    return set(re.findall(r"[\w'-]+", text))


def _field(entry: str, name: str) -> str:
    found = re.search(rf"^  {name} = \{{(.*)\}},$", entry, flags=re.MULTILINE)
    return found[1] if found else ""


def _source(estimator: str) -> str:
    """Return where an estimator comes from, as it declares; "" if it is not known here."""
    from estbench import estimators
    from estbench.core.errors import UserError

    try:
        return estimators.info(estimator).source
    except (UserError, KeyError, AttributeError):
        return ""


def _software(version: str) -> str:
    return (
        "@software{estbench,\n"
        "  author = {{The estbench authors}},\n"
        "  title = {estbench: A Benchmark of Gradient Estimators for Discrete Sequence Models},\n"
        f"  version = {{{version}}},\n"
        "  year = {2026},\n"
        "}"
    )
