"""Trains with several processes on this machine, joined by jax.distributed as hosts of a cluster are.

usage: python launch/local.py --processes=N [--cpu-devices=D | --gpus-per-process=K] [--module=stjax.train] [--dry-run]
           -- ARGUMENTS OF THE MODULE

  --processes=N          how many; process 0 writes the results
  --cpu-devices=D        run on the CPU, each process with D virtual devices (to try out what a cluster will do)
  --gpus-per-process=K   process i sees GPUs i*K to i*K + K - 1; without either option every process sees all devices
  --dry-run              print what would run

examples:
  python launch/local.py --processes=2 --cpu-devices=2 -- --config=configs/tiny.py --workdir=runs/two
  python launch/local.py --processes=8 --gpus-per-process=1 -- --config=configs/enet_b0_aux.py
"""

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO

GRACE_S = 60  # for the other processes to end once one has failed: they wait for it in a collective


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code: 0, or that of the first process that failed."""
    parser = argparse.ArgumentParser(
        prog="python launch/local.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, required=True)
    devices = parser.add_mutually_exclusive_group()
    devices.add_argument("--cpu-devices", type=int, default=0)
    devices.add_argument("--gpus-per-process", type=int, default=0)
    parser.add_argument("--module", default="stjax.train")
    parser.add_argument("--port", type=int, default=0, help="of the coordinator; default a free one")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("rest", nargs="*", help="after --: the module's own arguments")
    given = parser.parse_args(arguments)
    if given.processes < 1 or given.cpu_devices < 0 or given.gpus_per_process < 0:
        parser.error("--processes must be at least 1, numbers of devices at least 0")
    settings = [
        environment(i, given.processes, given.port or free_port(), given.cpu_devices, given.gpus_per_process)
        for i in range(given.processes)
    ]
    for each in settings:  # one port for all
        each["JAX_COORDINATOR_ADDRESS"] = settings[0]["JAX_COORDINATOR_ADDRESS"]
    command = [sys.executable, "-m", given.module, *given.rest]
    if given.dry_run:
        for each in settings:
            print("env", *(f"{name}={shlex.quote(value)}" for name, value in each.items()), shlex.join(command))
        return 0
    return run(command, settings)


def environment(process: int, processes: int, port: int, cpu_devices: int, gpus: int) -> dict[str, str]:
    """What one process is told: where the coordinator is, who it is, and which devices are its own."""
    values = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_PROCESS_ID": str(process),
    }
    if cpu_devices:
        values |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={cpu_devices}"}
    if gpus:
        values["JAX_LOCAL_DEVICE_IDS"] = ",".join(str(i) for i in range(process * gpus, (process + 1) * gpus))
    return values


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def run(command: list[str], settings: list[dict[str, str]]) -> int:
    """Runs the processes to their end. SIGTERM and SIGINT are passed on; once one fails, the others are ended."""
    processes = [
        subprocess.Popen(command, env=os.environ | each, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for each in settings
    ]

    def pass_on(number: int, frame: object) -> None:
        del frame
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    readers = [threading.Thread(target=echo, args=(i, process.stdout)) for i, process in enumerate(processes)]
    for reader in readers:
        reader.start()
    failed, deadline = 0, float("inf")
    while None in (codes := [process.poll() for process in processes]):
        bad = [code for code in codes if code]
        if bad and not failed:
            failed, deadline = bad[0], time.monotonic() + GRACE_S
            pass_on(signal.SIGTERM, None)
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.05)
    for reader in readers:
        reader.join()
    # A process ended by a signal has a negative code; shells say 128 + signal.
    code = failed or next((code for code in codes if code), 0)
    return 128 - code if code < 0 else code


def echo(process: int, stream: IO[str] | None) -> None:
    """Prints a process's lines; those of all but the first are marked."""
    for line in stream or ():
        sys.stdout.write(line if process == 0 else f"[{process}] {line}")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
