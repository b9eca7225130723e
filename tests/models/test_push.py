"""A push arrives at a server that plays the Hub, and what goes wrong is one line; so with what is loaded.

huggingface_hub itself runs, in a process of its own each time: it reads its settings when imported.
Weights go through hf_xet into its own store, here a folder instead of a server.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pytest
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import LocalEntryNotFoundError

from steper_ray.data.hub_tables import read_hub
from steper_ray.errors import InputError
from steper_ray.models.hub import explained
from steper_ray.models.push import check_repo_name, push_folder
from steper_ray.models.settings import HubConfig

ROOT: Final = Path(__file__).parents[2]
TOKEN: Final = "hf_notarealtoken"
LOGIN: Final = "log in with `hf auth login` or set HF_TOKEN, with write access"
PUSH: Final = """
import sys
from pathlib import Path
from steper_ray.errors import SteperError
from steper_ray.models.push import push_folder

try:
    print(push_folder(Path(sys.argv[1]), "owner/name", kind=sys.argv[2]))
except SteperError as error:
    sys.exit(f"{type(error).__name__} {error}")
"""

LOAD: Final = """
import sys
from steper_ray.errors import SteperError
from steper_ray.data.hub_tables import read_hub
from steper_ray.models.loading import load_model_config, load_tokenizer
from steper_ray.models.settings import HubConfig

hub = HubConfig(token_env=sys.argv[1], offline=sys.argv[2] == "offline")
for name in sys.argv[3:]:
    for load in (load_tokenizer, load_model_config, lambda name, hub: next(read_hub(f"hf:{name}"))):
        try:
            print(load(name, hub))
        except SteperError as error:
            print(error)
"""
"""Tokenizer, configuration and data set of each repository that is named."""


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

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "weights") as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "student"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text("---\ntags:\n- steper\n---\n\nA card.\n")
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "ü.bin").write_bytes(bytes(range(256)))
    (folder / "empty.txt").touch()
    return folder


def push(
    url: str, folder: Path, kind: str = "model", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Push in a process that knows this Hub, this token and nothing of the machine's own."""
    return subprocess.run(
        [sys.executable, "-c", PUSH, str(folder), kind],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HF_HOME": str(folder.parent / "home"),
            "HF_ENDPOINT": url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(("kind", "path"), [("model", ""), ("dataset", "datasets/")])
def test_files_arrive_in_a_private_repository(hub: Hub, folder: Path, kind: str, path: str) -> None:
    (folder / ".README.md.7.partial").write_text("half a card")
    done = push(hub.url, folder, kind)
    assert (done.returncode, done.stdout) == (0, f"{hub.url}/{path}owner/name\n"), done.stderr
    assert hub.created == [
        {"organization": "owner", "name": "name", "type": kind, "visibility": "private"}
    ]
    assert hub.files == {
        "README.md": (folder / "README.md").read_bytes(),
        "config.json": b"{}",
        "sub/ü.bin": bytes(range(256)),
        "empty.txt": b"",
    }
    assert hub.authorizations == {f"Bearer {TOKEN}"}


def test_weights_arrive_through_xet(hub: Hub, folder: Path) -> None:
    # Too little to be cut into chunks and too random to be compressed, so it is stored as it is.
    weights = hashlib.shake_256(b"weights").digest(5000)
    (folder / "model.safetensors").write_bytes(weights)
    done = push(hub.url, folder)
    assert done.returncode == 0, done.stderr
    assert hub.files["model.safetensors"] == hashlib.sha256(weights).hexdigest().encode()
    stored = [file.read_bytes() for file in hub.weights.rglob("*") if file.is_file()]
    assert any(weights in content for content in stored)


def test_old_shards_go_and_all_else_stays(hub: Hub, folder: Path) -> None:
    hub.exists = True
    hub.files = {
        ".gitattributes": b"a",
        "LICENSE": b"b",
        "config.json": b"old",
        "old-0.parquet": b"c",
        "sub/old-1.parquet": b"d",
        "model.safetensors": b"e",
    }
    (folder / "new-0.parquet").write_bytes(b"PAR1")
    done = push(hub.url, folder, "dataset")
    assert (done.returncode, done.stdout) == (0, f"{hub.url}/datasets/owner/name\n"), done.stderr
    assert hub.files == {
        ".gitattributes": b"a",
        "LICENSE": b"b",
        "config.json": b"{}",
        "model.safetensors": b"e",  # the folder has no weights, so it says nothing about them
        "new-0.parquet": b"PAR1",
        "README.md": (folder / "README.md").read_bytes(),
        "sub/ü.bin": bytes(range(256)),
        "empty.txt": b"",
    }


@pytest.mark.parametrize(
    ("part", "status", "answer", "line"),
    [
        (
            "/repos/create",
            401,
            {"error": "Invalid username or password."},
            f"not allowed to write there (401: Invalid username or password.); {LOGIN}",
        ),
        (
            "/repos/create",
            403,
            {"error": f"Your token {TOKEN} may only read"},
            f"not allowed to write there (403: Your token … may only read); {LOGIN}",
        ),
        ("/preupload", 403, {}, f"not allowed to write there (403: Forbidden); {LOGIN}"),
        (
            "/repos/create",
            500,
            {"error": "Internal\n error, " + "sorry " * 100},
            f"the Hub refused (500: {('Internal error, ' + 'sorry ' * 100)[:200]}…); push again later",
        ),
        (
            "/commit",
            413,
            {"error": "Payload too large"},
            "the Hub refused (413: Payload too large)",
        ),
        (
            "/validate-yaml",
            400,
            {"errors": [{"message": '"license" must be one of'}]},
            'Invalid metadata in README.md. - "license" must be one of',
        ),
    ],
)
def test_refusals(
    hub: Hub, folder: Path, part: str, status: int, answer: dict[str, Any], line: str
) -> None:
    hub.refuse[part] = status, answer
    done = push(hub.url, folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"StageError push: owner/name: {line}\n"
    assert hub.files == {}


def test_a_token_that_may_write_but_not_create(hub: Hub, folder: Path) -> None:
    hub.exists = True
    hub.refuse["/repos/create"] = 403, {"error": "no"}
    done = push(hub.url, folder)
    assert (done.returncode, done.stdout) == (0, f"{hub.url}/owner/name\n"), done.stderr
    assert hub.files["config.json"] == b"{}"


def test_without_a_token_none_is_sent(hub: Hub, folder: Path) -> None:
    hub.refuse["/api"] = 401, {"error": "Invalid username or password."}
    done = push(hub.url, folder, HF_TOKEN="")
    assert done.stderr == (
        "StageError push: owner/name: not allowed to write there "
        f"(401: Invalid username or password.); {LOGIN}\n"
    )
    assert hub.authorizations == {None}


def test_unreachable(folder: Path, free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"
    done = push(url, folder)
    assert done.returncode == 1
    assert done.stderr == (
        f"StageError push: owner/name: cannot reach {url} ([Errno 111] Connection refused); "
        "check the network and HF_ENDPOINT, then push again\n"
    )


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline(hub: Hub, folder: Path, variable: str) -> None:
    done = push(hub.url, folder, **{variable: "1"})
    assert done.stderr == (
        "StageError push: owner/name: offline mode is on; "
        "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE, and set hub.offline: false\n"
    )
    assert not hub.paths


@pytest.mark.parametrize("name", ["owner/name", "Toy_x/Y.z-1", "a/" + "b" * 96])
def test_repository_names(name: str) -> None:
    assert check_repo_name(name, "train.push") == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "name",
            "/name",
            "owner/",
            "a/b/c",
            "./name",
            "~/name",
            "owner/a name",
            "owner/name\n",
        ),
        *("https://huggingface.co/owner/name", "owner/a--b", "owner/name.git", "a/" + "b" * 97),
    ],
)
def test_other_names_are_refused_before_any_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        check_repo_name(name, "train.push")
    assert str(refused.value) == (
        f"train.push: {name!r} is no name of a Hub repository; write owner/name "
        "(letters, digits, '-', '_', '.')"
    )
    with pytest.raises(InputError, match="no name of a Hub repository"):
        push_folder(tmp_path / "missing", name, kind="model")


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=f"push: {folder}: no files to push"):
            push_folder(folder, "owner/name", kind="model")


def load(
    home: Path, url: str, token_env: str, mode: str, *names: str, **environment: str
) -> list[str]:
    """What is said of each repository's tokenizer, configuration and data set."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, token_env, mode, *names],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HF_HOME": str(home),
            "HF_ENDPOINT": url,
            "MY_TOKEN": TOKEN,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 * len(names)
    return lines


def said_of(name: str, reason: str) -> list[str]:
    """The same of all three; a data set is named as in the run file."""
    shown = [reason.replace("{kind}", kind) for kind in ("", "", "datasets/")]
    return [f"{what}: {r}" for what, r in zip((name, name, f"hf:{name}"), shown, strict=True)]


def test_what_may_not_be_loaded_is_said_in_a_line(hub: Hub, tmp_path: Path) -> None:
    hub.refuse["owner/gated"] = 403, {"code": "GatedRepo"}
    hub.refuse["owner/absent"] = 401, {"code": "RepoNotFound"}
    put = "a token that may read it into {variable} on every machine that loads it"
    gated = "gated, and {why}; accept its terms at {url}/{{kind}}owner/gated and put {put}"
    absent = "no such repository at {url}, or a private one; check the name, or put {put}"
    for variable, why, sent in (
        ("MY_TOKEN", "the token sent has no access", f"Bearer {TOKEN}"),
        ("UNSET", "no token was sent", None),
    ):
        hub.authorizations.clear()
        lines = load(tmp_path, hub.url, variable, "online", "owner/gated", "owner/absent")
        expected: list[str] = []
        for name, reason in (("owner/gated", gated), ("owner/absent", absent)):
            expected += said_of(name, reason.format(url=hub.url, why=why, put=put))
        names = 2 * [variable, variable, "HF_TOKEN (or what hub.token_env names)"]
        assert lines == [
            line.replace("{variable}", name) for line, name in zip(expected, names, strict=True)
        ]
        assert hub.authorizations == {sent}


def test_offline_nothing_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    lines = load(tmp_path, hub.url, "MY_TOKEN", "offline", "owner/name")
    fetch = (
        "not on this machine, and offline mode is on; fetch it with `hf download owner/name{}`, "
    )
    way_out = "or set hub.offline: false and unset HF_HUB_OFFLINE"
    assert lines == [
        *2 * [f"owner/name: {fetch.format('')}{way_out}"],
        f"hf:owner/name: {fetch.format(' --repo-type dataset')}{way_out}",
    ]
    assert not hub.paths


def test_what_cannot_be_reached() -> None:
    """As huggingface_hub says it after a minute of retries."""
    error = OSError("We couldn't connect to the Hub")
    error.__cause__ = LocalEntryNotFoundError("An error happened while trying to locate the file")
    with pytest.raises(InputError) as caught, explained("owner/name", HubConfig()):
        raise error
    assert str(caught.value) == (
        f"owner/name: not on this machine, and {ENDPOINT} cannot be reached; check the network and "
        "HF_ENDPOINT, or fetch it elsewhere"
    )


PIN: Final = """
import sys
from steper_ray.errors import InputError
from steper_ray.data.hub_tables import read_hub
from steper_ray.models.folder import model_identity, pinned

print(pinned("owner/name", "v1"), model_identity("owner/name", "v1")["commit"])
try:
    next(read_hub("hf:owner/data@v2:config:train"))
except InputError as error:
    print(error)
"""


def test_a_revision_is_asked_for_of_models_and_data_sets(hub: Hub, tmp_path: Path) -> None:
    commit = "d" * 40
    hub.refuse["/api/models/owner/name/revision/v1"] = 200, {"id": "owner/name", "sha": commit}
    hub.refuse["owner/data"] = 404, {"code": "RevisionNotFound"}
    done = subprocess.run(
        [sys.executable, "-c", PIN],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    pins, refusal = done.stdout.splitlines()
    assert pins == f"{commit} {commit}"
    assert refusal.startswith("hf:owner/data")
    assert any("/owner/data" in path and "/v2" in path for path in hub.paths)


def test_a_data_set_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder, which has no revision \(v2\)"):
        next(read_hub(f"hf:{tmp_path}@v2"))
