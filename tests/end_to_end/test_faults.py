"""A build that is killed, in part or whole, ends as one that was not: real Ray, real vLLM, real SIGKILL."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from steper_ray.chains.rows import read_chains
from steper_ray.cli import TOY_RUN_FILE, main
from steper_ray.errors import StageError, find_steper_error
from steper_ray.pipeline.build import build_run
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.schema import Chain
from tests.fakes import Teacher

pytestmark = pytest.mark.engine

QUESTIONS = 200
KILL_AT = 90
"""Questions done when something is killed."""
AT_ONCE = 32
OPEN = 2 * AT_ONCE
"""Questions in an actor's open blocks at the most."""
DIFFERING = QUESTIONS * 0.005
"""Chains that may read otherwise: the engine's batches fall differently, and with them ties of floats."""

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
import psutil, ray
from ray.cluster_utils import Cluster
from steper_ray.cli import TOY_RUN_FILE
from steper_ray.run.loading import load_config
from steper_ray.pipeline.build import build_run

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False)
lost = []

def lose_a_node(done, _):
    if done < int(sys.argv[1]) or lost:
        return
    for node in nodes:
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        processes = [raylet, *raylet.children(recursive=True)]
        if any("ChainActor" in " ".join(process.cmdline()) for process in processes):
            lost.append(node)
            for process in processes:
                process.kill()
            return

summary = build_run(load_config(TOY_RUN_FILE, sys.argv[2:]), lose_a_node)
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


def essence(chain: Chain) -> Any:
    """What a chain says, without times, and without numbers that depend on the engine's batches."""
    steps = [(step.query, step.passage_ids, step.rationale) for step in chain.steps]
    return chain.question, steps, chain.answer, chain.stop_reason, chain.em, chain.error


@pytest.fixture(scope="module")
def undisturbed(toy_corpus: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> list[Chain]:
    """The chains of a build that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = load_config(TOY_RUN_FILE, settings(toy_corpus, folder))
    assert build_run(config).usage.asked == QUESTIONS
    return read_chains(config.folder.chains)


def check_whole(folder: Path, undisturbed: Sequence[Chain]) -> None:
    """Every question once, as in a build that nothing happened to."""
    chains = read_chains(folder / "chains")
    assert [chain.id for chain in chains] == [chain.id for chain in undisturbed]
    differing = [
        (essence(found), essence(expected))
        for found, expected in zip(chains, undisturbed, strict=True)
        if essence(found) != essence(expected)
    ]
    assert len(differing) <= DIFFERING, differing[0]
    assert not list(folder.glob("*.partial"))


def blocks_done(folder: Path) -> int:
    """Chains that a killed build has written and recorded as done."""
    partial = folder / "chains.new.partial"
    files = partial.glob("checkpoint/**/*.parquet")
    return sum(pq.read_metadata(file).num_rows for file in files)


def killer(**names: int) -> Callable[[int, int], None]:
    """A progress callback that kills one process of each name, of those that this one has started.

    names: when so many questions are done
    """
    left = dict(names)

    def kill(done: int, _total: int) -> None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # or a zombie
                title = " ".join(process.cmdline())
                for name in [n for n, at in left.items() if done >= at and n in title]:
                    process.kill()
                    del left[name]

    return kill


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
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    said: dict[str, int] = json.loads(out.splitlines()[-1])
    return said


def test_a_killed_actor_and_a_dead_engine_start_again_and_no_question_is_lost_or_doubled(
    toy_corpus: RunConfig, tmp_path: Path, undisturbed: list[Chain]
) -> None:
    config = load_config(TOY_RUN_FILE, settings(toy_corpus, tmp_path))
    ran = build_run(config, killer(ChainActor=40, EngineCore=120)).usage
    check_whole(tmp_path, undisturbed)
    assert ran.starts == 3
    assert QUESTIONS <= ran.asked <= QUESTIONS + 2 * OPEN


def test_engines_that_keep_dying_end_the_stage_and_what_is_done_stays(
    toy_corpus: RunConfig, tmp_path: Path
) -> None:
    given = settings(toy_corpus, tmp_path)
    config = load_config(TOY_RUN_FILE, [*given, "engine.max_restarts=0"])
    with pytest.raises(Exception, match="started again") as raised:
        build_run(config, killer(EngineCore=KILL_AT))
    known = find_steper_error(raised.value)
    assert isinstance(known, StageError)
    assert "had to be started again 1 times, more than engine.max_restarts allows" in str(known)
    assert str(config.folder.log("build")) in str(known)
    assert not config.folder.chains.exists()

    assert blocks_done(tmp_path) > KILL_AT - OPEN  # for the next build to go on from


def test_a_killed_driver_loses_open_blocks_only_and_two_builds_never_write_at_once(
    toy_corpus: RunConfig,
    tmp_path: Path,
    undisturbed: list[Chain],
    ray_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = settings(toy_corpus, tmp_path)
    first = start(BUILD, given, ray_folder)
    assert first.stdout is not None
    done = 0
    while done < KILL_AT:
        done = int(first.stdout.readline())
    overrides = [part for one in given for part in ("--set", one)]
    assert main(["build", "--config", str(TOY_RUN_FILE), *overrides]) == 2
    assert "another command is writing to it" in capsys.readouterr().err
    first.send_signal(signal.SIGKILL)
    first.communicate()

    written = blocks_done(tmp_path)
    assert written >= done - OPEN
    asked = finish(start(BUILD, given, ray_folder))["asked"]
    # A worker of the dead driver may have finished writing a block after we looked.
    assert QUESTIONS - written - OPEN <= asked <= QUESTIONS - written
    check_whole(tmp_path, undisturbed)


def test_a_lost_node_takes_no_question_with_it(
    toy_corpus: RunConfig, tmp_path: Path, undisturbed: list[Chain], ray_folder: Path
) -> None:
    given = settings(toy_corpus, tmp_path, "engine.replicas=2")
    said = finish(start(BUILD_ON_THREE_NODES, [str(KILL_AT), *given], ray_folder))
    assert said["alive"] == 2
    assert QUESTIONS <= said["asked"] <= QUESTIONS + 2 * OPEN
    check_whole(tmp_path, undisturbed)


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
    given = settings(toy_corpus, tmp_path / "links", f"run.dir={run}", "build.teacher=m")
    # a variable that is set in every process: the endpoint here wants no key
    given += [f"build.endpoint={{base_url: {teacher.url}, api_key_env: PATH}}"]
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
        timeout=300,
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
