"""The intervals cover what docs/statistics.md says, and the page speaks of the code that is."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from estbench.report.data import methods
from estbench.report.data.methods import METHODS
from estbench.report.data.tails import kurtosis_limit

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "statistics.md"
TRIALS = 400


def _load() -> ModuleType:
    name = "coverage_of_intervals"
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


coverage = _load()


def _written() -> dict[tuple[str, str], tuple[float, ...]]:
    """The page's table over seeds: (method, data) -> shares, nan for a dash."""
    text = PAGE.read_text(encoding="utf-8")
    text = text[text.index(coverage.BEGIN) : text.index("One measurement of many draws")]
    found = {}
    for line in text.splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if len(cells) == 5 and re.fullmatch(r"[\d.]+", cells[-1]):
            numbers = (math.nan if cell == "–" else float(cell) / 100 for cell in cells[2:])
            found[cells[0], cells[1]] = tuple(numbers)
    return found


def _written_ratios() -> dict[tuple[str, str], list[float]]:
    """The page's table of ratios: (law, draws) -> shares, nan for a dash."""
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (\d+) \| (.+ \| .+%.+%.+) \|$", text, re.MULTILINE)
    return {
        (law, draws): [
            math.nan if cell == "–" else float(cell.strip(" *%")) / 100
            for cell in cells.split(" | ")
        ]
        for law, draws, cells in rows
    }


def test_every_method_of_the_report_is_simulated_and_no_other() -> None:
    measured = {methods.METER_VARIANCE, methods.METER_BIAS}
    assert set(coverage.SIMULATIONS) | measured == set(METHODS)


def test_the_page_has_a_row_of_every_method_and_of_no_other() -> None:
    assert {method for method, _ in _written()} == set(coverage.SIMULATIONS)
    text = PAGE.read_text(encoding="utf-8")
    heads = re.findall(r"^\| law of the draws \|.*$", text, re.MULTILINE)
    assert len(heads) == 2
    assert methods.METER_VARIANCE in heads[0]
    assert methods.METER_BIAS in heads[0]


@pytest.mark.parametrize(
    "method",
    [methods.T, methods.T_LOGS, methods.WELCH, methods.ROOT_T, methods.CLOPPER_PEARSON],
)
def test_the_page_holds_what_the_code_does(method: str) -> None:
    written = _written()
    for row in coverage.simulate(TRIALS, only=(method,)):
        for said, found in zip(written[row.method, row.of], row.covered, strict=True):
            error = math.sqrt(max(said * (1 - said), 0.002) / TRIALS)
            assert found == pytest.approx(said, abs=4.5 * error + 0.001), row


@pytest.mark.parametrize("method", [methods.T, methods.T_LOGS, methods.WELCH])
def test_t_intervals_hold_for_normal_and_for_symmetric_heavy_tailed_data(method: str) -> None:
    rows = {of: shares for (name, of), shares in _written().items() if name == method}
    held = [share for of, shares in rows.items() if "skewed" not in of for share in shares]
    assert len(held) == 6
    assert min(held) >= 0.935


def test_exact_and_conservative_methods_never_cover_less_than_they_say() -> None:
    for (method, _), shares in _written().items():
        if method in (methods.CLOPPER_PEARSON, methods.ORDER_STATISTICS):
            known = [share for share in shares if not math.isnan(share)]
            assert min(known) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / coverage.TRIALS)


def _written_biases() -> dict[tuple[str, float], list[float]]:
    """The page's table of biases: (where the noise lies, bias) -> shares."""
    text = PAGE.read_text(encoding="utf-8")
    text = text[text.index("| where the noise lies |") : text.index("Ratios of a law's variance")]
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \| (.+) \|$", text, re.MULTILINE)
    return {
        (where, float(size)): [float(cell.strip(" *")) / 100 for cell in cells.split(" | ")]
        for where, size, cells in rows
    }


def test_the_page_says_how_often_a_bias_is_covered_and_it_is_what_it_says_or_more() -> None:
    written = _written_biases()
    assert set(written) == {(where, size) for where in coverage.NOISE for size in coverage.BIASES}
    least = 0.95 - 3 * math.sqrt(0.95 * 0.05 / coverage.trials_of(coverage.TRIALS)[0])
    assert min(share for shares in written.values() for share in shares) > least


def test_the_interval_covers_a_bias_along_which_all_of_the_noise_lies() -> None:
    written = _written_biases()
    for row in coverage.bias_rows(100, only=("all along the bias",)):
        assert min(row.covered) > 0.86
        for said, found in zip(written[row.noise, row.size], row.covered, strict=True):
            assert found == pytest.approx(said, abs=4.5 * math.sqrt(0.95 * 0.05 / 100)), row


def test_the_page_says_where_the_bootstrap_covers_too_little() -> None:
    low = [shares[0] for (name, _), shares in _written().items() if name == methods.BOOTSTRAP]
    assert min(low) < 0.9
    assert "bootstrap under-covers" in PAGE.read_text(encoding="utf-8")
    assert "approximate" in methods.BOOTSTRAP


def test_a_measurement_is_called_heavy_where_its_interval_is_too_short() -> None:
    laws = ("normal gradients", "lognormal lengths, sigma 1.2", "Pareto lengths, index 3")
    light, tailed, power = (row for row in coverage.measure(80, laws) if row.draws == 2048)
    assert light.covered > 0.9
    assert light.flagged == 0.0
    assert tailed.covered < 0.93
    assert tailed.flagged > 0.8
    assert tailed.lean < light.lean
    assert power.covered < 0.93
    assert power.flagged > 0.8  # by its tail index: the kurtosis shows it in one of six
    assert kurtosis_limit(2048) == pytest.approx(0.5 * math.sqrt(2048))


def test_where_a_ratio_has_an_interval_it_holds_and_where_a_bound_the_bound_does() -> None:
    laws = ("lognormal lengths, sigma 0.5", "t gradients, 3 df")
    rows = [row for row in coverage.ratio_rows(coverage.FEWEST, laws) if row.draws == 1024]
    light, power = (row.trajectory for row in rows)
    assert (light.heavy, power.heavy) == (0.0, 1.0)
    assert light.quiet > 0.8
    assert power.bound > 0.9
    assert math.isnan(power.quiet)


def test_the_page_gives_no_interval_that_covers_less_than_nine_in_ten() -> None:
    """But for events that too few draws contain, at one snapshot."""
    rows = _written_ratios()
    assert len(rows) == 2 * len(coverage.lengths())
    error = 3 * math.sqrt(0.9 * 0.1 / coverage.trials_of(coverage.TRIALS)[1])
    for (law, draws), (_, bounds, quiet, held, *snapshot) in rows.items():
        assert math.isnan(quiet) or quiet > 0.9 - error, (law, draws)
        assert math.isnan(held) or held > 0.975 - error, (law, draws)
        assert math.isnan(snapshot[3]) or snapshot[3] > 0.975 - error, (law, draws)
        if law in ("normal gradients", "lognormal lengths, sigma 0.5"):
            assert (bounds, snapshot[1]) == (0.0, 0.0)


def test_the_tables_go_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{coverage.BEGIN}\nold\n{coverage.END}\nafter\n")
    coverage.write(page, "new")
    assert page.read_text() == f"before\n{coverage.BEGIN}\nnew\n{coverage.END}\nafter\n"
    page.write_text("no place")
    with pytest.raises(SystemExit, match="no place for the tables"):
        coverage.write(page, "new")


def test_no_interval_is_a_dash() -> None:
    row = coverage.Row(methods.ORDER_STATISTICS, "any", (math.nan, 0.96, 0.5))
    text = coverage.tables([row], [], [], [], 100)
    assert f"| {methods.ORDER_STATISTICS} | any | – | 96.0 | **50.0** |" in text
    assert np.isnan(coverage.holds(coverage.Estimate(1.0), 1.0))
