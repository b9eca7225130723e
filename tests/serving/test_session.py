"""How an update finds its server: the file in the run folder sets its three variables, and no others."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from steper_ray.errors import InputError
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.serving.session import CLUSTER_VARIABLES, find_cluster


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    (tmp_path / "run.yaml").write_text(f"run: {{dir: {tmp_path}}}\n", encoding="utf-8")
    for name in (*CLUSTER_VARIABLES, "LD_PRELOAD"):
        monkeypatch.setenv(name, "")  # so that what is set is undone
        monkeypatch.delenv(name)
    return load_config(tmp_path / "run.yaml", [])


def test_the_file_sets_three_variables_at_most(run: RunConfig) -> None:
    values = {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_TOKEN": "t", "LD_PRELOAD": "/tmp/evil.so"}
    run.folder.cluster_file.write_text(json.dumps(values))
    find_cluster(run)
    assert (os.environ["RAY_ADDRESS"], os.environ["RAY_AUTH_TOKEN"]) == ("10.0.0.1:6379", "t")
    assert "LD_PRELOAD" not in os.environ


@pytest.mark.parametrize("content", ["", "[]", "{", '{"RAY_ADDRESS": 5}', '"RAY_ADDRESS"'])
def test_a_broken_file_is_refused_in_a_line(run: RunConfig, content: Any) -> None:
    run.folder.cluster_file.write_text(content)
    with pytest.raises(InputError, match=r"serve\.cluster\.json does not say how to reach"):
        find_cluster(run)


def test_without_a_file_no_server_runs(run: RunConfig) -> None:
    with pytest.raises(InputError, match=r"no server of .* is running here"):
        find_cluster(run)
