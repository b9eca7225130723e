"""A cluster of two nodes of which one sees another disk and other packages: what the checks say, as JSON.

Run by test_cluster_check.py in a process of its own, as the tests' own process has a Ray. The second node's
disk is another one under the same path: `/proc/self/cwd` is the folder that the process was started in.
"""

import json
import os
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any


def main(folder: Path) -> dict[str, Any]:
    import ray
    from ray.cluster_utils import Cluster

    from steper_ray.cli import main as steper
    from steper_ray.ray_runtime.cluster_check import alive_nodes, shared_storage

    said: dict[str, Any] = {}
    shared, here, there = (folder / name for name in ("shared", "here", "there"))
    for one in (shared, here, there, here / "run"):
        one.mkdir()
    run = Path("/proc/self/cwd/run")
    os.chdir(here)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    os.chdir(there)
    other = there / "packages" / "transformers-0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 0.1\n")
    before = os.environ["PYTHONPATH"]
    os.environ["PYTHONPATH"] = f"{other.parent}:{before}"
    second = cluster.add_node(num_cpus=0)
    os.environ["PYTHONPATH"] = before
    os.chdir(here)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=40)
    os.environ["RAY_ADDRESS"] = cluster.address
    said["nodes"] = [node.name for node in alive_nodes()]
    said["shared"] = [vars_of(shared_storage(shared))]
    started = time.monotonic()
    said["shared"].append(vars_of(shared_storage(shared)))
    said["seconds"] = time.monotonic() - started
    said["no folder"] = vars_of(shared_storage(run))
    (there / "run").mkdir()
    said["another disk"] = vars_of(shared_storage(run))

    def command(*words: str) -> tuple[int, str]:
        out = StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            code = steper(list(words))
        return code, out.getvalue()

    said["index"] = command(
        "index", "--config", str(folder / "run.yaml"), "--set", f"run.dir={run}"
    )
    said["index files"] = sorted(path.name for path in (here / "run").iterdir())
    said["check"] = command(
        "check", "--config", str(folder / "run.yaml"), "--set", f"run.dir={shared}"
    )
    raylet = second.all_processes["raylet"][0].process
    raylet.send_signal(signal.SIGSTOP)
    out = StringIO()
    with redirect_stdout(out):
        said["silent"] = vars_of(shared_storage(shared, limit_s=3))
    raylet.send_signal(signal.SIGCONT)
    said["files"] = sorted(path.name for path in shared.iterdir())
    ray.shutdown()
    cluster.shutdown()
    return said


def vars_of(finding: Any) -> list[Any]:
    return [finding.wrong, finding.text]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    said = main(folder)
    (folder / "said.json").write_text(json.dumps(said))
