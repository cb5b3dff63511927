"""A stand-in of the hub on loopback: its HTTP interface as huggingface_hub uses it, with what is sent counted.

Create, preupload, LFS (one part or several), commit, branches, listing and download. Files stay in memory. What a pushed
commit refers to must have been uploaded, as on the hub. No Xet: `HF_HUB_DISABLE_XET` makes the client use LFS.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_PlantedTokenOfTheTestsXXXXXXXXXXXXXX"  # the one that may write; it must appear nowhere
READER = "hf_ReaderTokenOfTheTestsXXXXXXXXXXXXXXX"  # one without the right to write
_LFS = (".safetensors", ".parquet", ".bin", ".png", ".jpg")
_REPO = r"(?P<kind>models|datasets)/(?P<name>[\w.-]+/[\w.-]+)"


@dataclass
class Repo:
    """One repository: its branches (path -> bytes) and the messages of its commits."""

    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)  # of LFS, by SHA-256
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        """What is on main."""
        return self.branches["main"]

    def sha(self, branch: str) -> str:
        """An id of the branch's content."""
        digest = hashlib.sha1(
            repr(sorted((p, hashlib.sha256(d).hexdigest()) for p, d in self.branches[branch].items())).encode()
        )
        return digest.hexdigest()

    def resolve(self, revision: str) -> str | None:
        """The branch of a name or a commit."""
        return next((name for name in self.branches if revision in (name, self.sha(name))), None)


class StandIn(ThreadingHTTPServer):
    """The server. `faults` maps "METHOD pattern" to statuses that are answered first, one each, the last one for
    good; 0 is no fault."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lock = threading.RLock()
        self.faults: dict[str, list[int]] = {}
        self.requests: Counter[str] = Counter()
        self.uploads: list[str] = []  # SHA-256 of every content that was sent, in turn
        self.on_upload: Callable[[int], None] = lambda number: None
        self.part_bytes: int | None = None  # larger contents go up in parts of this size
        self.downloads: list[str] = []
        self.authorised: set[str] = set()  # the Authorization headers seen

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def model(self, name: str) -> Repo:
        """A repository of a model or an adapter."""
        return self.repos["models", name]

    def dataset(self, name: str) -> Repo:
        """A repository of a data set."""
        return self.repos["datasets", name]

    def fault(self, request: str) -> int | None:
        """The status that a request must be answered with."""
        with self.lock:
            self.requests[request.split("?")[0]] += 1
            for pattern, statuses in self.faults.items():
                if statuses and re.search(pattern, request):
                    return (statuses[0] if len(statuses) == 1 else statuses.pop(0)) or None
        return None


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, format: str, *args: object) -> None:
        """The tests' output stays readable."""

    def do_GET(self) -> None:
        """See `_answer`."""
        self._answer()

    do_POST = do_PUT = do_HEAD = do_GET

    def _answer(self) -> None:
        self.body = self._read()
        self.authorised = self.headers.get("Authorization", "")
        split = urlsplit(self.path)
        self.query = {key: value[0] for key, value in parse_qs(split.query).items()}
        path = unquote(split.path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            with self.server.lock:
                self.server.authorised.add(self.authorised)
            status = self.server.fault(f"{self.command} {self.path}")
            if status is not None:
                return self._send(status, {"error": f"a fault of the test, {self.path}"})
            for method, pattern, answer in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and method in (self.command, "*"):
                    return answer(self, **found.groupdict())
            self._send(404, {"error": f"no such path {path}"})

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, value: Any = None, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _may(self, *tokens: str) -> bool:
        if any(self.authorised == f"Bearer {token}" for token in tokens):
            return True
        known = self.authorised in (f"Bearer {TOKEN}", f"Bearer {READER}")
        self._send(
            403 if known else 401, {"error": "no"}, X_Error_Message="Invalid username or password." if not known else "no"
        )
        return False

    def _repo(self, kind: str, name: str) -> Repo | None:
        """The repository, where there is one that the token may see; else 404 is sent."""
        repo = self.server.repos.get((kind, name))
        seen = repo is not None and (not repo.private or self.authorised in (f"Bearer {TOKEN}", f"Bearer {READER}"))
        if not seen:
            self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return repo

    def _whoami(self) -> None:
        if self._may(TOKEN, READER):
            self._send(200, {"type": "user", "name": "somebody", "orgs": []})

    def _create(self) -> None:
        asked = json.loads(self.body)
        if not self._may(TOKEN):
            return
        kind, name = f"{asked.get('type', 'model')}s", f"{asked['organization']}/{asked['name']}"
        with self.server.lock:
            there = (kind, name) in self.server.repos
            private = asked.get("private", asked.get("visibility") == "private")
            self.server.repos.setdefault((kind, name), Repo(bool(private)))
        prefix = "" if kind == "models" else f"{kind}/"
        self._send(409 if there else 200, {"url": f"{self.server.url}/{prefix}{name}", "name": name})

    def _branch(self, kind: str, name: str, branch: str) -> None:
        repo = self._repo(kind, name)
        if repo is not None and self._may(TOKEN):
            there = branch in repo.branches
            repo.branches.setdefault(branch, dict(repo.files))
            self._send(409 if there else 200, {})

    def _yaml(self) -> None:
        import yaml

        head = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        try:
            assert head is not None and isinstance(yaml.safe_load(head[1]), dict)
        except (AssertionError, yaml.YAMLError) as error:
            return self._send(400, {"errors": [{"message": str(error)}], "warnings": []})
        self._send(200, {"errors": [], "warnings": []})

    def _preupload(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(kind, name)
        if repo is None or not self._may(TOKEN):
            return
        files = []
        there = repo.branches[repo.resolve(revision) or "main"]
        for item in json.loads(self.body)["files"]:
            lfs = item["path"].endswith(_LFS)
            data = there.get(item["path"])
            oid = None if data is None else hashlib.sha256(data).hexdigest() if lfs else git_hash(data)
            files.append({"path": item["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid})
        self._send(200, {"files": files})

    def _batch(self, kind: str | None, name: str) -> None:
        kind = kind or "models"
        repo = self._repo(kind, name)
        if repo is None or not self._may(TOKEN):
            return
        objects = []
        for item in json.loads(self.body)["objects"]:
            found = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in repo.stored:
                found["actions"] = {"upload": self._upload_action(f"{self.server.url}/lfs/{kind}/{name}/{item['oid']}", item)}
            objects.append(found)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _upload_action(self, url: str, item: dict[str, Any]) -> dict[str, Any]:
        size = self.server.part_bytes
        if size is None or item["size"] <= size:
            return {"href": url}
        parts = {str(i + 1): f"{url}?part={i + 1}" for i in range(math.ceil(item["size"] / size))}
        return {"href": f"{url}/complete", "header": {"chunk_size": str(size), **parts}}

    def _put(self, kind: str, name: str, oid: str) -> None:
        repo = self.server.repos[kind, name]  # the address is what gives the right, as of S3: no header
        digest = hashlib.sha256(self.body).hexdigest()
        if "part" not in self.query and digest != oid:  # the client was killed meanwhile
            return
        with self.server.lock:
            self.server.uploads.append(digest)
            number = len(self.server.uploads)
            if "part" in self.query:
                repo.parts.setdefault(oid, {})[int(self.query["part"])] = self.body
            else:
                repo.stored[oid] = self.body
        self.server.on_upload(number)
        self._send(200, b"", ETag=f'"{number}"')

    def _complete(self, kind: str, name: str, oid: str) -> None:
        repo = self.server.repos[kind, name]
        whole = b"".join(data for _, data in sorted(repo.parts.pop(oid).items()))
        assert hashlib.sha256(whole).hexdigest() == oid
        repo.stored[oid] = whole
        self._send(200, {})

    def _commit(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(kind, name)
        if repo is None or not self._may(TOKEN):
            return
        branch = repo.resolve(revision)
        if branch is None:
            return self._send(404, {"error": "Invalid rev"}, X_Error_Code="RevisionNotFound")
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = dict(repo.branches[branch])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in repo.stored:
                    return self._send(422, {"error": f"{value['path']} was not uploaded"})
                files[value["path"]] = repo.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        repo.branches[branch] = files
        repo.commits.append(lines[0]["value"]["summary"])
        self._send(200, {"commitUrl": f"{self.server.url}/{name}/commit/{repo.sha(branch)}", "commitOid": repo.sha(branch)})

    def _info(self, kind: str, name: str, revision: str | None = None) -> None:
        repo = self._repo(kind, name)
        if repo is None:
            return
        branch = repo.resolve(revision or "main")
        if branch is None:
            return self._send(404, {"error": "Invalid rev"}, X_Error_Code="RevisionNotFound")
        siblings = [{"rfilename": path} for path in repo.branches[branch]]
        self._send(200, {"id": name, "sha": repo.sha(branch), "private": repo.private, "siblings": siblings, "tags": []})

    def _tree(self, kind: str, name: str, revision: str, under: str | None = None) -> None:
        repo = self._repo(kind, name)
        if repo is None:
            return
        under = f"{under.strip('/')}/" if under and under.strip("/") else ""
        files = {path: data for path, data in repo.branches[repo.resolve(revision) or "main"].items() if path.startswith(under)}
        if under and not files:
            return self._send(404, {"error": "no such folder"}, X_Error_Code="EntryNotFound")
        self._send(200, list(_entries(files, under, "recursive" in self.query and self.query["recursive"].lower() == "true")))

    def _paths(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(kind, name)
        if repo is None:
            return
        asked = json.loads(self.body)["paths"] if self.body[:1] == b"{" else parse_qs(self.body.decode())["paths"]
        files = repo.branches[repo.resolve(revision) or "main"]
        self._send(200, [_entry(path, files[path]) for path in asked if path in files])

    def _resolve(self, kind: str | None, name: str, revision: str, path: str) -> None:
        repo = self._repo(kind or "models", name)
        if repo is None:
            return
        branch = repo.resolve(revision)
        data = repo.branches[branch].get(path) if branch else None
        if data is None:
            return self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        if self.command == "GET":
            with self.server.lock:
                self.server.downloads.append(path)
        status, headers = 200, {"ETag": f'"{_etag(path, data)}"', "X_Repo_Commit": repo.sha(branch or "main")}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.command == "GET":
            first, last = int(asked[1]), int(asked[2] or len(data) - 1)
            status, headers["Content_Range"] = 206, f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
            data = data[first : last + 1]
        self._send(status, data, **headers)


_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", "/api/whoami-v2", Handler._whoami),
    ("POST", "/api/repos/create", Handler._create),
    ("POST", "/api/validate-yaml", Handler._yaml),
    ("POST", rf"/api/{_REPO}/branch/(?P<branch>.+)", Handler._branch),
    ("POST", rf"/api/{_REPO}/preupload/(?P<revision>[^/]+)", Handler._preupload),
    ("POST", r"/(?:(?P<kind>datasets)/)?(?P<name>[\w.-]+/[\w-]+)\.git/info/lfs/objects/batch", Handler._batch),
    ("PUT", rf"/lfs/{_REPO}/(?P<oid>[0-9a-f]{{64}})", Handler._put),
    ("POST", rf"/lfs/{_REPO}/(?P<oid>[0-9a-f]{{64}})/complete", Handler._complete),
    ("POST", rf"/api/{_REPO}/commit/(?P<revision>[^/]+)", Handler._commit),
    ("GET", rf"/api/{_REPO}", Handler._info),
    ("GET", rf"/api/{_REPO}/revision/(?P<revision>[^/]+)", Handler._info),
    ("GET", rf"/api/{_REPO}/tree/(?P<revision>[^/]+)(?P<under>/.*)?", Handler._tree),
    ("POST", rf"/api/{_REPO}/paths-info/(?P<revision>[^/]+)", Handler._paths),
    ("*", r"/(?:(?P<kind>datasets)/)?(?P<name>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler._resolve),
]


def git_hash(data: bytes) -> str:
    """Git's id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _etag(path: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if path.endswith(_LFS) else git_hash(data)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
    if path.endswith(_LFS):
        found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return found


def _entries(files: dict[str, bytes], under: str, recursive: bool) -> Iterator[dict[str, Any]]:
    folders = set()
    for path, data in sorted(files.items()):
        head, slash, _ = path.removeprefix(under).partition("/")
        if slash and under + head not in folders:
            folders.add(under + head)
            yield {"type": "directory", "path": under + head, "size": 0, "oid": "0" * 40}
        if recursive or not slash:
            yield _entry(path, data)


@contextlib.contextmanager
def stand_in() -> Iterator[StandIn]:
    """The hub, on a port of its own, until the block ends."""
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(hub: StandIn, cache: str, monkeypatch: pytest.MonkeyPatch, token: str | None = TOKEN) -> None:
    """Let this process take the stand-in for the hub."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", f"{cache}/token")
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))  # between tries
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)


def environment(hub: StandIn, cache: str, token: str | None = TOKEN) -> dict[str, str]:
    """What a process of its own needs to take the stand-in for the hub."""
    found = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": cache}
    return found | ({"HF_TOKEN": token} if token else {})
