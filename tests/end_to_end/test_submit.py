"""`steper submit`, `status`, `logs` and `stop` against a Ray head, from another machine's point of view."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from steper_ray.pipeline.jobs.start import SUBMITTED
from tests.ray_head import ROOT, Head, running_head

MANY = 300_000
"""Passages that are indexed for longer than the test needs."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One that has a run file with data, and reaches the cluster over HTTP alone."""

    folder: Path
    head: Head

    def start(self, *words: str, **environment: str) -> "subprocess.Popen[str]":
        """A command of steper in the folder; what it prints is read together."""
        variables = {**self.head.environment, "RAY_API_SERVER_ADDRESS": self.head.url}
        return subprocess.Popen(
            [sys.executable, "-m", "steper_ray", *words, "--config", "run.yaml"],
            cwd=self.folder,
            env={**variables, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def steper(self, *words: str, **environment: str) -> tuple[int, str]:
        """Exit code and output of a command."""
        process = self.start(*words, **environment)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def status(self, *words: str) -> list[dict[str, Any]]:
        """What `steper status --json` says."""
        code, output = self.steper("status", "--json", *words)
        assert code == 0, output
        return list(json.loads(output))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    write_passages(folder / "passages.jsonl", 20)
    (folder / "train.jsonl").write_text('{"id": "q", "question": "What?", "answer": "this"}\n')
    (folder / "run.yaml").write_text(
        f"""
run: {{dir: {folder}/run}}
corpus: {{passages: passages.jsonl}}
questions: {{train: train.jsonl}}
toy: {{scale: 0.1, train: 20, dev: 5, test: 5}}
"""
    )
    with running_head() as head:
        yield Machine(folder, head)


def write_passages(file: Path, count: int) -> None:
    rows = ({"id": f"p{n}", "title": f"T{n}", "text": f"Passage {n}."} for n in range(count))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def job_in(output: str) -> str:
    """The id of the job that a submission names."""
    (line,) = [line for line in output.splitlines() if line.startswith("submit  job ")]
    return line.split()[2]


@pytest.mark.engine
def test_carried_files_are_indexed_once_and_again_when_they_change(machine: Machine) -> None:
    code, output = machine.steper("submit", "index..index")
    assert code == 0, output
    assert "submit  carries the run file and 2 files, " in output
    assert " index  20 passages, version " in output
    assert "machine that submitted" not in output, "versions are those of this environment"
    assert "cluster lacks" not in output
    copied = sorted((machine.folder / "run" / SUBMITTED).glob("*/*"))
    assert [file.name for file in copied] in (
        ["passages.jsonl", "train.jsonl"],
        ["train.jsonl", "passages.jsonl"],
    )
    code, output = machine.steper("submit", "index..index", "--set", "run.seed=1")
    assert code == 0, output
    assert " index  up to date: already done with these settings and files" in output
    write_passages(machine.folder / "passages.jsonl", 21)
    code, output = machine.steper("submit", "index..index")
    assert " index  21 passages, version " in output
    first, second, third = machine.status()
    assert [one["status"] for one in (first, second, third)] == ["done"] * 3
    assert (third["stage"], third["exit_code"], third["job"]) == ("index", 0, job_in(output))
    assert third["host"]
    assert third["error"] is None


@pytest.mark.engine
def test_exit_code_is_that_of_the_job(machine: Machine) -> None:
    code, output = machine.steper("submit", "build", "--set", f"run.dir={machine.folder}/refused")
    said = "steper build: build.teacher is not set; name a Hugging Face model folder or a Hub model"
    assert (code, output.splitlines()[-1]) == (2, said)
    broken = machine.folder / "broken"
    (broken / "logs" / "toy" / "summary.json").mkdir(parents=True)  # where a file is to be written
    code, output = machine.steper("submit", "toy", "--set", f"run.dir={broken}")
    assert (code, output.splitlines()[-1].partition(":")[0]) == (1, "IsADirectoryError")
    (report,) = machine.status("--set", f"run.dir={broken}")
    assert (report["status"], report["exit_code"], report["job"]) == ("failed", 1, job_in(output))
    assert report["message"].startswith("IsADirectoryError: ")


@pytest.mark.engine
def test_two_runs_at_once_one_is_left_followed_and_stopped(machine: Machine) -> None:
    write_passages(machine.folder / "many.jsonl", MANY)
    long = ["--set", f"run.dir={machine.folder}/long", "--set", "corpus.passages=many.jsonl"]
    code, output = machine.steper("submit", "index", "--detach", "--wait-for-room", "5m", *long)
    job = job_in(output)
    assert code == 0
    assert f"follow it with: steper logs -f {job} --address {machine.head.url} " in output
    followed = machine.start("logs", "-f", job)

    code, output = machine.steper("submit", "toy", "--set", f"run.dir={machine.folder}/other")
    assert code == 0, output
    assert "toy  world 0: 30 questions" in output

    deadline = time.monotonic() + 60
    while (found := machine.status(*long))[0].get("pid") is None:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    (report,) = found
    assert (report["stage"], report["status"], report["job"]) == ("index", "running", job)
    assert report["exit_code"] is None
    environment = machine.head.job(job)["runtime_env"]["env_vars"]
    assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == "900"

    code, output = machine.steper("stop", *long)
    assert (code, output.splitlines()[-1]) == (0, f"  stop  job {job} has ended (stopped)")
    log, _ = followed.communicate(timeout=60)
    assert followed.returncode == 130, log
    assert log.splitlines()[-1] == "steper: interrupted"
    assert machine.steper("logs", *long) == (0, log)
    (report,) = machine.status(*long)
    assert (report["status"], report["exit_code"]) == ("stopped", 130)
    assert machine.steper("stop", *long) == (0, f"  stop  job {job} has ended already\n")


@pytest.mark.engine
def test_wrong_token_and_unknown_job_are_one_line(machine: Machine) -> None:
    code, output = machine.steper("submit", "toy", RAY_AUTH_TOKEN="0" * 64)
    assert (code, output.count("\n")) == (2, 1)
    assert f"{machine.head.url} does not take this token; set RAY_AUTH_MODE=token" in output
    code, output = machine.steper("status", RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="")
    assert (code, output.count("\n")) == (2, 1)
    assert f"{machine.head.url} asks for a token" in output
    code, output = machine.steper("logs", "steper-none")
    assert (code, output.count("\n")) == (2, 1)
    assert "steper logs: no job steper-none on " in output
