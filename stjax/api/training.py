"""Preparation and training from Python: what `stjax build` and `stjax train` do."""

import difflib
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import build, cli, plan
from data_prep.errors import InputError
from stjax import config as configs
from stjax import train
from stjax.api.model import Model, load
from stjax.api.wording import in_python
from stjax.config import Config


@in_python(target_um_per_px="um_per_px", ignore_check="ignore_checks")
def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    ignore_checks: Sequence[str] = (),
    **options: Any,
) -> Path:
    """Prepares raw sections: checks them, and makes a data set of patches or tiles, as `stjax build` does.

    Called again it goes on where it was stopped, or finds that the data set is there.

    Args:
        source: folder of the raw sections, in one of the layouts of docs/layouts.
        out: folder of the data set.
        workers: processes, each with one section at a time. In a script (not in a notebook) more than one need the call
            to stand under `if __name__ == "__main__":`.
        ignore_checks: names of checks whose errors do not stop the preparation.
        options: see `data_prep.plan.Options`: `layout`, `sections`, `patch_size_px` (224), `tile_size_px`,
            `um_per_px` (the scale to resample to), `source_um_per_px` (that of the slides), `stain`, `min_counts` ...

    Returns:
        `out`, which `fit` takes.

    Raises:
        InputError: raw data that is not in order, an unknown option, or `out` holds something else.

    Example:
        >>> data = stjax.prepare("raw/her2st", "data/her2st", skip_incomplete=True)
    """
    build.build(Path(source), Path(out), workers=workers, ignore_checks=_names(ignore_checks), **_options(options))
    return Path(out)


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    return cli.names(value) if isinstance(value, str) else tuple(value)


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as `plan.Options` has them. Raises InputError for one that it lacks, or a value of another type."""
    kinds, result = typing.get_type_hints(plan.Options), {}
    for name, value in given.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            known = f"did you mean {near[0]}?" if near else f"it has {', '.join(kinds)}"
            raise InputError(f"stjax.prepare has no option {name!r}; {known}")
        allowed = [typing.get_origin(kind) or kind for kind in typing.get_args(kinds[name]) or (kinds[name],)]
        if tuple in allowed and value is not None:
            value = _names(value) if name == "sections" else tuple(value)
        elif Path in allowed and isinstance(value, str):
            value = Path(value)
        elif str in allowed and isinstance(value, Path):
            value = str(value)
        elif float in allowed and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, tuple(allowed)) or (isinstance(value, bool) and bool not in allowed):
            expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in allowed)
            raise InputError(f"{name} is {value!r}, expected {expected}")
        result[name] = value
    return result


@in_python(data_dir="data")
def fit(
    config: str | os.PathLike[str] | Config,
    data: str | os.PathLike[str] | None = None,
    *,
    workdir: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Model:
    """Trains a model and scores it on the patients held out, as `stjax train` does.

    Called again with the same settings it resumes a run that was stopped, or finds it finished and scores it again.

    Args:
        config: the name of a config that comes with stjax ("enet_b0_aux"), a Python file, or a ConfigDict.
        data: a data set that `prepare` made; None takes the config's, or the synthetic demo's.
        workdir: where the run lives; default runs/<name of the config>.
        settings: of the config, in place of its own: `num_epochs=30`, `model={"variant": "b1"}`, or, of single keys of
            a group, `**{"model.variant": "b1"}`; configs/default.py explains every one.

    Returns:
        The trained model; `metrics` and `per_gene` are its figures.

    Raises:
        InputError: config, data or work directory do not fit.
        FloatingPointError: the loss became NaN or infinite.

    Example:
        >>> model = stjax.fit("enet_b0_aux", "data/her2st", workdir="runs/c5", test_sections="C5")
        >>> model.metrics["methods"]["model"]["pcc_median"]
    """
    chosen, name = configs.get(Path(config) if isinstance(config, os.PathLike) else config)
    if data is not None:
        if "data_dir" in settings:
            raise InputError("the data set is given twice, as data and as data_dir; give it once")
        settings["data_dir"] = os.fspath(data)
    if workdir is None and not name:
        raise InputError("a ConfigDict has no name to call the run by; give workdir, the folder where it is to live")
    folder = Path("runs") / name if workdir is None else Path(workdir)
    train.run(configs.changed(chosen, settings), folder)
    return load(folder)
