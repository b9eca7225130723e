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


def command(run: Path, stage: str, *settings: str) -> list[str]:
    """A stage as a driver on the cluster."""
    small = [f"toy.{name}=12" for name in ("train", "dev", "test")]
    words = [sys.executable, "-m", "steper_ray", stage, "--config", str(TOY_RUN_FILE)]
    for setting in (f"run.dir={run}", "engine.max_num_seqs=2", *small, *settings):
        words += ["--set", setting]
    return words


def steper(head: Head, run: Path, stage: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run a stage to its end."""
    return subprocess.run(
        command(run, stage, *settings),
        cwd=ROOT,
        env=head.environment | {"RAY_ADDRESS": head.address},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_what_never_fits_is_refused_with_the_largest_node(head: Head, folder: Path) -> None:
    growth = r"the autoscaler may bring 2 × big \(3 CPU\)"
    refused = steper(head, folder, "build", "build.engine.cpus=4")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert re.search(
        rf"build: no node has room for 1 × \(4 CPU\); the largest has 3 CPU, and {growth}; lower",
        refused.stderr,
    )


def test_a_stage_waits_for_nodes_and_gets_them(head: Head, folder: Path) -> None:
    """The nodes are held by another job until the stage has said that it waits."""
    hold = (
        "import ray, time; ray.init(address='auto', log_to_driver=False); "
        "groups = [ray.util.placement_group([{'big': 1}]) for _ in range(2)]; "
        "ray.get([group.ready() for group in groups]); print('held', flush=True); time.sleep(300)"
    )
    environment = head.environment | {"RAY_ADDRESS": head.address}
    holder = subprocess.Popen(
        [sys.executable, "-c", hold], env=environment, stdout=subprocess.PIPE, text=True
    )
    build = None
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        build = subprocess.Popen(
            command(folder, "build", "build.engine.resources={big: 1}"),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert build.stdout is not None
        lines: list[str] = []
        while "waits for room" not in "".join(lines):
            lines.append(build.stdout.readline())
            assert lines[-1], "".join(lines)
        holder.kill()
        output, _ = build.communicate(timeout=240)
    finally:
        for process in (holder, build):
            if process is not None:
                process.kill()
                process.wait()
    assert build.returncode == 0, output
    said = (
        r" build  waits for room: needs 1 × \(1 CPU \+ 1 big\); free are \d+ of 8 CPU, 0 of 0 GPU\n"
    )
    assert re.fullmatch(said, lines[-1])
    usage = json.loads((folder / "stats.json").read_text())["build"]
    assert usage["asked"] == 12
