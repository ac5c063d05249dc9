import importlib
import json
import subprocess
import sys

import jax
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax import encoders
from stjax.models import encoder as networks
from stjax.models import vit

# Millions of parameters of the released files, as their publishers' code counts them, and length of the embedding.
RELEASED = {
    "uni": (303.35, 1024),
    "uni2_h": (681.39, 1536),
    "virchow": (631.23, 2560),
    "virchow2": (631.24, 2560),
    "gigapath": (1134.95, 1536),
    "h_optimus_0": (1134.77, 1536),
    "h_optimus_1": (1134.77, 1536),
    "h0_mini": (85.74, 768),
    "phikon": (85.80, 768),
    "phikon_v2": (303.35, 1024),
    "hibou_b": (85.74, 768),
    "hibou_l": (303.66, 1024),
    "kaiko_s16": (21.67, 384),
    "kaiko_s8": (21.67, 384),
    "kaiko_b16": (85.80, 768),
    "kaiko_b8": (85.81, 768),
    "kaiko_l14": (304.37, 1024),
    "lunit_s8": (21.67, 384),
    "lunit_s16": (21.67, 384),
    "midnight_12k": (1136.48, 3072),
    "gpfm": (303.23, 1024),
    "dinov2_s": (22.06, 384),
    "dinov2_s_reg": (22.06, 384),
    "dinov2_b": (86.58, 768),
    "dinov2_b_reg": (86.58, 768),
    "dinov2_l": (304.37, 1024),
    "dinov2_l_reg": (304.37, 1024),
    "dinov2_g": (1136.48, 1536),
    "dinov2_g_reg": (1136.48, 1536),
    "conch": (87.57, 512),  # with what pools its tokens, without the text encoder
    "conch_v1_5": (306.71, 768),
    "ctranspath": (27.52, 768),
    "ciga_resnet18": (11.18, 512),
    "ciga_resnet50": (23.51, 2048),
    "resnet50_imagenet": (23.51, 1024),
    "shell": (1.469, 240),  # the encoding half
    "hed_vgg16": (14.715, 512),
    "efficientnet_lite0": (3.371, 1280),
    "efficientnet_lite1": (4.136, 1280),
    "efficientnet_lite2": (4.811, 1280),
    "vit_b16": (85.80, 768),
    "vit_b32": (87.46, 768),
}


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_every_network_has_the_released_parameters_and_embedding(name):
    """At full size, without a number of it."""
    model = nnx.eval_shape(lambda: networks.build(name, rngs=nnx.Rngs(0)))
    millions, features = RELEASED[name]
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count / 1e6 == pytest.approx(millions, abs=0.006)
    assert model.num_features == encoders.ENCODERS[name].features == features


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_every_entry_is_whole(name):
    entry = encoders.ENCODERS[name]
    assert entry.licence in encoders.LICENCES
    assert entry.pooling in importlib.import_module(f"stjax.models.{entry.module}").POOLINGS
    assert entry.source.startswith("https://")
    assert entry.um_per_px is None or entry.um_per_px[0] <= entry.um_per_px[1]
    assert entry.package in ("", *encoders.PACKAGES)
    if entry.module == "vit":
        spec = vit.Spec(**entry.network)
        assert entry.px % spec.patch_px == 0
        assert spec.width % spec.heads == 0
        assert (spec.registers > 0) == (spec.positions in "bcd")


def test_list_has_a_line_for_each_with_its_licence_and_what_it_allows(capsys):
    encoders.main([])
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines() if line}
    assert encoders.ENCODERS.keys() < lines.keys()
    assert lines["h_optimus_1"].split() == ["h_optimus_1", "1536", "0.4229", "gated", "CC-BY-NC-ND-4.0"]
    assert "CC-BY-NC-ND-4.0: research alone, no commercial use; weights changed" in printed
    assert max(map(len, printed.splitlines())) <= 120


def test_one_says_where_its_file_is_and_how_to_get_it(capsys):
    encoders.main(["uni2_h"])
    gated = capsys.readouterr().out
    assert "https://huggingface.co/MahmoodLab/UNI2-h" in gated
    assert "log in there and accept its terms, then download pytorch_model.bin" in gated
    encoders.main(["kaiko_b8"])
    assert "to get it download vitb8.pth from the page above" in capsys.readouterr().out
    encoders.main(["shell"])
    assert "to get it pip install --no-deps --ignore-requires-python lavlab-shell==0.9.1" in capsys.readouterr().out


def test_json_has_everything(capsys):
    encoders.main(["virchow2", "--json"])
    found = json.loads(capsys.readouterr().out)["virchow2"]
    assert found["network"]["registers"] == 4
    assert found["pooling"] == "class+mean"


def test_unknown_encoders_offer_the_nearest():
    with pytest.raises(InputError, match="no encoder 'UNI2-h'; did you mean 'uni2_h'"):
        encoders.main(["UNI2-h"])
    with pytest.raises(InputError, match="stjax encoders lists them"):
        networks.build("xyzzy", rngs=nnx.Rngs(0))


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from stjax import cli; cli.dispatch(['encoders']); "
        "assert not {'jax', 'numpy', 'flax'} & set(sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "virchow2" in printed


def test_licences_that_not_everyone_may_use_are_restricted():
    restricted = {name for name, each in encoders.ENCODERS.items() if each.restricted}
    assert {"uni", "h_optimus_0", "phikon", "kaiko_s16", "gpfm"} <= restricted
    assert not {"hibou_b", "dinov2_s", "midnight_12k", "efficientnet_lite0"} & restricted


def test_terms_of_restricted_encoders_are_said_once(capsys):
    encoders.say_terms.cache_clear()
    for name in ("uni", "uni", "dinov2_s", "somebody's"):
        encoders.say_terms(name)
    assert capsys.readouterr().out == (
        "note: UNI is under CC-BY-NC-ND-4.0: research alone, no commercial use; weights changed by training may not be "
        "passed on; access to it is granted by its authors\n"
    )
