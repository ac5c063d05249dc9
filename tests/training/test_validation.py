import numpy as np

from stjax.protocols import get_protocol
from stjax.training.validation import Validation
from tests.inference.fake_predictor import made_fold


def test_genes_predicted_the_same_everywhere_have_no_pcc_and_are_counted():
    rng = np.random.default_rng(0)
    found = Validation(made_fold(), get_protocol("stjax"))
    for _ in range(4):
        prediction = rng.normal(size=(8, 1, 3)).astype(np.float32)
        prediction[..., 1] = 1.5 + 1e-7 * prediction[..., 0]  # rounding
        counts = rng.integers(0, 9, (8, 1, 3))
        batch = {"mask": np.ones((8, 1)), "counts": counts, "total": np.full((8, 1, 1), 5000.0)}
        found.update(prediction, 1.0, batch)
    figures = found.figures()
    assert figures["val_genes_constant"] == 1
    assert figures["val_pcc_median"] is not None

    found = Validation(made_fold(), get_protocol("stjax"))
    found.update(np.full((8, 1, 3), 0.7, np.float32), 1.0, batch)
    assert found.figures()["val_genes_constant"] == 3
    assert found.figures()["val_pcc_median"] is None
