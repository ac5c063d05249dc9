"""A server on this machine that answers as the Hugging Face Hub does, of folders as the repositories of models."""

import contextlib
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Repositories = Mapping[str, Mapping[str, Path]]  # name -> {revision: folder}


def commit_of(folder: Path) -> str:
    """40 hexadecimal digits, as Git's."""
    return hashlib.sha1(str(folder).encode()).hexdigest()


@contextlib.contextmanager
def serving(repositories: Repositories) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the list that grows by what is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
            asked.append(f"{self.command} {path}")
            _answer(self, repositories, path.strip("/").split("/"))

        do_HEAD = do_GET  # noqa: N815 -- the name that http.server asks for

        def log_message(self, *_):
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(request, repositories, parts):
    """/api/models/OWNER/NAME/{revision,tree}/REVISION, and /OWNER/NAME/resolve/REVISION/FILE."""
    of_api = parts[:2] == ["api", "models"]
    names = parts[2:] if of_api else parts
    owner, name, kind, revision, *file = names if len(names) > 2 else [*names, "revision", "main"]
    revisions = repositories.get(f"{owner}/{name}")
    if revisions is None:
        return _send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
    by_commit = {commit_of(folder): folder for folder in revisions.values()}
    folder = revisions.get(revision) or by_commit.get(revision)
    if folder is None:
        return _send(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
    commit = {"X-Repo-Commit": commit_of(folder)}
    if kind == "revision":
        content = {"id": f"{owner}/{name}", "sha": commit_of(folder), "siblings": []}
        return _send(request, 200, json.dumps(content).encode(), commit)
    if kind == "tree":
        files = [
            {
                "type": "file",
                "path": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "oid": commit_of(path),
            }
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        return _send(request, 200, json.dumps(files).encode(), commit)
    path = folder.joinpath(*file)
    if not path.is_file():
        return _send(request, 404, b"{}", commit | {"X-Error-Code": "EntryNotFound"})
    data = path.read_bytes()
    return _send(request, 200, data, commit | {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'})


def _send(request, status, body, headers):
    request.send_response(status)
    for name, value in ({"Content-Length": str(len(body)), "Content-Type": "application/json"} | headers).items():
        request.send_header(name, value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)
