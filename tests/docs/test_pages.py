import ast
import dataclasses
import importlib.util
import json
import pkgutil
import re

import pytest
import yaml

from data_prep import readers
from stjax import cli, protocols, views
from stjax.config import built_in, built_in_names
from tests.docs import encoder_table, protocol_tables
from tests.docs.run_tutorial import PAGE as TUTORIAL
from tests.docs.run_tutorial import ROOT, blocks, differences

DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / "launch").glob("*.md"), *(ROOT / name for name in (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])  # fmt: skip
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^( *)(```+)(\w*).*?\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)


def prose(page):
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))


def anchors(page):
    """Of a page's headings, as GitHub and MkDocs both make them."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def navigation(entries=None):
    for entry in SITE["nav"] if entries is None else entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(value, list):
            yield from navigation(value)
        else:
            yield value


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files_and_headings_of_the_repository(page):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert not wrong


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page():
    elsewhere = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
    elsewhere |= {page: page for page in navigation() if page.startswith("launch/")}
    listed = [ROOT / elsewhere[page] if page in elsewhere else DOCS / page for page in navigation()]
    assert len(set(listed)) == len(listed)
    assert set(listed) == {*PAGES, *DOCS.rglob("*.ipynb")} - {ROOT / "README.md"}


def test_the_page_of_protocols_is_what_the_code_does():
    assert protocol_tables.PAGE.read_text() == protocol_tables.written(protocol_tables.PAGE.read_text())
    assert protocol_tables.fields_shown() == {field.name for field in dataclasses.fields(protocols.Protocol)}


def test_the_page_of_encoders_has_every_one():
    assert encoder_table.PAGE.read_text() == encoder_table.written(encoder_table.PAGE.read_text())


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_on_pages_have_the_options_they_are_given(page):
    wrong = []
    for command in commands(page):
        module = module_of(command)
        configured = module in ("stjax.train", "stjax.crossval")
        if not module:
            wrong.append(command)
            continue
        options = set(cli.options(module)) | ({"--config", "--workdir"} if configured else set())
        for option in re.findall(r"(?<!\S)--[\w.-]+", command.partition(" -- ")[0]):
            setting = option.removeprefix("--config.")
            if not (has_setting(setting, command) if configured and setting != option else option in options):
                wrong.append(f"{option} of {module}")
    assert not wrong


def test_options_have_hyphens_and_scales_have_two_names():
    found = {option for module, _ in cli.COMMANDS.values() for option in cli.options(module)}
    assert not [option for option in found if "_" in option]
    assert {option for option in found if "um-per-px" in option} == {"--source-um-per-px", "--target-um-per-px"}


def module_of(command):
    """The module that a command line runs; "" where there is none such."""
    if named := re.search(r"-m ((?:stjax|data_prep)\.\w+)", command):
        return named[1] if importlib.util.find_spec(named[1]) else ""
    name = re.search(r"(?:^|/)stjax (\S+)", command)
    return cli.COMMANDS.get(name[1] if name else "", ("",))[0]


def commands(page):
    """Every command of the shell blocks of a page, continued lines joined."""
    for match in FENCE.finditer(page.read_text()):
        if match[3] in ("bash", ""):
            for line in match[4].replace("\\\n", " ").splitlines():
                line = line.partition(" #")[0].strip()
                if re.match(r"(\S*/)?(stjax [a-z]|\S*python\S* -m (stjax|data_prep)\.)", line):
                    yield line


def has_setting(name, command):
    """Whether the config that a command names, where that comes with stjax, has a setting."""
    named = re.search(r"--config[= ](?:configs/)?(\w+)\.py", command)
    node = built_in(named.group(1) if named and named.group(1) in built_in_names() else "default")
    for part in name.split("."):
        if part not in node:
            return False
        node = node[part]
    return True


def test_the_reference_has_every_layout_and_view():
    listed = re.findall(
        r"^::: (\S+)$", "\n".join(page.read_text() for page in DOCS.rglob("reference/*.md")), re.MULTILINE
    )
    wanted = {f"data_prep.readers.{name}" for name in readers.layout_names()}
    assert wanted | {f"stjax.views.{name}" for name in views.names()} <= set(listed)


def test_the_reference_names_what_there_is():
    for page in (DOCS / "reference").glob("*.md"):
        for name, options in re.findall(r"^::: (\S+)\n((?: {4}.*\n)*)", page.read_text() + "\n", re.MULTILINE):
            found = pkgutil.resolve_name(name)
            assert found.__doc__, (page.name, name)
            for member in yaml.safe_load(options)["options"]["members"] if options else ():
                assert getattr(found, member).__doc__, (page.name, name, member)


def test_the_way_of_a_spot_is_short_and_names_functions_where_they_are():
    there, back = (DOCS / "a_spot.md").read_text().split("\n## And back")
    for part, most in ((there, 10), (back, 6)):
        hops = re.findall(r"^(\d+)\. \*\*`([\w.]+)`\*\*, (.*?)\. ", part, re.MULTILINE | re.DOTALL)
        assert [int(number) for number, _, _ in hops] == list(range(1, len(hops) + 1))
        assert 2 < len(hops) <= most
        named = [(name, file) for _, name, places in hops for file in re.findall(r"`([\w/]+\.py)`", places)]
        named += re.findall(r"`(\w+)`(?: in | \()`([\w/]+\.py)`", part)
        for name, file in named:
            module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            assert callable(pkgutil.resolve_name(f"{module}:{name}")), (name, file)


def test_messages_in_the_faq_are_those_of_the_code():
    parts = set()
    for folder in ("stjax", "data_prep"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    parts |= {part.strip() for part in re.split(r"[;,:(]", node.value) if len(part.strip()) >= 11}
    headings = re.findall(r"^### `(.+)`$", (DOCS / "faq.md").read_text(), re.MULTILINE)
    assert len(headings) >= 15
    for heading in headings:
        clauses = re.split(r"; |\.\.\.", heading)
        for clause in (clauses[0], *(each for each in clauses[1:] if len(each) > 25)):
            assert any(part in clause for part in parts), clause


def test_notebooks_are_small_and_hold_outputs_without_errors():
    for path in DOCS.rglob("*.ipynb"):
        assert path.stat().st_size < 300_000
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        outputs = [output for cell in cells for output in cell["outputs"]]
        assert any("image/jpeg" in output.get("data", {}) for output in outputs)
        assert all(cell["execution_count"] == number for number, cell in enumerate(cells, 1))
        assert not [output for output in outputs if output["output_type"] == "error"]


def test_the_citation_names_both_papers_and_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert all({"type", "title", "authors"} <= reference.keys() for reference in citation["references"])
    assert [reference["notes"].split()[0] for reference in citation["references"]] == ["BrST-Net", "PixNet"]


def test_the_tutorial_goes_through_every_step():
    text = "\n".join(blocks(TUTORIAL.read_text()))
    for command in ("demo", "check", "build", "train", "evaluate", "report", "predict", "export"):
        assert re.search(rf"^stjax {command} ", text, re.MULTILINE), command


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    build = pytest.importorskip("mkdocs.commands.build", reason="the extra docs is not installed")
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path))
    config.plugins.on_startup(command="build", dirty=False)
    build.build(config)
    assert (tmp_path / "launch" / "slurm.html").is_file()
    for page in tmp_path.rglob("*.html"):
        assert not re.findall(r'<(?:script|img)[^>]* src="https?:|<link[^>]* href="https?:', page.read_text()), page


def test_a_documented_output_is_compared_line_by_line_with_what_is_printed():
    documented = "a 0.70 (.61 to .78)\n...\nepoch 12/15  loss 0.88  183.8 spots/s  0:06 left  best\nwarn: x...\nend\n"
    printed = "a 0.70 (.61 to .78)\nmore\nepoch 12/15  loss 0.89  1.8 spots/s  9:06 left  best\nwarn: x y, 3\nend\n"
    assert differences(documented, printed) == []
    assert differences(documented, printed.replace(".61", ".64")) == ["a 0.70 (.61 to .78)"]
    assert differences(documented, printed.replace("best", "worse")) == [documented.splitlines()[2]]
    assert differences("a\nb\n", "a\nc\nb\n") == ["b"]
    assert differences("... \nb\n", "a\nc\nb\n") == []
