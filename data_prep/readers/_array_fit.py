"""Where an array puts its spots in the image: the fit that shows the pitch, and the spots that do not follow it.

Places on the array tell places in the image but for an affine map, which all spots share. A spot whose coordinates are
wrong moves the least-squares map, and with it the scale that is read off it; so none is passed over.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.spatial

from data_prep import files, names, on_disk
from data_prep.errors import InputError

OFF = 0.5  # pitches from its place on the array: a spot farther off is nearer to another's; real ones stay below 0.24
_BEND = 0.004  # of the array's width: as much may a camera bend it, which is more than half a pitch of small bins
_LEAST_FITTING = 0.3  # of the spots, without which there is no array to speak of
_SAMPLE, _TRIES = 2000, 400  # spots to try, and triples of them: one of three good spots in a row is all that is needed
_FAR = 1.8  # times the distance between neighbours in the image, beyond which neighbours on the array are none there
_MANY = 500_000  # spots, of which no more are copied at a time
_NAMED = 3  # spots in a message
_ANY_NUMBER = np.errstate(over="ignore", invalid="ignore", divide="ignore")  # a wrong coordinate may be one


@dataclasses.dataclass(frozen=True)
class Fit:
    """The map from array to image, and how spots follow it.

    Attributes:
        affine: [2, 2] pixels per step, row i for array axis i; of the spots that follow it, if any do not.
        placed_xy: [S, 2] where it puts each spot, pixels.
        off: [S] pitches between that and where it lies.
        misplaced: [S] bool: more than half a pitch.
    """

    affine: np.ndarray
    placed_xy: np.ndarray
    off: np.ndarray
    misplaced: np.ndarray

    @property
    def pitch_px(self) -> float:
        """Pixels per step, the geometric mean of both axes'."""
        return _pitch(self.affine)


def grid_affine(grid_xy: np.ndarray, spot_xy: np.ndarray) -> np.ndarray | None:
    """[2, 2] pixels per step of the spot grid, row i for grid axis i, by least squares; None if spots span no plane.

    Args:
        grid_xy: [S, 2] positions on the array.
        spot_xy: [S, 2] pixels.
    """
    if len(grid_xy) < 3:
        return None
    if len(grid_xy) > _MANY:
        return _affine_of_many(grid_xy, spot_xy)
    centred = grid_xy - grid_xy.mean(axis=0)
    if np.linalg.matrix_rank(centred) < 2:
        return None
    return np.linalg.lstsq(centred, spot_xy - spot_xy.mean(axis=0), rcond=None)[0]


def _affine_of_many(grid_xy: np.ndarray, spot_xy: np.ndarray) -> np.ndarray | None:
    """The same from sums over blocks of rows, as several copies of millions of them would be."""
    middle, of_spots = _middle(grid_xy), _middle(spot_xy)
    squares, products = np.zeros((2, 2, 2))
    for rows in on_disk.blocks(len(grid_xy), grid_xy, spot_xy, size=_MANY):
        centred = grid_xy[rows] - middle
        squares += centred.T @ centred
        products += centred.T @ (spot_xy[rows] - of_spots)
    if not np.isfinite(squares).all() or np.linalg.matrix_rank(squares) < 2:
        return None
    return np.linalg.solve(squares, products)


@_ANY_NUMBER
def _all_in_place(grid_xy: np.ndarray, spot_xy: np.ndarray) -> bool:
    """Whether, of many spots, each lies within half a pitch of where the least-squares map puts it."""
    affine = grid_affine(grid_xy, spot_xy)
    if affine is None or not 0 < _pitch(affine) < np.inf:
        return False
    middle, of_spots = _middle(grid_xy), _middle(spot_xy)
    far = [
        np.hypot(*((grid_xy[rows] - middle) @ affine + of_spots - spot_xy[rows]).T).max()
        for rows in on_disk.blocks(len(grid_xy), grid_xy, spot_xy, size=_MANY)
    ]
    return max(far) <= OFF * _pitch(affine)


def _middle(xy: np.ndarray) -> np.ndarray:
    """[2] float64, the mean of many places."""
    blocks = on_disk.blocks(len(xy), xy, size=_MANY)
    return np.sum([np.sum(xy[rows], axis=0, dtype=np.float64) for rows in blocks], axis=0) / len(xy)


def turned_degrees(affine: np.ndarray) -> float:
    """How far the rows of an array are from the nearest axis of the image, 0 to 45; see `grid_affine`."""
    degrees = float(np.degrees(np.arctan2(affine[0, 1], affine[0, 0])))
    return abs((degrees + 45) % 90 - 45)


def turn_notes(degrees: float) -> tuple[str, ...]:
    """A note when squares do not lie along the image's axes."""
    return (f"bins are turned by {degrees:.1f} degrees against the image and taken as upright",) if degrees > 2 else ()


def pitch_px(grid_xy: np.ndarray, spot_xy: np.ndarray) -> float | None:
    """Distance between neighbours on the spot grid, in pixels; None if it cannot be measured.

    Args:
        grid_xy: [S, 2] positions on the array, in units of the pitch.
        spot_xy: [S, 2] pixels.
    """
    affine = grid_affine(grid_xy, spot_xy)
    pitch = 0.0 if affine is None else _pitch(affine)
    return pitch if np.isfinite(pitch) and pitch > 0 else None


@_ANY_NUMBER
def fit(grid_xy: np.ndarray, spot_xy: np.ndarray) -> Fit | None:
    """The map by least squares where all spots follow it, else by those that most agree; None if they span no plane.

    Args:
        grid_xy: [S, 2] positions on the array, in units of the pitch.
        spot_xy: [S, 2] pixels.
    """
    try:
        affine = grid_affine(grid_xy, spot_xy)
    except np.linalg.LinAlgError:
        affine = None
    plain = None if affine is None else _of(affine, grid_xy, spot_xy)
    return plain if plain and not plain.misplaced.any() else _most_agree(grid_xy, spot_xy) or plain


def check(path: Path, ids: Sequence[str] | np.ndarray, grid_xy: np.ndarray, spot_xy: np.ndarray) -> None:
    """Refuse spots that lie more than half a pitch from where the array puts them.

    Args:
        path: the file that places them.
        ids: [S] their names.
        grid_xy: [S, 2] positions on the array, in units of the pitch.
        spot_xy: [S, 2] pixels.

    Raises:
        InputError: it names some, where they are and where they should be; or, where most are elsewhere, why.
    """
    if len(grid_xy) > _MANY and _all_in_place(grid_xy, spot_xy):
        return
    found = fit(grid_xy, spot_xy)
    if found is not None and found.misplaced.any():
        raise InputError(describe(path, ids, grid_xy, spot_xy, found))


@_ANY_NUMBER
def describe(
    path: Path | str,
    ids: Sequence[str] | np.ndarray,
    grid_xy: np.ndarray,
    spot_xy: np.ndarray,
    found: Fit,
    *,
    remedy: str = "correct the file",
) -> str:
    """What is wrong with the misplaced spots of a fit, and what to do; other arguments as `check` takes them."""
    wrong = np.flatnonzero(found.misplaced)
    what = f"{path}: {len(wrong)} of {len(ids)} spots lie{'s' * (len(wrong) == 1)} more than half a pitch from where"
    if len(wrong) > len(ids) / 2:
        return f"{what} their positions on the array put them: {_cause(grid_xy, spot_xy, found)}; {remedy}"
    named = ", ".join(
        f"{files.shown(str(name), most=24)} at {_place(spot_xy[row])}, expected {_place(found.placed_xy[row])}"
        for row, name in zip(wrong[:_NAMED], names.texts([ids[row] for row in wrong[:_NAMED]]), strict=True)
    )
    more = "" if len(wrong) <= _NAMED else ", ..."
    swapped = "; they fit with x and y swapped" if _swapped(spot_xy, found) else ""
    return f"{what} the rest of the array puts them (x, y in pixels): {named}{more}{swapped}; {remedy}"


def neighbours_are_apart(grid_xy: np.ndarray, spot_xy: np.ndarray) -> bool:
    """Whether spots [S, 2] next to each other on the array lie far apart in the image, as where rows were reordered.

    They do not in a slide that is bent or put together, nor along the rows of an array numbered by a wrong width.
    """
    if len(grid_xy) < 6:
        return False
    rows = np.linspace(0, len(grid_xy) - 1, min(len(grid_xy), _SAMPLE)).astype(int)
    around = np.asarray(scipy.spatial.KDTree(grid_xy).query(grid_xy[rows], k=5)[1])[:, 1:]  # [rows, 4]
    apart = np.linalg.norm(spot_xy[around] - spot_xy[rows, None], axis=2)
    nearest = np.asarray(scipy.spatial.KDTree(spot_xy).query(spot_xy[rows], k=2)[0])[:, 1]
    return bool(np.median(np.sort(apart, axis=1)[:, 1]) > _FAR * np.median(nearest))


def _cause(grid_xy: np.ndarray, spot_xy: np.ndarray, found: Fit) -> str:
    """Why most spots are elsewhere, as far as other pairings of the same columns show."""
    for grid, spots in ((grid_xy[1:], spot_xy[:-1]), (grid_xy[:-1], spot_xy[1:])):
        if (shifted := fit(grid, spots)) is not None and np.mean(shifted.misplaced) < 0.1:
            return "pixels are those of the row before or after (a header taken for a spot, or a row lost?)"
    if _swapped(spot_xy, found):
        return "x and y are swapped there"
    x_follows, y_follows = (_follows(grid_xy, pixels) for pixels in spot_xy.T)
    if x_follows != y_follows:
        good, bad = "xy" if x_follows else "yx"
        return f"pixels in {good} follow the array and those in {bad} do not (sorted or pasted alone?)"
    if neighbours_are_apart(grid_xy, spot_xy):
        return "rows were reordered in some of the columns, or are of another section"
    return "the slide is bent or put together of parts, or its array is numbered in another way"


def _follows(grid_xy: np.ndarray, pixels: np.ndarray) -> bool:
    """Whether one coordinate [S] follows the array by itself, all but to a twentieth of its spread."""
    design = np.column_stack([grid_xy, np.ones(len(grid_xy))])
    off = pixels - design @ np.linalg.lstsq(design, pixels, rcond=None)[0]
    return bool(np.std(off) < 0.05 * np.std(pixels))


def _swapped(spot_xy: np.ndarray, found: Fit) -> bool:
    """Whether most misplaced spots would be where they belong with x and y swapped."""
    wrong = found.misplaced
    off = np.hypot(*(spot_xy[wrong, ::-1] - found.placed_xy[wrong]).T)
    return bool(np.mean(off <= OFF * found.pitch_px) > 0.5)


def _of(affine: np.ndarray, grid_xy: np.ndarray, spot_xy: np.ndarray, by: np.ndarray | slice = slice(None)) -> Fit:
    """The fit of a map [2, 2] through the middle of the spots `by`, all by default."""
    placed = (grid_xy - grid_xy[by].mean(axis=0)) @ affine + spot_xy[by].mean(axis=0)  # [S, 2]
    pitch = _pitch(affine)
    off = np.hypot(*(placed - spot_xy).T) / (pitch if np.isfinite(pitch) else np.nan)  # [S]
    misplaced = ~(off <= OFF)
    if misplaced.any():
        quarter, three_quarters = np.percentile(grid_xy, [25, 75], axis=0)
        misplaced = ~(off <= max(OFF, _BEND * 2 * float((three_quarters - quarter).max())))
    return Fit(affine, placed, off, misplaced)


def _most_agree(grid_xy: np.ndarray, spot_xy: np.ndarray) -> Fit | None:
    """The fit that most spots follow, begun with the best of many triples of them; None if no three in ten do."""
    rng = np.random.default_rng(0)
    rows = rng.choice(len(grid_xy), min(len(grid_xy), _SAMPLE), replace=False)
    grid, spots = grid_xy[rows], spot_xy[rows]
    best, following = rows[:0], 0
    for _ in range(_TRIES if len(rows) > 3 else 0):
        triple = rng.choice(len(rows), 3, replace=False)
        affine = grid_affine(grid[triple], spots[triple])
        if affine is None or not _pitch(affine) > 0:
            continue
        follow = ~_of(affine, grid, spots, triple).misplaced
        if follow.sum() > following:
            best, following = rows[follow], int(follow.sum())
    found, by = None, best
    for _ in range(4):  # each time by all that follow
        affine = grid_affine(grid_xy[by], spot_xy[by])
        if affine is None:
            return None
        found = _of(affine, grid_xy, spot_xy, by)
        by = np.flatnonzero(~found.misplaced)
        if len(by) <= max(3, _LEAST_FITTING * len(grid_xy)):
            return None
    return found


def _pitch(affine: np.ndarray) -> float:
    return float(np.sqrt(abs(np.linalg.det(affine))))


def _place(xy: np.ndarray) -> str:
    return f"({xy[0]:.6g}, {xy[1]:.6g})"
