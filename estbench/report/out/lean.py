"""Makes drawings smaller without changing them: what stands side by side or again, stands once."""

from __future__ import annotations

import re

__all__ = ["Words", "merged"]

GROUPS = re.compile(r"<g\b[^>]*(?<!/)>|</g>")
WRITTEN = re.compile(
    r'<g((?: class="[^"]*")?) transform="(?:translate\(([-\d.]+) ([-\d.]+)\) )?([^"]*)">'
    r"((?:<defs>(?:(?!</defs>).)*</defs>)*)"
    r'((?:<use href="#g[0-9a-f]+"(?: x="[^"]*")?(?: y="[^"]*")?/>)+)</g>',
    re.DOTALL,
)


class Words:
    """What is written in the drawings of one page: the same word or number stands in it once."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}

    def shared(self, body: str) -> str:
        """Return a drawing in which what was written before, in any of them, is referred to."""
        return WRITTEN.sub(self._take, body)

    def _take(self, found: re.Match[str]) -> str:
        style, x, y, turned, letters, word = found.groups()
        place = f' x="{x}" y="{y}"' if x else ""
        known = (word, turned) in self._names
        name = self._names.setdefault((word, turned), f"w{len(self._names):x}")
        if not known:
            letters += f'<defs><g id="{name}" transform="{turned}">{word}</g></defs>'
        return f'{letters}<use href="#{name}"{place}{style}/>'


def merged(body: str) -> str:
    """Return a drawing in which neighbours that belong to the same estimator are one group."""
    kept: list[str] = []
    opened: list[str] = []
    done, closed = 0, (-1, -1, "")  # the last group that ended: where, and how it began
    for found in GROUPS.finditer(body):
        tag = found.group()
        if tag == "</g>":
            if not opened:
                return body  # none of matplotlib's
            closed = (found.start(), found.end(), opened.pop())
            continue
        start, end, began = closed
        if end == found.start() and tag == began and tag.startswith("<g data-estimator="):
            kept.append(body[done:start])
            done = found.end()
        opened.append(tag)
    return "".join([*kept, body[done:]])
