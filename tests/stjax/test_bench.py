import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from data_prep.errors import InputError
from stjax import bench
from stjax.benchmarks import cpu_ops, flops, page
from stjax.benchmarks import embed as bench_embed
from stjax.benchmarks import pytorch as bench_torch


@pytest.mark.parametrize("operators", ["loaded", "missing"])
def test_torchvision_gets_names_for_its_operators_only_where_it_does_not_import(operators, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(
        "import types\ndefined = []\n"
        "class Library:\n    def __init__(self, *_): ...\n    def define(self, text): defined.append(text[:4])\n"
        "library = types.SimpleNamespace(Library=Library)\n"
        "cuda = types.SimpleNamespace(is_available=lambda: False)\n"
    )
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/extension.py").write_text("tries = []")
    fault = {  # what PyTorch does: the first ends the process
        "loaded": "if torch.defined: raise SystemExit('operators registered a second time')\n",
        "missing": "if not torch.defined: raise RuntimeError('operator torchvision::nms does not exist')\n",
    }
    (tmp_path / "torchvision/__init__.py").write_text(
        f"import torch, torchvision.extension\n{fault[operators]}models = torch.defined\n"
    )
    code = "from stjax.benchmarks import pytorch; print(pytorch.import_torchvision().models)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n" if operators == "loaded" else "['nms(', 'qnms']\n", "")


def test_lines_of_the_table_keep_their_columns_apart():
    row = {
        "what": "spot_pool", "case": "20000 discs of a radius of 1 to 40 pixels, all at once", "method": "spot_pool",
        "seconds": 123456.789, "speedup": 12.3, "temp_bytes": 65e12, "note": "a note", "compile_seconds": 1.0,
    }  # fmt: skip
    assert re.split(r" {2,}", bench._line(bench._cells(row))) == [
        *("spot_pool", row["case"], "spot_pool", "123456.7890", "12.30", "65000000", "a note, compiled in 1.0 s"),
    ]


def test_flops_count_multiply_adds_twice_and_depthwise_once_a_channel():
    def function(x, k, w):
        y = jax.lax.conv_general_dilated(
            x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=6
        )
        return jax.jit(jnp.dot)(y, w)

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 8, 8, 6), (3, 3, 1, 6), (6, 5))]
    assert flops.of_function(function, *shapes) == 2 * 16 * (6 * 9 + 6 * 5)


def test_flops_of_efficientnet_b0_are_the_published():
    assert flops.of_backbone("efficientnet", "b0") == pytest.approx(0.78e9, rel=0.02)


@pytest.mark.parametrize(
    "arguments", [["--what=nothing"], ["--models=vgg16"], ["--rounds=0"], ["--image-size-px=8"], ["--batch-size=-1"]]
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(InputError):
        bench.parse(arguments)


def test_interleave_times_every_method():
    calls = []
    seconds = bench.interleave(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, description="x"
    )
    assert calls == ["a", "b"] * 5
    assert set(seconds) == {"a", "b"}


def test_train_rows_have_the_fixed_schema(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(bench.MODELS, "tiny", ("efficientnet", "tiny", "", 2))
    monkeypatch.setattr(bench_torch, "import_torchvision", lambda: None)
    path = tmp_path / "bench.json"
    bench.main(["--what=train,inference", "--models=tiny", "--rounds=1", "--image-size-px=32", f"--json={path}"])
    rows = json.loads(path.read_text())
    assert [row["what"] for row in rows] == ["train", "inference"]
    for row in rows:
        assert {"what", "case", "method", "seconds", "speedup", "temp_bytes", "machine"} <= set(row)
        assert row["seconds"] > 0
        assert row["speedup"] is None
    assert capsys.readouterr().out.splitlines()[-1] == str(path)


def test_operations_for_cpus_are_timed_beside_those_of_xla(tmp_path, monkeypatch):
    monkeypatch.setitem(bench.MODELS, "tiny", ("efficientnet", "tiny", "", 2))
    monkeypatch.setattr(cpu_ops, "_process", lambda arguments: 1.0 if arguments[-1] == "keep" else 2.0)
    path = tmp_path / "bench.json"
    sizes = ["--tiny", "--models=tiny", "--rounds=1", "--batch-size=1", "--image-size-px=32"]
    bench.main(["--what=cpu_ops", *sizes, f"--json={path}"])
    rows = json.loads(path.read_text())
    assert [row["case"].split(",")[0] for row in rows[::2]] == [
        "conv 1x1 (ResNet) batch 1", "barriers kept", "freed memory kept",
    ]  # fmt: skip
    assert [row["method"] for row in rows] == [cpu_ops.XLA, "stjax", cpu_ops.XLA, "stjax", "the system's", "stjax"]
    assert rows[-1]["speedup"] == 2


@pytest.mark.slow
def test_steps_are_timed_in_processes_that_keep_freed_memory_and_that_do_not():
    size = ["resnet18", "1", "32", "1"]
    assert cpu_ops._process(size) > 0
    assert cpu_ops._process([*size, "keep"]) > 0
    with pytest.raises(InputError, match="KeyError: 'none'"):
        cpu_ops._process(["none", *size[1:]])


def test_embedding_is_timed_beside_another_interpreter(tmp_path, monkeypatch):
    server = tmp_path / "python"
    server.write_text("#!/bin/sh\nwhile read -r line; do echo done; done\n")
    server.chmod(0o755)
    monkeypatch.setattr(bench_embed, "MODELS", {"ciga_resnet18": "resnet18"})
    path = tmp_path / "bench.json"
    arguments = ["--what=embed", "--rounds=1", "--batch-size=1", f"--json={path}"]
    bench.main([*arguments, f"--torch-python={server}"])
    rows = {row["method"]: row for row in json.loads(path.read_text())}
    assert set(rows) == {"torch", "stjax"}
    assert rows["stjax"]["speedup"] == pytest.approx(rows["torch"]["seconds"] / rows["stjax"]["seconds"])
    bench.main(arguments)
    assert [row["method"] for row in json.loads(path.read_text())] == ["stjax"]
    for python, said in ((tmp_path / "none", "No such file"), (Path("/bin/false"), "do not all run there")):
        with pytest.raises(InputError, match=said):
            bench.main([*arguments, f"--torch-python={python}"])


def made_row(what, speedup):
    return {"what": what, "case": "a case", "method": "stjax", "seconds": 1.0, "speedup": speedup}


def test_ratios_that_fell_to_less_than_half_are_named():
    before = [made_row("train", 1.0), made_row("ridge", 8.0), made_row("dense", None), made_row("input", 2.0)]
    now = [made_row("train", 0.51), made_row("ridge", 3.9), made_row("dense", None), made_row("folds", 0.1)]
    assert page.fallen(now, before) == ["ridge, a case, stjax: 3.90 times its reference, 8.00 before"]
    with pytest.raises(InputError, match="none of the cases just measured"):
        page.fallen(now[2:], before)


@pytest.mark.parametrize("text", [None, "", "[1]", "{}x", '[{"what": "train"}]'])
def test_a_file_that_is_no_benchmark_is_not_compared_with(tmp_path, text):
    if text is not None:
        (tmp_path / "bench.json").write_text(text)
    with pytest.raises(InputError, match="not the rows of a benchmark"):
        page.read(tmp_path / "bench.json")


def test_what_is_measured_can_be_all_or_that_of_a_gpu_day():
    assert bench.parse(["--all"]).what == [name for name in bench.CASES if name not in ("predict", "shift")]
    assert bench.parse(["--what=gpu_day"]).what == list(bench.TINY)
    refused = {"leave --what out": ["--all", "--what=train"], "not for ridge": ["--what=ridge", "--tiny"]}
    for said, arguments in refused.items():
        with pytest.raises(InputError, match=said):
            bench.parse(arguments)


def test_a_fault_ends_the_command_once_all_is_measured(tmp_path, monkeypatch, capsys):
    faulty = made_row("numerics", None) | {"temp_bytes": None, "fault": "b0 is off"}
    monkeypatch.setitem(
        bench.CASES, "numerics", lambda _: iter([faulty, made_row("numerics", 1.0) | {"temp_bytes": None}])
    )
    path = tmp_path / "bench.json"
    with pytest.raises(SystemExit) as stop:
        bench.main(["--what=numerics", f"--json={path}"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: b0 is off\n"
    assert len(json.loads(path.read_text())) == 2
