"""The conda recipe asks for what pyproject.toml asks for."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RECIPE = yaml.safe_load((ROOT / "launch" / "conda" / "recipe.yaml").read_text())
CONDA_NAMES = {"flatbuffers": "python-flatbuffers"}  # where conda-forge calls a package otherwise


def spaced(requirement):
    """ "jax>=0.10" as conda has it."""
    name, minimum = requirement.split(">=")
    return f"{CONDA_NAMES.get(name, name)} >={minimum}"


def test_names_versions_and_the_program_are_those_of_pyproject():
    project = PROJECT["project"]
    python = f"python {project['requires-python']}"
    assert RECIPE["package"] == {"name": project["name"], "version": project["version"]}
    assert RECIPE["requirements"]["run"] == [python, *map(spaced, project["dependencies"])]
    assert RECIPE["requirements"]["host"] == [python, "pip", *map(spaced, PROJECT["build-system"]["requires"])]
    programs = [f"{name} = {function}" for name, function in project["scripts"].items()]
    assert RECIPE["build"]["python"]["entry_points"] == programs


def test_the_recipe_describes_the_project_and_its_source_is_this_repository():
    project, about = PROJECT["project"], RECIPE["about"]
    assert (about["summary"], about["license"]) == (project["description"], project["license"])
    assert about["homepage"] == project["urls"]["Homepage"]
    assert about["documentation"] == project["urls"]["Documentation"]
    assert about["repository"] == project["urls"]["Source"]
    folder = ROOT / "launch" / "conda"
    assert (folder / RECIPE["source"]["path"]).resolve() == ROOT
    assert (ROOT / about["license_file"]).is_file()
    assert {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]} == set(
        RECIPE["tests"][0]["python"]["imports"]
    )
