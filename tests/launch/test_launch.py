"""Launch files: what they would run, their own checkers, and their logic under simulated surroundings."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

LAUNCH = ROOT / "launch"
TRAIN = ("--config=configs/tiny.py", "--workdir=runs/x")
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}


def call(*arguments, timeout=60, **variables):
    return subprocess.run(
        [str(argument) for argument in arguments], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True,
        check=False, timeout=timeout,
    )  # fmt: skip


def local(*arguments):
    return call(sys.executable, LAUNCH / "local.py", *arguments)


SCRIPTS = [*LAUNCH.glob("*.sh"), *(ROOT / "examples").glob("*.sh"), *(ROOT / ".ci").iterdir()]


@pytest.mark.parametrize("script", sorted(str(path.relative_to(ROOT)) for path in SCRIPTS))
def test_shell_scripts_parse_and_pass_shellcheck(script):
    assert call("bash", "-n", script).stderr == ""
    if shellcheck := shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"):
        result = call(shellcheck, script)
        assert result.returncode == 0, result.stdout


def test_local_dry_run_names_one_coordinator_and_each_process():
    lines = local("--processes=2", "--cpu-devices=3", "--dry-run", "--", *TRAIN).stdout.splitlines()
    addresses = {word for line in lines for word in line.split() if word.startswith("JAX_COORDINATOR_ADDRESS=")}
    assert len(addresses) == 1
    assert ["JAX_PROCESS_ID=0" in lines[0], "JAX_PROCESS_ID=1" in lines[1]] == [True, True]
    assert all("device_count=3" in line and line.endswith("-m stjax.train " + " ".join(TRAIN)) for line in lines)


def test_local_deals_gpus_to_processes():
    output = local("--processes=2", "--gpus-per-process=2", "--dry-run", "--", *TRAIN).stdout
    assert "JAX_LOCAL_DEVICE_IDS=0,1" in output
    assert "JAX_LOCAL_DEVICE_IDS=2,3" in output


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module that local.py can start."""

    def make(text):
        (tmp_path / "a_module.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return make


def test_local_marks_lines_and_passes_the_exit_code_of_the_process_that_fails(module, tmp_path):
    said = tmp_path / "said"  # the first process has its say before the second fails
    module(
        "import os, pathlib, sys, time\nwho = os.environ['JAX_PROCESS_ID']\nprint('here is', who, flush=True)\n"
        f"said = pathlib.Path({str(said)!r})\n"
        "if who == '0':\n    said.touch()\n    time.sleep(50)\n"
        "while not said.exists():\n    time.sleep(0.05)\n"
        "sys.exit(3)\n"
    )
    started = time.monotonic()
    result = local("--processes=2", "--module=a_module")
    assert result.returncode == 3
    assert "here is 0" in result.stdout.splitlines()
    assert "[1] here is 1" in result.stdout.splitlines()
    assert time.monotonic() - started < 30  # the other, which would sleep, was ended


def test_local_passes_sigterm_on_to_every_process(module, tmp_path):
    module(
        "import os, pathlib, signal, sys, time\nwho = os.environ['JAX_PROCESS_ID']\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('{tmp_path}', who).write_text(''), sys.exit(0)))\n"
        "print('ready', flush=True)\ntime.sleep(50)\n"
    )
    with subprocess.Popen(
        [sys.executable, LAUNCH / "local.py", "--processes=2", "--module=a_module"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline().split()[-1] for _ in range(2)] == ["ready", "ready"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()


def test_a_blank_does_for_the_equals_sign():
    apart = [part for argument in TRAIN for part in argument.split("=")]
    slurm = [call(LAUNCH / "slurm.sh", "--dry-run", "--folds=0-4", "--", *given).stdout for given in (TRAIN, apart)]
    assert slurm[0] == slurm[1]
    kubernetes = [sys.executable, LAUNCH / "kubernetes.py", "--image=i", "--claim=share", "--dry-run", "--"]
    jobs = [call(*kubernetes, "--config", "configs/tiny.py", "--workdir", "/share/x").stdout]
    jobs.append(call(*kubernetes, "--config=configs/tiny.py", "--workdir=/share/x").stdout)
    assert jobs[0] == jobs[1]
    assert jobs[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes=0", "--", *TRAIN], "--nodes is '0'"),
        (["--folds=all", "--", *TRAIN], "--folds is 'all'"),
        (["--", "--workdir=x"], "no config is given"),
        (["--", "--config=x"], "no work directory is given"),
        (["--config=x"], "arguments of stjax.train come after --"),
    ],
)
def test_slurm_refuses_what_it_does_not_understand(arguments, message):
    result = call(LAUNCH / "slurm.sh", "--dry-run", *arguments)
    assert result.returncode == 2
    assert message in result.stderr


def test_slurm_dry_run_prints_what_it_would_submit_and_submits_nothing():
    result = call(LAUNCH / "slurm.sh", "--dry-run", "--nodes=2", "--gpus-per-node=4", "--folds=0-4", "--", *TRAIN)
    words = result.stdout.split()
    assert words[0] == "sbatch"
    assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--array=0-4", "--signal=B:TERM@120"} <= set(words)
    assert words[-2:] == list(TRAIN)
    assert "--gpus-per-node" not in call(LAUNCH / "slurm.sh", "--dry-run", "--gpus-per-node=0", "--", *TRAIN).stdout


@pytest.fixture
def cluster(tmp_path):
    """A folder with srun and scontrol that write down how they are called; srun runs $FAKE_STEP."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "scontrol"):
        fake = folder / name
        fake.write_text(
            f'#!/usr/bin/env bash\necho "$STJAX_DISTRIBUTED {name} $*" >> {tmp_path}/calls\n'
            + ('eval "$FAKE_STEP"\n' if name == "srun" else "")
        )
        fake.chmod(0o755)
    return tmp_path, {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "STJAX_PYTHON": "py",
        "STJAX_DISTRIBUTED": "",
    }


def test_a_slurm_job_of_one_task_is_not_distributed_and_passes_the_exit_code_on(cluster):
    folder, variables = cluster
    result = call(LAUNCH / "slurm_job.sh", *TRAIN, **variables, SLURM_NTASKS="1", FAKE_STEP="exit 2")
    assert result.returncode == 2
    calls = (folder / "calls").read_text().splitlines()
    assert calls == [f" srun --kill-on-bad-exit=1 py -m stjax.train {' '.join(TRAIN)}"]


def test_a_slurm_job_of_many_tasks_leaves_detection_to_jax(cluster):
    folder, variables = cluster
    result = call(LAUNCH / "slurm_job.sh", *TRAIN, **variables, SLURM_NTASKS="16", FAKE_STEP="exit 0")
    assert result.returncode == 0
    assert (folder / "calls").read_text().startswith("1 srun ")
    assert "16 processes, start 1" in result.stdout


def test_a_job_of_an_array_trains_its_fold_in_a_folder_of_its_own(cluster):
    folder, variables = cluster
    array = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3", "SLURM_NTASKS": "1"}
    call(LAUNCH / "slurm_job.sh", *TRAIN, **variables, **array, FAKE_STEP="exit 0")
    assert "--workdir=runs/x/fold_3 --config.fold=3" in (folder / "calls").read_text()


@pytest.mark.parametrize("code", [0, 1])
def test_a_slurm_job_near_its_limit_saves_and_is_queued_again_unless_saving_failed(cluster, code):
    folder, variables = cluster
    step = f"trap 'echo saved; exit {code}' TERM; touch {folder}/started; sleep 30 & wait"
    environment = os.environ | variables | {"FAKE_STEP": step}
    with subprocess.Popen(
        [LAUNCH / "slurm_job.sh", *TRAIN], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    ) as job:
        while not (folder / "started").exists():
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
        assert job.wait(20) == code
    assert ("scontrol requeue 77" in (folder / "calls").read_text()) == (code == 0)


def test_jax_reads_the_variables_slurm_sets(monkeypatch):
    """What `jax.distributed` makes of a job of two nodes with two tasks each, seen from its fourth task."""
    from jax._src.clusters import SlurmCluster

    for name, value in {
        "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "node[08-09]", "SLURM_NTASKS": "4", "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert SlurmCluster.is_env_present()
    assert SlurmCluster.get_coordinator_address(None, None).startswith("node08:")
    assert (SlurmCluster.get_process_count(), SlurmCluster.get_process_id()) == (4, 3)


def test_tpu_dry_run_starts_every_worker_and_quotes_arguments():
    result = call(
        LAUNCH / "tpu_pod.sh", "--dry-run", "--name=n", "--zone=z", "--create=v5litepod-16", "--spot", "--install",
        "--", *TRAIN, "--config.test_sections=A, B",
    )  # fmt: skip
    create, install, start = result.stdout.splitlines()
    assert "create n --zone=z" in create
    assert "--spot" in create
    assert "pip" in install
    inner = subprocess.run(["bash", "-c", f"printf '%s\\n' {start}"], capture_output=True, text=True, check=True).stdout
    assert "--worker=all" in inner.splitlines()
    command = inner.splitlines()[-1].split("--command=")[1]
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {command.split('&&')[1]}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[0] == "STJAX_DISTRIBUTED=1"
    assert words[-1] == "--config.test_sections=A, B"


def manifest(*options):
    result = call(
        sys.executable, LAUNCH / "kubernetes.py", "--image=registry.example/stjax:gpu", "--claim=share", "--dry-run",
        *options, "--", "--config=configs/tiny.py", "--workdir=/share/x", "--config.test_sections=A: B",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


def faults(value, schema, where=""):
    """Where a value departs from a JSON schema of objects whose every field must be known."""
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{where} is {value!r}"]
    if type(value) is not TYPES[schema["type"]]:
        return [f"{where} is {value!r}, no {schema['type']}"]
    found = []
    if schema["type"] == "object":
        found += [f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, part in value.items():
            known = schema["properties"].get(name)
            found += faults(part, known, f"{where}.{name}") if known else [f"{where}.{name} is unknown"]
    elif schema["type"] == "array":
        for i, part in enumerate(value):
            found += faults(part, schema["items"], f"{where}[{i}]")
    return found


def test_the_jobset_has_only_known_fields_of_the_right_types():
    schema = json.loads(Path(__file__).with_name("jobset_schema.json").read_text())
    jobset = manifest("--nodes=2")[-1]
    assert faults(jobset, schema) == []
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["backofLimit"] = 0
    jobset["spec"]["failurePolicy"]["maxRestarts"] = "3"
    assert len(faults(jobset, schema)) == 2


def test_the_jobset_is_as_large_as_asked_for_and_its_parts_fit_together():
    account, role, binding, jobset = manifest("--nodes=3", "--gpus-per-node=4", "--name=b0", "--max-restarts=7")
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    container = pod["containers"][0]
    assert (job["parallelism"], job["completions"], jobset["spec"]["failurePolicy"]["maxRestarts"]) == (3, 3, 7)
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 4}
    assert container["args"] == ["--config=configs/tiny.py", "--workdir=/share/x", "--config.test_sections=A: B"]
    assert {e["name"]: e["value"] for e in container["env"]}["STJAX_DISTRIBUTED"] == "1"
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    names = {
        account["metadata"]["name"],
        role["metadata"]["name"],
        binding["roleRef"]["name"],
        pod["serviceAccountName"],
    }
    assert names == {"b0", binding["subjects"][0]["name"], jobset["spec"]["network"]["subdomain"]}
    one = manifest("--nodes=1")[-1]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert {e["name"]: e["value"] for e in one["containers"][0]["env"]}["STJAX_DISTRIBUTED"] == "0"


@pytest.mark.parametrize("option", ["--name=Upper", "--nodes=0", "--image=a b", "--mount=/elsewhere"])
def test_kubernetes_refuses_values_that_cannot_be(option):
    result = call(
        sys.executable, LAUNCH / "kubernetes.py", "--image=i", "--claim=share", "--dry-run", option, "--",
        "--config=c", "--workdir=/share/x",
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stdout == ""
