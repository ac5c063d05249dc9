"""The `tf.train.Example` message with protobuf alone, exchanged with TFDS and TensorFlow and imported in no time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_LISTS = {"bytes_list": ("BytesList", "TYPE_BYTES"), "float_list": ("FloatList", "TYPE_FLOAT")}
_LISTS |= {"int64_list": ("Int64List", "TYPE_INT64")}  # in the order of their numbers in Feature


def _messages() -> dict[str, Any]:
    """The class of each message, as tensorflow/core/example/example.proto and feature.proto define them."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    kinds: Any = descriptor_pb2.FieldDescriptorProto

    def add(message: Any, name: str, number: int, kind: str, *, of: str = "", **options: Any) -> None:
        label = kinds.LABEL_REPEATED if options.pop("repeated", False) else kinds.LABEL_OPTIONAL
        options |= {"type_name": f".tensorflow.{of}"} if of else {}
        message.field.add(name=name, number=number, type=getattr(kinds, kind), label=label, **options)

    for name, kind in _LISTS.values():
        add(file.message_type.add(name=name), "value", 1, kind, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, (of, _)) in enumerate(_LISTS.items(), start=1):
        add(feature, name, number, "TYPE_MESSAGE", of=of, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, "TYPE_STRING")
    add(entry, "value", 2, "TYPE_MESSAGE", of="Feature")
    add(features, "feature", 1, "TYPE_MESSAGE", of="Features.FeatureEntry", repeated=True)
    add(file.message_type.add(name="Example"), "features", 1, "TYPE_MESSAGE", of="Features")
    pool = descriptor_pool.DescriptorPool()  # its own: TensorFlow registers the same names in protobuf's
    pool.Add(file)
    return {
        name.split(".")[-1]: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.{name}"))
        for name in (*(of for of, _ in _LISTS.values()), "Feature", "Features.FeatureEntry", "Features", "Example")
    }


# All of them are kept. Protobuf makes the class of an inner message anew once it is garbage, and finds one again while
# it is being collected, which another thread that decodes a record at that moment must not be given.
_CLASSES = _messages()
_EXAMPLE = _CLASSES["Example"]


def encode(features: Mapping[str, Any]) -> bytes:
    """Features to bytes, always the same.

    Args:
        features: of each name bytes, a text, or numbers, in NumPy or as a sequence; or a sequence of texts.
    """
    example = _EXAMPLE()
    for name, value in features.items():
        kind, values = _listed(value)
        getattr(example.features.feature[name], kind).value.extend(values)
        getattr(example.features.feature[name], kind).SetInParent()  # an empty list is a list too
    return example.SerializeToString(deterministic=True)


def _listed(value: Any) -> tuple[str, list[Any]]:
    if isinstance(value, bytes | str):
        value = [value]
    if isinstance(value, list) and all(isinstance(each, bytes | str) for each in value):
        return "bytes_list", [each.encode() if isinstance(each, str) else each for each in value]
    numbers = np.asarray(value)
    kind = "float_list" if numbers.dtype.kind == "f" else "int64_list"
    return kind, numbers.ravel().tolist()


def decode(data: bytes) -> dict[str, Any]:
    """Features of bytes: of each name a sequence of numbers, or of bytes. Raises what protobuf raises."""
    features = _EXAMPLE.FromString(data).features.feature
    return {
        name: feature.int64_list.value or feature.float_list.value or feature.bytes_list.value
        for name, feature in features.items()
    }
