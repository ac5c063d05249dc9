"""Configs: read from a Python file and the command line, filled from the protocol, then fixed and kept as JSON."""

import copy
import difflib
import math
import runpy
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from data_prep import cli, json_files
from data_prep.cli import names
from data_prep.errors import InputError
from data_prep.json_files import Lacking, Maybe
from stjax.protocols import WITHOUT, Protocol

Config = Any  # an ml_collections.ConfigDict, whose fields have no static types

LOWEST = {
    **dict.fromkeys(("num_epochs", "batch_size", "eval_batch_size", "log_every_steps"), 1),
    **dict.fromkeys(("seed", "num_workers", "warmup_steps", "early_stopping_patience", "fold"), 0),
    **dict.fromkeys(("micro_batch", "save_every_steps", "step_timeout_s", "spots_per_item", "rank"), 0),
    **dict.fromkeys(("aux_weight", "weight_decay", "momentum", "backbone_learning_rate_scale"), 0),
    **dict.fromkeys(("max_gradient_norm", "ema_decay"), 0),
}

COMMAND_OPTIONS = ("config", "workdir", "help")  # of training, besides --config.KEY
HIGHEST_AUGMENTATION = {
    **dict.fromkeys(("stain", "brightness", "gamma"), 0.9),
    "blur_px": 10,
    "sharpen": 5,
    "jpeg": 100,
    "scale": 0.5,
}

GRADIENT, CLOSED_FORM = FITS = ("gradient", "closed_form")
STANDARDISED = ("training", "section")
PATIENTS, BLOCKS = SPLITS = ("patients", "blocks")

# Fields that may change between a run and its resumption: they do not touch the numbers.
FREE_ON_RESUME = (
    *("data_dir", "embed", "num_workers", "eval_batch_size", "log_every_steps", "encoder_weights"),
    *("save_every_steps", "step_timeout_s", "profile_steps"),
)


def built_in(name: str) -> Config:
    """A config that comes with stjax, by its name in configs/, not yet resolved: what others build on.

    Raises:
        InputError: there is none of that name.
    """
    if name not in (known := built_in_names()):
        raise InputError(f"stjax has no config {name!r}; it has {', '.join(known)}")
    return runpy.run_path(str(_built_in_folder() / f"{name}.py"))["get_config"]()


def built_in_names() -> list[str]:
    """Of the configs that come with stjax."""
    return sorted(path.stem for path in _built_in_folder().glob("*.py"))


def _built_in_folder() -> Path:
    """configs/: next to this package in a clone, within it where it is installed (see pyproject.toml). Never a module
    of that name, which may be the user's own."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "configs"


def get(config: "str | Path | Config") -> tuple[Config, str]:
    """A config, not yet resolved, and its name.

    Args:
        config: the name of one that comes with stjax, a Python file, or a ConfigDict, which is copied and has no name.

    Raises:
        InputError: there is no such config, or its file fails.
    """
    if isinstance(config, ConfigDict):
        return copy.deepcopy(config), ""
    if isinstance(config, str) and config in built_in_names():
        return built_in(config), config
    if not isinstance(config, str | Path):
        raise InputError(
            f"the config is a {type(config).__name__}, expected the name of one ({', '.join(built_in_names())}), a "
            "file, or a ConfigDict"
        )
    path = _config_file(str(config))
    return _config_in(path, ""), path.stem


def changed(config: Config, settings: Mapping[str, Any]) -> Config:
    """A copy of a config with other settings.

    Args:
        settings: values by key; those of a group as a mapping, or under dotted keys, such as "model.variant". A list
            does for a text that lists names or numbers, and a path for that of a file.

    Raises:
        InputError: a key the config does not have, or a value of the wrong type.
    """
    config = copy.deepcopy(config)
    keys = _flatten(config.to_dict())
    for key, value in _flatten(settings).items():
        if key not in keys:
            raise _no_key(key, keys, "; configs/default.py lists them all")
        *groups, name = key.split(".")
        group = config
        for each in groups:
            group = group[each]
        try:
            group[name] = _as_setting(value, group.get_type(name))
        except (TypeError, ValueError):
            raise InputError(f"config.{key} is {value!r}, expected {group.get_type(name).__name__}") from None
    return config


def _as_setting(value: Any, kind: type) -> Any:
    """A value as a setting of type `kind` has it."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) and kind in (int, float):
        raise TypeError
    if kind is str and isinstance(value, list | tuple):
        return ", ".join(f'"{part}"' if "," in str(part) else str(part) for part in value)
    return str(value) if kind is str and isinstance(value, Path) else value


def parse(arguments: Sequence[str], *, usage: str, others: Sequence[str] = ()) -> tuple[Config, Path]:
    """Reads `--config=FILE`, its `--config.KEY=VALUE` overrides and `--workdir=DIR`; a blank does for the "=", and "-"
    for the "_" of a key.

    Args:
        usage: what `--help` prints.
        others: options that the caller has taken out already.

    Returns:
        The config, and the work directory: `runs/<config file's name>` unless given.

    Raises:
        InputError: no config, an unknown key or flag, one given twice, or a value of the wrong type.
    """
    if not arguments or {"--help", "-h", "-help"} & set(arguments):
        print(usage)
        sys.exit(0 if arguments else 2)
    given = options(arguments)
    text, folder = given.pop("config", None), given.pop("workdir", None)
    if not text:
        raise InputError("no config is given; add --config=configs/enet_b0_aux.py")
    path, _, argument = text.partition(":")
    path = _config_file(path)
    config = _config_in(path, argument)
    _check_options(given, config, path, others)
    values, argv = flags.FlagValues(), ["train", *as_arguments(given)]  # not those of the program that calls this
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{error}") from None
    return values.config, Path(folder or Path("runs") / path.stem)


def options(arguments: Sequence[str]) -> dict[str, str | None]:
    """Options as {name: value}, from `--name=VALUE` or `--name VALUE`; None for one without a value. Names have "_" in
    place of "-".

    Raises:
        InputError: an option given twice, or something that is no option.
    """
    found: dict[str, str | None] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not _is_option(argument):
            raise InputError(f"argument {argument!r} is not understood; options are given as --NAME=VALUE")
        name, equals, value = argument.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if not equals:
            value = rest.pop(0) if rest and not _is_option(rest[0]) else None
        for other in (name, f"no{name}", name.removeprefix("no")):  # --noconfig.augment is --config.augment=False
            if other in found:
                raise cli.given_twice(f"--{other}", found[other], value)
        found[name] = value
    return found


def as_arguments(given: Mapping[str, str | None]) -> list[str]:
    """What `options` reads as `given`."""
    return [f"--{name}" if value is None else f"--{name}={value}" for name, value in given.items()]


def _is_option(argument: str) -> bool:
    return argument[:1] == "-" and argument.lstrip("-")[:1].isalpha()  # not so the value -1


def _config_file(text: str) -> Path:
    """The file that `--config` names. What is no file may be the name or the usual place of a config that comes with
    stjax.

    Raises:
        InputError: it is neither.
    """
    path, known = Path(text), built_in_names()
    if path.is_file():
        return path
    if path.parent in (Path(), Path("configs")) and path.suffix in ("", ".py") and path.stem in known:
        print(f"note: {text} is no file here; the config {path.stem} that comes with stjax is used")
        return _built_in_folder() / f"{path.stem}.py"
    raise InputError(f"config file {text} does not exist; those that come with stjax are {', '.join(known)}")


def _config_in(path: Path, argument: str) -> Config:
    """What a file's `get_config` returns. Raises InputError, with the fault, when it fails."""
    try:
        module = runpy.run_path(str(path))
        if "get_config" not in module:
            raise TypeError("it has no function get_config()")
        config = module["get_config"](*filter(None, [argument]))
        if not isinstance(config, ConfigDict):
            raise TypeError(f"get_config() returns {type(config).__name__}, expected a ConfigDict")
        return config
    except Exception as error:  # a program, which may fail in any way
        text = f"config file {path} fails: {type(error).__name__}: {error}"
        if isinstance(error, ImportError) and (error.name or "").split(".")[0] == "configs":
            text += "; to build on a config of stjax: from stjax.config import built_in, then built_in('default')"
        raise InputError(text) from None


def _check_options(given: Iterable[str], config: Config, path: Path, others: Sequence[str]) -> None:
    """Raises InputError for an option, or a key of the config, that does not exist, with the nearest that does."""
    keys = list(_flatten(config.to_dict()))
    for name in given:
        prefix, dot, key = name.partition(".")
        if prefix in ("config", "noconfig") and dot:
            if key.partition("[")[0] not in keys:
                raise _no_key(key, keys, f" in {path}")
        elif name in keys:
            raise InputError(f"there is no option --{name}; did you mean --config.{name}?")
        elif name not in COMMAND_OPTIONS:
            known = (*COMMAND_OPTIONS, *others, *(f"config.{key}" for key in keys))
            raise cli.no_such_option(f"--{name}", [f"--{each}" for each in known])


def _no_key(key: str, known: Iterable[str], otherwise: str) -> InputError:
    """The error for a key that a config does not have: the nearest that it has, or `otherwise`."""
    near = difflib.get_close_matches(key, list(known), n=1)
    return InputError(f"config has no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else otherwise))


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
    for name, highest in HIGHEST_AUGMENTATION.items():
        if not 0 <= config.augmentation[name] <= highest:
            raise InputError(
                f"config.augmentation.{name} is {config.augmentation[name]}, expected 0, which is off, to {highest}"
            )
    if not config.learning_rate > 0:
        raise InputError(f"config.learning_rate is {config.learning_rate}, expected a positive number")
    if config.split not in SPLITS:
        raise InputError(f"config.split is {config.split!r}; choose one of {', '.join(SPLITS)}")
    named = [key for key in ("test_patients", "test_sections", "val_sections") if config[key]]
    if config.split == BLOCKS and named:
        raise InputError(f"config.{named[0]} names what is held out whole, config.split=blocks divides every section")
    if config.fit not in FITS:
        raise InputError(f"config.fit is {config.fit!r}; choose one of {', '.join(FITS)}")
    if config.standardise_features not in STANDARDISED:
        known = ", ".join(STANDARDISED)
        raise InputError(f"config.standardise_features is {config.standardise_features!r}; choose one of {known}")
    if config.rank and config.fit != CLOSED_FORM:
        raise InputError(f"config.rank is {config.rank}, which is for config.fit={CLOSED_FORM}; leave it at 0")
    if config.fit == CLOSED_FORM:
        if config.model.aux:
            raise InputError(f"under config.fit={CLOSED_FORM} AuxNet changes nothing; add --config.model.aux=False")
        if any(config.augmentation.values()):
            raise InputError(f"config.fit={CLOSED_FORM} takes images as they are; leave config.augmentation at 0")
        config.num_epochs = 1
    config.lock()
    return config


def numbers(text: str, name: str) -> tuple[float, ...]:
    """ "2, 8" to (2.0, 8.0). Raises InputError, naming the option `name`, unless all are positive."""
    try:
        values = tuple(float(part) for part in names(text))
    except ValueError:
        values = (math.nan,)
    if not all(0 < value < math.inf for value in values):
        raise InputError(f"{name} is {text!r}, expected positive numbers such as 2,8,16")
    return values


def spot_sizes(config: Config) -> tuple[float, ...]:
    """The sizes of spots to train on, micrometres; none given: all there are."""
    return numbers(config.spot_sizes_um, "config.spot_sizes_um")


def load(path: Path) -> Config:
    """The config a run was trained with; of the work directory plain data is read, nothing is executed.

    Settings that stjax has only had since then are at their defaults, which are what it did before.
    """
    remedy = "restore it, or train in a new work directory"
    if not path.exists():
        lacks = f"it has no {path.name}" if path.parent.is_dir() else "there is no such folder"
        raise InputError(f"{path.parent} is not a stjax run directory: {lacks}; train one first")
    values = json_files.read_sealed(path, remedy=remedy)
    defaults = built_in("default")
    json_files.require(values, _kinds(defaults), str(path), remedy=remedy)
    try:
        config = ConfigDict(_filled(values, defaults.to_dict() | WITHOUT))  # what training did before it could do more
    except (ValueError, TypeError) as error:  # a key that can be no field's
        raise InputError(f"{path}: {error}; {remedy}") from None
    config.lock()
    return config


def _kinds(defaults: Config) -> dict[str, Any]:
    """What each setting may be: of its default's type, and in its range."""
    result: dict[str, Any] = {}
    for key in defaults:
        kind, low = defaults.get_type(key), LOWEST.get(key)
        if isinstance(defaults[key], ConfigDict):
            result[key] = Lacking(_kinds(defaults[key]))
            continue
        known = {
            bool: json_files.FLAG,
            int: json_files.whole_number(-(2**31) if low is None else low),
            float: json_files.number(-math.inf if low is None else low),
            str: json_files.TEXT,
        }
        result[key] = Lacking(Maybe(known.get(kind, json_files.ANY)))
    return result


def _filled(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, and the defaults of keys that they lack. Raises TypeError for what is no mapping."""
    result = {**defaults, **values}
    for key in values.keys() & defaults.keys():
        if isinstance(defaults[key], Mapping) and key != "options":  # those are the model's own, which has defaults
            result[key] = _filled(values[key], defaults[key])
    return result


def check_same_run(saved: Config, asked: Config, workdir: Path, *, data: str = "") -> None:
    """Raises InputError when a work directory holds a run of another config or on other data, naming what differs.

    Args:
        data: how the data differ, which is said first.
    """
    before, now = _flatten(saved.to_dict()), _flatten(asked.to_dict())
    differing = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before | now)
        if key.split(".")[0] not in FREE_ON_RESUME and before.get(key) != now.get(key)
    ]
    if data:
        differing.insert(0, data)
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise InputError(
            f"work directory {workdir} holds another run: {'; '.join(differing[:3])}{more}; "
            "choose another --workdir, or ask for the same run to resume it"
        )
