"""The command `stjax`: every command line of stjax and data_prep under one name.

`stjax predict --help` is `python -m stjax.predict --help`. A command's module is imported only when it is asked for.
"""

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
from importlib import metadata
from pathlib import Path

from data_prep import cli, heartbeat, startup
from data_prep.errors import InputError

COMMANDS = {  # name: module, and what it does
    "demo": ("data_prep.demo", "generate synthetic raw data, to try everything on"),
    "check": ("data_prep.check", "check raw data before preparing it: layout, scale, duplicates, leaks"),
    "build": ("data_prep.build", "prepare raw data: a data set of patches or tiles"),
    "train": ("stjax.train", "train a model, and score it on the patients held out"),
    "crossval": ("stjax.crossval", "train and score every fold"),
    "evaluate": ("stjax.evaluate", "score a trained model and compare it with baselines"),
    "predict": ("stjax.predict", "predict expression from slides, as files other tools open"),
    "export": ("stjax.export", "export a model as one folder, to be passed on"),
    "suite": ("stjax.suite", "reproduce the tables of a paper or a benchmark: plan, run, print"),
    "hest-bench": ("stjax.hest_bench", "score encoders on HEST-Benchmark, from its downloaded folder"),
    "report": ("stjax.report", "a report on a run, as one HTML file"),
    "audit": ("stjax.audit", "look for leaks from the scored sections into training"),
    "embed": ("stjax.embed", "vectors of every spot of a data set from a published encoder"),
    "encoders": ("stjax.encoders", "published encoders: licences, and where their weights come from"),
    "bench": ("stjax.bench", "measure how fast training, prediction and their parts are here"),
    "doctor": ("stjax.doctor", "check this installation, and train two steps"),
    "completion": ("stjax.cli", "a script that completes this command: stjax completion bash|zsh"),
}
SHELLS = ("bash", "zsh")

_BASH = """\
_stjax() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} options=""
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$current"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    case "$current" in
        -*) COMPREPLY=($(compgen -W "$options" -- "$current")) ;;
    esac
}}
complete -o bashdefault -o default -F _stjax stjax
"""
_ZSH = """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
autoload -Uz bashcompinit && bashcompinit  # zsh runs bash's completions
"""


def main() -> None:
    """The console entry."""
    cli.program(dispatch)


def dispatch(arguments: list[str]) -> None:
    """Runs the command that the first argument names with the others. Raises InputError for an unknown one."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name in ("-h", "--help", "help"):
        print(usage())
    elif name in ("-V", "--version"):
        print(f"stjax {metadata.version('stjax')}")
    elif name == "completion":
        print(completion(rest[0] if rest else ""), end="")
    elif name in COMMANDS:
        startup.begin()
        try:
            with heartbeat.doing("starting"):
                command = importlib.import_module(COMMANDS[name][0])
        finally:
            startup.over()
        command.main(rest)
    elif not name:
        print(usage(), file=sys.stderr)
        sys.exit(2)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "stjax --help lists them"
        raise InputError(f"stjax has no command {name!r}; {hint}")


def usage() -> str:
    """What `stjax --help` prints."""
    lines = [f"  {name:12s}{about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: stjax COMMAND [OPTIONS]",
            "",
            "Spatial gene expression from H&E histology, in JAX. For research, not for diagnosis.",
            "",
            *lines,
            "",
            "stjax COMMAND --help shows a command's options and examples, stjax --version the version.",
        ]
    )


def completion(shell: str) -> str:
    """The completion script of a shell.

    Raises:
        InputError: another shell than bash and zsh.
    """
    if shell not in SHELLS:
        raise InputError(
            f"completion is for {' or '.join(SHELLS)}, not {shell!r}; add this to the shell's start-up file: "
            'eval "$(stjax completion bash)"'
        )
    cases = [f'        {name}) options="{" ".join(options(module))}" ;;' for name, (module, _) in COMMANDS.items()]
    script = _BASH.format(commands=" ".join(COMMANDS), cases="\n".join(cases))
    return _ZSH + script if shell == "zsh" else script


def options(module: str) -> list[str]:
    """The options of a module's command line, read off its source: importing every one would take a while."""
    spec = importlib.util.find_spec(module)
    if module == __name__ or spec is None or spec.origin is None:
        return []
    source = Path(spec.origin).read_text()
    if "cli.add_reading(" in source:
        source += inspect.getsource(cli.add_reading)
    found = re.findall(r"add_argument\(\s*\"(--[a-z][\w-]*)\"", source) or re.findall(r"(--[a-z]\w*)=", source)
    return sorted({*found, "--help"})
