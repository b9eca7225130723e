"""A server that plays the Hugging Face Hub: the endpoints that a push and a download call.

Weights go through hf_xet into its own store, here a folder instead of a server.
"""

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

TOKEN: Final = "hf_notarealtoken"


class Hub(ThreadingHTTPServer):
    """The endpoints that a push calls, over repositories that are dictionaries of bytes."""

    def __init__(self, weights: Path) -> None:
        super().__init__(("127.0.0.1", 0), Endpoints)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.weights = weights
        """Where hf_xet is told to put large files."""
        self.files: dict[str, bytes] = {}
        """What the repository holds; of large files the sha256 that the commit names."""
        self.exists = False
        self.created: list[dict[str, Any]] = []
        self.authorizations: set[str | None] = set()
        self.paths: set[str] = set()
        self.refuse: dict[str, tuple[int, dict[str, Any]]] = {}
        """Part of a path → status and body of the answer to it; its `code` says why, as the Hub's does."""


class Endpoints(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.paths.add(path)
        hub.authorizations.add(self.headers["Authorization"])
        for part, (status, answer) in hub.refuse.items():
            if part in path:
                return self._send(status, answer)
        if path == "/api/repos/create":
            created = json.loads(body)
            hub.created.append(created)
            prefix = "datasets/" if created["type"] == "dataset" else ""
            address = {"url": f"{hub.url}/{prefix}{created['organization']}/{created['name']}"}
            return self._send(409 if hub.exists else 200, address)
        if path == "/api/validate-yaml":
            return self._send(200, {"warnings": [], "errors": []})
        if "/resolve/" in path:
            data = hub.files.get(path.rpartition("/")[2])
            missing = (404, {"code": "EntryNotFound"})
            return self._send(*missing) if data is None else self._send_bytes(data)
        kind, endpoint = path.removeprefix("/api/").split("/owner/name")
        assert kind in ("models", "datasets")
        if endpoint == "":
            return self._send(200, {"id": "owner/name"}) if hub.exists else self._send(404, {})
        if endpoint == "/tree/main":
            return self._send(
                200,
                [
                    {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                    for name, data in hub.files.items()
                ],
            )
        if endpoint == "/preupload/main":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._send(200, {"files": modes})
        if endpoint == "/xet-write-token/main":
            return self._send(
                200, {"casUrl": f"local://{hub.weights}", "accessToken": "x", "exp": 4102444800}
            )
        assert endpoint == "/commit/main", path
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                hub.files[value["path"]] = value["oid"].encode()
            elif entry["key"] == "deletedFile":
                del hub.files[value["path"]]
        return self._send(200, {"commitUrl": f"{hub.url}/owner/name/commit/1", "commitOid": "1"})

    def _send(self, status: int, answer: Any) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if isinstance(answer, dict) and "code" in answer:
            self.send_header("X-Error-Code", answer["code"])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send_bytes(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", '"0"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
