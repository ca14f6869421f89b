"""Print the lower bounds of pyproject.toml as pins, and constraints.txt for development tools.

Usage: python .ci/lower_bounds.py > pins.txt; pip install -c pins.txt -e '.[dev]'
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def bounds(lines: list[str]) -> dict[str, str]:
    """Return name -> lower bound; a reference to the package's own extras has none."""
    found = (re.match(r"([\w-]+)>=([\d.]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


users = bounds(PROJECT["dependencies"])
for extra in EXTRAS.keys() - {"dev"}:
    users |= bounds(EXTRAS[extra])
for name in sorted(users):
    print(f"{name}=={users[name]}")
for line in (ROOT / "constraints.txt").read_text().splitlines():
    if line.partition("==")[0] in bounds(EXTRAS["dev"]).keys() - users.keys():
        print(line)
