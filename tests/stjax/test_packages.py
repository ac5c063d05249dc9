"""What is installed: every package there is, which pyproject.toml lists one by one."""

import tomllib

from tests.conftest import ROOT


def test_pyproject_lists_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ("data_prep", "stjax")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert there <= set(listed)
    assert sorted(listed) == listed
