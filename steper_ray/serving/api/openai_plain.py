"""Requests to the plain model: what of a body vLLM is given, and the routes that only the plain model has.

vLLM checks, follows and answers what it is given (`steper_ray.serving.plain_model`). It is not given what
would reach into the server (other chat templates, request ids, cache transfers), nor what other fields make
meaningless, which it would refuse.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import Field
from starlette.responses import Response

from steper_ray.serving.answering import AnswerService
from steper_ray.serving.api.events import KEEP_ALIVE, openai_failed, stream_events
from steper_ray.serving.api.openai_body import (
    OpenAIBody,
    SampledBody,
    check_text_only,
    ignored_header,
)
from steper_ray.serving.api.openai_errors import unsupported
from steper_ray.serving.api.schema import AnyText
from steper_ray.serving.happenings import KeepAlive
from steper_ray.serving.plain_model import PlainKind, plain_request
from steper_ray.serving.refusals import RefusedError

_SAMPLING: Final = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "n", "logit_bias"),
    *("frequency_penalty", "presence_penalty", "repetition_penalty", "stop_token_ids", "bad_words"),
    *("include_stop_str_in_output", "ignore_eos", "min_tokens", "skip_special_tokens"),
    *("allowed_token_ids", "structured_outputs", "response_format", "echo"),
)


FOLLOWED: Final[dict[PlainKind, frozenset[str]]] = {
    "chat": frozenset(
        {
            *("model", "messages", "stream", "stream_options", "user", *_SAMPLING),
            *("max_tokens", "max_completion_tokens", "logprobs", "top_logprobs"),
            *("tools", "tool_choice", "parallel_tool_calls", "reasoning_effort"),
            *("include_reasoning", "thinking_token_budget", "chat_template_kwargs"),
            *("add_generation_prompt", "continue_final_message"),
        }
    ),
    "completions": frozenset(
        {
            *("model", "prompt", "stream", "stream_options", "user", *_SAMPLING),
            *("max_tokens", "logprobs", "add_special_tokens"),
        }
    ),
    "tokenize": frozenset(
        {
            *("model", "prompt", "messages", "tools", "add_special_tokens", "return_token_strs"),
            *("add_generation_prompt", "continue_final_message", "chat_template_kwargs"),
        }
    ),
    "responses": frozenset(
        {
            *("model", "input", "instructions", "stream", "temperature", "top_p", "top_k", "seed"),
            *("stop", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls"),
            *("reasoning", "text", "tool_choice", "tools", "top_logprobs", "truncation", "user"),
            *("include", "presence_penalty", "frequency_penalty", "repetition_penalty"),
            *("previous_response_id", "chat_template_kwargs"),
        }
    ),
}
"""Fields of a request that vLLM is given."""


ONLY_WITH: Final = (
    ("stream_options", "stream"),
    ("top_logprobs", "logprobs"),
    ("tool_choice", "tools"),
    ("parallel_tool_calls", "tools"),
)
"""Fields that mean nothing without another one."""


class CompletionBody(SampledBody):
    """Body of POST /v1/completions."""

    prompt: AnyText | Annotated[list[Any], Field(min_length=1)]
    """A text, its tokens, or several of either."""
    n: int | None = Field(default=None, ge=1)


class TokenizeBody(OpenAIBody):
    """Body of POST /tokenize: a prompt or messages."""

    model: AnyText | None = None
    prompt: AnyText | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, fail_fast=True)] | None = None


def handed_on(kind: PlainKind, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What of a request vLLM is given, and the names of what it is not.

    given: the fields that are not null
    """
    kept = {name: value for name, value in given.items() if name in FOLLOWED[kind]}
    if not kept.get("tools", True):
        del kept["tools"]
    for name, other in ONLY_WITH:
        # completions have a number in `logprobs`, and responses have no such field
        if name in kept and not kept.get(other) and other in FOLLOWED[kind]:
            del kept[name]
    ignored = [name for name in given if name not in kept and name != "stream"]
    for name in ("messages", "input"):
        if isinstance(kept.get(name), list):
            kept[name] = [_message(message) for message in kept[name]]
            for message in kept[name]:
                check_text_only(_content(message), name)
    return kept, ignored


def _message(message: Any) -> Any:
    """A message without its nulls: clients send back all fields of what they were sent."""
    if not isinstance(message, dict):
        return message
    kept = {name: value for name, value in message.items() if value is not None}
    if not kept.get("tool_calls", True):
        del kept["tool_calls"]
    if "role" in kept and "content" not in kept:
        kept["content"] = None if "tool_calls" in kept else ""
    return kept


def _content(message: Any) -> Any:
    return message.get("content") if isinstance(message, dict) else None


async def plain(service: AnswerService, kind: PlainKind, given: dict[str, Any]) -> Response:
    """The plain model's reply, which vLLM makes.

    given: the fields of the request that are not null
    """
    ignored: list[str] = []
    if given.get("tools") and not service.config.tool_parser:
        given, ignored = without_tools(given)
    body, more = handed_on(kind, given)
    ignored += more
    most = service.config.max_batch
    service.check_most("n", body.get("n", 1) * _prompts(body.get("prompt")), most)
    headers = ignored_header(ignored)
    request = plain_request(kind, body)
    if not body.get("stream"):
        text = await service.chat(request)
        return Response(text, media_type="application/json", headers=headers)
    stream = service.chat_stream(request)
    return await stream_events(stream, _texts, openai_failed, headers=headers)


def without_tools(given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A request without its tools, which the model may leave alone, and the names of what it lost.

    Raises RefusedError where the request insists on a call.
    """
    if given.get("tool_choice") not in (None, "auto", "none"):
        raise unsupported("tool_choice", "this server reads no tool calls (serve.tool_parser)")
    lost = [name for name in given if name in ("tools", "tool_choice", "parallel_tool_calls")]
    return {name: value for name, value in given.items() if name not in lost}, lost


def _prompts(prompt: Any) -> int:
    """How many prompts a completion is asked for."""
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    return len(prompt) if several else 1


def _texts(part: str | KeepAlive) -> tuple[str]:
    return (KEEP_ALIVE if isinstance(part, KeepAlive) else part,)


def check_plain(is_plain: Callable[[str], bool], name: str | None, to_do: str) -> None:
    """Raises RefusedError unless a request names the plain model, or none."""
    if name is not None and not is_plain(name):
        raise RefusedError(
            400, "unsupported_model", f"model: {name!r} {to_do}; ask the plain model", param="model"
        )
