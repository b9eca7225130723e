"""Replies as the endpoint engine reads them: broken, refused, empty, with a thought. The HTTP is real."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pytest

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.asking import ask as ask_chain
from steper_ray.chains.attempts import MissingAttempts, missing_attempts
from steper_ray.chains.teachers import Reasoner
from steper_ray.engines.endpoint import NEXT_LINE, EndpointEngine
from steper_ray.engines.settings import EndpointConfig, EngineConfig
from steper_ray.errors import RowError
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.reasoning.thinking import generate_step
from steper_ray.retrieval.protocol import Hit
from steper_ray.schema import Chain, Passage, Question
from tests.engines.endpoint_server import Reply, Server, ask, body, chat, completion, refused


def token_logprobs(*values: Any) -> dict[str, Any]:
    return {"logprobs": {"tokens": ["a"], "token_logprobs": list(values)}}


BROKEN: list[tuple[Reply, str]] = [
    ((200, {}, ""), "not JSON"),
    ((200, {}, '{"choices": [{"te'), "not JSON"),
    ((200, {}, "[" * 100_000), "not JSON"),
    ((200, {}, "null"), "the whole: Input should be"),
    ((200, {}, "[]"), "the whole: Input should be"),
    ((200, {}, '"no"'), "the whole: Input should be"),
    (body(choices=[]), "choices: List should have at least 1 item"),
    (body(choices=None), "choices: Input should be a valid list"),
    (body(choices=[None]), "choices.0: Input should be"),
    (body(choices=[{}]), "choices.0.text: Field required"),
    (body(error={"message": "try\nlater"}, choices=None), "{'message': 'try\\nlater'}"),
    (body(usage={"completion_tokens": -1}), "usage.completion_tokens: Input should be greater"),
    (body(usage={"prompt_tokens": 2**31}), "usage.prompt_tokens: Input should be less"),
    (completion(None), "choices.0.text: null"),
    (completion(7), "choices.0.text: Input should be a valid string"),
    (completion(" x", finish_reason="abort"), "the request was given up (abort)"),
    (completion(" x", **token_logprobs(-0.5, float("nan"))), "a log-probability is nan"),
    (completion(" x", **token_logprobs(float("inf"))), "a log-probability is inf"),
]


@pytest.mark.parametrize(("reply", "reason"), BROKEN)
def test_a_broken_reply_is_asked_for_again_and_then_an_error_of_its_question(
    server: Server, reply: Reply, reason: str
) -> None:
    server.replies = [reply]
    (error,) = ask(server, "a", max_retries=0)
    assert isinstance(error, RowError)
    assert reason in str(error)
    assert str(error).startswith(f"{server.url}: its answers are not those of an OpenAI endpoint (")
    assert str(error).isprintable()
    server.replies, server.requests = [reply, completion(" better")], []
    (done,) = ask(server, "a", max_retries=1)
    assert done.text == " better"
    assert len(server.requests) == 2


class Towns:
    """A retriever that finds one passage, always."""

    version = "v1"

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(Passage("p1", "Towns", "Rome is one."), 1.0)] for _ in queries]


def test_what_is_no_step_is_a_chain_with_an_error_that_the_next_build_asks_again(
    server: Server,
) -> None:
    replies = [reply for reply, _ in BROKEN] + [reply for reply, api, _ in FINAL if api != "chat"]
    replies += [completion(""), refused(400, "no: \ud83d"), refused(500, "out of order")]
    server.replies = list(replies)
    config = EndpointConfig(base_url=server.url, max_retries=0)
    reasoner = Reasoner("m", ReasoningConfig(), EngineConfig(), config)
    questions = [Question(f"q{number:02d}", "Where?", "Rome") for number in range(len(replies))]

    async def build() -> list[Chain]:
        engine, chains = EndpointEngine("m", config), []
        for question in questions:
            chains += await ask_chain(
                MissingAttempts(question), reasoner=reasoner, engine=engine, retriever=Towns()
            )
        return chains

    chains = asyncio.run(build())
    assert len(chains) == len(server.requests) == len(replies)
    table = pa.Table.from_pylist([asdict(chain) for chain in chains], CHAIN_SCHEMA)
    assert all(table["error"].to_pylist())
    missing = missing_attempts(
        reasoner, questions, {chain.id: None for chain in chains}, lambda _: []
    )
    assert [attempt.question for attempt in missing] == questions


FINAL: list[tuple[Reply, str, str]] = [
    (completion("\ud83d"), "completions", "half a character in the text ('\\ud83d')"),
    (completion(" x\udc00y"), "completions", "half a character in the text"),
    (completion("It is", finish_reason="content_filter"), "completions", "a filter held the text"),
    (completion(None, finish_reason="content_filter"), "completions", "a filter held the text"),
    (chat(None, finish_reason="content_filter"), "chat", "a filter held the text back"),
    (chat(None, refusal="I can't."), "chat", "the model refuses: I can't."),
    (chat("", refusal="I\ud83d"), "chat", "the model refuses: I?"),
    (chat([{"type": "refusal", "refusal": "No."}]), "chat", "the model refuses: No."),
]


@pytest.mark.parametrize(("reply", "api", "reason"), FINAL)
def test_a_refusal_is_an_error_of_its_question_at_once(
    server: Server, reply: Reply, api: str, reason: str
) -> None:
    server.replies = [reply]
    (error,) = ask(server, "a", api=api, max_retries=3)
    assert isinstance(error, RowError)
    assert str(error).startswith(f"{server.url}: {reason}")
    assert len(server.requests) == 1
    str(error).encode()


def prompt_of(request: dict[str, Any]) -> str:
    return str(request.get("prompt") or request["messages"][0]["content"])


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("text", ["", " \n "])
def test_an_empty_reply_is_asked_for_once_more_after_a_line_break(
    server: Server, api: str, text: str
) -> None:
    say: Callable[[Any], Reply] = completion if api == "completions" else chat
    server.replies = [say(text), say(" Rome.")]
    (done,) = ask(server, "Step 1:", api=api)
    assert done.text == " Rome."
    begun = "" if api == "completions" else NEXT_LINE
    assert [prompt_of(request) for _, request, _ in server.requests] == [
        f"{begun}Step 1:",
        f"{begun}Step 1:\n",
    ]
    server.replies, server.requests = [say(text)], []
    (error,) = ask(server, "Step 1:", api=api)
    assert isinstance(error, RowError)
    assert str(error) == f"{server.url}: an empty reply"
    assert len(server.requests) == 2


def test_a_thought_may_end_at_once(server: Server) -> None:
    server.replies = [completion("")]

    async def go_on() -> Any:
        engine = EndpointEngine("m", EndpointConfig(base_url=server.url))
        return await engine.generate(Prompt("<think>a", ""), stop=("</think>",), max_tokens=9)

    assert asyncio.run(go_on()).text == ""
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "He was "}, {"type": "text", "text": "born in Rome."}],
        ["He was ", {"type": "output_text", "text": "born in Rome.", "annotations": []}],
        [{"type": "image_url", "image_url": {}}, {"text": "He was born in Rome."}],
    ],
)
def test_a_list_of_text_parts_is_their_text(server: Server, content: Any) -> None:
    server.replies = [chat(content, refusal="", tool_calls=[], usage={})]
    (done,) = ask(server, "a", api="chat")
    assert done.text == "He was born in Rome."


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, {"total_tokens": 3}])
def test_tokens_that_the_endpoint_does_not_count_are_counted_here(
    server: Server, usage: Any
) -> None:
    server.replies = [body(usage=usage)]
    (done,) = ask(server, "abcdef")
    assert (done.prompt_tokens, done.generated_tokens, done.cached_tokens) == (3, 1, None)
    server.replies = [body(usage={"prompt_tokens_details": {"cached_tokens": 4}})]
    assert ask(server, "abcdef")[0].cached_tokens == 4


def test_the_mean_log_probability_is_over_the_tokens_that_have_one(server: Server) -> None:
    # the endpoint counts 3 tokens, of which it gives the log-probabilities of two
    server.replies = [completion(" x", **token_logprobs(None, -0.5, -1.0))]
    (done,) = ask(server, "a")
    assert (done.generated_tokens, done.logprob_tokens) == (3, 2)
    assert done.mean_logprob == pytest.approx(-0.75)
    server.replies = [completion(" x", **token_logprobs(-1.0, float("-inf")))]
    assert ask(server, "a")[0].mean_logprob == pytest.approx((-1.0 - 9999.0) / 2)
    nothings: tuple[Any, ...] = (None, {}, [], {"token_logprobs": None}, {"token_logprobs": []})
    for nothing in nothings:
        server.replies = [completion(" x", logprobs=nothing)]
        assert ask(server, "a")[0].mean_logprob is None


def test_why_the_endpoint_stopped_is_carried(server: Server) -> None:
    for word, reason in (("stop", "stop"), ("length", "length"), (None, None), ("odd", "other")):
        server.replies = [completion(" x", finish_reason=word)]
        assert ask(server, "a")[0].finish_reason == reason
        server.replies = [chat("x", finish_reason=word)]
        assert ask(server, "a", api="chat")[0].finish_reason == reason


def test_without_stop_texts_the_reply_is_cut_here(server: Server) -> None:
    text = "\n\n Step 1: He was born in Rome.\nStep 2: So on"
    for api, say in (("completions", completion), ("chat", chat)):
        server.replies = [say(text, finish_reason="length")]
        (done,) = ask(server, "Step 1:", api=api, send_stop=False)
        assert done.text.strip().removeprefix("Step 1: ") == "He was born in Rome."
        assert done.finish_reason == "stop"
        server.replies = [say("He was born", finish_reason="length")]
        assert ask(server, "a", api=api, send_stop=False)[0].finish_reason == "length"
    server.replies = [completion(" One.\nTwo.")]  # of an endpoint that ignores stop texts
    assert ask(server, "a")[0].text == " One."


@pytest.mark.parametrize(
    ("message", "thought"),
    [
        ({"reasoning_content": "Let me\nsee."}, "Let me\nsee."),
        ({"reasoning": "Let me\nsee."}, "Let me\nsee."),
        ({"reasoning_content": "", "reasoning": {"effort": "low"}}, None),
        ({"content": "<think>Let me\nsee.</think>\n\n He was born.\nx"}, "Let me\nsee."),
        ({"content": "Let me\nsee.\n</think>\n\nStep 1: He was born.\nx"}, "Let me\nsee."),
        ({"content": "<think>\n\n</think>\n\nStep 1: He was born.\nx"}, None),
        ({"content": " He <think>Let me\nsee.</think>was born.\nx"}, "Let me\nsee."),
        ({"content": " He was born. <think>Let me\nsee."}, "Let me\nsee."),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "Let me\nsee."}]},
                    {"type": "text", "text": " He was born.\nx"},
                ]
            },
            "Let me\nsee.",
        ),
        (
            {"content": "<think>see.</think> He was born.", "reasoning_content": "Let me"},
            "Let me\nsee.",
        ),
    ],
)
def test_a_thought_is_kept_apart_without_a_further_request(
    server: Server, message: dict[str, Any], thought: str | None
) -> None:
    server.replies = [chat(**{"text": " He was born.\nx", **_as_text(message)})]

    async def work() -> Any:
        config = EndpointConfig(base_url=server.url, api="chat", send_stop=False)
        engine = EndpointEngine("m", config)
        return await generate_step(engine, Prompt("Step 1:", ""), stop=("\n",), max_tokens=9)

    done = asyncio.run(work())
    assert (done.text.strip(), done.thought) == ("He was born.", thought)
    assert len(server.requests) == 1


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its content under the name that `chat` gives it."""
    return {"text" if name == "content" else name: value for name, value in message.items()}


@pytest.mark.parametrize(
    ("reply", "settings", "reason"),
    [
        (
            chat(None, finish_reason="length", reasoning_content="Let me"),
            {"send_stop": False},
            "a thought took all its tokens; raise max_reasoning_tokens",
        ),
        (chat("", finish_reason="length"), {}, "all its tokens; raise max_reasoning_tokens"),
        (
            chat("<think>Let me", finish_reason="length"),
            {"send_stop": False},
            "a thought took all its tokens; raise max_reasoning_tokens",
        ),
        (chat(None, reasoning_content="Let me"), {}, "ended its thought; set send_stop: false"),
        (chat("<think>"), {}, "ended its thought; set send_stop: false"),
        (chat("<think>a</think>"), {"send_stop": False}, "an empty reply"),
    ],
)
def test_a_chat_that_is_only_a_thought_says_what_to_set(
    server: Server, reply: Reply, settings: dict[str, Any], reason: str
) -> None:
    server.replies = [reply]
    (error,) = ask(server, "a", api="chat", **settings)
    assert isinstance(error, RowError)
    assert str(error).endswith(reason)
    assert "an empty reply" in str(error)
    assert len(server.requests) == 1


def test_a_completion_goes_on_after_its_thought(server: Server) -> None:
    """As an engine of our own; what it writes after the end of its thought is cut if it does not stop."""
    server.replies = [completion("<think>"), completion("Hm.</think>x"), completion(" One.")]

    async def work() -> Any:
        engine = EndpointEngine("m", EndpointConfig(base_url=server.url))
        return await generate_step(engine, Prompt("Step 1:", ""), stop=("\n",), max_tokens=9)

    done = asyncio.run(work())
    assert (done.text, done.thought) == (" One.", "Hm.")
    assert [prompt_of(request) for _, request, _ in server.requests] == [
        "Step 1:",
        "Step 1:<think>\n",
        "Step 1:<think>\nHm.</think>\n\n",
    ]
    assert [request["stop"] for _, request, _ in server.requests] == [
        *(["\n"], ["</think>"], ["\n"])
    ]
