"""Spots of other sizes: PixNet's Table 2 on synthetic Visium HD, whose cells' expression is known.

Every method is trained on bins of 16 um and scored on those of 2, 8 and 16 um of a patient held out, compared with its
prediction for the nearest bin of 16 um.
"""

import dataclasses
from collections.abc import Sequence

from stjax import protocols
from stjax.suites import Command, Data, Embedding, Options, Run, Suite, _sizes, comparators, train
from stjax.suites._encoders import crossed
from stjax.suites._state import Place
from stjax.suites._table import Part

PART = "Trained on bins of 16 um"
TRAINED_UM, SIZES_UM, HELD_OUT = 16, (2, 8, 16), "F1"
_ABOUT = "synthetic Visium HD slides of six patients (data_prep.demo)"
_DEMO = ("--layout=visium_hd", "--patients=6", "--sections-per-patient=1", "--spots=1")
_SLIDES = {patient: (f"{patient}1_016um",) for patient in "ABCDEF"}
_NAMES = tuple(f"{HELD_OUT}_{size:03d}um" for size in SIZES_UM)
_PATCHES = ("--patch-size-px=64", "--min-counts=0")
_ONE_SIZE = (*_PATCHES, f"--bin-um={TRAINED_UM}")
_ALL_SIZES = (*_PATCHES, f"--sections={','.join(_NAMES)}")
_FOUR = ",".join(f"{patient}1_{TRAINED_UM:03d}um" for patient in "CDEF")  # patients of --tiny
TRAINED = Data(
    "bins_of_16_um", None, _ABOUT, _ONE_SIZE, _DEMO, (*_PATCHES, f"--sections={_FOUR}", "--bin-blocks=4/128"),
    _SLIDES, 880,
)  # fmt: skip
EVERY = Data(
    "bins_of_all_sizes", None, _ABOUT, _ALL_SIZES, _DEMO, (*_ALL_SIZES, f"--bin-blocks=2/{2 * TRAINED_UM}"),
    {"F": _NAMES}, 10_074,
)  # fmt: skip
TILES = Data(
    "tiles", None, _ABOUT, ("--tile-size-px=128", "--min-counts=0"), _DEMO, ("--tile-size-px=128", "--min-counts=0"),
    {patient: tuple(f"{patient}1_{size:03d}um" for size in SIZES_UM) for patient in "ABCDEF"}, 60_000,
)  # fmt: skip
OF_PATCHES = ("b0_aux", "stnet")
# F is stained more strongly than the five slides to learn from, where networks of patches, trained from random weights,
# go astray: without this b0's squared error is ten times the mean predictor's.
STAINED = {"augmentation__stain": 0.2}
TINY = (comparators.RIDGE, "EGGN")  # rows of --tiny
FEATURES = {"lite0": comparators.SPOT, "lite0_around": Embedding("lite0_around", comparators.ENCODER, context=3)}
FIGURES = _sizes.figures(SIZES_UM, SIZES_UM[:-1], ("mse",))
NOTES = (
    "scored against the expected expression of the tissue's cells, without the noise of counts",
    "nearest: what the same model says of the nearest bin of 16 um",
    "stains of the training slides are varied (augmentation.stain 0.2) for EfficientNet-b0 and ST-Net",
    "one slide, budgets cut as those of the suite comparators: to see how methods carry over to other sizes, not which "
    "is better",
)


def suite(options: Options) -> Suite:
    """Every method once, and a seed; with --tiny some; with --encoder, heads on features are a row for each encoder."""
    runs = []
    for method in crossed(comparators.models(options, TINY), FEATURES, options):
        name, config = method.name, method.config
        if name.endswith("as_released"):
            continue
        steady = {} if config == "ridge_features" else protocols.STEADY  # which the protocol pixnet lacks
        stained = STAINED if name in OF_PATCHES else {}
        given = {
            **steady,
            **stained,
            **method.settings,
            "protocol": "pixnet",
            **(comparators.tiny(name) if options.tiny else {}),
        }
        features = (method.features,) if method.features else ()
        patches = [dataclasses.replace(data, features=features) for data in (TRAINED, EVERY)]
        data = (TILES,) if name == "pixnet" else tuple(patches)
        if name == "histogene":
            given["model__options__crop_px"] = 0
        for seed in options.seeds:
            of = name + f"/seed_{seed}" * (len(options.seeds) > 1)
            held_out, scored = f"{HELD_OUT}_{TRAINED_UM:03d}um", [f"--demo-truth={options.raw(data[-1])}"]
            if name == "pixnet":
                given["spot_sizes_um"], held_out = f"{TRAINED_UM}", ",".join(_NAMES)
                scored += [f"--spot-size-um={','.join(map(str, SIZES_UM))}"]
            else:
                scored += [f"--data-dir={options.path(EVERY)}"]
            commands = (
                train(options, of, data[0], config, **given, test_sections=held_out, seed=seed),
                Command("stjax.evaluate", (f"--workdir={options.out / 'runs' / of}", *scored), _sizes.LEAVES),
            )
            runs.append(Run(of, PART, method.row, data, commands, lacks=method.lacks, cell=method.cell(HELD_OUT, seed)))
    title = "Spots of other sizes than trained on"
    return Suite(
        "cross_scale", title, tuple(runs), {PART: FIGURES}, notes={PART: NOTES}, parts=_parts, of_encoders=True
    )


def _parts(suite: Suite, places: Sequence[Place]) -> tuple[list[Part], bool]:
    """The table."""
    part, _ = _sizes.table(suite, PART, places)
    return [part], True
