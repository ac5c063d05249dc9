import importlib
import subprocess
import sys

import pytest

from data_prep.errors import InputError
from stjax import cli


def in_bash(script, *words):
    """What the completion offers after some words, the last of which is being typed."""
    ask = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _stjax; printf "%s\\n" "${COMPREPLY[@]}"'
    command = ["bash", "-c", f"{script}\n{ask}", "bash", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "completion"])
def test_every_command_is_a_module_with_a_main_and_options(name):
    module = cli.COMMANDS[name][0]
    assert callable(importlib.import_module(module).main)
    assert len(cli.options(module)) > 1


def test_help_has_a_line_for_each_command_and_loads_none_of_them():
    code = "import sys; from stjax import cli; cli.dispatch(['--help']); assert not {'jax', 'numpy'} & set(sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name, (_, about) in cli.COMMANDS.items():
        assert f"  {name:12s}{about}\n" in printed


def test_a_command_gets_the_arguments_after_its_name(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.dispatch(["predict", "--help"])
    assert ended.value.code == 0
    assert "usage: python -m stjax.predict" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        cli.dispatch(["predict", "--workdir=x"])
    assert ended.value.code == 2


def test_unknown_commands_offer_the_nearest_and_none_shows_the_usage(capsys):
    with pytest.raises(InputError, match="no command 'pedict'; did you mean 'predict'"):
        cli.dispatch(["pedict"])
    with pytest.raises(InputError, match="stjax --help lists them"):
        cli.dispatch(["xyzzy"])
    with pytest.raises(SystemExit) as ended:
        cli.dispatch([])
    assert ended.value.code == 2
    assert "usage: stjax COMMAND" in capsys.readouterr().err


def test_bash_completes_commands_and_their_options():
    script = cli.completion("bash")
    assert in_bash(script, "stjax", "pre") == ["predict"]
    assert set(in_bash(script, "stjax", "")) == set(cli.COMMANDS)
    assert "--workdir" in in_bash(script, "stjax", "export", "--")
    assert in_bash(script, "stjax", "train", "--conf") == ["--config"]
    assert in_bash(script, "stjax", "export", "some") == []  # bash then completes file names
    assert script in cli.completion("zsh")
    with pytest.raises(InputError, match="bash or zsh, not 'fish'"):
        cli.completion("fish")
