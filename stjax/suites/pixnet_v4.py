"""PixNet, version 4 of arXiv 2503.01347 (CVPR 2026), as far as it is known: the paper was not to be had, and what
stands here of it is second-hand.

Its encoder is UNI2-h, under a decoder of blocks (D2S, SAFB) that stjax does not have: its rows are counted and quoted,
and cannot be run. Beside them stands what stjax can make: its own decoder over maps of four of UNI2-h's blocks.
"""

from stjax.suites import Data, Options, Run, Suite, her2st
from stjax.suites.pixnet_v1 import (
    ACROSS,
    FIGURES,
    MODELS,
    OVER_UNI2,
    PUBLISHED,
    PUBLISHED_ACROSS,
    RANKED,
    SETS,
    SIZES_UM,
    across_sizes,
    folds_of,
    key_of,
    named,
    of_model,
    place_of,
    tables,
)

RIVALS = MODELS[:-1]  # that version 1 has too
NEW = ("HGGEP", "Junayed et al.", "iStar", "BG-TRIPLEX", "ScstGCN", "MERGE")  # that stjax does not have
NEW_PCC = (0.187, 0.134, 0.216, 0.190, 0.225, 0.221)  # mean, on HD breast
PIXNET = "PixNet"
T1, T2, T5 = ("Table 1, HD breast", "Table 1, HD brain"), ("Table 2, STNet", "Table 2, her2st"), "Table 5"
IN_T5_ALONE = ("iStar", "MERGE", PIXNET)  # beside the rivals
_HER2ST_DEMO = ("--layout=her2st", "--patients=3", "--sections-per-patient=1", "--spots=20")


def _her2st(name: str, build: tuple[str, ...], tiny: tuple[str, ...]) -> Data:
    return Data(
        name, "her2st", her2st.PATCHES.about, build, _HER2ST_DEMO, tiny, her2st.PATCHES.sections, her2st.PATCHES.spots
    )


HER2ST = (
    _her2st("her2st_tiles", ("--tile-size-px=1024",), ("--tile-size-px=128",)),
    _her2st("her2st_patches", (), ("--patch-size-px=32",)),
)
OF_PART = {T1[0]: SETS[T1[0]], T1[1]: SETS[T1[1]], T2[0]: SETS["Table 1, STNet"], T2[1]: HER2ST}
ABLATIONS = {  # part: rows beside the one of Table 1, each on both HD breast slides, and the mean PCC published
    "Table 3": {"Conv decoder": 0.169, "ResNet18 decoder": 0.213, "ViT decoder": 0.188},
    "Table 4": {"MSE alone": 0.293, "PCC alone": 0.319},
    "Table 6": {"bins of 16 um": 0.244, "bins of 8 um": 0.288, "bins of 2 um": 0.299, "bins of 16 and 8 um": 0.303},
    "Fig. 4": dict.fromkeys(("ResNet18", "CLIP", "Virchow2", "H-optimus-0", "UNI"), None),
}
TINY = {T2[1]: ("ST-Net", OVER_UNI2)}  # rows of --tiny
_DECODER = "stjax does not have the decoder of version 4: its D2S and SAFB blocks, and widths of 64 to 512"
_PCC = "pcc_mean"
_SETTINGS = {  # of stjax's PixNet over UNI2-h
    "model__variant": "uni2_h",
    "model__options__pyramid": "taps",
    "model__options__aggregation": "sum",
    "loss": "mse_pcc",
    "optimizer": "adamw",
    "num_epochs": 200,
}
SOURCE = (
    "second-hand, two notes agreeing on version 4 of arXiv 2503.01347 (CVPR 2026), which was not read; the HD rows of "
    "ST-Net to SGN are version 1's, which version 4 is said to repeat"
)
NOTES = {
    "": (
        "of version 4 neither folds are stated nor whether its encoder is frozen: here STNet's patients are dealt to "
        "4, her2st's are held out in turn, each HD slide is left out once; published figures are of five reruns",
        f"{OVER_UNI2}, is not version 4's model: it has maps of four blocks of a frozen UNI2-h and AdamW at 5e-4 for "
        "200 epochs, as version 4 is said to have, and version 1's decoder, summed over each spot",
        "the rivals that version 1 has too are trained as in the suite pixnet_v1",
    ),
    T1[0]: ("mean PCCs of HGGEP to MERGE are noted without the slide's organ, and taken for those of HD breast",),
}


def suite(options: Options) -> Suite:
    """Every training of the paper, 262 a seed, and those of stjax's own PixNet over UNI2-h."""
    runs: list[Run] = []
    ours = {} if options.tiny else _SETTINGS
    for part, sets in OF_PART.items():
        for model in RIVALS:
            runs += of_model(options, part, model, sets, key_of(model), {})
        for model in (*NEW, PIXNET):
            runs += _not_here(options, part, model, sets[0])
        runs += of_model(options, part, OVER_UNI2, sets, key_of(OVER_UNI2), ours)
    for part, rows in ABLATIONS.items():
        for row in rows:
            runs += _not_here(options, part, row, SETS[T1[0]][0])
    for model in (*RIVALS, OVER_UNI2):
        runs += across_sizes(options, T5, model, ours if model == OVER_UNI2 else {})
    for model in IN_T5_ALONE:
        runs += _not_here(options, T5, model, SETS["Table 1, STNet"][0])
    if options.tiny:
        runs = [run for run in runs if run.row in TINY.get(run.part, ())]
    parts = dict.fromkeys(run.part for run in runs)
    figures = {part: ACROSS if part == T5 else RANKED for part in parts}
    title = "PixNet, arXiv version 4 (CVPR 2026), second-hand"
    quoted = {part: rows for part, rows in _quoted().items() if part in parts}
    return Suite("pixnet_v4", title, tuple(runs), figures, SOURCE, quoted, NOTES, parts=tables)


def _not_here(options: Options, part: str, row: str, data: Data) -> list[Run]:
    """The trainings of a row that stjax cannot make, which are counted."""
    lacks = f"stjax does not have {row}" if row in NEW else _DECODER
    folds = ("",) if part == T5 else (f"/{fold}" for fold in folds_of(data, options.patients(data)))
    return [
        Run(of, part, row, (data,), (), lacks=lacks)
        for fold in folds
        for of, _ in named(options, f"{place_of(part)}/{key_of(row)}{fold}")
    ]


def _quoted() -> dict[str, dict[str, dict[str, float]]]:
    """{part: {row: {figure: value}}}."""
    repeated = {part: {model: PUBLISHED[part][model] for model in RIVALS} for part in T1}
    found: dict[str, dict[str, dict[str, float]]] = {
        part: {row: dict(zip(FIGURES, values, strict=True)) for row, values in rows.items()}
        for part, rows in repeated.items()
    }
    found[T1[0]] |= {row: {_PCC: value} for row, value in zip(NEW, NEW_PCC, strict=True)}
    found[T1[0]][PIXNET] = dict(zip(FIGURES, (0.153, 0.274, 0.196, 0.313, 0.325), strict=True))
    found[T1[1]][PIXNET] = {_PCC: 0.304}
    found[T2[0]] = {PIXNET: {_PCC: 0.409}, "BG-TRIPLEX": {_PCC: 0.357}}
    found[T2[1]] = {PIXNET: {_PCC: 0.453}, "TRIPLEX": {_PCC: 0.404}}
    found |= {
        part: {row: {_PCC: pcc} for row, pcc in rows.items() if pcc is not None} for part, rows in ABLATIONS.items()
    }
    across = {model: PUBLISHED_ACROSS[model][2::3] for model in RIVALS}
    across |= {PIXNET: (0.198, 0.219, 0.226), "iStar": (0.126, 0.133, 0.137), "MERGE": (0.112, 0.127, 0.139)}
    found[T5] = {
        row: {f"{size}:model:{_PCC}": pcc for size, pcc in zip(SIZES_UM, values, strict=True)}
        for row, values in across.items()
    }
    return found
