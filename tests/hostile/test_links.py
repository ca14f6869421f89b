"""Result sets that reach out of themselves: links, pipes, names and captions that climb."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from estbench.cli import main
from estbench.core.errors import UserError
from estbench.report.building import load_comparisons
from estbench.store import ResultSet, encode

from .rule import in_time

RUN = "runs/oracle-small/reinforce/seed-000.json"


@pytest.fixture
def copied(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "set"))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious.svg").write_text("precious")
    return folder


def refused(words: list[str], capsys: Any, *texts: str) -> None:
    with in_time():
        assert main(words) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    for text in texts:
        assert text in said


@pytest.mark.parametrize("name", ["tables", "figures", "runs/oracle-small/else", "tensorboard"])
def test_a_folder_that_leads_out_is_refused_and_nothing_is_written(
    copied: Path, outside: Path, capsys: Any, name: str
) -> None:
    (copied / name).symlink_to(outside)
    refused(["report", str(copied)], capsys, name, "outside of the result set")
    assert [path.name for path in outside.iterdir()] == ["precious.svg"]
    assert not (copied / "report.html").exists()
    with pytest.raises(UserError, match="outside of the result set"), ResultSet(copied).writing():
        pass
    assert [path.name for path in outside.iterdir()] == ["precious.svg"]


def test_a_result_set_that_is_a_link_itself_is_read(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(copied)
    (copied / "more").symlink_to(copied / "runs")
    assert load_comparisons(tmp_path / "linked").results.tasks == ["oracle-small"]


def test_a_lock_that_leads_out_is_refused(copied: Path, outside: Path) -> None:
    (copied / ".lock").symlink_to(outside / "made")
    with pytest.raises(Exception, match="cannot write to"), ResultSet(copied).writing():
        pass
    assert not (outside / "made").exists()


def test_a_link_that_takes_a_record_s_place_meanwhile_is_replaced_and_not_followed(
    copied: Path, outside: Path
) -> None:
    results, path = ResultSet(copied), copied / RUN
    with results.writing():
        record = results.read(path)
        path.unlink()
        path.symlink_to(outside / "precious.svg")
        results.write(path, encode(record))
    assert (outside / "precious.svg").read_text() == "precious"
    assert not path.is_symlink()
    assert results.read(path) == record


@pytest.mark.parametrize("name", [RUN, "manifest.json", "proofs.json", "timing/000.json"])
def test_a_pipe_is_not_waited_for(copied: Path, capsys: Any, name: str) -> None:
    (copied / name).unlink(missing_ok=True)
    os.mkfifo(copied / name)
    refused(["report", str(copied)], capsys, name, "not a regular file")


@pytest.mark.parametrize("name", [RUN, "manifest.json"])
def test_a_device_is_not_read(copied: Path, capsys: Any, name: str) -> None:
    (copied / name).unlink()
    (copied / name).symlink_to("/dev/zero")
    refused(["report", str(copied)], capsys, name, "not a regular file")


@pytest.mark.parametrize("key", ["task", "estimator"])
@pytest.mark.parametrize("value", ["../../outside", "rebar", "/etc", ".."])
def test_a_record_speaks_for_its_own_place_alone(
    copied: Path, outside: Path, capsys: Any, key: str, value: str
) -> None:
    record = json.loads((copied / RUN).read_bytes()) | {key: value}
    (copied / RUN).write_text(json.dumps(record))
    for more in ([], ["--tensorboard"]):
        refused(["report", str(copied), *more], capsys)
    assert [path.name for path in outside.iterdir()] == ["precious.svg"]


def test_captions_delete_nothing_elsewhere(copied: Path, outside: Path) -> None:
    from estbench.report.building import _captioned

    path = copied / "figures" / "captions.json"
    path.parent.mkdir()
    names = ["../../outside/precious", str(outside / "precious"), "..", "old"]
    path.write_text(json.dumps({name: {} for name in names}))
    assert _captioned(path) == {"old"}
    for content in (b"[1]", b"3", b"{", b'["../x"]', b"\xff"):
        path.write_bytes(content)
        assert _captioned(path) == set()


def test_a_manifest_that_names_other_places_is_refused(copied: Path, capsys: Any) -> None:
    manifest = json.loads((copied / "manifest.json").read_bytes())
    for key in ("tasks", "estimators", "also_measured"):
        changed = json.loads(json.dumps(manifest))
        changed["experiment"][key] = ["../../outside"]
        (copied / "manifest.json").write_text(json.dumps(changed))
        refused(["report", str(copied)], capsys, "manifest.json is damaged")
        refused(["run", "--preset", "smoke", "--out", str(copied)], capsys, "manifest.json")
