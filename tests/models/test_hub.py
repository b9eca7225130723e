"""Loading from a server that plays the Hub: tokens, offline mode, revisions, each failure one line.

huggingface_hub itself runs, in a process of its own each time: it reads its settings when imported.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.numpy import save

from steper_ray.errors import InputError
from steper_ray.models.hub import explained, use_hub
from steper_ray.models.settings import HubConfig
from tests.conftest import ROOT
from tests.hub_server import TOKEN, Hub

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

SIZE: Final = """
from steper_ray.models.folder import model_size
from steper_ray.models.hub import hub_shapes

print(model_size("owner/name", "c" * 40), hub_shapes("owner/name", None))
"""


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


def run_against(hub: Hub, script: str, home: Path) -> "subprocess.CompletedProcess[str]":
    """A script in a process of its own, with a cache of its own, that has this Hub."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HF_HOME": str(home), "HF_ENDPOINT": hub.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_a_revision_is_asked_for_of_models_and_data_sets(hub: Hub, tmp_path: Path) -> None:
    commit = "d" * 40
    hub.refuse["/api/models/owner/name/revision/v1"] = 200, {"id": "owner/name", "sha": commit}
    hub.refuse["owner/data"] = 404, {"code": "RevisionNotFound"}
    done = run_against(hub, PIN, tmp_path)
    pins, refusal = done.stdout.splitlines()
    assert pins == f"{commit} {commit}"
    assert refusal.startswith("hf:owner/data")
    assert any("/owner/data" in path and "/v2" in path for path in hub.paths)


@pytest.mark.parametrize("there", [True, False])
def test_the_size_of_a_model_on_the_hub_is_told_by_the_heads_of_its_files(
    hub: Hub, tmp_path: Path, there: bool
) -> None:
    if there:
        arrays: dict[str, Any] = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float16)}
        hub.files["model.safetensors"] = save(arrays)
    done = run_against(hub, SIZE, tmp_path)
    assert done.stdout == ("(17, 58) None\n" if there else "(None, None) None\n")
    assert not done.stderr


def test_the_environment_is_set_for_all_that_load(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    from huggingface_hub import constants, get_token, is_offline_mode

    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "MY_TOKEN"):
        monkeypatch.setenv(name, "")
    for module in (constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    use_hub(HubConfig(token_env="MY_TOKEN"))
    assert os.environ["HF_TOKEN"] == ""
    assert not is_offline_mode()
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    use_hub(HubConfig(token_env="MY_TOKEN", offline=True))
    assert get_token() == TOKEN
    assert is_offline_mode(), "also where huggingface_hub was imported before"
    assert datasets.config.HF_HUB_OFFLINE
    assert os.environ["HF_HUB_OFFLINE"] == "1"
