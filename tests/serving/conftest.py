"""What the tests of serving share: real servers (Ray Serve, vLLM, Lance), one in each layout."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.serving.applications import run_name
from steper_ray.serving.server_spec import ServerSpec
from steper_ray.serving.session import server_spec
from tests.samples import questions_of

LIMIT_S = 600
"""After which what has not come is taken for something that never comes."""

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
    def run(self) -> str:
        """Name of its run in those of its applications."""
        return run_name(self.config.folder.root)

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


@dataclass(frozen=True, slots=True)
class Serving:
    """Gives the server of a layout; there is one at a time, and it stays while it is asked for."""

    server_of: Callable[[str], Server]
    end: Callable[[], None]
    """Ends the one that runs."""


@pytest.fixture(scope="package")
def serving(toy_corpus: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Servers of the toy world's passages that ask for no key."""
    from steper_ray.serving.session import running_server

    running: dict[str, Server] = {}
    with ExitStack() as ends:

        def end() -> None:
            running.clear()
            ends.close()

        def server_of(layout: str) -> Server:
            if layout not in running:
                end()
                config = served_config(toy_corpus, tmp_path_factory.mktemp("serve"), layout)
                questions = [question.question for question in questions_of(config, "test")]
                url = ends.enter_context(running_server(config))
                running[layout] = Server(url, questions, config)
            return running[layout]

        yield Serving(server_of, end)


def served_config(toy_corpus: RunConfig, folder: Path, layout: str) -> RunConfig:
    """The run of a server on a port of its own."""
    from steper_ray.cli import TOY_RUN_FILE

    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = toy_corpus.folder.root
    (folder / "corpus.lance").symlink_to(toy_corpus.folder.corpus)
    return load_config(
        TOY_RUN_FILE,
        [
            f"run.dir={folder}",
            f"questions.test={data}/toy/test.parquet",
            f"build.teacher={data}/toy/models/teacher",
            f"serve.model={data}/toy/models/teacher",
            f"serve.port={port}",
            f"serve.layout={layout}",
            "serve.tool_parser=pythonic",
            "engine.cpus=0.5",  # room for a second LLM while it is updated
            *(["serve.ingress_replicas=2"] if layout == "apart" else ["serve.stall_s=10"]),
            f"serve.max_concurrent={PLACES}",
            f"serve.request_timeout_s={LIMIT_S}",
            "serve.body_timeout_s=5",
            "serve.max_output_tokens=800",
        ],
    )


@pytest.fixture
def server(serving: Serving) -> Server:
    """A server of the fused layout, with one replica."""
    return serving.server_of("fused")


@pytest.fixture
def apart_server(serving: Serving) -> Server:
    """A server of the apart layout, with two ingresses."""
    return serving.server_of("apart")
