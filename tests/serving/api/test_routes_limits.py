"""The server's limits on a request: lengths, counts, body, places and deadline; wrong bodies refused."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from steper_ray.reasoning.frameworks.ircot import ANSWER_FLAG
from tests.serving.asking import (
    ASKED,
    CHAT,
    JSON,
    STREAMED,
    ask,
    refusal,
)
from tests.serving.backend import HANG, ScriptedBackend, api_over, client_of, service_over, until

pytestmark = pytest.mark.anyio


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
    ],
)
async def test_limits(path: str, body: Any, code: str, param: str, message: str) -> None:
    backend = ScriptedBackend()
    limits: Any = {"max_question_chars": 10, "max_batch": 2}
    service = service_over(
        backend, max_requested_passages_per_step=7, max_requested_steps=5, **limits
    )
    said = refusal(await ask(service, body, f"/v1/{path}"), 422, code, param)
    assert said.startswith(f"{param}: ")
    assert message in said
    assert backend.searches == backend.chats == []


async def test_the_limits_themselves_are_allowed() -> None:
    limits: Any = {"max_question_chars": 10, "max_batch": 2, "max_requested_passages_per_step": 7}
    service = service_over(ScriptedBackend(), max_requested_steps=5, **limits)
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
    service.admission.mean_seconds = 6.5
    async with client_of(api_over(service)) as client:
        first = [asyncio.create_task(client.post("/v1/answer", json=ASKED)) for _ in range(2)]
        await until(lambda: len(backend.prompts) == 2)
        for path, body in (
            ("answer", ASKED),
            ("answer", STREAMED),
            ("answers", {"questions": ["A?"]}),
            ("search", {"query": "ada"}),
            ("chat/completions", CHAT),
            ("chat/completions", {**CHAT, "stream": True}),
            ("chat/completions", {**CHAT, "model": "student-rag", "stream": True}),
        ):
            reply = await client.post(f"/v1/{path}", json=body)
            message = "all 2 places are taken; ask again later"
            assert refusal(reply, 503, "overloaded") == message
            assert reply.headers["retry-after"] == "7"  # 6.5 rounded up
        for path in ("/healthz", "/readyz", "/v1/models", "/"):
            assert (await client.get(path)).status_code == 200
        go_on.set()
        assert [(await reply).status_code for reply in first] == [200, 200]
        assert service.admission.taken == 0
        assert 5.2 < service.admission.mean_seconds < 6.4  # 6.5·0.9², and little time since
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
    await until(lambda: backend.at_work == 0)
