"""A stand-in for the Hugging Face Hub on 127.0.0.1: what `snapshot_download` asks for, and nothing else."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LISTING = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>revision|tree)/(?P<revision>[^/]+)")
FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


def digest(data: bytes) -> str:
    """40 hex digits, the form of a git commit: the client takes other names for branches."""
    return hashlib.sha1(data).hexdigest()


class LocalHub:
    """Serves `repos`, `{"org/name": {path: bytes}}`, and keeps the paths it was asked for in `requests`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        handler = type("Handler", (HubRequest,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.running = False

    def push(self, repo: str, folder: Path) -> None:
        """Put every file of a folder into a repository."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        self.repos.setdefault(repo, {}).update(files)

    def commit(self, repo: str) -> str:
        """The hash of a repository's only commit."""
        return digest(json.dumps({path: digest(data) for path, data in self.repos[repo].items()}).encode())

    def stop(self) -> None:
        """Close the port: from now on connections are refused."""
        if self.running:
            self.server.shutdown()
            self.server.server_close()
            self.running = False

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.running = True
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class HubRequest(BaseHTTPRequestHandler):
    """Answers one request. HTTP/1.0 closes every connection, so that a stopped Hub is silent at once."""

    hub: LocalHub

    def do_GET(self) -> None:
        """Route a request by its path."""
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(path)
        match = LISTING.fullmatch(path) or FILE.fullmatch(path)
        if match is None or match["repo"] not in self.hub.repos:
            return self.refuse("RepoNotFound")
        commit = self.hub.commit(match["repo"])
        if match["revision"] not in ("main", commit):
            return self.refuse("RevisionNotFound")
        files = self.hub.repos[match["repo"]]
        if match.re is FILE:
            return self.send_file(files, match["path"], commit)
        if match["what"] == "tree":
            return self.send_json(
                [{"type": "file", "path": p, "size": len(data), "oid": digest(data)} for p, data in files.items()]
            )
        return self.send_json({"id": match["repo"], "sha": commit, "siblings": [{"rfilename": p} for p in files]})

    do_HEAD = do_GET

    def send_file(self, files: dict[str, bytes], path: str, commit: str) -> None:
        """Send a file with the headers that name its version."""
        if path not in files:
            return self.refuse("EntryNotFound", {"X-Repo-Commit": commit})
        return self.send(200, files[path], {"ETag": f'"{digest(files[path])}"', "X-Repo-Commit": commit})

    def send_json(self, value: object) -> None:
        """Send a listing."""
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, code: str, headers: dict[str, str] | None = None) -> None:
        """404 with the reason in the header in which the Hub gives it."""
        self.send(404, b"{}", {"X-Error-Code": code} | (headers or {}))

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a status, headers and, for GET, the body."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep the tests' output clean."""
