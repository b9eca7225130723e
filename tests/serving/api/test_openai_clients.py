"""What clients of OpenAI's interface send beside the plain request, and what they get for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import pytest

from steper_ray.errors import ModelRefusedError
from steper_ray.serving.api.openai_plain import handed_on
from steper_ray.serving.api.task_prompts import is_task_prompt
from steper_ray.serving.plain_model import PlainRequest, plain_request
from tests.serving.api.test_openai_chat import HI, chunk, openai_at
from tests.serving.asking import CHAT, ask, refusal
from tests.serving.backend import FastLoop, ScriptedBackend, service_over

pytestmark = pytest.mark.anyio

REPLY: Final = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "student",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
}
TOOL: Final = {"type": "function", "function": {"name": "f", "parameters": {}}}
CALL: Final = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
IGNORED: Final = "x-ignored-parameters"


# conversations


@pytest.mark.parametrize("model", ["student", "student-rag"])
async def test_a_conversation_goes_on_with_what_was_returned(model: str) -> None:
    backend = ScriptedBackend(chatting=[json.dumps(REPLY)])
    async with openai_at(service_over(backend)) as client:
        first = await client.chat.completions.create(model=model, messages=HI)
        said = first.choices[0].message
        messages: Any = [
            {"role": "developer", "content": "Be short."},
            *HI,
            said,  # the client sends all of its fields, nulls included
            {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
            {"role": "tool", "tool_call_id": "1", "content": "3"},
            {"role": "user", "content": "Who lives where?"},
        ]
        again = await client.chat.completions.create(model=model, messages=messages)
    assert again.choices[0].message.content == said.content
    if model == "student-rag":
        assert backend.searches[0] == backend.searches[2] == ("Who lives where?", 2)
        return
    # vLLM takes no nulls but for the content of a call
    handed = backend.chats[-1]["messages"]
    assert handed[2] == {"role": "assistant", "content": "Hi"}
    assert handed[3] == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert [message["role"] for message in handed] == [
        *("developer", "user", "assistant", "assistant", "tool", "user")
    ]


async def test_what_the_loop_does_not_follow_is_ignored_and_named() -> None:
    more: Any = {
        "logprobs": False,
        "tools": [TOOL],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "stream_options": {"include_usage": True},  # without a stream
        "new parameter\n": 1,
        "metadata": None,
        "n": 1,
        "user": "me",
    }
    reply = await ask(
        service_over(ScriptedBackend()),
        {**CHAT, "model": "student-rag", **more},
        "/v1/chat/completions",
    )
    assert reply.status_code == 200
    names = reply.json()["steper"]["ignored"]
    assert sorted(names) == [
        *("logprobs", "new parameter\n", "response_format"),
        *("stream_options", "tool_choice", "tools"),
    ]
    told = reply.headers[IGNORED].split(", ")
    assert sorted(told) == sorted(name.replace(" ", "_").replace("\n", "_") for name in names)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"tool_choice": "required", "tools": [TOOL]}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_a_form_that_the_loop_cannot_give_is_refused(more: Any, param: str) -> None:
    body = {**CHAT, "model": "student-rag", **more}
    reply = await ask(service_over(ScriptedBackend()), body, "/v1/chat/completions")
    refusal(reply, 400, "unsupported_value", param)


async def test_the_plain_model_follows_what_vllm_follows() -> None:
    followed: Any = {
        "n": 2,
        "logprobs": True,
        "top_logprobs": 3,
        "tools": [TOOL],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "seed": -(2**63),
        "stop": ["a"] * 9,
        "top_k": 5,
        "stream_options": {"include_usage": True},
        "stream": True,
    }
    not_followed = {"chat_template": "{{ x }}", "request_id": "1", "store": True, "functions": []}
    given = {"model": "student", "messages": HI, **followed, **not_followed}
    body, ignored = handed_on("chat", given)
    assert body == {"model": "student", "messages": HI, **followed}
    assert ignored == list(not_followed)


async def test_tools_need_a_parser_of_calls() -> None:
    backend = ScriptedBackend(chatting=[json.dumps(REPLY)])
    body = {**CHAT, "tools": [TOOL], "tool_choice": "auto"}
    reply = await ask(service_over(backend), body, "/v1/chat/completions")
    assert (reply.status_code, reply.headers[IGNORED]) == (200, "tools, tool_choice")
    forced = {**body, "tool_choice": {"type": "function", "function": {"name": "f"}}}
    reply = await ask(service_over(backend), forced, "/v1/chat/completions")
    refusal(reply, 400, "unsupported_value", "tool_choice")
    reply = await ask(service_over(backend, tool_parser="hermes"), body, "/v1/chat/completions")
    assert IGNORED not in reply.headers
    assert [chat.get("tools") for chat in backend.chats] == [None, [TOOL]]


def test_what_means_nothing_without_another_field_is_left_out() -> None:
    given = {
        "messages": HI,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "stream": False,
        "stream_options": {"include_usage": True},
        "logprobs": False,
        "top_logprobs": 0,
    }
    body, ignored = handed_on("chat", given)
    assert body == {"messages": HI, "stream": False, "logprobs": False}
    assert sorted(ignored) == [
        *("parallel_tool_calls", "stream_options", "tool_choice", "tools", "top_logprobs")
    ]


async def test_choices_and_prompts_are_limited_like_a_batch() -> None:
    service = service_over(ScriptedBackend(), max_batch=4)
    reply = await ask(service, {**CHAT, "n": 5}, "/v1/chat/completions")
    refusal(reply, 400, "too_large", "n")
    many = {"model": "student", "prompt": ["a"] * 5}
    refusal(await ask(service, many, "/v1/completions"), 400, "too_large", "n")
    tokens = {"model": "student", "prompt": [1] * 5}
    assert (await ask(service, tokens, "/v1/completions")).status_code == 200


# errors


async def test_a_prompt_that_is_too_long_is_told_as_openai_tells_it() -> None:
    import openai

    message = "This model's maximum context length is 512 tokens."
    refused = ModelRefusedError(message, 400, "messages", too_long=True)
    async with openai_at(service_over(ScriptedBackend(chatting=[refused]))) as client:
        with pytest.raises(openai.BadRequestError) as told:
            await client.chat.completions.create(model="student", messages=HI)
        assert (told.value.code, told.value.param) == ("context_length_exceeded", "messages")
        with pytest.raises(openai.BadRequestError) as told:
            await client.chat.completions.create(model="student", messages=HI, stream=True)
        assert told.value.code == "context_length_exceeded"
    async with openai_at(service_over(ScriptedBackend(), max_question_chars=5)) as client:
        with pytest.raises(openai.BadRequestError) as told:
            await client.chat.completions.create(model="student-rag", messages=HI)
        assert told.value.code == "context_length_exceeded"
        assert "is longer than the model's context length" in told.value.message  # for LiteLLM
    # the plain model's limit is its context, which vLLM checks
    service = service_over(ScriptedBackend(), max_question_chars=1)
    assert (await ask(service, CHAT, "/v1/chat/completions")).status_code == 200


async def test_what_vllm_refuses_is_refused_with_its_parameter() -> None:
    for refused, status, code in (
        (ModelRefusedError("no", 400, "tools"), 400, "invalid_value"),
        (ModelRefusedError("no", 404, "tools"), 404, "invalid_value"),
        (ModelRefusedError("no", 500, "tools"), 500, "internal"),
    ):
        service = service_over(ScriptedBackend(chatting=[refused]))
        reply = await ask(service, CHAT, "/v1/chat/completions")
        assert refusal(reply, status, code, "tools") == "no"


# streams


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", CHAT),
        ("chat/completions", {**CHAT, "model": "student-rag"}),
        ("completions", {"model": "student", "prompt": "a"}),
        ("responses", {"model": "student-rag", "input": "Who?"}),
    ],
)
def test_every_silent_stream_gives_signs_of_life(path: str, body: Any) -> None:
    async def run() -> str:
        backend = ScriptedBackend([[40.0, " So the answer is: X."]], chatting=[40.0, "data: 1\n\n"])
        reply = await ask(service_over(backend), {**body, "stream": True}, f"/v1/{path}")
        assert reply.status_code == 200
        return reply.text

    with asyncio.Runner(loop_factory=FastLoop) as runner:
        text = runner.run(run())
    assert text.count(": waiting\n\n") == 2


# other interfaces


async def test_models_say_how_long_a_prompt_may_be() -> None:
    async with openai_at(service_over(ScriptedBackend())) as client:
        for model in (await client.models.list()).data:
            assert model.model_extra == {"max_model_len": 512}


@pytest.mark.parametrize("model", ["student", "student-rag"])
async def test_completions_and_tokens_are_the_plain_model_s(model: str) -> None:
    backend = ScriptedBackend(chatting=['{"count": 1}'])
    service = service_over(backend)
    for path, body in (
        ("/v1/completions", {"model": model, "prompt": "Ada", "max_tokens": 3, "suffix": "x"}),
        ("/tokenize", {"model": model, "prompt": "Ada"}),
    ):
        reply = await ask(service, body, path)
        if model == "student-rag":
            refusal(reply, 400, "unsupported_model", "model")
        else:
            assert (reply.status_code, reply.json()) == (200, {"count": 1})
    if model == "student":
        assert backend.chat_kinds == ["completions", "tokenize"]
        assert backend.chats[0] == {
            "model": "student",
            "prompt": "Ada",
            "stream": False,
            "max_tokens": 3,
        }
        refusal(await ask(service, {}, "/tokenize"), 400, "invalid_value", "prompt")


async def test_the_loop_answers_responses_too() -> None:
    backend = ScriptedBackend()
    items: Any = [
        {"role": "user", "content": "Who is Ada?"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Who lives where?"}]},
    ]
    async with openai_at(service_over(backend)) as client:
        whole = await client.responses.create(model="student-rag", input=items, instructions="Hm.")
        assert whole.output_text == "Delft"
        assert whole.status == "completed"
        assert whole.usage is not None
        assert (whole.usage.input_tokens, whole.usage.output_tokens) == (30, 5)
        extension = (whole.model_extra or {})["steper"]
        assert extension["ignored"] == ["instructions", "earlier messages"]
        events = [
            event
            async for event in await client.responses.create(
                model="student-rag", input="Who lives where?", stream=True
            )
        ]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        kinds = [event.type.removeprefix("response.") for event in events]
        assert kinds[0] == "created"
        assert kinds[-1] == "completed"
        # clients put a response together from its events: what is added to must have begun
        for kind, begun in (("reasoning_text.delta", 1), ("output_text.delta", 2)):
            assert kinds[: kinds.index(kind)].count("content_part.added") == begun
        thought = [e.delta for e in events if e.type == "response.reasoning_text.delta"]
        assert "".join(thought) == " Ada knows Bob.\n Bob lives in Delft. So the answer is: Delft."
        assert [e.delta for e in events if e.type == "response.output_text.delta"] == ["Delft"]
        # what was returned is sent back
        again = await client.responses.create(
            model="student-rag",
            input=[*whole.output, {"role": "user", "content": "Who lives where?"}],  # type: ignore[list-item]
        )
    assert again.output_text == "Delft"
    assert {query for query, _ in backend.searches} == {"Who lives where?", "Ada knows Bob."}


async def test_responses_of_the_plain_model_are_vllm_s() -> None:
    backend = ScriptedBackend(chatting=["event: x\ndata: {}\n\n"])
    body = {"model": "student", "input": "Hi", "stream": True, "store": True, "background": False}
    reply = await ask(service_over(backend), body, "/v1/responses")
    assert reply.text == "event: x\ndata: {}\n\n"
    assert backend.chat_kinds == ["responses"]
    assert backend.chats == [{"model": "student", "input": "Hi", "stream": True}]
    assert reply.headers[IGNORED] == "store, background"


def test_the_router_is_given_the_texts_of_a_prompt() -> None:
    for body, texts in (
        ({"messages": HI}, HI),
        ({"prompt": "a"}, ["a"]),
        ({"prompt": ["a", "b"]}, ["a", "b"]),
        ({"input": "a"}, ["a"]),
    ):
        assert plain_request("chat", body) == PlainRequest("chat", body, list(texts))


# prompts of chat interfaces

TASKS: Final = (
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.",
    "### Task:\nSuggest 3-5 relevant follow-up questions or prompts that the user might ask",
    "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history",
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions.",
    "Please generate a concise, 5-word-or-less title for the conversation, using its language",
    "Analyze this conversation and provide:\n1. The detected language of the conversation\n2. A",
)
QUESTIONS: Final = (
    "### Task:\nRespond to the user query using the provided context, incorporating citations",
    "Who wrote the song with a concise title?",
    "Which task did Hercules suggest?",
)


@pytest.mark.parametrize("prompt", TASKS)
async def test_a_prompt_of_a_chat_interface_does_not_run_the_loop(prompt: str) -> None:
    assert is_task_prompt(prompt)
    backend = ScriptedBackend(chatting=[json.dumps(REPLY)])
    service = service_over(backend, max_question_chars=20)
    messages = [{"role": "user", "content": prompt}]
    chat = {"model": "student-rag", "messages": messages}
    assert (await ask(service, chat, "/v1/chat/completions")).status_code == 200
    body = {"model": "student-rag", "input": prompt}
    assert (await ask(service, body, "/v1/responses")).status_code == 200
    assert [body["model"] for body in backend.chats] == ["student"] * 2
    assert backend.searches == []


@pytest.mark.parametrize("prompt", QUESTIONS)
def test_a_question_is_no_prompt_of_a_chat_interface(prompt: str) -> None:
    assert not is_task_prompt(prompt)


async def test_a_chunk_of_the_plain_model_is_handed_on_as_it_comes() -> None:
    backend = ScriptedBackend(chatting=[chunk(content="Hi"), "data: [DONE]\n\n"])
    reply = await ask(service_over(backend), {**CHAT, "stream": True}, "/v1/chat/completions")
    assert reply.text == chunk(content="Hi") + "data: [DONE]\n\n"
