"""PixNet (Zhang, Yang and Pan, arXiv 2503.01347 version 1): Tables 1-3 and Fig. 4."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from stjax.suites import Command, Data, Embedding, Figure, Options, Run, Suite, _sizes, _table, train
from stjax.suites._state import Place
from stjax.suites._stnet_data import stnet_data

STNET_FOLDS = 4
HD_TILES = ("--layout=visium_hd", "--tile-size-px=512", "--min-counts=0")
_HD_DEMO = ("--layout=visium_hd", "--patients=2", "--sections-per-patient=1", "--spots=4")
HD_PATCHES = ("--layout=visium_hd", "--bin-um=16", "--min-counts=0")
_TINY_TILES = ("--tile-size-px=128", "--min-counts=0")
_TINY_PATCHES = ("--patch-size-px=32", "--bin-um=16", "--min-counts=0")
STNET_TILES = stnet_data("stnet_tiles", ("--tile-size-px=1024",), _TINY_TILES, patients=4)
STNET_PATCHES = stnet_data("stnet_patches", (), ("--patch-size-px=32",), patients=4)


def _hd(name: str, raw: str, about: str, *, tiles: bool, spots: int) -> Data:
    slides = {f"slide_{place}": (f"slide_{place}",) for place in (1, 2)}
    build, tiny = (HD_TILES, (*_TINY_TILES, "--bin-um=8,16")) if tiles else (HD_PATCHES, _TINY_PATCHES)
    return Data(name, raw, about, build, _HD_DEMO, tiny, slides, spots)


_BREAST = ("hd_breast", "two Visium HD slides of human breast cancer (10x Genomics)")
_BRAIN = ("hd_brain", "two Visium HD slides of mouse brain (10x Genomics; the paper calls them brain cancer)")
SETS = {  # table: data sets of tiles, and of patches
    "Table 1, HD breast": (
        _hd("hd_breast_tiles", *_BREAST, tiles=True, spots=20_164_000),
        _hd("hd_breast_patches", *_BREAST, tiles=False, spots=294_000),
    ),
    "Table 1, HD brain": (
        _hd("hd_brain_tiles", *_BRAIN, tiles=True, spots=15_312_000),
        _hd("hd_brain_patches", *_BRAIN, tiles=False, spots=223_000),
    ),
    "Table 1, STNet": (STNET_TILES, STNET_PATCHES),
}
TRANSFER, SIZES_UM, SPOTS_UM = "Table 2", (2, 8, 16), 100
_AT_SCALE = ("--layout=visium_hd", "--min-counts=0", "--target-um-per-px=0.67")  # of STNet's slides
_SMALL_DEMO = (
    "--layout=visium_hd", "--patients=1", "--sections-per-patient=1", "--spots=4", "--source-um-per-px=0.7",
)  # fmt: skip
_SMALL = ("--min-counts=0", "--target-um-per-px=1.4")
_SLIDES = {f"slide_{place}": tuple(f"slide_{place}_{size:03d}um" for size in SIZES_UM) for place in (1, 2)}
ON_HD = (  # what models fitted on STNet are scored on, at the scale of its slides: tiles, and patches
    Data(
        "hd_breast_tiles_as_stnet", *_BREAST, (*_AT_SCALE, "--tile-size-px=1024"), _SMALL_DEMO,
        (*_SMALL, "--tile-size-px=128"), _SLIDES, 20_164_000,
    ),
    Data(
        "hd_breast_patches_as_stnet", *_BREAST, (*_AT_SCALE, "--bin-blocks=4/200"), _SMALL_DEMO,
        (*_SMALL, "--patch-size-px=32", "--bin-blocks=2/200"), _SLIDES, 100_000,
    ),
)  # fmt: skip
_BINS = re.compile(r"_\d{3}um$")
TINY = {  # rows of --tiny, a fold each: models of patches, of sections, of tiles
    "Table 1, STNet": ("ST-Net",),
    TRANSFER: ("HisToGene", "PixNet"),
}
FIGURES = ("mse", "amae", "pcc_first_quartile", "pcc_median", "pcc_mean")
_COLUMNS = tuple(
    Figure(key, title, 3, key.startswith("pcc"))
    for key, title in zip(FIGURES, ("MSE", "MAE", "PCC@F", "PCC@S", "PCC@M"), strict=True)
)
RANKED = (_COLUMNS[-1], *_COLUMNS[:-1])  # rows are ranked by the first
ACROSS = _sizes.figures(SIZES_UM, SIZES_UM, ("mse", "amae"))
PUBLISHED = {  # MSE MAE PCC@F PCC@S PCC@M, Table 1
    "Table 1, HD breast": {
        "ST-Net": (0.269, 0.482, -0.009, -0.001, -0.001),
        "HisToGene": (0.265, 0.438, 0.089, 0.159, 0.157),
        "EGN": (0.264, 0.413, 0.102, 0.166, 0.161),
        "EGGN": (0.241, 0.423, 0.143, 0.209, 0.200),
        "BLEEP": (0.247, 0.435, 0.157, 0.216, 0.205),
        "TRIPLEX": (0.259, 0.432, 0.122, 0.200, 0.199),
        "SGN": (0.230, 0.358, 0.173, 0.227, 0.226),
        "PixNet": (0.176, 0.299, 0.179, 0.266, 0.268),
    },
    "Table 1, HD brain": {
        "ST-Net": (0.282, 0.514, -0.002, 0.046, 0.044),
        "HisToGene": (0.279, 0.457, 0.100, 0.171, 0.166),
        "EGN": (0.277, 0.463, 0.096, 0.177, 0.171),
        "EGGN": (0.259, 0.459, 0.131, 0.195, 0.191),
        "BLEEP": (0.243, 0.477, 0.121, 0.189, 0.186),
        "TRIPLEX": (0.257, 0.462, 0.132, 0.195, 0.188),
        "SGN": (0.228, 0.447, 0.133, 0.199, 0.195),
        "PixNet": (0.223, 0.407, 0.152, 0.213, 0.202),
    },
    "Table 1, STNet": {
        "ST-Net": (0.209, 0.502, 0.005, 0.092, 0.093),
        "HisToGene": (0.314, 0.591, 0.097, 0.126, 0.219),
        "EGN": (0.192, 0.449, 0.106, 0.221, 0.203),
        "EGGN": (0.189, 0.424, 0.184, 0.305, 0.292),
        "BLEEP": (0.235, 0.451, 0.155, 0.208, 0.193),
        "TRIPLEX": (0.202, 0.413, 0.159, 0.364, 0.352),
        "SGN": (0.186, 0.388, 0.179, 0.289, 0.269),
        "PixNet": (0.188, 0.377, 0.181, 0.369, 0.362),
    },
}
PUBLISHED_ACROSS = {  # MSE MAE PCC@M at 2, at 8 and at 16 um, Table 2
    "ST-Net": (0.420, 0.515, 0.000, 0.397, 0.498, 0.002, 0.395, 0.501, 0.005),
    "HisToGene": (0.388, 0.501, 0.088, 0.389, 0.500, 0.093, 0.373, 0.485, 0.097),
    "EGN": (0.371, 0.492, 0.091, 0.377, 0.479, 0.087, 0.365, 0.481, 0.100),
    "EGGN": (0.368, 0.483, 0.087, 0.372, 0.499, 0.088, 0.361, 0.487, 0.102),
    "BLEEP": (0.323, 0.441, 0.115, 0.302, 0.431, 0.127, 0.301, 0.435, 0.125),
    "TRIPLEX": (0.365, 0.488, 0.092, 0.355, 0.451, 0.100, 0.356, 0.457, 0.099),
    "SGN": (0.303, 0.437, 0.118, 0.289, 0.422, 0.136, 0.286, 0.431, 0.123),
    "PixNet": (0.270, 0.415, 0.160, 0.245, 0.411, 0.183, 0.240, 0.398, 0.190),
}
MODELS = tuple(PUBLISHED["Table 1, STNet"])
LOOK_UP, FEWEST_SLIDES = ("EGN", "EGGN", "BLEEP"), 3
WHOLE = ("HisToGene", "TRIPLEX", "SGN")
SIZES = {"16": "16", "8": "8", "2": "2", "16 and 8": "16,8"}  # bins trained on, um: Table 3; all are of Table 1
ENCODERS = {  # Fig. 4, less the one of Table 1: variant, and name of its weights
    "ResNet18, natural images": ("resnet18", "resnet18_natural"),
    "ViT-B/16, natural images": ("vit_b16", "vit_b16_natural"),
    "ViT-B/16, slides": ("vit_b16", "vit_b16_slide"),
}
ENCODER = "ciga_resnet18"  # of the features, and the start of PixNet and of TRIPLEX's network of patches
_SPOT, _AROUND = Embedding("ciga", ENCODER), Embedding("ciga_around", ENCODER, context=5)
OVER_UNI2 = "PixNet over UNI2-h, stjax's decoder"  # of pixnet_v4
CONFIGS = {  # of each model: its config, the weights that it starts from, the features that it is of
    "ST-Net": ("stnet_densenet121", "densenet121", None),
    "HisToGene": ("histogene", "", None),
    "EGN": ("egn", "", _SPOT),
    "EGGN": ("eggn", "", _SPOT),
    "BLEEP": ("bleep_trained", "resnet50", None),
    "TRIPLEX": ("triplex", ENCODER, _AROUND),
    "SGN": ("sgn", "", _SPOT),
    "PixNet": ("pixnet", ENCODER, None),
    OVER_UNI2: ("pixnet_encoder", "uni2_h", None),
}
NOTES = {
    "": (
        "the paper's folds are not defined: here STNet's patients are dealt to 4, and each HD slide is left out once",
        "ours are scored on patients or slides that no choice was made on; whether the paper's are is not said",
        "SGN learns the panel's genes here, as the others; its released code learns all others, and the paper does not "
        "say which",
        "two HD slides leave one to train on: EGN, EGGN and BLEEP, which look up other sections, cannot be trained "
        "there; nor can HisToGene, TRIPLEX and SGN, which see all 147,000 bins of a slide at once",
    ),
    TRANSFER: (
        "how the paper sees bins of other sizes with models of spots is not said; here docs/comparators.md says how",
        "fitted on STNet's patients but the last two: one chooses the checkpoint, and as every training here each of "
        "these holds one out",
        "slides are resampled to STNet's 0.67 um per px; genes are those of the 250 that the slides were measured for",
        "all bins are too many to cut a patch around each: of each size blocks of 4 x 4 bins, one every 200 um, are "
        "scored (with --tiny of 2 x 2); PixNet is scored on 20,000 bins of each size and slide, drawn at random with a "
        "fixed seed",
        f"nearest: what the same model says of the nearest spot of {SPOTS_UM} um; a model that is not above it knows "
        "nothing between its spots",
        f"a prediction is the expression of a spot of {SPOTS_UM} um, and is scored against a bin's own: the errors are "
        "those of other depths too",
    ),
    "Table 1, HD brain": ("all 40 published deviations of this block equal those of the HD breast block",),
    "Table 1, STNet": (
        "published rows are partly those of other papers: ST-Net's PCCs are EGN's Table 1 digit for digit; BLEEP's, "
        "TRIPLEX's, EGN's and HisToGene's lie on the best-50-gene column of another study with smoothed labels",
        "the text says PixNet's MSE is lower than SGN's here; the table says .188 against .186",
    ),
}


def suite(options: Options) -> Suite:
    """Every training of the paper; those that cannot be run are counted, with the reason."""
    runs = [
        run
        for part, sets in SETS.items()
        for model in MODELS
        for run in of_model(options, part, model, sets, key_of(model), {})
    ]
    runs += [run for model in MODELS for run in across_sizes(options, TRANSFER, model, {})]
    breast = SETS["Table 1, HD breast"]
    for label, sizes in SIZES.items():
        name = f"sizes_{sizes.replace(',', '_')}"
        runs += of_model(options, "Table 3", "PixNet", breast, name, {"spot_sizes_um": sizes}, f"bins of {label} um")
    for row, (variant, weights) in ENCODERS.items():
        given = {"model__variant": variant}
        runs += of_model(options, "Fig. 4", "PixNet", breast, weights, given, row, weights=weights)
    if options.tiny:
        runs = [run for run in runs if run.row in TINY.get(run.part, ())]
    parts = dict.fromkeys(run.part for run in runs)
    quoted: dict[str, dict[str, dict[str, float]]] = {
        part: {row: dict(zip(FIGURES, values, strict=True)) for row, values in rows.items()}
        for part, rows in PUBLISHED.items()
    }
    quoted["Table 3"] = {
        f"bins of {label} um": {"mse": mse, "amae": mae, "pcc_mean": pcc}
        for label, (mse, mae, pcc) in zip(
            SIZES,
            ((0.213, 0.374, 0.179), (0.209, 0.369, 0.187), (0.185, 0.331, 0.238), (0.201, 0.374, 0.200)),
            strict=True,
        )
    }
    quoted[TRANSFER] = {
        row: {
            f"{size}:model:{key}": values[3 * place + of]
            for place, size in enumerate(SIZES_UM)
            for of, key in enumerate(("mse", "amae", "pcc_mean"))
        }
        for row, values in PUBLISHED_ACROSS.items()
    }
    source = "Zhang, Yang and Pan, arXiv 2503.01347v1, Tables 1 to 3 (the order of Table 3's rows is that of version 4)"
    figures = dict.fromkeys(parts, RANKED) | {TRANSFER: ACROSS}
    return Suite("pixnet_v1", "PixNet, arXiv version 1", tuple(runs), figures, source, quoted, NOTES, parts=tables)


def tables(suite: Suite, places: Sequence[Place]) -> tuple[list[_table.Part], bool]:
    """Tables of held-out spots, and of other sizes than trained on."""
    found, synthetic = [], False
    for title in dict.fromkeys(place.run.part for place in places):
        of_part = [place for place in places if place.run.part == title]
        if suite.figures[title] == ACROSS:
            part, made = _sizes.table(suite, title, of_part)
            parts = [part]
        else:
            parts, made = _table.of_trainings(suite, of_part)
        found, synthetic = [*found, *parts], synthetic or made
    return found, synthetic


def of_model(
    options: Options,
    part: str,
    model: str,
    sets: tuple[Data, Data],
    name: str,
    settings: Mapping[str, object],
    row: str = "",
    *,
    weights: str = "",
) -> list[Run]:
    """A run a fold and seed.

    Args:
        sets: data sets of tiles, and of patches.
        settings: of its config.
        weights: that it starts from, in place of those of `CONFIGS`.
    """
    data = _data_of(model, sets)
    config, given, lacks = _recipe(options, model, data, settings, weights)
    folds = list(folds_of(data, options.patients(data)).items())
    found = []
    for fold, left_out in folds[: 1 if options.tiny else None]:
        for of, seed in named(options, f"{place_of(part)}/{name}/{fold}"):
            commands = () if lacks else (train(options, of, data, config, **given, **left_out, seed=seed),)
            found.append(Run(of, part, row or model, (data,), commands, lacks=lacks))
    return found


def across_sizes(options: Options, part: str, model: str, settings: Mapping[str, object]) -> list[Run]:
    """A run a seed: fitted on STNet's patients but two, one of whom validates, and scored on bins of HD slides."""
    data, scored_on = (_data_of(model, sets) for sets in (SETS["Table 1, STNet"], ON_HD))
    config, given, lacks = _recipe(options, model, data, settings, "")
    *_, validating, held_out = options.patients(data).values()
    given |= {"val_sections": ",".join(validating), "test_sections": ",".join(held_out)}
    found = []
    for of, seed in named(options, f"{place_of(part)}/{key_of(model)}"):
        scored = [f"--workdir={options.out / 'runs' / of}", f"--data-dir={options.path(scored_on)}"]
        if is_of_tiles(model):  # of spots of the trained size too, to look up the nearest
            scored.append(f"--spot-size-um={','.join(map(str, (*SIZES_UM, SPOTS_UM)))}")
            scored += ["--max-spots=500"] * options.tiny
        evaluation = Command("stjax.evaluate", tuple(scored), _sizes.LEAVES)
        commands = () if lacks else (train(options, of, data, config, **given, seed=seed), evaluation)
        found.append(Run(of, part, model, (data, scored_on), commands, lacks=lacks))
    return found


def key_of(model: str) -> str:
    """As a part of names."""
    return re.sub(r"[^a-z0-9]+", "_", model.lower().replace("-", "").replace("'s", "")).strip("_")


def place_of(part: str) -> str:
    """The first part of its runs' names."""
    return part.lower().replace(", ", "_").replace(". ", "_").replace(" ", "_")


def is_of_tiles(model: str) -> bool:
    """Whether it sees tiles, not patches."""
    return CONFIGS[model][0].startswith("pixnet")


def named(options: Options, name: str) -> list[tuple[str, int]]:
    """The name and seed of each run."""
    return [(name + f"_seed_{seed}" * (len(options.seeds) > 1), seed) for seed in options.seeds]


def _data_of(model: str, sets: tuple[Data, Data]) -> Data:
    """The data set that a model sees, of tiles and of patches, with the features that it needs."""
    features = CONFIGS[model][2]
    data = sets[0 if is_of_tiles(model) else 1]
    return dataclasses.replace(data, features=(features,)) if features else data


def _recipe(
    options: Options, model: str, data: Data, settings: Mapping[str, object], weights: str
) -> tuple[str, dict[str, object], str]:
    """The config of a model, its settings, and what it lacks to be trained."""
    config, start, features = CONFIGS[model]
    weights, on_hd = weights or start, (data.raw or "").startswith("hd_")
    given: dict[str, object] = {"protocol": "pixnet", **settings}  # one target and one panel for all rows
    given |= {"features": features.name} if features else {}
    if options.tiny:
        config, tiny = _tiny(model)
        return config, given | tiny, ""
    given |= {"init_from": options.weights[weights]} if weights in options.weights else {}
    needed = [weights] * bool(weights) + [ENCODER] * bool(features)
    lacks = ""
    if model in LOOK_UP and on_hd and len(slides_of(options.patients(data))) < FEWEST_SLIDES:
        lacks = f"{', '.join(LOOK_UP)} look up training sections other than a spot's own, and there is one"
    elif model in WHOLE and on_hd:
        lacks = f"{', '.join(WHOLE)} see all spots of a section at once, which 147,000 bins are too many for"
    elif missing := [name for name in dict.fromkeys(needed) if name not in options.weights]:
        lacks = f"weights are needed, --weights={','.join(f'{name}=FILE' for name in missing)}"
    return config, given, lacks


def folds_of(data: Data, patients: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, str]]:
    """{fold: settings that say who is left out}: STNet's patients dealt to four, others in turn, slides in turn."""
    if (data.raw or "").startswith("hd_"):
        return {slide: {"test_sections": ",".join(of)} for slide, of in slides_of(patients).items()}
    names = tuple(patients)
    count = min(STNET_FOLDS, len(names)) if data.raw == "stnet" else len(names)
    return {f"fold_{fold}": {"test_patients": ",".join(names[fold::count])} for fold in range(count)}


def slides_of(patients: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """{slide: its sections}: bins of every size of one slide are sections of a data set, and are held out together."""
    found: dict[str, list[str]] = {}
    for section in (each for of in patients.values() for each in of):
        found.setdefault(_BINS.sub("", section), []).append(section)
    return found


def _tiny(model: str) -> tuple[str, dict[str, object]]:
    """The config that stands for a model with --tiny, and its settings."""
    given: dict[str, object] = {"num_epochs": 1, "batch_size": 2}
    options = {
        "HisToGene": {"model__variant": "pixels_tiny", "model__options__crop_px": 0},
        "BLEEP": {"model__options__backbone": "resnet18"},
        "TRIPLEX": {"model__variant": "tiny", "model__options__backbone": "efficientnet_tiny"},
    }
    if model == "ST-Net":
        return "tiny", {**given, "model__aux": False}
    if is_of_tiles(model):
        return "pixnet_tiny", {**given, "model__variant": "efficientnet_tiny", "eval_batch_size": 4}
    return CONFIGS[model][0], given | options.get(model, {"model__variant": "tiny"})
