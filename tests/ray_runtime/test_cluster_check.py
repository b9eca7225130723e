"""What the nodes of a cluster are asked: a real cluster of two, of which one has another disk.

One process of its own starts the cluster and asks everything (`cluster_check_script.py`): thirty seconds.
"""

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import pytest

from steper_ray.ray_runtime.cluster_check import (
    FULL,
    Node,
    NodeFacts,
    fact_findings,
    installed_packages,
)
from tests.conftest import ROOT

RUN_FILE = "train: {model: /no/such/model}\ncorpus: {passages: /no/such.jsonl}\n"
REMEDY = "Give a folder on storage that every node mounts there"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "run.yaml").write_text(RUN_FILE)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": tempfile.gettempdir(),
    }
    environment.pop("RAY_ADDRESS", None)
    subprocess.run(
        [sys.executable, str(ROOT / "tests/ray_runtime/cluster_check_script.py"), str(folder)],
        env=environment,
        check=True,
        timeout=300,
    )
    return {**json.loads((folder / "said.json").read_text()), "folder": str(folder)}


@pytest.mark.engine
def test_a_folder_that_all_nodes_share_is_seen_in_a_moment(said: Any) -> None:
    fine = [False, f"{said['folder']}/shared is the same on all 2 nodes"]
    assert said["shared"] == [fine, fine]
    assert said["seconds"] < 2
    assert said["files"] == []  # nothing of it stays


@pytest.mark.engine
def test_a_node_with_another_disk_is_named_before_a_stage_starts(said: Any) -> None:
    second = said["nodes"][1]
    wrong, text = said["no folder"]
    assert wrong
    assert f"{second} has no such folder" in text
    wrong, text = said["another disk"]
    assert wrong
    assert f"{second} has another disk there: it does not see what is written here" in text
    assert REMEDY in text
    code, text = said["index"]
    assert code == 2
    assert text.startswith("steper index: run.dir: /proc/self/cwd/run: ")
    assert said["index files"] == []


@pytest.mark.engine
def test_a_node_that_does_not_answer_is_named_and_not_waited_for(said: Any) -> None:
    wrong, text = said["silent"]
    assert wrong
    assert f"{said['nodes'][1]} did not answer in 3 s" in text


@pytest.mark.engine
def test_the_command_prints_a_line_a_finding_and_exits_with_2(said: Any) -> None:
    code, text = said["check"]
    lines = text.splitlines()
    assert code == 2
    assert lines[0].startswith("ok     storage   ")
    here = installed_packages()["transformers"]
    (versions,) = [line for line in lines if line.startswith("wrong  versions")]
    assert f"{said['nodes'][1]}: transformers 0.1 there, {here} here; install the same" in versions
    assert "wrong  model     train.model: /no/such/model: no such model folder" in text
    assert lines[-1].startswith(f"steper check: 2 of {len(lines) - 1} findings are wrong")


def facts(**changed: Any) -> NodeFacts:
    fine = {
        "packages": installed_packages(),
        "missing_folders": [],
        "missing_variables": [],
        "temporary": "/tmp/ray",
        "free": 10,
        "total": 100,
    }
    return NodeFacts(**{**fine, **changed})


def test_what_a_node_lacks_is_said_with_its_remedy() -> None:
    one, two = Node("1", "a (10.0.0.1)", 0), Node("2", "b (10.0.0.2)", 4)
    fine = fact_findings({one: facts(), two: facts(gpu_names="4 NVIDIA H200")})
    assert not [finding for finding in fine if finding.wrong]
    assert "torch sees those of every node: 4 NVIDIA H200" in [finding.text for finding in fine]
    lacking = facts(
        missing_folders=["/models/student"],
        missing_variables=["HF_TOKEN"],
        gpus="torch sees none (torch is built for CUDA 13.0; the driver is too old)",
        free=int(100 * (1 - FULL)) - 1,
    )
    wrong = [f.text for f in fact_findings({one: facts(), two: lacking}) if f.wrong]
    assert [text.partition(";")[0] for text in wrong] == [
        "b (10.0.0.2): has no /models/student",
        "b (10.0.0.2): lacks HF_TOKEN",
        "b (10.0.0.2): torch sees none (torch is built for CUDA 13.0",
        "b (10.0.0.2): has 0.0 of 0.0 GB free for /tmp/ray",
    ]
    (lost,) = [f for f in fact_findings({one: "did not answer in 60 s"}) if f.wrong]
    assert lost.text == "a (10.0.0.1) did not answer in 60 s; start its Ray again"


def test_builds_of_one_version_are_one_version() -> None:
    packages = installed_packages()
    assert "+" not in "".join(packages.values())
    assert {"python", "ray", "torch", "vllm", "steper_ray"} <= set(packages)
