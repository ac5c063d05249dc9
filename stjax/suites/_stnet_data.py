"""The breast tumours of He et al. 2020, on which three suites are made."""

from stjax.suites import Data

_ABOUT = "68 sections of 23 breast tumours (He et al., Nat Biomed Eng 2020; Mendeley data 29ntw7sh4r version 5)"
# Their names are known once the data is there; how many there are is published: one patient has two sections.
_SECTIONS = {
    f"patient_{number:02d}": tuple(f"patient_{number:02d}_{place}" for place in range(3 if number > 1 else 2))
    for number in range(1, 24)
}
_SPOTS = 30_612


def stnet_data(name: str, build: tuple[str, ...], tiny: tuple[str, ...], *, patients: int = 3) -> Data:
    """A data set of them.

    Args:
        build: options of `data_prep.build`; `tiny` those with --tiny, where the demo has so many `patients`.
    """
    demo = ("--layout=stnet", f"--patients={patients}", "--sections-per-patient=1", "--spots=20")
    return Data(name, "stnet", _ABOUT, build, demo, tiny, _SECTIONS, _SPOTS)
