"""SIGTERM, the watchdog, joining processes, and where a step's time goes."""

import os
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from data_prep.errors import InputError
from stjax import distributed
from stjax.training import faults, profiling
from tests.conftest import ROOT


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)  # the handler runs between two steps of the interpreter


def test_sigterm_stops_at_once_when_nothing_is_held():
    with faults.StopOnSigterm(), pytest.raises(faults.Stopped, match="the same command goes on"):
        terminate()


def test_sigterm_waits_while_held_and_the_old_handler_is_back_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with faults.StopOnSigterm() as stop:
        with stop.held():
            terminate()
            assert stop.asked
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter():
        with faults.StopOnSigterm() as stop:
            seen.append(stop.asked)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("variable", "code"), [(None, 0), ("75", 75)])
def test_a_stopped_program_says_so_and_exits_as_its_scheduler_wants(variable, code, monkeypatch, capsys):
    if variable:
        monkeypatch.setenv("STJAX_STOPPED_EXIT_CODE", variable)
    with pytest.raises(SystemExit) as ended, faults.exits_when_stopped():
        raise faults.Stopped("saved at step 3")
    assert ended.value.code == code
    assert capsys.readouterr().out == "saved at step 3\n"


def test_an_exit_code_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("STJAX_STOPPED_EXIT_CODE", "stop")
    with pytest.raises(InputError, match="STJAX_STOPPED_EXIT_CODE is 'stop'"), faults.exits_when_stopped():
        pass


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_watchdog_ends_a_hung_program_and_shows_where_it_hung():
    result = run_python(
        "import time\nfrom stjax.training.faults import Watchdog\n"
        "def the_step_that_hangs():\n    time.sleep(50)\n"
        "with Watchdog(0.2) as dog:\n    dog.beat('step 7')\n    the_step_that_hangs()\n"
    )
    assert result.returncode == 1
    assert "error: step 7 has not ended after 0.2 s" in result.stderr
    assert "the_step_that_hangs" in result.stderr


def test_the_watchdog_leaves_a_program_alone_that_goes_on_or_asked_for_none():
    result = run_python(
        "import time\nfrom stjax.training.faults import Watchdog\n"
        "with Watchdog(0.2) as dog:\n"
        "    time.sleep(0.5)\n"  # the first step compiles
        "    for i in range(8):\n        dog.beat(str(i)); time.sleep(0.05)\n"
        "with Watchdog(0) as dog:\n    dog.beat('x'); time.sleep(0.1)\n"
        "time.sleep(0.5); print('done')\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


@pytest.fixture
def alone(monkeypatch):
    """No word of other processes in the environment; what JAX is asked is recorded."""
    for name in (*distributed.EXPLICIT, *distributed.TASK_COUNTS, "STJAX_DISTRIBUTED"):
        monkeypatch.delenv(name, raising=False)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    return calls


def test_a_process_alone_joins_nobody(alone, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("SLURM_NTASKS", "8")  # of the allocation, not of the step this process is
    assert not distributed.initialise()
    assert alone == []


@pytest.mark.parametrize("variables", [{"STJAX_DISTRIBUTED": "1"}, {"SLURM_STEP_NUM_TASKS": "4"}])
def test_detection_is_left_to_jax(alone, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed.initialise()
    assert alone == [((), {})]


def test_processes_told_who_they_are_do_not_ask_the_cluster(alone, monkeypatch):
    for name, value in zip(distributed.EXPLICIT, ("localhost:1", "2", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert distributed.initialise()
    assert alone == [(("localhost:1", 2, 1), {"cluster_detection_method": "deactivate"})]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "localhost:1"}, "set without JAX_NUM_PROCESSES, JAX_PROCESS_ID"),
        ({"STJAX_DISTRIBUTED": "yes"}, "expected 0 or 1"),
        (dict(zip(distributed.EXPLICIT, ("localhost:1", "two", "0"), strict=True)), "invalid literal"),
    ],
)
@pytest.mark.usefixtures("alone")
def test_half_an_environment_is_refused_clearly(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        distributed.initialise()


@pytest.mark.parametrize("text", ["10", "15:10", "a:b", "3:", "3:3"])
def test_steps_to_trace_must_be_a_range(text):
    with pytest.raises(InputError, match="expected FIRST:END"):
        profiling.parse_steps(text)


def test_a_trace_is_written_for_the_steps_asked_for(tmp_path, capsys):
    with profiling.Trace(profiling.parse_steps("1:3"), tmp_path) as trace:
        for step in range(5):
            with trace.step(step, after=jnp.arange(step)):
                jnp.arange(8).sum().block_until_ready()
            assert ("trace of steps (1, 3)" in capsys.readouterr().out) == (step == 3)
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))


def test_a_steps_time_is_split_and_starving_is_said():
    timer = profiling.StepTimer()
    with timer.part("input"):
        time.sleep(0.2)
    with timer.part("device"):
        time.sleep(0.02)
    time.sleep(0.05)
    timer.step()
    seconds = timer.seconds()
    assert seconds["input"] >= 0.2
    assert seconds["device"] >= 0.02
    assert seconds["host"] >= 0.05
    sentence = profiling.starved(seconds)
    assert sentence is not None
    assert "starves the device" in sentence
    assert profiling.starved({"input": 0.2, "host": 0.1, "device": 0.5}) is None
    assert profiling.starved({"input": 0.02, "host": 0.1, "device": 0.01}) is None


def test_an_interrupted_run_says_what_is_saved(tmp_path):
    assert faults.saved_so_far(tmp_path / "none") == "nothing is saved yet; the same command begins anew"
    for step in (8, 16):
        (tmp_path / str(step)).mkdir()
        (tmp_path / str(step) / "manifest.json").touch()
    assert faults.saved_so_far(tmp_path) == "the run is saved up to step 16; the same command resumes it there"
