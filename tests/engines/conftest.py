"""What the tests of engines share."""

from collections.abc import Iterator

import pytest

from tests.engines.endpoint_server import Server


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()
