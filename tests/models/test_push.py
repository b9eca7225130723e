"""A push arrives at a server that plays the Hub, and each failure is one line.

huggingface_hub itself runs, in a process of its own each time: it reads its settings when imported.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from steper_ray.errors import InputError
from steper_ray.models.push import check_repo_name, push_folder
from tests.conftest import ROOT
from tests.hub_server import TOKEN, Hub

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
