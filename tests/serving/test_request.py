"""What a request may do with its key (scopes, share of places, rate), and how long its body may take."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from steper_ray.serving.keys import Key, hash_key
from tests.serving.api_keys import ALICE, BOB
from tests.serving.asking import ASKED, CHAT, STREAMED, refusal
from tests.serving.backend import HANG, ScriptedBackend, api_over, client_of, service_over, until

pytestmark = pytest.mark.anyio

RAG = {**CHAT, "model": "student-rag"}


def keys(**alice: Any) -> dict[str, Key]:
    return {"alice": Key(sha256=hash_key(ALICE), **alice), "bob": Key(sha256=hash_key(BOB))}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("search", {"search"}),
        ("plain", {"plain", "plain stream"}),
        ("answer", {"answer", "stream", "batch", "rag", "rag stream"}),
    ],
)
async def test_a_key_opens_what_it_is_for(scope: Any, allowed: set[str]) -> None:
    requests: dict[str, tuple[str, Any]] = {
        "search": ("search", {"query": "A?"}),
        "plain": ("chat/completions", CHAT),
        "plain stream": ("chat/completions", {**CHAT, "stream": True}),
        "answer": ("answer", ASKED),
        "stream": ("answer", STREAMED),
        "batch": ("answers", {"questions": ["A?"]}),
        "rag": ("chat/completions", RAG),
        "rag stream": ("chat/completions", {**RAG, "stream": True}),
    }
    backend = ScriptedBackend()
    service = service_over(backend)
    async with client_of(api_over(service, keys(scopes=(scope,)))) as client:
        for name, (path, body) in requests.items():
            reply = await client.post(f"/v1/{path}", json=body, headers=bearer(ALICE))
            if name in allowed:
                assert reply.status_code == 200, name
            elif name == "batch":  # each of its questions is refused
                assert reply.json()["answers"][0]["error"]["code"] == "scope"
            else:
                said = refusal(reply, 403, "scope")
                assert said == f"this API key is for {scope} only"
            whole = await client.post(f"/v1/{path}", json=body, headers=bearer(BOB))
            assert whole.status_code == 200
        models = await client.get("/v1/models", headers=bearer(ALICE))
        assert models.status_code == 200
    assert service.admission.taken == 0


async def test_an_expired_key_is_told_so() -> None:
    from datetime import UTC, datetime

    api = api_over(service_over(ScriptedBackend()), keys(expires=datetime(2020, 1, 1, tzinfo=UTC)))
    async with client_of(api) as client:
        reply = await client.get("/v1/models", headers=bearer(ALICE))
        assert refusal(reply, 401, "expired_key") == "this API key has expired"


async def test_one_key_leaves_places_to_the_others() -> None:
    backend = ScriptedBackend([[HANG]], own={"Now?": [[" So the answer is: X."]]})
    service = service_over(backend, places=4)
    async with client_of(api_over(service, keys(max_share=0.5))) as client:
        held = [
            asyncio.create_task(client.post("/v1/answer", json=ASKED, headers=bearer(ALICE)))
            for _ in range(2)
        ]
        await until(lambda: len(backend.prompts) == 2)
        reply = await client.post("/v1/search", json={"query": "A?"}, headers=bearer(ALICE))
        assert "2 places of this API key" in refusal_of_rate(reply)
        assert int(reply.headers["retry-after"]) >= 1
        reply = await client.post("/v1/answer", json={"question": "Now?"}, headers=bearer(BOB))
        assert reply.status_code == 200
        for task in held:
            task.cancel()
        await asyncio.wait(held)


def refusal_of_rate(reply: Any) -> str:
    return refusal(reply, 429, "share")


async def test_a_batch_of_one_key_stays_within_its_share() -> None:
    service = service_over(ScriptedBackend(), places=8)
    body = {"questions": ["A?"] * 6}
    async with client_of(api_over(service, keys(max_share=0.25))) as client:
        reply = await client.post("/v1/answers", json=body, headers=bearer(ALICE))
    assert [one["answer"] for one in reply.json()["answers"]] == ["Delft"] * 6


async def test_each_question_of_a_batch_counts_in_the_rate() -> None:
    api = api_over(service_over(ScriptedBackend()), keys(requests_per_minute=5))
    async with client_of(api) as client:

        async def ask(questions: int) -> Any:
            body = {"questions": ["A?"] * questions}
            return await client.post("/v1/answers", json=body, headers=bearer(ALICE))

        said = refusal(await ask(7), 422, "too_large", "questions")  # never, however long it waits
        assert said == "questions: more than the 5 requests a minute of this API key"
        assert (await ask(3)).status_code == 200
        assert refusal(await ask(2), 429, "rate").startswith("over 5 requests a minute")


async def test_a_body_that_does_not_come_frees_its_place() -> None:
    service = service_over(ScriptedBackend(), places=2, body_timeout_s=0.2)

    async def never() -> AsyncIterator[bytes]:
        yield b'{"question": '
        await asyncio.Event().wait()

    async with client_of(api_over(service)) as client:
        slow = [asyncio.create_task(client.post("/v1/answer", content=never())) for _ in range(2)]
        await until(lambda: service.admission.taken == 2)
        refusal(await client.post("/v1/search", json={"query": "A?"}), 503, "overloaded")
        assert (await client.get("/healthz")).status_code == 200
        for reply in slow:
            said = refusal(await reply, 408, "body_timeout")
            assert said == "the body did not come within this server's 0.2 seconds"
        assert service.admission.taken == 0
        assert (await client.post("/v1/answer", json=ASKED)).status_code == 200


async def test_an_answer_may_take_longer_than_a_body() -> None:
    steps = [[0.15, " So the answer is: X."]]
    service = service_over(ScriptedBackend(steps), body_timeout_s=0.05)
    async with client_of(api_over(service)) as client:
        assert (await client.post("/v1/answer", json=ASKED)).json()["answer"] == "X"


async def test_a_place_is_given_before_the_body_is_read(tmp_path: Path) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b"{}"

    async with client_of(api_over(service_over(ScriptedBackend(), places=0))) as client:
        refusal(await client.post("/v1/answer", content=body()), 503, "overloaded")
    assert read == 0
