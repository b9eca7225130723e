"""An autoscaler that adds nodes, and stages that wait for them, get them, or can never have them."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TOY_RUN_FILE
from tests.ray_head import ROOT, Head, running_head

pytestmark = pytest.mark.engine


KINDS = {
    "big": {
        "resources": {"CPU": 3, "big": 1},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 2,
    }
}


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head(kinds=KINDS) as started:
        yield started


@pytest.fixture(scope="module")
def folder(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a toy corpus."""
    run = tmp_path_factory.mktemp("room") / "run"
    for stage in ("toy", "index"):
        done = steper(head, run, stage)
        assert done.returncode == 0, done.stderr
    return run


def steper(head: Head, run: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A stage as a driver on the cluster, in a process of its own."""
    command = [sys.executable, "-m", "steper_ray", *words, "--config", str(TOY_RUN_FILE)]
    sizes = [f"toy.{name}=12" for name in ("train", "dev", "test")]
    settings = [f"run.dir={run}", "engine.max_num_seqs=2", *sizes]
    return subprocess.run(
        [*command, *(word for setting in settings for word in ("--set", setting))],
        cwd=ROOT,
        env=head.environment | {"RAY_ADDRESS": head.address},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_what_never_fits_is_refused_with_the_largest_node(head: Head, folder: Path) -> None:
    def refused(*settings: str) -> str:
        words = (word for setting in settings for word in ("--set", setting))
        done = steper(head, folder, "build", *words)
        assert done.returncode == 2, done.stdout + done.stderr
        return done.stderr.strip()

    growth = r"the autoscaler may bring 2 × big \(3 CPU\)"
    assert re.search(
        rf"build: no node has room for 1 × \(4 CPU\); the largest has 3 CPU, and {growth}; lower",
        refused("build.engine.cpus=4"),
    )
    assert re.search(
        rf"build: needs 3 × \(1 CPU \+ 1 big\) and 1 × \(1 CPU\) at the same time; .*{growth}",
        refused("build.engine.replicas=3", "build.engine.resources={big: 1}"),
    )


def test_a_wait_is_said_and_ends_at_its_limit(head: Head, folder: Path) -> None:
    """The autoscaler could bring the node, were it not held by an actor of another job."""
    hold = (
        "import ray, time; ray.init(address='auto', log_to_driver=False); "
        "groups = [ray.util.placement_group([{'big': 1}]) for _ in range(2)]; "
        "ray.get([group.ready() for group in groups]); print('held', flush=True); time.sleep(300)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold],
        env=head.environment | {"RAY_ADDRESS": head.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        done = steper(
            head,
            folder,
            "build",
            *("--set", "build.engine.resources={big: 1}"),
            *("--set", "run.wait_for_room_minutes=0.4"),
        )
    finally:
        holder.kill()
        holder.wait()
    assert done.returncode == 1, done.stdout + done.stderr
    said = r"build  waits for room: needs 1 × \(1 CPU \+ 1 big\); free are \d+ of 8 CPU, 0 of 0 GPU"
    assert re.search(said, done.stdout)
    assert (
        "no room for 1 × (1 CPU + 1 big) within 0.4 minutes (run.wait_for_room_minutes)"
        in done.stderr
    )


def test_engines_come_with_the_nodes_that_have_room_for_them(head: Head, folder: Path) -> None:
    """None of the nodes that are there at first has the resource."""
    done = steper(
        head,
        folder,
        "build",
        *("--set", "build.engine.resources={big: 1}"),
        *("--set", "build.engine.replicas=[1, 2]"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    usage = json.loads((folder / "stats.json").read_text())["build"]
    assert usage["asked"] == 12
    assert usage["starts"] >= 1
