"""Shell completion for bash, zsh and fish, with the names of estimators, tasks and presets.

The names are written into the script: a shell completes whenever the key is pressed, and importing
torch to answer would take seconds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cyclopts import App

__all__ = ["script"]

LISTS = ("estimators", "tasks")  # options that take names separated by commas

# What cyclopts generates completes a single name. Here the names before the last comma are kept.
BASH = """
{function}_lists() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" option="${{COMP_WORDS[COMP_CWORD-1]}}" before=""
  [[ "$option" == "=" ]] && option="${{COMP_WORDS[COMP_CWORD-2]}}"
  if [[ " {options} " == *" $option "* && "$word" == *,* ]]; then
    before="${{word%,*}},"
    COMP_WORDS[COMP_CWORD]="${{word##*,}}"
  fi
  {function}
  COMPREPLY=("${{COMPREPLY[@]/#/$before}}")
}}
complete -F {function}_lists {program}
"""
ZSH = """
{function}_lists() {{
  local option=${{words[CURRENT-1]}}
  [[ ${{words[CURRENT]}} == --*=* ]] && option=${{words[CURRENT]%%=*}}
  [[ " {options} " == *" $option "* ]] && compset -P '*,'
  {function} "$@"
}}
compdef {function}_lists {program}
[[ $zsh_eval_context[-1] == loadautofunc ]] && {function}_lists "$@"
"""
FISH = (
    "complete -c {program} -n '__fish_{program}_using_command {verb}' -l {name} -x -a '{values}'\n"
)


def script(
    app: App, shell: Literal["bash", "zsh", "fish"], names: Mapping[str, Sequence[str]]
) -> str:
    """Return the script that makes a shell complete a command line.

    Args:
      app: The command line.
      shell: The shell.
      names: The values that exist, for each parameter that takes names.
    """
    program = app.name[0]
    shown = App(name=program, help=app.help, version=app.version)
    after = ""
    for verb in (verb for verb in app if not verb.startswith("-")):
        function = app[verb].default_command
        assert function is not None
        shown.command(_with_values(function, names), name=verb)
        for name in LISTS:
            if shell == "fish" and name in function.__annotations__:
                values = f"(__fish_append , {' '.join(names[name])})"
                after += FISH.format(program=program, verb=verb, name=name, values=values)
    text = shown.generate_completion(shell=shell)
    if shell != "fish":
        defined = re.search(r"^(\w+)\(\) \{", text, re.MULTILINE)
        assert defined is not None
        options = " ".join(f"--{name}" for name in LISTS)
        template = BASH if shell == "bash" else ZSH
        after = template.format(function=defined[1], program=program, options=options)
    return text + after


def _with_values(
    function: Callable[..., Any], names: Mapping[str, Sequence[str]]
) -> Callable[..., Any]:
    """Return a function with the same parameters, of which some have a choice of values."""

    @functools.wraps(function)
    def verb(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    choices = {
        name: Literal.__getitem__(tuple(values))
        for name, values in names.items()
        if name in function.__annotations__
    }
    verb.__annotations__ = function.__annotations__ | choices
    return verb
