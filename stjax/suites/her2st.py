"""her2st: six models on eight HER2-positive tumours, each patient held out in turn: the field's small benchmark.

Raw files of one patient alone are a study too: then each section is held out in turn, which says nothing of new
patients, and the tables say so.
"""

import dataclasses

from stjax.config import built_in
from stjax.suites import Command, Data, Embedding, Figure, Options, Run, Suite, train

_LETTERS = dict.fromkeys("ABCD", 6) | dict.fromkeys("EFGH", 3)  # sections of each patient
_SECTIONS = {patient: tuple(f"{patient}{place + 1}" for place in range(count)) for patient, count in _LETTERS.items()}
_DEMO = ("--layout=her2st", "--patients=2", "--sections-per-patient=1", "--spots=30")
PATCHES = Data(
    name="patches",
    raw="",
    about="her2st (Andersson et al., Nat Commun 2021; github.com/almaan/her2st): its folders ST-imgs, ST-cnts, ...",
    build=(),
    demo=_DEMO,
    tiny=("--patch-size-px=32",),
    sections=_SECTIONS,
    spots=13_620,
)
TILES = Data(
    name="tiles",
    raw="",
    about=PATCHES.about,
    build=("--tile-size-px=512", "--context-px=58", "--target-um-per-px=1.4"),
    demo=_DEMO,
    tiny=("--tile-size-px=128",),
    sections=_SECTIONS,
    spots=PATCHES.spots,
)


def _with_features_of(name: str) -> Data:
    """The patches with the features that a config makes first."""
    config = built_in(name)
    embed = config.embed
    features = Embedding(config.features, embed.encoder, fields=embed.fields, pooling=embed.pooling)
    return dataclasses.replace(PATCHES, features=(features,))


ADAMW = {"optimizer": "adamw", "schedule": "cosine"}
_OF_PATCHES = {**ADAMW, "num_epochs": 12, "learning_rate": 1e-3, "batch_size": 32}
MODELS = {  # row: name, data, config and its settings
    "EfficientNet-b0 + AuxNet": ("b0_aux", PATCHES, "enet_b0_aux", _OF_PATCHES),
    "EfficientNet-b0": ("b0", PATCHES, "enet_b0_aux", {**_OF_PATCHES, "model__aux": False}),
    "EfficientNet-Lite0 + AuxNet, from ImageNet": ("lite0_aux", PATCHES, "enet_lite0_pretrained", _OF_PATCHES),
    "PixNet": (
        "pixnet",
        TILES,
        "pixnet",
        {
            **ADAMW,
            "protocol": "stjax",
            "num_epochs": 20,
            "learning_rate": 2e-3,
            "batch_size": 2,
            "eval_batch_size": 2,
            "model__variant": "efficientnet_tiny",
            "model__options__width": 32,
            "model__options__aggregation": "mean",
        },
    ),
    "stjax_fast": ("fast", _with_features_of("stjax_fast"), "stjax_fast", {}),
    "stjax_best": ("best", _with_features_of("stjax_best"), "stjax_best", {}),
}
PART = "her2st, library-normalised"
TINY = ("EfficientNet-b0 + AuxNet", "PixNet", "stjax_fast")  # rows of --tiny, with one patient held out


def suite(options: Options) -> Suite:
    """Leave one patient out; of one patient, leave one section out."""
    runs = []
    for row, (name, data, config, settings) in MODELS.items():
        if options.tiny and row not in TINY:
            continue
        patients = options.patients(data)
        by_section = len(patients) == 1
        held_out = next(iter(patients.values())) if by_section else tuple(patients)
        rule = "test_sections" if by_section else "test_patients"
        for left_out in held_out[: 1 if options.tiny else None]:
            for seed in options.seeds:
                of = f"{name}/{left_out}" + (f"/seed_{seed}" if len(options.seeds) > 1 else "")
                given = {**settings, "seed": seed, rule: left_out}
                if options.tiny and settings:  # what is solved in closed form has none
                    given |= {"num_epochs": 1, "batch_size": 4}
                    config = "tiny" if data is PATCHES else config
                commands = (
                    train(options, of, data, config, **given),
                    Command(
                        "stjax.evaluate",
                        (f"--workdir={options.out / 'runs' / of}", "--protocol=all"),
                        "evaluation/protocols.json",
                    ),
                )
                runs.append(Run(of, PART, row, (data,), commands))
    figures = (
        Figure("pcc_mean", "mean PCC"),
        Figure("pcc_median", "median PCC"),
        Figure("genes_pcc_above_0.5", "PCC > .5", 1),
        Figure("amae", "aMAE", higher_is_better=False),
    )
    return Suite("her2st", "her2st: each patient held out in turn", tuple(runs), {PART: figures})
