"""The message of a record: what else it must be is tested with the records (test_dataset)."""

import gc
import weakref

from data_prep import tf_example


def test_no_class_of_the_message_is_ever_garbage() -> None:
    """Protobuf makes the classes of inner messages as they are met, and drops those that nobody holds."""
    example = tf_example._EXAMPLE.FromString(tf_example.encode({"a": [1], "b": [0.5], "c": "text"}))
    feature = example.features.feature["a"]
    kinds = [feature.int64_list, example.features.feature["b"].float_list, example.features.feature["c"].bytes_list]
    classes = [weakref.ref(type(each)) for each in (example, example.features, feature, *kinds)]
    del example, feature, kinds
    gc.collect()
    assert all(each() is not None for each in classes)
