"""The endpoint engine against a real HTTP server that answers as it is told to."""

import asyncio
import socket
import threading
import time
from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from steper_ray.engines.endpoint import NEXT_LINE, EndpointEngine
from steper_ray.engines.settings import EndpointConfig
from steper_ray.errors import InputError, RowError
from steper_ray.reasoning.frameworks.protocol import Prompt
from tests.engines.endpoint_server import Reply, Server, ask, chat, completion, refused


def test_a_completion_continues_the_prompt_and_carries_its_confidence(server):
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [-0.5, -1.0], "top_logprobs": None}
    server.replies = [completion(" Rome.", logprobs=logprobs)]
    (done,) = ask(server, "Question: ?\nStep 1:")
    assert (done.text, done.prompt_tokens, done.generated_tokens) == (" Rome.", 7, 3)
    assert done.logprob_sum == pytest.approx(-1.5)
    ((path, body, key),) = server.requests
    assert path == "/v1/completions"
    assert key == "Bearer sesame"
    assert body["prompt"] == "Question: ?\nStep 1:"
    assert (body["stop"], body["temperature"], body["max_tokens"]) == (["\n"], 0.0, 20)


def test_a_chat_is_asked_for_the_next_line_and_may_repeat_its_beginning(server):
    server.replies = [chat("Step 2: He was born in Rome.")]
    (done,) = ask(server, "Question: ?\nStep 1: x\nStep 2:", api="chat")
    assert done.text == " He was born in Rome."
    assert done.logprob_sum is None
    path, body, _ = server.requests[0]
    assert path == "/v1/chat/completions"
    assert body["messages"] == [
        {"role": "user", "content": NEXT_LINE + "Question: ?\nStep 1: x\nStep 2:"}
    ]


def test_an_endpoint_without_log_probabilities_is_asked_without(server):
    def answer(body: dict[str, Any]) -> Reply:
        return refused(400, "logprobs is not supported") if "logprobs" in body else completion(" x")

    server.replies = [answer]
    done = ask(server, "a", "b")
    assert [(d.text, d.logprob_sum) for d in done] == [(" x", None)] * 2


def test_429_500_and_broken_json_are_tried_again(server):
    server.replies = [
        refused(429, **{"Retry-After": "0.1"}),
        refused(500, **{"Retry-After": "0.1"}),
        (200, {}, '{"choices": [{"te'),
        (200, {}, '{"choices": []}'),
        completion(" at last"),
    ]
    (done,) = ask(server, "a")
    assert done.text == " at last"
    assert len(server.requests) == 5


def test_what_keeps_failing_is_the_failure_of_its_question(server):
    server.replies = [refused(500, "out of order", **{"Retry-After": "0.01"})]
    (error,) = ask(server, "a", max_retries=2)
    assert isinstance(error, RowError)
    assert "out of order" in str(error)
    assert len(server.requests) == 3
    server.replies = [(200, {}, "<html>hello</html>")]
    (error,) = ask(server, "a", max_retries=1)
    assert isinstance(error, RowError)
    assert "not those of an OpenAI endpoint (not JSON: Expecting value" in str(error)


@pytest.mark.parametrize("status", [400, 403, 422])
def test_log_probabilities_are_refused_without_a_retry(server: Server, status: int) -> None:
    def answer(asked: dict[str, Any]) -> Reply:
        if "logprobs" in asked:
            return refused(status, "You are not allowed to request logprobs from this model")
        return completion(" x")

    server.replies = [answer]
    assert ask(server, "a", max_retries=0)[0].text == " x"


def test_a_message_of_the_endpoint_can_be_stored(server: Server) -> None:
    server.replies = [refused(400, "too long: \ud83d")]
    (error,) = ask(server, "a")
    assert isinstance(error, RowError)
    assert "too long: ?" in str(error)


def test_a_prompt_with_half_a_character_is_an_error_of_its_question(server: Server) -> None:
    server.replies = [completion(" x")]
    for api in ("completions", "chat"):
        (error,) = ask(server, "Who is \ud83d?", api=api)
        assert isinstance(error, RowError)
        assert "half a character in the prompt" in str(error)


def test_an_endpoint_that_hangs_is_left_in_time(server):
    hung = threading.Event()

    def hang(_: dict[str, Any]) -> Reply:
        hung.wait()
        return completion("too late")

    server.replies = [hang]
    (error,) = ask(server, "a", max_retries=0, timeout_seconds=0.5)
    hung.set()  # not before the client has left
    assert isinstance(error, RowError)
    assert "no answer within 0.5 s; raise timeout_seconds" in str(error)


def test_an_endpoint_that_is_not_there_is_said_with_the_cause(server):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        server.url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        (error,) = ask(server, "a", max_retries=0)
    assert isinstance(error, RowError)
    assert str(error) == (
        f"{server.url}: cannot be reached (All connection attempts failed); check base_url, and that the "
        "endpoint runs"
    )


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "refuses the key in OPENAI_API_KEY"),
        (403, "refuses the key"),
        (404, "does not know 'm'"),
    ],
)
def test_a_wrong_key_or_name_stops_at_once_and_the_key_is_not_said(server, status, said):
    server.replies = [refused(status, "key sesame is wrong")]
    (error,) = ask(server, "a")
    assert isinstance(error, InputError)
    assert said in str(error)
    assert "sesame" not in str(error)
    assert len(server.requests) == 1


def test_no_key_is_noticed_before_anything_is_asked(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="OPENAI_API_KEY is not set"):
        ask(server, "a")


def test_no_more_requests_at_a_time_and_a_minute_than_allowed(server):
    def slow(_: dict[str, Any]) -> Reply:
        time.sleep(0.05)
        return completion("x")

    server.replies = [slow]
    ask(server, *"abcdefgh", concurrency=3)
    assert server.most_at_once == 3
    started = time.monotonic()
    ask(server, *"abcd", requests_per_minute=300)  # one every 0.2 s, the first at once
    assert time.monotonic() - started > 0.6


def test_tokens_are_counted_with_room_to_spare_where_no_tokenizer_is_named(server):
    async def count() -> int:
        return EndpointEngine("m", EndpointConfig(base_url=server.url)).count_tokens(
            Prompt("x" * 300, "")
        )

    assert asyncio.run(count()) == 101


def sent(server: Server, **settings: Any) -> dict[str, Any]:
    """The one request that the engine makes with these settings, without model, prompt and logprobs."""
    server.replies, server.requests = [chat("x")], []
    ask(server, "a", api="chat", **settings)
    ((_, request, _),) = server.requests
    return {k: v for k, v in request.items() if k not in ("model", "messages", "logprobs")}


def test_what_a_request_says_is_set(server: Server) -> None:
    assert sent(server) == {"max_tokens": 20, "stop": ["\n"], "temperature": 0.0}
    reasoning_model = {
        "limit_parameter": "max_completion_tokens",
        "max_reasoning_tokens": 1000,
        "send_stop": False,
        "send_sampling": False,
        "extra_body": {"reasoning_effort": "low", "provider": {"order": ["a"]}},
    }
    assert sent(server, **reasoning_model) == {
        "max_completion_tokens": 1020,
        "reasoning_effort": "low",
        "provider": {"order": ["a"]},
    }


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"limit_parameter": "max_completion_tokens"},
            "completions take max_tokens; set api: chat",
        ),
        ({"limit_parameter": "max"}, "Input should be"),
        ({"max_reasoning_tokens": -1}, "greater than or equal to 0"),
        ({"extra_body": {"stop": ["x"]}}, "stop is no extra parameter; set send_stop"),
        ({"extra_body": {"temperature": 1}}, "temperature is no extra parameter; set temperature"),
        ({"extra_body": {"a": date(2026, 1, 1)}}, r"cannot be sent as JSON \(Object of type date"),
        ({"extra_body": {"a": [float("nan")]}}, r"cannot be sent as JSON \(Out of range float"),
    ],
)
def test_settings_that_no_request_can_follow_are_refused(
    settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        EndpointConfig.model_validate({"base_url": "http://h/v1", **settings})
