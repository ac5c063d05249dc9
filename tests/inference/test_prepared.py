from types import SimpleNamespace

import numpy as np

from data_prep.section import DISC, POLYGON, SQUARE
from stjax.inference import prepared


def sizes(kind, size_px, um_per_px=0.5):
    table = SimpleNamespace(spot_kind=np.array(kind, np.uint8), spot_size_px=np.array(size_px, np.float32))
    return prepared.spot_sizes_um(table, np.ones(len(kind), bool), um_per_px).tolist()


def test_a_spot_has_its_own_size_whatever_its_kind():
    assert sizes([SQUARE, SQUARE], [32, 32]) == [16.0, 16.0]  # squares of 16 um, which are no spots of 100 um
    assert sizes([DISC, SQUARE, DISC], [100, 4, 55]) == [100.0, 2.0, 55.0]
    assert sizes([DISC, POLYGON], [110, 0]) == [110.0, 110.0]
    assert sizes([POLYGON], [0]) == [100.0]
