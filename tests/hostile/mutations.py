"""Documents that are nearly right: something in a valid one is deleted, replaced or damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

DEEP = 100_000
NEST = "nest me deep"

NAMES = [
    "../../outside",
    "/etc/passwd",
    "..",
    ".",
    "",
    " ",
    "a/b",
    "a\\b",
    "nul\0nul",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\u202egnp.exe",
    "two\nlines",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "--><svg onload=alert(1)>",
    '=HYPERLINK("http://x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "$\\frac{1}{$",
    "\\input{/etc/passwd}",
    "\\write18{id}",
    "{{ 7*7 }}",
    "{0.__class__}",
    "%s%n",
    "[bold red]markup[/nonsense]",
    "relax\ud800",
    "é" * 300,
    "n" * 100_000,
    "CON",
    "rebar",
    "٣",
    "²",
    "_hidden",
]

NUMBERS: list[Any] = [
    *(0, 1, -1, 7, 3.5, -0.0, 2**31, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63), 10**400, -(10**400)),
    *(float("nan"), float("inf"), float("-inf"), 1e-320, 1e150, -1e150, 1e151, 1e308, -1e308),
]

JUNK = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(NAMES),
    st.sampled_from([None, True, False, [], {}, [[]], [{}], {"": 0}, [None], ["a"], {"a": {}}]),
    st.just(NEST),
    st.text(max_size=20),
    st.lists(st.sampled_from(NUMBERS), max_size=4),
    st.integers(),
    st.floats(),
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield every place in a document; of a long list the first, second and last."""
    if path:
        yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places(value, (*path, key))
    elif isinstance(document, list):
        for index in sorted({0, 1, len(document) - 1} & set(range(len(document)))):
            yield from places(document[index], (*path, index))


@st.composite
def documents(draw: st.DrawFn, valid: Any) -> bytes:
    """Return a JSON file: a valid document with up to three faults, or with damaged bytes."""
    document = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        spots = list(places(document))
        if not spots:
            break
        *way, last = draw(st.sampled_from(spots))
        inside = document
        for step in way:
            inside = inside[step]
        fault = draw(st.sampled_from(("replace", "replace", "delete", "rename", "repeat", "wrap")))
        if fault == "delete":
            del inside[last]
        elif fault == "rename" and isinstance(inside, dict):
            inside[draw(st.sampled_from(NAMES))] = inside.pop(last)
        elif fault == "repeat" and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[last]))
        elif fault == "wrap":
            inside[last] = [inside[last]]
        else:
            inside[last] = draw(JUNK)
    content = nested(json.dumps(document))
    return draw(damaged(content)) if draw(st.integers(0, 4)) == 0 else content


def nested(text: str) -> bytes:
    """Return a document with lists in lists where one was to be nested."""
    deep = "[" * DEEP + "]" * DEEP
    return text.replace(json.dumps(NEST), deep).encode()


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return bytes that were cut off, flipped, put in or written over."""
    at = draw(st.integers(0, max(0, len(content) - 1)))
    fault = draw(st.sampled_from(("cut", "flip", "insert", "overwrite", "head", "encode")))
    if fault == "cut":
        return content[:at]
    if fault == "head":
        return content[at:]
    if fault == "flip" and content:
        flipped = content[at] ^ draw(st.integers(1, 255))
        return content[:at] + bytes([flipped]) + content[at + 1 :]
    if fault == "encode":
        codec = draw(st.sampled_from(("utf-16", "utf-8-sig", "utf-32")))
        return content.decode("latin-1").encode(codec)
    noise = draw(st.binary(min_size=1, max_size=40))
    return content[:at] + noise + content[at + (len(noise) if fault == "overwrite" else 0) :]


ODD = [None, 0, -1, 1, 3.5, -0.5, 1e-320, 1e-150, 1e100, 1e150, -1e150]
ODD_WHOLE = [0, 1, 7, 2**31, 2**53]
FIXED = ("schema", "seed", "round")  # what says where a record belongs


@st.composite
def odd_numbers(draw: st.DrawFn, valid: Any) -> Any:
    """Return a document of the right shape with numbers that no run has, or none at all."""
    document = copy.deepcopy(valid)
    ways = [way for way in places(document) if way[-1] not in FIXED]
    numbers = [way for way in ways if type(_at(document, way)) in (int, float)]
    for way in draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=4)):
        whole = type(_at(document, way)) is int
        _put(document, way, draw(st.sampled_from(ODD_WHOLE if whole else ODD)))
    columns = [way for way in ways if isinstance(_at(document, way), list)]
    columns = [way for way in columns if any(type(x) is float for x in _at(document, way))]
    for way in draw(st.lists(st.sampled_from(columns), max_size=2)) if columns else ():
        _put(document, way, [draw(st.sampled_from(ODD))] * len(_at(document, way)))
    return document


def _at(document: Any, way: tuple[Any, ...]) -> Any:
    for step in way:
        document = document[step]
    return document


def _put(document: Any, way: tuple[Any, ...], value: Any) -> None:
    _at(document, way[:-1])[way[-1]] = value
