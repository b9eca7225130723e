"""The HTTP API over a scripted backend: every route, limit, event, and way for a request to end."""

import asyncio
import gc
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest

from steper_ray.errors import ReplicaLostError, RowError
from steper_ray.reasoning import react, self_ask
from steper_ray.reasoning.ircot import ANSWER_FLAG
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.serving.guard import HEADERS
from steper_ray.serving.http import PAGE
from steper_ray.serving.keys import Key, Keys
from steper_ray.serving.service import AnswerService
from steper_ray.serving.settings import Served
from tests.serving.backend import (
    HANG,
    TWO_STEPS,
    FastLoop,
    ScriptedBackend,
    api_over,
    client_of,
    events_of,
    on_loopback,
    service_over,
    until,
)

pytestmark = pytest.mark.anyio

ASKED: Final = {"question": "Who lives where?"}
STREAMED: Final = {**ASKED, "stream": True}
CHAT: Final = {"model": "student", "messages": [{"role": "user", "content": "Hi"}]}
JSON: Final = {"content-type": "application/json"}
LOST: Final = ReplicaLostError("the replica that wrote the answer was lost")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def passage(name: str, score: float) -> dict[str, Any]:
    return {"id": name, "title": name.upper(), "text": f"About {name}.", "score": score}


def step(number: int, stage: str, query: str, rationale: str, generated: int) -> dict[str, Any]:
    """A step of `TWO_STEPS` as the API shows it, without what takes time."""
    found = [[passage("ada", 4), passage("bob", 3)], [passage("cy", 3)]][number - 1]
    return {
        "step": number,
        "stage": stage,
        "query": query,
        "passages": found,
        "rationale": rationale,
        "prompt_tokens": 10 * number,
        "generated_tokens": generated,
        "cached_tokens": 5 * (number - 1),
        "dropped_passages": 0,
    }


STEPS: Final = [
    step(1, "init", "Who lives where?", "Ada knows Bob.", 2),
    step(2, "agg", "Ada knows Bob.", "Bob lives in Delft. So the answer is: Delft.", 3),
]
ANSWER: Final = {
    "answer": "Delft",
    "stop_reason": "answered",
    "steps": STEPS,
    "prompt_tokens": 30,
    "generated_tokens": 5,
    "cached_tokens": 5,
    "model": "student",
    "corpus_version": "v1",
    "overrides": {},
}


def untimed(value: Any) -> Any:
    """The value without seconds, each of which must be a small number."""
    if isinstance(value, list):
        return [untimed(one) for one in value]
    if not isinstance(value, dict):
        return value
    assert all(0 <= value[name] < 5 for name in value if name.endswith("seconds"))
    return {k: untimed(one) for k, one in value.items() if not k.endswith("seconds")}


def refusal(reply: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """The message of a reply that must be this refusal, in the documented form."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert list(body) == ["error"]
    error = body["error"]
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    assert {k: error[k] for k in error if k != "message"} == {
        "type": kind,
        "code": code,
        "param": param,
    }
    return str(error["message"])


async def ask(
    service: AnswerService, body: Any = ASKED, path: str = "/v1/answer"
) -> httpx.Response:
    """One request to a new application; afterwards its places are free."""
    async with client_of(api_over(service)) as client:
        reply = await client.post(path, content=json.dumps(body), headers=JSON)
    assert service.places.taken == 0
    return reply


# answers


async def test_an_answer_comes_with_its_steps() -> None:
    backend = ScriptedBackend()
    reply = await ask(service_over(backend))
    assert reply.status_code == 200
    assert untimed(reply.json()) == ANSWER
    assert backend.searches == [("Who lives where?", 2), ("Ada knows Bob.", 2)]


async def test_k_and_s_of_a_request_reach_the_loop_and_are_named() -> None:
    backend = ScriptedBackend([[" Ada knows Bob."], [" Delft."]])
    reply = await ask(service_over(backend), {**ASKED, "passages_per_step": 1, "max_steps": 2})
    assert [k for _, k in backend.searches] == [1, 1]
    assert backend.prompts[1].endswith(f"Step 2: {ANSWER_FLAG}")
    assert reply.json()["stop_reason"] == "forced"
    assert reply.json()["overrides"] == {
        "passages_per_step": {"trained": 2, "served": 1},
        "max_steps": {"trained": 4, "served": 2},
    }


@pytest.mark.parametrize(
    ("framework", "text", "instruction"),
    [
        ("self_ask", " No.\nSo the final answer is: Delft.", self_ask.INSTRUCTION),
        ("react", " I know.\nAction: Finish[Delft]", react.INSTRUCTION),
    ],
)
async def test_a_framework_of_a_request_reaches_the_loop_and_is_named(
    framework: str, text: str, instruction: str
) -> None:
    backend = ScriptedBackend([[text]])
    reply = await ask(service_over(backend), {**ASKED, "framework": framework})
    assert backend.prompts[0].startswith(f"{instruction}\n\n")
    assert reply.json()["answer"] == "Delft"
    assert reply.json()["overrides"] == {"framework": {"trained": "ircot", "served": framework}}


async def test_what_the_server_itself_changes_is_named_too() -> None:
    trained = ReasoningConfig(passages_per_step=2, max_steps=4)
    served = Served(trained, "v0", trained.model_copy(update={"passages_per_step": 1}), "v1")
    reply = await ask(service_over(ScriptedBackend(), served=served))
    assert reply.json()["overrides"] == {
        "passages_per_step": {"trained": 2, "served": 1},
        "corpus_version": {"trained": "v0", "served": "v1"},
    }


async def test_a_batch_answers_in_order_and_one_failure_is_that_question_alone() -> None:
    own = {"RefusedError?": [[RowError("the prompt is too long")]], "Lost?": [[LOST]]}
    service = service_over(ScriptedBackend(own=own), places=2)  # so one at a time
    questions = ["Who lives where?", "RefusedError?", "Lost?", "Who else?"]
    reply = await ask(service, {"questions": questions}, "/v1/answers")
    assert reply.status_code == 200
    first, refused, lost, last = reply.json()["answers"]
    assert untimed(first) == ANSWER
    assert refused["error"]["code"] == "prompt_refused"
    assert refused["error"]["message"] == "the prompt is too long"
    assert lost["error"]["code"] == "replica_lost"
    assert last["steps"][0]["query"] == "Who else?"


async def test_a_batch_leaves_half_of_the_places_to_others() -> None:
    go_on = asyncio.Event()
    backend = ScriptedBackend([[go_on, f" {ANSWER_FLAG} X."]])
    service = service_over(backend, places=4)
    batch = asyncio.create_task(ask(service, {"questions": ["A?"] * 6}, "/v1/answers"))
    await until(lambda: len(backend.prompts) == 2)
    await asyncio.sleep(0.02)
    assert service.places.taken == 2
    go_on.set()
    assert [one["answer"] for one in (await batch).json()["answers"]] == ["X"] * 6


async def test_a_search_brings_the_k_best() -> None:
    backend = ScriptedBackend()
    reply = await ask(service_over(backend), {"query": " ada \n", "k": 1}, "/v1/search")
    assert untimed(reply.json()) == {"passages": [passage("ada", 4)], "corpus_version": "v1"}
    reply = await ask(service_over(backend), {"query": "ada"}, "/v1/search")
    assert backend.searches == [("ada", 1), ("ada", 4)]


async def test_health_and_readiness() -> None:
    backend = ScriptedBackend()
    async with client_of(api_over(service_over(backend, max_question_chars=9))) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        ready = await client.get("/readyz")
        told = {
            "model": "student",
            "corpus_version": "v1",
            "framework": "ircot",
            "passages_per_step": 2,
            "max_steps": 4,
            "max_question_chars": 9,
            "keys_required": False,
        }
        assert ready.status_code == 200
        assert ready.json() == {"status": "ready", "missing": [], **told}
        backend.gone = ["model"]
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json() == {"status": "not ready", "missing": ["model"], **told}


async def test_the_page_and_the_description_are_served() -> None:
    async with client_of(api_over(service_over(ScriptedBackend()))) as client:
        for path in ("/", "/docs"):
            reply = await client.get(path)
            assert (reply.status_code, kind_of(reply)) == (200, "text/html"), path
            for tag in INLINE.findall(reply.text):
                assert re.fullmatch(r'<script [^>]*src="[^"]+"></script>', tag), "it is blocked"
            named = re.findall(r'(?:src|href)="([^"]+)"', reply.text)
            parts = [name for name in named if name != "data:,"]
            assert len(parts) >= 2
            for name in parts:  # every resource is here, and is what it should be
                assert re.match("/[^/]", name), f"{path} loads {name} from elsewhere"
                part = await client.get(name)
                assert (part.status_code, kind_of(part)) == (200, LOADED[name.rpartition(".")[2]])
                assert part.text.strip()
        shown = (await client.get("/docs/docs.js")).text
        assert re.findall(r'url: "([^"]+)"', shown) == ["/openapi.json"]
        odd = await client.get("/page.js", headers={"range": "bytes=a-b"})
        assert (odd.status_code, odd.content) == (200, (PAGE / "page.js").read_bytes())
        for path in ("/page.html", "/page.py", "/page.", "/page.css/x", "/redoc", "/docs/x"):
            refusal(await client.get(path), 404, "not_found")
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert set(paths) == {
        "/v1/answer",
        "/v1/answers",
        "/v1/search",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/chat/completions",
        "/healthz",
        "/readyz",
    }


INLINE: Final = re.compile(r"<script\b.*?</script>|<style\b|\bstyle=|\bon\w+=")
LOADED: Final = {"css": "text/css", "js": "text/javascript"}


def kind_of(reply: httpx.Response) -> str:
    return reply.headers["content-type"].partition(";")[0]


@pytest.mark.parametrize("keys", [{}, {"ada": Key(sha256="0" * 64)}])
async def test_the_description_says_which_routes_need_a_key(keys: Keys) -> None:
    async with client_of(api_over(service_over(ScriptedBackend()), keys)) as client:
        described = (await client.get("/openapi.json")).json()
    for path, operations in described["paths"].items():
        (operation,) = operations.values()
        needed = [{"api_key": []}] if keys and path.startswith("/v1/") else None
        assert operation.get("security") == needed, path
    schemes = described["components"].get("securitySchemes", {})
    assert schemes == ({"api_key": {"type": "http", "scheme": "bearer"}} if keys else {})


# limits


@pytest.mark.parametrize(
    ("path", "body", "code", "param", "message"),
    [
        ("answer", {"question": "12345678901"}, "too_long", "question", "11 characters"),
        ("answers", {"questions": ["a", "12345678901"]}, "too_long", "questions.1", "11"),
        (
            "answers",
            {"questions": ["a"] * 3},
            "too_large",
            "questions",
            "3 is over this server's 2",
        ),
        ("search", {"query": "12345678901"}, "too_long", "query", "over this server's 10"),
        ("search", {"query": "a", "k": 8}, "too_large", "k", "8 is over this server's 7"),
        (
            "answer",
            {"question": "a", "passages_per_step": 8},
            "too_large",
            "passages_per_step",
            "8 is over this server's 7",
        ),
        (
            "answer",
            {"question": "a", "max_steps": 6},
            "too_large",
            "max_steps",
            "6 is over this server's 5",
        ),
        ("answers", {"questions": ["a"], "max_steps": 6}, "too_large", "max_steps", "5"),
        (
            "chat/completions",
            {
                "model": "student-rag",
                "messages": [{"role": "user", "content": "12345678901"}],
            },
            "too_long",
            "messages",
            "11 characters",
        ),
        (
            "chat/completions",
            {
                "model": "student",
                "messages": [
                    {"role": "system", "content": "12345678901"},
                    {"role": "user", "content": "a"},
                ],
            },
            "too_long",
            "messages",
            "11 characters",
        ),
    ],
)
async def test_limits(path: str, body: Any, code: str, param: str, message: str) -> None:
    backend = ScriptedBackend()
    limits = {"max_question_chars": 10, "max_batch": 2}
    service = service_over(backend, most_passages_per_step=7, most_steps=5, **limits)
    said = refusal(await ask(service, body, f"/v1/{path}"), 422, code, param)
    assert said.startswith(f"{param}: ")
    assert message in said
    assert backend.searches == backend.chats == []


async def test_the_limits_themselves_are_allowed() -> None:
    limits = {"max_question_chars": 10, "max_batch": 2, "most_passages_per_step": 7}
    service = service_over(ScriptedBackend(), most_steps=5, **limits)
    asked = {"passages_per_step": 7, "max_steps": 5}
    for path, body in (
        ("answer", {"question": "1234567890", **asked}),
        ("answers", {"questions": ["1234567890", "a"], **asked}),
        ("search", {"query": "1234567890", "k": 7}),
    ):
        assert (await ask(service, body, f"/v1/{path}")).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("answer", {}, "question"),
        ("answer", {"question": "  \n "}, "question"),
        ("answer", {"question": 7}, "question"),
        ("answer", {"question": "a", "stream": "true"}, "stream"),
        ("answer", {"question": "a", "max_steps": 0}, "max_steps"),
        ("answer", {"question": "a", "max_steps": 2.0}, "max_steps"),
        ("answer", {"question": "a", "framework": "cot"}, "framework"),
        ("answer", {"question": "a", "k": 3}, "k"),
        ("answer", {"question": "a", "max_steps": 2**31}, "max_steps"),
        ("answer", {"question": "a\ud800"}, "question"),
        ("answer", {"question": "a", "k" * 5000: 3}, "k" * 40),
        ("answers", {"questions": []}, "questions"),
        ("answers", {"questions": ["a", None]}, "questions.1"),
        ("search", {"query": "a", "k": True}, "k"),
    ],
)
async def test_a_wrong_body_is_told_where(path: str, body: Any, param: str) -> None:
    said = refusal(
        await ask(service_over(ScriptedBackend()), body, f"/v1/{path}"), 422, "invalid", param
    )
    assert said.startswith(f"{param}: ")
    assert len(f"{param}: ") < len(said) < 120


async def test_a_body_that_is_no_json_is_told_so() -> None:
    async with client_of(api_over(service_over(ScriptedBackend()))) as client:
        reply = await client.post("/v1/answer", content=b'{"question": ', headers=JSON)
        assert refusal(reply, 400, "bad_json") == "the body is not JSON: Expecting value"
        reply = await client.post("/v1/answer", content=b"hello", headers={"content-type": "text"})
        assert refusal(reply, 422, "invalid").startswith("body: ")
        refusal(await client.get("/v1/answer"), 405, "method_not_allowed")
        refusal(await client.get("/v1/nothing"), 404, "not_found")


async def test_a_body_that_is_too_large_is_not_read() -> None:
    service = service_over(ScriptedBackend(), max_body_bytes=100)
    sent = 0

    async def pieces(size: int) -> AsyncIterator[bytes]:
        nonlocal sent
        for start in range(0, size, 10):
            sent += 10
            yield whole[start : start + 10].ljust(10)

    whole = b'{"question": "Who lives where?"}'.ljust(100)
    async with client_of(api_over(service)) as client:
        reply = await client.post("/v1/answer", content=whole, headers=JSON)
        assert reply.status_code == 200
        reply = await client.post("/v1/answer", content=pieces(100), headers=JSON)
        assert reply.status_code == 200
        for content in (whole + b" ", pieces(10_000)):
            sent = 0
            reply = await client.post("/v1/answer", content=content, headers=JSON)
            message = "the body is over this server's 100 bytes"
            assert refusal(reply, 413, "too_large") == message
            assert sent in (0, 110)  # announced, or unannounced
        reply = await client.get("/healthz", headers={"content-length": "many"})
        refusal(reply, 400, "bad_request")


async def test_a_question_without_a_place_is_told_when_to_come_back() -> None:
    go_on = asyncio.Event()
    backend = ScriptedBackend([[go_on, f" {ANSWER_FLAG} X."]])
    service = service_over(backend, places=2)
    service.places.mean_seconds = 6.5
    async with client_of(api_over(service)) as client:
        first = [asyncio.create_task(client.post("/v1/answer", json=ASKED)) for _ in range(2)]
        await until(lambda: len(backend.prompts) == 2)
        for path, body in (
            ("answer", ASKED),
            ("answer", STREAMED),
            ("answers", {"questions": ["A?"]}),
            ("chat/completions", CHAT),
            ("chat/completions", {**CHAT, "stream": True}),
            ("chat/completions", {**CHAT, "model": "student-rag", "stream": True}),
        ):
            reply = await client.post(f"/v1/{path}", json=body)
            message = "all 2 places are taken; ask again later"
            assert refusal(reply, 503, "overloaded") == message
            assert reply.headers["retry-after"] == "7"  # 6.5 rounded up
        assert (await client.post("/v1/search", json={"query": "ada"})).status_code == 200
        go_on.set()
        assert [(await reply).status_code for reply in first] == [200, 200]
        assert service.places.taken == 0
        assert 5.2 < service.places.mean_seconds < 6  # 6.5·0.9², and hardly any time since
        assert (await client.post("/v1/answer", json=ASKED)).status_code == 200


async def test_the_deadline() -> None:
    backend = ScriptedBackend([[HANG]], chatting=[HANG])
    service = service_over(backend, request_timeout_s=0.05)
    for path, body in (
        ("answer", ASKED),
        ("chat/completions", CHAT),
        ("chat/completions", {**CHAT, "stream": True}),
        ("chat/completions", {**CHAT, "model": "student-rag"}),
    ):
        said = refusal(await ask(service, body, f"/v1/{path}"), 504, "deadline")
        assert said == "not done within this server's 0.05 seconds; asking again is safe"
    batch = await ask(service, {"questions": ["A?", "B?"]}, "/v1/answers")
    assert [one["error"]["code"] for one in batch.json()["answers"]] == ["deadline"] * 2
    service = service_over(ScriptedBackend(searching=[HANG]), request_timeout_s=0.05)
    refusal(await ask(service, {"query": "ada"}, "/v1/search"), 504, "deadline")
    await until(lambda: backend.cancelled == 6)


# events


async def test_events_tell_what_happens_in_order() -> None:
    reply = await ask(service_over(ScriptedBackend()), STREAMED)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-accel-buffering"] == "no"
    assert [(name, untimed(data)) for name, data in events_of(reply.text)] == [
        ("search", {"step": 1, "query": "Who lives where?"}),
        ("passages", {"step": 1, "passages": [passage("ada", 4), passage("bob", 3)]}),
        ("token", {"step": 1, "text": " Ada knows"}),
        ("token", {"step": 1, "text": " Bob."}),
        ("step", STEPS[0]),
        ("search", {"step": 2, "query": "Ada knows Bob."}),
        ("passages", {"step": 2, "passages": [passage("cy", 3)]}),
        ("token", {"step": 2, "text": " Bob lives in Delft."}),
        ("token", {"step": 2, "text": " So the answer"}),
        ("token", {"step": 2, "text": " is: Delft."}),
        ("step", STEPS[1]),
        ("answer", ANSWER),
    ]


async def test_the_stages_of_a_stream_are_those_of_its_answer() -> None:
    backend = ScriptedBackend([[" Ada knows Bob."], [" Cy."], [" Dee."], [" Delft."]])
    events = events_of((await ask(service_over(backend), STREAMED)).text)
    stages = [data["stage"] for name, data in events if name == "step"]
    assert stages == ["init", "exp", "exp", "agg"]
    assert [s["stage"] for s in events[-1][1]["steps"]] == stages
    steps = [data for name, data in events if name == "step"]
    assert untimed(events[-1][1]["steps"]) == untimed(steps)
    backend = ScriptedBackend([[f" {ANSWER_FLAG} X."]])
    events = events_of((await ask(service_over(backend), STREAMED)).text)
    assert [data["stage"] for name, data in events if name == "step"] == ["agg"]


async def test_a_step_that_does_not_search_shows_no_passages_of_the_one_before() -> None:
    backend = ScriptedBackend([[" "], [" Delft."]])  # names nothing to search for
    events = events_of((await ask(service_over(backend), STREAMED)).text)
    assert [name for name, _ in events] == [
        *("search", "passages", "token", "step"),
        *("token", "step", "answer"),
    ]
    assert events[-2][1]["passages"] == []
    assert events[-1][1]["stop_reason"] == "no_query"


async def test_events_come_as_they_happen() -> None:
    go_on = asyncio.Event()
    service = service_over(ScriptedBackend([[" Ada", go_on, f" {ANSWER_FLAG} X."]]))
    names: list[str] = []
    async with (
        on_loopback(api_over(service)) as url,
        httpx.AsyncClient() as client,
        client.stream("POST", f"{url}/v1/answer", json=STREAMED) as reply,
    ):
        async for line in reply.aiter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            if names == ["search", "passages", "token"] and line.startswith("data: "):
                assert service.places.taken == 1
                go_on.set()  # the engine waits until here
    assert names == ["search", "passages", "token", "token", "step", "answer"]
    await until(lambda: service.places.taken == 0)


@pytest.mark.parametrize(
    ("act", "code", "message"),
    [
        (LOST, "replica_lost", "the replica that wrote the answer was lost; asking again is safe"),
        (HANG, "deadline", "not done within this server's 0.4 seconds; asking again is safe"),
        (RowError("too long"), "prompt_refused", "too long"),
    ],
)
async def test_a_stream_that_fails_ends_with_an_error(act: Any, code: str, message: str) -> None:
    service = service_over(ScriptedBackend([TWO_STEPS[0], [" Bob", act]]), request_timeout_s=0.4)
    async with on_loopback(api_over(service)) as url, httpx.AsyncClient() as client:
        reply = await client.post(f"{url}/v1/answer", json=STREAMED)
    events = events_of(reply.text)
    assert [name for name, _ in events] == [
        *("search", "passages", "token", "token", "step"),
        *("search", "passages", "token", "error"),
    ]
    kind = "invalid_request_error" if code == "prompt_refused" else "server_error"
    error = {"message": message, "type": kind, "code": code, "param": None}
    assert events[-1][1] == {"error": error}
    assert service.places.taken == 0


def test_a_silent_stream_says_every_15_seconds_that_it_goes_on() -> None:
    async def stream() -> str:
        service = service_over(ScriptedBackend([[40.0, f" {ANSWER_FLAG} X."]]))
        return (await ask(service, STREAMED)).text

    with asyncio.Runner(loop_factory=FastLoop) as runner:
        text = runner.run(stream())
    blocks = [block.partition("\n")[0] for block in text.split("\n\n")]
    assert blocks == [
        *("event: search", "event: passages"),
        *(": waiting", ": waiting"),
        *("event: token", "event: step", "event: answer", ""),
    ]


async def test_closing_a_stream_cancels_the_work_and_frees_its_place() -> None:
    backend = ScriptedBackend([[" Ada", HANG]])
    service = service_over(backend, places=1)
    async with on_loopback(api_over(service)) as url, httpx.AsyncClient() as client:
        for closed in (1, 2):
            async with client.stream("POST", f"{url}/v1/answer", json=STREAMED) as reply:
                async for line in reply.aiter_lines():
                    if line == "event: token":
                        break
                assert service.places.taken == 1
            await until(lambda: service.places.taken == 0)
            await until(lambda: backend.cancelled == closed)  # noqa: B023


async def raw(
    service: AnswerService, path: str, body: Any, *, gone: bool, writes: list[bytes]
) -> None:
    """A request whose client is gone as soon as it is sent, or never; every write takes a while."""
    messages = [{"type": "http.request", "body": json.dumps(body).encode()}]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "POST",
        "path": path,
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
    }

    async def receive() -> Any:
        if messages:
            return messages.pop()
        if not gone:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        writes.append(message.get("body", b""))

    await api_over(service)(scope, receive, send)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/answer", STREAMED),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/chat/completions", {**CHAT, "model": "student-rag", "stream": True}),
    ],
)
async def test_who_is_gone_before_the_first_event_holds_no_place(path: str, body: Any) -> None:
    backend = ScriptedBackend([[HANG]], chatting=["data: 1\n\n", HANG])
    service = service_over(backend, places=1)
    gc.disable()  # which would free it too, some time
    try:
        await raw(service, path, body, gone=True, writes=[])
        assert service.places.taken == 0
    finally:
        gc.enable()


async def test_the_deadline_of_a_chat_is_told_to_a_slow_reader_too() -> None:
    backend = ScriptedBackend(chatting=["data: 1\n\n", HANG])
    service = service_over(backend, request_timeout_s=0.2)
    writes: list[bytes] = []
    body = {**CHAT, "stream": True}
    await raw(service, "/v1/chat/completions", body, gone=False, writes=writes)
    assert writes[1] == b"data: 1\n\n"
    assert b'"code": "deadline"' in writes[2]
    assert (writes[3:], service.places.taken) == ([b""], 0)


async def test_the_deadline_of_a_chat_is_of_the_whole_chat() -> None:
    backend = ScriptedBackend(chatting=["data: 1\n\n", 0.1] * 5)
    service = service_over(backend, request_timeout_s=0.25)
    reply = await ask(service, {**CHAT, "stream": True}, "/v1/chat/completions")
    assert reply.text.count("data: 1") in (1, 2, 3)
    assert '"code": "deadline"' in reply.text


# how requests end


@pytest.mark.parametrize(
    ("act", "status", "code"),
    [
        (LOST, 503, "replica_lost"),
        (RowError("the prompt is too long"), 422, "prompt_refused"),
        (KeyError("/secret/place"), 500, "internal"),
    ],
)
async def test_a_failure_is_told_and_frees_the_place(act: Any, status: int, code: str) -> None:
    reply = await ask(service_over(ScriptedBackend([[act]])))
    said = refusal(reply, status, code)
    assert ("retry-after" in reply.headers) == (status == 503)
    if status == 500:
        assert said == "the server failed; its log says why"


async def test_an_unexpected_error_shows_nothing_of_itself(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for body, path, backend in (
        (ASKED, "answer", ScriptedBackend([[KeyError("/secret/place")]])),
        (STREAMED, "answer", ScriptedBackend(searching=[KeyError("/secret/place")])),
        ({"questions": ["A?"]}, "answers", ScriptedBackend([[KeyError("/secret/place")]])),
        ({"query": "A?"}, "search", ScriptedBackend(searching=[KeyError("/secret/place")])),
    ):
        reply = await ask(service_over(backend), body, f"/v1/{path}")
        for leak in ("secret", "Traceback", "KeyError", "File "):
            assert leak not in reply.text
        assert "KeyError: '/secret/place'" in capsys.readouterr().err


async def test_a_batch_that_fails_leaves_no_question_at_work() -> None:
    backend = ScriptedBackend([[HANG]], own={"Broken?": [[0.02, KeyError("no")]]})
    service = service_over(backend, places=4)
    refusal(await ask(service, {"questions": ["A?", "Broken?"]}, "/v1/answers"), 500, "internal")
    assert backend.cancelled == 1


@pytest.mark.parametrize(
    ("script", "options", "outcome"),
    [
        (TWO_STEPS, {}, "answered"),
        ([[LOST]], {}, "replica_lost"),
        ([[RowError("no")]], {}, "prompt_refused"),
        ([[KeyError("no")]], {}, "failed"),
        ([[HANG]], {"request_timeout_s": 0.02}, "deadline"),
        (TWO_STEPS, {"places": 0}, "overloaded"),
    ],
)
async def test_every_question_is_counted_by_how_it_ends(
    script: Any, options: dict[str, Any], outcome: str
) -> None:
    recorded: list[tuple[str, float, dict[str, str]]] = []
    service = service_over(
        ScriptedBackend(script),
        record=lambda name, value, **tags: recorded.append((name, value, tags)),
        **options,
    )
    for body, how in ((ASKED, "whole"), (STREAMED, "stream")):
        recorded.clear()
        try:
            await ask(service, body)
        except KeyError:  # in the middle of a stream: the connection is cut
            assert (how, outcome) == ("stream", "failed")
        ends = [(value, tags) for name, value, tags in recorded if "questions" in name]
        assert ends == [(1, {"how": how, "outcome": outcome})]
        places = [value for name, value, _ in recorded if name == "steper_places_taken"]
        assert places == ([0] if outcome == "overloaded" else [1, 0])
        steps = [value for name, value, _ in recorded if name == "steper_steps_total"]
        assert steps == ([2] if outcome == "answered" else [])
        if outcome == "answered":
            tokens = [(tags["kind"], v) for name, v, tags in recorded if "tokens" in name]
            assert tokens == [("prompt", 30), ("generated", 5), ("cached", 5)]


async def test_a_question_whose_asker_leaves_is_counted_as_cancelled() -> None:
    outcomes: list[str] = []
    backend = ScriptedBackend([[HANG]])
    service = service_over(
        backend, record=lambda _name, _value, **tags: outcomes.append(tags.get("outcome", ""))
    )
    stream = service.stream("Who?", service.served.served)
    await anext(stream)
    await stream.aclose()
    assert "cancelled" in outcomes
    assert service.places.taken == 0
    whole = asyncio.create_task(service.answer("Who?", service.served.served))
    await until(lambda: service.places.taken == 1)
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    assert [outcome for outcome in outcomes if outcome] == ["cancelled"] * 2
    assert service.places.taken == 0


# headers


async def test_every_reply_has_the_security_headers() -> None:
    service = service_over(ScriptedBackend(), max_body_bytes=1000)
    broken = service_over(ScriptedBackend(searching=[KeyError("no")]))
    async with client_of(api_over(service)) as client, client_of(api_over(broken)) as failing:
        replies = [
            await client.get("/"),
            await client.get("/page.js"),
            await client.get("/healthz"),
            await client.get("/readyz"),
            await client.get("/v1/models"),
            await client.get("/nothing"),
            await client.put("/v1/answer"),
            await client.post("/v1/answer", json=ASKED),
            await client.post("/v1/answer", json=STREAMED),
            await client.post("/v1/answer", json={}),
            await client.post("/v1/answer", content=b"x" * 1001),
            await failing.post("/v1/answer", json=ASKED),
        ]
    assert [reply.status_code for reply in replies] == [
        *(200, 200, 200, 200, 200, 404, 405, 200, 200, 422, 413, 500)
    ]
    for reply in replies:
        assert {name: reply.headers[name] for name in HEADERS} == HEADERS
    policy = replies[0].headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")


async def test_other_pages_may_call_only_from_configured_origins() -> None:
    asking = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    ours, theirs = {"origin": "https://ours.org"}, {"origin": "https://theirs.org"}
    allowed = "access-control-allow-origin"
    async with client_of(api_over(service_over(ScriptedBackend()))) as client:
        reply = await client.options("/v1/answer", headers={**ours, **asking})
        refusal(reply, 405, "method_not_allowed")
        assert allowed not in reply.headers
        reply = await client.post("/v1/answer", json=ASKED, headers=ours)
        assert reply.status_code == 200
        assert allowed not in reply.headers
    service = service_over(ScriptedBackend(), cors_origins=("https://ours.org",))
    async with client_of(api_over(service)) as client:
        reply = await client.options("/v1/answer", headers={**ours, **asking})
        assert (reply.status_code, reply.headers[allowed]) == (200, "https://ours.org")
        assert "authorization" in reply.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in reply.headers
        reply = await client.post("/v1/answer", json=ASKED, headers=ours)
        assert reply.headers[allowed] == "https://ours.org"
        reply = await client.post("/v1/answer", json={}, headers=ours)
        assert (reply.status_code, reply.headers[allowed]) == (422, "https://ours.org")
        for reply in (
            await client.options("/v1/answer", headers={**theirs, **asking}),
            await client.post("/v1/answer", json=ASKED, headers=theirs),
        ):
            assert allowed not in reply.headers
