"""PixNet's comparators side by side: every method on the same tissue, split, panel, targets and metrics, on her2st and
on synthetic tissue, and as their released codes are where these depart from what is right.

Budgets are cut such that two CPU cores carry out the whole: fewer epochs than published, narrow EGN and PixNet, no
starting weights but those that a Python package has. Features are EfficientNet-Lite0's from ImageNet, or those of each
--encoder.
"""

import dataclasses
from collections.abc import Collection

from stjax.suites import Command, Data, Embedding, Figure, Options, Run, Suite, her2st, train
from stjax.suites._encoders import Models, crossed

ENCODER = "efficientnet_lite0"
SPOT, _AROUND = Embedding("lite0", ENCODER), Embedding("lite0_around", ENCODER, context=5)
FEATURES = {each.name: each for each in (SPOT, _AROUND)}
_TINY = ("--layout=her2st", "--patients=4", "--sections-per-patient=1", "--spots=12")
_DEMO = ("--layout=her2st", "--patients=6", "--sections-per-patient=1", "--spots=104")
_SIX = {patient: (f"{patient}1",) for patient in "ABCDEF"}
_ABOUT = "synthetic tissue of six patients (data_prep.demo)"
_HER2ST = (
    dataclasses.replace(her2st.PATCHES, demo=_TINY),
    dataclasses.replace(her2st.TILES, demo=_TINY),
)
_MADE = (
    Data("demo_patches", None, _ABOUT, ("--patch-size-px=128",), _DEMO, ("--patch-size-px=32",), _SIX, 624),
    Data("demo_tiles", None, _ABOUT, ("--tile-size-px=256",), _DEMO, ("--tile-size-px=128",), _SIX, 624),
)
SETS = {"her2st, library-normalised": _HER2ST, "Demo, library-normalised": _MADE}  # part: patches, tiles
FOLDS = 5  # of the demo's patients

_HISTOGENE = {"num_epochs": 30, "learning_rate": 1e-4}
_TRIPLEX = {"num_epochs": 6, "batch_size": 1, "early_stopping_patience": 0, "features": "lite0_around"}
_GRAPH = {"num_epochs": 100, "features": "lite0"}
_PIXNET = her2st.MODELS["PixNet"][3]
RIDGE = "Ridge on features"
MODELS: Models = {
    RIDGE: ("ridge", "ridge_features", {"features": "lite0"}),
    "ST-Net": (
        "stnet",
        "stnet_densenet121",
        {**her2st.ADAMW, "num_epochs": 2, "learning_rate": 1e-3, "batch_size": 32, "micro_batch": 8},  # in 8 GB
    ),
    "EfficientNet-b0 + AuxNet": ("b0_aux", "enet_b0_aux", her2st.MODELS["EfficientNet-b0 + AuxNet"][3]),
    "HisToGene": ("histogene", "histogene", _HISTOGENE),
    "EGN, narrow": ("egn", "egn", {"model__variant": "narrow", "num_epochs": 10, "features": "lite0"}),
    "EGGN": ("eggn", "eggn", _GRAPH),
    "SGN": ("sgn", "sgn", _GRAPH),
    "BLEEP, frozen": ("bleep", "bleep", {"features": "lite0"}),
    "BLEEP, trained": (
        "bleep_trained",
        "bleep_trained",
        {"num_epochs": 12, "batch_size": 64, "model__options__backbone": "resnet18"},
    ),
    "TRIPLEX": ("triplex", "triplex", _TRIPLEX),
    "PixNet, narrow": ("pixnet", "pixnet", _PIXNET),
    "SGN, zero-shot": ("sgn_zero_shot", "sgn_zero_shot", _GRAPH),
    "HisToGene as released": ("histogene_as_released", "histogene_as_released", _HISTOGENE),
    "EGGN as released": ("eggn_as_released", "eggn_as_released", _GRAPH),
    "SGN as released": ("sgn_as_released", "sgn_as_released", _GRAPH),
    "TRIPLEX as released": ("triplex_as_released", "triplex_as_released", _TRIPLEX),
}
ON_FEATURES: Models = {  # with --encoder alone
    "HisToGene on features": (
        "histogene_features",
        "histogene",
        {**_HISTOGENE, "model__variant": "features", "features": "lite0"},
    )
}
TINY = (RIDGE, "EGN, narrow", "SGN")  # rows of --tiny, where no encoders are compared
FIGURES = (
    Figure("pcc_mean", "mean PCC"),
    Figure("pcc_median", "median PCC"),
    Figure("pcc_first_quartile", "PCC@F"),
    Figure("raw:pcc_mean", "mean PCC, raw counts"),
    Figure("raw:pcc_median", "median PCC, raw counts"),
    Figure("mse", "MSE", higher_is_better=False),
    Figure("amae", "aMAE", higher_is_better=False),
    Figure("cost:processor_s", "processor min", 1, higher_is_better=False, unit=60.0),
    Figure("cost:peak_bytes", "peak GB", 1, higher_is_better=False, unit=1e9),
)
_OWN_FEATURES = "features are EfficientNet-Lite0's from ImageNet"  # without --encoder
NOTES = {
    "": (
        "budgets are cut for two CPU cores, see MODELS in stjax/suites/comparators.py: rows say what a method reaches "
        "with so little training, not what it can; published recipes are those of configs/",
        "ST-Net, HisToGene, BLEEP's and TRIPLEX's networks of patches and PixNet start from random weights here, as "
        "published ones cannot be had",
        "processor time and memory are of training with its scoring; features took no part in them",
    )
}


def suite(options: Options) -> Suite:
    """Every method on every fold of both data sets; with --tiny some on one fold of the first, made synthetic too. With
    --encoder, heads on features are a row for each encoder."""
    runs = []
    sets = {part: SETS[part] for part in list(SETS)[: 1 if options.tiny else None]}
    for part, (patches, tiles) in sets.items():
        for method in crossed(models(options, TINY), FEATURES, options):
            data = tiles if method.config == "pixnet" else patches
            if method.features:
                data = dataclasses.replace(data, features=(method.features,))
            for fold, held_out in _folds(options, data).items():
                for seed in options.seeds:
                    of = f"{'demo' if data.raw is None else 'her2st'}/{method.name}/{fold}"
                    of += f"/seed_{seed}" if len(options.seeds) > 1 else ""
                    given = {"protocol": "stjax", **method.settings, **(tiny(method.name) if options.tiny else {})}
                    given |= {"seed": seed, **held_out}
                    scored = Command(
                        "stjax.evaluate",
                        (f"--workdir={options.out / 'runs' / of}", "--protocol=all"),
                        "evaluation/protocols.json",
                    )
                    commands = (train(options, of, data, method.config, **given), scored)
                    cell = method.cell(fold, seed)
                    runs.append(Run(of, part, method.row, (data,), commands, lacks=method.lacks, cell=cell))
    figures, title = dict.fromkeys(sets, FIGURES), "Methods side by side"
    notes = NOTES if options.encoders else {"": (*NOTES[""], _OWN_FEATURES)}
    return Suite("comparators", title, tuple(runs), figures, notes=notes, reference=RIDGE, of_encoders=True)


def models(options: Options, tiny_rows: Collection[str]) -> Models:
    """The rows, with --tiny some; where encoders are compared HisToGene on features too, and no head as released."""
    if not options.encoders:
        return {row: MODELS[row] for row in (tiny_rows if options.tiny else MODELS)}
    return {row: of for row, of in {**MODELS, **ON_FEATURES}.items() if not of[0].endswith("as_released")}


def _folds(options: Options, data: Data) -> dict[str, dict[str, str]]:
    """{name: setting that says who is held out}: her2st's patients in turn, or sections where there is one patient;
    the demo's patients dealt to `FOLDS`."""
    patients = options.patients(data)
    names = tuple(patients)
    if data.raw is None:
        return {f"fold_{fold}": {"test_patients": ",".join(names[fold::FOLDS])} for fold in range(FOLDS)}
    if len(names) > 1:
        return {name: {"test_patients": name} for name in names[: 1 if options.tiny else None]}
    return {section: {"test_sections": section} for of in patients.values() for section in of}


def tiny(name: str) -> dict[str, object]:
    """Settings of a model with --tiny, by the name of its row's runs."""
    name = name.partition("/")[0]
    if name == "ridge":
        return {}
    given: dict[str, object] = {"num_epochs": 1, "batch_size": 2}
    of_module = name.removesuffix("_as_released").removesuffix("_aux")
    variants = {"egn": "tiny", "eggn": "tiny", "sgn": "tiny", "sgn_zero_shot": "tiny", "triplex": "tiny"}
    variants |= {
        "histogene": "pixels_tiny",
        "histogene_features": "features_tiny",
        "pixnet": "efficientnet_tiny",
        "b0": "tiny",
        "stnet": "tiny",
    }
    if of_module in variants:
        given["model__variant"] = variants[of_module]
    if of_module == "stnet":
        given["model__module"] = "efficientnet"
    if of_module == "triplex":
        given["model__options__backbone"] = "efficientnet_tiny"
    if of_module == "histogene":
        given["model__options__crop_px"] = 0
    return given
