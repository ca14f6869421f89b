"""What the shells complete, without starting Python."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from estbench import estimators, tasks
from estbench.cli import main
from estbench.config import presets

SHELLS = ("bash", "zsh", "fish")
WORDS = [
    (("run", "--preset", "seq"), {"seqgan", "seqgan-medium", "seqgan-small"}),
    (("run", "--estimators", "rod"), {"rodeo"}),
    (("run", "--estimators", "relax,rod"), {"relax,rodeo"}),
    (("run", "--tasks", "oracle-small,expressions-1"), {"oracle-small,expressions-15"}),
    (("check", "--estimators", "a,b,rod"), {"a,b,rodeo"}),
    (("check", "relax", "rod"), {"rodeo"}),
    (("che",), {"check"}),
]


@pytest.fixture
def script(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", request.param]) == 0
    return capsys.readouterr().out


def told(shell: str, script: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"there is no {shell} here")
    asked = subprocess.run([path, "-c", script], capture_output=True, text=True, check=False)
    assert not asked.stderr
    return asked.stdout


@pytest.mark.parametrize("script", SHELLS, indirect=True)
def test_every_name_is_in_the_script(script: str) -> None:
    for name in (*estimators.names(), *tasks.names(), *presets.names()):
        assert name in script


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_completes_names_and_the_last_of_a_list(script: str) -> None:
    ask = [
        f"COMP_WORDS=(estbench {' '.join(words)}); COMP_CWORD={len(words)}; COMPREPLY=();"
        'which_function; echo "${COMPREPLY[@]}"'
        for words, _ in WORDS
    ]
    # bash itself says what it calls at the key; without PATH it can start nothing.
    find = 'set -- $(complete -p estbench); eval "which_function() { $3; }"; PATH='
    lines = told("bash", "\n".join([script, find, *ask])).splitlines()
    assert [set(line.split()) for line in lines] == [wanted for _, wanted in WORDS]


@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish_completes_names_and_the_last_of_a_list(script: str) -> None:
    for words, wanted in WORDS[:-1]:
        lines = told("fish", f'{script}\ncomplete -C "estbench {" ".join(words)}"').splitlines()
        assert wanted <= {line.split("\t")[0] for line in lines}


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_can_read_its_script(script: str) -> None:
    said = told("zsh", f"compdef() {{ print $2 ${{+functions[$1]}} }}\n{script}")
    assert said == "estbench 1\n"
