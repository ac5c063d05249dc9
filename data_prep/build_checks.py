"""What stops a build before it writes anything: errors that checks find, and sections of which nothing is left."""

from collections.abc import Collection, Sequence
from pathlib import Path

from data_prep import checks, plan
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.slide_base import ABSURD_UM_PER_PX

_SHOWN_ERRORS = 3


def check_names(names: Collection[str]) -> None:
    """Raise `InputError` unless `--ignore-check` names checks."""
    if unknown := [name for name in names if name not in checks.NAMES]:
        raise InputError(f"--ignore-check is {', '.join(unknown)}, expected some of {', '.join(checks.NAMES)}")


def refuse_empty(source: Path, plans: Sequence[plan.SectionPlan], options: plan.Options) -> list[str]:
    """Sections without a spot left, which are left out.

    Raises:
        InputError: there are some, and they are not to be left out, or nothing else is there; the cause is said.
    """
    empty, kept = [entry for entry in plans if not entry.spots], [entry for entry in plans if entry.spots]
    if not empty or (options.skip_incomplete and kept):
        return [entry.name for entry in empty]
    others = ",".join(entry.name for entry in kept)
    rest = f", drop such sections with --skip-incomplete, or name the others with --sections {others}" if kept else ""
    names = ", ".join(entry.name for entry in empty)
    raise InputError(f"{source}: no spot is left of section {names}; {_why_empty(empty[0], options)}{rest}")


def _why_empty(entry: plan.SectionPlan, options: plan.Options) -> str:
    """What removed most of a section's spots, and what to do about it."""
    reason = max(entry.removed, key=lambda reason: entry.removed[reason])
    texts = {
        "outside_image": "lie outside the image",
        "window_outside_image": "have a patch that crosses the border of the image",
        "low_counts": f"have fewer than {options.min_counts} counts",
        "white": f"are more than {options.max_white_fraction:.0%} white",
    }
    why = f"of {entry.read} spots of {entry.name}, {entry.removed[reason]} {texts[reason]}"
    if reason == "outside_image":
        return f"{why}: it is another image, or another resolution of it; give the one the spots were placed on"
    if reason == "window_outside_image":
        return f"{why}: {_patch_against_slide(entry.found, options)}"
    return f"{why}; lower --min-counts" if reason == "low_counts" else f"{why}; raise --max-white-fraction"


def _patch_against_slide(found: checks.Found, options: plan.Options) -> str:
    """How large a patch is compared with the slide."""
    target = options.um_per_px or found.um_per_px
    patch_mm, width_mm, height_mm = (
        pixels * um_per_px / 1000
        for pixels, um_per_px in (
            (options.size_px, target), (found.width, found.um_per_px), (found.height, found.um_per_px)
        )
    )  # fmt: skip
    text = (
        f"a patch of {options.size_px} px at {target:.3g} um per px is {patch_mm:.3g} mm wide, the slide "
        f"{width_mm:.3g} x {height_mm:.3g} mm at {found.um_per_px:.3g} um per px"
    )
    if options.um_per_px is None:
        return f"{text}; give a smaller --patch-size-px, or check the slide's scale"
    if options.um_per_px > ABSURD_UM_PER_PX:
        return f"{text}; --target-um-per-px is in micrometres: did you mean {options.um_per_px / 1000:.3g}?"
    return f"{text}; give a smaller --target-um-per-px or --patch-size-px"


def refuse_errors(
    source: Path, plans: Sequence[plan.SectionPlan], ignored: Collection[str]
) -> tuple[list[str], list[str]]:
    """Print what checks found, and go on if there is no error but of checks to ignore.

    Args:
        plans: of the sections to be written.

    Returns:
        Warnings about sections taken together, and the errors that were passed over.

    Raises:
        InputError: there are other errors; all their checks are named.
    """
    across = checks.across([entry.found for entry in plans])
    problems = [(f"section {entry.name}: ", problem) for entry in plans for problem in entry.found.problems]
    problems += [("", problem) for problem in across]
    errors = [(place, problem) for place, problem in problems if problem.level == checks.ERROR]
    if stopping := [(place, problem) for place, problem in errors if problem.check not in ignored]:
        raise InputError(_refusal(source, stopping))
    for place, problem in problems:
        if problem.level == checks.WARNING:
            print(f"warning: {place}{problem.text}", flush=True)
    passed_over = [f"{place}{problem.check}: {problem.text}" for place, problem in errors]
    for text in passed_over:
        print(f"warning: passed over by --ignore-check: {text}", flush=True)
    together = [problem.text for problem in across if problem.level == checks.WARNING]
    return together, passed_over


def _refusal(source: Path, errors: Sequence[tuple[str, checks.Problem]]) -> str:
    shown = "; ".join(f"{place}{problem.text}" for place, problem in errors[:_SHOWN_ERRORS])
    more = f"; and {counted(len(errors) - _SHOWN_ERRORS, 'more errors')}" if len(errors) > _SHOWN_ERRORS else ""
    names = ",".join(sorted({problem.check for _, problem in errors}))
    return (
        f"{source}: {shown}{more}. Correct the source (data_prep.check shows all, with pictures), leave such sections "
        f"out with --sections, or build in spite of it with --ignore-check {names}"
    )
