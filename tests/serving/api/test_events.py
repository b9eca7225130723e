"""Events of a stream, and every way for a request to end, over a scripted backend."""

import asyncio
import gc
import json
from typing import Any

import httpx
import pytest

from steper_ray.errors import RowError
from steper_ray.reasoning.frameworks.ircot import ANSWER_FLAG
from steper_ray.serving.answering import AnswerService
from tests.serving.asking import (
    ANSWER,
    ASKED,
    CHAT,
    LOST,
    STEPS,
    STREAMED,
    ask,
    passage,
    refusal,
    untimed,
)
from tests.serving.backend import (
    HANG,
    TWO_STEPS,
    FastLoop,
    ScriptedBackend,
    api_over,
    events_of,
    on_loopback,
    service_over,
    until,
)

pytestmark = pytest.mark.anyio


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
    abilities = [data["ability"] for name, data in events if name == "step"]
    assert abilities == ["init", "exp", "exp", "agg"]
    assert [s["ability"] for s in events[-1][1]["steps"]] == abilities
    steps = [data for name, data in events if name == "step"]
    assert untimed(events[-1][1]["steps"]) == untimed(steps)
    backend = ScriptedBackend([[f" {ANSWER_FLAG} X."]])
    events = events_of((await ask(service_over(backend), STREAMED)).text)
    assert [data["ability"] for name, data in events if name == "step"] == ["agg"]


async def test_a_step_that_does_not_search_shows_no_passages_of_the_one_before() -> None:
    # names nothing to search for, though asked to go on behind the empty line
    backend = ScriptedBackend([[" "], [], [" Delft."]])
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
                assert service.admission.taken == 1
                go_on.set()  # the engine waits until here
    assert names == ["search", "passages", "token", "token", "step", "answer"]
    await until(lambda: service.admission.taken == 0)


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
    assert service.admission.taken == 0


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
        for _ in range(2):
            async with client.stream("POST", f"{url}/v1/answer", json=STREAMED) as reply:
                async for line in reply.aiter_lines():
                    if line == "event: token":
                        break
                assert service.admission.taken == 1
            await until(lambda: service.admission.taken == 0)
            await until(lambda: backend.at_work == 0)


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
        assert service.admission.taken == 0
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
    assert (writes[3:], service.admission.taken) == ([b""], 0)


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
    caplog: pytest.LogCaptureFixture,
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
        assert "KeyError: '/secret/place'" in caplog.text
        caplog.clear()


async def test_a_question_of_a_batch_that_fails_leaves_the_others_their_answers() -> None:
    backend = ScriptedBackend(own={"Broken?": [[KeyError("no")]]})
    reply = await ask(service_over(backend), {"questions": ["A?", "Broken?"]}, "/v1/answers")
    answered, failed = reply.json()["answers"]
    assert answered["answer"] == "Delft"
    assert failed["error"]["code"] == "internal"
    assert "no" not in failed["error"]["message"].split()


async def test_a_batch_returns_at_its_deadline_what_is_answered() -> None:
    backend = ScriptedBackend(own={"Slow?": [[HANG]]})
    service = service_over(backend, places=2, batch_timeout_s=0.5)  # so one at a time
    questions = ["A?", "Slow?", "B?"]
    answers = (await ask(service, {"questions": questions}, "/v1/answers")).json()["answers"]
    assert answers[0]["answer"] == "Delft"
    for rest in answers[1:]:
        assert rest["error"]["code"] == "deadline"
        assert rest["error"]["message"] == "the batch's 0.5 seconds are over; asking again is safe"
    assert backend.at_work == 0
    assert [query for query, _ in backend.searches] == ["A?", "Ada knows Bob.", "Slow?"]


async def test_a_client_that_leaves_its_batch_leaves_no_question_at_work() -> None:
    backend = ScriptedBackend([[HANG]])
    service = service_over(backend)
    batch = asyncio.create_task(service.answer_batch(["A?", "B?"], service.reasoning.settings))
    await until(lambda: backend.at_work == 2)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert (backend.at_work, service.admission.taken) == (0, 0)


@pytest.mark.parametrize(
    ("script", "options", "outcome"),
    [
        (TWO_STEPS, {}, "answered"),
        ([[LOST]], {}, "replica_lost"),
        ([[RowError("no")]], {}, "prompt_refused"),
        ([[KeyError("no")]], {}, "failed"),
        ([[HANG]], {"request_timeout_s": 0.02}, "deadline"),
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
        assert places == [1, 0]
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
    stream = service.stream("Who?", service.reasoning.settings)
    await anext(stream)
    await stream.aclose()
    assert "cancelled" in outcomes
    assert service.admission.taken == 0
    whole = asyncio.create_task(service.answer("Who?", service.reasoning.settings))
    await until(lambda: service.admission.taken == 1)
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    assert [outcome for outcome in outcomes if outcome] == ["cancelled"] * 2
    assert service.admission.taken == 0
