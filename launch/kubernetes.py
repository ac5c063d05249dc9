"""Trains on Kubernetes GPU nodes as a JobSet: fills in launch/jobset.yaml and hands it to kubectl.

usage: python launch/kubernetes.py --image=IMAGE --claim=CLAIM [OPTIONS] -- ARGUMENTS OF stjax.train

  --image=IMAGE          built from launch/Dockerfile
  --claim=CLAIM          a ReadWriteMany persistent volume claim, with the data, for the results
  --mount=DIR            where the claim is mounted; default /share
  --name=NAME            of the JobSet and its service account; default stjax
  --nodes=N              a pod each; default 1
  --gpus-per-node=G      default 8
  --max-restarts=R       after a lost node or a preemption; default 100
  --dry-run              print the manifest that would be applied

example:
  python launch/kubernetes.py --image=registry.example/stjax:gpu --claim=share --nodes=2 -- \\
      --config=configs/enet_b0_aux.py --workdir=/share/runs/b0 --config.data_dir=/share/data/her2st
"""

import argparse
import json
import re
import string
import subprocess
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python launch/kubernetes.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", required=True)
    parser.add_argument("--claim", required=True)
    parser.add_argument("--mount", default="/share")
    parser.add_argument("--name", default="stjax")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--max-restarts", type=int, default=100)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("rest", nargs="*", help="after --: stjax.train's own arguments")
    given = parser.parse_args(arguments)
    given.rest = joined(given.rest)
    if given.nodes < 1 or given.gpus_per_node < 1 or given.max_restarts < 0:
        parser.error("--nodes and --gpus-per-node must be at least 1, --max-restarts at least 0")
    for what in ("name", "claim"):
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?", value := getattr(given, what)):
            parser.error(f"--{what} is {value!r}, expected at most 42 small letters, digits and dashes")
    for what in ("image", "mount"):
        if not re.fullmatch(r"[\w./:@-]+", value := getattr(given, what)):
            parser.error(f"--{what} is {value!r}, expected letters, digits and ./:@-_")
    if not any(argument.startswith(f"--workdir={given.mount}/") for argument in given.rest):
        parser.error(f"add -- --config=FILE --workdir={given.mount}/DIR: the work directory must be on the claim")
    manifest = render(given)
    if given.dry_run:
        print(manifest, end="")
        return 0
    return subprocess.run(["kubectl", "apply", "-f", "-"], input=manifest, text=True, check=False).returncode


def joined(arguments: list[str]) -> list[str]:
    """Arguments of stjax.train, `--workdir DIR` as `--workdir=DIR`."""
    found: list[str] = []
    for argument in arguments:
        if found and found[-1] in ("--config", "--workdir"):
            found[-1] += f"={argument}"
        else:
            found.append(argument)
    return found


def render(given: argparse.Namespace) -> str:
    """The manifest, YAML."""
    template = Path(__file__).with_name("jobset.yaml").read_text().split("\n", 2)[2]  # without its own head comment
    return string.Template(template).substitute(
        name=given.name,
        image=given.image,
        claim=given.claim,
        mount=given.mount,
        nodes=given.nodes,
        gpus=given.gpus_per_node,
        max_restarts=given.max_restarts,
        distributed=int(given.nodes > 1),
        arguments=json.dumps(given.rest),  # a JSON list is a YAML list
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
