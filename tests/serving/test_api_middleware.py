"""Requests to the API with and without a key, wherever it is mounted, and over the rate of a key."""

from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi import WebSocket
from starlette.routing import Route

from steper_ray.serving.keys import (
    Key,
    RateLimiter,
    hash_key,
)
from tests.serving.api_keys import ALICE, BOB, Clock, written
from tests.serving.backend import ScriptedBackend, api_over, client_of, service_over


async def get(client: httpx.AsyncClient, authorization: str | None) -> httpx.Response:
    headers = {} if authorization is None else {"authorization": authorization}
    return await client.get("/v1/models", headers=headers)


@pytest.mark.anyio
async def test_only_a_key_opens_the_api(keys_file: Path) -> None:
    service = service_over(ScriptedBackend(), keys_file=str(written(keys_file, alice=ALICE)))
    async with client_of(api_over(service, {"bob": Key(sha256=hash_key(BOB))})) as client:
        for right in (f"Bearer {ALICE}", f"bearer  {ALICE} ", f"BEARER {BOB}"):
            assert (await get(client, right)).status_code == 200
        for missing in (None, "", "Bearer", "Bearer ", f"Basic {ALICE}", ALICE):
            reply = await get(client, missing)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert reply.json()["error"]["code"] == "no_key"
            assert "Authorization: Bearer KEY" in reply.json()["error"]["message"]
        for wrong in (f"Bearer {ALICE}x", f"Bearer {hash_key(ALICE)}", "Bearer \xff", "Bearer a b"):
            reply = await client.get(
                "/v1/models", headers=[(b"authorization", wrong.encode("latin-1"))]
            )
            assert reply.status_code == 401
            assert reply.json()["error"]["code"] == "wrong_key"
            assert reply.json()["error"]["type"] == "authentication_error"
            assert ALICE not in reply.text
        for path in ("/v1/answer", "/v1/answers", "/v1/search", "/v1/chat/completions", "/v1/x"):
            assert (await client.post(path, json={})).status_code == 401
        for path in ("/", "/page.js", "/healthz", "/readyz", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/readyz")).json()["keys_required"] is True


OPEN: Final = (
    *("/", "/page.css", "/page.js", "/healthz", "/readyz", "/openapi.json"),
    *("/elements.js", "/markdown.js", "/requests.js", "/result.js", "/storage.js", "/words.js"),
    *("/docs", "/docs/docs.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"),
)
"""Paths that need no key."""

CLOSED: Final = (
    *("/v1/answer", "/v1/answers", "/v1/search", "/v1/chat/completions", "/v1/models"),
    *("/v1/responses", "/v1/completions", "/tokenize"),
    *("/v1/models/student", "/v1/x", "/v1", "/v1/", "/v2/answer", "/nothing", "/-/routes"),
    *("//v1/answer", "/v1//answer", "/v1/answer/", "/v1/answer//", "/./v1/answer"),
    *("/%76%31/answer", "/v1%2Fanswer", "%2Fv1/answer", "/v1/answer%2F", "/%2e%2e/v1/answer"),
    *("/V1/answer", "/v1/answer%00", "/v1/answer;x", "/v1\\answer", "/healthz/v1/answer"),
    *("/healthz/", "//healthz", "/healthz/%2e%2e/v1/answer", "/docs/", "/docs/x", "/page.py"),
)
"""Paths that need one, known or unknown, in odd forms too."""

MOUNTS: Final = (
    ("", ""),
    ("/student", "/student"),
    ("/student", ""),
    ("/v1", "/v1"),
    ("/a/b", "/a/b"),
)
"""root_path, and what of it is still in the path: uvicorn and Serve leave it, others do not."""


@pytest.mark.anyio
@pytest.mark.parametrize(("root_path", "prefix"), MOUNTS)
async def test_without_a_key_only_the_open_paths_answer_wherever_the_server_is_mounted(
    root_path: str, prefix: str
) -> None:
    backend = ScriptedBackend()
    api = api_over(service_over(backend), {"bob": Key(sha256=hash_key(BOB))})
    routes = {route.path for route in api.routes if isinstance(route, Route)}
    assert routes - set(OPEN) == {
        *("/v1/answer", "/v1/answers", "/v1/search", "/v1/chat/completions", "/v1/models"),
        *("/v1/models/{name}", "/v1/responses", "/v1/completions", "/tokenize"),
    }
    here = f"http://test{prefix}"
    async with client_of(api, root_path=root_path) as client:
        for path in OPEN:
            assert (await client.get(here + path)).status_code == 200, path
        for path in CLOSED:
            for method in ("GET", "HEAD", "POST", "PUT", "options"):
                asked = httpx.Request(method, here + path, content=b'{"question": "Who?"}')
                asked.method = method  # httpx would write it in capitals
                reply = await client.send(asked)
                assert reply.status_code == 401, (method, path)
                assert reply.headers["x-error-code"] == "no_key"
        assert (await client.options(f"{here}/v1/answer")).status_code == 405  # as without keys
        if prefix:  # a browser is sent on to the page
            reply = await client.get(here)
            assert reply.status_code == 307
            assert reply.headers["location"] == f"./{prefix.rpartition('/')[2]}/"
        assert backend.prompts == []
        key = {"authorization": f"Bearer {BOB}"}
        asked_well = await client.post(f"{here}/v1/answer", json={"question": "Who?"}, headers=key)
        assert asked_well.status_code == 200
        assert (await client.get(f"{here}/nothing", headers=key)).status_code == 404


@pytest.mark.anyio
async def test_a_path_that_only_begins_like_root_path_is_not_cut() -> None:
    api = api_over(service_over(ScriptedBackend()), {"bob": Key(sha256=hash_key(BOB))})
    async with client_of(api, root_path="/student") as client:
        for path in ("/students/healthz", "/student2", "/studenthealthz", "/x/student/healthz"):
            assert (await client.get(path)).status_code == 401, path


@pytest.mark.anyio
@pytest.mark.parametrize(("root_path", "prefix"), MOUNTS)
async def test_a_websocket_needs_a_key_too(root_path: str, prefix: str) -> None:
    api = api_over(service_over(ScriptedBackend()), {"bob": Key(sha256=hash_key(BOB))})

    @api.websocket("/v1/watch")  # the API has none yet
    async def watch(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    async def connect(path: str, *headers: tuple[bytes, bytes]) -> list[dict[str, Any]]:
        """What is sent to a client that connects."""
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": prefix + path, "root_path": root_path}
        await api({**scope, "query_string": b"", "headers": headers}, receive, send)
        return sent

    for path in ("/v1/watch", "/v1/watch/", "//v1/watch", "/nothing"):
        (refusal,) = await connect(path)
        assert (refusal["type"], refusal["code"]) == ("websocket.close", 1008), path
        assert "Authorization: Bearer KEY" in refusal["reason"]
    (refusal,) = await connect("/v1/watch", (b"authorization", b"Bearer " + ALICE.encode()))
    assert refusal["code"] == 1008
    opened = await connect("/v1/watch", (b"authorization", b"Bearer " + BOB.encode()))
    assert [message["type"] for message in opened] == ["websocket.accept", "websocket.close"]


@pytest.mark.anyio
async def test_a_body_is_not_read_before_its_key() -> None:
    service = service_over(ScriptedBackend(), max_body_bytes=10)
    async with client_of(api_over(service, {"bob": Key(sha256=hash_key(BOB))})) as client:
        assert (await client.post("/v1/answer", content=b"x" * 11)).status_code == 401


@pytest.mark.anyio
async def test_who_asks_too_often_is_told_when_to_come_back(keys_file: Path) -> None:
    keys_file.write_text(f"alice:\n  sha256: {hash_key(ALICE)}\n  requests_per_minute: 3\n")
    clock = Clock()
    limiter = RateLimiter(clock)
    asked: list[tuple[str, int]] = []

    async def take(owner: str, per_minute: int, requests: int) -> float:
        asked.append((owner, per_minute))
        return limiter.take(owner, per_minute, requests)

    service = service_over(ScriptedBackend(), keys_file=str(keys_file), requests_per_minute=2)
    api = api_over(service, {"bob": Key(sha256=hash_key(BOB))}, take)
    async with client_of(api) as client:
        alice = [await get(client, f"Bearer {ALICE}") for _ in range(4)]
        assert [reply.status_code for reply in alice] == [200, 200, 200, 429]
        bob = [await get(client, f"Bearer {BOB}") for _ in range(3)]
        assert [reply.status_code for reply in bob] == [200, 200, 429]
        # the file's rate comes before the config's
        assert asked == [("alice", 3)] * 4 + [("bob", 2)] * 3
        assert (alice[-1].headers["retry-after"], bob[-1].headers["retry-after"]) == ("20", "30")
        error = alice[-1].json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate")
        assert error["message"] == "over 3 requests a minute; ask again later"
        clock.now += 19.5  # half a second is left of alice's wait
        again = await get(client, f"Bearer {ALICE}")
        assert (again.status_code, again.headers["retry-after"]) == (429, "1")
        clock.now += 0.6
        assert (await get(client, f"Bearer {ALICE}")).status_code == 200
        for path in ("/", "/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200
        await get(client, "Bearer wrong")
    assert len(asked) == 9  # a wrong key takes nothing from anybody


@pytest.mark.anyio
async def test_without_a_rate_nothing_is_counted() -> None:
    async def take(owner: str, per_minute: int, requests: int) -> float:
        raise AssertionError("no rate is set")

    service = service_over(ScriptedBackend())
    api = api_over(service, {"bob": Key(sha256=hash_key(BOB))}, take)
    async with client_of(api) as client:
        replies = [await get(client, f"Bearer {BOB}") for _ in range(100)]
    assert {reply.status_code for reply in replies} == {200}
