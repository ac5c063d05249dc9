"""ST-Net (He et al., Nat Biomed Eng 2020): 23 patients left out in turn, epochs chosen on four folds of the others."""

from stjax.suites import Command, Figure, Options, Run, Suite, train
from stjax.suites._stnet_data import stnet_data

DATA = stnet_data("patches", (), ("--patch-size-px=32",))
PART, ROW, WEIGHTS = "Leave one patient out", "ST-Net", "densenet121"
INNER_FOLDS = 4
QUOTED = {"together:genes_sign_test": 102.0, "together:pcc_of_best": 0.34, "together:pcc_of_fifth": 0.29}
FIGURES = (
    Figure("pcc_median", "median PCC of a patient"),
    Figure("together:genes_pcc_above_0", "genes with PCC > 0", 0),
    Figure("together:genes_sign_test", "genes beyond chance", 0),
    Figure("together:pcc_of_best", "PCC of the best gene", 2),
    Figure("together:pcc_of_fifth", "PCC of the fifth", 2),
)
NOTES = (
    "the paper takes spots with a label of its pathologist alone, and the 250 genes of the highest mean over all "
    "patients; here all spots are taken, and genes are chosen on the patients that a model is trained on, so that the "
    "models of all patients share fewer than 250",
    "genes beyond chance: the PCC is positive in so many patients that a sign test leaves p < 0.1 after Holm's "
    "correction; a gene's PCC is the median over patients",
)


def suite(options: Options) -> Suite:
    """A cross-validation of four trainings and a last one, for each patient; with --tiny, for one."""
    patients = options.patients(DATA)
    given: dict[str, object] = {"protocol": "stnet"}
    lacks, config = "", "stnet_densenet121"
    if options.tiny:
        config, given = (
            "tiny",
            given
            | {"model__aux": False, "num_epochs": 2, "batch_size": 4, "optimizer": "adamw", "learning_rate": 1e-3},
        )
    elif WEIGHTS in options.weights:
        given["init_from"] = options.weights[WEIGHTS]
    else:
        lacks = f"starting weights are needed, --weights={WEIGHTS}=FILE"
    runs = []
    for patient in list(patients)[: 1 if options.tiny else None]:
        for seed in options.seeds:
            name = patient + f"/seed_{seed}" * (len(options.seeds) > 1)
            command = train(options, name, DATA, config, **given, test_patients=patient, seed=seed)
            commands = (Command("stjax.crossval", (*command.arguments, "--choice=inner4"), "crossval.json"),)
            inner = min(INNER_FOLDS, len(patients) - 1)
            runs.append(
                Run(name, PART, ROW, (DATA,), () if lacks else commands, inner + 1, "all_patients", lacks=lacks)
            )
    source = "He et al., Nat Biomed Eng 2020, of 23 patients"
    return Suite("stnet", "ST-Net", tuple(runs), {PART: FIGURES}, source, {PART: {ROW: QUOTED}}, {PART: NOTES})
