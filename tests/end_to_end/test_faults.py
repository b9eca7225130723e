"""A build that is killed, in part or whole, ends as one that was not: real Ray, real vLLM, real SIGKILL.

Where it is the driver or a node that dies, what writes the chains makes no difference: there it is an
endpoint, which starts at once.
"""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from steper_ray.chains.rows import read_chains
from steper_ray.chains.stream import BLOCKS_AT_WORK
from steper_ray.cli import TOY_RUN_FILE, main
from steper_ray.errors import StageError, find_steper_error
from steper_ray.pipeline.build import build_run
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.schema import Chain
from tests.fakes import Teacher
from tests.processes import ended, family, titled
from tests.samples import questions_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

QUESTIONS = 100
AT_ONCE = 16
OPEN = 2 * AT_ONCE
"""Questions in an actor's open blocks at the most."""
BLOCKS = 5
"""Blocks that are recorded as done when something is killed; most are still to do."""
KILL_AT = BLOCKS * AT_ONCE // BLOCKS_AT_WORK
"""Questions in them."""

BUILD = """
import json, sys
from steper_ray.cli import TOY_RUN_FILE
from steper_ray.run.loading import load_config
from steper_ray.ray_runtime.session import ray_session
from steper_ray.pipeline.build import build_run
with ray_session():
    summary = build_run(
        load_config(TOY_RUN_FILE, sys.argv[1:]), lambda done, _: print(done, flush=True)
    )
print(json.dumps({"asked": summary.usage.asked, "starts": summary.usage.starts}), flush=True)
"""

BUILD_ON_THREE_NODES = """
import json, sys
import ray
from ray.cluster_utils import Cluster
from steper_ray.cli import TOY_RUN_FILE
from steper_ray.run.loading import load_config
from steper_ray.pipeline.build import build_run

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
for _ in range(2):
    cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
summary = build_run(load_config(TOY_RUN_FILE, sys.argv[1:]))
alive = sum(node["Alive"] for node in ray.nodes())
ray.shutdown()
cluster.shutdown()
print(json.dumps({"asked": summary.usage.asked, "starts": summary.usage.starts, "alive": alive}))
"""


def settings(toy: RunConfig, folder: Path, *more: str) -> list[str]:
    """Overrides of the toy's run file for a run on its corpus, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.lance").symlink_to(toy.folder.corpus)
    return [
        f"run.dir={folder}",
        f"questions.train={toy.questions.train}",
        f"build.teacher={toy.build.teacher}",
        f"build.limit={QUESTIONS}",
        f"engine.max_num_seqs={AT_ONCE}",
        *more,
    ]


def endpoint(teacher: Teacher) -> list[str]:
    """Overrides that have a teacher of the test asked, as many questions at a time as an engine takes."""
    # a variable that is set in every process: the endpoint here wants no key
    access = f"base_url: {teacher.url}, api_key_env: PATH, concurrency: {AT_ONCE}"
    return ["build.teacher=m", f"build.endpoint={{{access}}}"]


@pytest.fixture
def slow_teacher(toy_corpus: RunConfig, teacher: Teacher) -> Teacher:
    """Knows every answer, and takes its time."""
    answers = {one.question: one.answer for one in questions_of(toy_corpus, "train")[:QUESTIONS]}

    def says(asked: dict[str, Any]) -> str:
        time.sleep(1)
        asked_for = asked["prompt"].rpartition("Question: ")[2].partition("\n")[0].strip()
        return f" It is so. So the answer is: {answers[asked_for]}."

    teacher.says = says
    return teacher


def check_whole(folder: Path, toy: RunConfig) -> list[Chain]:
    """The chains of a build that is over: one to every question, and nothing beside them."""
    chains = read_chains(folder / "chains")
    asked = [question.id for question in questions_of(toy, "train")[:QUESTIONS]]
    assert [chain.id for chain in chains] == sorted(asked)
    assert {chain.error for chain in chains} == {None}
    assert not list(folder.glob("*.partial"))
    return chains


def records(folder: Path) -> list[Path]:
    """What an unfinished build has recorded as done: a file a block."""
    files = (folder / "chains.new.partial").glob("checkpoint/**/*.parquet")
    return [file for file in files if not file.stem.endswith(".pending")]


def questions_done(folder: Path) -> int:
    """Questions that a killed build has written and recorded as done."""
    return sum(pq.read_metadata(file).num_rows for file in records(folder))


def await_that(holds: Callable[[], bool], still_runs: Callable[[], bool]) -> None:
    """Return as soon as something holds, however long it takes; it must while something else runs."""
    while not holds():
        assert still_runs(), "it was over before"
        time.sleep(0.02)


def await_blocks(folder: Path, blocks: int, still_runs: Callable[[], bool]) -> None:
    """Return as soon as an unfinished build has recorded so many blocks."""
    await_that(lambda: len(records(folder)) >= blocks, still_runs)


def await_process(
    name: str, processes: Callable[[], list[psutil.Process]], still_runs: Callable[[], bool]
) -> psutil.Process:
    """The one of some processes that has this in its title, as soon as there is one."""
    found: list[psutil.Process] = []

    def stands() -> bool:
        found[:] = titled(name, processes())
        return len(found) == 1

    await_that(stands, still_runs)
    return found[0]


@contextmanager
def killing(folder: Path, *names: str) -> Iterator[None]:
    """SIGKILL a process of each of these names, one after another, while a build of this process runs.

    Each as soon as the actor that stands then has recorded `BLOCKS` blocks.
    """
    over = Event()

    def runs() -> bool:
        return not over.is_set()

    def ours() -> list[psutil.Process]:
        return psutil.Process().children(recursive=True)

    def kill() -> None:
        for name in names:
            await_blocks(folder, len(records(folder)) + BLOCKS, runs)
            engine = await_process("EngineCore", ours, runs)
            both = [engine, *titled("ChainActor", engine.parents())]
            (process,) = titled(name, both)
            process.kill()
            while not all(map(ended, both)):  # the other one ends by itself
                assert not over.wait(0.02), "it outlived the build"

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        try:
            yield
        finally:
            over.set()
        killed.result()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where a test's own cluster lives; what is left of it is killed afterwards, and must be nothing."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets need a short path
    yield folder
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("RAY_TMPDIR") == str(folder)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if ours and process.pid != os.getpid():
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def start(script: str, arguments: Sequence[str], ray_folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "RAY_TMPDIR": str(ray_folder), "TQDM_DISABLE": "1"},
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, int]:
    out, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    said: dict[str, int] = json.loads(out.splitlines()[-1])
    return said


def test_killed_actors_are_started_again_but_not_too_often_and_no_question_is_lost(
    toy_corpus: RunConfig, tmp_path: Path
) -> None:
    """A build goes on after the first kill and ends at the second; the next one asks what is left."""
    given = settings(toy_corpus, tmp_path)
    config = load_config(TOY_RUN_FILE, [*given, "engine.max_restarts=1"])
    with (
        killing(tmp_path, "EngineCore", "ChainActor"),
        pytest.raises(Exception, match="started again") as raised,
    ):
        build_run(config)
    known = find_steper_error(raised.value)
    assert isinstance(known, StageError)
    assert "had to be started again 2 times, more than engine.max_restarts allows" in str(known)
    assert str(config.folder.log("build")) in str(known)
    assert not config.folder.chains.exists()
    done = questions_done(tmp_path)
    assert done >= 2 * KILL_AT

    ran = build_run(load_config(TOY_RUN_FILE, given)).usage
    chains = check_whole(tmp_path, toy_corpus)
    assert sum(chain.em for chain in chains) > 0.8 * QUESTIONS  # 0.94 undisturbed
    assert ran.starts == 1
    # A worker of the ended build may have finished writing a block after we looked.
    assert QUESTIONS - done - OPEN <= ran.asked <= QUESTIONS - done


def test_a_killed_driver_loses_open_blocks_only_and_two_builds_never_write_at_once(
    toy_corpus: RunConfig,
    tmp_path: Path,
    slow_teacher: Teacher,
    ray_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = settings(toy_corpus, tmp_path, *endpoint(slow_teacher))
    first = start(BUILD, given, ray_folder)
    await_blocks(tmp_path, BLOCKS, lambda: first.poll() is None)
    overrides = [part for one in given for part in ("--set", one)]
    processes = family(first)
    for process in processes:  # it may not be done before the other one is refused
        process.suspend()
    try:
        assert main(["build", "--config", str(TOY_RUN_FILE), *overrides]) == 2
        assert "another command is writing to it" in capsys.readouterr().err
    finally:
        first.send_signal(signal.SIGKILL)
        for process in processes[1:]:
            with suppress(psutil.NoSuchProcess):
                process.resume()
    said, _ = first.communicate()

    written = questions_done(tmp_path)
    assert written >= KILL_AT
    assert written >= max(map(int, said.split()), default=0) - OPEN
    asked = finish(start(BUILD, given, ray_folder))["asked"]
    # A worker of the dead driver may have finished writing a block after we looked.
    assert QUESTIONS - written - OPEN <= asked <= QUESTIONS - written
    assert {chain.em for chain in check_whole(tmp_path, toy_corpus)} == {1.0}


def test_a_lost_node_takes_no_question_with_it(
    toy_corpus: RunConfig, tmp_path: Path, slow_teacher: Teacher, ray_folder: Path
) -> None:
    given = settings(toy_corpus, tmp_path, *endpoint(slow_teacher), "engine.replicas=2")
    building = start(BUILD_ON_THREE_NODES, given, ray_folder)
    await_blocks(tmp_path, BLOCKS, lambda: building.poll() is None)
    actors = titled("ChainActor", family(building))
    raylets = [actor.parent() for actor in actors]
    lost, *_ = [raylet for raylet in raylets if raylet and "--head" not in raylet.cmdline()]
    for process in [lost, *lost.children(recursive=True)]:
        process.kill()
    said = finish(building)
    assert said["alive"] == 2
    assert QUESTIONS <= said["asked"] <= QUESTIONS + 2 * OPEN
    assert {chain.em for chain in check_whole(tmp_path, toy_corpus)} == {1.0}


def test_a_full_disk_is_said_in_one_line_and_what_is_written_stays(
    toy_corpus: RunConfig, tmp_path: Path, ray_folder: Path, teacher: Teacher
) -> None:
    """On a file system of 512 KiB, in a namespace of its own; then it is made larger."""
    namespace = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a file system in a namespace of their own")
    noise = random.Random(0)
    teacher.says = lambda _: f" {noise.randbytes(3000).hex()} So the answer is: Rome."
    run = tmp_path / "run"
    given = settings(toy_corpus, tmp_path / "links", f"run.dir={run}", *endpoint(teacher))
    overrides = " ".join(f"--set {shlex.quote(one)}" for one in given)
    steper = f"{sys.executable} -m steper_ray.cli build --config {TOY_RUN_FILE} {overrides}"
    (tmp_path / "steps.sh").write_text(
        f"""set -u
        mkdir {run} && mount -t tmpfs -o size=512k tmpfs {run} || exit 9
        ln -s {toy_corpus.folder.corpus} {run}/corpus.lance
        {steper}; echo "exit code $?"
        mount -o remount,size=64m {run} || exit 9
        {steper}; echo "exit code $?"
        cp -r {run}/chains {tmp_path}/chains
        """
    )
    done = subprocess.run(
        [*namespace, "sh", "steps.sh"],
        cwd=tmp_path,
        env={**os.environ, "RAY_TMPDIR": str(ray_folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.findall(r"exit code \d", done.stdout) == ["exit code 1", "exit code 0"]
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"steper build: build: no space left on the disk of {run}")
    (again,) = re.findall(r"asked (\d+):", done.stdout)
    assert len(read_chains(tmp_path / "chains")) == QUESTIONS
    assert len(teacher.prompts) >= QUESTIONS
    assert int(again) < QUESTIONS
