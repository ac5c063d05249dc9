"""The methods that an evaluation compares: what code, JSON and columns call each, and what people read.

A baseline that is added needs its entry here, and its predictions in `comparison.sections_of`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Method:
    """How a method is told.

    Attributes:
        label: in tables and charts.
        about: what it predicts, in one line.
        uses_test_expression: whether it is told expression of the scored sections: a reference, not a rival.
    """

    label: str
    about: str
    uses_test_expression: bool = False


MODEL = "model"
METHODS = {  # by identifier: keys of metrics.json and protocols.json, and what columns of per_gene.csv end in
    MODEL: Method("model", "what was trained"),
    "ridge_colour": Method(
        "ridge on colour", "thirty colour and texture statistics of the patch, fitted on the training spots"
    ),
    "ridge_features": Method(
        "ridge on features", "what an encoder made of the patch (stjax embed), fitted on the training spots"
    ),
    "total_counts": Method("total counts", "the measured total of the test spot", uses_test_expression=True),
    "mean": Method("mean predictor", "the mean of the training spots"),
    "nearest_measured": Method(
        "nearest measured spots",
        "what was measured at the six nearest spots of the same test section",
        uses_test_expression=True,
    ),
    "patch_model": Method("patch model", "a model of patches (--beside), applied to the patch around every spot"),
    "nearest_spot": Method(
        "nearest spot", "what the model predicts for the nearest spot of a size that it was trained at"
    ),
}


def label(method: str, *, star: str = "*") -> str:
    """What tables and charts call a method: those that are told test expression have a star."""
    return METHODS[method].label + (star if METHODS[method].uses_test_expression else "")


def column(figure: str, method: str) -> str:
    """The column of per_gene.csv that has a metric of a method; the model's is called as the metric is."""
    return figure if method == MODEL else f"{figure}_{method}"
