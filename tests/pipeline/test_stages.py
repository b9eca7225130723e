"""A stage is one entry of the table: command, options, log and job follow from it."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from steper_ray.cli import main
from steper_ray.errors import InputError
from steper_ray.pipeline.commands import all_commands
from steper_ray.pipeline.demo import DEMO_STAGES
from steper_ray.pipeline.messages import StageResult
from steper_ray.pipeline.reference import job_script
from steper_ray.pipeline.stage import Option, Stage
from steper_ray.pipeline.stages import STAGES
from steper_ray.ray_runtime.progress import StageProgress
from steper_ray.run.config import RunConfig


def run_tiny(config: RunConfig, progress: StageProgress) -> StageResult:
    """Write the seed into the run folder."""
    progress.update(1, 1)
    (config.folder.root / "tiny.txt").write_text(str(config.run.seed))
    lines = [f"seed {config.run.seed}", f"limit {config.build.limit}, mix {config.build.mix}"]
    return StageResult(lines, {"seed": config.run.seed})


def check_tiny(config: RunConfig) -> None:
    if config.run.seed < 0:
        raise InputError("run.seed: the tiny stage takes no negative seed")


@pytest.fixture(autouse=True)
def tiny_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(
        help="write the seed",
        packages=("pipeline",),
        sections=("run",),
        options=(
            Option("--limit", "the limit", metavar="N", setting="build.limit"),
            Option("--mix", "whether to mix", setting="build.mix"),
        ),
        run=run_tiny,
        doing="writing",
        check=check_tiny,
        needs_ray=lambda _config: False,
    )
    monkeypatch.setitem(STAGES, "tiny", stage)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    file = tmp_path / "run.yaml"
    file.write_text(f"run: {{dir: {tmp_path / 'run'}, seed: 5}}\n")
    return ["--config", str(file)]


def test_a_new_stage_is_a_command(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tiny", *arguments, "--limit", "7", "--mix"]) == 0
    shown = re.sub(r"\(\d+ s\)", "(N s)", capsys.readouterr().out).splitlines()
    assert shown == ["  tiny  writing …", "  tiny  seed 5  (N s)", "        limit 7, mix True"]
    assert (tmp_path / "run" / "tiny.txt").read_text() == "5"
    summary = json.loads((tmp_path / "run" / "logs" / "tiny" / "summary.json").read_text())
    assert summary.pop("seconds") >= 0
    assert summary == {"stage": "tiny", "counts": {"seed": 5}}
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "tiny      write the seed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "hint"),
    [("idnex", "did you mean index?"), ("frobnicate", "steper --help lists the commands")],
)
def test_a_word_that_is_no_command_is_one_line(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word, "--config", "run.yaml"]) == 2
    assert capsys.readouterr() == ("", f"steper: no command {word!r}; {hint}\n")


@pytest.mark.parametrize(
    "words",
    [["caf\udce9"], ["index", "--config", "caf\udce9"], ["index", "--set", "run.dir=caf\udce9"]],
)
def test_an_argument_that_is_no_utf8_is_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    shown = words[-1].replace("\udce9", r"\udce9")
    line = (
        f"steper: the argument {shown} is not UTF-8 text; type it in a UTF-8 terminal, and rename a file "
        "or folder that is called so\n"
    )
    assert capsys.readouterr() == ("", line)


def test_a_bad_value_of_set_is_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tiny", *arguments, "--set", "train.lr=.inf"]) == 2
    line = "steper tiny: --set train.lr=.inf: train.lr: must be a finite number, got inf\n"
    assert capsys.readouterr() == ("", line)


def test_a_new_stage_has_a_log_of_each_launch(tmp_path: Path, arguments: list[str]) -> None:
    assert main(["tiny", *arguments]) == 0
    assert main(["tiny", *arguments, "--set", "run.log_format=json"]) == 0
    logs = tmp_path / "run" / "logs" / "tiny"
    newest = (logs / "latest").resolve()
    first, second = sorted(
        (path for path in logs.glob("20*") if path.is_dir()), key=lambda path: path == newest
    )
    assert second == newest
    assert f"steper tiny starts in {tmp_path / 'run'}\n" in (first / "driver-0.log").read_text()
    lines = (second / "driver-0.log").read_text().splitlines()
    messages = [json.loads(line)["message"] for line in lines]
    assert messages[0] == f"steper tiny starts in {tmp_path / 'run'}"
    assert messages[-1].startswith("steper tiny is done after 0 s: seed 5;")


def test_a_new_stage_is_checked_before_it_runs(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tiny", *arguments, "--set", "run.seed=-1"]) == 2
    assert capsys.readouterr().err == (
        "steper tiny: run.seed: the tiny stage takes no negative seed\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_new_stage_is_a_job(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "tiny.py"
    script.write_text(job_script("tiny", all_commands()["tiny"]))
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert (tmp_path / "run" / "tiny.txt").read_text() == "5"


def test_stages_of_the_demo_read_what_earlier_ones_wrote() -> None:
    written = {"examples"}  # the data set's own folder
    for name in DEMO_STAGES:
        stage = STAGES[name]
        files = {path for path in stage.reads if "." not in path}
        assert files <= written | set(stage.writes), name
        written |= set(stage.writes)
