"""MkDocs hooks: pages that live outside `docs`, and links that hold on GitHub and on the site alike.

Pages are written with links relative to their place in the repository. On the site, a link to a page of the site is
made relative to it, and a link to any other file of the repository leads to GitHub.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {  # page of the site: file of the repository
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    **{f"launch/{path.name}": f"launch/{path.name}" for path in sorted((ROOT / "launch").glob("*.md"))},
}
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Adds the pages that live elsewhere."""
    for page, path in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrites the links outside code."""
    here = page.file.src_uri
    text, last = [], 0
    for fence in _FENCE.finditer(markdown):
        text += [_relink(markdown[last : fence.start()], here, config["repo_url"]), fence[0]]
        last = fence.end()
    return "".join([*text, _relink(markdown[last:], here, config["repo_url"])])


def _relink(markdown: str, here: str, repository: str) -> str:
    origin = posixpath.dirname(ELSEWHERE.get(here, f"docs/{here}"))
    pages = {path: page for page, path in ELSEWHERE.items()}

    def one(match: re.Match[str]) -> str:
        opening, target, anchor = match[1], match[2], match[3] or ""
        if ":" in target or target.startswith("/"):
            return match[0]
        path = posixpath.normpath(posixpath.join(origin, target))
        if path in pages:
            site = pages[path]
        elif path.startswith("docs/"):
            site = path.removeprefix("docs/")
        elif (ROOT / path).exists():
            return f"{opening}{repository}/blob/main/{path}{anchor}"
        else:
            return match[0]  # mkdocs says that it leads nowhere
        return f"{opening}{posixpath.relpath(site, posixpath.dirname(here) or '.')}{anchor}"

    return _LINK.sub(one, markdown)
