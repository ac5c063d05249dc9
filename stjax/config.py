"""Configs: read from a Python file and the command line, filled from the protocol, then fixed and kept as JSON."""

import difflib
import json
import math
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from data_prep.errors import InputError
from stjax.protocols import WITHOUT, Protocol

Config = Any  # an ml_collections.ConfigDict, whose fields have no static types

LOWEST = {
    **dict.fromkeys(("num_epochs", "batch_size", "eval_batch_size", "log_every_steps"), 1),
    **dict.fromkeys(("seed", "num_workers", "warmup_steps", "early_stopping_patience", "fold"), 0),
    **dict.fromkeys(("micro_batch", "save_every_steps", "step_timeout_s"), 0),
    **dict.fromkeys(("aux_weight", "weight_decay", "momentum", "backbone_learning_rate_scale"), 0),
    **dict.fromkeys(("max_gradient_norm", "ema_decay"), 0),
}

# Fields that may change between a run and its resumption: they do not touch the numbers.
FREE_ON_RESUME = (
    *("data_dir", "num_workers", "eval_batch_size", "log_every_steps"),
    *("save_every_steps", "step_timeout_s", "profile_steps"),
)


def parse(arguments: Sequence[str], *, usage: str) -> tuple[Config, Path]:
    """Reads `--config=FILE`, its `--config.KEY=VALUE` overrides and `--workdir=DIR`.

    Args:
        usage: what `--help` prints.

    Returns:
        The config, and the work directory: `runs/<config file's name>` unless given.

    Raises:
        InputError: no config, an unknown key or flag, or a value of the wrong type.
    """
    if not arguments or {"--help", "-h", "-help"} & set(arguments):
        print(usage)
        sys.exit(0 if arguments else 2)
    values = flags.FlagValues()
    argv = ["train", *arguments]  # not those of the program that calls this
    config_flags.DEFINE_config_file("config", None, "path of the config", flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "where the run lives", flag_values=values)
    path = next((a.split("=", 1)[1] for a in arguments if a.startswith(("--config=", "-config="))), None)
    if path is None:
        raise InputError("no config is given; add --config=configs/enet_b0_aux.py")
    if not Path(path.split(":")[0]).is_file():
        raise InputError(f"config file {path} does not exist; the ones shipped are in configs/")
    sys.path.insert(0, str(Path(path).resolve().parent.parent))  # so that a config may import configs.default
    try:
        rest = values(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(_explain(path, arguments, error)) from None
    finally:
        sys.path.pop(0)
    if rest:
        raise InputError(f"argument {rest[0]!r} is not understood; options are --config, --config.KEY=VALUE, --workdir")
    return values.config, Path(values.workdir or Path("runs") / Path(path).stem)


def _explain(path: str, arguments: Sequence[str], error: Exception) -> str:
    """Which override the config has no place for, with the nearest key that exists."""
    try:
        known = list(_flatten(runpy.run_path(path.split(":")[0])["get_config"]().to_dict()))
    except Exception:  # a config file may fail in any way; what the parser said about it then stands
        return f"{path}: {error}"
    for argument in arguments:
        name = argument.lstrip("-").split("=", 1)[0]
        if name.startswith("config."):
            key = name.removeprefix("config.")
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                return f"config has no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else f" in {path}")
    return f"{error}"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def resolve(config: Config, protocol: Protocol, *, demo: bool) -> Config:
    """Fills the fields left at None: from `config.demo` when the data is the demo, then from the protocol's recipe.

    Returns:
        A frozen config without None.
    """
    config = config.copy_and_resolve_references()
    for name in protocol.recipe:
        if config[name] is None:
            config[name] = config.demo[name] if demo and name in config.demo else protocol.recipe[name]
    for name, lowest in LOWEST.items():
        if config[name] < lowest:
            raise InputError(f"config.{name} is {config[name]}, expected at least {lowest}")
    for name in ("momentum", "ema_decay"):
        if config[name] >= 1:
            raise InputError(f"config.{name} is {config[name]}, expected less than 1")
    if not config.learning_rate > 0:
        raise InputError(f"config.learning_rate is {config.learning_rate}, expected a positive number")
    config.lock()
    return config


def names(text: str) -> tuple[str, ...]:
    """ "A, B" to ("A", "B")."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str, name: str) -> tuple[float, ...]:
    """ "2, 8" to (2.0, 8.0). Raises InputError, naming the option `name`, unless all are positive."""
    try:
        values = tuple(float(part) for part in names(text))
    except ValueError:
        values = (math.nan,)
    if not all(0 < value < math.inf for value in values):
        raise InputError(f"{name} is {text!r}, expected positive numbers such as 2,8,16")
    return values


def load(path: Path) -> Config:
    """The config a run was trained with; of the work directory plain data is read, nothing is executed.

    Settings that stjax has only had since then are at their defaults, which are what it did before.
    """
    try:
        config = ConfigDict(_filled(json.loads(path.read_text()), _defaults()))
    except OSError:
        raise InputError(f"{path.parent} is no work directory: it has no {path.name}; train one first") from None
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not readable JSON ({error}); restore it or train in a new work directory"
        ) from None
    config.lock()
    return config


def _defaults() -> dict[str, Any]:
    """What configs/default.py, shipped beside this package, says, and what training did before it could do more."""
    values = runpy.run_path(str(Path(__file__).parents[1] / "configs" / "default.py"))["get_config"]().to_dict()
    return values | WITHOUT


def _filled(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, and the defaults of keys that they lack. Raises TypeError for what is no mapping."""
    result = {**defaults, **values}
    for key in values.keys() & defaults.keys():
        if isinstance(defaults[key], Mapping):
            result[key] = _filled(values[key], defaults[key])
    return result


def check_same_run(saved: Config, asked: Config, workdir: Path) -> None:
    """Raises InputError when a work directory holds a run of another config, naming what differs."""
    before, now = _flatten(saved.to_dict()), _flatten(asked.to_dict())
    differing = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before | now)
        if key.split(".")[0] not in FREE_ON_RESUME and before.get(key) != now.get(key)
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise InputError(
            f"work directory {workdir} holds another run: {'; '.join(differing[:3])}{more}; "
            "choose another --workdir, or ask for the same run to resume it"
        )
