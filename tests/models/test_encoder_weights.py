"""Files of every key family, made here by hand, into shrunken encoders; files that do not fit, and why."""

import dataclasses
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax import encoders
from stjax.models import encoder as networks
from stjax.models import weight_files, weights
from tests.models.test_hostile_weights import tensor
from tests.models.test_hostile_weights import text as pickled

SMALL = {"width": 12, "layers": 2, "heads": 2, "patch_px": 8, "mlp": 20, "grid": 4, "rule": "R1"}
FORMS = {
    "plain": {},
    "scaled": {"layer_scale": True},
    "registers c": {"layer_scale": True, "registers": 3, "positions": "c"},
    "registers b": {"layer_scale": True, "registers": 3, "positions": "b", "gated": True},
    "registers d": {"layer_scale": True, "registers": 3, "positions": "d", "gated": True},
    "gated": {"layer_scale": True, "gated": True},
}
FAMILIES = {  # forms that each has
    "timm": tuple(FORMS),
    "DINOv2": ("scaled", "registers d", "gated"),
    "transformers' ViT": ("plain",),
    "transformers' Dinov2": ("scaled", "registers d", "gated"),
}


@pytest.fixture
def small(monkeypatch):
    """Makes a shrunken encoder of a form, called "small"."""

    def make(form, **changes):
        entry = dataclasses.replace(encoders.ENCODERS["uni"], network=SMALL | FORMS[form] | changes, px=32)
        monkeypatch.setitem(encoders.ENCODERS, "small", entry)
        return "small"

    return make


def released(family, form, *, seed=0, grid=4, patch=8, dtype=np.float32):
    """A file's arrays, by a family's names."""
    spec, rng = SMALL | FORMS[form], np.random.default_rng(seed)
    d, mlp = spec["width"], spec["mlp"]
    hidden = mlp // 2 if spec.get("gated") else mlp
    registers, layout = spec.get("registers", 0), spec.get("positions", "a")
    rows = grid * grid + {"a": 1, "b": 1 + registers, "c": 0, "d": 1}[layout]

    def numbers(*shape):
        return (0.3 * rng.standard_normal(shape)).astype(dtype)

    def layer(name, outputs, *inputs):
        return {f"{name}.weight": numbers(outputs, *inputs), f"{name}.bias": numbers(outputs)}

    if family in ("timm", "DINOv2"):
        names = ("cls_token", "pos_embed", "patch_embed.proj", "norm", "blocks")
        found = {"mask_token": numbers(1, d)} if family == "DINOv2" else {}
        found |= (
            {("reg_token" if family == "timm" else "register_tokens"): numbers(1, registers, d)} if registers else {}
        )
    else:
        names = ("cls_token", "position_embeddings", "patch_embeddings.projection")
        names = (*(f"embeddings.{name}" for name in names), "layernorm", "encoder.layer")
        found = layer("pooler.dense", d, d) if "ViT" in family else {"embeddings.mask_token": numbers(1, d)}
        found |= {"embeddings.register_tokens": numbers(1, registers, d)} if registers else {}
    found |= {names[0]: numbers(1, 1, d), names[1]: numbers(1, rows, d)}
    found |= layer(names[2], d, 3, patch, patch) | layer(names[3], d)
    for i in range(spec["layers"]):
        block = f"{names[4]}.{i}"
        gammas = ("ls1.gamma", "ls2.gamma")
        norms, first, second = ("norm1", "norm2"), "mlp.fc1", "mlp.fc2"
        if family == "DINOv2" and spec.get("gated"):
            first, second = "mlp.w12", "mlp.w3"
        if family.startswith("transformers"):
            for part in ("query", "key", "value"):
                found |= layer(f"{block}.attention.attention.{part}", d, d)
            found |= layer(f"{block}.attention.output.dense", d, d)
            gammas = ("layer_scale1.lambda1", "layer_scale2.lambda1")
            if "ViT" in family:
                norms, first, second = ("layernorm_before", "layernorm_after"), "intermediate.dense", "output.dense"
            elif spec.get("gated"):
                first, second = "mlp.weights_in", "mlp.weights_out"
        else:
            found |= layer(f"{block}.attn.qkv", 3 * d, d) | layer(f"{block}.attn.proj", d, d)
        found |= layer(f"{block}.{first}", mlp, d) | layer(f"{block}.{second}", d, hidden)
        for name in norms:
            found |= layer(f"{block}.{name}", d)
        found |= {f"{block}.{name}": numbers(d) for name in gammas} if spec.get("layer_scale") else {}
    return found


def write(folder, tensors):
    path = folder / "w.safetensors"
    weight_files.write_safetensors(path, tensors, metadata={})
    return path


def as_timm(tensors, family):
    """A file's arrays under the names of timm, by replacing text: slow, plain, and none of the code under test."""
    if family in ("timm", "DINOv2"):
        pairs = [("register_tokens", "reg_token"), ("mlp.w12", "mlp.fc1"), ("mlp.w3", "mlp.fc2")]
    else:
        pairs = [
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.register_tokens", "reg_token"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("encoder.layer.", "blocks."),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("layernorm", "norm"),
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("mlp.weights_in", "mlp.fc1"),
            ("mlp.weights_out", "mlp.fc2"),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("layer_scale2.lambda1", "ls2.gamma"),
        ]
    found = {}
    for name, array in tensors.items():
        if ".attention.attention.key" in name or ".attention.attention.value" in name:
            continue
        if ".attention.attention.query" in name:
            parts = [tensors[name.replace("query", part)] for part in ("query", "key", "value")]
            name, array = name.replace("attention.attention.query", "attn.qkv"), np.concatenate(parts)
        for old, new in pairs:
            name = name.replace(old, new)
        if "mask_token" not in name and not name.startswith("pooler."):
            found[name] = array
    return found


def check(model, tensors, layout):
    """Every parameter of a model against a file's arrays under timm's names."""
    tensors = dict(tensors)
    if layout == "d":
        tensors["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
        tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
    seen = set()
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        *layer, last = path
        name = ".".join(map(str, path if last.startswith("gamma") else layer))
        for old, new in (
            ("gamma1", "ls1.gamma"),
            ("gamma2", "ls2.gamma"),
            ("attention.qkv", "attn.qkv"),
            ("attention.out", "attn.proj"),
            ("mlp1", "mlp.fc1"),
            ("mlp2", "mlp.fc2"),
            ("embed", "patch_embed.proj"),
        ):
            name = name.replace(old, new)
        name = {"token": "cls_token", "positions": "pos_embed", "registers": "reg_token"}.get(last, name)
        if last in ("kernel", "scale", "bias"):
            name += ".bias" if last == "bias" else ".weight"
        wanted = tensors[name]
        if last == "kernel":
            wanted = wanted.T if wanted.ndim == 2 else wanted.transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(np.asarray(leaf[...]), wanted.reshape(leaf.shape), err_msg=name)
        seen.add(name)
    assert seen == set(tensors)


@pytest.mark.parametrize(("family", "form"), [(family, form) for family, forms in FAMILIES.items() for form in forms])
def test_every_family_fills_every_parameter(small, tmp_path, family, form):
    tensors = released(family, form)
    model, report = networks.load(small(form), write(tmp_path, tensors))
    same_as_timm = family == "DINOv2" and form == "scaled"
    assert report.source == ("timm" if same_as_timm else family)
    check(model, as_timm(tensors, family), FORMS[form].get("positions", "a"))
    features = jax.jit(lambda images: model(images, train=False)["features"])(jnp.ones((1, 32, 32, 3)))
    assert bool(jnp.isfinite(features).all())


@pytest.mark.parametrize(
    ("family", "form", "prefix"),
    [
        ("timm", "scaled", "module."),
        ("timm", "plain", "model.backbone."),
        ("timm", "scaled", "trunk."),
        ("DINOv2", "registers d", "backbone."),
        ("transformers' ViT", "plain", "vit."),
        ("transformers' Dinov2", "gated", "dinov2."),
    ],
)
def test_what_wraps_a_network_is_taken_off(small, tmp_path, family, form, prefix):
    tensors = released(family, form)
    wrapped = {prefix + name: array for name, array in tensors.items()}
    wrapped["classifier.weight"] = np.ones((2, 12), np.float32)
    model, report = networks.load(small(form), write(tmp_path, wrapped))
    check(model, as_timm(tensors, family), FORMS[form].get("positions", "a"))
    assert "classifier.weight" in report.unused


def test_chunks_and_heads_of_a_training_checkpoint_are_taken_off(small, tmp_path):
    tensors = released("DINOv2", "gated")
    chunked = {f"backbone.{name.replace('blocks.', 'blocks.0.')}": array for name, array in tensors.items()}
    chunked |= {"dino_head.mlp.0.weight": np.ones((2, 2), np.float32), "ibot_head.last.weight": np.ones(2, np.float32)}
    model, report = networks.load(small("gated"), write(tmp_path, chunked))
    check(model, as_timm(tensors, "DINOv2"), "a")
    assert set(report.unused) == {"backbone.mask_token", "dino_head.mlp.0.weight", "ibot_head.last.weight"}


def test_layout_d_also_takes_a_file_already_converted(small, tmp_path):
    model, _ = networks.load(small("registers d"), write(tmp_path, released("timm", "registers c") | _gated()))
    assert model.positions.shape == (16, 12)


def _gated():
    return {name: array for name, array in released("timm", "gated").items() if "mlp" in name}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_half_precision_is_kept_and_double_is_not(small, tmp_path, dtype):
    tensors = released("timm", "registers d", dtype=dtype)
    model, report = networks.load(small("registers d"), write(tmp_path, tensors))
    kept = np.float32 if dtype == np.float64 else dtype
    kinds = {".".join(map(str, path)): leaf.dtype for path, leaf in nnx.to_flat_state(nnx.state(model))}
    assert kinds.pop("token") == np.float32  # a sum
    assert set(kinds.values()) == {np.dtype(kept)}
    assert report.notes == (() if dtype == np.float64 else (f"kept in {np.dtype(dtype).name}",))
    assert model(jnp.ones((1, 32, 32, 3)), train=False)["features"].dtype == jnp.float32


MISFITS = {
    "LayerScale is missing": ("scaled", released("timm", "plain"), r"lacks blocks\.0\.ls1\.gamma"),
    "LayerScale is too much": ("plain", released("timm", "scaled"), r"also has blocks\.0\.ls1\.gamma"),
    "registers are too many": (
        "scaled",
        released("timm", "scaled") | {"reg_token": np.ones((1, 3, 12), np.float32)},
        "also has reg_token",
    ),
    "registers are missing": ("registers d", released("timm", "gated"), "lacks reg_token"),
    "other number of registers": (
        "registers c",
        released("timm", "registers c") | {"reg_token": np.ones((1, 4, 12), np.float32)},
        "reg_token has shape 1 x 4 x 12, expected 1 x 3 x 12",
    ),
    "patch": ("plain", released("timm", "plain", patch=4), "has shape 12 x 3 x 4 x 4, expected 12 x 3 x 8 x 8"),
    "grid": ("plain", released("timm", "plain", grid=5), "pos_embed has shape 1 x 26 x 12, expected 1 x 17 x 12"),
    "layout": (
        "registers c",
        released("timm", "registers c") | {"pos_embed": np.ones((1, 17, 12), np.float32)},
        "pos_embed has shape 1 x 17 x 12, expected 1 x 16 x 12",
    ),
    "perceptron": ("gated", released("timm", "scaled"), r"fc2\.weight has shape 12 x 20, expected 12 x 10"),
    "a key's part": (
        "plain",
        {
            k: v
            for k, v in released("transformers' ViT", "plain").items()
            if not k.endswith("1.attention.attention.key.bias")
        },
        r"\(transformers' ViT's names\): it lacks encoder\.layer\.1\.attention\.attention\.key\.bias",
    ),
    "a part's shape": (
        "scaled",
        released("transformers' Dinov2", "scaled")
        | {"encoder.layer.0.attention.attention.value.weight": np.ones((36, 12), np.float32)},
        r"value\.weight has shape 36 x 12, expected 12 x 12",
    ),
    "depth": (
        "plain",
        {k: v for k, v in released("timm", "plain").items() if not k.startswith("blocks.1.")},
        r"lacks blocks\.1\.",
    ),
    "another model": (
        "plain",
        {"conv1.weight": np.ones((4, 3, 7, 7), np.float32)},
        "is of another model: it has conv1",
    ),
    "numbers": (
        "plain",
        released("timm", "plain") | {"norm.bias": np.full(12, np.nan, np.float16)},
        r"norm\.bias holds numbers that are not finite",
    ),
    "quantised": (
        "plain",
        released("timm", "plain") | {"norm.bias": np.ones(12, np.int8)},
        r"norm\.bias holds int8",
    ),
}


@pytest.mark.parametrize("what", MISFITS)
def test_files_that_do_not_fit_are_refused_with_what_differs(small, tmp_path, what):
    form, tensors, message = MISFITS[what]
    with pytest.raises(InputError, match=message) as caught:
        networks.load(small(form), write(tmp_path, tensors))
    assert str(caught.value).startswith("UNI: weights file ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_a_grid_that_the_encoder_allows_is_taken_as_the_file_has_it(small, tmp_path, monkeypatch):
    name = small("plain", grid=9)
    monkeypatch.setitem(encoders.ENCODERS, name, dataclasses.replace(encoders.ENCODERS[name], grids=(4,)))
    for grid in (9, 4):
        model, _ = networks.load(name, write(tmp_path, released("timm", "plain", grid=grid)))
        assert model.positions.shape == (1 + grid * grid, 12)


def test_a_network_to_be_trained_is_built_for_a_grid_that_is_asked_for(small, tmp_path, monkeypatch):
    name = small("plain", grid=9)
    monkeypatch.setitem(encoders.ENCODERS, name, dataclasses.replace(encoders.ENCODERS[name], grids=(4,)))
    path = write(tmp_path, released("timm", "plain", grid=4))
    model = networks.build(name, rngs=nnx.Rngs(0), grid=4)
    weights.load(model, path)
    assert model.positions.shape == (17, 12)
    with pytest.raises(InputError, match=r"pos_embed has shape 1 x 17 x 12, expected 1 x 82 x 12"):
        weights.load(networks.build(name, rngs=nnx.Rngs(0)), path)
    with pytest.raises(InputError, match=r"options\.grid is 5; of UNI there is 9 or 4"):
        networks.build(name, rngs=nnx.Rngs(0), grid=5)


def write_pth(path, tensors, *, key):
    """torch.save's archive, the state dict under `key` of a checkpoint."""
    operations, members = b"", []
    for number, (name, array) in enumerate(tensors.items()):
        strides = [step // array.itemsize for step in array.strides]
        operations += pickled(name) + tensor(array.shape, strides, key=str(number), length=array.size)
        members.append((f"w/data/{number}", array.tobytes()))
    inside = b"}(" + pickled(key) + b"}(" + operations + b"u" + pickled("epoch") + b"K\x03u"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + inside + b".")
        for member in members:
            archive.writestr(*member)
    return path


@pytest.mark.parametrize("key", ["state_dict", "model", "teacher"])
def test_checkpoints_of_torch_are_read(small, tmp_path, key):
    tensors = released("DINOv2", "gated")
    model, report = networks.load(small("gated"), write_pth(tmp_path / "w.bin", tensors, key=key))
    check(model, as_timm(tensors, "DINOv2"), "a")
    assert report.source == "DINOv2"


def test_a_file_cut_short_after_it_was_opened_is_refused(tmp_path):
    path = write(tmp_path, released("timm", "plain"))
    with weight_files.opened(path) as stored:
        (length,) = struct.unpack("<Q", path.read_bytes()[:8])
        with path.open("r+b") as file:
            file.truncate(8 + length + 100)
        last = list(stored.values())[-1]
        with pytest.raises(InputError, match="ends early"):
            last.read()


_LOAD = r"""
import dataclasses, re, sys
import jax.numpy as jnp
from flax import nnx
from pathlib import Path
from stjax import encoders
from stjax.models import encoder, vit
encoders.ENCODERS["small"] = dataclasses.replace(encoders.ENCODERS["uni"], network=NETWORK)
nnx.eval_shape(lambda: encoder.build("small", rngs=nnx.Rngs(0)))
jnp.ones(3).block_until_ready()
def kilobytes(what): return int(re.search(what + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])
before = kilobytes("VmRSS")
model, _ = encoder.load("small", Path(sys.argv[1]))
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_loading_takes_the_memory_of_the_weights_and_a_tenth(tmp_path, kind):
    network = {"width": 384, "layers": 24, "heads": 6, "patch_px": 16, "mlp": 1536, "grid": 14, "layer_scale": True}
    tensors = {}
    with mock.patch.dict(SMALL, network), mock.patch.dict(FORMS, {"plain": {"layer_scale": True}}):
        tensors = released("timm", "plain", grid=14, patch=16)
    path = write(tmp_path, tensors) if kind == "safetensors" else write_pth(tmp_path / "w", tensors, key="model")
    size = sum(array.nbytes for array in tensors.values())
    assert size > 150e6
    code = _LOAD.replace("NETWORK", repr(network))
    printed = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    assert size < int(printed) < 1.1 * size
