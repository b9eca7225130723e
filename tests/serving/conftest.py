"""What the tests of serving share: a server of the real thing (Ray Serve, vLLM, Lance), two ingresses."""

import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.serving.server_spec import ServerSpec
from steper_ray.serving.session import server_spec
from tests.samples import questions_of

PLACES = 8
"""Questions that an ingress works on at a time."""


@pytest.fixture
def anyio_backend() -> str:
    """What coroutine tests run on."""
    return "asyncio"


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """File of the keys, to be written."""
    return tmp_path / "keys.yaml"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    url: str
    questions: list[str]
    config: RunConfig

    @property
    def spec(self) -> ServerSpec:
        """Settings and inputs of the server, as they are now in the run folder."""
        return server_spec(self.config)

    def processes(self, name: str) -> list[psutil.Process]:
        """Its replicas of a deployment, or `ProxyActor`."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # or a zombie
                # Ray adds to the title what the actor is doing: `ray::ServeReplica:steper:llm.check_health`
                title = " ".join(process.cmdline()).partition(".")[0].rstrip()
                if title.startswith("ray::") and title.endswith(name):
                    found.append(process)
        return found

    def kill(self, name: str) -> None:
        """SIGKILL one of them."""
        self.processes(name)[0].send_signal(signal.SIGKILL)


@pytest.fixture(scope="package")
def server(toy_corpus: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves the toy world's passages; asks for no key."""
    from steper_ray.cli import TOY_RUN_FILE
    from steper_ray.serving.session import running_server

    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data, folder = toy_corpus.folder.root, tmp_path_factory.mktemp("serve")
    (folder / "corpus.lance").symlink_to(toy_corpus.folder.corpus)
    config = load_config(
        TOY_RUN_FILE,
        [
            f"run.dir={folder}",
            f"questions.test={data}/toy/test.parquet",
            f"build.teacher={data}/toy/models/teacher",
            f"serve.model={data}/toy/models/teacher",
            f"serve.port={port}",
            "serve.tool_parser=pythonic",
            "engine.cpus=0.5",  # room for a second LLM while it is updated
            "serve.ingress_replicas=2",
            f"serve.max_concurrent={PLACES}",
            "serve.request_timeout_s=120",
        ],
    )
    questions = [question.question for question in questions_of(config, "test")]
    with running_server(config) as url:
        yield Server(url, questions, config)
