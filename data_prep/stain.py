"""Stain normalisation: Vahadane, Macenko and Reinhard, exact, repeatable, the same for a patch as for its slide.

Every one of these methods maps a pixel by its colour alone, once a few numbers are known about its slide. So a slide is
first reduced to its colour histogram (a 92 Mpx section has about 235,000 distinct colours): the fit sees every pixel,
each colour once, with its count as weight, in float64, with no random sample and no clock. What maps colours is then a
table of 2^24 entries, filled when a colour is first met: a patch, a strip or the whole slide go through the same table,
so their bytes agree whatever the region or the number of workers.

The recipe and its constants are those of staintools 2.1.2, which BrST-Net used: a pixel is tissue when its luminosity
is below 0.8; dictionary learning with L1 penalty 0.1 and concentrations with 0.01 (Vahadane et al. 2016, eq. 5; two
non-negative stains); concentrations are scaled so that their 99th percentiles over the slide match the target's.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import files, json_files
from data_prep.colour import CHUNK, colour_counts, lab_from_rgb, pack, percentile, rgb_from_lab, unpack
from data_prep.errors import InputError
from data_prep.json_files import Kind, Maybe
from data_prep.slide import Slide, open_slide
from data_prep.stain_vectors import (
    CONCENTRATION_PENALTY,
    DENSITY,
    concentrations,
    macenko_stains,
    tissue_of,
    vahadane_stains,
)

METHODS = ("vahadane", "macenko", "reinhard", "staintools")

_LUMINOSITY_PERCENTILE = 95
_STRENGTH_PERCENTILE = 99
_MIN_STAIN_ANGLE_DEG = 2.0

Recolour = Callable[[np.ndarray], np.ndarray]  # colours uint8 [K, 3] to as many others
_DIGITS = 6  # of fitted numbers: finer than they matter, coarser than what differs between processors


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a normalisation knows about one slide: plain numbers, saved as JSON.

    Attributes:
        method: "vahadane", "macenko", "reinhard" or "staintools" (Vahadane, fitted by that package).
        luminosity: 95th percentile of CIE L* in 0..255 when luminosity is standardised, else None.
        stains: unit optical density of haematoxylin, then eosin, RGB; empty for Reinhard.
        strength: 99th percentile of the concentration of each stain; empty for Reinhard.
        lab_mean, lab_std: of L*, a*, b* in 0..255, for Reinhard; empty for the others.
        pixels, tissue_pixels: how many pixels the numbers come from.
        image: file name of the slide.
        image_sha256: SHA-256 of that file.
        version: of the package that fitted.
    """

    method: str
    luminosity: float | None
    stains: tuple[tuple[float, ...], ...]
    strength: tuple[float, ...]
    lab_mean: tuple[float, ...]
    lab_std: tuple[float, ...]
    pixels: int
    tissue_pixels: int
    image: str
    image_sha256: str
    version: str


_THREE, _NONE = json_files.numbers(length=3), Kind("an empty list", lambda value: value == [])
PROFILE = {  # a profile's plain values
    "method": json_files.one_of(*METHODS),
    "luminosity": Maybe(json_files.number()),
    "stains": [_THREE],
    "strength": json_files.numbers(),
    "lab_mean": json_files.either(_THREE, _NONE),
    "lab_std": json_files.either(_THREE, _NONE),
    "pixels": json_files.COUNT,
    "tissue_pixels": json_files.COUNT,
    "image": json_files.TEXT,
    "image_sha256": json_files.TEXT,
    "version": json_files.TEXT,
}


class Normaliser:
    """Maps the colours of one slide to those of a target; a function uint8 [..., 3] -> uint8 [..., 3].

    Fitted numbers only, so it is saved with `save`, hashed with `digest`, and cheap to send to another process.

    Attributes:
        source, target: the two slides' profiles.
    """

    def __init__(self, source: Profile, target: Profile) -> None:
        if source.method != target.method:
            raise InputError(
                f"stain normalisation: the source is fitted with {source.method!r}, the target with {target.method!r}; "
                "fit both with the same method"
            )
        self.source, self.target = source, target
        self._table = np.zeros(0, "<u4")

    def __reduce__(self) -> tuple[Any, ...]:
        return Normaliser, (self.source, self.target)  # the table is refilled where it is needed

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Normalise pixels of the source slide.

        Args:
            pixels: uint8 [..., 3] RGB; left unchanged.

        Returns:
            uint8 [..., 3] RGB; the value of a pixel depends on its own colour only.
        """
        _check_rgb(pixels)
        out = np.empty(pixels.shape, np.uint8)
        flat_in = pixels.reshape(-1, 3)
        flat_out = out.reshape(-1, 3)
        if not len(self._table):
            self._table = np.zeros(1 << 24, "<u4")  # 64 MB reserved; the system backs only the pages touched
        for start in range(0, len(flat_in), CHUNK):
            index = pack(flat_in[start : start + CHUNK])
            packed = self._table.take(index)
            new = packed == 0
            if new.any():
                colours = np.unique(index[new])
                self._table[colours] = _as_words(self.map_colours(unpack(colours)))
                packed = self._table.take(index)
            words = packed.view(np.uint8).reshape(-1, 4)
            for channel in range(3):
                flat_out[start : start + CHUNK, channel] = words[:, channel]
        return out

    def map_colours(self, colours: np.ndarray) -> np.ndarray:
        """uint8 [N, 3] -> uint8 [N, 3], computed rather than looked up."""
        source, target = self.source, self.target
        if source.luminosity is not None:
            colours = standardise_luminosity(colours, source.luminosity)
        if source.method == "reinhard":
            scale = np.array(target.lab_std) / np.array(source.lab_std)
            lab = (lab_from_rgb(colours) - np.array(source.lab_mean)) * scale + np.array(target.lab_mean)
            return rgb_from_lab(np.floor(np.clip(lab, 0, 255)))
        stains = np.array(target.stains)
        density = DENSITY[colours]  # [N, 3]
        first, second = concentrations(density, np.array(source.stains), CONCENTRATION_PENALTY)
        first *= target.strength[0] / source.strength[0]
        second *= target.strength[1] / source.strength[1]
        # Written out, not as a matrix product: BLAS may round differently with the number of rows and threads.
        density = first[:, None] * stains[0] + second[:, None] * stains[1]
        return (255 * np.exp(-density)).astype(np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, a manifest say."""
        return {
            "format": "stjax-stain",
            "format_version": 1,
            "source": dataclasses.asdict(self.source),
            "target": dataclasses.asdict(self.target),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the fitted numbers, as 64 hexadecimal digits."""
        return json_files.digest(self.to_dict())

    def save(self, path: str | Path) -> None:
        """Write JSON that `load_normaliser` reads."""
        json_files.write(Path(path), self.to_dict())


def load_normaliser(path: str | Path) -> Normaliser:
    """Read what `Normaliser.save` wrote.

    Raises:
        InputError: the file is absent or not such a file.
    """
    remedy = "expected a file that Normaliser.save wrote; fit it again"
    saved = json_files.read(Path(path), remedy=f"not a saved stain normaliser: {remedy}")
    expected = {
        "format": json_files.one_of("stjax-stain"),
        "format_version": json_files.one_of(1),
        "source": PROFILE,
        "target": PROFILE,
    }
    json_files.require(saved, expected, f"{path}: not a saved stain normaliser", remedy=remedy)
    return Normaliser(profile_from(saved["source"]), profile_from(saved["target"]))


def fit_profile(
    slide: Slide | str | Path, method: str, *, standardise: bool = True, recolour: Recolour | None = None
) -> Profile:
    """Fit the colours of one slide.

    Args:
        slide: an open slide, or a file.
        method: one of `METHODS`.
        standardise: standardise luminosity first (staintools' LuminosityStandardizer: the 95th percentile of L* becomes
            white).
        recolour: fits the slide as if each of its colours had first been changed so.

    Raises:
        InputError: unknown method, no tissue, or colours that do not tell two stains apart.
    """
    if method not in METHODS:
        raise InputError(f"stain method {method!r} is not known, expected one of {', '.join(METHODS)} or none")
    if not isinstance(slide, Slide):
        with open_slide(slide) as opened:
            return fit_profile(opened, method, standardise=standardise, recolour=recolour)
    if recolour is not None and method == "staintools":
        raise InputError("staintools fits a slide as it is, not with other colours; use --stain vahadane")
    colours, counts = colour_counts(slide)
    colours = colours if recolour is None else recolour(colours)
    luminosity = None
    if standardise:
        luminosity = float(percentile(lab_from_rgb(colours)[:, 0], counts, _LUMINOSITY_PERCENTILE))
        if luminosity <= 0:
            raise InputError(f"{slide.path}: the image is black, its luminosity cannot be standardised; check the file")
        colours = standardise_luminosity(colours, luminosity)
    tissue = tissue_of(colours, counts, str(slide.path), "use --stain none")
    fit = _fit_lab if method == "reinhard" else functools.partial(_fit_stains, method, standardise=standardise)
    fitted = fit(slide, colours, counts, tissue)
    return Profile(
        method=method,
        luminosity=luminosity,
        **{name: fitted.get(name, ()) for name in ("stains", "strength", "lab_mean", "lab_std")},
        pixels=int(counts.sum()),
        tissue_pixels=int(counts[tissue].sum()),
        image=slide.path.name,
        image_sha256=files.sha256(slide.path),
        version=f"staintools {metadata.version('staintools')}" if method == "staintools" else "stjax 1",
    )


def _fit_lab(slide: Slide, colours: np.ndarray, counts: np.ndarray, tissue: np.ndarray) -> dict[str, Any]:
    """Mean and spread of L*, a* and b* over all pixels.

    Args:
        colours: uint8 [K, 3]; counts: [K] how many pixels have each; tissue: [K] bool.
    """
    del tissue
    lab = lab_from_rgb(colours)
    mean = tuple((lab * counts[:, None]).sum(axis=0) / counts.sum())
    std = tuple(np.sqrt((np.square(lab - mean) * counts[:, None]).sum(axis=0) / counts.sum()))
    if min(std) < 0.1:
        raise InputError(_one_colour(slide))
    return {"lab_mean": _rounded(mean), "lab_std": _rounded(std)}


def _fit_stains(
    method: str, slide: Slide, colours: np.ndarray, counts: np.ndarray, tissue: np.ndarray, *, standardise: bool
) -> dict[str, Any]:
    """The two stains of the tissue, and how strong each is on the slide; arguments as those of `_fit_lab`."""
    if method == "staintools":
        stains = _staintools_stains(slide, standardise=standardise)
    else:
        find = vahadane_stains if method == "vahadane" else macenko_stains
        stains = find(DENSITY[colours[tissue]], counts[tissue].astype(np.float64))
    cosine = np.clip((stains[0] * stains[1]).sum(), -1, 1) if np.isfinite(stains).all() else 1.0
    amounts = concentrations(DENSITY[colours], stains, CONCENTRATION_PENALTY)
    strength = tuple(percentile(a, counts, _STRENGTH_PERCENTILE) for a in amounts)
    if np.degrees(np.arccos(cosine)) < _MIN_STAIN_ANGLE_DEG or not min(strength) > 1e-3:
        raise InputError(_one_colour(slide))
    return {"stains": tuple(_rounded(row) for row in stains), "strength": _rounded(strength)}


def fit_transform_for(
    method: str,
    slide: Slide | str | Path,
    target: Profile | Slide | str | Path | None,
    *,
    standardise: str = "both",
    recolour: Recolour | None = None,
) -> Normaliser | None:
    """Fit what maps a slide's colours to a target's.

    Args:
        method: one of `METHODS`, or "none".
        slide: the slide to normalise.
        target: the slide to look like; its `Profile`, when many slides share it, is fitted once with `fit_profile`.
        standardise: whose luminosity is standardised, "both", "target" or "none": "both" as staintools' documentation
            asks, "target" as BrST-Net's code does.
        recolour: of `slide`, as `fit_profile` takes it.

    Returns:
        A function uint8 [h, w, 3] -> uint8 [h, w, 3] for any region of the slide, or None for "none".

    Raises:
        InputError: see `fit_profile`; or no target given.
    """
    if method == "none":
        return None
    if standardise not in ("both", "target", "none"):
        raise InputError(f"standardise is {standardise!r}, expected both, target or none")
    if target is None:
        raise InputError(
            f"stain method {method!r} needs a target slide: name a section of the source, or an image file"
        )
    if isinstance(target, str | Path):
        open_slide(target).close()  # says what is wrong with the file, if anything
        target = _target_profile(str(Path(target).resolve()), files.sha256(target), method, standardise != "none")
    elif isinstance(target, Slide):
        target = fit_profile(target, method, standardise=standardise != "none")
    return Normaliser(fit_profile(slide, method, standardise=standardise == "both", recolour=recolour), target)


@functools.lru_cache(maxsize=8)
def _target_profile(path: str, sha256: str, method: str, standardise: bool) -> Profile:  # noqa: ARG001, it is in the key
    """The profile of a target many slides share, fitted once in a process."""
    return fit_profile(path, method, standardise=standardise)


def before_after(slide: Slide, normaliser: Normaliser, *, max_side_px: int = 1024) -> np.ndarray:
    """uint8 [h, 2 w + gap, 3]: the slide's thumbnail, a white gap, and the same thumbnail normalised."""
    before = slide.thumbnail(max_side_px)
    gap = np.full((before.shape[0], max(4, max_side_px // 64), 3), 255, np.uint8)
    return np.concatenate([before, gap, normaliser(before)], axis=1)


def standardise_luminosity(colours: np.ndarray, luminosity: float) -> np.ndarray:
    """uint8 [N, 3] -> uint8 [N, 3]: L* scaled so that `luminosity` (0..255) becomes white, a* and b* kept."""
    lab = lab_from_rgb(colours)
    lab[:, 0] = np.floor(np.clip(255 * lab[:, 0] / luminosity, 0, 255))
    return rgb_from_lab(lab)


def _staintools_stains(slide: Slide, *, standardise: bool) -> np.ndarray:
    """float64 [2, 3]: what staintools' own Vahadane finds on the whole slide (about 9 GB and a minute for 92 Mpx)."""
    try:
        staintools = importlib.import_module("staintools")
        extractor = importlib.import_module("staintools.stain_extraction.vahadane_stain_extractor")
    except ImportError as error:
        raise InputError(
            "stain method 'staintools' needs that package; install the extra: pip install 'stjax[stain]', or use "
            "--stain vahadane, which needs nothing"
        ) from error
    pixels = slide.read_region(0, 0, slide.width, slide.height).copy()  # staintools writes into what it is given
    if standardise:
        pixels = staintools.LuminosityStandardizer.standardize(pixels)
    return np.asarray(extractor.VahadaneStainExtractor.get_stain_matrix(pixels), np.float64)


def _check_rgb(pixels: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.shape[-1] != 3:
        raise ValueError(f"found {pixels.dtype} {pixels.shape}, expected uint8 [..., 3] RGB")


def _as_words(colours: np.ndarray) -> np.ndarray:
    """uint8 [N, 3] -> little-endian uint32 [N] whose bytes are R, G, B and 255, which marks a filled entry."""
    words = np.full((len(colours), 4), 255, np.uint8)
    words[:, :3] = colours
    return words.view("<u4")[:, 0]


def _rounded(values: Any) -> tuple[float, ...]:
    return tuple(round(float(v), _DIGITS) for v in values)


def _one_colour(slide: Slide) -> str:
    return (
        f"{slide.path}: the colours do not tell two stains apart (one colour, or grey); expected haematoxylin and "
        "eosin in bright field; check the image, leave it out with --sections, or use --stain none"
    )


def profile_from(saved: Mapping[str, Any]) -> Profile:
    """A profile from its plain values, as a manifest keeps them.

    Raises:
        InputError: they are not those of a fitted slide.
    """
    remedy = "fit the slide again"
    json_files.require(saved, PROFILE, "stain profile", remedy=remedy)
    lengths = [len(saved[name]) for name in ("stains", "strength", "lab_mean", "lab_std")]
    if lengths != ([0, 0, 3, 3] if saved["method"] == "reinhard" else [2, 2, 0, 0]):
        raise InputError(f"stain profile: holds {lengths} numbers, not what {saved['method']} needs; {remedy}")

    def frozen(value: Any) -> Any:
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    return Profile(**{field.name: frozen(saved[field.name]) for field in dataclasses.fields(Profile)})
