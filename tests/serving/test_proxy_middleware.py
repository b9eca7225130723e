"""What the proxies say when an ingress dies, around hand-written ASGI applications that do."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steper_ray.serving.proxy_middleware import (
    FIRST_LIMIT,
    LARGEST_BODY,
    LOST_REPLY,
    Capacity,
    ProxyMiddleware,
    middlewares,
)
from steper_ray.serving.refusals import CODE_HEADER, HEADERS

pytestmark = pytest.mark.anyio

JSON: Final = [(b"content-type", b"application/json")]
EVENTS: Final = [(b"content-type", b"text/event-stream; charset=utf-8")]
TEXT: Final = [(b"content-type", b"text/plain; charset=utf-8")]
HTML: Final = [(b"content-type", b"text/html")]
MIB: Final = 2**20


def start(status: int, headers: list[tuple[bytes, bytes]]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(content: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


def saying(*messages: Message, then: Exception | None = None) -> ASGIApp:
    """An application that sends these and ends, or dies."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if then is not None:
            raise then

    return app


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that counts the bytes of a body, and gives up where the client is gone."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    await send(start(200, JSON))
    await send(body(b"%d" % size))


async def talk(app: ASGIApp, *given: Message) -> tuple[list[Message], Exception | None]:
    """What comes out of a proxy around it, and what it raised."""
    messages = list(given) or [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/answer", "headers": []}
    try:
        await ProxyMiddleware(app)(scope, receive, send)
    except RuntimeError as error:
        return sent, error
    return sent, None


def whole(sent: list[Message]) -> tuple[int, dict[bytes, bytes], Any]:
    """Status, headers and JSON of a reply, which must be one whole reply."""
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert not sent[1].get("more_body", False)
    headers = dict(sent[0]["headers"])
    assert headers[b"content-type"] == b"application/json"
    return sent[0]["status"], headers, json.loads(sent[1]["body"])


def test_serve_gets_it_as_a_middleware() -> None:
    assert [middleware.cls for middleware in middlewares()] == [ProxyMiddleware]


@pytest.mark.parametrize("died", [None, RuntimeError("the actor is dead")])
async def test_an_ingress_that_dies_before_its_reply(died: Exception | None) -> None:
    sent, raised = await talk(saying(then=died))
    status, headers, said = whole(sent)
    assert (status, headers[b"retry-after"]) == (503, b"1")
    error = {"message": LOST_REPLY.message, "type": "server_error", "code": "replica_lost"}
    assert said == {"error": {**error, "param": None}}
    assert raised is died


@pytest.mark.parametrize("died", [None, RuntimeError("the actor is dead")])
async def test_an_ingress_that_dies_in_a_stream_ends_it_with_an_error(
    died: Exception | None,
) -> None:
    said = [start(200, EVENTS), body(b"event: token\ndata: {}\n\n", more=True)]
    sent, raised = await talk(saying(*said, then=died))
    assert sent[:2] == said
    (last,) = sent[2:]
    assert not last.get("more_body", False)
    name, data, *rest = last["body"].split(b"\n")
    assert (name, rest) == (b"event: error", [b"", b""])
    assert json.loads(data.removeprefix(b"data: "))["error"]["code"] == "replica_lost"
    assert raised is died


async def test_another_reply_that_is_cut_stays_cut() -> None:
    said = [start(200, JSON), body(b'{"answer": "De', more=True)]
    sent, _ = await talk(saying(*said))
    assert sent == said  # so its client sees that it is not whole


@pytest.mark.parametrize(
    ("status", "extra", "told", "code", "after"),
    [
        (408, [], 504, "deadline", None),
        (429, [], 429, "overloaded", b"1"),
        (503, [(b"retry-after", b"7")], 503, "overloaded", b"7"),
        (503, [], 503, "overloaded", b"1"),
        (500, [], 503, "overloaded", b"1"),
        (404, [], 404, "not_found", None),
    ],
)
async def test_what_serve_says_in_plain_text_is_said_as_every_other_error(
    status: int, extra: list[Any], told: int, code: str, after: bytes | None
) -> None:
    sent, _ = await talk(
        saying(
            start(status, [*TEXT, *extra]),
            body(b"Request timed out at ", more=True),
            body(b"/secret/place"),
        )
    )
    got, headers, said = whole(sent)
    assert got == told
    assert headers.get(b"retry-after") == after
    kind = {404: "invalid_request_error", 429: "rate_limit_error"}.get(told, "server_error")
    assert {name: headers[name.encode()].decode() for name in HEADERS} == HEADERS
    assert (said["error"]["code"], said["error"]["type"]) == (code, kind)
    assert said["error"]["message"].startswith("the server cannot take this now")
    assert said["error"]["message"].endswith("ask again later") == (status != 404)
    assert b"secret" not in sent[1]["body"]


@pytest.mark.parametrize(
    "said",
    [
        [start(200, JSON), body(b"{}")],
        [start(200, TEXT), body(b"a", more=True), body(b"b")],
        [start(422, JSON), body(b'{"error": {}}')],
        [start(500, JSON), body(b'{"error": {}}')],
        [start(503, [*JSON, (b"retry-after", b"3")]), body(b"{}")],
        [start(307, []), body(b"")],
        [start(400, TEXT), body(b"Disallowed CORS origin")],
        [start(403, HTML), body(b"<p>Forbidden")],
        [start(404, HTML), body(b"<p>Not found")],
        [start(405, TEXT), body(b"Method Not Allowed")],
        [start(503, HTML), body(b"<p>Closed for today")],
        [start(200, EVENTS), body(b"event: answer\ndata: {}\n\n", more=True), body(b"")],
    ],
)
async def test_every_other_reply_is_passed_on_as_it_is(said: list[Message]) -> None:
    assert await talk(saying(*said)) == (said, None)


async def test_a_body_of_the_limit_is_passed_on() -> None:
    half = b"x" * (LARGEST_BODY // 2)
    sent, _ = await talk(
        reading,
        {"type": "http.request", "body": half, "more_body": True},
        {"type": "http.request", "body": half, "more_body": False},
    )
    assert whole(sent)[2] == LARGEST_BODY == 32 * MIB


async def test_a_huge_body_is_refused_before_it_is_whole() -> None:
    read = 0

    async def pieces() -> Any:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b"x" * MIB

    transport = httpx.ASGITransport(app=ProxyMiddleware(reading))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        reply = await client.post("/", content=pieces())
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "too_large"
    assert read == 33


async def test_a_body_that_becomes_huge_after_the_reply_began_does_not_begin_another() -> None:
    async def echoing(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, EVENTS))
        while (await receive())["type"] != "http.disconnect":
            await send(body(b": got some\n\n", more=True))

    piece = {"type": "http.request", "body": b"x" * (20 * MIB), "more_body": True}
    sent, _ = await talk(echoing, piece, piece)
    assert [message["type"] for message in sent].count("http.response.start") == 1


async def test_nothing_is_said_to_a_client_that_is_gone() -> None:
    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    assert await talk(waiting, {"type": "http.disconnect"}) == ([], None)


async def test_only_http_is_touched() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Callable[..., Awaitable[None]]) -> None:
        seen.extend([scope, receive, send])

    given: Any = ({"type": "lifespan"}, object(), object())
    await ProxyMiddleware(app)(*given)
    assert seen == list(given)


async def test_a_proxy_learns_how_many_questions_the_ingresses_take() -> None:
    now = 0.0
    capacity = Capacity(clock=lambda: now)
    assert all(capacity.enter() for _ in range(5))
    capacity.leave(refused=True)  # of five, four are worked on
    capacity.leave(refused=True)
    assert (capacity.most, capacity.taken) == (3, 3)
    assert capacity.enter()  # the first trial
    assert not capacity.enter()
    now = 0.25
    assert capacity.enter()
    capacity.leave(refused=True)
    assert (capacity.most, capacity.taken) == (4, 4)  # the first trial may still be taken
    capacity.leave(refused=True)
    assert (capacity.most, capacity.taken) == (3, 3)
    now = 0.5
    assert capacity.enter()
    capacity.leave(refused=False)  # answered: an ingress has come
    assert capacity.most == 4
    capacity.leave(refused=False)
    assert capacity.most == 4
    assert capacity.enter()
    assert capacity.enter()
    assert not capacity.enter()


async def test_past_capacity_a_proxy_refuses_by_itself_and_forwards_everything_else() -> None:
    forwarded: list[str] = []
    done = asyncio.Event()
    refusal = [*JSON, (b"retry-after", b"3"), (CODE_HEADER.encode(), b"overloaded")]

    async def with_one_place(scope: Scope, receive: Receive, send: Send) -> None:
        forwarded.append(scope["path"])
        if len(forwarded) == 1:
            await done.wait()
        await send(start(200, JSON) if len(forwarded) == 1 else start(503, refusal))
        await send(body(b"{}"))

    transport = httpx.ASGITransport(ProxyMiddleware(with_one_place))
    async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
        first = asyncio.create_task(client.post("/v1/answer", json={}))
        await asyncio.sleep(0)
        replies = [await client.post("/v1/answer", json={}) for _ in range(6)]
        assert [reply.status_code for reply in replies] == [503] * 6
        assert len(forwarded) == 3  # the first, one that was refused, and a trial
        assert replies[-1].json()["error"]["code"] == "overloaded"
        assert replies[-1].headers["retry-after"] == "1"
        await client.get("/v1/models")
        await client.get("/healthz")
        assert forwarded[3:] == ["/v1/models", "/healthz"]
        done.set()
        await first


async def test_each_mounted_application_has_a_capacity_and_a_made_up_one_leaves_nothing() -> None:
    """Under `/student` all places are taken, under `/other` there are any number."""
    forwarded: list[str] = []
    done = asyncio.Event()
    refusal = [*JSON, (CODE_HEADER.encode(), b"overloaded")]

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        forwarded.append(scope["path"])
        first, scope["root_path"] = scope["path"].split("/")[1], ""
        if first in ("student", "other"):
            scope["root_path"] = f"/{first}"  # as Serve does where a route_prefix is matched
        full = first == "student" and len(forwarded) > 1
        if not full and first == "student":
            await done.wait()
        await send(start(503, refusal) if full else start(200, JSON))
        await send(body(b"{}"))

    front = ProxyMiddleware(serve)
    transport = httpx.ASGITransport(front)
    async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
        held = asyncio.create_task(client.post("/student/v1/answer", json={}))
        await asyncio.sleep(0)
        for _ in range(6):
            assert (await client.post("/student/v1/answer", json={})).status_code == 503
        assert len(forwarded) == 3  # the first, one that was refused, and a trial
        for _ in range(6):
            assert (await client.post("/other/v1/answers", json={})).status_code == 200
        for number in range(6):
            await client.post(f"/student/{number}/v1/answer", json={})
            await client.post(f"/{number}/v1/chat/completions", json={})
        assert set(front._capacities) == {"/student", "/other"}
        done.set()
        assert (await held).status_code == 200


async def test_refusals_of_the_proxy_are_counted_and_have_the_request_s_id() -> None:
    counted: list[str] = []

    async def dying(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stream":
            await send(start(200, EVENTS))

    front = ProxyMiddleware(dying, counted.append)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(front), base_url="http://proxy"
    ) as client:
        reply = await client.get("/", headers={"x-request-id": "mine-1"})
        assert (reply.status_code, reply.headers["x-request-id"]) == (503, "mine-1")
        await client.get("/stream")
    front = ProxyMiddleware(saying(start(404, TEXT), body(b"no")), counted.append)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(front), base_url="http://proxy"
    ) as client:
        assert len((await client.get("/nothing")).headers["x-request-id"]) == 32
    front = ProxyMiddleware(saying(start(503, JSON), body(b"{}")), counted.append)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(front), base_url="http://proxy"
    ) as client:
        await client.get("/")  # the ingress counts its own
    assert counted == ["replica_lost", "replica_lost", "not_found"]


async def test_before_it_knows_the_ingresses_a_proxy_leaves_room_in_them() -> None:
    from steper_ray.serving.deploy import MORE_THAN_PLACES

    capacity = Capacity()
    assert sum(capacity.enter() for _ in range(1000)) == FIRST_LIMIT + 1  # one of them as a trial
    assert 2 * FIRST_LIMIT < MORE_THAN_PLACES


async def test_an_application_that_has_answered_and_is_not_found_is_being_stopped() -> None:
    gone = False

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/student") and not gone:
            scope["root_path"] = "/student"
            await saying(start(200, JSON), body(b"{}"))(scope, receive, send)
        else:
            await saying(start(404, TEXT), body(b"no"))(scope, receive, send)

    front = ProxyMiddleware(serve)
    transport = httpx.ASGITransport(app=front)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/student/readyz")).status_code == 200
        gone = True
        for path in ("/student/readyz", "/student/v1/answer", "/student"):
            reply = await client.post(path)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "stopping"), path
            assert int(reply.headers["retry-after"]) >= 1
        for path in ("/students", "/other/student", "/"):
            assert (await client.get(path)).status_code == 404, path
