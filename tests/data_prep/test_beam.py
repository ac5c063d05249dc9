"""The Beam route; run it where the extra `beam` is installed."""

import gzip
import subprocess
import sys

import pytest

from data_prep import beam
from data_prep.build import build
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from tests.data_prep.test_build import FLAGS, OPTIONS, files
from tests.data_prep.tiny_source import write_source


def test_without_beam_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InputError, match=r"pip install 'stjax\[beam\]'"):
        beam.executor([])


@pytest.mark.parametrize("flags", [[], ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]])
def test_beam_makes_the_same_bytes(tmp_path, flags):
    pytest.importorskip("apache_beam", reason="needs the extra `beam`")
    source = write_source(tmp_path / "source")
    command = [sys.executable, "-m", "data_prep.beam", "--source", source, "--out", tmp_path / "beam", *FLAGS, *flags]
    subprocess.run([str(part) for part in command], check=True)
    PatchDataset.open(tmp_path / "beam", verify=True)
    assert files(tmp_path / "beam") == files(build(source, tmp_path / "plain", **OPTIONS).parent)


def test_bad_input_met_by_a_beam_worker_is_one_clear_line(tmp_path):
    pytest.importorskip("apache_beam", reason="needs the extra `beam`")
    source = write_source(tmp_path / "source")
    table = source / "ST-cnts" / "A2.tsv.gz"
    table.write_bytes(gzip.compress(gzip.decompress(table.read_bytes()).replace(b"\t20", b"\t-20"), mtime=0))
    with pytest.raises(InputError, match=r"A2.tsv.gz: line \d+, gene \w+: count is '-20'") as raised:
        build(source, tmp_path / "out", **OPTIONS, execute=beam.executor([]))
    assert "while running" not in str(raised.value)
    assert "\n" not in str(raised.value).strip()
