"""OpenAI's interface, asked by OpenAI's own client over loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from steper_ray.engines.protocol import Sampling
from steper_ray.errors import ReplicaLostError, RowError
from steper_ray.serving.answering import AnswerService
from tests.serving.backend import (
    HANG,
    TWO_STEPS,
    ScriptedBackend,
    api_over,
    client_of,
    on_loopback,
    service_over,
    until,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletionMessageParam

pytestmark = pytest.mark.anyio

HI: Final[list[ChatCompletionMessageParam]] = [{"role": "user", "content": "Who lives where?"}]
LOST: Final = ReplicaLostError("the replica that wrote the answer was lost")


@asynccontextmanager
async def openai_at(service: AnswerService) -> AsyncIterator[AsyncOpenAI]:
    """The client of a new server; afterwards its places are free."""
    from openai import AsyncOpenAI

    async with (
        on_loopback(api_over(service)) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client
        await until(lambda: service.admission.taken == 0)


def chunk(**delta: str) -> str:
    """A chunk of the plain model's stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "student"}
    return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"


async def test_two_models_are_listed() -> None:
    import openai

    async with openai_at(service_over(ScriptedBackend())) as client:
        assert [model.id async for model in client.models.list()] == ["student", "student-rag"]
        model = await client.models.retrieve("student-rag")
        assert (model.id, model.object, model.owned_by) == ("student-rag", "model", "steper_ray")
        with pytest.raises(openai.NotFoundError, match=r"none is called 'gpt-4'; GET /v1/models"):
            await client.models.retrieve("gpt-4")
        with pytest.raises(openai.NotFoundError) as told:
            await client.chat.completions.create(model="gpt-4", messages=HI)
        assert told.value.code == "model_not_found"


# the whole loop


async def test_the_loop_answers_the_last_user_message() -> None:
    backend = ScriptedBackend()
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Who is Ada?"},
        {"role": "assistant", "content": "A friend."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": " Who lives "},
                {"type": "text", "text": "where?"},
            ],
        },
    ]
    async with openai_at(service_over(backend)) as client:
        said = await client.chat.completions.create(
            model="student-rag",
            messages=messages,
            temperature=0.5,
            top_p=0.9,
            seed=7,
            max_tokens=50,
            stop=["x"],
            user="me",
            n=1,
        )
    assert said.object == "chat.completion"
    assert said.model == "student-rag"
    (choice,) = said.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Delft")
    assert choice.finish_reason == "stop"
    assert choice.message.model_extra == {
        "reasoning_content": "Ada knows Bob.\nBob lives in Delft. So the answer is: Delft."
    }
    assert said.usage is not None
    assert said.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 30,
        "completion_tokens": 5,
        "total_tokens": 35,
        "prompt_tokens_details": {"cached_tokens": 5},
    }
    extension = (said.model_extra or {})["steper"]
    assert extension["ignored"] == ["max_tokens", "stop", "earlier messages"]
    assert extension["stop_reason"] == "answered"
    assert [p["id"] for step in extension["steps"] for p in step["passages"]] == [
        *("ada", "bob", "cy")
    ]
    assert "answer" not in extension
    assert backend.searches[0] == ("Who lives where?", 2)
    assert "Be short" not in backend.prompts[0] + backend.prompts[1]
    assert backend.samplings == [Sampling(0.5, 0.9, 7), Sampling(0.5, 0.9, 8)]


async def test_without_settings_the_loop_is_greedy_and_nothing_is_ignored() -> None:
    backend = ScriptedBackend()
    async with openai_at(service_over(backend)) as client:
        said = await client.chat.completions.create(model="student-rag", messages=HI)
    assert backend.samplings == [Sampling(0.0, 1.0, None)] * 2
    assert (said.model_extra or {})["steper"]["ignored"] == []


@pytest.mark.parametrize("usage", [True, False])
async def test_the_loop_streams_rationales_then_the_answer(usage: bool) -> None:
    import openai

    async with openai_at(service_over(ScriptedBackend())) as client:
        stream = await client.chat.completions.create(
            model="student-rag",
            messages=HI,
            stream=True,
            stream_options={"include_usage": True} if usage else openai.omit,
        )
        chunks = [one async for one in stream]
    assert len({(one.id, one.created, one.model, one.object) for one in chunks}) == 1
    last = chunks.pop() if usage else None
    deltas = [one.choices[0].delta for one in chunks]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    thoughts = [(delta.model_extra or {}).get("reasoning_content", "") for delta in deltas]
    assert thoughts == [
        *("", " Ada knows", " Bob.", "\n"),
        *(" Bob lives in Delft.", " So the answer", " is: Delft.", "", ""),
    ]
    assert [delta.content for delta in deltas] == ["", *[None] * 6, "Delft", None]
    assert [one.choices[0].finish_reason for one in chunks] == [*[None] * 8, "stop"]
    extension = (chunks[-1].model_extra or {})["steper"]
    assert (len(extension["steps"]), extension["ignored"]) == (2, [])
    if last is not None:
        assert last.choices == []
        assert last.usage is not None
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (30, 5)
    assert all(one.usage is None for one in chunks)


async def test_a_last_step_that_was_cut_off_ends_by_length() -> None:
    for finish_reasons, said in (({2: "length"}, "length"), ({1: "length"}, "stop")):
        backend = ScriptedBackend(finish_reasons=finish_reasons)  # type: ignore[arg-type]
        async with openai_at(service_over(backend)) as client:
            whole = await client.chat.completions.create(model="student-rag", messages=HI)
            assert whole.choices[0].finish_reason == said
            stream = await client.chat.completions.create(
                model="student-rag", messages=HI, stream=True
            )
            chunks = [one async for one in stream]
        assert [one.choices[0].finish_reason for one in chunks][-2:] == [None, said]


async def test_a_stream_of_the_loop_ends_as_openai_says() -> None:
    async with client_of(api_over(service_over(ScriptedBackend()))) as client:
        body = {"model": "student-rag", "messages": HI, "stream": True}
        reply = await client.post("/v1/chat/completions", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-store"
    assert reply.text.endswith("}\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize(
    "messages", [[{"role": "system", "content": "Hi"}], [{"role": "user", "content": " "}]]
)
async def test_without_a_user_message_there_is_no_question(messages: Any) -> None:
    import openai

    async with openai_at(service_over(ScriptedBackend())) as client:
        with pytest.raises(openai.BadRequestError, match="no user message") as told:
            await client.chat.completions.create(model="student-rag", messages=messages)
    assert (told.value.code, told.value.param) == ("no_question", "messages")


# how streams fail


@pytest.mark.parametrize("model", ["student", "student-rag"])
@pytest.mark.parametrize(
    ("act", "code"),
    [(LOST, "replica_lost"), (HANG, "deadline"), (RowError("no"), "prompt_refused")],
)
async def test_an_error_in_the_middle_of_a_stream_is_raised(
    model: str, act: Any, code: str
) -> None:
    import openai

    backend = ScriptedBackend(
        [TWO_STEPS[0], [" Bob", act]], chatting=[chunk(content="Bob"), act, chunk(content="!")]
    )
    async with openai_at(service_over(backend, request_timeout_s=0.4)) as client:
        stream = await client.chat.completions.create(model=model, messages=HI, stream=True)
        await anext(stream)
        with pytest.raises(openai.APIError) as told:
            [one async for one in stream]
    assert told.value.code == code


@pytest.mark.parametrize("model", ["student", "student-rag"])
async def test_closing_a_stream_cancels_the_work(model: str) -> None:
    backend = ScriptedBackend([[" Ada", HANG]], chatting=[chunk(content="Ada"), HANG])
    service = service_over(backend, places=1)
    async with openai_at(service) as client:
        for _ in range(2):
            stream = await client.chat.completions.create(model=model, messages=HI, stream=True)
            await anext(stream)
            await until(lambda: backend.at_work == 1)
            assert service.admission.taken == 1
            await stream.close()
            await until(lambda: service.admission.taken == 0)
            await until(lambda: backend.at_work == 0)


# the plain model


async def test_a_chat_with_the_plain_model_is_handed_on() -> None:
    reply = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "student",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "finish_reason": "stop",
            }
        ],
    }
    backend = ScriptedBackend(chatting=[json.dumps(reply)])
    given: Any = {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "max_tokens": 50,
        "max_completion_tokens": 60,
        "stop": ["x", "y"],
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "n": 1,
        "user": "me",
    }
    messages: Any = [{"role": "system", "content": "Be short."}, *HI]
    async with openai_at(service_over(backend)) as client:
        said = await client.chat.completions.create(model="student", messages=messages, **given)
        assert said.choices[0].message.content == "Hello"
        await client.chat.completions.create(model="student", messages=HI)
    assert backend.chats == [
        {"model": "student", "messages": messages, "stream": False, **given},
        {"model": "student", "messages": HI, "stream": False},
    ]
    assert backend.searches == []


async def test_a_stream_of_the_plain_model_is_handed_on() -> None:
    backend = ScriptedBackend(
        chatting=[chunk(content="Hel"), chunk(content="lo"), "data: [DONE]\n\n"]
    )
    async with openai_at(service_over(backend)) as client:
        stream = await client.chat.completions.create(
            model="student", messages=HI, stream=True, stream_options={"include_usage": True}
        )
        assert [one.choices[0].delta.content async for one in stream] == ["Hel", "lo"]
    assert backend.chats == [
        {
            "model": "student",
            "messages": HI,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


@pytest.mark.parametrize("model", ["student", "student-rag"])
@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"temperature": float("nan")}, "temperature", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_type"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 2**31}, "max_tokens", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"stop": ["\ud800"]}, "stop", "invalid_type"),  # half of a surrogate pair
        ({"user": "\ud800"}, "user", "invalid_value"),
        ({"new": {"a": ["\ud800"]}}, None, "invalid_value"),
        ({"new": {"a": [float("inf")]}}, None, "invalid_value"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "messages.0", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"content": "x"}]}, "messages.0", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages",
            "unsupported_value",
        ),
    ],
)
async def test_what_is_wrong_is_refused_as_openai_refuses(
    model: str, more: dict[str, Any], param: str | None, code: str
) -> None:
    backend = ScriptedBackend()
    body = json.dumps({"model": model, "messages": HI, **more})
    async with client_of(api_over(service_over(backend))) as client:
        headers = {"content-type": "application/json"}
        reply = await client.post("/v1/chat/completions", content=body, headers=headers)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert (error["param"] or "").startswith(param or "")
    assert backend.chats == backend.prompts == []
