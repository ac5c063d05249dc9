import jax
import numpy as np
from flax import nnx

from stjax import workdir
from stjax.models import efficientnet, weight_files, weights
from tests.conftest import command


def test_exported_backbone_is_the_trained_one_and_starts_another(trained, tmp_path, cache):
    folder, _ = trained
    result = command("stjax.export", f"--workdir={folder}", f"--out={tmp_path}", cache=cache)
    backbone, heads = tmp_path / "backbone.safetensors", tmp_path / "heads.safetensors"
    assert result.stdout.splitlines()[-2:] == [str(backbone), str(heads)]

    run = workdir.Run.load(folder)
    model = nnx.merge(run.graphdef, run.state["params"], run.state["statistics"])
    other = efficientnet.build("tiny", rngs=nnx.Rngs(5))
    assert weights.load(other, backbone).source == "torchvision"
    for one, two in zip(*(jax.tree.leaves(nnx.state(part)) for part in (model.backbone, other)), strict=True):
        np.testing.assert_array_equal(one, two)
    found = weight_files.read(heads)
    np.testing.assert_array_equal(found["main.weight"].T, model.main.kernel[...])
    np.testing.assert_array_equal(found["aux.bias"], model.aux.bias[...])


def test_a_folder_without_a_run_and_a_file_in_the_way_are_refused(trained, tmp_path, cache):
    (tmp_path / "file").write_text("")
    for folder, out, message in (
        (tmp_path, tmp_path / "out", "is no work directory"),
        (trained[0], tmp_path / "file", "is no folder; choose another"),
    ):
        result = command("stjax.export", f"--workdir={folder}", f"--out={out}", cache=cache, check=False)
        assert result.returncode == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
