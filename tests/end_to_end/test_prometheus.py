"""A Prometheus scrapes a build and a training, and the dashboards' queries find their series."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.pipeline.execute import run_stage
from steper_ray.run.loading import load_config
from tests.end_to_end.test_dashboard import DASHBOARDS

pytestmark = pytest.mark.engine

EMPTY: Final = {
    "ray_steper_train_mix_loss": "no train.mix",
    "ray_steper_train_mfu": "on GPUs only",
}
"""Series that such a run does not have."""

SCRAPED_EVERY: Final = "5s"

SCRAPED_WITHIN_S: Final = 60


def binary() -> str:
    """The Prometheus to start."""
    own = Path(sys.executable).parent / "prometheus"
    found = str(own) if own.is_file() else shutil.which("prometheus")
    if found is None:
        pytest.skip("no prometheus on the PATH (Debian: .ci/prometheus unpacks it into .venv)")
    return found


@pytest.fixture(scope="module")
def query(
    ray_cluster: None, tmp_path_factory: pytest.TempPathFactory, free_port: int
) -> Iterator[Callable[[str], list[Any]]]:
    """Asks a Prometheus that scrapes this session's Ray every few seconds."""
    import ray

    folder = tmp_path_factory.mktemp("prometheus")
    (node,) = ray.nodes()
    target = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    scraped = {"job_name": "ray", "static_configs": [{"targets": [target]}]}
    # A scrape must end within its interval, and the page has the series of all earlier tests' actors.
    config = {"global": {"scrape_interval": SCRAPED_EVERY}, "scrape_configs": [scraped]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{free_port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                binary(),
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def ask(expression: str) -> list[Any]:
        """The largest value of each series so far: those of an actor end with it."""
        over_time = f"max_over_time(({expression})[30m:1s])"
        reply = httpx.get(f"{url}/api/v1/query", params={"query": over_time}, timeout=30)
        values = reply.json()
        assert values["status"] == "success", (expression, values)
        result = values["data"]["result"]
        assert isinstance(result, list)
        return result

    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                if httpx.get(f"{url}/-/ready", timeout=5).is_success:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_the_dashboards_find_their_series(
    query: Callable[[str], list[Any]], tmp_path: Path
) -> None:
    settings = [f"toy.{name}=60" for name in ("train", "dev", "test")]
    settings += ["train.epochs=1", "train.workers=1", "train.checkpoint_every_steps=1"]
    settings += ["train.validation_chains=6", "train.validate_every_steps=2"]
    config = load_config(TOY_RUN_FILE, [f"run.dir={tmp_path}/watched", *settings])
    for stage in ("toy", "index", "build", "train"):
        run_stage(stage, config)
    run = config.folder.root.name
    last = f'ray_steper_train_step{{run="{run}"}}'
    rows = [json.loads(line) for line in config.folder.metrics.read_text().splitlines()]
    deadline = time.monotonic() + SCRAPED_WITHIN_S
    while not (found := query(last)) or float(found[0]["value"][1]) < rows[-1]["step"]:
        assert time.monotonic() < deadline, f"{last}: {found} after {rows[-1]['step']} steps"
        time.sleep(1)
    (done,) = query(f'max(ray_steper_asked_questions_total{{stage="build", run="{run}"}})')
    assert float(done["value"][1]) == 60
    (loss,) = query(f'ray_steper_train_loss{{run="{run}"}}')
    assert any(float(loss["value"][1]) == pytest.approx(row["loss"]) for row in rows)
    asking, training = (board for board in DASHBOARDS if board.name != "serving")
    for expression in (*asking.drawn, *training.drawn):
        filled = expression.replace("$__rate_interval", "10m")
        filled = re.sub(r"\$\w+", ".*", filled)
        expected = not any(name in expression for name in EMPTY)
        assert bool(query(filled)) == expected, filled
