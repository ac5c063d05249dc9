import json

import pytest

from stjax import doctor
from tests.conftest import command


def statuses(findings):
    return {finding.name: finding.status for finding in findings}


def test_a_sound_installation_passes_and_says_so_as_json(cache):
    result = command("stjax.doctor", "--json", "--quick", cache=cache)
    report = json.loads(result.stdout)
    assert report["ok"] is True
    by_name = {finding["name"]: finding for finding in report["findings"]}
    assert "jax 0." in by_name["packages"]["found"]
    assert by_name["devices"]["found"].endswith("(cpu)")
    assert str(cache) in by_name["cache"]["found"]
    assert by_name["extra test"]["status"] == "ok"


def test_a_missing_package_fails_with_the_remedy_and_exit_code_1(monkeypatch, capsys):
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "scipy" else version(name))
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--quick"])
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "FAIL packages: missing or too old: scipy" in printed
    assert "pip install --upgrade stjax" in printed
    assert "ok   devices" in printed


def test_a_check_that_raises_is_a_failure_and_the_others_are_made(monkeypatch):
    def devices():
        raise RuntimeError("no\nbackend")

    monkeypatch.setattr(doctor, "devices", devices)
    findings = list(doctor.examine(quick=True))
    assert statuses(findings)["devices"] == "FAIL"
    assert findings[-1].found == "RuntimeError: no backend"
    assert statuses(findings)["disk"] in ("ok", "warn")


def test_a_cache_that_cannot_be_written_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("STJAX_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor.os, "access", lambda path, _: path != tmp_path)
    found = statuses(doctor.disk())
    assert found["cache"] == "FAIL"
    assert found["disk"] != "FAIL"


@pytest.mark.slow
def test_two_training_steps_and_what_is_wrong_with_a_network_that_does_not_learn(monkeypatch):
    from stjax.training import steps

    (finding,) = doctor.training()
    assert finding.status == "ok", finding

    def stuck(*_, **__):
        return lambda state, *_: (state, {"loss": 1.0})

    monkeypatch.setattr(steps, "make_train_step", stuck)
    (finding,) = doctor.training()
    assert finding.status == "FAIL"
