"""What build servers, pre-commit and citation tools read fits the Makefile, `.ci/` and the package."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOWS: Final = {"check.yml": "check", "test.yml": "fast", "nightly.yml": "all"}


def read_yaml(path: str) -> dict[Any, Any]:
    value = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))


def run_choices() -> dict[str, str]:
    """What `.ci/run` takes, and the make command that each stands for."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    return dict(re.findall(r"^ +(\w+)\) (make .*) ;;$", script, re.MULTILINE))


def test_every_workflow_is_one_call_of_ci_run() -> None:
    assert {p.name for p in (ROOT / ".github" / "workflows").iterdir()} == set(WORKFLOWS)
    for name, choice in WORKFLOWS.items():
        workflow = read_yaml(f".github/workflows/{name}")
        (job,) = workflow["jobs"].values()
        commands = [step["run"] for step in job["steps"] if "run" in step]
        assert commands == [f".ci/run {choice}"]
        assert choice in run_choices()
        assert workflow["permissions"] == {"contents": "read"}
        # YAML 1.1 reads the key `on` as true.
        assert ("schedule" in workflow[True]) == (name == "nightly.yml")


def test_ci_run_calls_make_targets_and_refuses_anything_else() -> None:
    choices = run_choices()
    assert set(choices) == {"check", "fast", "all"}
    assert {shlex.split(command)[1] for command in choices.values()} <= make_targets()
    refused = subprocess.run(
        [ROOT / ".ci" / "run", "some"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert refused.stderr == ".ci/run takes check, fast or all, not some\n"


def test_scripts_that_make_calls_are_there_and_may_be_run() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    scripts = set(re.findall(r"\.ci/[\w.]+", makefile))
    assert {".ci/install", ".ci/chromium", ".ci/prometheus", ".ci/lock.py"} <= scripts
    for script in scripts:
        assert (ROOT / script).is_file()
        assert script.endswith(".py") or os.access(ROOT / script, os.X_OK)


def test_pre_commit_runs_what_make_check_runs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    checked = {tuple(words) for words in re.findall(r"\$\(BIN\)/(ruff) (\w+)", recipe)} | {
        ("mypy",) for _ in re.findall(r"\$\(BIN\)/mypy", recipe)
    }
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooked = set()
    for hook in repository["hooks"]:
        program, *arguments = shlex.split(hook["entry"])
        assert program.startswith(".venv/bin/")
        assert (Path(sys.executable).parent / Path(program).name).is_file()
        hooked.add((Path(program).name, *(a for a in arguments if not a.startswith("-"))))
    assert hooked == checked == {("ruff", "check"), ("ruff", "format"), ("mypy",)}


def test_the_citation_is_of_this_package_and_of_the_paper() -> None:
    citation = read_yaml("CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert (citation["title"], citation["version"]) == (project["name"], project["version"])
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert paper["title"].startswith("StepER: Step-wise Knowledge Distillation for Enhancing")
    assert paper["url"] == "https://arxiv.org/abs/2510.07923"
    for work in (citation, paper):
        assert work["authors"]
        assert work["type"]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_commands_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^ *)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test"} <= named <= make_targets()
    assert not [
        name
        for name in re.findall(r"`(\.(?:ci|github)/[\w/.]+)", text)
        if not (ROOT / name).exists()
    ]
    assert set(re.findall(r"`\.ci/run (\w+)`", text)) <= set(run_choices())


def test_test_modules_import_nothing_that_takes_seconds() -> None:
    """So that one test starts at once: such imports belong into the tests and fixtures that use them."""
    heavy = "datasets deepspeed lance matplotlib mlflow openai peft playwright ray schemathesis"
    slow = {*heavy.split(), "scipy", "torch", "transformers", "vllm", "wandb"}
    found = {}
    for file in sorted((ROOT / "tests").rglob("*.py")):
        module = ast.parse(file.read_text(encoding="utf-8"))
        names = {
            name.partition(".")[0]
            for statement in module.body
            for name in imported_names(statement)
        }
        if names & slow:
            found[file.relative_to(ROOT).as_posix()] = sorted(names & slow)
    assert found == {}


def imported_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    return [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
