"""How a slide is matched to those that a model was trained on: in scale, and in stain."""

from data_prep import stain
from data_prep.errors import InputError
from data_prep.slide import Slide
from data_prep.tissue import Transform
from stjax.trained import Trained

SCALE_TOLERANCE = 0.05  # a slide whose scale is further than this from the training's is resampled


def scale_and_stain(model: Trained, slide: Slide, um_per_px: float) -> tuple[float, Transform | None]:
    """Slide pixels per model pixel, and the stain normalisation, as for the slides the run was trained on.

    Raises:
        InputError: the slide is stored as patches, and the model takes others than these as they are.
    """
    fold, px_scale, transform = model.fold, px_scale_of(model, um_per_px), None
    if slide.patch_px:
        _check_patches(model, slide, um_per_px)
        return slide.patch_scale, None
    if px_scale != 1:
        times = slide.coarser(px_scale)[1]
        level = "" if times == 1 else f", from the level of the file that is {times:.3g} times coarser"
        print(f"{slide.path.name}: resampled from {um_per_px:.3f} to {fold.um_per_px:.3f} um per px{level}")
    if fold.stain_target is not None:  # as the training slides were, each fitted on its own and mapped to the target
        target = stain.profile_from(fold.stain_target)
        standardise = fold.parameters["stain_standardise"]
        transform = stain.fit_transform_for(fold.parameters["stain"], slide, target, standardise=standardise)
    return px_scale, transform


def _check_patches(model: Trained, slide: Slide, um_per_px: float) -> None:
    fold, patch_um = model.fold, um_per_px * slide.patch_scale
    fault = ""
    if model.view.any_size:
        fault = "the model takes tiles, which cannot be cut from them"
    elif fold.facts.get("context", 1) > 1 or len(fold.facts.get("fields", ())) > 1:
        fault = "the model sees windows around each spot too"
    elif fold.image_size_px != slide.patch_px:
        fault = f"the model takes patches of {fold.image_size_px} px, and they are not cut anew"
    elif abs(patch_um / fold.um_per_px - 1) > SCALE_TOLERANCE:
        fault = f"they have {patch_um:.4g} um per px, the model's {fold.um_per_px:.4g}, and they are not resampled"
    elif fold.stain_target is not None:
        fault = "the model was trained on normalised stains, which are fitted to a slide"
    if fault:
        raise InputError(
            f"{slide.path} has patches of {slide.patch_px} px in place of a slide: {fault}; give the slide, or train "
            "on patches such as these"
        )


def px_scale_of(model: Trained, um_per_px: float) -> float:
    """Slide pixels per model pixel; 1 where they are alike enough to be taken as they are."""
    px_scale = model.fold.um_per_px / um_per_px
    alike = abs(px_scale - 1) <= SCALE_TOLERANCE and not model.fold.parameters.get("um_per_px")
    return 1.0 if alike else px_scale
