"""What the tests share: a Ray of their own, a small toy world, and a folder for what is temporary."""

import multiprocessing.util
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import hypothesis
import pytest

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.toy.write import MODELS
from tests.fakes import Teacher
from tests.hub_server import Hub

if TYPE_CHECKING:
    import torch

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ.pop("RAY_ADDRESS", None)
# Ray's agent looks at every process of the machine each 5 s, which takes a tenth of a core.
os.environ["REPORTER_UPDATE_INTERVAL_MS"] = "60000"

hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")

ROOT = Path(__file__).parent.parent

ENGINE_FIXTURES = {"ray_cluster", "only_rank", "browser"}
"""Who uses one of them starts Ray, DeepSpeed or Chromium, and is marked `engine`."""

WITHOUT_RAY = {"only_rank", "process_group", "browser"}
"""Who uses one of them, and no Ray, is marked `without_ray`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--complete", action="store_true", help="a test skipped for want of more than a GPU fails"
    )


def pytest_configure() -> None:
    """Let vLLM, torch and killed workers leave their sockets and files where they are removed."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # of pytest's own
    folder = tempfile.mkdtemp(prefix="steper-", dir="/tmp")  # sockets need a short path
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    # at the end of the process, when multiprocessing (at -100) has removed its own
    multiprocessing.util.Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts an engine; skip the page's tests before a server starts for them in vain."""
    no_chromium = pytest.mark.skip("no chromium on the PATH (Debian: apt-get install chromium)")
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & ENGINE_FIXTURES:
            item.add_marker("engine")
        if fixtures & WITHOUT_RAY and "ray_cluster" not in fixtures:
            item.add_marker("without_ray")
        if "browser" in fixtures and not shutil.which("chromium"):
            item.add_marker(no_chromium)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests for a GPU where torch sees none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With `--complete`, a skipped test fails unless it is one for a GPU."""
    report = yield
    if report.skipped and item.config.getoption("complete") and not item.get_closest_marker("gpu"):
        assert isinstance(report.longrepr, tuple)
        report.outcome, report.longrepr = "failed", f"--complete: skipped, {report.longrepr[2]}"
    return report


@pytest.fixture(autouse=True)
def ray_only_where_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that is not marked `engine` leaves Ray as it was: started by another, or not at all."""
    before = ray_is_running()
    yield
    if request.node.get_closest_marker("engine") is None:
        assert ray_is_running() == before, "it starts Ray: mark it `engine`"


def ray_is_running() -> bool:
    """Whether this process is connected to a Ray."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray for the whole session, gone afterwards."""
    import ray

    from steper_ray.ray_runtime.session import ray_session

    os.environ["RAY_TMPDIR"] = tempfile.gettempdir()
    with ray_session():
        yield
    assert not ray.is_initialized()
    del os.environ["RAY_TMPDIR"]


@pytest.fixture(scope="session")
def device() -> "torch.device":
    """What the tests train on: the first GPU where torch sees one, else the CPU."""
    import torch

    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def rank_environment() -> dict[str, str]:
    """The environment variables of the only rank, as Ray Train would have set them."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


@pytest.fixture(scope="session")
def process_group(rank_environment, device) -> Iterator[None]:
    """torch.distributed with a single rank, once a process: DeepSpeed keeps the group that it saw first."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        for name, value in rank_environment.items():
            patch.setenv(name, value)
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def only_rank(process_group, rank_environment, device) -> Iterator[None]:
    """The only rank of a training in this process."""
    with pytest.MonkeyPatch.context() as patch:
        values = rank_environment | {"PATH": os.environ["PATH"]}
        values |= {} if device.type == "cuda" else {"DS_ACCELERATOR": "cpu"}
        for name, value in values.items():
            patch.setenv(name, value)
        # Liger puts its layers into transformers' modules, and so into what we compare with.
        patch.setitem(sys.modules, "liger_kernel", None)
        yield


@pytest.fixture(scope="session")
def toy_corpus(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The full toy world of a seed no model was trained on, indexed."""
    from steper_ray.pipeline.execute import run_stage

    folder = tmp_path_factory.mktemp("toy")
    config = load_config(TOY_RUN_FILE, [f"run.dir={folder}", "toy.seed=3"])
    run_stage("toy", config)
    run_stage("index", config)
    return config


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the toy teacher's tokenizer and random weights, so wide that it is busy for minutes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("slow") / "model"
    shutil.copytree(MODELS / "teacher", folder)
    layers = 8
    config = AutoConfig.from_pretrained(
        folder,
        hidden_size=1024,
        intermediate_size=4096,
        num_attention_heads=16,
        num_key_value_heads=16,
        num_hidden_layers=layers,
        layer_types=["full_attention"] * layers,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port that nothing listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def teacher() -> Iterator[Teacher]:
    server = Teacher()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "weights") as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
