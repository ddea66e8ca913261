"""A stand-in for the Hugging Face Hub on 127.0.0.1: what downloads, uploads and `load_dataset` ask for.

Repositories of models are kept under their names, those of data sets under "datasets/org/name". Uploads need
HF_HUB_DISABLE_XET=1, as the newer transfer protocol is not spoken here.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

REPO = r"(?P<repo>[^/]+/[^/]+)"
API = re.compile(
    rf"/api/(?P<kind>models|datasets)/{REPO}(?:/(?P<what>\w[\w-]*)/(?P<revision>[^/]+)(?:/(?P<path>.*))?)?"
)
FILE = re.compile(rf"/(?P<kind>datasets/)?{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
LFS = re.compile(rf"/(?P<kind>datasets/)?{REPO}\.git/info/lfs/objects/batch")
LARGE = (".safetensors", ".parquet")  # what the Hub keeps in LFS


def digest(data: bytes) -> str:
    """40 hex digits, the form of a git commit: the client takes other names for branches."""
    return hashlib.sha1(data).hexdigest()


class LocalHub:
    """Serves `repos`, `{"org/name": {path: bytes}}`, and keeps the paths it was asked for in `requests`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.blobs: dict[str, bytes] = {}  # uploaded, not committed
        self.largest_body = 0  # bytes of the largest upload
        self.gated: set[str] = set()  # repositories whose files are refused
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
        """Route a question by its path."""
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(path)
        match = API.fullmatch(path) or FILE.fullmatch(path)
        repo = match and ("datasets/" if match["kind"] in ("datasets", "datasets/") else "") + match["repo"]
        if repo is None or repo not in self.hub.repos:
            return self.refuse("RepoNotFound")
        commit = self.hub.commit(repo)
        if match["revision"] not in (None, "main", commit):
            return self.refuse("RevisionNotFound")
        files = self.hub.repos[repo]
        if match.re is FILE and repo in self.hub.gated:
            return self.refuse("GatedRepo")
        if match.re is FILE:
            return self.send_file(files, match["path"], commit)
        if match["what"] == "tree":
            return self.send_tree(files, (match["path"] or "").strip("/"))
        return self.send_json({"id": match["repo"], "sha": commit, "siblings": [{"rfilename": p} for p in files]})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Take a step of an upload: create, check the card, say where files go, commit."""
        path, body = unquote(urlsplit(self.path).path), self.read_body()
        self.hub.requests.append(path)
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = "/".join(filter(None, [wanted.get("organization"), wanted["name"]]))
            prefix = "datasets/" if wanted.get("type") == "dataset" else ""
            status = 409 if prefix + repo in self.hub.repos else 200
            self.hub.repos.setdefault(prefix + repo, {})
            created = json.dumps({"url": f"{self.hub.url}/{prefix}{repo}", "name": repo}).encode()
            return self.send(status, created, {"Content-Type": "application/json"})
        if path == "/api/validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        if LFS.fullmatch(path):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self.send_json({"transfer": "basic", "objects": objects}, "application/vnd.git-lfs+json")
        match = API.fullmatch(path)
        repo = match and ("datasets/" if match["kind"] == "datasets" else "") + match["repo"]
        if repo is None or repo not in self.hub.repos:
            return self.refuse("RepoNotFound")
        files = self.hub.repos[repo]
        if match["what"] == "preupload":
            asked = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular"} for f in asked
            ]
            return self.send_json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        if match["what"] == "paths-info":
            wanted = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            return self.send_json([self.entry(p, files[p]) for p in wanted if p in files])
        for line in map(json.loads, body.splitlines()):
            self.commit_line(files, line["key"], line["value"])
        commit = self.hub.commit(repo)
        return self.send_json(
            {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"}
        )

    def do_PUT(self) -> None:
        """Take the content of a large file."""
        path = urlsplit(self.path).path
        self.hub.requests.append(path)
        self.hub.blobs[path.removeprefix("/lfs/")] = self.read_body()
        self.send(200, b"", {})

    def commit_line(self, files: dict[str, bytes], key: str, value: dict[str, str]) -> None:
        """One operation of a commit."""
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            data = self.hub.blobs[value["oid"]]
            assert hashlib.sha256(data).hexdigest() == value["oid"]
            files[value["path"]] = data
        elif key == "deletedFile":
            del files[value["path"]]

    def read_body(self) -> bytes:
        """The body of the request, sent whole or in chunks."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.largest_body = max(self.hub.largest_body, len(body))
        return body

    def entry(self, path: str, data: bytes) -> dict[str, object]:
        """A file in a listing."""
        return {"type": "file", "path": path, "size": len(data), "oid": digest(data)}

    def send_tree(self, files: dict[str, bytes], root: str) -> None:
        """List a folder, with all below it where that is asked for."""
        deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        start = f"{root}/" if root else ""
        inside = {path: data for path, data in files.items() if path.startswith(start)}
        if root and not inside:
            return self.refuse("EntryNotFound")
        found = [self.entry(p, data) for p, data in inside.items() if deep or "/" not in p[len(start) :]]
        folders = {"/".join(p.split("/")[:i]) for p in inside for i in range(1, p.count("/") + 1)}
        found += [
            {"type": "directory", "path": folder, "size": 0, "oid": digest(folder.encode())}
            for folder in sorted(folders)
            if folder.startswith(start) and (deep or "/" not in folder[len(start) :])
        ]
        return self.send_json(found)

    def send_file(self, files: dict[str, bytes], path: str, commit: str) -> None:
        """Send a file, or the range asked for, with the headers that name its version."""
        if path not in files:
            return self.refuse("EntryNotFound", {"X-Repo-Commit": commit})
        data = files[path]
        headers = {"ETag": f'"{digest(data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.send(200, data, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        return self.send(206, data[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def send_json(self, value: object, kind: str = "application/json") -> None:
        """Send a listing."""
        self.send(200, json.dumps(value).encode(), {"Content-Type": kind})

    def refuse(self, code: str, headers: dict[str, str] | None = None) -> None:
        """404, or 403 where a repository is gated, with the reason in the header in which the Hub gives it."""
        self.send(403 if code == "GatedRepo" else 404, b"{}", {"X-Error-Code": code} | (headers or {}))

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a status, headers and, where the method has one, the body."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep the tests' output clean."""
