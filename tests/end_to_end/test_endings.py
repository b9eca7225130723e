"""A command that is ended in the middle of a step, in any way, leaves no process and no socket behind."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.pipeline.select import select_run
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.toy.write import MODELS
from tests.processes import ended, family, heed_ctrl_c, titled
from tests.samples import numbered, write

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

GONE_WITHIN_S = 60
"""On a machine that does other things too; it takes less than 10 where a core is free."""

ENGINE_STARTED = "init engine (profile, create kv cache, warmup model) took"
"""vLLM's line in a stage's log."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Everything temporary of a command."""
    folder = Path(tempfile.mkdtemp(prefix="end-", dir="/tmp"))  # sockets need a short path
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def data(toy_corpus: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a corpus and the examples of some chains."""
    run = load_config(TOY_RUN_FILE, [f"run.dir={tmp_path_factory.mktemp('data')}"])
    run.folder.corpus.symlink_to(toy_corpus.folder.corpus)
    write(run.folder.chains, numbered(range(60), question=lambda n: f"Who is mayor {n}?"))
    select_run(run)
    return run.folder.root


def sockets_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]


def start(stage: str, overrides: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    """A command in a group of its own, with a Ray of its own; its output goes to `folder`/output."""
    sets = [part for one in overrides for part in ("--set", one)]
    words = [sys.executable, "-m", "steper_ray.cli", stage, "--config", str(TOY_RUN_FILE), *sets]
    with (folder / "output").open("w") as output:
        return subprocess.Popen(
            words,
            stdout=output,
            stderr=output,
            env={**os.environ, "RAY_TMPDIR": str(folder), "TMPDIR": str(folder)},
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )


def await_that(holds: Callable[[], bool], command: "subprocess.Popen[bytes]", folder: Path) -> None:
    while not holds():
        assert command.poll() is None, (folder / "output").read_text()[-2000:]
        time.sleep(0.1)


Work = Callable[["subprocess.Popen[bytes]", Path], Callable[[], bool]]


def computes(command: "subprocess.Popen[bytes]", folder: Path) -> Callable[[], bool]:
    """Whether an engine that has started computes: a second of its CPU time after its start."""
    since: list[float] = []

    def holds() -> bool:
        logs = [log for log in (folder / "run" / "logs").glob("*/latest/*.log") if log.is_file()]
        if not any(ENGINE_STARTED in log.read_text(errors="replace") for log in logs):
            return False
        engines = titled("EngineCore", family(command))
        if len(engines) != 1:  # one that has died is started again
            since.clear()
            return False
        since.append(engines[0].cpu_times().user)
        return since[-1] > since[0] + 1

    return holds


def trains(command: "subprocess.Popen[bytes]", folder: Path) -> Callable[[], bool]:
    """Whether some training has done a step, and is at the next."""
    return lambda: any(file.stat().st_size for file in (folder / "run").rglob("metrics.jsonl"))


def serves(command: "subprocess.Popen[bytes]", folder: Path) -> Callable[[], bool]:
    return lambda: "Ctrl-C ends it" in (folder / "output").read_text()


@pytest.mark.parametrize(
    ("stage", "signals", "at_work", "code"),
    [
        ("build", [signal.SIGKILL], computes, -9),
        ("sweep", [signal.SIGINT], trains, 130),
        ("serve", [signal.SIGTERM, signal.SIGTERM], serves, 130),
    ],
)
def test_nothing_is_left_of_a_command_that_is_ended_at_work(
    toy_corpus: RunConfig,
    data: Path,
    slow_model: Path,
    folder: Path,
    free_port: int,
    stage: str,
    signals: list[signal.Signals],
    at_work: Work,
    code: int,
) -> None:
    run = folder / "run"
    run.mkdir()
    if stage == "build":
        (run / "corpus.lance").symlink_to(toy_corpus.folder.corpus)
    overrides = [
        f"run.dir={run}",
        *(
            f"questions.{split}={getattr(toy_corpus.questions, split)}"
            for split in ("train", "dev", "test")
        ),
        f"build.teacher={slow_model}",
        f"train.model={MODELS / 'base'}",
        "train.workers=1",
        "train.validation_chains=4",
        "train.epochs=1000",
        "train.chains_per_batch=2",
        f"eval.models={{slow: {slow_model}}}",
        "sweep.parameters={lr: {choice: [1.0e-4, 1.0e-3]}}",
        "sweep.search=grid",
        "compare.variants={uniform: {objective: uniform}}",
        "compare.baseline=uniform",
        "compare.repeated=[]",
        f"serve.model={slow_model}",
        f"serve.port={free_port}",
    ]
    if stage != "build":
        overrides.append(f"run.data={data}")
    command = start(stage, overrides, folder)
    await_that(at_work(command, folder), command, folder)
    processes = family(command)
    assert sockets_in(folder)
    try:
        for one in signals:
            if one is signal.SIGINT:  # a terminal sends it to the whole group
                os.killpg(command.pid, one)
            else:
                command.send_signal(one)
            time.sleep(0.5)
        assert command.wait(timeout=GONE_WITHIN_S) == code
        limit = time.monotonic() + GONE_WITHIN_S
        while not (gone := all(map(ended, processes)) and not sockets_in(folder)):
            if time.monotonic() > limit:
                break
            time.sleep(0.1)
        left = [process for process in processes if not ended(process)]
        assert (gone, left, sockets_in(folder)) == (True, [], [])
        assert "Traceback" not in (folder / "output").read_text()
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_ray_that_does_not_come_up_is_started_once_more(
    folder: Path,
) -> None:
    """The first start fails as Ray's own does on a machine that is too busy."""
    script = """
import ray
from steper_ray.ray_runtime.session import ray_session

start, failures = ray.init, [Exception("The current node timed out during startup.")]

def init(**options):
    if failures:
        raise failures.pop()
    return start(**options)

ray.init = init
with ray_session():
    print(ray.get(ray.remote(lambda: "works").remote()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "RAY_TMPDIR": str(folder), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "works\n", done.stderr[-2000:]
    assert (
        "Ray did not start: The current node timed out during startup.; it is started once more"
        in (done.stderr)
    )
